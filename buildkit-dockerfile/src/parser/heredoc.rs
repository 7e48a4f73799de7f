//! Heredocs: `<<NAME` words and the lines that follow the instruction.

use std::borrow::Cow;

use super::{Escape, Lines, Span, text_of};
use crate::expand::{Lexer, Names};

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
        text_of(&self.body)
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

/// A word that announces a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeredocWord {
    /// The name that ends the heredoc, quotes removed.
    pub name: String,
    /// File descriptor number before `<<`; 0 if none was written.
    pub fd: u32,
    /// Whether variables in the body are expanded: no part of the name is quoted.
    pub expand: bool,
    /// Written `<<-`.
    pub chomp: bool,
}

impl HeredocWord {
    /// Reads `word`; `None` if it announces no heredoc.
    pub fn parse(word: &str) -> Option<Self> {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (fd, rest) = word.split_at_checked(digits)?;
        let rest = rest.strip_prefix("<<")?;
        let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let lex = |lexer: Lexer| lexer.skip_unset().words(rest, &(), &mut Names::default()).ok();
        let [name] = <[String; 1]>::try_from(lex(Lexer::new(Escape::Backslash))?).ok()?;
        let raw = lex(Lexer::new(Escape::Backslash).raw_quotes())?;
        let quotes = |word: &str| word.bytes().filter(|b| matches!(b, b'\'' | b'"')).count();
        let expand = quotes(raw.first()?) == quotes(&name);
        Some(Self { name, fd: fd.parse().unwrap_or(0), expand, chomp })
    }
}

/// The heredocs that a joined line announces, in order. A line that cannot be split into words has none.
pub(super) fn announced(line: &str) -> impl Iterator<Item = HeredocWord> {
    let lexer = Lexer::new(Escape::Backslash).raw_quotes().raw_escapes().skip_unset();
    let words = lexer.words(line, &(), &mut Names::default()).unwrap_or_default();
    words.into_iter().filter_map(|word| HeredocWord::parse(&word))
}

#[cfg(test)]
mod tests {
    use super::{HeredocWord, announced, chomp};

    #[test]
    fn words_are_told_from_heredocs() {
        for (line, want) in [
            ("RUN <<E", Some(("E", 0, true, false))),
            ("RUN <<-E", Some(("E", 0, true, true))),
            ("RUN << E", Some(("E", 0, true, false))),
            ("RUN 5<<E", Some(("E", 5, true, false))),
            ("RUN <<\"E F\"", Some(("E F", 0, false, false))),
            ("RUN <<E\"F\"G", Some(("EFG", 0, false, false))),
            ("RUN <<'E'", Some(("E", 0, false, false))),
            ("RUN <<\\E", Some(("E", 0, true, false))),
            ("RUN <<$A", Some(("$A", 0, true, false))),
            ("RUN (cat <<E)", Some(("E)", 0, true, false))),
            ("RUN cat <<E>f", Some(("E>f", 0, true, false))),
            ("RUN <<E # c", Some(("E", 0, true, false))),
            ("RUN x<<E", None),
            ("RUN a;<<E", None),
            ("RUN <<A<<B", None),
            ("RUN <<<E", None),
            ("RUN \\<<E", None),
            ("RUN \"<<E\"", None),
            ("RUN '<<E'", None),
            ("RUN <<", None),
            ("RUN <<-", None),
            ("RUN <<\"\"", None),
            ("RUN echo it's <<E", None),
        ] {
            let found: Vec<_> = announced(line).collect();
            let got = found.first().map(|h| (h.name.as_str(), h.fd, h.expand, h.chomp));
            assert_eq!(got, want, "{line}");
            assert!(found.len() <= 1, "{line}");
        }
        let names: Vec<_> = announced("COPY <<A 3<<-'B' /x").map(|h| h.name).collect();
        assert_eq!(names, ["A", "B"]);
        assert_eq!(HeredocWord::parse("99999999999<<E").map(|h| h.fd), Some(0));
    }

    #[test]
    fn tabs_at_line_starts_are_dropped() {
        assert_eq!(&*chomp(b"\t\ta\tb\n \tc\n\t\n"), b"a\tb\n \tc\n\n");
        assert_eq!(&*chomp(b"a b"), b"a b");
    }
}
