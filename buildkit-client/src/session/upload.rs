//! Streams that the daemon fetches under a URL: `http://buildkit-session/ID`.

use super::{MAX_CHUNK, MAX_QUESTION, Service, SessionContext, told};
use buildkit_proto::upload::BytesMessage;
use buildkit_proto::upload::upload_server::{Upload as UploadRpc, UploadServer};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
const _: () = assert!(CHUNK <= MAX_CHUNK);

type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// A stream that the daemon may fetch, for example an archive from standard input.
#[derive(Clone)]
pub struct Upload(Kind);

#[derive(Clone)]
enum Kind {
    Bytes(Bytes),
    /// Used up by the first who fetches it.
    Reader(Arc<Mutex<Option<Reader>>>),
}

impl Upload {
    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }

    /// Whatever a reader gives. It is read once, so a build that uses it is not retried.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(Kind::Reader(Arc::new(Mutex::new(Some(Box::pin(reader))))))
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.0, Kind::Bytes(_))
    }

    fn open(&self) -> Option<Reader> {
        match &self.0 {
            Kind::Bytes(bytes) => Some(Box::pin(io::Cursor::new(bytes.clone()))),
            Kind::Reader(reader) => reader.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bytes(bytes) => write!(f, "Upload({} bytes)", bytes.len()),
            Kind::Reader(_) => f.write_str("Upload(reader)"),
        }
    }
}

/// The URL under which a build finds an upload.
pub(crate) fn url(id: &str) -> String {
    format!("http://buildkit-session/{id}")
}

/// The service. Each stream is served once.
pub(crate) fn service(context: SessionContext) -> Service {
    Service::new(UploadServer::new(Server { context }).max_decoding_message_size(MAX_QUESTION), &["Pull"])
}

#[derive(Debug)]
struct Server {
    context: SessionContext,
}

#[tonic::async_trait]
impl UploadRpc for Server {
    type PullStream = ReceiverStream<Result<BytesMessage, Status>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = request.metadata().get("urlpath").and_then(|path| path.to_str().ok()).unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default().to_owned();
        let upload = self.context.take_upload(&id);
        let Some(mut reader) = upload.and_then(|upload| upload.open()) else {
            let id = told(&id);
            self.context.suspicious(format!("upload {id:?}"));
            return Err(Status::not_found(format!("no http response from session for {id}")));
        };
        let (answer, answers) = mpsc::channel(4);
        let context = self.context.clone();
        tokio::spawn(context.closed().clone().run_until_cancelled_owned(async move {
            loop {
                let mut data = bytes::BytesMut::with_capacity(CHUNK);
                let item = match reader.read_buf(&mut data).await {
                    Ok(0) => return,
                    Ok(_) => Ok(BytesMessage { data: data.freeze() }),
                    Err(error) => {
                        let status = Status::unknown(format!("cannot read upload {id}: {error}"));
                        context.failed(format!("cannot read upload {id}"), error);
                        Err(status)
                    }
                };
                let failed = item.is_err();
                if answer.send(item).await.is_err() || failed {
                    return;
                }
            }
        }));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
