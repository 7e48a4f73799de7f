//! The receiving side, against scripted senders and our own.
#![cfg(feature = "transfer")]

mod support;

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_fsutil::destination::{DestFile, DestFs, DiskDestination, Metadata};
use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::disk_writer::{Devices, DiskWriter, WriteOptions};
use buildkit_fsutil::error::{ProtocolError, Refusal, TransferError};
use buildkit_fsutil::filter::FilterOptions;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::receive::{ReceiveOptions, ReceiveReport, receive};
use buildkit_fsutil::send::{SendOptions, send};
use buildkit_fsutil::source::{Names, SourceFs};
use buildkit_fsutil::stat::{FileMode, Kind, Stat};
use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use support::{Peer, control, data, packets};
use tokio::sync::mpsc;

type Done = Result<ReceiveReport, TransferError>;

fn start(writer: DiskWriter) -> (Peer, tokio::task::JoinHandle<Done>) {
    let (to, incoming) = mpsc::channel(4);
    let (outgoing, from) = mpsc::channel(4);
    let task = tokio::spawn(receive(writer, packets(incoming), outgoing, ReceiveOptions::default()));
    (Peer { to, from }, task)
}

fn writer(dest: &Path, options: WriteOptions) -> DiskWriter {
    DiskWriter::open(dest, options).expect("a destination")
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Our sender and our receiver, joined.
async fn copy(source: Arc<dyn SourceFs>, writer: DiskWriter) -> Done {
    let (to_receiver, from_sender) = mpsc::channel(4);
    let (to_sender, from_receiver) = mpsc::channel(4);
    let sending =
        send(source, FilterOptions::default(), packets(from_receiver), to_receiver, SendOptions::default());
    let receiving = receive(writer, packets(from_sender), to_sender, ReceiveOptions::default());
    let joined = futures::future::join(sending, receiving);
    tokio::time::timeout(Duration::from_secs(30), joined).await.expect("no hang").1
}

/// Plays packets, answers nothing, and tells how the receiver ended.
async fn play(dest: &Path, options: WriteOptions, script: Vec<Packet>) -> (Option<Packet>, Done) {
    let (Peer { to, mut from }, task) = start(writer(dest, options));
    let play = async {
        for packet in script {
            if to.send(packet).await.is_err() {
                break;
            }
        }
        // The stream stays open: the receiver must not wait for it to end.
        task.await.expect("no panic")
    };
    let watch = async {
        let mut last = None;
        while let Some(packet) = from.recv().await {
            last = Some(packet);
        }
        last
    };
    let both = futures::future::join(watch, play);
    tokio::time::timeout(Duration::from_secs(2), both).await.expect("ends within two seconds")
}

fn stat(stat: Stat) -> Packet {
    Packet { stat: Some(stat.into()), ..Packet::default() }
}

fn dir(path: &str) -> Packet {
    entry(path, FileMode::DIRECTORY | 0o755, 0, "")
}

fn file(path: &str, size: i64) -> Packet {
    entry(path, 0o644, size, "")
}

fn link(path: &str, target: &str) -> Packet {
    entry(path, FileMode::SYMLINK | 0o777, 0, target)
}

fn entry(path: &str, mode: u32, size: i64, link_name: &str) -> Packet {
    stat(Stat {
        path: path.into(),
        mode: FileMode(mode),
        size,
        link_name: link_name.into(),
        ..Stat::default()
    })
}

fn end() -> Packet {
    Packet::default()
}

fn fin() -> Packet {
    control(PacketType::PacketFin, 0)
}

/// Everything below a directory: path, kind and content or target.
fn listing(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for found in std::fs::read_dir(root.join(&dir)).expect("listed") {
            let found = found.expect("read");
            let path = dir.join(found.file_name());
            let kind = found.file_type().expect("a type");
            let what = if kind.is_dir() {
                open.push(path.clone());
                "/".to_owned()
            } else if kind.is_symlink() {
                format!(" -> {}", std::fs::read_link(root.join(&path)).expect("read").display())
            } else {
                format!(" = {}", String::from_utf8_lossy(&std::fs::read(root.join(&path)).expect("read")))
            };
            out.push(format!("{}{what}", path.display()));
        }
    }
    out.sort();
    out
}

#[tokio::test]
async fn tree_arrives_as_it_was() {
    let (from, to) = (temp(), temp());
    let root = from.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/b/big"), vec![7; 200_000]).unwrap();
    std::fs::write(root.join("a/run.sh"), b"#!/bin/sh").unwrap();
    std::fs::set_permissions(root.join("a/run.sh"), PermissionsExt::from_mode(0o751)).unwrap();
    std::fs::write(root.join("empty"), b"").unwrap();
    std::fs::hard_link(root.join("a/run.sh"), root.join("hard")).unwrap();
    symlink("a/run.sh", root.join("sym")).unwrap();
    symlink("missing/\u{1b}", root.join("dangling")).unwrap();
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"new\nline\xff");
    std::fs::write(root.join::<&std::ffi::OsStr>(odd), b"odd").unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    for path in ["a/run.sh", "a/b", "a"] {
        std::fs::File::open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
    std::fs::set_permissions(root.join("a/b"), PermissionsExt::from_mode(0o555)).unwrap();
    let done =
        copy(Arc::new(Directory::open(root).unwrap()), writer(to.path(), WriteOptions::default())).await;
    assert_eq!(done.unwrap(), ReceiveReport { entries: 9, files: 4, bytes: 200_012 });
    assert_eq!(listing(to.path()), listing(root));
    for path in ["a/run.sh", "a/b", "a", "a/b/big"] {
        let (was, is) = (root.join(path).metadata().unwrap(), to.path().join(path).metadata().unwrap());
        assert_eq!(
            (is.mode(), is.mtime(), is.mtime_nsec()),
            (was.mode(), was.mtime(), was.mtime_nsec()),
            "{path}"
        );
    }
    let ino = |path: &str| to.path().join(path).metadata().unwrap().ino();
    assert_eq!(ino("hard"), ino("a/run.sh"));
}

#[tokio::test]
async fn merge_keeps_and_delete_removes_what_was_not_received() {
    for (delete, expected) in [
        (
            false,
            vec![
                "a/",
                "a/new = 1",
                "a/old = x",
                "b = 2",
                "c/",
                "c/d/",
                "c/d/e = x",
                "swapped = now a file",
                "z = x",
            ],
        ),
        (true, vec!["a/", "a/new = 1", "b = 2", "swapped = now a file"]),
    ] {
        let to = temp();
        let old = to.path();
        std::fs::create_dir_all(old.join("a")).unwrap();
        std::fs::create_dir_all(old.join("c/d")).unwrap();
        std::fs::create_dir_all(old.join("swapped/deep/er")).unwrap();
        for path in ["a/old", "b", "c/d/e", "z", "swapped/deep/f"] {
            std::fs::write(old.join(path), b"x").unwrap();
        }
        let tree = MemoryTree::new().file("a/new", "1").file("b", "2").file("swapped", "now a file");
        let options = WriteOptions { delete, ..Default::default() };
        copy(Arc::new(tree), writer(old, options)).await.unwrap();
        assert_eq!(listing(old), expected, "delete {delete}");
    }
}

#[tokio::test]
async fn unchanged_files_are_not_asked_for_when_told_so() {
    let (from, to) = (temp(), temp());
    for name in ["same", "other"] {
        std::fs::write(from.path().join(name), b"12345").unwrap();
    }
    let source = || Arc::new(Directory::open(from.path()).unwrap());
    let options = WriteOptions { skip_unchanged: true, ..Default::default() };
    assert_eq!(copy(source(), writer(to.path(), options.clone())).await.unwrap().files, 2);
    std::fs::write(from.path().join("other"), b"54321").unwrap();
    assert_eq!(copy(source(), writer(to.path(), options.clone())).await.unwrap().files, 1);
    assert_eq!(listing(to.path()), ["other = 54321", "same = 12345"]);
    let mode = |dir: &Path| dir.join("same").metadata().unwrap().permissions().mode() & 0o777;
    std::fs::set_permissions(from.path().join("same"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(copy(source(), writer(to.path(), options)).await.unwrap().files, 1);
    assert_eq!(mode(to.path()), 0o600);
    assert_eq!(copy(source(), writer(to.path(), WriteOptions::default())).await.unwrap().files, 2);
}

#[tokio::test]
async fn directories_are_finished_before_those_above_them_are_closed() {
    let (from, to) = (temp(), temp());
    std::fs::create_dir_all(from.path().join("a/b/c")).unwrap();
    for dir in ["a/b", "a"] {
        std::fs::set_permissions(from.path().join(dir), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let source = Arc::new(Directory::open(from.path()).unwrap());
    let dest = FaultyDest::new(to.path(), |_| None);
    copy(source, DiskWriter::new(dest, WriteOptions::default()).unwrap()).await.unwrap();
    assert_eq!(to.path().join("a/b").metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn hard_links_over_existing_files_replace_them() {
    let to = temp();
    std::fs::write(to.path().join("b"), b"old").unwrap();
    let tree = || {
        let mut tree = MemoryTree::new().file("a", "new");
        tree.hard_link("b", "a").unwrap();
        Arc::new(tree)
    };
    // In the end the first name stays what it was, so that the second one is its link already.
    for skip_unchanged in [false, false, true] {
        let options = WriteOptions { skip_unchanged, ..Default::default() };
        copy(tree(), writer(to.path(), options)).await.unwrap();
        assert_eq!(listing(to.path()), ["a = new", "b = new"]);
        let ino = |name: &str| to.path().join(name).metadata().unwrap().ino();
        assert_eq!(ino("a"), ino("b"));
    }
}

/// Row F35: ways out of the destination, and malformed trees.
#[tokio::test]
async fn f35_path_escapes_are_refused_and_nothing_is_written_outside() {
    let long = "n".repeat(300);
    for (name, script) in [
        ("dotdot", vec![file("../evil", 0), end()]),
        ("bare dotdot", vec![dir(".."), end()]),
        ("inner dotdot", vec![dir("a"), file("a/../../evil", 0), end()]),
        ("trailing dotdot", vec![dir("a"), dir("a/.."), end()]),
        ("dot", vec![dir("."), end()]),
        ("inner dot", vec![dir("a"), file("a/./b", 0), end()]),
        ("absolute", vec![file("/evil", 0), end()]),
        ("double slash", vec![dir("a"), file("a//b", 0), end()]),
        ("trailing slash", vec![dir("a/"), end()]),
        ("empty", vec![file("", 0), end()]),
        ("NUL", vec![file("a\0b", 0), end()]),
        ("long name", vec![file(&long, 0), end(), data(0, b"")]),
        ("child of a link", vec![link("l", "../outside"), file("l/evil", 0), end()]),
        ("child of a file", vec![file("f", 0), file("f/evil", 0), end()]),
        ("parent not sent", vec![file("a/evil", 0), end()]),
        ("out of order", vec![file("b", 0), file("a", 0), end()]),
        ("sibling order", vec![file("a-b", 0), dir("a"), end()]),
        ("twice", vec![dir("a"), dir("a"), end()]),
        ("hard link outside", vec![entry("h", 0o644, 0, "../outside/canary"), end()]),
        ("hard link to absolute path", vec![entry("h", 0o644, 0, "/etc/passwd"), end()]),
        ("hard link to a link", vec![link("a", "../outside/canary"), entry("h", 0o644, 0, "a"), end()]),
        ("hard link forward", vec![entry("h", 0o644, 0, "z"), file("z", 0), end()]),
        ("hard link to itself", vec![entry("h", 0o644, 0, "h"), end()]),
        ("link without target", vec![link("l", ""), end()]),
        ("link with NUL", vec![link("l", "a\0b"), end()]),
        ("negative size", vec![file("f", -1), end()]),
        ("unknown type", vec![entry("f", FileMode::IRREGULAR | 0o644, 0, ""), end()]),
        ("two types", vec![entry("f", FileMode::DIRECTORY | FileMode::SYMLINK, 0, "x"), end()]),
    ] {
        let outer = temp();
        let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), b"intact").unwrap();
        let (last, done) = play(&dest, WriteOptions::default(), script).await;
        assert!(done.is_err(), "{name}: {done:?}");
        let told = last.is_some_and(|packet| packet.r#type == i32::from(PacketType::PacketErr));
        assert!(told, "{name}: the sender is told");
        assert_eq!(listing(&outside), ["canary = intact"], "{name}");
        assert!(listing(&dest).iter().all(|line| !line.contains("evil") && !line.contains(".tmp")), "{name}");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2, "{name}");
    }
}

#[tokio::test]
async fn f35_links_planted_in_the_destination_are_replaced_not_followed() {
    let outer = temp();
    let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&dest).unwrap();
    std::fs::write(outside.join("canary"), b"intact").unwrap();
    symlink("../outside", dest.join("d")).unwrap();
    symlink("../outside/canary", dest.join("f")).unwrap();
    symlink("../outside/canary", dest.join("h")).unwrap();
    symlink("../outside/new", dest.join("s")).unwrap();
    let mut tree = MemoryTree::new().file("d/canary", "mine").file("f", "mine").symlink("s", "f");
    tree.hard_link("h", "f").unwrap();
    copy(Arc::new(tree), writer(&dest, WriteOptions::default())).await.unwrap();
    assert_eq!(listing(&outside), ["canary = intact"]);
    assert_eq!(listing(&dest), ["d/", "d/canary = mine", "f = mine", "h = mine", "s -> f"]);
}

/// Row F34, the receiver's half.
#[tokio::test]
async fn a_sender_may_leave_once_it_was_told_that_everything_has_arrived() {
    let dest = temp();
    for told in [true, false] {
        let (Peer { to, mut from }, task) = start(writer(dest.path(), WriteOptions::default()));
        for packet in [file("f", 2), end()] {
            to.send(packet).await.expect("taken");
        }
        assert_eq!(from.recv().await.expect("a request").r#type, i32::from(PacketType::PacketReq));
        if told {
            for packet in [data(0, b"hi"), data(0, b"")] {
                to.send(packet).await.expect("taken");
            }
            assert_eq!(from.recv().await.expect("the end"), fin());
        }
        // No FIN: the stream was reset behind it.
        drop((to, from));
        let done = task.await.expect("no panic");
        assert_eq!(done.is_ok(), told, "{done:?}");
    }
}

#[tokio::test]
async fn f34_hostile_senders_get_a_typed_error_at_once() {
    let stats = || vec![file("a", 3), file("b", 3), end()];
    let with = |more: Vec<Packet>| stats().into_iter().chain(more).collect::<Vec<_>>();
    let length = |received| ProtocolError::Length { path: b"a".to_vec(), expected: 3, received };
    for (name, script, expected) in [
        ("data for an unknown id", with(vec![data(7, b"x")]), ProtocolError::Data(7)),
        (
            "data after the end of a file",
            with(vec![data(0, b"xyz"), data(0, b""), data(0, b"x")]),
            ProtocolError::Data(0),
        ),
        ("data before its entry", vec![data(0, b"x")], ProtocolError::Data(0)),
        ("data for a directory", vec![dir("d"), data(0, b"x")], ProtocolError::Data(0)),
        ("too much data", with(vec![data(0, b"wxyz")]), length(4)),
        ("too little data", with(vec![data(0, b"x"), data(0, b"")]), length(1)),
        ("no data", with(vec![data(0, b"")]), length(0)),
        ("early end", with(vec![fin()]), ProtocolError::EarlyEnd),
        ("end at once", vec![fin()], ProtocolError::EarlyEnd),
        ("entry after the end", with(vec![file("c", 0)]), ProtocolError::StatAfterEnd),
        ("second end of entries", with(vec![end()]), ProtocolError::StatAfterEnd),
        ("entry after everything", vec![end(), file("c", 0)], ProtocolError::StatAfterEnd),
        ("request", vec![control(PacketType::PacketReq, 0)], ProtocolError::Packet(1)),
        ("unknown type", vec![Packet { r#type: -3, ..Packet::default() }], ProtocolError::Packet(-3)),
        ("huge packet", with(vec![data(0, &vec![0; 5 << 20])]), ProtocolError::Packet(2)),
    ] {
        let dest = temp();
        let (last, done) = play(dest.path(), WriteOptions::default(), script).await;
        let Err(TransferError::Protocol(error)) = done else { panic!("{name}: {done:?}") };
        assert_eq!(error, expected, "{name}");
        assert_eq!(last.map(|packet| packet.r#type), Some(4), "{name}: the sender is told");
        assert!(listing(dest.path()).iter().all(|line| !line.contains(".tmp")), "{name}");
    }
}

#[tokio::test]
async fn f34_entries_and_open_files_are_limited() {
    let dest = temp();
    let limits = ReceiveOptions { max_entries: 10, max_open_files: 4, max_held: 4096 };
    let run_with = |script: Vec<Packet>, limits: ReceiveOptions| {
        let (to, incoming) = mpsc::channel(1000);
        let (outgoing, from) = mpsc::channel::<Packet>(1000);
        for packet in script {
            to.try_send(packet).unwrap();
        }
        let writer = writer(dest.path(), WriteOptions::default());
        async move {
            let _held = (to, from);
            receive(writer, packets(incoming), outgoing, limits).await
        }
    };
    let run = |script| run_with(script, limits);
    let many = (0..20).map(|index| dir(&format!("d{index:02}"))).collect();
    assert!(matches!(run(many).await, Err(TransferError::Protocol(ProtocolError::TooManyEntries))));
    let long = (0..9).map(|index| dir(&format!("d{index}{}", "-".repeat(200)))).collect();
    let held = ReceiveOptions { max_held: 2000, ..limits };
    let done = run_with(long, held).await;
    assert!(matches!(done, Err(TransferError::Protocol(ProtocolError::TooManyEntries))), "{done:?}");
    let names = || (0..9).map(|index| file(&format!("f{index}"), 2));
    let open = names().chain([end()]).chain((0..9).map(|id| data(id, b"x"))).collect();
    let done = run(open).await;
    assert!(matches!(done, Err(TransferError::Protocol(ProtocolError::TooManyOpen))), "{done:?}");
    // What has arrived whole counts no more.
    let (to, incoming) = mpsc::channel(1000);
    let (outgoing, mut from) = mpsc::channel(1000);
    let one = |id| [file(&format!("g{id}"), 1), data(id, b"x"), data(id, b"")];
    for packet in (0..9).flat_map(one).chain([end()]) {
        to.try_send(packet).unwrap();
    }
    let narrow = ReceiveOptions { max_open_files: 1, max_held: 200, ..limits };
    let writer = writer(dest.path(), WriteOptions::default());
    let task = tokio::spawn(receive(writer, packets(incoming), outgoing, narrow));
    while from.recv().await.is_some_and(|packet: Packet| packet.r#type != i32::from(PacketType::PacketFin)) {}
    let _ = to.send(fin()).await;
    assert_eq!(task.await.unwrap().unwrap().files, 9);
}

#[tokio::test]
async fn f37_devices_and_privileges_are_refused_unless_asked_for() {
    let device = entry("null", FileMode::DEVICE | FileMode::CHAR_DEVICE | 0o666, 0, "");
    let dest = temp();
    let (_, done) = play(dest.path(), WriteOptions::default(), vec![device.clone(), end()]).await;
    assert!(matches!(done, Err(TransferError::Refused { reason: Refusal::Device, .. })), "{done:?}");
    let skip = WriteOptions { devices: Devices::Skip, ..Default::default() };
    let (_, done) = play(dest.path(), skip, vec![device, end(), fin()]).await;
    assert!(matches!(done, Ok(_) | Err(TransferError::Protocol(ProtocolError::EarlyEnd))), "{done:?}");
    assert!(listing(dest.path()).is_empty());

    let tree = || {
        let mut tree = MemoryTree::new();
        let privileged = Stat {
            path: b"su".to_vec(),
            mode: FileMode(0).with_unix_permissions(0o6755),
            xattrs: [("security.capability".to_owned(), b"\x01".to_vec())].into(),
            ..Stat::default()
        };
        tree.insert(privileged, b"elf").unwrap();
        let sticky = FileMode(FileMode::DIRECTORY).with_unix_permissions(0o3777);
        tree.insert(Stat { path: b"tmp".to_vec(), mode: sticky, ..Stat::default() }, b"").unwrap();
        Arc::new(tree)
    };
    let mode = |path: &str| dest.path().join(path).metadata().unwrap().mode() & 0o7777;
    copy(tree(), writer(dest.path(), WriteOptions::default())).await.unwrap();
    let umask = DiskDestination::open(dest.path()).unwrap().umask();
    assert_eq!((mode("su"), mode("tmp")), (0o755 & !umask, 0o1777 & !umask));
    let whole = WriteOptions { preserve_setid: true, ignore_umask: true, ..Default::default() };
    copy(tree(), writer(dest.path(), whole)).await.unwrap();
    assert_eq!((mode("su"), mode("tmp")), (0o6755, 0o3777));
    copy(tree(), writer(dest.path(), WriteOptions { mask: 0o027, ..Default::default() })).await.unwrap();
    assert_eq!((mode("su"), mode("tmp")), (0o750, 0o1750));
}

/// A destination that fails when told to and can take names for equal that differ in case. Directories that their owner
/// may not enter are closed even to root.
struct FaultyDest {
    inner: DiskDestination,
    rule: Rule,
    fold: bool,
    closed: Vec<Vec<u8>>,
}

type Rule = Arc<Mutex<dyn FnMut(&'static str) -> Option<io::Error> + Send>>;

impl FaultyDest {
    fn new(path: &Path, rule: impl FnMut(&'static str) -> Option<io::Error> + Send + 'static) -> Self {
        let inner = DiskDestination::open(path).expect("a destination");
        Self { inner, rule: Arc::new(Mutex::new(rule)), fold: false, closed: Vec::new() }
    }

    fn check(&self, op: &'static str) -> io::Result<()> {
        check(&self.rule, op)
    }

    fn name(&self, path: &[u8]) -> Vec<u8> {
        if self.fold { path.to_ascii_lowercase() } else { path.to_vec() }
    }
}

fn check(rule: &Rule, op: &'static str) -> io::Result<()> {
    (rule.lock().expect("not poisoned"))(op).map_or(Ok(()), Err)
}

impl DestFs for FaultyDest {
    fn stat(&mut self, path: &[u8]) -> io::Result<Stat> {
        self.check("stat")?;
        self.inner.stat(&self.name(path))
    }
    fn names(&mut self, dir: &[u8]) -> io::Result<Names> {
        self.check("names")?;
        self.inner.names(&self.name(dir))
    }
    fn make_dir(&mut self, path: &[u8]) -> io::Result<()> {
        self.check("make_dir")?;
        self.inner.make_dir(&self.name(path))
    }
    fn create(&mut self, path: &[u8]) -> io::Result<Box<dyn DestFile>> {
        self.check("create")?;
        let file = self.inner.create(&self.name(path))?;
        Ok(Box::new(FaultyFile { inner: file, rule: Arc::clone(&self.rule) }))
    }
    fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.check("symlink")?;
        self.inner.symlink(&self.name(path), target)
    }
    fn link(&mut self, path: &[u8], existing: &[u8]) -> io::Result<()> {
        self.check("link")?;
        self.inner.link(&self.name(path), &self.name(existing))
    }
    fn make_node(&mut self, path: &[u8], kind: Kind, major: i64, minor: i64) -> io::Result<()> {
        self.check("make_node")?;
        self.inner.make_node(&self.name(path), kind, major, minor)
    }
    fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        self.check("rename")?;
        self.inner.rename(&self.name(from), &self.name(to), replace)
    }
    fn remove_file(&mut self, path: &[u8]) -> io::Result<()> {
        self.check("remove_file")?;
        self.inner.remove_file(&self.name(path))
    }
    fn remove_dir(&mut self, path: &[u8]) -> io::Result<()> {
        self.check("remove_dir")?;
        self.inner.remove_dir(&self.name(path))
    }
    fn set(&mut self, path: &[u8], kind: Kind, metadata: &Metadata<'_>) -> io::Result<()> {
        self.check("set")?;
        if self.closed.iter().any(|dir| path.starts_with(dir) && path != dir) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if kind == Kind::Directory && metadata.permissions & 0o100 == 0 {
            self.closed.push(path.to_owned());
        }
        self.inner.set(&self.name(path), kind, metadata)
    }
}

struct FaultyFile {
    inner: Box<dyn DestFile>,
    rule: Rule,
}

impl DestFile for FaultyFile {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        check(&self.rule, "write")?;
        self.inner.write(chunk)
    }
    fn finish(self: Box<Self>, metadata: &Metadata<'_>) -> io::Result<()> {
        check(&self.rule, "finish")?;
        self.inner.finish(metadata)
    }
}

const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// Row F28 and F29: whichever call fails, the error is the local one, files are whole and no temporary one stays.
#[tokio::test]
async fn f28_every_call_may_fail_and_f29_old_files_stay_whole() {
    let mut failures = 0;
    for nth in 0..60 {
        let dest = temp();
        std::fs::write(dest.path().join("file"), b"old").unwrap();
        std::fs::create_dir(dest.path().join("kept")).unwrap();
        std::fs::write(dest.path().join("kept/x"), b"old").unwrap();
        let errno = [ENOSPC, EDQUOT, EFBIG, EIO][nth % 4];
        let mut calls = 0;
        let faulty = FaultyDest::new(dest.path(), move |op| {
            // Cleaning up works: what cannot be removed stays, of course.
            if op == "remove_file" {
                return None;
            }
            calls += 1;
            (calls == nth + 1).then(|| io::Error::from_raw_os_error(errno))
        });
        let mut tree =
            MemoryTree::new().file("file", vec![b'n'; 100_000]).file("kept/x", "new").symlink("s", "file");
        tree.hard_link("z", "file").unwrap();
        let writer =
            match DiskWriter::new(faulty, WriteOptions { delete: nth % 2 == 0, ..Default::default() }) {
                Ok(writer) => writer,
                Err(error) => {
                    assert!(matches!(error, TransferError::Destination { action: "list", .. }));
                    continue;
                }
            };
        let done = copy(Arc::new(tree), writer).await;
        let names = listing(dest.path());
        assert!(!names.iter().any(|line| line.contains(".tmp")), "call {nth}: {names:?}");
        for line in &names {
            let whole = [" = old", " = new", "/", " -> file"].iter().any(|end| line.ends_with(end))
                || line.len() >= 100_000;
            assert!(whole, "call {nth}: torn {line:.60}");
        }
        match done {
            Ok(_) => {}
            Err(TransferError::Destination { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(errno), "call {nth}");
                failures += 1;
            }
            Err(error) => panic!("call {nth}: {error:?}"),
        }
    }
    assert!(failures > 15, "{failures} of the calls failed");
}

#[tokio::test]
async fn f28_sender_is_told_the_local_cause() {
    let dest = temp();
    let faulty =
        FaultyDest::new(dest.path(), |op| (op == "write").then(|| io::Error::from_raw_os_error(ENOSPC)));
    let (Peer { to, mut from }, task) = start(DiskWriter::new(faulty, WriteOptions::default()).unwrap());
    for packet in [file("f", 1), end(), data(0, b"x")] {
        to.send(packet).await.unwrap();
    }
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(&error, TransferError::Destination { action: "write", path, .. } if path == b"f"));
    let mut last = None;
    while let Some(packet) = from.recv().await {
        last = Some(packet);
    }
    let text = String::from_utf8(last.unwrap().data.to_vec()).unwrap();
    assert_eq!(text, "cannot write \"f\" in the destination: No space left on device (os error 28)");
}

/// Row F30: the stream ends after every possible packet.
#[tokio::test]
async fn f30_cut_stream_leaves_no_torn_file() {
    let script = [
        dir("d"),
        file("d/big", 6),
        file("f", 3),
        link("l", "f"),
        end(),
        data(1, b"abc"),
        data(2, b"xyz"),
        data(1, b"def"),
        data(1, b""),
        data(2, b""),
        fin(),
    ];
    for cut in 0..=script.len() {
        let dest = temp();
        std::fs::write(dest.path().join("f"), b"old").unwrap();
        let (Peer { to, mut from }, task) = start(writer(dest.path(), WriteOptions::default()));
        for packet in &script[..cut] {
            if packet.r#type == i32::from(PacketType::PacketFin) {
                // An honest sender's last word comes after the receiver's.
                while from.recv().await.expect("the receiver's last word").r#type != packet.r#type {}
            }
            to.send(packet.clone()).await.unwrap();
        }
        drop(to);
        let done = task.await.unwrap();
        assert_eq!(done.is_ok(), cut == script.len(), "cut at {cut}: {done:?}");
        for line in listing(dest.path()) {
            let whole = ["d/", "d/big = abcdef", "f = old", "f = xyz", "l -> f"].contains(&line.as_str());
            assert!(whole, "cut at {cut}: {line}");
        }
    }
}

#[tokio::test]
async fn f30_dropped_receiver_takes_back_what_is_half_written() {
    let dest = temp();
    let (Peer { to, mut from }, task) = start(writer(dest.path(), WriteOptions::default()));
    for packet in [file("f", 6), end(), data(0, b"abc")] {
        to.send(packet).await.unwrap();
    }
    from.recv().await.expect("the request");
    while !listing(dest.path()).iter().any(|line| line.contains(".tmp")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task.abort();
    let started = std::time::Instant::now();
    while !listing(dest.path()).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", listing(dest.path()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn f27_unusable_destinations_are_found_before_anything_is_received() {
    let dest = temp();
    std::fs::write(dest.path().join("file"), b"x").unwrap();
    let error = DiskWriter::open(dest.path().join("file"), WriteOptions::default()).unwrap_err();
    let TransferError::Destination { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), io::ErrorKind::NotADirectory);
    assert!(DiskWriter::open(dest.path().join("file/below"), WriteOptions::default()).is_err());
    assert!(DiskWriter::open("/proc/nowhere", WriteOptions::default()).is_err());
    DiskWriter::open(dest.path().join("made/on/the/way"), WriteOptions::default()).unwrap();
    assert_eq!(dest.path().join("made").metadata().unwrap().mode() & 0o777, 0o700);
    assert_eq!(listing(&dest.path().join("made")), ["on/", "on/the/", "on/the/way/"], "the probe is gone");
}

/// Row F36: somebody replaces directories of the destination by links while files are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_cve_2018_15664_swapped_directories_never_lead_outside() {
    let outer = temp();
    let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
    std::fs::create_dir_all(dest.join("d")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicUsize::new(0));
    let attacker = {
        let (dest, stop, swaps) = (dest.clone(), Arc::clone(&stop), Arc::clone(&swaps));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = std::fs::rename(dest.join("d"), dest.join("moved"));
                let _ = symlink("../outside", dest.join("d"));
                let _ = std::fs::remove_file(dest.join("d"));
                let _ = std::fs::rename(dest.join("moved"), dest.join("d"));
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let tree =
        || Arc::new((0..20).fold(MemoryTree::new(), |tree, file| tree.file(format!("d/f{file}"), "evil")));
    for _ in 0..60 {
        let _ = copy(tree(), writer(&dest, WriteOptions::default())).await;
    }
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert_eq!(listing(&outside), [""; 0]);
    assert!(swaps.load(Ordering::Relaxed) > 200, "{swaps:?} swaps");
}

/// The same at the one moment that matters: after the directory was found good, before a file is made in it.
#[tokio::test]
async fn f36_directory_swapped_before_a_file_is_made_in_it() {
    let outer = temp();
    let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
    std::fs::create_dir_all(&dest).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let at = dest.clone();
    let faulty = FaultyDest::new(&dest, move |op| {
        if op == "create" {
            std::fs::rename(at.join("d"), at.join("moved")).unwrap();
            symlink("../outside", at.join("d")).unwrap();
        }
        None
    });
    let tree = Arc::new(MemoryTree::new().file("d/f", "evil"));
    let done = copy(tree, DiskWriter::new(faulty, WriteOptions::default()).unwrap()).await;
    assert_eq!(listing(&outside), [""; 0]);
    assert!(matches!(done, Err(TransferError::Destination { action: "create", .. })), "{done:?}");
}

#[tokio::test]
async fn f38_names_the_file_system_takes_for_equal_are_an_error() {
    for tree in [
        MemoryTree::new().file("README", "1").file("readme", "2"),
        MemoryTree::new().file("A/x", "1").file("a/x", "2"),
        MemoryTree::new().symlink("L", "1").symlink("l", "2"),
    ] {
        let dest = temp();
        let mut faulty = FaultyDest::new(dest.path(), |_| None);
        faulty.fold = true;
        let done = copy(Arc::new(tree), DiskWriter::new(faulty, WriteOptions::default()).unwrap()).await;
        let collision = matches!(done, Err(TransferError::Refused { reason: Refusal::NameCollision, .. }));
        assert!(collision, "{done:?}");
    }
    let dest = temp();
    let tree = MemoryTree::new().file("README", "1").file("readme", "2");
    copy(Arc::new(tree), writer(dest.path(), WriteOptions::default())).await.unwrap();
    assert_eq!(listing(dest.path()), ["README = 1", "readme = 2"]);
}

#[tokio::test]
async fn senders_error_ends_the_transfer_with_its_text() {
    let dest = temp();
    let error = Packet { data: "no such ref".into(), ..control(PacketType::PacketErr, 0) };
    let (last, done) = play(dest.path(), WriteOptions::default(), vec![file("f", 1), error]).await;
    assert_eq!(done.unwrap_err().to_string(), "error from sender: no such ref");
    assert_ne!(last.map(|packet| packet.r#type), Some(4), "the one who failed is not told so");
}

#[tokio::test]
async fn filter_changes_and_leaves_out() {
    let dest = temp();
    let options = WriteOptions {
        filter: Some(Arc::new(|stat| {
            stat.mode = FileMode(stat.mode.0 & !0o077);
            !stat.path.starts_with(b"skip")
        })),
        ..Default::default()
    };
    let tree = MemoryTree::new().file("a", "1").file("skip/b/c", "2").file("skip2", "3").file("z", "4");
    copy(Arc::new(tree), writer(dest.path(), options)).await.unwrap();
    assert_eq!(listing(dest.path()), ["a = 1", "z = 4"]);
    assert_eq!(dest.path().join("a").metadata().unwrap().mode() & 0o777, 0o600);
}
