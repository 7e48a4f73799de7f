//! A byte stream with faults that a test switches on and off while it runs.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What goes wrong in one direction. Offsets count the bytes of that direction since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// From this byte on nothing moves, and nobody is told: a half-open link.
    StallAt(u64),
    /// From this byte on everything is taken and thrown away; the peer sees silence.
    DropAt(u64),
    /// At this byte the link is reset.
    ResetAt(u64),
    /// At this byte the link ends in good order.
    EndAt(u64),
    /// This byte arrives with some bits flipped.
    CorruptAt(u64),
    /// From the first number on, every so many bytes one arrives with some bits flipped.
    CorruptEvery(u64, u64),
    /// At most this many bytes at a time.
    Chunks(usize),
    /// At most this many bytes a second, by the clock of the runtime.
    Rate(u64),
}

/// The controls of a [`FaultyIo`]; clones control the same stream.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Both>>);

#[derive(Debug, Default)]
struct Both {
    read: Direction,
    write: Direction,
}

#[derive(Debug, Default)]
struct Direction {
    fault: Fault,
    passed: u64,
    waiting: Option<Waker>,
}

impl Faults {
    /// What happens to the bytes that the holder of the stream reads (from the daemon, say).
    pub fn reading(&self, fault: Fault) {
        self.set(|both| &mut both.read, fault);
    }

    /// What happens to the bytes that the holder of the stream writes.
    pub fn writing(&self, fault: Fault) {
        self.set(|both| &mut both.write, fault);
    }

    /// The same in both directions.
    pub fn both(&self, fault: Fault) {
        self.reading(fault);
        self.writing(fault);
    }

    /// Ends all faults; what was stalled goes on.
    pub fn heal(&self) {
        self.both(Fault::None);
    }

    /// Stalls both directions from here on.
    pub fn stall_now(&self) {
        let (read, written) = self.passed();
        self.reading(Fault::StallAt(read));
        self.writing(Fault::StallAt(written));
    }

    /// Resets the link now.
    pub fn reset_now(&self) {
        let (read, written) = self.passed();
        self.reading(Fault::ResetAt(read));
        self.writing(Fault::ResetAt(written));
    }

    /// Bytes read and written so far.
    pub fn passed(&self) -> (u64, u64) {
        let both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (both.read.passed, both.write.passed)
    }

    fn set(&self, direction: impl Fn(&mut Both) -> &mut Direction, fault: Fault) {
        let mut both = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let direction = direction(&mut both);
        direction.fault = fault;
        if let Some(waker) = direction.waiting.take() {
            waker.wake();
        }
    }
}

/// What a direction allows right now.
enum Allowed {
    Bytes(usize),
    Discard,
    Wait,
    WaitUntil(Instant),
    End,
    Reset,
}

impl Direction {
    fn allow(&mut self, wanted: usize, since: Instant, cx: &Context<'_>) -> Allowed {
        self.waiting = Some(cx.waker().clone());
        let until =
            |at: u64| usize::try_from(at.saturating_sub(self.passed)).unwrap_or(usize::MAX).min(wanted);
        match self.fault {
            Fault::StallAt(at) if self.passed >= at => Allowed::Wait,
            Fault::DropAt(at) if self.passed >= at => Allowed::Discard,
            Fault::ResetAt(at) if self.passed >= at => Allowed::Reset,
            Fault::EndAt(at) if self.passed >= at => Allowed::End,
            Fault::StallAt(at) | Fault::DropAt(at) | Fault::ResetAt(at) | Fault::EndAt(at) => {
                Allowed::Bytes(until(at))
            }
            Fault::None | Fault::CorruptAt(_) | Fault::CorruptEvery(..) => Allowed::Bytes(wanted),
            Fault::Chunks(size) => Allowed::Bytes(wanted.min(size.max(1))),
            Fault::Rate(rate) => {
                let rate = rate.max(1);
                let earned = since.elapsed().as_micros() * u128::from(rate) / 1_000_000;
                let room = earned.saturating_sub(u128::from(self.passed));
                match usize::try_from(room).unwrap_or(usize::MAX).min(wanted) {
                    0 => Allowed::WaitUntil(Instant::now() + Duration::from_millis(10)),
                    room => Allowed::Bytes(room),
                }
            }
        }
    }

    /// Takes account of bytes that are passing.
    fn pass(&mut self, bytes: usize) {
        self.passed += bytes as u64;
    }

    /// Spoils those of the next bytes that are to be spoilt.
    fn spoil(&self, bytes: &mut [u8]) {
        let (from, every) = match self.fault {
            Fault::CorruptAt(at) => (at, u64::MAX),
            Fault::CorruptEvery(from, every) => (from, every.max(1)),
            _ => return,
        };
        for (at, byte) in (self.passed..).zip(bytes) {
            if at.checked_sub(from).is_some_and(|behind| behind % every == 0) {
                *byte ^= 0x55;
            }
        }
    }
}

/// A stream whose reading and writing can be made to fail; see [`Faults`].
#[derive(Debug)]
pub struct FaultyIo<T> {
    inner: T,
    faults: Faults,
    since: Instant,
    pause: [Option<Pin<Box<Sleep>>>; 2],
}

impl<T> FaultyIo<T> {
    /// Wraps a stream. Must be called within a runtime.
    pub fn new(inner: T, faults: Faults) -> Self {
        Self { inner, faults, since: Instant::now(), pause: [None, None] }
    }

    /// The stream without its faults.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// The controls of this stream.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    fn wait(&mut self, which: usize, until: Instant, cx: &mut Context<'_>) {
        let mut pause = Box::pin(tokio::time::sleep_until(until));
        if Future::poll(pause.as_mut(), cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        if let Some(slot) = self.pause.get_mut(which) {
            *slot = Some(pause);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FaultyIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let faults = this.faults.clone();
            let mut both = faults.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (limit, discard) = match both.read.allow(buf.remaining(), this.since, cx) {
                Allowed::Bytes(limit) => (limit, false),
                Allowed::Discard => (4096, true),
                Allowed::Wait => return Poll::Pending,
                Allowed::WaitUntil(until) => {
                    drop(both);
                    this.wait(0, until, cx);
                    return Poll::Pending;
                }
                Allowed::End => return Poll::Ready(Ok(())),
                Allowed::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
            let mut bytes = vec![0; limit.min(64 * 1024)];
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut this.inner).poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let part = part.filled_mut();
            if part.is_empty() {
                return Poll::Ready(Ok(()));
            }
            both.read.spoil(part);
            both.read.pass(part.len());
            if discard {
                continue;
            }
            buf.put_slice(part);
            return Poll::Ready(Ok(()));
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FaultyIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let faults = this.faults.clone();
        let mut both = faults.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = match both.write.allow(buf.len(), this.since, cx) {
            Allowed::Bytes(limit) => limit,
            Allowed::Discard => {
                both.write.pass(buf.len());
                return Poll::Ready(Ok(buf.len()));
            }
            Allowed::Wait => return Poll::Pending,
            Allowed::WaitUntil(until) => {
                drop(both);
                this.wait(1, until, cx);
                return Poll::Pending;
            }
            Allowed::End => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Allowed::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        let mut part = buf.get(..limit).unwrap_or(buf).to_vec();
        both.write.spoil(&mut part);
        match Pin::new(&mut this.inner).poll_write(cx, &part) {
            Poll::Ready(Ok(written)) => {
                both.write.pass(written);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn pair() -> (FaultyIo<tokio::io::DuplexStream>, tokio::io::DuplexStream, Faults) {
        let (near, far) = duplex(1 << 16);
        let faults = Faults::default();
        (FaultyIo::new(near, faults.clone()), far, faults)
    }

    #[tokio::test]
    async fn a_cut_link_passes_exactly_the_bytes_before_the_cut() {
        for cut in [0, 1, 5, 9] {
            let (mut near, mut far, faults) = pair();
            faults.reading(Fault::ResetAt(cut));
            far.write_all(b"0123456789").await.unwrap();
            let mut got = Vec::new();
            let error = near.read_to_end(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(got.len() as u64, cut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_holds_until_it_heals() {
        let (mut near, mut far, faults) = pair();
        faults.stall_now();
        far.write_all(b"x").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(3600), near.read_u8()).await.is_err());
        faults.heal();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn one_byte_is_spoilt_in_either_direction() {
        let (mut near, mut far, faults) = pair();
        faults.both(Fault::CorruptAt(2));
        near.write_all(b"aaaa").await.unwrap();
        far.write_all(b"aaaa").await.unwrap();
        let (mut up, mut down) = ([0; 4], [0; 4]);
        far.read_exact(&mut up).await.unwrap();
        near.read_exact(&mut down).await.unwrap();
        assert_eq!(&up, b"aa\x34a");
        assert_eq!(&down, b"aa\x34a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_takes_its_time() {
        let (mut near, mut far, faults) = pair();
        faults.writing(Fault::Rate(1000));
        let start = Instant::now();
        near.write_all(&[0; 5000]).await.unwrap();
        let mut got = vec![0; 5000];
        far.read_exact(&mut got).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_bytes_look_like_silence() {
        let (mut near, mut far, faults) = pair();
        faults.both(Fault::DropAt(1));
        near.write_all(b"abc").await.unwrap();
        near.write_all(b"def").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');
        assert!(tokio::time::timeout(Duration::from_secs(60), far.read_u8()).await.is_err());
    }
}
