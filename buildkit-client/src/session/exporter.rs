//! Results of exporters, written by the daemon to the places that the caller chose.

use super::member::Member;
use super::{MAX_MESSAGE, Service, SessionContext, told};
use crate::error::{BoxError, LocalError};
use crate::export::TreeSink;
use crate::output::{Opened, Stream as ByteStream};
use buildkit_fsutil::disk_writer::{DiskWriter, WriteOptions};
use buildkit_fsutil::error::TransferError;
use buildkit_fsutil::receive::{ReceiveOptions, TreeWriter, WantedFile, receive};
use buildkit_fsutil::stat::Stat;
use buildkit_proto::filesync::file_send_server::{FileSend, FileSendServer};
use buildkit_proto::filesync::{BytesMessage, RawMessage};
use buildkit_proto::fsutil::Packet;
use futures::{Stream, StreamExt as _};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Response, Status, Streaming};

/// Longest list of exporter metadata that is kept.
const MAX_METADATA: usize = 1024;
/// Trees that are received at once, the others wait: each has a thread of the runtime's pool. There is one for each
/// platform.
const MAX_TREES: usize = 32;

/// The service.
pub(crate) fn service(context: SessionContext) -> Service {
    let trees = Arc::new(Semaphore::new(MAX_TREES));
    let server = FileSendServer::new(Receiver { context, trees }).max_decoding_message_size(MAX_MESSAGE);
    Service::new(server, &["DiffCopy"])
}

#[derive(Debug)]
struct Receiver {
    context: SessionContext,
    trees: Arc<Semaphore>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<RawMessage, Status>> + Send>>;

#[tonic::async_trait]
impl FileSend for Receiver {
    type DiffCopyStream = Answers;

    async fn diff_copy(&self, request: Request<Streaming<RawMessage>>) -> Result<Response<Answers>, Status> {
        let index = exporter_index(request.metadata());
        let knows_delete =
            request.metadata().get("buildkit-exporter-multi-platform").is_some_and(|value| value == "1");
        let metadata = exporter_metadata(request.metadata());
        let nobody = |index: &str| {
            let index = told(index);
            self.context.suspicious(format!("export {index}"));
            Status::not_found(format!("exporter {index} not found"))
        };
        let index = index.map_err(nobody)?;
        let nobody = || nobody(&index.to_string());
        let build = self.context.exporting().ok_or_else(nobody)?;
        let opened = match build.outputs.take(index, &metadata).await {
            Ok(Some(opened)) => opened,
            Ok(None) => return Err(nobody()),
            Err(error) => {
                let status = Status::already_exists(crate::error::report(&error));
                build.export_failed(error);
                return Err(status);
            }
        };
        let incoming = request.into_inner();
        match opened {
            Opened::Stream(stream) => {
                let (answer, answers) = mpsc::channel(1);
                tokio::spawn(async move {
                    let (outputs, ended) = (&build.outputs, build.closed());
                    let result = tokio::select! {
                        biased;
                        () = ended.cancelled() => return,
                        result = copy(incoming, stream) => result,
                    };
                    match result {
                        Ok(bytes) => {
                            tracing::debug!(export = index, bytes, "received an export");
                            outputs.done(index);
                        }
                        Err(Failure::Peer(status)) => {
                            tracing::debug!(export = index, %status, "an export ended early");
                            outputs.failed(index);
                        }
                        Err(Failure::Local(error)) => {
                            let what = outputs.describe(index);
                            let text = format!("{what}: {error}");
                            build.export_failed(LocalError::new(what, error));
                            outputs.failed(index);
                            let _ = answer.send(Err(Status::unknown(text))).await;
                        }
                    }
                });
                Ok(Response::new(ReceiverStream::new(answers).boxed()))
            }
            Opened::Dir { options, .. } if options.delete && !knows_delete => {
                let what = build.outputs.describe(index);
                let reason = "the daemon is too old to delete what is not in the result";
                let error = std::io::Error::new(std::io::ErrorKind::Unsupported, reason);
                build.export_failed(LocalError::new(what.clone(), error));
                build.outputs.failed(index);
                Err(Status::failed_precondition(format!("{what}: {reason}")))
            }
            Opened::Dir { path, options } => {
                // A build has succeeded when its result is on the disk.
                let options = WriteOptions { sync: true, ..options };
                let open = move || DiskWriter::open(path, options);
                Ok(receive_tree(build, index, open, incoming, Arc::clone(&self.trees)))
            }
            Opened::Tree(sink) => {
                let open = move || Ok(ToSink(sink));
                Ok(receive_tree(build, index, open, incoming, Arc::clone(&self.trees)))
            }
        }
    }
}

/// Takes a tree in packets, though the call is declared to carry bytes. `open` may block.
fn receive_tree<W: TreeWriter + 'static>(
    build: Arc<Member>,
    index: usize,
    open: impl FnOnce() -> Result<W, TransferError> + Send + 'static,
    incoming: Streaming<RawMessage>,
    trees: Arc<Semaphore>,
) -> Response<Answers> {
    let (answer, answers) = mpsc::channel::<Result<Packet, Status>>(16);
    let incoming = incoming.map(|message| {
        message?.decode_as::<Packet>().map_err(|error| Status::invalid_argument(error.to_string()))
    });
    tokio::spawn(async move {
        let receiving = async {
            let _slot = tokio::select! {
                slot = trees.acquire() => slot,
                // Nobody waits for it any more.
                () = answer.closed() => return Err(TransferError::Ended),
            };
            let writer = tokio::task::spawn_blocking(open).await.map_err(|_| TransferError::Worker)??;
            receive(writer, incoming, answer.clone(), ReceiveOptions::default()).await
        };
        let outputs = &build.outputs;
        let result = tokio::select! {
            biased;
            () = build.closed().cancelled() => return,
            result = receiving => result,
        };
        match result {
            Ok(report) => {
                tracing::debug!(export = index, ?report, "received an export");
                outputs.done(index);
            }
            Err(error @ (TransferError::Peer { .. } | TransferError::Stream(_) | TransferError::Ended)) => {
                tracing::debug!(export = index, %error, "an export ended early");
                outputs.failed(index);
            }
            Err(error) => {
                let what = outputs.describe(index);
                let text = format!("{what}: {}", crate::error::report(&error));
                build.export_failed(LocalError::new(what, error));
                outputs.failed(index);
                let _ = answer.send(Err(Status::unknown(text))).await;
            }
        }
    });
    let answers = ReceiverStream::new(answers).map(|packet| packet.map(|packet| RawMessage::of(&packet)));
    Response::new(answers.boxed())
}

/// Hands a tree to the caller.
struct ToSink(Arc<dyn TreeSink>);

impl TreeWriter for ToSink {
    fn entry(&mut self, stat: Stat) -> Result<Option<WantedFile>, TransferError> {
        let wanted = stat.mode.is_file() && stat.link_name.is_empty();
        let wanted = wanted.then(|| WantedFile::new(stat.clone(), false));
        let path = stat.path.clone();
        self.0.entry(&stat.into()).map_err(|error| refused(&path, error))?;
        Ok(wanted)
    }

    fn data(&mut self, _: u32, file: &WantedFile, chunk: &[u8]) -> Result<(), TransferError> {
        self.0.data(&file.path, chunk).map_err(|error| refused(&file.path, error))
    }

    fn end(&mut self, _: u32, file: WantedFile) -> Result<(), TransferError> {
        self.0.data(&file.path, &[]).map_err(|error| refused(&file.path, error))
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        Ok(())
    }
}

fn refused(path: &[u8], error: BoxError) -> TransferError {
    TransferError::Destination { path: path.to_vec(), action: "take", source: std::io::Error::other(error) }
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

/// Which exporter this is about, or what there is instead of a number; daemons before 0.13 know one only and do not say.
fn exporter_index(metadata: &MetadataMap) -> Result<usize, &str> {
    match metadata.get("buildkit-attachable-exporter-id") {
        None => Ok(0),
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            text.parse().map_err(|_| text)
        }
    }
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
