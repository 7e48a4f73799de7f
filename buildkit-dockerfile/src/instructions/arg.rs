//! ARG.

use super::fail;
use super::parse::Request;
use crate::Result;
use crate::lint::{Linter, Site};

/// ARG: one or more build arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The arguments in order.
    pub args: Vec<BuildArg>,
}

/// One build argument. Its description is [`Instruction::describe`](super::Instruction::describe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildArg {
    /// The name, not expanded.
    pub name: String,
    /// The default, a word to expand.
    pub default: Option<String>,
}

/// Flags of ARG are not looked at, as in BuildKit.
pub(super) fn parse(request: Request, site: Site<'_>, linter: &mut Linter) -> Result<Arg> {
    request.not_empty()?;
    let (words, _) = Request::words(request.args);
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(fail("ARG has a value without a name".to_owned()));
        }
        args.push(BuildArg { name, default });
    }
    linter.invalid_definition_description(site, "ARG", args.iter().map(|arg| arg.name.as_str()));
    Ok(Arg { args })
}
