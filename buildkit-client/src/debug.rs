//! Looking into a step that failed.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use buildkit_frontend::{
    BuildResult, Container, ContainerMount, Error, Gateway, NewContainer, Output, Process, Running,
    SolveFailure,
};
use buildkit_proto::{control, gateway, pb};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::build::BuildFunction;
use crate::error::BoxError;
use crate::solve::Solve;

/// A step that failed, while the daemon still has its files as they were then.
///
/// Comes from [`Solve::on_failure`], or from [`FailedStep::of`] in a function that drives a build.
pub struct FailedStep {
    gateway: Gateway,
    error: Arc<Error>,
    failure: SolveFailure,
}

impl FailedStep {
    /// The step that made a call of `gateway` fail; `None` where the error tells of none, because it came from
    /// something else than a step, or from a frontend that hides it.
    pub fn of(gateway: &Gateway, error: Error) -> Result<Self, Error> {
        match error.solve_failure().cloned() {
            Some(failure) => Ok(Self { gateway: gateway.clone(), error: Arc::new(error), failure }),
            None => Err(error),
        }
    }

    /// Why it failed: exit code, vertex, place in the Dockerfile.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Program and arguments of the process that failed; empty where the step was none.
    pub fn args(&self) -> Vec<String> {
        strings(self.meta("args"))
    }

    fn exec(&self) -> Option<&Value> {
        self.failure.op.get("exec")
    }

    fn meta(&self, key: &str) -> Option<&Value> {
        self.exec()?.get("meta")?.get(key)
    }

    /// A process with the environment, directory and user of the one that failed.
    pub fn process<T: Into<String>>(&self, args: impl IntoIterator<Item = T>) -> Process {
        let text = |key| self.meta(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let cwd = Some(text("cwd")).filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".into());
        let mut process = Process::from_meta(pb::Meta {
            args: args.into_iter().map(Into::into).collect(),
            env: strings(self.meta("env")),
            cwd,
            user: text("user"),
            ..pb::Meta::default()
        });
        for secret in list(self.exec().and_then(|exec| exec.get("secretenv"))) {
            let field = |name: &str| secret.get(name).and_then(Value::as_str).unwrap_or_default();
            process = process.secret_env(field("name"), field("ID"));
        }
        process
    }

    /// A container on the mounts of the step: its file systems as it left them, its caches, secrets and sockets.
    /// Changes are lost with the container. Its first process is its init: the container ends with it.
    ///
    /// # Errors
    /// When the step ran no process, or the daemon cannot make the container.
    pub async fn container(&self) -> buildkit_frontend::Result<Container> {
        let Some(exec) = self.exec() else {
            return Err(Error::new("the step that failed ran no process: there is nothing to start one on"));
        };
        let mut container = NewContainer::without_root();
        let kept = self.failure.mounts.iter().map(String::as_str).chain(std::iter::repeat(""));
        for (mount, kept) in list(exec.get("mounts")).iter().zip(kept) {
            container = container.mount(ContainerMount::from_wire(read_mount(mount, kept)));
        }
        container = container.network(match exec.get("network").and_then(Value::as_str) {
            Some("HOST") => pb::NetMode::Host,
            Some("NONE") => pb::NetMode::None,
            _ => pb::NetMode::Unset,
        });
        if let Some(name) = self.meta("hostname").and_then(Value::as_str) {
            container = container.hostname(name);
        }
        for host in list(self.meta("extraHosts")) {
            let field = |name: &str| host.get(name).and_then(Value::as_str).unwrap_or_default();
            if let Ok(ip) = field("IP").parse::<IpAddr>() {
                container = container.host(field("Host"), ip);
            }
        }
        self.gateway.container(container).await
    }

    /// Runs a process to its end in a [container](Self::container) of its own, and collects what it writes.
    ///
    /// # Errors
    /// When it cannot be started. A process that fails is no error here.
    pub async fn run<T: Into<String>>(
        &self,
        args: impl IntoIterator<Item = T>,
    ) -> buildkit_frontend::Result<Output> {
        self.container().await?.run(self.process(args)).await
    }

    /// Starts a shell, `/bin/sh`, with a terminal and an input, in a [container](Self::container) of its own. The
    /// container ends when it is dropped.
    ///
    /// # Errors
    /// When it cannot be started: the file system may hold no shell.
    pub async fn shell(&self) -> buildkit_frontend::Result<(Container, Running)> {
        let container = self.container().await?;
        let shell = container.start(self.process(["/bin/sh"]).stdin().tty()).await?;
        Ok((container, shell))
    }
}

impl fmt::Debug for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedStep")
            .field("args", &self.args())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Reads a mount of protobuf's JSON, with the tree that it had in the end.
fn read_mount(mount: &Value, kept: &str) -> pb::Mount {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or_default();
    let number = |value: Option<&Value>| {
        value.and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    };
    let kind = match mount.get("mountType").and_then(Value::as_str) {
        Some("SECRET") => pb::MountType::Secret,
        Some("SSH") => pb::MountType::Ssh,
        Some("CACHE") => pb::MountType::Cache,
        Some("TMPFS") => pb::MountType::Tmpfs,
        _ => pb::MountType::Bind,
    };
    pb::Mount {
        dest: text(mount.get("dest")),
        selector: text(mount.get("selector")),
        readonly: flag(mount.get("readonly")),
        mount_type: kind.into(),
        result_id: kept.to_owned(),
        cache_opt: mount.get("cacheOpt").map(|cache| pb::CacheOpt {
            id: text(cache.get("ID")),
            sharing: match cache.get("sharing").and_then(Value::as_str) {
                Some("PRIVATE") => pb::CacheSharingOpt::Private,
                Some("LOCKED") => pb::CacheSharingOpt::Locked,
                _ => pb::CacheSharingOpt::Shared,
            }
            .into(),
        }),
        secret_opt: mount.get("secretOpt").map(|secret| pb::SecretOpt {
            id: text(secret.get("ID")),
            uid: number(secret.get("uid")),
            gid: number(secret.get("gid")),
            mode: number(secret.get("mode")),
            optional: flag(secret.get("optional")),
        }),
        ssh_opt: mount.get("SSHOpt").map(|ssh| pb::SshOpt {
            id: text(ssh.get("ID")),
            uid: number(ssh.get("uid")),
            gid: number(ssh.get("gid")),
            mode: number(ssh.get("mode")),
            optional: flag(ssh.get("optional")),
        }),
        tmpfs_opt: mount
            .get("TmpfsOpt")
            .map(|tmpfs| pb::TmpfsOpt { size: text(tmpfs.get("size")).parse().unwrap_or_default() }),
        ..pb::Mount::default()
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What is done about a step that failed.
#[derive(Clone)]
pub(crate) struct Look(Arc<dyn Fn(FailedStep) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

impl Solve {
    /// Calls `look` when a step fails, while its files are still there: to open a shell on them, or to take out a log.
    /// The build ends after it, with the error of the step.
    ///
    /// The build is then driven from here: its result is built before exporters see it. What `look` returns as an
    /// error is logged. Builds of [`Client::build`](crate::Client::build) are driven by their function, which may use
    /// [`FailedStep::of`]; there this does nothing.
    ///
    /// ```no_run
    /// # async fn f(client: buildkit_client::Client, graph: buildkit_llb::State) -> Result<(), buildkit_client::Error> {
    /// client
    ///     .solve(graph)
    ///     .on_failure(|step| async move {
    ///         let log = step.run(["cat", "config.log"]).await?;
    ///         eprintln!("{}: {}", step.args().join(" "), String::from_utf8_lossy(&log.stdout));
    ///         Ok(())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn on_failure<F, Fut>(self, look: F) -> Self
    where
        F: Fn(FailedStep) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.looked_into(Look(Arc::new(move |step| Box::pin(look(step)))))
    }
}

impl Look {
    /// Takes the work out of a request, and gives it to a function that looks at what fails.
    pub(crate) fn take_over(&self, message: &mut control::SolveRequest) -> BuildFunction {
        let imports = message.cache.iter().flat_map(|cache| &cache.imports);
        let cache_imports = imports
            .map(|import| gateway::CacheOptionsEntry {
                r#type: import.r#type.clone(),
                attrs: import.attrs.clone(),
            })
            .collect();
        let request = gateway::SolveRequest {
            definition: message.definition.take(),
            frontend: std::mem::take(&mut message.frontend),
            frontend_opt: message.frontend_attrs.clone(),
            frontend_inputs: std::mem::take(&mut message.frontend_inputs),
            cache_imports,
            evaluate: true,
            ..gateway::SolveRequest::default()
        };
        let look = self.clone();
        BuildFunction::new(move |gateway| {
            let (look, request) = (look.clone(), request.clone());
            Box::pin(async move { look.solve(gateway, request).await })
        })
    }

    async fn solve(
        &self,
        gateway: Gateway,
        request: gateway::SolveRequest,
    ) -> buildkit_frontend::Result<BuildResult> {
        let error = match gateway.solve(request).await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        let step = FailedStep::of(&gateway, error)?;
        let error = Arc::clone(&step.error);
        if let Err(error) = (self.0)(step).await {
            tracing::warn!(error = %crate::error::report(&*error), "the failed step could not be looked into");
        }
        // The function may still hold the step, and the error with it.
        Err(Arc::try_unwrap(error).unwrap_or_else(|error| Error::from_status(error.to_status())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mounts_are_made_again_from_protobufs_json() {
        let tree = read_mount(&json!({"dest": "/", "input": "0", "output": "0", "selector": "/sub"}), "kept");
        assert_eq!(
            (tree.dest.as_str(), tree.selector.as_str(), tree.result_id.as_str()),
            ("/", "/sub", "kept")
        );
        assert_eq!(tree.mount_type(), pb::MountType::Bind);
        let cache =
            json!({"dest": "/c", "mountType": "CACHE", "cacheOpt": {"ID": "id", "sharing": "LOCKED"}});
        let cache = read_mount(&cache, "");
        assert_eq!(cache.mount_type(), pb::MountType::Cache);
        let option = cache.cache_opt.unwrap();
        assert_eq!((option.id.as_str(), option.sharing()), ("id", pb::CacheSharingOpt::Locked));
        let secret = json!({"dest": "/s", "mountType": "SECRET", "readonly": true,
                            "secretOpt": {"ID": "token", "mode": 256, "optional": true}});
        let secret = read_mount(&secret, "");
        let option = secret.secret_opt.unwrap();
        assert_eq!((option.id.as_str(), option.mode, option.optional), ("token", 0o400, true));
        let tmpfs =
            read_mount(&json!({"dest": "/t", "mountType": "TMPFS", "TmpfsOpt": {"size": "4096"}}), "");
        assert_eq!(tmpfs.tmpfs_opt.unwrap().size, 4096);
        for odd in [json!(null), json!([]), json!({"mountType": 7, "cacheOpt": "x", "secretOpt": []})] {
            read_mount(&odd, "");
        }
    }
}
