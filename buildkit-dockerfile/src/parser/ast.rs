//! The syntax tree: one [`Node`] an instruction, before any instruction's own rules are applied.

use super::{Escape, Heredoc, Lines, Span};

/// One instruction as it was split by the parser: keyword, flags, arguments.
///
/// Keywords are not judged here; an unknown one is a node without arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The keyword as written.
    pub keyword: String,
    /// Flag words (`--name` or `--name=value`), their quotes and escapes already removed.
    pub flags: Vec<String>,
    /// The arguments, in the shape the keyword asks for.
    pub args: Args,
    /// The instruction as one line: continuations joined, leading blanks cut, heredoc bodies absent.
    pub text: String,
    /// The heredocs that the line announces, in order.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines above the instruction, without the number sign, trimmed.
    pub comments: Vec<String>,
    /// Bytes from the keyword to the end of the last line (its line end excluded), heredocs included.
    pub span: Span,
    /// Bytes of the keyword.
    pub keyword_span: Span,
    /// Lines from the keyword to the last line, heredocs and their terminators included.
    pub lines: Lines,
    /// The last line before the heredocs, if a blank line stands inside the instruction.
    pub empty_continuation: Option<u32>,
}

/// Arguments of a [`Node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Args {
    /// Words in order; a keyword that takes the rest of the line whole has one word or none.
    Words(Vec<String>),
    /// A JSON array of strings.
    Json(Vec<String>),
    /// Names and values (ENV, LABEL).
    Pairs(Vec<Pair>),
    /// HEALTHCHECK: the type word and what follows it.
    Health {
        /// The first word as written, e.g. `CMD` or `NONE`; empty if the instruction has no arguments.
        kind: String,
        /// The rest: a JSON array, or at most one word.
        rest: Box<Args>,
    },
    /// ONBUILD: the trigger instruction.
    Trigger(Box<Node>),
}

impl Args {
    /// Whether there is no argument.
    pub fn is_empty(&self) -> bool {
        match self {
            Args::Words(words) | Args::Json(words) => words.is_empty(),
            Args::Pairs(pairs) => pairs.is_empty(),
            Args::Health { kind, .. } => kind.is_empty(),
            Args::Trigger(_) => false,
        }
    }

    /// Whether the JSON array form was used.
    pub fn is_json(&self) -> bool {
        matches!(self, Args::Json(_))
    }
}

/// A name and a value of ENV or LABEL, as written: quotes, escapes and variables are still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// Written `ENV key value`, without an equals sign.
    pub legacy: bool,
}

/// The syntax tree of a whole file, as [`parse`](super::parse) makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ast {
    /// The escape character in force.
    pub escape: Escape,
    /// The instructions in order.
    pub nodes: Vec<Node>,
}
