//! A frontend that wraps another one: Dockerfiles with `INCLUDE+`.
//!
//! What it does is in [`frontend`]; this file runs it as a frontend image.

mod frontend;

#[tokio::main(flavor = "current_thread")]
async fn main() -> buildkit_frontend::Result<()> {
    buildkit_frontend::serve(frontend::build).await
}
