//! `cargo xtask bench`: the benchmarks behind docs/performance.md.

use std::path::Path;

use crate::fail::Result;
use crate::workspace::{cargo, output, packages, root, show};

/// Which benchmarks.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The packages whose benchmarks run; all that have some when absent
    packages: Vec<String>,
    /// Run each benchmark once, not optimised, to see that it works
    #[arg(long)]
    test: bool,
}

/// Runs the benchmarks, one after the other, and says what they ran on.
pub(crate) fn run(options: &Options) -> Result {
    println!("on {}", machine());
    let mut ran = 0;
    for package in &packages()? {
        if !options.packages.is_empty() && !options.packages.contains(&package.name) {
            continue;
        }
        let benches = package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "bench"));
        for bench in benches {
            println!("\n== {} {}", package.name, bench.name);
            let mut command = cargo();
            let how = if options.test { "test" } else { "bench" };
            command.args([
                how,
                "--quiet",
                "--all-features",
                "--package",
                &package.name,
                "--bench",
                &bench.name,
            ]);
            show(&mut command)?;
            ran += 1;
        }
    }
    if ran == 0 {
        return Err("no benchmark of that name".into());
    }
    println!("\n{ran} benchmarks ran; docs/performance.md says what is promised of them");
    Ok(())
}

/// Processor and number of threads: numbers mean nothing without.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let revision = output(
        std::process::Command::new("git").current_dir(root()).args(["describe", "--always", "--dirty"]),
    );
    format!(
        "{}, {threads} threads, {} at {}",
        model.map_or("an unknown processor", |(_, name)| name),
        Path::new(&root()).file_name().unwrap_or_default().to_string_lossy(),
        revision.unwrap_or_default().trim()
    )
}
