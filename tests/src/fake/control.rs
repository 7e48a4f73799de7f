//! The daemon's service, answered by the hooks of a script.

use std::pin::Pin;
use std::sync::Arc;

use buildkit_proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse,
    StatusRequest, StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord,
    control_server::Control,
};
use buildkit_proto::{pb, worker};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Hook, Out, Shared, Solve, StatusCall, session};

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service of one fake daemon.
pub(super) struct Service(pub(super) Arc<Shared>);

#[async_trait::async_trait]
impl Control for Service {
    type PruneStream = Items<UsageRecord>;
    type StatusStream = Items<StatusResponse>;
    type SessionStream = Items<BytesMessage>;
    type ListenBuildHistoryStream = Items<BuildHistoryEvent>;

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let request = request.into_inner();
        let _running = Running::start(&self.0, &request);
        let solve = Solve { request, shared: Arc::clone(&self.0) };
        (self.0.hooks.solve)(solve).await.map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        self.0.change(|record| record.status_calls += 1);
        let call = StatusCall { reference: request.into_inner().r#ref, shared: Arc::clone(&self.0) };
        Ok(Response::new(stream(&self.0.hooks.status, call)))
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        session::accept(&self.0, request).map(Response::new)
    }

    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        (self.0.hooks.info)(request.into_inner()).await.map(Response::new)
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        (self.0.hooks.workers)(request.into_inner()).await.map(Response::new)
    }

    async fn disk_usage(
        &self,
        request: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        (self.0.hooks.disk_usage)(request.into_inner()).await.map(Response::new)
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        Ok(Response::new(stream(&self.0.hooks.prune, request.into_inner())))
    }

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Ok(Response::new(stream(&self.0.hooks.history, request.into_inner())))
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        (self.0.hooks.update_history)(request.into_inner()).await.map(Response::new)
    }
}

/// A solve that runs; the record shows its end however it ends.
struct Running {
    shared: Arc<Shared>,
    reference: String,
}

impl Running {
    fn start(shared: &Arc<Shared>, request: &SolveRequest) -> Self {
        shared.change(|record| {
            record.solves.push(request.clone());
            record.running += 1;
        });
        Self { shared: Arc::clone(shared), reference: request.r#ref.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.change(|record| {
            record.running -= 1;
            record.ended.push(std::mem::take(&mut self.reference));
        });
    }
}

/// Runs a streaming hook beside the stream of what it sends; its error is the stream's last item.
fn stream<A: Send + 'static, T: Send + 'static>(hook: &Hook<(A, Out<T>), ()>, argument: A) -> Items<T> {
    let (out, items) = mpsc::channel(16);
    let errors = out.clone();
    let run = hook((argument, out));
    tokio::spawn(async move {
        let closed = errors.clone();
        tokio::select! {
            outcome = run => {
                if let Err(status) = outcome {
                    let _ = errors.send(Err(status)).await;
                }
            }
            () = closed.closed() => {}
        }
    });
    Box::pin(ReceiverStream::new(items))
}

/// An answer of Info.
pub(super) fn version(version: &str) -> InfoResponse {
    InfoResponse {
        buildkit_version: Some(worker::BuildkitVersion {
            package: "github.com/moby/buildkit".to_owned(),
            version: version.to_owned(),
            revision: "0".repeat(40),
            ..Default::default()
        }),
    }
}

/// An answer of ListWorkers.
pub(super) fn one_worker() -> ListWorkersResponse {
    let platform =
        pb::Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Default::default() };
    let worker = worker::WorkerRecord {
        id: "fake".to_owned(),
        platforms: vec![platform],
        buildkit_version: version("v0.25.0").buildkit_version,
        ..Default::default()
    };
    ListWorkersResponse { record: vec![worker] }
}
