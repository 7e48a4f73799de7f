//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the top of a file.

use super::{Escape, Lines, blank};
use crate::{Error, ErrorKind, Result};

/// A directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The name in lower case: `syntax`, `escape` or `check`.
    pub name: &'static str,
    /// The whole value, blanks at both ends cut.
    pub value: String,
    /// Its line, counted from 1.
    pub line: u32,
}

impl Directive {
    /// The value up to the first blank, which is all that BuildKit uses of `syntax` and `check`.
    pub fn first_word(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

/// The frontend that a file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// The image reference.
    pub image: String,
    /// The reference and what stands behind it.
    pub command_line: String,
    /// Where it stands. A JSON file has line 0.
    pub lines: Lines,
}

/// The directives of a file, in order.
///
/// A first line that starts with `#!` is passed over. The list ends at the first line that is no directive,
/// and at a directive that is repeated.
pub fn directives(source: &[u8]) -> Vec<Directive> {
    let (body, skipped) = after_shebang(source);
    scan(body, b"#", skipped)
}

/// The directive `name` of a file; see [`directives`].
pub fn directive(source: &[u8], name: &str) -> Option<Directive> {
    directives(source).into_iter().find(|d| d.name == name)
}

/// The frontend a file asks for: `# syntax=`, `// syntax=`, or a JSON object with a `syntax` member.
pub fn detect_syntax(source: &[u8]) -> Option<Syntax> {
    let (body, skipped) = after_shebang(source);
    for prefix in [b"#".as_slice(), b"//"] {
        if let Some(found) = scan(body, prefix, skipped).into_iter().find(|d| d.name == "syntax") {
            return Some(Syntax {
                image: found.first_word().to_owned(),
                lines: Lines::single(found.line),
                command_line: found.value,
            });
        }
    }
    if blank::trim_start(body).first() != Some(&b'{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let image = object.iter().rfind(|(key, _)| key.eq_ignore_ascii_case("syntax"))?.1.as_str()?.to_owned();
    Some(Syntax { command_line: image.clone(), image, lines: Lines::single(skipped) })
}

/// `source` without a byte order mark.
pub(super) fn without_mark(source: &[u8]) -> &[u8] {
    source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source)
}

/// What follows a `#!` line, and the number of lines before it.
fn after_shebang(source: &[u8]) -> (&[u8], u32) {
    let body = without_mark(source);
    if !body.starts_with(b"#!") {
        return (body, 0);
    }
    let end = body.iter().position(|&b| b == b'\n').map_or(body.len(), |n| n + 1);
    (body.get(end..).unwrap_or_default(), 1)
}

fn scan(body: &[u8], prefix: &[u8], skipped: u32) -> Vec<Directive> {
    let mut header = Header::default();
    let mut found = Vec::new();
    for (line, bytes) in (skipped + 1..).zip(body.split(|&b| b == b'\n')) {
        match header.line(bytes.strip_suffix(b"\r").unwrap_or(bytes), prefix) {
            Ok(Some((name, value))) => found.push(Directive { name, value, line }),
            Ok(None) | Err(_) => break,
        }
    }
    found
}

/// Reads directives line by line, until a line is none.
#[derive(Debug, Default)]
pub(super) struct Header {
    seen: Vec<&'static str>,
    done: bool,
}

impl Header {
    /// Name and value if `line`, which has no line end, is a directive.
    ///
    /// # Errors
    ///
    /// A directive that was there before.
    pub(super) fn line(&mut self, line: &[u8], prefix: &[u8]) -> Result<Option<(&'static str, String)>> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = line.strip_prefix(prefix).and_then(split) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            let message = format!("the parser directive \"{name}\" is given twice");
            return Err(Error::new(ErrorKind::Syntax, message));
        }
        self.seen.push(name);
        Ok(Some((name, value)))
    }
}

/// The escape character that a directive names.
///
/// # Errors
///
/// Anything but a backslash or a backtick.
pub(super) fn escape(value: &str) -> Result<Escape> {
    match value {
        "\\" => Ok(Escape::Backslash),
        "`" => Ok(Escape::Backtick),
        _ => Err(Error::new(
            ErrorKind::Syntax,
            format!("the escape character is {value:?}; it must be \\ or `"),
        )),
    }
}

/// The value of the directive `name`, written as a comment without its number sign.
pub(crate) fn inline_directive(comment: &str, name: &str) -> Option<String> {
    // Most comments are prose; this is asked for every one of them.
    if !comment.contains('=') {
        return None;
    }
    split(comment.as_bytes()).filter(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Splits `name = value` of a known name.
fn split(text: &[u8]) -> Option<(&'static str, String)> {
    let text = blank::trim_start(text);
    let end = text.iter().position(|b| !b.is_ascii_alphanumeric())?;
    let (name, rest) = text.split_at_checked(end)?;
    let name = ["syntax", "escape", "check"].into_iter().find(|n| n.as_bytes().eq_ignore_ascii_case(name))?;
    let rest = trim_ascii_start(rest).strip_prefix(b"=")?;
    let value = trim_ascii_start(rest);
    // A value of nothing but blanks counts as its last blank.
    let value = if value.is_empty() { rest.last_chunk::<1>()?.as_slice() } else { trim_ascii_end(value) };
    Some((name, String::from_utf8_lossy(value).into_owned()))
}

fn is_ascii_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

fn trim_ascii_start(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|&&b| is_ascii_blank(b)).count();
    bytes.get(blanks..).unwrap_or_default()
}

fn trim_ascii_end(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().rev().take_while(|&&b| is_ascii_blank(b)).count();
    bytes.get(..bytes.len() - blanks).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{detect_syntax, directive, directives};

    #[test]
    fn syntax_is_detected_as_in_buildkit() {
        for (text, want) in [
            ("#syntax = a b c  ", Some(("a", "a b c", 1))),
            ("# SYNTAX=Ab", Some(("Ab", "Ab", 1))),
            ("  # syntax=a", None),
            ("# comment\n# syntax=a", None),
            ("\n# syntax=a", None),
            ("# foo=bar\n# syntax=a", None),
            ("# syn-tax=a", None),
            ("##syntax=a", None),
            ("# syntax:a", None),
            ("# syntax=", None),
            ("# escape=`\n# syntax=a", Some(("a", "a", 2))),
            ("# check=skip=all\n# syntax=a", Some(("a", "a", 2))),
            ("# syntax=a\n# syntax=b", Some(("a", "a", 1))),
            ("# syntax=a # x", Some(("a", "a # x", 1))),
            ("// syntax=a", Some(("a", "a", 1))),
            ("//syntax=a\n# syntax=b", Some(("a", "a", 1))),
            ("# x\n// syntax=a", None),
            (r#"{"syntax":"a b"}"#, Some(("a b", "a b", 0))),
            (r#"{"syntax":1}"#, None),
            (r#"{"syntax":"a"} x"#, None),
            (r#"[{"syntax":"a"}]"#, None),
            ("#!/bin/sh\n# syntax=a", Some(("a", "a", 2))),
            ("#!/bin/sh\n{\"syntax\":\"a\"}", Some(("a", "a", 1))),
            ("\u{feff}# syntax=a", Some(("a", "a", 1))),
            ("#syntax=a\r\n", Some(("a", "a", 1))),
            ("#\tsyntax\t=\ta", Some(("a", "a", 1))),
        ] {
            let got = detect_syntax(text.as_bytes());
            let got = got.as_ref().map(|s| (s.image.as_str(), s.command_line.as_str(), s.lines.start));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn only_the_first_word_of_check_counts() {
        let found = directive(b"# check=skip=all; error=true\nFROM a", "check").unwrap();
        assert_eq!((found.first_word(), found.value.as_str()), ("skip=all;", "skip=all; error=true"));
    }

    #[test]
    fn directives_before_an_error_stay_valid() {
        let names: Vec<_> =
            directives(b"# check=a\n# syntax=b\n# check=c\n# escape=`").into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["check", "syntax"]);
    }
}
