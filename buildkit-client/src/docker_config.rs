//! Registry credentials from Docker's and containers' configuration.
//!
//! [`DockerConfig::load`] looks where `docker login` and `podman login` write. For each registry the sources are asked
//! in this order, and the first that has credentials answers:
//!
//! 1. the environment variable `DOCKER_AUTH_CONFIG`, which holds JSON;
//! 2. the file named by `REGISTRY_AUTH_FILE`;
//! 3. `config.json` in the directory `DOCKER_CONFIG`, else `~/.docker`; where there is none, `.dockerconfigjson`, which
//!    is what the file is called in a secret of Kubernetes.
//!
//! In a file the order is: the registry's own helper (`credHelpers`), the store for all (`credsStore`), the entry in
//! `auths`. A `config.json` without any of these uses the store that Docker would: `pass` or `secretservice` on Linux,
//! where installed. Entries may be for a part of a registry (`quay.io/team`): the longest that covers the repository
//! in question wins.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use buildkit_client::docker_config::DockerConfig;
//! let config = DockerConfig::load()?;
//! println!("{}", config.explain("registry.local:5000", None).await);
//! # Ok(()) }
//! ```

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::session::auth::{
    CredentialError, CredentialProvider, CredentialRequest, Credentials, Explanation,
};

mod file;
mod helper;

use file::File;
use helper::HelperError;

/// A configuration larger than this is not read.
const MAX_FILE: u64 = 4 << 20;

/// Credentials as Docker and Podman keep them.
///
/// Files are read again whenever credentials are asked for, so that a rotated one is seen; when it cannot be read
/// then, what was read first is used.
///
/// # Defaults
///
/// Helpers get 30 seconds, and are looked for on `PATH`.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    sources: Vec<Source>,
    dir: Option<PathBuf>,
    helper_timeout: Duration,
    helper_path: Option<OsString>,
}

#[derive(Clone, Debug)]
struct Source {
    place: Place,
    file: Arc<File>,
    /// Docker's own file: it may use a store that it does not name.
    detect_store: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Variable(&'static str),
    File(PathBuf),
    Memory,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str("the given configuration"),
        }
    }
}

impl DockerConfig {
    /// Reads the configuration of this user. Files that do not exist are none.
    ///
    /// Reads files on the calling thread; they are small.
    ///
    /// # Errors
    ///
    /// A file that exists but cannot be read, or is not JSON.
    pub fn load() -> Result<Self, DockerConfigError> {
        Self::load_with(&|name| std::env::var_os(name))
    }

    /// As [`DockerConfig::load`], with variables from elsewhere than the environment.
    ///
    /// Those asked for: `DOCKER_AUTH_CONFIG`, `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG`, `HOME` (`USERPROFILE` on
    /// Windows).
    pub fn load_with(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, DockerConfigError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut config = Self::empty();
        if let Some(json) = set("DOCKER_AUTH_CONFIG") {
            let place = Place::Variable("DOCKER_AUTH_CONFIG");
            match File::parse_inline(json.as_encoded_bytes()) {
                Ok(file) => config.sources.push(Source { place, file: Arc::new(file), detect_store: false }),
                Err(error) => return Err(DockerConfigError::json(&place, &error)),
            }
        }
        if let Some(path) = set("REGISTRY_AUTH_FILE") {
            config.add_file(PathBuf::from(path), false)?;
        }
        let home = || set(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home()?.join(".docker")));
        if let Some(dir) = dir {
            let secret = dir.join(".dockerconfigjson");
            let file = dir.join("config.json");
            config.add_file(if !file.exists() && secret.exists() { secret } else { file }, true)?;
            config.dir = Some(dir);
        }
        Ok(config)
    }

    /// Reads one file, of Docker's or Podman's form.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, DockerConfigError> {
        let path = path.into();
        let mut config = Self::empty();
        config.dir = path.parent().map(Path::to_owned);
        config.add_file(path, false)?;
        Ok(config)
    }

    /// Reads the JSON of such a file.
    pub fn from_json(json: &[u8]) -> Result<Self, DockerConfigError> {
        let place = Place::Memory;
        let file = File::parse(json).map_err(|error| DockerConfigError::json(&place, &error))?;
        let mut config = Self::empty();
        config.sources.push(Source { place, file: Arc::new(file), detect_store: false });
        Ok(config)
    }

    /// No credentials at all.
    pub fn empty() -> Self {
        Self { sources: Vec::new(), dir: None, helper_timeout: Duration::from_secs(30), helper_path: None }
    }

    /// How long a credential helper may take; 30 seconds unless set.
    #[must_use]
    pub fn helper_timeout(mut self, time: Duration) -> Self {
        self.helper_timeout = time;
        self
    }

    /// Directories to look for credential helpers in, in the form of `PATH`; `PATH` itself unless set.
    #[must_use]
    pub fn helper_path(mut self, path: impl Into<OsString>) -> Self {
        self.helper_path = Some(path.into());
        self
    }

    /// The directory of Docker's configuration, where the token seed is kept too.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Which file or helper answers for a registry, or for one repository in it.
    pub async fn explain(&self, host: &str, repository: Option<&str>) -> Explanation {
        let mut request = CredentialRequest::new(host);
        if let Some(repository) = repository {
            request.scopes.push(crate::session::auth::Scope::parse(&format!("repository:{repository}:pull")));
        }
        CredentialProvider::explain(self, &request).await
    }

    fn add_file(&mut self, path: impl Into<PathBuf>, detect_store: bool) -> Result<(), DockerConfigError> {
        let path = path.into();
        let place = Place::File(path.clone());
        let file = match read(&path) {
            Ok(json) => File::parse(&json).map_err(|error| DockerConfigError::json(&place, &error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(DockerConfigError::unreadable(&place, error)),
        };
        self.sources.push(Source { place, file: Arc::new(file), detect_store });
        Ok(())
    }

    async fn lookup(
        &self,
        request: &CredentialRequest,
        tried: &mut Explanation,
    ) -> Result<Option<Credentials>, CredentialError> {
        for source in &self.sources {
            let file = source.current().await;
            let found = self.lookup_in(source, &file, request, tried).await?;
            if let Some(found) = found {
                tried.answered(found.origin_text());
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn lookup_in(
        &self,
        source: &Source,
        file: &File,
        request: &CredentialRequest,
        tried: &mut Explanation,
    ) -> Result<Option<Credentials>, CredentialError> {
        let place = &source.place;
        let host = request.host.as_str();
        let entry = file.entry(host, request.repository());
        if let Some((name, field)) = file.helper(host) {
            let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
            match helper::get(name, self.helper_path.as_deref(), server, self.helper_timeout).await {
                Ok(Some(found)) => {
                    let origin = format!("docker-credential-{name} ({field} in {place})");
                    return Ok(Some(found.origin(origin)));
                }
                Ok(None) => tried.tried(format!("{place}: docker-credential-{name} has none")),
                // Docker notes in `auths` which registries the store holds: for others it need not be there.
                Err(HelperError::Missing)
                    if field == "credsStore" && entry.is_none() && !file.auths.is_empty() =>
                {
                    tried.tried(format!(
                        "{place}: docker-credential-{name} is not installed, and the file does not say that it holds {host}"
                    ));
                }
                Err(error) => return Err(helper_error(host, name, field, place, error)),
            }
        } else if source.detect_store
            && file.is_empty()
            && let Some(name) = self.default_store()
        {
            match helper::get(name, self.helper_path.as_deref(), host, self.helper_timeout).await {
                Ok(Some(found)) => {
                    return Ok(Some(found.origin(format!("docker-credential-{name} (found on PATH)"))));
                }
                Ok(None) => tried.tried(format!("docker-credential-{name} (found on PATH) has none")),
                // Nobody asked for this store: that it is broken is no reason to fail.
                Err(error) => tried.tried(format!("docker-credential-{name} (found on PATH) {error}")),
            }
        }
        let Some((key, entry)) = entry else {
            let is_there = match place {
                Place::File(path) => tokio::fs::try_exists(path).await.unwrap_or(true),
                Place::Variable(_) | Place::Memory => true,
            };
            let what = if is_there { "no entry" } else { "no such file" };
            tried.tried(format!("{place}: {what}"));
            return Ok(None);
        };
        match entry.credentials() {
            Ok(Some(found)) => Ok(Some(found.origin(format!("auths[{key:?}] in {place}")))),
            Ok(None) => {
                tried.tried(format!("{place}: auths[{key:?}] is empty"));
                Ok(None)
            }
            Err(reason) => {
                Err(CredentialError::new(host, format!("auths[{key:?}] in {place} is broken: {reason}")))
            }
        }
    }

    /// The store that Docker uses when its configuration names none.
    fn default_store(&self) -> Option<&'static str> {
        let path = self.helper_path.as_deref();
        let name = if cfg!(target_os = "macos") {
            "osxkeychain"
        } else if cfg!(windows) {
            "wincred"
        } else if helper::on_path("pass", path).is_some() {
            "pass"
        } else {
            "secretservice"
        };
        helper::find(name, path).map(|_| name)
    }
}

fn helper_error(host: &str, name: &str, field: &str, place: &Place, error: HelperError) -> CredentialError {
    let advice = if matches!(error, HelperError::Missing) {
        "; log in where that store is, or write a configuration with the credentials themselves"
    } else {
        ""
    };
    let store = if field == "credsStore" { "credential store" } else { "credential helper" };
    let reason = format!(
        "they are kept in the {store} {name:?} ({field} in {place}), but docker-credential-{name} {error}{advice}"
    );
    CredentialError::new(host, reason).caused_by(error)
}

impl Source {
    /// The file as it is now.
    async fn current(&self) -> Arc<File> {
        let Place::File(path) = &self.place else { return self.file.clone() };
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.map_err(io::Error::other).and_then(|json| json) {
            Ok(json) => match File::parse(&json) {
                Ok(file) => Arc::new(file),
                Err(error) => {
                    tracing::warn!(file = %self.place, reason = file::reason(&error), "using what was read first");
                    self.file.clone()
                }
            },
            Err(_) => self.file.clone(),
        }
    }
}

fn read(path: &Path) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    use std::io::Read as _;
    let mut json = zeroize::Zeroizing::new(Vec::new());
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 MiB"));
    }
    Ok(json)
}

#[async_trait]
impl CredentialProvider for DockerConfig {
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, CredentialError> {
        self.lookup(request, &mut Explanation::new(&request.host)).await
    }

    async fn explain(&self, request: &CredentialRequest) -> Explanation {
        let mut explanation = Explanation::new(&request.host);
        if let Err(error) = self.lookup(request, &mut explanation).await {
            explanation.tried(error.to_string());
        }
        explanation
    }
}

/// Why a configuration cannot be used. Holds nothing of its content.
#[derive(Debug)]
pub struct DockerConfigError {
    place: String,
    reason: String,
    source: Option<io::Error>,
}

impl DockerConfigError {
    fn json(place: &Place, error: &serde_json::Error) -> Self {
        Self { place: place.to_string(), reason: file::reason(error), source: None }
    }

    fn unreadable(place: &Place, error: io::Error) -> Self {
        Self { place: place.to_string(), reason: "cannot be read".into(), source: Some(error) }
    }
}

impl fmt::Display for DockerConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry credentials: {} {}", self.place, self.reason)
    }
}

impl StdError for DockerConfigError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, clippy::unnecessary_wraps)] // tests
#[path = "docker_config/tests.rs"]
mod tests;
