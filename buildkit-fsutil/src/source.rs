//! Trees that can be sent: a directory, a tar, or one made in memory.

use std::io;
use std::sync::Arc;

use crate::stat::{Kind, Stat};

/// A tree of files to read from. Calls block; a transfer makes them off the async runtime.
///
/// Paths are relative to the root, clean and separated by `/`; the root is the empty path. No call follows a
/// symbolic link, in no component: a path that leads through one fails.
pub trait SourceFs: Send + Sync {
    /// Opens a directory.
    ///
    /// # Errors
    /// `NotFound` when there is none, `NotADirectory` for something else, or what the file system says.
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>>;

    /// Opens a regular file for reading from its start.
    ///
    /// # Errors
    /// As for [`open_dir`](Self::open_dir); also when the path is no regular file. Never waits for a pipe.
    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>>;
}

impl<S: SourceFs + ?Sized> SourceFs for Arc<S> {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        (**self).open_dir(path)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        (**self).open(path)
    }
}

/// An open directory of a [`SourceFs`].
pub trait SourceDir: Send {
    /// The names in the directory, in any order, without `.` and `..`.
    ///
    /// # Errors
    /// What the file system says.
    fn names(&mut self) -> io::Result<Names>;

    /// What is said of one of its entries; links are not followed.
    ///
    /// # Errors
    /// `NotFound` when the entry is gone, or what the file system says.
    fn entry(&self, name: &[u8]) -> io::Result<Entry>;
}

/// An open file of a [`SourceFs`].
pub trait SourceFile: Send {
    /// Which file this is, as of now.
    ///
    /// # Errors
    /// What the file system says.
    fn version(&self) -> io::Result<Version>;

    /// Reads on; 0 is the end.
    ///
    /// # Errors
    /// What the file system says. `Interrupted` is tried again by the caller.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// One file as found on a walk.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its metadata. The path is filled in by the walk.
    pub stat: Stat,
    /// Which file it is, to recognise it when it is opened.
    pub version: Version,
    /// How many names the file has.
    pub links: u64,
}

/// Tells a file from every other and from its own earlier content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// The device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Bytes of content.
    pub size: i64,
    /// Modification time in nanoseconds since 1970.
    pub modified: i64,
    /// Time of the last change to content or metadata, in nanoseconds since 1970.
    pub changed: i64,
}

/// The names of a directory, packed so that a million of them stay small.
#[derive(Debug, Clone, Default)]
pub struct Names {
    text: Vec<u8>,
    /// Start and length in `text`.
    entries: Vec<(u32, u32, Kind)>,
}

impl Names {
    /// Adds a name; `kind` is [`Kind::Unknown`] where the listing does not tell.
    ///
    /// # Errors
    /// `OutOfMemory` past 4 GiB of names in one directory.
    pub fn push(&mut self, name: &[u8], kind: Kind) -> io::Result<()> {
        let too_many = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let start = u32::try_from(self.text.len()).map_err(too_many)?;
        let length = u32::try_from(name.len()).map_err(too_many)?;
        self.text.extend_from_slice(name);
        self.entries.push((start, length, kind));
        Ok(())
    }

    /// Puts the names in byte order.
    pub fn sort(&mut self) {
        let text = &self.text;
        let slice = |(start, length, _): &(u32, u32, Kind)| -> &[u8] {
            let start = *start as usize;
            text.get(start..start + *length as usize).unwrap_or_default()
        };
        self.entries.sort_unstable_by(|a, b| slice(a).cmp(slice(b)));
    }

    /// The name at a position.
    pub fn at(&self, index: usize) -> Option<(&[u8], Kind)> {
        let (start, length, kind) = *self.entries.get(index)?;
        let start = start as usize;
        Some((self.text.get(start..start + length as usize)?, kind))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
