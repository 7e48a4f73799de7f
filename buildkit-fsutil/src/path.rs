//! Paths by their text alone: bytes, separated by `/`, relative to a root.

use std::fmt;

/// The shortest path that means the same: no empty, `.` or inner `..` components; `.` for an empty path.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if absolute => {}
                _ => parts.push(".."),
            },
            name => parts.push(name),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path` below a root it cannot leave: components resolved by text, `..` at the root dropped. Empty for the root.
pub(crate) fn below_root(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => out.truncate(parent(&out).len()),
            name => push(&mut out, name),
        }
    }
    out
}

/// The directory above; empty for a name without one.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    split(path).0
}

/// Directory and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => {
            let (dir, name) = path.split_at(slash);
            (dir, name.get(1..).unwrap_or_default())
        }
        None => (b"", path),
    }
}

/// Appends a component.
pub(crate) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// `dir`, a slash unless it is empty, `name`.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    push(&mut path, name);
    path
}

/// Whether every component is a name: not empty, not `.` or `..`, without NUL.
#[cfg(feature = "transfer")]
pub(crate) fn is_clean_relative(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/')
        .all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0))
}

/// The order in which trees are sent: component by component, so `a/b` comes before `a-b`.
pub fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    // `/` ranks lowest; no other byte of a name has to move for that but those below it.
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

/// A path for people: quoted, with bytes that are not text, control characters and characters that change the
/// direction of writing escaped, so that a file's name cannot play tricks on a terminal or a log.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        f.write_char('"')?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => write!(f, "\\{c}")?,
                    _ if c.is_control()
                        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
                    {
                        write!(f, "{}", c.escape_default())?;
                    }
                    _ => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        f.write_char('"')
    }
}
