//! Makes text from a daemon safe to show: no control characters, no escape sequences, no bidirectional overrides.

use std::borrow::Cow;

/// Text of one line, such as a name or an error: unsafe characters are taken out, line breaks become spaces.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) || c == '\t') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut cleaner = Cleaner::default();
    cleaner.push(text.as_bytes(), &mut out);
    cleaner.flush(&mut out);
    Cow::Owned(out.trim_end_matches('\n').replace(['\n', '\t'], " "))
}

/// Text that may have several lines, such as an error.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut cleaner = Cleaner::default();
    cleaner.push(text.as_bytes(), &mut out);
    cleaner.flush(&mut out);
    Cow::Owned(out)
}

/// Whether showing this character could move the cursor, hide text or reorder it. Tab is not among them.
#[allow(clippy::match_same_arms)] // each arm has its own reason
pub(crate) fn is_unsafe(c: char) -> bool {
    match c {
        '\t' => false,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Bidirectional marks, embeddings, overrides and isolates; line and paragraph separators.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        // Zero-width no-break space and the tag characters, which are invisible.
        '\u{feff}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// Cleans a byte stream that comes in arbitrary pieces: UTF-8 and escape sequences may be cut anywhere.
///
/// Escape sequences are removed whole, `\r\n` and a lone `\r` become `\n`, bytes that are not UTF-8 become U+FFFD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cleaner {
    /// The beginning of a UTF-8 character that was cut; at most 3 bytes.
    carry: Vec<u8>,
    state: State,
    carriage_return: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After `ESC (` and its like: one more character follows.
    EscapeIntermediate,
    /// After `ESC [`: until a final byte.
    Control,
    /// After `ESC ]` and its like: until BEL or ST.
    Text_,
    /// ESC seen inside such a text.
    TextEscape,
}

impl Cleaner {
    /// Appends the clean text of `bytes` to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        let joined;
        let bytes = if self.carry.is_empty() {
            bytes
        } else {
            let mut whole = std::mem::take(&mut self.carry);
            whole.extend_from_slice(bytes);
            joined = whole;
            &joined
        };
        let mut rest = bytes.utf8_chunks().peekable();
        while let Some(chunk) = rest.next() {
            self.text(chunk.valid(), out);
            let bad = chunk.invalid();
            if bad.is_empty() {
                continue;
            }
            if rest.peek().is_none() && is_cut(bad) {
                self.carry = bad.to_vec();
            } else {
                self.text("\u{fffd}", out);
            }
        }
    }

    /// The stream ended: what was held back is said.
    pub(crate) fn flush(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.carry).is_empty() {
            self.text("\u{fffd}", out);
        }
        if std::mem::take(&mut self.carriage_return) {
            out.push('\n');
        }
        self.state = State::Text;
    }

    fn text(&mut self, text: &str, out: &mut String) {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let safe = self.state == State::Text && !self.carriage_return && (c == '\n' || !is_unsafe(c));
            if safe {
                continue;
            }
            out.push_str(&text[plain..at]);
            plain = at + c.len_utf8();
            self.special(c, out);
        }
        out.push_str(&text[plain..]);
    }

    #[allow(clippy::match_same_arms)] // an arm per state
    fn special(&mut self, c: char, out: &mut String) {
        if std::mem::take(&mut self.carriage_return) {
            out.push('\n');
            if c == '\n' {
                return;
            }
        }
        self.state = match (self.state, c) {
            (State::Text, '\u{1b}') => State::Escape,
            (State::Text, '\u{9b}') | (State::Escape, '[') => State::Control,
            (State::Text, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}')
            | (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::Text_,
            (State::Text, '\r') => {
                self.carriage_return = true;
                State::Text
            }
            (State::Text, c) => {
                if c == '\n' || !is_unsafe(c) {
                    out.push(c);
                }
                State::Text
            }
            (State::Escape, ' '..='/') => State::EscapeIntermediate,
            (State::EscapeIntermediate, ' '..='/') => State::EscapeIntermediate,
            (State::Control, ' '..='?') => State::Control,
            (State::Text_, '\u{1b}') => State::TextEscape,
            // A line break ends every sequence: a broken one must not swallow the log.
            (_, '\n' | '\r') => {
                out.push('\n');
                State::Text
            }
            (State::Text_, '\u{7}' | '\u{9c}') | (State::TextEscape, '\\') => State::Text,
            (State::Text_ | State::TextEscape, _) => State::Text_,
            (State::Escape | State::EscapeIntermediate | State::Control, '\u{1b}') => State::Escape,
            (State::Escape | State::EscapeIntermediate | State::Control, _) => State::Text,
        };
    }
}

/// Whether these bytes could be the beginning of a character.
fn is_cut(bytes: &[u8]) -> bool {
    let needed = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return false,
    };
    bytes.len() < needed
}

#[cfg(test)]
mod tests {
    use super::{Cleaner, line, lines};
    use proptest::prelude::*;

    fn clean(bytes: &[u8]) -> String {
        let mut out = String::new();
        let mut cleaner = Cleaner::default();
        cleaner.push(bytes, &mut out);
        cleaner.flush(&mut out);
        out
    }

    #[test]
    fn sequences_go_whole_and_text_stays() {
        for (input, want) in [
            ("plain", "plain"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07rest", "rest"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b(Bcharset", "charset"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("end\r", "end\n"),
            ("\u{202e}evil\u{2066}", "evil"),
            ("\u{9b}31mred", "red"),
            ("tab\there", "tab\there"),
            ("bell\x07 nul\0 del\x7f", "bell nul del"),
            ("\x1b]never ended\nnext line", "\nnext line"),
            ("\x1b\x1b[1mx", "x"),
            ("žluťoučký 🦀", "žluťoučký 🦀"),
        ] {
            assert_eq!(clean(input.as_bytes()), want, "{input:?}");
        }
        assert_eq!(clean(b"bad \xff\xfe bytes"), "bad \u{fffd}\u{fffd} bytes");
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(line("a\nb\tc\x1b[2Kd"), "a b cd");
        assert_eq!(lines("a\nb\x1b[2K"), "a\nb");
        assert!(matches!(line("ordinary"), std::borrow::Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_text_as_the_whole(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b'\r'), Just(b'\n'), Just(0xe2), Just(0x80)], 0..64),
            cut in 0usize..64)
        {
            let cut = cut.min(bytes.len());
            let mut pieces = String::new();
            let mut cleaner = Cleaner::default();
            cleaner.push(&bytes[..cut], &mut pieces);
            cleaner.push(&bytes[cut..], &mut pieces);
            cleaner.flush(&mut pieces);
            prop_assert_eq!(&pieces, &clean(&bytes));
            prop_assert!(!pieces.chars().any(|c| c != '\n' && super::is_unsafe(c)));
        }
    }
}
