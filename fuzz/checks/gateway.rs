//! What must hold of everything a daemon says to a frontend, and of what a simulated gateway is asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buildkit_frontend::{
    Bridge as _, Contexts, Environment, Error, Event, Gateway, GrpcBridge, ImageConfig, NewContainer,
    Process, Reference, ResolveSource, Result, Simulated, Solve, Tree, Warning,
};
use buildkit_llb::{Platform, scratch};
use buildkit_proto::caps::ApiCap;
use buildkit_proto::gateway as wire;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Service};

/// Whatever a daemon answers, a frontend gets values or errors that say something, in bounded time; what it then returns
/// can be sent.
///
/// The first byte has options, the second says which calls are made. Then answers, one for each call: a byte for its
/// kind, its length in two bytes, and the message. A process gets all that is left.
pub(crate) fn gateway_request(data: &[u8]) {
    let [options, calls, script @ ..] = data else { return };
    let items = items(script);
    if options & 1 != 0 {
        return run(asked(&items));
    }
    let daemon = Daemon {
        script: Arc::new(Mutex::new(items.into())),
        piece: if options & 2 == 0 { usize::MAX } else { usize::from(options >> 4) + 1 },
        pings: options & 4 != 0,
    };
    run(frontend(daemon, *calls));
}

/// One thing that is said.
type Item = (u8, Bytes);

fn items(mut script: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    while let [kind, high, low, rest @ ..] = script {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        script = rest;
        items.push((*kind, Bytes::copy_from_slice(message)));
    }
    items
}

fn run(program: impl Future<Output = ()>) {
    // A runtime for each input: what a call leaves running ends with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let bounded = async { tokio::time::timeout(Duration::from_secs(8), program).await };
    runtime.block_on(bounded).expect("a build that ends");
}

/// What went wrong is told, and can be told to others.
fn noted<T>(result: Result<T>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let _ = (error.vertex(), error.exit_code(), error.is_not_found(), error.locations().len());
    let _ = error.solve_failure().map(|failure| format!("{failure:?}"));
    assert!(!error.report().is_empty(), "{error:?} says nothing");
    let told = Error::from_status(error.to_status());
    assert_eq!((told.code(), told.message()), (error.code(), error.report().as_str()));
    None
}

async fn frontend(daemon: Daemon, calls: u8) {
    let Some(bridge) = noted(GrpcBridge::connect(daemon, None, Environment::default()).await) else { return };
    let gateway = Gateway::new(bridge.clone());
    let _ = (gateway.workers().len(), gateway.default_platform(), gateway.caps().names().count());
    let graph = gateway.marshal(&scratch().mkdir("/a", 0o755)).expect("a graph");
    let solved = gateway.solve(Solve::definition(&graph).evaluate()).await;
    if let Ok(result) = &solved {
        let _ = (noted(result.platforms()), noted(result.single().map(drop)), format!("{result:?}"));
        for (_, reference) in result.references().into_iter().take(2) {
            if let Some(reference) = reference {
                look(&gateway, reference, calls).await;
            }
        }
    }
    if calls & 1 != 0 {
        if let Some(image) = noted(gateway.resolve_image("alpine").await) {
            let _ = noted(ImageConfig::from_json(&image.config)).map(|config| config.to_json());
        }
        if let Some(base) = noted(gateway.base_image("alpine", &Platform::LINUX_AMD64).await) {
            let _ = noted(gateway.marshal(&base.state));
        }
        noted(gateway.resolve_source(ResolveSource::new("git://h/r.git").git_objects()).await);
    }
    if calls & 2 != 0 {
        noted(gateway.inputs().await);
        noted(gateway.warn(Warning { short: "w".into(), ..Warning::default() }).await);
    }
    if calls & 4 != 0
        && let Some(contexts) = noted(Contexts::open(&gateway).await)
    {
        if let Some(file) = noted(contexts.file("Dockerfile").await) {
            let _ = (noted(file.text().map(str::len)), file.info());
        }
        noted(contexts.main().await);
        noted(contexts.named("a").await);
    }
    noted(bridge.finish(&solved).await);
    noted(solved);
}

async fn look(gateway: &Gateway, reference: &Reference, calls: u8) {
    let _ = (noted(reference.definition()), noted(reference.state()));
    if calls & 8 != 0 {
        noted(reference.evaluate().await);
        noted(reference.read_file("a").await);
        noted(reference.read_range("a", 1..3).await);
        noted(reference.read_optional("a").await);
    }
    if calls & 16 != 0 {
        for stat in noted(reference.read_dir("/").await).into_iter().flatten() {
            assert!(!stat.path_lossy().contains('\0') || stat.path_lossy().len() < 1 << 20);
        }
        noted(reference.stat("a").await.map(|stat| format!("{stat:?}")));
        noted(reference.exists("a").await);
    }
    if calls & 32 == 0 {
        return;
    }
    let Some(container) = noted(gateway.container(NewContainer::new(reference)).await) else { return };
    let process = Process::new(["a"]).stdin();
    if calls & 64 != 0 {
        noted(container.run(process).await.map(|output| output.stdout.len() + output.stderr.len()));
    } else if let Some(mut running) = noted(container.start(process).await) {
        noted(running.resize(1, 1).await);
        while let Some(Some(event)) = noted(running.next().await) {
            if let Event::Stdout(bytes) | Event::Stderr(bytes) = event {
                assert!(!bytes.is_empty());
            }
        }
        noted(running.wait().await);
    }
    if calls & 128 != 0 {
        noted(container.release().await);
    }
}

/// A simulated gateway answers whatever it is asked.
async fn asked(items: &[Item]) {
    let simulated = Simulated::new().file("", "a/b", "content").on_process(|process| {
        Ok(buildkit_frontend::Output {
            exit: buildkit_frontend::Exit { code: u32::try_from(process.meta.args.len()).unwrap_or(0) },
            stdout: Bytes::from_static(b"out"),
            stderr: Bytes::new(),
        })
    });
    noted(simulated.solve(wire::SolveRequest::default()).await);
    noted(simulated.new_container(wire::NewContainerRequest::default()).await);
    let mut messages = Vec::new();
    for (kind, bytes) in items {
        match kind % 6 {
            0 => noted(simulated.solve(read(bytes)).await).map_or((), drop),
            1 => noted(simulated.resolve_source(read(bytes)).await).map_or((), drop),
            2 => {
                let asked: wire::ReadFileRequest = read(bytes);
                let tree = Tree::Reference("ref-0");
                let content = noted(simulated.read_file(tree, &asked.file_path, asked.range).await);
                assert!(content.is_none_or(|content| content.len() <= 7));
            }
            3 => {
                let asked: wire::ReadDirRequest = read(bytes);
                let tree = Tree::Reference(&asked.r#ref);
                noted(simulated.read_dir(tree, &asked.dir_path, &asked.include_pattern).await);
            }
            4 => {
                let asked: wire::StatFileRequest = read(bytes);
                noted(simulated.stat_file(Tree::Reference("ref-0"), &asked.path).await);
            }
            _ => messages.push(read::<wire::ExecMessage>(bytes)),
        }
    }
    if let Some(mut answers) = noted(simulated.exec(futures::stream::iter(messages).boxed()).await) {
        while let Some(answer) = answers.next().await {
            noted(answer);
        }
    }
}

fn read<M: Message + Default>(bytes: &Bytes) -> M {
    M::decode(bytes.clone()).unwrap_or_default()
}

/// A daemon that says what stands in the script, in turn, and then only empty messages.
#[derive(Clone)]
struct Daemon {
    script: Arc<Mutex<VecDeque<Item>>>,
    /// Longest piece of a body.
    piece: usize,
    /// Whether the first answer is in the script as well; else it can do everything.
    pings: bool,
}

impl Service<Request<tonic::body::Body>> for Daemon {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let daemon = self.clone();
        let mut said = request.into_body();
        Box::pin(async move {
            let first = std::future::poll_fn(|cx| Pin::new(&mut said).poll_frame(cx)).await;
            // Whatever else is sent is taken, for as long as it comes.
            tokio::spawn(async move {
                while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut said).poll_frame(cx)).await {}
            });
            let first = first.and_then(std::result::Result::ok).and_then(|frame| frame.into_data().ok());
            let mut response = Response::new(daemon.answer(&call, &first.unwrap_or_default()));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok(response)
        })
    }
}

impl Daemon {
    fn answer(&self, call: &str, asked: &[u8]) -> Answer {
        let mut script = self.script.lock().expect("one thread");
        if call == "Ping" && !self.pings {
            return Answer::new(framed(&everything().encode_to_vec()), ended(0, b""), self.piece);
        }
        if call == "ExecProcess" {
            let started: wire::ExecMessage =
                read(&Bytes::copy_from_slice(asked.get(5..).unwrap_or_default()));
            let mut body = BytesMut::new();
            let mut end = ended(0, b"");
            for (kind, message) in script.drain(..) {
                match kind % 4 {
                    1 => end = ended(message.first().copied().unwrap_or(2), &message),
                    2 => body.put(message),
                    3 => body.put(framed(&message)),
                    // Nobody could guess what the process is called.
                    _ => {
                        let process_id = started.process_id.clone();
                        let message = wire::ExecMessage { process_id, ..read(&message) };
                        body.put(framed(&message.encode_to_vec()));
                    }
                }
            }
            return Answer::new(body.freeze(), end, self.piece);
        }
        match script.pop_front() {
            None => Answer::new(framed(b""), ended(0, b""), self.piece),
            Some((kind, message)) => match kind % 4 {
                1 => Answer::new(Bytes::new(), ended(message.first().copied().unwrap_or(2), &message), 1),
                2 => Answer::new(message, ended(0, b""), self.piece),
                _ => Answer::new(framed(&message), ended(0, b""), self.piece),
            },
        }
    }
}

/// A daemon that can do all there is.
fn everything() -> wire::PongResponse {
    let able = |id: &str| ApiCap { id: id.to_owned(), enabled: true, ..ApiCap::default() };
    let environment = Simulated::new();
    let llb = &environment.environment().llb_caps;
    wire::PongResponse {
        frontend_api_caps: buildkit_frontend::Caps::current_gateway().names().map(able).collect(),
        llb_caps: llb.iter().map(|(name, _)| able(name)).collect(),
        workers: Vec::new(),
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.put_slice(message);
    frame.freeze()
}

/// The end of an answer: a code, with the rest of the message as text and as details.
fn ended(code: u8, message: &[u8]) -> HeaderMap {
    const DETAILS: &str = "grpc-status-details-bin";
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code & 127)));
    if let Some(rest) = message.get(1..) {
        if let Ok(text) = HeaderValue::from_bytes(rest) {
            trailers.insert("grpc-message", text);
        }
        match HeaderValue::from_bytes(rest) {
            // Whoever is hostile does not encode them.
            Ok(raw) if code & 128 != 0 => drop(trailers.insert(DETAILS, raw)),
            _ => {
                let mut metadata = tonic::metadata::MetadataMap::new();
                metadata.insert_bin(DETAILS, tonic::metadata::MetadataValue::from_bytes(rest));
                trailers.extend(metadata.into_headers());
            }
        }
    }
    trailers
}

/// The body of an answer, in pieces.
struct Answer {
    rest: Bytes,
    piece: usize,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn new(rest: Bytes, trailers: HeaderMap, piece: usize) -> Self {
        Self { rest, piece, trailers: Some(trailers) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let length = self.rest.len().min(self.piece);
        if length > 0 {
            return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
