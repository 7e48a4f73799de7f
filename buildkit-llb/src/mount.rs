//! What a process finds mounted.

use crate::state::State;

/// Something to mount into a process; see [`Run::mount`](crate::Run::mount).
#[derive(Debug, Clone)]
pub struct Mount {
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Tree(CustomMount),
    Secret(Secret),
    Ssh(Ssh),
}

impl Mount {
    /// The file tree of a state. What the process writes there is kept only if it is taken as an output.
    pub fn bind(source: impl Into<State>) -> Bind {
        Bind(CustomMount { source: Some(source.into()), ..CustomMount::default() })
    }

    /// An empty, writable tree that can be taken as an output.
    pub fn scratch() -> Bind {
        Bind(CustomMount::default())
    }

    /// A directory that persists on the daemon between builds. Builds with the same `id` share it; with an empty one
    /// it is an ordinary mount, which does not persist.
    pub fn cache(id: impl Into<String>) -> Cache {
        let kind = CustomKind::Cache { id: id.into(), sharing: Sharing::Shared };
        Cache(CustomMount { kind, ..CustomMount::default() })
    }

    /// A file system in memory.
    pub fn tmpfs() -> Tmpfs {
        Tmpfs(CustomMount { kind: CustomKind::Tmpfs { size: 0 }, ..CustomMount::default() })
    }

    /// A secret of the client, as a file that only the process sees.
    pub fn secret(id: impl Into<String>) -> Secret {
        Secret::new(id)
    }

    /// The socket of an SSH agent of the client.
    pub fn ssh() -> Ssh {
        Ssh::new()
    }
}

/// A mount of a file tree with every field of the wire, in any combination, for code driven by data.
/// The typed mounts ([`Bind`], [`Cache`], [`Tmpfs`]) only allow what makes sense.
#[derive(Debug, Clone, Default)]
pub struct CustomMount {
    /// The tree to begin with; none is an empty one.
    pub source: Option<State>,
    /// The directory of the source to mount; empty for its root.
    pub selector: String,
    /// Whether the process cannot write to it.
    pub readonly: bool,
    /// Whether what the process writes is thrown away.
    pub no_output: bool,
    /// Whether the content of the source, rather than its identity, decides about cache hits.
    pub content_cache: ContentCache,
    /// What kind of mount it is.
    pub kind: CustomKind,
}

/// The kind of a [`CustomMount`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CustomKind {
    /// The source itself.
    #[default]
    Bind,
    /// A directory that persists between builds.
    Cache {
        /// Builds with the same id share it. If it is empty the mount is as [`Bind`](Self::Bind).
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
    },
    /// A file system in memory.
    Tmpfs {
        /// Most bytes it may hold; 0 for no limit.
        size: i64,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One process; others get a directory of their own.
    Private,
    /// One process; others wait.
    Locked,
}

/// Whether the content of a mount decides about cache hits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ContentCache {
    /// As the daemon likes: on for read-only mounts.
    #[default]
    Default,
    /// The content decides.
    On,
    /// The op that made it decides.
    Off,
}

/// A mounted file tree.
#[derive(Debug, Clone)]
#[must_use = "a mount does nothing until it is given to a process"]
pub struct Bind(CustomMount);

impl Bind {
    /// The process cannot write to it.
    pub fn readonly(mut self) -> Self {
        self.0.readonly = true;
        self
    }

    /// Mounts this directory or file of the tree instead of its root.
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.0.selector = path.into();
        self
    }

    /// The process can write to it, but nothing is kept.
    pub fn no_output(mut self) -> Self {
        self.0.no_output = true;
        self
    }

    /// Whether the content of the tree decides about cache hits.
    pub fn content_cache(mut self, content_cache: ContentCache) -> Self {
        self.0.content_cache = content_cache;
        self
    }
}

/// A cache mount.
#[derive(Debug, Clone)]
#[must_use = "a mount does nothing until it is given to a process"]
pub struct Cache(CustomMount);

impl Cache {
    /// One process at a time uses it; others get a directory of their own.
    pub fn private(self) -> Self {
        self.sharing(Sharing::Private)
    }

    /// One process at a time uses it; others wait.
    pub fn locked(self) -> Self {
        self.sharing(Sharing::Locked)
    }

    /// Who may use it at the same time.
    pub fn sharing(mut self, new: Sharing) -> Self {
        if let CustomKind::Cache { sharing, .. } = &mut self.0.kind {
            *sharing = new;
        }
        self
    }

    /// What the directory begins with when it is new.
    pub fn from(mut self, source: impl Into<State>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The directory of the source it begins with.
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.0.selector = path.into();
        self
    }
}

/// A file system in memory; empty at first and gone at the end.
#[derive(Debug, Clone)]
#[must_use = "a mount does nothing until it is given to a process"]
pub struct Tmpfs(CustomMount);

impl Tmpfs {
    /// Most bytes it may hold.
    pub fn size(mut self, bytes: i64) -> Self {
        self.0.kind = CustomKind::Tmpfs { size: bytes };
        self
    }
}

/// A secret of the client: its value is never part of the graph, only its id is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a mount does nothing until it is given to a process"]
pub struct Secret {
    pub(crate) id: String,
    pub(crate) dest: Option<String>,
    pub(crate) env: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) optional: bool,
}

impl Secret {
    /// The secret the client knows as `id`. The file belongs to root and has mode 0400.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), dest: None, env: None, uid: 0, gid: 0, mode: 0o400, optional: false }
    }

    /// Puts it into a file.
    pub fn dest(mut self, dest: impl Into<String>) -> Self {
        self.dest = Some(dest.into());
        self
    }

    /// Puts it into an environment variable.
    pub fn env(mut self, name: impl Into<String>) -> Self {
        self.env = Some(name.into());
        self
    }

    /// The user and group the file belongs to.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// The permission bits of the file.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Runs the process even if the client has no such secret.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// The socket of an SSH agent of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a mount does nothing until it is given to a process"]
pub struct Ssh {
    pub(crate) id: String,
    pub(crate) dest: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) optional: bool,
}

impl Default for Ssh {
    fn default() -> Self {
        Self::new()
    }
}

impl Ssh {
    /// The client's default agent. The socket belongs to root and has mode 0600; without a place of its own it
    /// is at `/run/buildkit/ssh_agent.N`. `SSH_AUTH_SOCK` points to the first socket unless it is set.
    pub fn new() -> Self {
        Self { id: String::new(), dest: None, uid: 0, gid: 0, mode: 0o600, optional: false }
    }

    /// The agent the client knows as `id`.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Where the socket is.
    pub fn dest(mut self, dest: impl Into<String>) -> Self {
        self.dest = Some(dest.into());
        self
    }

    /// The user and group the socket belongs to.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// The permission bits of the socket.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Runs the process even if the client has no such agent.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

macro_rules! into_mount {
    ($($from:ty: $mount:ident => $kind:expr;)*) => {$(
        impl From<$from> for Mount {
            fn from($mount: $from) -> Self {
                Self { kind: $kind }
            }
        }
    )*};
}

into_mount! {
    Bind: mount => Kind::Tree(mount.0);
    Cache: mount => Kind::Tree(mount.0);
    Tmpfs: mount => Kind::Tree(mount.0);
    CustomMount: mount => Kind::Tree(mount);
    Secret: mount => Kind::Secret(mount);
    Ssh: mount => Kind::Ssh(mount);
    State: state => Kind::Tree(CustomMount { source: Some(state), ..CustomMount::default() });
    &State: state => Kind::Tree(CustomMount { source: Some(state.clone()), ..CustomMount::default() });
}
