//! The Dockerfile frontend as an image: name it in `# syntax=`.

#[path = "../clock.rs"]
mod clock;

#[tokio::main(flavor = "current_thread")]
async fn main() -> buildkit_frontend::Result<()> {
    buildkit_frontend::serve(|gateway| clock::clocked(gateway, buildkit_dockerfile::build)).await
}
