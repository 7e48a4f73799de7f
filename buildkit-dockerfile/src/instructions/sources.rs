//! What ADD and COPY copy, and where to.

/// Sources and destination of ADD and COPY.
///
/// The order between paths and inline files is not kept, as in BuildKit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Paths, URLs and git references, each a word to expand.
    pub paths: Vec<String>,
    /// Files written into the Dockerfile as heredocs.
    pub inline: Vec<InlineFile>,
    /// The destination, a word to expand.
    pub dest: String,
}

/// A file written into the Dockerfile as a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Name of the heredoc and of the file.
    pub name: String,
    /// The content, leading tabs already dropped for `<<-`.
    pub content: Vec<u8>,
    /// Whether variables in it are expanded: one word, escape `\`, quotes without meaning
    /// ([`Lexer::heredoc`](crate::expand::Lexer::heredoc)).
    pub expand: bool,
}
