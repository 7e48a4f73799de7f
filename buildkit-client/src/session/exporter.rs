//! Results of exporters, written by the daemon to the places that the caller chose.

use super::{MAX_MESSAGE, Service, SessionContext};
use crate::output::{Opened, Outputs, Stream as ByteStream};
use buildkit_proto::filesync::file_send_server::{FileSend, FileSendServer};
use buildkit_proto::filesync::{BytesMessage, RawMessage};
use futures::{Stream, StreamExt as _};
use std::collections::BTreeMap;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Response, Status, Streaming};

/// Longest list of exporter metadata that is kept.
const MAX_METADATA: usize = 1024;

/// The service.
pub(crate) fn service(outputs: Outputs, context: SessionContext) -> Service {
    let server = FileSendServer::new(Receiver { outputs, context }).max_decoding_message_size(MAX_MESSAGE);
    Service::new(server, &["DiffCopy"])
}

#[derive(Debug)]
struct Receiver {
    outputs: Outputs,
    context: SessionContext,
}

type Answers = Pin<Box<dyn Stream<Item = Result<RawMessage, Status>> + Send>>;

#[tonic::async_trait]
impl FileSend for Receiver {
    type DiffCopyStream = Answers;

    async fn diff_copy(&self, request: Request<Streaming<RawMessage>>) -> Result<Response<Answers>, Status> {
        let index = exporter_index(request.metadata());
        let metadata = exporter_metadata(request.metadata());
        let opened = match self.outputs.take(index, &metadata).await {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                self.context.suspicious(format!("export {index}"));
                return Err(Status::not_found(format!("exporter {index} not found")));
            }
            Err(error) => {
                let status = Status::already_exists(crate::error::report(&error));
                self.context.failed_with(error);
                return Err(status);
            }
        };
        let (outputs, context) = (self.outputs.clone(), self.context.clone());
        let incoming = request.into_inner();
        match opened {
            Opened::Stream(stream) => {
                let (answer, answers) = mpsc::channel(1);
                tokio::spawn(async move {
                    let ended = context.closed().clone().cancelled_owned();
                    let result = tokio::select! {
                        biased;
                        () = ended => return,
                        result = copy(incoming, stream) => result,
                    };
                    match result {
                        Ok(bytes) => {
                            tracing::debug!(export = index, bytes, "received an export");
                            outputs.done(index);
                        }
                        Err(Failure::Peer(status)) => {
                            tracing::debug!(export = index, %status, "an export ended early");
                        }
                        Err(Failure::Local(error)) => {
                            let what = outputs.describe(index);
                            let _ = answer.send(Err(Status::unknown(format!("{what}: {error}")))).await;
                            context.failed(what, error);
                        }
                    }
                });
                Ok(Response::new(ReceiverStream::new(answers).boxed()))
            }
            Opened::Dir { .. } | Opened::Tree(_) => Err(Status::unimplemented("trees")),
        }
    }
}

enum Failure {
    Peer(Status),
    Local(std::io::Error),
}

/// Writes a stream to its end, and to the disk.
async fn copy(mut incoming: Streaming<RawMessage>, mut stream: ByteStream) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(message) = incoming.message().await.map_err(Failure::Peer)? {
        let message: BytesMessage = message
            .decode_as()
            .map_err(|error| Failure::Peer(Status::invalid_argument(error.to_string())))?;
        stream.write(&message.data).await.map_err(Failure::Local)?;
        bytes += message.data.len() as u64;
    }
    stream.finish().await.map_err(Failure::Local)?;
    Ok(bytes)
}

/// Which exporter this is about; daemons before 0.13 know one only and do not say.
fn exporter_index(metadata: &MetadataMap) -> usize {
    metadata
        .get("buildkit-attachable-exporter-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

/// What the daemon knows of the result so far.
fn exporter_metadata(metadata: &MetadataMap) -> BTreeMap<String, String> {
    metadata
        .iter()
        .filter_map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) => {
                Some((key.as_str().strip_prefix("exporter-md-")?.to_owned(), value.to_str().ok()?.to_owned()))
            }
            KeyAndValueRef::Binary(..) => None,
        })
        .take(MAX_METADATA)
        .collect()
}
