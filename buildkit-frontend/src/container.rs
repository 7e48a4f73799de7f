//! Containers: processes that a frontend runs while it builds.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use buildkit_llb::Platform;
use buildkit_proto::{gateway, pb};
use bytes::Bytes;

use crate::bridge::{Bridge, Tree};
use crate::caps::gateway as cap;
use crate::error::{Code, Error, Result};
use crate::process::{Process, Running};
use crate::reference::{Reference, stats};
use crate::stat::FileStat;

/// What a container is made of: its mounts, network and platform.
///
/// ```
/// # async fn look(gateway: buildkit_frontend::Gateway, tree: buildkit_frontend::Reference)
/// # -> buildkit_frontend::Result<()> {
/// use buildkit_frontend::{ContainerMount, NewContainer, Process};
///
/// let container = gateway
///     .container(NewContainer::new(&tree).mount(ContainerMount::cache("/var/cache", "apk")))
///     .await?;
/// let output = container.run(Process::new(["uname", "-r"])).await?;
/// println!("{}", String::from_utf8_lossy(&output.stdout));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a container is made by Gateway::container"]
pub struct NewContainer {
    request: gateway::NewContainerRequest,
}

impl NewContainer {
    /// A container whose root file system is this tree. Changes to it are
    /// lost with the container.
    pub fn new(root: &Reference) -> Self {
        Self::default().mount(ContainerMount::tree("/", root))
    }

    /// A container without a root yet: it needs a mount at `/`.
    pub fn without_root() -> Self {
        Self::default()
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: ContainerMount) -> Self {
        self.request.mounts.push(mount.0);
        self
    }

    /// The network of its processes; the worker's sandboxed one by default.
    pub fn network(mut self, mode: pb::NetMode) -> Self {
        self.request.network = mode.into();
        self
    }

    /// The platform of its processes; the daemon's by default.
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.request.platform = Some(crate::platform::to_wire(platform));
        self
    }

    /// Adds a line to its `/etc/hosts`.
    pub fn host(mut self, name: impl Into<String>, ip: std::net::IpAddr) -> Self {
        self.request.extra_hosts.push(pb::HostIp { host: name.into(), ip: ip.to_string() });
        self
    }

    /// Its host name.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.request.hostname = name.into();
        self
    }

    /// Which workers may run it, in containerd's filter syntax.
    pub fn worker_filter(mut self, filter: impl Into<String>) -> Self {
        self.request.constraints.get_or_insert_default().filter.push(filter.into());
        self
    }
}

#[cfg(test)]
impl NewContainer {
    pub(crate) fn into_request(self) -> gateway::NewContainerRequest {
        self.request
    }
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerMount(pb::Mount);

impl ContainerMount {
    fn new(dest: impl Into<String>, kind: pb::MountType) -> Self {
        Self(pb::Mount { dest: dest.into(), mount_type: kind.into(), ..pb::Mount::default() })
    }

    /// A tree that was solved for.
    pub fn tree(dest: impl Into<String>, reference: &Reference) -> Self {
        Self::failed(dest, reference.id())
    }

    /// An empty directory.
    pub fn scratch(dest: impl Into<String>) -> Self {
        Self::new(dest, pb::MountType::Bind)
    }

    /// A tree of a failed build, called as in
    /// [`SolveFailure`](crate::SolveFailure); empty is an empty directory.
    pub fn failed(dest: impl Into<String>, id: impl Into<String>) -> Self {
        let mut mount = Self::new(dest, pb::MountType::Bind);
        mount.0.result_id = id.into();
        mount
    }

    /// A cache directory that outlives the build.
    pub fn cache(dest: impl Into<String>, id: impl Into<String>) -> Self {
        let mut mount = Self::new(dest, pb::MountType::Cache);
        mount.0.cache_opt = Some(pb::CacheOpt { id: id.into(), sharing: pb::CacheSharingOpt::Shared.into() });
        mount
    }

    /// A directory in memory, of at most `size` bytes (0: half the memory).
    pub fn tmpfs(dest: impl Into<String>, size: u64) -> Self {
        let mut mount = Self::new(dest, pb::MountType::Tmpfs);
        mount.0.tmpfs_opt = Some(pb::TmpfsOpt { size: i64::try_from(size).unwrap_or(i64::MAX) });
        mount
    }

    /// A secret of the client as a file with permissions 0400.
    pub fn secret(dest: impl Into<String>, id: impl Into<String>) -> Self {
        let mut mount = Self::new(dest, pb::MountType::Secret);
        mount.0.secret_opt = Some(pb::SecretOpt { id: id.into(), mode: 0o400, ..pb::SecretOpt::default() });
        mount
    }

    /// The socket of an SSH agent of the client, with permissions 0600.
    pub fn ssh(dest: impl Into<String>, id: impl Into<String>) -> Self {
        let mut mount = Self::new(dest, pb::MountType::Ssh);
        mount.0.ssh_opt = Some(pb::SshOpt { id: id.into(), mode: 0o600, ..pb::SshOpt::default() });
        mount
    }

    /// Mounts only this path of the tree.
    #[must_use]
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.0.selector = path.into();
        self
    }

    /// Refuses writes.
    #[must_use]
    pub fn readonly(mut self) -> Self {
        self.0.readonly = true;
        self
    }

    /// The owner of the secret's file or the agent's socket; root by default.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        if let Some(secret) = &mut self.0.secret_opt {
            (secret.uid, secret.gid) = (uid, gid);
        }
        if let Some(ssh) = &mut self.0.ssh_opt {
            (ssh.uid, ssh.gid) = (uid, gid);
        }
        self
    }

    /// The permissions of the secret's file or the agent's socket.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        if let Some(secret) = &mut self.0.secret_opt {
            secret.mode = mode;
        }
        if let Some(ssh) = &mut self.0.ssh_opt {
            ssh.mode = mode;
        }
        self
    }

    /// Goes without, when the secret or agent is not there.
    #[must_use]
    pub fn optional(mut self) -> Self {
        if let Some(secret) = &mut self.0.secret_opt {
            secret.optional = true;
        }
        if let Some(ssh) = &mut self.0.ssh_opt {
            ssh.optional = true;
        }
        self
    }

    /// The mount as it travels, for options this type does not offer.
    pub fn from_wire(mount: pb::Mount) -> Self {
        Self(mount)
    }
}

/// A container. Its first process is its init: the container ends with it.
/// Dropping the handle ends the container too.
pub struct Container {
    bridge: Arc<dyn Bridge>,
    id: String,
    processes: AtomicU64,
}

impl Container {
    pub(crate) async fn create(bridge: &Arc<dyn Bridge>, request: NewContainer) -> Result<Self> {
        let mut request = request.request;
        let environment = bridge.environment();
        environment.caps.require(cap::EXEC, &environment.product)?;
        if !request.extra_hosts.is_empty() {
            environment.caps.require(cap::EXEC_EXTRA_HOSTS, &environment.product)?;
        }
        let Some(root) = request.mounts.iter().find(|mount| mount.dest == "/") else {
            return Err(Error::with_code(Code::InvalidArgument, "a container needs a mount at /"));
        };
        if root.mount_type() != pb::MountType::Bind {
            return Err(Error::with_code(Code::InvalidArgument, "the mount at / must be a tree"));
        }
        let id = unique_id();
        request.container_id.clone_from(&id);
        // From here on the container may exist, even when this call is dropped.
        let container = Self { bridge: Arc::clone(bridge), id, processes: AtomicU64::new(0) };
        bridge.new_container(request).await?;
        Ok(container)
    }

    /// What the daemon calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts a process and waits until it runs.
    ///
    /// # Errors
    /// When it cannot be started: no such program, a missing secret, or a
    /// container whose init has ended.
    pub async fn start(&self, process: Process) -> Result<Running> {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        Running::start(&self.bridge, &self.id, format!("{}:{number}", self.id), process).await
    }

    /// Runs a process to its end and collects what it writes, at most
    /// 16 MiB.
    ///
    /// # Errors
    /// When it cannot be started. A process that fails is no error here: look
    /// at the [`Output`](crate::process::Output)'s exit code.
    pub async fn run(&self, process: Process) -> Result<crate::process::Output> {
        let mut running = self.start(process).await?;
        running.close_stdin();
        running.output().await
    }

    /// Reads a file of the mount with this index, from 0 in the order of
    /// [`NewContainer::mount`]. The path is inside of the mount.
    pub async fn read_file(&self, mount: usize, path: &str) -> Result<Bytes> {
        self.bridge.read_file(self.tree(mount)?, &absolute(path), None).await
    }

    /// Reads a part of a file of a mount; less comes back at its end. The whole
    /// file, of at most 16 MiB, is sent: daemons pay no heed to ranges here.
    pub async fn read_range(&self, mount: usize, path: &str, range: Range<u64>) -> Result<Bytes> {
        let whole = self.read_file(mount, path).await?;
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        let (start, end) = (at(range.start), at(range.end));
        Ok(whole.slice(start..end.max(start)))
    }

    /// Lists a directory of a mount.
    pub async fn read_dir(&self, mount: usize, path: &str) -> Result<Vec<FileStat>> {
        Ok(stats(self.bridge.read_dir(self.tree(mount)?, &absolute(path), "").await?))
    }

    /// Looks at a file of a mount.
    pub async fn stat(&self, mount: usize, path: &str) -> Result<FileStat> {
        self.bridge.stat_file(self.tree(mount)?, &absolute(path)).await.map(FileStat::from)
    }

    fn tree(&self, mount: usize) -> Result<Tree<'_>> {
        let environment = self.bridge.environment();
        environment.caps.require(cap::EXEC_FILESYSTEM, &environment.product)?;
        let index = i32::try_from(mount)
            .map_err(|_| Error::with_code(Code::InvalidArgument, "there are not so many mounts"))?;
        Ok(Tree::Mount { container: &self.id, index })
    }

    /// Ends the container and all that runs in it, and waits for that.
    ///
    /// # Errors
    /// When the daemon could not end it. How its processes ended is no error.
    pub async fn release(self) -> Result<()> {
        let mut container = self;
        let released = container.bridge.release_container(&container.id).await;
        // Nothing is left for `drop` to do: a container is released once, whatever comes of it.
        container.id.clear();
        match released {
            // The daemon answers with the first process that failed, or that it had to kill; old ones as text only.
            Err(error)
                if error.exit_code().is_some()
                    || error.code() == Code::Cancelled
                    || error.message().ends_with("context canceled") =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            self.bridge.abandon_container(std::mem::take(&mut self.id));
        }
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The path from the root of a mount: daemons refuse others.
fn absolute(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') { path.into() } else { format!("/{path}").into() }
}

/// An id no other container of the build has. Ids are the caller's choice and
/// matter inside one build only, so a counter with the seed of this process's
/// hash maps is enough.
fn unique_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let state = RandomState::new();
    format!("{:016x}{:016x}", state.hash_one(count), state.hash_one((count, std::process::id())))
}
