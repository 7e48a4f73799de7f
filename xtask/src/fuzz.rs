//! `cargo xtask fuzz NAME`: runs one fuzz target for as long as you like.
//!
//! libFuzzer is driven directly, with the instrumentation that stable Rust can switch on, so nothing but a C++ compiler
//! is needed beside it. Addresses are not checked: there is no unsafe code of ours to check.

use std::path::PathBuf;
use std::process::Command;

use crate::fail::{Context as _, Result};
use crate::workspace::{cargo, output, root, show, target};

/// Which target, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Name of the target; without it, all names are listed
    name: Option<String>,
    /// End after this many seconds; 0 runs until it is stopped or has found something
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Run an input that was found, instead of looking for others
    #[arg(long)]
    input: Option<PathBuf>,
}

/// What makes a program tell libFuzzer where it has been.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Builds the target and runs it over what it knows already and its seeds.
pub(crate) fn run(options: &Options) -> Result {
    let names = names()?;
    let Some(name) = &options.name else {
        for name in names {
            println!("{name}");
        }
        return Ok(());
    };
    if !names.contains(name) {
        return Err(format!("there is no fuzz target `{name}`; there are: {}", names.join(", ")));
    }
    let binary = build(name)?;
    let fuzz = root().join("fuzz");
    let (corpus, found) = (fuzz.join("corpus").join(name), fuzz.join("artifacts").join(name));
    for dir in [&corpus, &found] {
        std::fs::create_dir_all(dir).context(dir.display())?;
    }
    let mut command = Command::new(binary);
    if let Some(input) = &options.input {
        return show(command.arg(input));
    }
    command.arg(format!("-max_total_time={}", options.seconds));
    // An input that takes ten seconds, or two gigabytes, is a finding as well.
    command.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(corpus).arg(fuzz.join("seeds").join(name));
    show(&mut command)
}

/// The targets, by the files they are in.
pub(crate) fn names() -> Result<Vec<String>> {
    let dir = root().join("fuzz/src/bin");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).context(dir.display())? {
        let path = entry.context(dir.display())?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn build(name: &str) -> Result<PathBuf> {
    let manifest = root().join("fuzz/Cargo.toml");
    // The same versions of everything as the workspace has been tested with.
    std::fs::copy(root().join("Cargo.lock"), root().join("fuzz/Cargo.lock")).context("Cargo.lock")?;
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("the host of rustc")?;
    let dir = target().join("fuzz");
    // A target of its own keeps the instrumentation out of build scripts.
    let mut command = cargo();
    command
        .args(["build", "--release", "--target", host, "--bin", name])
        .arg("--manifest-path")
        .arg(manifest);
    command.arg("--target-dir").arg(&dir).env("RUSTFLAGS", INSTRUMENTATION);
    show(&mut command)?;
    Ok(dir.join(host).join("release").join(name))
}
