//! A generation of BuildKit: the dockerd of a Debian suite.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bridge;
use super::http::{Request, over_unix};
use super::process::{Bind, Process};
use super::provision::tail;
use super::registry::Registries;
use super::state::cache_dir;
use crate::fail::{Context as _, Result};
use crate::workspace::output;

/// Which dockerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Generation {
    /// Debian unstable: the newest
    Sid,
    /// Debian 13: Docker Engine 26
    Trixie,
    /// Debian 12: Docker Engine 20.10, BuildKit 0.8
    Bookworm,
}

impl Generation {
    /// The name of the Debian suite.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            Generation::Sid => "sid",
            Generation::Trixie => "trixie",
            Generation::Bookworm => "bookworm",
        }
    }
}

/// A daemon that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Daemon {
    /// BuildKit's control API over TCP (`tcp://`).
    pub(crate) endpoint: String,
    /// The engine as an endpoint (`docker://unix://…`).
    pub(crate) docker_endpoint: String,
    /// The engine's socket.
    pub(crate) docker_socket: PathBuf,
    /// The engine's version.
    pub(crate) engine: String,
    pub(crate) log: PathBuf,
    pub(crate) process: Process,
    pub(crate) bridge: Process,
    /// The root folder of its system.
    pub(crate) rootfs: PathBuf,
    /// The network bridge of its build steps.
    pub(crate) network: String,
}

impl Daemon {
    /// Whether both the daemon and its TCP port are there.
    pub(crate) fn alive(&self) -> bool {
        self.process.alive() && self.bridge.alive()
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.bridge.stop(Duration::from_secs(2));
        self.process.stop(Duration::from_secs(10));
        // Best effort: a bridge left behind is only a number less.
        let busybox = || Command::new(self.rootfs.join("bin/busybox"));
        let _ = output(busybox().args(["ip", "link", "set", &self.network, "down"]));
        let _ = output(busybox().args(["brctl", "delbr", &self.network]));
    }
}

/// Starts a daemon with no state from earlier runs.
pub(crate) fn start(generation: Generation, rootfs: &Path, registries: &Registries) -> Result<Daemon> {
    let dir = cache_dir().join("daemons").join(generation.suite());
    if dir.exists() {
        std::fs::remove_dir_all(&dir).context(dir.display())?;
    }
    let etc = dir.join("etc");
    std::fs::create_dir_all(&etc).context(etc.display())?;
    let (network, subnet) = free_network();
    let config = serde_json::json!({
        "features": {"buildkit": true, "containerd-snapshotter": true},
        "bridge": network,
        "iptables": false,
        "ip6tables": false,
        "registry-mirrors": [format!("http://{}", registries.mirror.address)],
        "data-root": "/instance/data",
        "exec-root": "/run/docker",
        "hosts": ["unix:///instance/docker.sock"],
        "pidfile": "/run/docker.pid",
        "builder": {"gc": {"enabled": true, "defaultKeepStorage": "4GB"}},
    });
    let config = serde_json::to_vec_pretty(&config).context("the daemon's config")?;
    std::fs::write(etc.join("daemon.json"), config).context(etc.display())?;
    if let Some(ca) = &registries.tls.ca {
        let certs = etc.join("certs.d").join(&registries.tls.address);
        std::fs::create_dir_all(&certs).context(certs.display())?;
        std::fs::copy(ca, certs.join("ca.crt")).context(certs.display())?;
    }
    // Without a bridge steps have no network, but they still run.
    let script = format!(
        r"
        busybox brctl addbr {network} && busybox ip addr add {subnet} dev {network} &&
            busybox ip link set {network} up || sed -i s/{network}/none/ /etc/docker/daemon.json
        trap 'kill -TERM $daemon' TERM
        dockerd & daemon=$!
        wait $daemon; wait $daemon
        "
    );
    let log = dir.join("log");
    let binds = [Bind { host: dir.clone(), inside: "/instance" }, Bind { host: etc, inside: "/etc/docker" }];
    let docker_socket = dir.join("docker.sock");
    let process = Process::jail(rootfs, &binds, &script, &log)?;
    let engine = match wait(&docker_socket, &process) {
        Ok(engine) => engine,
        Err(error) => {
            process.stop(Duration::ZERO);
            return Err(format!(
                "the daemon of Debian {} did not start: {error}; {}",
                generation.suite(),
                tail(&log)
            ));
        }
    };
    let (address, bridge) = bridge::start(&docker_socket, &dir.join("bridge.log"))?;
    let docker_endpoint = format!("docker://unix://{}", docker_socket.display());
    Ok(Daemon {
        endpoint: format!("tcp://{address}"),
        docker_endpoint,
        docker_socket,
        engine,
        log,
        process,
        bridge,
        rootfs: rootfs.to_path_buf(),
        network,
    })
}

/// A network bridge for build steps that no daemon has yet, whoever's it is, and its addresses.
fn free_network() -> (String, String) {
    let taken = |name: &str| Path::new("/sys/class/net").join(name).exists();
    let number = (1..250).find(|number| !taken(&format!("bktest{number}"))).unwrap_or(250);
    (format!("bktest{number}"), format!("10.213.{number}.1/24"))
}

/// Waits until the engine answers; returns its version.
fn wait(socket: &Path, daemon: &Process) -> Result<String> {
    let start = Instant::now();
    loop {
        let version = Request { method: "GET", path: "/version", host: "docker", ..Request::default() };
        match over_unix(socket, &version).and_then(|answer| answer.expect(200)) {
            Ok(answer) => {
                let value: serde_json::Value = serde_json::from_slice(&answer.body).context("its version")?;
                return Ok(value["Version"].as_str().unwrap_or("unknown").to_owned());
            }
            Err(error) if !daemon.alive() => return Err(format!("it has ended ({error})")),
            Err(error) if start.elapsed() > Duration::from_secs(90) => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)),
        }
    }
}
