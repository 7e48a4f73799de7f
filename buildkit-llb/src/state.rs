//! `State`: a file tree somewhere in the graph, and how processes on top of it are run.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use crate::constraints::Constraints;
use crate::definition::Definition;
use crate::env::EnvList;
use crate::error::{Error, ErrorKind};
use crate::exec::{Command, Run};
use crate::file::{Copy, CopySource, FileAction, FileSteps, MkDir, MkFile, Rm, Symlink};
use crate::graph::{Edge, Invalid, Op};
use crate::image_config::ImageConfig;
use crate::marshal::{MarshalOptions, marshal};
use crate::path;
use crate::platform::Platform;

/// A file tree, and the environment, directory and user that processes on it start with.
///
/// A state is a value: every method leaves the graph it came from as it is, and cloning costs two reference
/// counts. Nothing is checked or run before [`marshal`](State::marshal).
#[derive(Clone)]
#[must_use = "a state does nothing until it is marshalled or solved"]
pub struct State {
    pub(crate) edge: Option<Edge>,
    pub(crate) context: Arc<Context>,
}

/// An empty file tree.
pub fn scratch() -> State {
    State { edge: None, context: Context::initial() }
}

/// How processes on a state are run.
#[derive(Clone, Debug)]
pub struct Context {
    pub(crate) dir: Arc<str>,
    pub(crate) env: EnvList,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) platform: Option<Arc<Platform>>,
    pub(crate) hostname: Option<Arc<str>>,
    pub(crate) cgroup_parent: Option<Arc<str>>,
    pub(crate) hosts: Arc<Vec<(String, IpAddr)>>,
    pub(crate) ulimits: Arc<Vec<Ulimit>>,
    pub(crate) network: Network,
    pub(crate) security: Security,
    values: Option<Arc<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl Context {
    pub(crate) fn initial() -> Arc<Self> {
        static INITIAL: OnceLock<Arc<Context>> = OnceLock::new();
        let context = INITIAL.get_or_init(|| {
            Arc::new(Context {
                dir: "/".into(),
                env: EnvList::new(),
                user: None,
                platform: None,
                hostname: None,
                cgroup_parent: None,
                hosts: Arc::default(),
                ulimits: Arc::default(),
                network: Network::default(),
                security: Security::default(),
                values: None,
            })
        });
        Arc::clone(context)
    }

    /// The working directory.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// The environment.
    pub fn env(&self) -> &EnvList {
        &self.env
    }

    /// User, or user and group, that processes run as.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The platform, if one was set or the state's source knows it.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_deref()
    }

    /// The host name processes see.
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The control group under which processes run.
    pub fn cgroup_parent(&self) -> Option<&str> {
        self.cgroup_parent.as_deref()
    }

    /// Lines added to `/etc/hosts`.
    pub fn hosts(&self) -> &[(String, IpAddr)] {
        &self.hosts
    }

    /// Resource limits.
    pub fn ulimits(&self) -> &[Ulimit] {
        &self.ulimits
    }

    /// The network processes see.
    pub fn network(&self) -> Network {
        self.network
    }

    /// How far processes are confined.
    pub fn security(&self) -> Security {
        self.security
    }

    /// What the program attached with [`State::value`], by its type.
    pub fn value<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.values.as_ref()?.get(&TypeId::of::<T>())?.downcast_ref()
    }

    pub(crate) fn change_dir(&mut self, dir: &str) {
        self.dir = if dir.starts_with('/') {
            dir.into()
        } else {
            path::join(&[self.dir.as_ref(), dir]).as_str().into()
        };
    }

    fn set_platform(&mut self, platform: &Platform) {
        self.platform = Some(Arc::new(platform.normalized()));
    }
}

/// The network of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// A network of its own.
    #[default]
    Sandbox,
    /// That of the daemon's host; needs the entitlement `network.host`.
    Host,
    /// None.
    None,
}

/// How far a process is confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// As containers are.
    #[default]
    Sandbox,
    /// Not at all; needs the entitlement `security.insecure`.
    Insecure,
}

/// A resource limit, as `ulimit` sets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Name, such as `nofile`.
    pub name: String,
    /// The limit that holds.
    pub soft: i64,
    /// How far the process may raise it.
    pub hard: i64,
}

/// The setters that change how processes are run, for a type with `context_mut`.
macro_rules! context_setters {
    () => {
        /// Sets an environment variable; setting it again moves it to the end. Nothing is expanded.
        pub fn env(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
            self.context_mut().env.set(key, value);
            self
        }

        /// Replaces the whole environment.
        pub fn env_list(mut self, env: $crate::EnvList) -> Self {
            self.context_mut().env = env;
            self
        }

        /// Changes the working directory; a relative one is below the current one.
        pub fn dir(mut self, dir: impl AsRef<str>) -> Self {
            self.context_mut().change_dir(dir.as_ref());
            self
        }

        /// Runs as `user`, `uid`, `user:group` or `uid:gid`.
        pub fn user(mut self, user: impl AsRef<str>) -> Self {
            self.context_mut().user = Some(user.as_ref().into());
            self
        }

        /// Sets the host name.
        pub fn hostname(mut self, hostname: impl AsRef<str>) -> Self {
            self.context_mut().hostname = Some(hostname.as_ref().into());
            self
        }

        /// Chooses the network.
        pub fn network(mut self, network: $crate::Network) -> Self {
            self.context_mut().network = network;
            self
        }

        /// Chooses how far processes are confined.
        pub fn security(mut self, security: $crate::Security) -> Self {
            self.context_mut().security = security;
            self
        }

        /// Adds a line to `/etc/hosts`.
        pub fn add_host(mut self, host: impl Into<String>, ip: impl Into<std::net::IpAddr>) -> Self {
            std::sync::Arc::make_mut(&mut self.context_mut().hosts).push((host.into(), ip.into()));
            self
        }

        /// Adds a resource limit: `core`, `cpu`, `data`, `fsize`, `locks`, `memlock`, `msgqueue`, `nice`,
        /// `nofile`, `nproc`, `rss`, `rtprio`, `rttime`, `sigpending` or `stack`.
        pub fn ulimit(mut self, name: impl Into<String>, soft: i64, hard: i64) -> Self {
            let limit = $crate::Ulimit { name: name.into(), soft, hard };
            std::sync::Arc::make_mut(&mut self.context_mut().ulimits).push(limit);
            self
        }

        /// Runs processes under this control group.
        pub fn cgroup_parent(mut self, parent: impl AsRef<str>) -> Self {
            self.context_mut().cgroup_parent = Some(parent.as_ref().into());
            self
        }
    };
}
pub(crate) use context_setters;

impl State {
    pub(crate) fn from_edge(edge: Edge) -> Self {
        Self { edge: None, context: Context::initial() }.on(Some(edge))
    }

    /// The same way of running processes, on another file tree.
    pub(crate) fn on(&self, edge: Option<Edge>) -> Self {
        let mut state = Self { context: Arc::clone(&self.context), edge };
        if let Some(platform) = state.edge.as_ref().and_then(Edge::platform) {
            state.context_mut().set_platform(&platform);
        }
        state
    }

    pub(crate) fn context_mut(&mut self) -> &mut Context {
        Arc::make_mut(&mut self.context)
    }

    /// How processes on this state are run: directory, environment, user, platform and the rest.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Whether the file tree is empty and nothing was done to it.
    pub fn is_scratch(&self) -> bool {
        self.edge.is_none()
    }

    context_setters!();

    /// Sets the platform of the processes and sources that follow; aliases are spelled out.
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.context_mut().set_platform(platform);
        self
    }

    /// Attaches something of the program's own to the state and to all that is built on it, one value of each
    /// type. It is part of no op; [`Context::value`] reads it back.
    ///
    /// ```
    /// # use buildkit_llb::image;
    /// #[derive(Debug, PartialEq)]
    /// struct PackageManager(&'static str);
    ///
    /// let base = image("alpine").value(PackageManager("apk")).run(["true"]).root();
    /// assert_eq!(base.context().value(), Some(&PackageManager("apk")));
    /// ```
    pub fn value<T: Any + Send + Sync>(mut self, value: T) -> Self {
        let values = self.context_mut().values.get_or_insert_default();
        Arc::make_mut(values).insert(TypeId::of::<T>(), Arc::new(value));
        self
    }

    /// Applies a reusable step.
    pub fn with(self, step: impl FnOnce(Self) -> Self) -> Self {
        step(self)
    }

    /// This file tree, run as processes on `other` are. The directory becomes `/` unless the tree was made for
    /// an explicit platform.
    pub fn reset(&self, other: &State) -> Self {
        let mut state = Self { edge: self.edge.clone(), context: Arc::clone(&other.context) };
        match state.edge.as_ref().and_then(Edge::platform) {
            Some(platform) => state.context_mut().set_platform(&platform),
            None => state.context_mut().dir = "/".into(),
        }
        state
    }

    /// This file tree with nothing else: directory `/`, no environment, no user.
    pub fn fresh(&self) -> Self {
        scratch().on(self.edge.clone())
    }

    /// The file tree of `other` under the way of running processes of `self`.
    pub fn with_output(&self, other: &State) -> Self {
        self.on(other.edge.clone())
    }

    /// Takes environment, working directory and platform from an OCI image config (JSON). User, entry point
    /// and labels are not taken over, as with BuildKit's own builder.
    #[track_caller]
    pub fn image_config(mut self, json: impl AsRef<[u8]>) -> Self {
        let site = Location::caller();
        match ImageConfig::parse(json.as_ref()) {
            Ok(ImageConfig { env, dir, platform }) => {
                let context = self.context_mut();
                context.env.extend(env);
                context.change_dir(&dir);
                if let Some(platform) = platform {
                    context.set_platform(&platform);
                }
            }
            Err(reason) => {
                let kind = ErrorKind::ImageConfig(reason);
                let invalid = Invalid { title: "image config", kind, input: self.edge.take() };
                let op = Op::Invalid(Box::new(invalid));
                self.edge = Some(Edge::new(op, Constraints::new(), site));
            }
        }
        self
    }

    /// Runs a command on this file tree: [`sh`](crate::sh), [`shlex`](crate::shlex()) or a list of arguments.
    #[track_caller]
    pub fn run(&self, command: impl Into<Command>) -> Run {
        Run::new(self.clone(), command.into())
    }

    /// Does file actions as one op.
    #[track_caller]
    pub fn file(&self, action: impl Into<FileAction>) -> Self {
        FileSteps::new(self, action).into()
    }

    /// Copies `src` of another state to `dest`; both may be relative to the states' directories.
    #[track_caller]
    pub fn copy(&self, from: impl Into<CopySource>, src: impl Into<String>, dest: impl Into<String>) -> Self {
        self.file(Copy::new(from, src, dest))
    }

    /// Makes a directory whose parent exists.
    #[track_caller]
    pub fn mkdir(&self, path: impl Into<String>, mode: u32) -> Self {
        self.file(MkDir::new(path, mode))
    }

    /// Writes a file.
    #[track_caller]
    pub fn mkfile(&self, path: impl Into<String>, mode: u32, data: impl Into<bytes::Bytes>) -> Self {
        self.file(MkFile::new(path, mode, data))
    }

    /// Removes a file or a directory tree, which must exist.
    #[track_caller]
    pub fn rm(&self, path: impl Into<String>) -> Self {
        self.file(Rm::new(path))
    }

    /// Makes a symbolic link at `path` that points to `target`; both are kept as written.
    #[track_caller]
    pub fn symlink(&self, target: impl Into<String>, path: impl Into<String>) -> Self {
        self.file(Symlink::new(target, path))
    }

    /// This state, built only if every one of `dependencies` could be built, though they leave nothing in it.
    #[track_caller]
    pub fn requires(
        &self,
        id: impl Into<String>,
        dependencies: impl IntoIterator<Item = impl Into<State>>,
    ) -> Self {
        crate::passthrough::Requires::new(self, id, dependencies).into()
    }

    /// Turns the graph into the bytes a daemon takes. The platform is that of ops without one of their own;
    /// [`MarshalOptions`] says what else can be chosen.
    ///
    /// # Errors
    /// The first mistake found anywhere in the graph, with the op and the line that built it.
    pub fn marshal(&self, options: impl Into<MarshalOptions>) -> Result<Definition, Error> {
        marshal(self, &options.into())
    }
}

impl From<&State> for State {
    fn from(state: &State) -> Self {
        state.clone()
    }
}

impl Default for State {
    fn default() -> Self {
        scratch()
    }
}

impl fmt::Debug for State {
    /// The last op only: printing all of a graph would print shared parts over and over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("State");
        match &self.edge {
            None => out.field("op", &format_args!("scratch")),
            Some(edge) => out.field("op", &edge.vertex).field("output", &edge.slot),
        };
        out.field("dir", &self.context.dir).finish_non_exhaustive()
    }
}
