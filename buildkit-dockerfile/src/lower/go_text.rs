//! Texts of history entries, written the way Go's `fmt` writes them.

use std::fmt::Write as _;

/// A list of strings, each quoted, in brackets and with blanks between (`%q` of a slice).
pub(crate) fn quote_list(items: &[String]) -> String {
    let mut out = String::from("[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        quote_into(&mut out, item);
    }
    out.push(']');
    out
}

fn quote_into(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// Whether Go prints the character as it is. The standard library has no table of graphic characters; its
/// `Debug` escapes the same classes (controls, separators, formats, private and unassigned code points) but
/// also combining marks at the start of a text, which the character before prevents.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let mut text = String::with_capacity(8);
    text.push('a');
    text.push(c);
    text.escape_debug().count() == 2
}

/// The text in lower case, each character by itself: unlike in Rust, one stays one, and the end of a word makes no
/// difference (`İ`, `Σ`).
pub(crate) fn lowercase(text: &str) -> String {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// A duration in nanoseconds as Go prints it: `1h2m3.5s`, `1.5ms`, `0s`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let rest = value % unit;
        if rest == 0 {
            return format!("{}", value / unit);
        }
        let digits = unit.ilog10() as usize;
        let text = format!("{rest:0digits$}");
        format!("{}.{}", value / unit, text.trim_end_matches('0'))
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000)),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_has_the_escapes_of_go() {
        let cases = [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("tab\\t", r#""tab\\t""#),
            ("\"\t\n\u{7}\u{1}\u{7f}", "\"\\\"\\t\\n\\a\\x01\\x7f\""),
            ("é€😀", "\"é€😀\""),
            ("\u{2028}\u{a0}\u{feff}", "\"\\u2028\\u00a0\\ufeff\""),
            ("\u{10ffff}", "\"\\U0010ffff\""),
            ("e\u{301}", "\"e\u{301}\""),
        ];
        for (text, want) in cases {
            let mut out = String::new();
            quote_into(&mut out, text);
            assert_eq!(out, want);
        }
        assert_eq!(quote_list(&["/bin/sh".into(), "-c".into(), "x".into()]), r#"["/bin/sh" "-c" "x"]"#);
        assert_eq!(quote_list(&[]), "[]");
    }

    #[test]
    fn durations_print_like_go() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_500_000, "1.5ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (-1_000_000_000, "-1s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (n, want) in cases {
            assert_eq!(duration(n), want);
        }
    }
}
