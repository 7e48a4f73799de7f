//! Content stores, read and filled by the daemon.

use super::{MAX_MESSAGE, Service, SessionContext, told};
use crate::content::{ContentStore, Digest, Hasher, NewBlob, OciLayout, OciStore};
use crate::error::RequestError;
use buildkit_proto::content as pb;
use buildkit_proto::content::content_server::{Content, ContentServer};
use bytes::Bytes;
use futures::Stream;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

/// Bytes of content in one message.
const CHUNK: u64 = 1024 * 1024;
/// Blobs that one store may receive at once.
const MAX_WRITES: usize = 256;
/// Longest name of a write; the real ones have some hundred bytes.
const MAX_NAME: usize = 4096;
/// Blobs that are sent at once, the others wait: each holds a file open, and some chunks that the daemon need not take.
const MAX_READS: usize = 32;
/// Digests of received blobs that are kept to find the one that the others hang on.
const MAX_RECEIVED: usize = 64 * 1024;

/// Stores by the id under which the daemon asks for them.
#[derive(Clone, Default)]
pub(crate) struct Stores(Arc<BTreeMap<String, Arc<Store>>>);

/// A store that the daemon may read, and write to where that is what it is for.
pub(crate) struct Store {
    content: Arc<dyn ContentStore>,
    /// What it was made of, to tell whether two are the same.
    origin: OciStore,
    /// How messages call it.
    name: String,
    writable: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Blobs on their way, by the daemon's name for the transfer.
    writing: BTreeMap<String, pb::Status>,
    received: Vec<Digest>,
}

impl Store {
    /// A source.
    pub(crate) fn read_only(name: impl Into<String>, origin: OciStore) -> Self {
        let content: Arc<dyn ContentStore> = match &origin {
            OciStore::Dir(dir) => Arc::new(OciLayout::new(dir)),
            OciStore::Store(store) => Arc::clone(store),
        };
        Self { content, origin, name: name.into(), writable: false, state: Mutex::default() }
    }

    /// A destination.
    pub(crate) fn writable(name: impl Into<String>, origin: OciStore) -> Self {
        Self { writable: true, ..Self::read_only(name, origin) }
    }

    /// Whether both may be used at once under one id.
    fn goes_with(&self, other: &Self) -> bool {
        let same = match (&self.origin, &other.origin) {
            (OciStore::Dir(a), OciStore::Dir(b)) => a == b,
            (OciStore::Store(a), OciStore::Store(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same && !self.writable && !other.writable
    }

    /// The blobs.
    pub(crate) fn content(&self) -> &dyn ContentStore {
        &*self.content
    }

    /// What was written, or was there already when it was about to be, in order.
    pub(crate) fn received(&self) -> Vec<Digest> {
        self.lock().received.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stores {
    pub(crate) fn new(stores: BTreeMap<String, Store>) -> Self {
        Self(Arc::new(stores.into_iter().map(|(id, store)| (id, Arc::new(store))).collect()))
    }

    /// An id under which these are not what `others` are, or must not be used at the same time.
    pub(crate) fn in_the_way_of(&self, others: &Self) -> Option<&str> {
        let meet = self.0.iter().filter_map(|(id, store)| Some((id, store, others.get(id)?)));
        meet.filter(|(_, store, other)| !store.goes_with(other)).map(|(id, ..)| id.as_str()).next()
    }

    /// Layouts that builds may read, by their ids.
    pub(crate) async fn of_layouts(layouts: &BTreeMap<String, OciStore>) -> Result<Self, RequestError> {
        let mut stores = BTreeMap::new();
        for (id, store) in layouts {
            let (id, store) = layout(id, store).await?;
            stores.insert(id, store);
        }
        Ok(Self::new(stores))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Store>> {
        self.0.get(id)
    }
}

/// A layout that is there, and the id under which the daemon asks for it.
pub(crate) async fn layout(id: &str, store: &OciStore) -> Result<(String, Store), RequestError> {
    let name = format!("OCI layout {id:?}");
    if let OciStore::Dir(dir) = store {
        let source = match tokio::fs::metadata(dir).await {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some(io::ErrorKind::NotADirectory.into()),
            Err(error) => Some(error),
        };
        if let Some(source) = source {
            return Err(RequestError::Path { role: name, path: dir.clone(), source });
        }
    }
    Ok((format!("oci:{id}"), Store::read_only(name, store.clone())))
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// The service.
pub(crate) fn service(context: SessionContext) -> Service {
    let reads = Arc::new(Semaphore::new(MAX_READS));
    let server = ContentServer::new(Server { context, reads }).max_decoding_message_size(MAX_MESSAGE);
    Service::new(
        server,
        &["Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Write", "Abort"],
    )
}

#[derive(Debug, Clone)]
struct Server {
    context: SessionContext,
    reads: Arc<Semaphore>,
}

impl Server {
    fn choose(&self, metadata: &MetadataMap) -> Result<Arc<Store>, Status> {
        let id = metadata
            .get("buildkit-attachable-store-id")
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| Status::invalid_argument("no content store is named"))?;
        self.context.store(id).ok_or_else(|| {
            let id = told(id);
            self.context.suspicious(format!("content store {id:?}"));
            Status::not_found(format!("unknown store {id}"))
        })
    }

    fn writable(&self, metadata: &MetadataMap, what: &str) -> Result<Arc<Store>, Status> {
        let store = self.choose(metadata)?;
        if store.writable {
            return Ok(store);
        }
        self.context.suspicious(format!("{what} in the {}, which is read only", store.name));
        Err(Status::permission_denied(format!("the {} is read only", store.name)))
    }

    /// A failure of the store itself; it is the root cause of whatever comes of it.
    fn broken(&self, store: &Store, action: &str, error: io::Error) -> Status {
        let what = format!("cannot {action} the {}", store.name);
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
            io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::Internal,
        };
        let status = Status::new(code, format!("{what}: {error}"));
        self.context.failed(what, error);
        status
    }

    async fn info_of(&self, store: &Store, digest: &Digest) -> Result<pb::Info, Status> {
        let found = store.content.info(digest).await.map_err(|error| self.broken(store, "read", error))?;
        let found = found.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))?;
        let written = found.written.map(prost_types::Timestamp::from);
        Ok(pb::Info {
            digest: digest.to_string(),
            size: i64::try_from(found.size).unwrap_or(i64::MAX),
            created_at: written,
            updated_at: written,
            labels: BTreeMap::new(),
        })
    }
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).ok_or_else(|| Status::invalid_argument(format!("{:?} is no digest", told(text))))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Content for Server {
    type ListStream = Answers<pb::ListContentResponse>;
    type ReadStream = Answers<pb::ReadContentResponse>;
    type WriteStream = Answers<pb::WriteContentResponse>;

    async fn info(&self, request: Request<pb::InfoRequest>) -> Result<Response<pb::InfoResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let digest = digest(&request.get_ref().digest)?;
        Ok(Response::new(pb::InfoResponse { info: Some(self.info_of(&store, &digest).await?) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateRequest>,
    ) -> Result<Response<pb::UpdateResponse>, Status> {
        self.writable(request.metadata(), "a change of labels")?;
        Err(Status::failed_precondition("update not supported on immutable content store"))
    }

    async fn list(
        &self,
        request: Request<pb::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.choose(request.metadata())?;
        Err(Status::unimplemented("this store does not list its content"))
    }

    async fn delete(&self, request: Request<pb::DeleteContentRequest>) -> Result<Response<()>, Status> {
        let store = self.choose(request.metadata())?;
        self.context.suspicious(format!("a deletion in the {}", store.name));
        Err(Status::permission_denied(format!("nothing is deleted from the {}", store.name)))
    }

    async fn read(
        &self,
        request: Request<pb::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let store = self.choose(request.metadata())?;
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let size = u64::try_from(self.info_of(&store, &digest).await?.size).unwrap_or(0);
        let offset =
            u64::try_from(request.offset).ok().filter(|offset| *offset <= size).ok_or_else(|| {
                Status::out_of_range(format!("offset {} is not in {size} bytes", request.offset))
            })?;
        let left = match u64::try_from(request.size) {
            Ok(wanted) if wanted > 0 => wanted.min(size - offset),
            _ => size - offset,
        };
        let slot = Arc::clone(&self.reads).acquire_owned().await;
        let content =
            store.content.read(&digest, offset).await.map_err(|error| self.broken(&store, "read", error))?;
        let (answer, answers) = mpsc::channel(2);
        let this = self.clone();
        tokio::spawn(this.context.closed().clone().run_until_cancelled_owned(async move {
            let _slot = slot;
            if let Err(error) = send(content, left, &answer).await {
                let _ = answer.send(Err(this.broken(&store, "read", error))).await;
            }
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let name = &request.get_ref().r#ref;
        let status = store.lock().writing.get(name).cloned();
        let status =
            status.ok_or_else(|| Status::not_found(format!("no write {:?} is under way", told(name))))?;
        Ok(Response::new(pb::StatusResponse { status: Some(status) }))
    }

    async fn list_statuses(
        &self,
        request: Request<pb::ListStatusesRequest>,
    ) -> Result<Response<pb::ListStatusesResponse>, Status> {
        let store = self.choose(request.metadata())?;
        let statuses = store.lock().writing.values().cloned().collect();
        Ok(Response::new(pb::ListStatusesResponse { statuses }))
    }

    async fn write(
        &self,
        request: Request<Streaming<pb::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = self.writable(request.metadata(), "a blob")?;
        let (answer, answers) = mpsc::channel(2);
        let this = self.clone();
        tokio::spawn(this.context.closed().clone().run_until_cancelled_owned(async move {
            if let Err(status) = this.receive(&store, request.into_inner(), &answer).await {
                let _ = answer.send(Err(status)).await;
            }
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Result<Response<()>, Status> {
        let store = self.writable(request.metadata(), "the end of a write")?;
        let name = &request.get_ref().r#ref;
        if store.lock().writing.contains_key(name) {
            // What was written goes with the call that writes it.
            Ok(Response::new(()))
        } else {
            Err(Status::not_found(format!("no write {:?} is under way", told(name))))
        }
    }
}

/// Sends `left` bytes of a blob.
async fn send(
    mut content: Box<dyn AsyncRead + Send + Unpin>,
    mut left: u64,
    answer: &mpsc::Sender<Result<pb::ReadContentResponse, Status>>,
) -> io::Result<()> {
    let mut offset = 0;
    while left > 0 {
        let mut data = vec![0; usize::try_from(left.min(CHUNK)).unwrap_or(0)];
        content.read_exact(&mut data).await?;
        let length = data.len() as u64;
        let message = pb::ReadContentResponse { offset, data: data.into() };
        if answer.send(Ok(message)).await.is_err() {
            return Ok(());
        }
        offset += i64::try_from(length).unwrap_or(0);
        left -= length;
    }
    Ok(())
}

/// A blob on its way into a store.
struct Receiving<'a> {
    store: &'a Store,
    name: String,
    expected: Option<Digest>,
    total: u64,
    /// Gone once it was kept.
    blob: Option<Box<dyn NewBlob>>,
    hash: Hasher,
    offset: u64,
    started: prost_types::Timestamp,
}

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.store.lock().writing.remove(&self.name);
    }
}

impl Server {
    /// Takes one blob, message by message.
    async fn receive(
        &self,
        store: &Store,
        mut messages: Streaming<pb::WriteContentRequest>,
        answer: &mpsc::Sender<Result<pb::WriteContentResponse, Status>>,
    ) -> Result<(), Status> {
        let mut current: Option<Receiving<'_>> = None;
        while let Some(message) = messages.message().await? {
            let receiving = match &mut current {
                Some(receiving) => receiving,
                None => current.insert(self.begin(store, &message).await?),
            };
            let kept = self.take(receiving, message).await?;
            let done = kept.action == i32::from(pb::WriteAction::Commit);
            if done {
                // It must not be under way any more when the daemon learns of its end.
                current = None;
            }
            if answer.send(Ok(kept)).await.is_err() || done {
                break;
            }
        }
        Ok(())
    }

    async fn begin<'a>(
        &self,
        store: &'a Store,
        message: &pb::WriteContentRequest,
    ) -> Result<Receiving<'a>, Status> {
        if message.r#ref.is_empty() || message.r#ref.len() > MAX_NAME {
            return Err(Status::invalid_argument("the first message of a write names it, in few words"));
        }
        let expected = if message.expected.is_empty() { None } else { Some(digest(&message.expected)?) };
        if let Some(digest) = &expected {
            let there =
                store.content.info(digest).await.map_err(|error| self.broken(store, "read", error))?;
            if there.is_some() {
                // Perhaps from an earlier build: then it may be the one that the others hang on.
                store.note(digest.clone());
                return Err(Status::already_exists(format!("content {digest}: already exists")));
            }
        }
        let started = prost_types::Timestamp::from(SystemTime::now());
        {
            let mut state = store.lock();
            if state.writing.contains_key(&message.r#ref) {
                return Err(Status::unavailable(format!("ref {} locked: unavailable", message.r#ref)));
            }
            if state.writing.len() >= MAX_WRITES {
                return Err(Status::resource_exhausted("too many writes at once"));
            }
            let status = pb::Status {
                started_at: Some(started),
                updated_at: Some(started),
                r#ref: message.r#ref.clone(),
                offset: 0,
                total: message.total,
                expected: message.expected.clone(),
            };
            state.writing.insert(message.r#ref.clone(), status);
        }
        let entered = Entered { store, name: &message.r#ref, kept: false };
        let blob = store.content.create().await.map_err(|error| self.broken(store, "write to", error))?;
        entered.keep();
        Ok(Receiving {
            store,
            name: message.r#ref.clone(),
            hash: Hasher::for_digest(expected.as_ref()),
            expected,
            total: u64::try_from(message.total).unwrap_or(0),
            blob: Some(blob),
            offset: 0,
            started,
        })
    }

    async fn take(
        &self,
        receiving: &mut Receiving<'_>,
        message: pb::WriteContentRequest,
    ) -> Result<pb::WriteContentResponse, Status> {
        let store = receiving.store;
        let action = pb::WriteAction::try_from(message.action)
            .map_err(|_| Status::invalid_argument("no such action of a write"))?;
        if action != pb::WriteAction::Stat {
            let offset = u64::try_from(message.offset).unwrap_or(u64::MAX);
            if offset == 0 && receiving.offset > 0 && !message.data.is_empty() {
                let anew = store.content.create().await;
                receiving.blob = Some(anew.map_err(|error| self.broken(store, "write to", error))?);
                receiving.hash = Hasher::for_digest(receiving.expected.as_ref());
                receiving.offset = 0;
            } else if offset != receiving.offset && (offset > 0 || !message.data.is_empty()) {
                return Err(Status::out_of_range(format!(
                    "write @{offset} must occur at current offset {}",
                    receiving.offset
                )));
            }
            receiving.append(&message.data).await.map_err(|error| self.broken(store, "write to", error))?;
        }
        let mut response = pb::WriteContentResponse {
            action: message.action,
            started_at: Some(receiving.started),
            updated_at: Some(SystemTime::now().into()),
            offset: i64::try_from(receiving.offset).unwrap_or(i64::MAX),
            total: i64::try_from(receiving.total).unwrap_or(i64::MAX),
            digest: String::new(),
        };
        match action {
            pb::WriteAction::Commit => {
                let total = u64::try_from(message.total).ok().filter(|total| *total > 0);
                let total = total.or(Some(receiving.total).filter(|total| *total > 0));
                if let Some(total) = total.filter(|total| *total != receiving.offset) {
                    return Err(Status::failed_precondition(format!(
                        "unexpected commit size {}, expected {total}",
                        receiving.offset
                    )));
                }
                let expected = match message.expected.as_str() {
                    "" => receiving.expected.clone(),
                    text => Some(digest(text)?),
                };
                let found = receiving.hash.digest();
                if let Some(expected) = expected.filter(|expected| *expected != found) {
                    return Err(Status::failed_precondition(format!(
                        "unexpected commit digest {found}, expected {expected}"
                    )));
                }
                if let Some(blob) = receiving.blob.take() {
                    blob.keep(&found).await.map_err(|error| self.broken(store, "write to", error))?;
                }
                response.digest = found.to_string();
                store.note(found);
            }
            pb::WriteAction::Stat | pb::WriteAction::Write => {
                if let Some(status) = store.lock().writing.get_mut(&receiving.name) {
                    status.offset = response.offset;
                    status.updated_at = response.updated_at;
                }
            }
        }
        Ok(response)
    }
}

impl Store {
    fn note(&self, digest: Digest) {
        let mut state = self.lock();
        if state.received.len() < MAX_RECEIVED {
            state.received.push(digest);
        }
    }
}

impl Receiving<'_> {
    async fn append(&mut self, data: &Bytes) -> io::Result<()> {
        if !data.is_empty() {
            self.blob.as_mut().ok_or(io::ErrorKind::InvalidInput)?.write(data).await?;
            self.hash.update(data);
            self.offset += data.len() as u64;
        }
        Ok(())
    }
}

/// Takes a write off the list again unless it really began.
struct Entered<'a> {
    store: &'a Store,
    name: &'a str,
    kept: bool,
}

impl Entered<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.store.lock().writing.remove(self.name);
        }
    }
}
