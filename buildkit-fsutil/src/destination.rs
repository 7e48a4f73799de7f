//! Places a tree can be written to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use crate::directory::OpenDir;
use crate::source::{Names, SourceDir as _};
use crate::stat::{Kind, Stat};
use crate::{beneath, path};

/// A tree of files to write to. Calls block.
///
/// Paths are relative to the root, clean and separated by `/`; the root is the empty path. No call follows a symbolic
/// link, in no component, and none touches anything outside the root.
pub trait DestFs: Send {
    /// What is said of an entry.
    ///
    /// # Errors
    /// What the file system says, here and below.
    fn stat(&mut self, path: &[u8]) -> io::Result<Stat>;
    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// What the file system says.
    fn names(&mut self, dir: &[u8]) -> io::Result<Names>;
    /// Makes a directory with mode 0700.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    fn make_dir(&mut self, path: &[u8]) -> io::Result<()>;
    /// Makes an empty file with mode 0600 and opens it.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    fn create(&mut self, path: &[u8]) -> io::Result<Box<dyn DestFile>>;
    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()>;
    /// Gives a file a further name.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    fn link(&mut self, path: &[u8], existing: &[u8]) -> io::Result<()>;
    /// Makes a pipe or a device with mode 0600.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    fn make_node(&mut self, path: &[u8], kind: Kind, major: i64, minor: i64) -> io::Result<()>;
    /// Moves an entry within its directory. `replace` says whether the new name may be taken.
    ///
    /// # Errors
    /// `AlreadyExists` when it may not but is; `IsADirectory` when a directory has it.
    fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()>;
    /// Removes anything but a directory.
    ///
    /// # Errors
    /// What the file system says.
    fn remove_file(&mut self, path: &[u8]) -> io::Result<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the file system says.
    fn remove_dir(&mut self, path: &[u8]) -> io::Result<()>;
    /// Sets the metadata of an entry that is no regular file: owner, then mode (not of links), attributes, time.
    ///
    /// # Errors
    /// What the file system says; attributes that cannot be set are no error.
    fn set(&mut self, path: &[u8], kind: Kind, metadata: &Metadata<'_>) -> io::Result<()>;
    /// Waits until everything written is on the disk, and tells of errors that came late.
    ///
    /// # Errors
    /// What the file system says.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file being written.
pub trait DestFile: Send {
    /// Appends all of `chunk`.
    ///
    /// # Errors
    /// What the file system says.
    fn write(&mut self, chunk: &[u8]) -> io::Result<()>;
    /// Sets the metadata and closes the file.
    ///
    /// # Errors
    /// What the file system says; attributes that cannot be set are no error.
    fn finish(self: Box<Self>, metadata: &Metadata<'_>) -> io::Result<()>;
}

/// What is to be said of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// Owner and group, to change them.
    pub owner: Option<(u32, u32)>,
    /// The twelve bits of `chmod(2)`.
    pub permissions: u32,
    /// Extended attributes to set.
    pub xattrs: Option<&'a BTreeMap<String, Vec<u8>>>,
    /// Modification time in nanoseconds since 1970.
    pub mod_time: i64,
}

/// A directory of this machine, held by a handle.
#[derive(Debug)]
pub struct DiskDestination {
    root: OwnedFd,
    umask: u32,
    /// The directory of the last path: most calls concern the same one.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl DiskDestination {
    /// Opens a directory and makes it first, with its parents and mode 0700, where it is missing. Then a file is made
    /// in it and removed, to know that it can be written to.
    ///
    /// # Errors
    /// What the file system says; `NotADirectory` when something else is there.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            return Err(if path.exists() { io::ErrorKind::NotADirectory.into() } else { error });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        let probe = crate::disk_writer::temp_path(b"");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let all = Mode::RWXU | Mode::RWXG | Mode::RWXO;
        let made = rustix::io::retry_on_intr(|| rustix::fs::openat(&root, &*probe, flags, all))?;
        let found = rustix::fs::fstat(&made);
        rustix::fs::unlinkat(&root, &*probe, AtFlags::empty())?;
        let umask = 0o777 & !found?.st_mode;
        Ok(Self { root, umask, parent: None })
    }

    /// The permissions that new files do not get here, by the umask of the process: `0o022` for example.
    pub fn umask(&self) -> u32 {
        self.umask
    }

    /// The directory a path is in, and its name there.
    fn at<'a>(&mut self, path: &'a [u8]) -> io::Result<(BorrowedFd<'_>, &'a [u8])> {
        let (dir, name) = path::split(path);
        if name.is_empty() || name == b"." || name == b".." {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if dir.is_empty() {
            return Ok((self.root.as_fd(), name));
        }
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != dir) {
            let fd = beneath::open(self.root.as_fd(), dir, beneath::path_only() | OFlags::DIRECTORY)?;
            self.parent = Some((dir.to_vec(), fd));
        }
        let parent = self.parent.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        Ok((parent, name))
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        beneath::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }
}

impl DestFs for DiskDestination {
    fn stat(&mut self, path: &[u8]) -> io::Result<Stat> {
        let (dir, name) = path::split(path);
        OpenDir::new(self.open_dir(dir)?).entry(name).map(|entry| entry.stat)
    }

    fn names(&mut self, dir: &[u8]) -> io::Result<Names> {
        OpenDir::new(self.open_dir(dir)?).names()
    }

    fn make_dir(&mut self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::mkdirat(dir, name, Mode::RWXU)?)
    }

    fn create(&mut self, path: &[u8]) -> io::Result<Box<dyn DestFile>> {
        let (dir, name) = self.at(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::io::retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(Box::new(DiskFile { file: File::from(fd) }))
    }

    fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::symlinkat(target, dir, name)?)
    }

    fn link(&mut self, path: &[u8], existing: &[u8]) -> io::Result<()> {
        let (existing_dir, existing_name) = path::split(existing);
        let from = beneath::open(self.root.as_fd(), existing_dir, beneath::path_only() | OFlags::DIRECTORY)?;
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::linkat(from, existing_name, dir, name, AtFlags::empty())?)
    }

    fn make_node(&mut self, path: &[u8], kind: Kind, major: i64, minor: i64) -> io::Result<()> {
        let kind = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let number =
            |part: i64| u32::try_from(part).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let device = rustix::fs::makedev(number(major)?, number(minor)?);
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)?)
    }

    fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let old = path::split(from).1;
        let (dir, new) = self.at(to)?;
        if replace {
            return Ok(rustix::fs::renameat(dir, old, dir, new)?);
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::io::Errno;
            match rustix::fs::renameat_with(dir, old, dir, new, rustix::fs::RenameFlags::NOREPLACE) {
                // Some file systems do not know the flag.
                Err(Errno::INVAL | Errno::NOSYS) => {}
                renamed => return Ok(renamed?),
            }
        }
        match rustix::fs::statat(dir, new, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(rustix::io::Errno::NOENT) => Ok(rustix::fs::renameat(dir, old, dir, new)?),
            Err(error) => Err(error.into()),
        }
    }

    fn remove_file(&mut self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn remove_dir(&mut self, path: &[u8]) -> io::Result<()> {
        // Its handle may be the one kept.
        self.parent = None;
        let (dir, name) = self.at(path)?;
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    fn set(&mut self, path: &[u8], kind: Kind, metadata: &Metadata<'_>) -> io::Result<()> {
        if kind == Kind::Directory {
            return apply(self.open_dir(path)?.as_fd(), metadata);
        }
        let (dir, name) = self.at(path)?;
        if let Some((uid, gid)) = metadata.owner {
            rustix::fs::chownat(dir, name, user(uid), group(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind != Kind::Symlink {
            // The handle is no link and cannot become one, whatever happens to the name.
            let flags = beneath::path_only() | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let node = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let node = format!("/proc/self/fd/{}", node.as_raw_fd());
            rustix::fs::chmod(node, Mode::from_raw_mode(metadata.permissions))?;
        }
        Ok(rustix::fs::utimensat(dir, name, &times(metadata.mod_time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        // One call for the whole file system: one for each of many thousand files would take minutes.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        rustix::fs::syncfs(&self.root)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        rustix::fs::sync();
        Ok(())
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl DestFile for DiskFile {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)
    }

    fn finish(self: Box<Self>, metadata: &Metadata<'_>) -> io::Result<()> {
        apply(self.file.as_fd(), metadata)
    }
}

fn apply(fd: BorrowedFd<'_>, metadata: &Metadata<'_>) -> io::Result<()> {
    if let Some((uid, gid)) = metadata.owner {
        rustix::fs::fchown(fd, user(uid), group(gid))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.permissions))?;
    for (name, value) in metadata.xattrs.into_iter().flatten() {
        // Not every file system takes every attribute, and some need privileges.
        let _ = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
    }
    Ok(rustix::fs::futimens(fd, &times(metadata.mod_time))?)
}

/// `-1` says "leave it" to the kernel.
fn user(uid: u32) -> Option<Uid> {
    (uid != u32::MAX).then(|| Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<Gid> {
    (gid != u32::MAX).then(|| Gid::from_raw(gid))
}

fn times(mod_time: i64) -> Timestamps {
    let modified =
        Timespec { tv_sec: mod_time.div_euclid(1_000_000_000), tv_nsec: mod_time.rem_euclid(1_000_000_000) };
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: modified,
    }
}
