//! The bounded queue between a build and one consumer of its progress.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::event::{Event, SolveStatus};

/// What a waiting consumer got.
pub(super) enum Popped {
    Event(Event),
    Idle,
    Closed,
}

/// Holds at most `limit` bytes of events (and always the newest one). The producer never waits: when the consumer is
/// slow, log lines and transfer updates of the oldest events go first, whole events last.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<(Event, usize)>,
    cost: usize,
    /// The first `stripped` items hold neither logs nor transfer updates any more.
    stripped: usize,
    dropped: Dropped,
    closed: bool,
    /// The consumer went away: nothing is kept.
    abandoned: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Dropped {
    logs: u64,
    statuses: u64,
    vertexes: u64,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { inner: Mutex::default(), ready: Condvar::new(), limit }
    }

    /// Adds an event; never waits for the consumer.
    pub(super) fn push(&self, event: Event) {
        let mut inner = self.lock();
        if inner.closed || inner.abandoned {
            return;
        }
        let cost = cost(&event);
        inner.cost += cost;
        inner.items.push_back((event, cost));
        while inner.cost > self.limit && inner.items.len() > 1 {
            inner.make_room();
        }
        let waker = inner.waker.take();
        drop(inner);
        self.ready.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// No more events will come; the consumer still gets those that are held.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let waker = inner.waker.take();
        drop(inner);
        self.ready.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The consumer is gone: drops what is held and what will come.
    pub(super) fn abandon(&self) {
        let mut inner = self.lock();
        inner.abandoned = true;
        inner.items = VecDeque::new();
        inner.cost = 0;
        inner.stripped = 0;
    }

    /// Waits on this thread for the next event, at most `patience`.
    pub(super) fn pop(&self, patience: Option<Duration>) -> Popped {
        let mut inner = self.lock();
        loop {
            if let Some(event) = inner.take() {
                return Popped::Event(event);
            }
            if inner.closed {
                return Popped::Closed;
            }
            let Some(patience) = patience else {
                inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (guard, timeout) =
                self.ready.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner);
            inner = guard;
            if timeout.timed_out() {
                return inner.take().map_or(Popped::Idle, Popped::Event);
            }
        }
    }

    /// The asynchronous form of [`Queue::pop`].
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = self.lock();
        if let Some(event) = inner.take() {
            return Poll::Ready(Some(event));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Event> {
        let Dropped { logs, statuses, vertexes } = std::mem::take(&mut self.dropped);
        if logs + statuses + vertexes > 0 {
            return Some(Event::Dropped { logs, statuses, vertexes });
        }
        let (event, cost) = self.items.pop_front()?;
        self.cost -= cost;
        self.stripped = self.stripped.saturating_sub(1);
        Some(event)
    }

    fn make_room(&mut self) {
        if self.stripped + 1 < self.items.len() {
            if let Some((event, held)) = self.items.get_mut(self.stripped) {
                if let Event::Status(status) = event {
                    self.dropped.logs += status.logs.len() as u64;
                    self.dropped.statuses += status.statuses.len() as u64;
                    status.logs = Vec::new();
                    status.statuses = Vec::new();
                }
                let left = cost(event);
                self.cost -= *held - left;
                *held = left;
            }
            self.stripped += 1;
        } else if let Some((event, cost)) = self.items.pop_front() {
            self.cost -= cost;
            self.stripped = self.stripped.saturating_sub(1);
            if let Event::Status(SolveStatus { vertexes, statuses, logs, .. }) = &event {
                self.dropped.vertexes += vertexes.len() as u64;
                self.dropped.statuses += statuses.len() as u64;
                self.dropped.logs += logs.len() as u64;
            }
        }
    }
}

/// About how much memory an event holds.
fn cost(event: &Event) -> usize {
    const ITEM: usize = 192;
    let Event::Status(status) = event else { return ITEM };
    let vertexes = status.vertexes.iter().map(|v| {
        let inputs: usize = v.inputs.iter().map(|digest| digest.len() + 24).sum();
        ITEM + v.digest.len() + v.name.len() + v.error.len() + inputs
    });
    let statuses = status.statuses.iter().map(|s| ITEM + s.id.len() + s.vertex.len() + s.name.len());
    let logs = status.logs.iter().map(|log| ITEM + log.vertex.len() + log.data.len());
    let warnings = status.warnings.iter().map(|w| {
        let detail: usize = w.detail.iter().map(|line| line.len() + 24).sum();
        ITEM + w.short.len() + w.url.len() + detail + w.source_info.as_ref().map_or(0, |file| file.data.len())
    });
    ITEM + vertexes.chain(statuses).chain(logs).chain(warnings).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{Event, Popped, Queue};
    use crate::progress::event::{SolveStatus, Vertex, VertexLog};

    fn log(text: &str) -> Event {
        Event::Status(SolveStatus {
            vertexes: vec![Vertex { digest: "sha256:a".into(), ..Vertex::default() }],
            logs: vec![VertexLog {
                vertex: "sha256:a".into(),
                data: text.to_owned().into(),
                ..VertexLog::default()
            }],
            ..SolveStatus::default()
        })
    }

    fn drain(queue: &Queue) -> Vec<Event> {
        queue.close();
        std::iter::from_fn(|| match queue.pop(None) {
            Popped::Event(event) => Some(event),
            Popped::Idle | Popped::Closed => None,
        })
        .collect()
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_logs_and_is_told_how_many() {
        let queue = Queue::new(16 << 10);
        for _ in 0..20 {
            queue.push(log(&"x".repeat(1024)));
        }
        let events = drain(&queue);
        let Some(Event::Dropped { logs, vertexes: 0, .. }) = events.first() else {
            panic!("{:?}", events.first())
        };
        let kept = events.iter().filter(|e| matches!(e, Event::Status(s) if !s.logs.is_empty())).count();
        assert_eq!(usize::try_from(*logs).unwrap() + kept, 20);
        assert_eq!(events.len(), 21, "every step update is kept");
        assert!(matches!(events.last(), Some(Event::Status(s)) if s.logs.len() == 1));
    }

    #[test]
    fn a_flood_of_steps_is_bounded_too() {
        let queue = Queue::new(4 << 10);
        for _ in 0..10_000 {
            queue.push(log("x"));
        }
        let events = drain(&queue);
        assert!(events.len() < 30, "{}", events.len());
        assert!(matches!(events.first(), Some(Event::Dropped { vertexes, .. }) if *vertexes > 9_900));
    }

    #[test]
    fn one_event_over_the_limit_is_still_delivered() {
        let queue = Queue::new(100);
        queue.push(log(&"x".repeat(4096)));
        assert_eq!(drain(&queue), [log(&"x".repeat(4096))]);
    }

    #[test]
    fn an_abandoned_queue_keeps_nothing() {
        let queue = Queue::new(1 << 20);
        queue.push(log("x"));
        queue.abandon();
        queue.push(log("y"));
        assert_eq!(drain(&queue), []);
    }
}
