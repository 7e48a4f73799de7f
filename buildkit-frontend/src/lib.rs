//! The kit for custom BuildKit frontends.
//!
//! A frontend is a function from a [`Gateway`] to a [`BuildResult`]. It reads
//! its options and contexts, solves graphs, and says what the image is. The
//! same function runs in three places: in the caller's process, in a frontend
//! image that `# syntax=` names, and in a unit test.
//!
//! ```
//! use buildkit_frontend::{BuildResult, Gateway, ImageConfig, Result, Simulated};
//! use buildkit_llb::{image, sh};
//!
//! async fn build(gateway: Gateway) -> Result<BuildResult> {
//!     let name = gateway.options().build_arg("NAME").unwrap_or("world").to_owned();
//!     let state = image("alpine").run(sh(format!("echo hello {name} > /greeting"))).root();
//!     let config = ImageConfig::new(&gateway.default_platform()).cmd(["cat", "/greeting"]);
//!     Ok(gateway.solve_state(&state).await?.with_config(config.to_json()))
//! }
//!
//! // In a test, without a daemon; a client takes `client.build(build)`, an image `serve(build)`.
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let simulated = Simulated::new().option("build-arg:NAME", "you");
//! let result = simulated.run(build).await?;
//! assert!(result.metadata.contains_key("containerimage.config"));
//! assert_eq!(simulated.graphs().len(), 1);
//! # Ok::<(), buildkit_frontend::Error>(()) }).unwrap();
//! ```
//!
//! [`Gateway`] is the running build. With the feature `contexts` (default),
//! `Contexts` finds the files of the user, and leaves out what their ignore
//! files say. With the feature `grpc`, `serve` makes a program a frontend
//! image. [`Simulated`] is for tests.

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
