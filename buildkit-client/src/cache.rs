//! Caches that outlive the daemon.
//!
//! A cache that the daemon cannot read is left out with a warning in its log, never an error.

use crate::error::RequestError;
use crate::export::Compression;
use crate::redact;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A cache to write when the build is done.
#[derive(Clone)]
pub struct CacheExport(pub(crate) Entry);

/// A cache to read.
#[derive(Clone)]
pub struct CacheImport(pub(crate) Entry);

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) attrs: BTreeMap<String, String>,
    /// Directory on this side that the session serves.
    pub(crate) dir: Option<PathBuf>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(&self.kind).field("attrs", &redact::Attributes(&self.attrs)).finish_non_exhaustive()
    }
}

impl fmt::Debug for CacheExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CacheImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Entry {
    fn new(kind: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: kind.into(), attrs: BTreeMap::new(), dir: None }
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.attrs.insert(key.to_owned(), value.into());
    }

    fn require(&self, key: &str, what: &'static str) -> Result<(), RequestError> {
        match self.attrs.get(key).filter(|value| !value.is_empty()) {
            Some(_) => Ok(()),
            None => Err(RequestError::option(what, format!("{} cache requires {key}", self.kind))),
        }
    }

    pub(crate) fn validate(&self, what: &'static str) -> Result<(), RequestError> {
        match &*self.kind {
            "" => Err(RequestError::option(what, "the kind of the cache is missing")),
            "registry" => self.require("ref", what),
            "local" if self.dir.is_none() => Err(RequestError::option(
                what,
                "a local cache needs a directory on this side: use LocalCache",
            )),
            "local" => self.require(if what == "cache_to" { "dest" } else { "src" }, what),
            _ => Ok(()),
        }
    }
}

/// Defines the builder of one kind of cache, with what all kinds have in common.
macro_rules! cache {
    ($(#[$doc:meta])* $name:ident, $kind:literal, { $($body:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        #[must_use = "give it to a build with .cache_to(…) or .cache_from(…)"]
        pub struct $name(Entry);

        impl $name {
            $($body)*

            /// Sets an attribute that has no method here.
            pub fn attr(mut self, key: &str, value: impl Into<String>) -> Self {
                self.0.set(key, value);
                self
            }
        }

        impl From<$name> for CacheExport {
            fn from(cache: $name) -> Self {
                Self(cache.0)
            }
        }
    };
}

/// What all caches that hold layers have in common when written.
macro_rules! export_options {
    ($name:ident) => {
        impl $name {
            /// Keeps the layers of all steps, not only those of the result.
            pub fn max(self) -> Self {
                self.attr("mode", "max")
            }

            /// The build succeeds even when this cache cannot be written.
            pub fn ignore_error(self) -> Self {
                self.attr("ignore-error", "true")
            }

            /// Compression of the layers.
            pub fn compression(self, compression: Compression) -> Self {
                self.attr("compression", compression.name())
            }

            /// Level of the compression: 0 to 9, for zstd 0 to 22.
            pub fn compression_level(self, level: u8) -> Self {
                self.attr("compression-level", level.to_string())
            }

            /// Compresses layers that have another compression anew.
            pub fn force_compression(self) -> Self {
                self.attr("force-compression", "true")
            }
        }
    };
}

macro_rules! import {
    ($name:ident) => {
        impl From<$name> for CacheImport {
            fn from(cache: $name) -> Self {
                Self(cache.0)
            }
        }
    };
}

cache! {
    /// A cache in a registry, beside or instead of the image.
    RegistryCache, "registry", {
        /// The reference that holds the cache.
        pub fn new(reference: impl Into<String>) -> Self {
            Self(Entry::new("registry")).attr("ref", reference)
        }

        /// For registries that refuse the default media types (Amazon ECR, Google, Harbor, Quay and
        /// others): the cache becomes an image manifest with OCI types. Newer daemons do this anyway.
        pub fn portable(self) -> Self {
            self.image_manifest(true).oci_media_types(true)
        }

        /// Whether the cache is stored as an image manifest (`true`) or an index of layers.
        pub fn image_manifest(self, on: bool) -> Self {
            self.attr("image-manifest", on.to_string())
        }

        /// Whether OCI media types are used. Docker's work with an index only.
        pub fn oci_media_types(self, on: bool) -> Self {
            self.attr("oci-mediatypes", on.to_string())
        }

        /// The registry speaks plain HTTP, or its certificate is not checked.
        pub fn insecure(self) -> Self {
            self.attr("registry.insecure", "true")
        }
    }
}
export_options!(RegistryCache);
import!(RegistryCache);

cache! {
    /// A cache in a directory on this side, as an OCI layout.
    LocalCache, "local", {
        /// The directory.
        pub fn new(dir: impl AsRef<Path>) -> Self {
            let dir = dir.as_ref();
            let text = store_name(dir);
            let mut entry = Entry::new("local");
            entry.set("dest", text.clone());
            entry.set("src", text);
            entry.dir = Some(dir.to_owned());
            Self(entry)
        }

        /// Tag in the layout; `latest` unless set.
        pub fn tag(self, tag: impl Into<String>) -> Self {
            self.attr("tag", tag)
        }

        /// Reads the cache of this digest instead of a tag.
        pub fn digest(self, digest: impl Into<String>) -> Self {
            self.attr("digest", digest)
        }

        /// Deletes blobs that no cache in the directory needs any more, when this one was written.
        pub fn reset(self) -> Self {
            self.attr("reset", "true")
        }

        /// Whether the cache is stored as an image manifest (`true`) or an index of layers.
        pub fn image_manifest(self, on: bool) -> Self {
            self.attr("image-manifest", on.to_string())
        }
    }
}
export_options!(LocalCache);
import!(LocalCache);

cache! {
    /// A cache inside the image that is exported. To read it, use [`RegistryCache`] with the
    /// image's reference.
    InlineCache, "inline", {
        /// The only kind there is.
        pub fn new() -> Self {
            Self(Entry::new("inline"))
        }
    }
}

impl Default for InlineCache {
    fn default() -> Self {
        Self::new()
    }
}

cache! {
    /// The cache service of GitHub Actions.
    GhaCache, "gha", {
        /// Where the service is and what opens it is taken from the job's environment
        /// (`ACTIONS_RESULTS_URL`, `ACTIONS_CACHE_URL`, `ACTIONS_RUNTIME_TOKEN`,
        /// `ACTIONS_CACHE_SERVICE_V2`). The workflow must expose them to the process.
        pub fn from_env() -> Self {
            Self::from_vars(|name| std::env::var(name).ok())
        }

        fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
            let var = |name: &str| var(name).filter(|value| !value.is_empty());
            let mut entry = Entry::new("gha");
            let v2 = var("ACTIONS_CACHE_SERVICE_V2").is_some_and(|value| truthy(&value));
            if v2 {
                entry.set("version", "2");
            }
            if let Some(url) = var("ACTIONS_RESULTS_URL") {
                entry.set("url_v2", url);
            }
            if let Some(url) = var("ACTIONS_CACHE_URL") {
                entry.set("url", url);
            }
            if let Some(token) = var("ACTIONS_RUNTIME_TOKEN") {
                entry.set("token", token);
            }
            Self(entry)
        }

        /// Name that keeps caches apart; `buildkit` unless set.
        pub fn scope(self, scope: impl Into<String>) -> Self {
            self.attr("scope", scope)
        }

        /// A token for GitHub's API, which shows what is already cached, and the repository.
        pub fn api_token(self, token: impl Into<String>, repository: impl Into<String>) -> Self {
            self.attr("ghtoken", token).attr("repository", repository)
        }

        /// Bound on the transfer, such as `10m`.
        pub fn timeout(self, timeout: impl Into<String>) -> Self {
            self.attr("timeout", timeout)
        }
    }
}
export_options!(GhaCache);
import!(GhaCache);

cache! {
    /// A cache in a bucket of S3 or of something that speaks its protocol.
    S3Cache, "s3", {
        /// A bucket and its region.
        pub fn new(bucket: impl Into<String>, region: impl Into<String>) -> Self {
            Self(Entry::new("s3")).attr("bucket", bucket).attr("region", region)
        }

        /// Name of the cache; several are tried in turn when reading. `buildkit` unless set.
        pub fn names<S: AsRef<str>>(self, names: impl IntoIterator<Item = S>) -> Self {
            self.attr("name", join(names))
        }

        /// Prefix of all keys.
        pub fn prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("prefix", prefix)
        }

        /// Another endpoint than Amazon's, with the bucket in the path.
        pub fn endpoint(self, url: impl Into<String>) -> Self {
            self.attr("endpoint_url", url).attr("use_path_style", "true")
        }

        /// Credentials; without them the daemon uses its own.
        pub fn credentials(self, access_key_id: impl Into<String>, secret: impl Into<String>) -> Self {
            self.attr("access_key_id", access_key_id).attr("secret_access_key", secret)
        }

        /// Token that goes with temporary credentials.
        pub fn session_token(self, token: impl Into<String>) -> Self {
            self.attr("session_token", token)
        }

        /// How many blobs are uploaded at once; 4 unless set.
        pub fn upload_parallelism(self, count: u32) -> Self {
            self.attr("upload_parallelism", count.to_string())
        }

        /// Below which prefix blobs are kept; `blobs/` unless set.
        pub fn blobs_prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("blobs_prefix", prefix)
        }

        /// Below which prefix manifests are kept; `manifests/` unless set.
        pub fn manifests_prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("manifests_prefix", prefix)
        }

        /// Blobs that are needed again are renewed once they are older, such as `24h`, so that rules
        /// about their age do not delete them.
        pub fn touch_refresh(self, age: impl Into<String>) -> Self {
            self.attr("touch_refresh", age)
        }
    }
}
export_options!(S3Cache);
import!(S3Cache);

cache! {
    /// A cache in an Azure Blob Storage container.
    AzblobCache, "azblob", {
        /// URL of the account.
        pub fn new(account_url: impl Into<String>) -> Self {
            Self(Entry::new("azblob")).attr("account_url", account_url)
        }

        /// The container; `buildkit-cache` unless set.
        pub fn container(self, container: impl Into<String>) -> Self {
            self.attr("container", container)
        }

        /// Name of the account, where the URL does not start with it.
        pub fn account_name(self, name: impl Into<String>) -> Self {
            self.attr("account_name", name)
        }

        /// Name of the cache; several are tried in turn when reading.
        pub fn names<S: AsRef<str>>(self, names: impl IntoIterator<Item = S>) -> Self {
            self.attr("name", join(names))
        }

        /// Prefix of all keys.
        pub fn prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("prefix", prefix)
        }

        /// Below which prefix blobs are kept; `blobs` unless set.
        pub fn blobs_prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("blobs_prefix", prefix)
        }

        /// Below which prefix manifests are kept; `manifests` unless set.
        pub fn manifests_prefix(self, prefix: impl Into<String>) -> Self {
            self.attr("manifests_prefix", prefix)
        }

        /// Key of the account; without it the daemon uses its own identity.
        pub fn secret_access_key(self, key: impl Into<String>) -> Self {
            self.attr("secret_access_key", key)
        }
    }
}
export_options!(AzblobCache);
import!(AzblobCache);

cache! {
    /// A cache of a kind that this crate has no word for, or whose settings are the daemon's own (such as the variables
    /// `AWS_BUCKET` and `AWS_REGION` for `s3`): attributes are sent as they are.
    CustomCache, "", {
        /// A kind by its name.
        pub fn new(kind: impl Into<String>) -> Self {
            Self(Entry::new(kind.into()))
        }
    }
}
export_options!(CustomCache);
import!(CustomCache);

/// The name of a directory as a daemon sees it. It travels as a header, which takes ASCII only.
fn store_name(dir: &Path) -> String {
    use sha2::Digest as _;
    match dir.to_str() {
        Some(text) if !text.is_empty() && text.trim() == text && text.bytes().all(is_printable) => {
            text.to_owned()
        }
        Some("") => String::new(),
        _ => {
            let hash = sha2::Sha256::digest(dir.as_os_str().as_encoded_bytes());
            let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("directory-{hex}")
        }
    }
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

fn join<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(";")
}

fn truthy(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(entry: &Entry) -> String {
        let attrs: Vec<_> = entry.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} {}", entry.kind, attrs.join(" "))
    }

    #[test]
    fn each_kind_has_the_attributes_of_the_contract() {
        let exports: [(CacheExport, &str); 6] = [
            (
                RegistryCache::new("r/c").max().portable().ignore_error().into(),
                "registry ignore-error=true image-manifest=true mode=max oci-mediatypes=true ref=r/c",
            ),
            (LocalCache::new("d").tag("t").into(), "local dest=d src=d tag=t"),
            (InlineCache::new().into(), "inline "),
            (
                S3Cache::new("b", "eu").names(["x", "y"]).credentials("id", "key").into(),
                "s3 access_key_id=id bucket=b name=x;y region=eu secret_access_key=key",
            ),
            (AzblobCache::new("https://a").container("c").into(), "azblob account_url=https://a container=c"),
            (
                GhaCache::from_vars(|name| match name {
                    "ACTIONS_CACHE_SERVICE_V2" => Some("true".into()),
                    "ACTIONS_RESULTS_URL" => Some("https://r".into()),
                    "ACTIONS_RUNTIME_TOKEN" => Some("secret".into()),
                    _ => None,
                })
                .scope("s")
                .into(),
                "gha scope=s token=secret url_v2=https://r version=2",
            ),
        ];
        for (export, expected) in exports {
            let mut expected: Vec<_> = expected.split(' ').collect();
            if let Some(rest) = expected.get_mut(1..) {
                rest.sort_unstable();
            }
            assert_eq!(shown(&export.0), expected.join(" "));
            export.0.validate("cache_to").unwrap();
        }
    }

    #[test]
    fn every_option_has_its_attribute() {
        let cases: [(CacheExport, &str); 5] = [
            (
                RegistryCache::new("r/c")
                    .insecure()
                    .compression(Compression::Zstd)
                    .compression_level(9)
                    .force_compression()
                    .into(),
                "registry compression=zstd compression-level=9 force-compression=true ref=r/c registry.insecure=true",
            ),
            (
                LocalCache::new("d").max().reset().image_manifest(true).into(),
                "local dest=d image-manifest=true mode=max reset=true src=d",
            ),
            (
                S3Cache::new("b", "r")
                    .prefix("p/")
                    .blobs_prefix("b/")
                    .manifests_prefix("m/")
                    .endpoint("https://minio")
                    .session_token("t")
                    .upload_parallelism(8)
                    .touch_refresh("48h")
                    .max()
                    .ignore_error()
                    .into(),
                "s3 blobs_prefix=b/ bucket=b endpoint_url=https://minio ignore-error=true manifests_prefix=m/ mode=max \
                 prefix=p/ region=r session_token=t touch_refresh=48h upload_parallelism=8 use_path_style=true",
            ),
            (
                AzblobCache::new("https://a")
                    .account_name("n")
                    .names(["x", "y"])
                    .prefix("p")
                    .blobs_prefix("b")
                    .manifests_prefix("m")
                    .secret_access_key("k")
                    .into(),
                "azblob account_name=n account_url=https://a blobs_prefix=b manifests_prefix=m name=x;y prefix=p \
                 secret_access_key=k",
            ),
            (
                GhaCache::from_vars(|name| (name == "ACTIONS_CACHE_URL").then(|| "https://v1/".into()))
                    .api_token("gh", "o/r")
                    .timeout("5m")
                    .into(),
                "gha ghtoken=gh repository=o/r timeout=5m url=https://v1/",
            ),
        ];
        for (cache, expected) in cases {
            assert_eq!(shown(&cache.0), expected);
        }
    }

    #[test]
    fn a_directory_whose_name_cannot_be_sent_gets_another() {
        let named = |dir: &str| CacheExport::from(LocalCache::new(dir)).0.attrs["dest"].clone();
        assert_eq!(named("/var/my cache"), "/var/my cache");
        for odd in ["/vär", " /x", "a\nb"] {
            assert!(named(odd).starts_with("directory-"), "{odd}");
        }
        assert_ne!(named("/vär"), named("/wär"));
        assert!(CacheExport::from(LocalCache::new("")).0.validate("cache_to").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", CacheExport::from(S3Cache::new("b", "r").credentials("AKIA", "hunter2")));
        assert!(!shown.contains("hunter2") && !shown.contains("AKIA"), "{shown}");
    }

    #[test]
    fn a_kind_without_a_word_is_sent_as_it_is() {
        let cache = CustomCache::new("s3").attr("bucket", "b").max();
        assert_eq!(shown(&CacheImport::from(cache.clone()).0), "s3 bucket=b mode=max");
        CacheExport::from(cache).0.validate("cache_to").unwrap();
        // What only looks like one that has a word is refused: there is no directory that could be served.
        let local = CustomCache::new("local").attr("dest", "/x");
        for cache in [local, CustomCache::new("")] {
            assert!(CacheExport::from(cache).0.validate("cache_to").is_err());
        }
    }

    #[test]
    fn a_registry_cache_needs_a_reference() {
        let entry = CacheExport::from(RegistryCache::new(""));
        assert!(entry.0.validate("cache_to").is_err());
    }
}
