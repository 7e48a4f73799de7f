//! Blanks at the ends of byte strings that may not be UTF-8.
//!
//! A blank is what Unicode calls white space; bytes that are not UTF-8 are none.

/// `bytes` without blanks in front.
pub(super) fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let Some(len) = leading(bytes) {
        bytes = bytes.get(len..).unwrap_or_default();
    }
    bytes
}

/// `bytes` without blanks behind.
pub(super) fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let Some(len) = trailing(bytes) {
        bytes = bytes.get(..bytes.len() - len).unwrap_or_default();
    }
    bytes
}

/// `bytes` without blanks at both ends.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    trim_end(trim_start(bytes))
}

/// Whether a byte taken as a Latin-1 character is a blank.
pub(super) fn is_latin1(byte: u8) -> bool {
    char::from(byte).is_whitespace()
}

/// Whether a byte separates words: a blank of ASCII other than a line end.
pub(super) fn separates(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x0b | 0x0c | b'\r' | b' ')
}

/// Length of the blank that `bytes` start with.
fn leading(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    if first.is_ascii() {
        return char::from(first).is_whitespace().then_some(1);
    }
    // All blanks beyond ASCII have two or three bytes.
    (2..=3).find(|&n| is_blank(bytes.get(..n)))
}

/// Length of the blank that `bytes` end with.
fn trailing(bytes: &[u8]) -> Option<usize> {
    let last = *bytes.last()?;
    if last.is_ascii() {
        return char::from(last).is_whitespace().then_some(1);
    }
    (2..=3).find(|&n| is_blank(bytes.len().checked_sub(n).and_then(|at| bytes.get(at..))))
}

fn is_blank(bytes: Option<&[u8]>) -> bool {
    let Some(Ok(text)) = bytes.map(std::str::from_utf8) else { return false };
    let mut chars = text.chars();
    chars.next().is_some_and(char::is_whitespace) && chars.next().is_none()
}
