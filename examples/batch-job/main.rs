//! Builds an image on a BuildKit daemon and pushes it: a program for a Kubernetes Job.
#![allow(clippy::print_stderr)] // a command-line tool talks to its user

mod args;
mod exit;
#[cfg(test)]
mod manifests;

use clap::Parser as _;

use crate::args::{Args, Command};
use crate::exit::Exit;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let Command::Build(build) = &args.command;
    for said in build.deprecations() {
        eprintln!("warning: {said}");
    }
    Exit::Other.into()
}
