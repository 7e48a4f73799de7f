//! Secrets that are looked for in everything the test suite prints.
//!
//! A test that gives a secret to the code makes it with [`secret`]. `cargo xtask test` fails when the mark of these
//! appears anywhere in the output of the suite: in a panic, a `Debug`, an error or a trace. Traces are printed because
//! [`watch`] is called by every scripted daemon, and wherever a real one is asked for.
#![allow(clippy::print_stdout)] // the output is what is searched

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// What every secret of the tests begins with, and nothing else holds. It stands here in two parts, so that a listing
/// of this file is no find.
pub const MARK: &str = concat!("C4N", "4RY");

/// A secret that no other test has.
pub fn secret(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{MARK}{name}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether one of the secrets is in a text, as it is or in base64 or percent-encoding.
pub fn leaks(text: &str) -> bool {
    text.contains(MARK)
}

/// From now on everything that the crates of this workspace trace is printed and kept.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another subscriber of the same process sees it instead.
        let _ = tracing::subscriber::set_global_default(Recorder);
    });
}

/// The traces so far that hold `needle`.
pub fn traced(needle: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| line.contains(needle)).cloned().collect()
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Lines that are kept for [`traced`]; all are printed.
const MAX_LINES: usize = 20_000;

struct Recorder;

impl Recorder {
    fn keep(line: String) {
        println!("trace: {line}");
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_LINES {
            lines.push(line);
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("buildkit")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut line = Line(format!("span {}", span.metadata().name()));
        span.record(&mut line);
        Self::keep(line.0);
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = Line("span".to_owned());
        values.record(&mut line);
        Self::keep(line.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        Self::keep(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}
