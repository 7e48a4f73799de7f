//! The sending side, against a receiver that only records.
#![cfg(feature = "transfer")]

mod support;

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::error::{Change, ProtocolError, TransferError};
use buildkit_fsutil::filter::{FilterOptions, owned_by_root};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::send::{SendEvent, SendOptions, SendReport};
use buildkit_fsutil::stat::{FileMode, Kind, Stat};
use buildkit_fsutil::walk::WalkOptions;
use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use prost::Message as _;
use support::{Faulty, Op, Peer, control, data, record, request, start_send};

fn describe(packet: &Packet) -> String {
    match (PacketType::try_from(packet.r#type).expect("known"), &packet.stat) {
        (PacketType::PacketStat, None) => "end".to_owned(),
        (PacketType::PacketStat, Some(stat)) => {
            let link = String::from_utf8_lossy(&stat.linkname).into_owned();
            let arrow = if link.is_empty() { String::new() } else { format!(" -> {link}") };
            format!("{} {:x} {}{arrow}", String::from_utf8_lossy(&stat.path), stat.mode, stat.size)
        }
        (PacketType::PacketData, _) => format!("data {} {}", packet.id, packet.data.len()),
        (PacketType::PacketFin, _) => "fin".to_owned(),
        (PacketType::PacketErr, _) => format!("err {}", String::from_utf8_lossy(&packet.data)),
        (PacketType::PacketReq, _) => format!("req {}", packet.id),
    }
}

/// Sends a directory to a receiver that wants all of it.
async fn send_all(
    source: Arc<dyn buildkit_fsutil::source::SourceFs>,
    options: SendOptions,
) -> (Vec<String>, Result<SendReport, TransferError>) {
    let filter = FilterOptions { map: Some(owned_by_root()), ..Default::default() };
    let (peer, task) = start_send(source, filter, options);
    let seen = tokio::time::timeout(Duration::from_secs(20), record(peer)).await.expect("no hang");
    let done = tokio::time::timeout(Duration::from_secs(2), task).await.expect("no hang").expect("no panic");
    (seen.iter().map(describe).collect(), done)
}

fn disk(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (path, content) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }
    dir
}

fn open(path: &Path) -> Directory {
    Directory::open(path).expect("opened")
}

#[test]
fn packets_have_the_bytes_of_the_reference() {
    let stat = |stat: Stat| Packet { stat: Some(stat.into()), ..Packet::default() };
    let file = Stat {
        path: b"a/f1".to_vec(),
        mode: FileMode(0o644),
        size: 5,
        mod_time: 1_700_000_000_123_456_789,
        ..Stat::default()
    };
    let dir = Stat {
        path: b"a".to_vec(),
        mode: FileMode(FileMode::DIRECTORY | 0o755),
        mod_time: 1,
        ..Stat::default()
    };
    let link = Stat {
        path: b"s".to_vec(),
        mode: FileMode(FileMode::SYMLINK | 0o777),
        size: 4,
        link_name: b"a/f1".to_vec(),
        xattrs: [("user.x".to_owned(), b"v".to_vec())].into(),
        ..Stat::default()
    };
    for (packet, hex) in [
        (stat(file), "12150a04612f663110a403280530959a97ece39fe7cb17"),
        (stat(dir), "120b0a016110ed838080083001"),
        (stat(link), "121d0a017310ff83804028043a04612f6631520b0a06757365722e78120176"),
        (Packet::default(), ""),
        (request(0), "0801"),
        (request(2), "08011802"),
        (data(2, b"hi"), "0802180222026869"),
        (data(2, b""), "08021802"),
        (control(PacketType::PacketFin, 0), "0803"),
        (Packet { data: "x".into(), ..control(PacketType::PacketErr, 0) }, "0804220178"),
    ] {
        let bytes = packet.encode_to_vec();
        let found = bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(found, hex, "{}", describe(&packet));
    }
}

/// The recorded conversation of the reference about the same tree.
#[tokio::test]
async fn whole_tree_is_sent_as_the_reference_sends_it() {
    let dir = disk(&[
        ("a/b/f2", &vec![7; 70_000]),
        ("a/f1", b"hello"),
        ("a-b", b"x"),
        ("a.txt", b"y"),
        ("empty", b""),
    ]);
    std::fs::hard_link(dir.path().join("a/f1"), dir.path().join("hard")).unwrap();
    symlink("a/f1", dir.path().join("sym")).unwrap();
    std::fs::create_dir(dir.path().join("z")).unwrap();
    let one_reader = SendOptions { parallel_reads: 1, ..Default::default() };
    let (seen, done) = send_all(Arc::new(open(dir.path())), one_reader).await;
    let stats: Vec<_> = seen.iter().take_while(|line| *line != "end").map(String::as_str).collect();
    assert_eq!(
        stats,
        [
            "a 800001ed 0",
            "a/b 800001ed 0",
            "a/b/f2 1a4 70000",
            "a/f1 1a4 5",
            "a-b 1a4 1",
            "a.txt 1a4 1",
            "empty 1a4 0",
            "hard 1a4 5 -> a/f1",
            "sym 80001ff 4 -> a/f1",
            "z 800001ed 0",
        ]
    );
    assert_eq!(
        seen[10..],
        [
            "end",
            "data 2 32768",
            "data 2 32768",
            "data 2 4464",
            "data 2 0",
            "data 3 5",
            "data 3 0",
            "data 4 1",
            "data 4 0",
            "data 5 1",
            "data 5 0",
            "data 6 0",
            "data 7 5",
            "data 7 0",
            "fin"
        ]
    );
    assert_eq!(done.unwrap(), SendReport { entries: 10, files: 6, bytes: 70_012 });
}

#[tokio::test]
async fn filtered_first_link_makes_the_next_one_the_file() {
    let dir = disk(&[("a", b"hello")]);
    std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    std::fs::hard_link(dir.path().join("a"), dir.path().join("c")).unwrap();
    let filter = FilterOptions { exclude_patterns: vec!["a".into()], ..Default::default() };
    let (peer, task) = start_send(Arc::new(open(dir.path())), filter, SendOptions::default());
    let seen: Vec<_> = record(peer).await.iter().map(describe).collect();
    assert_eq!(seen[..3], ["b 1a4 5", "c 1a4 5 -> b", "end"]);
    task.await.unwrap().unwrap();
}

/// Fails the first call of `op` on `path` with `errno`.
fn failing(dir: &Path, op: Op, path: &'static str, errno: i32) -> Arc<Faulty<Directory>> {
    Faulty::new(open(dir), move |called, on| {
        (called == op && on == path.as_bytes()).then(|| io::Error::from_raw_os_error(errno))
    })
}

const EACCES: i32 = 13;
const EIO: i32 = 5;
const ESTALE: i32 = 116;
const ENOENT: i32 = 2;

#[tokio::test]
async fn f14_unreadable_file_fails_the_transfer_and_is_named() {
    let dir = disk(&[("ok", b"1"), ("sub/secret", b"22")]);
    let (seen, done) =
        send_all(failing(dir.path(), Op::Open, "sub/secret", EACCES), SendOptions::default()).await;
    let Err(TransferError::ContextFile { path, source }) = done else { panic!("{done:?}") };
    assert_eq!((&path[..], source.kind()), (&b"sub/secret"[..], io::ErrorKind::PermissionDenied));
    let last = seen.last().unwrap();
    assert!(last.starts_with("err cannot read \"sub/secret\" of the context: "), "{last}");
}

#[tokio::test]
async fn f14_unreadable_entries_can_be_left_out() {
    let dir = disk(&[("ok", b"1"), ("secret", b"22"), ("closed/x", b"3")]);
    let source = Faulty::new(open(dir.path()), |op, path| {
        let closed = op == Op::Open && path == b"secret" || op == Op::OpenDir && path == b"closed";
        closed.then(|| io::Error::from_raw_os_error(EACCES))
    });
    let skipped = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&skipped);
    let options = SendOptions {
        walk: WalkOptions { skip_unreadable: true, ..Default::default() },
        on_event: Some(Arc::new(move |event| {
            if let SendEvent::Skipped(error) = event {
                told.lock().unwrap().push(String::from_utf8_lossy(&error.path).into_owned());
            }
        })),
        ..Default::default()
    };
    let (seen, done) = send_all(source, options).await;
    assert_eq!(seen, ["ok 1a4 1", "end", "data 0 1", "data 0 0", "fin"]);
    assert_eq!(done.unwrap().entries, 1);
    assert_eq!(*skipped.lock().unwrap(), ["closed", "secret"]);
}

#[tokio::test]
async fn f15_file_removed_after_walk_fails_the_transfer() {
    let dir = disk(&[("gone", b"1")]);
    let victim = dir.path().join("gone");
    let source = Faulty::new(open(dir.path()), move |op, _| {
        if op == Op::Open {
            std::fs::remove_file(&victim).unwrap();
        }
        None
    });
    let (seen, done) = send_all(source, SendOptions::default()).await;
    let Err(TransferError::ContextChanged { path, change: Change::Vanished }) = done else {
        panic!("{done:?}")
    };
    assert_eq!(path, b"gone");
    assert_eq!(seen.last().unwrap(), "err \"gone\" of the context vanished while it was sent");
}

#[tokio::test]
async fn f15_file_removed_while_walking_can_be_left_out() {
    let dir = disk(&[("a", b"1"), ("gone", b"1"), ("z", b"1")]);
    let source = || failing(dir.path(), Op::Entry, "gone", ENOENT);
    let (_, strict) = send_all(source(), SendOptions::default()).await;
    assert!(matches!(strict, Err(TransferError::ContextFile { path, .. }) if path == b"gone"));
    let walk = WalkOptions { allow_vanished: true, ..Default::default() };
    let (seen, done) = send_all(source(), SendOptions { walk, ..Default::default() }).await;
    assert_eq!(seen[..3], ["a 1a4 1", "z 1a4 1", "end"], "only that entry is left out");
    done.unwrap();
}

/// Changes the file at its `nth` read and tells how the transfer ended.
async fn change_at_read(content: &[u8], change: fn(&Path)) -> Result<SendReport, TransferError> {
    let dir = disk(&[("f", content)]);
    let victim = dir.path().join("f");
    let mut reads = 0;
    let source = Faulty::new(open(dir.path()), move |op, _| {
        if op == Op::Read {
            reads += 1;
            if reads == 2 {
                change(&victim);
            }
        }
        None
    });
    send_all(source, SendOptions::default()).await.1
}

#[tokio::test]
async fn f16_file_truncated_or_grown_during_read_is_named() {
    let truncate =
        |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(40_000).unwrap();
    let done = change_at_read(&vec![1; 100_000], truncate).await;
    assert!(matches!(done, Err(TransferError::ContextChanged { change: Change::Truncated, .. })), "{done:?}");
    let grow = |path: &Path| {
        let file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        io::Write::write_all(&mut &file, &[2; 10]).unwrap();
    };
    let done = change_at_read(&vec![1; 100_000], grow).await;
    assert!(matches!(done, Err(TransferError::ContextChanged { change: Change::Grown, .. })), "{done:?}");
}

#[tokio::test]
async fn f17_content_rewritten_during_read_is_detected() {
    // The same size; the time of modification put back: only the time of the last change tells.
    let rewrite = |path: &Path| {
        let modified = path.metadata().unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(path, vec![2; 100_000]).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    };
    let done = change_at_read(&vec![1; 100_000], rewrite).await;
    assert!(matches!(done, Err(TransferError::ContextChanged { change: Change::Modified, .. })), "{done:?}");
}

/// Nothing is read of a file that is not the one that was announced, though its size may be the same.
#[tokio::test]
async fn f17_content_rewritten_between_walk_and_read_is_detected() {
    type Rewrite = fn(&Path);
    let changes: [(Rewrite, Change); 3] = [
        (|path| std::fs::write(path, "54321").unwrap(), Change::Modified),
        (|path| std::fs::write(path, "1234").unwrap(), Change::Truncated),
        (|path| std::fs::write(path, "123456").unwrap(), Change::Grown),
    ];
    for (rewrite, expected) in changes {
        let dir = disk(&[("f", b"12345")]);
        let path = dir.path().join("f");
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let filter = FilterOptions::default();
        let (mut peer, task) = start_send(Arc::new(open(dir.path())), filter, SendOptions::default());
        while peer.from.recv().await.is_some_and(|packet| packet.stat.is_some()) {}
        rewrite(&path);
        peer.to.send(request(0)).await.unwrap();
        let last = peer.from.recv().await.unwrap();
        assert!(describe(&last).starts_with("err "), "{last:?}");
        let done = tokio::time::timeout(Duration::from_secs(2), task).await.expect("no hang").unwrap();
        let Err(TransferError::ContextChanged { change, .. }) = done else { panic!("{done:?}") };
        assert_eq!(change, expected);
    }
}

/// As those of the kernel do, which say that they are empty.
#[tokio::test]
async fn f16_files_that_hold_more_than_they_say_are_named() {
    let filter = FilterOptions { include_patterns: vec!["version".to_owned()], ..Default::default() };
    let (peer, task) = start_send(Arc::new(open(Path::new("/proc"))), filter, SendOptions::default());
    record(peer).await;
    let done = task.await.unwrap();
    assert!(matches!(done, Err(TransferError::ContextChanged { change: Change::Grown, .. })), "{done:?}");
}

#[tokio::test]
async fn f18_read_errors_name_the_file_and_interrupts_are_retried() {
    let dir = disk(&[("f", &vec![1; 100_000])]);
    for errno in [EIO, ESTALE] {
        let (seen, done) = send_all(failing(dir.path(), Op::Read, "f", errno), SendOptions::default()).await;
        let Err(TransferError::ContextFile { path, source }) = done else { panic!("{done:?}") };
        assert_eq!((&path[..], source.raw_os_error()), (&b"f"[..], Some(errno)));
        assert!(seen.last().unwrap().starts_with("err "));
    }
    let mut calls = 0;
    let source = Faulty::new(open(dir.path()), move |_, _| {
        calls += 1;
        (calls % 2 == 1).then(|| io::ErrorKind::Interrupted.into())
    });
    let (_, done) = send_all(source, SendOptions::default()).await;
    assert_eq!(done.unwrap().bytes, 100_000);
}

#[tokio::test]
async fn f19_file_swapped_for_something_else_is_not_read() {
    type Swap = fn(&Path);
    let swaps: [(&str, Swap); 4] = [
        ("link", |path| symlink("/etc/passwd", path).unwrap()),
        ("link in a parent", |path| {
            let dir = path.parent().unwrap();
            std::fs::rename(dir, dir.with_extension("old")).unwrap();
            symlink(dir.with_extension("old"), dir).unwrap();
        }),
        ("pipe", |path| {
            let made = rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            );
            made.unwrap();
        }),
        ("another file", |path| std::fs::write(path, b"12345").unwrap()),
    ];
    for (name, swap) in swaps {
        let dir = disk(&[("sub/f", b"54321")]);
        let victim = dir.path().join("sub/f");
        let source = Faulty::new(open(dir.path()), move |op, _| {
            if op == Op::Open {
                if name != "link in a parent" {
                    // Kept under another name, so that its inode is not used again.
                    std::fs::rename(&victim, victim.with_extension("old")).unwrap();
                }
                swap(&victim);
            }
            None
        });
        let (_, done) = send_all(source, SendOptions::default()).await;
        let Err(TransferError::ContextChanged { path, change: Change::Replaced }) = done else {
            panic!("{name}: {done:?}")
        };
        assert_eq!(path, b"sub/f");
    }
}

/// An attacker swaps a file for a link to a secret while it is opened, ten thousand times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_cve_2018_15664_swap_race_never_sends_the_canary() {
    const CANARY: &[u8] = b"CANARY";
    let dir = disk(&[("tree/f", b"public")]);
    std::fs::write(dir.path().join("canary"), CANARY).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicUsize::new(0));
    let attacker = {
        let (root, stop, swaps) = (dir.path().to_owned(), Arc::clone(&stop), Arc::clone(&swaps));
        std::thread::spawn(move || {
            let (file, link, good) = (root.join("tree/f"), root.join("link"), root.join("good"));
            while !stop.load(Ordering::Relaxed) {
                symlink("../canary", &link).unwrap();
                std::fs::rename(&link, &file).unwrap();
                std::fs::write(&good, b"public").unwrap();
                std::fs::rename(&good, &file).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let started = std::time::Instant::now();
    let mut transfers = 0;
    while swaps.load(Ordering::Relaxed) < 10_000 && started.elapsed() < Duration::from_secs(60) {
        let source = Arc::new(open(&dir.path().join("tree")));
        let walk = WalkOptions { allow_vanished: true, ..Default::default() };
        let (peer, task) =
            start_send(source, FilterOptions::default(), SendOptions { walk, ..Default::default() });
        for packet in record(peer).await {
            assert!(!packet.data.windows(CANARY.len()).any(|window| window == CANARY), "{packet:?}");
        }
        let _ = task.await.unwrap();
        transfers += 1;
    }
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert!(
        swaps.load(Ordering::Relaxed) >= 10_000 && transfers > 100,
        "{swaps:?} swaps, {transfers} transfers"
    );
}

#[tokio::test]
async fn f21_special_files_are_sent_with_a_warning_or_refused() {
    let entry = |path: &str, mode, major| Stat {
        path: path.into(),
        mode: FileMode(mode),
        dev_major: major,
        ..Stat::default()
    };
    let mut tree = MemoryTree::new();
    for stat in [
        entry("char", FileMode::DEVICE | FileMode::CHAR_DEVICE | 0o600, 5),
        entry("fifo", FileMode::FIFO | 0o600, 0),
        entry("socket", FileMode::SOCKET | 0o755, 0),
    ] {
        tree.insert(stat, b"").unwrap();
    }
    let tree = Arc::new(tree);
    let warned = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warned);
    let options = SendOptions {
        on_event: Some(Arc::new(move |event| {
            if let SendEvent::Special { kind, .. } = event {
                told.lock().unwrap().push(kind);
            }
        })),
        ..Default::default()
    };
    let (seen, done) = send_all(tree.clone(), options).await;
    assert_eq!(
        seen,
        ["char 4200180 0", "fifo 2000180 0", "socket 1ed 0", "end", "data 2 0", "fin"],
        "a socket travels as an empty file"
    );
    done.unwrap();
    assert_eq!(*warned.lock().unwrap(), [Kind::CharDevice, Kind::Fifo, Kind::Socket]);
    let (_, denied) = send_all(tree, SendOptions { deny_special: true, ..Default::default() }).await;
    assert!(matches!(denied, Err(TransferError::SpecialFile { path, .. }) if path == b"char"));
}

#[tokio::test]
async fn f34_hostile_receivers_get_a_typed_error_at_once() {
    let script = |packets: Vec<Packet>| async {
        let tree = MemoryTree::new().dir("d").file("f", "content");
        let (Peer { to, mut from }, task) =
            start_send(Arc::new(tree), FilterOptions::default(), SendOptions::default());
        for packet in packets {
            if to.send(packet).await.is_err() {
                break;
            }
        }
        let mut last = None;
        while let Some(packet) = from.recv().await {
            last = Some(packet);
        }
        let done = tokio::time::timeout(Duration::from_secs(1), task).await.expect("no hang").unwrap();
        let Err(TransferError::Protocol(error)) = done else { panic!("{done:?}") };
        assert_eq!(last.expect("a last word").r#type, i32::from(PacketType::PacketErr));
        error
    };
    // Entries must have been announced before they can be asked for; ask until they are.
    let mut many = vec![request(1); 1];
    many.push(request(1));
    assert!(matches!(script(many).await, ProtocolError::Request(1)));
    assert_eq!(script(vec![request(0)]).await, ProtocolError::Request(0), "a directory has no content");
    assert_eq!(script(vec![request(u32::MAX)]).await, ProtocolError::Request(u32::MAX));
    assert_eq!(script(vec![control(PacketType::PacketFin, 0)]).await, ProtocolError::EarlyEnd);
    assert_eq!(script(vec![control(PacketType::PacketStat, 0)]).await, ProtocolError::Packet(0));
    assert_eq!(script(vec![data(1, b"x")]).await, ProtocolError::Packet(2));
    assert_eq!(script(vec![Packet { r#type: 99, ..Packet::default() }]).await, ProtocolError::Packet(99));
}

#[tokio::test]
async fn receivers_error_ends_the_transfer_with_its_text() {
    let tree = Arc::new(MemoryTree::new().file("f", "content"));
    let (peer, task) = start_send(tree, FilterOptions::default(), SendOptions::default());
    let error = Packet { data: "disk\u{1b}[2J full".into(), ..control(PacketType::PacketErr, 0) };
    peer.to.send(error).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "error from receiver: disk\\u{1b}[2J full");
}

#[tokio::test]
async fn bad_patterns_from_the_receiver_end_the_transfer() {
    let filter = FilterOptions { exclude_patterns: vec!["a[".into()], ..Default::default() };
    let (peer, task) = start_send(Arc::new(MemoryTree::new()), filter, SendOptions::default());
    let seen: Vec<_> = record(peer).await.iter().map(describe).collect();
    assert!(seen[0].contains("invalid excludepatterns: [a[]: syntax error in pattern"), "{seen:?}");
    assert!(matches!(task.await.unwrap(), Err(TransferError::Filter(_))));
}

#[tokio::test]
async fn stream_that_ends_or_breaks_ends_the_transfer() {
    let tree = Arc::new(MemoryTree::new().file("f", "content"));
    let (peer, task) = start_send(tree, FilterOptions::default(), SendOptions::default());
    drop(peer);
    assert!(matches!(task.await.unwrap(), Err(TransferError::Ended)));
}

/// A receiver that takes nothing holds the sender back; dropping the future stops its threads.
#[tokio::test]
async fn slow_receiver_holds_reading_back_and_drop_stops_it() {
    let dir = disk(&[("big", &vec![1; 8 << 20])]);
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let source = Faulty::new(open(dir.path()), move |op, _| {
        if op == Op::Read {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let held = Arc::downgrade(&source);
    let (Peer { to, mut from }, task) = start_send(source, FilterOptions::default(), SendOptions::default());
    assert!(from.recv().await.is_some());
    to.send(request(0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let reads = read.load(Ordering::Relaxed);
    assert!((1..64).contains(&reads), "{reads} reads of 256 without a taker");
    task.abort();
    let started = std::time::Instant::now();
    while held.strong_count() > 0 {
        assert!(started.elapsed() < Duration::from_secs(1), "threads still hold the tree");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn panicking_source_is_an_error_not_a_hang() {
    let source = Faulty::new(MemoryTree::new().file("f", "x"), |op, _| {
        assert!(op != Op::Open, "the double panics");
        None
    });
    let (_, done) = send_all(source, SendOptions::default()).await;
    assert!(matches!(done, Err(TransferError::Worker)), "{done:?}");
}

#[tokio::test]
async fn times_arrive_to_the_nanosecond() {
    let dir = disk(&[("f", b"x")]);
    let file = std::fs::File::options().write(true).open(dir.path().join("f")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(1_600_000_000, 987_654_321)).unwrap();
    let (peer, task) =
        start_send(Arc::new(open(dir.path())), FilterOptions::default(), SendOptions::default());
    let seen = record(peer).await;
    assert_eq!(seen[0].stat.as_ref().unwrap().mod_time, 1_600_000_000_987_654_321);
    task.await.unwrap().unwrap();
}
