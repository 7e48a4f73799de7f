//! Running a build.

mod drive;
mod features;
mod stores;

use crate::build::BuildFunction;
use crate::cache::{CacheExport, CacheImport};
use crate::client::Client;
use crate::content::OciStore;
use crate::debug::Look;
use crate::dockerfile::Dockerfile;
use crate::error::{Error, RequestError};
use crate::export::{Export, SessionExporter};
use crate::policy::{Entitlement, Policy, SourceVerifier};
use crate::progress::{CacheMetrics, Progress, VertexWarning};
use crate::request::{Frontend, Input, Local, Request, new_id};
use crate::retry::Retry;
use crate::session::auth::Auth;
use crate::session::secrets::SecretSource;
use crate::session::ssh::SshSource;
use crate::session::upload::Upload;
use crate::session::{Attachable, Attached, RegistryScope, Session};
use crate::trace::TraceContext;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit_fsutil::send::SendOptions;
use buildkit_llb::State;
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A build that has not started. Await it to run it; dropping that future cancels the build.
///
/// ```no_run
/// # async fn f(client: buildkit_client::Client) -> Result<(), buildkit_client::Error> {
/// use buildkit_client::{export::Export, progress, request::Frontend};
/// let solved = client
///     .solve(Frontend::new("dockerfile.v0").opt("target", "app"))
///     .local("context", ".")
///     .local("dockerfile", ".")
///     .export(Export::image("registry.local/app:1").push())
///     .progress(progress::auto())
///     .await?;
/// println!("pushed {}", solved.digest());
/// # Ok(()) }
/// ```
#[must_use = "a build runs when it is awaited or started"]
pub struct Solve {
    plan: Plan,
    progress: Progress,
}

/// Everything about a build but where its progress goes.
struct Plan {
    client: Client,
    request: Request,
    attached: Attached,
    /// The session that it runs on, where that is not its own.
    session: Option<Session>,
    /// Id of the run that is under way, or comes first.
    running: Arc<Mutex<String>>,
    retry: Retry,
    /// What drives the build, where it is a function of the caller.
    function: Option<BuildFunction>,
    /// What is done about a step that fails.
    look: Option<Look>,
    /// Where the build stands in a trace.
    trace: Option<TraceContext>,
    chooser: Option<Arc<dyn SessionExporter>>,
    /// The method that gave a frontend something where there is none.
    stray: Option<&'static str>,
}

impl Plan {
    /// Refuses what no request can express.
    fn validate(&self) -> Result<(), RequestError> {
        let Some(option) = self.stray else { return Ok(()) };
        Err(RequestError::option(option, "it is for a frontend, and a graph is built without one"))
    }

    fn running(&self) -> String {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chooses an id for the next run.
    fn run_anew(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = new_id();
    }
}

impl Client {
    /// A build of a graph, of a [`Dockerfile`], by any [`Frontend`], or of a [`Request`] that was put
    /// together before.
    pub fn solve(&self, request: impl Into<Request>) -> Solve {
        let request = request.into();
        let plan = Plan {
            client: self.clone(),
            attached: Attached::default(),
            session: None,
            running: Arc::new(Mutex::new(request.reference.clone().unwrap_or_else(new_id))),
            retry: self.push_retry().clone(),
            function: None,
            look: None,
            trace: None,
            chooser: None,
            stray: None,
            request,
        };
        Solve { plan, progress: Progress::none() }
    }
}

impl Solve {
    pub(crate) fn driven_by(mut self, function: BuildFunction) -> Self {
        self.plan.function = Some(function);
        self
    }

    pub(crate) fn looked_into(mut self, look: Look) -> Self {
        self.plan.look = Some(look);
        self
    }

    /// Lets the build read a directory (or another tree) under a name. Graphs read it as
    /// `local://NAME`; Dockerfiles know `context` and `dockerfile`.
    pub fn local(mut self, name: impl Into<String>, local: impl Into<Local>) -> Self {
        self.plan.request.locals.insert(name.into(), local.into());
        self
    }

    /// Lets the build read an OCI layout on this side under an id. It is never written to.
    pub fn oci_layout(mut self, id: impl Into<String>, store: impl Into<OciStore>) -> Self {
        self.plan.request.oci_layouts.insert(id.into(), store.into());
        self
    }

    /// Lets the build fetch a stream as `http://buildkit-session/ID`, for example an archive from
    /// standard input. Each is fetched once.
    pub fn upload(mut self, id: impl Into<String>, upload: Upload) -> Self {
        self.plan.request.uploads.insert(id.into(), upload);
        self
    }

    /// Adds options, contexts and inputs of a Dockerfile build, for a [function](Client::build) that
    /// drives one. A graph takes none: its build is refused.
    pub fn dockerfile(mut self, dockerfile: Dockerfile) -> Self {
        if self.frontend().is_none() {
            self.plan.stray = Some("dockerfile");
        }
        self.plan.request.take_dockerfile(dockerfile);
        self
    }

    /// The platform of a graph's steps that name none; that of this program unless set. A frontend is told of it by
    /// its option `platform`, unless that is set.
    pub fn platform(mut self, platform: buildkit_llb::Platform) -> Self {
        self.plan.request.platform = Some(platform);
        self
    }

    /// Adds an exporter; there may be several.
    pub fn export(mut self, export: impl Into<Export>) -> Self {
        self.plan.request.exports.push(export.into());
        self
    }

    /// Adds a cache to write.
    pub fn cache_to(mut self, cache: impl Into<CacheExport>) -> Self {
        self.plan.request.cache_to.push(cache.into());
        self
    }

    /// Adds a cache to read.
    pub fn cache_from(mut self, cache: impl Into<CacheImport>) -> Self {
        self.plan.request.cache_from.push(cache.into());
        self
    }

    /// Allows something to the steps of the build.
    pub fn allow(mut self, entitlement: impl Into<Entitlement>) -> Self {
        self.plan.request.entitlements.insert(entitlement.into());
        self
    }

    /// Sets the rules about sources.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.plan.request.policy = Some(policy);
        self
    }

    /// Has a function decide about each source; see [`verifier`](crate::policy::verifier). Needs
    /// BuildKit 0.26.
    pub fn policy_callback(mut self, verifier: impl SourceVerifier) -> Self {
        self.plan.attached.verifier = Some(Arc::new(verifier));
        self
    }

    /// Has further exporters chosen when the daemon has the result. Needs BuildKit 0.21.
    pub fn session_exporter(mut self, chooser: impl SessionExporter) -> Self {
        self.plan.chooser = Some(Arc::new(chooser));
        self
    }

    /// Sets an option of the frontend; of a graph, one that the daemon reads itself (`attest:provenance`).
    pub fn opt(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let opts = match self.frontend() {
            Some(frontend) => &mut frontend.opts,
            None => &mut self.plan.request.opts,
        };
        opts.insert(key.into(), value.into());
        self
    }

    /// Gives the frontend a graph under a name, in place of a directory such as `context`. A graph
    /// takes no inputs: its build is refused.
    pub fn input(mut self, name: impl Into<String>, state: impl Into<State>) -> Self {
        match self.frontend() {
            Some(frontend) => *frontend = std::mem::take(frontend).input(name, state),
            None => self.plan.stray = Some("input"),
        }
        self
    }

    fn frontend(&mut self) -> Option<&mut Frontend> {
        match &mut self.plan.request.input {
            Input::Frontend(frontend) | Input::Gateway(frontend) => Some(frontend),
            _ => None,
        }
    }

    /// Runs every step even where its result is cached.
    pub fn no_cache(mut self) -> Self {
        self.plan.request.no_cache = true;
        self
    }

    /// Keeps the build out of the daemon's history.
    pub fn internal(mut self) -> Self {
        self.plan.request.internal = true;
        self
    }

    /// Sends the network traffic of steps through a recording proxy, for the provenance. Needs
    /// BuildKit 0.31.
    pub fn proxy_network(mut self) -> Self {
        self.plan.request.proxy_network = true;
        self
    }

    /// Adds a list of the image's packages (SBOM), made by the daemon's default scanner.
    pub fn attest_sbom(self) -> Self {
        self.opt("attest:sbom", "")
    }

    /// Adds a list of the image's packages (SBOM), made by a scanner image.
    pub fn attest_sbom_with(self, generator: impl fmt::Display) -> Self {
        self.opt("attest:sbom", format!("generator={generator}"))
    }

    /// Adds a record of how the image was made.
    pub fn attest_provenance(self, mode: Provenance) -> Self {
        let mode = match mode {
            Provenance::Min => "mode=min",
            Provenance::Max => "mode=max",
        };
        self.opt("attest:provenance", mode)
    }

    /// Makes the same input give the same digest, here and on other daemons: all times are the
    /// given one (seconds since 1970), files in new layers included, and the image layout stays
    /// that of BuildKit 0.31 whatever comes later (older daemons have one layout each).
    pub fn reproducible(mut self, epoch: i64) -> Self {
        self.plan.request.reproducible = Some(epoch);
        self
    }

    /// Layout of images: 10 (BuildKit 0.13), 20 (0.15) or 30 (0.31); 0 is the newest.
    pub fn compatibility_version(mut self, version: i64) -> Self {
        self.plan.request.compatibility_version = version;
        self
    }

    /// Uses this id for the build instead of a random one. It must be new to the daemon, so such a
    /// build is never repeated.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        let reference = reference.into();
        self.plan.running = Arc::new(Mutex::new(reference.clone()));
        self.plan.request.reference = Some(reference);
        self.plan.retry = Retry::never();
        self
    }

    /// Key under which the daemon keeps copies of local directories between builds.
    pub fn shared_key(mut self, key: impl Into<String>) -> Self {
        self.plan.request.shared_key = Some(key.into());
        self
    }

    /// Lets the build use the credentials of a registry that the request does not name: of the base image of a
    /// Dockerfile in a git repository, for example. See [`RegistryScope`].
    pub fn registry(mut self, host: impl AsRef<str>) -> Self {
        self.plan.request.more_registries.insert(crate::session::hub(host.as_ref()).to_owned());
        self
    }

    /// Registries whose credentials the build may use, instead of those that the request names.
    pub fn registries(mut self, scope: RegistryScope) -> Self {
        self.plan.request.registries = Some(scope);
        self
    }

    /// Runs the build on a shared session, not on one of its own: it may use what the session offers. Its exporters,
    /// caches, progress and id are its own, and so are the local directories, layouts and uploads that it brings. See
    /// [`Session`] for what cannot be.
    pub fn session(mut self, session: &Session) -> Self {
        self.plan.session = Some(session.clone());
        self
    }

    /// Offers services to the daemon while the build runs.
    pub fn attach(mut self, attachable: impl Attachable) -> Self {
        self.plan.attached.services.push(Arc::new(attachable));
        self
    }

    /// Gives the daemon access to registries: a [`DockerConfig`](crate::docker_config::DockerConfig),
    /// or an [`Auth`]. The last one counts.
    pub fn auth(self, auth: impl Into<Auth>) -> Self {
        let auth = auth.into();
        self.attach(auth)
    }

    /// Gives the build a secret. It is read when the build starts and served under its id only.
    pub fn secret(mut self, id: impl Into<String>, source: SecretSource) -> Self {
        self.plan.attached.secrets.push((id.into(), source));
        self
    }

    /// Lets the build use an ssh agent, a socket or keys under an id; `default` is the usual one.
    pub fn ssh(mut self, id: impl Into<String>, source: SshSource) -> Self {
        self.plan.attached.ssh.push((id.into(), source));
        self
    }

    /// How local directories are sent: what is done about files that cannot be read or change.
    pub fn send_options(mut self, options: SendOptions) -> Self {
        self.plan.attached.send = Some(options);
        self
    }

    /// Makes what the daemon notes of this build in its trace a part of this one.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.plan.trace = Some(context);
        self
    }

    /// Where progress goes.
    pub fn progress(mut self, progress: impl Into<Progress>) -> Self {
        self.progress = progress.into();
        self
    }

    /// How often the build is repeated when a push fails for a passing reason.
    pub fn retry_push(mut self, retry: Retry) -> Self {
        self.plan.retry = retry;
        self
    }

    /// The request as it stands.
    pub fn request(&self) -> &Request {
        &self.plan.request
    }

    /// Starts the build on a task of its own, to be cancelled or awaited later.
    pub fn start(self) -> Build {
        let reference = Arc::clone(&self.plan.running);
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(drive::run(self.plan, self.progress.start(), token));
        Build { reference, cancel, task: Some(task) }
    }
}

impl fmt::Debug for Solve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solve")
            .field("client", &self.plan.client)
            .field("request", &self.plan.request)
            .field("attached", &self.plan.attached.services)
            .field("session", &self.plan.session)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for Solve {
    type Output = Result<Solved, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { plan, progress } = self;
        // Progress starts with the first poll: a future that is never run shows nothing.
        Box::pin(async move { Box::pin(drive::run(plan, progress.start(), CancellationToken::new())).await })
    }
}

/// How much a provenance record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// Sources and their digests.
    Min,
    /// The graph, the Dockerfile and all arguments as well.
    Max,
}

/// A build that runs on a task of its own. Await it for the result; dropping it cancels the build.
#[derive(Debug)]
#[must_use = "dropping it cancels the build"]
pub struct Build {
    reference: Arc<Mutex<String>>,
    cancel: CancellationToken,
    task: Option<JoinHandle<Result<Solved, Error>>>,
}

impl Build {
    /// Id of the build: another process can follow it with [`Client::attach`]. A build that is repeated because its push
    /// failed gets another one; then this is the id of the last run. [`Solve::reference`] or
    /// [`Solve::retry_push`] with [`Retry::never`] keep it the same.
    pub fn reference(&self) -> String {
        self.reference.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cancels the build. The result is then [`Error::Canceled`], within the drain time of
    /// [`Liveness`](crate::connect::Liveness). Calling it twice, or late, does nothing.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Cancels the build from elsewhere.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Lets the build go on without anyone waiting for it. It still needs this process.
    pub fn detach(mut self) -> String {
        self.task = None;
        self.reference()
    }
}

impl Future for Build {
    type Output = Result<Solved, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.task {
            None => Poll::Ready(Err(Error::Canceled)),
            Some(task) => Pin::new(task).poll(cx).map(|joined| match joined {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(Error::Canceled),
                },
            }),
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A build that succeeded.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Solved {
    pub(crate) reference: String,
    pub(crate) response: BTreeMap<String, String>,
    pub(crate) warnings: Vec<VertexWarning>,
    pub(crate) cache_metrics: CacheMetrics,
    pub(crate) refused: Vec<String>,
    pub(crate) attempts: u32,
    pub(crate) exports: BTreeMap<usize, BTreeMap<String, String>>,
}

/// Describes content: an OCI descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// That of the exported image, in what the daemon returned.
    fn of_image(response: &BTreeMap<String, String>) -> Option<Self> {
        let json = STANDARD.decode(response.get("containerimage.descriptor")?).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// That of the exported cache.
    fn of_cache(response: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(response.get("cache.manifest")?).ok()
    }
}

impl From<buildkit_proto::control::Descriptor> for Descriptor {
    fn from(descriptor: buildkit_proto::control::Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type,
            digest: descriptor.digest,
            size: u64::try_from(descriptor.size).unwrap_or_default(),
            annotations: descriptor.annotations.into_iter().collect(),
        }
    }
}

impl Solved {
    /// Id of the build.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Digest of the image that was exported; empty when no exporter made one.
    pub fn digest(&self) -> &str {
        self.get("containerimage.digest").unwrap_or_default()
    }

    /// Digest of the image's config.
    pub fn config_digest(&self) -> Option<&str> {
        self.get("containerimage.config.digest")
    }

    /// Descriptor of the image that was exported.
    pub fn descriptor(&self) -> Option<Descriptor> {
        Descriptor::of_image(&self.response)
    }

    /// Names under which the image was stored or pushed.
    pub fn names(&self) -> Vec<&str> {
        self.get("image.name").into_iter().flat_map(|names| names.split(',')).collect()
    }

    /// `NAME@DIGEST` of each name.
    pub fn refs(&self) -> Vec<String> {
        let digest = self.digest();
        self.names().into_iter().map(|name| format!("{name}@{digest}")).collect()
    }

    /// Descriptor of the cache that was exported.
    pub fn cache_manifest(&self) -> Option<Descriptor> {
        Descriptor::of_cache(&self.response)
    }

    /// A value that the daemon or the frontend returned.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.response.get(key).map(String::as_str)
    }

    /// What the daemon told one exporter of the result, by its place in the request: those that
    /// sent data to this side as a stream. The others are told apart in the
    /// [history](Client::history) only.
    pub fn export_response(&self, exporter: usize) -> Option<&BTreeMap<String, String>> {
        self.exports.get(&exporter)
    }

    /// Everything that the daemon returned. The values of several exporters are in one map, where
    /// the last one wins.
    pub fn response(&self) -> &BTreeMap<String, String> {
        &self.response
    }

    /// The response as JSON, with the values that are JSON in base64 decoded: what
    /// `--metadata-file` writes.
    pub fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        let decode = |value: &str| {
            let bytes = STANDARD.decode(value).ok()?;
            serde_json::from_slice::<serde_json::Value>(&bytes)
                .ok()
                .filter(|json| json.is_object() || json.is_array())
        };
        self.response
            .iter()
            .map(|(key, value)| {
                let value = decode(value).unwrap_or_else(|| serde_json::Value::String(value.clone()));
                (key.clone(), value)
            })
            .collect()
    }

    /// Warnings of the build.
    pub fn warnings(&self) -> &[VertexWarning] {
        &self.warnings
    }

    /// How much of the build came from the cache, as far as its progress told.
    pub fn cache_metrics(&self) -> &CacheMetrics {
        &self.cache_metrics
    }

    /// What the daemon asked for and was not given, because the build did not offer it: the first
    /// 32. An honest daemon asks for nothing of the kind.
    pub fn refused_requests(&self) -> &[String] {
        &self.refused
    }

    /// How often the build was run until it succeeded.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_is_read_by_meaning() {
        let json = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:ab","size":7}"#;
        let solved = Solved {
            response: BTreeMap::from([
                ("containerimage.digest".into(), "sha256:ab".into()),
                ("containerimage.descriptor".into(), STANDARD.encode(json)),
                ("image.name".into(), "r/a:1,r/b:2".into()),
                ("frontend.x".into(), "aGk=".into()),
            ]),
            ..Solved::default()
        };
        assert_eq!(solved.refs(), ["r/a:1@sha256:ab", "r/b:2@sha256:ab"]);
        assert_eq!(solved.descriptor().unwrap().size, 7);
        let metadata = solved.metadata();
        assert_eq!(metadata["containerimage.descriptor"]["digest"], "sha256:ab");
        assert_eq!(metadata["frontend.x"], "aGk=");
        assert_eq!(Solved::default().digest(), "");
        assert!(Solved::default().descriptor().is_none());
    }
}
