//! The real BuildKit that `cargo xtask buildkit up` provisions, as a test sees it.
//!
//! A test starts with
//!
//! ```no_run
//! use buildkit_tests::daemon::{Daemon, Generation};
//!
//! let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
//! ```
//!
//! Where there is no daemon the test ends there, and says so: on standard error, past the capture of
//! the test harness, and in the report that `cargo xtask test` counts. Under `cargo xtask test` a
//! daemon is required, and its absence fails the test.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::Location;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Which BuildKit a test wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// The newest, in the dockerd of Debian unstable; `BUILDKIT_HOST` takes its place where set.
    Sid,
    /// Docker Engine 26.
    Trixie,
    /// Docker Engine 20.10 with BuildKit 0.8: no image exporter, no registry push.
    Bookworm,
}

impl Generation {
    fn suite(self) -> &'static str {
        match self {
            Generation::Sid => "sid",
            Generation::Trixie => "trixie",
            Generation::Bookworm => "bookworm",
        }
    }
}

/// A BuildKit that runs, with the registries it can reach.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The control API, usually over TCP: what `BUILDKIT_HOST` would hold.
    pub endpoint: String,
    /// The same daemon as `docker://unix://…`, where it is an engine that we provisioned.
    pub docker_endpoint: Option<String>,
    /// That engine's socket.
    pub docker_socket: Option<PathBuf>,
    /// The engine's version, or `unknown`.
    pub engine: String,
    /// The registries.
    pub registries: Registries,
    /// The system it runs in, where we provisioned it: programs such as `docker-registry` are there.
    pub rootfs: Option<PathBuf>,
}

/// The registries on loopback.
#[derive(Clone, Debug, Deserialize)]
pub struct Registries {
    /// Open to everyone, mirror of Docker Hub for our daemons: `FROM alpine` comes from here.
    pub mirror: Registry,
    /// Asks for user and password.
    pub private: Registry,
    /// TLS with an authority of its own.
    pub tls: Registry,
}

/// One registry.
#[derive(Clone, Debug, Deserialize)]
pub struct Registry {
    /// Host and port.
    pub address: String,
    /// Who may use it; everyone if absent.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// The authority of its certificate, where it speaks TLS.
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    daemons: BTreeMap<String, Recorded>,
    registries: Option<Registries>,
}

#[derive(Debug, Deserialize)]
struct Recorded {
    endpoint: String,
    docker_endpoint: String,
    docker_socket: PathBuf,
    engine: String,
    #[serde(default)]
    rootfs: Option<PathBuf>,
}

impl Daemon {
    /// The daemon of a generation; `None`, after telling why, where there is none.
    ///
    /// # Panics
    /// Where `cargo xtask test` has promised a daemon and there is none.
    #[track_caller]
    pub fn or_skip(generation: Generation) -> Option<Self> {
        Self::or_skip_without(generation, "", |_| Some(())).map(|(daemon, ())| daemon)
    }

    /// As [`Daemon::or_skip`], for tests that need more of a daemon than each has: without what `pick` picks the test
    /// counts as skipped, too, because the daemon has no `what`.
    ///
    /// # Panics
    /// As [`Daemon::or_skip`].
    #[track_caller]
    pub fn or_skip_without<T>(
        generation: Generation,
        what: &str,
        pick: impl FnOnce(&Self) -> Option<T>,
    ) -> Option<(Self, T)> {
        crate::canary::watch();
        // Not in a closure: that would be the caller.
        let caller = Location::caller();
        let test = std::thread::current().name().filter(|name| *name != "main").map(str::to_owned);
        let test = test.unwrap_or_else(|| caller.to_string());
        let found = match std::env::var("BUILDKIT_TESTS_NO_DAEMON") {
            Ok(reason) => Err(reason),
            Err(_) => Daemon::find(generation),
        };
        match found {
            Ok(daemon) => {
                let Some(picked) = pick(&daemon) else {
                    report("skipped", &test, &format!("the daemon has no {what}"));
                    return None;
                };
                report("ran", &test, generation.suite());
                Some((daemon, picked))
            }
            Err(reason) => {
                let required = std::env::var("BUILDKIT_TESTS_REQUIRED").unwrap_or_default();
                assert!(
                    !required.split(',').any(|suite| suite == generation.suite()),
                    "no BuildKit of Debian {}: {reason}",
                    generation.suite()
                );
                report("skipped", &test, &reason);
                None
            }
        }
    }

    /// A client of it.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn client(&self) -> buildkit_client::Client {
        let client = buildkit_client::Client::connect(self.endpoint.as_str()).await;
        client.unwrap_or_else(|error| panic!("{}", error.report()))
    }

    fn find(generation: Generation) -> Result<Self, String> {
        let path = state_path();
        let state: State = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?,
            Err(_) => State::default(),
        };
        let missing = || {
            let suite = generation.suite();
            format!("not provisioned (`cargo xtask buildkit up --generation {suite}` does)")
        };
        let registries = state.registries.ok_or_else(missing)?;
        if generation == Generation::Sid
            && let Ok(endpoint) = std::env::var("BUILDKIT_HOST")
        {
            return Ok(Self {
                endpoint,
                docker_endpoint: None,
                docker_socket: None,
                engine: "unknown".to_owned(),
                registries,
                rootfs: None,
            });
        }
        let found = state.daemons.get(generation.suite()).ok_or_else(missing)?;
        Ok(Self {
            endpoint: found.endpoint.clone(),
            docker_endpoint: Some(found.docker_endpoint.clone()),
            docker_socket: Some(found.docker_socket.clone()),
            engine: found.engine.clone(),
            registries,
            rootfs: found.rootfs.clone(),
        })
    }
}

impl Registry {
    /// A repository that no other test uses: `host:port/<name>-<process>-<counter>`.
    pub fn repository(&self, name: &str) -> String {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        format!("{}/{name}-{}-{count}", self.address, std::process::id())
    }

    /// Writes a `config.json` with this registry's credentials into a folder (for `DOCKER_CONFIG`).
    pub fn docker_config(&self, dir: &Path) -> std::io::Result<()> {
        let mut auths = serde_json::Map::new();
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            use base64::Engine as _;
            let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            auths.insert(self.address.clone(), serde_json::json!({"auth": auth}));
        }
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("config.json"), serde_json::json!({"auths": auths}).to_string())
    }

    /// Fetches a manifest by tag or digest. Returns its digest, as the registry says, and its bytes.
    ///
    /// # Errors
    /// When the registry cannot be reached, or answers anything but 200. Only for registries without TLS.
    pub async fn manifest(&self, name: &str, tag: &str) -> Result<(String, Vec<u8>), String> {
        const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
            application/vnd.oci.image.manifest.v1+json, \
            application/vnd.docker.distribution.manifest.list.v2+json, \
            application/vnd.docker.distribution.manifest.v2+json";
        let (headers, body) = self.get(&format!("/v2/{name}/manifests/{tag}"), ACCEPT).await?;
        let digest = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok((digest.unwrap_or_default().to_owned(), body))
    }

    /// Fetches a blob.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub async fn blob(&self, name: &str, digest: &str) -> Result<Vec<u8>, String> {
        Ok(self.get(&format!("/v2/{name}/blobs/{digest}"), "*/*").await?.1)
    }

    async fn get(&self, path: &str, accept: &str) -> Result<(http::HeaderMap, Vec<u8>), String> {
        use base64::Engine as _;
        use http_body_util::BodyExt as _;
        let stream = tokio::net::TcpStream::connect(&self.address).await.map_err(|e| e.to_string())?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let mut request = http::Request::get(path).header("host", &self.address).header("accept", accept);
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request = request.header("authorization", format!("Basic {pair}"));
        }
        let request =
            request.body(http_body_util::Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
        let answer = send.send_request(request).await.map_err(|e| e.to_string())?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes().to_vec();
        if head.status != http::StatusCode::OK {
            return Err(format!("{path}: {}: {}", head.status, String::from_utf8_lossy(&body)));
        }
        Ok((head.headers, body))
    }
}

fn state_path() -> PathBuf {
    if let Some(path) = std::env::var_os("BUILDKIT_TESTS_STATE") {
        return PathBuf::from(path);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("buildkit-tests.json")
}

/// Tells what became of a daemon test: to whoever looks, and to the file that `xtask test` reads.
fn report(outcome: &str, test: &str, detail: &str) {
    if outcome == "skipped" {
        // `eprintln!` would be captured and never seen when the test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {detail}");
    }
    if let Some(path) = std::env::var_os("BUILDKIT_TESTS_REPORT")
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = file.write_all(format!("{outcome}\t{test}\t{}\n", detail.replace('\n', " ")).as_bytes());
    }
}
