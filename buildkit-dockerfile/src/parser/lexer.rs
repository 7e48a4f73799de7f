//! Splits one joined line into keyword, flags and arguments.

use std::borrow::Cow;

use super::ast::{Args, Pair};
use super::{Escape, blank, json, text_of};
use crate::{Error, ErrorKind, Result};

/// A joined line, split.
pub(super) struct Split<'a> {
    pub(super) keyword: &'a [u8],
    pub(super) flags: Vec<String>,
    /// The rest, blanks at both ends cut.
    pub(super) rest: &'a [u8],
}

/// Splits `line` into keyword, flags and rest.
pub(super) fn split(line: &[u8], escape: Escape) -> Split<'_> {
    let line = blank::trim(line);
    let end = line.iter().position(|&b| blank::separates(b)).unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let blanks = rest.iter().take_while(|&&b| blank::separates(b)).count();
    let (flags, rest) = flags(rest.get(blanks..).unwrap_or_default(), escape.byte());
    Split { keyword, flags, rest: blank::trim(rest) }
}

/// Takes the flags off the front of `line`.
///
/// Bytes are taken as Latin-1 characters, as BuildKit does.
fn flags(line: &[u8], escape: u8) -> (Vec<String>, &[u8]) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += line.iter().skip(at).take_while(|&&b| blank::is_latin1(b)).count();
        let rest = line.get(at..).unwrap_or_default();
        if !rest.starts_with(b"--") {
            return (flags, rest);
        }
        let (word, len) = flag(rest, escape);
        at += len;
        if word == "--" {
            return (flags, line.get(at..).unwrap_or_default());
        }
        flags.push(word);
    }
}

/// The flag word that `line` starts with, and how many bytes it takes.
fn flag(line: &[u8], escape: u8) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut bytes = line.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match quote {
            None if blank::is_latin1(byte) => return (word, at),
            None if byte == b'\'' || byte == b'"' => quote = Some(byte),
            Some(open) if byte == open => quote = None,
            _ if byte == escape => {
                if let Some((_, next)) = bytes.next() {
                    word.push(char::from(next));
                }
            }
            _ => word.push(char::from(byte)),
        }
    }
    (word, line.len())
}

/// What shape of arguments a keyword takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A JSON array, else the whole rest.
    JsonOrText,
    /// A JSON array, else words.
    JsonOrWords,
    Words,
    Text,
    Pairs,
    QuotedWords,
    Health,
    Trigger,
    /// Arguments of unknown keywords are not read.
    Ignored,
}

/// The shape of arguments of `keyword`, in any case.
pub(super) fn shape(keyword: &[u8]) -> Shape {
    const SHAPES: [(&str, Shape); 18] = [
        ("run", Shape::JsonOrText),
        ("copy", Shape::JsonOrWords),
        ("env", Shape::Pairs),
        ("from", Shape::Words),
        ("arg", Shape::QuotedWords),
        ("workdir", Shape::Text),
        ("label", Shape::Pairs),
        ("cmd", Shape::JsonOrText),
        ("entrypoint", Shape::JsonOrText),
        ("expose", Shape::Words),
        ("user", Shape::Text),
        ("add", Shape::JsonOrWords),
        ("volume", Shape::JsonOrWords),
        ("shell", Shape::JsonOrText),
        ("maintainer", Shape::Text),
        ("stopsignal", Shape::Text),
        ("healthcheck", Shape::Health),
        ("onbuild", Shape::Trigger),
    ];
    SHAPES
        .iter()
        .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(keyword))
        .map_or(Shape::Ignored, |&(_, shape)| shape)
}

/// Whether heredocs may follow an instruction with `keyword`.
pub(super) fn takes_heredocs(keyword: &[u8]) -> bool {
    ["run", "copy", "add"].iter().any(|name| name.as_bytes().eq_ignore_ascii_case(keyword))
}

/// The arguments of any keyword but ONBUILD.
///
/// # Errors
///
/// A JSON array with elements other than strings; pairs that are none.
pub(super) fn args(shape: Shape, keyword: &[u8], rest: &[u8], escape: Escape) -> Result<Args> {
    let text = text_of(rest);
    Ok(match shape {
        Shape::JsonOrText => json_or(&text, whole)?,
        Shape::JsonOrWords => json_or(&text, words)?,
        Shape::Words => Args::Words(words(&text)),
        Shape::Text => Args::Words(whole(&text)),
        Shape::Pairs => Args::Pairs(pairs(&text, keyword, escape)?),
        Shape::QuotedWords => {
            Args::Words(quoted_words(&text, escape).into_iter().map(str::to_owned).collect())
        }
        Shape::Health => health(rest)?,
        Shape::Trigger | Shape::Ignored => Args::Words(Vec::new()),
    })
}

fn json_or(text: &str, otherwise: fn(&str) -> Vec<String>) -> Result<Args> {
    if text.starts_with('[') {
        match json::array(text) {
            json::Array::Strings(strings) => return Ok(Args::Json(strings)),
            json::Array::Other => {
                let message = "a JSON array of arguments may hold strings only";
                return Err(Error::new(ErrorKind::Syntax, message));
            }
            json::Array::Invalid => {}
        }
    }
    Ok(Args::Words(otherwise(text)))
}

fn whole(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { vec![text.to_owned()] }
}

fn words(text: &str) -> Vec<String> {
    let split =
        || text.split(|c: char| u8::try_from(c).is_ok_and(blank::separates)).filter(|w| !w.is_empty());
    let mut words = Vec::with_capacity(split().count());
    words.extend(split().map(str::to_owned));
    words
}

fn pairs(text: &str, keyword: &[u8], escape: Escape) -> Result<Vec<Pair>> {
    let words = quoted_words(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let separates = |c: char| u8::try_from(c).is_ok_and(blank::separates);
        let Some((key, value)) = text.split_once(separates) else {
            let keyword = text_of(keyword).to_uppercase();
            let message = format!("{keyword} needs a name and a value: {keyword} {text}=value");
            return Err(Error::new(ErrorKind::Syntax, message));
        };
        let value = value.trim_start_matches(separates);
        return Ok(vec![Pair { key: key.to_owned(), value: value.to_owned(), legacy: true }]);
    }
    if words.len() > super::Parser::MAX_WORDS {
        return Err(too_many());
    }
    let pair = |word: &str| -> Result<Pair> {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            let message = format!(
                "\"{word}\" has no equals sign; write name=value, with quotes if the value has blanks"
            );
            Error::new(ErrorKind::Syntax, message)
        })?;
        Ok(Pair { key: key.to_owned(), value: value.to_owned(), legacy: false })
    };
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        pairs.push(pair(word)?);
    }
    Ok(pairs)
}

/// Splits `text` at blanks outside quotes. Quotes and escapes stay in the words, but for an escape at the
/// very end.
fn quoted_words(text: &str, escape: Escape) -> Vec<&str> {
    let escape = escape.char();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if let Some(start) = start.take() {
                    words.extend(text.get(start..at));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') && chars.next().is_none() {
            end = at;
        }
    }
    if let Some(start) = start.filter(|&start| start < end) {
        words.extend(text.get(start..end));
    }
    words
}

/// The error of an instruction with more than [`MAX_WORDS`](super::Parser::MAX_WORDS) words.
pub(super) fn too_many() -> Error {
    let most = super::Parser::MAX_WORDS;
    Error::new(ErrorKind::Limit, format!("the instruction has more than {most} arguments"))
}

fn health(rest: &[u8]) -> Result<Args> {
    let end = rest.iter().position(|&b| blank::is_latin1(b)).unwrap_or(rest.len());
    let (kind, rest) = rest.split_at(end);
    let blanks = rest.iter().take_while(|&&b| blank::is_latin1(b)).count();
    let rest: Cow<'_, str> = text_of(rest.get(blanks..).unwrap_or_default());
    let rest = if kind.is_empty() { Args::Words(Vec::new()) } else { json_or(&rest, whole)? };
    Ok(Args::Health { kind: text_of(kind).into_owned(), rest: Box::new(rest) })
}

#[cfg(test)]
mod tests {
    use super::{Args, Escape, Shape, args, quoted_words, split};

    #[test]
    fn flags_are_taken_off_byte_by_byte() {
        for (line, flags, rest) in [
            ("RUN  --a=b  --c x --d", &["--a=b", "--c"][..], "x --d"),
            ("RUN --a -- --b", &["--a"], "--b"),
            ("RUN --", &[], ""),
            ("RUN -- ", &[], ""),
            ("RUN -x", &[], "-x"),
            ("RUN --a=\"x y\"'z w' q", &["--a=x yz w"], "q"),
            (r"RUN --a=\ b\", &["--a= b"], ""),
            (r#"RUN --a="\"'" '--b'"#, &["--a=\"'"], "'--b'"),
            ("RUN --a='x y", &["--a=x y"], ""),
            ("RUN --chown=é x", &["--chown=Ã©"], "x"),
            ("RUN --\"\" x", &[], "x"),
            ("RUN", &[], ""),
            ("  RUN\t\u{b}x ", &[], "x"),
        ] {
            let got = split(line.as_bytes(), Escape::Backslash);
            assert_eq!(
                (got.keyword, got.flags.as_slice(), got.rest),
                (
                    &b"RUN"[..],
                    &flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()[..],
                    rest.as_bytes()
                ),
                "{line:?}"
            );
        }
        // The second byte of this letter is a no-break space in Latin-1, and ends the word.
        let got = split("RUN --a=à x".as_bytes(), Escape::Backslash);
        assert_eq!((got.flags.as_slice(), got.rest), (&["--a=Ã".to_owned()][..], &b"x"[..]));
        let got = split(b"RUN --a=`\"\\ x", Escape::Backtick);
        assert_eq!((got.flags.as_slice(), got.rest), (&["--a=\"\\".to_owned()][..], &b"x"[..]));
    }

    #[test]
    fn quoted_words_keep_quotes_and_escapes() {
        for (text, want) in [
            (r#"a="x y" b='p q' c=1"#, &[r#"a="x y""#, "b='p q'", "c=1"][..]),
            (r"a=b\ c d", &[r"a=b\ c", "d"]),
            (r#"a="x\" y" '\' b"#, &[r#"a="x\" y""#, r"'\'", "b"]),
            (r#""" ''"#, &["\"\"", "''"]),
            (r"a\", &["a"]),
            (r"\", &[]),
            ("\"a b", &["\"a b"]),
            ("a\u{a0}b", &["a", "b"]),
        ] {
            assert_eq!(quoted_words(text, Escape::Backslash), want, "{text:?}");
        }
    }

    #[test]
    fn arguments_have_the_shape_of_their_keyword() {
        let text =
            |shape, rest: &str| format!("{:?}", args(shape, b"env", rest.as_bytes(), Escape::Backslash));
        for (shape, rest, want) in [
            (Shape::JsonOrText, "['a']", r#"Ok(Words(["['a']"]))"#),
            (Shape::JsonOrText, r#"["a"]"#, r#"Ok(Json(["a"]))"#),
            (Shape::JsonOrText, "", "Ok(Words([]))"),
            (Shape::JsonOrWords, r"a\ b  c", r#"Ok(Words(["a\\", "b", "c"]))"#),
            (Shape::Health, "CMD  a b", r#"Ok(Health { kind: "CMD", rest: Words(["a b"]) })"#),
            (Shape::Pairs, "\"a b\" c", r#"Ok(Pairs([Pair { key: "\"a", value: "b\" c", legacy: true }]))"#),
            (Shape::Pairs, "a  b=c ", r#"Ok(Pairs([Pair { key: "a", value: "b=c ", legacy: true }]))"#),
            (
                Shape::Pairs,
                "a==b c=",
                r#"Ok(Pairs([Pair { key: "a", value: "=b", legacy: false }, Pair { key: "c", value: "", legacy: false }]))"#,
            ),
        ] {
            assert_eq!(text(shape, rest), want);
        }
        for (shape, rest) in [(Shape::JsonOrText, "[1]"), (Shape::Pairs, "a"), (Shape::Pairs, "a=1 b")] {
            assert!(args(shape, b"env", rest.as_bytes(), Escape::Backslash).is_err(), "{rest}");
        }
        assert!(
            matches!(args(Shape::Ignored, b"x", b"y z", Escape::Backslash), Ok(Args::Words(w)) if w.is_empty())
        );
    }
}
