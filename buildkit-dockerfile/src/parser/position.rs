//! Where something stands in a Dockerfile: byte spans and line ranges.

/// A half-open range of bytes in the source, usable as an index: `&source[span.range()]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset one past the last byte.
    pub end: u32,
}

impl Span {
    /// The span as a `Range` of `usize`.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Number of bytes covered.
    pub fn len(self) -> usize {
        self.range().len()
    }

    /// Whether nothing is covered.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// An inclusive range of lines, counted from 1.
///
/// Line 0 occurs only in errors about parser directives: BuildKit reports those one line early, and
/// the places of errors are part of its observable behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lines {
    /// First line.
    pub start: u32,
    /// Last line.
    pub end: u32,
}

impl Lines {
    /// The single line `line`.
    pub fn single(line: u32) -> Self {
        Self { start: line, end: line }
    }

    /// Each line of the range.
    ///
    /// BuildKit describes a node of several lines by one range a line, so its wire form is this
    /// iterator with every line as both start and end, and characters always 0.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.start..=self.end
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.start == self.end {
            write!(f, "line {}", self.start)
        } else {
            write!(f, "lines {}-{}", self.start, self.end)
        }
    }
}
