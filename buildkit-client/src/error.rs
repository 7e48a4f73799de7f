//! What can go wrong, and what the caller can do about it.
//!
//! `Display` of every error here says what failed in one line and never repeats its source; walk
//! [`source`](std::error::Error::source) or call [`Error::report`] for the whole chain.

mod connect;
mod details;
mod excerpt;
mod solve;

pub use connect::{ConnectError, ConnectErrorKind};
pub use details::{Details, StackFrame, UnknownDetail};
pub use excerpt::{Location, Position, SourceRange};
pub(crate) use solve::shown;
pub use solve::{LinkLost, RpcError, SolveError, SolveErrorKind};

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A boxed error of any kind, as found at the end of a chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call of this crate failed.
///
/// `{:?}` is what a program shows that returns it from `main`, so it is for people: the [report](Self::report), the
/// lines of the file that it is about, and what the failed step said last. `{:#?}` shows the fields.
#[non_exhaustive]
pub enum Error {
    /// No usable connection to the daemon. Nothing was sent.
    Connect(ConnectError),
    /// The request contradicts itself. Found before anything was sent.
    Request(RequestError),
    /// The daemon answered the build with an error.
    Solve(Box<SolveError>),
    /// The link to the daemon died while a call was under way. It may have run.
    LinkLost(Box<LinkLost>),
    /// A call other than a build failed.
    Rpc(Box<RpcError>),
    /// Something on this side of the link made the build fail.
    Local(Box<LocalError>),
    /// The daemon lacks what was asked for.
    Unsupported(Box<Unsupported>),
    /// The build was cancelled by the caller.
    Canceled,
}

impl Error {
    /// Whether the same call may succeed when repeated unchanged: link and registry troubles,
    /// overload, restarts. A failed build step is not transient.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_transient(),
            Self::Solve(error) => error.is_transient(),
            Self::Rpc(error) => error.is_transient(),
            Self::LinkLost(_) => true,
            Self::Request(_) | Self::Local(_) | Self::Unsupported(_) | Self::Canceled => false,
        }
    }

    /// Whether the daemon may have done some or all of the work: `false` means that it surely
    /// never saw the call.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Request(_) => false,
            Self::Unsupported(error) => error.sent,
            _ => true,
        }
    }

    /// The build error, where a build was answered with one.
    pub fn as_solve(&self) -> Option<&SolveError> {
        match self {
            Self::Solve(error) => Some(error),
            _ => None,
        }
    }

    /// The error and all its sources in one line, outermost first, without repetitions.
    pub fn report(&self) -> String {
        report(self)
    }

    /// A failed call: transport troubles and daemon answers are told apart.
    pub(crate) fn rpc(call: &'static str, status: &tonic::Status) -> Self {
        Self::Rpc(Box::new(RpcError::new(call, status)))
    }
}

/// Writes an error and its sources in one line, leaving out texts already said.
pub fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let line = source.to_string();
        if !line.is_empty() && !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        next = source.source();
    }
    text
}

/// Lines of a failed step's output that `{:?}` shows.
const SHOWN_LOGS: usize = 10;

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            let (name, field): (_, &dyn fmt::Debug) = match self {
                Self::Connect(error) => ("Connect", error),
                Self::Request(error) => ("Request", error),
                Self::Solve(error) => ("Solve", error),
                Self::LinkLost(error) => ("LinkLost", error),
                Self::Rpc(error) => ("Rpc", error),
                Self::Local(error) => ("Local", error),
                Self::Unsupported(error) => ("Unsupported", error),
                Self::Canceled => return f.write_str("Canceled"),
            };
            return f.debug_tuple(name).field(field).finish();
        }
        f.write_str(&self.report())?;
        let Some(solve) = self.as_solve() else { return Ok(()) };
        if let Some(excerpt) = solve.location().and_then(Location::excerpt) {
            write!(f, "\n{excerpt}")?;
        }
        let logs = solve.last_logs();
        for line in logs.iter().skip(logs.len().saturating_sub(SHOWN_LOGS)) {
            write!(f, "\n{}", shown(line))?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::Solve(error) => error.fmt(f),
            Self::LinkLost(error) => error.fmt(f),
            Self::Rpc(error) => error.fmt(f),
            Self::Local(error) => error.fmt(f),
            Self::Unsupported(error) => error.fmt(f),
            Self::Canceled => f.write_str("the build was cancelled"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => error.source(),
            Self::Request(error) => error.source(),
            Self::Solve(error) => error.source(),
            Self::LinkLost(error) => error.source(),
            Self::Rpc(error) => error.source(),
            Self::Local(error) => error.source(),
            Self::Unsupported(_) | Self::Canceled => None,
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<crate::docker_config::DockerConfigError> for Error {
    fn from(error: crate::docker_config::DockerConfigError) -> Self {
        RequestError::Attachment { what: "registry credentials", source: error.into() }.into()
    }
}

impl From<LocalError> for Error {
    fn from(error: LocalError) -> Self {
        Self::Local(Box::new(error))
    }
}

impl From<LinkLost> for Error {
    fn from(error: LinkLost) -> Self {
        Self::LinkLost(Box::new(error))
    }
}

impl From<Unsupported> for Error {
    fn from(error: Unsupported) -> Self {
        Self::Unsupported(Box::new(error))
    }
}

/// A request that cannot be sent as it stands.
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestError {
    /// Neither a definition nor a frontend was given.
    Empty,
    /// The graph could not be marshalled.
    Definition {
        /// What the graph builder said.
        source: BoxError,
    },
    /// The graph reads a local directory that was not attached.
    LocalNotAttached {
        /// The name in `local://NAME`.
        name: String,
    },
    /// A local directory or file that was attached is not there or not usable.
    Path {
        /// What it was meant for, for example ``local directory `context` ``.
        role: String,
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that was attached cannot be had: a secret's file, an agent's socket.
    Attachment {
        /// What kind of thing, for example `secret`.
        what: &'static str,
        /// Why.
        source: BoxError,
    },
    /// Two things were attached under one name.
    Duplicate {
        /// What kind of thing, for example `secret`.
        what: &'static str,
        /// The name used twice.
        name: String,
    },
    /// An option has a value that cannot be.
    Option {
        /// The option, by the name of its method or attribute.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A [shared session](crate::session::Session) cannot carry this build, or not beside what it carries already.
    SharedSession {
        /// What of the build.
        what: String,
        /// Why not, and what can be done.
        reason: String,
    },
    /// A message would pass the size that the daemon accepts.
    TooLarge {
        /// Which message.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl RequestError {
    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option { option, reason: reason.into() }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing to build: give a definition or a frontend"),
            Self::Definition { .. } => f.write_str("the definition is invalid"),
            Self::LocalNotAttached { name } => {
                write!(f, "local directory {name:?} not enabled: attach it with .local({name:?}, path)")
            }
            Self::Path { role, path, .. } => write!(f, "{role}: cannot use {}", path.display()),
            Self::Attachment { what, .. } => write!(f, "cannot attach the {what}"),
            Self::Duplicate { what, name } => write!(f, "{what} {name:?} is given twice"),
            Self::Option { option, reason } => write!(f, "{option}: {reason}"),
            Self::SharedSession { what, reason } => {
                write!(f, "{what} cannot be used on this shared session: {reason}")
            }
            Self::TooLarge { what, size, limit } => {
                write!(f, "the {what} has {size} bytes, the daemon accepts {limit}")
            }
        }
    }
}

impl std::error::Error for RequestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Definition { source } | Self::Attachment { source, .. } => Some(source.as_ref()),
            Self::Path { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A failure on this side that made the build fail: a context file that could not be read, an
/// output that could not be written, a callback that refused.
#[derive(Debug)]
pub struct LocalError {
    what: String,
    source: Arc<dyn std::error::Error + Send + Sync>,
    after: Option<Box<SolveError>>,
}

impl LocalError {
    pub(crate) fn new(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { what: what.into(), source: Arc::from(source.into()), after: None }
    }

    /// The same for another build.
    pub(crate) fn again(&self) -> Self {
        Self { what: self.what.clone(), source: Arc::clone(&self.source), after: None }
    }

    /// Whether an error of the daemon tells of this one, which it was told.
    pub(crate) fn explains(&self, error: &SolveError) -> bool {
        let says = |text: &str| error.message().contains(&shown(text));
        says(&self.what) || says(&report(&*self.source))
    }

    pub(crate) fn followed_by(mut self, solve: Option<SolveError>) -> Self {
        self.after = solve.map(Box::new);
        self
    }

    /// What the daemon made of it, where it answered.
    pub fn daemon_error(&self) -> Option<&SolveError> {
        self.after.as_deref()
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for LocalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// The daemon cannot do what was asked: it lacks a capability, an exporter or a call.
#[derive(Debug, Clone)]
pub struct Unsupported {
    pub(crate) what: String,
    pub(crate) daemon: Option<String>,
    pub(crate) sent: bool,
}

impl Unsupported {
    /// The capability, exporter, option or call that is missing.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What is known of the daemon, for example `BuildKit v0.12.5` or `older than BuildKit 0.11`.
    pub fn daemon(&self) -> Option<&str> {
        self.daemon.as_deref()
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the daemon does not support {}", self.what)?;
        match &self.daemon {
            Some(daemon) => write!(f, " ({daemon})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Unsupported {}
