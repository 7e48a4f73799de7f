//! Builds that a function of the caller drives.

use crate::client::Client;
use crate::connect::Channel;
use crate::request::{Frontend, Input, Request, registries_of};
use crate::session::member::Member;
use crate::session::{hosts_in, registry_of};
use crate::solve::Solve;
use buildkit_frontend::{Bridge, BuildResult, Environment, Gateway, GrpcBridge, Options, Result, Tree};
use buildkit_proto::{fsutil, gateway, pb};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tonic::{Code, Status};

/// How often a build is looked for that the daemon does not know yet. It waits 3 s each time.
const ATTEMPTS: u32 = 5;

impl Client {
    /// A build that `build` drives from this process: the function that a frontend image serves,
    /// without the image. It may be called again when a push is repeated.
    ///
    /// Options are set with [`opt`](Solve::opt), directories with [`local`](Solve::local); the
    /// errors of `build` come back as those of the daemon.
    ///
    /// ```no_run
    /// # async fn f(client: buildkit_client::Client) -> Result<(), buildkit_client::Error> {
    /// use buildkit_client::export::Export;
    /// use buildkit_frontend::{BuildResult, Gateway};
    ///
    /// async fn build(gateway: Gateway) -> buildkit_frontend::Result<BuildResult> {
    ///     let base = gateway.image("alpine:3.22").await?;
    ///     gateway.solve_state(&base.run(buildkit_llb::sh("date > /built")).root()).await
    /// }
    ///
    /// client.build(build).export(Export::local("out")).await?;
    /// # Ok(()) }
    /// ```
    pub fn build<F, Fut, R, E>(&self, build: F) -> Solve
    where
        F: Fn(Gateway) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<R, E>> + Send + 'static,
        R: Into<BuildResult> + Send + 'static,
        E: Into<buildkit_frontend::Error> + Send + 'static,
    {
        let build = Arc::new(build);
        let function = move |gateway| -> BoxFuture<'static, _> {
            let build = Arc::clone(&build);
            Box::pin(buildkit_frontend::run(gateway, move |gateway| build(gateway)))
        };
        let request = Request { input: Input::Gateway(Frontend::default()), ..Request::default() };
        self.solve(request).driven_by(BuildFunction(Arc::new(function)))
    }
}

type Function = dyn Fn(Gateway) -> BoxFuture<'static, buildkit_frontend::Result<BuildResult>> + Send + Sync;

/// A function that drives a build.
#[derive(Clone)]
pub(crate) struct BuildFunction(Arc<Function>);

impl fmt::Debug for BuildFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildFunction")
    }
}

impl BuildFunction {
    pub(crate) fn new(
        function: impl Fn(Gateway) -> BoxFuture<'static, Result<BuildResult>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(function))
    }

    /// Drives the build that was sent as `reference`, and reports its result to the daemon.
    pub(crate) async fn drive(
        self,
        channel: Channel,
        reference: String,
        session_id: String,
        build: Arc<Member>,
        options: BTreeMap<String, String>,
    ) -> std::result::Result<(), Status> {
        let environment =
            Environment { options: Options::from(options), session_id, ..Environment::default() };
        let mut attempt = 1;
        let bridge = loop {
            match GrpcBridge::connect(channel.clone(), Some(&reference), environment.clone()).await {
                Ok(bridge) => break bridge,
                Err(error) if error.code() == buildkit_frontend::Code::NotFound && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(status(&error)),
            }
        };
        let named = Named { bridge: bridge.clone(), build };
        let result = (self.0)(Gateway::new(named)).await;
        bridge.finish(&result).await.map_err(|error| status(&error))
    }
}

/// Lets the build use the credentials of the registries that its function names: the function is this program's, the
/// daemon is not.
#[derive(Debug)]
struct Named {
    bridge: GrpcBridge<Channel>,
    build: Arc<Member>,
}

impl Named {
    fn name(&self, text: &str) {
        let mut hosts = BTreeSet::new();
        hosts_in(text, &mut hosts);
        self.build.name_registries(hosts);
    }
}

#[async_trait::async_trait]
impl Bridge for Named {
    fn environment(&self) -> &Environment {
        self.bridge.environment()
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        if let Some((scheme, reference)) =
            request.source.as_ref().and_then(|source| source.identifier.split_once("://"))
            && scheme.starts_with("docker-image")
        {
            self.build.name_registries([registry_of(reference)]);
        }
        self.bridge.resolve_source(request).await
    }

    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result> {
        for definition in request.definition.iter().chain(request.frontend_inputs.values()) {
            self.build.name_registries(registries_of(definition));
        }
        for text in request.frontend_opt.values() {
            self.name(text);
        }
        for text in request.cache_imports.iter().filter_map(|cache| cache.attrs.get("ref")) {
            self.name(text);
        }
        self.bridge.solve(request).await
    }

    async fn evaluate(&self, reference: &str) -> Result<()> {
        self.bridge.evaluate(reference).await
    }

    async fn read_file(
        &self,
        tree: Tree<'_>,
        path: &str,
        range: Option<gateway::FileRange>,
    ) -> Result<bytes::Bytes> {
        self.bridge.read_file(tree, path, range).await
    }

    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        self.bridge.read_dir(tree, path, include).await
    }

    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        self.bridge.stat_file(tree, path).await
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        self.bridge.inputs().await
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        self.bridge.warn(request).await
    }

    async fn new_container(&self, request: gateway::NewContainerRequest) -> Result<()> {
        self.bridge.new_container(request).await
    }

    async fn release_container(&self, container: &str) -> Result<()> {
        self.bridge.release_container(container).await
    }

    fn abandon_container(&self, container: String) {
        self.bridge.abandon_container(container);
    }

    async fn exec(
        &self,
        input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        self.bridge.exec(input).await
    }
}

fn status(error: &buildkit_frontend::Error) -> Status {
    use prost::Message as _;
    let wire = error.to_status();
    let details = wire.encode_to_vec();
    Status::with_details(Code::from_i32(wire.code), wire.message, details.into())
}
