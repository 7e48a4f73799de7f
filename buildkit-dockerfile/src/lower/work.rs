//! A bound on the work one Dockerfile may cause.

use crate::error::{Error, ErrorKind, Result};

/// How much a conversion may still produce, in bytes.
///
/// Every process carries its whole environment and every child stage the history of its base, so the graph
/// of a short Dockerfile can be quadratically larger than the file. What that adds up to is charged here.
#[derive(Debug)]
pub(crate) struct Work {
    left: usize,
}

impl Work {
    /// Far above what Dockerfiles written by people need (the largest known: under 2 MiB).
    pub(crate) const LIMIT: usize = 64 << 20;

    /// What an instruction takes besides its text.
    pub(crate) const INSTRUCTION: usize = 256;
    /// What a port takes.
    pub(crate) const PORT: usize = 128;
    /// What a vertex, or an action of one, takes besides its texts: the operation, its message, what is known of it.
    pub(crate) const VERTEX: usize = 2048;

    /// Takes `bytes`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Limit`] if that much is not left.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<()> {
        if let Some(left) = self.left.checked_sub(bytes) {
            self.left = left;
            Ok(())
        } else {
            self.left = 0;
            let limit = Self::LIMIT >> 20;
            Err(Error::new(
                ErrorKind::Limit,
                format!("the build graph of this Dockerfile would exceed {limit} MiB"),
            ))
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self { left: Self::LIMIT }
    }
}
