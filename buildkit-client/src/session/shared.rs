//! One session for several builds.

use super::auth::Auth;
use super::content::Stores;
use super::filesync::Locals;
use super::member::{Joined, Offer};
use super::secrets::SecretSource;
use super::ssh::SshSource;
use super::upload::Upload;
use super::{Attachable, Attached, RegistryScope, SessionContext, SessionEnd};
use crate::client::Client;
use crate::connect::Link;
use crate::content::OciStore;
use crate::error::{Error, RequestError};
use crate::policy::SourceVerifier;
use crate::request::{Local, Request, new_id, shared_key};
use buildkit_fsutil::send::SendOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::Instrument as _;

/// A session that several builds share, one after the other or at the same time. Cheap to clone; it ends when the last
/// clone and the last build on it are gone, or with [`close`](Self::close).
///
/// What it was [given](SessionBuilder) is offered to all builds on it for as long as it lives, over a connection of its
/// own: the builds' connections may come and go. Each build has its own id, progress, exporters and caches, and may
/// bring local directories, OCI layouts and uploads of its own. Secrets, credentials, agents and callbacks are the
/// session's: they cannot be given to a build that runs on one.
///
/// Graphs of builds on one session read the same directories, so that what two of them have in common is the same to the
/// daemon and is built once, at the same time too: that is what a shared session is for.
///
/// ```no_run
/// # async fn f(client: buildkit_client::Client) -> Result<(), buildkit_client::Error> {
/// use buildkit_client::docker_config::DockerConfig;
/// use buildkit_client::export::Export;
/// use buildkit_client::request::Frontend;
///
/// let session = client
///     .session()
///     .local("context", ".")
///     .local("dockerfile", ".")
///     .auth(DockerConfig::load()?)
///     .open()
///     .await?;
/// let build = |target: &str| {
///     client
///         .solve(Frontend::new("dockerfile.v0").opt("target", target))
///         .export(Export::image(format!("registry.local/{target}:1")).push())
///         .session(&session)
/// };
/// let (api, web) = (build("api").start(), build("web").start());
/// println!("{} {}", api.await?.digest(), web.await?.digest());
/// # Ok(()) }
/// ```
///
/// # What it cannot do
///
/// These are refused with [`RequestError::SharedSession`] before anything is sent:
///
/// - Two builds at the same time whose result comes to this side (`local`, `tar`, `oci` and `docker` without push, a
///   [`SessionExporter`](crate::export::SessionExporter)): a daemon says of a result only which exporter of its build it
///   is. After such a build was cancelled, or its connection was lost, no other one of the kind can run on the session.
///   Pushed images and images that stay in the daemon's store are not concerned.
/// - A second directory under a name, or a second upload under an id: a daemon reads each once in a session. Changes
///   that are made to a directory after that are not seen by later builds on the session.
#[derive(Clone)]
pub struct Session(Arc<Open>);

struct Open {
    context: SessionContext,
    endpoint: String,
    is_secret: bool,
    verifies: bool,
    oci_layouts: BTreeMap<String, OciStore>,
    drain: Duration,
    /// Why it is over.
    ended: watch::Receiver<Option<String>>,
    _own: Joined,
    _closing: DropGuard,
}

impl Client {
    /// A session for several builds. Give it what they share, then open it.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder { client: self.clone(), attached: Attached::default(), offered: Request::default() }
    }
}

/// What a [`Session`] offers. Made by [`Client::session`].
#[must_use = "a session opens with .open()"]
pub struct SessionBuilder {
    client: Client,
    attached: Attached,
    /// Directories, layouts, uploads and registries; the rest of it is not used.
    offered: Request,
}

impl SessionBuilder {
    /// Lets the builds read a directory (or another tree) under a name.
    pub fn local(mut self, name: impl Into<String>, local: impl Into<Local>) -> Self {
        self.offered.locals.insert(name.into(), local.into());
        self
    }

    /// Lets the builds read an OCI layout on this side under an id. It is never written to.
    pub fn oci_layout(mut self, id: impl Into<String>, store: impl Into<OciStore>) -> Self {
        self.offered.oci_layouts.insert(id.into(), store.into());
        self
    }

    /// Lets the builds fetch a stream as `http://buildkit-session/ID`. Each is fetched once, by one of them.
    pub fn upload(mut self, id: impl Into<String>, upload: Upload) -> Self {
        self.offered.uploads.insert(id.into(), upload);
        self
    }

    /// Offers services to the daemon.
    pub fn attach(mut self, attachable: impl Attachable) -> Self {
        self.attached.services.push(Arc::new(attachable));
        self
    }

    /// Gives the daemon access to registries. The credentials that it gets are those of the registries that the builds
    /// name which run at the time.
    pub fn auth(self, auth: impl Into<Auth>) -> Self {
        let auth = auth.into();
        self.attach(auth)
    }

    /// Gives the builds a secret. It is read when the session opens and served under its id only.
    pub fn secret(mut self, id: impl Into<String>, source: SecretSource) -> Self {
        self.attached.secrets.push((id.into(), source));
        self
    }

    /// Lets the builds use an ssh agent, a socket or keys under an id; `default` is the usual one.
    pub fn ssh(mut self, id: impl Into<String>, source: SshSource) -> Self {
        self.attached.ssh.push((id.into(), source));
        self
    }

    /// How local directories are sent.
    pub fn send_options(mut self, options: SendOptions) -> Self {
        self.attached.send = Some(options);
        self
    }

    /// Has a function decide about each source of every build; see [`verifier`](crate::policy::verifier). Needs
    /// BuildKit 0.26.
    pub fn policy_callback(mut self, verifier: impl SourceVerifier) -> Self {
        self.attached.verifier = Some(Arc::new(verifier));
        self
    }

    /// Lets every build use the credentials of a registry, whether it names it or not.
    pub fn registry(mut self, host: impl AsRef<str>) -> Self {
        self.offered.more_registries.insert(super::hub(host.as_ref()).to_owned());
        self
    }

    /// Registries whose credentials every build may use beside those that it names.
    pub fn registries(mut self, scope: RegistryScope) -> Self {
        self.offered.registries = Some(scope);
        self
    }

    /// Key under which the daemon keeps copies of local directories between sessions; made from this host and the
    /// paths of the session's own directories unless set.
    pub fn shared_key(mut self, key: impl Into<String>) -> Self {
        self.offered.shared_key = Some(key.into());
        self
    }

    /// Opens it: reads secrets and keys, connects, and waits until the daemon has taken it.
    ///
    /// # Errors
    /// When something that was attached cannot be had, the daemon cannot be reached, or it does not take the session.
    pub async fn open(self) -> Result<Session, Error> {
        let Self { client, mut attached, offered } = self;
        attached.load().await?;
        let context = SessionContext::new(new_id());
        let mut scope = offered.registries.clone().unwrap_or(RegistryScope::Hosts(BTreeSet::new()));
        if let RegistryScope::Hosts(hosts) = &mut scope {
            hosts.extend(offered.more_registries.iter().cloned());
        }
        let key = offered.shared_key.clone().unwrap_or_else(|| shared_key(&offered.locals));
        let own = context.join(Offer {
            locals: Locals::open(offered.locals).await?,
            stores: Stores::of_layouts(&offered.oci_layouts).await?,
            uploads: offered.uploads,
            scope,
            ..Offer::default()
        })?;
        let closing = context.closed().clone().drop_guard();
        let services = attached.services(&context, None);
        let endpoint = client.endpoint();
        if client.is_exposed() && attached.is_secret() {
            tracing::warn!(endpoint, "secrets and credentials are offered without encryption");
        }

        let started = Instant::now();
        let link = Arc::new(client.dial(true).await?);
        let serving = super::open(link.channel(), &key, services, context.clone())?;
        let (end, mut ended) = watch::channel(None);
        let span = tracing::debug_span!("buildkit.session", id = context.id());
        let (of_client, of_context, of_link) = (client.clone(), context.clone(), Arc::clone(&link));
        let serving = async move {
            let reason = serve(&of_client, &of_link, &of_context, serving).await;
            tracing::debug!(reason, "the session is over");
            of_context.closed().cancel();
            drop(of_link);
            let _ = end.send(Some(reason));
        };
        tokio::spawn(serving.instrument(span));
        let limit = client.liveness().first_answer;
        let reason = tokio::select! {
            biased;
            () = context.taken().cancelled() => None,
            reason = over(&mut ended) => Some(reason),
            () = tokio::time::sleep(limit) => Some(format!("no answer in {} s", limit.as_secs_f32())),
        };
        if let Some(reason) = reason {
            return Err(link.lost("Control.Session", started, reason).into());
        }
        Ok(Session(Arc::new(Open {
            context,
            endpoint,
            is_secret: attached.is_secret(),
            verifies: attached.verifier.is_some(),
            oci_layouts: offered.oci_layouts,
            drain: client.liveness().drain,
            ended,
            _own: own,
            _closing: closing,
        })))
    }
}

/// Serves a session until it is over, and says why it is.
async fn serve(
    client: &Client,
    link: &Link,
    context: &SessionContext,
    session: impl Future<Output = SessionEnd>,
) -> String {
    let liveness = client.liveness();
    let mut session = std::pin::pin!(session);
    tokio::select! {
        biased;
        end = &mut session => end.reason(),
        end = client.cut_off(link) => end.reason,
        () = context.health_lost(liveness.health_silence()) => {
            format!("no health check of the session for {} s", liveness.health_silence().as_secs_f32())
        }
    }
}

async fn over(ended: &mut watch::Receiver<Option<String>>) -> String {
    match ended.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "the runtime it ran in has ended".to_owned(),
    }
}

impl Session {
    /// Its id: 25 characters. The same in every build.
    pub fn id(&self) -> &str {
        self.0.context.id()
    }

    /// Whether it is over, so that nothing can be built on it any more.
    pub fn is_closed(&self) -> bool {
        self.0.context.closed().is_cancelled()
    }

    /// Waits until it is over, and says why.
    pub async fn ended(&self) -> String {
        over(&mut self.0.ended.clone()).await
    }

    /// Ends it, for all clones, and waits until the daemon was told, at most for the drain time of
    /// [`Liveness`](crate::connect::Liveness). Builds that still run on it fail.
    pub async fn close(self) {
        self.0.context.closed().cancel();
        let _ = tokio::time::timeout(self.0.drain, self.ended()).await;
    }

    pub(crate) fn context(&self) -> &SessionContext {
        &self.0.context
    }

    pub(crate) fn oci_layouts(&self) -> &BTreeMap<String, OciStore> {
        &self.0.oci_layouts
    }

    /// Whether secrets or credentials may be among what it offers.
    pub(crate) fn is_secret(&self) -> bool {
        self.0.is_secret
    }

    /// Whether it decides about sources.
    pub(crate) fn verifies(&self) -> bool {
        self.0.verifies
    }

    /// Refuses a build that cannot run on it.
    pub(crate) fn check(&self, client: &Client, attached: &Attached, key: bool) -> Result<(), RequestError> {
        let refused = |what: &str, reason: String| RequestError::SharedSession { what: what.into(), reason };
        if let Some(reason) = &*self.0.ended.borrow() {
            return Err(refused("a build", format!("session {} is over: {reason}", self.id())));
        }
        if self.is_closed() {
            return Err(refused("a build", format!("session {} was closed", self.id())));
        }
        if client.endpoint() != self.0.endpoint {
            return Err(refused("a build", format!("it is open at {}", self.0.endpoint)));
        }
        let what = attached.any().or(key.then_some("a key for local directories (.shared_key)"));
        match what {
            Some(what) => Err(refused(what, "give it to Client::session, before the session opens".into())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("endpoint", &self.0.endpoint)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("client", &self.client)
            .field("attached", &self.attached.services)
            .field("locals", &self.offered.locals)
            .finish_non_exhaustive()
    }
}
