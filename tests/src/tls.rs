//! Certificates made on the spot, and a daemon behind TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::{CancellationToken, DropGuard};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An authority that signs certificates for tests.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority with this name.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self, BoxError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate for these host names and addresses, good for server and client.
    ///
    /// # Errors
    /// When a name is none.
    pub fn sign(&self, names: &[&str]) -> Result<Certificate, BoxError> {
        self.sign_with(names, |_| {})
    }

    /// Signs a certificate that was valid long ago.
    ///
    /// # Errors
    /// When a name is none.
    pub fn sign_expired(&self, names: &[&str]) -> Result<Certificate, BoxError> {
        self.sign_with(names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn sign_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Certificate, BoxError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Certificate { cert: cert.pem(), key: key.serialize_pem() })
    }
}

impl Certificate {
    /// Writes `ca.pem`, `cert.pem` and `key.pem`, as buildctl's `--tlsdir` has them.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, authority: &Authority, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("ca.pem"), authority.pem())?;
        std::fs::write(dir.join("cert.pem"), &self.cert)?;
        std::fs::write(dir.join("key.pem"), &self.key)
    }

    /// A server's side of TLS with this certificate; with `clients`, it wants certificates of theirs.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub fn acceptor(&self, clients: Option<&Authority>) -> Result<TlsAcceptor, BoxError> {
        let chain = vec![CertificateDer::from_pem_slice(self.cert.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A TLS port before a daemon that has none; it ends when dropped.
#[derive(Debug)]
pub struct TlsBridge {
    address: SocketAddr,
    _guard: DropGuard,
}

impl TlsBridge {
    /// Starts it before `upstream` (host and port, with or without `tcp://`).
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: &str, tls: TlsAcceptor) -> std::io::Result<Self> {
        let upstream = upstream.trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stopped = CancellationToken::new();
        let stop = stopped.clone();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (tls, upstream) = (tls.clone(), upstream.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    // A handshake that fails is the client's to report.
                    let Ok(mut client) = tls.accept(client).await else { return };
                    if let Ok(mut daemon) = TcpStream::connect(upstream).await {
                        let _ = copy_bidirectional(&mut client, &mut daemon).await;
                    }
                }));
            }
        }));
        Ok(Self { address, _guard: stopped.drop_guard() })
    }

    /// The port, with the host as an address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
