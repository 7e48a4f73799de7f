//! `index.json` of an OCI layout: which images are in it, and under which names.

use super::Digest;
use crate::Descriptor;
use rustix::fs::FlockOperation;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Larger index files and manifests are refused.
const MAX_JSON: u64 = 32 * 1024 * 1024;
/// How long another writer of the same layout is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Tag of an entry that was given no other.
pub(crate) const DEFAULT_TAG: &str = "latest";

/// Finds an entry by tag or name: full names first, then tags.
pub(crate) fn find(dir: &Path, tag: &str) -> io::Result<Option<Descriptor>> {
    let Some(index) = read_index(dir)? else { return Ok(None) };
    let entries = index.get("manifests").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = |key: &str| entries.iter().find(|entry| annotation(entry, key) == Some(tag));
    let Some(entry) = named(IMAGE_NAME).or_else(|| named(REF_NAME)) else { return Ok(None) };
    serde_json::from_value(entry.clone()).map(Some).map_err(|error| invalid(&error.to_string()))
}

/// The one image of a layout that holds no other.
pub(crate) fn only(dir: &Path) -> io::Result<Option<Descriptor>> {
    let Some(index) = read_index(dir)? else { return Ok(None) };
    match index.get("manifests").and_then(Value::as_array).map(Vec::as_slice) {
        Some([entry]) => {
            serde_json::from_value(entry.clone()).map(Some).map_err(|error| invalid(&error.to_string()))
        }
        _ => Ok(None),
    }
}

/// Enters an image under a tag, or under full names, in place of what had them.
pub(crate) fn put(dir: &Path, image: &Descriptor, names: &Names) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let _lock = Lock::take(dir)?;
    let layout = dir.join("oci-layout");
    if !layout.exists() {
        replace(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    }
    let mut index = read_index(dir)?.unwrap_or_default();
    index.insert("schemaVersion".into(), json!(2));
    index.entry("mediaType").or_insert_with(|| json!(INDEX_TYPE));
    let entries = index.entry("manifests").or_insert_with(|| json!([]));
    let Some(entries) = entries.as_array_mut() else { return Err(invalid("`manifests` is no list")) };
    for (name, tag) in names.pairs() {
        entries.retain(|entry| {
            (annotation(entry, IMAGE_NAME), annotation(entry, REF_NAME))
                != (name.as_deref(), Some(tag.as_str()))
        });
        let mut image = image.clone();
        image.annotations.insert(REF_NAME.into(), tag);
        if let Some(name) = name {
            image.annotations.insert(IMAGE_NAME.into(), name);
        }
        entries.push(serde_json::to_value(image).map_err(|error| invalid(&error.to_string()))?);
    }
    let mut json = serde_json::to_vec(&index).map_err(|error| invalid(&error.to_string()))?;
    json.push(b'\n');
    replace(&dir.join("index.json"), &json)
}

/// What an entry is called.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    Tag(String),
    /// Full names, `HOST/REPOSITORY:TAG`.
    Full(Vec<String>),
}

impl Names {
    fn pairs(&self) -> Vec<(Option<String>, String)> {
        match self {
            Self::Tag(tag) => vec![(None, tag.clone())],
            Self::Full(names) => {
                names.iter().map(|name| (Some(name.clone()), tag_of(name).to_owned())).collect()
            }
        }
    }
}

/// The tag of a full name, or its digest.
fn tag_of(name: &str) -> &str {
    if let Some((_, digest)) = name.split_once('@') {
        return digest;
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or(DEFAULT_TAG, |(_, tag)| tag)
}

/// Deletes blobs that no entry of the index reaches and that were there before `since`: younger ones
/// may belong to another build that is under way. Nothing is deleted when a manifest cannot be read.
/// Returns how many went.
pub(crate) fn sweep(dir: &Path, since: SystemTime) -> io::Result<usize> {
    let _lock = Lock::take(dir)?;
    let index = read_index(dir)?.ok_or(io::ErrorKind::NotFound)?;
    let mut reached = BTreeSet::new();
    let mut open = descriptors(&Value::Object(index));
    while let Some((digest, is_manifest)) = open.pop() {
        if !reached.insert(digest.clone()) || !is_manifest {
            continue;
        }
        let manifest = read_json(&blob(dir, &digest))?.ok_or_else(|| invalid("a manifest is missing"))?;
        open.extend(descriptors(&manifest));
    }
    let mut gone = 0;
    for algorithm in ["sha256", "sha512"] {
        let Ok(found) = std::fs::read_dir(dir.join("blobs").join(algorithm)) else { continue };
        for entry in found {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| Digest::parse(&format!("{algorithm}:{hex}")));
            let Some(digest) = digest.filter(|digest| !reached.contains(digest)) else { continue };
            let metadata = entry.metadata()?;
            if metadata.is_file() && metadata.modified().is_ok_and(|written| written < since) {
                std::fs::remove_file(blob(dir, &digest))?;
                gone += 1;
            }
        }
    }
    Ok(gone)
}

fn blob(dir: &Path, digest: &Digest) -> PathBuf {
    let (algorithm, hex) = digest.parts();
    dir.join("blobs").join(algorithm).join(hex)
}

/// What a manifest or an index points to, and whether that is a manifest or an index in turn.
fn descriptors(manifest: &Value) -> Vec<(Digest, bool)> {
    let list = |key: &str| manifest.get(key).and_then(Value::as_array).into_iter().flatten();
    let single = ["config", "subject"].into_iter().filter_map(|key| manifest.get(key));
    list("manifests")
        .chain(list("layers"))
        .chain(single)
        .filter_map(|descriptor| {
            let digest = Digest::parse(descriptor.get("digest")?.as_str()?)?;
            Some((
                digest,
                is_manifest(descriptor.get("mediaType").and_then(Value::as_str).unwrap_or_default()),
            ))
        })
        .collect()
}

/// Whether a media type is that of a manifest or an index.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        INDEX_TYPE
            | "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

fn annotation<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get("annotations")?.get(key)?.as_str()
}

fn read_index(dir: &Path) -> io::Result<Option<Map<String, Value>>> {
    match read_json(&dir.join("index.json"))? {
        None => Ok(None),
        Some(Value::Object(index)) => Ok(Some(index)),
        Some(_) => Err(invalid("index.json is no object")),
    }
}

/// `None` when there is no such file.
fn read_json(path: &Path) -> io::Result<Option<Value>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut json = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut json)?;
    if json.len() as u64 > MAX_JSON {
        return Err(invalid("too large"));
    }
    serde_json::from_slice(&json).map(Some).map_err(|error| invalid(&format!("{}: {error}", path.display())))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Gives a file new content at once.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp.{}", crate::request::new_id()));
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&temporary, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Keeps other writers of the layout away, ours and those of the reference client.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(dir: &Path) -> io::Result<Self> {
        let path = dir.join("index.json.lock");
        let started = Instant::now();
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The one who had it may have removed the file meanwhile.
                Ok(())
                    if std::fs::metadata(&path).is_ok_and(|now| {
                        file.metadata().is_ok_and(|ours| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
                    }) =>
                {
                    return Ok(Self { path, _file: file });
                }
                Ok(()) | Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if started.elapsed() > LOCK_WAIT {
                let reason = format!("{} is held by another process", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: char) -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: format!("sha256:{}", digit.to_string().repeat(64)),
            size: 7,
            ..Descriptor::default()
        }
    }

    fn found(dir: &Path, tag: &str) -> Option<String> {
        find(dir, tag).unwrap().map(|image| image.digest)
    }

    #[test]
    fn entries_are_found_by_tag_and_by_name_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(find(dir, "latest").unwrap().is_none());
        put(dir, &image('a'), &Names::Tag("latest".into())).unwrap();
        put(dir, &image('b'), &Names::Full(vec!["r.org:5000/x:latest".into(), "r.org/y".into()])).unwrap();
        assert_eq!(found(dir, "latest"), Some(image('a').digest));
        assert_eq!(found(dir, "r.org:5000/x:latest"), Some(image('b').digest));
        put(dir, &image('c'), &Names::Tag("latest".into())).unwrap();
        assert_eq!(found(dir, "r.org/y"), Some(image('b').digest));
        let index = read_index(dir).unwrap().unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(index["mediaType"], INDEX_TYPE);
        let layout = std::fs::read_to_string(dir.join("oci-layout")).unwrap();
        assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
        assert!(!dir.join("index.json.lock").exists());
        assert_eq!(tag_of("r.org:5000/x"), "latest");
        assert_eq!(tag_of("r/x@sha256:ab"), "sha256:ab");
    }

    #[test]
    fn writers_of_one_index_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let dir = dir.path();
                scope.spawn(move || put(dir, &image('a'), &Names::Tag(format!("t{writer}"))).unwrap());
            }
        });
        let index = read_index(dir.path()).unwrap().unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn a_broken_index_is_an_error_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("index.json"), "{").unwrap();
        assert!(find(dir.path(), "latest").is_err());
        assert!(put(dir.path(), &image('a'), &Names::Tag("latest".into())).is_err());
        assert_eq!(std::fs::read(dir.path().join("index.json")).unwrap(), b"{");
    }

    #[test]
    fn a_sweep_takes_what_nothing_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        let digest = |digit: char| Digest::parse(&image(digit).digest).unwrap();
        let manifest = json!({
            "config": {"digest": digest('b').as_str()},
            "layers": [{"digest": digest('c').as_str()}],
        });
        std::fs::write(blob(dir, &digest('a')), manifest.to_string()).unwrap();
        for digit in ['b', 'c', 'd'] {
            std::fs::write(blob(dir, &digest(digit)), "x").unwrap();
        }
        std::fs::write(dir.join("blobs/sha256/README"), "kept").unwrap();
        put(dir, &image('a'), &Names::Tag("latest".into())).unwrap();
        assert_eq!(sweep(dir, SystemTime::UNIX_EPOCH).unwrap(), 0, "younger than the build");
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(sweep(dir, later).unwrap(), 1);
        let left = std::fs::read_dir(dir.join("blobs/sha256")).unwrap().count();
        assert_eq!(left, 4);

        std::fs::remove_file(blob(dir, &digest('a'))).unwrap();
        std::fs::write(blob(dir, &digest('e')), "x").unwrap();
        assert!(sweep(dir, later).is_err());
        assert!(blob(dir, &digest('e')).exists(), "nothing goes when not everything is known");
    }
}
