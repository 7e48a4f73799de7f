//! A directory of this machine as a tree to send.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, fstat, readlinkat, statat};

use crate::source::{Entry, Names, SourceDir, SourceFile, SourceFs, Version};
use crate::stat::{FileMode, Kind, Stat, device_numbers};
use crate::{beneath, path};

/// A directory, held by a handle: renaming it or its parents does not change what is read.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
}

impl Directory {
    /// Opens a directory. Links in `path` itself are followed; none below it will be.
    ///
    /// # Errors
    /// What the file system says; `NotADirectory` for anything else.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::io::retry_on_intr(|| rustix::fs::open(path.as_ref(), flags, rustix::fs::Mode::empty()))?;
        Ok(Self { root })
    }
}

impl SourceFs for Directory {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        let fd = beneath::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Box::new(OpenDir { fd }))
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        // Without NONBLOCK, a pipe put in the file's place would make the open wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(beneath::open(self.root.as_fd(), path, flags)?);
        if FileMode::from_unix(fstat(&file)?.st_mode).is_file() {
            Ok(Box::new(OpenFile { file }))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "no longer a regular file"))
        }
    }
}

/// A directory that is open for reading.
#[derive(Debug)]
pub(crate) struct OpenDir {
    fd: OwnedFd,
}

impl SourceDir for OpenDir {
    fn names(&mut self) -> io::Result<Names> {
        let mut names = Names::default();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name, kind(entry.file_type()))?;
            }
        }
        Ok(names)
    }

    fn entry(&self, name: &[u8]) -> io::Result<Entry> {
        let found = rustix::io::retry_on_intr(|| statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))?;
        let mode = FileMode::from_unix(found.st_mode);
        let mut stat =
            Stat { mode, uid: found.st_uid, gid: found.st_gid, xattrs: self.xattrs(name), ..Stat::default() };
        let version = version(&found);
        stat.mod_time = version.modified;
        match mode.kind() {
            Kind::File => stat.size = version.size,
            Kind::Symlink => {
                stat.link_name = readlinkat(&self.fd, name, Vec::new())?.into_bytes();
                stat.size = i64::try_from(stat.link_name.len()).unwrap_or(i64::MAX);
            }
            Kind::CharDevice | Kind::BlockDevice => {
                (stat.dev_major, stat.dev_minor) = device_numbers(widen(found.st_rdev));
            }
            Kind::Directory | Kind::Fifo | Kind::Socket | Kind::Unknown => {}
        }
        Ok(Entry { stat, version, links: widen(found.st_nlink) })
    }
}

impl OpenDir {
    #[cfg(feature = "transfer")]
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The attributes of an entry. Attributes that cannot be listed or read are left out: whether they can depends
    /// on the file system and on privileges, and the reference sends such files without them.
    fn xattrs(&self, name: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        // There is no call that takes a directory handle and a name; the handle's own link serves as the path.
        let mut path = String::new();
        let _ = write!(path, "/proc/self/fd/{}", self.fd.as_raw_fd());
        let path = path::join(path.as_bytes(), name);
        let mut list = Vec::with_capacity(256);
        let listed = match rustix::fs::llistxattr(&*path, rustix::buffer::spare_capacity(&mut list)) {
            Err(rustix::io::Errno::RANGE) => {
                list.reserve(64 * 1024);
                rustix::fs::llistxattr(&*path, rustix::buffer::spare_capacity(&mut list))
            }
            listed => listed,
        };
        if listed.is_err() {
            return found;
        }
        for attribute in list.split(|byte| *byte == 0).filter(|attribute| !attribute.is_empty()) {
            let Ok(attribute) = std::str::from_utf8(attribute) else { continue };
            if attribute.starts_with("com.apple.") {
                continue;
            }
            let mut value = Vec::with_capacity(256);
            let read =
                match rustix::fs::lgetxattr(&*path, attribute, rustix::buffer::spare_capacity(&mut value)) {
                    Err(rustix::io::Errno::RANGE) => {
                        value.reserve(64 * 1024);
                        rustix::fs::lgetxattr(&*path, attribute, rustix::buffer::spare_capacity(&mut value))
                    }
                    read => read,
                };
            if read.is_ok() {
                found.insert(attribute.to_owned(), value);
            }
        }
        found
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
}

impl SourceFile for OpenFile {
    fn version(&self) -> io::Result<Version> {
        Ok(version(&fstat(&self.file)?))
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

fn version(found: &rustix::fs::Stat) -> Version {
    let nanoseconds = |seconds: i64, rest: u64| {
        seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(rest).unwrap_or(0))
    };
    Version {
        device: widen(found.st_dev),
        inode: widen(found.st_ino),
        size: found.st_size,
        modified: nanoseconds(found.st_mtime, widen(found.st_mtime_nsec)),
        changed: nanoseconds(found.st_ctime, widen(found.st_ctime_nsec)),
    }
}

/// Systems differ in the width and sign of these numbers.
fn widen(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(0)
}

fn kind(found: FileType) -> Kind {
    match found {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => Kind::Unknown,
    }
}
