//! One HTTP/2 connection to a daemon, and the channel that calls go over.

use super::command::CommandEnded;
use super::watched::{Greeting, Watch, Watched};
use super::{Connector, Liveness};
use crate::error::{BoxError, ConnectError, ConnectErrorKind, LinkLost};
use crate::tls;
use buildkit_proto::checked::{CheckedBody, checked};
use http::uri::{Authority, Scheme};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest list of headers or trailers that is taken: error details travel in trailers and carry
/// whole source files.
pub(crate) const MAX_HEADERS: u32 = 16 * 1024 * 1024;
/// Receive window of a stream: what a peer can make us hold for each of the few streams we open.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Half of this is how much h2 allows small frames to weigh, each counted as up to 256 bytes, before it ends the
/// connection: the session's frames are small when trees are, and may pile up.
const CONNECTION_WINDOW: u32 = 256 * 1024 * 1024;
/// How long a connection may take to say goodbye once nobody uses it.
const GOODBYE: Duration = Duration::from_millis(500);

/// A connection and everything known of its health. Dropping it ends the connection within half a
/// second, whatever the peer does.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    watch: Arc<Watch>,
    end: watch::Receiver<Option<LinkEnd>>,
    endpoint: String,
    _closing: DropGuard,
}

/// Why a connection, or a call on it, is over.
#[derive(Debug, Clone)]
pub(crate) struct LinkEnd {
    /// In words.
    pub(crate) reason: String,
    /// As the transport said it.
    pub(crate) source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl<S: Into<String>> From<S> for LinkEnd {
    fn from(reason: S) -> Self {
        Self { reason: reason.into(), source: None }
    }
}

impl Link {
    /// Connects, and waits until the peer has shown that it speaks HTTP/2. With `pings` the
    /// connection is checked with HTTP/2 PINGs while a stream is open on it. Every call gets `headers`.
    pub(crate) async fn open(
        connector: &dyn Connector,
        liveness: &Liveness,
        headers: Headers,
        pings: bool,
    ) -> Result<Self, ConnectError> {
        let endpoint = connector.endpoint();
        let silent = |awaited| {
            ConnectError::new(&endpoint, ConnectErrorKind::Silent { waited: liveness.connect, awaited })
        };
        let started = Instant::now();
        let io = match tokio::time::timeout(liveness.connect, connector.connect()).await {
            Ok(io) => io?,
            Err(_) => return Err(silent("connection")),
        };
        let left = liveness.connect.saturating_sub(started.elapsed());
        let (io, watch) = Watched::new(io);
        let gone = CancellationToken::new();
        // Whatever becomes of this future: nothing of the connection outlives it.
        let tasks = Tasks(gone.clone());
        let gone = gone.drop_guard();
        let mut builder = http2::Builder::new(tasks);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(1024 * 1024);
        if pings && liveness.dead_after < Duration::from_secs(24 * 3600) {
            builder
                .keep_alive_interval(liveness.ping_every)
                .keep_alive_timeout(liveness.ping_answer())
                .keep_alive_while_idle(false);
        }
        // The far side may not even take our half of the greeting.
        let (send, connection) = match tokio::time::timeout(left, builder.handshake(TokioIo::new(io))).await {
            Err(_) => return Err(silent("HTTP/2 preface")),
            Ok(Err(error)) => {
                return Err(ConnectError::new(&endpoint, ConnectErrorKind::Broken).because(error));
            }
            Ok(Ok(opened)) => opened,
        };
        let closing = CancellationToken::new();
        let (end_tx, end) = watch::channel(None);
        tokio::spawn(drive(connection, watch.clone(), closing.clone(), gone, end_tx));
        let closing = closing.drop_guard();

        let left = liveness.connect.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, watch.greeting()).await {
            Err(_) => return Err(silent("HTTP/2 preface")),
            Ok(Greeting::Http2) => {}
            Ok(Greeting::Foreign(hint)) => {
                return Err(ConnectError::new(&endpoint, ConnectErrorKind::NotBuildKit { hint }));
            }
            Ok(Greeting::Ended(None)) => {
                return Err(ConnectError::new(&endpoint, ConnectErrorKind::Broken)
                    .because("the far side closed the connection at once"));
            }
            Ok(Greeting::Ended(Some(error))) => return Err(broken(&endpoint, error)),
        }
        let authority = connector
            .authority()
            .parse()
            .map_err(|_| ConnectError::address(&endpoint, "its host cannot be used as :authority"))?;
        Ok(Self { channel: Channel { send, authority, headers }, watch, end, endpoint, _closing: closing })
    }

    /// What calls go over.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// How long nothing has come in.
    pub(crate) fn silent(&self) -> Duration {
        self.watch.silent()
    }

    /// Bytes that have passed so far, in either direction.
    pub(crate) fn passed(&self) -> u64 {
        self.watch.passed()
    }

    /// Why the peer takes no new calls, as far as it said so.
    pub(crate) fn goodbye(&self) -> Option<String> {
        self.watch.goodbye().filter(|words| !words.is_empty())
    }

    /// Whether new calls cannot be made any more. Calls that run may still come to a good end.
    pub(crate) fn is_closed(&self) -> bool {
        self.channel.send.is_closed() || self.watch.goodbye().is_some() || self.end.borrow().is_some()
    }

    /// Waits until the connection has ended.
    pub(crate) async fn ended(&self) -> LinkEnd {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| "the connection was closed".into())
    }

    /// The error of a call that was under way when the link was given up.
    pub(crate) fn lost(&self, call: &'static str, started: Instant, why: impl Into<LinkEnd>) -> LinkLost {
        let LinkEnd { reason, source } = why.into();
        LinkLost {
            endpoint: self.endpoint.clone(),
            call,
            reference: None,
            reason,
            elapsed: started.elapsed(),
            silent: self.silent(),
            running: Vec::new(),
            source,
        }
    }

    /// Waits until nothing has come in for `limit`. For ever with [`Duration::MAX`].
    pub(crate) async fn silent_for(&self, limit: Duration) {
        loop {
            match limit.checked_sub(self.silent()) {
                Some(left) if !left.is_zero() => {
                    tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
                }
                _ => return,
            }
        }
    }
}

fn broken(endpoint: &str, error: std::io::Error) -> ConnectError {
    let inner = error.get_ref();
    if let Some(ended) = inner.and_then(|inner| inner.downcast_ref::<CommandEnded>()) {
        let kind =
            ConnectErrorKind::Command { command: ended.command.clone(), outcome: ended.outcome.clone() };
        return ConnectError::new(endpoint, kind);
    }
    if inner.is_some_and(
        <dyn std::error::Error + std::marker::Send + std::marker::Sync + 'static>::is::<rustls::Error>,
    ) {
        return tls::explain(endpoint, error);
    }
    ConnectError::new(endpoint, ConnectErrorKind::Broken).because(error)
}

/// Runs a connection until it ends or nobody wants it any more. Dropping `gone` ends everything on it.
async fn drive(
    connection: impl Future<Output = hyper::Result<()>>,
    watch: Arc<Watch>,
    closing: CancellationToken,
    gone: DropGuard,
    end: watch::Sender<Option<LinkEnd>>,
) {
    let connection = async {
        let result = connection.await;
        if result.is_ok() {
            // A daemon that shuts down takes no new calls, but it finishes those that run.
            watch.gone().await;
        }
        result
    };
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            // The streams were dropped just now: let their resets out.
            let _ = tokio::time::timeout(GOODBYE, connection).await;
            drop(gone);
            return;
        }
    };
    let mut end_of_link = match result {
        Ok(()) => "the daemon closed the connection".into(),
        Err(error) => {
            let reason = if error.is_timeout() {
                "no answer to an HTTP/2 PING".to_owned()
            } else {
                match innermost(&error) {
                    Some(text) => crate::error::shown(&text),
                    None => "the connection broke".to_owned(),
                }
            };
            LinkEnd { reason, source: Some(Arc::new(error)) }
        }
    };
    if let Some(words) = watch.goodbye().filter(|words| !words.is_empty())
        && !end_of_link.reason.contains(&words)
    {
        end_of_link.reason = format!("{} (it said: {})", end_of_link.reason, crate::error::shown(&words));
    }
    let _ = end.send(Some(end_of_link));
    drop(gone);
}

/// Runs what belongs to a connection, and drops it when the connection is given up: a peer that takes no bytes would
/// hold it for ever.
#[derive(Clone)]
pub(crate) struct Tasks(pub(crate) CancellationToken);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let gone = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = gone.cancelled_owned() => {}
                _ = task => {}
            }
        });
    }
}

/// The most precise text of a chain: GOAWAY's own words are the innermost.
fn innermost(error: &hyper::Error) -> Option<String> {
    let mut last: Option<&(dyn std::error::Error + 'static)> = None;
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        last = Some(error);
        next = error.source();
    }
    last.map(ToString::to_string)
}

type Add = Arc<dyn Fn(&mut http::HeaderMap) + Send + Sync>;

/// What is added to the headers of every call.
#[derive(Clone, Default)]
pub(crate) struct Headers(Vec<Add>);

impl Headers {
    /// Adds what `add` does after what is there.
    pub(crate) fn and(mut self, add: impl Fn(&mut http::HeaderMap) + Send + Sync + 'static) -> Self {
        self.0.push(Arc::new(add));
        self
    }

    fn add(&self, headers: &mut http::HeaderMap) {
        for add in &self.0 {
            add(headers);
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Headers").field(&self.0.len()).finish()
    }
}

/// Carries calls of generated clients to a daemon. Clones share one connection.
///
/// It implements [`tower_service::Service`], so that any tonic client can be put on it.
#[derive(Clone)]
pub struct Channel {
    send: http2::SendRequest<tonic::body::Body>,
    authority: Authority,
    headers: Headers,
}

impl Channel {
    /// The same connection, but with more headers on every call.
    pub(crate) fn with_headers(mut self, add: impl Fn(&mut http::HeaderMap) + Send + Sync + 'static) -> Self {
        self.headers = self.headers.and(add);
        self
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<CheckedBody<Incoming>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A closed connection is told by the call: as an error of readiness it would look like an answer of the daemon.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        match http::Uri::from_parts(uri) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        }
        self.headers.add(request.headers_mut());
        let answer = self.send.send_request(request);
        Box::pin(async move { answer.await.map(checked).map_err(Into::into) })
    }
}

/// Whether a call failed on the way, not by an answer of the daemon.
pub(crate) fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}
