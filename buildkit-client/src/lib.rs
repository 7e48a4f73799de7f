//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.
//!
//! A [`Client`] is a daemon, found by its address. [`Client::solve`] makes a build of a graph, a
//! [`Dockerfile`](dockerfile::Dockerfile) or any [`Frontend`](request::Frontend); methods of [`Solve`] say what the
//! build may use and where its result goes. Awaiting it runs it, dropping that future cancels it.
//!
//! # Build a Dockerfile and push the image
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use buildkit_client::{Client, docker_config::DockerConfig, dockerfile::Dockerfile, export::Export, progress};
//!
//! let client = Client::from_env().await?;
//! let solved = client
//!     .solve(Dockerfile::new("path/to/project").target("app").build_arg("VERSION", "1.2"))
//!     .auth(DockerConfig::load()?)
//!     .export(Export::image("registry.example/app:1.2").push())
//!     .progress(progress::auto())
//!     .await?;
//! println!("{}", solved.digest());
//! # Ok(()) }
//! ```
//!
//! # Get files back
//!
//! ```no_run
//! # async fn f(client: buildkit_client::Client, graph: buildkit_llb::State) -> Result<(), buildkit_client::Error> {
//! use buildkit_client::export::{Export, Output};
//! client
//!     .solve(graph)
//!     .local("src", ".")
//!     .export(Export::local("out"))
//!     .export(Export::oci(Output::file("image.tar")))
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Secrets, agents and caches
//!
//! ```no_run
//! # async fn f(client: buildkit_client::Client, graph: buildkit_llb::State) -> Result<(), buildkit_client::Error> {
//! use buildkit_client::cache::RegistryCache;
//! use buildkit_client::session::{secrets::SecretSource, ssh::SshSource};
//! let cache = RegistryCache::new("registry.example/app/cache");
//! client
//!     .solve(graph)
//!     .secret("token", SecretSource::env("TOKEN"))
//!     .ssh("default", SshSource::agent())
//!     .cache_from(cache.clone())
//!     .cache_to(cache.max())
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # Act on an error
//!
//! ```no_run
//! # async fn f(build: buildkit_client::Solve) {
//! use buildkit_client::Error;
//! match build.await {
//!     Ok(solved) => println!("{}", solved.digest()),
//!     Err(Error::Solve(error)) => {
//!         eprintln!("{error}; exit code {:?}, step {:?}", error.exit_code(), error.vertex_name());
//!         error.last_logs().iter().for_each(|line| eprintln!("  {line}"));
//!     }
//!     Err(error) if error.is_transient() => eprintln!("try again: {}", error.report()),
//!     Err(error) => eprintln!("{}", error.report()),
//! }
//! # }
//! ```
//!
//! # Leave a build, and find it again
//!
//! ```no_run
//! # async fn f(client: buildkit_client::Client, graph: buildkit_llb::State) -> Result<(), buildkit_client::Error> {
//! use buildkit_client::progress;
//! let reference = client.solve(graph).start().detach();
//! // from any process
//! let solved = client.attach(&reference, progress::plain()).await?;
//! # Ok(()) }
//! ```
//!
//! # More
//!
//! [`Client::build`] lets a function of this program drive a build, step by step. [`Client::session`] opens a session
//! that several builds share. [`debug`] looks into a step that failed, [`history`] at builds of the past, [`control`]
//! at what the daemon keeps. [`connect`] lists the addresses, [`connect::Liveness`] and [`Retry`] every limit.

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
