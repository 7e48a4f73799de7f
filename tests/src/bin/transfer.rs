//! A program that embeds the client, for tests that look at a whole process: its memory, its umask, its limits.
//!
//! `transfer ADDRESS up|dir|tar WHAT` builds with a context (`files:COUNT` and `bytes:COUNT` do not exist on any disk) or
//! with an export, and prints one line: how it ended, and the most memory it held, in KiB.
#![allow(clippy::print_stdout)] // what it is for

use std::io;
use std::sync::Arc;

use buildkit_client::Client;
use buildkit_client::export::Export;
use buildkit_client::request::{Frontend, Local};
use buildkit_fsutil::source::{Entry, Names, SourceDir, SourceFile, SourceFs, Version};
use buildkit_fsutil::stat::{FileMode, Kind, Stat};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, action, what] = &arguments[..] else { panic!("transfer ADDRESS up|dir|tar WHAT") };
    let count = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("no number: {text}"));
    let client = Client::connect(address).await.unwrap_or_else(|error| panic!("{}", error.report()));
    let frontend = Frontend::new("dockerfile.v0");
    let build = match action.as_str() {
        "up" => {
            let context: Local = match what.split_once(':') {
                Some(("files", files)) => Local::Tree(Arc::new(Synthetic { files: count(files), size: 1 })),
                Some(("bytes", bytes)) => Local::Tree(Arc::new(Synthetic { files: 1, size: count(bytes) })),
                _ => Local::from(what.as_str()),
            };
            // A graph needs no frontend of the daemon.
            client.solve(buildkit_llb::local("context")).local("context", context)
        }
        "dir" => client.solve(frontend).export(Export::local(what)),
        "tar" => client.solve(frontend).export(Export::tar(what)),
        other => panic!("no action {other}"),
    };
    let ended = match build.await {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.report(),
    };
    println!("{}\t{ended}", peak_kib());
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Files in directories of a thousand, each of `size` bytes; nothing of it exists.
struct Synthetic {
    files: u64,
    size: u64,
}

const IN_DIR: u64 = 1000;

impl SourceFs for Synthetic {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        Ok(Box::new(Dir { tree: self, root: path.is_empty() }))
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        // The client may look for files that are not there.
        if !path.starts_with(b"a-directory-") {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(File { size: self.size, left: self.size }))
    }
}

struct Dir<'a> {
    tree: &'a Synthetic,
    root: bool,
}

impl SourceDir for Dir<'_> {
    fn names(&mut self) -> io::Result<Names> {
        let (count, kind, name) = if self.root {
            (self.tree.files.div_ceil(IN_DIR), Kind::Directory, "a-directory-with-a-name")
        } else {
            (IN_DIR.min(self.tree.files), Kind::File, "a-file-with-a-name-of-some-length")
        };
        let mut names = Names::default();
        for index in 0..count {
            names.push(format!("{name}-{index:06}").as_bytes(), kind)?;
        }
        Ok(names)
    }

    fn entry(&self, name: &[u8]) -> io::Result<Entry> {
        if !name.starts_with(b"a-") {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mode = FileMode(if self.root { FileMode::DIRECTORY | 0o755 } else { 0o644 });
        let size = if self.root { 0 } else { i64::try_from(self.tree.size).unwrap_or(i64::MAX) };
        let version = Version { size, ..Version::default() };
        Ok(Entry { stat: Stat { mode, size, ..Stat::default() }, version, links: 1 })
    }
}

struct File {
    size: u64,
    left: u64,
}

impl SourceFile for File {
    fn version(&self) -> io::Result<Version> {
        Ok(Version { size: i64::try_from(self.size).unwrap_or(i64::MAX), ..Version::default() })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer.iter_mut().take(count).for_each(|byte| *byte = b'x');
        self.left -= count as u64;
        Ok(count)
    }
}
