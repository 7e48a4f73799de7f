//! The content stores of a build: opened before it, entered into their indexes after it.

use crate::cache::CacheImport;
use crate::content::{ContentStore, Digest, OciLayout, OciStore, blocking, index};
use crate::error::{LocalError, RequestError};
use crate::export::Target;
use crate::output::check_dir;
use crate::request::Request;
use crate::session;
use crate::session::content::{Store, Stores};
use crate::session::member::EXPORT_STORE;
use crate::solve::Descriptor;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::io::AsyncReadExt as _;

/// Larger manifests are not looked into.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// The stores of one run of a build.
pub(super) struct Opened {
    pub(super) stores: Stores,
    /// The caches to read that are there.
    pub(super) cache_from: Vec<CacheImport>,
    /// Options of the frontend that name an image by tag, with its digest.
    pub(super) options: BTreeMap<String, String>,
    /// Caches that are not there, for the user to see.
    pub(super) missing: Vec<String>,
    started: SystemTime,
}

/// Checks the directories and looks up what is in them.
///
/// `layouts` are those of a shared session, which options of the frontend may name as well.
pub(super) async fn open(
    request: &Request,
    layouts: &BTreeMap<String, OciStore>,
) -> Result<Opened, RequestError> {
    let mut stores = BTreeMap::new();
    let mut opened = Opened {
        stores: Stores::default(),
        cache_from: Vec::new(),
        options: BTreeMap::new(),
        missing: Vec::new(),
        started: SystemTime::now(),
    };
    for (id, store) in &request.oci_layouts {
        let (id, store) = session::content::layout(id, store).await?;
        stores.insert(id, store);
    }
    opened.options = named_images(request, layouts).await?;
    for cache in &request.cache_from {
        let mut cache = cache.clone();
        if let Some(dir) = cache.0.dir.clone() {
            let layout = OciLayout::new(&dir);
            match find_cache(&layout, &cache).await {
                Ok(digest) => cache.0.attrs.insert("digest".into(), digest),
                Err(reason) => {
                    let text = format!("local cache {} is not there: {reason}", dir.display());
                    tracing::warn!("{text}");
                    opened.missing.push(text);
                    continue;
                }
            };
            let name = format!("cache {}", dir.display());
            let id = cache_id(&cache.0.attrs, "src");
            stores.insert(id, Store::read_only(name, OciStore::Dir(dir)));
        }
        opened.cache_from.push(cache);
    }
    for cache in &request.cache_to {
        if let Some(dir) = &cache.0.dir {
            writable(dir.clone(), "local cache").await?;
            let name = format!("cache {}", dir.display());
            let store = Store::writable(name, OciStore::Dir(dir.clone()));
            stores.insert(cache_id(&cache.0.attrs, "dest"), store);
        }
    }
    for export in &request.exports {
        if let Target::Store(store) = &export.target {
            if let OciStore::Dir(dir) = store {
                writable(dir.clone(), "output of the exporter").await?;
            }
            stores.insert(EXPORT_STORE.into(), Store::writable(name_of(store), store.clone()));
        }
    }
    opened.stores = Stores::new(stores);
    Ok(opened)
}

fn name_of(store: &OciStore) -> String {
    match store {
        OciStore::Dir(dir) => format!("OCI layout {}", dir.display()),
        OciStore::Store(_) => "content store of the export".into(),
    }
}

fn cache_id(attrs: &BTreeMap<String, String>, key: &str) -> String {
    format!("local:{}", attrs.get(key).map(String::as_str).unwrap_or_default())
}

async fn writable(dir: PathBuf, role: &str) -> Result<(), RequestError> {
    let path = dir.clone();
    blocking(move || check_dir(&dir)).await.map_err(|source| RequestError::Path {
        role: role.to_owned(),
        path,
        source,
    })
}

/// The digest of a local cache that is there, blob and all.
async fn find_cache(layout: &OciLayout, cache: &CacheImport) -> Result<String, String> {
    let digest = if let Some(digest) = cache.0.attrs.get("digest") {
        digest.clone()
    } else {
        let tag = cache.0.attrs.get("tag").map_or(index::DEFAULT_TAG, String::as_str);
        let found = layout.find(tag).await.map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("it has no tag {tag:?}"))?.digest
    };
    let parsed = Digest::parse(&digest).ok_or_else(|| format!("{digest:?} is no digest"))?;
    match layout.info(&parsed).await {
        Ok(Some(_)) => Ok(digest),
        Ok(None) => Err(format!("it lacks {digest}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Adds the digest to named contexts that are given by the tag of an image in a layout.
async fn named_images(
    request: &Request,
    layouts: &BTreeMap<String, OciStore>,
) -> Result<BTreeMap<String, String>, RequestError> {
    use crate::request::Input;
    let (Input::Frontend(frontend) | Input::Gateway(frontend)) = &request.input else {
        return Ok(BTreeMap::new());
    };
    let mut resolved = BTreeMap::new();
    for (key, value) in &frontend.opts {
        let named = key == "context" || key.starts_with("context:");
        let Some(reference) = value.strip_prefix("oci-layout://").filter(|_| named) else {
            continue;
        };
        if reference.contains('@') {
            continue;
        }
        let (id, tag) = match reference.split_once(':') {
            Some((id, tag)) => (id, Some(tag)),
            None => (reference, None),
        };
        let found = request.oci_layouts.get(id).or_else(|| layouts.get(id));
        let Some(OciStore::Dir(dir)) = found else { continue };
        let failed =
            |source| RequestError::Path { role: format!("{key}={value}"), path: dir.clone(), source };
        let found = if let Some(tag) = tag {
            OciLayout::new(dir).find(tag).await
        } else {
            let dir = dir.clone();
            blocking(move || index::only(&dir)).await
        };
        let missing = || {
            let reason = format!("its index.json has no image tagged {:?}", tag.unwrap_or_default());
            io::Error::new(io::ErrorKind::NotFound, reason)
        };
        let image = found.and_then(|found| found.ok_or_else(missing)).map_err(failed)?;
        resolved.insert(key.clone(), format!("oci-layout://{reference}@{}", image.digest));
    }
    Ok(resolved)
}

impl Opened {
    /// The build has succeeded: what was written is entered into the indexes, and what is left over
    /// of earlier caches goes where that was asked for.
    pub(super) async fn commit(
        &self,
        request: &Request,
        response: &BTreeMap<String, String>,
    ) -> Result<(), LocalError> {
        for cache in &request.cache_to {
            let Some(dir) = &cache.0.dir else { continue };
            let told = Descriptor::of_cache(response);
            let Some(manifest) = self.root(&cache_id(&cache.0.attrs, "dest"), told).await else {
                // An export whose errors are ignored may have written nothing.
                tracing::warn!(dir = %dir.display(), "the daemon has written no cache");
                continue;
            };
            let tag = cache.0.attrs.get("tag").map_or(index::DEFAULT_TAG, String::as_str).to_owned();
            enter(dir, manifest, index::Names::Tag(tag)).await?;
            if cache.0.attrs.get("reset").is_some_and(|reset| reset == "true") {
                let (path, since) = (dir.clone(), self.started);
                match blocking(move || index::sweep(&path, since)).await {
                    Ok(gone) => {
                        tracing::debug!(dir = %dir.display(), gone, "deleted blobs of earlier caches");
                    }
                    Err(error) => tracing::warn!(dir = %dir.display(), %error, "earlier caches are left"),
                }
            }
        }
        for (number, export) in request.exports.iter().enumerate() {
            let Target::Store(store) = &export.target else { continue };
            let Some(image) = self.root(EXPORT_STORE, Descriptor::of_image(response)).await else {
                let what =
                    format!("cannot write export {number} ({}) to the {}", export.kind, name_of(store));
                return Err(LocalError::new(what, "the daemon reported success but never sent its data"));
            };
            if let OciStore::Dir(dir) = store {
                enter(dir, image, names(export.attrs.get("name"), response.get("image.name"))).await?;
            }
        }
        Ok(())
    }

    /// The manifest that everything in a store hangs on: the one that the daemon tells, where it is
    /// there. The answers of several exporters are in one map, so that it may be that of another one;
    /// then it is the last manifest that came, since they come last.
    async fn root(&self, id: &str, told: Option<Descriptor>) -> Option<Descriptor> {
        let store = self.stores.get(id)?;
        if let Some(told) = told
            && let Some(digest) = Digest::parse(&told.digest)
            && matches!(store.content().info(&digest).await, Ok(Some(_)))
        {
            return Some(told);
        }
        for digest in store.received().iter().rev() {
            if let Some(found) = manifest(store.content(), digest).await {
                return Some(found);
            }
        }
        None
    }
}

/// The descriptor of a blob that is a manifest or an index.
async fn manifest(content: &dyn ContentStore, digest: &Digest) -> Option<Descriptor> {
    let size = content.info(digest).await.ok()??.size;
    if size > MAX_MANIFEST {
        return None;
    }
    let mut json = Vec::new();
    content.read(digest, 0).await.ok()?.take(MAX_MANIFEST).read_to_end(&mut json).await.ok()?;
    let value: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let media_type = value.get("mediaType")?.as_str()?;
    index::is_manifest(media_type).then(|| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size,
        ..Descriptor::default()
    })
}

async fn enter(dir: &Path, image: Descriptor, names: index::Names) -> Result<(), LocalError> {
    let path = dir.to_owned();
    blocking(move || index::put(&path, &image, &names))
        .await
        .map_err(|error| LocalError::new(format!("cannot update the index of {}", dir.display()), error))
}

/// Names as the daemon spells them out, where they are those of this exporter.
fn names(asked: Option<&String>, told: Option<&String>) -> index::Names {
    let split = |names: &str| -> Vec<String> {
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let asked = asked.map(|names| split(names)).unwrap_or_default();
    let told = told.map(|names| split(names)).unwrap_or_default();
    if asked.is_empty() {
        index::Names::Tag(index::DEFAULT_TAG.into())
    } else if asked == ["*"]
        || (told.len() == asked.len() && asked.iter().zip(&told).all(|(a, t)| t.contains(a.as_str())))
    {
        if told.is_empty() { index::Names::Tag(index::DEFAULT_TAG.into()) } else { index::Names::Full(told) }
    } else {
        index::Names::Full(asked)
    }
}
