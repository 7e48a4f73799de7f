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
        Some(black_box(converted.definition.to_bytes()).len())
    };
    let usable: Vec<&String> = files.iter().filter(|f| convert(f).is_some()).collect();
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        for file in &usable {
            black_box(convert(file));
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let count = u32::try_from(usable.len().max(1)).map_or(f64::MAX, f64::from);
    let each = best * 1e6 / count;
    println!("{} of {} Dockerfiles convert, {each:.1} µs each", usable.len(), files.len());
}
