//! How numbers look in progress, and the environment variables that shape it.

use std::time::Duration;

/// Seconds with about four digits: `0.500`, `12.34`, `123.4`.
pub(super) fn seconds(time: Duration) -> String {
    let value = time.as_secs_f64();
    let digits = if value < 10.0 {
        3
    } else if value < 100.0 {
        2
    } else {
        1
    };
    format!("{value:.digits$}")
}

/// An amount of bytes in decimal units: `0B`, `2.05kB`, `1.00MB`.
#[allow(clippy::cast_precision_loss)] // two decimals are shown
pub(super) fn size(bytes: i64) -> String {
    if bytes.unsigned_abs() < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value.abs() < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

/// How often a display is refreshed: 150 ms, or `TTY_DISPLAY_RATE` in milliseconds.
pub(super) fn tick() -> Duration {
    let rate = std::env::var("TTY_DISPLAY_RATE").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(rate.filter(|&rate| rate > 0).unwrap_or(150))
}

/// Bytes of a step's name that plain progress shows: all, or 72 when `PROGRESS_NO_TRUNC` is switched off.
pub(super) fn name_limit() -> usize {
    match std::env::var("PROGRESS_NO_TRUNC").as_deref() {
        Ok("0" | "f" | "F" | "false" | "FALSE" | "False") => 72,
        _ => usize::MAX,
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| DIGITS.get(usize::from(digit))).collect()
}

#[cfg(test)]
mod tests {
    use super::{hex, seconds, size};
    use std::time::Duration;

    #[test]
    fn numbers_have_the_form_of_the_reference() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (2048, "2.05kB"),
            (1_000_000, "1.00MB"),
            (i64::MAX, "9.22EB"),
            (-1, "-1B"),
            (i64::MIN, "-9.22EB"),
        ] {
            assert_eq!(size(bytes), want);
        }
        for (millis, want) in [(0, "0.000"), (500, "0.500"), (12_345, "12.35"), (123_456, "123.5")] {
            assert_eq!(seconds(Duration::from_millis(millis)), want);
        }
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
