//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.

mod build;
pub mod cache;
mod client;
pub mod connect;
pub mod content;
pub mod control;
pub mod debug;
pub mod docker_config;
pub mod dockerfile;
pub mod error;
pub mod export;
pub mod history;
mod output;
pub mod policy;
pub mod progress;
pub mod redact;
pub mod request;
mod retry;
mod secret;
pub mod session;
mod solve;
pub mod tls;
pub mod trace;

pub use client::{Client, ClientBuilder, Daemon};
pub use error::Error;
pub use retry::Retry;
pub use secret::Secret;
pub use session::Session;
pub use solve::{Build, Descriptor, Provenance, Solve, Solved};
