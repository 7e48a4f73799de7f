//! The JSON array form of arguments: an array of strings, decided as Go's decoder decides.
//!
//! Whether a text that is not such an array is valid JSON matters: valid JSON of another shape is an
//! error, anything else is taken as plain text. So the whole text is checked, without recursion.

/// What a text that starts with `[` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Array {
    /// An array of strings.
    Strings(Vec<String>),
    /// Valid JSON, but with elements other than strings.
    Other,
    /// Not JSON.
    Invalid,
}

/// Go's decoder gives up below this many levels.
const MAX_DEPTH: usize = 10_000;

/// Reads `text`, which must be one JSON array from the first byte on.
pub(super) fn array(text: &str) -> Array {
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0 };
    match reader.array() {
        Some(array) if reader.peek().is_none() => array,
        _ => Array::Invalid,
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array(&mut self) -> Option<Array> {
        self.expect(b'[')?;
        // Elements are counted by commas, so that the list has its exact size.
        let mut strings = Vec::with_capacity(self.text.matches(',').count() + 1);
        let mut other = false;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Some(Array::Strings(Vec::new()));
        }
        loop {
            if self.peek()? == b'"' {
                strings.push(self.string()?);
            } else {
                other = true;
                self.value()?;
            }
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(if other { Array::Other } else { Array::Strings(strings) });
                }
                _ => return None,
            }
        }
    }

    /// Skips one value of any shape.
    fn value(&mut self) -> Option<()> {
        // Open containers: whether each is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            match self.peek()? {
                b'[' | b'{' => {
                    let object = self.peek()? == b'{';
                    self.at += 1;
                    // The outermost array is not counted here.
                    if open.len() + 2 > MAX_DEPTH {
                        return None;
                    }
                    if self.peek()? == if object { b'}' } else { b']' } {
                        self.at += 1;
                    } else {
                        open.push(object);
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            }
            // A value ends here: close containers until one goes on.
            loop {
                let Some(&object) = open.last() else { return Some(()) };
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if object => self.at += 1,
                    b']' if !object => self.at += 1,
                    _ => return None,
                }
                open.pop();
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.peek()?;
        self.string()?;
        self.expect(b':')
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = self.bytes.get(self.at..)?;
            let plain = rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20)?;
            out.push_str(self.text.get(self.at..self.at + plain)?);
            self.at += plain + 1;
            match rest.get(plain)? {
                b'"' => return Some(out),
                b'\\' => out.push(self.escape()?),
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let kind = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                if !(0xd800..0xe000).contains(&high) {
                    return char::from_u32(high);
                }
                // A surrogate without its other half stands for the replacement character.
                let back = self.at;
                if high < 0xdc00 && self.bytes.get(self.at..self.at + 2) == Some(b"\\u") {
                    self.at += 2;
                    let low = self.hex()?;
                    if (0xdc00..0xe000).contains(&low) {
                        return char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                    }
                    self.at = back;
                }
                char::REPLACEMENT_CHARACTER
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits()?,
            _ => return None,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        // A number too large for a float is not taken as JSON.
        let number: f64 = self.text.get(start..self.at)?.parse().ok()?;
        number.is_finite().then_some(())
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        let found = self.bytes.get(self.at..)?.starts_with(word);
        self.at += word.len();
        found.then_some(())
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.at += 1;
        found.then_some(())
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is not a blank.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }
}

#[cfg(test)]
mod tests {
    use super::{Array, array};

    #[test]
    fn arrays_of_strings_are_told_from_other_json_and_from_text() {
        let strings = |list: &[&str]| Array::Strings(list.iter().map(|s| (*s).to_owned()).collect());
        let deep = format!("[{}{}]", "[".repeat(20_000), "]".repeat(20_000));
        for (text, want) in [
            ("[]", strings(&[])),
            ("[ ]\t", strings(&[])),
            (r#"["a", "b c"]"#, strings(&["a", "b c"])),
            (r#"["\u00e9\n\ud83d\ude00\ud800x\ud800\u0041"]"#, strings(&["é\n😀\u{fffd}x\u{fffd}A"])),
            (r#"["\/\"\\"]"#, strings(&["/\"\\"])),
            (r#"["a", 1]"#, Array::Other),
            (r#"["a", null]"#, Array::Other),
            (r#"["a", {"b": [1, {"c": -1.5e3}], "d": {}}, [], true]"#, Array::Other),
            (r#"["a",]"#, Array::Invalid),
            ("['a']", Array::Invalid),
            (r#"["a"] x"#, Array::Invalid),
            (r#"["a" "b"]"#, Array::Invalid),
            (r#"["a"#, Array::Invalid),
            ("[", Array::Invalid),
            ("[01]", Array::Invalid),
            ("[1e999]", Array::Invalid),
            ("[tru]", Array::Invalid),
            (r#"[{"a" 1}]"#, Array::Invalid),
            (r#"[{"a": 1]]"#, Array::Invalid),
            ("[\"a\tb\"]", Array::Invalid),
            (r#"["\x"]"#, Array::Invalid),
            (r#"["\u00g0"]"#, Array::Invalid),
            (r#"["\u+123"]"#, Array::Invalid),
            (deep.as_str(), Array::Invalid),
        ] {
            assert_eq!(array(text), want, "{}", text.get(..40).unwrap_or(text));
        }
        let nested = format!("[{}{}]", "[".repeat(9_000), "]".repeat(9_000));
        assert_eq!(array(&nested), Array::Other);
    }
}
