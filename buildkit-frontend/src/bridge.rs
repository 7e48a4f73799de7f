//! The seam below the [`Gateway`](crate::Gateway): what an engine, a
//! connection or a simulation implements.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{Definition, Platform};
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::caps::Caps;
use crate::error::{Code, Error, Result};
use crate::options::Options;

/// Whoever builds for a frontend. Messages are those of the wire contract, so
/// that an implementation has nothing to translate; frontends use
/// [`Gateway`](crate::Gateway), which is written on top.
///
/// Calls may be dropped at any time and then have no effect that lasts longer
/// than the build.
///
/// Only the methods without a default are needed by frontends that start no
/// containers.
#[async_trait]
pub trait Bridge: fmt::Debug + Send + Sync + 'static {
    /// What is known of the build before the first call.
    fn environment(&self) -> &Environment;

    /// Resolves a source to what it stands for now. Implementations that
    /// cannot resolve a kind of source return it unchanged.
    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse>;

    /// Makes references to the results of a graph or of another frontend.
    /// They may still have to be built unless the request says `evaluate`.
    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result>;

    /// Builds a reference.
    async fn evaluate(&self, reference: &str) -> Result<()>;

    /// Reads a regular file, or the part of it that `range` says.
    async fn read_file(&self, tree: Tree<'_>, path: &str, range: Option<gateway::FileRange>)
    -> Result<Bytes>;

    /// Lists one directory. `include` is a pattern, or empty for everything.
    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>>;

    /// Looks at one file; symbolic links are followed.
    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat>;

    /// The graphs that were given to the frontend as inputs.
    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        Ok(BTreeMap::new())
    }

    /// Shows a warning to the user.
    async fn warn(&self, _request: gateway::WarnRequest) -> Result<()> {
        Ok(())
    }

    /// Makes a container of the id in the request.
    async fn new_container(&self, _request: gateway::NewContainerRequest) -> Result<()> {
        Err(no_containers())
    }

    /// Ends a container and all that runs in it.
    async fn release_container(&self, _container: &str) -> Result<()> {
        Err(no_containers())
    }

    /// Ends a container whose handle was dropped; must not wait.
    fn abandon_container(&self, _container: String) {}

    /// Runs one process: the first message of `input` starts it, and the
    /// output ends after its last message. Dropping the output kills it.
    async fn exec(
        &self,
        _input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        Err(no_containers())
    }
}

fn no_containers() -> Error {
    Error::with_code(Code::Unimplemented, "containers are not available here")
}

/// A file tree to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree<'a> {
    /// The result called so.
    Reference(&'a str),
    /// A mount of a container.
    Mount {
        /// The id of the container.
        container: &'a str,
        /// Which of its mounts, from 0.
        index: i32,
    },
}

/// What is known of a build before the first call.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The options of the frontend.
    pub options: Options,
    /// The session that answers the build's callbacks; sources such as
    /// `local://` name it.
    pub session_id: String,
    /// The daemon's product, for messages to the user; empty is BuildKit.
    pub product: String,
    /// The workers, the default one first.
    pub workers: Vec<Worker>,
    /// What the gateway can do.
    pub caps: Caps,
    /// What may be used in graphs.
    pub llb_caps: ServerCaps,
    /// The graph the running frontend image came from.
    pub frontend: Option<Definition>,
}

/// A machine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// Its labels, such as `org.mobyproject.buildkit.worker.executor`.
    pub labels: BTreeMap<String, String>,
    /// What it can run, its own platform first.
    pub platforms: Vec<Platform>,
}
