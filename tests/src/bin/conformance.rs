//! Replays case files and says which cases pass.
//!
//! `cargo run --release -p buildkit-tests --bin conformance -- FILE.jsonl…`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use buildkit_tests::conformance::{emitted, replay, shown, summary};
use clap::Parser;

/// Replays recorded cases and compares what comes out with what was recorded.
#[derive(Parser)]
struct Args {
    /// Case files, one case a line.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Show one case in full: what differs, and the recorded answer beside ours.
    #[arg(long, value_name = "CASE")]
    show: Option<String>,
    /// Print what comes out, a JSON line per case, instead of comparing.
    #[arg(long)]
    emit: bool,
}

fn main() -> std::io::Result<ExitCode> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    let mut good = true;
    let mut shown_any = false;
    for file in &args.files {
        let cases = match replay(file, args.show.as_deref()) {
            Ok(cases) => cases,
            Err(error) => {
                writeln!(std::io::stderr(), "{}: {error}", file.display())?;
                good = false;
                continue;
            }
        };
        if args.emit {
            for case in &cases {
                writeln!(out, "{}", emitted(case))?;
            }
            continue;
        }
        good &= cases.iter().all(|case| case.differences.is_empty());
        if args.show.is_some() {
            for case in &cases {
                shown_any = true;
                writeln!(out, "{}", shown(case))?;
            }
            continue;
        }
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        write!(out, "{}", summary(&name, &cases))?;
    }
    if let Some(name) = args.show.filter(|_| !shown_any) {
        writeln!(std::io::stderr(), "there is no case {name}")?;
        good = false;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
