//! What is said of a file: its path, mode, owner, times, link target and extended attributes.

use std::collections::BTreeMap;
use std::fmt;

/// A file without its content, as it travels in a STAT packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// Relative to the root of the tree, separated by `/`. Bytes: a name need not be UTF-8.
    pub path: Vec<u8>,
    /// Type and permission bits.
    pub mode: FileMode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content; the length of the target for a symbolic link.
    pub size: i64,
    /// Modification time in nanoseconds since 1970.
    pub mod_time: i64,
    /// The target of a symbolic link, or the path of the first link when this is a further hard link.
    pub link_name: Vec<u8>,
    /// Major number of a device.
    pub dev_major: i64,
    /// Minor number of a device.
    pub dev_minor: i64,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// The mode of a file in the bits of Go's `os.FileMode`, which is what BuildKit sends; not `st_mode`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileMode(pub u32);

impl FileMode {
    /// A directory.
    pub const DIRECTORY: u32 = 1 << 31;
    /// A symbolic link.
    pub const SYMLINK: u32 = 1 << 27;
    /// A device; a block device unless [`CHAR_DEVICE`](Self::CHAR_DEVICE) is set too.
    pub const DEVICE: u32 = 1 << 26;
    /// A named pipe.
    pub const FIFO: u32 = 1 << 25;
    /// A socket.
    pub const SOCKET: u32 = 1 << 24;
    /// Runs as its owner.
    pub const SETUID: u32 = 1 << 23;
    /// Runs as its group; below such a directory files inherit the group.
    pub const SETGID: u32 = 1 << 22;
    /// With [`DEVICE`](Self::DEVICE): a character device.
    pub const CHAR_DEVICE: u32 = 1 << 21;
    /// Only owners may delete below such a directory.
    pub const STICKY: u32 = 1 << 20;
    /// Something that is none of the types above.
    pub const IRREGULAR: u32 = 1 << 19;

    const TYPE: u32 = Self::DIRECTORY
        | Self::SYMLINK
        | Self::DEVICE
        | Self::FIFO
        | Self::SOCKET
        | Self::CHAR_DEVICE
        | Self::IRREGULAR;

    /// From the `st_mode` of `stat(2)`.
    pub fn from_unix(st_mode: u32) -> Self {
        let kind = match st_mode & 0o170_000 {
            0o100_000 => 0,
            0o040_000 => Self::DIRECTORY,
            0o120_000 => Self::SYMLINK,
            0o060_000 => Self::DEVICE,
            0o020_000 => Self::DEVICE | Self::CHAR_DEVICE,
            0o010_000 => Self::FIFO,
            0o140_000 => Self::SOCKET,
            _ => Self::IRREGULAR,
        };
        Self(kind).with_unix_permissions(st_mode)
    }

    /// The twelve bits `chmod(2)` takes: permissions, setuid, setgid, sticky.
    pub fn unix_permissions(self) -> u32 {
        let bit = |own: u32, unix: u32| if self.0 & own != 0 { unix } else { 0 };
        self.0 & 0o777 | bit(Self::SETUID, 0o4000) | bit(Self::SETGID, 0o2000) | bit(Self::STICKY, 0o1000)
    }

    /// The same type of file with the twelve bits of `permissions`.
    #[must_use]
    pub fn with_unix_permissions(self, permissions: u32) -> Self {
        let bit = |unix: u32, own: u32| if permissions & unix != 0 { own } else { 0 };
        Self(
            self.0 & Self::TYPE
                | permissions & 0o777
                | bit(0o4000, Self::SETUID)
                | bit(0o2000, Self::SETGID)
                | bit(0o1000, Self::STICKY),
        )
    }

    /// What kind of file this is.
    pub fn kind(self) -> Kind {
        match self.0 & Self::TYPE {
            0 => Kind::File,
            Self::DIRECTORY => Kind::Directory,
            Self::SYMLINK => Kind::Symlink,
            Self::DEVICE => Kind::BlockDevice,
            Self::FIFO => Kind::Fifo,
            Self::SOCKET => Kind::Socket,
            kind if kind == Self::DEVICE | Self::CHAR_DEVICE => Kind::CharDevice,
            _ => Kind::Unknown,
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(self) -> bool {
        self.kind() == Kind::Directory
    }

    /// Whether this is a regular file: only such entries have content.
    pub fn is_file(self) -> bool {
        self.kind() == Kind::File
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:04o}", self.kind(), self.unix_permissions())
    }
}

/// The types of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Not told, or none of the others.
    Unknown,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "regular file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::Unknown => "file of unknown type",
        })
    }
}

/// The numbers of a device from `st_rdev`, as BuildKit splits them.
pub fn device_numbers(rdev: u64) -> (i64, i64) {
    let major = (rdev >> 8) & 0xfff;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00);
    (i64::try_from(major).unwrap_or(0), i64::try_from(minor).unwrap_or(0))
}

#[cfg(feature = "transfer")]
impl From<Stat> for buildkit_proto::fsutil::Stat {
    fn from(stat: Stat) -> Self {
        Self {
            path: stat.path.into(),
            mode: stat.mode.0,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mod_time: stat.mod_time,
            linkname: stat.link_name.into(),
            devmajor: stat.dev_major,
            devminor: stat.dev_minor,
            xattrs: stat.xattrs.into_iter().map(|(name, value)| (name, value.into())).collect(),
        }
    }
}

#[cfg(feature = "transfer")]
impl From<buildkit_proto::fsutil::Stat> for Stat {
    fn from(stat: buildkit_proto::fsutil::Stat) -> Self {
        Self {
            path: stat.path.into(),
            mode: FileMode(stat.mode),
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mod_time: stat.mod_time,
            link_name: stat.linkname.into(),
            dev_major: stat.devmajor,
            dev_minor: stat.devminor,
            xattrs: stat.xattrs.into_iter().map(|(name, value)| (name, value.into())).collect(),
        }
    }
}
