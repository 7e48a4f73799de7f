//! Heredocs: `<<NAME` words and the lines that follow the instruction.

use std::borrow::Cow;

use super::{Lines, Span};

/// A heredoc of ADD, COPY or RUN, with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The name that ends it, quotes removed.
    pub name: String,
    /// File descriptor number before `<<`; 0 if none was written.
    pub fd: u32,
    /// Whether variables in the body are expanded: no part of the name was quoted.
    pub expand: bool,
    /// Written `<<-`: leading tabs of each line are dropped when the body is used.
    pub chomp: bool,
    /// The body as it stands in the file, with its line ends, without the terminator.
    pub body: Vec<u8>,
    /// Bytes of the body in the source.
    pub span: Span,
    /// Lines of the body and its terminator.
    pub lines: Lines,
}

impl Heredoc {
    /// The body as it stands in the file, as text.
    pub fn raw(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as it is used: leading tabs dropped if the heredoc was written with `<<-`.
    pub fn content(&self) -> Cow<'_, [u8]> {
        if self.chomp { chomp(&self.body) } else { Cow::Borrowed(&self.body) }
    }
}

/// Drops the tabs at the start of every line.
pub fn chomp(body: &[u8]) -> Cow<'_, [u8]> {
    if !body.contains(&b'\t') {
        return Cow::Borrowed(body);
    }
    let mut out = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|&b| b == b'\n') {
        let tabs = line.iter().take_while(|&&b| b == b'\t').count();
        out.extend_from_slice(line.get(tabs..).unwrap_or_default());
    }
    Cow::Owned(out)
}
