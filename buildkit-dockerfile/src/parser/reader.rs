//! Physical lines of a file.

use super::directives::without_mark;

/// Lines may have so many bytes, their line end not counted.
const MAX_LINE: usize = 65_535;

/// One line as it stands in the file.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// The bytes, line end included.
    pub(super) raw: &'a [u8],
    /// Offset of the first byte in the file.
    pub(super) start: usize,
}

impl<'a> Line<'a> {
    /// The line without the line end: all carriage returns and line feeds at its end.
    pub(super) fn text(&self) -> &'a [u8] {
        let ends = self.raw.iter().rev().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        self.raw.get(..self.raw.len() - ends).unwrap_or_default()
    }

    /// Offset one past the text in the file.
    pub(super) fn text_end(&self) -> usize {
        self.start + self.text().len()
    }
}

/// Reads lines, up to the first one that is too long.
pub(super) struct Reader<'a> {
    pub(super) source: &'a [u8],
    /// Offset of the next line.
    pub(super) at: usize,
    /// Lines read so far.
    pub(super) count: u32,
    /// Whether a line was too long.
    pub(super) too_long: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self { source, at: 0, count: 0, too_long: false }
    }

    /// The next line; a byte order mark in front of the first one is passed over.
    pub(super) fn next(&mut self) -> Option<Line<'a>> {
        let rest = self.source.get(self.at..).filter(|rest| !rest.is_empty() && !self.too_long)?;
        let end = rest.iter().position(|&b| b == b'\n');
        let len = end.map_or(rest.len(), |n| n + 1);
        if end.unwrap_or(len) > MAX_LINE {
            self.too_long = true;
            return None;
        }
        let mut line = Line { raw: rest.get(..len)?, start: self.at };
        if self.count == 0 {
            line.raw = without_mark(line.raw);
            line.start += len - line.raw.len();
        }
        self.at += len;
        self.count += 1;
        Some(line)
    }
}
