//! COPY.

use super::flags::{Flags, Known, Type};
use super::parse::Request;
use super::{Sources, sources};
use crate::Result;

/// COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What is copied, and where to.
    pub sources: Sources,
    /// `--from` as written: a stage, its index, or an image; absent if empty.
    pub from: Option<String>,
    /// `--chown`, a word to expand; absent if empty.
    pub chown: Option<String>,
    /// `--chmod`, a word to expand; absent if empty.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns, not expanded.
    pub exclude: Vec<String>,
}

const FLAGS: &Known = &[
    ("chown", Type::Text),
    ("from", Type::Text),
    ("chmod", Type::Text),
    ("link", Type::Bool),
    ("parents", Type::Bool),
    ("exclude", Type::List),
];

pub(super) fn parse(mut request: Request) -> Result<Copy> {
    sources::check_count(&request)?;
    let words = std::mem::take(&mut request.flags);
    let flags = Flags::parse(&request.keyword, &words, FLAGS)?;
    Ok(Copy {
        sources: Sources::parse(request)?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link") == Some(true),
        parents: flags.bool("parents") == Some(true),
        exclude: flags.list("exclude").map(str::to_owned).collect(),
    })
}
