//! Content stores on this side: OCI layouts that a build reads, and those that it fills.
//!
//! Blobs are named by their digest. What a daemon writes is checked against it before it gets its
//! name, and a store that was given as a source is never written to.

pub(crate) mod index;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncSeekExt as _, AsyncWriteExt as _};

/// Blobs by digest.
///
/// [`OciLayout`] is the one that is usually meant; implement this to keep blobs elsewhere.
#[async_trait]
pub trait ContentStore: fmt::Debug + Send + Sync + 'static {
    /// Size and age of a blob; `None` when it is not there.
    async fn info(&self, digest: &Digest) -> io::Result<Option<BlobInfo>>;

    /// The bytes of a blob from an offset on. `NotFound` when it is not there.
    async fn read(&self, digest: &Digest, offset: u64) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;

    /// Starts a new blob. A store that is only read need not implement it.
    async fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// A blob that is being written. Dropped before it is kept, it leaves nothing behind.
#[async_trait]
pub trait NewBlob: Send {
    /// Appends all of `data`.
    async fn write(&mut self, data: &[u8]) -> io::Result<()>;

    /// Keeps the blob for good, under the digest that its bytes were found to have.
    async fn keep(self: Box<Self>, digest: &Digest) -> io::Result<()>;
}

/// What a store knows of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Bytes.
    pub size: u64,
    /// When it was written, where that is known.
    pub written: Option<SystemTime>,
}

/// A digest that is well formed: `sha256:` or `sha512:` and lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// Reads a digest; `None` for anything else, such as a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return None,
        };
        let digits = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (hex.len() == length && digits).then(|| Self(text.to_owned()))
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the algorithm and digits.
    fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or_default()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes the digest of bytes as they pass.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// The kind that `expected` has; SHA-256 where nothing is expected.
    pub(crate) fn for_digest(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::parts) {
            Some(("sha512", _)) => Self::Sha512(Sha512::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(data),
            Self::Sha512(hash) => hash.update(data),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        let (name, bytes) = match self {
            Self::Sha256(hash) => ("sha256", hash.clone().finalize().to_vec()),
            Self::Sha512(hash) => ("sha512", hash.clone().finalize().to_vec()),
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest(format!("{name}:{hex}"))
    }
}

/// Where an OCI layout is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OciStore {
    /// A directory with `index.json` and `blobs/`.
    Dir(PathBuf),
    /// Somewhere else. There is no `index.json`, so images in it are named by digest.
    Store(Arc<dyn ContentStore>),
}

impl<P: AsRef<Path>> From<P> for OciStore {
    fn from(path: P) -> Self {
        Self::Dir(path.as_ref().to_owned())
    }
}

/// An OCI image layout in a directory.
///
/// ```no_run
/// # async fn f() -> std::io::Result<()> {
/// use buildkit_client::content::OciLayout;
/// let layout = OciLayout::new("images/base");
/// let image = layout.find("latest").await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct OciLayout {
    dir: PathBuf,
}

impl OciLayout {
    /// The layout in a directory. Nothing is read or made until it is used.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks up an image by tag or full name in `index.json`. `None` when there is no such entry.
    pub async fn find(&self, tag: &str) -> io::Result<Option<crate::Descriptor>> {
        let (dir, tag) = (self.dir.clone(), tag.to_owned());
        blocking(move || index::find(&dir, &tag)).await
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = digest.parts();
        self.dir.join("blobs").join(algorithm).join(hex)
    }
}

/// Runs something that waits for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::Error::other("a worker has panicked")))
}

#[async_trait]
impl ContentStore for OciLayout {
    async fn info(&self, digest: &Digest) -> io::Result<Option<BlobInfo>> {
        match tokio::fs::metadata(self.blob(digest)).await {
            Ok(found) if found.is_file() => {
                Ok(Some(BlobInfo { size: found.len(), written: found.modified().ok() }))
            }
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self, digest: &Digest, offset: u64) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let mut file = tokio::fs::File::open(self.blob(digest)).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(Box::new(file))
    }

    async fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        let ingest = self.dir.join("ingest");
        let path = ingest.join(crate::request::new_id());
        let mut attempts = 0..10;
        let file = loop {
            tokio::fs::create_dir_all(&ingest).await?;
            match tokio::fs::OpenOptions::new().write(true).create_new(true).open(&path).await {
                // Another blob was the last in the directory, and took it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
                opened => break opened?,
            }
        };
        Ok(Box::new(LayoutBlob { file, temporary: Temporary(path), layout: self.clone() }))
    }
}

struct LayoutBlob {
    file: tokio::fs::File,
    temporary: Temporary,
    layout: OciLayout,
}

/// Removed when dropped; a file that was given another name is not found any more.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        if let Some(ingest) = self.0.parent() {
            // Goes only when it is empty.
            let _ = std::fs::remove_dir(ingest);
        }
    }
}

#[async_trait]
impl NewBlob for LayoutBlob {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data).await
    }

    async fn keep(mut self: Box<Self>, digest: &Digest) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let path = self.layout.blob(digest);
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        tokio::fs::rename(&self.temporary.0, &path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn only_digests_are_digests() {
        let hex = "a".repeat(64);
        assert!(Digest::parse(&format!("sha256:{hex}")).is_some());
        assert!(Digest::parse(&format!("sha512:{hex}{hex}")).is_some());
        for wrong in ["", "sha256:", "sha256:../../etc/passwd", &hex, &format!("md5:{hex}")] {
            assert!(Digest::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Digest::parse(&format!("sha256:{}", "A".repeat(64))).is_none());
    }

    #[tokio::test]
    async fn a_blob_is_there_once_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = OciLayout::new(dir.path().join("new/layout"));
        let mut hash = Hasher::for_digest(None);
        hash.update(b"hello");
        let digest = hash.digest();
        assert_eq!(
            digest.as_str(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );

        let mut torn = layout.create().await.unwrap();
        torn.write(b"torn").await.unwrap();
        drop(torn);
        assert!(!layout.dir().join("ingest").exists());
        assert_eq!(layout.info(&digest).await.unwrap(), None);

        let mut blob = layout.create().await.unwrap();
        blob.write(b"hel").await.unwrap();
        blob.write(b"lo").await.unwrap();
        blob.keep(&digest).await.unwrap();
        assert_eq!(layout.info(&digest).await.unwrap().unwrap().size, 5);
        assert!(!layout.dir().join("ingest").exists());
        let mut rest = String::new();
        layout.read(&digest, 3).await.unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "lo");
    }
}
