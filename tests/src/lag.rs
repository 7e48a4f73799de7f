//! How late a busy machine lets things happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often is looked.
const TICK: Duration = Duration::from_millis(5);

/// Measures how long this process was kept from running, for limits on time that are promises: what took a second
/// longer while the machine gave the process no time for a second kept its promise.
///
/// A thread of its own looks, so that a test which blocks its runtime finds no excuse here.
#[derive(Debug)]
pub struct Lag {
    late: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Lag {
    /// Measures from now on, until it is dropped.
    pub fn measure() -> Self {
        let (late, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let lag = Self { late: Arc::clone(&late), over: Arc::clone(&over) };
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                std::thread::sleep(TICK);
                // Twice as long as asked for is what any machine may take.
                let late_by = asked.elapsed().saturating_sub(2 * TICK);
                late.fetch_add(u64::try_from(late_by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        lag
    }

    /// How long it was kept so far.
    pub fn so_far(&self) -> Duration {
        Duration::from_micros(self.late.load(Ordering::Relaxed))
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
