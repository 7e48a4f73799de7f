//! From a Dockerfile to the build graph and the image config.
//!
//! A conversion goes through these steps: global arguments (`args`), stages and how they depend on each
//! other (`graph`), base images and their triggers (`base`), the instructions of each stage
//! (`evaluate`, `run`, `copy`), which become plain data (`step`), and finally the graph (`emit`).

pub(crate) mod args;
mod base;
mod config;
pub(crate) mod context;
pub(crate) mod convert;
mod copy;
pub(crate) mod emit;
mod epoch;
mod evaluate;
mod expansion;
mod expose;
pub(crate) mod go_json;
mod go_text;
pub(crate) mod graph;
mod library;
mod names;
mod options;
mod ownership;
mod paths;
mod resolver;
mod run;
pub(crate) mod scan;
mod signal;
pub(crate) mod stage;
pub(crate) mod step;
mod timestamp;
mod work;

pub use self::config::{ConfigError, ContainerConfig, Healthcheck, History, ImageConfig, RootFs, Set};
pub use self::library::Converted;
pub use self::options::{CacheImport, Channel, NoCache, Options, ResolveMode, SbomScanner};
pub use self::resolver::{
    ImageRequest, Read, Redirected, ResolveError, ResolvedImage, Resolver, SourceMetadata,
};
pub use self::timestamp::Timestamp;
