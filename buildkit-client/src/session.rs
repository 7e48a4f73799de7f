//! What a daemon may ask of us while a build runs.
//!
//! A session is a gRPC server on this side of the link. It offers the services that the
//! [`Attachable`]s of a build bring, answers health checks, and nothing else: a service that was
//! not attached is answered `Unimplemented`. Each build has a session of its own, unless it runs on
//! a shared [`Session`].

mod attached;
pub mod auth;
pub(crate) mod content;
pub(crate) mod exporter;
pub(crate) mod exporters;
pub(crate) mod filesync;
mod health;
pub(crate) mod member;
pub(crate) mod policy;
mod registries;
pub mod secrets;
mod shared;
pub mod ssh;
mod transport;
pub(crate) mod upload;

pub(crate) use attached::Attached;
pub use registries::RegistryScope;
pub(crate) use registries::{DOCKER_HUB, hosts_in, hub, registry_of};
pub use shared::{Session, SessionBuilder};
pub(crate) use transport::{SessionEnd, open};
pub use upload::Upload;

use crate::error::LocalError;
use crate::progress::{Progress, Step};
use buildkit_fsutil::source::SourceFs;
use http::{Request, Response};
use hyper::body::Incoming;
use member::{Given, Member, Members};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

/// Largest message that a session service should take: what a daemon may send.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Largest payload of one message that a session service should send.
pub const MAX_CHUNK: usize = 3 * 1024 * 1024;
/// Largest message of a service that is only asked for something. A daemon may open a thousand calls and leave a part
/// of a message in each.
pub(crate) const MAX_QUESTION: usize = 256 * 1024;
/// How much of a name that a daemon has sent is told.
const MAX_TOLD: usize = 256;
/// Calls with fewer headers are not counted.
const FEW_HEADERS: usize = 1024;
/// Headers that all calls together may have which have more: some hundred bytes each while the call lasts, and what a
/// transfer makes of its patterns. They take a byte each on the wire.
const MANY_HEADERS: usize = 512 * 1024;

/// Brings services to a session: credentials, secrets, files.
///
/// One value may be attached to many builds at once; each session has its own [`SessionContext`].
pub trait Attachable: fmt::Debug + Send + Sync + 'static {
    /// The services for one session. Called once before the session opens; must not block.
    fn services(&self, session: &SessionContext) -> Vec<Service>;
}

impl<T: Attachable + ?Sized> Attachable for Arc<T> {
    fn services(&self, session: &SessionContext) -> Vec<Service> {
        (**self).services(session)
    }
}

type Inner = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// A gRPC service offered to the daemon.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    methods: &'static [&'static str],
    inner: Inner,
}

impl Service {
    /// A generated tonic server and the names of all its methods, for example
    /// `Service::new(SecretsServer::new(x), &["GetSecret"])`.
    pub fn new<S>(server: S, methods: &'static [&'static str]) -> Self
    where
        S: tower_service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self { name: S::NAME, methods, inner: BoxCloneSyncService::new(server) }
    }

    /// Full name, for example `moby.buildkit.secrets.v1.Secrets`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Paths of the methods, as they are announced to the daemon.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.methods.iter().map(|method| format!("/{}/{method}", self.name))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// A session as its services see it. Cheap to clone.
#[derive(Clone)]
pub struct SessionContext(Arc<State>);

struct State {
    id: String,
    opened: Instant,
    /// Is cancelled once the daemon has taken the session.
    taken: CancellationToken,
    closed: CancellationToken,
    /// Milliseconds from `opened` to the last health check; 0 before the first.
    health: AtomicU64,
    members: Mutex<Members>,
}

impl SessionContext {
    pub(crate) fn new(id: String) -> Self {
        Self(Arc::new(State {
            id,
            opened: Instant::now(),
            taken: CancellationToken::new(),
            closed: CancellationToken::new(),
            health: AtomicU64::new(0),
            members: Mutex::default(),
        }))
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.0.members)
    }

    /// The builds that run on it now.
    fn running(&self) -> Vec<Arc<Member>> {
        self.members().running().to_vec()
    }

    /// A local directory that may be read.
    pub(crate) fn local(&self, name: &str) -> Option<Arc<dyn SourceFs>> {
        self.members().locals().get(name)
    }

    /// A content store that may be used.
    fn store(&self, id: &str) -> Option<Arc<content::Store>> {
        self.members().running().iter().find_map(|member| member.stores.get(id).cloned())
    }

    /// Takes an upload: each is fetched once.
    fn take_upload(&self, id: &str) -> Option<Upload> {
        self.members().running().iter().find_map(|member| member.take_upload(id))
    }

    /// The build whose result comes to this side: there is one at a time.
    fn exporting(&self) -> Option<Arc<Member>> {
        self.members().running().iter().find(|member| member.exports()).cloned()
    }

    /// Notes that a file of a local directory has a name that is not UTF-8; the first one is kept.
    fn sent_not_utf8(&self, dir: &str, path: &[u8]) {
        let path = path.escape_ascii().to_string();
        self.running().iter().for_each(|member| member.sent_not_utf8(dir, &path));
    }

    /// Shows a step of the client's own in the progress of the build, such as a token being fetched. On a shared
    /// session it is shown in one of the builds that run.
    pub fn step(&self, name: impl Into<String>) -> Step {
        match self.running().iter().find_map(|member| member.progress.clone()) {
            Some(progress) => progress.step(name),
            None => Progress::none().start().step(name),
        }
    }

    /// Shows something that was done, as a finished step.
    pub fn note(&self, name: impl Into<String>) {
        self.step(name).done();
    }

    /// Id of the session: 25 characters.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether the credentials of a registry may be used by a build that runs now; see [`RegistryScope`].
    pub fn allows_registry(&self, host: &str) -> bool {
        self.members().running().iter().any(|member| member.allows_registry(host))
    }

    /// Adds registries that the caller named in an answer to the daemon.
    fn name_registries(&self, hosts: &BTreeSet<String>) {
        self.running().iter().for_each(|member| member.name_registries(hosts.iter().cloned()));
    }

    /// Notes what the daemon got when it asked for the credentials of a registry. Whether that is news for one of the
    /// builds.
    fn gave(&self, host: &str, given: &Given) -> bool {
        let news = self.running().iter().filter(|member| member.gave(host, given.clone())).count();
        news > 0
    }

    /// Is cancelled when the session ends: whatever a service started must end then.
    pub fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }

    /// Is cancelled once the daemon has taken the session.
    pub(crate) fn taken(&self) -> &CancellationToken {
        &self.0.taken
    }

    /// Keeps a failure on this side, so that the error of a build can name the root cause instead of
    /// what the daemon makes of it.
    pub fn failed(&self, what: impl Into<String>, source: impl Into<crate::error::BoxError>) {
        let error = LocalError::new(what, source);
        self.running().iter().for_each(|member| member.failed_with(error.again()));
    }

    /// Notes that the daemon asked for something it was not offered.
    pub fn suspicious(&self, what: impl Into<String>) {
        let what = told(&what.into());
        tracing::warn!(session = %self.0.id, what = %what, "the daemon asked for something it was not offered");
        self.running().iter().for_each(|member| member.suspicious(&what));
    }

    fn health_checked(&self) {
        let millis = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.health.store(millis.max(1), Ordering::Relaxed);
    }

    /// How long the daemon's health checks have stayed away; `None` before the first.
    fn unchecked_for(&self) -> Option<Duration> {
        match self.0.health.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.0.opened.elapsed().saturating_sub(Duration::from_millis(millis))),
        }
    }

    /// Waits until health checks that once came have stayed away for `limit`.
    pub(crate) async fn health_lost(&self, limit: Duration) {
        loop {
            let silent = self.unchecked_for().unwrap_or_default();
            match limit.checked_sub(silent) {
                Some(left) if !left.is_zero() => {
                    tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
                }
                _ => return,
            }
        }
    }
}

/// The beginning of a text of the daemon's, which may be megabytes, safe to show.
pub(crate) fn told(text: &str) -> String {
    let mut end = text.len().min(MAX_TOLD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let start = text.get(..end).unwrap_or_default();
    let start = crate::progress::one_line(start).into_owned();
    if end < text.len() { start + "…" } else { start }
}

/// A call's part of [`MANY_HEADERS`], among the extensions of its request. Whoever keeps what was in the headers keeps
/// this too.
#[derive(Clone)]
pub(crate) struct HeaderRoom(#[allow(dead_code)] Arc<OwnedSemaphorePermit>); // held, not read

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SessionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionContext").field("id", &self.0.id).finish_non_exhaustive()
    }
}

/// Sends each call to the service of its path.
#[derive(Clone)]
struct Router {
    services: Arc<BTreeMap<&'static str, Service>>,
    context: SessionContext,
    headers: Arc<Semaphore>,
}

impl Router {
    fn new(services: Vec<Service>, context: SessionContext) -> Self {
        let services = services.into_iter().map(|service| (service.name, service)).collect();
        Self { services: Arc::new(services), context, headers: Arc::new(Semaphore::new(MANY_HEADERS)) }
    }

    /// Counts the headers of a call; `false` when all calls together have too many.
    fn counted(&self, request: &mut Request<Incoming>) -> bool {
        let many = request.headers().len();
        if many <= FEW_HEADERS {
            return true;
        }
        let many = u32::try_from(many).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.headers).try_acquire_many_owned(many) else { return false };
        request.extensions_mut().insert(HeaderRoom(Arc::new(room)));
        true
    }
}

impl tower_service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        if !self.counted(&mut request) {
            let many = request.headers().len();
            self.context.suspicious(format!("a call with {many} headers, beside others with many"));
            let status = tonic::Status::resource_exhausted(format!(
                "{many} headers are too many: all calls together may have {MANY_HEADERS}"
            ));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let name = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if let Some(service) = self.services.get(name) {
            Box::pin(tower::ServiceExt::oneshot(service.inner.clone(), request))
        } else {
            tracing::debug!(session = %self.context.id(), service = name, "not offered");
            if name == buildkit_proto::auth::auth_server::SERVICE_NAME {
                self.context.running().iter().for_each(|member| member.asked_nobody());
            }
            let status = tonic::Status::unimplemented("this session does not offer the service");
            Box::pin(std::future::ready(Ok(status.into_http())))
        }
    }
}
