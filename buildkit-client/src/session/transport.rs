//! A gRPC server on our side of the link, reached through one `Control.Session` stream.
//!
//! The bytes in the messages of that stream are a plain byte stream on which the daemon is the
//! HTTP/2 client. Where a message ends means nothing.

use super::{Router, Service, SessionContext, health};
use crate::connect::{Channel, Tasks};
use crate::error::{BoxError, RequestError};
use buildkit_proto::control::BytesMessage;
use buildkit_proto::control::control_client::ControlClient;
use bytes::{Buf, Bytes, BytesMut};
use futures::{FutureExt as _, Stream as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, PollSender};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::{Request, Status, Streaming};

/// Include, exclude and follow paths travel as request headers, one value each; a daemon refuses
/// to send more than this side announces.
const MAX_HEADERS: u32 = 64 * 1024 * 1024;
/// Receive window of one call: what an export may pile up here.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Receive window of all calls. Not what they need: half of it is also how much h2 allows small frames to weigh, each
/// counted as up to 256 bytes, before it ends the connection. Of trees with tiny files nearly all frames are small, so
/// this must be some thirty windows of a call, for several calls; else a slow disk costs the session.
const CONNECTION_WINDOW: u32 = 128 * 1024 * 1024;
/// Most bytes of one message that we send.
const MAX_WRITE: usize = 256 * 1024;
/// Messages in flight between the server and the stream.
const QUEUE: usize = 4;
/// Calls that a daemon may have open at once.
const MAX_CALLS: u32 = 1024;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The daemon ended it.
    ByDaemon(Option<Status>),
    /// Its byte stream was not HTTP/2, or broke.
    Broken(BoxError),
    /// We ended it.
    Closed,
}

impl SessionEnd {
    /// In words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::ByDaemon(Some(status)) => {
                format!("the daemon ended the session: {}", crate::error::shown(status.message()))
            }
            Self::ByDaemon(None) => "the daemon ended the session".to_owned(),
            Self::Broken(error) => format!("the session broke: {}", crate::error::report(&**error)),
            Self::Closed => "the session was closed".to_owned(),
        }
    }
}

/// Opens a session and serves it until it ends or `context` is closed. It announces itself, so it
/// may be opened at the same time as the build is sent. Dropping the future ends the session and
/// every call in it.
pub(crate) fn open(
    channel: Channel,
    shared_key: &str,
    mut services: Vec<Service>,
    context: SessionContext,
) -> Result<impl Future<Output = SessionEnd> + Send + 'static, RequestError> {
    services.push(health::service(context.clone()));
    let (to_daemon, messages) = mpsc::channel(QUEUE);
    let mut request = Request::new(ReceiverStream::new(messages));
    let metadata = request.metadata_mut();
    let value = |text: &str, what| {
        text.parse::<AsciiMetadataValue>()
            .map_err(|_| RequestError::option(what, "only printable ASCII can be sent"))
    };
    metadata.insert("x-docker-expose-session-uuid", value(context.id(), "session id")?);
    metadata.insert("x-docker-expose-session-sharedkey", value(shared_key, "shared key")?);
    let method = AsciiMetadataKey::from_static("x-docker-expose-session-grpc-method");
    for path in services.iter().flat_map(Service::paths) {
        metadata.append(method.clone(), value(&path, "method")?);
    }

    let router = Router::new(services, context.clone());
    Ok(async move {
        let mut client = ControlClient::new(channel).max_decoding_message_size(super::MAX_MESSAGE * 4);
        let opening = async move { client.session(request).await.map(tonic::Response::into_inner) };
        let io = Tunnel {
            inbound: Inbound::Opening(Box::pin(opening)),
            pending: Bytes::new(),
            outbound: PollSender::new(to_daemon),
            ended: None,
            taken: context.taken().clone(),
        };
        serve(io, router, context).await
    })
}

async fn serve(io: Tunnel, router: Router, context: SessionContext) -> SessionEnd {
    // Calls in progress end with the session, however it ends.
    let calls = CancellationToken::new();
    let _calls = calls.clone().drop_guard();
    let mut builder = hyper::server::conn::http2::Builder::new(Tasks(calls));
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_CALLS)
        .max_send_buf_size(256 * 1024);
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = context.closed().cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Calls that the daemon leaves open are not waited for.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), connection).await;
            return SessionEnd::Closed;
        }
    };
    match served {
        Ok(()) => SessionEnd::ByDaemon(None),
        Err(error) => match status_of(&error) {
            Some(status) => SessionEnd::ByDaemon(Some(status)),
            None => SessionEnd::Broken(error.into()),
        },
    }
}

/// The status with which the daemon ended the stream, from inside the chain of the server's error.
fn status_of(error: &hyper::Error) -> Option<Status> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(status) = error.downcast_ref::<Status>() {
            return Some(status.clone());
        }
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)
            && let Some(status) = inner.downcast_ref::<Status>()
        {
            return Some(status.clone());
        }
        next = error.source();
    }
    None
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<BytesMessage>, Status>> + Send>>;

enum Inbound {
    /// The headers of the answer come with the daemon's first bytes only.
    Opening(Opening),
    Open(Box<Streaming<BytesMessage>>),
    Ended,
}

/// The stream of messages as a stream of bytes.
struct Tunnel {
    inbound: Inbound,
    pending: Bytes,
    outbound: PollSender<BytesMessage>,
    ended: Option<Status>,
    taken: CancellationToken,
}

impl Tunnel {
    fn fail(&mut self, status: Status) -> std::io::Error {
        self.inbound = Inbound::Ended;
        self.ended = Some(status.clone());
        std::io::Error::new(std::io::ErrorKind::ConnectionAborted, status)
    }

    fn broken(&self) -> std::io::Error {
        match &self.ended {
            Some(status) => std::io::Error::new(std::io::ErrorKind::ConnectionAborted, status.clone()),
            None => std::io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            if !self.pending.is_empty() {
                let n = self.pending.len().min(buf.remaining());
                buf.put_slice(self.pending.get(..n).unwrap_or_default());
                self.pending.advance(n);
                return Poll::Ready(Ok(()));
            }
            match &mut self.inbound {
                Inbound::Opening(opening) => match ready!(opening.poll_unpin(cx)) {
                    Ok(stream) => {
                        self.taken.cancel();
                        self.inbound = Inbound::Open(Box::new(stream));
                    }
                    Err(status) => return Poll::Ready(Err(self.fail(status))),
                },
                Inbound::Open(stream) => match ready!(Pin::new(stream).poll_next(cx)) {
                    Some(Ok(message)) => self.pending = message.data,
                    Some(Err(status)) => return Poll::Ready(Err(self.fail(status))),
                    None => self.inbound = Inbound::Ended,
                },
                Inbound::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        if ready!(self.outbound.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(self.broken()));
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut data = BytesMut::with_capacity(total.min(MAX_WRITE));
        for buf in bufs {
            let room = MAX_WRITE - data.len();
            data.extend_from_slice(buf.get(..room.min(buf.len())).unwrap_or_default());
        }
        let written = data.len();
        let message = BytesMessage { data: data.freeze() };
        match self.outbound.send_item(message) {
            Ok(()) => Poll::Ready(Ok(written)),
            Err(_) => Poll::Ready(Err(self.broken())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.outbound.close();
        Poll::Ready(Ok(()))
    }
}
