//! What runs and where: a JSON file that the commands keep and the tests read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::daemon::Daemon;
use super::registry::Registries;
use crate::fail::{Context as _, Result};
use crate::workspace;

/// Everything that `buildkit up` has started.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Daemons by the name of their Debian suite.
    #[serde(default)]
    pub(crate) daemons: BTreeMap<String, Daemon>,
    /// The registries, where they run.
    #[serde(default)]
    pub(crate) registries: Option<Registries>,
}

impl State {
    /// Reads the state; an absent file is an empty state.
    pub(crate) fn load() -> Result<Self> {
        let path = State::path();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).context(path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(error).context(path.display()),
        }
    }

    /// Writes the state, and makes it reachable from this workspace's target directory.
    pub(crate) fn store(&self) -> Result {
        let path = State::path();
        let next = path.with_extension("json.next");
        let text = serde_json::to_vec_pretty(self).context("the state as JSON")?;
        std::fs::write(&next, text).context(next.display())?;
        std::fs::rename(&next, &path).context(path.display())
    }

    /// Lets the tests of this workspace find the state without an environment variable.
    pub(crate) fn link() -> Result {
        let link = workspace::target().join("buildkit-tests.json");
        std::fs::create_dir_all(workspace::target()).context("the target directory")?;
        if std::fs::read_link(&link).ok().as_deref() != Some(&State::path()) {
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(State::path(), &link).context(link.display())?;
        }
        Ok(())
    }

    /// The file that holds the state.
    pub(crate) fn path() -> PathBuf {
        cache_dir().join("state.json")
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suite, daemon) in &self.daemons {
            let alive = if daemon.alive() { "runs" } else { "has died" };
            writeln!(f, "{suite}: Docker Engine {} {alive}", daemon.engine)?;
            writeln!(f, "    BUILDKIT_HOST={}", daemon.endpoint)?;
            writeln!(f, "    BUILDKIT_HOST={}", daemon.docker_endpoint)?;
            writeln!(f, "    log {}", daemon.log.display())?;
        }
        if let Some(registries) = &self.registries {
            for (name, registry) in registries.named() {
                let alive = if registry.process.alive() { "runs" } else { "has died" };
                write!(f, "registry ({name}): {} {alive}", registry.address)?;
                if let Some(user) = &registry.user {
                    write!(f, ", user {user}")?;
                }
                if let Some(ca) = &registry.ca {
                    write!(f, ", CA {}", ca.display())?;
                }
                writeln!(f)?;
            }
        }
        if self.daemons.is_empty() && self.registries.is_none() {
            writeln!(f, "nothing runs; `cargo xtask buildkit up` starts it")?;
        }
        Ok(())
    }
}

/// Where bootstrapped systems and running instances are kept between runs:
/// `BUILDKIT_TESTS_CACHE`, else `buildkit-tests` below `XDG_CACHE_HOME`, else below `/var/cache`.
pub(crate) fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("BUILDKIT_TESTS_CACHE") {
        return PathBuf::from(dir);
    }
    let parent =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from("/var/cache"), PathBuf::from);
    parent.join("buildkit-tests")
}

/// Keeps two commands from provisioning or starting the same things at once.
pub(crate) fn lock() -> Result<File> {
    let dir = cache_dir();
    std::fs::create_dir_all(&dir).context(format!(
        "cannot make {} (root is needed; BUILDKIT_TESTS_CACHE names another place)",
        dir.display()
    ))?;
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).context(path.display())?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).context(path.display())?;
    State::link()?;
    Ok(file)
}
