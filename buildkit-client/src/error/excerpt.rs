//! Where in a source file a build step came from, and how to show it.

use std::fmt::{self, Write as _};

/// A place in a line, both counted as BuildKit counts: lines from 1, characters from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Character in the line, from 0.
    pub character: u32,
}

/// A range of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceRange {
    /// First place.
    pub start: Position,
    /// Last place.
    pub end: Position,
}

/// The place in a Dockerfile (or other source) that failed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Location {
    /// Name of the file as the frontend knows it.
    pub filename: String,
    /// Language of the file, for example `Dockerfile`; may be empty.
    pub language: String,
    /// Whole text of the file; may be empty.
    pub data: Vec<u8>,
    /// Ranges of interest.
    pub ranges: Vec<SourceRange>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The file itself would bury the rest.
        f.debug_struct("Location")
            .field("filename", &self.filename)
            .field("language", &self.language)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .field("ranges", &self.ranges)
            .finish()
    }
}

/// Longest line that is shown in full.
const MAX_LINE: usize = 400;
/// Most lines that are shown.
const MAX_LINES: u32 = 60;

impl Location {
    /// First line of interest, from 1; 0 when the place is not known.
    pub fn line(&self) -> u32 {
        self.ranges.iter().map(|range| range.start.line).min().unwrap_or(0)
    }

    /// `FILE:LINE`, or `FILE` alone when the line is not known. A file without a name is called so.
    pub fn file_line(&self) -> String {
        let name = if self.filename.is_empty() { "(unnamed file)".into() } else { clean(&self.filename) };
        match self.line() {
            0 => name,
            line => format!("{name}:{line}"),
        }
    }

    /// The lines of interest with their neighbours, marked with `>>>`, in the way buildctl shows
    /// them. Control characters are shown as escapes. `None` when the text or the place is unknown.
    pub fn excerpt(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.data);
        let lines: Vec<&str> = text.lines().collect();
        let total = u32::try_from(lines.len()).ok()?;
        let first = self.line();
        let last = self.ranges.iter().map(|range| range.end.line.max(range.start.line)).max()?;
        if first == 0 || first > total {
            return None;
        }
        let last = last.min(total);
        let (from, to) = widen(first, last, total);
        let to = to.min(from.saturating_add(MAX_LINES));
        let rule = "-".repeat(20);
        let mut out = format!("{}\n{rule}\n", self.file_line());
        for (number, line) in (1..=total).zip(&lines) {
            if number < from || number > to {
                continue;
            }
            let hit = self
                .ranges
                .iter()
                .any(|range| number >= range.start.line && number <= range.end.line.max(range.start.line));
            let mark = if hit { ">>>" } else { "   " };
            let _ = writeln!(out, " {number:>3} | {mark} {}", clean(line));
        }
        out.push_str(&rule);
        Some(out)
    }
}

/// Spends a padding of 2 (4 around a single line) on lines before and after.
fn widen(first: u32, last: u32, total: u32) -> (u32, u32) {
    let pad = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut spent) = (first, last, 0);
    while spent < pad {
        if from > 1 {
            from -= 1;
            spent += 1;
        }
        if to < total {
            to += 1;
            spent += 1;
        }
        spent += 1;
    }
    (from, to)
}

/// A line fit for a terminal: no control characters, of bounded length.
fn clean(line: &str) -> String {
    let mut out = String::with_capacity(line.len().min(MAX_LINE));
    for c in line.chars() {
        if out.len() >= MAX_LINE {
            out.push('…');
            break;
        }
        match c {
            '\t' => out.push(c),
            c if c.is_control() || is_bidi(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Characters that reorder what follows them on a terminal.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, from: u32, to: u32) -> Location {
        let place = |line| Position { line, character: 0 };
        Location {
            filename: "Dockerfile".into(),
            language: "Dockerfile".into(),
            data: text.into(),
            ranges: vec![SourceRange { start: place(from), end: place(to) }],
        }
    }

    #[test]
    fn a_single_line_is_shown_between_its_neighbours() {
        let shown = at("a\nb\nRUN x\nd\ne\nf\n", 3, 3).excerpt().unwrap();
        assert_eq!(
            shown,
            "Dockerfile:3\n--------------------\n   1 |     a\n   2 |     b\n   3 | >>> RUN x\n   4 |     d\n   5 |     e\n--------------------"
        );
    }

    #[test]
    fn odd_places_never_panic() {
        for (from, to) in [(0, 0), (9, 9), (1, u32::MAX), (2, 1), (u32::MAX, u32::MAX)] {
            let _ = at("one\ntwo", from, to).excerpt();
        }
        assert_eq!(at("", 1, 1).excerpt(), None);
    }

    #[test]
    fn escapes_of_a_hostile_file_are_shown_not_obeyed() {
        let shown = at("RUN \u{1b}[2J\u{202e}x", 1, 1).excerpt().unwrap();
        assert!(shown.contains("\\u{1b}[2J\\u{202e}x"), "{shown}");
    }
}
