//! The client: an address, how to reach it, and the calls.

use crate::connect::{
    Address, Channel, Connector, Headers, Link, LinkEnd, Liveness, connector_with, is_transport,
};
use crate::error::Error;
use crate::retry::Retry;
use crate::session::MAX_MESSAGE;
use crate::tls::Tls;
use buildkit_proto::control::control_client::ControlClient;
use buildkit_proto::control::{InfoRequest, InfoResponse};
use buildkit_proto::health::HealthCheckRequest;
use buildkit_proto::health::health_client::HealthClient;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Response, Status, Streaming};
use tracing::Instrument as _;

/// A client of the daemon's control service.
pub(crate) type Control = ControlClient<Channel>;

/// A BuildKit daemon. Cheap to clone; clones share one connection for control calls, and each
/// build opens one of its own, so that a build is never held up by another.
///
/// Connections are made when they are needed and again after they were lost.
///
/// ```no_run
/// # async fn f() -> Result<(), buildkit_client::Error> {
/// use buildkit_client::Client;
/// let client = Client::connect("tcp://buildkitd:1234").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    connector: Arc<dyn Connector>,
    liveness: Liveness,
    connect_retry: Retry,
    push_retry: Retry,
    headers: Headers,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    daemon: Mutex<Option<Daemon>>,
    /// Names of what the daemon can do, where it was asked.
    capabilities: Mutex<Option<Arc<BTreeSet<String>>>>,
}

/// What is known of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Daemon {
    /// Version of BuildKit, for example `v0.25.1`. `None` before 0.11, which does not tell.
    pub version: Option<String>,
    /// Go package, for example `github.com/moby/buildkit`.
    pub package: String,
    /// Commit.
    pub revision: String,
    /// What the way to it knows, for example `Docker Engine 20.10.24, API 1.41`.
    pub engine: Option<String>,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.engine, &self.version) {
            (Some(engine), Some(version)) => write!(f, "{engine}, BuildKit {version}"),
            (Some(engine), None) => write!(f, "{engine}, older than BuildKit 0.11"),
            (None, Some(version)) => write!(f, "BuildKit {version}"),
            (None, None) => f.write_str("older than BuildKit 0.11"),
        }
    }
}

/// How a client is made.
///
/// # Defaults
///
/// | | default |
/// |---|---|
/// | [`tls`](Self::tls) | none: the connection is plain |
/// | [`liveness`](Self::liveness) | the times of [`Liveness`] |
/// | [`retry_connect`](Self::retry_connect) | [`Retry::never`]: a connection is tried once |
/// | [`retry_push`](Self::retry_push) | [`Retry::push`]: twice more, where a push failed for a passing reason |
/// | [`headers`](Self::headers) | none |
#[derive(Debug, Clone)]
#[must_use = "end it with .connect() or .lazy()"]
pub struct ClientBuilder {
    target: Target,
    tls: Option<Tls>,
    liveness: Liveness,
    connect_retry: Retry,
    push_retry: Retry,
    headers: Headers,
}

#[derive(Debug, Clone)]
enum Target {
    Text(String),
    Address(Address),
    Connector(Arc<dyn Connector>),
}

impl ClientBuilder {
    /// Encrypts `tcp://` connections.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// When a link counts as dead.
    pub fn liveness(mut self, liveness: Liveness) -> Self {
        self.liveness = liveness;
        self
    }

    /// How often a connection is tried. Once unless set.
    pub fn retry_connect(mut self, retry: Retry) -> Self {
        self.connect_retry = retry;
        self
    }

    /// How often a build is repeated whose push failed for a passing reason.
    pub fn retry_push(mut self, retry: Retry) -> Self {
        self.push_retry = retry;
        self
    }

    /// Adds headers to every call: the token that a proxy before the daemon asks for, or where a call stands in a
    /// trace (see [`TraceContext::inject`](crate::trace::TraceContext::inject)).
    ///
    /// `add` is asked for each call, so what it adds may change, and on the task that makes the call, inside its
    /// `tracing` span. It must not block.
    ///
    /// ```no_run
    /// # async fn f(token: std::sync::Arc<dyn Fn() -> String + Send + Sync>) -> Result<(), buildkit_client::Error> {
    /// let client = buildkit_client::Client::builder("tcp://proxy:1234")
    ///     .headers(move |headers| {
    ///         if let Ok(mut value) = http::HeaderValue::try_from(format!("Bearer {}", token())) {
    ///             value.set_sensitive(true);
    ///             headers.insert(http::header::AUTHORIZATION, value);
    ///         }
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn headers(mut self, add: impl Fn(&mut http::HeaderMap) + Send + Sync + 'static) -> Self {
        self.headers = self.headers.and(add);
        self
    }

    /// Makes the client; connects when it is first used.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn lazy(self) -> Result<Client, Error> {
        let connector = match self.target {
            Target::Connector(connector) => connector,
            Target::Address(address) => connector_with(&address, self.tls, &self.liveness)?,
            Target::Text(text) => connector_with(&text.parse()?, self.tls, &self.liveness)?,
        };
        Ok(Client(Arc::new(Inner {
            connector,
            liveness: self.liveness,
            connect_retry: self.connect_retry,
            push_retry: self.push_retry,
            headers: self.headers,
            link: tokio::sync::Mutex::default(),
            daemon: Mutex::default(),
            capabilities: Mutex::default(),
        })))
    }

    /// Makes the client, connects, and asks the daemon for its version.
    ///
    /// # Errors
    /// When the address cannot be understood, or no BuildKit answers there in time.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.lazy()?;
        client.link().await?;
        Ok(client)
    }
}

impl Client {
    /// Connects to a daemon by address; see [`Address`] for the forms.
    ///
    /// # Errors
    /// When the address cannot be understood, or no BuildKit answers there in time.
    pub async fn connect(address: impl Into<String>) -> Result<Self, Error> {
        Self::builder(address).connect().await
    }

    /// Connects to the daemon of `BUILDKIT_HOST`, or to the one that [`Address::find`] finds on this
    /// machine: buildkitd, a rootless buildkitd, a Docker Engine.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and when there is no daemon's socket on this machine.
    pub async fn from_env() -> Result<Self, Error> {
        Self::builder_from_env()?.connect().await
    }

    /// A client for the daemon that [`from_env`](Self::from_env) connects to, with options.
    ///
    /// # Errors
    /// When the address cannot be understood, and when there is no daemon's socket on this machine.
    pub fn builder_from_env() -> Result<ClientBuilder, Error> {
        Ok(Self::builder_for(Address::find()?))
    }

    /// A client for an address, with options.
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        Self::build_with(Target::Text(address.into()))
    }

    /// A client for an address that is parsed already, with options.
    pub fn builder_for(address: Address) -> ClientBuilder {
        Self::build_with(Target::Address(address))
    }

    /// A client over streams of one's own, with options.
    pub fn builder_over(connector: impl Connector) -> ClientBuilder {
        Self::build_with(Target::Connector(Arc::new(connector)))
    }

    fn build_with(target: Target) -> ClientBuilder {
        ClientBuilder {
            target,
            tls: None,
            liveness: Liveness::default(),
            connect_retry: Retry::never(),
            push_retry: Retry::push(),
            headers: Headers::default(),
        }
    }

    /// The address, for messages.
    pub fn endpoint(&self) -> String {
        self.0.connector.endpoint()
    }

    /// What the daemon says of itself. Asked once for each connection.
    ///
    /// # Errors
    /// When the daemon cannot be reached.
    pub async fn daemon(&self) -> Result<Daemon, Error> {
        self.link().await?;
        Ok(self.known_daemon().unwrap_or_default())
    }

    /// Waits until the daemon answers, trying every second while it looks like one that is still
    /// starting.
    ///
    /// # Errors
    /// The last failure when `limit` has passed, and at once one that waiting cannot cure.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            match self.link().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() && started.elapsed() + Duration::from_secs(1) < limit => {
                    tracing::debug!(%error, "the daemon is not ready");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn liveness(&self) -> &Liveness {
        &self.0.liveness
    }

    pub(crate) fn push_retry(&self) -> &Retry {
        &self.0.push_retry
    }

    /// Whether what is sent to the daemon can be read on the way.
    pub(crate) fn is_exposed(&self) -> bool {
        self.0.connector.is_exposed()
    }

    pub(crate) fn known_daemon(&self) -> Option<Daemon> {
        self.0.daemon.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn known_capabilities(&self) -> Option<Arc<BTreeSet<String>>> {
        self.0.capabilities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn know_capabilities(&self, names: Arc<BTreeSet<String>>) {
        *self.0.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
    }

    /// Makes a connection of its own, with PINGs, for one build.
    pub(crate) async fn dial(&self, pings: bool) -> Result<Link, Error> {
        let started = Instant::now();
        let mut delays = self.0.connect_retry.delays();
        let mut attempts = 1;
        loop {
            let error =
                match Link::open(&*self.0.connector, &self.0.liveness, self.0.headers.clone(), pings).await {
                    Ok(link) => return Ok(link),
                    Err(error) => error.tried(attempts, started.elapsed()),
                };
            match delays.next().filter(|_| error.is_transient()) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(error.into()),
            }
            attempts += 1;
        }
    }

    /// The shared connection for control calls, made anew when it was lost. The daemon has
    /// answered a first call on it.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Error> {
        let mut current = self.0.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        let link = Arc::new(self.dial(false).await?);
        self.introduce(&link).await?;
        *current = Some(link.clone());
        Ok(link)
    }

    /// The first call on a connection: who are you?
    pub(crate) async fn introduce(&self, link: &Link) -> Result<Daemon, Error> {
        let mut control = ControlClient::new(link.channel());
        let started = Instant::now();
        let limit = self.0.liveness.first_answer;
        let lost = |why: LinkEnd| Error::from(link.lost("Control.Info", started, why));
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(limit, control.info(InfoRequest {})) => answer,
            end = link.ended() => return Err(lost(end)),
        };
        let daemon = match answer {
            Err(_) => {
                return Err(lost(format!("no answer to the first call in {} s", limit.as_secs_f32()).into()));
            }
            Ok(Ok(answer)) => self.describe(Some(answer.into_inner())).await,
            Ok(Err(status)) if status.code() == Code::Unimplemented => self.describe(None).await,
            Ok(Err(status)) if is_transport(&status) => {
                return Err(lost(broke_off(link, &status).await));
            }
            Ok(Err(status)) => return Err(Error::rpc("Control.Info", &status)),
        };
        let before = self.0.daemon.lock().unwrap_or_else(PoisonError::into_inner).replace(daemon.clone());
        if before.is_some_and(|before| before != daemon) {
            *self.0.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(daemon)
    }

    async fn describe(&self, info: Option<InfoResponse>) -> Daemon {
        let mut daemon = self.known_daemon().unwrap_or_default();
        if let Some(version) = info.and_then(|info| info.buildkit_version) {
            daemon.version = Some(version.version).filter(|version| !version.is_empty());
            daemon.package = version.package;
            daemon.revision = version.revision;
        }
        if daemon.engine.is_none() {
            daemon.engine = self.0.connector.describe().await;
        }
        daemon
    }

    /// Makes a call that has one answer. It fails when the daemon is found dead meanwhile.
    pub(crate) async fn call<T, F>(
        &self,
        name: &'static str,
        call: impl FnOnce(ControlClient<Channel>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let span = tracing::debug_span!("buildkit.call", call = name);
        let exchange = async {
            let link = self.link().await?;
            let started = Instant::now();
            let answer = call(control(link.channel()));
            tokio::select! {
                biased;
                answer = answer => match answer {
                    Ok(answer) => Ok(answer.into_inner()),
                    Err(status) => Err(self.failed(&link, name, started, &status).await),
                },
                error = self.dead(&link, name, started) => Err(error),
            }
        };
        exchange.instrument(span).await
    }

    /// Makes a call with a stream of answers.
    pub(crate) async fn follow<T, F>(
        &self,
        name: &'static str,
        call: impl FnOnce(ControlClient<Channel>) -> F,
    ) -> Result<Follow<T>, Error>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let link = self.link().await?;
        let started = Instant::now();
        let stream = tokio::select! {
            biased;
            answer = call(control(link.channel())) => match answer {
                Ok(answer) => answer.into_inner(),
                Err(status) => return Err(self.failed(&link, name, started, &status).await),
            },
            error = self.dead(&link, name, started) => return Err(error),
        };
        Ok(Follow { client: self.clone(), link, name, started, stream, broken: None })
    }

    /// The error of a call that failed: what the daemon answered, or the end of the link.
    async fn failed(&self, link: &Link, name: &'static str, started: Instant, status: &Status) -> Error {
        if is_transport(status) {
            return link.lost(name, started, broke_off(link, status).await).into();
        }
        if status.code() == Code::Unimplemented {
            return crate::error::Unsupported {
                what: name.to_owned(),
                daemon: self.known_daemon().map(|daemon| daemon.to_string()),
                sent: true,
            }
            .into();
        }
        Error::rpc(name, status)
    }

    /// Waits until a link that carries a build or a session is found dead in either direction, and says why.
    pub(crate) async fn cut_off(&self, link: &Link) -> LinkEnd {
        let Liveness { dead_after, health_answer, .. } = self.0.liveness;
        tokio::select! {
            biased;
            end = link.ended() => end,
            () = link.silent_for(dead_after) => {
                format!("no byte from the daemon for {} s", dead_after.as_secs_f32()).into()
            }
            () = self.unheard(link) => {
                let silent = link.silent();
                let more = if silent < health_answer {
                    ": the daemon does not hear us".to_owned()
                } else {
                    format!(", and no byte from the daemon for {:.0} s", silent.as_secs_f32())
                };
                format!("no answer to a health check{more}").into()
            }
        }
    }

    /// Waits until the daemon is found not to hear us although we hear it: a health call stays without answer. While
    /// much is on its way in either direction the call may wait behind it, and nothing follows from that.
    async fn unheard(&self, link: &Link) {
        const MUCH: u64 = 256 * 1024;
        let liveness = &self.0.liveness;
        let patience = liveness.dead_after.saturating_sub(liveness.health_every).max(liveness.health_answer);
        loop {
            let passed = link.passed();
            tokio::time::sleep(liveness.health_every).await;
            if link.is_closed() {
                // It finishes what runs and takes no new calls.
                return std::future::pending().await;
            }
            let mut health = HealthClient::new(link.channel());
            let check = health.check(HealthCheckRequest::default());
            let answer = tokio::time::timeout(patience, check).await;
            if answer.is_err() && link.passed().saturating_sub(passed) < MUCH {
                return;
            }
        }
    }

    /// Waits until the daemon is found dead: the connection ends, or a health call stays without
    /// answer. PINGs are no way to find out, since a daemon ends connections that send them while
    /// no session is open.
    async fn dead(&self, link: &Link, name: &'static str, started: Instant) -> Error {
        let liveness = &self.0.liveness;
        let unanswered = async {
            loop {
                tokio::time::sleep(liveness.health_every).await;
                if link.silent() < liveness.health_every {
                    continue;
                }
                let mut health = HealthClient::new(link.channel());
                let check = health.check(HealthCheckRequest::default());
                // Any answer is a sign of life, a refusal too.
                match tokio::time::timeout(liveness.health_answer, check).await {
                    Ok(Err(status)) if is_transport(&status) => {}
                    Ok(_) => continue,
                    Err(_) => {}
                }
                break;
            }
        };
        tokio::select! {
            end = link.ended() => link.lost(name, started, end),
            () = unanswered => {
                let reason = format!("no answer to a health check in {} s", liveness.health_answer.as_secs_f32());
                link.lost(name, started, reason)
            }
        }
        .into()
    }
}

/// How long the reason for a broken call is waited for.
pub(crate) const REASON: Duration = Duration::from_millis(500);

/// Why a call failed on its way. Why the link broke says more than that the call did. A link that lives on has reset
/// its stream, or brought what is no answer.
pub(crate) async fn broke_off(link: &Link, status: &Status) -> LinkEnd {
    if let Ok(end) = tokio::time::timeout(REASON, link.ended()).await {
        return end;
    }
    if let Some(words) = link.goodbye() {
        return format!("the daemon takes no more calls: {}", crate::error::shown(&words)).into();
    }
    let mut text = crate::error::shown(status.message());
    if let Some(source) = std::error::Error::source(status) {
        let source = crate::error::report(source);
        if source.starts_with(&text) {
            text = source;
        } else if !text.contains(&source) {
            text = format!("{text}: {source}");
        }
    }
    format!("the call broke off: {text}").into()
}

/// A control client that takes what daemons send: status messages may be larger than requests.
pub(crate) fn control(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(4 * MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

/// A stream of answers that ends when the daemon is found dead.
pub(crate) struct Follow<T> {
    client: Client,
    link: Arc<Link>,
    name: &'static str,
    started: Instant,
    stream: Streaming<T>,
    /// How the answers ended.
    broken: Option<Status>,
}

impl<T> Follow<T> {
    /// The next answer. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        if self.broken.is_none() {
            tokio::select! {
                biased;
                message = self.stream.message() => match message {
                    Ok(message) => return Ok(message),
                    // Kept until its reason is known, as this may be dropped while it waits.
                    Err(status) => self.broken = Some(status),
                },
                error = self.client.dead(&self.link, self.name, self.started) => return Err(error),
            }
        }
        match &self.broken {
            Some(status) => Err(self.client.failed(&self.link, self.name, self.started, status).await),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}
