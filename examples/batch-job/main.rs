//! Builds a Dockerfile on a remote BuildKit and pushes the image.
fn main() {}
