//! `tcp://`, plain or with TLS.

use super::{Connector, Stream};
use crate::error::{ConnectError, ConnectErrorKind};
use crate::tls::Tls;
use std::time::Duration;
use tokio::net::TcpStream;

/// Dials `host:port`, trying each address of the name in turn.
#[derive(Debug, Clone)]
pub struct Tcp {
    host: String,
    port: u16,
    tls: Option<Tls>,
    patience: Duration,
}

impl Tcp {
    /// A host by name or IP address; with `tls` the stream is encrypted.
    pub fn new(host: impl Into<String>, port: u16, tls: Option<Tls>) -> Self {
        Self { host: host.into(), port, tls, patience: Duration::from_secs(60) }
    }

    /// How long sent bytes may stay without acknowledgement before the system gives the connection up, where it can
    /// be told (Linux); a minute unless set.
    #[must_use]
    pub fn unacknowledged(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Dead peers are found by the kernel as well, should nothing else find them.
    fn keep_alive(&self, stream: &TcpStream) {
        const IDLE: Duration = Duration::from_secs(30);
        // Best effort: a socket without these options still works.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
        #[cfg(target_os = "linux")]
        {
            let _ = rustix::net::sockopt::set_tcp_keepidle(stream, IDLE);
            let _ = rustix::net::sockopt::set_tcp_keepintvl(stream, IDLE / 3);
            if let Ok(millis) = i32::try_from(self.patience.as_millis()) {
                let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, millis.unsigned_abs());
            }
        }
    }
}

#[async_trait::async_trait]
impl Connector for Tcp {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let endpoint = self.endpoint();
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| ConnectError::new(&endpoint, ConnectErrorKind::Resolve).because(error))?;
        let mut last = ConnectError::new(&endpoint, ConnectErrorKind::Resolve);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    self.keep_alive(&stream);
                    return match &self.tls {
                        Some(tls) => tls.handshake(stream, &self.host, &endpoint).await,
                        None => Ok(Stream::new(stream)),
                    };
                }
                Err(error) => last = ConnectError::io(&endpoint, error),
            }
        }
        Err(last)
    }

    fn endpoint(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("tcp://{host}:{}", self.port)
    }

    fn is_exposed(&self) -> bool {
        let local = match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        };
        self.tls.is_none() && !local
    }

    fn authority(&self) -> String {
        match self.tls.as_ref().and_then(Tls::name) {
            Some(name) => name.to_owned(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}
