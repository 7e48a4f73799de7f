//! HEALTHCHECK.

use std::time::Duration;

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
