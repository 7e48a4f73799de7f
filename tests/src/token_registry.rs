//! Debian's registry with tokens, and the token server that it sends its clients to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::daemon::Daemon;
use crate::fake::{Answer, FakeRegistry, Received};
use crate::tls::Authority;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who may do what: user and password, and the beginning of the names of the repositories that are theirs.
pub type Users = BTreeMap<&'static str, (&'static str, &'static str)>;

/// A registry that takes tokens only; it ends when dropped.
#[derive(Debug)]
pub struct TokenRegistry {
    address: String,
    tokens: FakeRegistry,
    registry: Child,
    dir: PathBuf,
}

impl TokenRegistry {
    /// Starts both. `None`, after telling why, where the daemon's system is not ours to start a registry in.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(daemon: &Daemon, users: Users) -> Result<Option<Self>, BoxError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(rootfs) = &daemon.rootfs else {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "SKIPPED: there is no docker-registry to start");
            return Ok(None);
        };
        let authority = Authority::new("tests' tokens")?;
        let signer = Signer::new(&authority)?;
        let tokens = FakeRegistry::start(move |request| signer.answer(request, &users)).await?;

        let name = format!("token-registry-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let inside = format!("/root/{name}");
        let dir = rootfs.join(&inside[1..]);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("ca.pem"), authority.pem())?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = json!({
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": format!("{inside}/data")}},
            "http": {"addr": address},
            "auth": {"token": {
                "realm": format!("http://{}/token", tokens.address()),
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": format!("{inside}/ca.pem"),
            }},
        });
        // JSON is YAML.
        std::fs::write(dir.join("config.yml"), config.to_string())?;
        let log = std::fs::File::create(dir.join("log"))?;
        let registry = Command::new("chroot")
            .arg(rootfs)
            .args(["docker-registry", "serve", &format!("{inside}/config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut this = Self { address, tokens, registry, dir };
        let started = Instant::now();
        while tokio::net::TcpStream::connect(&this.address).await.is_err() {
            let ended = this.registry.try_wait()?.is_some();
            if ended || started.elapsed() > Duration::from_secs(20) {
                let log = std::fs::read_to_string(this.dir.join("log")).unwrap_or_default();
                return Err(format!("the registry did not start: {log}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(this))
    }

    /// Host and port of the registry.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the token server was asked.
    pub fn requests(&self) -> Vec<Received> {
        self.tokens.received()
    }
}

impl Drop for TokenRegistry {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const SERVICE: &str = "tests";
const ISSUER: &str = "tests";

/// Who a token server is asked by, and for what.
#[derive(Debug, Default)]
pub struct Asked {
    /// The user, where there is one.
    pub user: Option<String>,
    /// The password, where there is one.
    pub password: Option<String>,
    /// Scopes, such as `repository:a:pull`.
    pub scopes: Vec<String>,
}

impl Asked {
    /// Reads a request for a token: a form, or a query with or without basic authentication.
    pub fn read(request: &Received) -> Self {
        let mut asked = Self::default();
        let query = request.path.split_once('?').map_or("", |(_, query)| query).as_bytes();
        let text = if request.method == Method::POST { &request.body[..] } else { query };
        for (key, value) in url::form_urlencoded::parse(text) {
            match &*key {
                "username" => asked.user = Some(value.into_owned()),
                "password" | "refresh_token" => asked.password = Some(value.into_owned()),
                "scope" => asked.scopes.extend(value.split(' ').map(str::to_owned)),
                _ => {}
            }
        }
        let basic =
            request.authorization().and_then(|text| STANDARD.decode(text.strip_prefix("Basic ")?).ok());
        if let Some((user, password)) =
            basic.and_then(|pair| Some(String::from_utf8(pair).ok()?.split_once(':')?.to_owned_pair()))
        {
            asked.user = Some(user);
            asked.password = Some(password);
        }
        asked
    }
}

trait Pair {
    fn to_owned_pair(&self) -> (String, String);
}

impl Pair for (&str, &str) {
    fn to_owned_pair(&self) -> (String, String) {
        (self.0.to_owned(), self.1.to_owned())
    }
}

/// Makes tokens that the registry believes.
struct Signer {
    key: EcdsaKeyPair,
    /// The certificate of the key, as it stands in a token.
    certificate: String,
}

impl Signer {
    fn new(authority: &Authority) -> Result<Self, BoxError> {
        let certificate = authority.sign(&["tokens.test"])?;
        let chain = CertificateDer::from_pem_slice(certificate.cert.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes())?;
        let random = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der(), &random);
        Ok(Self { key: key.map_err(|error| error.to_string())?, certificate: STANDARD.encode(&chain) })
    }

    fn answer(&self, request: &Received, users: &Users) -> Answer {
        let asked = Asked::read(request);
        let own = match (&asked.user, &asked.password) {
            (None, None) => "",
            (Some(user), Some(password)) => match users.get(user.as_str()) {
                Some((known, own)) if known == password => own,
                _ => return Answer::status(401),
            },
            _ => return Answer::status(401),
        };
        let access: Vec<_> = asked
            .scopes
            .iter()
            .filter_map(|scope| {
                let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
                let allowed = !own.is_empty() && name.starts_with(own);
                let actions: Vec<_> = actions.split(',').filter(|_| allowed).collect();
                Some(json!({"type": "repository", "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let claims = json!({
            "iss": ISSUER, "sub": asked.user.unwrap_or_default(), "aud": SERVICE,
            "iat": now, "nbf": now.saturating_sub(10), "exp": now + 300,
            "jti": request.count.to_string(), "access": access,
        });
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        match self.key.sign(&ring::rand::SystemRandom::new(), text.as_bytes()) {
            Ok(signature) => {
                let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
                Answer::json(&json!({"access_token": token, "token": token, "expires_in": 300}))
            }
            Err(_) => Answer::status(500),
        }
    }
}
