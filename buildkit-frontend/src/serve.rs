//! Running as a frontend image: HTTP/2 on stdin and stdout, everything else
//! in the environment.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, io};

use buildkit_llb::{Definition, Platform};
use futures::FutureExt as _;
use futures::future::{Either, select};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tonic::body::Body;
use tonic::codegen::StdError;

use crate::bridge::{Environment, Worker};
use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::grpc::GrpcBridge;
use crate::options::Options;
use crate::output::{BuildResult, PlatformJson};
use crate::run::run;

/// How long the daemon may take to answer the first call.
const HELLO: Duration = Duration::from_secs(15);

/// Where the daemon leaves the graph the frontend image came from.
const FRONTEND: &str = "/run/config/buildkit/metadata/frontend.bin";

/// Errors of the daemon hold the user's files, so its answers have long
/// trailers.
const MAX_HEADERS: u32 = 16 << 20;

/// How much may be under way to us.
const WINDOW: u32 = 4 << 20;

/// Runs `build` as a frontend image and reports its result to the daemon.
///
/// This is the whole `main` of a frontend. Standard output belongs to the
/// connection: what the program prints there goes to standard error instead,
/// and that is the daemon's log. A panic of `build` is reported as an error.
///
/// ```no_run
/// use buildkit_frontend::{BuildResult, Gateway, Result, serve};
///
/// async fn build(gateway: Gateway) -> Result<BuildResult> {
///     let name = gateway.options().build_arg("NAME").unwrap_or("world");
///     Err(buildkit_frontend::Error::new(format!("there is nothing to build for {name}")))
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<()> {
///     serve(build).await
/// }
/// ```
///
/// # Errors
/// The error of `build`, after it was reported, or what kept it from being
/// called or reported.
pub async fn serve<F, Fut, R, E>(build: F) -> Result<()>
where
    F: FnOnce(Gateway) -> Fut,
    Fut: Future<Output = Result<R, E>>,
    R: Into<BuildResult>,
    E: Into<Error>,
{
    let environment = environment(
        env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    if environment.session_id.is_empty() && env::var_os("BUILDKIT_WORKERS").is_none() {
        return Err(Error::with_code(
            Code::FailedPrecondition,
            "this is a BuildKit frontend: name its image in the first line of a Dockerfile, \
             as in `# syntax=registry.example/frontend`, instead of running it",
        ));
    }
    let io = Stdio::take().map_err(|error| Error::context("cannot use stdin and stdout", error))?;
    let (transport, mut end) = connect(io).await?;
    let bridge = tokio::time::timeout(HELLO, GrpcBridge::connect(transport, None, environment))
        .await
        .map_err(|_| Error::with_code(Code::DeadlineExceeded, "the daemon did not answer within 15 s"))??;
    // A cancelled build closes the connection; nobody waits for the rest.
    let result = match select(pin!(run(Gateway::new(bridge.clone()), build)), &mut end).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => return Err(Error::with_code(Code::Cancelled, "the daemon ended the build")),
    };
    bridge.finish(&result).await.map_err(|error| Error::context("cannot report the result", error))?;
    result.map(drop)
}

/// What the daemon says through the environment.
fn environment(vars: impl Iterator<Item = (String, String)>) -> Environment {
    let mut options = BTreeMap::new();
    let mut environment = Environment::default();
    for (name, value) in vars {
        if let Some(number) = name.strip_prefix("BUILDKIT_FRONTEND_OPT_") {
            if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
                let (option, text) = value.split_once('=').unwrap_or((&value, ""));
                options.insert(option.to_owned(), text.to_owned());
            }
            continue;
        }
        match name.as_str() {
            "BUILDKIT_SESSION_ID" => environment.session_id = value,
            "BUILDKIT_EXPORTEDPRODUCT" => environment.product = value,
            "BUILDKIT_WORKERS" => environment.workers = workers(&value),
            _ => {}
        }
    }
    environment.options = Options::from(options);
    environment.frontend = std::fs::read(FRONTEND).ok().and_then(|bytes| Definition::from_bytes(bytes).ok());
    environment
}

fn workers(json: &str) -> Vec<Worker> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct WorkerJson {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Labels")]
        labels: Option<BTreeMap<String, String>>,
        #[serde(rename = "Platforms")]
        platforms: Option<Vec<PlatformJson>>,
    }
    let workers: Vec<WorkerJson> = serde_json::from_str(json).unwrap_or_default();
    workers
        .into_iter()
        .map(|worker| Worker {
            id: worker.id,
            labels: worker.labels.unwrap_or_default(),
            platforms: worker.platforms.unwrap_or_default().into_iter().map(Platform::from).collect(),
        })
        .collect()
}

/// The connection's two pipes.
struct Stdio {
    input: Box<dyn AsyncRead + Send + Unpin>,
    output: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Stdio {
    /// Takes stdin and stdout away from the rest of the program, so that a
    /// stray `println!` cannot damage the connection.
    fn take() -> io::Result<Self> {
        let input = rustix::io::dup(io::stdin())?;
        let output = rustix::io::dup(io::stdout())?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        if let Ok(nothing) = std::fs::File::open("/dev/null") {
            rustix::stdio::dup2_stdin(nothing)?;
        }
        // The daemon gives pipes. Anything else is read on threads, which
        // works everywhere but outlives the runtime.
        let input: Box<dyn AsyncRead + Send + Unpin> =
            match input.try_clone().and_then(pipe::Receiver::from_owned_fd) {
                Ok(pipe) => Box::new(pipe),
                Err(_) => Box::new(tokio::fs::File::from_std(input.into())),
            };
        let output: Box<dyn AsyncWrite + Send + Unpin> =
            match output.try_clone().and_then(pipe::Sender::from_owned_fd) {
                Ok(pipe) => Box::new(pipe),
                Err(_) => Box::new(tokio::fs::File::from_std(output.into())),
            };
        Ok(Self { input, output })
    }
}

/// A connection, and what tells its end.
async fn connect(io: Stdio) -> Result<(Connection, tokio::task::JoinHandle<()>)> {
    let io = TokioIo::new(tokio::io::join(io.input, io.output));
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(WINDOW)
        // Half of it is how much h2 lets small frames weigh before it ends the connection, each as up to 256 bytes:
        // much, where a process prints in bits and pieces.
        .initial_connection_window_size(WINDOW * 64)
        .handshake(io)
        .await
        .map_err(|error| Error::context("cannot speak HTTP/2 with the daemon", error))?;
    Ok((Connection { send }, tokio::spawn(connection.map(drop))))
}

/// Carries calls to the daemon at the other end of stdio.
#[derive(Debug, Clone)]
struct Connection {
    send: http2::SendRequest<Body>,
}

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(http::uri::Authority::from_static("localhost"));
        match http::Uri::from_parts(uri) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        }
        let answer = self.send.send_request(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}
