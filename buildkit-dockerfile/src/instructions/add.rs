//! ADD.

use super::Sources;

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
