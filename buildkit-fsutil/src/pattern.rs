//! The pattern language of `.dockerignore` files and of include and exclude lists.
//!
//! | in a pattern | means |
//! |---|---|
//! | `*` | any run of characters without `/` |
//! | `?` | one character that is not `/` |
//! | `**` | any number of path components, none included |
//! | `[a-z]`, `[^a-z]` | one character of the set, or one that is not in it |
//! | `\c` | the character `c` itself |
//! | leading `!` | what matches is taken back from the patterns before it |
//!
//! | `a{2}`, `a{2,}`, `a{2,3}` | so many `a`; only beside one of the above, as is the next |
//! | `x\|y` | anything that starts with what is before the bar or ends with what is behind it |
//!
//! A pattern that matches a directory holds for everything below it. Later patterns override earlier ones.
//! The time to match is bounded by pattern length × path length whatever the pattern says.
//!
//! A malformed pattern is refused by [`PatternMatcher::new`] when its fault stands in front, that is, before the first
//! `*` which a path named `.` does not reach; behind it (`a*/[`) the fault is only reported when the pattern is tried
//! on a path. So does the reference, and where nothing comes to be tried, such a list does its work.

use std::fmt;

use crate::glob::Glob;
use crate::path::clean;

/// How many states the repetitions of one list may make together.
const MAX_COPIES: usize = 1 << 16;

/// An ordered list of patterns, ready to be asked about paths.
///
/// ```
/// use buildkit_fsutil::pattern::PatternMatcher;
///
/// let ignored = PatternMatcher::new(["target", "**/*.log", "!keep.log"])?;
/// assert!(ignored.matches_or_parent_matches("target/debug/app")?);
/// assert!(ignored.matches_or_parent_matches("a/b.log")?);
/// assert!(!ignored.matches_or_parent_matches("keep.log")?);
/// # Ok::<(), buildkit_fsutil::pattern::PatternError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
    exclusions: bool,
}

impl PatternMatcher {
    /// Compiles `patterns` in order. White space around a pattern is dropped, empty ones are skipped and each is
    /// cleaned as a path (`./b` and `b/` are `b`).
    ///
    /// A leading `/` is kept and makes the pattern match nothing, because paths here are relative;
    /// [`read_ignore`] takes it off.
    ///
    /// # Errors
    /// [`PatternError`] for a `!` that stands alone and for a pattern whose front cannot be read.
    pub fn new<I>(patterns: I) -> Result<Self, PatternError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut matcher = Self::default();
        let mut copies = MAX_COPIES;
        for raw in patterns {
            let trimmed = raw.as_ref().trim();
            if trimmed.is_empty() {
                continue;
            }
            let pattern = Pattern::parse(&clean(trimmed), &mut copies)?;
            matcher.exclusions |= pattern.exclusion;
            matcher.patterns.push(pattern);
        }
        Ok(matcher)
    }

    /// Whether `path`, or a directory above it, is matched. `path` is relative, clean and separated by `/`.
    ///
    /// # Errors
    /// [`PatternError::Syntax`] when a malformed pattern comes to be tried.
    pub fn matches_or_parent_matches(&self, path: impl AsRef<[u8]>) -> Result<bool, PatternError> {
        self.matches_using_parent(path.as_ref(), None, None)
    }

    /// As [`matches_or_parent_matches`](Self::matches_or_parent_matches), for a walk from the top: `parent` is what
    /// was recorded for the directory above, so that nothing above is tried again; `None` tries every parent.
    /// When `record` is given, it is overwritten with what the entries below `path` need.
    ///
    /// A pattern that a parent's verdict made irrelevant is not recorded, so a `!` pattern that names a directory
    /// which was not matched itself does not take back what later matches below it (the reference behaves so, and
    /// only so do both sides select the same files).
    ///
    /// # Errors
    /// [`PatternError::Syntax`] when a malformed pattern comes to be tried.
    pub fn matches_using_parent(
        &self,
        path: &[u8],
        parent: Option<&MatchInfo>,
        mut record: Option<&mut MatchInfo>,
    ) -> Result<bool, PatternError> {
        if let Some(info) = record.as_deref_mut() {
            info.matched.clear();
            info.matched.resize(self.patterns.len(), false);
        }
        let mut verdict = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.and_then(|info| info.matched.get(index).copied()).unwrap_or(false);
            if !inherited {
                if pattern.exclusion != verdict {
                    continue;
                }
                if matches!(pattern.kind, Kind::Malformed) {
                    return Err(PatternError::Syntax { pattern: pattern.text.clone() });
                }
                let matched = match parent {
                    Some(_) => pattern.matches(path),
                    None => pattern.matches_or_parent_matches(path),
                };
                if !matched {
                    continue;
                }
            }
            if let Some(slot) = record.as_deref_mut().and_then(|info| info.matched.get_mut(index)) {
                *slot = true;
            }
            verdict = !pattern.exclusion;
        }
        Ok(verdict)
    }

    /// Whether a pattern may match something strictly below the directory `dir`; `exclusion` chooses between the
    /// `!` patterns and the others. `false` is certain, so a walk need not go there.
    pub fn may_match_below(&self, dir: &[u8], exclusion: bool) -> bool {
        self.patterns.iter().any(|pattern| pattern.exclusion == exclusion && pattern.may_match_below(dir))
    }

    /// Whether any pattern begins with `!`.
    pub fn has_exclusions(&self) -> bool {
        self.exclusions
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The compiled patterns in order.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &Pattern> {
        self.patterns.iter()
    }
}

/// What a directory's patterns said, for the entries below it.
#[derive(Debug, Clone, Default)]
pub struct MatchInfo {
    matched: Vec<bool>,
}

/// One compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// No special character: the path itself.
    Exact,
    /// Plain text, then `**`: any path that starts with the text.
    Prefix,
    /// `**`, then plain text: any path that ends with the text.
    Suffix,
    Glob(Glob),
    /// Cannot be tried on anything.
    Malformed,
}

impl Pattern {
    fn parse(cleaned: &str, copies: &mut usize) -> Result<Self, PatternError> {
        let (text, exclusion) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneExclusion),
            Some(rest) => (rest, true),
            None => (cleaned, false),
        };
        if !crate::glob::is_accepted(text) {
            return Err(PatternError::Syntax { pattern: text.to_owned() });
        }
        let kind = match crate::glob::shape(text) {
            crate::glob::Shape::Exact => Kind::Exact,
            crate::glob::Shape::Prefix => Kind::Prefix,
            crate::glob::Shape::Suffix => Kind::Suffix,
            crate::glob::Shape::Expression(expression) => {
                Glob::compile(&expression, copies).map_or(Kind::Malformed, Kind::Glob)
            }
        };
        Ok(Self { text: text.to_owned(), exclusion, kind })
    }

    /// The cleaned pattern, without its `!`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern was written with a leading `!`.
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    fn prefix(&self) -> &[u8] {
        let text = self.text.as_bytes();
        text.strip_suffix(b"**").unwrap_or(text)
    }

    fn suffix(&self) -> &[u8] {
        let text = self.text.as_bytes();
        text.strip_prefix(b"**").unwrap_or(text)
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text.as_bytes(),
            Kind::Prefix => path.starts_with(self.prefix()),
            Kind::Suffix => {
                let suffix = self.suffix();
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|name| path == name)
            }
            Kind::Glob(glob) => glob.matches(path),
            Kind::Malformed => false,
        }
    }

    fn matches_or_parent_matches(&self, path: &[u8]) -> bool {
        // The parent of "/x" is the root, which has no name before its slash.
        let root = path.strip_prefix(b"/").is_some_and(|name| !name.contains(&b'/')) && self.matches(b"/");
        root || match &self.kind {
            // What begins with a matching parent begins as it does.
            Kind::Prefix => self.matches(path),
            Kind::Glob(glob) => glob.matches_or_parent_matches(path),
            Kind::Exact | Kind::Suffix | Kind::Malformed => {
                let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
                let mut parents = slashes.filter_map(|at| path.get(..at));
                self.matches(path) || parents.any(|parent| self.matches(parent))
            }
        }
    }

    fn may_match_below(&self, dir: &[u8]) -> bool {
        let below = |text: &[u8]| text.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"));
        match &self.kind {
            Kind::Exact => below(self.text.as_bytes()),
            Kind::Prefix => {
                let prefix = self.prefix();
                dir.starts_with(prefix) || prefix.strip_suffix(b"/") == Some(dir) || below(prefix)
            }
            // What is below shows whether a malformed pattern does harm.
            Kind::Suffix | Kind::Malformed => true,
            Kind::Glob(glob) => glob.may_match_below(dir),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.exclusion { "!" } else { "" };
        write!(f, "{mark}{}", self.text)
    }
}

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// A `!` with nothing behind it.
    LoneExclusion,
    /// An unclosed or empty `[…]`, a range that runs backwards, or a `\` with nothing behind it.
    Syntax {
        /// The pattern, cleaned and without its `!`.
        pattern: String,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoneExclusion => f.write_str("illegal exclusion pattern: \"!\""),
            Self::Syntax { pattern } => write!(f, "syntax error in pattern: {pattern:?}"),
        }
    }
}

impl std::error::Error for PatternError {}

/// The longest line an ignore file may have, in bytes without its end.
pub const MAX_IGNORE_LINE: usize = 65_535;

/// The most patterns that an ignore file may have. Without a limit a file of one-byte lines would take a hundred times
/// its size once it is compiled, and it comes from whoever made the context.
pub const MAX_IGNORE_PATTERNS: usize = 1 << 16;

/// Reads a `.dockerignore` file into patterns for [`PatternMatcher::new`], in order.
///
/// A byte order mark is dropped; lines whose first byte is `#` are comments; white space around a line is dropped;
/// a leading `/` means the root of the context. Bytes that are not UTF-8 become U+FFFD, one for one.
///
/// # Errors
/// [`IgnoreFileError`] when a line is longer than [`MAX_IGNORE_LINE`], or there are more patterns than
/// [`MAX_IGNORE_PATTERNS`].
pub fn read_ignore(file: &[u8]) -> Result<Vec<String>, IgnoreFileError> {
    let mut patterns = Vec::new();
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > MAX_IGNORE_LINE {
            return Err(IgnoreFileError { line: index + 1, kind: IgnoreFileErrorKind::LongLine });
        }
        if line.starts_with(b"#") {
            continue;
        }
        let line = decode(line);
        let line = line.trim();
        let (text, mark) = line.strip_prefix('!').map_or((line, ""), |rest| (rest.trim(), "!"));
        if text.is_empty() && mark.is_empty() {
            continue;
        }
        if patterns.len() == MAX_IGNORE_PATTERNS {
            return Err(IgnoreFileError { line: index + 1, kind: IgnoreFileErrorKind::ManyPatterns });
        }
        if text.is_empty() {
            patterns.push(mark.to_owned());
            continue;
        }
        let cleaned = clean(text);
        let relative = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
        patterns.push(format!("{mark}{relative}"));
    }
    Ok(patterns)
}

/// A line of an ignore file is longer than [`MAX_IGNORE_LINE`], or has one pattern more than [`MAX_IGNORE_PATTERNS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreFileError {
    /// The line, counted from 1.
    pub line: usize,
    kind: IgnoreFileErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IgnoreFileErrorKind {
    LongLine,
    ManyPatterns,
}

impl fmt::Display for IgnoreFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match self.kind {
            IgnoreFileErrorKind::LongLine => {
                write!(f, "ignore file: line {line} is longer than {MAX_IGNORE_LINE} bytes")
            }
            IgnoreFileErrorKind::ManyPatterns => {
                write!(
                    f,
                    "ignore file: line {line} has one pattern more than the {MAX_IGNORE_PATTERNS} that are read"
                )
            }
        }
    }
}

impl std::error::Error for IgnoreFileError {}

fn decode(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    crate::glob::chars(bytes).collect::<String>().into()
}
