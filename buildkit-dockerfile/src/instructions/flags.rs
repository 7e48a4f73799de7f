//! Flags of instructions: `--name` and `--name=value`.

use super::fail;
use crate::Result;
use crate::suggest::nearest;

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// `--x`, `--x=true`, `--x=false`.
    Bool,
    /// `--x=value`, once.
    Text,
    /// `--x=value`, any number of times.
    List,
}

/// The flags an instruction knows.
pub(super) type Known = [(&'static str, Type)];

/// The flags given to an instruction, judged.
pub(super) struct Flags<'a> {
    given: Vec<(&'static str, &'a str)>,
}

impl<'a> Flags<'a> {
    /// Judges flag words.
    ///
    /// # Errors
    ///
    /// Unknown flags, repeated ones, missing or bad values.
    pub(super) fn parse(keyword: &str, words: &'a [String], known: &Known) -> Result<Self> {
        let mut given: Vec<(&'static str, &'a str)> = Vec::new();
        for word in words {
            let body = word.strip_prefix("--").unwrap_or(word);
            let (name, value) = body.split_once('=').map_or((body, None), |(n, v)| (n, Some(v)));
            let Some(&(name, kind)) = known.iter().find(|(n, _)| *n == name) else {
                let error = if known.is_empty() {
                    fail(format!("{keyword} has no flags, so --{name} is unknown"))
                } else {
                    fail(format!("{keyword} has no flag --{name}"))
                };
                return Err(error.did_you_mean(nearest(name, known.iter().map(|(n, _)| *n))));
            };
            if kind != Type::List && given.iter().any(|(n, _)| *n == name) {
                return Err(fail(format!("the flag --{name} is given twice")));
            }
            let value = match (kind, value) {
                (Type::Bool, None) => "true",
                (Type::Bool, Some(v)) if v.eq_ignore_ascii_case("true") => "true",
                (Type::Bool, Some(v)) if v.eq_ignore_ascii_case("false") => "false",
                (Type::Bool, Some(v)) if !v.is_empty() => {
                    return Err(fail(format!("the flag --{name} is true or false, not {v:?}")));
                }
                (Type::Text | Type::List, Some(v)) => v,
                _ => return Err(fail(format!("the flag --{name} needs a value: --{name}=value"))),
            };
            given.push((name, value));
        }
        Ok(Self { given })
    }

    /// The value of a text flag, if the flag is given.
    pub(super) fn given(&self, name: &str) -> Option<&'a str> {
        self.given.iter().find(|(n, _)| *n == name).map(|&(_, value)| value)
    }

    /// The value of a text flag, if it is given and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.given(name).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The value of a boolean flag, if it is given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.given(name).map(|value| value == "true")
    }

    /// The values of a list flag.
    pub(super) fn list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.given.iter().filter(move |(n, _)| *n == name).map(|&(_, value)| value)
    }
}
