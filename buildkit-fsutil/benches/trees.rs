//! Walking, ignoring and moving trees, each beside the least that the same work can cost:
//! `cargo bench -p buildkit-fsutil --features transfer --bench trees`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has no result")]

use std::convert::Infallible;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::disk_writer::{DiskWriter, WriteOptions};
use buildkit_fsutil::filter::{Filter, FilterOptions};
use buildkit_fsutil::receive::{ReceiveOptions, receive};
use buildkit_fsutil::send::{SendOptions, send};
use buildkit_fsutil::walk::{Found, Walk, WalkOptions};
use buildkit_proto::fsutil::Packet;
use futures::Stream;
use tokio::sync::mpsc;

const DIRS: usize = 200;
const FILES: usize = 100;
/// Bytes of the one large file.
const LARGE: u64 = 256 << 20;
/// What is read at once where nothing but reading and writing is measured; as much as a packet holds.
const CHUNK: usize = 32 << 10;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (many, one) = (dir.path().join("many"), dir.path().join("one"));
    for number in 0..DIRS {
        let below = many.join(format!("dir-{number}"));
        fs::create_dir_all(&below).unwrap();
        for file in 0..FILES {
            fs::write(below.join(format!("file-{file}.txt")), format!("{number} {file}\n").repeat(50))
                .unwrap();
        }
    }
    fs::create_dir(&one).unwrap();
    let mut large = File::create(one.join("large")).unwrap();
    let mut state = 1_u64;
    for _ in 0..LARGE / CHUNK as u64 {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.extend_from_slice(&state.to_le_bytes());
        }
        large.write_all(&chunk).unwrap();
    }
    drop(large);

    let entries = DIRS * FILES + DIRS;
    let listed = best(|| assert_eq!(list(&many), entries));
    let walked = best(|| assert_eq!(walk(&many, &[]), entries));
    println!(
        "walk of {entries} entries: {}, {:.2} x listing them",
        each(walked, entries),
        ratio(walked, listed)
    );
    let patterns: Vec<_> = (0..100).map(|number| format!("**/no-{number}/*.o")).collect();
    let ignored = best(|| assert_eq!(walk(&many, &patterns), entries));
    println!(
        "the same with {} patterns that match nothing: {}, {:.2} x listing them",
        patterns.len(),
        each(ignored, entries),
        ratio(ignored, listed)
    );

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for (what, tree, count) in [("large file", &one, 1), ("tree of small files", &many, entries)] {
        let plain = best(|| fresh(dir.path(), |dest| copy(tree, dest)));
        let moved = best(|| fresh(dir.path(), |dest| runtime.block_on(transfer(tree, dest))));
        println!("{what} sent and received: {}, {:.2} x copying it", each(moved, count), ratio(moved, plain));
    }
    println!("the large file has {} MiB", LARGE >> 20);
}

/// The shortest of five runs: other programs make single runs longer and none shorter.
fn best(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..5).map(time).min().unwrap_or_default()
}

fn ratio(time: Duration, least: Duration) -> f64 {
    time.as_secs_f64() / least.as_secs_f64()
}

fn each(time: Duration, count: usize) -> String {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    format!("{:.1?} ({:.2?} each)", time, time / count)
}

/// Names and metadata of all that is below `dir`: the least that a walk costs.
fn list(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        count += 1;
        if black_box(path.symlink_metadata().unwrap()).is_dir() {
            count += list(&path);
        }
    }
    count
}

fn walk(dir: &Path, ignore: &[String]) -> usize {
    let source = Directory::open(dir).unwrap();
    let options = FilterOptions { exclude_patterns: ignore.to_vec(), ..FilterOptions::default() };
    let filter = Filter::new(&source, options).unwrap();
    let found = Walk::new(&source, &filter, WalkOptions::default());
    found.filter(|found| matches!(found, Ok(Found::Entry(_)))).count()
}

/// Reads and writes, and nothing else: what a transfer to disk costs at least.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, dest) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&dest).unwrap();
            copy(&path, &dest);
            continue;
        }
        let (mut source, mut dest) = (File::open(path).unwrap(), File::create(dest).unwrap());
        let mut chunk = vec![0; CHUNK];
        loop {
            match source.read(&mut chunk).unwrap() {
                0 => break,
                read => dest.write_all(&chunk[..read]).unwrap(),
            }
        }
    }
}

/// Our sender and our receiver, with nothing between them but a channel.
async fn transfer(from: &Path, to: &Path) {
    let (to_receiver, from_sender) = mpsc::channel(4);
    let (to_sender, from_receiver) = mpsc::channel(4);
    let source = Arc::new(Directory::open(from).unwrap());
    let options = FilterOptions::default();
    let sending = send(source, options, packets(from_receiver), to_receiver, SendOptions::default());
    let writer = DiskWriter::open(to, WriteOptions::default()).unwrap();
    let receiving = receive(writer, packets(from_sender), to_sender, ReceiveOptions::default());
    let (sent, received) = futures::future::join(sending, receiving).await;
    assert_eq!(sent.unwrap().bytes, received.unwrap().bytes);
}

fn packets(from: mpsc::Receiver<Packet>) -> impl Stream<Item = Result<Packet, Infallible>> + Send + Unpin {
    Box::pin(futures::stream::unfold(from, |mut from| async {
        from.recv().await.map(|packet| (Ok(packet), from))
    }))
}

/// Does work in a new directory, which is taken away again.
fn fresh(parent: &Path, work: impl FnOnce(&Path)) {
    let dest = tempfile::tempdir_in(parent).unwrap();
    work(dest.path());
}
