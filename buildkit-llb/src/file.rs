//! File actions: copy, make, remove and link without running a process.

mod op;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{Edge, Op, Site};
use crate::state::State;

pub(crate) use self::op::{ActionKind, CopyInput, FileOp};

/// A list of actions that one op does in turn; see [`State::file`].
///
/// Relative paths are below the directory of the state the actions are done on.
#[derive(Debug, Clone, Default)]
#[must_use = "actions are done only by `State::file`"]
pub struct FileAction {
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    MkDir(MkDir),
    MkFile(MkFile),
    Rm(Rm),
    Symlink(Symlink),
    Copy(Box<Copy>),
}

impl FileAction {
    /// No action yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does `next` after the actions so far.
    pub fn then(mut self, next: impl Into<FileAction>) -> Self {
        let next = next.into();
        if self.steps.is_empty() {
            return next;
        }
        self.steps.extend(next.steps);
        self
    }

    /// Then makes a directory whose parent exists.
    pub fn mkdir(self, path: impl Into<String>, mode: u32) -> Self {
        self.then(MkDir::new(path, mode))
    }

    /// Then writes a file.
    pub fn mkfile(self, path: impl Into<String>, mode: u32, data: impl Into<Bytes>) -> Self {
        self.then(MkFile::new(path, mode, data))
    }

    /// Then removes a file or directory tree, which must exist.
    pub fn rm(self, path: impl Into<String>) -> Self {
        self.then(Rm::new(path))
    }

    /// Then makes a symbolic link at `path` that points to `target`.
    pub fn symlink(self, target: impl Into<String>, path: impl Into<String>) -> Self {
        self.then(Symlink::new(target, path))
    }

    /// Then copies `src` of `from` to `dest`.
    pub fn copy(self, from: impl Into<CopySource>, src: impl Into<String>, dest: impl Into<String>) -> Self {
        self.then(Copy::new(from, src, dest))
    }

    /// Binds the actions to a state of their own: the result can be copied from in another list, and both are
    /// done by one op.
    pub fn with_state(self, state: impl Into<State>) -> BoundAction {
        BoundAction { inner: Arc::new(Bound { base: state.into(), action: self }) }
    }
}

/// Makes a directory.
pub fn mkdir(path: impl Into<String>, mode: u32) -> FileAction {
    MkDir::new(path, mode).into()
}

/// Writes a file.
pub fn mkfile(path: impl Into<String>, mode: u32, data: impl Into<Bytes>) -> FileAction {
    MkFile::new(path, mode, data).into()
}

/// Removes a file or directory tree, which must exist.
pub fn rm(path: impl Into<String>) -> FileAction {
    Rm::new(path).into()
}

/// Makes a symbolic link at `path` that points to `target`; both are kept as written.
pub fn symlink(target: impl Into<String>, path: impl Into<String>) -> FileAction {
    Symlink::new(target, path).into()
}

/// Copies `src` of `from` to `dest`.
pub fn copy(from: impl Into<CopySource>, src: impl Into<String>, dest: impl Into<String>) -> FileAction {
    Copy::new(from, src, dest).into()
}

/// Actions bound to a state, to copy from; see [`FileAction::with_state`].
#[derive(Clone)]
pub struct BoundAction {
    inner: Arc<Bound>,
}

impl fmt::Debug for BoundAction {
    /// Not the actions: those may copy from other bound actions, and so on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bound { base, action } = &*self.inner;
        f.debug_struct("BoundAction").field("base", base).field("actions", &action.steps.len()).finish()
    }
}

struct Bound {
    base: State,
    action: FileAction,
}

impl Drop for Bound {
    /// Bound actions nest; a deep nest must not need a stack frame each.
    fn drop(&mut self) {
        let mut orphans = Vec::new();
        let take = |steps: &mut Vec<Step>, orphans: &mut Vec<Bound>| {
            for step in steps.drain(..) {
                if let Step::Copy(copy) = step
                    && let CopySource(Source::Action(bound)) = copy.from
                {
                    orphans.extend(Arc::into_inner(bound.inner));
                }
            }
        };
        take(&mut self.action.steps, &mut orphans);
        while let Some(mut orphan) = orphans.pop() {
            take(&mut orphan.action.steps, &mut orphans);
        }
    }
}

/// What a copy takes from: a state, or actions bound to one.
#[derive(Debug, Clone)]
pub struct CopySource(Source);

#[derive(Debug, Clone)]
enum Source {
    State(State),
    Action(BoundAction),
}

impl<S: Into<State>> From<S> for CopySource {
    fn from(state: S) -> Self {
        Self(Source::State(state.into()))
    }
}

impl From<BoundAction> for CopySource {
    fn from(action: BoundAction) -> Self {
        Self(Source::Action(action))
    }
}

impl From<&BoundAction> for CopySource {
    fn from(action: &BoundAction) -> Self {
        Self(Source::Action(action.clone()))
    }
}

/// Who a file belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    pub(crate) user: Option<User>,
    pub(crate) group: Option<User>,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    Id(u32),
    /// Looked up in the state the action is done on.
    Name(String),
}

impl Owner {
    /// A user and a group by number.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self { user: Some(User::Id(uid)), group: Some(User::Id(gid)) }
    }

    /// `user` or `user:group`, each a name or a number. Names are looked up in the state.
    pub fn named(spec: &str) -> Self {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        Self { user: Some(User::parse(user)), group: group.map(User::parse) }
    }
}

impl User {
    fn parse(text: &str) -> Self {
        match text.parse::<i32>() {
            _ if text.is_empty() || text == "root" => Self::Id(0),
            Ok(id) => Self::Id(id.cast_unsigned()),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

impl From<&str> for Owner {
    fn from(spec: &str) -> Self {
        Self::named(spec)
    }
}

impl From<String> for Owner {
    fn from(spec: String) -> Self {
        Self::named(&spec)
    }
}

impl From<(u32, u32)> for Owner {
    fn from((uid, gid): (u32, u32)) -> Self {
        Self::ids(uid, gid)
    }
}

/// A point in time, in nanoseconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From whole seconds. Nanoseconds are what the wire has: what is more than 292 years away wraps around, as with
    /// BuildKit's own builder.
    pub fn from_secs(secs: i64) -> Self {
        Self(secs.wrapping_mul(1_000_000_000))
    }

    /// From nanoseconds.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nanoseconds.
    pub fn nanos(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanos = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(nanos(after)),
            Err(before) => Self(-nanos(before.duration())),
        }
    }
}

macro_rules! owner_and_time {
    ($($field:ident)?) => {
        /// Who it belongs to: `"user:group"`, `(uid, gid)`; root without this.
        pub fn owner(mut self, owner: impl Into<Owner>) -> Self {
            self$(.$field)?.owner = Some(owner.into());
            self
        }

        /// Its modification time; without it the time of the build, or for a copy that of the original.
        pub fn created(mut self, time: impl Into<Timestamp>) -> Self {
            self$(.$field)?.created = Some(time.into());
            self
        }
    };
}

/// Makes a directory.
#[derive(Debug, Clone)]
#[must_use = "actions are done only by `State::file`"]
pub struct MkDir {
    path: String,
    mode: u32,
    parents: bool,
    owner: Option<Owner>,
    created: Option<Timestamp>,
}

impl MkDir {
    /// A directory with these permission bits, whose parent exists.
    pub fn new(path: impl Into<String>, mode: u32) -> Self {
        Self { path: path.into(), mode, parents: false, owner: None, created: None }
    }

    /// Makes missing parents too, and takes it well if the directory exists.
    pub fn parents(mut self) -> Self {
        self.parents = true;
        self
    }

    owner_and_time!();
}

/// Writes a file.
#[derive(Debug, Clone)]
#[must_use = "actions are done only by `State::file`"]
pub struct MkFile {
    path: String,
    mode: u32,
    data: Bytes,
    owner: Option<Owner>,
    created: Option<Timestamp>,
}

impl MkFile {
    /// A file with these permission bits and this content.
    pub fn new(path: impl Into<String>, mode: u32, data: impl Into<Bytes>) -> Self {
        Self { path: path.into(), mode, data: data.into(), owner: None, created: None }
    }

    owner_and_time!();
}

/// Removes a file or directory tree.
#[derive(Debug, Clone)]
#[must_use = "actions are done only by `State::file`"]
pub struct Rm {
    path: String,
    allow_not_found: bool,
    wildcard: bool,
}

impl Rm {
    /// Removes `path`, which must exist.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), allow_not_found: false, wildcard: false }
    }

    /// Takes it well if there is nothing to remove.
    pub fn allow_not_found(mut self) -> Self {
        self.allow_not_found = true;
        self
    }

    /// Takes `*`, `?` and `[…]` in the path for wildcards.
    pub fn wildcard(mut self) -> Self {
        self.wildcard = true;
        self
    }
}

/// Makes a symbolic link.
#[derive(Debug, Clone)]
#[must_use = "actions are done only by `State::file`"]
pub struct Symlink {
    target: String,
    path: String,
    owner: Option<Owner>,
    created: Option<Timestamp>,
}

impl Symlink {
    /// A link at `path` that points to `target`. Both are kept as written: a relative `path` is below `/`.
    pub fn new(target: impl Into<String>, path: impl Into<String>) -> Self {
        Self { target: target.into(), path: path.into(), owner: None, created: None }
    }

    owner_and_time!();
}

/// Copies files between states.
#[derive(Debug, Clone)]
#[must_use = "actions are done only by `State::file`"]
pub struct Copy {
    from: CopySource,
    src: String,
    dest: String,
    options: CopyOptions,
}

/// What a copy does besides copying; see [`Copy::options`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Permission bits of what is copied; none keeps those of the original.
    pub mode: Option<Mode>,
    /// Follow symbolic links in the source path.
    pub follow_symlinks: bool,
    /// If the source is a directory copy what is in it, not the directory.
    pub contents_only: bool,
    /// Unpack the source if it is a local archive.
    pub unpack: bool,
    /// Make missing parents of the destination.
    pub create_dest: bool,
    /// Take `*`, `?` and `[…]` in the source path for wildcards.
    pub wildcard: bool,
    /// Take it well if the wildcards match nothing.
    pub allow_empty_wildcard: bool,
    /// Copy only what matches one of these patterns.
    pub include: Vec<String>,
    /// Do not copy what matches one of these patterns.
    pub exclude: Vec<String>,
    /// Fail unless each of these exists in the source.
    pub required_paths: Vec<String>,
    /// Replace what is in the way even if it is of another kind.
    pub always_replace: bool,
    /// Who the copy belongs to; none is root.
    pub owner: Option<Owner>,
    /// Modification time of the copy; none keeps that of the original.
    pub created: Option<Timestamp>,
}

/// Permission bits of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// As a number: `0o644`.
    Bits(u32),
    /// As `chmod` takes it: `u=rwX,go=rX`.
    Symbolic(String),
}

impl From<u32> for Mode {
    fn from(bits: u32) -> Self {
        Self::Bits(bits)
    }
}

impl From<&str> for Mode {
    fn from(text: &str) -> Self {
        Self::Symbolic(text.to_owned())
    }
}

impl From<String> for Mode {
    fn from(text: String) -> Self {
        Self::Symbolic(text)
    }
}

impl Copy {
    /// Copies `src` of `from` to `dest`. A `dest` that ends in `/` is a directory to copy into.
    pub fn new(from: impl Into<CopySource>, src: impl Into<String>, dest: impl Into<String>) -> Self {
        Self { from: from.into(), src: src.into(), dest: dest.into(), options: CopyOptions::default() }
    }

    /// Replaces every option set so far.
    pub fn options(mut self, options: CopyOptions) -> Self {
        self.options = options;
        self
    }

    /// Permission bits, as a number or as `chmod` takes them.
    pub fn mode(mut self, mode: impl Into<Mode>) -> Self {
        self.options.mode = Some(mode.into());
        self
    }

    /// Follows symbolic links in the source path.
    pub fn follow_symlinks(mut self) -> Self {
        self.options.follow_symlinks = true;
        self
    }

    /// If the source is a directory copies what is in it, not the directory.
    pub fn contents_only(mut self) -> Self {
        self.options.contents_only = true;
        self
    }

    /// Unpacks the source if it is a local archive.
    pub fn unpack(mut self) -> Self {
        self.options.unpack = true;
        self
    }

    /// Makes missing parents of the destination.
    pub fn create_dest(mut self) -> Self {
        self.options.create_dest = true;
        self
    }

    /// Takes `*`, `?` and `[…]` in the source path for wildcards.
    pub fn wildcard(mut self) -> Self {
        self.options.wildcard = true;
        self
    }

    /// Takes it well if the wildcards match nothing.
    pub fn allow_empty_wildcard(mut self) -> Self {
        self.options.allow_empty_wildcard = true;
        self
    }

    /// Copies only what matches one of these patterns, besides those given before.
    pub fn include(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.include.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Does not copy what matches one of these patterns or those given before.
    pub fn exclude(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.exclude.extend(patterns.into_iter().map(Into::into));
        self
    }

    /// Fails unless each of these exists in the source.
    pub fn required_paths(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.required_paths.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Replaces what is in the way even if it is of another kind.
    pub fn always_replace(mut self) -> Self {
        self.options.always_replace = true;
        self
    }

    owner_and_time!(options);
}

macro_rules! into_action {
    ($($step:ident: $value:ident => $make:expr;)*) => {$(
        impl From<$step> for FileAction {
            fn from($value: $step) -> Self {
                Self { steps: vec![Step::$step($make)] }
            }
        }
    )*};
}

into_action! {
    MkDir: step => step;
    MkFile: step => step;
    Rm: step => step;
    Symlink: step => step;
    Copy: step => Box::new(step);
}

/// [`State::file`] with options.
#[derive(Debug, Clone)]
#[must_use = "actions are done only if the result is used as a state"]
pub struct FileSteps {
    base: State,
    action: FileAction,
    constraints: Constraints,
    site: Site,
}

impl FileSteps {
    /// Does `action` on `base`.
    #[track_caller]
    pub fn new(base: impl Into<State>, action: impl Into<FileAction>) -> Self {
        Self {
            base: base.into(),
            action: action.into(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
}

impl From<FileSteps> for State {
    fn from(file: FileSteps) -> Self {
        let op = FileOp::build(&file.base, &file.action);
        file.base.on(Some(Edge::new(Op::File(Box::new(op)), file.constraints, file.site)))
    }
}
