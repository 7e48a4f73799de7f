//! A gateway without a daemon, for tests of frontends.

mod process;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{Definition, Platform};
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::process::SimulatedProcess;
use self::tree::Files;
use crate::bridge::{Bridge, Environment, Tree, Worker};
use crate::caps::Caps;
use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::options::Options;
use crate::output::BuildResult;
use crate::process::Output;
use crate::run::run;

/// A gateway that builds nothing: it hands out files and images that the test
/// put in, and records what the frontend asked for.
///
/// ```
/// use buildkit_frontend::{BuildResult, Gateway, Result, Simulated, Solve};
///
/// async fn build(gateway: Gateway) -> Result<BuildResult> {
///     gateway.solve(Solve::frontend("dockerfile.v0").option("target", "test")).await
/// }
///
/// # futures::executor::block_on(async {
/// let simulated = Simulated::new().option("target", "ignored");
/// simulated.run(build).await?;
/// let solves = simulated.solves();
/// assert_eq!(solves[0].frontend, "dockerfile.v0");
/// assert_eq!(solves[0].frontend_opt["target"], "test");
/// # Ok::<(), buildkit_frontend::Error>(()) }).unwrap();
/// ```
///
/// What a solved reference contains is told by its graph: a source has the
/// [files](Self::file) that were put in under its name, another frontend's
/// result those of the frontend's name, and everything else those of the empty
/// name.
///
/// Failures are simulated too: of solves and sources by what
/// [`on_solve`](Self::on_solve) and [`on_resolve`](Self::on_resolve) answer, of
/// any call by [`on_call`](Self::on_call), and a daemon that can do less by
/// [`configure`](Self::configure).
///
/// # Defaults
/// Session `session`, one worker of platform `linux/amd64`, all capabilities,
/// no options, files, images or secrets.
#[derive(Clone)]
pub struct Simulated {
    environment: Environment,
    setup: Arc<Setup>,
    record: Arc<Mutex<Record>>,
}

type Check = dyn Fn(&str) -> Result<()> + Send + Sync;
type Resolver = dyn Fn(&gateway::ResolveSourceMetaRequest) -> Option<Result<gateway::ResolveSourceMetaResponse>>
    + Send
    + Sync;
type Solver = dyn Fn(&gateway::SolveRequest) -> Option<Result<gateway::Result>> + Send + Sync;
type Runner = dyn Fn(&SimulatedProcess) -> Result<Output> + Send + Sync;

#[derive(Clone, Default)]
struct Setup {
    /// By source name.
    files: BTreeMap<String, Files>,
    images: BTreeMap<String, (String, Bytes)>,
    inputs: BTreeMap<String, pb::Definition>,
    secrets: BTreeMap<String, String>,
    check: Option<Arc<Check>>,
    resolver: Option<Arc<Resolver>>,
    solver: Option<Arc<Solver>>,
    runner: Option<Arc<Runner>>,
}

#[derive(Default)]
struct Record {
    calls: Vec<&'static str>,
    solves: Vec<gateway::SolveRequest>,
    /// The names that each reference's files may be found under, by the number in its id.
    trees: Vec<Vec<String>>,
    resolved: Vec<gateway::ResolveSourceMetaRequest>,
    evaluated: Vec<String>,
    warnings: Vec<gateway::WarnRequest>,
    containers: BTreeMap<String, gateway::NewContainerRequest>,
}

impl Default for Simulated {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulated {
    /// A simulation with the defaults above.
    pub fn new() -> Self {
        let environment = Environment {
            session_id: "session".into(),
            workers: vec![Worker {
                id: "worker".into(),
                platforms: vec![Platform::LINUX_AMD64],
                ..Worker::default()
            }],
            caps: Caps::current_gateway(),
            llb_caps: ServerCaps::all(),
            ..Environment::default()
        };
        Self { environment, setup: Arc::default(), record: Arc::default() }
    }

    /// Sets an option of the frontend.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.environment.options.insert(name, text);
        self
    }

    /// Sets all options of the frontend.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.environment.options = options;
        self
    }

    /// Changes what is known before the first call: workers, capabilities.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Environment)) -> Self {
        change(&mut self.environment);
        self
    }

    /// Puts a file into the tree `name`:
    ///
    /// - a directory of the client, such as `context`;
    /// - an image or other source, by its identifier, such as
    ///   `docker.io/library/alpine:3.22` (with or without its digest) or
    ///   `https://example.com/file`;
    /// - the result of another frontend, such as `dockerfile.v0`;
    /// - with an empty name, everything that has no files of its own.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, path: &str, content: impl Into<Bytes>) -> Self {
        self.setup().files.entry(name.into()).or_default().insert(path, content.into());
        self
    }

    /// Offers an image under the exact reference a frontend resolves.
    #[must_use]
    pub fn image(
        mut self,
        reference: impl Into<String>,
        digest: impl Into<String>,
        config: impl Into<Bytes>,
    ) -> Self {
        self.setup().images.insert(reference.into(), (digest.into(), config.into()));
        self
    }

    /// Gives the frontend an input.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, definition: &Definition) -> Self {
        self.setup().inputs.insert(name.into(), definition.to_pb());
        self
    }

    /// Gives the processes of the frontend's containers a secret.
    #[must_use]
    pub fn secret(mut self, id: impl Into<String>, text: impl Into<String>) -> Self {
        self.setup().secrets.insert(id.into(), text.into());
        self
    }

    /// Is told of each call before it is made, by the name that it has in the
    /// protocol, such as `Solve`, `ReadFile` or `Evaluate`. An error is what
    /// the frontend gets in place of an answer.
    ///
    /// ```
    /// use buildkit_frontend::{BuildResult, Code, Error, Gateway, Result, Simulated};
    /// use buildkit_llb::local;
    ///
    /// async fn build(gateway: Gateway) -> Result<BuildResult> {
    ///     let tree = gateway.solve_state(&local("context")).await?;
    ///     tree.reference()?.read_file("list").await?;
    ///     Ok(tree)
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// let simulated = Simulated::new().on_call(|call| match call {
    ///     "ReadFile" => Err(Error::with_code(Code::Unavailable, "the disk is gone")),
    ///     _ => Ok(()),
    /// });
    /// assert_eq!(simulated.run(build).await.unwrap_err().message(), "the disk is gone");
    /// assert_eq!(simulated.calls(), ["Solve", "ReadFile"]);
    /// # });
    /// ```
    #[must_use]
    pub fn on_call(mut self, check: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Self {
        self.setup().check = Some(Arc::new(check));
        self
    }

    /// Resolves sources in a way of the test's own; `None` leaves a source to
    /// the images put in.
    #[must_use]
    pub fn on_resolve(
        mut self,
        resolver: impl Fn(
            &gateway::ResolveSourceMetaRequest,
        ) -> Option<Result<gateway::ResolveSourceMetaResponse>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.setup().resolver = Some(Arc::new(resolver));
        self
    }

    /// Answers solves in a way of the test's own, for example with an error or
    /// with a [`tree`](Self::tree); `None` leaves a solve to the simulation.
    #[must_use]
    pub fn on_solve(
        mut self,
        solver: impl Fn(&gateway::SolveRequest) -> Option<Result<gateway::Result>> + Send + Sync + 'static,
    ) -> Self {
        self.setup().solver = Some(Arc::new(solver));
        self
    }

    /// A result with the files of the tree `name`, for
    /// [`on_solve`](Self::on_solve).
    ///
    /// ```
    /// use buildkit_frontend::{BuildResult, Gateway, Result, Simulated};
    /// use buildkit_llb::{image, sh};
    ///
    /// async fn build(gateway: Gateway) -> Result<BuildResult> {
    ///     let built = gateway.solve_state(&image("alpine").run(sh("make > /log")).root()).await?;
    ///     let log = built.reference()?.read_file("/log").await?;
    ///     Ok(built.with_metadata("frontend.log", log))
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// let simulated =
    ///     Simulated::new().file("made", "/log", "all done").on_solve(|_| Some(Ok(Simulated::tree("made"))));
    /// assert_eq!(simulated.run(build).await?.metadata["frontend.log"], "all done");
    /// # Ok::<(), buildkit_frontend::Error>(()) }).unwrap();
    /// ```
    pub fn tree(name: &str) -> gateway::Result {
        let reference = gateway::Ref { id: format!("{NAMED}{name}"), def: None };
        gateway::Result { result: Some(gateway::result::Result::Ref(reference)), ..Default::default() }
    }

    /// Runs processes of containers; without it there are no containers. An
    /// error is that of a process that cannot be started.
    ///
    /// ```
    /// use buildkit_frontend::{BuildResult, Error, Gateway, NewContainer, Output, Process, Result, Simulated};
    ///
    /// async fn build(gateway: Gateway) -> Result<BuildResult> {
    ///     let tree = gateway.solve_state(&buildkit_llb::image("alpine")).await?;
    ///     let container = gateway.container(NewContainer::new(tree.reference()?)).await?;
    ///     let answer = container.run(Process::new(["wc", "-c", "/etc/os-release"])).await?;
    ///     if !answer.exit.success() {
    ///         return Err(Error::new("it does not count"));
    ///     }
    ///     Ok(tree.with_metadata("frontend.size", answer.stdout))
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// let simulated = Simulated::new().on_process(|process| match process.program() {
    ///     "wc" => Ok(Output::success("188")),
    ///     other => Ok(Output::failure(127, format!("{other}: not found"))),
    /// });
    /// assert_eq!(simulated.run(build).await?.metadata["frontend.size"], "188");
    /// # Ok::<(), buildkit_frontend::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn on_process(
        mut self,
        runner: impl Fn(&SimulatedProcess) -> Result<Output> + Send + Sync + 'static,
    ) -> Self {
        self.setup().runner = Some(Arc::new(runner));
        self
    }

    fn setup(&mut self) -> &mut Setup {
        Arc::make_mut(&mut self.setup)
    }

    /// The gateway to call a frontend with.
    pub fn gateway(&self) -> Gateway {
        Gateway::new(self.clone())
    }

    /// Calls a frontend.
    ///
    /// # Errors
    /// Those of the frontend, its panic included.
    pub async fn run<F, Fut, R, E>(&self, build: F) -> Result<BuildResult>
    where
        F: FnOnce(Gateway) -> Fut,
        Fut: Future<Output = Result<R, E>>,
        R: Into<BuildResult>,
        E: Into<Error>,
    {
        run(self.gateway(), build).await
    }

    /// The calls so far, in order, by the names that they have in the protocol.
    pub fn calls(&self) -> Vec<&'static str> {
        self.record().calls.clone()
    }

    /// The graphs that were solved so far, in order; calls of other frontends
    /// are among the [`solves`](Self::solves) only.
    pub fn graphs(&self) -> Vec<Definition> {
        let record = self.record();
        let graphs = record.solves.iter().filter_map(|solve| solve.definition.clone());
        graphs.filter_map(|graph| Definition::from_pb(graph).ok()).collect()
    }

    /// The solves so far, in order.
    pub fn solves(&self) -> Vec<gateway::SolveRequest> {
        self.record().solves.clone()
    }

    /// The sources that were resolved so far, in order.
    pub fn resolved(&self) -> Vec<gateway::ResolveSourceMetaRequest> {
        self.record().resolved.clone()
    }

    /// The references that were evaluated so far, in order.
    pub fn evaluated(&self) -> Vec<String> {
        self.record().evaluated.clone()
    }

    /// The warnings so far, in order.
    pub fn warnings(&self) -> Vec<gateway::WarnRequest> {
        self.record().warnings.clone()
    }

    /// The containers that were made and not yet released.
    pub fn containers(&self) -> Vec<String> {
        self.record().containers.keys().cloned().collect()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // A test that panicked while it held the lock left whole values.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call, and asks the test what it thinks of it.
    fn call(&self, name: &'static str) -> Result<()> {
        self.record().calls.push(name);
        self.setup.check.as_ref().map_or(Ok(()), |check| check(name))
    }

    fn files(&self, tree: Tree<'_>) -> Result<&Files> {
        const NONE: &Files = &Files::EMPTY;
        let record = self.record();
        let id = match tree {
            Tree::Reference(id) => id,
            Tree::Mount { container, index } => {
                let container = record.containers.get(container);
                let container =
                    container.ok_or_else(|| Error::new(format!("container {tree:?} not found")))?;
                let mount = usize::try_from(index).ok().and_then(|index| container.mounts.get(index));
                let mount =
                    mount.ok_or_else(|| Error::new(format!("container details for {tree:?} not found")))?;
                if mount.result_id.is_empty() {
                    return Ok(NONE);
                }
                &mount.result_id
            }
        };
        let by_name = |name: &str| self.setup.files.get(name);
        if let Some(name) = id.strip_prefix(NAMED) {
            return Ok(by_name(name).unwrap_or(NONE));
        }
        let number = id.strip_prefix(NUMBERED).and_then(|number| number.parse::<usize>().ok());
        let names = number.and_then(|number| record.trees.get(number));
        let names = names.ok_or_else(|| Error::new(format!("no such ref: {id}")))?;
        Ok(names.iter().find_map(|name| by_name(name)).or_else(|| by_name("")).unwrap_or(NONE))
    }

    fn reference(&self, names: Vec<String>, def: Option<pb::Definition>) -> gateway::Result {
        let mut record = self.record();
        let id = format!("{NUMBERED}{}", record.trees.len());
        record.trees.push(names);
        let result = Some(gateway::result::Result::Ref(gateway::Ref { id, def }));
        gateway::Result { result, ..Default::default() }
    }
}

/// What ids of references begin with: the number of a solve follows, or the name of a tree.
const NUMBERED: &str = "ref-";
const NAMED: &str = "tree-";

#[async_trait]
impl Bridge for Simulated {
    fn environment(&self) -> &Environment {
        &self.environment
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        self.call("ResolveSourceMeta")?;
        self.record().resolved.push(request.clone());
        if let Some(answer) = self.setup.resolver.as_ref().and_then(|resolver| resolver(&request)) {
            return answer;
        }
        let source = request.source.unwrap_or_default();
        let reference = ["docker-image://", "oci-layout://"]
            .iter()
            .find_map(|scheme| source.identifier.strip_prefix(scheme));
        let image = match reference {
            None => None,
            Some(reference) => match self.setup.images.get(reference) {
                Some((digest, config)) => Some(gateway::ResolveSourceImageResponse {
                    digest: digest.clone(),
                    config: config.clone(),
                    attestation_chain: None,
                }),
                None => {
                    return Err(Error::with_code(Code::NotFound, format!("{reference}: not found")));
                }
            },
        };
        Ok(gateway::ResolveSourceMetaResponse { source: Some(source), image, ..Default::default() })
    }

    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result> {
        self.call("Solve")?;
        self.record().solves.push(request.clone());
        if let Some(answer) = self.setup.solver.as_ref().and_then(|solver| solver(&request)) {
            return answer;
        }
        if let Some(definition) = request.definition {
            return Ok(self.reference(tree::names(&definition), Some(definition)));
        }
        if request.frontend.is_empty() {
            let empty = Some(gateway::result::Result::Ref(gateway::Ref::default()));
            return Ok(gateway::Result { result: empty, ..Default::default() });
        }
        let image = request.frontend_opt.get("source").cloned();
        Ok(self.reference(image.into_iter().chain([request.frontend]).collect(), None))
    }

    async fn evaluate(&self, reference: &str) -> Result<()> {
        self.call("Evaluate")?;
        self.record().evaluated.push(reference.into());
        Ok(())
    }

    async fn read_file(
        &self,
        tree: Tree<'_>,
        path: &str,
        range: Option<gateway::FileRange>,
    ) -> Result<Bytes> {
        self.call(one_of(tree, "ReadFile", "ReadFileContainer"))?;
        self.files(tree)?.read(path, range)
    }

    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        self.call(one_of(tree, "ReadDir", "ReadDirContainer"))?;
        self.files(tree)?.list(path, include)
    }

    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        self.call(one_of(tree, "StatFile", "StatFileContainer"))?;
        self.files(tree)?.stat(path)
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        self.call("Inputs")?;
        Ok(self.setup.inputs.clone())
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        self.call("Warn")?;
        self.record().warnings.push(request);
        Ok(())
    }

    async fn new_container(&self, request: gateway::NewContainerRequest) -> Result<()> {
        self.call("NewContainer")?;
        if self.setup.runner.is_none() {
            return Err(no_containers());
        }
        self.check_secrets(&request)?;
        self.record().containers.insert(request.container_id.clone(), request);
        Ok(())
    }

    async fn release_container(&self, container: &str) -> Result<()> {
        self.call("ReleaseContainer")?;
        self.record().containers.remove(container);
        Ok(())
    }

    fn abandon_container(&self, container: String) {
        self.record().containers.remove(&container);
    }

    async fn exec(
        &self,
        input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        self.call("ExecProcess")?;
        self.run_process(input).await
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("environment", &self.environment).finish_non_exhaustive()
    }
}

fn one_of(tree: Tree<'_>, of_result: &'static str, of_container: &'static str) -> &'static str {
    match tree {
        Tree::Reference(_) => of_result,
        Tree::Mount { .. } => of_container,
    }
}

fn no_containers() -> Error {
    Error::with_code(Code::Unimplemented, "the simulation has no containers")
}
