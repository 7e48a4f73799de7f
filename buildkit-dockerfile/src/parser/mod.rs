//! From bytes to syntax nodes: lines, continuations, comments, directives, heredocs.
//!
//! Nothing here knows what an instruction means; see [`instructions`](crate::instructions) for that.
//! [`parse`] gives the whole tree, [`Parser`] one node after the other.

mod ast;
mod blank;
mod directives;
mod heredoc;
mod json;
mod lexer;
mod node;
mod position;
mod reader;

pub use self::ast::{Args, Ast, Node, Pair, Piece};
pub(crate) use self::directives::inline_directive;
pub use self::directives::{Directive, Syntax, detect_syntax, directive, directives};
pub use self::heredoc::{Heredoc, HeredocWord, chomp};
pub use self::node::Parser;
pub use self::position::{Lines, Span};

use std::borrow::Cow;

use crate::Result;

/// `bytes` as text, what is no UTF-8 replaced. Files nearly always are UTF-8, and the check for that is much
/// faster than the search for what to replace.
fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Parses a whole file.
///
/// # Errors
///
/// See [`Parser`].
pub fn parse(source: &[u8]) -> Result<Ast> {
    let mut parser = Parser::new(source);
    let mut nodes = Vec::new();
    while let Some(node) = parser.next_node()? {
        nodes.push(node);
    }
    Ok(Ast { source: source.into(), escape: parser.escape(), nodes })
}

/// The escape character of a Dockerfile, set by the `escape` directive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``, for Windows paths.
    Backtick,
}

impl Escape {
    /// The character itself.
    pub fn char(self) -> char {
        char::from(self.byte())
    }

    /// The character as an ASCII byte.
    pub fn byte(self) -> u8 {
        match self {
            Escape::Backslash => b'\\',
            Escape::Backtick => b'`',
        }
    }
}
