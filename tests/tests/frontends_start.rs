//! How large frontend images are, and how fast they start. A file of its own, so that no other test runs
//! at the same time.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use buildkit_client::Client;
use buildkit_client::request::Frontend;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, image};

/// How many starts the medians are of.
const STARTS: usize = 20;

/// How much longer the Dockerfile frontend may take than one that does nothing, on a machine that does
/// nothing else.
const LIMIT: Duration = Duration::from_millis(20);

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

/// What is started: a name for it, the frontend, an option, and the error if it gives one.
type Start = (&'static str, &'static str, (&'static str, &'static str), Option<&'static str>);

const STARTED: [Start; 3] = [
    ("ping", "ping", ("do", "nothing"), None),
    ("ping with an error", "unruly", ("do", "fail"), Some("there is a reason")),
    // A bad option ends the Dockerfile frontend after its first call, before it reads anything.
    ("dockerfile with an error", "dockerfile", ("context", "https://example/r.git?nope=1"), Some("nope")),
];

/// The time from Solve to the answer, for a frontend that calls the daemon once and reports at once.
async fn start(client: &Client, image: &str, option: (&str, &str), wanted: Option<&str>) -> Duration {
    let frontend = Frontend::image(image).opt(option.0, option.1);
    let started = Instant::now();
    let result = client.solve(frontend).await;
    let time = started.elapsed();
    match (result, wanted) {
        (Ok(_), None) => {}
        (Err(error), Some(text)) => assert!(error.report().contains(text), "{}", error.report()),
        (result, _) => panic!("{image}: {result:?}"),
    }
    time
}

/// The medians of cached starts. All take turns, so that what else the machine does slows all of them.
async fn medians(client: &Client, images: &[String; 3]) -> [Duration; 3] {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=STARTS {
        for (index, (_, _, option, wanted)) in STARTED.into_iter().enumerate() {
            let time = start(client, &images[index], option, wanted).await;
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
    let mut images: [String; 3] = Default::default();
    for (place, (_, name, ..)) in images.iter_mut().zip(STARTED) {
        *place = image(&daemon, name).await;
    }
    for attempt in 1.. {
        let medians = medians(&client, &images).await;
        for ((name, ..), median) in STARTED.into_iter().zip(medians) {
            println!("median of {STARTS} cached starts: {name} {median:?}");
        }
        let load = load();
        let limit = LIMIT.mul_f64(load);
        let [_, ping, dockerfile] = medians;
        if dockerfile <= ping + limit {
            break;
        }
        assert!(
            attempt < 3,
            "the Dockerfile frontend is slower by more than {limit:?}, at a load of {load:.1}"
        );
    }
}
