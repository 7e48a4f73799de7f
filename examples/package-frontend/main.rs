//! A frontend for images that are a list of packages and a command.
//!
//! What it builds is in [`frontend`]; this file runs it as a frontend image.

mod frontend;

#[tokio::main(flavor = "current_thread")]
async fn main() -> buildkit_frontend::Result<()> {
    buildkit_frontend::serve(frontend::build).await
}
