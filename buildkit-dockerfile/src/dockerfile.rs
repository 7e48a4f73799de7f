//! A parsed Dockerfile.

use std::sync::Arc;

use crate::instructions::{Instruction, Stage};
use crate::lint::{Linter, Warning};
use crate::parser::Escape;
use crate::{Error, ErrorKind, Result};

/// A parsed Dockerfile: global arguments and stages, with every byte of the source kept.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    source: Arc<[u8]>,
    /// The escape character in force.
    pub escape: Escape,
    /// The ARG instructions above the first FROM; each is [`Kind::Arg`](crate::instructions::Kind::Arg).
    pub args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// Parses `source`. Warnings are lost; see [`Dockerfile::parse_with`].
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the text or an instruction, with its lines.
    pub fn parse(source: impl AsRef<[u8]>) -> Result<Self> {
        Self::parse_with(source, &mut Linter::silent())
    }

    /// Parses `source`; rules that need only the text report to `linter`.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the text or an instruction, with its lines.
    pub fn parse_with(source: impl AsRef<[u8]>, linter: &mut Linter) -> Result<Self> {
        let _ = (source.as_ref(), linter);
        Err(Error::new(ErrorKind::Syntax, "not there yet"))
    }

    /// The bytes it was parsed from.
    pub fn source(&self) -> &Arc<[u8]> {
        &self.source
    }

    /// What lint rules that need only the text say, under the file's own `check` directive.
    pub fn lint(&self) -> Vec<Warning> {
        Vec::new()
    }
}
