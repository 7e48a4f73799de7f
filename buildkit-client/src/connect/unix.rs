//! `unix://`.

use super::{Connector, Stream};
use crate::error::ConnectError;
use std::path::PathBuf;

/// Dials a Unix socket.
#[derive(Debug, Clone)]
pub struct Unix {
    path: PathBuf,
}

impl Unix {
    /// The socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait::async_trait]
impl Connector for Unix {
    #[cfg(unix)]
    async fn connect(&self) -> Result<Stream, ConnectError> {
        match tokio::net::UnixStream::connect(&self.path).await {
            Ok(stream) => Ok(Stream::new(stream)),
            Err(error) => Err(ConnectError::io(&self.endpoint(), error)),
        }
    }

    #[cfg(not(unix))]
    async fn connect(&self) -> Result<Stream, ConnectError> {
        Err(ConnectError::address(&self.endpoint(), "this system has no Unix sockets"))
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}
