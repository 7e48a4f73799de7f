//! FROM: the start of a stage.

use super::{Instruction, description};
use crate::lint::Site;
use crate::parser::{Lines, Span};

/// A stage: its FROM and the instructions after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The keyword of its FROM, as written.
    pub keyword: String,
    /// The image or stage it starts from, a word to expand with global arguments.
    pub base: String,
    /// `--platform`, a word to expand with global arguments; absent if empty.
    pub platform: Option<String>,
    /// The name, in lower case.
    pub name: Option<String>,
    /// The name as written.
    pub written_name: Option<String>,
    /// The FROM on one line, blanks at both ends cut.
    pub text: String,
    /// The comment lines right above, without the number sign, trimmed.
    pub comments: Vec<String>,
    /// Bytes of the FROM in the source.
    pub span: Span,
    /// Lines of the FROM.
    pub lines: Lines,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// Where lint rules about the FROM report.
    pub fn site(&self) -> Site<'_> {
        Site { lines: self.lines, comments: &self.comments }
    }

    /// The description in the comments above the FROM: the rest of one that starts with the stage's name
    /// in lower case.
    pub fn describe(&self) -> Option<&str> {
        description(&self.comments, self.name.as_deref()?)
    }
}
