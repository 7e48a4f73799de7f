//! HTTP/2 frames put between those of the daemon.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of a frame's head.
const HEAD: usize = 9;

/// The controls of an [`Injector`].
#[derive(Clone, Debug, Default)]
pub struct Frames(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    waker: Option<Waker>,
}

impl Frames {
    /// Says these bytes at the next border of two frames.
    pub fn inject(&self, frame: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.extend_from_slice(frame);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Says that the daemon takes no new calls; those that run go on when `code` is 0.
    pub fn go_away(&self, code: u8, text: &str) {
        let length = u8::try_from(8 + text.len()).unwrap_or(u8::MAX);
        let mut frame = vec![0, 0, length, 7, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, code]);
        frame.extend_from_slice(text.as_bytes());
        self.inject(&frame);
    }
}

/// A stream into whose reading side frames can be put.
#[derive(Debug)]
pub struct Injector<T> {
    inner: T,
    frames: Frames,
    head: Vec<u8>,
    /// Bytes of the current frame that are still to come.
    left: usize,
}

impl<T> Injector<T> {
    /// Wraps a stream.
    pub fn new(inner: T, frames: Frames) -> Self {
        Self { inner, frames, head: Vec::new(), left: 0 }
    }

    /// How many bytes may be read before the next border may be passed.
    fn room(&self) -> usize {
        if self.left > 0 { self.left } else { HEAD - self.head.len() }
    }

    fn pass(&mut self, bytes: &[u8]) {
        if self.left > 0 {
            self.left -= bytes.len();
            return;
        }
        self.head.extend_from_slice(bytes);
        if let [a, b, c, ..] = self.head[..]
            && self.head.len() == HEAD
        {
            self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.head.clear();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Injector<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 && this.head.is_empty() {
            let mut state = this.frames.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.waiting.is_empty() {
                let n = state.waiting.len().min(buf.remaining());
                buf.put_slice(&state.waiting[..n]);
                state.waiting.drain(..n);
                return Poll::Ready(Ok(()));
            }
            state.waker = Some(cx.waker().clone());
        }
        let mut bytes = vec![0; this.room().min(buf.remaining())];
        let mut part = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        this.pass(part.filled());
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Injector<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
