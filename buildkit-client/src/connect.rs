//! Ways to a daemon.
//!
//! A [`Connector`] opens byte streams on which BuildKit speaks HTTP/2; [`connector`] picks one for
//! an address. Everything that leaves the process leaves through here.

mod address;
mod command;
mod docker;
mod find;
mod link;
mod liveness;
mod tcp;
mod unix;
mod watched;

pub use address::{Address, ContainerEngine};
pub use command::Command;
pub use docker::Engine;
pub use link::Channel;
pub(crate) use link::{Headers, Link, LinkEnd, Tasks, is_transport};
pub use liveness::Liveness;
pub use tcp::Tcp;
pub use unix::Unix;

use crate::error::ConnectError;
use crate::tls::Tls;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens byte streams to a daemon.
///
/// Implement it to reach a daemon in a way of your own: one stream per call, on which the far side
/// expects HTTP/2 with prior knowledge. It is called once for the control calls of a client and
/// once for each build, and again after a link was lost. The future must be safe to drop.
#[async_trait::async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Opens one stream. The caller bounds the time.
    async fn connect(&self) -> Result<Stream, ConnectError>;

    /// The address, for messages.
    fn endpoint(&self) -> String;

    /// The `:authority` of the calls.
    fn authority(&self) -> String {
        "localhost".to_owned()
    }

    /// Whether what is sent can be read on the way: it leaves this machine without encryption. A build that offers
    /// secrets or credentials over such a connection says so.
    fn is_exposed(&self) -> bool {
        false
    }

    /// What is known of the far side without BuildKit's help, for messages about things it lacks.
    async fn describe(&self) -> Option<String> {
        None
    }
}

/// A byte stream in both directions.
pub struct Stream(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Stream {
    /// Wraps a stream.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connector for an address. `tls` concerns `tcp://` and `docker://host:port` only.
pub fn connector(address: &Address, tls: Option<Tls>) -> Result<Arc<dyn Connector>, ConnectError> {
    connector_with(address, tls, &Liveness::default())
}

/// The connector for an address, whose system gives connections up no sooner than we do.
pub(crate) fn connector_with(
    address: &Address,
    tls: Option<Tls>,
    liveness: &Liveness,
) -> Result<Arc<dyn Connector>, ConnectError> {
    let patience = liveness.dead_after.max(Duration::from_secs(60));
    let refuse_tls = |tls: &Option<Tls>| match tls {
        Some(_) => Err(ConnectError::address(&address.to_string(), "TLS works with tcp:// only")),
        None => Ok(()),
    };
    Ok(match address {
        Address::Tcp { host, port } => Arc::new(Tcp::new(host, *port, tls).unacknowledged(patience)),
        Address::Unix { path } => {
            refuse_tls(&tls)?;
            Arc::new(Unix::new(path))
        }
        Address::DockerSocket { path } => {
            refuse_tls(&tls)?;
            Arc::new(Engine::new(Arc::new(Unix::new(path)), address.to_string()))
        }
        Address::DockerTcp { host, port } => {
            let inner = Tcp::new(host, *port, tls.map(Tls::http1)).unacknowledged(patience);
            Arc::new(Engine::new(Arc::new(inner), address.to_string()))
        }
        Address::Npipe { .. } => {
            return Err(ConnectError::address(
                &address.to_string(),
                "npipe connections are only supported on windows",
            ));
        }
        Address::Container { .. } | Address::KubePod { .. } | Address::Ssh { .. } => {
            refuse_tls(&tls)?;
            let argv = address.command().unwrap_or_default();
            Arc::new(Command::new(argv).endpoint_name(address.to_string()))
        }
    })
}
