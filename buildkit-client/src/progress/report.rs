//! The side of progress that a build writes to.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::cache_metrics::CacheMetrics;
use super::event::{ClipLimit, Event, SolveStatus, Vertex, VertexWarning};
use super::fold::Fold;
use super::queue::{Popped, Queue};
use super::{Progress, Renderer, Sink, SinkKind};

/// How long the end of a build waits for its renderers.
const DRAIN: Duration = Duration::from_secs(2);

/// The running end of a [`Progress`]: a build feeds it, its consumers read it. Cheap to clone.
///
/// Nothing here waits for a consumer except [`Reporter::finish`], and that for two seconds at most.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
}

struct Shared {
    queues: Vec<Arc<Queue>>,
    /// Taken by the first `finish`.
    renderers: Mutex<Vec<tokio::sync::oneshot::Receiver<()>>>,
    fold: Mutex<Fold>,
    shift: Option<Mutex<Shift>>,
}

impl Progress {
    /// Starts the consumers.
    pub fn start(self) -> Reporter {
        let mut queues = Vec::with_capacity(self.sinks.len());
        let mut renderers = Vec::new();
        for Sink { kind, buffer } in self.sinks {
            match kind {
                SinkKind::Stream(queue) => queues.push(queue),
                SinkKind::Renderer(renderer) => {
                    let queue = Arc::new(Queue::new(buffer));
                    match spawn(renderer, queue.clone()) {
                        Ok(done) => {
                            queues.push(queue);
                            renderers.push(done);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "no thread for progress; the build goes on without");
                        }
                    }
                }
            }
        }
        Reporter {
            shared: Arc::new(Shared {
                queues,
                renderers: Mutex::new(renderers),
                fold: Mutex::default(),
                shift: self.from_now.then(Mutex::default),
            }),
        }
    }
}

/// Runs a renderer on a thread: its writes may block for as long as a pipe is full.
fn spawn(
    mut renderer: Box<dyn Renderer>,
    queue: Arc<Queue>,
) -> std::io::Result<tokio::sync::oneshot::Receiver<()>> {
    let (done, finished) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("buildkit-progress".into()).spawn(move || {
        let interval = renderer.interval();
        let result = loop {
            let step = match queue.pop(interval) {
                Popped::Event(event) => renderer.event(event, Instant::now()),
                Popped::Idle => renderer.tick(Instant::now()),
                Popped::Closed => break renderer.finish(Instant::now()),
            };
            if step.is_err() {
                break step;
            }
        };
        queue.abandon();
        if let Err(error) = result {
            tracing::debug!(%error, "progress can no longer be written");
        }
        let _ = done.send(());
    })?;
    Ok(finished)
}

impl Reporter {
    /// Takes an update from the daemon.
    pub fn status(&self, status: impl Into<SolveStatus>) {
        let mut status = status.into();
        if let Some(shift) = &self.shared.shift {
            shift.lock().unwrap_or_else(PoisonError::into_inner).apply(&mut status);
        }
        self.take(status);
    }

    /// Takes an update whose times are right.
    fn take(&self, status: SolveStatus) {
        let clipped: Vec<_> = status
            .logs
            .iter()
            .filter_map(|log| Some((log.vertex.clone(), ClipLimit::of_message(&log.data)?)))
            .collect();
        self.fold().apply(&status, |_, _, _| {});
        self.send(Event::Status(status));
        for (vertex, limit) in clipped {
            self.send(Event::Clipped { vertex, limit });
        }
    }

    /// Says that no more updates will come although the build goes on.
    pub fn incomplete(&self, reason: impl Into<String>) {
        self.send(Event::Incomplete { reason: crate::redact::owned(reason.into()) });
    }

    /// Shows a step of the client's own, such as `[auth] sharing credentials for HOST`.
    ///
    /// It is finished by [`Step::done`] or [`Step::fail`]; a dropped step shows as canceled.
    pub fn step(&self, name: impl Into<String>) -> Step {
        let name = name.into();
        let mut seed = [0u8; 16];
        // Identity within one display only: a counter would do, but two builds may share the display.
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).ok();
        let digest = format!("random:{}", super::text::hex(&seed));
        let vertex = Vertex { digest, name, started: Some(SystemTime::now()), ..Vertex::default() };
        self.take(SolveStatus { vertexes: vec![vertex.clone()], ..SolveStatus::default() });
        Step { reporter: self.clone(), vertex }
    }

    /// The last lines (at most 10, control characters removed) a step wrote, oldest first.
    pub fn last_logs(&self, vertex: &str) -> Vec<String> {
        self.fold().last_logs(vertex)
    }

    /// Name of a step.
    pub fn vertex_name(&self, vertex: &str) -> Option<String> {
        self.fold().name(vertex).map(str::to_owned)
    }

    /// Names of the steps that started and did not finish, in the order they came.
    pub fn running(&self) -> Vec<String> {
        self.fold().running()
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<VertexWarning> {
        self.fold().warnings().cloned().collect()
    }

    /// How much came from the cache, so far.
    pub fn cache_metrics(&self) -> CacheMetrics {
        CacheMetrics::of(&self.fold())
    }

    /// Closes progress and waits until it is written, at most two seconds. Later updates are ignored.
    pub async fn finish(&self) {
        for queue in &self.shared.queues {
            queue.close();
        }
        let renderers =
            std::mem::take(&mut *self.shared.renderers.lock().unwrap_or_else(PoisonError::into_inner));
        let all = futures::future::join_all(renderers);
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::debug!("progress is not written yet; the build does not wait for it");
        }
    }

    pub(super) fn send(&self, event: Event) {
        let Some((last, others)) = self.shared.queues.split_last() else { return };
        for queue in others {
            queue.push(event.clone());
        }
        last.push(event);
    }

    fn fold(&self) -> MutexGuard<'_, Fold> {
        self.shared.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("consumers", &self.shared.queues.len()).finish_non_exhaustive()
    }
}

/// Moves times, such that the first step starts when it is seen.
#[derive(Debug, Default)]
struct Shift {
    /// From when it started to when it was seen; the times may be later than now.
    by: Option<Result<Duration, Duration>>,
}

impl Shift {
    fn apply(&mut self, status: &mut SolveStatus) {
        if self.by.is_none() {
            let first = status.vertexes.iter().filter_map(|step| step.started).min();
            self.by =
                first.map(|first| SystemTime::now().duration_since(first).map_err(|later| later.duration()));
        }
        let Some(by) = self.by else { return };
        let moved = |time: &mut SystemTime| {
            let to = match by {
                Ok(later) => time.checked_add(later),
                Err(earlier) => time.checked_sub(earlier),
            };
            *time = to.unwrap_or(*time);
        };
        for step in &mut status.vertexes {
            step.started.iter_mut().chain(&mut step.completed).for_each(moved);
        }
        for part in &mut status.statuses {
            part.started.iter_mut().chain(&mut part.completed).for_each(moved);
            moved(&mut part.timestamp);
        }
        status.logs.iter_mut().for_each(|log| moved(&mut log.timestamp));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

/// A step of the client's own that is being shown.
#[derive(Debug)]
#[must_use = "a dropped step shows as canceled"]
pub struct Step {
    reporter: Reporter,
    vertex: Vertex,
}

impl Step {
    /// Digest under which the step is shown; logs and transfers name it.
    pub fn digest(&self) -> &str {
        &self.vertex.digest
    }

    /// Attaches a warning, which is among those of the build's result as well.
    pub fn warn(&self, text: impl Into<String>) {
        let warning = VertexWarning {
            vertex: self.vertex.digest.clone(),
            level: 1,
            short: text.into().into(),
            ..VertexWarning::default()
        };
        self.reporter.take(SolveStatus { warnings: vec![warning], ..SolveStatus::default() });
    }

    /// The step went well.
    pub fn done(mut self) {
        self.end(String::new());
    }

    /// The step failed; `error` must hold no secret.
    pub fn fail(mut self, error: impl Into<String>) {
        self.end(error.into());
    }

    fn end(&mut self, error: String) {
        if self.vertex.completed.is_none() {
            self.vertex.completed = Some(SystemTime::now());
            self.vertex.error = error;
            self.reporter.take(SolveStatus { vertexes: vec![self.vertex.clone()], ..SolveStatus::default() });
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("context canceled".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{self, VertexLog};

    #[tokio::test]
    async fn a_build_of_another_day_is_shown_as_one_of_now() {
        for (start, name) in [(1_000_000_000, "earlier"), (40_000_000_000, "later")] {
            let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(start + seconds);
            let (progress, mut events) = progress::channel();
            let reporter = progress.from_now().start();
            let now = SystemTime::now();
            reporter.step("of our own").done();
            let step = Vertex {
                digest: "a".into(),
                started: Some(at(1)),
                completed: Some(at(4)),
                ..Vertex::default()
            };
            let log = VertexLog { vertex: "a".into(), timestamp: at(3), ..VertexLog::default() };
            reporter.status(SolveStatus { vertexes: vec![step], logs: vec![log], ..SolveStatus::default() });
            reporter.finish().await;
            let mut seen = Vec::new();
            while let Some(event) = events.next().await {
                let Event::Status(status) = event else { panic!("{event:?}") };
                seen.push(status);
            }
            assert!(seen[0].vertexes[0].started.unwrap() >= now, "{name}: our own times are right");
            let shown = seen.pop().unwrap();
            let started = shown.vertexes[0].started.unwrap();
            assert!(started >= now && started < now + Duration::from_secs(60), "{name}: {started:?}");
            assert_eq!(shown.vertexes[0].completed, Some(started + Duration::from_secs(3)), "{name}");
            assert_eq!(shown.logs[0].timestamp, started + Duration::from_secs(2), "{name}");
        }
    }
}
