//! FROM: the start of a stage.

use super::flags::{Flags, Known, Type};
use super::parse::Request;
use super::{Instruction, description, fail};
use crate::Result;
use crate::lint::{Linter, Site};
use crate::parser::{Lines, Span};

/// A stage: its FROM and the instructions after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The keyword of its FROM, as written.
    pub keyword: String,
    /// The image or stage it starts from, a word to expand with global arguments.
    pub base: String,
    /// `--platform`, a word to expand with global arguments; absent if empty.
    pub platform: Option<String>,
    /// The name, in lower case.
    pub name: Option<String>,
    /// The name as written.
    pub written_name: Option<String>,
    /// The FROM on one line, blanks at both ends cut.
    pub text: String,
    /// The comment lines right above, without the number sign, trimmed.
    pub comments: Vec<String>,
    /// Bytes of the FROM in the source.
    pub span: Span,
    /// Lines of the FROM.
    pub lines: Lines,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// Where lint rules about the FROM report.
    pub fn site(&self) -> Site<'_> {
        Site { lines: self.lines, comments: &self.comments }
    }

    /// The description in the comments above the FROM: the rest of one that starts with the stage's name
    /// in lower case.
    pub fn describe(&self) -> Option<&str> {
        description(&self.comments, self.name.as_deref()?)
    }
}

/// What a FROM says.
pub(super) struct From {
    pub(super) base: String,
    pub(super) platform: Option<String>,
    pub(super) name: Option<String>,
    pub(super) written_name: Option<String>,
}

const FLAGS: &Known = &[("platform", Type::Text)];

pub(super) fn parse(keyword: &str, request: Request, site: Site<'_>, linter: &mut Linter) -> Result<From> {
    let Request { keyword: upper, flags, args, .. } = request;
    let (words, _) = Request::words(args);
    // The rules look at the words before these are judged.
    if let [_, _, written] = words.as_slice() {
        linter.stage_name_casing(site, written);
    }
    if let [_, r#as, _, ..] = words.as_slice() {
        linter.from_as_casing(site, keyword, r#as);
    }
    let mut words = words.into_iter();
    let (base, r#as, written_name, more) = (words.next(), words.next(), words.next(), words.next());
    let (Some(base), None) = (base, more) else { return Err(count()) };
    let (name, written_name) = match (r#as, written_name) {
        (None, _) => (None, None),
        (Some(r#as), Some(written)) if r#as.eq_ignore_ascii_case("as") => {
            (Some(stage_name(&written)?), Some(written))
        }
        _ => return Err(count()),
    };
    let flags = Flags::parse(&upper, &flags, FLAGS)?;
    if let Some(name) = &name {
        linter.invalid_definition_description(site, "FROM", [name.as_str()].into_iter());
    }
    Ok(From { base, platform: flags.text("platform"), name, written_name })
}

fn count() -> crate::Error {
    fail("FROM takes an image, or an image and a name: FROM image AS name".to_owned())
}

/// The name of a stage in lower case.
fn stage_name(written: &str) -> Result<String> {
    let name = written.to_lowercase();
    let mut bytes = name.bytes();
    let letter = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    if letter
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Ok(name);
    }
    Err(fail(format!(
        "{written:?} cannot name a stage; a name is a letter, then letters, digits, \"-\", \"_\" and \".\""
    )))
}
