//! Progress as a live view that is redrawn in place.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use super::event::Event;
use super::fold::{Change, Fold, Node};
use super::text::size;
use super::{Renderer, plain, text};

/// Not more often than this is the view drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// A size for terminals that do not tell theirs.
const FALLBACK: (usize, usize) = (80, 10);
/// A step that says something counts as busy for this long, and shows its last lines.
const BUSY: Duration = Duration::from_secs(5);

/// Colours by what a line says; empty strings for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Colors {
    run: String,
    cancel: String,
    warning: String,
    error: String,
    faint: bool,
}

impl Colors {
    pub(super) fn from_env() -> Self {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Self { faint: false, ..Self::parse("run=:cancel=:warning=:error=") };
        }
        Self::parse(&std::env::var("BUILDKIT_COLORS").unwrap_or_default())
    }

    /// Reads `run=NAME|R,G,B:cancel=…:warning=…:error=…`; what is not understood keeps its colour.
    fn parse(text: &str) -> Self {
        let mut colors = Self {
            run: if cfg!(windows) { "36" } else { "34" }.into(),
            cancel: "33".into(),
            warning: "33".into(),
            error: "31".into(),
            faint: true,
        };
        for (key, value) in text.split(':').filter_map(|part| part.split_once('=')) {
            let Some(code) = color(value) else { continue };
            match key {
                "run" => colors.run = code,
                "cancel" => colors.cancel = code,
                "warning" => colors.warning = code,
                "error" => colors.error = code,
                _ => {}
            }
        }
        colors
    }
}

fn color(value: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    if value.is_empty() {
        return Some(String::new());
    }
    let (base, name) = value.strip_prefix("light-").map_or((30, value), |name| (90, name));
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some((base + index).to_string());
    }
    let parts: Result<Vec<u8>, _> = value.split(',').map(|part| part.trim().parse()).collect();
    match parts.ok()?.as_slice() {
        [r, g, b] => Some(format!("38;2;{r};{g};{b}")),
        _ => None,
    }
}

/// Redraws header, steps, transfers and the last output of busy steps.
pub(super) struct Tty<W> {
    out: W,
    /// Columns and rows.
    window: Box<dyn Fn() -> Option<(usize, usize)> + Send>,
    colors: Colors,
    phase: String,
    log_lines: usize,
    fold: Fold,
    logs: Vec<Log>,
    started: SystemTime,
    /// Lines of the last drawing.
    drawn: usize,
    last: Option<Instant>,
    remarks: Vec<String>,
}

#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    open: bool,
    said: Option<Instant>,
}

struct Line {
    text: String,
    right: String,
    color: String,
    running: bool,
}

impl<W: Write> Tty<W> {
    pub(super) fn new(
        out: W,
        window: impl Fn() -> Option<(usize, usize)> + Send + 'static,
        colors: Colors,
        phase: String,
        description: Option<&str>,
    ) -> Self {
        let lines = std::env::var("BUILDKIT_TTY_LOG_LINES").ok().and_then(|text| text.parse().ok());
        Self {
            out,
            window: Box::new(window),
            colors,
            phase: description.filter(|text| !text.is_empty()).map_or(phase, str::to_owned),
            log_lines: lines.unwrap_or(6).min(100),
            fold: Fold::default(),
            logs: Vec::new(),
            started: SystemTime::now(),
            drawn: 0,
            last: None,
            remarks: Vec::new(),
        }
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Status(status) => {
                let Self { fold, logs, log_lines, .. } = self;
                fold.apply(&status, |index, _, change| {
                    if logs.len() <= index {
                        logs.resize_with(index + 1, Log::default);
                    }
                    if let (Change::Log { text, .. }, Some(log)) = (change, logs.get_mut(index)) {
                        log.push(text, *log_lines);
                        log.said = Some(now);
                    }
                });
            }
            Event::Clipped { vertex, limit } => {
                let name = self.fold.name(&vertex).unwrap_or_default();
                self.remark(format!("the daemon clipped the log of {name} ({})", limit.variable()));
            }
            Event::Dropped { logs, .. } => {
                self.remark(format!("this terminal is too slow: dropped {logs} log messages"));
            }
            Event::Incomplete { reason } => {
                self.remark(format!("progress is incomplete: {}", super::one_line(&reason)));
            }
        }
    }

    fn remark(&mut self, text: String) {
        if self.remarks.len() < 5 {
            self.remarks.push(text);
        }
    }

    fn lines(&self, now: Instant, last: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        let clock = SystemTime::now();
        for (index, node) in self.fold.nodes().iter().enumerate() {
            if !node.is_shown() || !(node.is_started() || node.is_completed()) {
                continue;
            }
            self.node_lines(index, node, clock, now, last, &mut lines);
        }
        for remark in &self.remarks {
            lines.push(Line {
                text: format!(" => WARN: {remark}"),
                right: String::new(),
                color: self.colors.warning.clone(),
                running: true,
            });
        }
        lines
    }

    fn node_lines(
        &self,
        index: usize,
        node: &Node,
        clock: SystemTime,
        now: Instant,
        last: bool,
        lines: &mut Vec<Line>,
    ) {
        let running = !node.is_completed();
        let (mark, color) = if !running && node.is_canceled() {
            ("CANCELED ", &self.colors.cancel)
        } else if !running && !node.error.is_empty() {
            ("ERROR ", &self.colors.error)
        } else if !running && node.cached {
            ("CACHED ", &self.colors.run)
        } else {
            ("", &self.colors.run)
        };
        // Only what is done has a colour.
        let tint = if running { String::new() } else { color.clone() };
        let time = |seconds: f64| format!(" {:.1}s", if seconds < 0.05 { 0.0 } else { seconds });
        lines.push(Line {
            text: format!(" => {mark}{}", node.name),
            right: time(node.intervals.elapsed(clock).as_secs_f64()),
            color: tint.clone(),
            running,
        });
        for status in &node.statuses {
            let mut text = format!(" => => {}", status.id);
            if status.total != 0 {
                let _ = write!(text, "  {} / {}", size(status.current), size(status.total));
            } else if status.current != 0 {
                let _ = write!(text, "  {}", size(status.current));
            }
            let right = status.started.map(|started| {
                let end = status.completed.unwrap_or(clock);
                time(end.duration_since(started).unwrap_or_default().as_secs_f64())
            });
            lines.push(Line {
                text,
                right: right.unwrap_or_default(),
                color: tint.clone(),
                running: running && status.completed.is_none(),
            });
        }
        for warning in &node.warnings {
            lines.push(Line {
                text: format!(" => WARN: {}", warning.text()),
                right: String::new(),
                color: self.colors.cancel.clone(),
                running,
            });
        }
        let Some(log) = self.logs.get(index).filter(|_| running && !last) else { return };
        if log.said.is_some_and(|said| now.saturating_duration_since(said) < BUSY) {
            for text in &log.lines {
                lines.push(Line {
                    text: format!(" => => # {text}"),
                    right: String::new(),
                    color: if self.colors.faint { "2".into() } else { String::new() },
                    running,
                });
            }
        }
    }

    fn draw(&mut self, now: Instant, last: bool) -> io::Result<()> {
        self.last = Some(now);
        let (width, height) = (self.window)().filter(|&(w, h)| w > 0 && h > 0).unwrap_or(FALLBACK);
        let mut lines = self.lines(now, last);
        let nodes = || self.fold.nodes().iter().filter(|node| node.is_shown() && node.is_started());
        let (done, total) = (nodes().filter(|node| node.is_completed()).count(), nodes().count());
        let finished = if last && done == total { " FINISHED" } else { "" };
        let seconds = self.started.elapsed().unwrap_or_default().as_secs_f64();
        let header = format!("[+] {} {seconds:.1}s ({done}/{total}){finished}", super::one_line(&self.phase));
        if !last {
            fit(&mut lines, height.saturating_sub(2).max(1));
        }
        // Everything in one write, and only what is behind a line is erased: nothing flickers.
        let mut frame = String::with_capacity(width * (lines.len() + 2));
        frame.push_str("\x1b[?25l");
        if self.drawn > 0 {
            let _ = write!(frame, "\x1b[{}A", self.drawn.min(height.saturating_sub(1)));
        }
        frame.push('\r');
        let _ = writeln!(frame, "{}\x1b[K", cut(&header, width));
        for line in &lines {
            let room = width.saturating_sub(line.right.len() + 1);
            let text = cut(&line.text, room);
            let gap = if line.right.is_empty() { 0 } else { room.saturating_sub(columns(text)) };
            if line.color.is_empty() {
                let _ = writeln!(frame, "{text}{:gap$}{}\x1b[K", "", line.right);
            } else {
                let _ = writeln!(frame, "\x1b[{}m{text}{:gap$}{}\x1b[0m\x1b[K", line.color, "", line.right);
            }
        }
        frame.push_str("\x1b[J\x1b[?25h");
        self.drawn = if last { 0 } else { lines.len() + 1 };
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }
}

impl Log {
    fn push(&mut self, text: &str, keep: usize) {
        for line in text.split_inclusive('\n') {
            let (piece, ended) = line.strip_suffix('\n').map_or((line, false), |piece| (piece, true));
            if !self.open {
                self.lines.push_back(String::new());
                while self.lines.len() > keep {
                    self.lines.pop_front();
                }
            }
            if let Some(held) = self.lines.back_mut()
                && held.len() < 1024
            {
                held.extend(piece.chars().take(1024).map(|c| if c == '\t' { ' ' } else { c }));
            }
            self.open = !ended;
        }
    }
}

/// Keeps the last lines, and of the others those that are still running.
fn fit(lines: &mut Vec<Line>, room: usize) {
    let mut surplus = lines.len().saturating_sub(room);
    lines.retain(|line| {
        let drop = surplus > 0 && !line.running;
        surplus -= usize::from(drop);
        !drop
    });
    let surplus = lines.len().saturating_sub(room);
    lines.drain(..surplus);
}

/// Columns that a character takes.
fn width_of(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

fn columns(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// The longest beginning that fits.
fn cut(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += width_of(c);
        if used > width {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

impl<W: Write + Send> Renderer for Tty<W> {
    fn event(&mut self, event: Event, now: Instant) -> io::Result<()> {
        self.take(event, now);
        match self.last {
            Some(last) if now.saturating_duration_since(last) < REDRAW => Ok(()),
            _ => self.draw(now, false),
        }
    }

    fn tick(&mut self, now: Instant) -> io::Result<()> {
        self.draw(now, false)
    }

    fn interval(&self) -> Option<Duration> {
        Some(text::tick())
    }

    fn finish(&mut self, now: Instant) -> io::Result<()> {
        self.draw(now, true)?;
        plain::write_failures(&self.fold, &mut self.out)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::event::{SolveStatus, Vertex, VertexLog};

    /// What a terminal shows after these bytes: cursor up, carriage return, erasing and colours are understood.
    fn screen(bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (mut rows, mut row, mut column) = (vec![Vec::<char>::new()], 0usize, 0usize);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let mut number = String::new();
                    let last = loop {
                        match chars.next().unwrap() {
                            c if c.is_ascii_alphabetic() => break c,
                            c => number.push(c),
                        }
                    };
                    match last {
                        'A' => row -= number.parse::<usize>().unwrap(),
                        'K' => rows[row].truncate(column),
                        'J' => {
                            rows.truncate(row + 1);
                            rows[row].truncate(column);
                        }
                        'm' | 'h' | 'l' => {}
                        other => panic!("{other}"),
                    }
                }
                '\n' => {
                    (row, column) = (row + 1, 0);
                    if rows.len() == row {
                        rows.push(Vec::new());
                    }
                }
                '\r' => column = 0,
                c => {
                    let line = &mut rows[row];
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = c;
                    column += 1;
                }
            }
        }
        rows.into_iter().map(|row| row.into_iter().collect()).collect()
    }

    fn vertex(digest: &str, name: &str, ended: bool) -> Vertex {
        let at = SystemTime::UNIX_EPOCH;
        Vertex {
            digest: digest.into(),
            name: name.into(),
            started: Some(at),
            completed: ended.then_some(at),
            ..Vertex::default()
        }
    }

    fn tty(out: &mut Vec<u8>, size: (usize, usize)) -> Tty<&mut Vec<u8>> {
        Tty::new(out, move || Some(size), Colors::parse(""), "Building".into(), None)
    }

    #[test]
    fn the_view_is_redrawn_in_place() {
        let mut out = Vec::new();
        let mut now = Instant::now();
        let mut view = tty(&mut out, (40, 24));
        let log = |text: &str| VertexLog {
            vertex: "a".into(),
            data: text.to_owned().into(),
            ..VertexLog::default()
        };
        for status in [
            SolveStatus { vertexes: vec![vertex("a", "one", false)], ..SolveStatus::default() },
            SolveStatus { logs: vec![log("hello\x1b[2J\nthere")], ..SolveStatus::default() },
            SolveStatus {
                vertexes: vec![
                    vertex("a", "one", true),
                    vertex("b", "a name that is longer than the line is wide", true),
                ],
                ..SolveStatus::default()
            },
        ] {
            view.event(Event::Status(status), now).unwrap();
            now += Duration::from_secs(1);
        }
        view.finish(now).unwrap();
        drop(view);
        let shown = screen(&out);
        assert_eq!(shown[0], "[+] Building 0.0s (2/2) FINISHED");
        assert_eq!(shown[1].trim_end(), format!(" => one{:27} 0.0s", ""));
        assert!(shown[2].starts_with(" => a name that") && shown[2].ends_with(" 0.0s"), "{:?}", shown[2]);
        assert!(shown[2].len() < 40);
        assert_eq!(shown[3..].concat(), "", "the output of a finished step is gone");
        assert!(!out.windows(4).any(|part| part == b"\x1b[2J"));
    }

    #[test]
    fn running_steps_stay_in_a_small_window() {
        let mut out = Vec::new();
        let mut view = tty(&mut out, (40, 6));
        let mut vertexes = vec![vertex("run", "still running", false)];
        vertexes.extend((0..20).map(|n| vertex(&format!("d{n}"), &format!("done {n}"), true)));
        view.event(Event::Status(SolveStatus { vertexes, ..SolveStatus::default() }), Instant::now())
            .unwrap();
        drop(view);
        let shown = screen(&out);
        assert_eq!(shown.len(), 6);
        assert!(shown[1].contains("still running") && shown[4].contains("done 19"), "{shown:?}");
    }

    #[test]
    fn colours_are_names_or_numbers() {
        let colors = Colors::parse("run=green:error=1,2,3:cancel=nonsense:warning=light-blue:junk");
        assert_eq!((colors.run.as_str(), colors.error.as_str()), ("32", "38;2;1;2;3"));
        assert_eq!((colors.cancel.as_str(), colors.warning.as_str()), ("33", "94"));
        assert_eq!((cut("a漢字b", 4), columns("a漢字b")), ("a漢", 6));
    }
}
