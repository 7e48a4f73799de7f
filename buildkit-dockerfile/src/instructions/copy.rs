//! COPY.

use super::Sources;

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
