//! `RUN --mount`.

use crate::{Result, expand};

/// A `--mount` as written: its comma separated fields.
///
/// BuildKit judges fields when it executes the instruction, because values are expanded in the
/// environment of the stage; [`RunMount::resolve`] does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// The fields, CSV quotes removed.
    pub fields: Vec<String>,
    /// The value of `from`, which is never expanded; absent if empty.
    pub from: Option<String>,
}

impl RunMount {
    /// Judges the fields. `expand` is called on each value, in order.
    ///
    /// # Errors
    ///
    /// What `expand` returns; an unknown type or key, a bad value, a forbidden combination. Errors have
    /// no place yet.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, expand::Error>) -> Result<Mount> {
        let _ = expand;
        Err(crate::Error::new(crate::ErrorKind::Instruction, "mounts are not read yet"))
    }
}

/// A judged `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The type.
    pub kind: MountKind,
    /// `from`: a stage or an image; absent if empty.
    pub from: Option<String>,
    /// `source`, as expanded; empty if absent.
    pub source: String,
    /// `target`, as expanded; empty if absent.
    pub target: String,
    /// Whether it is read-only. Default: true but for cache and tmpfs.
    pub read_only: bool,
    /// `id`, as expanded; empty if absent.
    pub id: String,
    /// `sharing` of a cache. Default: shared.
    pub sharing: Sharing,
    /// `required` of a secret or ssh mount. Default: false.
    pub required: bool,
    /// `env` of a secret: the variable that holds it.
    pub env: Option<String>,
    /// `size` of a tmpfs in bytes; 0 means no limit.
    pub size: i64,
    /// `mode` of a cache directory, a secret or a socket.
    pub mode: Option<u32>,
    /// `uid` of a cache directory, a secret or a socket.
    pub uid: Option<u32>,
    /// `gid` of a cache directory, a secret or a socket.
    pub gid: Option<u32>,
}

/// The type of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret of the client, as a file or a variable.
    Secret,
    /// An ssh agent of the client.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One build; others get another directory.
    Private,
    /// One build; others wait.
    Locked,
}
