//! Where the result of a build goes.

mod session;

pub use session::{ResultInfo, SessionExporter};

use crate::content::OciStore;
use crate::error::{BoxError, RequestError};
use buildkit_fsutil::disk_writer::WriteOptions;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWrite;

/// One exporter of a build: its type, its attributes, and where on this side its data goes.
///
/// ```
/// # use buildkit_client::export::{Export, Compression};
/// let image = Export::image("registry.local/app:1").push().compression(Compression::Zstd);
/// let files = Export::local("out");
/// let layout = Export::oci("app.tar").annotation("org.opencontainers.image.title", "app");
/// ```
#[derive(Clone)]
pub struct Export {
    pub(crate) kind: String,
    pub(crate) attrs: BTreeMap<String, String>,
    pub(crate) target: Target,
}

/// What is done with the data of an exporter.
#[derive(Clone)]
pub(crate) enum Target {
    /// Nothing comes to this side.
    None,
    /// A tree is written to a directory.
    Dir { path: PathBuf, options: WriteOptions },
    /// A tree is handed to the caller.
    Tree(Arc<dyn TreeSink>),
    /// A byte stream.
    Stream(Output),
    /// An image is written to a content store, blob by blob.
    Store(OciStore),
}

/// Takes a tree of files, entry by entry, in the order of the transfer: parents first. A result of
/// several platforms comes as several trees at once, each below a directory of its own.
pub trait TreeSink: Send + Sync + 'static {
    /// An entry: a directory, a link, a device, or a regular file whose content follows.
    fn entry(&self, stat: &buildkit_proto::fsutil::Stat) -> Result<(), BoxError>;

    /// Bytes of the regular file at `path`, in order; empty at its end.
    fn data(&self, path: &[u8], data: &[u8]) -> Result<(), BoxError>;
}

/// Makes the writer for a stream when its first byte is about to come.
pub type OpenWriter =
    dyn Fn(&BTreeMap<String, String>) -> std::io::Result<Box<dyn AsyncWrite + Send + Unpin>> + Send + Sync;

/// Where a byte stream goes.
#[derive(Clone)]
pub struct Output(pub(crate) OutputKind);

#[derive(Clone)]
pub(crate) enum OutputKind {
    File(PathBuf),
    Writer(Arc<Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>>),
    Open(Arc<OpenWriter>),
}

impl Output {
    /// A file. It is written under another name in the same directory, flushed to disk, and takes
    /// its name when the build has succeeded; until then a file of that name is left alone.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(OutputKind::File(path.into()))
    }

    /// A writer. It is used once, so a build that writes to one is not retried.
    pub fn writer(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(OutputKind::Writer(Arc::new(Mutex::new(Some(Box::new(writer))))))
    }

    /// A writer made when it is needed. The function gets what the daemon knows of the result so
    /// far, for example `containerimage.digest`. It must not block.
    pub fn open<F, W>(open: F) -> Self
    where
        F: Fn(&BTreeMap<String, String>) -> std::io::Result<W> + Send + Sync + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        Self(OutputKind::Open(Arc::new(move |md| {
            let writer = open(md)?;
            Ok(Box::new(writer) as Box<dyn AsyncWrite + Send + Unpin>)
        })))
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.0, OutputKind::Writer(_))
    }

    pub(crate) fn take_writer(
        writer: &Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>,
    ) -> Option<Box<dyn AsyncWrite + Send + Unpin>> {
        writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            OutputKind::File(path) => f.debug_tuple("File").field(path).finish(),
            OutputKind::Writer(_) => f.write_str("Writer"),
            OutputKind::Open(_) => f.write_str("Open"),
        }
    }
}

impl<P: AsRef<Path>> From<P> for Output {
    fn from(path: P) -> Self {
        Self::file(path.as_ref())
    }
}

impl Export {
    /// An image in the daemon's own store, and in a registry with [`push`](ImageExport::push).
    /// Several names are separated by commas; `*` takes the name that the frontend gives.
    pub fn image(name: impl Into<String>) -> ImageExport {
        let name = name.into();
        let export = Self::custom("image");
        ImageExport(if name.is_empty() { export } else { export.attr("name", name) })
    }

    /// A tar of an OCI image layout.
    pub fn oci(output: impl Into<Output>) -> ArchiveExport {
        ArchiveExport(Self { target: Target::Stream(output.into()), ..Self::custom("oci") })
    }

    /// An OCI image layout in a directory, or in a store of the caller's own. Blobs that are already
    /// there are not sent again. In a directory the image is entered in `index.json`, under its
    /// [`name`](ArchiveExport::name) or the tag `latest`. Needs BuildKit 0.11.
    pub fn oci_dir(store: impl Into<OciStore>) -> ArchiveExport {
        ArchiveExport(
            Self { target: Target::Store(store.into()), ..Self::custom("oci") }.attr("tar", "false"),
        )
    }

    /// A tar that `docker load` takes. One platform only.
    pub fn docker(output: impl Into<Output>) -> ArchiveExport {
        ArchiveExport(Self { target: Target::Stream(output.into()), ..Self::custom("docker") })
    }

    /// A layout in a directory, as [`oci_dir`](Self::oci_dir), with Docker's media types.
    pub fn docker_dir(store: impl Into<OciStore>) -> ArchiveExport {
        let export = Self { target: Target::Store(store.into()), ..Self::custom("docker") };
        ArchiveExport(export.attr("tar", "false"))
    }

    /// A tar of the result's files.
    pub fn tar(output: impl Into<Output>) -> FilesExport {
        FilesExport(Self { target: Target::Stream(output.into()), ..Self::custom("tar") })
    }

    /// The result's files in a directory, which is made if need be. What is already there stays,
    /// unless [`delete`](FilesExport::delete) is asked for; a file is replaced as a whole.
    pub fn local(dir: impl Into<PathBuf>) -> FilesExport {
        let target = Target::Dir { path: dir.into(), options: WriteOptions::default() };
        FilesExport(Self { target, ..Self::custom("local") })
    }

    /// The result's files, handed to the caller.
    pub fn tree(sink: impl TreeSink) -> FilesExport {
        FilesExport(Self { target: Target::Tree(Arc::new(sink)), ..Self::custom("local") })
    }

    /// An exporter that this crate has no word for.
    pub fn custom(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), attrs: BTreeMap::new(), target: Target::None }
    }

    /// Sets an attribute.
    #[must_use]
    pub fn attr(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attrs.insert(key.into(), value.into());
        self
    }

    /// Sends the exporter's stream to `output`.
    #[must_use]
    pub fn to_output(mut self, output: impl Into<Output>) -> Self {
        self.target = Target::Stream(output.into());
        self
    }

    /// Writes the exporter's tree below `dir`.
    #[must_use]
    pub fn to_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.target = Target::Dir { path: dir.into(), options: WriteOptions::default() };
        self
    }

    /// Type of the exporter, for example `image`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Attributes as they are sent.
    pub fn attrs(&self) -> &BTreeMap<String, String> {
        &self.attrs
    }

    /// Whether the result leaves the daemon for a registry.
    pub(crate) fn pushes(&self) -> bool {
        self.kind == "image"
            && self
                .attrs
                .get("push")
                .is_some_and(|v| !matches!(v.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False"))
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        match &self.target {
            Target::Stream(output) => output.is_repeatable(),
            Target::Tree(_) => false,
            Target::None | Target::Dir { .. } | Target::Store(_) => true,
        }
    }

    /// The rules that buildctl's library checks before a build.
    pub(crate) fn validate(&self) -> Result<(), RequestError> {
        let kind = self.kind.as_str();
        let wrong = |reason: String| Err(RequestError::option("export", reason));
        match (kind, &self.target) {
            ("local", Target::Dir { .. } | Target::Tree(_))
            | ("tar", Target::Stream(_))
            | ("oci" | "docker", Target::Stream(_) | Target::Store(_)) => {}
            ("local", _) => return wrong("output directory is required for local exporter".into()),
            ("tar" | "oci" | "docker", _) => {
                return wrong(format!("output file writer is required for {kind} exporter"));
            }
            (_, Target::None) => {}
            (_, Target::Stream(_)) => {
                return wrong(format!("output file writer is not supported by {kind} exporter"));
            }
            (_, Target::Dir { .. } | Target::Tree(_)) => {
                return wrong(format!("output directory is not supported by {kind} exporter"));
            }
            (_, Target::Store(_)) => {
                return wrong(format!("output store is not supported by {kind} exporter"));
            }
        }
        if kind == "local"
            && let Some(mode) = self.attrs.get("mode")
            && !matches!(mode.trim().to_ascii_lowercase().as_str(), "" | "copy" | "delete")
        {
            return wrong(format!("invalid local exporter mode {mode:?}"));
        }
        if self.pushes() && !self.attrs.contains_key("name") {
            return wrong("an image that is pushed needs a name".into());
        }
        Ok(())
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &self.target {
            Target::None => "none".to_owned(),
            Target::Dir { path, options } => format!("dir {} ({options:?})", path.display()),
            Target::Tree(_) => "tree".to_owned(),
            Target::Stream(output) => format!("{output:?}"),
            Target::Store(store) => format!("{store:?}"),
        };
        f.debug_struct("Export")
            .field("kind", &self.kind)
            .field("attrs", &crate::redact::Attributes(&self.attrs))
            .field("target", &target)
            .finish()
    }
}

/// Compression of the layers of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Uncompressed,
    /// gzip, the default of the daemon.
    Gzip,
    /// Zstandard; implies OCI media types.
    Zstd,
    /// eStargz: gzip with an index for lazy pulling; implies OCI media types.
    Estargz,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Estargz => "estargz",
        }
    }
}

/// An image for the daemon's store or a registry.
#[derive(Debug, Clone)]
#[must_use = "give it to a build with .export(…)"]
pub struct ImageExport(Export);

/// An image as an archive or a layout on this side.
#[derive(Debug, Clone)]
#[must_use = "give it to a build with .export(…)"]
pub struct ArchiveExport(Export);

/// The files of the result.
#[derive(Debug, Clone)]
#[must_use = "give it to a build with .export(…)"]
pub struct FilesExport(Export);

/// What all exporters that make an image understand.
macro_rules! image_options {
    ($type:ident) => {
        impl $type {
            /// Compression of new layers; with [`force_compression`](Self::force_compression) of all.
            pub fn compression(self, compression: Compression) -> Self {
                let export = self.attr("compression", compression.name());
                match compression {
                    Compression::Zstd | Compression::Estargz => export.oci_media_types(true),
                    Compression::Gzip | Compression::Uncompressed => export,
                }
            }

            /// Level of the compression: 0 to 9, for zstd 0 to 22.
            pub fn compression_level(self, level: u8) -> Self {
                self.attr("compression-level", level.to_string())
            }

            /// Compresses layers of base images anew as well.
            pub fn force_compression(self) -> Self {
                self.attr("force-compression", "true")
            }

            /// OCI media types instead of Docker's.
            pub fn oci_media_types(self, on: bool) -> Self {
                self.attr("oci-mediatypes", on.to_string())
            }

            /// Stores attestations in the OCI artifact form.
            pub fn oci_artifact(self) -> Self {
                self.attr("oci-artifact", "true")
            }

            /// An annotation on the manifest of each platform.
            pub fn annotation(self, key: &str, value: impl Into<String>) -> Self {
                self.attr(format!("annotation.{key}"), value)
            }

            /// An annotation elsewhere, and on one platform only where one is given.
            pub fn annotation_on(
                self,
                place: AnnotationOn,
                platform: Option<&str>,
                key: &str,
                value: impl Into<String>,
            ) -> Self {
                let platform = platform.map(|platform| format!("[{platform}]")).unwrap_or_default();
                self.attr(format!("annotation-{}{platform}.{key}", place.name()), value)
            }

            /// Sets the times of all files in new layers to at most the build's epoch.
            pub fn rewrite_timestamp(self) -> Self {
                self.attr("rewrite-timestamp", "true")
            }

            /// Times in the image's metadata, in seconds since 1970.
            pub fn source_date_epoch(self, seconds: i64) -> Self {
                self.attr("source-date-epoch", seconds.to_string())
            }

            /// Whether attestations are put next to the image.
            pub fn inline_attestations(self, on: bool) -> Self {
                self.attr("attestation-inline", on.to_string())
            }

            /// Prefers media types of layers that must not be distributed, where the base has some.
            pub fn prefer_nondistributable_layers(self) -> Self {
                self.attr("prefer-nondist-layers", "true")
            }

            /// Sets an attribute that has no method here.
            pub fn attr(self, key: impl Into<String>, value: impl Into<String>) -> Self {
                Self(self.0.attr(key, value))
            }
        }

        impl From<$type> for Export {
            fn from(export: $type) -> Self {
                export.0
            }
        }
    };
}

image_options!(ImageExport);
image_options!(ArchiveExport);

/// What an annotation is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationOn {
    /// The image index.
    Index,
    /// The descriptor of the index; in layouts only.
    IndexDescriptor,
    /// The manifest of each platform.
    Manifest,
    /// The descriptors of the manifests in the index.
    ManifestDescriptor,
}

impl AnnotationOn {
    fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::IndexDescriptor => "index-descriptor",
            Self::Manifest => "manifest",
            Self::ManifestDescriptor => "manifest-descriptor",
        }
    }
}

impl ImageExport {
    /// Pushes the image to the registry of its name.
    pub fn push(self) -> Self {
        self.attr("push", "true")
    }

    /// Pushes without a tag; the name must have none.
    pub fn push_by_digest(self) -> Self {
        self.attr("push-by-digest", "true")
    }

    /// The registry speaks plain HTTP, or its certificate is not checked.
    pub fn insecure(self) -> Self {
        self.attr("registry.insecure", "true")
    }

    /// Unpacks the image in the daemon's store, ready to run.
    pub fn unpack(self) -> Self {
        self.attr("unpack", "true")
    }

    /// Whether the image is kept in the daemon's image store, if it has one.
    pub fn store(self, on: bool) -> Self {
        self.attr("store", on.to_string())
    }

    /// Adds the name with its digest.
    pub fn canonical_name(self) -> Self {
        self.attr("name-canonical", "true")
    }

    /// Names images without a name `PREFIX@DIGEST`.
    pub fn dangling_name_prefix(self, prefix: impl Into<String>) -> Self {
        self.attr("dangling-name-prefix", prefix)
    }
}

impl ArchiveExport {
    /// The name written into the archive.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.attr("name", name)
    }
}

impl FilesExport {
    /// Deletes what is in the directory and not in the result. Needs BuildKit 0.31.
    pub fn delete(mut self) -> Self {
        if let Target::Dir { options, .. } = &mut self.0.target {
            options.delete = true;
        }
        self.attr("mode", "delete")
    }

    /// How the files are written: what the umask takes away, whether devices and setuid bits are allowed, who owns
    /// them. By default files belong to this process, the umask holds, devices end the build and setuid bits are
    /// dropped. What [`delete`](Self::delete) has set stays.
    pub fn write_options(mut self, written: WriteOptions) -> Self {
        if let Target::Dir { options, .. } = &mut self.0.target {
            *options = WriteOptions { delete: options.delete || written.delete, ..written };
        }
        self
    }

    /// Whether each platform gets a directory of its own, such as `linux_arm64`. On by default
    /// where the result has several.
    pub fn platform_split(self, on: bool) -> Self {
        self.attr("platform-split", on.to_string())
    }

    /// Prefix of the names of attestation files.
    pub fn attestation_prefix(self, prefix: impl Into<String>) -> Self {
        self.attr("attestation-prefix", prefix)
    }

    /// Times of the files, in seconds since 1970.
    pub fn source_date_epoch(self, seconds: i64) -> Self {
        self.attr("source-date-epoch", seconds.to_string())
    }

    /// Sets an attribute that has no method here.
    pub fn attr(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(self.0.attr(key, value))
    }
}

impl From<FilesExport> for Export {
    fn from(export: FilesExport) -> Self {
        export.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_attributes_of_the_contract() {
        let export: Export = Export::image("r/a:1,r/b:2")
            .push()
            .push_by_digest()
            .insecure()
            .compression(Compression::Zstd)
            .compression_level(3)
            .annotation("k", "v")
            .annotation_on(AnnotationOn::Index, Some("linux/arm64"), "k", "v")
            .into();
        let attrs: Vec<_> = export.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            attrs,
            [
                "annotation-index[linux/arm64].k=v",
                "annotation.k=v",
                "compression=zstd",
                "compression-level=3",
                "name=r/a:1,r/b:2",
                "oci-mediatypes=true",
                "push=true",
                "push-by-digest=true",
                "registry.insecure=true"
            ]
        );
        assert!(export.pushes());
        for (value, pushes) in [("true", true), ("1", true), ("0", false), ("False", false)] {
            let export: Export = Export::image("r/a").attr("push", value).into();
            assert_eq!(export.pushes(), pushes, "{value}");
        }
    }

    #[test]
    fn targets_that_do_not_fit_the_type_are_refused() {
        for (export, reason) in [
            (Export::custom("local"), "output directory is required for local exporter"),
            (Export::custom("tar"), "output file writer is required for tar exporter"),
            (Export::custom("oci"), "output file writer is required for oci exporter"),
            (Export::custom("image").to_output("x"), "output file writer is not supported by image exporter"),
            (Export::custom("image").to_dir("x"), "output directory is not supported by image exporter"),
            (Export::local("x").attr("mode", "move").into(), "invalid local exporter mode \"move\""),
            (Export::image("").push().into(), "needs a name"),
        ] {
            let error = export.validate().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        for export in [
            Export::from(Export::local("x").delete()),
            Export::oci_dir("x").into(),
            Export::image("a").into(),
            Export::custom("of-tomorrow"),
        ] {
            export.validate().unwrap();
        }
    }
}
