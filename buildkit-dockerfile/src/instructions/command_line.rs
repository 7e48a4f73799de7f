//! The two forms of a command: shell and exec.

use super::parse::Request;
use crate::Result;

/// A command of RUN, CMD, ENTRYPOINT: not expanded by the builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A text for the shell of the moment (SHELL, else `/bin/sh -c`); empty if there were no arguments.
    Shell(String),
    /// The JSON form: program and arguments, possibly none.
    Exec(Vec<String>),
}

impl CommandLine {
    pub(super) fn new((mut words, json): (Vec<String>, bool)) -> Self {
        if json { CommandLine::Exec(words) } else { CommandLine::Shell(words.pop().unwrap_or_default()) }
    }
}

/// CMD and ENTRYPOINT.
pub(super) fn parse(request: Request) -> Result<CommandLine> {
    request.no_flags()?;
    Ok(CommandLine::new(Request::words(request.args)))
}
