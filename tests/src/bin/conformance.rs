//! Runs recorded cases: `conformance [--emit] [--show N] FILE.jsonl…`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::process::ExitCode;

use buildkit_tests::conformance::dockerfile;
use clap::Parser;
use serde_json::Value;

/// Runs recorded cases against this implementation.
#[derive(Parser)]
struct Arguments {
    /// Print what comes out of each case instead of comparing it.
    #[arg(long)]
    emit: bool,
    /// How many failing cases to print in full.
    #[arg(long, default_value_t = 5)]
    show: usize,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Case files, JSON Lines.
    files: Vec<std::path::PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = false;
    for file in &arguments.files {
        let content = match std::fs::read_to_string(file) {
            Ok(content) => content,
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        };
        let (mut passed, mut total, mut shown) = (0, 0, 0);
        for line in content.lines().filter(|l| !l.trim().is_empty()) {
            let mut case: Value = match serde_json::from_str(line) {
                Ok(case) => case,
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            };
            if !case["name"].as_str().unwrap_or_default().contains(&arguments.only) {
                continue;
            }
            if arguments.emit {
                if let Some(case) = case.as_object_mut() {
                    case.remove("expect");
                }
                let got = dockerfile::run(&case).await;
                println!("{}", serde_json::json!({"name": case["name"], "got": got}));
                continue;
            }
            let verdict = dockerfile::check(&case).await;
            total += 1;
            if verdict.differences.is_empty() {
                passed += 1;
            } else if shown < arguments.show {
                shown += 1;
                println!("FAIL {}", verdict.name);
                for difference in verdict.differences {
                    println!("  {difference}");
                }
            } else {
                println!("FAIL {}", verdict.name);
            }
        }
        if !arguments.emit {
            println!("{}: {passed} of {total}", file.display());
            failed |= passed != total;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
