//! The error of this crate, with the places in the Dockerfile it is about.

use std::error::Error as StdError;
use std::fmt;

use crate::parser::Lines;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a Dockerfile could not be read, converted or built.
///
/// `Display` is one sentence for the author of the Dockerfile; [`Error::locations`] says where, and
/// [`Error::excerpt`] shows it. The cause, if there is one, is in [`source`](StdError::source) and is
/// not printed by `Display`. `{:?}`, which is what `main` shows, is the sentence with its lines and causes; `{:#?}` shows
/// the fields.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    locations: Vec<Lines>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text cannot be split into instructions.
    Syntax,
    /// An instruction breaks one of its own rules: flags, number of arguments, forms.
    Instruction,
    /// A word with variables, quotes or escapes cannot be expanded.
    Expansion,
    /// A lint option is malformed, or a rule fired while the file asks to fail on it.
    Lint,
    /// Stages refer to each other in a way that cannot work, or the target does not exist.
    Stage,
    /// An image reference, or the image behind it, is unusable.
    Image,
    /// A platform cannot be parsed.
    Platform,
    /// A frontend option is malformed or conflicts with another one.
    Option,
    /// A build context (main, named, input) is malformed or missing.
    Context,
    /// The daemon cannot do what the Dockerfile asks for.
    Unsupported,
    /// A bound on the work that a Dockerfile may cause was reached.
    Limit,
    /// A call to the daemon failed; see the source.
    Gateway,
    /// The graph could not be built; see the source.
    Graph,
}

impl Error {
    /// An error of `kind` saying `message`, without a place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), locations: Vec::new(), source: None }))
    }

    /// Adds a place. BuildKit reports every place separately and keeps repeated ones.
    #[must_use]
    pub fn at(mut self, lines: Lines) -> Self {
        self.0.locations.push(lines);
        self
    }

    /// Replaces all places by `lines`; for instructions that come from elsewhere (triggers of a base
    /// image), whose own line numbers mean nothing to the reader.
    #[must_use]
    pub fn relocated(mut self, lines: Lines) -> Self {
        self.0.locations.clear();
        self.at(lines)
    }

    /// Sets the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `context` and a colon in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// Adds to the message that `candidate` may have been meant.
    #[must_use]
    pub fn did_you_mean(mut self, candidate: Option<&str>) -> Self {
        if let Some(candidate) = candidate {
            self.0.message.push_str(" (did you mean ");
            self.0.message.push_str(candidate);
            self.0.message.push_str("?)");
        }
        self
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The places in the Dockerfile, in the order they were added; empty if the error is about none.
    pub fn locations(&self) -> &[Lines] {
        &self.0.locations
    }

    /// The lines of `source` the error is about, two lines of context around each place, numbered,
    /// with `>>>` before the lines themselves. Empty without a place. Ends with a line end.
    pub fn excerpt(&self, source: &[u8]) -> String {
        excerpt(source, &self.0.locations)
    }
}

/// Lines of `source` around `places`, numbered and marked.
pub(crate) fn excerpt(source: &[u8], places: &[Lines]) -> String {
    use fmt::Write as _;
    const AROUND: u32 = 2;
    let near = |n: u32| places.iter().any(|l| n >= l.start.saturating_sub(AROUND) && n <= l.end + AROUND);
    let mut out = String::new();
    let mut skipped = false;
    for (n, line) in (1u32..).zip(source.split(|&b| b == b'\n')) {
        if !near(n) {
            skipped = !out.is_empty();
            continue;
        }
        if std::mem::take(&mut skipped) {
            out.push_str(" ...\n");
        }
        let mark = if places.iter().any(|l| (l.start..=l.end).contains(&n)) { ">>>" } else { "   " };
        let text = String::from_utf8_lossy(line);
        let _ = writeln!(out, "{n:4} | {mark} {}", text.trim_end_matches('\r'));
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            fmt::Display::fmt(self, f)?;
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
            for (n, lines) in self.0.locations.iter().enumerate() {
                write!(f, "{}{lines}", if n == 0 { " (" } else { ", " })?;
            }
            return f.write_str(if self.0.locations.is_empty() { "" } else { ")" });
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("locations", &self.0.locations)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use crate::Dockerfile;

    #[test]
    fn what_main_shows_is_for_people() {
        let error = Dockerfile::parse("FROM alpine\nRUNN make\n").unwrap_err();
        assert_eq!(format!("{error:?}"), "unknown instruction: RUNN (did you mean RUN?) (line 2)");
        assert!(format!("{error:#?}").contains("kind: "));
    }
}
