//! A stream that remembers when bytes came in, and what the first ones were.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes of a peer that are looked at: one frame head, or the start of something else.
const HEAD: usize = 64;
/// Length of an HTTP/2 frame head.
const FRAME_HEAD: usize = 9;
/// What stands before the words of a GOAWAY: the last call, the code.
const GOAWAY_FIXED: usize = 8;
/// What is kept of one.
const MAX_GOODBYE: usize = 300;

/// What is known of the inbound side of a stream.
#[derive(Debug)]
pub(super) struct Watch {
    opened: Instant,
    last_millis: AtomicU64,
    /// Bytes that came in and went out.
    passed: AtomicU64,
    /// The stream was dropped.
    gone: CancellationToken,
    frames: Mutex<Frames>,
    greeted: AtomicBool,
    head: Mutex<Head>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    ended: bool,
    error: Option<std::io::Error>,
}

/// Where in the peer's frames we are.
#[derive(Debug, Default)]
struct Frames {
    /// The beginning of a frame's head.
    head: Vec<u8>,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// The frame is a GOAWAY.
    farewell: bool,
    /// The beginning of the last GOAWAY.
    goodbye: Option<Vec<u8>>,
}

impl Frames {
    /// Goes on by these bytes.
    fn pass(&mut self, mut bytes: &[u8]) {
        const GOAWAY: u8 = 7;
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { FRAME_HEAD - self.head.len() };
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.left > 0 {
                self.left -= part.len();
                if let Some(goodbye) = self.goodbye.as_mut().filter(|_| self.farewell) {
                    let room = MAX_GOODBYE.saturating_sub(goodbye.len());
                    goodbye.extend(part.iter().take(room));
                }
                continue;
            }
            self.head.extend_from_slice(part);
            if let [a, b, c, kind, _, _, _, _, _] = self.head[..] {
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.head.clear();
                self.farewell = kind == GOAWAY;
                if self.farewell {
                    self.goodbye = Some(Vec::new());
                }
            }
        }
    }
}

/// What the first bytes of a peer say.
#[derive(Debug)]
pub(super) enum Greeting {
    Http2,
    Foreign(String),
    Ended(Option<std::io::Error>),
}

impl Watch {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            last_millis: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            gone: CancellationToken::new(),
            frames: Mutex::default(),
            greeted: AtomicBool::new(false),
            head: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// How long nothing has come in.
    pub(super) fn silent(&self) -> Duration {
        let last = Duration::from_millis(self.last_millis.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last)
    }

    /// Bytes that have passed so far, in either direction.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// What the peer said when it announced that it takes no new calls: its words and, unless all is well, the name
    /// of its reason. Often nothing.
    pub(super) fn goodbye(&self) -> Option<String> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.goodbye.as_ref().map(|said| {
            let text = String::from_utf8_lossy(said.get(GOAWAY_FIXED..).unwrap_or_default());
            let text = crate::progress::one_line(&text);
            match said.get(4..GOAWAY_FIXED) {
                None | Some([0, 0, 0, 0]) => text.into_owned(),
                Some(&[0, 0, 0, code]) if text.is_empty() => reason(code).to_owned(),
                Some(&[0, 0, 0, code]) => format!("{}: {text}", reason(code)),
                Some(_) => text.into_owned(),
            }
        })
    }

    /// Waits until the stream was dropped: only then has everything on it come to its end.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Waits for the first frame head, or whatever else the peer says.
    pub(super) async fn greeting(&self) -> Greeting {
        loop {
            let changed = self.changed.notified();
            if let Some(greeting) = self.look() {
                return greeting;
            }
            changed.await;
        }
    }

    fn look(&self) -> Option<Greeting> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        match classify(&head.bytes) {
            Some(greeting) => Some(greeting),
            None if head.ended => Some(Greeting::Ended(head.error.take())),
            None => None,
        }
    }

    fn note(&self, bytes: &[u8]) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
        self.passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pass(bytes);
        if self.greeted.load(Ordering::Relaxed) {
            return;
        }
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let room = HEAD.saturating_sub(head.bytes.len());
        head.bytes.extend(bytes.iter().take(room));
        self.greeted.store(head.bytes.len() >= FRAME_HEAD, Ordering::Relaxed);
        drop(head);
        self.changed.notify_waiters();
    }

    fn wrote(&self, written: &std::io::Result<usize>) {
        if let Ok(bytes) = written {
            self.passed.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
    }

    fn end(&self, error: Option<std::io::Error>) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        head.ended = true;
        head.error = head.error.take().or(error);
        drop(head);
        self.changed.notify_waiters();
    }
}

/// The names that HTTP/2 gives to reasons (RFC 9113, section 7).
fn reason(code: u8) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("an unknown reason")
}

fn classify(head: &[u8]) -> Option<Greeting> {
    const SETTINGS: u8 = 4;
    if head.starts_with(b"HTTP/1") {
        return Some(Greeting::Foreign(
            "it answers HTTP/1.1; is this a registry, a proxy or a Docker Engine (docker://)?".into(),
        ));
    }
    if let [0x14..=0x17, 3, ..] = head {
        return Some(Greeting::Foreign("it speaks TLS; give the client TLS settings (a CA)".into()));
    }
    if head.starts_with(b"SSH-") {
        return Some(Greeting::Foreign("it is an SSH server; use ssh://".into()));
    }
    match head.get(..FRAME_HEAD) {
        Some(&[_, _, _, SETTINGS, _, 0, 0, 0, 0]) => Some(Greeting::Http2),
        Some(start) => {
            let shown: String =
                start.iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
            Some(Greeting::Foreign(format!("its first bytes are \"{shown}\", not HTTP/2")))
        }
        None => None,
    }
}

/// The stream itself.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    watch: Arc<Watch>,
    _gone: DropGuard,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S) -> (Self, Arc<Watch>) {
        let watch = Arc::new(Watch::new());
        let gone = watch.gone.clone().drop_guard();
        (Self { inner, watch: watch.clone(), _gone: gone }, watch)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        match &result {
            Ok(()) => match buf.filled().get(before..) {
                Some(bytes) if !bytes.is_empty() => self.watch.note(bytes),
                _ if had_room => self.watch.end(None),
                _ => {}
            },
            Err(error) => self.watch.end(Some(copy(error))),
        }
        Poll::Ready(result)
    }
}

/// I/O errors cannot be cloned; the inner error of a command or of TLS is what matters.
fn copy(error: &std::io::Error) -> std::io::Error {
    if let Some(inner) = error.get_ref() {
        if let Some(ended) = inner.downcast_ref::<super::command::CommandEnded>() {
            return std::io::Error::other(ended.clone());
        }
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return std::io::Error::new(error.kind(), tls.clone());
        }
    }
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.watch.wrote(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        self.watch.wrote(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn go_away_is_found_however_the_bytes_come() {
        let settings = [&[0, 0, 7, 4, 0, 0, 0, 0, 0][..], &[7; 7]].concat();
        let data = [&[0, 1, 0, 0, 0, 0, 0, 0, 1][..], &[7; 256]].concat();
        let away = [&[0, 0, 12, 7, 0, 0, 0, 0, 0][..], &[0; 8], b"calm"].concat();
        let whole = [&settings[..], &data, &away, &data].concat();
        for size in [1, 2, 5, 9, 13, 100, 1000] {
            let mut frames = Frames::default();
            whole.chunks(size).for_each(|chunk| frames.pass(chunk));
            assert_eq!(frames.goodbye.unwrap().get(8..).unwrap(), b"calm", "{size}");
            let mut frames = Frames::default();
            let harmless = [&settings[..], &data, &data].concat();
            harmless.chunks(size).for_each(|chunk| frames.pass(chunk));
            assert_eq!(frames.goodbye, None, "{size}");
        }
    }
}
