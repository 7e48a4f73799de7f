//! Builds that a function of the caller drives.

use crate::client::Client;
use crate::connect::Channel;
use crate::request::{Frontend, Input, Request};
use crate::solve::Solve;
use buildkit_frontend::{BuildResult, Environment, Gateway, GrpcBridge, Options};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tonic::{Code, Status};

/// How often a build is looked for that the daemon does not know yet. It waits 3 s each time.
const ATTEMPTS: u32 = 5;

impl Client {
    /// A build that `build` drives from this process: the function that a frontend image serves,
    /// without the image. It may be called again when a push is repeated.
    ///
    /// Options are set with [`opt`](Solve::opt), directories with [`local`](Solve::local); the
    /// errors of `build` come back as those of the daemon.
    ///
    /// ```no_run
    /// # async fn f(client: buildkit_client::Client) -> Result<(), buildkit_client::Error> {
    /// use buildkit_client::export::Export;
    /// use buildkit_frontend::{BuildResult, Gateway};
    ///
    /// async fn build(gateway: Gateway) -> buildkit_frontend::Result<BuildResult> {
    ///     let base = gateway.image("alpine:3.22").await?;
    ///     gateway.solve_state(&base.run(buildkit_llb::sh("date > /built")).root()).await
    /// }
    ///
    /// client.build(build).export(Export::local("out")).await?;
    /// # Ok(()) }
    /// ```
    pub fn build<F, Fut, R, E>(&self, build: F) -> Solve
    where
        F: Fn(Gateway) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        R: Into<BuildResult> + Send + 'static,
        E: Into<buildkit_frontend::Error> + Send + 'static,
    {
        let build = Arc::new(build);
        let function = move |gateway| -> BoxFuture<'static, _> {
            let build = Arc::clone(&build);
            Box::pin(buildkit_frontend::run(gateway, move |gateway| build(gateway)))
        };
        let request = Request { input: Input::Gateway(Frontend::default()), ..Request::default() };
        self.solve_request(request).driven_by(BuildFunction(Arc::new(function)))
    }
}

type Function = dyn Fn(Gateway) -> BoxFuture<'static, buildkit_frontend::Result<BuildResult>> + Send + Sync;

/// A function that drives a build.
#[derive(Clone)]
pub(crate) struct BuildFunction(Arc<Function>);

impl fmt::Debug for BuildFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildFunction")
    }
}

impl BuildFunction {
    /// Drives the build that was sent as `reference`, and reports its result to the daemon.
    pub(crate) async fn drive(
        self,
        channel: Channel,
        reference: String,
        session_id: String,
        options: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let environment = Environment {
            options: Options::from(options),
            session_id,
            product: "buildkit-client".into(),
            ..Environment::default()
        };
        let mut attempt = 1;
        let bridge = loop {
            match GrpcBridge::connect(channel.clone(), Some(&reference), environment.clone()).await {
                Ok(bridge) => break bridge,
                Err(error) if error.code() == buildkit_frontend::Code::NotFound && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(status(&error)),
            }
        };
        let result = (self.0)(Gateway::new(bridge.clone())).await;
        bridge.finish(&result).await.map_err(|error| status(&error))
    }
}

fn status(error: &buildkit_frontend::Error) -> Status {
    use prost::Message as _;
    let wire = error.to_status();
    let details = wire.encode_to_vec();
    Status::with_details(Code::from_i32(wire.code), wire.message, details.into())
}
