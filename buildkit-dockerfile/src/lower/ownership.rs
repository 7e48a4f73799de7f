//! `--chmod` of `COPY` and `ADD`.

use crate::error::{Error, ErrorKind, Result};

use super::step::Mode;

/// Reads the value of `--chmod`: octal digits, or clauses such as `u+x,go-w`.
pub(crate) fn parse_mode(text: &str) -> Result<Mode> {
    if text.is_empty() {
        return Ok(Mode::Keep);
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'_') || looks_numeric(text) {
        return u32::from_str_radix(text, 8)
            .ok()
            .filter(|m| *m <= 0o7777 && !text.starts_with('+'))
            .map(Mode::Octal)
            .ok_or_else(|| {
                let message =
                    format!("--chmod={text}: an octal mode has digits from 0 to 7 and is at most 07777");
                Error::new(ErrorKind::Instruction, message)
            });
    }
    if text.split(',').all(is_clause) {
        return Ok(Mode::Symbolic(text.to_owned()));
    }
    let message = format!("--chmod={text} is neither an octal mode nor clauses such as u+x,go-w");
    Err(Error::new(ErrorKind::Instruction, message))
}

/// Whether somebody meant a number, in whatever notation.
fn looks_numeric(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_clause(clause: &str) -> bool {
    let mut rest = clause.trim_start_matches(['a', 'u', 'g', 'o']);
    if rest.is_empty() {
        return false;
    }
    while let Some(tail) = rest.strip_prefix(['+', '-', '=']) {
        rest = tail.trim_start_matches(['r', 'w', 'x', 'X', 's', 't', 'u', 'g', 'o']);
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(parse_mode("").unwrap(), Mode::Keep);
        assert_eq!(parse_mode("755").unwrap(), Mode::Octal(0o755));
        assert_eq!(parse_mode("07777").unwrap(), Mode::Octal(0o7777));
        for text in ["+x", "u=rwx,go=rx", "a+r-w", "=", "g=u", "uo+X"] {
            assert_eq!(parse_mode(text).unwrap(), Mode::Symbolic(text.to_owned()));
        }
        for text in ["10000", "8", "0o755", "1_0", "rwx", "u", "u+x,", "z+x", "u+q", ",", "99999999999999"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
