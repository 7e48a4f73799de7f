//! What a conversion asks of the world: image configs, metadata of remote sources, files of contexts.

use async_trait::async_trait;
use buildkit_llb::{Platform, State};
use bytes::Bytes;

use super::options::ResolveMode;

/// The error of a [`Resolver`].
pub type ResolveError = Box<dyn std::error::Error + Send + Sync>;

/// Answers the questions a conversion cannot answer from the Dockerfile alone.
///
/// Only [`image`](Self::image) must be written. Without the others there are no ignore files, no
/// `input:` contexts, and `SOURCE_DATE_EPOCH` cannot be taken from a remote source.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Digest and config of an image. Asked once for equal requests of one conversion.
    ///
    /// # Errors
    ///
    /// Whatever kept the image from being found; it becomes the source of the conversion's error.
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError>;

    /// Content of the file `path` in `tree`, or `None` if there is no such file. `from` and `to` select
    /// bytes. With `evaluate` the tree must be built even if nothing of it is read.
    ///
    /// # Errors
    ///
    /// Only if the tree cannot be built.
    async fn read_file(&self, tree: &State, path: &str, read: Read) -> Result<Option<Bytes>, ResolveError> {
        let _ = (tree, path, read);
        Ok(None)
    }

    /// What is known of the one Git or HTTP source that `tree` is made of, without fetching all of it; `None`
    /// if it is made of several.
    ///
    /// # Errors
    ///
    /// Whatever kept the source from being asked.
    async fn source(&self, tree: &State, log_name: &str) -> Result<Option<SourceMetadata>, ResolveError> {
        let _ = (tree, log_name);
        Ok(None)
    }

    /// The frontend input `name`.
    ///
    /// # Errors
    ///
    /// If the inputs cannot be asked for.
    async fn input(&self, name: &str) -> Result<Option<State>, ResolveError> {
        let _ = name;
        Ok(None)
    }

    /// Whether the daemon knows the capability `cap`, such as `mergeop`.
    fn supports(&self, cap: &str) -> bool {
        let _ = cap;
        true
    }

    /// The platform of the machine that builds.
    fn build_platform(&self) -> Option<Platform> {
        None
    }
}

/// How to read a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// At most so many bytes; `None` for all.
    pub limit: Option<u64>,
    /// Build the tree at once.
    pub evaluate: bool,
}

/// A question for an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRequest {
    /// The reference, normalised (`docker.io/library/alpine:latest`).
    pub reference: String,
    /// The platform wanted, if any.
    pub platform: Option<Platform>,
    /// How to look for it.
    pub mode: ResolveMode,
    /// What progress calls the request.
    pub log_name: String,
    /// For an image in an OCI layout of the client: session and name of the store.
    pub store: Option<(String, String)>,
}

/// The answer to an [`ImageRequest`].
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The reference to use from now on; the one asked for, unless a policy replaced it.
    pub reference: String,
    /// Digest of the image; empty if unknown, and then nothing is pinned.
    pub digest: String,
    /// The image config as JSON.
    pub config: Bytes,
}

/// What is known of a Git or HTTP source.
#[derive(Clone, Debug, Default)]
pub struct SourceMetadata {
    /// The raw commit object of a Git source.
    pub commit: Option<Bytes>,
    /// `Last-Modified` of an HTTP source, in seconds since the Unix epoch.
    pub last_modified: Option<i64>,
    /// An HTTP source by itself, and the name of the file it writes.
    pub file: Option<(State, String)>,
}

/// The error of [`Resolver::image`] when a source policy says to use something that is not an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// What to use instead, as a named context would be written: `https://…`, `git://…`.
    pub to: String,
}

impl std::fmt::Display for Redirected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a source policy replaces the image by {}, which is no image", self.to)
    }
}

impl std::error::Error for Redirected {}
