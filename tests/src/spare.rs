//! A daemon that a test may freeze and kill: nobody else uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use buildkit_client::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Enters the daemon's system, in namespaces of its own: what is mounted goes with the process.
const ENTER: &str = r#"
    root=$1; dir=$2
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root/instance" "$root/etc/docker"
    mount --bind "$dir" "$root/instance"
    mount --bind "$dir/etc" "$root/etc/docker"
    exec chroot "$root" dockerd
"#;

/// A dockerd of its own, in the system of a provisioned one; it ends when dropped.
#[derive(Debug)]
pub struct SpareDaemon {
    rootfs: PathBuf,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl SpareDaemon {
    /// Starts it. `None`, after telling why, where the daemon's system is not ours to start another one in.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(daemon: &Daemon) -> Result<Option<Self>, BoxError> {
        let Some(rootfs) = daemon.rootfs.clone() else {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "SKIPPED: there is no dockerd to start");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let config = serde_json::json!({
            "features": {"buildkit": true, "containerd-snapshotter": true},
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "registry-mirrors": [format!("http://{}", daemon.registries.mirror.address)],
            "data-root": "/instance/data",
            "exec-root": "/run/docker",
            "hosts": ["unix:///instance/docker.sock"],
            "pidfile": "/run/docker.pid",
        });
        std::fs::create_dir(dir.path().join("etc"))?;
        std::fs::write(dir.path().join("etc/daemon.json"), config.to_string())?;
        let mut this = Self { rootfs, dir, process: None };
        this.restart().await?;
        Ok(Some(this))
    }

    /// Kills it if it runs, and starts it again with what it had on disk.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<(), BoxError> {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]);
        command.args(["sh", "-euc", ENTER, "sh"]).arg(&self.rootfs).arg(self.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn()?);
        let client = self.client();
        let started = Instant::now();
        while let Err(error) = client.daemon().await {
            let ended = self.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || started.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                return Err(format!("the spare daemon did not start: {}: {tail:?}", error.report()).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("docker://unix://{}", self.socket().display())
    }

    /// A client that connects when it is used.
    ///
    /// # Panics
    /// Never: the address is one.
    pub fn client(&self) -> Client {
        Client::builder(self.endpoint()).lazy().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops every process of the daemon and of its builds, as a machine that swaps or sleeps would.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills all of it at once.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Signals all descendants.
    fn signal(&self, signal: Signal) {
        let Some(root) = self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok()) else {
            return;
        };
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
            children.entry(parent.unwrap_or_default()).or_default().push(pid);
        }
        let mut waiting = children.remove(&root).unwrap_or_default();
        while let Some(pid) = waiting.pop() {
            waiting.extend(children.remove(&pid).unwrap_or_default());
            if let Some(pid) = Pid::from_raw(pid) {
                // It may have ended by itself.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

impl Drop for SpareDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}
