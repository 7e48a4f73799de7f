//! How large frontend images are, and how fast they start. A file of its own, so that no other test runs
//! at the same time.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buildkit_client::Client;
use buildkit_client::request::Frontend;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, image};

/// How many starts the medians are of.
const STARTS: usize = 20;

/// How much later the Dockerfile frontend may get its first answer than one that does nothing else.
const LIMIT: Duration = Duration::from_millis(20);

/// How often the medians are taken: on a machine that others use, one may be off by more than the limit.
const ATTEMPTS: u32 = 4;

/// The bytes of an image that a registry sends: manifest, config and layers.
async fn size(daemon: &Daemon, image: &str) -> u64 {
    let mirror = &daemon.registries.mirror;
    let name = image.strip_prefix(&format!("{}/", mirror.address)).unwrap();
    let (name, tag) = name.rsplit_once(':').unwrap();
    let (_, bytes) = mirror.manifest(name, tag).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let blobs = layers.iter().chain([&manifest["config"]]);
    blobs.map(|blob| blob["size"].as_u64().unwrap()).sum::<u64>() + bytes.len() as u64
}

/// What is started: the frontend that only pings and returns, and the one that is held against it.
const STARTED: [&str; 2] = ["ping", "dockerfile"];

/// The time from Solve to the answer of the frontend's first call, as the frontend itself tells.
async fn start(client: &Client, image: &str, dir: &Path) -> Duration {
    let frontend = Frontend::image(image).opt("clock", "");
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let solve = client.solve(frontend).local("context", dir).local("dockerfile", dir);
    let solved = solve.await.unwrap_or_else(|error| panic!("{image}: {}", error.report()));
    let answered = solved.get("frontend.first-answer").expect("the time of the first answer");
    // Where the daemon has another clock, the times are off by the same amount for all.
    Duration::from_nanos(answered.parse().unwrap()).saturating_sub(begun)
}

/// The medians of cached starts. All take turns, so that what else the machine does slows all of them.
async fn medians(client: &Client, images: &[String; 2], dir: &Path) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=STARTS {
        for turn in 0..images.len() {
            let index = (round + turn) % images.len();
            let time = start(client, &images[index], dir).await;
            // The first start pulls the image.
            if round > 0 {
                times[index].push(time);
            }
        }
    }
    times.map(|mut times| {
        times.sort();
        (times[STARTS / 2 - 1] + times[STARTS / 2]) / 2
    })
}

/// How many programs want each core: at least 1.
fn load() -> f64 {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let average: f64 = average.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let cores = std::thread::available_parallelism()
        .map_or(1.0, |cores| f64::from(u32::try_from(cores.get()).unwrap_or(1)));
    (average / cores).max(1.0)
}

#[tokio::test]
async fn images_are_small_and_start_fast() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    // The programs themselves are held to the same size where they are made.
    for name in ["dockerfile", "include", "package", "ping"] {
        let size = size(&daemon, &image(&daemon, name).await).await;
        println!("{name}-frontend: {size} bytes");
        assert!(size <= 12_000_000);
    }

    let client = client(&daemon).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\nLABEL a=b\n").unwrap();
    let mut images: [String; 2] = Default::default();
    for (place, name) in images.iter_mut().zip(STARTED) {
        *place = image(&daemon, name).await;
    }
    for attempt in 1..=ATTEMPTS {
        let [ping, dockerfile] = medians(&client, &images, dir.path()).await;
        println!(
            "median of {STARTS} cached starts, from Solve to the first answer: ping {ping:?}, dockerfile {dockerfile:?}"
        );
        let late = dockerfile.saturating_sub(ping);
        if late <= LIMIT {
            return;
        }
        let load = load();
        println!(
            "attempt {attempt}: the Dockerfile frontend is {late:?} late, at a load of {load:.1} for each core"
        );
        // Others want the cores: what a process waits for them is no time of the frontend.
        assert!(
            attempt < ATTEMPTS || late <= LIMIT.mul_f64(load),
            "the Dockerfile frontend is slower by {late:?}"
        );
    }
}
