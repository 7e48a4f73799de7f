//! `cargo xtask test`: everything that must hold, in one command.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use crate::buildkit::{self, Generation, State};
use crate::fail::{Context as _, Result};
use crate::tidy;
use crate::workspace::{cargo, output, show, target};

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

/// Provisions, checks format, lints, rules and documentation, and runs all tests.
pub(crate) fn run(options: &Options) -> Result {
    let start = Instant::now();
    let provisioning = (!options.no_daemon).then(|| thread::spawn(provision));

    step("format");
    show(cargo().args(["fmt", "--all", "--check"]))?;
    step("tidy");
    tidy::run()?;
    step("clippy");
    show(cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]))?;
    step("documentation");
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    show(&mut doc)?;
    step("buildkit-llb for wasm32");
    match output(Command::new("rustup").args(["target", "add", "wasm32-unknown-unknown"])) {
        Ok(_) => show(cargo().args(["check", "-p", "buildkit-llb", "--target", "wasm32-unknown-unknown"]))?,
        Err(error) => println!("SKIPPED: the target cannot be had here ({})", first_line(&error)),
    }

    step("tests");
    let daemons = match provisioning {
        None => Daemons { up: Vec::new(), reasons: vec!["--no-daemon".to_owned()], started: false },
        Some(thread) => thread.join().map_err(|_| "provisioning panicked".to_owned())??,
    };
    let report = target().join("daemon-tests.tsv");
    let _ = std::fs::remove_file(&report);
    let mut test = cargo();
    // Not all features: the labs channel of the Dockerfile frontend changes what is accepted.
    test.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    test.env("BUILDKIT_TESTS_STATE", State::path()).env("BUILDKIT_TESTS_REPORT", &report);
    if options.no_daemon {
        test.env("BUILDKIT_TESTS_NO_DAEMON", "--no-daemon");
    } else {
        test.env("BUILDKIT_TESTS_REQUIRED", daemons.up.join(","));
    }
    let outcome = show_tests(&mut test);
    if daemons.started && !options.keep {
        buildkit::down()?;
    }

    step("daemon tests");
    for reason in &daemons.reasons {
        println!("SKIPPED daemons: {reason}");
    }
    let (ran, skipped) = count(&std::fs::read_to_string(&report).unwrap_or_default());
    for test in &skipped {
        println!("SKIPPED {test}");
    }
    println!(
        "{ran} daemon tests ran ({}), {} were skipped",
        if daemons.up.is_empty() { "on none".to_owned() } else { daemons.up.join(", ") },
        skipped.len()
    );
    println!("all of it took {} s", start.elapsed().as_secs());
    outcome?;
    if ran == 0 && !options.no_daemon {
        return Err("no daemon test ran; `--no-daemon` does without them".into());
    }
    Ok(())
}

struct Daemons {
    /// The suites that tests may insist on.
    up: Vec<String>,
    /// Why the others are missing.
    reasons: Vec<String>,
    started: bool,
}

/// Starts the newest generation, and the older ones as far as they can be had.
fn provision() -> Result<Daemons> {
    if std::env::var_os("BUILDKIT_HOST").is_some() {
        let (_, started) = buildkit::up(&[])?;
        let reasons = vec!["the older generations, because BUILDKIT_HOST names the daemon".to_owned()];
        return Ok(Daemons { up: vec!["sid".to_owned()], reasons, started });
    }
    let (_, mut started) = buildkit::up(&[Generation::Sid])?;
    let mut up = vec!["sid".to_owned()];
    let mut reasons = Vec::new();
    for generation in [Generation::Trixie, Generation::Bookworm] {
        match buildkit::up(&[generation]) {
            Ok((_, more)) => {
                up.push(generation.suite().to_owned());
                started |= more;
            }
            Err(error) => reasons.push(format!("{}: {error}", generation.suite())),
        }
    }
    Ok(Daemons { up, reasons, started })
}

/// Runs the tests with what passing tests print kept out of sight but not thrown away: all of it goes
/// to a log, in which no credential of the tests may ever appear.
fn show_tests(test: &mut Command) -> Result {
    let path = target().join("tests.log");
    let mut log = std::fs::File::create(&path).context(path.display())?;
    let mut child = test.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cargo test")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let (mut hidden, mut leaks) = (false, 0);
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cargo's output")?;
        log.write_all(&line).and_then(|()| log.write_all(b"\n")).context(path.display())?;
        let text = String::from_utf8_lossy(&line);
        leaks += usize::from(text.contains(buildkit::PASSWORD));
        hidden = match text.trim_end() {
            "successes:" => true,
            "failures:" => false,
            text if text.starts_with("test result:") => false,
            _ => hidden,
        };
        if !hidden {
            println!("{text}");
        }
    }
    let status = child.wait().context("cargo test")?;
    if leaks > 0 {
        return Err(format!("{leaks} lines of {} hold a password", path.display()));
    }
    if status.success() {
        Ok(())
    } else {
        Err(format!("tests failed; all they printed is in {}", path.display()))
    }
}

/// How many tests ran on a daemon, and which did not, with the reason.
fn count(report: &str) -> (usize, Vec<String>) {
    let (mut ran, mut skipped) = (0, Vec::new());
    for line in report.lines() {
        match line.split_once('\t') {
            Some(("ran", _)) => ran += 1,
            Some(("skipped", test)) => skipped.push(test.replace('\t', ": ")),
            _ => {}
        }
    }
    skipped.sort();
    (ran, skipped)
}

fn step(name: &str) {
    println!("\n== {name}");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_and_skips_are_told_apart() {
        let (ran, skipped) = super::count("ran\ta\tsid\nskipped\tb\tno root\nran\tc\tsid\n");
        assert_eq!(ran, 2);
        assert_eq!(skipped, ["b: no root"]);
    }
}
