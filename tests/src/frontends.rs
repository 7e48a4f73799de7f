//! What tests of frontends need: their images, a gateway of the real BuildKit, and who still runs.

#[path = "../../examples/frontend-image/image.rs"]
mod frontend_image;
#[path = "../../examples/package-frontend/frontend.rs"]
mod package;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use buildkit_client::control::UsageQuery;
use buildkit_client::{Client, Error};
use buildkit_frontend::{BuildResult, Gateway};
use buildkit_llb::Platform;
use tokio::sync::OnceCell;

use self::frontend_image::FrontendImage;
use crate::daemon::Daemon;

/// What a frontend of ours says that it can do.
pub const CAPS: &str = frontend_image::CAPS;

/// The frontends that are made into images.
const NAMES: [&str; 5] = ["dockerfile", "include", "package", "ping", "unruly"];

/// The programs of the frontends, by name, as `cargo xtask frontend-image` builds them.
type Programs = BTreeMap<&'static str, PathBuf>;

/// The image of a frontend of `examples/`, such as `ping`. All are made and pushed when the first is
/// asked for.
///
/// # Panics
/// When they cannot be made.
pub async fn image(daemon: &Daemon, name: &str) -> String {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let prefix = format!("{}/frontends", daemon.registries.mirror.address);
    let make = async || {
        for (name, program) in programs().await {
            push(daemon, program, &format!("{prefix}/{name}-frontend:latest"), CAPS, false).await;
        }
    };
    MADE.get_or_init(make).await;
    format!("{prefix}/{name}-frontend:latest")
}

/// The image of a frontend that says that it has these capabilities, and whether it needs the network itself.
///
/// # Panics
/// As [`image`].
pub async fn labelled(daemon: &Daemon, name: &str, caps: &str, network: bool) -> String {
    let image = format!("{}:latest", daemon.registries.mirror.repository(&format!("frontends-{name}")));
    push(daemon, &programs().await[name], &image, caps, network).await;
    image
}

/// The program of a frontend, linked statically.
///
/// # Panics
/// When it cannot be built.
pub async fn program(name: &str) -> PathBuf {
    programs().await[name].clone()
}

async fn programs() -> &'static Programs {
    static BUILT: OnceCell<Programs> = OnceCell::const_new();
    BUILT.get_or_init(build).await
}

async fn build() -> Programs {
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
    // A line says the name, the size and the path.
    let line = |name: &str| output.lines().find(|line| line.starts_with(&format!("{name}: ")));
    let path = |name| line(name).and_then(|line| line.rsplit(", ").next()).unwrap_or_default();
    NAMES.into_iter().map(|name| (name, PathBuf::from(path(name)))).collect()
}

async fn push(daemon: &Daemon, program: &Path, name: &str, caps: &str, network: bool) {
    let image =
        FrontendImage { program: program.into(), platform: Platform::host(), caps: caps.into(), network };
    let solve = match image.push(&client(daemon).await, name) {
        Ok(solve) => solve,
        Err(error) => panic!("{name}: {error}"),
    };
    if let Err(error) = solve.await {
        panic!("{name}: {}", error.report());
    }
}

/// The frontend of `examples/package-frontend`, which the guide makes.
///
/// # Errors
/// Those of the frontend.
pub async fn package_frontend(gateway: Gateway) -> buildkit_frontend::Result<BuildResult> {
    package::build(gateway).await
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

/// Waits until no build holds what is called so in the daemon's cache, such as the result of a step with a mark in its
/// command: containers hold what they are made of.
///
/// # Panics
/// When there is no such thing, or it is still held after 30 s.
pub async fn nothing_holds(daemon: &Daemon, name: &str) {
    let client = client(daemon).await;
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let records = match client.disk_usage(UsageQuery::new()).await {
            Ok(records) => records,
            Err(error) => panic!("{}", error.report()),
        };
        let mut named = records.iter().filter(|record| record.description.contains(name)).peekable();
        assert!(named.peek().is_some(), "the daemon has nothing that is called {name}");
        let Some(held) = named.find(|record| record.in_use) else { return };
        assert!(Instant::now() < limit, "still held: {held:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
