//! The smallest frontend: says hello to the daemon and builds nothing.
//!
//! It shows the shape of a frontend image's program, and is what the others'
//! start time is measured against.

#[path = "../clock.rs"]
mod clock;

use buildkit_frontend::{BuildResult, Gateway, Result, serve};

async fn build(_gateway: Gateway) -> Result<BuildResult> {
    Ok(BuildResult::default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    serve(|gateway| clock::clocked(gateway, build)).await
}
