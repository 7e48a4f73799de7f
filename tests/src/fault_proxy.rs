//! A TCP proxy before a real daemon whose link fails as a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fake::{Faults, FaultyIo};

/// What the proxy does with a new connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// Carries it to the daemon; [`FaultProxy::faults`] apply.
    #[default]
    Relay,
    /// Reads, and says these bytes, and nothing else ever.
    Say(Vec<u8>),
    /// Says these bytes, and closes.
    SayAndClose(Vec<u8>),
    /// Resets it.
    Reset,
}

impl Accept {
    /// Takes whatever comes and answers nothing.
    pub fn silence() -> Self {
        Accept::Say(Vec::new())
    }

    /// Answers as a web server would.
    pub fn http1() -> Self {
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        Accept::SayAndClose(answer.to_vec())
    }

    /// Answers as a TLS server would that has no use for plain text: a fatal alert.
    pub fn tls_alert() -> Self {
        Accept::SayAndClose(b"\x15\x03\x03\x00\x02\x02\x28".to_vec())
    }

    /// Speaks HTTP/2 as far as the settings, and no further.
    pub fn settings_only() -> Self {
        Accept::Say(SETTINGS.to_vec())
    }

    /// Speaks HTTP/2 and sends everyone away for being too eager.
    pub fn go_away() -> Self {
        let go_away = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b";
        Accept::Say([SETTINGS, go_away].concat())
    }
}

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// A proxy that runs; it ends, and its connections with it, when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    accept: Arc<Mutex<Accept>>,
    faults: Faults,
    _guard: DropGuard,
}

impl FaultProxy {
    /// Starts a proxy to `upstream` (host and port, with or without `tcp://`).
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: &str) -> std::io::Result<Self> {
        let upstream = upstream.trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accept = Arc::new(Mutex::new(Accept::Relay));
        let faults = Faults::default();
        let stopped = CancellationToken::new();
        let (modes, controls, stop) = (Arc::clone(&accept), faults.clone(), stopped.clone());
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mode = modes.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let (upstream, controls) = (upstream.clone(), controls.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    // Whoever is at the other end has gone: there is nobody to tell.
                    let _ = serve(client, mode, &upstream, controls).await;
                }));
            }
        }));
        Ok(Self { address, accept, faults, _guard: stopped.drop_guard() })
    }

    /// The proxy as an address for a client.
    pub fn endpoint(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// What happens to the bytes of all connections. Reading is what the client says, writing is what the
    /// daemon says.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What happens to connections from now on.
    pub fn accept(&self, accept: Accept) {
        *self.accept.lock().unwrap_or_else(PoisonError::into_inner) = accept;
    }
}

async fn serve(mut client: TcpStream, mode: Accept, upstream: &str, faults: Faults) -> std::io::Result<()> {
    match mode {
        Accept::Relay => {
            let mut daemon = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            daemon.set_nodelay(true)?;
            let mut faulty = FaultyIo::new(client, faults);
            let carried = copy_bidirectional(&mut faulty, &mut daemon).await;
            if carried.is_err() {
                // A fault that resets is to be seen as a reset, not as an orderly end.
                faulty.into_inner().set_zero_linger()?;
                daemon.set_zero_linger()?;
            }
            carried.map(drop)
        }
        Accept::Say(bytes) => {
            client.write_all(&bytes).await?;
            let mut nothing = [0; 4096];
            while client.read(&mut nothing).await? > 0 {}
            Ok(())
        }
        Accept::SayAndClose(bytes) => client.write_all(&bytes).await,
        Accept::Reset => client.set_zero_linger(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fault;

    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn it_carries_until_it_is_told_to_reset() {
        let proxy = FaultProxy::start(&echo().await).await.unwrap();
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let mut got = [0; 5];
        client.write_all(b"hello").await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        proxy.faults().reading(Fault::ResetAt(5));
        let error = client.read(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn it_answers_as_something_that_is_no_daemon() {
        let proxy = FaultProxy::start("127.0.0.1:1").await.unwrap();
        proxy.accept(Accept::http1());
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with("HTTP/1.1 400"), "{got}");
    }
}
