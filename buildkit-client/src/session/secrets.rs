//! Secrets for build steps, and for sources that need to log in.
//!
//! A daemon gets the secrets that were attached, by their id, and no others: what it asks for beside them is answered
//! "not found", which an optional mount takes for absent. Files and variables are read once, when the build starts;
//! what is held is wiped when the build is over.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use buildkit_proto::secrets::secrets_server::{Secrets as SecretsRpc, SecretsServer};
use buildkit_proto::secrets::{GetSecretRequest, GetSecretResponse};
use tonic::{Request, Response, Status};

use super::{Attachable, MAX_QUESTION, Service, SessionContext, told};
use crate::error::BoxError;
use crate::secret::Secret;

/// The largest secret a daemon takes: 500 KiB, counted as 1000 times 512.
pub const MAX_SECRET: usize = 512_000;

/// Where a secret comes from.
#[derive(Clone, Debug)]
pub struct SecretSource(Kind);

#[derive(Clone, Debug)]
enum Kind {
    File(PathBuf),
    Variable(String),
    Value(Secret),
    /// The variable named like the id, else the file named like it.
    Named,
    Provider(Arc<dyn SecretProvider>),
}

impl SecretSource {
    /// The content of a file, byte for byte.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into()))
    }

    /// The value of an environment variable of this program.
    pub fn env(variable: impl Into<String>) -> Self {
        Self(Kind::Variable(variable.into()))
    }

    /// This value.
    pub fn value(value: impl Into<Secret>) -> Self {
        Self(Kind::Value(value.into()))
    }

    /// What `--secret id=NAME` means: the environment variable of the name of the secret, else the file of that name.
    pub fn named() -> Self {
        Self(Kind::Named)
    }

    /// Asks a provider each time the daemon asks.
    pub fn provider(provider: impl SecretProvider + 'static) -> Self {
        Self(Kind::Provider(Arc::new(provider)))
    }
}

/// Gives secrets when they are asked for.
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync {
    /// The secret of this id; `None` when there is none. The error must hold no secret.
    async fn secret(&self, id: &str) -> Result<Option<Secret>, BoxError>;
}

/// Secrets, ready to be attached to a build.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    held: Arc<BTreeMap<String, Held>>,
    fallback: Option<Arc<dyn SecretProvider>>,
}

#[derive(Clone, Debug)]
enum Held {
    Value(Secret),
    Provider(Arc<dyn SecretProvider>),
}

impl Secrets {
    /// Reads the secrets.
    ///
    /// # Errors
    ///
    /// An id is empty, a file or variable is not there, a secret is larger than [`MAX_SECRET`].
    pub async fn load(
        sources: impl IntoIterator<Item = (impl Into<String>, SecretSource)>,
    ) -> Result<Self, SecretError> {
        let mut held = BTreeMap::new();
        for (id, source) in sources {
            let id: String = id.into();
            if id.is_empty() {
                return Err(SecretError::new("", Reason::NoId));
            }
            let value = match source.0 {
                Kind::Provider(provider) => Held::Provider(provider),
                Kind::Value(value) => Held::Value(value),
                Kind::Variable(name) => Held::Value(variable(&id, &name)?),
                Kind::File(path) => Held::Value(file(&id, path).await?),
                Kind::Named if std::env::var_os(&id).is_some() => Held::Value(variable(&id, &id)?),
                Kind::Named => Held::Value(file(&id, PathBuf::from(&id)).await?),
            };
            if let Held::Value(value) = &value
                && value.len() > MAX_SECRET
            {
                return Err(SecretError::new(&id, Reason::TooBig));
            }
            held.insert(id, value);
        }
        Ok(Self { held: Arc::new(held), fallback: None })
    }

    /// Asks `provider` for ids that were not attached.
    #[must_use]
    pub fn or(mut self, provider: impl SecretProvider + 'static) -> Self {
        self.fallback = Some(Arc::new(provider));
        self
    }

    /// The id under which a daemon looks for the token of a git server.
    ///
    /// Attach the token under it instead of writing it into the URL, where logs and provenance would show it. `host`
    /// has the port if there is one.
    pub fn git_token_id(host: &str) -> String {
        format!("GIT_AUTH_TOKEN.{host}")
    }

    /// The id under which a daemon looks for the `Authorization` header of a git server.
    pub fn git_header_id(host: &str) -> String {
        format!("GIT_AUTH_HEADER.{host}")
    }

    /// The id under which a daemon looks for the bearer token of an HTTP source; `host` without port.
    pub fn http_token_id(host: &str) -> String {
        format!("HTTP_AUTH_TOKEN_{host}")
    }

    async fn find(&self, id: &str) -> Result<Option<Secret>, BoxError> {
        let provider = match self.held.get(id) {
            Some(Held::Value(value)) => return Ok(Some(value.clone())),
            Some(Held::Provider(provider)) => provider,
            None => match &self.fallback {
                Some(provider) => provider,
                None => return Ok(None),
            },
        };
        provider.secret(id).await
    }
}

impl Attachable for Secrets {
    fn services(&self, session: &SessionContext) -> Vec<Service> {
        let service = SecretsService { secrets: self.clone(), session: session.clone() };
        let server = SecretsServer::new(service).max_decoding_message_size(MAX_QUESTION);
        vec![Service::new(server, &["GetSecret"])]
    }
}

#[derive(Debug)]
struct SecretsService {
    secrets: Secrets,
    session: SessionContext,
}

#[async_trait]
impl SecretsRpc for SecretsService {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let shown = told(&id);
        match self.secrets.find(&id).await {
            Ok(Some(secret)) if secret.len() > MAX_SECRET => {
                Err(Status::unknown(format!("invalid secret size {}", secret.len())))
            }
            Ok(Some(secret)) => {
                let data = bytes::Bytes::copy_from_slice(secret.reveal());
                Ok(Response::new(GetSecretResponse { data }))
            }
            // A step with an optional secret goes on, any other one fails naming it.
            Ok(None) => Err(Status::not_found(format!("secret {shown} not found"))),
            Err(error) => {
                let status = Status::unknown(format!("secret {shown} cannot be had"));
                self.session.failed(format!("secret {shown}"), error);
                Err(status)
            }
        }
    }
}

fn variable(id: &str, name: &str) -> Result<Secret, SecretError> {
    let value =
        std::env::var_os(name).ok_or_else(|| SecretError::new(id, Reason::NoVariable(name.into())))?;
    Ok(Secret::new(value.into_encoded_bytes()))
}

async fn file(id: &str, path: PathBuf) -> Result<Secret, SecretError> {
    let shown = path.clone();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read.map_err(io::Error::other).and_then(|read| read) {
        Ok(bytes) if bytes.len() > MAX_SECRET => Err(SecretError::new(id, Reason::TooBig)),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(SecretError::new(id, Reason::File(shown, error))),
    }
}

fn read(path: &Path) -> io::Result<Secret> {
    use std::io::Read as _;
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    // A pipe without a writer would be waited for; so it is refused below.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0),
    );
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Secret::new(bytes))
}

/// Why a secret cannot be attached. Holds no secret.
#[derive(Debug)]
pub struct SecretError {
    id: String,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    NoId,
    NoVariable(String),
    File(PathBuf, io::Error),
    TooBig,
}

impl SecretError {
    fn new(id: &str, reason: Reason) -> Self {
        Self { id: id.to_owned(), reason }
    }

    /// Id of the secret.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.id;
        match &self.reason {
            Reason::NoId => f.write_str("secret missing ID"),
            Reason::NoVariable(name) => write!(f, "secret {id}: the environment variable {name} is not set"),
            Reason::File(path, _) => write!(f, "secret {id}: failed to read {}", path.display()),
            Reason::TooBig => write!(f, "secret {id} too big. max size 500KiB"),
        }
    }
}

impl StdError for SecretError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.reason {
            Reason::File(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[derive(Debug)]
    struct Vault;

    #[async_trait]
    impl SecretProvider for Vault {
        async fn secret(&self, id: &str) -> Result<Option<Secret>, BoxError> {
            match id {
                "sealed" => Err("the vault is sealed".into()),
                "huge" => Ok(Some(Secret::new(vec![0; MAX_SECRET + 1]))),
                "none" => Ok(None),
                id => Ok(Some(Secret::from(format!("vault {id}")))),
            }
        }
    }

    async fn get(secrets: &Secrets, id: &str) -> Result<Vec<u8>, Status> {
        let session = SessionContext::new("id".into());
        let service = SecretsService { secrets: secrets.clone(), session };
        let request = GetSecretRequest { id: id.into(), ..GetSecretRequest::default() };
        service.get_secret(Request::new(request)).await.map(|response| response.into_inner().data.to_vec())
    }

    #[tokio::test]
    async fn r5_what_is_not_attached_is_not_found() {
        let secrets = Secrets::load([("a", SecretSource::value("1")), ("p", SecretSource::provider(Vault))]);
        let secrets = secrets.await.unwrap();
        assert_eq!(get(&secrets, "a").await.unwrap(), b"1");
        assert_eq!(get(&secrets, "p").await.unwrap(), b"vault p");
        for id in ["nope", "", "A", "a ", "/etc/passwd"] {
            assert_eq!(get(&secrets, id).await.unwrap_err().code(), Code::NotFound, "{id}");
        }
        let secrets = secrets.or(Vault);
        assert_eq!(get(&secrets, "other").await.unwrap(), b"vault other");
        assert_eq!(get(&secrets, "none").await.unwrap_err().code(), Code::NotFound);
        assert_eq!(get(&secrets, "sealed").await.unwrap_err().code(), Code::Unknown);
        assert_eq!(get(&secrets, "huge").await.unwrap_err().message(), "invalid secret size 512001");
    }

    #[tokio::test]
    async fn f41_a_secret_is_capped_and_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, vec![7; MAX_SECRET]).unwrap();
        let secrets = Secrets::load([("s", SecretSource::file(&path))]).await.unwrap();
        std::fs::write(&path, "changed").unwrap();
        assert_eq!(get(&secrets, "s").await.unwrap(), vec![7; MAX_SECRET]);
        std::fs::write(&path, vec![7; MAX_SECRET + 1]).unwrap();
        let error = Secrets::load([("s", SecretSource::file(&path))]).await.unwrap_err();
        assert_eq!(error.to_string(), "secret s too big. max size 500KiB");
        let error = Secrets::load([("s", SecretSource::value(vec![0; MAX_SECRET + 1]))]).await.unwrap_err();
        assert_eq!(error.id(), "s");
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            std::fs::write(&path, "mounted by Kubernetes").unwrap();
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let secrets = Secrets::load([("s", SecretSource::file(link))]).await.unwrap();
            assert_eq!(get(&secrets, "s").await.unwrap(), b"mounted by Kubernetes");
            let pipe = dir.path().join("pipe");
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
            for odd in [pipe, "/dev/zero".into(), dir.path().to_owned(), dir.path().join("absent")] {
                assert!(Secrets::load([("s", SecretSource::file(&odd))]).await.is_err(), "{}", odd.display());
            }
        }
    }

    #[tokio::test]
    async fn sources_that_are_not_there_are_named() {
        for (id, source, says) in [
            ("", SecretSource::value("x"), "secret missing ID"),
            ("s", SecretSource::env("BUILDKIT_NO_SUCH_VARIABLE"), "BUILDKIT_NO_SUCH_VARIABLE is not set"),
            ("s", SecretSource::file("/no/such/file"), "failed to read /no/such/file"),
            ("no-such-variable-or-file", SecretSource::named(), "failed to read no-such-variable-or-file"),
        ] {
            let error = Secrets::load([(id, source)]).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let secrets = Secrets::load([("PATH", SecretSource::named())]).await.unwrap();
        assert!(!get(&secrets, "PATH").await.unwrap().is_empty());
    }
}
