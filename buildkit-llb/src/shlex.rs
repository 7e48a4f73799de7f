//! Splitting a command line into words as a shell would, without expanding anything.

use std::fmt;

/// A command line that ends inside a quote or after a backslash.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A `"` or `'` without its partner; the position (in bytes) is that of the opening quote.
    UnbalancedQuote {
        /// The quote that was opened.
        quote: char,
        /// Where it was opened, in bytes from the start.
        at: usize,
    },
    /// The line ends with a backslash that escapes nothing.
    TrailingBackslash,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnbalancedQuote { quote, at } => {
                write!(f, "the quote {quote} opened at byte {at} is never closed")
            }
            Self::TrailingBackslash => f.write_str("the line ends with a backslash that escapes nothing"),
        }
    }
}

impl std::error::Error for Error {}

/// Splits `line` at spaces, tabs and line ends.
///
/// `"…"` groups, with `\` escaping the next character inside; `'…'` groups literally; `\` outside quotes
/// takes the next character as it is; `#` at the start of a word begins a comment up to the line end.
///
/// # Errors
/// A quote that is not closed, or a backslash at the very end.
pub fn split(line: &str) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => {
                for (_, c) in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            '\\' => {
                let (_, next) = chars.next().ok_or(Error::TrailingBackslash)?;
                word.get_or_insert_default().push(next);
            }
            '\'' | '"' => {
                let text = word.get_or_insert_default();
                loop {
                    let (_, next) = chars.next().ok_or(Error::UnbalancedQuote { quote: c, at })?;
                    if next == c {
                        break;
                    }
                    if next == '\\' && c == '"' {
                        let (_, escaped) = chars.next().ok_or(Error::UnbalancedQuote { quote: c, at })?;
                        text.push(escaped);
                    } else {
                        text.push(next);
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (line, want) in [
            ("echo \"hello world\"", &["echo", "hello world"][..]),
            ("sh -c 'echo \"hi\"' # c", &["sh", "-c", "echo \"hi\""]),
            ("a\\ b c", &["a b", "c"]),
            ("sh -c \"echo 'a b' $X\"", &["sh", "-c", "echo 'a b' $X"]),
            ("a#b #c\nd", &["a#b", "d"]),
            ("'' \"\"", &["", ""]),
            ("'a\\b'\"\\\"\"", &["a\\b\""]),
            (" \t\r\n", &[]),
            ("", &[]),
        ] {
            assert_eq!(split(line).unwrap(), want, "{line:?}");
        }
    }

    #[test]
    fn an_open_end_is_an_error() {
        for line in ["echo \"unterminated", "'a", "a\\", "\"a\\"] {
            assert!(split(line).is_err(), "{line:?}");
        }
    }
}
