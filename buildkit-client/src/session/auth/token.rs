//! Fetching a token from a registry's token server.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::credentials::Credentials;
use super::http::{Answer, Call, CallError};
use super::realm::{Realm, RealmError};
use crate::progress::one_line;
use crate::secret::Secret;
use crate::tls::Tls;

const MAX_REDIRECTS: usize = 5;
/// What a token is good for when its server does not say, in seconds.
const DEFAULT_EXPIRY: i64 = 60;
/// A server whose clock is further off than this is not believed about when it issued a token.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// What is asked of a token server.
pub(super) struct Fetch<'a> {
    pub(super) realm: &'a Realm,
    pub(super) tls: Option<&'a Tls>,
    pub(super) client: &'a str,
    pub(super) service: &'a str,
    pub(super) scopes: &'a [String],
    pub(super) credentials: Option<&'a Credentials>,
}

/// A token. `issued_at` is 0 when not known, else seconds since 1970; `expires_in` counts from then.
#[derive(Debug)]
#[allow(clippy::struct_field_names)] // the protocol's words
pub(super) struct Token {
    pub(super) token: Secret,
    pub(super) expires_in: i64,
    pub(super) issued_at: i64,
}

/// How failures that may pass are tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) tries: u32,
    /// Pause before the second try; doubles with each one.
    pub(super) pause: Duration,
    /// For everything together. The daemon gives up after 60 seconds.
    pub(super) budget: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 5, pause: Duration::from_millis(500), budget: Duration::from_secs(50) }
    }
}

impl Fetch<'_> {
    /// Asks, and asks again when the failure may pass.
    pub(super) async fn run(&self, patience: Patience) -> Result<Token, TokenError> {
        let deadline = Instant::now() + patience.budget;
        let mut pause = patience.pause;
        let mut tried = 1;
        loop {
            let error = match tokio::time::timeout_at(deadline, self.once()).await {
                Ok(Ok(token)) => return Ok(token),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.error(Problem::Call(CallError::Timeout))),
            };
            let wait = error.retry_after().unwrap_or_else(|| jitter(pause));
            if !error.is_transient() || tried >= patience.tries || Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::debug!(realm = %crate::redact::url(self.realm.url().as_str()), error = %error, tried, "asking the token server again");
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2);
            tried += 1;
        }
    }

    async fn once(&self) -> Result<Token, TokenError> {
        let Some((credentials, secret)) = self.credentials.and_then(|held| Some((held, held.secret()?)))
        else {
            return self.get(None).await;
        };
        let answer = self.post(credentials.username(), secret).await?;
        let user = !credentials.username().is_empty();
        match answer.status {
            StatusCode::METHOD_NOT_ALLOWED if user => {}
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => {}
            _ => return self.read(&answer, Form::Post),
        }
        // The server does not speak OAuth: ask in the older way.
        let mut pair = Zeroizing::new(Vec::with_capacity(credentials.username().len() + secret.len() + 1));
        pair.extend_from_slice(credentials.username().as_bytes());
        pair.push(b':');
        pair.extend_from_slice(secret.reveal());
        self.get(Some(Zeroizing::new(format!("Basic {}", STANDARD.encode(&pair))))).await
    }

    async fn post(&self, username: &str, secret: &Secret) -> Result<Answer, TokenError> {
        let secret = secret.reveal_str().ok_or_else(|| self.error(Problem::NotText))?;
        let form = Some(self.form(username, secret));
        let call = Call { method: Method::POST, url: self.realm.url(), authorization: None, form };
        call.send(self.tls).await.map_err(|error| self.error(Problem::Call(error)))
    }

    fn form(&self, username: &str, secret: &str) -> Zeroizing<String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", self.client);
        if username.is_empty() {
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", secret);
        } else {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username).append_pair("password", secret);
        }
        if !self.scopes.is_empty() {
            form.append_pair("scope", &self.scopes.join(" "));
        }
        form.append_pair("service", self.service);
        Zeroizing::new(form.finish())
    }

    async fn get(&self, authorization: Option<Zeroizing<String>>) -> Result<Token, TokenError> {
        let mut url = self.realm.url().clone();
        {
            let mut query = url.query_pairs_mut();
            if !self.service.is_empty() {
                query.append_pair("service", self.service);
            }
            for scope in self.scopes {
                query.append_pair("scope", scope);
            }
        }
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            // Only the first request carries credentials: a redirect is the server's wish, not the user's.
            let call =
                Call { method: Method::GET, url: &url, authorization: authorization.take(), form: None };
            let answer = call.send(self.tls).await.map_err(|error| self.error(Problem::Call(error)))?;
            if !answer.status.is_redirection() {
                return self.read(&answer, Form::Get);
            }
            let target = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target: Option<Url> = target.and_then(|target| url.join(target).ok());
            url = target.ok_or_else(|| self.error(Problem::Status(answer.status, None)))?;
            self.realm.allows(&url).map_err(|error| self.error(Problem::Redirect(error)))?;
        }
        Err(self.error(Problem::Redirects))
    }

    #[allow(clippy::result_large_err)] // a failure ends a build or a pause of seconds
    fn read(&self, answer: &Answer, form: Form) -> Result<Token, TokenError> {
        if !answer.status.is_success() {
            let after = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            return Err(self.error(Problem::Status(answer.status, after)));
        }
        let json: Json = serde_json::from_slice(&answer.body).map_err(|_| self.error(Problem::Junk))?;
        let token = match form {
            Form::Get if json.access_token.is_empty() => json.token,
            Form::Get | Form::Post => json.access_token,
        };
        if token.is_empty() {
            return Err(self.error(Problem::NoToken));
        }
        let expires_in = json.expires_in.and_then(|number| number.as_i64()).filter(|&seconds| seconds > 0);
        Ok(Token {
            token,
            expires_in: expires_in.unwrap_or(DEFAULT_EXPIRY),
            issued_at: issued_at(&json.issued_at),
        })
    }

    fn error(&self, problem: Problem) -> TokenError {
        TokenError {
            registry: self.realm.registry().to_owned(),
            server: self.realm.url().host_str().unwrap_or_default().to_owned(),
            anonymous: self.credentials.is_none_or(|held| held.secret().is_none()),
            problem,
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Get,
    Post,
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    token: Secret,
    #[serde(default)]
    access_token: Secret,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
    #[serde(default)]
    issued_at: String,
}

/// The daemon counts the token's life from here. A server with a wrong clock would make it keep the token for years, or
/// not at all: then the daemon had better count from when it got the token.
fn issued_at(text: &str) -> i64 {
    let Ok(issued) = text.parse::<jiff::Timestamp>() else { return 0 };
    let Ok(now) = jiff::Timestamp::try_from(SystemTime::now()) else { return 0 };
    let skew = issued.as_second().abs_diff(now.as_second());
    if skew > MAX_SKEW.as_secs() { 0 } else { issued.as_second() }
}

/// Between three quarters and five quarters of a pause, so that many clients do not come back at once.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [128u8; 1];
    rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty()).ok();
    pause.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

/// Why a token server gave no token.
#[derive(Debug)]
pub struct TokenError {
    registry: String,
    server: String,
    anonymous: bool,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Call(CallError),
    Status(StatusCode, Option<Duration>),
    Redirect(RealmError),
    Redirects,
    Junk,
    NoToken,
    NotText,
}

impl TokenError {
    /// The registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether the server says that the credentials are wrong or give no access.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.problem, Problem::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match &self.problem {
            Problem::Call(error) => error.is_transient(),
            Problem::Status(status, _) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    /// How long the server asks to wait; at most a minute.
    fn retry_after(&self) -> Option<Duration> {
        match self.problem {
            Problem::Status(_, after) => after.map(|after| after.min(Duration::from_secs(60))),
            _ => None,
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.anonymous { "anonymous" } else { "oauth" };
        let (registry, server) = (one_line(&self.registry), one_line(&self.server));
        write!(f, "failed to fetch {kind} token for {registry} from {server}: ")?;
        match &self.problem {
            Problem::Call(error) => error.fmt(f),
            Problem::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _) => {
                write!(f, "{status}: the credentials are wrong or give no access")
            }
            Problem::Status(status, _) => write!(f, "unexpected status {status}"),
            Problem::Redirect(_) => f.write_str("redirected elsewhere"),
            Problem::Redirects => write!(f, "more than {MAX_REDIRECTS} redirects"),
            Problem::Junk => f.write_str("the answer is not JSON of a token"),
            Problem::NoToken => f.write_str("the answer holds no token"),
            Problem::NotText => f.write_str("the secret is not text"),
        }
    }
}

impl StdError for TokenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.problem {
            Problem::Call(error) => error.source(),
            Problem::Redirect(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
