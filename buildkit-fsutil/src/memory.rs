//! A tree made in memory.

use std::io;
use std::sync::Arc;

use crate::path;
use crate::source::{SourceDir, SourceFile, SourceFs, Version};
use crate::stat::{FileMode, Stat};
use crate::tree::Tree;

/// Files that exist only in this process.
///
/// Paths are taken as below the root: a leading `/`, `.` and `..` cannot leave it. Missing parents are made.
///
/// # Defaults
/// Files have mode 0644, directories 0755, links 0777; owner and group are 0. The time of a file is the start of
/// 1980 plus a part of a second that depends on its content: the same content is recognised as unchanged by a daemon
/// that has it already, other content is not.
///
/// ```
/// use buildkit_fsutil::memory::MemoryTree;
///
/// let tree = MemoryTree::new().file("Dockerfile", "FROM scratch\nCOPY app /app\n").executable("app", b"\x7fELF");
/// ```
#[derive(Debug)]
pub struct MemoryTree {
    tree: Tree<Arc<[u8]>>,
}

impl Default for MemoryTree {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self { tree: Tree::new() }
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.put(path.as_ref(), FileMode(0o644), content.as_ref(), &[]);
        self
    }

    /// Adds a regular file with mode 0755.
    #[must_use]
    pub fn executable(mut self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.put(path.as_ref(), FileMode(0o755), content.as_ref(), &[]);
        self
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(mut self, path: impl AsRef<[u8]>) -> Self {
        self.put(path.as_ref(), FileMode(FileMode::DIRECTORY | 0o755), &[], &[]);
        self
    }

    /// Adds a symbolic link to `target`.
    #[must_use]
    pub fn symlink(mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.put(path.as_ref(), FileMode(FileMode::SYMLINK | 0o777), &[], target.as_ref());
        self
    }

    /// Adds an entry with metadata of your own, under `stat.path`; the size of a regular file is that of `content`.
    ///
    /// # Errors
    /// `NotADirectory` when a parent is no directory.
    pub fn insert(&mut self, mut stat: Stat, content: &[u8]) -> io::Result<()> {
        let path = path::below_root(&stat.path);
        let file = stat.mode.is_file();
        if file {
            stat.size = i64::try_from(content.len()).unwrap_or(i64::MAX);
        } else if !stat.mode.is_dir() {
            stat.size = i64::try_from(stat.link_name.len()).unwrap_or(i64::MAX);
        }
        self.tree.insert(&path, stat, file.then(|| content.into()))
    }

    /// Gives the file at `target` a further name.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; `InvalidInput` when it is a directory.
    pub fn hard_link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> io::Result<()> {
        self.tree.link(&path::below_root(path.as_ref()), &path::below_root(target.as_ref()))
    }

    fn put(&mut self, path: &[u8], mode: FileMode, content: &[u8], target: &[u8]) {
        const START_OF_1980: i64 = 315_532_800 * 1_000_000_000;
        let path = path::below_root(path);
        let stat = Stat {
            path: path.clone(),
            mode,
            mod_time: START_OF_1980 + fingerprint(content),
            link_name: target.to_vec(),
            ..Stat::default()
        };
        if self.insert(stat.clone(), content).is_err() {
            // A parent is a file: the later entry wins, as in an archive.
            for end in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at) {
                let parent = path.get(..end).unwrap_or_default();
                if self.tree.open_dir(parent).is_err() {
                    let mode = FileMode(FileMode::DIRECTORY | 0o755);
                    let _ = self.tree.insert(parent, Stat { mode, ..Stat::default() }, None);
                }
            }
            let _ = self.insert(stat, content);
        }
    }
}

impl SourceFs for MemoryTree {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        self.tree.open_dir(path)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        let (content, version) = self.tree.content(path)?;
        Ok(Box::new(Content { rest: content.map(|content| &**content).unwrap_or_default(), version }))
    }
}

struct Content<'a> {
    rest: &'a [u8],
    version: Version,
}

impl SourceFile for Content<'_> {
    fn version(&self) -> io::Result<Version> {
        Ok(self.version)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.rest, buffer)
    }
}

/// Nanoseconds below a second that depend on every byte (FNV-1a, folded).
fn fingerprint(content: &[u8]) -> i64 {
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    i64::try_from(hash % 1_000_000_000).unwrap_or(0)
}
