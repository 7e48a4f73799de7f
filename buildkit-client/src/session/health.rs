//! The health check of a session: daemons end sessions that do not answer it.

use super::{MAX_QUESTION, Service, SessionContext};
use buildkit_proto::health::health_check_response::ServingStatus;
use buildkit_proto::health::health_server::{Health, HealthServer};
use buildkit_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use futures::Stream;
use std::pin::Pin;
use tonic::{Request, Response, Status};

/// The service. It says that we serve for as long as the session is open.
pub(super) fn service(context: SessionContext) -> Service {
    let server = HealthServer::new(Answer(context)).max_decoding_message_size(MAX_QUESTION);
    Service::new(server, &["Check", "List", "Watch"])
}

#[derive(Debug)]
struct Answer(SessionContext);

const SERVING: HealthCheckResponse = HealthCheckResponse { status: ServingStatus::Serving as i32 };

#[tonic::async_trait]
impl Health for Answer {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.health_checked();
        Ok(Response::new(SERVING))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        self.0.health_checked();
        // The empty name is the server as a whole.
        Ok(Response::new(HealthListResponse { statuses: [(String::new(), SERVING)].into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        use futures::StreamExt as _;
        self.0.health_checked();
        let first = futures::stream::once(std::future::ready(Ok(SERVING)));
        Ok(Response::new(Box::pin(first.chain(futures::stream::pending()))))
    }
}
