//! BuildKit for Rust programs: the builder, the Dockerfile frontend and the client in one crate.
//!
//! Each module is one crate of the workspace, under the name that reads best in a program.

#[cfg(feature = "client")]
pub use buildkit_client as client;
#[cfg(feature = "dockerfile")]
pub use buildkit_dockerfile as dockerfile;
pub use buildkit_frontend as frontend;
pub use buildkit_llb as llb;
