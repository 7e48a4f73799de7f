//! Builds an image on a BuildKit daemon and pushes it: a program for a Kubernetes Job.
#![allow(clippy::print_stderr, clippy::print_stdout)] // a command-line tool talks to its user

mod args;
mod exit;
mod fields;
mod job;
#[cfg(test)]
mod manifests;
mod places;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Command};
use crate::exit::Exit;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let Command::Build(build) = &args.command;
    for said in build.deprecations() {
        eprintln!("warning: {said}");
    }
    // Leaving by the signal's branch drops the build, which tells the daemon to stop.
    let exit = tokio::select! {
        outcome = job::run(&args, build) => match outcome {
            Ok(solved) => {
                if !solved.digest().is_empty() {
                    eprintln!("digest: {}", solved.digest());
                }
                Exit::Done
            }
            Err(failure) => {
                eprintln!("error: {}", failure.text);
                failure.exit
            }
        },
        () = ended() => {
            eprintln!("error: ended by a signal; the daemon has been told to stop");
            Exit::Interrupted
        }
    };
    exit.into()
}

/// Waits for the signals that end a process in a terminal or in a pod.
async fn ended() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
