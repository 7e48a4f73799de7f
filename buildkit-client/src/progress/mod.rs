//! Progress of a build: typed events, and renderers that show them.
//!
//! A [`Progress`] says where progress goes; it is given to a build. [`auto`], [`plain`], [`tty`], [`quiet`] and
//! [`rawjson`] show it to people and programs, [`callback`] and [`channel`] hand it to code. Consumers run beside the
//! build and are fed through bounded queues: a slow terminal, a stuck pipe or a flood of logs never delays or decides
//! a build.
//!
//! ```
//! use buildkit_client::progress;
//! // plain lines on standard error, and a machine-readable copy in memory
//! let copy = progress::rawjson().writer(Vec::new());
//! let progress = progress::plain().description("building app").tee(copy);
//! ```

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

mod cache_metrics;
mod convert;
mod display;
pub mod event;
mod fold;
mod plain;
mod queue;
mod quiet;
mod rawjson;
mod report;
mod sanitize;
mod several;
mod text;
mod tty;

pub use cache_metrics::CacheMetrics;
pub(crate) use convert::time;
pub use display::{Display, InvalidMode, Mode, auto, plain, quiet, rawjson, tty};
pub use event::{Event, SolveStatus, Vertex, VertexLog, VertexStatus, VertexWarning};
use queue::Queue;
pub use report::{Reporter, Step};
pub(crate) use sanitize::{line as one_line, lines as clean_lines};
pub use several::Several;
pub(crate) use text::hex;

/// Bytes of events a slow consumer may be behind before the oldest log lines are dropped.
const DEFAULT_BUFFER: usize = 16 << 20;

/// Where the progress of a build goes. Several can be joined with [`Progress::tee`].
#[derive(Default)]
pub struct Progress {
    sinks: Vec<Sink>,
    from_now: bool,
}

struct Sink {
    kind: SinkKind,
    buffer: usize,
}

enum SinkKind {
    Renderer(Box<dyn Renderer>),
    Stream(Arc<Queue>),
}

/// Something that shows progress. It runs on a thread of its own, so it may block.
///
/// An error ends the rendering, never the build.
pub trait Renderer: Send {
    /// Takes the next event.
    fn event(&mut self, event: Event, now: Instant) -> io::Result<()>;

    /// Is called when [`Renderer::interval`] passed without an event.
    fn tick(&mut self, now: Instant) -> io::Result<()> {
        let _ = now;
        Ok(())
    }

    /// How often [`Renderer::tick`] wants to be called; `None`, the default, is never.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// The build is over and every event was seen.
    fn finish(&mut self, now: Instant) -> io::Result<()> {
        let _ = now;
        Ok(())
    }
}

impl Progress {
    /// Progress that nobody looks at; the default.
    pub fn none() -> Self {
        Self::default()
    }

    /// Progress shown by one's own renderer.
    pub fn renderer(renderer: impl Renderer + 'static) -> Self {
        Self {
            sinks: vec![Sink { kind: SinkKind::Renderer(Box::new(renderer)), buffer: DEFAULT_BUFFER }],
            from_now: false,
        }
    }

    /// Sends the progress to `other` too.
    #[must_use]
    pub fn tee(mut self, other: impl Into<Progress>) -> Self {
        let mut other = other.into();
        self.sinks.append(&mut other.sinks);
        self.from_now |= other.from_now;
        self
    }

    /// Shows a build that ran earlier, or on a machine with another clock, as if it ran now: all times are moved such
    /// that its first step starts when it is shown. For [`attach`](crate::Client::attach), and for updates that were
    /// kept.
    #[must_use]
    pub fn from_now(mut self) -> Self {
        self.from_now = true;
        self
    }

    /// Bytes of events each consumer may be behind before the oldest log lines are dropped and
    /// [`Event::Dropped`] says so; 16 MiB unless set.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        for sink in &mut self.sinks {
            sink.buffer = bytes;
        }
        self
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("sinks", &self.sinks.len()).finish_non_exhaustive()
    }
}

/// Progress handed to a function, on a thread of its own.
pub fn callback(function: impl FnMut(Event) + Send + 'static) -> Progress {
    struct Callback<F>(F);
    impl<F: FnMut(Event) + Send> Renderer for Callback<F> {
        fn event(&mut self, event: Event, _: Instant) -> io::Result<()> {
            (self.0)(event);
            Ok(())
        }
    }
    Progress::renderer(Callback(function))
}

/// Progress as a stream of events, which ends with the build.
pub fn channel() -> (Progress, Events) {
    let queue = Arc::new(Queue::new(DEFAULT_BUFFER));
    let sink = Sink { kind: SinkKind::Stream(queue.clone()), buffer: DEFAULT_BUFFER };
    (Progress { sinks: vec![sink], from_now: false }, Events { queue })
}

/// The receiving end of [`channel`].
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
}

impl Events {
    /// The next event; `None` when the build is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.queue.poll_pop(cx)).await
    }
}

impl futures::Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.queue.poll_pop(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}
