//! BuildKit for Rust programs: the builder, the Dockerfile frontend and the client in one crate.
