//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.

pub mod connect;
pub mod error;
pub mod progress;
mod secret;
pub mod session;
pub mod tls;

pub use error::Error;
pub use secret::Secret;
