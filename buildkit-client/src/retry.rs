//! Trying again, within a budget.

use std::time::Duration;

/// How often something is tried again, and how long that may take. The wait doubles from one try
/// to the next and is shortened at random by up to a half, so that many clients do not come back
/// at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first; 0 is never.
    pub retries: u32,
    /// Wait before the first of them.
    pub first_wait: Duration,
    /// Longest wait.
    pub max_wait: Duration,
    /// All waits together.
    pub budget: Duration,
}

impl Retry {
    /// Never again.
    pub fn never() -> Self {
        Self { retries: 0, first_wait: Duration::ZERO, max_wait: Duration::ZERO, budget: Duration::ZERO }
    }

    /// Up to `retries` more tries: waits of 500 ms to 10 s, two minutes in all.
    pub fn times(retries: u32) -> Self {
        Self {
            retries,
            first_wait: Duration::from_millis(500),
            max_wait: Duration::from_secs(10),
            budget: Duration::from_secs(120),
        }
    }

    /// The default for builds that push: twice more. Everything but the push is then cached.
    pub fn push() -> Self {
        Self::times(2)
    }

    /// The waits.
    pub(crate) fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let Self { retries, first_wait, max_wait, mut budget } = self.clone();
        let mut next = first_wait;
        (0..retries).map_while(move |_| {
            let wait = next.min(max_wait).mul_f64(1.0 - random_fraction() / 2.0);
            next = next.saturating_mul(2);
            budget = budget.checked_sub(wait)?;
            Some(wait)
        })
    }
}

/// From 0 to 1, or 0 where the system has no randomness to give.
fn random_fraction() -> f64 {
    let mut byte = [0];
    match rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_limit_and_stay_in_the_budget() {
        let retry = Retry {
            retries: 100,
            first_wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(4),
            budget: Duration::from_secs(30),
        };
        let waits: Vec<_> = retry.delays().collect();
        assert!(waits.iter().sum::<Duration>() <= retry.budget);
        assert!(waits.len() >= 7, "{waits:?}");
        for (wait, most) in waits.iter().zip([1, 2, 4, 4, 4]) {
            let most = Duration::from_secs(most);
            assert!(*wait <= most && *wait >= most / 2, "{waits:?}");
        }
        assert_eq!(Retry::never().delays().count(), 0);
    }
}
