//! `cargo xtask codegen`: brings the checked-in protobuf code up to date.

use std::process::{Command, ExitCode};

/// Runs the test that holds the generator. It rewrites what is stale and then
/// fails, so a second run tells whether all is well.
pub(crate) fn run() -> ExitCode {
    let regenerate = || {
        Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--package", "buildkit-proto", "--test", "regenerate"])
            .status()
            .is_ok_and(|status| status.success())
    };
    if regenerate() || regenerate() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
