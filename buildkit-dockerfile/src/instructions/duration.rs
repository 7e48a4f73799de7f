//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Form,
    MissingUnit,
    UnknownUnit,
    TooLarge,
}

const LIMIT: u64 = 1 << 63;

/// Reads a duration; gives nanoseconds.
pub(super) fn parse(text: &str) -> Result<i128, Bad> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(Bad::Form);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let (fraction, after) = digits(after);
                (Some(fraction), after)
            }
            None => (None, after),
        };
        if whole.is_empty() && fraction.is_none_or(str::is_empty) {
            return Err(Bad::Form);
        }
        let len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(len).unwrap_or((after, ""));
        let unit: u64 = match unit {
            "" => return Err(Bad::MissingUnit),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(Bad::UnknownUnit),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Bad::TooLarge)? };
        let part = whole.checked_mul(unit).filter(|&n| n <= LIMIT).ok_or(Bad::TooLarge)?;
        let part = part + fraction.map_or(0, |fraction| share(fraction, unit));
        total = total.checked_add(part).filter(|&n| n <= LIMIT).ok_or(Bad::TooLarge)?;
        rest = after;
    }
    if negative {
        return Ok(-i128::from(total));
    }
    if total == LIMIT { Err(Bad::TooLarge) } else { Ok(i128::from(total)) }
}

fn digits(text: &str) -> (&str, &str) {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(len).unwrap_or((text, ""))
}

/// The part of `unit` that decimal digits behind a point stand for. Digits that do not fit are dropped.
fn share(fraction: &str, unit: u64) -> u64 {
    let (mut number, mut scale) = (0u64, 1f64);
    for digit in fraction.bytes().map(|b| u64::from(b - b'0')) {
        let Some(next) = number.checked_mul(10).and_then(|n| n.checked_add(digit)).filter(|&n| n < LIMIT)
        else {
            break;
        };
        number = next;
        scale *= 10.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the same rounding as in Go; the product is less than a unit"
    )]
    let share = (number as f64 * (unit as f64 / scale)) as u64;
    share
}

#[cfg(test)]
mod tests {
    use super::{Bad, parse};

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", Ok(0)),
            ("5s", Ok(5_000_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("1.5h", Ok(5_400_000_000_000)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("+3ms", Ok(3_000_000)),
            ("-1us", Ok(-1_000)),
            ("1µs1ns", Ok(1_001)),
            ("0.3333333333333333333h", Ok(1_200_000_000_000)),
            ("5", Err(Bad::MissingUnit)),
            ("5x", Err(Bad::UnknownUnit)),
            ("", Err(Bad::Form)),
            ("s", Err(Bad::Form)),
            (".s", Err(Bad::Form)),
            ("-", Err(Bad::Form)),
            ("9223372036854775808ns", Err(Bad::TooLarge)),
            ("-9223372036854775808ns", Ok(-(1 << 63))),
            ("9999999999h", Err(Bad::TooLarge)),
            ("99999999999999999999s", Err(Bad::TooLarge)),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
