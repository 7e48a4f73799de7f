//! Names of signals, for `STOPSIGNAL`.

use crate::error::{Error, ErrorKind, Result};

const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Checks a signal: a number other than 0, or a Linux name with or without `SIG`, in any case.
pub(crate) fn check(signal: &str) -> Result<()> {
    let number = || {
        let digits = signal.strip_prefix(['+', '-']).unwrap_or(signal);
        let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        decimal.then(|| signal.parse::<i64>().ok()).flatten()
    };
    let known = match number() {
        Some(number) => number != 0,
        None => is_name(signal),
    };
    if known {
        return Ok(());
    }
    let message = format!("STOPSIGNAL {signal}: no such signal; write a number or a name such as SIGTERM");
    Err(Error::new(ErrorKind::Instruction, message))
}

fn is_name(signal: &str) -> bool {
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, most: u8| {
        text.parse::<u8>().is_ok_and(|n| (1..=most).contains(&n)) && !text.starts_with(['0', '+'])
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|n| offset(n, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|n| offset(n, 14))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_signals_pass() {
        for signal in [
            "9", "-1", "+3", "TERM", "sigterm", "SIGRTMIN", "RTMIN+15", "rtmax-14", "RTMAX", "CLD", "SIGIOT",
            "poll",
        ] {
            assert!(check(signal).is_ok(), "{signal}");
        }
    }

    #[test]
    fn others_do_not() {
        for signal in
            ["", "0", "FOO", "SIG", "RTMIN+16", "RTMIN+0", "RTMAX-15", "RTMIN+", "1x", "SIGSIGTERM", "0x9"]
        {
            assert!(check(signal).is_err(), "{signal}");
        }
    }
}
