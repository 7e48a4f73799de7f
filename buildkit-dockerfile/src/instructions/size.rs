//! Values with a grammar of their own: booleans and sizes.

/// A boolean as Go reads it: `1 t T TRUE true True 0 f F FALSE false False`, nothing else.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number of bytes: a decimal number, an optional blank, an optional unit of powers of 1024 (`b`, `k`,
/// `m`, `g`, `t`, `p`, each but `b` also with `b` or `ib` behind), in any case. Fractions are cut; numbers of 8 EiB and more give the smallest integer.
pub fn parse_size(text: &str) -> Option<i64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = text.split_at_checked(last + 1)?;
    let number = number.strip_suffix(' ').unwrap_or(number);
    // Names of numbers (inf, nan) are not meant.
    if !number.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.as_bytes() {
        [] | b"b" => 0,
        [unit] | [unit, b'b'] | [unit, b'i', b'b'] => 1 + b"kmgtp".iter().position(|u| u == unit)?,
        _ => return None,
    };
    let bytes = number
        * [1.0, 1024.0, 1_048_576.0, 1_073_741_824.0, 1_099_511_627_776.0, 1_125_899_906_842_624.0][power];
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fractions are cut; what does not fit is what the reference makes of it on its usual machines"
    )]
    (bytes >= 0.0).then_some(if bytes < 9_223_372_036_854_775_808.0 { bytes as i64 } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::{parse_bool, parse_size};

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("1.5g", Some(1_610_612_736)),
            ("10", Some(10)),
            ("10b", Some(10)),
            ("1 KB", Some(1024)),
            ("2mib", Some(2 << 20)),
            ("1T", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            (".5k", Some(512)),
            ("9223372036854775807", Some(i64::MIN)),
            ("1e3", Some(1000)),
            ("-1", None),
            ("abc", None),
            ("1kbb", None),
            ("1bb", None),
            ("1x", None),
            ("1 5", None),
            ("1  k", None),
            ("", None),
            ("inf ", None),
        ] {
            assert_eq!(parse_size(text), want, "{text:?}");
        }
    }

    #[test]
    fn booleans() {
        assert_eq!(
            ["1", "T", "True", "tRUE", "0", "False", "no", ""].map(parse_bool),
            [Some(true), Some(true), Some(true), None, Some(false), Some(false), None, None]
        );
    }
}
