//! Requests to look at a source without building it.

use std::collections::BTreeMap;

use buildkit_llb::Platform;
use buildkit_proto::sourcepolicy::Policy;
use buildkit_proto::{gateway, pb};
use bytes::Bytes;

use crate::error::{Code, Error, Result};

const IMAGE: &str = "docker-image://";
const OCI_LAYOUT: &str = "oci-layout://";

/// Asks what an image is now: its digest and its config.
///
/// A text turns into a request by itself, so `gateway.resolve_image("alpine")`
/// is enough for the common case.
#[derive(Debug, Clone, Default)]
#[must_use = "a request does nothing until it is resolved"]
pub struct ResolveImage {
    reference: String,
    oci_layout: Option<(String, String)>,
    source: ResolveSource,
}

impl ResolveImage {
    /// The image called `reference`, such as `docker.io/library/alpine:3.22`.
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), ..Self::default() }
    }

    /// The platform wanted of an image for many; the daemon's by default.
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.source = self.source.platform(platform);
        self
    }

    /// Where to look first.
    pub fn mode(mut self, mode: ResolveMode) -> Self {
        self.source = self.source.mode(mode);
        self
    }

    /// What the progress display shows meanwhile.
    pub fn log_name(mut self, name: impl Into<String>) -> Self {
        self.source = self.source.log_name(name);
        self
    }

    /// Looks in an OCI layout that the client offers, instead of a registry.
    /// An empty `session` is any of the build's.
    pub fn oci_layout(mut self, store: impl Into<String>, session: impl Into<String>) -> Self {
        self.oci_layout = Some((store.into(), session.into()));
        self
    }

    /// Applies a source policy beside those of the build.
    pub fn source_policy(mut self, policy: Policy) -> Self {
        self.source = self.source.source_policy(policy);
        self
    }

    pub(crate) fn into_source(self) -> ResolveSource {
        let mut source = self.source;
        let op = source.request.source.get_or_insert_default();
        match self.oci_layout {
            None => op.identifier = format!("{IMAGE}{}", self.reference),
            Some((store, session)) => {
                op.identifier = format!("{OCI_LAYOUT}{}", self.reference);
                for (key, value) in [("oci.store", store), ("oci.session", session)] {
                    if !value.is_empty() {
                        op.attrs.insert(key.into(), value);
                    }
                }
            }
        }
        source
    }
}

impl From<&str> for ResolveImage {
    fn from(reference: &str) -> Self {
        Self::new(reference)
    }
}

impl From<String> for ResolveImage {
    fn from(reference: String) -> Self {
        Self::new(reference)
    }
}

/// Where the daemon looks for an image first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ResolveMode {
    /// As the daemon is configured.
    #[default]
    Default,
    /// In the registry, even when it has the image.
    ForcePull,
    /// In its own store.
    PreferLocal,
}

impl ResolveMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ForcePull => "pull",
            Self::PreferLocal => "local",
        }
    }
}

/// What an image is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedImage {
    /// The reference to use; a source policy may have changed it.
    pub reference: String,
    /// The digest of its manifest or index, as in `sha256:…`.
    pub digest: String,
    /// Its config, JSON.
    pub config: Bytes,
}

impl ResolvedImage {
    pub(crate) fn from_wire(asked: &str, wire: gateway::ResolveSourceMetaResponse) -> Result<Self> {
        let identifier = wire.source.map(|source| source.identifier).unwrap_or_default();
        let reference = identifier
            .strip_prefix(IMAGE)
            .or_else(|| identifier.strip_prefix(OCI_LAYOUT))
            .or_else(|| identifier.is_empty().then(|| asked.split_once("://").map_or(asked, |(_, r)| r)));
        let (Some(reference), Some(image)) = (reference, wire.image) else {
            return Err(Error::with_code(
                Code::FailedPrecondition,
                format!("{asked} was asked for as an image, but the daemon resolved it to {identifier}"),
            ));
        };
        Ok(Self { reference: reference.into(), digest: image.digest, config: image.config })
    }
}

/// Asks what a source of any kind is now.
#[derive(Debug, Clone, Default)]
#[must_use = "a request does nothing until it is resolved"]
pub struct ResolveSource {
    pub(crate) request: gateway::ResolveSourceMetaRequest,
}

impl ResolveSource {
    /// The source of this identifier, such as `git://github.com/moby/moby.git#main`
    /// or `https://example.com/file`.
    pub fn new(identifier: impl Into<String>) -> Self {
        let source = pb::SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() };
        Self { request: gateway::ResolveSourceMetaRequest { source: Some(source), ..Default::default() } }
    }

    /// Sets an attribute of the source, as in the graph.
    pub fn attr(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.source.get_or_insert_default().attrs.insert(key.into(), value.into());
        self
    }

    /// The platform wanted; the daemon's by default.
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.request.platform = Some(crate::platform::to_wire(platform));
        self
    }

    /// Where to look first.
    pub fn mode(mut self, mode: ResolveMode) -> Self {
        self.request.resolve_mode = mode.as_str().into();
        self
    }

    /// What the progress display shows meanwhile.
    pub fn log_name(mut self, name: impl Into<String>) -> Self {
        self.request.log_name = name.into();
        self
    }

    /// Applies a source policy beside those of the build.
    pub fn source_policy(mut self, policy: Policy) -> Self {
        self.request.source_policies.push(policy);
        self
    }

    /// Also returns the raw commit and tag of a git source.
    pub fn git_objects(mut self) -> Self {
        self.request.git.get_or_insert_default().return_object = true;
        self
    }

    /// Leaves out the config of an image.
    pub fn without_config(mut self) -> Self {
        self.request.image.get_or_insert_default().no_config = true;
        self
    }

    /// Also returns the manifests that attest an image.
    pub fn attestation_chain(mut self) -> Self {
        self.request.image.get_or_insert_default().attestation_chain = true;
        self
    }

    /// Also returns the attestations of these predicate types.
    pub fn attestations<T: Into<String>>(self, predicate_types: impl IntoIterator<Item = T>) -> Self {
        let mut asked = self.attestation_chain();
        let image = asked.request.image.get_or_insert_default();
        image.resolve_attestations.extend(predicate_types.into_iter().map(Into::into));
        asked
    }

    /// Also returns the checksum of a file followed by `suffix`.
    pub fn http_checksum(mut self, algorithm: ChecksumAlgorithm, suffix: impl Into<Bytes>) -> Self {
        use gateway::checksum_request::ChecksumAlgo;
        let algo = match algorithm {
            ChecksumAlgorithm::Sha256 => ChecksumAlgo::Sha256,
            ChecksumAlgorithm::Sha384 => ChecksumAlgo::Sha384,
            ChecksumAlgorithm::Sha512 => ChecksumAlgo::Sha512,
        };
        self.request.http = Some(gateway::ResolveSourceHttpRequest {
            checksum_request: Some(gateway::ChecksumRequest { algo: algo.into(), suffix: suffix.into() }),
        });
        self
    }

    pub(crate) fn identifier(&self) -> &str {
        self.request.source.as_ref().map_or("", |source| &source.identifier)
    }
}

impl From<pb::SourceOp> for ResolveSource {
    fn from(source: pb::SourceOp) -> Self {
        Self { request: gateway::ResolveSourceMetaRequest { source: Some(source), ..Default::default() } }
    }
}

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ChecksumAlgorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}
