//! Registries on loopback: a mirror of the base images, one that asks for a password, one with TLS.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::http::{Request, over_tcp};
use super::process::{Bind, Process};
use super::provision::tail;
use super::seed::{self, BASE_IMAGES};
use super::state::cache_dir;
use crate::fail::{Context as _, Result};
use crate::workspace::output;

const USER: &str = "builder";
/// User and password in the form that HTTP and Docker's config want.
const BASIC: &str = "YnVpbGRlcjpvbmx5LW9uLWxvb3BiYWNrLTdmM2E=";
/// What no output of the tests may ever hold.
pub(crate) const PASSWORD: &str = "only-on-loopback-7f3a";
/// The line of an htpasswd file for the user and password above.
const HTPASSWD: &str = "builder:$2y$05$HWupUsTcPY5x6qkh.aAnmOKn7ZI9k5dpqp2fx11PwbWJwzsM3a0hi\n";

/// The registries of the tests.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registries {
    /// Open to everyone; the daemons' mirror of Docker Hub. Holds [`BASE_IMAGES`].
    pub(crate) mirror: Registry,
    /// Asks for user and password for everything.
    pub(crate) private: Registry,
    /// Open to everyone, over TLS only.
    pub(crate) tls: Registry,
    /// The images that `mirror` holds.
    pub(crate) base_images: Vec<String>,
}

/// One registry.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registry {
    /// Host and port.
    pub(crate) address: String,
    /// Who may use it; everyone if absent.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// The certificate authority of its certificate, where it speaks TLS.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) log: PathBuf,
    pub(crate) process: Process,
}

impl Registries {
    /// Each with its name.
    pub(crate) fn named(&self) -> [(&'static str, &Registry); 3] {
        [("mirror", &self.mirror), ("private", &self.private), ("tls", &self.tls)]
    }

    /// Whether all of them run.
    pub(crate) fn alive(&self) -> bool {
        self.named().iter().all(|(_, registry)| registry.process.alive())
    }

    /// Ends all of them.
    pub(crate) fn stop(&self) {
        for (_, registry) in self.named() {
            registry.process.stop(Duration::from_secs(2));
        }
    }
}

impl Registry {
    /// A `config.json` with the credentials for it.
    pub(crate) fn docker_config(&self) -> String {
        let mut auths = serde_json::Map::new();
        if self.user.is_some() {
            auths.insert(self.address.clone(), serde_json::json!({"auth": BASIC}));
        }
        serde_json::json!({"auths": auths}).to_string()
    }

    /// Fetches a manifest: its digest as the registry says, and its text.
    pub(crate) fn manifest(&self, name: &str, tag: &str) -> Result<(String, String)> {
        let authorization = format!("Basic {BASIC}");
        let mut headers = vec![(
            "Accept",
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
             application/vnd.docker.distribution.manifest.v2+json",
        )];
        if self.user.is_some() {
            headers.push(("Authorization", &authorization));
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        let (host, headers) = (self.address.as_str(), headers.as_slice());
        let request = Request { method: "GET", path: &path, host, headers, ..Request::default() };
        let answer = over_tcp(&request)?.expect(200).context(&path)?;
        let digest = answer.header("Docker-Content-Digest").unwrap_or_default().to_owned();
        Ok((digest, String::from_utf8_lossy(&answer.body).into_owned()))
    }
}

/// Starts the registries, empty but for the base images.
pub(crate) fn start(rootfs: &Path) -> Result<Registries> {
    let dir = cache_dir().join("registries");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).context(dir.display())?;
    }
    let mirror = serve(rootfs, &dir.join("mirror"), "", "")?;
    for image in BASE_IMAGES {
        seed::push(rootfs, &mirror.address, image)?;
    }

    let private = dir.join("private");
    std::fs::create_dir_all(&private).context(private.display())?;
    std::fs::write(private.join("htpasswd"), HTPASSWD).context(private.display())?;
    let auth = "auth: {htpasswd: {realm: tests, path: /instance/htpasswd}}\n";
    let mut private = serve(rootfs, &private, "", auth)?;
    private.user = Some(USER.to_owned());
    private.password = Some(PASSWORD.to_owned());

    let tls = dir.join("tls");
    certificate(rootfs, &tls)?;
    let ca = tls.join("ca.pem");
    let files = ", tls: {certificate: /instance/tls.pem, key: /instance/tls.key}";
    let mut tls = serve(rootfs, &tls, files, "")?;
    tls.ca = Some(ca);
    let base_images = BASE_IMAGES.iter().map(|image| (*image).to_owned()).collect();
    Ok(Registries { mirror, private, tls, base_images })
}

fn serve(rootfs: &Path, dir: &Path, http: &str, more: &str) -> Result<Registry> {
    std::fs::create_dir_all(dir).context(dir.display())?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = port.context("a TCP port for a registry")?.to_string();
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\n\
         storage: {{filesystem: {{rootdirectory: /instance/data}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"{address}\"{http}}}\n{more}"
    );
    std::fs::write(dir.join("config.yml"), config).context(dir.display())?;
    let log = dir.join("log");
    let binds = [Bind { host: dir.to_path_buf(), inside: "/instance" }];
    let process = Process::jail(rootfs, &binds, "exec docker-registry serve /instance/config.yml", &log)?;
    let start = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        if !process.alive() || start.elapsed() > Duration::from_secs(20) {
            process.stop(Duration::ZERO);
            return Err(format!("the registry did not start; {}", tail(&log)));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(Registry { address, user: None, password: None, ca: None, log, process })
}

/// Makes `ca.pem`, `tls.pem` and `tls.key` for a server on loopback.
fn certificate(rootfs: &Path, dir: &Path) -> Result {
    const SCRIPT: &str = r#"
        new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl req -x509 $new -keyout ca.key -out ca.pem -days 3650 -subj "/CN=tests' own authority"
        openssl req $new -keyout tls.key -out tls.csr -subj /CN=localhost
        echo "subjectAltName=DNS:localhost,IP:127.0.0.1" > names
        openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tls.pem -days 3650 -extfile names
    "#;
    // Made inside the system, which has openssl, and moved to where the registry is.
    let inside = rootfs.join("root/certificate");
    std::fs::create_dir_all(&inside).context(inside.display())?;
    std::fs::create_dir_all(dir).context(dir.display())?;
    output(Command::new("chroot").arg(rootfs).args([
        "sh",
        "-euc",
        &format!("cd /root/certificate; {SCRIPT}"),
    ]))?;
    for file in ["ca.pem", "tls.pem", "tls.key"] {
        std::fs::copy(inside.join(file), dir.join(file)).context(file)?;
    }
    std::fs::remove_dir_all(&inside).context(inside.display())
}
