//! The program that looks into Dockerfiles, as a user runs it.
#![allow(missing_docs, clippy::unwrap_used)] // a failed step is a failed test

use std::io::Write as _;
use std::process::{Command, Stdio};

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for command in ["parse", "llb", "dot"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_dockerfile"));
        program.args([command, "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = program.spawn().unwrap();
        drop(program.stdout.take());
        // It cannot print before it has the whole file.
        program.stdin.take().unwrap().write_all(b"FROM alpine\nRUN make\n").unwrap();
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
    }
}
