//! The commands of this repository: `cargo xtask <command>`.

mod codegen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the checked-in protobuf code up to date.
    Codegen,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Codegen => codegen::run(),
    }
}
