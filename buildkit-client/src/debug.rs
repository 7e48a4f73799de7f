//! Looking into a step that failed.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use buildkit_frontend::{BuildResult, Container, Error, Gateway, Output, Process, Running, SolveFailure};
use buildkit_proto::{control, gateway};
use futures::future::BoxFuture;

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
        self.failure.args()
    }

    /// A process with the environment, secrets, directory, user and privileges of the one that failed.
    pub fn process<T: Into<String>>(&self, args: impl IntoIterator<Item = T>) -> Process {
        let failed = self.failure.process();
        failed.unwrap_or_else(|_| Process::new::<String>([])).args(args)
    }

    /// A container on the mounts of the step: its file systems as it left them, its caches, secrets and sockets.
    /// Changes are lost with the container. Its first process is its init: the container ends with it.
    ///
    /// # Errors
    /// When the step ran no process, or the daemon cannot make the container.
    pub async fn container(&self) -> buildkit_frontend::Result<Container> {
        self.gateway.container(self.failure.container()?).await
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
    use buildkit_frontend::{Detail, Simulated};
    use serde_json::json;

    fn failed(simulated: &Simulated, op: serde_json::Value) -> FailedStep {
        let failure = SolveFailure { op, ..SolveFailure::default() };
        let error = Error::new("exit code: 9").with_detail(Detail::Solve(Box::new(failure)));
        FailedStep::of(&simulated.gateway(), error).unwrap()
    }

    #[tokio::test]
    async fn processes_beside_a_failed_one_have_its_surroundings() {
        let simulated = Simulated::new().secret("t", "told").on_process(|process| {
            let seen = [process.env("A"), process.env("T"), process.env("O")].map(Option::unwrap_or_default);
            let mounts: Vec<_> = process.container.mounts.iter().map(|mount| &*mount.dest).collect();
            let text = [&process.meta.args.join(" "), &*process.meta.cwd, &seen.join(","), &mounts.join(",")];
            Ok(Output::success(text.join("|")))
        });
        let op = json!({"exec": {"meta": {"args": ["make"], "env": ["A=b"], "cwd": "/w"},
            "mounts": [{"dest": "/"}, {"dest": "/c", "mountType": "CACHE", "cacheOpt": {"ID": "c"}}],
            "secretenv": [{"ID": "t", "name": "T"}, {"ID": "o", "name": "O", "optional": true}]}});
        let step = failed(&simulated, op);
        assert_eq!(step.args(), ["make"]);
        assert_eq!(step.run(["ls", "-l"]).await.unwrap().stdout, "ls -l|/w|b,told,|/,/c");
    }

    #[tokio::test]
    async fn a_step_without_a_process_has_no_surroundings() {
        let step = failed(&Simulated::new().on_process(|_| unreachable!()), json!({"file": {}}));
        assert!(step.args().is_empty());
        assert_eq!(step.run(["ls"]).await.unwrap_err().message(), "the step that failed ran no process");
        let other = FailedStep::of(&Simulated::new().gateway(), Error::new("no such image"));
        assert_eq!(other.unwrap_err().message(), "no such image");
    }
}
