//! Background processes: started apart from us, recognised later, and ended for certain.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::fail::{Context as _, Result};

/// A process that we started. Its start time tells it from another that got its number later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pid: i32,
    started: u64,
}

/// A folder of the host that a jailed process sees at a path of its own.
pub(crate) struct Bind {
    pub(crate) host: PathBuf,
    pub(crate) inside: &'static str,
}

impl Process {
    /// Starts a command in a process group of its own, with its output in a log file.
    pub(crate) fn spawn(command: &mut Command, stdin: Stdio, log: &Path) -> Result<Self> {
        let out = File::create(log).context(log.display())?;
        let err = out.try_clone().context(log.display())?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .context(program.as_str())?;
        let pid = i32::try_from(child.id()).context("a process number")?;
        let (_, started) = stat(pid).context(format!("{program} ended at once"))?;
        Ok(Self { pid, started })
    }

    /// Starts a shell script in a root of its own, with mount and process namespaces of its own: the
    /// end of the process returned here ends all of them and takes the mounts along.
    ///
    /// Its root is that of its mount namespace, not a chroot: what joins the namespace of one of a
    /// daemon's containers would find itself outside of the chroot.
    pub(crate) fn jail(rootfs: &Path, binds: &[Bind], script: &str, log: &Path) -> Result<Self> {
        const ENTER: &str = r#"
            root=$1; script=$2; shift 2
            mount --bind "$root" "$root"
            mount -t proc proc "$root/proc"
            mount --rbind /sys "$root/sys"
            mount --rbind /dev "$root/dev"
            mount -t tmpfs tmpfs "$root/run"
            mount -t tmpfs tmpfs "$root/tmp"
            while [ $# -gt 0 ]; do
                mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2
            done
            cd "$root"
            pivot_root . mnt
            exec chroot . sh -euc 'busybox umount -l /mnt; exec sh -c "$1"' sh "$script"
        "#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"]);
        command.args(["sh", "-euc", ENTER, "sh"]).arg(rootfs).arg(script);
        for bind in binds {
            std::fs::create_dir_all(&bind.host).context(bind.host.display())?;
            command.arg(&bind.host).arg(bind.inside);
        }
        Process::spawn(&mut command, Stdio::null(), log)
    }

    /// Whether it still runs.
    pub(crate) fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state != 'Z' && started == self.started)
    }

    /// Asks its children to end (ours are `unshare`, which itself does not listen), waits a little, then
    /// ends it by force.
    pub(crate) fn stop(&self, patience: Duration) {
        if !self.alive() {
            return;
        }
        for child in children(self.pid) {
            signal(child, Signal::TERM);
        }
        if children(self.pid).is_empty() {
            signal(self.pid, Signal::TERM);
        }
        if !self.gone_within(patience) {
            signal(self.pid, Signal::KILL);
            self.gone_within(Duration::from_secs(5));
        }
    }

    fn gone_within(&self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.alive() {
            if start.elapsed() > patience {
                return false;
            }
            sleep(Duration::from_millis(50));
        }
        true
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself in the meantime.
        let _ = kill_process(pid, signal);
    }
}

fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}
