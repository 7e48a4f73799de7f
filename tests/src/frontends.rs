//! What tests of frontends need: their images, a gateway of the real BuildKit, and who still runs.

#[path = "../../examples/frontend-image/image.rs"]
mod frontend_image;

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use buildkit_client::{Client, Error};
use buildkit_frontend::{BuildResult, Gateway};
use buildkit_llb::Platform;

use self::frontend_image::{CAPS, FrontendImage};
use crate::daemon::Daemon;

/// The frontends that are made into images.
const NAMES: [&str; 5] = ["dockerfile", "include", "package", "ping", "unruly"];

/// The image of a frontend of `examples/`, such as `ping`. All are made and pushed when the first is
/// asked for.
///
/// # Panics
/// When they cannot be made.
pub async fn image(daemon: &Daemon, name: &str) -> String {
    static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let prefix = format!("{}/frontends", daemon.registries.mirror.address);
    MADE.get_or_init(|| make(daemon, &prefix)).await;
    format!("{prefix}/{name}-frontend:latest")
}

/// Makes the images: the programs as `cargo xtask frontend-image` builds them, pushed from here.
async fn make(daemon: &Daemon, prefix: &str) {
    let started = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = tokio::process::Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["run", "--quiet", "--package", "xtask", "--", "frontend-image", "--no-push"])
        .args(NAMES)
        .output()
        .await;
    let output = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => panic!("no frontends: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("no frontends: {error}"),
    };
    #[allow(clippy::print_stdout)] // shown with what the test prints
    {
        println!("{output}the frontends took {} s to build", started.elapsed().as_secs());
    }
    let client = client(daemon).await;
    for name in NAMES {
        // A line says the name, the size and the path.
        let line = output.lines().find(|line| line.starts_with(&format!("{name}: ")));
        let program = line.and_then(|line| line.rsplit(", ").next()).unwrap_or_default();
        let image = FrontendImage {
            program: program.into(),
            platform: Platform::host(),
            caps: CAPS.into(),
            network: false,
        };
        let solve = match image.push(&client, &format!("{prefix}/{name}-frontend:latest")) {
            Ok(solve) => solve,
            Err(error) => panic!("{name}: {error}"),
        };
        if let Err(error) = solve.await {
            panic!("{name}: {}", error.report());
        }
    }
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
        // `eprintln!` would be captured and never seen when the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {mark}: the processes of a daemon that is elsewhere cannot be looked at"
        );
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
