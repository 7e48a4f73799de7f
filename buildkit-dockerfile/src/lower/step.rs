//! A stage as data: what its instructions do to the file system, with every word expanded.
//!
//! The graph is built from steps in a second pass ([`emit`](super::emit)), because which paths of a build
//! context are needed is known only when the last stage has been evaluated, and those paths are part of
//! the context's own vertex.

use std::sync::Arc;

use buildkit_llb::EnvList;
use buildkit_llb::git_url::GitRef;
use bytes::Bytes;

use crate::instructions::Sharing;
use crate::parser::Lines;

/// Index of a stage in the plan.
pub(crate) type StageId = usize;

/// One vertex or group of vertices on top of a stage.
#[derive(Debug)]
pub(crate) enum Step {
    Run(Box<Run>),
    Copy(Box<Copy>),
    MakeDir(Box<MakeDir>),
}

/// What every named vertex carries.
#[derive(Debug)]
pub(crate) struct Label {
    /// The name progress shows.
    pub(crate) name: String,
    /// The instruction as written.
    pub(crate) command: Option<String>,
    pub(crate) lines: Lines,
    pub(crate) ignore_cache: bool,
}

/// Where files come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The main build context.
    Context,
    /// Another stage.
    Stage(StageId),
}

/// A process.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) label: Label,
    pub(crate) args: Vec<String>,
    pub(crate) env: EnvList,
    pub(crate) dir: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) network: buildkit_llb::Network,
    pub(crate) insecure: bool,
    pub(crate) devices: Vec<crate::instructions::Device>,
    pub(crate) mounts: Vec<Mount>,
}

/// A mount of a process.
#[derive(Debug)]
pub(crate) enum Mount {
    /// A script given as heredoc, at `/dev/pipes`.
    Script { name: String, data: Bytes },
    /// Files of a stage or the context.
    Bind { from: From, target: String, selector: String, read_only: bool },
    /// A directory that persists.
    Cache {
        id: String,
        sharing: Sharing,
        from: From,
        target: String,
        selector: String,
        read_only: bool,
        /// Owner and mode of a fresh directory.
        owner: Option<Owner>,
    },
    /// A file system in memory.
    Tmpfs { target: String, size: i64, read_only: bool, selector: String },
    /// A secret, as file and variable.
    Secret { id: String, target: Option<String>, env: Option<String>, required: bool, owner: Owner },
    /// The socket of an ssh agent.
    Ssh { id: String, target: Option<String>, required: bool, owner: Owner },
}

/// Owner and mode of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// COPY or ADD.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) label: Label,
    /// Name of the merge of a linked copy; present if the copy is linked.
    pub(crate) link: Option<String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) dest: String,
    pub(crate) owner: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) exclude: Vec<String>,
}

/// The mode of copied files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// That of the source.
    Keep,
    /// This one.
    Octal(u32),
    /// The source's, changed like `u+x`.
    Symbolic(String),
}

/// Something copied.
#[derive(Debug)]
pub(crate) enum Source {
    Local { from: From, path: String, include: Option<String>, required: Option<String>, unpack: bool },
    Git { reference: Box<GitRef>, keep_git_dir: bool, checksum: String },
    Http { url: String, filename: String, checksum: String, unpack: bool },
    Inline { name: String, data: Bytes },
}

/// WORKDIR.
#[derive(Debug)]
pub(crate) struct MakeDir {
    pub(crate) label: Label,
    pub(crate) path: String,
    pub(crate) user: Option<Arc<str>>,
    /// Nanoseconds since the Unix epoch.
    pub(crate) created: Option<i64>,
}
