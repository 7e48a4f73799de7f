//! Debian systems in a folder: bootstrapped once, kept, never changed afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::daemon::Generation;
use super::state::cache_dir;
use crate::fail::{Context as _, Result};
use crate::workspace::{installed, output, show};

/// What every system holds besides Debian's minimal base.
const PACKAGES: &[&str] = &["busybox-static", "ca-certificates", "docker.io", "git", "iptables"];

/// The root folder of a generation's system, bootstrapped if it is not there.
pub(crate) fn rootfs(generation: Generation) -> Result<PathBuf> {
    let mut packages = PACKAGES.to_vec();
    if generation == Generation::Sid {
        packages.push("docker-registry");
    }
    let packages = packages.join(",");
    let root = cache_dir().join("rootfs").join(generation.suite());
    let stamp = root.join("etc/buildkit-tests-packages");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == packages) {
        return Ok(root);
    }
    if !rustix::process::getuid().is_root() {
        return Err("provisioning a BuildKit needs root (it makes a Debian system in a folder and mounts); \
                    set BUILDKIT_HOST to use a daemon that already runs"
            .into());
    }
    bootstrap(generation.suite(), &packages, &root)?;
    std::fs::write(&stamp, packages).context(stamp.display())?;
    Ok(root)
}

fn bootstrap(suite: &str, packages: &str, root: &Path) -> Result {
    if !installed("debootstrap") {
        if !installed("apt-get") {
            return Err(
                "debootstrap is needed to provision a BuildKit, and there is no apt-get to install it".into(),
            );
        }
        println!("installing debootstrap");
        output(Command::new("apt-get").args(["-qq", "update"]))?;
        output(
            Command::new("apt-get")
                .args(["-qq", "install", "--yes", "--no-install-recommends", "debootstrap"])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )?;
    }
    let start = Instant::now();
    println!("bootstrapping Debian {suite} (a minute or so)");
    if root.exists() {
        std::fs::remove_dir_all(root).context(root.display())?;
    }
    let fresh = root.with_extension("partial");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).context(fresh.display())?;
    }
    std::fs::create_dir_all(&fresh).context(fresh.display())?;
    let log = root.with_extension("log");
    let out = std::fs::File::create(&log).context(log.display())?;
    let err = out.try_clone().context(log.display())?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase").arg(format!("--include={packages}")).arg(suite).arg(&fresh);
    debootstrap.args(mirror()).stdout(out).stderr(err);
    show(&mut debootstrap).map_err(|error| format!("{error}\n{}", tail(&log)))?;
    std::fs::rename(&fresh, root).context(root.display())?;
    println!("bootstrapped Debian {suite} in {} s", start.elapsed().as_secs());
    Ok(())
}

/// The mirror that this machine's own package manager uses, if it is a Debian one.
fn mirror() -> Option<String> {
    let mut list = Command::new("apt-get");
    list.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let list = output(&mut list).ok()?;
    list.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(20);
    format!("the end of {}:\n{}", log.display(), lines.get(last..).unwrap_or_default().join("\n"))
}
