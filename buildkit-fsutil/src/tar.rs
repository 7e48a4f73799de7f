//! A tar archive as a tree to send, without unpacking it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use crate::path;
use crate::source::{SourceDir, SourceFile, SourceFs, Version};
use crate::stat::{FileMode, Stat};
use crate::tree::Tree;

const BLOCK: usize = 512;
/// Extended headers and long names are refused past this size.
const MAX_HEADER: u64 = 1 << 20;
/// More entries are refused.
const MAX_ENTRIES: usize = 4 << 20;

/// An archive: read once for its index, then only for the content that is asked for.
///
/// Understood are the formats of POSIX (ustar, pax) and GNU, uncompressed. Of several entries with one path the last
/// one counts. Paths cannot leave the root: `..` and leading slashes are dropped. Missing parents are directories with
/// mode 0755.
pub struct Tar {
    data: Data,
    tree: Tree<Extent>,
}

enum Data {
    Memory(Vec<u8>),
    File(File),
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    start: u64,
    length: u64,
}

impl Tar {
    /// An archive in memory.
    ///
    /// # Errors
    /// [`TarError`] when it is not a tar, or one that cannot be represented.
    pub fn from_bytes(archive: impl Into<Vec<u8>>) -> Result<Self, TarError> {
        Self::index(Data::Memory(archive.into()))
    }

    /// An archive in a file, which must not change while it is in use. Blocks.
    ///
    /// # Errors
    /// [`TarError`] when it is not a tar, or one that cannot be represented.
    pub fn from_file(archive: File) -> Result<Self, TarError> {
        Self::index(Data::File(archive))
    }

    /// An archive from a stream, such as standard input. It is kept in a file without a name in the directory for
    /// temporary files until the tree is dropped. Blocks until the stream ends.
    ///
    /// # Errors
    /// [`TarError`] when it cannot be read or kept, is not a tar, or one that cannot be represented.
    pub fn from_reader(mut archive: impl Read) -> Result<Self, TarError> {
        let mut kept = || -> io::Result<File> {
            let path = std::env::temp_dir().join(String::from_utf8_lossy(&temp_name()).into_owned());
            let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            io::copy(&mut archive, &mut file)?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        let file = kept().map_err(|source| TarError { offset: 0, problem: Problem::Read(source) })?;
        Self::from_file(file)
    }

    fn index(data: Data) -> Result<Self, TarError> {
        let mut reader = Indexer { data: &data, offset: 0, tree: Tree::new(), global: Pax::default() };
        reader.run().map_err(|problem| TarError { offset: reader.offset, problem })?;
        let tree = reader.tree;
        Ok(Self { data, tree })
    }
}

impl fmt::Debug for Tar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = match &self.data {
            Data::Memory(bytes) => format!("{} bytes in memory", bytes.len()),
            Data::File(file) => format!("{file:?}"),
        };
        f.debug_struct("Tar").field("data", &data).finish_non_exhaustive()
    }
}

impl SourceFs for Tar {
    fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>> {
        self.tree.open_dir(path)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn SourceFile + '_>> {
        let (extent, version) = self.tree.content(path)?;
        let Extent { start, length } = extent.copied().unwrap_or(Extent { start: 0, length: 0 });
        Ok(Box::new(Content { data: &self.data, at: start, left: length, version }))
    }
}

struct Content<'a> {
    data: &'a Data,
    at: u64,
    left: u64,
    version: Version,
}

impl SourceFile for Content<'_> {
    fn version(&self) -> io::Result<Version> {
        Ok(self.version)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.data.read_at(self.at, buffer.get_mut(..wanted).unwrap_or_default())?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Data {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                io::Read::read(&mut &*rest, buffer)
            }
            Self::File(file) => file.read_at(buffer, at),
        }
    }

    fn read_exact_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Problem> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(at.saturating_add(filled as u64), rest) {
                Ok(0) => return Err(Problem::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::Read(error)),
            }
        }
        Ok(())
    }

    fn length(&self) -> Result<u64, Problem> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => file.metadata().map(|found| found.len()).map_err(Problem::Read),
        }
    }
}

/// What an extended header says of the entry that follows.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mod_time: Option<i64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    sparse: bool,
}

struct Indexer<'a> {
    data: &'a Data,
    offset: u64,
    tree: Tree<Extent>,
    global: Pax,
}

impl Indexer<'_> {
    fn run(&mut self) -> Result<(), Problem> {
        let length = self.data.length()?;
        let mut next = self.global.clone();
        let mut entries = 0_usize;
        while self.offset < length {
            let mut header = [0; BLOCK];
            self.data.read_exact_at(self.offset, &mut header)?;
            // A block of zeros ends the archive; some writers write only one.
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = Header(&header);
            header.verify()?;
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Problem::TooLarge);
            }
            let start = self.offset.checked_add(BLOCK as u64).ok_or(Problem::Truncated)?;
            let kind = header.kind();
            let is_meta = matches!(kind, b'x' | b'g' | b'L' | b'K');
            let declared = if is_meta { None } else { next.size };
            let size = declared.map_or_else(|| header.number(124, 12), Ok)?;
            // Links have no content, whatever their size says.
            let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            let end = start.checked_add(size).filter(|end| *end <= length).ok_or(Problem::Truncated)?;
            if is_meta {
                if size > MAX_HEADER {
                    return Err(Problem::TooLarge);
                }
                let mut body = vec![0; usize::try_from(size).map_err(|_| Problem::TooLarge)?];
                self.data.read_exact_at(start, &mut body)?;
                match kind {
                    b'x' => pax(&body, &mut next)?,
                    b'g' => {
                        pax(&body, &mut self.global)?;
                        next = self.global.clone();
                    }
                    b'L' => next.path = Some(text(&body)),
                    _ => next.link = Some(text(&body)),
                }
            } else {
                let pax = std::mem::replace(&mut next, self.global.clone());
                self.entry(&header, pax, Extent { start, length: size })?;
            }
            self.offset = end.checked_next_multiple_of(BLOCK as u64).ok_or(Problem::Truncated)?;
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header<'_>, pax: Pax, content: Extent) -> Result<(), Problem> {
        let raw = pax.path.unwrap_or_else(|| header.path());
        let link = pax.link.unwrap_or_else(|| text(header.field(157, 100)));
        let kind = header.kind();
        if pax.sparse || kind == b'S' {
            return Err(Problem::Sparse(raw));
        }
        let path = path::below_root(&raw);
        if path.contains(&0) {
            return Err(Problem::Header);
        }
        let place = |source| Problem::Place { path: raw.clone(), source };
        if kind == b'1' {
            return self.tree.link(&path, &path::below_root(&link)).map_err(place);
        }
        let type_bits = match kind {
            b'2' => FileMode::SYMLINK,
            b'3' => FileMode::DEVICE | FileMode::CHAR_DEVICE,
            b'4' => FileMode::DEVICE,
            b'5' => FileMode::DIRECTORY,
            b'6' => FileMode::FIFO,
            // Old writers mark a directory by the slash at its end only.
            0 | b'0' | b'7' if raw.ends_with(b"/") => FileMode::DIRECTORY,
            _ => 0,
        };
        let permissions = u32::try_from(header.number(100, 8)? & 0o7777).unwrap_or(0);
        let id = |at| header.number(at, 8).map(|id| u32::try_from(id).unwrap_or(0));
        let is_file = type_bits == 0;
        let mut stat = Stat {
            mode: FileMode(type_bits).with_unix_permissions(permissions),
            uid: pax.uid.map_or_else(|| id(108), Ok)?,
            gid: pax.gid.map_or_else(|| id(116), Ok)?,
            mod_time: match pax.mod_time {
                Some(time) => time,
                None => header.signed(136, 12)?.saturating_mul(1_000_000_000),
            },
            xattrs: pax.xattrs,
            ..Stat::default()
        };
        if type_bits == FileMode::SYMLINK {
            stat.size = i64::try_from(link.len()).unwrap_or(0);
            stat.link_name = link;
        } else if type_bits & FileMode::DEVICE != 0 {
            let part = |at| header.number(at, 8).map(|part| i64::try_from(part).unwrap_or(0));
            (stat.dev_major, stat.dev_minor) = (part(329)?, part(337)?);
        } else if is_file {
            stat.size = i64::try_from(content.length).map_err(|_| Problem::TooLarge)?;
        }
        if path.is_empty() && type_bits != FileMode::DIRECTORY {
            return Err(Problem::Header);
        }
        self.tree.insert(&path, stat, is_file.then_some(content)).map_err(place)
    }
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn field(&self, at: usize, length: usize) -> &[u8] {
        self.0.get(at..at + length).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }

    fn verify(&self) -> Result<(), Problem> {
        let stated = self.number(148, 8)?;
        let sum = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let unsigned: u64 = self.0.iter().enumerate().map(|(at, byte)| u64::from(sum(at, *byte))).sum();
        // Some old writers took bytes as signed.
        let signed: i64 =
            self.0.iter().enumerate().map(|(at, byte)| i64::from(sum(at, *byte).cast_signed())).sum();
        let matches = stated == unsigned || i64::try_from(stated).is_ok_and(|stated| stated == signed);
        if matches { Ok(()) } else { Err(Problem::Header) }
    }

    fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = if self.field(257, 6) == b"ustar\0" { text(self.field(345, 155)) } else { Vec::new() };
        if prefix.is_empty() { name } else { [&prefix[..], b"/", &name[..]].concat() }
    }

    fn number(&self, at: usize, length: usize) -> Result<u64, Problem> {
        u64::try_from(self.signed(at, length)?).map_err(|_| Problem::Header)
    }

    /// Octal digits, or with the first bit set a big-endian number in two's complement.
    fn signed(&self, at: usize, length: usize) -> Result<i64, Problem> {
        let field = self.field(at, length);
        let Some((first, rest)) = field.split_first() else { return Err(Problem::Header) };
        if first & 0x80 != 0 {
            let start = i128::from((first << 1).cast_signed() >> 1);
            let value = rest
                .iter()
                .try_fold(start, |value, byte| value.checked_mul(256).map(|value| value + i128::from(*byte)));
            return value.and_then(|value| i64::try_from(value).ok()).ok_or(Problem::Header);
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
        digits.get(..end).unwrap_or_default().iter().try_fold(0_i64, |value, byte| match byte {
            b'0'..=b'7' => {
                value.checked_mul(8).map(|value| value + i64::from(byte - b'0')).ok_or(Problem::Header)
            }
            _ => Err(Problem::Header),
        })
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Reads the records of an extended header: length, blank, key, `=`, value, line feed.
fn pax(mut body: &[u8], into: &mut Pax) -> Result<(), Problem> {
    while !body.is_empty() {
        let blank = body.iter().position(|byte| *byte == b' ').ok_or(Problem::Header)?;
        let length = body.get(..blank).and_then(decimal::<usize>).ok_or(Problem::Header)?;
        let record = body
            .get(blank + 1..length)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or(Problem::Header)?;
        body = body.get(length..).ok_or(Problem::Header)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(Problem::Header)?;
        let (key, value) = record.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        match key {
            b"path" => into.path = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"linkpath" => into.link = Some(value.to_vec()).filter(|value| !value.is_empty()),
            b"size" => into.size = Some(decimal(value).ok_or(Problem::Header)?),
            b"uid" => into.uid = Some(decimal(value).ok_or(Problem::Header)?),
            b"gid" => into.gid = Some(decimal(value).ok_or(Problem::Header)?),
            b"mtime" => into.mod_time = Some(seconds(value).ok_or(Problem::Header)?),
            _ => {
                if key.starts_with(b"GNU.sparse.") {
                    into.sparse = true;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && let Ok(name) = std::str::from_utf8(name)
                {
                    into.xattrs.insert(name.to_owned(), value.to_vec());
                }
            }
        }
    }
    Ok(())
}

fn decimal<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, as nanoseconds.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = if nanoseconds.bytes().all(|byte| byte.is_ascii_digit()) {
        nanoseconds.parse().ok()?
    } else {
        return None;
    };
    let whole_seconds: i64 = whole.parse().ok()?;
    let nanoseconds = if whole.starts_with('-') { -nanoseconds } else { nanoseconds };
    whole_seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn temp_name() -> Vec<u8> {
    use std::hash::{BuildHasher as _, RandomState};
    format!(".buildkit-tar.{:016x}", RandomState::new().hash_one(std::process::id())).into_bytes()
}

/// An archive that cannot be used.
#[derive(Debug)]
pub struct TarError {
    /// Where in the archive, in bytes.
    pub offset: u64,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Read(io::Error),
    Truncated,
    Header,
    TooLarge,
    Sparse(Vec<u8>),
    Place { path: Vec<u8>, source: io::Error },
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tar archive, at byte {}: ", self.offset)?;
        match &self.problem {
            Problem::Read(_) => f.write_str("cannot read"),
            Problem::Truncated => f.write_str("it ends in the middle of an entry"),
            Problem::Header => {
                f.write_str("not a header of an entry; a compressed archive must be unpacked first")
            }
            Problem::TooLarge => f.write_str("more than this reader takes"),
            Problem::Sparse(path) => {
                write!(f, "{} is a sparse file, which is not supported", path::Printable(path))
            }
            Problem::Place { path, .. } => {
                write!(f, "{} cannot be placed in the tree", path::Printable(path))
            }
        }
    }
}

impl std::error::Error for TarError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Read(source) | Problem::Place { source, .. } => Some(source),
            _ => None,
        }
    }
}
