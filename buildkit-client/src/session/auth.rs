//! Registry credentials for the daemon: what it may have, and what it gets.
//!
//! An [`Auth`] is attached to builds. The daemon asks it for a token of a registry's token server, or, for registries
//! with basic authentication, for the user name and password. What it gets is limited:
//!
//! - credentials are given for registries of this build only (see [`RegistryScope`](super::RegistryScope)); for others
//!   the daemon gets an anonymous token, and the request is noted as suspicious;
//! - they are sent to a token server only over TLS or to this machine itself, and only when that server belongs to the
//!   registry: the same host, a known pair such as Docker Hub's, or one named with [`Auth::trust_realm`];
//! - redirects never carry them;
//! - each grant shows in the progress of the build.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use buildkit_proto::auth::auth_server::{Auth as AuthRpc, AuthServer};
use buildkit_proto::auth::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::member::Given;
use super::{Attachable, MAX_QUESTION, Service, SessionContext, hub, told};
use crate::docker_config::DockerConfig;
use crate::progress::one_line;
use crate::tls::Tls;

mod credentials;
mod http;
mod realm;
mod token;
mod token_authority;

use credentials::NOTHING;
pub use credentials::{
    CredentialError, CredentialProvider, CredentialRequest, Credentials, Explanation, Scope,
};
pub use realm::RealmError;
pub use token::TokenError;
use token_authority::Seeds;

/// How long credentials without an expiry are kept before the provider is asked again.
const KEEP: Duration = Duration::from_secs(290);
/// Registries that are remembered; a build has some.
const MAX_HOSTS: usize = 256;
/// Longest name of a registry: that of a host, and a port.
const MAX_HOST: usize = 260;
/// Scopes of a token, and the bytes of all of them.
const MAX_SCOPES: usize = 1024;
const MAX_SCOPE_BYTES: usize = 64 * 1024;
/// Tokens that are fetched at once; the others wait.
const MAX_FETCHES: usize = 16;

/// Gives the daemon access to registries, with credentials of a [`CredentialProvider`].
///
/// # Defaults
///
/// Token servers get system roots, no client certificate. The seed of the key that tells daemons which sessions belong
/// to one user is kept in memory, with [`DockerConfig`] in its directory. `BUILDKIT_NO_CLIENT_TOKEN` makes the daemon
/// fetch tokens itself, with the credentials.
#[derive(Clone)]
pub struct Auth {
    providers: Vec<Arc<dyn CredentialProvider>>,
    settings: Arc<Settings>,
}

#[derive(Clone, Default)]
struct Settings {
    seed_dir: Option<PathBuf>,
    tls: BTreeMap<String, Tls>,
    realms: BTreeMap<String, BTreeSet<String>>,
    plain: BTreeSet<String>,
    no_tokens: bool,
}

impl Auth {
    /// Credentials of this provider.
    pub fn new(provider: impl CredentialProvider + 'static) -> Self {
        let no_tokens = std::env::var("BUILDKIT_NO_CLIENT_TOKEN")
            .is_ok_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        let settings = Settings { no_tokens, ..Settings::default() };
        Self { providers: vec![Arc::new(provider)], settings: Arc::new(settings) }
    }

    /// No credentials: registries are used anonymously.
    pub fn anonymous() -> Self {
        Self::new(DockerConfig::empty())
    }

    /// Asks `provider` for what the ones before have no credentials for.
    #[must_use]
    pub fn or(mut self, provider: impl CredentialProvider + 'static) -> Self {
        self.providers.push(Arc::new(provider));
        self
    }

    /// Keeps the seed of the token authority in this directory, in the file `.token_seed` that Docker uses too.
    #[must_use]
    pub fn seed_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.set(|settings| settings.seed_dir = Some(dir.into()))
    }

    /// TLS towards the token server of a registry: a CA beside the system's, and a client certificate.
    #[must_use]
    pub fn tls(self, registry: &str, tls: Tls) -> Self {
        self.set(|settings| {
            settings.tls.insert(hub(registry).to_owned(), tls);
        })
    }

    /// Sends credentials of `registry` to the token server at `host` (a name without port) too.
    #[must_use]
    pub fn trust_realm(self, registry: &str, host: &str) -> Self {
        self.set(|settings| {
            settings.realms.entry(hub(registry).to_owned()).or_default().insert(host.to_ascii_lowercase());
        })
    }

    /// Whether credentials of `registry` would be sent to the token server at this URL.
    ///
    /// # Errors
    ///
    /// Why not: it is no URL, carries a user name, is another host's, or would be reached without encryption.
    pub fn check_realm(&self, registry: &str, realm: &str) -> Result<(), RealmError> {
        let registry = hub(registry);
        let plain = self.settings.plain.contains(registry);
        realm::Realm::check(registry, realm, self.settings.realms.get(registry), plain).map(drop)
    }

    /// Sends credentials of `registry` without encryption when its token server is at an `http://` address: anybody on
    /// the way can read them.
    #[must_use]
    pub fn allow_plaintext(self, registry: &str) -> Self {
        self.set(|settings| {
            settings.plain.insert(hub(registry).to_owned());
        })
    }

    /// Whether the daemon gets credentials and fetches tokens itself, instead of tokens that the client fetched.
    /// `BUILDKIT_NO_CLIENT_TOKEN` decides unless set.
    #[must_use]
    pub fn daemon_fetches_tokens(self, yes: bool) -> Self {
        self.set(|settings| settings.no_tokens = yes)
    }

    /// Which source answers for a registry.
    pub async fn explain(&self, request: &CredentialRequest) -> Explanation {
        let mut all = Explanation::new(&request.host);
        for provider in &self.providers {
            let one = provider.explain(request).await;
            all.tried.extend(one.tried);
            if let Some(source) = one.answered {
                all.answered(source);
                break;
            }
        }
        all
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("providers", &self.providers).finish_non_exhaustive()
    }
}

impl From<DockerConfig> for Auth {
    fn from(config: DockerConfig) -> Self {
        let dir = config.dir().map(std::path::Path::to_owned);
        Self::new(config).set(|settings| settings.seed_dir = dir)
    }
}

impl Attachable for Auth {
    fn services(&self, session: &SessionContext) -> Vec<Service> {
        let service = AuthService {
            auth: self.clone(),
            session: session.clone(),
            seeds: Seeds::new(self.settings.seed_dir.clone()),
            hosts: Arc::default(),
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
        };
        let methods = &["Credentials", "FetchToken", "GetTokenAuthority", "VerifyTokenAuthority"];
        vec![Service::new(AuthServer::new(service).max_decoding_message_size(MAX_QUESTION), methods)]
    }
}

/// The service of one session.
#[derive(Clone)]
struct AuthService {
    auth: Auth,
    session: SessionContext,
    seeds: Seeds,
    hosts: Arc<Mutex<Hosts>>,
    fetches: Arc<Semaphore>,
}

#[derive(Default)]
struct Hosts {
    /// Credentials by host and repository.
    known: BTreeMap<(String, Option<String>), Known>,
    /// Hosts whose credentials were shared, and shown so.
    shared: BTreeSet<String>,
}

#[derive(Clone)]
struct Known {
    credentials: Option<Credentials>,
    /// Who was asked, where nobody has credentials.
    asked: Vec<String>,
    until: Instant,
}

impl AuthService {
    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Credentials that the daemon may use for this request.
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, Status> {
        if request.host.len() > MAX_HOST {
            let host = told(&request.host);
            self.session.suspicious(format!("credentials for {host}, which is no host"));
            return Err(Status::invalid_argument(format!("{host} is no host")));
        }
        if !self.session.allows_registry(&request.host) {
            self.refuse(&request.host);
            return Ok(None);
        }
        let Known { credentials, asked, .. } = self.look_up(request).await?;
        let given = match &credentials {
            Some(found) => Given::From(found.origin_text().to_owned()),
            None => Given::Nothing(asked),
        };
        self.session.gave(&request.host, &given);
        Ok(credentials)
    }

    /// Asks those who may know, unless one of them was asked a short while ago.
    async fn look_up(&self, request: &CredentialRequest) -> Result<Known, Status> {
        let key = (request.host.clone(), request.repository().map(str::to_owned));
        if let Some(known) = self.hosts().known.get(&key)
            && known.until > Instant::now()
        {
            return Ok(known.clone());
        }
        let mut found = None;
        for provider in &self.auth.providers {
            found = match provider.credentials(request).await {
                Ok(found) => found,
                Err(error) => return Err(self.failed(&request.host, Code::Unauthenticated, error)),
            };
            if found.is_some() {
                break;
            }
        }
        let mut asked = if found.is_none() { self.auth.explain(request).await.tried } else { Vec::new() };
        asked.retain(|text| text != NOTHING);
        let until = found.as_ref().and_then(Credentials::expiry);
        let until = until.or_else(|| Instant::now().checked_add(KEEP)).unwrap_or_else(Instant::now);
        let mut hosts = self.hosts();
        if hosts.known.len() >= MAX_HOSTS {
            hosts.known.clear();
        }
        let known = Known { credentials: found, asked, until };
        hosts.known.insert(key, known.clone());
        Ok(known)
    }

    fn forget(&self, host: &str) {
        self.hosts().known.retain(|(known, _), _| known != host);
    }

    /// The daemon wants credentials of a registry that has nothing to do with this build.
    fn refuse(&self, host: &str) {
        if !self.session.gave(host, &Given::Refused) {
            return;
        }
        let host = one_line(host);
        self.session.suspicious(format!("credentials for {host}, which is no registry of this build"));
        self.session.note(format!("[auth] not sharing credentials for {host}: no registry of this build"));
    }

    /// Shows once per registry that its credentials were given to the daemon.
    fn shared(&self, host: &str, credentials: &Credentials) {
        let mut hosts = self.hosts();
        if hosts.shared.len() >= MAX_HOSTS || !hosts.shared.insert(host.to_owned()) {
            return;
        }
        drop(hosts);
        tracing::info!(host, origin = credentials.origin_text(), "credentials shared with the daemon");
        self.session.note(format!("[auth] sharing credentials for {}", one_line(host)));
    }

    /// Keeps the cause on this side and answers the daemon.
    fn failed(
        &self,
        host: &str,
        code: Code,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Status {
        let status = Status::new(code, crate::error::report(&error));
        self.session.failed(format!("authentication at {}", one_line(host)), error);
        status
    }

    async fn fetch(&self, request: FetchTokenRequest) -> Result<FetchTokenResponse, Status> {
        let bytes: usize = request.scopes.iter().map(String::len).sum();
        if request.scopes.len() > MAX_SCOPES || bytes > MAX_SCOPE_BYTES {
            return Err(Status::invalid_argument("a token for so many scopes is not asked for"));
        }
        let mut wanted = CredentialRequest::new(&request.host);
        wanted.scopes = request.scopes.iter().map(|scope| Scope::parse(scope)).collect();
        let credentials = self.credentials(&wanted).await?;
        if let Some(token) = credentials.as_ref().and_then(Credentials::as_registry_token) {
            self.shared(&wanted.host, credentials.as_ref().unwrap_or(&Credentials::registry_token("")));
            let token = text(&wanted.host, token)?;
            return Ok(FetchTokenResponse { token, expires_in: 60, issued_at: 0 });
        }
        let settings = &self.auth.settings;
        let secret = credentials.as_ref().is_some_and(|found| found.secret().is_some());
        let realm = realm::Realm::check(
            &wanted.host,
            &request.realm,
            settings.realms.get(&wanted.host),
            !secret || settings.plain.contains(&wanted.host),
        );
        let realm = realm.map_err(|error| self.failed(&wanted.host, Code::PermissionDenied, error))?;
        let scopes: Vec<&str> =
            request.scopes.iter().map(|scope| scope.strip_prefix("repository:").unwrap_or(scope)).collect();
        let step = self.session.step(format!("[auth] {} token for {}", scopes.join(" "), wanted.host));
        let fetch = token::Fetch {
            realm: &realm,
            tls: settings.tls.get(&wanted.host),
            client: &request.client_id,
            service: &request.service,
            scopes: &request.scopes,
            credentials: credentials.as_ref(),
        };
        let _turn = self.fetches.acquire().await;
        match fetch.run(token::Patience::default()).await {
            Ok(token) => {
                step.done();
                Ok(FetchTokenResponse {
                    token: text(&wanted.host, &token.token)?,
                    expires_in: token.expires_in,
                    issued_at: token.issued_at,
                })
            }
            Err(error) => {
                step.fail(crate::error::report(&error));
                if error.is_unauthorized() {
                    self.forget(&wanted.host);
                }
                let code = if error.is_unauthorized() { Code::Unauthenticated } else { Code::Unknown };
                Err(self.failed(&wanted.host, code, error))
            }
        }
    }

    /// Whether the host has a secret decides about the key: sessions with and without must not share tokens.
    async fn authority(&self, host: &str, salt: &[u8]) -> Result<token_authority::Authority, Status> {
        if self.auth.settings.no_tokens {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        let found = self.credentials(&CredentialRequest::new(host)).await?;
        let secret = found.is_some_and(|found| found.secret().is_some_and(|secret| !secret.is_empty()));
        let seed = if secret { Some(self.seeds.seed(host).await) } else { None };
        token_authority::Authority::new(salt, seed.as_ref())
            .ok_or_else(|| Status::internal("the token authority's key cannot be made"))
    }
}

fn text(host: &str, secret: &crate::secret::Secret) -> Result<String, Status> {
    let text = secret.reveal_str().map(str::to_owned);
    text.ok_or_else(|| Status::invalid_argument(format!("the credentials for {host} are not text")))
}

#[async_trait]
impl AuthRpc for AuthService {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let request = CredentialRequest::new(request.into_inner().host);
        let mut response = CredentialsResponse::default();
        if let Some(found) = AuthService::credentials(self, &request).await?
            && let Some(secret) = found.secret()
        {
            self.shared(&request.host, &found);
            found.username().clone_into(&mut response.username);
            response.secret = text(&request.host, secret)?;
        }
        Ok(Response::new(response))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        self.fetch(request.into_inner()).await.map(Response::new)
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let authority = self.authority(&request.host, &request.salt).await?;
        Ok(Response::new(GetTokenAuthorityResponse { public_key: authority.public_key().into() }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let authority = self.authority(&request.host, &request.salt).await?;
        Ok(Response::new(VerifyTokenAuthorityResponse { signed: authority.sign(&request.payload).into() }))
    }
}

#[cfg(test)]
#[path = "auth/tests.rs"]
mod tests;
