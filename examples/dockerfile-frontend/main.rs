//! The Dockerfile frontend as an image: name it in `# syntax=`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> buildkit_frontend::Result<()> {
    buildkit_frontend::serve(buildkit_dockerfile::build).await
}
