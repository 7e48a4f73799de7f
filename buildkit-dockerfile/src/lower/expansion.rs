//! Words of instructions, expanded in the environment of a stage.

use buildkit_llb::EnvList;

use crate::expand::{self, Budget, Env, Lexer, Names};
use crate::parser::Escape;

impl Env for EnvList {
    fn value(&self, name: &str) -> Option<&str> {
        EnvList::value(self, name)
    }
}

/// An environment without variables.
#[derive(Debug)]
pub(crate) struct NoEnv;

impl Env for NoEnv {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

/// The lexers of a conversion, sharing one budget.
#[derive(Debug)]
pub(crate) struct Lexers {
    /// One word, quotes and escapes removed.
    pub(crate) word: Lexer,
    /// The body of a heredoc that is copied.
    pub(crate) heredoc: Lexer,
    /// The name of a RUN vertex: quotes stay, unset variables too.
    pub(crate) run_name: Lexer,
}

impl Lexers {
    pub(crate) fn new(escape: Escape) -> Self {
        let budget = Budget::default();
        let word = Lexer::new(escape).budget(&budget);
        Self {
            heredoc: Lexer::heredoc().budget(&budget),
            run_name: word.clone().raw_quotes().skip_unset(),
            word,
        }
    }

    /// Expands one word without caring for the names it asks for.
    pub(crate) fn plain(&self, word: &str, env: &dyn Env) -> Result<String, expand::Error> {
        Ok(self.word.word(word, env, &mut Names::default())?.into_owned())
    }
}
