//! How long silence may last.

use std::time::Duration;

/// When a link counts as dead.
///
/// # Defaults
///
/// | field | default | meaning |
/// |---|---|---|
/// | `connect` | 10 s | from dialling to the first HTTP/2 frame of the daemon |
/// | `first_answer` | 20 s | from the first call to its answer |
/// | `dead_after` | 60 s | silence of the daemon while a build runs |
/// | `ping_every` | 20 s | HTTP/2 PING while a session is open |
/// | `health_every` | 20 s | health call while a stream without session is open |
/// | `health_answer` | 15 s | its answer |
/// | `drain` | 2 s | waiting for the rest of the progress after the result |
///
/// A daemon drops a session that it cannot reach for about 40 s, so a longer outage than that
/// costs the build even where `dead_after` allows it; a daemon that is merely frozen survives.
/// PINGs go only over links with a session: a daemon ends links that ping without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// From dialling to the first HTTP/2 frame of the daemon.
    pub connect: Duration,
    /// From the first call on a link to its answer.
    pub first_answer: Duration,
    /// Silence of the daemon while a build runs, after which the link is given up.
    /// [`Duration::MAX`] waits for ever. As long, a daemon may leave a build without an answer that it does not know any
    /// more, or of which an export has failed on this side.
    pub dead_after: Duration,
    /// Time between HTTP/2 PINGs while a session is open.
    pub ping_every: Duration,
    /// Time between health calls while a stream without session is open.
    pub health_every: Duration,
    /// Time for the answer to a health call.
    pub health_answer: Duration,
    /// How long the rest of the progress is waited for once the result is there.
    pub drain: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_answer: Duration::from_secs(20),
            dead_after: Duration::from_secs(60),
            ping_every: Duration::from_secs(20),
            health_every: Duration::from_secs(20),
            health_answer: Duration::from_secs(15),
            drain: Duration::from_secs(2),
        }
    }
}

impl Liveness {
    /// The default, but with another `dead_after`.
    pub fn dead_after(dead_after: Duration) -> Self {
        Self { dead_after, ..Self::default() }
    }

    /// Time for the answer to a PING: together with the interval it is `dead_after`.
    pub(crate) fn ping_answer(&self) -> Duration {
        self.dead_after.saturating_sub(self.ping_every).max(Duration::from_secs(1))
    }

    /// How long the daemon's health checks of a session may stay away: three quarters of
    /// `dead_after`. They come every 5 s.
    pub(crate) fn health_silence(&self) -> Duration {
        self.dead_after.checked_mul(3).map_or(Duration::MAX, |three| three / 4)
    }
}
