//! Running a process.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;

use buildkit_proto::canonical::Writer;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{Edge, Op, Site, Vertex};
use crate::mount::{CustomKind, CustomMount, Kind, Mount, Secret, Ssh};
use crate::shlex::{self};
use crate::state::{Context, State, context_setters};

/// What a process runs. Texts do not become commands by themselves: say [`sh`] or [`shlex`](crate::shlex()),
/// or give a list of arguments.
#[derive(Clone)]
pub struct Command {
    pub(crate) args: Args,
    pub(crate) error: Option<Box<shlex::Error>>,
}

/// A script for `/bin/sh -c`.
pub fn sh(script: impl Into<String>) -> Command {
    ["/bin/sh".to_owned(), "-c".to_owned(), script.into()].into()
}

/// A command line, split into words as a shell does but run without one. An unbalanced quote is an error at
/// `marshal`.
pub fn shlex(line: impl AsRef<str>) -> Command {
    match shlex::split(line.as_ref()) {
        Ok(args) => args.into(),
        Err(error) => Command { args: Args::new(&[line.as_ref().to_owned()]), error: Some(Box::new(error)) },
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.args.iter()).finish()
    }
}

impl fmt::Display for Command {
    /// The list of arguments, cut where it gets long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from("[");
        for (i, arg) in self.args.iter().enumerate() {
            if text.len() > 80 {
                text.push_str(", …");
                break;
            }
            let short: String = arg.chars().take(80).collect();
            let more = if short.len() < arg.len() { "…" } else { "" };
            let comma = if i > 0 { ", " } else { "" };
            write!(text, "{comma}{short:?}{more}")?;
        }
        f.write_str(&text)?;
        f.write_str("]")
    }
}

impl<S: Into<String>> From<Vec<S>> for Command {
    fn from(args: Vec<S>) -> Self {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        Self { args: Args::new(&args), error: None }
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Command {
    fn from(args: [S; N]) -> Self {
        Self { args: Args::new(&args.map(Into::into)), error: None }
    }
}

impl<S: Clone + Into<String>> From<&[S]> for Command {
    fn from(args: &[S]) -> Self {
        args.to_vec().into()
    }
}

/// Arguments as the op will have them: in one piece of memory, as there are very many.
#[derive(Clone)]
pub(crate) struct Args {
    /// One field for each, with its key and its length.
    fields: Box<[u8]>,
}

impl Args {
    fn new(args: &[String]) -> Self {
        // Exact unless an argument is long: key and length are a byte each.
        let mut out = Writer::with_capacity(args.iter().map(|arg| arg.len() + 2).sum());
        out.items(1, args);
        Self { fields: out.into_bytes().into() }
    }

    /// As fields of the op.
    pub(crate) fn fields(&self) -> &[u8] {
        &self.fields
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.fields;
        std::iter::from_fn(move || {
            let [_key, after @ ..] = rest else { return None };
            rest = after;
            let mut len = 0;
            let mut shift = 0;
            while let [byte, after @ ..] = rest {
                rest = after;
                len |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if *byte < 0x80 {
                    break;
                }
            }
            let (arg, after) = rest.split_at_checked(len)?;
            rest = after;
            std::str::from_utf8(arg).ok()
        })
    }
}

/// A process as the graph keeps it.
pub(crate) struct ExecOp {
    pub(crate) command: Command,
    pub(crate) context: Arc<Context>,
    /// Sorted by destination; the root is one of them.
    pub(crate) mounts: Mounts,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What few processes have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) proxy: Option<ProxyEnv>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) ssh: Vec<Ssh>,
    pub(crate) devices: Vec<Device>,
    pub(crate) valid_exit_codes: Vec<i32>,
}

/// The mounts of a process. Most have the root alone, which needs no memory of its own.
pub(crate) enum Mounts {
    Root([MountPoint; 1]),
    Sorted(Vec<MountPoint>),
}

impl Deref for Mounts {
    type Target = [MountPoint];

    fn deref(&self) -> &[MountPoint] {
        match self {
            Self::Root(root) => root,
            Self::Sorted(mounts) => mounts,
        }
    }
}

impl DerefMut for Mounts {
    fn deref_mut(&mut self) -> &mut [MountPoint] {
        match self {
            Self::Root(root) => root,
            Self::Sorted(mounts) => mounts,
        }
    }
}

pub(crate) struct MountPoint {
    pub(crate) dest: Dest,
    pub(crate) source: Option<Edge>,
    pub(crate) output: Output,
    pub(crate) options: Option<Box<MountOptions>>,
}

impl MountPoint {
    /// Whether nothing of the mount outlives the process and the op does not even count it.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.output, Output::Nothing(Lost::Tmpfs | Lost::NoOutput))
    }
}

/// Where something is mounted.
#[derive(PartialEq, Eq)]
pub(crate) enum Dest {
    Root,
    At(Box<str>),
}

impl Deref for Dest {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Root => "/",
            Self::At(path) => path,
        }
    }
}

/// What few mounts have.
#[derive(Default)]
pub(crate) struct MountOptions {
    pub(crate) selector: String,
    pub(crate) readonly: bool,
    pub(crate) content_cache: crate::mount::ContentCache,
    pub(crate) kind: CustomKind,
}

/// What a mount leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Index(u32),
    /// The mount is read-only: its output is its source.
    Source,
    Nothing(Lost),
}

/// Kinds of mounts that leave nothing behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Tmpfs,
    NoOutput,
    Cache,
}

impl Lost {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::NoOutput => "no-output",
            Self::Cache => "cache",
        }
    }
}

/// Proxies that a process is told about, without being part of its environment in the image. Empty ones are
/// not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `HTTP_PROXY`
    pub http: String,
    /// `HTTPS_PROXY`
    pub https: String,
    /// `FTP_PROXY`
    pub ftp: String,
    /// `NO_PROXY`
    pub no: String,
    /// `ALL_PROXY`
    pub all: String,
}

/// A device of the daemon's host, by its name in the Container Device Interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a device does nothing until it is given to a process"]
pub struct Device {
    pub(crate) name: String,
    pub(crate) optional: bool,
}

impl Device {
    /// A device or a class of devices, such as `vendor.com/gpu=all`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), optional: false }
    }

    /// Runs the process even if there is no such device.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl<S: Into<String>> From<S> for Device {
    fn from(name: S) -> Self {
        Self::new(name)
    }
}

/// A process that is being described. Setters of this type belong to the process alone; the states that come
/// out of it run their processes as the state did that this one began on.
#[must_use = "a process runs only if something takes one of its outputs"]
#[derive(Clone)]
pub struct Run {
    base: State,
    context: Arc<Context>,
    command: Command,
    mounts: Vec<(String, CustomMount)>,
    readonly_root: bool,
    extra: Option<Box<Extra>>,
    constraints: Constraints,
    site: Site,
}

impl Run {
    /// A process on `base`.
    #[track_caller]
    pub fn new(base: impl Into<State>, command: impl Into<Command>) -> Self {
        let base = base.into();
        Self {
            context: Arc::clone(&base.context),
            base,
            command: command.into(),
            mounts: Vec::new(),
            readonly_root: false,
            extra: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    fn context_mut(&mut self) -> &mut Context {
        Arc::make_mut(&mut self.context)
    }

    fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    context_setters!();
    constraint_setters!();

    /// How the process is run so far.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Applies a reusable step to the environment, directory, user and so on of this process. What the step
    /// does to files has no effect.
    pub fn with(mut self, step: impl FnOnce(State) -> State) -> Self {
        let state = State { edge: self.base.edge.clone(), context: self.context };
        self.context = step(state).context;
        self
    }

    /// Mounts something at `dest`.
    pub fn mount(mut self, dest: impl Into<String>, mount: impl Into<Mount>) -> Self {
        match mount.into().kind {
            Kind::Tree(mount) => self.mounts.push((dest.into(), mount)),
            Kind::Secret(secret) => self.extra_mut().secrets.push(secret.dest(dest)),
            Kind::Ssh(ssh) => self.extra_mut().ssh.push(ssh.dest(dest)),
        }
        self
    }

    /// Gives the process a secret where the secret says: as a file, as a variable, or both.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.extra_mut().secrets.push(secret);
        self
    }

    /// Gives the process the secret `id` in the environment variable `name`.
    pub fn secret_env(self, name: impl Into<String>, id: impl Into<String>) -> Self {
        self.secret(Secret::new(id).env(name))
    }

    /// Gives the process an SSH agent where `ssh` says.
    pub fn ssh(mut self, ssh: Ssh) -> Self {
        self.extra_mut().ssh.push(ssh);
        self
    }

    /// Gives the process a device.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.extra_mut().devices.push(device.into());
        self
    }

    /// Tells the process about proxies.
    pub fn proxy(mut self, proxy: ProxyEnv) -> Self {
        self.extra_mut().proxy = Some(proxy);
        self
    }

    /// Exit codes that count as success instead of 0.
    pub fn valid_exit_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.extra_mut().valid_exit_codes = codes.into_iter().collect();
        self
    }

    /// The process cannot write to the root file system, whose tree then stays what it was.
    pub fn readonly_root(mut self) -> Self {
        self.readonly_root = true;
        self
    }

    /// The root file system as the process left it.
    pub fn root(self) -> State {
        self.exec().root()
    }

    /// Mounts `base` at `dest`, writable, and gives it as the process left it. Its processes run as those of
    /// `base` do.
    pub fn output(mut self, dest: impl Into<String>, base: impl Into<State>) -> State {
        let at = self.mounts.len();
        self = self.mount(dest, Mount::bind(base));
        self.exec().mount_output(at).unwrap_or_default()
    }

    /// Mounts every `base` at its `dest`, writable, and gives the root and all of them as the process left
    /// them.
    pub fn outputs<D: Into<String>, S: Into<State>, const N: usize>(
        mut self,
        outputs: [(D, S); N],
    ) -> (State, [State; N]) {
        let first = self.mounts.len();
        for (dest, base) in outputs {
            self = self.mount(dest, Mount::bind(base));
        }
        let exec = self.exec();
        (exec.root(), std::array::from_fn(|i| exec.mount_output(first + i).unwrap_or_default()))
    }

    /// The finished process, to take its outputs one by one.
    pub fn exec(self) -> Exec {
        let Self { base, context, command, mounts, readonly_root, extra, constraints, site } = self;
        let root = CustomMount { readonly: readonly_root, ..CustomMount::default() };
        let root = mount_point(Dest::Root, base.edge.clone(), root);
        let mut contexts = Vec::with_capacity(mounts.len());
        let mut order: Vec<u32> = Vec::new();
        let mut mounts = if mounts.is_empty() {
            Mounts::Root([root])
        } else {
            let mut points = vec![root];
            for (dest, mut mount) in mounts {
                let source = mount.source.take().unwrap_or_default();
                contexts.push(Arc::clone(&source.context));
                points.push(mount_point(Dest::At(dest.into()), source.edge, mount));
            }
            let mut numbered: Vec<(u32, MountPoint)> = (0..).zip(points).collect();
            numbered.sort_by(|(_, a), (_, b)| (*a.dest).cmp(&b.dest));
            order.resize(numbered.len(), 0);
            for (sorted, (given, _)) in (0..).zip(&numbered) {
                if let Some(slot) = order.get_mut(*given as usize) {
                    *slot = sorted;
                }
            }
            Mounts::Sorted(numbered.into_iter().map(|(_, point)| point).collect())
        };
        let indexed = mounts.iter_mut().filter(|point| matches!(point.output, Output::Index(_)));
        for (index, point) in (0..).zip(indexed) {
            point.output = Output::Index(index);
        }
        let op = ExecOp { command, context, mounts, extra };
        let vertex = Arc::new(Vertex { op: Op::Exec(op), constraints, site });
        Exec { vertex, base, contexts, order }
    }
}

fn mount_point(dest: Dest, source: Option<Edge>, mut mount: CustomMount) -> MountPoint {
    // Without an id there is nothing to share, and for BuildKit it is no cache.
    if matches!(&mount.kind, CustomKind::Cache { id, .. } if id.is_empty()) {
        mount.kind = CustomKind::Bind;
    }
    let output = if mount.readonly {
        Output::Source
    } else if matches!(mount.kind, CustomKind::Tmpfs { .. }) {
        Output::Nothing(Lost::Tmpfs)
    } else if mount.no_output {
        Output::Nothing(Lost::NoOutput)
    } else if matches!(mount.kind, CustomKind::Cache { .. }) {
        Output::Nothing(Lost::Cache)
    } else {
        Output::Index(0)
    };
    let CustomMount { selector, readonly, content_cache, kind, .. } = mount;
    let options = MountOptions { selector, readonly, content_cache, kind };
    let plain = options.selector.is_empty()
        && !options.readonly
        && options.content_cache == crate::mount::ContentCache::Default
        && options.kind == CustomKind::Bind;
    MountPoint { dest, source, output, options: (!plain).then(|| Box::new(options)) }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("command", &self.command).field("on", &self.base).finish_non_exhaustive()
    }
}

impl From<Run> for State {
    /// The root file system.
    fn from(run: Run) -> Self {
        run.root()
    }
}

/// A process in the graph, and its outputs.
#[derive(Clone)]
pub struct Exec {
    vertex: Arc<Vertex>,
    base: State,
    contexts: Vec<Arc<Context>>,
    /// Where each mount went when they were sorted, by the position it was given at; empty for the root alone.
    order: Vec<u32>,
}

impl Exec {
    /// The root file system as the process left it.
    pub fn root(&self) -> State {
        self.base.on(self.edge(0))
    }

    /// What the process left in the mount at `dest`: the last one given there, or the root for `/`. Its
    /// processes run as those of the mount's source do. None if nothing is mounted there; the output of a mount
    /// that keeps nothing is an error at `marshal`.
    pub fn output_of(&self, dest: &str) -> Option<State> {
        let mut positions = (0..=self.contexts.len()).rev();
        let given =
            positions.find(|given| self.point(*given).is_some_and(|(_, point)| *point.dest == *dest))?;
        if given == 0 { Some(self.root()) } else { self.mount_output(given - 1) }
    }

    /// As [`output_of`](Self::output_of), by position: the mounts of file trees in the order they were given,
    /// from 0.
    pub fn mount_output(&self, position: usize) -> Option<State> {
        let context = self.contexts.get(position)?;
        let state = State { edge: None, context: Arc::clone(context) };
        Some(state.on(self.edge(position + 1)))
    }

    /// The mount given at a position, the root being the first, and where it is in the op.
    fn point(&self, given: usize) -> Option<(u32, &MountPoint)> {
        let Op::Exec(op) = &self.vertex.op else { return None };
        let slot = if self.order.is_empty() && given == 0 { 0 } else { *self.order.get(given)? };
        Some((slot, op.mounts.get(slot as usize)?))
    }

    fn edge(&self, given: usize) -> Option<Edge> {
        let (slot, point) = self.point(given)?;
        match point.output {
            Output::Source => point.source.clone(),
            Output::Index(_) | Output::Nothing(_) => Some(Edge { vertex: Arc::clone(&self.vertex), slot }),
        }
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Exec").field(&self.vertex).finish()
    }
}

impl From<Exec> for State {
    fn from(exec: Exec) -> Self {
        exec.root()
    }
}

/// An address as `/etc/hosts` spells it.
pub(crate) fn host_address(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_out_as_they_went_in() {
        let long = "é".repeat(10_000);
        for args in
            [&[][..], &[""], &["", "a", ""], &["tool", "--name=\u{0}", &"x".repeat(127)], &[&long, "b"]]
        {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let kept = Args::new(&args);
            assert_eq!(kept.iter().collect::<Vec<_>>(), args);
            assert_eq!(kept.is_empty(), args.is_empty());
        }
    }
}
