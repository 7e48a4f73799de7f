//! Shell words: quotes, escapes and variables, as Dockerfile instructions use them.
//!
//! A [`Lexer`] holds the mode. [`Lexer::word`] gives one word, [`Lexer::words`] splits it at blanks:
//!
//! ```
//! use buildkit_dockerfile::{expand, parser::Escape};
//!
//! let env = [("HOME", "/root")];
//! let mut names = expand::Names::default();
//! let text = expand::Lexer::new(Escape::Backslash).word("$HOME/${DIR:-src}", &env, &mut names)?;
//! assert_eq!(text, "/root/src");
//! assert!(names.unmatched.contains("DIR"));
//! # Ok::<(), expand::Error>(())
//! ```
//!
//! What a word may expand to is bounded, see [`Budget`]; time is linear in the input and the output.

mod pattern;
mod scan;
mod template;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::parser::Escape;

/// Where values of variables come from.
pub trait Env {
    /// The value of `name`, if it is set.
    fn value(&self, name: &str) -> Option<&str>;
}

/// Nothing is set.
impl Env for () {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

impl<V: AsRef<str>> Env for BTreeMap<String, V> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(AsRef::as_ref)
    }
}

/// The last pair of a name counts.
impl<K: AsRef<str>, V: AsRef<str>> Env for Vec<(K, V)> {
    fn value(&self, name: &str) -> Option<&str> {
        last(self, name)
    }
}

/// The last pair of a name counts.
impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Env for [(K, V); N] {
    fn value(&self, name: &str) -> Option<&str> {
        last(self, name)
    }
}

fn last<'p, K: AsRef<str>, V: AsRef<str>>(pairs: &'p [(K, V)], name: &str) -> Option<&'p str> {
    pairs.iter().rfind(|(k, _)| k.as_ref() == name).map(|(_, v)| v.as_ref())
}

/// Names that an expansion asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names that were set.
    pub matched: BTreeSet<String>,
    /// Names that were not set.
    pub unmatched: BTreeSet<String>,
}

impl Names {
    /// How many names of each sort are kept.
    pub const MAX: usize = 1 << 16;
}

/// How many bytes expansion may still handle, shared by all lexers that hold a clone of it.
///
/// Bytes count whenever a value is put into a word or is searched for a pattern, so that time is bounded
/// as well as memory.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// At most so many bytes a word.
    pub const WORD: usize = 1 << 20;
    /// At most so many bytes a file.
    pub const FILE: usize = 16 << 20;

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(Self::FILE)))
    }
}

/// Expands words in one mode.
#[derive(Clone, Debug)]
pub struct Lexer {
    escape: Escape,
    raw_quotes: bool,
    raw_escapes: bool,
    skip_quotes: bool,
    skip_unset: bool,
    budget: Option<Budget>,
}

impl Lexer {
    /// The mode of most instructions: quotes and escapes are removed, unset variables are empty.
    pub fn new(escape: Escape) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
            budget: None,
        }
    }

    /// The mode of bodies of heredocs in COPY and ADD: escape `\`, quotes are ordinary characters.
    pub fn heredoc() -> Self {
        Self { skip_quotes: true, ..Self::new(Escape::Backslash) }
    }

    /// Keeps quote characters.
    #[must_use]
    pub fn raw_quotes(self) -> Self {
        Self { raw_quotes: true, ..self }
    }

    /// Keeps escape characters.
    #[must_use]
    pub fn raw_escapes(self) -> Self {
        Self { raw_escapes: true, ..self }
    }

    /// Leaves unset variables as they are written.
    #[must_use]
    pub fn skip_unset(self) -> Self {
        Self { skip_unset: true, ..self }
    }

    /// Takes what it produces from `budget`, on top of the bound of a word.
    #[must_use]
    pub fn budget(self, budget: &Budget) -> Self {
        Self { budget: Some(budget.clone()), ..self }
    }

    /// Expands `word` to one word. Names asked for are added to `names`, also when an error follows.
    ///
    /// # Errors
    ///
    /// Unbalanced quotes or braces, an unknown modifier, `${NAME:?}` without a value, a bad pattern, and
    /// [`Budget`] used up.
    pub fn word<'w>(&self, word: &'w str, env: &dyn Env, names: &mut Names) -> Result<Cow<'w, str>, Error> {
        let word = without_mark(word);
        let escape = self.escape.byte();
        if !word.bytes().any(|b| b == b'$' || b == escape || (!self.skip_quotes && matches!(b, b'\'' | b'"')))
        {
            return Ok(Cow::Borrowed(word));
        }
        scan::Scan::new(self, word, env, names).word().map(Cow::Owned).map_err(|e| e.of(word))
    }

    /// Expands `word` and splits the result at blanks outside quotes; empty words vanish.
    ///
    /// As in BuildKit, `${NAME<modifier>…}` forgets what stood before it in its word: `7${PORT:-80}` is `80`.
    ///
    /// # Errors
    ///
    /// As [`Lexer::word`].
    pub fn words(&self, word: &str, env: &dyn Env, names: &mut Names) -> Result<Vec<String>, Error> {
        let word = without_mark(word);
        scan::Scan::new(self, word, env, names).words().map_err(|e| e.of(word))
    }
}

fn without_mark(word: &str) -> &str {
    word.strip_prefix('\u{feff}').unwrap_or(word)
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    word: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    OpenQuote(char),
    OpenBrace,
    NoSlash,
    BadSubstitution,
    Modifier(String),
    Required { name: String, message: String },
    Pattern { pattern: String, escape: Option<char> },
    TooLarge,
    TooCostly,
}

impl Reason {
    fn of(self, word: &str) -> Error {
        // Enough to find the place; the word may be a whole heredoc.
        const SHOWN: usize = 120;
        let mut shown: String = word.chars().take(SHOWN).collect();
        if shown.len() < word.len() {
            shown.push('…');
        }
        Error { word: shown, reason: self }
    }
}

impl Error {
    /// Whether a bound on expansion was reached, rather than the word being wrong.
    pub fn is_limit(&self) -> bool {
        matches!(self.reason, Reason::TooLarge | Reason::TooCostly)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot expand {:?}: ", self.word)?;
        match &self.reason {
            Reason::OpenQuote(quote) => write!(f, "a {quote} is not closed"),
            Reason::OpenBrace => f.write_str("a ${ is not closed by }"),
            Reason::NoSlash => f.write_str("a ${name/pattern is not followed by / and a replacement"),
            Reason::BadSubstitution => f.write_str("${ is not followed by a name"),
            Reason::Modifier(modifier) => write!(f, "the modifier {modifier:?} after ${{name is unknown"),
            Reason::Required { name, message } if message.is_empty() => {
                write!(f, "{name} must be set to a value")
            }
            Reason::Required { name, message } => write!(f, "{name}: {message}"),
            Reason::Pattern { pattern, escape: Some(c) } => {
                write!(f, "the pattern {pattern:?} escapes {c:?}; only * ? \\ / }} can be escaped")
            }
            Reason::Pattern { pattern, escape: None } => {
                write!(f, "the pattern {pattern:?} ends with an escape")
            }
            Reason::TooLarge => write!(
                f,
                "the result is too large (at most {} MiB a word and {} MiB a file)",
                Budget::WORD >> 20,
                Budget::FILE >> 20
            ),
            Reason::TooCostly => f.write_str("its pattern takes too many steps to match"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        let kind = if error.is_limit() { crate::ErrorKind::Limit } else { crate::ErrorKind::Expansion };
        crate::Error::new(kind, error.to_string())
    }
}
