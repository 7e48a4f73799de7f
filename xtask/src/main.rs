//! The commands of this repository: `cargo xtask <command>`.
//!
//! Everything that a contributor or CI runs is a subcommand here, so that it works the same on
//! every machine and needs no more than Rust to start with.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool talks to its user

mod bench;
mod buildkit;
mod codegen;
mod demo;
mod deny;
mod fail;
mod frontend_image;
mod fuzz;
mod package;
mod reliability;
mod test;
mod tidy;
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
    /// Provision a BuildKit, then check format, lints, rules and documentation, and run all tests
    Test(test::Options),
    /// Build and push an image with the batch job, on a BuildKit that is set up for it
    Demo(demo::Options),
    /// Run a fuzz target; its seeds also run as plain tests (needs a C++ compiler)
    Fuzz(fuzz::Options),
    /// Make images of the example frontends and push them
    FrontendImage(frontend_image::Options),
    /// Bring the table of promises and faults up to date
    Reliability(reliability::Options),
    /// Run the benchmarks
    Bench(bench::Options),
    /// Check that what would be published is whole and compiles by itself
    Package,
    /// Check what is linked in: licences, sources, refused packages, and advisories where cargo-deny is installed
    Deny,
    /// Check the rules of the repository that a compiler does not know
    Tidy,
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().command {
        Command::Codegen => codegen::run(),
        Command::Buildkit(command) => buildkit::run(&command),
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::FrontendImage(options) => frontend_image::run(&options),
        Command::Reliability(options) => tidy::tracked().and_then(|files| reliability::run(&options, &files)),
        Command::Bench(options) => bench::run(&options),
        Command::Package => package::run(),
        Command::Deny => deny::run().map(drop),
        Command::Tidy => tidy::run(),
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
