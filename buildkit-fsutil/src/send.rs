//! Sending a tree: entries first, then the content of those the receiver asks for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::error::{Change, ProtocolError, TransferError};
use crate::filter::{Filter, FilterOptions};
use crate::packets::{PacketSink, kind, packet, tell_failure};
use crate::source::{Entry, SourceFs, Version};
use crate::stat::{FileMode, Kind, Stat};
use crate::walk::{Found, Walk, WalkError, WalkOptions, retry};

/// Bytes of content in one packet, as the reference sends them.
const CHUNK: usize = 32 * 1024;
/// Entries handed over at once.
const BATCH: usize = 64;
/// Batches and chunks that wait to be taken.
const QUEUE: usize = 8;

/// How a tree is sent.
///
/// # Defaults
/// Whatever cannot be read, has vanished or changes while it is read fails the transfer; devices, pipes and sockets
/// are sent as the reference does (sockets as empty files); four files are read at once.
#[derive(Clone)]
pub struct SendOptions {
    /// What to do about entries that cannot be read.
    pub walk: WalkOptions,
    /// Fail at a device, pipe or socket.
    pub deny_special: bool,
    /// How many files are read at once; at least one.
    pub parallel_reads: usize,
    /// Told of what the user may want to know. Called on a thread that may block, but should not for long.
    pub on_event: Option<OnSendEvent>,
}

/// See [`SendOptions::on_event`].
pub type OnSendEvent = Arc<dyn Fn(SendEvent<'_>) + Send + Sync>;

impl Default for SendOptions {
    fn default() -> Self {
        Self { walk: WalkOptions::default(), deny_special: false, parallel_reads: 4, on_event: None }
    }
}

impl fmt::Debug for SendOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendOptions")
            .field("walk", &self.walk)
            .field("deny_special", &self.deny_special)
            .field("parallel_reads", &self.parallel_reads)
            .field("on_event", &self.on_event.is_some())
            .finish()
    }
}

/// Something about an entry that is no error.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendEvent<'a> {
    /// A device, pipe or socket is sent.
    Special {
        /// Below the root of the tree.
        path: &'a [u8],
        /// What it is.
        kind: Kind,
    },
    /// An entry is left out, as the options allow.
    Skipped(&'a WalkError),
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Entries announced.
    pub entries: u64,
    /// Files whose content was sent.
    pub files: u64,
    /// Bytes of content sent.
    pub bytes: u64,
}

/// Sends the selected part of `source` to the receiver behind `incoming` and `outgoing`, to the end.
///
/// Files are read on blocking threads of the current tokio runtime. At most a few hundred KiB of content are held at
/// any time; a slow receiver slows the reading. Of each file announced its path and version stay in memory, about 100
/// bytes and the path. Dropping the future stops everything.
///
/// # Errors
/// [`TransferError`]; the receiver is told first, where it still listens.
pub async fn send<I, E, O>(
    source: Arc<dyn SourceFs>,
    filter: FilterOptions,
    mut incoming: I,
    mut outgoing: O,
    options: SendOptions,
) -> Result<SendReport, TransferError>
where
    I: Stream<Item = Result<Packet, E>> + Send + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
    O: PacketSink,
{
    let (queue, made) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        source,
        options,
        files: Mutex::default(),
        requests: Mutex::default(),
        walked: AtomicBool::new(false),
        entries: AtomicU64::new(0),
        open: AtomicU64::new(0),
        queue,
    });
    let walker = Arc::clone(&shared);
    spawn_blocking(move || walker.guard(|shared| shared.walk(filter)));
    let mut report = SendReport::default();
    let done = {
        let forward = forward(made, &mut outgoing, &shared, &mut report);
        let answer = answer(&mut incoming, &shared);
        tokio::pin!(forward, answer);
        tokio::select! {
            // An answer first: what the receiver says explains why nothing can be forwarded.
            biased;
            done = &mut answer => done,
            Err(error) = &mut forward => Err(error),
        }
    };
    report.entries = shared.entries.load(Ordering::Relaxed);
    let done = match done {
        Ok(()) => outgoing.send(packet(PacketType::PacketFin, 0, Bytes::new())).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => Ok(report),
        Err(error) => {
            tell_failure(&mut outgoing, &error).await;
            Err(error)
        }
    }
}

/// Hands on what the threads make. Returns only to fail.
async fn forward(
    mut made: mpsc::Receiver<Result<Vec<Packet>, TransferError>>,
    outgoing: &mut impl PacketSink,
    shared: &Shared,
    report: &mut SendReport,
) -> Result<std::convert::Infallible, TransferError> {
    loop {
        let Some(packets) = made.recv().await else {
            // Not reached: this side holds a sender, too.
            return Err(TransferError::Worker);
        };
        for packet in packets? {
            if packet.r#type == i32::from(PacketType::PacketData) {
                report.bytes += packet.data.len() as u64;
                if packet.data.is_empty() {
                    report.files += 1;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                }
            } else if packet.stat.is_none() {
                shared.walked.store(true, Ordering::Relaxed);
            }
            outgoing.send(packet).await?;
        }
    }
}

/// Takes the receiver's packets until it says that it has everything.
async fn answer<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    incoming: &mut (impl Stream<Item = Result<Packet, E>> + Unpin),
    shared: &Arc<Shared>,
) -> Result<(), TransferError> {
    while let Some(packet) = incoming.next().await {
        let packet = packet.map_err(|error| TransferError::Stream(error.into()))?;
        match kind(&packet)? {
            PacketType::PacketReq => shared.request(packet.id)?,
            PacketType::PacketFin => {
                let complete =
                    shared.walked.load(Ordering::Relaxed) && shared.open.load(Ordering::Relaxed) == 0;
                return if complete { Ok(()) } else { Err(ProtocolError::EarlyEnd.into()) };
            }
            PacketType::PacketErr => return Err(TransferError::from_peer(false, &packet.data)),
            PacketType::PacketStat | PacketType::PacketData => {
                return Err(ProtocolError::Packet(packet.r#type).into());
            }
        }
    }
    Err(TransferError::Ended)
}

struct Shared {
    source: Arc<dyn SourceFs>,
    options: SendOptions,
    /// By id; empty where there is no content to ask for, or no more.
    files: Mutex<Vec<Option<Box<Announced>>>>,
    requests: Mutex<Requests>,
    /// Whether the end of entries was handed on.
    walked: AtomicBool,
    entries: AtomicU64,
    /// Files asked for whose end was not handed on yet.
    open: AtomicU64,
    queue: mpsc::Sender<Result<Vec<Packet>, TransferError>>,
}

struct Announced {
    path: Box<[u8]>,
    /// `None` for a socket, which is announced as an empty file.
    version: Option<Version>,
}

#[derive(Default)]
struct Requests {
    waiting: VecDeque<(u32, Box<Announced>)>,
    readers: usize,
}

/// The threads stop because nobody takes what they make.
struct Stop;

impl Shared {
    /// Runs a thread's work; failures and panics end the transfer.
    fn guard(self: Arc<Self>, work: impl FnOnce(&Self) -> Result<(), Failure>) {
        let done = catch_unwind(AssertUnwindSafe(|| work(&self)));
        let error = match done {
            Ok(Ok(()) | Err(Failure::Stop)) => return,
            Ok(Err(Failure::Error(error))) => error,
            Err(_) => TransferError::Worker,
        };
        let _ = self.queue.blocking_send(Err(error));
    }

    fn emit(&self, packets: Vec<Packet>) -> Result<(), Stop> {
        self.queue.blocking_send(Ok(packets)).map_err(|_| Stop)
    }

    fn walk(&self, filter: FilterOptions) -> Result<(), Failure> {
        let filter = Filter::new(&*self.source, filter).map_err(TransferError::Filter)?;
        let mut batch = Vec::with_capacity(BATCH);
        // The first path of each file with several names.
        let mut linked: HashMap<(u64, u64), Arc<[u8]>> = HashMap::new();
        for found in Walk::new(&*self.source, &filter, self.options.walk) {
            match found.map_err(file_error)? {
                Found::Entry(entry) => batch.push(self.announce(*entry, &mut linked)?),
                Found::Skipped(error) => {
                    self.event(SendEvent::Skipped(&error));
                    continue;
                }
            }
            if batch.len() == BATCH {
                self.emit(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))?;
            }
        }
        batch.push(packet(PacketType::PacketStat, 0, Bytes::new()));
        Ok(self.emit(batch)?)
    }

    fn announce(
        &self,
        entry: Entry,
        linked: &mut HashMap<(u64, u64), Arc<[u8]>>,
    ) -> Result<Packet, TransferError> {
        let Entry { mut stat, version, links } = entry;
        let kind = stat.mode.kind();
        let mut announced = None;
        match kind {
            Kind::File => {
                if links > 1 {
                    let first = linked
                        .entry((version.device, version.inode))
                        .or_insert_with(|| stat.path.as_slice().into());
                    if **first != *stat.path {
                        stat.link_name = first.to_vec();
                    }
                }
                announced =
                    Some(Box::new(Announced { path: stat.path.as_slice().into(), version: Some(version) }));
            }
            Kind::Directory | Kind::Symlink => {}
            special => {
                if self.options.deny_special {
                    return Err(TransferError::SpecialFile { path: stat.path, kind: special });
                }
                self.event(SendEvent::Special { path: &stat.path, kind: special });
                if special == Kind::Socket {
                    stat.mode = FileMode(stat.mode.0 & !FileMode::SOCKET);
                    stat.size = 0;
                    announced = Some(Box::new(Announced { path: Box::default(), version: None }));
                }
            }
        }
        let mut files = lock(&self.files);
        if u32::try_from(files.len()).is_err() {
            return Err(ProtocolError::TooManyEntries.into());
        }
        files.push(announced);
        drop(files);
        self.entries.fetch_add(1, Ordering::Relaxed);
        Ok(stat_packet(stat))
    }

    fn event(&self, event: SendEvent<'_>) {
        if let Some(on_event) = &self.options.on_event {
            on_event(event);
        }
    }

    /// Takes a request, and sees that a thread serves it.
    fn request(self: &Arc<Self>, id: u32) -> Result<(), ProtocolError> {
        let announced = lock(&self.files).get_mut(id as usize).and_then(Option::take);
        let announced = announced.ok_or(ProtocolError::Request(id))?;
        self.open.fetch_add(1, Ordering::Relaxed);
        let mut requests = lock(&self.requests);
        requests.waiting.push_back((id, announced));
        if requests.readers < self.options.parallel_reads.max(1) {
            requests.readers += 1;
            let reader = Arc::clone(self);
            spawn_blocking(move || reader.guard(Shared::serve));
        }
        Ok(())
    }

    /// Reads files for as long as some are waited for.
    fn serve(&self) -> Result<(), Failure> {
        loop {
            let mut requests = lock(&self.requests);
            let Some((id, announced)) = requests.waiting.pop_front() else {
                requests.readers -= 1;
                return Ok(());
            };
            drop(requests);
            self.read(id, &announced)?;
        }
    }

    fn read(&self, id: u32, file: &Announced) -> Result<(), Failure> {
        let end = packet(PacketType::PacketData, id, Bytes::new());
        let Some(walked) = file.version else { return Ok(self.emit(vec![end])?) };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => changed(file, Change::Vanished),
            // What openat2 and O_NOFOLLOW say of a link, and what the source says of a pipe in the file's place.
            io::ErrorKind::InvalidInput => changed(file, Change::Replaced),
            _ if rustix::io::Errno::from_io_error(&source) == Some(rustix::io::Errno::LOOP) => {
                changed(file, Change::Replaced)
            }
            _ => TransferError::ContextFile { path: file.path.to_vec(), source },
        };
        let mut open = retry(|| self.source.open(&file.path)).map_err(failed)?;
        let before = retry(|| open.version()).map_err(failed)?;
        if let Some(change) = difference(&walked, &before) {
            return Err(changed(file, change).into());
        }
        let mut left = u64::try_from(before.size).unwrap_or(0);
        let mut packets = Vec::new();
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut chunk = vec![0; wanted];
            let mut filled = 0;
            while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match retry(|| open.read(rest)).map_err(failed)? {
                    0 => return Err(changed(file, Change::Truncated).into()),
                    count => filled += count.min(wanted - filled),
                }
            }
            left -= wanted as u64;
            packets.push(packet(PacketType::PacketData, id, chunk.into()));
            if left > 0 {
                self.emit(std::mem::take(&mut packets))?;
            }
        }
        if retry(|| open.read(&mut [0])).map_err(failed)? > 0 {
            return Err(changed(file, Change::Grown).into());
        }
        let after = retry(|| open.version()).map_err(failed)?;
        if after != before {
            let change = difference(&before, &after).unwrap_or(Change::Modified);
            return Err(changed(file, change).into());
        }
        packets.push(end);
        Ok(self.emit(packets)?)
    }
}

enum Failure {
    Stop,
    Error(TransferError),
}

impl From<Stop> for Failure {
    fn from(_: Stop) -> Self {
        Self::Stop
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        Self::Error(error)
    }
}

fn stat_packet(stat: Stat) -> Packet {
    Packet { stat: Some(stat.into()), ..packet(PacketType::PacketStat, 0, Bytes::new()) }
}

fn file_error(error: WalkError) -> TransferError {
    TransferError::ContextFile { path: error.path, source: error.source }
}

fn changed(file: &Announced, change: Change) -> TransferError {
    TransferError::ContextChanged { path: file.path.to_vec(), change }
}

/// Whether the file is still the one that was announced. The time of its last change is left out: another name for
/// it, or another mode, makes no difference to what was announced.
fn difference(was: &Version, is: &Version) -> Option<Change> {
    if (was.device, was.inode) != (is.device, is.inode) {
        Some(Change::Replaced)
    } else if is.size < was.size {
        Some(Change::Truncated)
    } else if is.size > was.size {
        Some(Change::Grown)
    } else if is.modified != was.modified {
        Some(Change::Modified)
    } else {
        None
    }
}

/// A panic elsewhere ends the transfer anyway; the data behind the lock is never half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
