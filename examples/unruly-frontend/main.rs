//! A frontend that misbehaves as it is told: what the tests of errors run.
//!
//! The option `do` says how: `panic`, `fail`, `exit`, `hang`, `print`, or `return` to behave.

#![allow(clippy::print_stdout)] // that is one of its faults

use buildkit_frontend::{BuildResult, Error, Gateway, Result, serve};

async fn build(gateway: Gateway) -> Result<BuildResult> {
    match gateway.options().get("do").unwrap_or_default() {
        "panic" => panic!("this is on purpose"),
        "fail" => Err(Error::new("there is a reason")),
        "exit" => std::process::exit(3),
        "hang" => std::future::pending().await,
        "print" => {
            for line in 0..10_000 {
                println!("{line}: standard output belongs to the daemon");
            }
            Ok(BuildResult::default().with_metadata("frontend.printed", "10000"))
        }
        "return" => Ok(BuildResult::default()),
        other => Err(Error::new(format!("do what? {other:?} is not known"))),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    serve(build).await
}
