//! TLS towards a daemon.

use crate::connect::Stream;
use crate::error::{ConnectError, ConnectErrorKind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// Whom to trust and who to be.
///
/// Certificates are read at each connection, so files that are renewed in place (by cert-manager,
/// for example) take effect without a new client. Roots: the given CA, and the system's only when
/// asked for with [`system_roots`](Self::system_roots). TLS 1.2 and 1.3.
///
/// ```
/// # use buildkit_client::tls::Tls;
/// let tls = Tls::new().ca_file("/certs/ca.pem").identity_files("/certs/cert.pem", "/certs/key.pem");
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    dir: Option<PathBuf>,
    ca: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    system_roots: bool,
    server_name: Option<String>,
    config: Option<Arc<ClientConfig>>,
    http1: bool,
}

#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Memory(Arc<Zeroizing<Vec<u8>>>),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("system_roots", &self.system_roots)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Encrypts, but trusts nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `ca.pem` or `ca.crt`, `cert.pem` or `tls.crt`, `key.pem` or `tls.key` below `dir`,
    /// the first of each pair that is there. Files that are missing are left out.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Trusts the certificates in a PEM file.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Pem::File(path.into()));
        self
    }

    /// Trusts the certificates in a PEM text.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Pem::Memory(Arc::new(Zeroizing::new(pem.into()))));
        self
    }

    /// Shows a client certificate, chain and key from PEM files.
    #[must_use]
    pub fn identity_files(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::File(cert.into()), Pem::File(key.into())));
        self
    }

    /// Shows a client certificate, chain and key from PEM texts.
    #[must_use]
    pub fn identity_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let pem = |pem: Vec<u8>| Pem::Memory(Arc::new(Zeroizing::new(pem)));
        self.identity = Some((pem(cert.into()), pem(key.into())));
        self
    }

    /// Trusts the system's roots as well.
    #[must_use]
    pub fn system_roots(mut self) -> Self {
        self.system_roots = true;
        self
    }

    /// The name that the server's certificate must carry; the host of the address otherwise.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Uses a configuration of the caller; all but the server name is then ignored.
    #[must_use]
    pub fn config(mut self, config: Arc<ClientConfig>) -> Self {
        self.config = Some(config);
        self
    }

    pub(crate) fn http1(mut self) -> Self {
        self.http1 = true;
        self
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Encrypts a stream.
    pub(crate) async fn handshake<S>(&self, io: S, host: &str, endpoint: &str) -> Result<Stream, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |reason: String| ConnectError::new(endpoint, ConnectErrorKind::Tls { reason });
        let config = match &self.config {
            Some(config) => config.clone(),
            None => Arc::new(self.load().await.map_err(failed)?),
        };
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| failed(format!("{name:?} is no name that a certificate can carry")))?;
        match tokio_rustls::TlsConnector::from(config).connect(name, io).await {
            Ok(stream) => Ok(Stream::new(stream)),
            Err(error) => Err(explain(endpoint, error)),
        }
    }

    async fn load(&self) -> Result<ClientConfig, String> {
        let (mut ca, mut identity) = (self.ca.clone(), self.identity.clone());
        if let Some(dir) = &self.dir {
            ca = ca.or(first(dir, ["ca.pem", "ca.crt"]).await.map(Pem::File));
            if identity.is_none() {
                let cert = first(dir, ["cert.pem", "tls.crt"]).await;
                let key = first(dir, ["key.pem", "tls.key"]).await;
                identity = match (cert, key) {
                    (Some(cert), Some(key)) => Some((Pem::File(cert), Pem::File(key))),
                    (None, None) => None,
                    _ => return Err(format!("{} holds a certificate or a key, not both", dir.display())),
                };
            }
            if ca.is_none() && identity.is_none() {
                return Err(format!("{} holds neither a CA nor a certificate", dir.display()));
            }
        }
        let mut roots = RootCertStore::empty();
        if self.system_roots {
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
                .await
                .map_err(|_| "the system's certificates cannot be read".to_owned())?;
            roots.add_parsable_certificates(found.certs);
        }
        if let Some(ca) = &ca {
            let pem = ca.read("CA certificate").await?;
            for cert in certificates(&pem, "CA certificate")? {
                roots.add(cert).map_err(|error| format!("failed to append CA certificate: {error}"))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(&cert.read("client certificate").await?, "client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&key.read("client key").await?)
                    .map_err(|error| format!("could not read the client key: {error}"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("client certificate and key: {error}"))?
            }
        };
        config.alpn_protocols = if self.http1 { Vec::new() } else { vec![b"h2".to_vec()] };
        Ok(config)
    }
}

impl Pem {
    async fn read(&self, what: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Memory(pem) => Ok(Zeroizing::new(pem.to_vec())),
            Self::File(path) => tokio::fs::read(path)
                .await
                .map(Zeroizing::new)
                .map_err(|error| format!("could not read the {what} {}: {error}", path.display())),
        }
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("the {what} holds no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("the {what} is not PEM: {error}")),
    }
}

async fn first(dir: &Path, names: [&str; 2]) -> Option<PathBuf> {
    for name in names {
        let path = dir.join(name);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return Some(path);
        }
    }
    None
}

/// Says in plain words what a failed handshake was about.
pub(crate) fn explain(endpoint: &str, error: std::io::Error) -> ConnectError {
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => {
                "the server's certificate is not signed by the given CA".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; set the server name if that is intended"
                    .to_owned()
            }
            _ => "the server's certificate is not acceptable".to_owned(),
        },
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            rustls::AlertDescription::CertificateRequired => {
                "the server wants a client certificate (mTLS) and none was given".to_owned()
            }
            rustls::AlertDescription::UnknownCA | rustls::AlertDescription::BadCertificate => {
                "the server does not accept the client certificate".to_owned()
            }
            rustls::AlertDescription::CertificateExpired => {
                "the server says that the client certificate has expired".to_owned()
            }
            other => format!("the server ended the handshake ({other:?})"),
        },
        Some(rustls::Error::InvalidMessage(_)) => {
            "the far side does not speak TLS; without TLS settings the connection is plain".to_owned()
        }
        Some(_) => "the handshake failed".to_owned(),
        None => return ConnectError::io(endpoint, error),
    };
    ConnectError::new(endpoint, ConnectErrorKind::Tls { reason }).because(error)
}
