//! The syntax tree: one [`Node`] an instruction, before any instruction's own rules are applied.

use std::sync::Arc;

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

    /// How many words or pairs there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Args::Words(words) | Args::Json(words) => words.len(),
            Args::Pairs(pairs) => pairs.len(),
            Args::Health { rest, .. } => rest.len(),
            Args::Trigger(node) => node.args.len(),
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
///
/// Nothing of the source is lost: [`Ast::pieces`] covers it from the first byte to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ast {
    pub(super) source: Arc<[u8]>,
    /// The escape character in force.
    pub escape: Escape,
    /// The instructions in order.
    pub nodes: Vec<Node>,
}

/// A part of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What stands between instructions: blank lines, comments, directives, line ends. Never empty.
    Between(&'a [u8]),
    /// An instruction and its bytes.
    Node(&'a Node, &'a [u8]),
}

impl<'a> Piece<'a> {
    /// The bytes of the piece.
    pub fn bytes(self) -> &'a [u8] {
        let (Piece::Between(bytes) | Piece::Node(_, bytes)) = self;
        bytes
    }
}

impl Ast {
    /// The bytes it was parsed from.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The whole source in pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let part = |start: u32, end: u32| self.source.get(Span { start, end }.range()).unwrap_or_default();
        let mut at = 0;
        let end = u32::try_from(self.source.len()).unwrap_or(u32::MAX);
        let nodes =
            self.nodes.iter().map(|node| (Some(node), node.span)).chain([(None, Span { start: end, end })]);
        nodes
            .flat_map(move |(node, span)| {
                let between = part(at, span.start);
                at = span.end;
                [
                    Some(Piece::Between(between)),
                    node.map(|node| Piece::Node(node, part(span.start, span.end))),
                ]
            })
            .flatten()
            .filter(|piece| *piece != Piece::Between(&[]))
    }

    /// The source, with those instructions replaced for which `edit` gives a text. All else stays as it is,
    /// byte for byte.
    ///
    /// ```
    /// let ast = buildkit_dockerfile::parser::parse(b"from a # base\n\nRUN b\n")?;
    /// let text = ast.print_with(|node| (node.keyword == "RUN").then(|| "RUN c".to_owned()));
    /// assert_eq!(text, b"from a # base\n\nRUN c\n");
    /// # Ok::<(), buildkit_dockerfile::Error>(())
    /// ```
    pub fn print_with(&self, mut edit: impl FnMut(&Node) -> Option<String>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.source.len());
        for piece in self.pieces() {
            match piece {
                Piece::Node(node, bytes) => match edit(node) {
                    Some(text) => out.extend_from_slice(text.as_bytes()),
                    None => out.extend_from_slice(bytes),
                },
                Piece::Between(bytes) => out.extend_from_slice(bytes),
            }
        }
        out
    }
}
