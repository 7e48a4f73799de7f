//! The kit for custom BuildKit frontends.
//!
//! A frontend is a function from a [`Gateway`] to a [`BuildResult`]. It reads
//! its options and contexts, solves graphs, and says what the image is. The
//! same function runs in three places: in the caller's process, in a frontend
//! image that `# syntax=` names, and in a unit test.

mod archive;
mod bridge;
mod caps;
mod container;
#[cfg(feature = "contexts")]
mod context;
mod detail;
mod error;
mod failure;
mod forward;
mod gateway;
#[cfg(feature = "grpc")]
mod grpc;
mod image_config;
mod options;
mod output;
mod platform;
mod process;
mod reference;
mod resolve;
mod run;
#[cfg(feature = "grpc")]
mod serve;
mod simulated;
mod solve;
mod stat;
pub mod subrequest;

pub use archive::{ARCHIVE_START, is_archive};
pub use bridge::{Bridge, Environment, Tree, Worker};
pub use caps::Caps;
pub use container::{Container, ContainerMount, NewContainer};
#[cfg(feature = "contexts")]
pub use context::{Contexts, DefinitionFile, NamedContext};
pub use detail::{Detail, SolveFailure, SourceDetail};
pub use error::{Code, Error, Result};
pub use gateway::{BaseImage, Gateway, Warning};
#[cfg(feature = "grpc")]
pub use grpc::{GrpcBridge, Transport};
pub use image_config::{ContainerConfig, ImageConfig, input_image_config};
pub use options::Options;
pub use output::{
    Attestation, AttestationKind, BASE_IMAGE_CONFIG, BuildResult, IMAGE_CONFIG, PLATFORMS, SOURCE_DATE_EPOCH,
    Subject, platform_id,
};
pub use process::{Event, Exit, Output, Process, Running, Stdin};
pub use reference::Reference;
pub use resolve::{ChecksumAlgorithm, ResolveImage, ResolveMode, ResolveSource, ResolvedImage};
pub use run::run;
#[cfg(feature = "grpc")]
pub use serve::serve;
pub use simulated::{Simulated, SimulatedProcess};
pub use solve::Solve;
pub use stat::{FileKind, FileStat};
