//! What it costs to take the progress of a build: `cargo bench -p buildkit-client --bench progress`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has no result")]

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use buildkit_client::progress::{self, Progress};
use buildkit_proto::control::{StatusResponse, Vertex, VertexLog};
use prost::Message as _;

const STEPS: usize = 50;
const MESSAGES: usize = 5_000;
const LINES: usize = 20;

/// How something shows progress.
type Display = fn() -> Progress;

fn main() {
    let messages = messages();
    let lines = u32::try_from(MESSAGES * LINES).unwrap();
    let decoded = best(&messages, |messages| {
        for bytes in messages {
            black_box(StatusResponse::decode(bytes.as_slice()).unwrap());
        }
    });
    println!("{lines} log lines decoded: {:.2?} a line", decoded / lines);
    let displays: [(&str, Display); 3] = [
        ("nobody", Progress::none),
        ("the plain display", || progress::plain().writer(io::sink()).into()),
        ("rawjson", || progress::rawjson().writer(io::sink()).into()),
    ];
    for (who, display) in displays {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shown = best(&messages, |messages| {
            let reporter = display().buffer(usize::MAX).start();
            for bytes in messages {
                reporter.status(StatusResponse::decode(bytes.as_slice()).unwrap());
            }
            runtime.block_on(reporter.finish());
        });
        let ratio = shown.as_secs_f64() / decoded.as_secs_f64();
        println!("the same shown to {who}: {:.2?} a line, {ratio:.2} x decoding", shown / lines);
    }
}

/// A long build, as the messages of a daemon.
fn messages() -> Vec<Vec<u8>> {
    let digest = |step: usize| format!("sha256:{step:064x}");
    let message = |number: usize| {
        let step = digest(number % STEPS);
        let vertexes = if number < STEPS {
            vec![Vertex {
                digest: step.clone(),
                name: format!("[{number}/{STEPS}] RUN make"),
                ..Vertex::default()
            }]
        } else {
            Vec::new()
        };
        let line = |line| VertexLog {
            vertex: step.clone(),
            stream: 1,
            msg: format!("{number}.{line}: compiling something with a name of some length\n")
                .into_bytes()
                .into(),
            ..VertexLog::default()
        };
        StatusResponse { vertexes, logs: (0..LINES).map(line).collect(), ..StatusResponse::default() }
            .encode_to_vec()
    };
    (0..MESSAGES).map(message).collect()
}

/// The shortest of five runs: other programs make single runs longer and none shorter.
fn best(messages: &[Vec<u8>], work: impl Fn(&[Vec<u8>])) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work(messages);
        start.elapsed()
    };
    (0..5).map(time).min().unwrap_or_default()
}
