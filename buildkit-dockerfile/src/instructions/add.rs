//! ADD.

use super::flags::{Flags, Known, Type};
use super::parse::Request;
use super::{Sources, sources};
use crate::Result;

/// ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What is copied, and where to.
    pub sources: Sources,
    /// `--chown`, a word to expand; absent if empty.
    pub chown: Option<String>,
    /// `--chmod`, a word to expand; absent if empty.
    pub chmod: Option<String>,
    /// `--checksum`, a word to expand; absent if empty.
    pub checksum: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
    /// `--exclude` patterns, not expanded.
    pub exclude: Vec<String>,
}

const FLAGS: &Known = &[
    ("chown", Type::Text),
    ("chmod", Type::Text),
    ("link", Type::Bool),
    ("keep-git-dir", Type::Bool),
    ("checksum", Type::Text),
    ("unpack", Type::Bool),
    ("exclude", Type::List),
];

pub(super) fn parse(mut request: Request) -> Result<Add> {
    sources::check_count(&request)?;
    let words = std::mem::take(&mut request.flags);
    let flags = Flags::parse(&request.keyword, &words, FLAGS)?;
    Ok(Add {
        sources: Sources::parse(request)?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        checksum: flags.text("checksum"),
        link: flags.bool("link") == Some(true),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
        exclude: flags.list("exclude").map(str::to_owned).collect(),
    })
}
