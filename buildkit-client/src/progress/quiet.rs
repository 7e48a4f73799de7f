//! Progress that shows nothing but failures.

use std::io::{self, Write};
use std::time::Instant;

use super::event::Event;
use super::fold::Fold;
use super::{Renderer, plain};

/// Shows nothing while the build runs and the last output of every failed step after it.
pub(super) struct Quiet<W> {
    out: W,
    fold: Fold,
}

impl<W: Write> Quiet<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, fold: Fold::default() }
    }
}

impl<W: Write + Send> Renderer for Quiet<W> {
    fn event(&mut self, event: Event, _: Instant) -> io::Result<()> {
        if let Event::Status(status) = event {
            self.fold.apply(&status, |_, _, _| {});
        }
        Ok(())
    }

    fn finish(&mut self, _: Instant) -> io::Result<()> {
        plain::write_failures(&self.fold, &mut self.out)?;
        self.out.flush()
    }
}
