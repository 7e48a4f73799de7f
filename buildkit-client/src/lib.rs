//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.

pub mod connect;
pub mod docker_config;
pub mod error;
pub mod progress;
pub mod redact;
mod secret;
pub mod session;
pub mod tls;

pub use error::Error;
pub use secret::Secret;
