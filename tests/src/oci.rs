//! Images as a reader sees them: layouts in archives and directories, checked byte for byte.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

/// An OCI image layout, every blob of which has the digest that it is named by.
#[derive(Debug)]
pub struct Layout {
    files: BTreeMap<String, Vec<u8>>,
}

/// A file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Its path, without `./` and without a slash at the end.
    pub path: String,
    /// Its kind.
    pub kind: tar::EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u64,
    /// Target of a link.
    pub link: Option<String>,
    /// Content.
    pub data: Vec<u8>,
}

impl Layout {
    /// Reads an archive.
    ///
    /// # Panics
    /// When it is no layout, or a blob has not the digest in its name.
    pub fn from_tar(archive: &[u8]) -> Self {
        let files = entries(archive).into_iter().filter(|entry| entry.kind.is_file());
        Self::check(files.map(|entry| (entry.path, entry.data)).collect())
    }

    /// Reads a directory.
    ///
    /// # Panics
    /// As [`Layout::from_tar`].
    pub fn from_dir(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut open = vec![dir.to_owned()];
        while let Some(at) = open.pop() {
            for entry in std::fs::read_dir(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display())) {
                let path = entry.unwrap_or_else(|e| panic!("{}: {e}", at.display())).path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(dir).map(|name| name.to_string_lossy().into_owned());
                    let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                    files.insert(name.unwrap_or_default(), data);
                }
            }
        }
        Self::check(files)
    }

    fn check(files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut blobs = 0;
        for (name, data) in &files {
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                let found = buildkit_llb::Digest::of(data).to_string();
                assert_eq!(found, format!("sha256:{hex}"), "a blob has not the digest of its name");
                blobs += 1;
            }
        }
        assert!(blobs > 0, "no blobs: {:?}", files.keys());
        let layout = Self { files };
        assert_eq!(layout.json("oci-layout")["imageLayoutVersion"], "1.0.0");
        layout
    }

    /// Names of the files.
    pub fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    /// A file as JSON.
    ///
    /// # Panics
    /// When there is none, or it is no JSON.
    pub fn json(&self, name: &str) -> Value {
        let data = self.files.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.files.keys()));
        serde_json::from_slice(data).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A blob.
    ///
    /// # Panics
    /// When it is not there, or its size is not the one that the descriptor tells.
    pub fn blob(&self, descriptor: &Value) -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let name = format!("blobs/{}", digest.replacen(':', "/", 1));
        let data = self.files.get(&name).unwrap_or_else(|| panic!("no blob {digest}"));
        assert_eq!(descriptor["size"], data.len(), "{digest}");
        data
    }

    /// A blob as JSON.
    ///
    /// # Panics
    /// As [`Layout::blob`].
    pub fn blob_json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(self.blob(descriptor)).unwrap_or_else(|e| panic!("{descriptor}: {e}"))
    }

    /// The only entry of the index.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub fn only(&self) -> Value {
        let index = self.json("index.json");
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        assert_eq!(entries.len(), 1, "{index}");
        entries.into_iter().next().unwrap_or_default()
    }

    /// The files of a manifest's layers, lowest first; gzip or no compression.
    pub fn layers(&self, manifest: &Value) -> Vec<Vec<TarEntry>> {
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        layers.iter().map(|layer| unpacked(self.blob(layer))).collect()
    }
}

/// The files of an archive, unpacked first where it is compressed with gzip.
///
/// # Panics
/// When it is no archive.
pub fn unpacked(data: &[u8]) -> Vec<TarEntry> {
    if data.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let read = flate2::read::MultiGzDecoder::new(data).read_to_end(&mut plain);
        read.unwrap_or_else(|e| panic!("gzip: {e}"));
        return entries(&plain);
    }
    entries(data)
}

/// The files of an archive, in order.
///
/// # Panics
/// When it is no archive.
pub fn entries(archive: &[u8]) -> Vec<TarEntry> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap_or_else(|e| panic!("tar: {e}"));
    entries
        .map(|entry| {
            let mut entry = entry.unwrap_or_else(|e| panic!("tar: {e}"));
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let header = entry.header();
            let (kind, mode, mtime) =
                (header.entry_type(), header.mode().unwrap_or(0), header.mtime().unwrap_or(0));
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap_or_else(|e| panic!("tar: {e}"));
            let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
            TarEntry { path, kind, mode: mode & 0o7777, mtime, link, data }
        })
        .collect()
}

/// Writes an archive of files; a path that ends in `/` is a directory, content `-> x` a link.
///
/// # Panics
/// When a path is too long.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_600_000_000);
        header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
        let added = if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        } else {
            let directory = path.ends_with('/');
            header.set_entry_type(if directory {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_bytes())
        };
        added.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    archive.into_inner().unwrap_or_else(|e| panic!("{e}"))
}
