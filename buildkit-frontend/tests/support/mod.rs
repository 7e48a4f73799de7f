//! The daemon's end of a gateway, over a simulation: what a frontend sends
//! is decoded by the contract's own server.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::missing_panics_doc, reason = "only in tests")]

use std::result::Result;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use buildkit_frontend::{Bridge, Error, Simulated, Tree};
use buildkit_proto::caps::ApiCap;
use buildkit_proto::gateway::llb_bridge_server::{LlbBridge, LlbBridgeServer};
use buildkit_proto::gateway::*;
use buildkit_proto::worker::WorkerRecord;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{Request, Response, Status, Streaming};

/// A daemon with one build, whose answers come from a simulation.
#[derive(Clone)]
pub struct FakeDaemon {
    pub simulated: Simulated,
    /// What it announces; none at all is an old daemon.
    pub caps: Vec<String>,
    /// What the frontend returned.
    pub returned: Arc<Mutex<Vec<ReturnRequest>>>,
    /// The build ids that calls came with.
    pub build_ids: Arc<Mutex<Vec<Option<String>>>>,
    /// The calls, by name.
    pub calls: Arc<Mutex<Vec<&'static str>>>,
    /// How long processes take to start.
    pub starts_after: Duration,
}

impl FakeDaemon {
    pub fn new(simulated: Simulated) -> Self {
        let caps = buildkit_frontend::Caps::current_gateway().names().map(str::to_owned).collect();
        Self {
            simulated,
            caps,
            returned: Arc::default(),
            build_ids: Arc::default(),
            calls: Arc::default(),
            starts_after: Duration::ZERO,
        }
    }

    pub fn service(&self) -> LlbBridgeServer<Self> {
        LlbBridgeServer::new(self.clone())
            .max_decoding_message_size(16 << 20)
            .max_encoding_message_size(16 << 20)
    }

    /// Serves a connection to its end.
    pub async fn serve(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.service());
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
    }

    /// What the frontend returned, once it did.
    pub async fn result(&self) -> ReturnRequest {
        for _ in 0..1000 {
            if let Some(result) = self.returned.lock().unwrap().first() {
                return result.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the frontend returned nothing within 10 s");
    }

    fn note<M>(&self, call: &'static str, request: Request<M>) -> M {
        let id = request.metadata().get("buildkit-controlapi-buildid");
        self.build_ids.lock().unwrap().push(id.map(|id| id.to_str().unwrap().to_owned()));
        self.calls.lock().unwrap().push(call);
        request.into_inner()
    }
}

fn status(error: &Error) -> Status {
    let wire = error.to_status();
    let code = tonic::Code::from_i32(wire.code);
    Status::with_details(code, wire.message.clone(), wire.encode_to_vec().into())
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status(&error))
}

/// The daemon takes absolute paths of mounts only.
fn inside(path: &str) -> Result<(), Status> {
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(Status::unknown(format!("can't make {path} relative to /")))
    }
}

#[async_trait]
impl LlbBridge for FakeDaemon {
    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        let request = self.note("ResolveImageConfig", request);
        let source = buildkit_proto::pb::SourceOp {
            identifier: format!("docker-image://{}", request.r#ref),
            ..Default::default()
        };
        let asked = ResolveSourceMetaRequest { source: Some(source), ..Default::default() };
        answer(self.simulated.resolve_source(asked).await.map(|meta| {
            let image = meta.image.unwrap_or_default();
            ResolveImageConfigResponse { digest: image.digest, config: image.config, r#ref: request.r#ref }
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Result<Response<ResolveSourceMetaResponse>, Status> {
        answer(self.simulated.resolve_source(self.note("ResolveSourceMeta", request)).await)
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let solved = self.simulated.solve(self.note("Solve", request)).await;
        answer(solved.map(|result| SolveResponse { result: Some(result), ..Default::default() }))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let request = self.note("ReadFile", request);
        let tree = Tree::Reference(&request.r#ref);
        let read = self.simulated.read_file(tree, &request.file_path, request.range).await;
        answer(read.map(|data| ReadFileResponse { data }))
    }

    async fn read_dir(&self, request: Request<ReadDirRequest>) -> Result<Response<ReadDirResponse>, Status> {
        let request = self.note("ReadDir", request);
        let tree = Tree::Reference(&request.r#ref);
        let listed = self.simulated.read_dir(tree, &request.dir_path, &request.include_pattern).await;
        answer(listed.map(|entries| ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        let request = self.note("StatFile", request);
        let stat = self.simulated.stat_file(Tree::Reference(&request.r#ref), &request.path).await;
        answer(stat.map(|stat| StatFileResponse { stat: Some(stat) }))
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let request = self.note("Evaluate", request);
        answer(self.simulated.evaluate(&request.r#ref).await.map(|()| EvaluateResponse {}))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        self.note("Ping", request);
        let caps = |names: Vec<String>| {
            names.into_iter().map(|id| ApiCap { id, enabled: true, ..Default::default() }).collect()
        };
        let llb = self.simulated.environment().llb_caps.iter().map(|(name, _)| name.to_owned()).collect();
        Ok(Response::new(PongResponse {
            frontend_api_caps: caps(self.caps.clone()),
            llb_caps: caps(if self.caps.is_empty() { Vec::new() } else { llb }),
            workers: vec![WorkerRecord { id: "pinged".into(), ..Default::default() }],
        }))
    }

    async fn r#return(&self, request: Request<ReturnRequest>) -> Result<Response<ReturnResponse>, Status> {
        let request = self.note("Return", request);
        self.returned.lock().unwrap().push(request);
        Ok(Response::new(ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<InputsRequest>) -> Result<Response<InputsResponse>, Status> {
        self.note("Inputs", request);
        answer(self.simulated.inputs().await.map(|definitions| InputsResponse { definitions }))
    }

    async fn new_container(
        &self,
        request: Request<NewContainerRequest>,
    ) -> Result<Response<NewContainerResponse>, Status> {
        let request = self.note("NewContainer", request);
        answer(self.simulated.new_container(request).await.map(|()| NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<ReleaseContainerRequest>,
    ) -> Result<Response<ReleaseContainerResponse>, Status> {
        let request = self.note("ReleaseContainer", request);
        let released = self.simulated.release_container(&request.container_id).await;
        answer(released.map(|()| ReleaseContainerResponse {}))
    }

    type ExecProcessStream = BoxStream<'static, Result<ExecMessage, Status>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let input = self.note("ExecProcess", request).filter_map(|message| async { message.ok() });
        tokio::time::sleep(self.starts_after).await;
        // As the daemon does: why a process does not start is told when its input has ended.
        let (pass, passed) = futures::channel::mpsc::unbounded();
        let ended = tokio::spawn(input.map(Ok).forward(pass));
        match self.simulated.exec(passed.boxed()).await {
            Ok(output) => {
                Ok(Response::new(output.map(|message| message.map_err(|error| status(&error))).boxed()))
            }
            Err(error) => {
                let _ = ended.await;
                Err(status(&error))
            }
        }
    }

    async fn read_file_container(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let request = self.note("ReadFileContainer", request);
        inside(&request.file_path)?;
        let tree = Tree::Mount { container: &request.r#ref, index: request.mount_index };
        // As the daemon does: whatever the range.
        let read = self.simulated.read_file(tree, &request.file_path, None).await;
        answer(read.map(|data| ReadFileResponse { data }))
    }

    async fn read_dir_container(
        &self,
        request: Request<ReadDirRequest>,
    ) -> Result<Response<ReadDirResponse>, Status> {
        let request = self.note("ReadDirContainer", request);
        inside(&request.dir_path)?;
        let tree = Tree::Mount { container: &request.r#ref, index: request.mount_index };
        let listed = self.simulated.read_dir(tree, &request.dir_path, &request.include_pattern).await;
        answer(listed.map(|entries| ReadDirResponse { entries }))
    }

    async fn stat_file_container(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        let request = self.note("StatFileContainer", request);
        inside(&request.path)?;
        let tree = Tree::Mount { container: &request.r#ref, index: request.mount_index };
        let stat = self.simulated.stat_file(tree, &request.path).await;
        answer(stat.map(|stat| StatFileResponse { stat: Some(stat) }))
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Result<Response<WarnResponse>, Status> {
        let request = self.note("Warn", request);
        answer(self.simulated.warn(request).await.map(|()| WarnResponse {}))
    }
}
