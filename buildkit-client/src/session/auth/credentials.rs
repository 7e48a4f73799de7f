//! Registry credentials and who provides them.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::session::hub;

/// What a source says that cannot say where it looked.
pub(super) const NOTHING: &str = "no credentials";

/// Credentials for a registry.
#[derive(Clone, Debug)]
pub struct Credentials {
    kind: Kind,
    expires: Option<Instant>,
    origin: String,
}

#[derive(Clone, Debug)]
enum Kind {
    Password { username: String, password: Secret },
    IdentityToken(Secret),
    RegistryToken(Secret),
}

impl Credentials {
    /// A user name and a password.
    pub fn password(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::new(Kind::Password { username: username.into(), password: password.into() })
    }

    /// An identity token: an OAuth refresh token that the token server exchanges for access tokens.
    pub fn identity_token(token: impl Into<Secret>) -> Self {
        Self::new(Kind::IdentityToken(token.into()))
    }

    /// A registry token: used as it is, without asking a token server.
    pub fn registry_token(token: impl Into<Secret>) -> Self {
        Self::new(Kind::RegistryToken(token.into()))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, expires: None, origin: "the program".into() }
    }

    /// These credentials are good for this long from now on; the provider is asked again afterwards. Without it they
    /// are asked for again after 4 minutes and 50 seconds.
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires = Instant::now().checked_add(time);
        self
    }

    /// Where they come from, for people: a file, a helper. Must hold no secret.
    #[must_use]
    pub fn origin(mut self, text: impl Into<String>) -> Self {
        self.origin = text.into();
        self
    }

    /// Where they come from.
    pub fn origin_text(&self) -> &str {
        &self.origin
    }

    /// User name; empty for tokens.
    pub fn username(&self) -> &str {
        match &self.kind {
            Kind::Password { username, .. } => username,
            Kind::IdentityToken(_) | Kind::RegistryToken(_) => "",
        }
    }

    /// Password or identity token; `None` for registry tokens.
    pub fn secret(&self) -> Option<&Secret> {
        match &self.kind {
            Kind::Password { password, .. } => Some(password),
            Kind::IdentityToken(token) => Some(token),
            Kind::RegistryToken(_) => None,
        }
    }

    /// The registry token, if it is one.
    pub fn as_registry_token(&self) -> Option<&Secret> {
        match &self.kind {
            Kind::RegistryToken(token) => Some(token),
            Kind::Password { .. } | Kind::IdentityToken(_) => None,
        }
    }

    /// Until when they may be kept.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        self.expires
    }
}

/// What credentials are wanted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialRequest {
    /// Registry, with its port if it has one, such as `registry.local:5000`. Docker Hub is always `docker.io`.
    pub host: String,
    /// What is going to be done there; empty when the daemon does not say.
    pub scopes: Vec<Scope>,
}

impl CredentialRequest {
    /// A request for a host.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: hub(&host.into()).to_owned(), scopes: Vec::new() }
    }

    /// The repository that decides: the one that is written to, else the first.
    pub fn repository(&self) -> Option<&str> {
        let mut repositories = self.scopes.iter().filter(|scope| scope.kind == "repository");
        let writes = |scope: &&Scope| scope.actions.iter().any(|action| action == "push" || action == "*");
        let written = repositories.clone().find(writes);
        written.or_else(|| repositories.next()).map(|scope| scope.name.as_str())
    }
}

/// A right that a token gives, such as `repository:library/alpine:pull`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Kind of the resource, nearly always `repository`.
    pub kind: String,
    /// Name of the resource, such as `library/alpine`.
    pub name: String,
    /// What may be done, such as `pull` and `push`.
    pub actions: Vec<String>,
}

impl Scope {
    /// Reads `KIND:NAME:ACTION[,ACTION…]`; anything else is a name without actions.
    pub fn parse(text: &str) -> Self {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        let (name, actions) = rest.rsplit_once(':').unwrap_or((rest, ""));
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned);
        Self { kind: kind.to_owned(), name: name.to_owned(), actions: actions.collect() }
    }
}

/// Gives credentials for registries.
///
/// Asked when the daemon needs them, which may be late in a long build: a provider of short-lived credentials says with
/// [`Credentials::expires_in`] when it wants to be asked again.
#[async_trait]
pub trait CredentialProvider: Send + Sync + fmt::Debug {
    /// The credentials for this request; `None` to go on without.
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, CredentialError>;

    /// Which file, helper or other source answers for this request, for people.
    async fn explain(&self, request: &CredentialRequest) -> Explanation {
        let mut explanation = Explanation::new(&request.host);
        match self.credentials(request).await {
            Ok(Some(found)) => explanation.answered(found.origin_text()),
            Ok(None) => explanation.tried(NOTHING),
            Err(error) => explanation.tried(error.to_string()),
        }
        explanation
    }
}

#[async_trait]
impl<T: CredentialProvider + ?Sized> CredentialProvider for Arc<T> {
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, CredentialError> {
        (**self).credentials(request).await
    }

    async fn explain(&self, request: &CredentialRequest) -> Explanation {
        (**self).explain(request).await
    }
}

/// Credentials that the program holds itself, by host.
#[async_trait]
impl CredentialProvider for BTreeMap<String, Credentials> {
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, CredentialError> {
        let found = self.iter().find(|(host, _)| hub(host) == request.host);
        Ok(found.map(|(_, credentials)| credentials.clone()))
    }
}

/// Why credentials could not be had although there should be some. Holds no secret.
#[derive(Debug)]
pub struct CredentialError {
    host: String,
    reason: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl CredentialError {
    /// An error about the credentials of a host. `reason` must hold no secret.
    pub fn new(host: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { host: host.into(), reason: reason.into(), source: None }
    }

    /// What it is caused by; must hold no secret.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The registry.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no credentials for {}: {}", self.host, self.reason)
    }
}

impl StdError for CredentialError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Which sources were asked for a host's credentials, and which one answered. `Display` prints it line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The registry.
    pub host: String,
    /// Sources that were asked and had none, and why.
    pub tried: Vec<String>,
    /// The source that answered.
    pub answered: Option<String>,
}

impl Explanation {
    /// Nothing asked yet.
    pub fn new(host: impl Into<String>) -> Self {
        Self { host: host.into(), tried: Vec::new(), answered: None }
    }

    /// Notes a source that had none.
    pub fn tried(&mut self, text: impl Into<String>) {
        self.tried.push(text.into());
    }

    /// Notes the source that answered.
    pub fn answered(&mut self, text: impl Into<String>) {
        self.answered = Some(text.into());
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answered {
            Some(source) => write!(f, "{}: credentials from {source}", self.host)?,
            None => write!(f, "{}: no credentials", self.host)?,
        }
        self.tried.iter().try_for_each(|text| write!(f, "\n  {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_the_written_repository_decides() {
        let scope = Scope::parse("repository:a/b:c:pull,push");
        assert_eq!((scope.kind.as_str(), scope.name.as_str()), ("repository", "a/b:c"));
        assert_eq!(scope.actions, ["pull", "push"]);
        assert_eq!(Scope::parse("junk").name, "junk");
        let mut request = CredentialRequest::new("registry-1.docker.io");
        assert_eq!((request.host.as_str(), request.repository()), ("docker.io", None));
        request.scopes = ["registry:catalog:*", "repository:from:pull", "repository:to:pull,push"]
            .map(Scope::parse)
            .to_vec();
        assert_eq!(request.repository(), Some("to"));
    }

    #[tokio::test]
    async fn a_map_answers_for_its_hosts_only() {
        let map = BTreeMap::from([("index.docker.io".to_owned(), Credentials::password("ann", "pw"))]);
        let found = map.credentials(&CredentialRequest::new("docker.io")).await.unwrap().unwrap();
        assert_eq!((found.username(), found.secret().unwrap().reveal_str()), ("ann", Some("pw")));
        assert!(map.credentials(&CredentialRequest::new("docker.io.evil.com")).await.unwrap().is_none());
        assert_eq!(
            map.explain(&CredentialRequest::new("docker.io")).await.to_string(),
            "docker.io: credentials from the program"
        );
    }
}
