//! `cargo xtask test`: everything that must hold, in one command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::buildkit::{self, Generation, Started, State};
use crate::deny;
use crate::fail::{Context as _, Result};
use crate::package;
use crate::tidy;
use crate::workspace::{cargo, free_disk, output, show, target};

/// What to leave out.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Do not provision a BuildKit; the tests that need one are listed as skipped
    #[arg(long)]
    no_daemon: bool,
    /// Leave the daemons running afterwards
    #[arg(long)]
    keep: bool,
}

/// What a run from a clean checkout takes, with what incremental builds keep: with less, it is said at the start and
/// again at the end, for a full disk shows itself as anything but that.
const DISK: u64 = 16 << 30;

/// Provisions, checks format, lints, rules, documentation and packages, and runs all tests.
pub(crate) fn run(options: &Options) -> Result {
    tell_free_disk();
    let mut steps = Steps::default();
    let provisioning = (!options.no_daemon).then(|| thread::spawn(provision));
    let checked = checks(&mut steps);
    let mut daemons = match provisioning {
        None => Daemons { reasons: vec!["--no-daemon".to_owned()], ..Daemons::default() },
        Some(thread) => thread.join().map_err(|_| "provisioning panicked".to_owned())?,
    };
    let outcome = checked.and_then(|()| tests(&mut steps, &daemons, options));
    if !options.keep {
        // What ran before is not ours to end.
        buildkit::stop(&std::mem::take(&mut daemons.started))?;
    }
    steps.print();
    if outcome.is_err() {
        tell_free_disk();
    }
    outcome
}

/// Warns of a disk that is or will be full.
fn tell_free_disk() {
    if let Some(free) = free_disk().filter(|free| *free < DISK) {
        let [free, enough] = [free, DISK].map(|bytes| bytes >> 20);
        println!("WARNING: {free} MiB are free on the disk; a run from nothing may take {enough} MiB");
    }
}

/// Everything that needs no daemon, cheapest first.
fn checks(steps: &mut Steps) -> Result {
    steps.begin("format");
    show(cargo().args(["fmt", "--all", "--check"]))?;
    steps.begin("tidy");
    tidy::run()?;
    steps.begin("dependencies");
    steps.skipped.extend(deny::run()?);
    steps.begin("clippy");
    show(cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]))?;
    steps.begin("documentation");
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--all-features", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    show(&mut doc)?;
    steps.begin("buildkit-llb for wasm32");
    match output(Command::new("rustup").args(["target", "add", "wasm32-unknown-unknown"])) {
        Ok(_) => show(cargo().args(["check", "-p", "buildkit-llb", "--target", "wasm32-unknown-unknown"]))?,
        Err(error) => {
            let reason =
                format!("buildkit-llb for wasm32, because its target cannot be had ({})", first_line(&error));
            println!("SKIPPED: {reason}");
            steps.skipped.push(reason);
        }
    }
    steps.begin("packages");
    package::run()
}

/// All tests, and the count of those that ran on a daemon.
fn tests(steps: &mut Steps, daemons: &Daemons, options: &Options) -> Result {
    if daemons.up.is_empty() && !options.no_daemon {
        return Err(format!(
            "no BuildKit could be provisioned, and `--no-daemon` was not said:\n{}",
            daemons.reasons.join("\n")
        ));
    }
    steps.begin("tests");
    let report = target().join("daemon-tests.tsv");
    let _ = std::fs::remove_file(&report);
    let mut test = cargo();
    test.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    test.env("BUILDKIT_TESTS_STATE", State::path()).env("BUILDKIT_TESTS_REPORT", &report);
    if options.no_daemon {
        test.env("BUILDKIT_TESTS_NO_DAEMON", "--no-daemon");
    } else {
        test.env("BUILDKIT_TESTS_REQUIRED", daemons.up.join(","));
    }
    let outcome = show_tests(&mut test);

    steps.begin("time and memory of large graphs");
    // Debug builds say nothing about what hashing is compared with.
    let bounds = ["test", "--release", "-p", "buildkit-llb", "--test", "bounds", "--", "--show-output"];
    let outcome = outcome.and(show(cargo().args(bounds)));

    steps.begin("daemon tests");
    for reason in &daemons.reasons {
        println!("SKIPPED daemons: {reason}");
    }
    let counted = Counted::from(std::fs::read_to_string(&report).unwrap_or_default().as_str());
    print!("{counted}");
    outcome?;
    if counted.ran.is_empty() && !options.no_daemon {
        return Err("no daemon test ran; `--no-daemon` does without them".into());
    }
    Ok(())
}

/// What was provisioned.
#[derive(Default)]
struct Daemons {
    /// The suites that tests may insist on.
    up: Vec<String>,
    /// Why the others are missing.
    reasons: Vec<String>,
    started: Started,
}

/// Starts the generations, newest first, as far as they can be had.
fn provision() -> Daemons {
    let mut daemons = Daemons::default();
    if std::env::var_os("BUILDKIT_HOST").is_some() {
        match buildkit::up(&[]) {
            Ok((_, started)) => {
                daemons.started = started;
                daemons.up.push(Generation::Sid.suite().to_owned());
                let reason = "the older generations, because BUILDKIT_HOST names the daemon";
                daemons.reasons.push(reason.to_owned());
            }
            Err(error) => daemons.reasons.push(format!("the registries: {error}")),
        }
        return daemons;
    }
    for generation in [Generation::Sid, Generation::Trixie, Generation::Bookworm] {
        match buildkit::up(&[generation]) {
            Ok((_, started)) => {
                daemons.up.push(generation.suite().to_owned());
                daemons.started.and(started);
            }
            Err(error) => daemons.reasons.push(format!("{}: {error}", generation.suite())),
        }
    }
    daemons
}

/// What every secret of the tests begins with: `buildkit_tests::canary::MARK`. In two parts, so that a listing of this
/// file is no find.
const CANARY: &str = concat!("C4N", "4RY");

/// Runs the tests with what passing tests print kept out of sight but not thrown away: all of it goes
/// to a log, in which no credential of the tests may ever appear.
fn show_tests(test: &mut Command) -> Result {
    let path = target().join("tests.log");
    let mut log = std::fs::File::create(&path).context(path.display())?;
    let mut child = test.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo test")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let (mut hidden, mut leaks) = (false, 0);
    let mut skips = BTreeSet::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cargo's output")?;
        log.write_all(&line).and_then(|()| log.write_all(b"\n")).context(path.display())?;
        let text = String::from_utf8_lossy(&line);
        leaks += usize::from([buildkit::PASSWORD, CANARY].iter().any(|secret| text.contains(secret)));
        hidden = match text.trim_end() {
            "successes:" => true,
            "failures:" => false,
            text if text.starts_with("test result:") => false,
            _ => hidden,
        };
        if !hidden {
            println!("{text}");
        } else if is_skip(&text) {
            skips.insert(text.trim_end().to_owned());
        }
    }
    for skip in skips {
        println!("said by a test that passed: {skip}");
    }
    let status = child.wait().context("cargo test")?;
    if leaks > 0 {
        return Err(format!("{leaks} lines of {} hold a secret of the tests", path.display()));
    }
    if status.success() {
        Ok(())
    } else {
        Err(format!("tests failed; all they printed is in {}", path.display()))
    }
}

/// Whether a line says that a test left something out.
fn is_skip(line: &str) -> bool {
    line.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("skipped"))
}

/// Which tests ran on which daemon, and which did not, with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    /// Names of tests by suite.
    ran: BTreeMap<String, BTreeSet<String>>,
    skipped: BTreeSet<String>,
}

impl From<&str> for Counted {
    /// Reads what the tests reported: outcome, test, and suite or reason, between tabs.
    fn from(report: &str) -> Self {
        let mut counted = Counted::default();
        for line in report.lines() {
            let fields: Vec<&str> = line.splitn(3, '\t').collect();
            match fields[..] {
                ["ran", test, suite] => {
                    counted.ran.entry(suite.to_owned()).or_default().insert(test.to_owned());
                }
                ["skipped", test, reason] => drop(counted.skipped.insert(format!("{test}: {reason}"))),
                _ => {}
            }
        }
        counted
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.skipped {
            writeln!(f, "SKIPPED {test}")?;
        }
        let all: usize = self.ran.values().map(BTreeSet::len).sum();
        let parts: Vec<String> =
            self.ran.iter().map(|(suite, tests)| format!("{} on {suite}", tests.len())).collect();
        let parts = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
        writeln!(f, "{all} daemon tests ran ({parts}), {} were skipped", self.skipped.len())
    }
}

/// What was done, and how long it took.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
    current: Option<(&'static str, Instant)>,
    /// What could not be checked here, and why.
    skipped: Vec<String>,
}

impl Steps {
    fn begin(&mut self, name: &'static str) {
        self.end();
        println!("\n== {name}");
        self.current = Some((name, Instant::now()));
    }

    fn end(&mut self) {
        if let Some((name, start)) = self.current.take() {
            self.done.push((name, start.elapsed()));
        }
    }

    fn print(&mut self) {
        self.end();
        let all: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let parts: Vec<String> =
            self.done.iter().map(|(name, took)| format!("{name} {} s", took.as_secs())).collect();
        println!("\nall of it took {} s: {}", all.as_secs(), parts.join(", "));
        for skipped in &self.skipped {
            println!("SKIPPED: {skipped}");
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Counted, is_skip};

    #[test]
    fn what_a_test_left_out_is_noticed() {
        assert!(is_skip("skipped: the cases are not there") && is_skip("SKIPPED: no ssh-keygen"));
        assert!(!is_skip("2 were skipped") && !is_skip("skip"));
    }

    #[test]
    fn runs_and_skips_are_told_apart_by_generation() {
        let report = "ran\ta\tsid\nskipped\tb\tno root\nran\tc\ttrixie\nran\ta\tsid\nran\td\tsid\n";
        let shown = Counted::from(report).to_string();
        assert_eq!(shown, "SKIPPED b: no root\n3 daemon tests ran (2 on sid, 1 on trixie), 1 were skipped\n");
        assert_eq!(Counted::from("").to_string(), "0 daemon tests ran (none), 0 were skipped\n");
    }
}
