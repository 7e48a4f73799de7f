//! Row F20: memory is bounded by configuration, not by what is transferred. Alone in its file, because it looks at
//! the peak of the whole process.
#![cfg(all(feature = "transfer", target_os = "linux"))]

mod support;

use std::io;
use std::sync::Arc;

use buildkit_fsutil::error::TransferError;
use buildkit_fsutil::filter::FilterOptions;
use buildkit_fsutil::receive::{ReceiveOptions, TreeWriter, WantedFile, receive};
use buildkit_fsutil::send::{SendOptions, send};
use buildkit_fsutil::source::{Entry, Names, SourceDir, SourceFile, SourceFs, Version};
use buildkit_fsutil::stat::{FileMode, Kind, Stat};
use support::packets;
use tokio::sync::mpsc;

const DIRS: usize = 200;
const FILES: usize = 1000;

/// 200 directories of 1000 files of one byte; nothing of it exists.
struct Synthetic;

impl SourceFs for Synthetic {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        Ok(Box::new(Dir { root: path.is_empty() }))
    }

    fn open(&self, _: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        Ok(Box::new(OneByte { left: 1 }))
    }
}

struct Dir {
    root: bool,
}

impl SourceDir for Dir {
    fn names(&mut self) -> io::Result<Names> {
        let mut names = Names::default();
        let (count, kind) = if self.root { (DIRS, Kind::Directory) } else { (FILES, Kind::File) };
        for index in 0..count {
            names.push(format!("entry-with-a-name-of-some-length-{index:06}").as_bytes(), kind)?;
        }
        Ok(names)
    }

    fn entry(&self, _: &[u8]) -> io::Result<Entry> {
        let mode = FileMode(if self.root { FileMode::DIRECTORY | 0o755 } else { 0o644 });
        let size = i64::from(!self.root);
        let version = Version { size, ..Version::default() };
        Ok(Entry { stat: Stat { mode, size, ..Stat::default() }, version, links: 1 })
    }
}

struct OneByte {
    left: usize,
}

impl SourceFile for OneByte {
    fn version(&self) -> io::Result<Version> {
        Ok(Version { size: 1, ..Version::default() })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.left.min(buffer.len());
        self.left -= count;
        Ok(count)
    }
}

struct Nowhere;

impl TreeWriter for Nowhere {
    fn entry(&mut self, stat: Stat) -> Result<Option<WantedFile>, TransferError> {
        Ok(stat.mode.is_file().then(|| WantedFile::new(stat, false)))
    }
    fn data(&mut self, _: u32, _: &WantedFile, _: &[u8]) -> Result<(), TransferError> {
        Ok(())
    }
    fn end(&mut self, _: u32, _: WantedFile) -> Result<(), TransferError> {
        Ok(())
    }
    fn finish(&mut self) -> Result<(), TransferError> {
        Ok(())
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Both sides in one process: 64 MiB for each.
#[tokio::test]
async fn f20_two_hundred_thousand_files_stay_within_64_mib_a_side() {
    let before = peak_kib();
    let (to_receiver, from_sender) = mpsc::channel(16);
    let (to_sender, from_receiver) = mpsc::channel(16);
    let started = std::time::Instant::now();
    let sending = send(
        Arc::new(Synthetic),
        FilterOptions::default(),
        packets(from_receiver),
        to_receiver,
        SendOptions::default(),
    );
    let receiving = receive(Nowhere, packets(from_sender), to_sender, ReceiveOptions::default());
    let (sent, received) = futures::future::join(sending, receiving).await;
    assert_eq!(sent.unwrap().files, (DIRS * FILES) as u64);
    assert_eq!(received.unwrap().bytes, (DIRS * FILES) as u64);
    let grown = (peak_kib() - before) / 1024;
    println!("200,000 files in {:?}, {grown} MiB for both sides", started.elapsed());
    assert!(grown <= 128, "{grown} MiB");
}
