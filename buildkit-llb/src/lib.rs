//! A typed builder for LLB, BuildKit's build graph, with the digests of the reference implementation.
//!
//! A [`State`] is a file tree somewhere in the graph. It is a value: clone it, pass it around, build two
//! things on it. [`State::marshal`] turns a graph into the bytes a daemon takes, and is the only call that can
//! fail.
//!
//! ```
//! use buildkit_llb::{self as llb, Mount, Platform, sh};
//!
//! let build = llb::image("docker.io/library/rust:1.95-alpine")
//!     .dir("/src")
//!     .env("CARGO_HOME", "/cargo")
//!     .run(sh("cargo build --release --target-dir=/target && cargo doc --target-dir=/docs"))
//!     .name("compile")
//!     .mount("/src", Mount::bind(llb::Local::new("context").exclude(["target", ".git"])).readonly())
//!     .mount("/cargo/registry", Mount::cache("cargo-registry").locked())
//!     .mount("/run/secrets/netrc", Mount::secret("netrc").mode(0o400));
//! let (_root, [bin, docs]) = build.outputs([("/target", llb::scratch()), ("/docs", llb::scratch())]);
//!
//! let site = llb::merge([llb::image("nginx"), llb::scratch().copy(docs, "/doc", "/usr/share/nginx/html")]);
//! let definition = site.marshal(Platform::LINUX_AMD64)?;
//! assert_eq!(definition.ops().len(), 7);
//! # let _ = bin;
//! # Ok::<(), llb::Error>(())
//! ```
//!
//! Every op has two spellings: a function that is enough most of the time ([`image()`], [`merge()`],
//! [`State::copy`]) and a type with options ([`Image`], [`Merge`], [`Copy`](struct@Copy)) that converts into a [`State`] or
//! whatever is asked for. Methods of a [`State`] hold for everything built on it; methods after
//! [`run`](State::run) belong to that process.
//!
//! The crate does no I/O, reads neither clock nor environment nor randomness, and is not async: the same
//! program gives the same bytes.

mod build;
pub mod caps;
mod constraints;
mod definition;
mod diff;
mod digest;
mod dump;
mod env;
mod error;
mod exec;
mod file;
pub mod git_url;
mod graph;
mod image_config;
mod marshal;
mod merge;
mod mount;
mod op_bytes;
mod passthrough;
pub mod path;
pub mod platform;
pub mod reference;
mod shlex;
mod source;
mod source_map;
mod state;
mod validate;
mod walk;

pub use self::build::BuildOp;
pub use self::constraints::{Constraints, LinuxResources, OpMetadata, ProgressGroup};
pub use self::definition::{Definition, DefinitionOp};
pub use self::diff::{Diff, diff};
pub use self::digest::{Digest, ParseError as DigestParseError};
pub use self::env::EnvList;
pub use self::error::{Error, ErrorKind};
pub use self::exec::{Command, Device, Exec, ProxyEnv, Run, sh, shlex};
pub use self::file::{
    BoundAction, Copy, CopyOptions, CopySource, FileAction, FileSteps, MkDir, MkFile, Mode, Owner, Rm,
    Symlink, Timestamp, copy, mkdir, mkfile, rm, symlink,
};
pub use self::marshal::MarshalOptions;
pub use self::merge::{Merge, merge};
pub use self::mount::{
    Bind, Cache, ContentCache, CustomKind, CustomMount, Mount, Secret, Sharing, Ssh, Tmpfs,
};
pub use self::passthrough::{Passthrough, Requires};
pub use self::platform::Platform;
pub use self::shlex::{Error as ShlexError, split as shlex_split};
pub use self::source::{
    Differ, Git, GitBundle, GitSignature, Http, Image, ImageBlob, Local, Mtime, OciLayout, OciLayoutBlob,
    RecordType, ResolveMode, Source, git, http, image, local,
};
pub use self::source_map::{Position, Range, SourceLocation, SourceMap};
pub use self::state::{Context, Network, Security, State, Ulimit, scratch};

/// What must not compile does not.
#[cfg(doctest)]
#[doc = include_str!("../tests/refused.md")]
mod refused {}
