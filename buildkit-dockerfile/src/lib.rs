//! A complete Dockerfile frontend: parser, lint, and conversion to the LLB of the reference.
//!
//! - [`Dockerfile::parse`] gives stages and typed [`instructions`], with their places;
//! - [`Dockerfile::lint`], [`Dockerfile::targets`] and [`Dockerfile::outline`] say what is in a file;
//! - [`Dockerfile::to_llb`] converts it without a daemon, given a [`lower::Resolver`] for base images;
//! - [`build()`] is the frontend itself, over a gateway;
//! - [`parser::parse`] gives a syntax tree that keeps every byte, for formatters and editors.
//!
//! ```
//! use buildkit_dockerfile::{Dockerfile, instructions::Kind};
//!
//! let file = Dockerfile::parse("FROM alpine as app\nCOPY --link . /src\nRUN <<EOF\nmake\nEOF\n")?;
//! let stage = &file.stages[0];
//! assert_eq!(stage.name.as_deref(), Some("app"));
//! assert!(matches!(&stage.instructions[0].kind, Kind::Copy(copy) if copy.link));
//! assert_eq!(stage.instructions[1].lines.to_string(), "lines 3-5");
//!
//! let warnings = file.lint()?;
//! assert_eq!(warnings[0].rule.name, "FromAsCasing");
//!
//! let error = Dockerfile::parse("FROM alpine\nRUNN make\n").unwrap_err();
//! assert_eq!(error.to_string(), "unknown instruction: RUNN (did you mean RUN?)");
//! assert_eq!(error.locations()[0].start, 2);
//! # Ok::<(), buildkit_dockerfile::Error>(())
//! ```

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
#[cfg(feature = "labs")]
pub use self::build::build_labs;
pub use self::dockerfile::Dockerfile;
pub use self::error::{Error, ErrorKind, Result};
