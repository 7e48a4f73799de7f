//! Exporters that the caller chooses when the daemon has the result.

use super::{MAX_MESSAGE, Service, SessionContext};
use crate::export::{ResultInfo, SessionExporter, Target};
use crate::output::Outputs;
use buildkit_proto::exporter as pb;
use buildkit_proto::exporter::exporter_server::{Exporter, ExporterServer};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service. The request itself has `first` exporters.
pub(crate) fn service(
    chooser: Arc<dyn SessionExporter>,
    outputs: Outputs,
    first: usize,
    context: SessionContext,
) -> Service {
    let server = ExporterServer::new(Server { chooser, outputs, first, context });
    Service::new(server.max_decoding_message_size(MAX_MESSAGE), &["FindExporters", "FinalizeExport"])
}

#[derive(Debug)]
struct Server {
    chooser: Arc<dyn SessionExporter>,
    outputs: Outputs,
    first: usize,
    context: SessionContext,
}

impl Server {
    fn failed(&self, error: impl Into<crate::error::BoxError>) -> Status {
        let error = error.into();
        let what = "cannot choose the exporters";
        let status = Status::unknown(format!("{what}: {}", crate::error::report(&*error)));
        self.context.failed(what, error);
        status
    }
}

#[tonic::async_trait]
impl Exporter for Server {
    async fn find_exporters(
        &self,
        request: Request<pb::FindExportersRequest>,
    ) -> Result<Response<pb::FindExportersResponse>, Status> {
        let request = request.into_inner();
        let result = ResultInfo { metadata: request.metadata, refs: request.refs };
        let exports = self.chooser.find(&result).await.map_err(|error| self.failed(error))?;
        for export in &exports {
            export.validate().map_err(|error| self.failed(error))?;
            if matches!(export.target, Target::Store(_)) {
                return Err(self.failed("a layout in a directory must be part of the request"));
            }
        }
        let exporters = exports
            .iter()
            .map(|export| pb::ExporterRequest { r#type: export.kind.clone(), attrs: export.attrs.clone() })
            .collect();
        self.outputs.add(self.first, exports).await.map_err(|error| self.failed(error))?;
        Ok(Response::new(pb::FindExportersResponse { exporters }))
    }

    async fn finalize_export(
        &self,
        request: Request<pb::FinalizeExportRequest>,
    ) -> Result<Response<pb::FinalizeExportResponse>, Status> {
        let response = request.into_inner().exporter_response;
        self.chooser.finalize(&response).await.map_err(|error| self.failed(error))?;
        Ok(Response::new(pb::FinalizeExportResponse {}))
    }
}
