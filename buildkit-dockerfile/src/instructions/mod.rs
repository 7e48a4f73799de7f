//! Typed instructions: every instruction's own rules, flags and forms.
//!
//! Words that BuildKit expands (`$NAME`, quotes, escapes) are kept as written; expand them with
//! [`expand::Lexer`](crate::expand::Lexer) in the environment of the moment. Each field says whether it
//! is such a word.

mod add;
mod arg;
mod command_line;
mod copy;
pub(crate) mod csv;
mod device;
mod duration;
mod expose;
mod flags;
mod from;
mod healthcheck;
mod mount;
mod onbuild;
mod pairs;
mod parse;
mod run;
mod shell;
mod size;
mod sources;
mod volume;

use crate::lint::Site;
use crate::parser::{Lines, Span};
use crate::{Error, ErrorKind};

pub use self::add::Add;
pub use self::arg::{Arg, BuildArg};
pub use self::command_line::CommandLine;
pub use self::copy::Copy;
pub use self::device::Device;
pub use self::from::Stage;
pub use self::healthcheck::Healthcheck;
pub use self::mount::{Mount, MountKind, RunMount, Sharing};
pub use self::parse::parse_trigger;
pub(crate) use self::parse::{Parsed, parse};
pub use self::run::{Network, Run, Security};
pub use self::size::{parse_bool, parse_size};
pub use self::sources::{InlineFile, Sources};
pub use crate::parser::Pair;

/// One instruction of a stage (or a global ARG), with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword as written.
    pub keyword: String,
    /// The whole instruction on one line: continuations joined, blanks at both ends cut, heredoc bodies
    /// absent. This is the text that vertex names and descriptions start from.
    pub text: String,
    /// The comment lines right above, without the number sign, trimmed.
    pub comments: Vec<String>,
    /// Bytes in the source.
    pub span: Span,
    /// Lines in the source.
    pub lines: Lines,
    /// What it does.
    pub kind: Kind,
}

impl Instruction {
    /// Where lint rules about this instruction report.
    pub fn site(&self) -> Site<'_> {
        Site { lines: self.lines, comments: &self.comments }
    }

    /// The description of `name` (a build argument) in the comments above, if there is one.
    pub fn describe(&self, name: &str) -> Option<&str> {
        description(&self.comments, name)
    }
}

/// The rest of the first comment that starts with `name` and a blank.
fn description<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|c| c.strip_prefix(name)?.strip_prefix(' '))
}

/// An error about a rule of an instruction.
fn fail(message: String) -> Error {
    Error::new(ErrorKind::Instruction, message)
}

/// What an instruction does: one variant a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ADD: copies files, archives and remote things.
    Add(Box<Add>),
    /// ARG: declares build arguments.
    Arg(Arg),
    /// CMD: the default command of the image.
    Cmd(CommandLine),
    /// COPY: copies files.
    Copy(Box<Copy>),
    /// ENTRYPOINT: the program of the image.
    Entrypoint(CommandLine),
    /// ENV: names and values, each a word to expand.
    Env(Vec<Pair>),
    /// EXPOSE: ports, each to be split into words; sorted as text.
    Expose(Vec<String>),
    /// HEALTHCHECK: how to ask whether a container works.
    Healthcheck(Box<Healthcheck>),
    /// LABEL: names and values, each a word to expand.
    Label(Vec<Pair>),
    /// MAINTAINER: the author; not expanded.
    Maintainer(String),
    /// ONBUILD: an instruction for builds on top of this image: its text, heredocs included.
    Onbuild(String),
    /// RUN: executes a process.
    Run(Box<Run>),
    /// SHELL: the shell of shell forms; not expanded.
    Shell(Vec<String>),
    /// STOPSIGNAL: a word to expand.
    Stopsignal(String),
    /// USER: a word to expand.
    User(String),
    /// VOLUME: paths, each a word to expand.
    Volume(Vec<String>),
    /// WORKDIR: a word to expand.
    Workdir(String),
}
