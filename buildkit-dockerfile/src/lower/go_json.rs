//! JSON written the way BuildKit writes it.
//!
//! Image configs and results of subrequests are compared (and hashed) as bytes, so the few places where
//! `serde_json` and Go's `encoding/json` differ matter: `<`, `>`, `&` and the two Unicode line separators
//! are escaped inside strings.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Serialises `value` without blanks.
pub(crate) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(512);
    value.serialize(&mut Serializer::with_formatter(&mut out, HtmlSafe(CompactFormatter)))?;
    Ok(out)
}

/// Serialises `value` indented by two blanks.
pub(crate) fn to_vec_indented<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    value.serialize(&mut Serializer::with_formatter(
        &mut out,
        HtmlSafe(PrettyFormatter::with_indent(b"  ")),
    ))?;
    Ok(out)
}

struct HtmlSafe<F>(F);

macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        fn $name<W: ?Sized + io::Write>(&mut self, w: &mut W $(, $arg: $ty)*) -> io::Result<()> {
            self.0.$name(w $(, $arg)*)
        }
    )*};
}

impl<F: Formatter> Formatter for HtmlSafe<F> {
    forward! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        let mut start = 0;
        for (at, c) in fragment.char_indices() {
            let escape: &[u8] = match c {
                '<' => b"\\u003c",
                '>' => b"\\u003e",
                '&' => b"\\u0026",
                '\u{2028}' => b"\\u2028",
                '\u{2029}' => b"\\u2029",
                _ => continue,
            };
            w.write_all(fragment.as_bytes().get(start..at).unwrap_or_default())?;
            w.write_all(escape)?;
            start = at + c.len_utf8();
        }
        w.write_all(fragment.as_bytes().get(start..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_like_the_reference() {
        let cases = [
            ("a<b>&c", r#""a\u003cb\u003e\u0026c""#),
            ("\u{2028}x\u{2029}", r#""\u2028x\u2029""#),
            ("tab\t\u{1}\u{7f}\"\\", "\"tab\\t\\u0001\u{7f}\\\"\\\\\""),
            ("", "\"\""),
            ("é<", "\"é\\u003c\""),
        ];
        for (input, want) in cases {
            assert_eq!(String::from_utf8(to_vec(input).unwrap()).unwrap(), want);
        }
    }

    #[test]
    fn empty_containers_stay_on_one_line_when_indented() {
        let value = serde_json::json!({"a": [], "b": {}, "c": [1]});
        let want = "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1\n  ]\n}";
        assert_eq!(String::from_utf8(to_vec_indented(&value).unwrap()).unwrap(), want);
    }
}
