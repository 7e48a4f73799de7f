//! SSH agents for build steps and git sources.
//!
//! A step with an SSH mount talks to an agent on this side: the user's own, of which it may list keys and ask for
//! signatures and nothing else, or one in memory that holds the given key files. Private keys never leave this program.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buildkit_proto::sshforward::ssh_server::{Ssh as SshRpc, SshServer};
use buildkit_proto::sshforward::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::{Request, Response, Status, Streaming};

use super::{Attachable, MAX_QUESTION, Service, SessionContext, told};

mod agent;
mod key;

use key::Key;
pub use key::KeyError;

/// How long an agent may take to accept a connection.
const DIAL: Duration = Duration::from_secs(2);
/// What is read of a key file.
const MAX_KEY: u64 = 100 << 10;
const CHUNK: usize = 32 << 10;
/// The agent a step gets that names none.
const DEFAULT: &str = "default";

/// What a step gets to talk to.
#[derive(Clone, Debug)]
pub struct SshSource(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Agent,
    Paths(Vec<PathBuf>),
    Raw(PathBuf),
}

impl SshSource {
    /// The agent at `SSH_AUTH_SOCK`.
    pub fn agent() -> Self {
        Self(Kind::Agent)
    }

    /// The agent at this socket.
    pub fn socket(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Paths(vec![path.into()]))
    }

    /// An agent in memory that holds the keys in these files. They must not be encrypted.
    pub fn keys(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self(Kind::Paths(paths.into_iter().map(Into::into).collect()))
    }

    /// Either of [`SshSource::socket`] and [`SshSource::keys`], by what is at the paths; without any
    /// [`SshSource::agent`].
    pub fn paths(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self(Kind::Paths(paths.into_iter().map(Into::into).collect()))
    }

    /// A socket to which bytes are passed as they are, whatever protocol they speak. The step can do with it what this
    /// program could.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Raw(path.into()))
    }
}

/// SSH agents, ready to be attached to a build.
#[derive(Clone, Debug, Default)]
pub struct Ssh {
    agents: Arc<BTreeMap<String, Agent>>,
    slots: Slots,
}

/// Connections to agents that may be open at once; a daemon that wants more waits, or it could use up the files that
/// the program may open.
#[derive(Clone, Debug)]
struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(64)))
    }
}

#[derive(Clone, Debug)]
enum Agent {
    Proxy(PathBuf),
    Keys(Arc<Vec<Key>>),
    Raw(PathBuf),
}

impl Ssh {
    /// Reads keys and finds sockets. An empty id is `default`.
    ///
    /// # Errors
    ///
    /// An id is there twice; no agent is known; a file is neither a socket nor an unencrypted key.
    pub async fn load(
        sources: impl IntoIterator<Item = (impl Into<String>, SshSource)>,
    ) -> Result<Self, SshError> {
        let mut agents = BTreeMap::new();
        for (id, source) in sources {
            let id: String = id.into();
            let id = if id.is_empty() { DEFAULT.to_owned() } else { id };
            if agents.contains_key(&id) {
                return Err(SshError::Duplicate(id));
            }
            let found = tokio::task::spawn_blocking(move || open(source.0)).await;
            let agent =
                found.map_err(|error| SshError::Socket(PathBuf::new(), io::Error::other(error)))??;
            agents.insert(id, agent);
        }
        Ok(Self { agents: Arc::new(agents), slots: Slots::default() })
    }

    fn agent(&self, id: &str) -> Result<&Agent, Status> {
        let id = if id.is_empty() { DEFAULT } else { id };
        self.agents.get(id).ok_or_else(|| Status::not_found(format!("unset ssh forward key {}", told(id))))
    }
}

/// Looks at what is there. Blocks.
fn open(kind: Kind) -> Result<Agent, SshError> {
    let paths = match kind {
        Kind::Raw(path) => {
            return if is_socket(&path)? { Ok(Agent::Raw(path)) } else { Err(SshError::RawNotASocket(path)) };
        }
        Kind::Paths(paths) if !paths.is_empty() => paths,
        Kind::Agent | Kind::Paths(_) => {
            let path = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            vec![PathBuf::from(path.ok_or(SshError::NoAgent)?)]
        }
    };
    let mut keys = Vec::new();
    for path in &paths {
        if is_socket(path)? {
            return match paths.as_slice() {
                [_] => Ok(Agent::Proxy(path.clone())),
                _ if keys.is_empty() && paths.iter().all(|path| is_socket(path).unwrap_or(false)) => {
                    Err(SshError::ManySockets)
                }
                _ => Err(SshError::Mixed),
            };
        }
        keys.push(read_key(path)?);
    }
    Ok(Agent::Keys(Arc::new(keys)))
}

fn is_socket(path: &Path) -> Result<bool, SshError> {
    let meta = path.metadata().map_err(|error| SshError::Socket(path.to_owned(), error))?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()));
    #[cfg(not(unix))]
    Ok(!meta.is_file())
}

fn read_key(path: &Path) -> Result<Key, SshError> {
    use std::io::Read as _;
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let read = path.metadata().and_then(|meta| {
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        std::fs::File::open(path)?.take(MAX_KEY).read_to_end(&mut text)
    });
    read.map_err(|error| SshError::Socket(path.to_owned(), error))?;
    Key::parse(&text).map_err(|error| SshError::Key(path.to_owned(), error))
}

impl Attachable for Ssh {
    fn services(&self, _: &SessionContext) -> Vec<Service> {
        let server = SshServer::new(self.clone()).max_decoding_message_size(MAX_QUESTION);
        vec![Service::new(server, &["CheckAgent", "ForwardAgent"])]
    }
}

#[async_trait]
impl SshRpc for Ssh {
    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream = BoxStream<'static, Result<BytesMessage, Status>>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get("buildkit.ssh.id");
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or(DEFAULT).to_owned();
        let agent = self.agent(&id)?;
        let slot = Arc::clone(&self.slots.0).acquire_owned().await;
        let requests = request.into_inner().map_ok(|message| message.data).map_err(io::Error::other);
        let answers = forward(agent, requests).await.map_err(|error| {
            Status::unavailable(format!("the ssh agent {} cannot be reached: {error}", told(&id)))
        })?;
        let answers = answers.map(move |chunk| {
            // Held for as long as there are answers.
            let _ = &slot;
            match chunk {
                Ok(data) => Ok(BytesMessage { data }),
                Err(error) => Err(Status::unavailable(format!("the ssh agent failed: {error}"))),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Connects a stream of requests to an agent. Everything is done while the answers are polled: nothing runs on when
/// they are dropped.
async fn forward(
    agent: &Agent,
    requests: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let mut requests = StreamReader::new(requests);
    match agent {
        Agent::Keys(keys) => Ok(agent::serve(requests, agent::Backend::Keys(keys.clone()))),
        #[cfg(unix)]
        Agent::Proxy(path) => Ok(agent::serve(requests, agent::Backend::Socket(dial(path).await?))),
        #[cfg(unix)]
        Agent::Raw(path) => {
            let (read, mut write) = dial(path).await?.into_split();
            // Never ends by itself: the answers decide when it is over.
            let up = async move {
                let _ = tokio::io::copy(&mut requests, &mut write).await;
                // Dropping the half says that no more will come.
                drop(write);
                std::future::pending::<()>().await;
            };
            Ok(ReaderStream::with_capacity(read, CHUNK).take_until(Box::pin(up)).boxed())
        }
        #[cfg(not(unix))]
        Agent::Proxy(_) | Agent::Raw(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(unix)]
async fn dial(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let connected = tokio::time::timeout(DIAL, tokio::net::UnixStream::connect(path)).await;
    connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not accept connections"))?
}

/// Why an SSH agent cannot be offered to a build.
#[derive(Debug)]
#[non_exhaustive]
pub enum SshError {
    /// The id is there twice.
    Duplicate(String),
    /// No socket was given and `SSH_AUTH_SOCK` is not set.
    NoAgent,
    /// More than one socket for one id.
    ManySockets,
    /// A socket beside keys.
    Mixed,
    /// Raw mode needs a socket.
    RawNotASocket(PathBuf),
    /// A file cannot be read.
    Socket(PathBuf, io::Error),
    /// A file is no key that can be used.
    Key(PathBuf, KeyError),
}

impl fmt::Display for SshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(id) => write!(f, "duplicate agent ID {id:?}"),
            Self::NoAgent => f.write_str("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
            Self::ManySockets => f.write_str("only single socket allowed"),
            Self::Mixed => f.write_str("invalid combination of keys and sockets"),
            Self::RawNotASocket(path) => {
                write!(f, "raw mode only supported with socket paths: {}", path.display())
            }
            Self::Socket(path, _) => write!(f, "failed to open {}", path.display()),
            Self::Key(path, _) => write!(f, "failed to parse {}", path.display()),
        }
    }
}

impl StdError for SshError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Socket(_, error) => Some(error),
            Self::Key(_, error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, clippy::print_stdout)] // tests; what is skipped is said
#[path = "ssh/tests.rs"]
mod tests;
