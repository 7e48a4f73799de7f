//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.

pub mod progress;
mod secret;

pub use secret::Secret;
