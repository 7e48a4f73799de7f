//! A complete Dockerfile frontend: parser, lint, and conversion to the LLB of the reference.

mod build;
mod dockerfile;
mod error;
pub mod expand;
pub mod instructions;
pub mod lint;
pub mod lower;
pub mod outline;
pub mod parser;
mod suggest;

pub use self::build::build;
pub use self::dockerfile::Dockerfile;
pub use self::error::{Error, ErrorKind, Result};
