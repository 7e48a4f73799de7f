//! A tree that fails when told to, and a receiver that only records.
#![allow(dead_code, reason = "each test file uses its part")]

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use buildkit_fsutil::error::TransferError;
use buildkit_fsutil::filter::FilterOptions;
use buildkit_fsutil::send::{SendOptions, SendReport, send};
use buildkit_fsutil::source::{Entry, Names, SourceDir, SourceFile, SourceFs, Version};
use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use futures::Stream;
use tokio::sync::mpsc;

pub(crate) type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Infallible>> + Send>>;

pub(crate) fn packets(from: mpsc::Receiver<Packet>) -> Packets {
    Box::pin(futures::stream::unfold(from, |mut from| async {
        from.recv().await.map(|packet| (Ok(packet), from))
    }))
}

/// The other side of a transfer.
pub(crate) struct Peer {
    pub(crate) to: mpsc::Sender<Packet>,
    pub(crate) from: mpsc::Receiver<Packet>,
}

pub(crate) fn request(id: u32) -> Packet {
    control(PacketType::PacketReq, id)
}

pub(crate) fn control(kind: PacketType, id: u32) -> Packet {
    Packet { r#type: kind.into(), id, ..Packet::default() }
}

pub(crate) fn data(id: u32, content: &[u8]) -> Packet {
    Packet { data: content.to_vec().into(), ..control(PacketType::PacketData, id) }
}

pub(crate) fn start_send(
    source: Arc<dyn SourceFs>,
    filter: FilterOptions,
    options: SendOptions,
) -> (Peer, tokio::task::JoinHandle<Result<SendReport, TransferError>>) {
    let (to, incoming) = mpsc::channel(4);
    let (outgoing, from) = mpsc::channel(4);
    let task = tokio::spawn(send(source, filter, packets(incoming), outgoing, options));
    (Peer { to, from }, task)
}

/// Everything a sender said, when every regular file was asked for; FIN is sent when all content came.
pub(crate) async fn record(mut peer: Peer) -> Vec<Packet> {
    let mut seen = Vec::new();
    let (mut next, mut open, mut ended) = (0, 0_u32, false);
    while let Some(packet) = peer.from.recv().await {
        match PacketType::try_from(packet.r#type).expect("a known type") {
            PacketType::PacketStat => match &packet.stat {
                Some(stat) => {
                    if stat.mode & 0xffff_f000 == 0 {
                        open += 1;
                        let _ = peer.to.send(request(next)).await;
                    }
                    next += 1;
                }
                None => ended = true,
            },
            PacketType::PacketData if packet.data.is_empty() => open -= 1,
            _ => {}
        }
        let last =
            matches!(PacketType::try_from(packet.r#type), Ok(PacketType::PacketFin | PacketType::PacketErr));
        seen.push(packet);
        if last {
            break;
        }
        if ended && open == 0 {
            let _ = peer.to.send(control(PacketType::PacketFin, 0)).await;
        }
    }
    seen
}

/// What a faulty tree is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    OpenDir,
    Names,
    Entry,
    Open,
    Version,
    Read,
}

type Rule = dyn FnMut(Op, &[u8]) -> Option<io::Error> + Send;

/// Passes calls on, unless its rule has an error for them. The rule may also do things to the tree.
pub(crate) struct Faulty<S> {
    inner: S,
    rule: Arc<Mutex<Box<Rule>>>,
}

impl<S: SourceFs> Faulty<S> {
    pub(crate) fn new(
        inner: S,
        rule: impl FnMut(Op, &[u8]) -> Option<io::Error> + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner, rule: Arc::new(Mutex::new(Box::new(rule))) })
    }
}

fn check(rule: &Mutex<Box<Rule>>, op: Op, path: &[u8]) -> io::Result<()> {
    let mut rule = rule.lock().expect("not poisoned");
    rule(op, path).map_or(Ok(()), Err)
}

impl<S: SourceFs> SourceFs for Faulty<S> {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        check(&self.rule, Op::OpenDir, path)?;
        Ok(Box::new(FaultyDir { inner: self.inner.open_dir(path)?, path: path.to_vec(), rule: &self.rule }))
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        check(&self.rule, Op::Open, path)?;
        Ok(Box::new(FaultyFile { inner: self.inner.open(path)?, path: path.to_vec(), rule: &self.rule }))
    }
}

struct FaultyDir<'a> {
    inner: Box<dyn SourceDir + 'a>,
    path: Vec<u8>,
    rule: &'a Mutex<Box<Rule>>,
}

impl SourceDir for FaultyDir<'_> {
    fn names(&mut self) -> io::Result<Names> {
        check(self.rule, Op::Names, &self.path)?;
        self.inner.names()
    }

    fn entry(&self, name: &[u8]) -> io::Result<Entry> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        check(self.rule, Op::Entry, &path)?;
        self.inner.entry(name)
    }
}

struct FaultyFile<'a> {
    inner: Box<dyn SourceFile + 'a>,
    path: Vec<u8>,
    rule: &'a Mutex<Box<Rule>>,
}

impl SourceFile for FaultyFile<'_> {
    fn version(&self) -> io::Result<Version> {
        check(self.rule, Op::Version, &self.path)?;
        self.inner.version()
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.rule, Op::Read, &self.path)?;
        self.inner.read(buffer)
    }
}
