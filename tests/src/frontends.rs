//! What tests of frontends need: their images, a gateway of the real BuildKit, and who still runs.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use buildkit_client::{Client, Error};
use buildkit_frontend::{BuildResult, Gateway};

use crate::daemon::Daemon;

/// The frontends that are made into images.
const NAMES: [&str; 5] = ["dockerfile", "include", "package", "ping", "unruly"];

/// The image of a frontend of `examples/`, such as `ping`. All are made and pushed when the first is
/// asked for.
///
/// # Panics
/// When they cannot be made.
pub fn image(daemon: &Daemon, name: &str) -> String {
    static MADE: OnceLock<()> = OnceLock::new();
    let prefix = format!("{}/frontends", daemon.registries.mirror.address);
    MADE.get_or_init(|| {
        let started = Instant::now();
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["run", "--quiet", "--package", "xtask", "--", "frontend-image"])
            .args(NAMES)
            .args(["--prefix", &prefix, "--addr", &daemon.endpoint])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "the frontend images could not be made");
        println!("the frontend images took {} s", started.elapsed().as_secs());
    });
    format!("{prefix}/{name}-frontend:latest")
}

/// A client of the daemon.
///
/// # Panics
/// When the daemon cannot be reached.
pub async fn client(daemon: &Daemon) -> Client {
    match Client::connect(&daemon.endpoint).await {
        Ok(client) => client,
        Err(error) => panic!("{}", error.report()),
    }
}

/// Drives a build on the daemon with a function, and hands out what the function returns.
///
/// # Errors
/// Those of the build, among them that of the function.
pub async fn with_gateway<T, F, Fut>(daemon: &Daemon, function: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Fn(Gateway) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = buildkit_frontend::Result<T>> + Send + 'static,
{
    let slot = Arc::new(Mutex::new(None));
    let (keep, function) = (Arc::clone(&slot), Arc::new(function));
    let build = move |gateway: Gateway| {
        let (keep, function) = (Arc::clone(&keep), Arc::clone(&function));
        async move {
            let value = function(gateway).await?;
            *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok::<_, buildkit_frontend::Error>(BuildResult::default())
        }
    };
    client(daemon).await.build(build).await?;
    let value = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    value.ok_or(Error::Canceled)
}

/// A text that no other process has in its arguments or environment: the mark of what a test starts.
pub fn mark(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The processes of this machine with `mark` in their arguments or environment, except this one. The
/// daemons that are provisioned for tests run here, and so do their steps.
pub fn marked(mark: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let holds = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own)
        .filter_map(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let arguments = read("cmdline");
            // What has ended and is not yet waited for has neither.
            (holds(&arguments) || holds(&read("environ")))
                .then(|| format!("{pid}: {}", String::from_utf8_lossy(&arguments).replace('\0', " ")))
        })
        .collect()
}

/// Waits until a marked process runs. `false`, after telling so, where the daemon is not on this
/// machine: then there is nothing to look at.
///
/// # Panics
/// When none runs within a minute.
pub async fn runs(daemon: &Daemon, mark: &str) -> bool {
    if daemon.docker_socket.is_none() {
        println!("SKIPPED: the processes of a daemon that is elsewhere cannot be looked at");
        return false;
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while marked(mark).is_empty() {
        assert!(Instant::now() < limit, "nothing with the mark {mark} was started");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Waits until no marked process runs.
///
/// # Panics
/// When one still runs after 30 s.
pub async fn nothing_runs(mark: &str) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "left running: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
