//! Local directories, read by the daemon.

use super::{HeaderRoom, MAX_QUESTION, Service, SessionContext, told};
use crate::error::RequestError;
use crate::request::Local;
use buildkit_fsutil::Printable;
use buildkit_fsutil::error::TransferError;
use buildkit_fsutil::filter::{FilterOptions, MapEntry, owned_by_root};
use buildkit_fsutil::send::{SendEvent, SendOptions, send};
use buildkit_fsutil::source::SourceFs;
use buildkit_proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use buildkit_proto::fsutil::Packet;
use percent_encoding::percent_decode;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// Packets in flight.
const QUEUE: usize = 16;
/// Transfers that run at once, the others wait. Each has threads of the runtime's pool, which belongs to the whole
/// program: a daemon that opens transfers and does not read them must not get them all.
const MAX_TRANSFERS: usize = 32;

/// Trees by name, opened and checked.
#[derive(Clone, Default)]
pub(crate) struct Locals(BTreeMap<String, (Local, Arc<dyn SourceFs>)>);

impl Locals {
    /// Opens the trees, so that one that is missing is found before anything is sent.
    pub(crate) async fn open(locals: BTreeMap<String, Local>) -> Result<Self, RequestError> {
        // Directories are opened and archives read: not on the runtime's threads.
        let opened = tokio::task::spawn_blocking(move || {
            let open =
                |(name, local): (String, Local)| local.clone().open(&name).map(|tree| (name, (local, tree)));
            locals.into_iter().map(open).collect::<Result<BTreeMap<_, _>, RequestError>>()
        });
        match opened.await {
            Ok(open) => Ok(Self(open?)),
            Err(_) => Err(RequestError::option("local", "the directories could not be opened")),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<dyn SourceFs>> {
        self.0.get(name).map(|(_, tree)| Arc::clone(tree))
    }

    /// A name that `others` use for another tree.
    pub(crate) fn other_of<'a>(&self, others: &'a Self) -> Option<&'a str> {
        let other = |(name, (local, _)): &(&String, &(Local, _))| {
            self.0.get(*name).is_some_and(|(known, _)| !known.is(local))
        };
        others.0.iter().find(other).map(|(name, _)| name.as_str())
    }

    /// Takes in the trees whose names are new.
    pub(crate) fn add(&mut self, others: &Self) {
        for (name, local) in &others.0 {
            self.0.entry(name.clone()).or_insert_with(|| local.clone());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// The text of a file in a tree, at most `limit` bytes of it; empty where there is none.
pub(crate) async fn text(tree: Arc<dyn SourceFs>, path: String, limit: usize) -> String {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let mut file = tree.open(path.as_bytes())?;
        let mut chunk = [0; 16 * 1024];
        while bytes.len() < limit {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    });
    let bytes = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The service. How trees are sent is the caller's choice.
pub(crate) fn service(options: SendOptions, context: SessionContext) -> Service {
    let slots = Arc::new(Semaphore::new(MAX_TRANSFERS));
    let server =
        FileSyncServer::new(Sender { options, context, slots }).max_decoding_message_size(MAX_QUESTION);
    Service::new(server, &["DiffCopy", "TarStream"])
}

#[derive(Debug)]
struct Sender {
    options: SendOptions,
    context: SessionContext,
    slots: Arc<Semaphore>,
}

type Packets = ReceiverStream<Result<Packet, Status>>;

#[tonic::async_trait]
impl FileSync for Sender {
    type DiffCopyStream = Packets;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let metadata = request.metadata();
        let name = values(metadata, "dir-name")?.into_iter().next().unwrap_or_default();
        let filter = FilterOptions {
            include_patterns: values(metadata, "include-patterns")?,
            exclude_patterns: values(metadata, "exclude-patterns")?,
            follow_paths: values(metadata, "followpaths")?,
            map: Some(noting_names(name.clone(), self.context.clone())),
        };
        let room = request.extensions().get::<HeaderRoom>().cloned();
        let Some(tree) = self.context.local(&name) else {
            let name = told(&name);
            self.context.suspicious(format!("local directory {name:?}"));
            return Err(Status::not_found(format!("no access allowed to dir {name:?}")));
        };
        tracing::debug!(dir = %name, ?filter, "sending a directory");
        let (packets, answer) = mpsc::channel(QUEUE);
        let context = self.context.clone();
        let options = observed(&self.options, &name, &context);
        let incoming = request.into_inner();
        let slots = Arc::clone(&self.slots);
        // The daemon may drop the call at any time; the sender ends when nobody takes its packets.
        tokio::spawn(async move {
            let _room = room;
            let ended = context.closed().clone().cancelled_owned();
            let sending = async {
                let _slot = tokio::select! {
                    slot = slots.acquire() => slot,
                    // Nobody waits for it any more.
                    () = packets.closed() => return Err(TransferError::Ended),
                };
                send(tree, filter, incoming, packets.clone(), options).await
            };
            let result = tokio::select! {
                biased;
                () = ended => return,
                result = sending => result,
            };
            match result {
                Ok(report) => tracing::debug!(dir = %name, ?report, "sent a directory"),
                Err(error) => {
                    let status = Status::unknown(crate::error::report(&error));
                    if is_ours(&error) {
                        context.failed(format!("cannot send local directory {name:?}"), error);
                    } else {
                        tracing::debug!(dir = %name, %error, "sending a directory ended");
                    }
                    let _ = packets.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    type TarStreamStream = Packets;

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("failed to negotiate protocol"))
    }
}

/// Makes everything belong to root, and notes names that some daemons cannot read.
fn noting_names(dir: String, context: SessionContext) -> MapEntry {
    let owned = owned_by_root();
    Arc::new(move |stat| {
        if let Some(path) =
            [&stat.path, &stat.link_name].into_iter().find(|path| std::str::from_utf8(path).is_err())
        {
            context.sent_not_utf8(&dir, path);
        }
        owned(stat)
    })
}

/// Most warnings about one transfer.
const MAX_WARNINGS: usize = 32;

/// Warns of entries that are special or left out, the first few of them, and passes all on to the caller.
fn observed(options: &SendOptions, name: &str, context: &SessionContext) -> SendOptions {
    let theirs = options.on_event.clone();
    let (name, context, told) = (name.to_owned(), context.clone(), AtomicUsize::new(0));
    let on_event = move |event: SendEvent<'_>| {
        let text = match &event {
            SendEvent::Special { path, kind } => format!("{} is a {kind}", Printable(path)),
            SendEvent::Skipped(error) => format!("left out: {}", crate::error::report(*error)),
            _ => String::new(),
        };
        if !text.is_empty() && told.fetch_add(1, Ordering::Relaxed) < MAX_WARNINGS {
            let step = context.step(format!("[internal] sending {name:?}"));
            step.warn(format!("local directory {name:?}: {text}"));
            step.done();
        }
        if let Some(theirs) = &theirs {
            theirs(event);
        }
    };
    SendOptions { on_event: Some(Arc::new(on_event)), ..options.clone() }
}

/// Whether a transfer failed on this side. What the daemon or the link did is told by the build.
fn is_ours(error: &TransferError) -> bool {
    !matches!(error, TransferError::Peer { .. } | TransferError::Stream(_) | TransferError::Ended)
}

/// All values of a key; percent-encoded ones are decoded when the daemon says that they are.
fn values(metadata: &MetadataMap, key: &str) -> Result<Vec<String>, Status> {
    let encoded = metadata.get(format!("{key}-encoded")).is_some_and(|value| value.as_bytes() == b"1");
    metadata
        .get_all(key)
        .iter()
        .map(|value| {
            let bytes = value.as_bytes();
            let decoded = if encoded {
                let blanks: Vec<u8> =
                    bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
                percent_decode(&blanks).collect::<Vec<u8>>()
            } else {
                bytes.to_vec()
            };
            String::from_utf8(decoded).map_err(|_| Status::invalid_argument(format!("{key} is not UTF-8")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_arrive_plain_or_percent_encoded() {
        let mut metadata = MetadataMap::new();
        metadata.append("include-patterns", "a b".parse().unwrap());
        metadata.append("include-patterns", "100%".parse().unwrap());
        metadata.append("exclude-patterns", "caf%C3%A9+x".parse().unwrap());
        metadata.append("exclude-patterns", "%2B".parse().unwrap());
        metadata.insert("exclude-patterns-encoded", "1".parse().unwrap());
        assert_eq!(values(&metadata, "include-patterns").unwrap(), ["a b", "100%"]);
        assert_eq!(values(&metadata, "exclude-patterns").unwrap(), ["café x", "+"]);
        assert!(values(&metadata, "followpaths").unwrap().is_empty());
    }
}
