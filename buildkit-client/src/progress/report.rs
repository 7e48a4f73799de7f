//! The side of progress that a build writes to.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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
            shared: Arc::new(Shared { queues, renderers: Mutex::new(renderers), fold: Mutex::default() }),
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
        let status = status.into();
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
        self.status(SolveStatus { vertexes: vec![vertex.clone()], ..SolveStatus::default() });
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
        self.reporter.status(SolveStatus { warnings: vec![warning], ..SolveStatus::default() });
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
            self.reporter
                .status(SolveStatus { vertexes: vec![self.vertex.clone()], ..SolveStatus::default() });
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end("context canceled".into());
    }
}
