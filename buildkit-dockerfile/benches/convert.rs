//! Time to parse, convert and marshal real Dockerfiles: `cargo bench -p buildkit-dockerfile --bench convert`.
//!
//! Reads the recorded cases beside the repository; says so where they are absent. Image configs come from
//! memory, so this is the work of the frontend alone.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its result")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use buildkit_dockerfile::Dockerfile;
use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use futures::executor::block_on;

struct Memory(ResolvedImage);

#[async_trait::async_trait]
impl Resolver for Memory {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        Ok(ResolvedImage { reference: request.reference.clone(), ..self.0.clone() })
    }
}

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance/dockerfile.jsonl");
    let Ok(cases) = std::fs::read_to_string(path) else {
        eprintln!("skipped: the recorded cases are not beside the repository");
        return;
    };
    let files: BTreeSet<String> = cases
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|case| Some(case["dockerfile"].as_str()?.to_owned()))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        "0".repeat(64)
    );
    let digest = format!("sha256:{}", "b".repeat(64));
    let resolver = Memory(ResolvedImage { reference: String::new(), digest, config: config.into() });
    let options = Options::default().session("sess");
    let convert = |source: &str| {
        let file = Dockerfile::parse(source).ok()?;
        let converted = block_on(file.to_llb(&options, &resolver)).ok()?;
        Some(black_box(converted))
    };
    let usable: Vec<&str> = files.iter().map(String::as_str).filter(|f| convert(f).is_some()).collect();
    let whole = average(&usable, |source| drop(convert(source)));
    let parse = average(&usable, |source| drop(black_box(Dockerfile::parse(source))));
    let wire = average(&usable, |source| {
        black_box(convert(source).map(|converted| converted.definition.to_bytes()));
    });
    println!("{} of {} Dockerfiles convert", usable.len(), files.len());
    println!("{whole:.1} µs each to parse, convert and marshal; {parse:.1} µs of it to parse");
    println!("{wire:.1} µs each with the message to the daemon written as well");
}

/// The average over `files` of the shortest time that `work` took, in microseconds. The shortest, because other
/// programs on the machine make single runs longer and none shorter.
fn average(files: &[&str], work: impl Fn(&str)) -> f64 {
    const RUNS: usize = 30;
    let shortest = |file: &&str| {
        let time = |_| {
            let start = Instant::now();
            work(file);
            start.elapsed().as_secs_f64()
        };
        (0..RUNS).map(time).fold(f64::MAX, f64::min)
    };
    let count = u32::try_from(files.len().max(1)).map_or(f64::MAX, f64::from);
    files.iter().map(shortest).sum::<f64>() * 1e6 / count
}
