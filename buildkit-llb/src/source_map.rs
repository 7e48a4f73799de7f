//! Which lines of a source file an op comes from.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::definition::Definition;
use crate::state::State;

/// A source file whose lines ops can point to. Cloning is one reference count.
#[derive(Clone)]
pub struct SourceMap {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) filename: String,
    pub(crate) language: String,
    pub(crate) data: Bytes,
    pub(crate) definition: Origin,
}

/// Where the file itself came from.
pub(crate) enum Origin {
    Unknown,
    State(State),
    Loaded(Definition),
}

impl SourceMap {
    /// A file by name, with its content. `language` follows github-linguist's names, such as `Dockerfile`.
    pub fn new(filename: impl Into<String>, language: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::build(filename.into(), language.into(), data.into(), Origin::Unknown)
    }

    /// The same file, read from `state`.
    #[must_use]
    pub fn read_from(&self, state: impl Into<State>) -> Self {
        let inner = &self.inner;
        let origin = Origin::State(state.into());
        Self::build(inner.filename.clone(), inner.language.clone(), inner.data.clone(), origin)
    }

    pub(crate) fn build(filename: String, language: String, data: Bytes, definition: Origin) -> Self {
        Self { inner: Arc::new(Inner { filename, language, data, definition }) }
    }

    /// Name of the file.
    pub fn filename(&self) -> &str {
        &self.inner.filename
    }

    /// Language of the file.
    pub fn language(&self) -> &str {
        &self.inner.language
    }

    /// Content of the file.
    pub fn data(&self) -> &Bytes {
        &self.inner.data
    }

    /// Ranges of this file, for [`Constraints::location`](crate::Constraints::location).
    pub fn location(&self, ranges: impl IntoIterator<Item = Range>) -> SourceLocation {
        SourceLocation { map: self.clone(), ranges: ranges.into_iter().collect() }
    }
}

impl fmt::Debug for SourceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceMap")
            .field("filename", &self.inner.filename)
            .field("language", &self.inner.language)
            .field("bytes", &self.inner.data.len())
            .finish()
    }
}

/// Ranges of lines in a source file.
#[derive(Debug, Clone)]
pub struct SourceLocation {
    pub(crate) map: SourceMap,
    pub(crate) ranges: Arc<[Range]>,
}

impl SourceLocation {
    /// The file.
    pub fn map(&self) -> &SourceMap {
        &self.map
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }
}

/// From a position to a position, the last line included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Where it begins.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
}

impl Range {
    /// Whole lines, counted from 1, the last one included.
    pub fn lines(first: i32, last: i32) -> Self {
        Self { start: Position { line: first, character: 0 }, end: Position { line: last, character: 0 } }
    }
}

/// A place in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: i32,
    /// Character in the line, from 0.
    pub character: i32,
}
