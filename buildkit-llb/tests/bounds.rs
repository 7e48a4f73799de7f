//! Time and memory of large graphs, as ratios that hold on any machine.
//!
//! Times are of the processor, the best of rounds in turn, and as many rounds as it takes until other work on the
//! machine was out of the way. What hashing costs can only be compared with optimised code:
//! `cargo test --release -p buildkit-llb --test bounds`, which `cargo xtask test` runs too.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed step is a failed test

use std::hint::black_box;
use std::time::Duration;

use buildkit_llb::{Definition, Platform, State, image, merge, scratch};
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};

const OPS: usize = 10_000;
const OPTIMISED: bool = !cfg!(debug_assertions);
/// Where other work still is in the way after so many rounds, it is no other work.
const ROUNDS: usize = if OPTIMISED { 400 } else { 20 };

/// Processes, each on what the one before left. Their ops are all of one length, however long the chain is: one
/// digit more can be one block more to hash.
fn chain(length: usize) -> Definition {
    marshal(&(0..length).fold(image("alpine"), |state, at| state.run(["step", &format!("{at:06}")]).root()))
}

/// Files, laid over one another by one op.
fn wide(parts: usize) -> Definition {
    marshal(&merge((0..parts).map(|at| scratch().mkfile(format!("/{at}"), 0o644, "x"))))
}

fn marshal(state: &State) -> Definition {
    state.marshal(Platform::LINUX_AMD64).unwrap()
}

fn hash(definition: &Definition) {
    for op in definition.ops() {
        black_box(Sha256::digest(op.bytes()));
    }
}

/// The shortest processor time of every kind of work.
#[derive(Default)]
struct Best(Vec<(&'static str, Duration)>);

impl Best {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let start = now();
        let result = black_box(work());
        let took = now().saturating_sub(start);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, best)) => *best = took.min(*best),
            None => self.0.push((name, took)),
        }
        result
    }

    fn of(&self, name: &str) -> f64 {
        self.0.iter().find(|(known, _)| *known == name).unwrap().1.as_secs_f64()
    }

    /// Whether every work took at most so many times as long as another one.
    fn holds(&self, bounds: &[(&str, f64, &str)]) -> bool {
        bounds.iter().all(|(work, most, other)| self.of(work) <= most * self.of(other))
    }
}

/// The most memory the process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Checks that a definition of `count` ops is made with at most 1.5 KiB each.
fn check_memory<T>(what: &str, count: usize, work: impl FnOnce() -> T) {
    let before = peak();
    let made = work();
    let each = (peak() - before) / count;
    eprintln!("{what}: {each} bytes an op (at most 1536)");
    assert!(each <= 1536 && each > 100, "{what}: {each} bytes an op");
    drop(made);
}

/// One test: anything that ran beside it would be measured too.
#[test]
fn large_graphs_take_little_time_and_memory() {
    // The smaller need first, as the peak only rises.
    check_memory("a chain", 10 * OPS, || chain(10 * OPS));
    check_memory("a merge", 20 * OPS, || wide(20 * OPS));

    let mut bounds = vec![("a chain of 100 000", 11.0, "a chain of 10 000")];
    if OPTIMISED {
        bounds.push(("a chain of 10 000", 12.0, "hashing the chain"));
        bounds.push(("a merge of 10 000", 12.0, "hashing the merge"));
    } else {
        eprintln!("skipped: code that is not optimised is not compared with hashing");
    }
    // The GNU allocator returns memory to the system at once until it has seen a large piece come and go. To get it
    // back costs the long chain a tenth of its time and the short one nothing, and is not what is measured here.
    drop(black_box(vec![0_u8; 31 << 20]));
    let mut best = Best::default();
    for round in 1..=ROUNDS {
        best.time("a chain of 100 000", || chain(10 * OPS));
        let made = best.time("a chain of 10 000", || chain(OPS));
        best.time("hashing the chain", || hash(&made));
        let made = best.time("a merge of 10 000", || wide(OPS));
        best.time("hashing the merge", || hash(&made));
        if round >= ROUNDS / 20 && best.holds(&bounds) {
            break;
        }
    }
    for bound in bounds {
        let (work, most, other) = bound;
        let (time, times) = (best.of(work), best.of(work) / best.of(other));
        eprintln!("{work}: {:.3} ms, {times:.2} times {other} (at most {most})", time * 1e3);
        assert!(
            best.holds(&[bound]),
            "{work} takes {times:.2} times as long as {other}, and may {most} times"
        );
    }
}
