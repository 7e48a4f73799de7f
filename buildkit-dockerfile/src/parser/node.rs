//! Joins lines to instructions and makes nodes of them.

use super::ast::{Args, Node};
use super::directives::{self, Header};
use super::heredoc::{Heredoc, announced};
use super::lexer::{self, Shape};
use super::reader::{Line, Reader};
use super::{Escape, Lines, Span, blank, text_of};
use crate::{Error, ErrorKind, Result};

/// Reads a file node by node.
///
/// # Errors
///
/// [`Parser::next_node`] fails, and should not be called again, on: a file larger than 16 MiB, more than 65536
/// instructions or words in one, a line of more than 65535 bytes, a bad or repeated directive, a heredoc without its end, arguments that do not have the
/// shape their keyword asks for, and a file without any instruction. Errors name their lines.
pub struct Parser<'a> {
    reader: Reader<'a>,
    size: usize,
    header: Header,
    escape: Escape,
    comments: Vec<String>,
    /// Instructions read so far.
    count: usize,
}

/// An instruction of more than one line, joined.
struct Joined {
    text: Vec<u8>,
    /// Where each piece starts: in `text` and in the file.
    pieces: Vec<(usize, usize)>,
    /// Offset in the file one past the last line's text.
    end: usize,
    blank_line: bool,
}

impl std::fmt::Debug for Parser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("line", &self.reader.count)
            .field("escape", &self.escape)
            .finish_non_exhaustive()
    }
}

impl<'a> Parser<'a> {
    /// Larger files are refused, as they do not fit in a message to the daemon either.
    pub const MAX_SIZE: usize = 16 << 20;

    /// A graph of so many vertices does not fit in a message to the daemon either. The bound is what keeps
    /// instructions of a few bytes, which take hundreds once they are read, from taking all memory.
    pub const MAX_INSTRUCTIONS: usize = 1 << 16;

    /// Words one instruction may be split into, for the same reason, and comments above it that are kept.
    pub const MAX_WORDS: usize = 1 << 16;

    /// Starts at the first line of `source`.
    pub fn new(source: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(source),
            size: source.len(),
            header: Header::default(),
            escape: Escape::default(),
            comments: Vec::new(),
            count: 0,
        }
    }

    /// The escape character; final once the first node was read.
    pub fn escape(&self) -> Escape {
        self.escape
    }

    /// The next instruction; `None` at the end.
    ///
    /// # Errors
    ///
    /// See [`Parser`].
    pub fn next_node(&mut self) -> Result<Option<Node>> {
        if self.size > Self::MAX_SIZE {
            let message = format!("the Dockerfile is larger than {} MiB", Self::MAX_SIZE >> 20);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        loop {
            let Some(line) = self.reader.next() else { return self.end() };
            let text = blank::trim_start(line.text());
            let before = Lines::single(self.reader.count - 1);
            let directive = self.directive(text).map_err(|e| e.at(before))?;
            match text.first() {
                None => {}
                Some(b'#') if directive => {}
                Some(b'#') => self.keep_comment(line),
                Some(_) => {
                    if self.count == Self::MAX_INSTRUCTIONS {
                        let message = format!("the Dockerfile has more than {} instructions", self.count);
                        let lines = Lines::single(self.reader.count);
                        return Err(Error::new(ErrorKind::Limit, message).at(lines));
                    }
                    let node = self.instruction(line, text)?;
                    self.count += 1;
                    return Ok(Some(node));
                }
            }
        }
    }

    fn end(&self) -> Result<Option<Node>> {
        let error = if self.count == 0 {
            "the file has no instructions".to_owned()
        } else if self.reader.too_long {
            format!("line {} is longer than 65535 bytes", self.reader.count + 1)
        } else {
            return Ok(None);
        };
        Err(Error::new(ErrorKind::Syntax, error).at(Lines::single(self.reader.count)))
    }

    /// Whether the line `text` is a directive; if so, heeds it.
    fn directive(&mut self, text: &[u8]) -> Result<bool> {
        let Some((name, value)) = self.header.line(text, b"#")? else { return Ok(false) };
        if name == "escape" {
            self.escape = directives::escape(&value)?;
        }
        Ok(true)
    }

    /// Keeps the text of a comment for the next instruction. A comment without text forgets those before.
    fn keep_comment(&mut self, line: Line<'_>) {
        // The first byte goes, be it the number sign or a blank before it.
        let comment = blank::trim(line.raw.get(1..).unwrap_or_default());
        if comment.is_empty() {
            self.comments.clear();
        } else if self.comments.len() < Self::MAX_WORDS {
            self.comments.push(text_of(comment).into_owned());
        }
    }

    /// Reads the instruction that starts at `line`, whose text without blanks in front is `first`.
    fn instruction(&mut self, line: Line<'a>, first: &'a [u8]) -> Result<Node> {
        let start_line = self.reader.count;
        let start = line.text_end() - first.len();
        let (piece, goes_on) = without_continuation(first, self.escape);
        let joined = goes_on.then(|| self.join(piece, start, line.text_end()));
        let (text, end) = joined.as_ref().map_or((piece, line.text_end()), |j| (&j.text, j.end));
        let lines = Lines { start: start_line, end: self.reader.count };
        let empty_continuation = joined.as_ref().is_some_and(|j| j.blank_line).then_some(lines.end);

        let mut node = self.node(text).map_err(|e| e.at(lines))?;
        // Where a byte of the joined text stands in the file.
        let place = |at: usize| match &joined {
            None => start + at,
            Some(joined) => {
                let n = joined.pieces.partition_point(|&(text, _)| text <= at).saturating_sub(1);
                joined.pieces.get(n).map_or(start, |&(text, file)| file + (at - text))
            }
        };
        let keyword = text.len() - blank::trim_start(text).len();
        node.keyword_span = span(place(keyword), place(keyword + node.keyword.len().saturating_sub(1)) + 1);
        node.comments = std::mem::take(&mut self.comments);
        node.empty_continuation = empty_continuation;
        let end = self.heredocs(&mut node, text, start_line, end)?;
        node.span = span(start, end);
        node.lines = Lines { start: start_line, end: self.reader.count };
        Ok(node)
    }

    /// Reads the lines that `first` is continued by.
    fn join(&mut self, first: &[u8], start: usize, end: usize) -> Joined {
        let mut joined = Joined { text: first.to_vec(), pieces: vec![(0, start)], end, blank_line: false };
        while let Some(line) = self.reader.next() {
            joined.end = line.text_end();
            let text = line.text();
            match blank::trim_start(text).first() {
                Some(b'#') => {}
                None => joined.blank_line = true,
                Some(_) => {
                    let (piece, goes_on) = without_continuation(text, self.escape);
                    joined.pieces.push((joined.text.len(), line.start));
                    joined.text.extend_from_slice(piece);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        joined
    }

    /// A node of the joined line `text`; its places and comments are still empty.
    fn node(&self, text: &[u8]) -> Result<Node> {
        let split = lexer::split(text, self.escape);
        let args = match lexer::shape(split.keyword) {
            Shape::Trigger if split.rest.is_empty() => Args::Words(Vec::new()),
            Shape::Trigger => Args::Trigger(Box::new(self.trigger(split.rest)?)),
            shape => lexer::args(shape, split.keyword, split.rest, self.escape)?,
        };
        if args.len() > Self::MAX_WORDS || split.flags.len() > Self::MAX_WORDS {
            return Err(lexer::too_many());
        }
        Ok(blank_node(text, split.keyword, split.flags, args))
    }

    /// The trigger of an ONBUILD. A trigger that is an ONBUILD again is not allowed, but what it triggers
    /// has to be well formed; it becomes a node without arguments.
    fn trigger(&self, text: &[u8]) -> Result<Node> {
        let outer = lexer::split(text, self.escape);
        let (mut keyword, mut rest) = (outer.keyword, outer.rest);
        let chained = lexer::shape(keyword) == Shape::Trigger;
        while lexer::shape(keyword) == Shape::Trigger && !rest.is_empty() {
            let inner = lexer::split(rest, self.escape);
            (keyword, rest) = (inner.keyword, inner.rest);
        }
        let args = lexer::args(lexer::shape(keyword), keyword, rest, self.escape)?;
        let args = if chained { Args::Words(Vec::new()) } else { args };
        Ok(blank_node(text, outer.keyword, outer.flags, args))
    }

    /// Reads the heredocs that `text` announces; gives the offset one past the last line's text.
    fn heredocs(&mut self, node: &mut Node, text: &[u8], start_line: u32, mut end: usize) -> Result<usize> {
        let bearer = if let Args::Trigger(trigger) = &node.args { &**trigger } else { &*node };
        let possible = lexer::takes_heredocs(bearer.keyword.as_bytes()) && !bearer.args.is_json();
        if !possible || !text.windows(2).any(|w| w == b"<<") {
            return Ok(end);
        }
        for word in announced(&text_of(text)) {
            let first_line = self.reader.count + 1;
            let body_start = self.reader.at;
            let body_end = loop {
                let Some(line) = self.reader.next() else {
                    let message = format!("the heredoc <<{0} has no end: no line is {0:?}", word.name);
                    let lines = Lines { start: start_line, end: self.reader.count };
                    return Err(Error::new(ErrorKind::Syntax, message).at(lines));
                };
                end = line.text_end();
                let tabs =
                    if word.chomp { line.text().iter().take_while(|&&b| b == b'\t').count() } else { 0 };
                if line.text().get(tabs..) == Some(word.name.as_bytes()) {
                    break line.start;
                }
            };
            node.heredocs.push(Heredoc {
                name: word.name,
                fd: word.fd,
                expand: word.expand,
                chomp: word.chomp,
                body: self.reader.source.get(body_start..body_end).unwrap_or_default().to_vec(),
                span: span(body_start, body_end),
                lines: Lines { start: first_line, end: self.reader.count },
            });
        }
        Ok(end)
    }
}

fn blank_node(text: &[u8], keyword: &[u8], flags: Vec<String>, args: Args) -> Node {
    Node {
        keyword: text_of(keyword).into_owned(),
        flags,
        args,
        text: text_of(text).into_owned(),
        heredocs: Vec::new(),
        comments: Vec::new(),
        span: Span::default(),
        keyword_span: Span::default(),
        lines: Lines::default(),
        empty_continuation: None,
    }
}

fn span(start: usize, end: usize) -> Span {
    // Sources are at most 16 MiB.
    let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span { start: offset(start), end: offset(end) }
}

/// Cuts an escape character at the end of a line, with blanks behind it, if it continues the line. An
/// escape character that is escaped itself does not.
fn without_continuation(text: &[u8], escape: Escape) -> (&[u8], bool) {
    let blanks = text.iter().rev().take_while(|&&b| b == b' ' || b == b'\t').count();
    match text.get(..text.len() - blanks) {
        Some([piece @ .., last]) if *last == escape.byte() && piece.last() != Some(last) => (piece, true),
        _ => (text, false),
    }
}
