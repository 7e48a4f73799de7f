//! Builds an image on a BuildKit daemon and pushes it: a program for a Kubernetes Job.

mod args;
mod exit;
mod fields;
mod job;
#[cfg(test)]
mod manifests;
mod places;

use std::io::Write as _;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Args, Command};
use crate::exit::Exit;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let Command::Build(build) = &args.command;
    for said in build.deprecations() {
        say(format_args!("warning: {said}"));
    }
    // Leaving by the signal's branch drops the build, which tells the daemon to stop.
    let exit = tokio::select! {
        outcome = job::run(&args, build) => match outcome {
            Ok(solved) => {
                if !solved.digest().is_empty() {
                    say(format_args!("digest: {}", solved.digest()));
                }
                Exit::Done
            }
            Err(failure) => {
                say(format_args!("error: {}", failure.text));
                failure.exit
            }
        },
        () = ended() => {
            say("error: ended by a signal; the daemon has been told to stop");
            Exit::Interrupted
        }
    };
    exit.into()
}

/// Writes a line to standard error. Where nobody reads it any more, the exit code still says how it went.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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
