//! The state of a build, folded from its updates. Bounded, and indifferent to junk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::event::{SolveStatus, SourceFile, Vertex, VertexLog, VertexStatus, VertexWarning};
use super::sanitize::{self, Cleaner};

/// More steps than this are ignored: a real build has some thousands.
const MAX_VERTEXES: usize = 1 << 16;
/// Transfers in all steps together.
const MAX_STATUSES: usize = 1 << 17;
const MAX_WARNINGS: usize = 10_000;
/// Lines of output kept of a step.
const TAIL_LINES: usize = 10;
/// Bytes kept of one such line.
const TAIL_LINE_BYTES: usize = 4096;
/// Bytes kept of a name or an id, of an error, and of all these together; past that they are cut short.
const MAX_NAME: usize = 16 << 10;
const MAX_ERROR: usize = 64 << 10;
const MAX_TEXT: usize = 64 << 20;
const SHORT: usize = 64;
/// A longer key is none.
const MAX_KEY: usize = 1024;
/// Bytes of output kept of all steps together.
const TAIL_TOTAL: usize = 16 << 20;

/// What changed on a node that is shown.
pub(super) enum Change<'a> {
    Vertex,
    /// Index into [`Node::statuses`].
    Status(usize),
    Warning,
    /// Output as safe text, and when, counted from the node's latest start.
    Log {
        text: &'a str,
        at: Duration,
    },
}

/// The steps and groups of a build, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Fold {
    nodes: Vec<Node>,
    by_digest: HashMap<String, usize>,
    groups: HashMap<String, usize>,
    statuses: usize,
    warnings: Vec<VertexWarning>,
    tail_bytes: usize,
    /// Bytes of names, errors and warnings that are held.
    text_bytes: usize,
    scratch: String,
}

/// A step, or a group of steps shown as one.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Name, safe to show.
    pub(super) name: String,
    /// Error text, safe to show; empty when there is none.
    pub(super) error: String,
    pub(super) cached: bool,
    pub(super) intervals: Intervals,
    pub(super) statuses: Vec<VertexStatus>,
    pub(super) warnings: Vec<VertexWarning>,
    status_index: HashMap<String, usize>,
    tail: Tail,
    cleaner: Cleaner,
    kind: Kind,
    /// Finished without ever having started.
    stillborn: bool,
    /// Whether it was ever told to be so, whatever was told later.
    pub(super) was_cached: bool,
    pub(super) was_completed: bool,
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Step,
    /// A step that is shown as a part of the group at this index.
    Member {
        group: usize,
        weak: bool,
    },
    Group {
        members: usize,
        cached: usize,
        failed: usize,
        visible: bool,
    },
}

impl Fold {
    /// Takes an update; `changed` is told about every shown node that changed.
    pub(super) fn apply(&mut self, update: &SolveStatus, mut changed: impl FnMut(usize, &Node, Change<'_>)) {
        for vertex in &update.vertexes {
            if let Some(shown) = self.vertex(vertex)
                && let Some(node) = self.nodes.get(shown)
            {
                changed(shown, node, Change::Vertex);
            }
        }
        for status in &update.statuses {
            if let Some((shown, index)) = self.status(status)
                && let Some(node) = self.nodes.get(shown)
            {
                changed(shown, node, Change::Status(index));
            }
        }
        for warning in &update.warnings {
            if let Some(shown) = self.warning(warning)
                && let Some(node) = self.nodes.get(shown)
            {
                changed(shown, node, Change::Warning);
            }
        }
        for log in &update.logs {
            if let Some((shown, at)) = self.log(log)
                && let Some(node) = self.nodes.get(shown)
            {
                changed(shown, node, Change::Log { text: &self.scratch, at });
            }
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The steps, those in groups among them.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !matches!(node.kind, Kind::Group { .. }))
    }

    pub(super) fn name(&self, digest: &str) -> Option<&str> {
        self.nodes.get(*self.by_digest.get(digest)?).map(|node| node.name.as_str())
    }

    pub(super) fn warnings(&self) -> impl Iterator<Item = &VertexWarning> {
        self.warnings.iter()
    }

    pub(super) fn running(&self) -> Vec<String> {
        let running = self.steps().filter(|node| node.is_started() && !node.is_completed());
        running.map(|node| node.name.clone()).collect()
    }

    pub(super) fn last_logs(&self, digest: &str) -> Vec<String> {
        let Some(node) = self.by_digest.get(digest).and_then(|&index| self.nodes.get(index)) else {
            return Vec::new();
        };
        // A member's output is kept with its group, where the lines are in order.
        match node.kind {
            Kind::Member { group, .. } => self.nodes.get(group).unwrap_or(node),
            Kind::Step | Kind::Group { .. } => node,
        }
        .tail
        .lines()
        .map(|(_, text)| text.to_owned())
        .collect()
    }

    /// Index of the node to show for a digest.
    pub(super) fn shown(&self, digest: &str) -> Option<usize> {
        let index = *self.by_digest.get(digest)?;
        match self.nodes.get(index)?.kind {
            Kind::Member { group, .. } => Some(group),
            Kind::Step | Kind::Group { .. } => Some(index),
        }
    }

    fn vertex(&mut self, vertex: &Vertex) -> Option<usize> {
        if vertex.digest.is_empty() || vertex.digest.len() > MAX_KEY {
            return None;
        }
        let index = match self.by_digest.get(&vertex.digest) {
            Some(&index) => index,
            None => self.add(vertex)?,
        };
        let room = MAX_TEXT.saturating_sub(self.text_bytes);
        let node = self.nodes.get_mut(index)?;
        let held = node.name.len() + node.error.len();
        let was = (node.cached, !node.error.is_empty());
        let fresh = vertex.started.is_some() || !node.is_started();
        if !vertex.name.is_empty() && node.name.is_empty() {
            node.name = sanitize::line(cut(&vertex.name, MAX_NAME, room)).into_owned();
        }
        if fresh {
            node.cached = vertex.cached;
            node.stillborn = vertex.started.is_none() && vertex.completed.is_some();
        }
        if fresh || !vertex.error.is_empty() {
            node.error = sanitize::lines(cut(&vertex.error, MAX_ERROR, room)).into_owned();
        }
        self.text_bytes = self.text_bytes + node.name.len() + node.error.len() - held;
        node.was_cached |= vertex.cached;
        node.was_completed |= vertex.completed.is_some();
        if let Some(start) = vertex.started {
            node.intervals.set(start, 0, vertex.completed);
        }
        let is = (node.cached, !node.error.is_empty());
        if node.is_completed() && node.error.is_empty() {
            self.tail_bytes -= node.tail.clear();
        }
        let node = self.nodes.get(index)?;
        let Kind::Member { group, weak } = node.kind else { return Some(index) };
        let error = node.error.clone();
        let owner = u32::try_from(index).unwrap_or(u32::MAX);
        self.group_changed(group, vertex, owner, weak, was, is, error);
        Some(group)
    }

    #[allow(clippy::too_many_arguments)]
    fn group_changed(
        &mut self,
        group: usize,
        vertex: &Vertex,
        owner: u32,
        weak: bool,
        was: (bool, bool),
        is: (bool, bool),
        error: String,
    ) {
        let Some(node) = self.nodes.get_mut(group) else { return };
        let Kind::Group { members, cached, failed, visible } = &mut node.kind else { return };
        *cached = *cached + usize::from(is.0) - usize::from(was.0);
        *failed = *failed + usize::from(is.1) - usize::from(was.1);
        *visible |= (vertex.started.is_some() && !weak) || *failed > 1;
        node.cached = *members == *cached;
        if *failed == 0 {
            node.error.clear();
        } else if node.error.is_empty() {
            node.error = error;
        }
        if let Some(start) = vertex.started {
            node.intervals.set(start, owner, vertex.completed);
        }
    }

    fn add(&mut self, vertex: &Vertex) -> Option<usize> {
        if self.nodes.len() >= MAX_VERTEXES {
            return None;
        }
        let name = self.name_of(&vertex.name);
        let mut node = Node { name, ..Node::default() };
        if let Some(group) = vertex.progress_group.as_ref().filter(|group| group.id.len() <= MAX_KEY) {
            let at = if let Some(&at) = self.groups.get(&group.id) {
                at
            } else {
                let kind = Kind::Group { members: 0, cached: 0, failed: 0, visible: false };
                let name = self.name_of(&group.name);
                self.nodes.push(Node { name, kind, ..Node::default() });
                let at = self.nodes.len() - 1;
                self.groups.insert(group.id.clone(), at);
                at
            };
            if let Some(Node { kind: Kind::Group { members, .. }, .. }) = self.nodes.get_mut(at) {
                *members += 1;
            }
            node.kind = Kind::Member { group: at, weak: group.weak };
        }
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.by_digest.insert(vertex.digest.clone(), index);
        Some(index)
    }

    /// A name, made safe to show, within the bounds.
    fn name_of(&mut self, name: &str) -> String {
        let room = MAX_TEXT.saturating_sub(self.text_bytes);
        let name = sanitize::line(cut(name, MAX_NAME, room)).into_owned();
        self.text_bytes += name.len();
        name
    }

    fn status(&mut self, status: &VertexStatus) -> Option<(usize, usize)> {
        let shown = self.shown(&status.vertex)?;
        let node = self.nodes.get_mut(shown)?;
        if let Some(&index) = node.status_index.get(&status.id) {
            let held = node.statuses.get_mut(index)?;
            let id = std::mem::take(&mut held.id);
            *held = VertexStatus { id, vertex: String::new(), name: String::new(), ..*status };
            return Some((shown, index));
        }
        if self.statuses >= MAX_STATUSES || status.id.len() > MAX_KEY {
            return None;
        }
        self.statuses += 1;
        let index = node.statuses.len();
        node.status_index.insert(status.id.clone(), index);
        let id = sanitize::line(&status.id).into_owned();
        node.statuses.push(VertexStatus { id, vertex: String::new(), name: String::new(), ..*status });
        Some((shown, index))
    }

    fn warning(&mut self, warning: &VertexWarning) -> Option<usize> {
        let shown = self.shown(&warning.vertex)?;
        let size = size(warning);
        if self.warnings.len() >= MAX_WARNINGS || self.text_bytes.saturating_add(size) > MAX_TEXT {
            return None;
        }
        self.text_bytes += size;
        self.warnings.push(owned(warning));
        let node = self.nodes.get_mut(shown)?;
        let short = sanitize::line(&warning.text()).into_owned().into();
        node.warnings.push(VertexWarning { short, ..VertexWarning::default() });
        Some(shown)
    }

    /// Leaves the clean text in `self.scratch`.
    fn log(&mut self, log: &VertexLog) -> Option<(usize, Duration)> {
        let shown = self.shown(&log.vertex)?;
        let node = self.nodes.get_mut(shown)?;
        let at = node.intervals.latest_start().map_or(Duration::ZERO, |start| since(log.timestamp, start));
        self.scratch.clear();
        node.cleaner.push(&log.data, &mut self.scratch);
        let before = node.tail.bytes;
        node.tail.push(&self.scratch, at);
        self.tail_bytes = self.tail_bytes + node.tail.bytes - before;
        if self.tail_bytes > TAIL_TOTAL {
            self.tail_bytes -= node.tail.clear();
        }
        Some((shown, at))
    }
}

impl Node {
    /// Whether it is to be shown: members never are, groups not before something in them counts.
    pub(super) fn is_shown(&self) -> bool {
        match self.kind {
            Kind::Step => true,
            Kind::Member { .. } => false,
            Kind::Group { visible, .. } => visible,
        }
    }

    pub(super) fn is_started(&self) -> bool {
        self.intervals.latest_start().is_some()
    }

    pub(super) fn is_completed(&self) -> bool {
        if self.is_started() {
            self.intervals.completed().is_some()
        } else {
            self.stillborn || !self.error.is_empty()
        }
    }

    /// Whether the error says that the step was stopped, not that it went wrong.
    pub(super) fn is_canceled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    /// The last lines of output, each with when it came.
    pub(super) fn tail(&self) -> impl Iterator<Item = (Duration, &str)> {
        self.tail.lines()
    }
}

/// The beginning of a text that is longer than its limit; little of it when there is no room left.
fn cut(text: &str, limit: usize, room: usize) -> &str {
    let mut end = text.len().min(limit.min(room).max(SHORT));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Bytes that a warning takes, in the list of all and beside its step.
fn size(warning: &VertexWarning) -> usize {
    let detail: usize = warning.detail.iter().map(Bytes::len).sum();
    let file = warning.source_info.as_ref().map_or(0, |file| file.data.len());
    2 * warning.short.len() + warning.url.len() + detail + file
}

/// A warning that does not keep alive the message it came in.
fn owned(warning: &VertexWarning) -> VertexWarning {
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    VertexWarning {
        short: copy(&warning.short),
        detail: warning.detail.iter().map(copy).collect(),
        source_info: warning
            .source_info
            .as_ref()
            .map(|file| SourceFile { data: copy(&file.data), ..file.clone() }),
        ..warning.clone()
    }
}

/// `time` − `start`, or nothing when the clocks disagree.
pub(super) fn since(time: SystemTime, start: SystemTime) -> Duration {
    time.duration_since(start).unwrap_or_default()
}

/// When something ran: it may run again, and a group's members overlap.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    /// By start and by whose it is; an open end is `None`.
    raw: BTreeMap<(SystemTime, u32), Option<SystemTime>>,
    latest: Option<(SystemTime, Option<SystemTime>)>,
    total: Duration,
    /// Time in intervals that are no longer held one by one.
    forgotten: Duration,
}

impl Intervals {
    const MAX: usize = 64;

    fn set(&mut self, start: SystemTime, owner: u32, stop: Option<SystemTime>) {
        if self.raw.len() >= Self::MAX * 16 && !self.raw.contains_key(&(start, owner)) {
            return;
        }
        let held = self.raw.entry((start, owner)).or_default();
        *held = stop.map(|stop| stop.max(start)).or(*held);
        self.merge();
    }

    fn merge(&mut self) {
        let mut merged: Vec<(SystemTime, Option<SystemTime>)> = Vec::new();
        for (&(start, _), &stop) in &self.raw {
            match merged.last_mut() {
                Some((_, end)) if end.is_none_or(|end| start <= end) => {
                    *end = end.zip(stop).map(|(end, stop)| end.max(stop));
                }
                _ => merged.push((start, stop)),
            }
        }
        self.latest = merged.last().copied();
        let closed = merged.iter().filter_map(|&(start, stop)| Some(since(stop?, start)));
        self.total = closed.fold(self.forgotten, Duration::saturating_add);
        let all_closed = self.raw.values().all(Option::is_some);
        if self.raw.len() > Self::MAX && all_closed {
            // Keep the latest, add up the rest.
            self.forgotten = match self.latest {
                Some((start, Some(stop))) => self.total.saturating_sub(since(stop, start)),
                _ => self.total,
            };
            self.raw = self.latest.iter().map(|&(start, stop)| ((start, 0), stop)).collect();
        }
    }

    /// Start of the latest merged interval.
    pub(super) fn latest_start(&self) -> Option<SystemTime> {
        self.latest.map(|(start, _)| start)
    }

    /// End of the latest merged interval, if it has one.
    pub(super) fn completed(&self) -> Option<SystemTime> {
        self.latest.and_then(|(_, stop)| stop)
    }

    /// Time in all intervals that ended.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// Time in all intervals, counting the open one until `now`.
    pub(super) fn elapsed(&self, now: SystemTime) -> Duration {
        match self.latest {
            Some((start, None)) => self.total.saturating_add(since(now, start)),
            _ => self.total,
        }
    }
}

/// The last lines of an output.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<(Duration, String)>,
    /// The last line has no end yet.
    open: bool,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, text: &str, at: Duration) {
        // Only the last lines of a big piece can stay.
        let from = text.rmatch_indices('\n').nth(TAIL_LINES + 1).map_or(0, |(at, _)| at + 1);
        if from > 0 {
            self.open = false;
        }
        for line in text.get(from..).unwrap_or_default().split_inclusive('\n') {
            let (piece, ended) = line.strip_suffix('\n').map_or((line, false), |piece| (piece, true));
            if !self.open {
                if self.lines.len() == TAIL_LINES
                    && let Some((_, old)) = self.lines.pop_front()
                {
                    self.bytes -= old.len();
                }
                self.lines.push_back((at, String::new()));
            }
            if let Some((_, held)) = self.lines.back_mut() {
                let room = TAIL_LINE_BYTES.saturating_sub(held.len());
                let kept = held.len();
                held.extend(piece.chars().scan(room, |room, c| {
                    *room = room.checked_sub(c.len_utf8())?;
                    Some(c)
                }));
                self.bytes += held.len() - kept;
            }
            self.open = !ended;
        }
    }

    fn lines(&self) -> impl Iterator<Item = (Duration, &str)> {
        self.lines.iter().map(|(at, line)| (*at, line.as_str()))
    }

    /// Forgets everything; returns how many bytes that were.
    fn clear(&mut self) -> usize {
        self.lines = VecDeque::new();
        self.open = false;
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::ProgressGroup;
    use super::*;

    fn vertex(digest: &str, at: u64, error: &str) -> SolveStatus {
        let time = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let progress_group = Some(ProgressGroup { id: "g".into(), name: "group".into(), weak: false });
        let (started, completed) = (time(at), time(at + 1));
        let (digest, error) = (digest.to_owned(), error.to_owned());
        let vertex = Vertex { digest, started, completed, error, progress_group, ..Vertex::default() };
        SolveStatus { vertexes: vec![vertex], ..SolveStatus::default() }
    }

    #[test]
    fn a_group_has_failed_while_one_of_its_steps_has() {
        let mut fold = Fold::default();
        let mut error = |update: SolveStatus| {
            fold.apply(&update, |_, _, _| {});
            fold.nodes().iter().find(|node| matches!(node.kind, Kind::Group { .. })).unwrap().error.clone()
        };
        assert_eq!(error(vertex("a", 1, "broken")), "broken");
        assert_eq!(error(vertex("b", 1, "")), "broken");
        assert_eq!(error(vertex("a", 3, "")), "", "it was run again, and succeeded");
    }

    #[test]
    fn the_output_of_steps_that_succeeded_is_not_kept() {
        for (error, kept) in [("broken", 1), ("", 0)] {
            let mut fold = Fold::default();
            let mut update = vertex("a", 1, error);
            let Some(step) = update.vertexes.first_mut() else { unreachable!() };
            (step.progress_group, step.completed) = (None, None);
            fold.apply(&update, |_, _, _| {});
            let log = VertexLog { vertex: "a".into(), data: "line\n".into(), ..VertexLog::default() };
            fold.apply(&SolveStatus { logs: vec![log], ..SolveStatus::default() }, |_, _, _| {});
            let mut ended = vertex("a", 1, error);
            if let Some(step) = ended.vertexes.first_mut() {
                step.progress_group = None;
            }
            fold.apply(&ended, |_, _, _| {});
            assert_eq!(fold.last_logs("a").len(), kept, "{error:?}");
            assert_eq!(fold.tail_bytes, 4 * kept);
        }
    }
}
