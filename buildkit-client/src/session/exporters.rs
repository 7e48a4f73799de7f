//! Exporters that the caller chooses when the daemon has the result.

use super::member::Member;
use super::{MAX_MESSAGE, Service, SessionContext};
use crate::export::{ResultInfo, SessionExporter, Target};
use buildkit_proto::exporter as pb;
use buildkit_proto::exporter::exporter_server::{Exporter, ExporterServer};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
pub(crate) fn service(context: SessionContext) -> Service {
    let server = ExporterServer::new(Server { context });
    Service::new(server.max_decoding_message_size(MAX_MESSAGE), &["FindExporters", "FinalizeExport"])
}

#[derive(Debug)]
struct Server {
    context: SessionContext,
}

impl Server {
    /// The build that has further exporters chosen, by whom, and how many the request has.
    #[allow(clippy::type_complexity)] // it has a name right here
    fn choosing(&self) -> Result<(Arc<Member>, Arc<dyn SessionExporter>, usize), Status> {
        let build = self.context.exporting();
        let chosen = build.and_then(|build| {
            let (chooser, first) = build.chooser.clone()?;
            Some((build, chooser, first))
        });
        chosen.ok_or_else(|| {
            self.context.suspicious("a choice of exporters");
            Status::unimplemented("this build chooses no exporters")
        })
    }
}

fn failed(build: &Member, error: impl Into<crate::error::BoxError>) -> Status {
    let error = error.into();
    let what = "cannot choose the exporters";
    let status = Status::unknown(format!("{what}: {}", crate::error::report(&*error)));
    build.failed(what, error);
    status
}

#[tonic::async_trait]
impl Exporter for Server {
    async fn find_exporters(
        &self,
        request: Request<pb::FindExportersRequest>,
    ) -> Result<Response<pb::FindExportersResponse>, Status> {
        let request = request.into_inner();
        let (build, chooser, first) = self.choosing()?;
        let result = ResultInfo { metadata: request.metadata, refs: request.refs };
        let exports = chooser.find(&result).await.map_err(|error| failed(&build, error))?;
        for export in &exports {
            export.validate().map_err(|error| failed(&build, error))?;
            if matches!(export.target, Target::Store(_)) {
                return Err(failed(&build, "a layout in a directory must be part of the request"));
            }
        }
        let exporters = exports
            .iter()
            .map(|export| pb::ExporterRequest { r#type: export.kind.clone(), attrs: export.attrs.clone() })
            .collect();
        build.outputs.add(first, exports).await.map_err(|error| failed(&build, error))?;
        Ok(Response::new(pb::FindExportersResponse { exporters }))
    }

    async fn finalize_export(
        &self,
        request: Request<pb::FinalizeExportRequest>,
    ) -> Result<Response<pb::FinalizeExportResponse>, Status> {
        let response = request.into_inner().exporter_response;
        let (build, chooser, _) = self.choosing()?;
        chooser.finalize(&response).await.map_err(|error| failed(&build, error))?;
        Ok(Response::new(pb::FinalizeExportResponse {}))
    }
}
