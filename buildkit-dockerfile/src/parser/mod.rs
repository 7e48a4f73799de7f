//! From bytes to syntax nodes: lines, continuations, comments, directives, heredocs.
//!
//! Nothing here knows what an instruction means; see [`instructions`](crate::instructions) for that.

mod ast;
mod heredoc;
mod position;

pub use self::ast::{Args, Ast, Node, Pair};
pub use self::heredoc::{Heredoc, chomp};
pub use self::position::{Lines, Span};

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
