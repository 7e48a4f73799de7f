//! What a file is, without its content.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buildkit_proto::fsutil;
use bytes::Bytes;

/// What a file is, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Its path as asked for, or its name in a listing. Bytes, because file
    /// names need not be UTF-8.
    pub path: Bytes,
    /// What kind of file it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky, as in `0o1777`.
    pub permissions: u32,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When its content was last changed.
    pub modified: SystemTime,
    /// Where a symbolic link points; empty for anything else.
    pub link_target: Bytes,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Bytes>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, named pipe or socket.
    Special,
}

// The bits of Go's os.FileMode, which travel in place of st_mode.
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const SPECIAL: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const STICKY: u32 = 1 << 20;

impl FileStat {
    /// The path as text, with what is not UTF-8 replaced.
    pub fn path_lossy(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }
}

impl From<fsutil::Stat> for FileStat {
    fn from(stat: fsutil::Stat) -> Self {
        let mode = stat.mode;
        let kind = match () {
            () if mode & DIR != 0 => FileKind::Dir,
            () if mode & SYMLINK != 0 => FileKind::Symlink,
            () if mode & SPECIAL != 0 => FileKind::Special,
            () => FileKind::File,
        };
        let bit = |go: u32, unix: u32| if mode & go == 0 { 0 } else { unix };
        let since = Duration::from_nanos(stat.mod_time.unsigned_abs());
        let modified =
            if stat.mod_time < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) };
        Self {
            path: stat.path,
            kind,
            permissions: mode & 0o777 | bit(SETUID, 0o4000) | bit(SETGID, 0o2000) | bit(STICKY, 0o1000),
            uid: stat.uid,
            gid: stat.gid,
            size: u64::try_from(stat.size).unwrap_or(0),
            modified: modified.unwrap_or(UNIX_EPOCH),
            link_target: stat.linkname,
            xattrs: stat.xattrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_modes_become_unix_ones() {
        for (mode, kind, permissions) in [
            (0x8000_01ed, FileKind::Dir, 0o755),
            (0x8010_01ff, FileKind::Dir, 0o1777),
            (0x0800_01ff, FileKind::Symlink, 0o777),
            (0x0080_01ed, FileKind::File, 0o4755),
            (0x0200_01a4, FileKind::Special, 0o644),
            (0o644, FileKind::File, 0o644),
        ] {
            let stat =
                FileStat::from(fsutil::Stat { mode, mod_time: i64::MIN, size: -1, ..Default::default() });
            assert_eq!((stat.kind, stat.permissions, stat.size), (kind, permissions, 0), "{mode:#x}");
        }
    }
}
