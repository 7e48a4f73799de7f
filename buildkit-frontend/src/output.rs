//! What a build gives back.

use std::collections::BTreeMap;
use std::sync::Arc;

use buildkit_llb::Platform;
use buildkit_proto::gateway;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bridge::Bridge;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// The key of an image's config in a result's metadata.
pub const IMAGE_CONFIG: &str = "containerimage.config";
/// The key of the config of the image that another one is based on.
pub const BASE_IMAGE_CONFIG: &str = "containerimage.base.config";
/// The key of the list of platforms.
pub const PLATFORMS: &str = "refs.platforms";
/// The key of the time that is written everywhere, in seconds since the epoch.
pub const SOURCE_DATE_EPOCH: &str = "source.date.epoch";

/// The result of a build: one file tree, or one for each platform, with what
/// exporters need to know of them. Solving gives it, and a frontend returns
/// it.
///
/// ```
/// # use buildkit_frontend::{BuildResult, Gateway, Result};
/// # async fn build(gateway: Gateway, definition: buildkit_llb::Definition) -> Result<BuildResult> {
/// let tree = gateway.solve(definition).await?;
/// let config = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/hello"]}}"#;
/// Ok(tree.with_config(&config[..]))
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct BuildResult {
    refs: Refs,
    /// What exporters and callers read, by key; see the constants of this
    /// module. Keys of one platform end in `/` and its id.
    pub metadata: BTreeMap<String, Bytes>,
    /// Statements about the result, by platform id.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

#[derive(Debug, Clone)]
enum Refs {
    One(Option<Reference>),
    Many(BTreeMap<String, Option<Reference>>),
}

impl Default for Refs {
    fn default() -> Self {
        Self::One(None)
    }
}

/// A statement about a result, such as an SBOM.
#[derive(Debug, Clone, Default)]
pub struct Attestation {
    /// What kind of statement.
    pub kind: AttestationKind,
    /// The URI that every statement of a bundle must have as the type of its predicate; empty for any.
    pub bundle_predicate_type: String,
    /// Where the statement is.
    pub reference: Option<Reference>,
    /// Its path there: a file, or for a bundle a directory.
    pub path: String,
    /// Hints to exporters, such as `reason` and `sbom-core`.
    pub metadata: BTreeMap<String, Bytes>,
}

/// The kind of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttestationKind {
    /// A directory of in-toto statements.
    #[default]
    Bundle,
    /// The predicate of one in-toto statement.
    InToto {
        /// The URI of the predicate's type.
        predicate_type: String,
        /// What the statement is about; the result itself when empty.
        subjects: Vec<Subject>,
    },
}

/// What an in-toto statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// The result.
    Itself,
    /// Something with these digests.
    Named {
        /// Its name.
        name: String,
        /// Its digests, as in `sha256:…`.
        digests: Vec<String>,
    },
}

impl BuildResult {
    /// A result of one tree; `None` is the empty one.
    pub fn new(reference: impl Into<Option<Reference>>) -> Self {
        Self { refs: Refs::One(reference.into()), ..Self::default() }
    }

    /// A result of one tree for each platform. They are listed in the order
    /// given, each under the id that [`platform_id`] makes.
    ///
    /// ```
    /// # use buildkit_frontend::{BuildResult, PLATFORMS};
    /// use buildkit_llb::Platform;
    /// let result = BuildResult::for_platforms([(Platform::LINUX_AMD64, None)]);
    /// assert_eq!(
    ///     result.metadata[PLATFORMS],
    ///     r#"{"Platforms":[{"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}}]}"#
    /// );
    /// ```
    pub fn for_platforms(trees: impl IntoIterator<Item = (Platform, Option<Reference>)>) -> Self {
        let (mut platforms, mut refs) = (Vec::new(), BTreeMap::new());
        for (platform, reference) in trees {
            refs.insert(platform_id(&platform), reference);
            platforms.push(platform);
        }
        Self { refs: Refs::Many(refs), ..Self::default() }.with_platforms(&platforms)
    }

    /// Joins results for single platforms into one for all of them: their
    /// metadata and statements become those of the platform.
    ///
    /// # Errors
    /// When one of them has a tree for each of many platforms.
    pub fn join(results: impl IntoIterator<Item = (Platform, Self)>) -> Result<Self> {
        let (mut trees, mut metadata, mut attestations) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (platform, result) in results {
            let tree = result.single()?.cloned();
            let id = platform_id(&platform);
            for (key, value) in result.metadata {
                // The list of platforms is made anew.
                if key != PLATFORMS {
                    metadata.insert(format!("{key}/{id}"), value);
                }
            }
            let statements: Vec<_> = result.attestations.into_values().flatten().collect();
            if !statements.is_empty() {
                attestations.insert(id, statements);
            }
            trees.push((platform, tree));
        }
        let mut joined = Self::for_platforms(trees);
        joined.metadata.append(&mut metadata);
        joined.attestations = attestations;
        Ok(joined)
    }

    /// Says which platforms the trees are for, without changing the trees.
    /// A result of one tree says so too when its platform is not that of its
    /// config or of the daemon.
    #[must_use]
    pub fn with_platforms(self, platforms: &[Platform]) -> Self {
        self.with_described_platforms(platforms.iter().map(|platform| (platform, platform)))
    }

    /// As [`with_platforms`](Self::with_platforms), where more is known than was asked for, such as the
    /// version of Windows: the first of each pair gives the id, the second is what is said under it.
    #[must_use]
    pub fn with_described_platforms<'p>(
        mut self,
        platforms: impl IntoIterator<Item = (&'p Platform, &'p Platform)>,
    ) -> Self {
        let list = PlatformList {
            platforms: platforms
                .into_iter()
                .map(|(asked, actual)| ListedPlatform { id: platform_id(asked), platform: actual.into() })
                .collect(),
        };
        // Serializing plain structs of texts cannot fail.
        self.metadata.insert(PLATFORMS.into(), serde_json::to_vec(&list).unwrap_or_default().into());
        self
    }

    /// Sets the image config (JSON) of a result of one tree.
    #[must_use]
    pub fn with_config(self, config: impl Into<Bytes>) -> Self {
        self.with_metadata(IMAGE_CONFIG, config)
    }

    /// Sets the image config (JSON) of one platform.
    #[must_use]
    pub fn with_platform_config(self, platform: &Platform, config: impl Into<Bytes>) -> Self {
        self.with_metadata(format!("{IMAGE_CONFIG}/{}", platform_id(platform)), config)
    }

    /// Sets a metadata entry.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a statement about the tree of a platform.
    pub fn attest(&mut self, platform: &Platform, attestation: Attestation) {
        self.attestations.entry(platform_id(platform)).or_default().push(attestation);
    }

    /// The tree of a result that has one; `None` when it is empty.
    ///
    /// # Errors
    /// When the result has a tree for each platform.
    pub fn single(&self) -> Result<Option<&Reference>> {
        match &self.refs {
            Refs::One(reference) => Ok(reference.as_ref()),
            Refs::Many(refs) => Err(Error::new(format!(
                "one result was expected, but there is one for each of {}",
                refs.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// The only tree that is not empty.
    ///
    /// # Errors
    /// When the result is empty or has a tree for each platform.
    pub fn reference(&self) -> Result<&Reference> {
        self.single()?.ok_or_else(|| Error::new("the result is empty"))
    }

    /// The tree of a platform: its own where the result has one for each,
    /// else the single one.
    pub fn platform(&self, platform: &Platform) -> Option<&Reference> {
        match &self.refs {
            Refs::One(reference) => reference.as_ref(),
            Refs::Many(refs) => refs.get(&platform_id(platform))?.as_ref(),
        }
    }

    /// All trees with their platform ids; the id of a single one is empty.
    pub fn references(&self) -> Vec<(&str, Option<&Reference>)> {
        match &self.refs {
            Refs::One(reference) => vec![("", reference.as_ref())],
            Refs::Many(refs) => refs.iter().map(|(id, r)| (id.as_str(), r.as_ref())).collect(),
        }
    }

    /// Whether there is one tree for each platform.
    pub fn is_multi_platform(&self) -> bool {
        matches!(self.refs, Refs::Many(_))
    }

    /// The platforms the result says it is for.
    ///
    /// # Errors
    /// When the list is damaged.
    pub fn platforms(&self) -> Result<Vec<(String, Platform)>> {
        let Some(json) = self.metadata.get(PLATFORMS) else {
            return Ok(Vec::new());
        };
        let list: PlatformList = serde_json::from_slice(json)
            .map_err(|error| Error::context("the list of platforms is damaged", error))?;
        Ok(list.platforms.into_iter().map(|entry| (entry.id, entry.platform.into())).collect())
    }

    pub(crate) fn from_wire(bridge: &Arc<dyn Bridge>, wire: gateway::Result) -> Self {
        let reference = |wire| Reference::new(bridge, wire);
        let old = |id| Reference::new(bridge, gateway::Ref { id, def: None });
        let refs = match wire.result {
            None => Refs::One(None),
            Some(gateway::result::Result::RefDeprecated(id)) => Refs::One(old(id)),
            Some(gateway::result::Result::RefsDeprecated(map)) => {
                Refs::Many(map.refs.into_iter().map(|(key, id)| (key, old(id))).collect())
            }
            Some(gateway::result::Result::Ref(one)) => Refs::One(reference(one)),
            Some(gateway::result::Result::Refs(map)) => {
                Refs::Many(map.refs.into_iter().map(|(key, one)| (key, reference(one))).collect())
            }
        };
        let attestations = wire
            .attestations
            .into_iter()
            .map(|(platform, list)| {
                let list = list.attestation.into_iter().map(|one| Attestation::from_wire(bridge, one));
                (platform, list.collect())
            })
            .collect();
        Self { refs, metadata: wire.metadata, attestations }
    }

    /// The result as it travels.
    pub fn to_wire(&self) -> gateway::Result {
        let wire = |reference: &Option<Reference>| {
            reference.as_ref().map_or_else(gateway::Ref::default, Reference::to_wire)
        };
        // An empty value of a map is not written, and daemons before 0.14 crash on an entry without one.
        let entry = |reference: gateway::Ref| match reference {
            gateway::Ref { id, def: None } if id.is_empty() => {
                gateway::Ref { id, def: Some(buildkit_proto::pb::Definition::default()) }
            }
            reference => reference,
        };
        let result = match &self.refs {
            Refs::One(reference) => gateway::result::Result::Ref(wire(reference)),
            Refs::Many(refs) => gateway::result::Result::Refs(gateway::RefMap {
                refs: refs.iter().map(|(key, reference)| (key.clone(), entry(wire(reference)))).collect(),
            }),
        };
        let attestations = self
            .attestations
            .iter()
            .map(|(platform, list)| {
                let attestation = list.iter().map(Attestation::to_wire).collect();
                (platform.clone(), gateway::Attestations { attestation })
            })
            .collect();
        gateway::Result { result: Some(result), metadata: self.metadata.clone(), attestations }
    }
}

impl From<Reference> for BuildResult {
    fn from(reference: Reference) -> Self {
        Self::new(reference)
    }
}

impl Attestation {
    fn from_wire(bridge: &Arc<dyn Bridge>, wire: gateway::Attestation) -> Self {
        let mut bundle_predicate_type = String::new();
        let kind = match wire.kind() {
            gateway::AttestationKind::Bundle => {
                bundle_predicate_type = wire.in_toto_predicate_type;
                AttestationKind::Bundle
            }
            gateway::AttestationKind::InToto => AttestationKind::InToto {
                predicate_type: wire.in_toto_predicate_type,
                subjects: wire
                    .in_toto_subjects
                    .into_iter()
                    .map(|subject| match subject.kind() {
                        gateway::InTotoSubjectKind::Self_ => Subject::Itself,
                        gateway::InTotoSubjectKind::Raw => {
                            Subject::Named { name: subject.name, digests: subject.digest }
                        }
                    })
                    .collect(),
            },
        };
        Self {
            kind,
            bundle_predicate_type,
            reference: wire.r#ref.and_then(|reference| Reference::new(bridge, reference)),
            path: wire.path,
            metadata: wire.metadata,
        }
    }

    fn to_wire(&self) -> gateway::Attestation {
        let mut wire = gateway::Attestation {
            kind: gateway::AttestationKind::Bundle.into(),
            metadata: self.metadata.clone(),
            r#ref: self.reference.as_ref().map(Reference::to_wire),
            path: self.path.clone(),
            in_toto_predicate_type: self.bundle_predicate_type.clone(),
            ..gateway::Attestation::default()
        };
        if let AttestationKind::InToto { predicate_type, subjects } = &self.kind {
            wire.kind = gateway::AttestationKind::InToto.into();
            wire.in_toto_predicate_type.clone_from(predicate_type);
            wire.in_toto_subjects = subjects
                .iter()
                .map(|subject| match subject {
                    Subject::Itself => gateway::InTotoSubject {
                        kind: gateway::InTotoSubjectKind::Self_.into(),
                        ..Default::default()
                    },
                    Subject::Named { name, digests } => gateway::InTotoSubject {
                        kind: gateway::InTotoSubjectKind::Raw.into(),
                        digest: digests.clone(),
                        name: name.clone(),
                    },
                })
                .collect();
        }
        wire
    }
}

/// The id of a platform in results: its normal form with the version and
/// features of its operating system.
pub fn platform_id(platform: &Platform) -> String {
    platform.normalized().format_all()
}

#[derive(Serialize, Deserialize)]
struct PlatformList {
    #[serde(rename = "Platforms", default)]
    platforms: Vec<ListedPlatform>,
}

#[derive(Serialize, Deserialize)]
struct ListedPlatform {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: PlatformJson,
}

/// A platform in OCI's JSON, and as it is read in the JSON of an op.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub(crate) struct PlatformJson {
    #[serde(alias = "Architecture")]
    architecture: String,
    #[serde(alias = "OS")]
    os: String,
    #[serde(rename = "os.version", alias = "OSVersion", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(rename = "os.features", alias = "OSFeatures", skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(alias = "Variant", skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl From<&Platform> for PlatformJson {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.to_string(),
            os: platform.os.to_string(),
            os_version: platform.os_version.to_string(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.to_string(),
        }
    }
}

impl From<PlatformJson> for Platform {
    fn from(json: PlatformJson) -> Self {
        let mut platform = Self::new(json.os, json.architecture).with_variant(json.variant);
        platform.os_version = json.os_version.into();
        platform.os_features = json.os_features;
        platform
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_platforms_are_joined() {
        let one = |text: &str| BuildResult::default().with_config(text.to_owned());
        let mut first = one("{}").with_platforms(&[Platform::LINUX_AMD64]);
        first.attest(&Platform::LINUX_AMD64, Attestation::default());
        let joined =
            BuildResult::join([(Platform::LINUX_AMD64, first), (Platform::LINUX_ARM_V7, one("[]"))]).unwrap();
        assert!(joined.is_multi_platform());
        let keys: Vec<_> = joined.metadata.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["containerimage.config/linux/amd64", "containerimage.config/linux/arm/v7", "refs.platforms"]
        );
        assert_eq!(joined.platforms().unwrap().len(), 2);
        assert_eq!(joined.attestations.keys().collect::<Vec<_>>(), ["linux/amd64"]);
        assert!(BuildResult::join([(Platform::LINUX_AMD64, joined)]).is_err(), "it has many trees");
    }
}
