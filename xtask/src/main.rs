//! The commands of this repository: `cargo xtask <command>`.
//!
//! Everything that a contributor or CI runs is a subcommand here, so that it works the same on
//! every machine and needs no more than Rust to start with.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool talks to its user

mod buildkit;
mod codegen;
mod fail;
mod workspace;

use clap::{Parser, Subcommand};

use crate::fail::Result;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The commands of this repository", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the checked-in protobuf code up to date
    Codegen,
    /// A real BuildKit with its registries, for tests and for trying things out (needs root)
    #[command(subcommand)]
    Buildkit(buildkit::Command),
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Codegen => codegen::run(),
        Command::Buildkit(command) => buildkit::run(&command),
    };
    report(outcome)
}

fn report(outcome: Result) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
