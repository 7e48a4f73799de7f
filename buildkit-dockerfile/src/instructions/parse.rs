//! From nodes to instructions.

use super::flags::Flags;
use super::{
    Instruction, Kind, Stage, add, arg, command_line, copy, expose, fail, from, healthcheck, onbuild, pairs,
    run, shell, volume,
};
use crate::lint::{Linter, Site};
use crate::parser::{Args, Heredoc, Node, Parser};
use crate::suggest::nearest;
use crate::{Error, Result};

/// What a node means.
pub(crate) enum Parsed {
    /// A FROM.
    Stage(Box<Stage>),
    /// Anything else.
    Instruction(Instruction),
}

/// What the rules of one instruction look at.
pub(super) struct Request {
    /// The keyword in upper case.
    pub(super) keyword: String,
    pub(super) flags: Vec<String>,
    pub(super) args: Args,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) text: String,
}

impl Request {
    /// The arguments as a list, whichever form they have, and whether that is JSON.
    pub(super) fn words(args: Args) -> (Vec<String>, bool) {
        match args {
            Args::Words(words) => (words, false),
            Args::Json(words) => (words, true),
            _ => (Vec::new(), false),
        }
    }

    /// The one argument of keywords that take the rest of the line whole.
    fn one(self) -> Result<(String, Vec<String>, String)> {
        let (words, _) = Self::words(self.args);
        match <[String; 1]>::try_from(words) {
            Ok([word]) => Ok((word, self.flags, self.keyword)),
            Err(_) => Err(fail(format!("{} needs one argument", self.keyword))),
        }
    }

    /// As [`Request::one`], for keywords that have no flags.
    fn only(self) -> Result<String> {
        let (word, flags, keyword) = self.one()?;
        Flags::parse(&keyword, &flags, &[])?;
        Ok(word)
    }

    /// An error unless there is an argument.
    pub(super) fn not_empty(&self) -> Result<()> {
        if self.args.is_empty() {
            Err(fail(format!("{} needs at least one argument", self.keyword)))
        } else {
            Ok(())
        }
    }

    /// An error if there are flags.
    pub(super) fn no_flags(&self) -> Result<()> {
        Flags::parse(&self.keyword, &self.flags, &[]).map(|_| ())
    }
}

/// Reads one node. Rules that concern a single instruction report to `linter`.
///
/// # Errors
///
/// The instruction breaks one of its rules; the error has its lines.
pub(crate) fn parse(node: Node, linter: &mut Linter) -> Result<Parsed> {
    let lines = node.lines;
    parse_inner(node, linter).map_err(|e| e.at(lines))
}

fn parse_inner(node: Node, linter: &mut Linter) -> Result<Parsed> {
    let Node { keyword, flags, args, text, heredocs, comments, span, lines, .. } = node;
    let site = Site { lines, comments: &comments };
    let upper = keyword.to_ascii_uppercase();
    let mut request = Request { keyword: upper, flags, args, heredocs, text };
    if request.keyword == "FROM" {
        let text = trimmed(&request.text);
        let parsed = from::parse(&keyword, request, site, linter)?;
        let from::From { base, platform, name, written_name } = parsed;
        let instructions = Vec::new();
        let stage =
            Stage { keyword, base, platform, name, written_name, text, comments, span, lines, instructions };
        return Ok(Parsed::Stage(Box::new(stage)));
    }
    let text = request.text.trim();
    // The trigger of an ONBUILD is made of the text itself.
    let text = if text.len() == request.text.len() && request.keyword != "ONBUILD" {
        std::mem::take(&mut request.text)
    } else {
        text.to_owned()
    };
    let kind = match request.keyword.as_str() {
        "ADD" => Kind::Add(Box::new(add::parse(request)?)),
        "ARG" => Kind::Arg(arg::parse(request, site, linter)?),
        "CMD" => Kind::Cmd(command_line::parse(request)?),
        "COPY" => Kind::Copy(Box::new(copy::parse(request)?)),
        "ENTRYPOINT" => Kind::Entrypoint(command_line::parse(request)?),
        "ENV" => Kind::Env(pairs::parse(request)?),
        "EXPOSE" => Kind::Expose(expose::parse(request)?),
        "HEALTHCHECK" => Kind::Healthcheck(Box::new(healthcheck::parse(request)?)),
        "LABEL" => Kind::Label(pairs::parse(request)?),
        "MAINTAINER" => {
            linter.maintainer_deprecated(site);
            Kind::Maintainer(request.only()?)
        }
        "ONBUILD" => Kind::Onbuild(onbuild::parse(&request)?),
        "RUN" => Kind::Run(Box::new(run::parse(request)?)),
        "SHELL" => Kind::Shell(shell::parse(request)?),
        "STOPSIGNAL" => Kind::Stopsignal(request.one()?.0),
        "USER" => Kind::User(request.only()?),
        "VOLUME" => Kind::Volume(volume::parse(request)?),
        "WORKDIR" => Kind::Workdir(request.only()?),
        _ => return Err(unknown(&keyword)),
    };
    Ok(Parsed::Instruction(Instruction { keyword, text, comments, span, lines, kind }))
}

/// Reads the text of an ONBUILD trigger: exactly one instruction that is no FROM.
///
/// No lint rule fires. The lines of the instruction are those of `text`; set them to what the reader of the
/// Dockerfile can see.
///
/// # Errors
///
/// `text` is not one instruction, or the instruction breaks one of its rules.
pub fn parse_trigger(text: &str) -> Result<Instruction> {
    let mut parser = Parser::new(text.as_bytes());
    let (first, second) = (parser.next_node()?, parser.next_node());
    let (Some(node), None) = (first, second?) else {
        return Err(fail("an ONBUILD trigger is one instruction".to_owned()));
    };
    match parse(node, &mut Linter::silent())? {
        Parsed::Instruction(instruction) => Ok(instruction),
        Parsed::Stage(_) => Err(fail("FROM cannot be an ONBUILD trigger".to_owned())),
    }
}

fn trimmed(text: &str) -> String {
    text.trim().to_owned()
}

fn unknown(keyword: &str) -> Error {
    const ALL: [&str; 18] = [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    let meant = nearest(&keyword.to_uppercase(), ALL).map(|meant| {
        if keyword.chars().any(char::is_uppercase) { meant.to_owned() } else { meant.to_ascii_lowercase() }
    });
    fail(format!("unknown instruction: {keyword}")).did_you_mean(meant.as_deref())
}
