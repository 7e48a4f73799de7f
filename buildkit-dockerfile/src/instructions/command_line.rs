//! The two forms of a command: shell and exec.

/// A command of RUN, CMD, ENTRYPOINT: not expanded by the builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A text for the shell of the moment (SHELL, else `/bin/sh -c`); empty if there were no arguments.
    Shell(String),
    /// The JSON form: program and arguments, possibly none.
    Exec(Vec<String>),
}
