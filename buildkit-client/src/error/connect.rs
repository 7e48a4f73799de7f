//! Troubles before the first call.

use super::BoxError;
use std::fmt;
use std::time::Duration;

/// No usable connection to the daemon.
#[derive(Debug)]
pub struct ConnectError {
    endpoint: String,
    kind: ConnectErrorKind,
    attempts: u32,
    elapsed: Duration,
    source: Option<BoxError>,
}

/// What kept a connection from being made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The address cannot be understood.
    Address {
        /// What is wrong with it.
        reason: String,
    },
    /// No address was given, and none of the usual places has a daemon's socket.
    NoneFound {
        /// Sockets that are not there or may not be used.
        tried: Vec<String>,
    },
    /// The name of the host has no address.
    Resolve,
    /// Nobody listens there.
    Refused,
    /// There is no socket at this path, or this user may not open it.
    Socket,
    /// The far side took the connection and then did not speak.
    Silent {
        /// How long we waited.
        waited: Duration,
        /// What did not come.
        awaited: &'static str,
    },
    /// The far side speaks something else.
    NotBuildKit {
        /// What it looks like, and what to try.
        hint: String,
    },
    /// TLS failed.
    Tls {
        /// What failed, in plain words.
        reason: String,
    },
    /// The command that carries the connection failed.
    Command {
        /// Its program and arguments.
        command: String,
        /// How it ended, with the end of its standard error.
        outcome: String,
    },
    /// The connection was closed or broke before it could be used.
    Broken,
}

impl ConnectError {
    /// A failure of one's own way to a daemon. `endpoint` is what the connector calls itself.
    pub fn new(endpoint: impl Into<String>, kind: ConnectErrorKind) -> Self {
        Self { endpoint: endpoint.into(), kind, attempts: 1, elapsed: Duration::ZERO, source: None }
    }

    pub(crate) fn address(endpoint: &str, reason: impl Into<String>) -> Self {
        Self::new(endpoint, ConnectErrorKind::Address { reason: reason.into() })
    }

    /// What it is caused by.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn tried(mut self, attempts: u32, elapsed: Duration) -> Self {
        self.attempts = attempts;
        self.elapsed = elapsed;
        self
    }

    /// What a [`Connector`](crate::connect::Connector) of one's own says when the system gives it no stream.
    pub fn from_io(endpoint: &str, error: std::io::Error) -> Self {
        Self::io(endpoint, error)
    }

    /// An error of the system while dialling.
    pub fn io(endpoint: &str, error: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match error.kind() {
            K::ConnectionRefused => ConnectErrorKind::Refused,
            K::NotFound | K::PermissionDenied => ConnectErrorKind::Socket,
            _ => ConnectErrorKind::Broken,
        };
        Self::new(endpoint, kind).because(error)
    }

    /// The address that was dialled.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What kept the connection from being made.
    pub fn kind(&self) -> &ConnectErrorKind {
        &self.kind
    }

    /// How often it was tried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// From the first try to the end of the last.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Whether a daemon that is still starting would look like this.
    pub fn is_transient(&self) -> bool {
        match &self.kind {
            ConnectErrorKind::Address { .. }
            | ConnectErrorKind::NotBuildKit { .. }
            | ConnectErrorKind::Tls { .. } => false,
            ConnectErrorKind::NoneFound { .. }
            | ConnectErrorKind::Resolve
            | ConnectErrorKind::Refused
            | ConnectErrorKind::Silent { .. }
            | ConnectErrorKind::Command { .. }
            | ConnectErrorKind::Broken => true,
            ConnectErrorKind::Socket => self
                .source
                .as_ref()
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: ", self.endpoint)?;
        match &self.kind {
            ConnectErrorKind::Address { reason } => f.write_str(reason)?,
            ConnectErrorKind::NoneFound { tried } => {
                write!(f, "no socket at {}; set BUILDKIT_HOST to a daemon's address", tried.join(", "))?;
            }
            ConnectErrorKind::Resolve => f.write_str("the host name has no address")?,
            ConnectErrorKind::Refused => f.write_str("nobody listens there (connection refused)")?,
            ConnectErrorKind::Socket => f.write_str("the socket cannot be opened")?,
            ConnectErrorKind::Silent { waited, awaited } => {
                write!(f, "no {awaited} in {} s", waited.as_secs_f32())?;
            }
            ConnectErrorKind::NotBuildKit { hint } => {
                write!(f, "no BuildKit daemon speaks there: {hint}")?;
            }
            ConnectErrorKind::Tls { reason } => write!(f, "TLS: {reason}")?,
            ConnectErrorKind::Command { command, outcome } => write!(f, "`{command}` {outcome}")?,
            ConnectErrorKind::Broken => f.write_str("the connection broke")?,
        }
        if self.attempts > 1 {
            write!(f, " ({} attempts in {:.1} s)", self.attempts, self.elapsed.as_secs_f32())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
