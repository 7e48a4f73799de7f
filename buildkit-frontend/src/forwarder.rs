//! Wrapping one build in another: the same daemon, other options.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::bridge::{Bridge, Environment, Tree};
use crate::error::Result;
use crate::gateway::Gateway;
use crate::solve::Solve;

/// The option that names the image of a frontend.
const SOURCE: &str = "source";

impl Gateway {
    /// A request that calls another frontend the way this one was called:
    /// with the same options and inputs. It can be changed before it is
    /// solved, which makes this frontend a wrapper around the other.
    ///
    /// `frontend` is one inside the daemon, such as `dockerfile.v0`, or the
    /// reference of an image.
    ///
    /// # Errors
    /// When the daemon cannot say which inputs there are.
    pub async fn forward(&self, frontend: &str) -> Result<Solve> {
        let own = self.options().iter().filter(|(name, _)| *name != SOURCE);
        let is_builtin = matches!(frontend, "dockerfile.v0" | "gateway.v0");
        let mut request =
            if is_builtin { Solve::frontend(frontend) } else { Solve::frontend_image(frontend) };
        request = request.options(own);
        for (name, input) in &self.inputs().await? {
            request = request.input(name, input);
        }
        Ok(request)
    }
}

/// A bridge with an environment of its own.
#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Bridge>,
    environment: Environment,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Bridge>, environment: Environment) -> Self {
        Self { below, environment }
    }
}

#[async_trait]
impl Bridge for Overlay {
    fn environment(&self) -> &Environment {
        &self.environment
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        self.below.resolve_source(request).await
    }

    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result> {
        self.below.solve(request).await
    }

    async fn evaluate(&self, reference: &str) -> Result<()> {
        self.below.evaluate(reference).await
    }

    async fn read_file(
        &self,
        tree: Tree<'_>,
        path: &str,
        range: Option<gateway::FileRange>,
    ) -> Result<Bytes> {
        self.below.read_file(tree, path, range).await
    }

    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        self.below.read_dir(tree, path, include).await
    }

    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        self.below.stat_file(tree, path).await
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        self.below.inputs().await
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        self.below.warn(request).await
    }

    async fn new_container(&self, request: gateway::NewContainerRequest) -> Result<()> {
        self.below.new_container(request).await
    }

    async fn release_container(&self, container: &str) -> Result<()> {
        self.below.release_container(container).await
    }

    fn abandon_container(&self, container: String) {
        self.below.abandon_container(container);
    }

    async fn exec(
        &self,
        input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        self.below.exec(input).await
    }
}
