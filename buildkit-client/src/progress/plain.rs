//! Progress as lines of text, for logs and terminals that cannot move the cursor.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::Renderer;
use super::event::Event;
use super::fold::{Change, Fold, Node};
use super::text::{seconds, size};

/// A waiting step gets its turn after this.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// A step keeps the output for this long, longer the more it says.
const KEEP: Duration = Duration::from_secs(5);
/// Output of steps that wait for their turn; beyond this the biggest gets it at once.
const MAX_PENDING: usize = 4 << 20;

/// Writes the steps one after another, switching when the current one is done or another waited too long.
pub(super) struct Plain<W> {
    out: W,
    fold: Fold,
    shown: Vec<Shown>,
    /// Nodes with something to print.
    updates: BTreeSet<usize>,
    running: BTreeSet<usize>,
    current: Option<usize>,
    numbers: usize,
    headers: bool,
    name_limit: usize,
    pending: usize,
}

/// What the output knows of a node.
#[derive(Debug, Default)]
struct Shown {
    number: Option<usize>,
    statuses: BTreeSet<usize>,
    /// Per status: amount and time when it was last printed.
    printed: Vec<Option<(i64, std::time::SystemTime)>>,
    warnings: usize,
    notes: Vec<String>,
    /// Output to print; NUL stands before every new line.
    log: String,
    /// The last line that arrived has no end yet.
    arriving: bool,
    /// The last line that was printed has no end yet.
    open: bool,
    /// Updates since the node had its turn, which was then.
    count: u32,
    since: Option<Instant>,
}

impl<W: Write> Plain<W> {
    /// `name_limit` is in bytes.
    pub(super) fn new(out: W, description: Option<&str>, name_limit: usize) -> io::Result<Self> {
        let mut out = out;
        if let Some(text) = description.filter(|text| !text.is_empty()) {
            writeln!(out, "#0 {text}\n")?;
        }
        Ok(Self {
            out,
            fold: Fold::default(),
            shown: Vec::new(),
            updates: BTreeSet::new(),
            running: BTreeSet::new(),
            current: None,
            numbers: 0,
            headers: false,
            name_limit,
            pending: 0,
        })
    }

    fn take(&mut self, event: Event, now: Instant) -> io::Result<()> {
        match event {
            Event::Status(status) => {
                let Self { fold, shown, updates, running, pending, .. } = self;
                fold.apply(&status, |index, node, change| {
                    if shown.len() <= index {
                        shown.resize_with(index + 1, Shown::default);
                    }
                    let Some(entry) = shown.get_mut(index) else { return };
                    let waited = entry.log.len();
                    entry.note(node, &change, now);
                    *pending += entry.log.len() - waited;
                    updates.insert(index);
                    if node.is_shown() && node.is_started() && !node.is_completed() {
                        running.insert(index);
                    } else {
                        running.remove(&index);
                    }
                });
                self.pass(now)
            }
            Event::Clipped { vertex, limit } => {
                let note = format!("the daemon clipped the log of this step ({})", limit.variable());
                if let Some(index) = self.fold.shown(&vertex)
                    && let Some(entry) = self.shown.get_mut(index)
                {
                    entry.notes.push(note);
                    self.updates.insert(index);
                }
                self.pass(now)
            }
            Event::Dropped { logs, statuses, vertexes } => self.remark(&format!(
                "this output is too slow: dropped {logs} log messages, {} updates",
                statuses + vertexes
            )),
            Event::Incomplete { reason } => {
                self.remark(&format!("progress is incomplete: {}", super::sanitize::line(&reason)))
            }
        }
    }

    /// A line that belongs to no step.
    fn remark(&mut self, text: &str) -> io::Result<()> {
        self.close_line()?;
        writeln!(self.out, "#0 WARN: {text}")
    }

    /// Prints what is due.
    fn pass(&mut self, now: Instant) -> io::Result<()> {
        let nodes = self.fold.nodes();
        let due = self.updates.iter().copied().filter(|&i| nodes.get(i).is_some_and(Node::is_shown));
        let (mut completed, rest): (Vec<_>, Vec<_>) =
            due.partition(|&i| nodes.get(i).is_some_and(Node::is_completed));
        completed.sort_by_key(|&i| {
            (Some(i) != self.current, nodes.get(i).and_then(|node| node.intervals.completed()), i)
        });
        for index in completed {
            self.print(index, now)?;
        }
        if rest.is_empty() {
            if self.current.is_none()
                && let Some(&index) = self.running.first()
            {
                self.print(index, now)?;
            }
            return Ok(());
        }
        if let Some(current) = self.current
            && rest.contains(&current)
        {
            self.print(current, now)?;
        }
        if let Some(next) = self.next(&rest, now) {
            self.print(next, now)?;
        }
        Ok(())
    }

    /// The step that gets the turn, if it is to change.
    fn next(&self, rest: &[usize], now: Instant) -> Option<usize> {
        let waited = |index: usize| {
            let since = self.shown.get(index).and_then(|entry| entry.since);
            since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
        };
        let speed = |index: usize| {
            let count = self.shown.get(index).map_or(0, |entry| entry.count);
            f64::from(count) / waited(index).as_secs_f64().max(1e-3)
        };
        let others = rest.iter().copied().filter(|&index| Some(index) != self.current);
        let busiest = others.clone().max_by(|&a, &b| speed(a).total_cmp(&speed(b)).then(b.cmp(&a)))?;
        let Some(current) = self.current else { return Some(busiest) };
        if self.pending > MAX_PENDING {
            return others.max_by_key(|&index| self.shown.get(index).map_or(0, |entry| entry.log.len()));
        }
        if let Some(late) = others.clone().find(|&index| waited(index) > MAX_WAIT) {
            return Some(late);
        }
        let sum: f64 = others.map(speed).sum::<f64>() + speed(current);
        let share = if sum > 0.0 { speed(current) / sum } else { 0.0 };
        let keep = KEEP.as_secs_f64() / (1.0 - share).max(1e-3);
        (waited(current).as_secs_f64() > keep).then_some(busiest)
    }

    /// Prints everything that a node has to say, under its header.
    fn print(&mut self, index: usize, now: Instant) -> io::Result<()> {
        if self.current != Some(index) {
            self.leave()?;
        }
        let Some(node) = self.fold.nodes().get(index) else { return Ok(()) };
        if self.shown.len() <= index {
            self.shown.resize_with(index + 1, Shown::default);
        }
        let Some(entry) = self.shown.get_mut(index) else { return Ok(()) };
        let out = &mut self.out;
        let number = *entry.number.get_or_insert_with(|| {
            self.numbers += 1;
            self.numbers
        });
        if self.current != Some(index) {
            if std::mem::replace(&mut self.headers, true) {
                writeln!(out)?;
            }
            let name = cut(&node.name, self.name_limit);
            let dots = if name.len() < node.name.len() { "..." } else { "" };
            writeln!(out, "#{number} {name}{dots}")?;
            self.current = Some(index);
            (entry.count, entry.since) = (0, Some(now));
        }
        self.updates.remove(&index);
        self.pending -= entry.log.len();
        let in_progress = entry.write_statuses(node, number, out)?;
        for warning in node.warnings.get(entry.warnings..).unwrap_or_default() {
            entry.close_line(out)?;
            writeln!(out, "#{number} WARN: {}", warning.text())?;
        }
        entry.warnings = node.warnings.len();
        entry.write_log(number, out)?;
        for note in std::mem::take(&mut entry.notes) {
            entry.close_line(out)?;
            writeln!(out, "#{number} WARN: {note}")?;
        }
        if node.is_completed() && !in_progress {
            entry.close_line(out)?;
            write_end(node, number, out)?;
            self.current = None;
            (entry.count, entry.since) = (0, None);
        }
        Ok(())
    }

    /// Leaves the current step, which is not finished.
    fn leave(&mut self) -> io::Result<()> {
        self.close_line()?;
        if let Some(current) = self.current.take()
            && let Some(entry) = self.shown.get_mut(current)
        {
            (entry.count, entry.since) = (0, None);
            if let Some(number) = entry.number {
                writeln!(self.out, "#{number} ...")?;
            }
        }
        Ok(())
    }

    fn close_line(&mut self) -> io::Result<()> {
        match self.current.and_then(|current| self.shown.get_mut(current)) {
            Some(entry) => entry.close_line(&mut self.out),
            None => Ok(()),
        }
    }
}

impl Shown {
    fn note(&mut self, node: &Node, change: &Change<'_>, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.since.get_or_insert(now);
        match change {
            Change::Vertex | Change::Warning => {}
            Change::Status(status) => {
                self.statuses.insert(*status);
                self.printed.resize(node.statuses.len().max(self.printed.len()), None);
            }
            Change::Log { text, at, .. } => {
                for line in text.split_inclusive('\n') {
                    if !self.arriving {
                        self.log.push('\0');
                        self.log.push_str(&seconds(*at));
                        self.log.push(' ');
                    }
                    self.log.push_str(line);
                    self.arriving = !line.ends_with('\n');
                }
            }
        }
    }

    /// Returns whether one of the statuses it wrote is not complete.
    fn write_statuses(&mut self, node: &Node, number: usize, out: &mut impl Write) -> io::Result<bool> {
        let mut in_progress = false;
        for index in std::mem::take(&mut self.statuses) {
            let (Some(status), Some(printed)) = (node.statuses.get(index), self.printed.get_mut(index))
            else {
                continue;
            };
            let complete = status.completed.is_some();
            if let Some((current, at)) = *printed
                && !complete
            {
                let progress =
                    status.current.saturating_sub(current).saturating_mul(20) >= status.total.max(1);
                let waited =
                    status.timestamp.duration_since(at).unwrap_or_default() >= Duration::from_secs(5);
                let moved = status.total > 0 && progress;
                if !moved && !waited {
                    continue;
                }
            }
            *printed = Some((status.current, status.timestamp));
            in_progress |= !complete;
            if std::mem::take(&mut self.open) {
                writeln!(out)?;
            }
            write!(out, "#{number} {}", status.id)?;
            if status.total != 0 {
                write!(out, " {} / {}", size(status.current), size(status.total))?;
            } else if status.current != 0 {
                write!(out, " {}", size(status.current))?;
            }
            if let Some(started) = status.started {
                let end = status.completed.unwrap_or(status.timestamp);
                let took = end.duration_since(started).unwrap_or_default();
                if took > Duration::from_millis(10) {
                    write!(out, " {:.1}s", took.as_secs_f64())?;
                }
            }
            writeln!(out, "{}", if complete { " done" } else { "" })?;
        }
        Ok(in_progress)
    }

    fn write_log(&mut self, number: usize, out: &mut impl Write) -> io::Result<()> {
        if self.log.is_empty() {
            return Ok(());
        }
        let mut pieces = self.log.split('\0');
        let continued = pieces.next().unwrap_or_default();
        if !continued.is_empty() && !self.open {
            // The line was closed to let another step speak.
            write!(out, "#{number} ")?;
        }
        out.write_all(continued.as_bytes())?;
        for piece in pieces {
            write!(out, "#{number} {piece}")?;
        }
        self.open = !self.log.ends_with('\n');
        self.log.clear();
        if self.log.capacity() > 64 << 10 {
            self.log = String::new();
        }
        Ok(())
    }

    fn close_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.open) { writeln!(out) } else { Ok(()) }
    }
}

fn write_end(node: &Node, number: usize, out: &mut impl Write) -> io::Result<()> {
    if node.is_canceled() {
        writeln!(out, "#{number} CANCELED")
    } else if !node.error.is_empty() {
        writeln!(out, "#{number} ERROR: {}", node.error)
    } else if node.cached {
        writeln!(out, "#{number} CACHED")
    } else if node.is_started() {
        writeln!(out, "#{number} DONE {:.1}s", node.intervals.total().as_secs_f64())
    } else {
        writeln!(out, "#{number} DONE")
    }
}

/// The last output of every step that failed.
pub(super) fn write_failures(fold: &Fold, out: &mut impl Write) -> io::Result<()> {
    for node in fold.nodes() {
        if node.is_shown() && !node.error.is_empty() && !node.is_canceled() {
            writeln!(out, "------\n > {}:", node.name)?;
            for (at, line) in node.tail() {
                writeln!(out, "{} {line}", seconds(at))?;
            }
            writeln!(out, "------")?;
        }
    }
    Ok(())
}

/// The longest beginning of `name` that fits.
fn cut(name: &str, limit: usize) -> &str {
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= limit).last();
    if name.len() <= limit { name } else { name.get(..end.unwrap_or(0)).unwrap_or_default() }
}

impl<W: Write + Send> Renderer for Plain<W> {
    fn event(&mut self, event: Event, now: Instant) -> io::Result<()> {
        self.take(event, now)?;
        self.out.flush()
    }

    fn tick(&mut self, now: Instant) -> io::Result<()> {
        self.pass(now)?;
        self.out.flush()
    }

    fn interval(&self) -> Option<Duration> {
        Some(super::text::tick())
    }

    fn finish(&mut self, now: Instant) -> io::Result<()> {
        self.pass(now)?;
        while let Some(&index) = self.updates.first() {
            if self.fold.nodes().get(index).is_some_and(Node::is_shown) {
                self.print(index, now)?;
            }
            self.updates.remove(&index);
        }
        self.close_line()?;
        write_failures(&self.fold, &mut self.out)?;
        self.out.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::format_collect)] // tests
#[path = "plain_tests.rs"]
mod tests;
