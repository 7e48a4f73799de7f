//! What must hold of transfers of trees, whatever the other side says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_fsutil::destination::{DestFile, DestFs, Metadata};
use buildkit_fsutil::disk_writer::{Devices, DiskWriter, WriteOptions};
use buildkit_fsutil::error::TransferError;
use buildkit_fsutil::filter::FilterOptions;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::receive::{ReceiveOptions, receive};
use buildkit_fsutil::send::{SendOptions, send};
use buildkit_fsutil::source::Names;
use buildkit_fsutil::stat::{FileMode, Kind, Stat};
use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;

/// Nothing is written outside the destination or through a link in it, nothing half written stays, and it ends.
///
/// The first byte has options. The rest is a script of packets in a form of its own, or (by the first bit) packets as
/// they are encoded, each behind its length in two bytes.
pub(crate) fn packet_receiver(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else { return };
    let script = if flags & 1 == 0 { scripted(script) } else { encoded(script) };
    let disk = Disk::new();
    let options = WriteOptions {
        delete: flags & 2 != 0,
        skip_unchanged: flags & 4 != 0,
        preserve_setid: flags & 8 != 0,
        devices: if flags & 16 == 0 { Devices::Refuse } else { Devices::Create },
        ..WriteOptions::default()
    };
    let goes_on = flags & 32 == 0;
    let writer = DiskWriter::new(disk.clone(), options).expect("the destination can be listed");
    let (to, incoming) = mpsc::channel(4);
    let (outgoing, from) = mpsc::channel(script.len() + 16);
    let limits = ReceiveOptions { max_entries: 200, max_open_files: 8, max_held: 1 << 16 };
    let receiving = receive(writer, packets(incoming), outgoing, limits);
    let done = run(async { futures::future::join(receiving, play(script, goes_on, to, from)).await.0 });
    let files = disk.0.lock().expect("no panic on the disk");
    // Names of that kind may be sent, too, but nobody guesses sixteen digits.
    let temporary = |path: &Vec<u8>| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.strip_prefix(b".tmp.")
            .is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
    };
    assert!(!files.keys().any(temporary), "{files:?}\n{done:?}");
    match done {
        Ok(report) => assert!(report.files <= report.entries),
        Err(TransferError::Worker) => panic!("the worker died"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Says what the script says and then, if told so, what an honest sender would still say.
async fn play(
    script: Vec<Packet>,
    goes_on: bool,
    to: mpsc::Sender<Packet>,
    mut from: mpsc::Receiver<Packet>,
) {
    let mut left: Vec<Option<i64>> = Vec::new();
    let mut ended = false;
    for packet in script {
        match packet.r#type() {
            PacketType::PacketStat => match &packet.stat {
                Some(stat) => left.push(Some(stat.size)),
                None => ended = true,
            },
            PacketType::PacketData => {
                if let Some(slot) = left.get_mut(packet.id as usize) {
                    *slot = slot
                        .filter(|_| !packet.data.is_empty())
                        .map(|left| left.saturating_sub(i64::try_from(packet.data.len()).unwrap_or(0)));
                }
            }
            _ => {}
        }
        if to.send(packet).await.is_err() {
            return;
        }
    }
    if !goes_on {
        return;
    }
    if !ended {
        let _ = to.send(Packet::default()).await;
    }
    while let Some(packet) = from.recv().await {
        match packet.r#type() {
            PacketType::PacketReq => {
                let Some(size) = left.get_mut(packet.id as usize).and_then(Option::take) else { continue };
                if size > 0 {
                    let content = vec![b'n'; usize::try_from(size.min(1 << 16)).unwrap_or(0)];
                    let _ = to.send(content_packet(packet.id, content)).await;
                }
                let _ = to.send(content_packet(packet.id, Vec::new())).await;
            }
            PacketType::PacketFin => {
                let _ = to.send(control(PacketType::PacketFin, 0)).await;
                return;
            }
            _ => return,
        }
    }
}

/// A sender sends what was asked for and nothing else, once, unchanged, and it ends.
///
/// The first byte has options; of each further pair the first byte chooses a packet and the second its id.
pub(crate) fn packet_sender(data: &[u8]) {
    let Some((flags, script)) = data.split_first() else { return };
    let big: Vec<u8> = (0..70_000_u32).map(|at| at.to_le_bytes()[usize::from(at % 2 == 0)]).collect();
    let mut tree = MemoryTree::new()
        .file("a/big", &big)
        .file("a/empty", "")
        .file("b", "hello")
        .symlink("c", "b")
        .dir("d");
    tree.hard_link("e", "b").expect("a link");
    let contents: [Option<&[u8]>; 7] =
        [None, Some(&big), Some(b""), Some(b"hello"), None, None, Some(b"hello")];
    let (to, incoming) = mpsc::channel(4);
    let (outgoing, mut from) = mpsc::channel::<Packet>(4);
    let sending =
        send(Arc::new(tree), FilterOptions::default(), packets(incoming), outgoing, SendOptions::default());
    let script: Vec<Packet> = script
        .chunks_exact(2)
        .take(64)
        .map(|pair| match pair[0] % 8 {
            0..=3 => control(PacketType::PacketReq, u32::from(pair[1] % 9)),
            4 => control(PacketType::PacketFin, 0),
            5 => Packet {
                data: vec![pair[1]; usize::from(pair[1])].into(),
                ..control(PacketType::PacketErr, 0)
            },
            6 => content_packet(u32::from(pair[1]), vec![1]),
            _ => Packet { r#type: i32::from(pair[1]) - 3, ..Packet::default() },
        })
        .collect();
    let (listing_first, goes_on) = (flags & 1 == 0, flags & 2 == 0);
    let asked: Mutex<[bool; 16]> = Mutex::new([false; 16]);
    let note = |id: u32| std::mem::replace(&mut asked.lock().expect("one thread")[id as usize & 15], true);
    let (listed, mut is_listed) = tokio::sync::watch::channel(false);
    let last_word = goes_on.then(|| to.clone());
    let talk = async {
        let to = to;
        if listing_first {
            let _ = is_listed.wait_for(|listed| *listed).await;
        }
        for packet in script {
            if packet.r#type() == PacketType::PacketReq {
                note(packet.id);
            }
            let _ = to.send(packet).await;
        }
        if goes_on {
            let _ = is_listed.wait_for(|listed| *listed).await;
            for id in [1, 2, 3, 6] {
                if !note(id) {
                    let _ = to.send(control(PacketType::PacketReq, id)).await;
                }
            }
        }
    };
    let listen = async {
        // The one who waits must learn that this half has ended.
        let (listed, mut last_word) = (listed, last_word);
        let mut got: [Vec<u8>; 7] = Default::default();
        let mut ended = contents.map(|content| content.is_none());
        let (mut last, mut entries) = (None, 0);
        while let Some(packet) = from.recv().await {
            assert!(last.is_none(), "{packet:?} after {last:?}");
            let id = packet.id as usize;
            match packet.r#type() {
                PacketType::PacketStat if packet.stat.is_some() => entries += 1,
                PacketType::PacketStat => {
                    assert_eq!(entries, contents.len());
                    listed.send_replace(true);
                }
                PacketType::PacketData => {
                    assert!(asked.lock().expect("one thread")[id], "{id} was not asked for");
                    assert!(!ended[id], "{id} twice");
                    ended[id] = packet.data.is_empty();
                    got[id].extend_from_slice(&packet.data);
                    let whole = contents[id].expect("a file");
                    assert!(whole.starts_with(&got[id]));
                    assert!(!ended[id] || whole.len() == got[id].len());
                }
                PacketType::PacketFin | PacketType::PacketErr => last = Some(packet.r#type()),
                PacketType::PacketReq => panic!("a sender asks for nothing"),
            }
            if ended.iter().all(|ended| *ended)
                && let Some(to) = last_word.take()
            {
                let _ = to.send(control(PacketType::PacketFin, 0)).await;
            }
        }
        last
    };
    let (done, (), last) = run(async { futures::join!(sending, talk, listen) });
    match done {
        Ok(report) => assert!(report.files <= 4 && last == Some(PacketType::PacketFin)),
        Err(TransferError::Worker) => panic!("the worker died"),
        Err(error) => assert!(!error.to_string().is_empty() && last != Some(PacketType::PacketFin)),
    }
}

/// Runs one transfer; one that does not end is a finding.
fn run<T>(transfer: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(8)
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        let bounded = async { tokio::time::timeout(Duration::from_secs(10), transfer).await };
        runtime.block_on(bounded).expect("a transfer that ends")
    })
}

fn packets(from: mpsc::Receiver<Packet>) -> impl Stream<Item = Result<Packet, Infallible>> + Send + Unpin {
    Box::pin(futures::stream::unfold(from, |mut from| async {
        from.recv().await.map(|packet| (Ok(packet), from))
    }))
}

fn control(kind: PacketType, id: u32) -> Packet {
    Packet { r#type: kind.into(), id, ..Packet::default() }
}

fn content_packet(id: u32, content: Vec<u8>) -> Packet {
    Packet { data: content.into(), ..control(PacketType::PacketData, id) }
}

/// Packets as they are encoded, each behind its length.
fn encoded(mut script: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let [low, high, rest @ ..] = script {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        script = rest;
        packets.extend(Packet::decode(packet));
    }
    packets
}

/// Names to make paths of: good ones, ones that are in the destination already, and ones that must be refused.
const NAMES: [&[u8]; 16] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"dir",
    b"old",
    b"link",
    b"x",
    b"Z",
    b"zz",
    b"n\xff\x1b",
    b"..",
    b".",
    b"",
    b"nul\0",
    b"a-b",
];

/// Four bytes a packet: what, which, how much, and a name.
fn scripted(script: &[u8]) -> Vec<Packet> {
    let mut last: Vec<u8> = Vec::new();
    let step = |bytes: &[u8]| {
        let (what, which, much, name) = (bytes[0], bytes[1], bytes[2], NAMES[usize::from(bytes[3] & 15)]);
        match what & 15 {
            0..=8 => {
                // Beside, below or above the path before.
                let keep = match which >> 6 {
                    0 => 0,
                    1 => last.len(),
                    _ => last.iter().rposition(|byte| *byte == b'/').unwrap_or(0),
                };
                last.truncate(keep);
                if which >> 6 != 0 && !last.is_empty() {
                    last.push(b'/');
                }
                last.extend_from_slice(name);
                let mode = match which & 15 {
                    0..=5 => 0o644,
                    6..=9 => FileMode::DIRECTORY | 0o755,
                    10 => FileMode::SYMLINK | 0o777,
                    11 => FileMode::SETUID | FileMode::SETGID | 0o4777,
                    12 => FileMode::FIFO | 0o600,
                    13 => FileMode::DEVICE | FileMode::CHAR_DEVICE | 0o666,
                    14 => FileMode::SOCKET | 0o600,
                    _ => u32::from(much) << 24 | u32::from(name.len() as u8) << 16,
                };
                let link: &[u8] = match (which & 15, bytes[3] >> 4) {
                    (10, 0) => b"../outside",
                    (10, _) | (0, 1) => NAMES[usize::from(much & 15)],
                    (0, 2) => b"../outside/canary",
                    _ => b"",
                };
                let size = if much == 255 { -1 } else { i64::from(much) };
                let stat = buildkit_proto::fsutil::Stat {
                    path: last.clone().into(),
                    mode,
                    size,
                    linkname: link.to_vec().into(),
                    ..Default::default()
                };
                Packet { stat: Some(stat), ..Packet::default() }
            }
            9..=11 => content_packet(u32::from(which & 15), vec![b's'; usize::from(much)]),
            12 => content_packet(u32::from(which & 15), Vec::new()),
            13 => Packet::default(),
            14 => control(PacketType::PacketFin, 0),
            _ => Packet { r#type: i32::from(which) - 2, id: u32::from(much), ..Packet::default() },
        }
    };
    script.chunks_exact(4).take(256).map(step).collect()
}

/// A destination in memory that takes only calls that a confined writer may make.
#[derive(Clone)]
struct Disk(Arc<Mutex<BTreeMap<Vec<u8>, Node>>>);

#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    mode: u32,
    size: i64,
}

impl Disk {
    /// With a file, a link that leads outside and a directory with a file.
    fn new() -> Self {
        let node = |kind, size| Node { kind, mode: 0o755, size };
        let nodes = [
            (b"".to_vec(), node(Kind::Directory, 0)),
            (b"old".to_vec(), node(Kind::File, 3)),
            (b"link".to_vec(), node(Kind::Symlink, 10)),
            (b"dir".to_vec(), node(Kind::Directory, 0)),
            (b"dir/x".to_vec(), node(Kind::File, 3)),
        ];
        Self(Arc::new(Mutex::new(nodes.into())))
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Node>> {
        self.0.lock().expect("no panic on the disk")
    }

    /// Whatever is asked for lies below the root, in directories that are no links.
    fn at(&self, path: &[u8]) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Node>> {
        let nodes = self.nodes();
        for part in path.split(|byte| *byte == b'/') {
            assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&0), "{path:?}");
        }
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let above = nodes.get(&path[..end]).map(|node| node.kind);
            assert_eq!(above, Some(Kind::Directory), "{path:?} leads through {:?}", &path[..end]);
        }
        nodes
    }

    fn make(&self, path: &[u8], kind: Kind) -> io::Result<()> {
        let mut nodes = self.at(path);
        if nodes.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        nodes.insert(path.to_vec(), Node { kind, mode: 0, size: 0 });
        Ok(())
    }
}

impl DestFs for Disk {
    fn stat(&mut self, path: &[u8]) -> io::Result<Stat> {
        let nodes = self.at(path);
        let node = nodes.get(path).ok_or(io::ErrorKind::NotFound)?;
        let bits = match node.kind {
            Kind::Directory => FileMode::DIRECTORY,
            Kind::Symlink => FileMode::SYMLINK,
            _ => 0,
        };
        Ok(Stat { mode: FileMode(bits | node.mode & 0o777), size: node.size, ..Stat::default() })
    }

    fn names(&mut self, dir: &[u8]) -> io::Result<Names> {
        let nodes = if dir.is_empty() { self.nodes() } else { self.at(dir) };
        let mut names = Names::default();
        for (path, node) in nodes.iter() {
            let name = if dir.is_empty() {
                Some(&path[..])
            } else {
                path.strip_prefix(dir).and_then(|rest| rest.strip_prefix(b"/"))
            };
            if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains(&b'/')) {
                names.push(name, node.kind)?;
            }
        }
        Ok(names)
    }

    fn make_dir(&mut self, path: &[u8]) -> io::Result<()> {
        self.make(path, Kind::Directory)
    }

    fn create(&mut self, path: &[u8]) -> io::Result<Box<dyn DestFile>> {
        self.make(path, Kind::File)?;
        Ok(Box::new(Opened(self.clone(), path.to_vec())))
    }

    fn symlink(&mut self, path: &[u8], _: &[u8]) -> io::Result<()> {
        self.make(path, Kind::Symlink)
    }

    fn link(&mut self, path: &[u8], existing: &[u8]) -> io::Result<()> {
        let kind = self.at(existing).get(existing).map(|node| node.kind);
        assert!(kind != Some(Kind::Symlink), "a further name for the link {existing:?}");
        match kind {
            Some(Kind::File) => self.make(path, Kind::File),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make_node(&mut self, path: &[u8], kind: Kind, _: i64, _: i64) -> io::Result<()> {
        self.make(path, kind)
    }

    fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let mut nodes = self.at(to);
        match nodes.get(to).map(|node| node.kind) {
            Some(_) if !replace => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(Kind::Directory) => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let node = nodes.remove(from).ok_or(io::ErrorKind::NotFound)?;
        nodes.insert(to.to_vec(), node);
        Ok(())
    }

    fn remove_file(&mut self, path: &[u8]) -> io::Result<()> {
        let mut nodes = self.at(path);
        match nodes.get(path).map(|node| node.kind) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Kind::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            Some(_) => nodes.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&mut self, path: &[u8]) -> io::Result<()> {
        let mut nodes = self.at(path);
        let below = [path, b"/"].concat();
        if nodes.keys().any(|other| other.starts_with(&below)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        nodes.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn set(&mut self, path: &[u8], _: Kind, metadata: &Metadata<'_>) -> io::Result<()> {
        let mut nodes = self.at(path);
        nodes.get_mut(path).ok_or(io::ErrorKind::NotFound)?.mode = metadata.permissions;
        Ok(())
    }
}

struct Opened(Disk, Vec<u8>);

impl DestFile for Opened {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut nodes = self.0.nodes();
        let node = nodes.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        node.size += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
        Ok(())
    }

    fn finish(self: Box<Self>, metadata: &Metadata<'_>) -> io::Result<()> {
        let mut nodes = self.0.nodes();
        nodes.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?.mode = metadata.permissions;
        Ok(())
    }
}
