//! A gateway without a daemon, for tests of frontends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{Definition, Platform};
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use crate::bridge::{Bridge, Environment, Tree, Worker};
use crate::caps::Caps;
use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::options::Options;
use crate::output::BuildResult;
use crate::process::{Exit, Output};
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
/// What a solved reference contains is told by its graph: a `local://` source
/// has the [files](Self::file) of that name, and everything else has the files
/// put in with the empty name.
///
/// # Defaults
/// Session `session`, one worker of platform `linux/amd64`, all capabilities,
/// no options, files or images.
#[derive(Clone)]
pub struct Simulated {
    environment: Environment,
    setup: Arc<Setup>,
    record: Arc<Mutex<Record>>,
}

type Resolver = dyn Fn(&gateway::ResolveSourceMetaRequest) -> Option<Result<gateway::ResolveSourceMetaResponse>>
    + Send
    + Sync;
type Solver = dyn Fn(&gateway::SolveRequest) -> Option<Result<gateway::Result>> + Send + Sync;
type Runner = dyn Fn(&pb::Meta) -> Result<Output> + Send + Sync;

#[derive(Clone, Default)]
struct Setup {
    /// By source name, then path.
    files: BTreeMap<String, BTreeMap<String, Bytes>>,
    images: BTreeMap<String, (String, Bytes)>,
    inputs: BTreeMap<String, pb::Definition>,
    resolver: Option<Arc<Resolver>>,
    solver: Option<Arc<Solver>>,
    runner: Option<Arc<Runner>>,
}

#[derive(Default)]
struct Record {
    solves: Vec<gateway::SolveRequest>,
    /// The source each reference reads from, by the number in its id.
    trees: Vec<String>,
    resolved: Vec<gateway::ResolveSourceMetaRequest>,
    evaluated: Vec<String>,
    warnings: Vec<gateway::WarnRequest>,
    containers: BTreeSet<String>,
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

    /// Puts a file into the local source `name`, such as `context`; with an
    /// empty name, into everything that has no files of its own.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, path: &str, content: impl Into<Bytes>) -> Self {
        self.setup().files.entry(name.into()).or_default().insert(clean(path), content.into());
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

    /// Answers solves in a way of the test's own, for example with an error;
    /// `None` leaves a solve to the simulation.
    #[must_use]
    pub fn on_solve(
        mut self,
        solver: impl Fn(&gateway::SolveRequest) -> Option<Result<gateway::Result>> + Send + Sync + 'static,
    ) -> Self {
        self.setup().solver = Some(Arc::new(solver));
        self
    }

    /// Runs processes of containers; without it there are no containers.
    #[must_use]
    pub fn on_process(
        mut self,
        runner: impl Fn(&pb::Meta) -> Result<Output> + Send + Sync + 'static,
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
        self.record().containers.iter().cloned().collect()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // A test that panicked while it held the lock left whole values.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self, tree: Tree<'_>) -> Result<&BTreeMap<String, Bytes>> {
        const NONE: &BTreeMap<String, Bytes> = &BTreeMap::new();
        let Tree::Reference(id) = tree else {
            return Ok(self.setup.files.get("").unwrap_or(NONE));
        };
        let number = id.strip_prefix("ref-").and_then(|number| number.parse::<usize>().ok());
        let record = self.record();
        let source = number.and_then(|number| record.trees.get(number));
        let source = source.ok_or_else(|| Error::new(format!("no such ref: {id}")))?;
        Ok(self.setup.files.get(source).or_else(|| self.setup.files.get("")).unwrap_or(NONE))
    }
}

#[async_trait]
impl Bridge for Simulated {
    fn environment(&self) -> &Environment {
        &self.environment
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
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
        self.record().solves.push(request.clone());
        if let Some(answer) = self.setup.solver.as_ref().and_then(|solver| solver(&request)) {
            return answer;
        }
        let Some(definition) = request.definition else {
            if request.frontend.is_empty() {
                let empty = Some(gateway::result::Result::Ref(gateway::Ref::default()));
                return Ok(gateway::Result { result: empty, ..Default::default() });
            }
            return Ok(self.reference(String::new(), None));
        };
        Ok(self.reference(local_name(&definition).unwrap_or_default(), Some(definition)))
    }

    async fn evaluate(&self, reference: &str) -> Result<()> {
        self.record().evaluated.push(reference.into());
        Ok(())
    }

    async fn read_file(
        &self,
        tree: Tree<'_>,
        path: &str,
        range: Option<gateway::FileRange>,
    ) -> Result<Bytes> {
        let content = self.files(tree)?.get(&clean(path)).cloned().ok_or_else(|| missing("open", path))?;
        let Some(range) = range else {
            return Ok(content);
        };
        let start = usize::try_from(range.offset).unwrap_or(0).min(content.len());
        let length = usize::try_from(range.length).unwrap_or(0);
        Ok(content.slice(start..start.saturating_add(length).min(content.len())))
    }

    async fn read_dir(&self, tree: Tree<'_>, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        let files = self.files(tree)?;
        let folder = clean(path);
        let prefix = if folder.is_empty() { folder } else { folder + "/" };
        let below = files.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut entries: BTreeMap<&str, fsutil::Stat> = BTreeMap::new();
        for (name, content) in below {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            let (name, stat) = match rest.split_once('/') {
                Some((folder, _)) => (folder, folder_stat(folder)),
                None => (rest, file_stat(rest, content)),
            };
            if matches(include, name) {
                entries.insert(name, stat);
            }
        }
        if entries.is_empty() && include.is_empty() && !prefix.is_empty() {
            return Err(missing("open", path));
        }
        Ok(entries.into_values().collect())
    }

    async fn stat_file(&self, tree: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        let files = self.files(tree)?;
        let name = clean(path);
        if let Some(content) = files.get(&name) {
            return Ok(file_stat(path, content));
        }
        let prefix = format!("{name}/");
        let is_folder = files.range(prefix.clone()..).next().is_some_and(|(n, _)| n.starts_with(&prefix));
        if name.is_empty() || is_folder { Ok(folder_stat(path)) } else { Err(missing("lstat", path)) }
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        Ok(self.setup.inputs.clone())
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        self.record().warnings.push(request);
        Ok(())
    }

    async fn new_container(&self, request: gateway::NewContainerRequest) -> Result<()> {
        if self.setup.runner.is_none() {
            return Err(Error::with_code(Code::Unimplemented, "the simulation has no containers"));
        }
        self.record().containers.insert(request.container_id);
        Ok(())
    }

    async fn release_container(&self, container: &str) -> Result<()> {
        self.record().containers.remove(container);
        Ok(())
    }

    fn abandon_container(&self, container: String) {
        self.record().containers.remove(&container);
    }

    async fn exec(
        &self,
        mut input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        use gateway::exec_message::Input;
        let (Some(runner), Some(first)) = (&self.setup.runner, input.next().await) else {
            return Err(Error::with_code(Code::Unimplemented, "the simulation has no containers"));
        };
        let Some(Input::Init(init)) = first.input else {
            return Err(Error::with_code(Code::InvalidArgument, "a process starts with its init message"));
        };
        if !self.record().containers.contains(&init.container_id) {
            return Err(Error::with_code(Code::NotFound, "the container was released or never made"));
        }
        let Output { exit: Exit { code }, stdout, stderr } = runner(&init.meta.unwrap_or_default())?;
        let file = |fd, data| Input::File(gateway::FdMessage { fd, eof: false, data });
        let messages = [
            Input::Started(gateway::StartedMessage {}),
            file(1, stdout),
            file(2, stderr),
            Input::Exit(gateway::ExitMessage { code, error: None }),
            Input::Done(gateway::DoneMessage {}),
        ];
        let id = first.process_id;
        Ok(stream::iter(messages)
            .map(move |input| Ok(gateway::ExecMessage { process_id: id.clone(), input: Some(input) }))
            .boxed())
    }
}

impl Simulated {
    fn reference(&self, source: String, def: Option<pb::Definition>) -> gateway::Result {
        let mut record = self.record();
        let id = format!("ref-{}", record.trees.len());
        record.trees.push(source);
        let result = Some(gateway::result::Result::Ref(gateway::Ref { id, def }));
        gateway::Result { result, ..Default::default() }
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("environment", &self.environment).finish_non_exhaustive()
    }
}

/// The name of the local source that a graph consists of.
fn local_name(definition: &pb::Definition) -> Option<String> {
    let definition = Definition::from_pb(definition.clone()).ok()?;
    let (head, _) = definition.head().ok()??;
    match definition.op(&head)?.message().ok()?.op? {
        pb::op::Op::Source(source) => source.identifier.strip_prefix("local://").map(str::to_owned),
        _ => None,
    }
}

fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

fn missing(call: &str, path: &str) -> Error {
    Error::with_code(Code::NotFound, format!("{call} {path}: no such file or directory"))
}

fn file_stat(path: &str, content: &Bytes) -> fsutil::Stat {
    fsutil::Stat {
        path: Bytes::copy_from_slice(path.as_bytes()),
        mode: 0o644,
        size: i64::try_from(content.len()).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

fn folder_stat(path: &str) -> fsutil::Stat {
    fsutil::Stat {
        path: Bytes::copy_from_slice(path.as_bytes()),
        mode: 1 << 31 | 0o755,
        ..Default::default()
    }
}

/// Whether a name matches a pattern of `*` and `?`; an empty one matches all.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || Some(&c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // The star takes one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}
