//! Receiving a tree from a sender.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::error::{ProtocolError, TransferError};
use crate::order::Order;
use crate::packets::{PacketSink, kind, packet, tell_failure};
use crate::stat::{FileMode, Stat};

/// Packets that wait to be written.
const QUEUE: usize = 16;
/// More content in one packet is refused, so that a peer cannot make the queue large.
const MAX_CHUNK: usize = 4 << 20;
/// Longest path and target of a link. Linux takes 4096 bytes at once; trees that were made step by step are deeper.
const MAX_PATH: usize = 64 << 10;
/// Longest list of the names of an entry's extended attributes: Linux gives no longer one.
const MAX_XATTR_NAMES: usize = 64 << 10;

/// Makes something of a received tree. Calls block; they are made on one thread, one after the other.
///
/// Entries come in order, checked: clean relative paths, a directory before what is in it. Dropped before
/// [`finish`](Self::finish), it must leave nothing half done behind.
pub trait TreeWriter: Send {
    /// Takes an entry. Returns what is to be asked for when it is a file whose content is wanted.
    ///
    /// # Errors
    /// Whatever ends the transfer.
    fn entry(&mut self, stat: Stat) -> Result<Option<WantedFile>, TransferError>;

    /// Takes the next part of a file's content.
    ///
    /// # Errors
    /// Whatever ends the transfer.
    fn data(&mut self, id: u32, file: &WantedFile, chunk: &[u8]) -> Result<(), TransferError>;

    /// Takes the end of a file; its length is as announced.
    ///
    /// # Errors
    /// Whatever ends the transfer.
    fn end(&mut self, id: u32, file: WantedFile) -> Result<(), TransferError>;

    /// Everything was received.
    ///
    /// # Errors
    /// Whatever makes the transfer fail all the same.
    fn finish(&mut self) -> Result<(), TransferError>;
}

/// A file whose content was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// Below the root.
    pub path: Box<[u8]>,
    /// Permission bits.
    pub mode: FileMode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes announced.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mod_time: i64,
    /// Extended attributes, where there are any.
    pub xattrs: Option<Box<BTreeMap<String, Vec<u8>>>>,
    /// Whether something else has this name now; for the writer's own use.
    pub replaces: bool,
    received: u64,
}

impl WantedFile {
    /// The file that `stat` announces.
    pub fn new(stat: Stat, replaces: bool) -> Self {
        Self {
            path: stat.path.into(),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: u64::try_from(stat.size).unwrap_or(0),
            mod_time: stat.mod_time,
            xattrs: (!stat.xattrs.is_empty()).then(|| Box::new(stat.xattrs)),
            replaces,
            received: 0,
        }
    }

    fn cost(&self) -> usize {
        cost(self.path.len(), self.xattrs.as_deref())
    }
}

/// How a tree is received.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveOptions {
    /// More entries end the transfer. Default: 16 million.
    pub max_entries: u32,
    /// More files with content outstanding in part end the transfer. Default: 256; senders interleave about four.
    pub max_open_files: usize,
    /// More bytes of names and metadata that must be remembered end the transfer: those of directories, of further
    /// hard links, and of files whose content is still to come. Default: 1 GiB, enough for some five million files.
    pub max_held: usize,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { max_entries: 16 << 20, max_open_files: 256, max_held: 1 << 30 }
    }
}

/// What was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveReport {
    /// Entries announced by the sender.
    pub entries: u64,
    /// Files whose content was received.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Receives a tree from the sender behind `incoming` and `outgoing`, to the end.
///
/// `writer` runs on a blocking thread of the current tokio runtime. In memory stay about 100 bytes and the path of each
/// file announced whose content is still to come, and a few packets. Dropping the future drops the writer soon after;
/// when an error is returned, it is dropped already.
///
/// # Errors
/// [`TransferError`]; the sender is told first, where it still listens.
pub async fn receive<I, E, O>(
    writer: impl TreeWriter + 'static,
    mut incoming: I,
    mut outgoing: O,
    options: ReceiveOptions,
) -> Result<ReceiveReport, TransferError>
where
    I: Stream<Item = Result<Packet, E>> + Send + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
    O: PacketSink,
{
    let (feed, packets) = mpsc::channel(QUEUE);
    // Not bounded by the channel but by the entries: a sender that does not read requests while it announces must
    // not stop this side from taking what it announces.
    let (reply, replies) = mpsc::unbounded_channel();
    let thread = spawn_blocking(move || run(writer, options, packets, &reply));
    let finished = OnceLock::new();
    let done = {
        let respond = respond(replies, &mut outgoing, &finished);
        let take = take(&mut incoming, feed, &finished);
        tokio::pin!(respond, take);
        tokio::select! {
            biased;
            Err(error) = &mut respond => Err(error),
            done = &mut take => done,
        }
    };
    if let Err(error) = &done {
        tell_failure(&mut outgoing, error).await;
        // Its queue is closed: it ends, and takes back what is half written.
        let _ = thread.await;
    }
    done
}

/// Hands the sender's packets to the thread until the sender's last word.
///
/// A sender that goes away once it was told that everything has arrived has nothing left to say: its last word may be
/// lost when it resets the stream right behind it, as daemons do.
async fn take<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    incoming: &mut (impl Stream<Item = Result<Packet, E>> + Unpin),
    feed: mpsc::Sender<Packet>,
    finished: &OnceLock<ReceiveReport>,
) -> Result<ReceiveReport, TransferError> {
    while let Some(packet) = incoming.next().await {
        let packet = match packet {
            Ok(packet) => packet,
            Err(error) => {
                return finished.get().copied().ok_or_else(|| TransferError::Stream(error.into()));
            }
        };
        match kind(&packet)? {
            PacketType::PacketStat | PacketType::PacketData => {
                if packet.data.len() > MAX_CHUNK {
                    return Err(ProtocolError::Packet(packet.r#type).into());
                }
                if let Some(stat) = packet.stat.as_ref().filter(|stat| is_too_large(stat)) {
                    let start = stat.path.get(..stat.path.len().min(256)).unwrap_or_default();
                    return Err(ProtocolError::BadStat(start.to_vec()).into());
                }
                if feed.send(packet).await.is_err() {
                    // The thread has failed; what it has to say comes the other way.
                    std::future::pending::<()>().await;
                }
            }
            PacketType::PacketFin => {
                return finished.get().copied().ok_or_else(|| ProtocolError::EarlyEnd.into());
            }
            PacketType::PacketErr => return Err(TransferError::from_peer(true, &packet.data)),
            PacketType::PacketReq => return Err(ProtocolError::Packet(packet.r#type).into()),
        }
    }
    finished.get().copied().ok_or(TransferError::Ended)
}

/// Whether an entry is larger than a file system has them: some dozen may wait to be written.
fn is_too_large(stat: &buildkit_proto::fsutil::Stat) -> bool {
    let names: usize = stat.xattrs.keys().map(|name| name.len() + 1).sum();
    let values: usize = stat.xattrs.values().map(Bytes::len).sum();
    stat.path.len().max(stat.linkname.len()) > MAX_PATH || names > MAX_XATTR_NAMES || values > MAX_CHUNK
}

enum Reply {
    Request(u32),
    Done(Result<ReceiveReport, TransferError>),
    /// A packet came after everything was received.
    Late(ProtocolError),
}

/// Passes on what the thread has to say. Returns only to fail.
async fn respond(
    mut replies: mpsc::UnboundedReceiver<Reply>,
    outgoing: &mut impl PacketSink,
    finished: &OnceLock<ReceiveReport>,
) -> Result<Infallible, TransferError> {
    while let Some(reply) = replies.recv().await {
        match reply {
            Reply::Request(id) => outgoing.send(packet(PacketType::PacketReq, id, Bytes::new())).await?,
            Reply::Done(done) => {
                let _ = finished.set(done?);
                outgoing.send(packet(PacketType::PacketFin, 0, Bytes::new())).await?;
            }
            Reply::Late(error) => return Err(error.into()),
        }
    }
    Err(TransferError::Worker)
}

/// The thread's work.
fn run(
    writer: impl TreeWriter,
    options: ReceiveOptions,
    mut packets: mpsc::Receiver<Packet>,
    reply: &mpsc::UnboundedSender<Reply>,
) {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut state = State {
            writer,
            options,
            reply,
            order: Order::default(),
            wanted: Vec::new(),
            outstanding: 0,
            open: 0,
            held: 0,
            ended: false,
            report: ReceiveReport::default(),
        };
        let mut batch = Vec::with_capacity(QUEUE);
        while packets.blocking_recv_many(&mut batch, QUEUE) > 0 {
            for packet in batch.drain(..) {
                state.packet(packet)?;
            }
            if state.ended && state.outstanding == 0 {
                state.writer.finish()?;
                return Ok(Some(state.report));
            }
        }
        Ok(None)
    }));
    let done = match done {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(report))) => Ok(report),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(TransferError::Worker),
    };
    let complete = done.is_ok();
    let _ = reply.send(Reply::Done(done));
    // Nothing more may come but the sender's last word, which does not come this way.
    while complete && let Some(packet) = packets.blocking_recv() {
        let late = if packet.r#type == i32::from(PacketType::PacketData) {
            ProtocolError::Data(packet.id)
        } else {
            ProtocolError::StatAfterEnd
        };
        let _ = reply.send(Reply::Late(late));
    }
}

struct State<'a, W> {
    writer: W,
    options: ReceiveOptions,
    reply: &'a mpsc::UnboundedSender<Reply>,
    order: Order,
    /// By id: files asked for whose end has not come.
    wanted: Vec<Option<Box<WantedFile>>>,
    outstanding: u32,
    /// Those of them of which a part has come.
    open: usize,
    /// Bytes remembered, see [`ReceiveOptions::max_held`].
    held: usize,
    ended: bool,
    report: ReceiveReport,
}

impl<W: TreeWriter> State<'_, W> {
    fn packet(&mut self, packet: Packet) -> Result<(), TransferError> {
        if packet.r#type == i32::from(PacketType::PacketData) {
            return self.data(packet.id, &packet.data);
        }
        if self.ended {
            return Err(ProtocolError::StatAfterEnd.into());
        }
        if let Some(stat) = packet.stat {
            return self.entry(stat.into());
        }
        self.ended = true;
        Ok(())
    }

    fn entry(&mut self, stat: Stat) -> Result<(), TransferError> {
        let id = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
        if id >= self.options.max_entries {
            return Err(ProtocolError::TooManyEntries.into());
        }
        self.order.check(&stat)?;
        self.report.entries += 1;
        let remembered = stat.mode.is_dir() || !stat.link_name.is_empty() && stat.mode.is_file();
        let size =
            if remembered { cost(stat.path.len() + stat.link_name.len(), Some(&stat.xattrs)) } else { 0 };
        let wanted = self.writer.entry(stat)?;
        self.held += wanted.as_ref().map_or(size, WantedFile::cost);
        if self.held > self.options.max_held {
            return Err(ProtocolError::TooManyEntries.into());
        }
        if wanted.is_some() {
            self.outstanding += 1;
            let _ = self.reply.send(Reply::Request(id));
        }
        self.wanted.push(wanted.map(Box::new));
        Ok(())
    }

    fn data(&mut self, id: u32, chunk: &[u8]) -> Result<(), TransferError> {
        let slot = self.wanted.get_mut(id as usize).ok_or(ProtocolError::Data(id))?;
        let file = slot.as_mut().ok_or(ProtocolError::Data(id))?;
        let length = |file: &WantedFile| ProtocolError::Length {
            path: file.path.to_vec(),
            expected: file.size,
            received: file.received,
        };
        if !chunk.is_empty() {
            if file.received == 0 {
                self.open += 1;
                if self.open > self.options.max_open_files {
                    return Err(ProtocolError::TooManyOpen.into());
                }
            }
            file.received += chunk.len() as u64;
            if file.received > file.size {
                return Err(length(file).into());
            }
            self.report.bytes += chunk.len() as u64;
            return self.writer.data(id, file, chunk);
        }
        if file.received != file.size {
            return Err(length(file).into());
        }
        if file.received > 0 {
            self.open -= 1;
        }
        self.outstanding -= 1;
        self.report.files += 1;
        let Some(file) = slot.take() else { return Ok(()) };
        self.held = self.held.saturating_sub(file.cost());
        self.writer.end(id, *file)
    }
}

/// Bytes that an entry takes while it is remembered, about.
fn cost(names: usize, xattrs: Option<&BTreeMap<String, Vec<u8>>>) -> usize {
    let attributes: usize =
        xattrs.into_iter().flatten().map(|(name, value)| name.len() + value.len() + 64).sum();
    128 + names + attributes
}
