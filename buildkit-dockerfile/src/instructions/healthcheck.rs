//! HEALTHCHECK.

use std::time::Duration;

use super::duration::{self, Bad};
use super::fail;
use super::flags::{Flags, Known, Type};
use super::parse::Request;
use crate::Result;
use crate::parser::Args;

/// HEALTHCHECK. Nothing in it is expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, argument, …]` or `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// `--interval`; zero if absent.
    pub interval: Duration,
    /// `--timeout`; zero if absent.
    pub timeout: Duration,
    /// `--start-period`; zero if absent.
    pub start_period: Duration,
    /// `--start-interval`; zero if absent.
    pub start_interval: Duration,
    /// `--retries`; zero if absent.
    pub retries: i32,
}

const FLAGS: &Known = &[
    ("interval", Type::Text),
    ("timeout", Type::Text),
    ("start-period", Type::Text),
    ("start-interval", Type::Text),
    ("retries", Type::Text),
];

pub(super) fn parse(request: Request) -> Result<Healthcheck> {
    request.not_empty()?;
    let Request { keyword, flags, args, .. } = request;
    let Args::Health { kind, rest } = args else { return Ok(Healthcheck::default()) };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        if !rest.is_empty() {
            return Err(fail("HEALTHCHECK NONE takes no arguments".to_owned()));
        }
        return Ok(Healthcheck { test: vec![kind], ..Healthcheck::default() });
    }
    let flags = Flags::parse(&keyword, &flags, FLAGS)?;
    if kind != "CMD" {
        return Err(fail(format!("HEALTHCHECK takes CMD or NONE, not {kind:?}")));
    }
    let (mut test, json) = Request::words(*rest);
    if test.is_empty() {
        return Err(fail("HEALTHCHECK CMD needs a command".to_owned()));
    }
    test.insert(0, if json { kind } else { "CMD-SHELL".to_owned() });
    let time = |name| time(name, flags.given(name).unwrap_or_default());
    let retries = match flags.given("retries").unwrap_or_default() {
        "" => 0,
        text => text
            .parse()
            .ok()
            .filter(|&n: &i32| n >= 0)
            .ok_or_else(|| fail(format!("--retries is a number from 0 to {}, not {text:?}", i32::MAX)))?,
    };
    Ok(Healthcheck {
        test,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    })
}

fn time(name: &str, text: &str) -> Result<Duration> {
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    let nanos = duration::parse(text).map_err(|bad| {
        let why = match bad {
            Bad::Form => "is no duration such as 1m30s",
            Bad::MissingUnit => "has a number without a unit (ms, s, m, h)",
            Bad::UnknownUnit => "has an unknown unit; known are ns, us, ms, s, m and h",
            Bad::TooLarge => "is too long",
        };
        fail(format!("--{name}={text} {why}"))
    })?;
    match u64::try_from(nanos) {
        Ok(nanos) if nanos == 0 || nanos >= 1_000_000 => Ok(Duration::from_nanos(nanos)),
        _ => Err(fail(format!("--{name}={text} is less than 1ms"))),
    }
}
