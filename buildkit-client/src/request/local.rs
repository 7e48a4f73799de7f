//! Trees that a build may read.

use crate::error::RequestError;
use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::source::SourceFs;
use buildkit_fsutil::tar::Tar;
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that a build may read from this side.
///
/// Owner and group of everything are sent as 0.
#[derive(Clone)]
#[non_exhaustive]
pub enum Local {
    /// A directory.
    Dir(PathBuf),
    /// A tree from elsewhere, for example from memory.
    Tree(Arc<dyn SourceFs>),
    /// An archive, sent without unpacking it.
    Tar(TarSource),
}

impl Local {
    /// A directory.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self::Dir(path.into())
    }

    /// A tree of one's own.
    pub fn tree(tree: impl SourceFs + 'static) -> Self {
        Self::Tree(Arc::new(tree))
    }

    /// A tar archive in a file; it must not change while the build runs. It may be compressed with
    /// gzip: then it is unpacked into a file without a name first.
    pub fn tar_file(path: impl Into<PathBuf>) -> Self {
        Self::tar(Input::File(path.into()))
    }

    /// A tar archive in memory, possibly compressed with gzip.
    pub fn tar_bytes(archive: impl Into<Bytes>) -> Self {
        Self::tar(Input::Bytes(archive.into()))
    }

    /// A tar archive from a stream such as standard input, possibly compressed with gzip. It is kept
    /// in a file without a name, in the directory for temporary files, while the build runs.
    pub fn tar_reader(archive: impl Read + Send + 'static) -> Self {
        Self::tar(Input::Reader(Box::new(archive)))
    }

    /// Whether both are the same tree, as far as can be told without reading them.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dir(a), Self::Dir(b)) => a == b || absolute(a) == absolute(b),
            (Self::Tree(a), Self::Tree(b)) => Arc::ptr_eq(a, b),
            (Self::Tar(a), Self::Tar(b)) => Arc::ptr_eq(&a.0, &b.0),
            _ => false,
        }
    }

    fn tar(input: Input) -> Self {
        Self::Tar(TarSource(Arc::new(Mutex::new(State::Unread(input)))))
    }

    /// Opens the tree. Archives are read for their index; this blocks.
    pub(crate) fn open(self, name: &str) -> Result<Arc<dyn SourceFs>, RequestError> {
        match self {
            Self::Tree(tree) => Ok(tree),
            Self::Dir(path) => match Directory::open(&path) {
                Ok(dir) => Ok(Arc::new(dir)),
                Err(source) => Err(unusable(name, path, source)),
            },
            Self::Tar(tar) => tar.open(name),
        }
    }
}

/// A path that means the same in every directory.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn unusable(name: &str, path: PathBuf, source: io::Error) -> RequestError {
    RequestError::Path { role: format!("local directory `{name}`"), path, source }
}

/// An archive that is read when the first build with it starts, and kept for the next.
#[derive(Clone)]
pub struct TarSource(Arc<Mutex<State>>);

enum State {
    Unread(Input),
    Open(Arc<Tar>),
    /// A stream that failed half way cannot be read again.
    Failed,
}

enum Input {
    File(PathBuf),
    Bytes(Bytes),
    Reader(Box<dyn Read + Send>),
}

impl TarSource {
    fn open(&self, name: &str) -> Result<Arc<dyn SourceFs>, RequestError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let broken =
            |source: crate::error::BoxError| RequestError::Attachment { what: "tar archive", source };
        let tar = match &mut *state {
            State::Open(tar) => return Ok(Arc::<Tar>::clone(tar)),
            State::Failed => return Err(broken("an earlier build has read the stream in part".into())),
            State::Unread(Input::File(path)) => {
                let file = File::open(&*path).map_err(|source| unusable(name, path.clone(), source))?;
                read_file(file).map_err(broken)?
            }
            State::Unread(Input::Bytes(bytes)) => match compression(bytes) {
                None => Tar::from_bytes(bytes.to_vec()).map_err(|error| broken(error.into()))?,
                Some(compression) => unpack(compression, io::Cursor::new(bytes.clone())).map_err(broken)?,
            },
            State::Unread(Input::Reader(_)) => {
                let State::Unread(Input::Reader(reader)) = std::mem::replace(&mut *state, State::Failed)
                else {
                    return Err(broken("the archive is gone".into()));
                };
                read_stream(reader).map_err(broken)?
            }
        };
        let tar = Arc::new(tar);
        *state = State::Open(Arc::clone(&tar));
        Ok(tar)
    }
}

fn read_file(mut file: File) -> Result<Tar, crate::error::BoxError> {
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start)?;
    match (compression(&start), file.rewind()) {
        (None, Ok(())) => Ok(Tar::from_file(file)?),
        (Some(compression), Ok(())) => unpack(compression, file),
        // A pipe.
        (_, Err(_)) => read_stream(Box::new(io::Cursor::new(start).chain(file))),
    }
}

fn read_stream(mut reader: Box<dyn Read + Send>) -> Result<Tar, crate::error::BoxError> {
    let mut start = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut start)?;
    let found = compression(&start);
    let whole = io::Cursor::new(start).chain(reader);
    match found {
        None => Ok(Tar::from_reader(whole)?),
        Some(compression) => unpack(compression, whole),
    }
}

/// How an archive is compressed, by its first bytes.
fn compression(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzip"),
        (b"BZh", "bzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    ];
    kinds.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| name)
}

fn unpack(compression: &str, archive: impl Read) -> Result<Tar, crate::error::BoxError> {
    if compression == "gzip" {
        return Ok(Tar::from_reader(flate2::read::MultiGzDecoder::new(archive))?);
    }
    Err(format!("it is compressed with {compression}; an upload is unpacked by the daemon").into())
}

impl fmt::Debug for TarSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TarSource")
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => f.debug_tuple("Dir").field(path).finish(),
            Self::Tree(_) => f.write_str("Tree"),
            Self::Tar(_) => f.write_str("Tar"),
        }
    }
}

macro_rules! from_path {
    ($($path:ty),*) => {$(
        impl From<$path> for Local {
            fn from(path: $path) -> Self {
                Self::Dir(path.into())
            }
        }
    )*};
}

from_path!(&str, String, &Path, PathBuf, &PathBuf);

impl From<Arc<dyn SourceFs>> for Local {
    fn from(tree: Arc<dyn SourceFs>) -> Self {
        Self::Tree(tree)
    }
}

impl From<MemoryTree> for Local {
    fn from(tree: MemoryTree) -> Self {
        Self::tree(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn archive() -> Vec<u8> {
        let mut header = [0_u8; 512];
        header[0] = b'f';
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000000002");
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].fill(b' ');
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut archive = header.to_vec();
        archive.extend(b"hi");
        archive.resize(512 * 4, 0);
        archive
    }

    fn content(local: Local) -> Result<Vec<u8>, RequestError> {
        let tree = local.open("context")?;
        let mut file = tree.open(b"f").unwrap();
        let mut content = vec![0; 10];
        let count = file.read(&mut content).unwrap();
        content.truncate(count);
        Ok(content)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn archives_are_read_from_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("plain", archive()), ("packed", gzip(&archive()))] {
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(content(Local::tar_file(&path)).unwrap(), b"hi", "{name}");
            assert_eq!(content(Local::tar_bytes(bytes.clone())).unwrap(), b"hi", "{name}");
            let stream = Local::tar_reader(io::Cursor::new(bytes));
            assert_eq!(content(stream.clone()).unwrap(), b"hi", "{name}");
            assert_eq!(content(stream).unwrap(), b"hi", "{name}, again");
        }
    }

    #[test]
    fn what_is_no_archive_is_told_as_such() {
        let error = |local: Local| match local.open("context") {
            Err(error) => crate::error::report(&error),
            Ok(_) => panic!("opened"),
        };
        assert!(error(Local::tar_bytes(&b"FROM scratch"[..])).contains("cannot attach the tar archive"));
        assert!(error(Local::tar_bytes(&[0x28, 0xb5, 0x2f, 0xfd, 0][..])).contains("zstd"));
        assert!(error(Local::tar_file("/no/such.tar")).contains("/no/such.tar"));
    }
}
