//! Points in time as image configs write them: RFC 3339 with up to nanoseconds, zone kept.

use std::fmt;

/// A point in time together with the zone it was written in.
///
/// Printed as RFC 3339; trailing zeros of the fraction are cut and a zero offset is printed as `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, 0..=999 999 999.
    pub nanoseconds: u32,
    /// Offset of the zone east of UTC, in seconds. Whole minutes only.
    pub offset: i32,
}

impl Timestamp {
    /// A point in time in UTC.
    pub fn from_unix(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0, offset: 0 }
    }

    /// Nanoseconds since the Unix epoch, wrapping where 64 bits do not hold them.
    pub fn unix_nanoseconds(&self) -> i64 {
        self.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(self.nanoseconds))
    }

    /// Whether RFC 3339 has the year, which it writes with four digits.
    pub fn is_writable(&self) -> bool {
        let local = self.seconds.saturating_add(i64::from(self.offset));
        (0..=9999).contains(&civil_from_days(local.div_euclid(86_400)).0)
    }

    /// Reads RFC 3339, such as `2020-09-13T14:28:43.5+02:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize, low: i64, high: i64| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            let mut value = 0;
            for d in digits {
                value = value * 10 + i64::from(d.is_ascii_digit().then(|| d - b'0')?);
            }
            (low..=high).contains(&value).then_some(value)
        };
        let sign = |at: usize, want: u8| (bytes.get(at) == Some(&want)).then_some(());
        let year = number(0, 4, 0, 9999)?;
        sign(4, b'-')?;
        let month = number(5, 7, 1, 12)?;
        sign(7, b'-')?;
        let day = number(8, 10, 1, days_in_month(year, month))?;
        sign(10, b'T')?;
        let hour = number(11, 13, 0, 23)?;
        sign(13, b':')?;
        let minute = number(14, 16, 0, 59)?;
        sign(16, b':')?;
        let second = number(17, 19, 0, 59)?;
        let mut at = 19;
        let mut nanoseconds = 0u32;
        if matches!(bytes.get(at), Some(b'.' | b',')) {
            at += 1;
            let start = at;
            let mut scale = 100_000_000u32;
            while let Some(d) = bytes.get(at).filter(|d| d.is_ascii_digit()) {
                nanoseconds += u32::from(d - b'0') * scale;
                scale /= 10;
                at += 1;
            }
            if at == start {
                return None;
            }
        }
        let offset = match bytes.get(at)? {
            b'Z' => {
                at += 1;
                0
            }
            direction @ (b'+' | b'-') => {
                let hours = number(at + 1, at + 3, 0, 23)?;
                sign(at + 3, b':')?;
                let minutes = number(at + 4, at + 6, 0, 59)?;
                at += 6;
                let offset = hours * 3600 + minutes * 60;
                if *direction == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        if at != bytes.len() {
            return None;
        }
        let seconds =
            days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Some(Self { seconds, nanoseconds, offset: i32::try_from(offset).ok()? })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.seconds.saturating_add(i64::from(self.offset));
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )?;
        if self.nanoseconds != 0 {
            let fraction = format!("{:09}", self.nanoseconds);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let minutes = self.offset.unsigned_abs() / 60;
        let sign = if self.offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years start in March here, so that the leap day is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that many days after 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_times_read_back() {
        for text in [
            "2023-11-14T22:13:20Z",
            "2020-09-13T14:28:43+02:00",
            "1969-12-31T23:59:59.000000001Z",
            "2000-02-29T00:00:00.5-09:30",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn years_have_four_digits() {
        for (seconds, writable) in [
            (0, true),
            (253_402_300_799, true),
            (253_402_300_800, false),
            (-62_167_219_200, true),
            (-62_167_219_201, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ] {
            assert_eq!(Timestamp::from_unix(seconds).is_writable(), writable, "{seconds}");
        }
    }

    #[test]
    fn seconds_are_those_of_the_epoch() {
        assert_eq!(Timestamp::from_unix(1_700_000_000).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(Timestamp::parse("2020-01-02T03:04:05Z").unwrap().seconds, 1_577_934_245);
        assert_eq!(Timestamp::parse("1970-01-01T02:00:00+02:00").unwrap().seconds, 0);
        assert_eq!(
            Timestamp::parse("2020-01-01T00:00:00+00:00").unwrap().to_string(),
            "2020-01-01T00:00:00Z"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2020-01-01",
            "2020-13-01T00:00:00Z",
            "2021-02-29T00:00:00Z",
            "2020-01-01T24:00:00Z",
            "2020-01-01T00:00:00",
            "2020-01-01T00:00:00.Z",
            "2020-01-01T00:00:00Zx",
            "2020-01-01 00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn extreme_seconds_do_not_panic() {
        for seconds in [i64::MIN, i64::MAX] {
            let _ = Timestamp { seconds, nanoseconds: 1, offset: 3600 }.to_string();
            let _ = Timestamp::from_unix(seconds).unix_nanoseconds();
        }
    }
}
