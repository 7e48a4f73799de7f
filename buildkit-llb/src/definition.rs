//! Definitions: graphs as bytes, to send, to store, to look at and to build upon.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use buildkit_proto::{canonical, pb};
use bytes::Bytes;
use prost::Message;

use crate::caps::Caps;
use crate::constraints::{LinuxResources, MetadataIndex, MetadataList, OpMetadata, ProgressGroup};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::graph::Edge;
use crate::marshal::{MarshalOptions, SpreadMap};
use crate::op_bytes::{self, OpBytes, Span};
use crate::platform::Platform;
use crate::source_map::{Origin, Position, Range, SourceLocation, SourceMap};

/// A marshalled graph: ops as bytes, every op after its inputs, and what travels beside them.
///
/// The last op only names the result. Cloning is cheap: bytes are shared.
#[derive(Clone, Default)]
pub struct Definition {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    bytes: OpBytes,
    metadata: MetadataList,
    infos: Vec<SourceMap>,
    has_source: bool,
    /// Made when an op is first asked for by name.
    index: OnceLock<BTreeMap<Digest, usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    bytes: Span,
    /// None if a definition that was read says nothing about the op at all.
    metadata: Option<MetadataIndex>,
    /// Places in the source maps; none if the source says nothing about the op at all.
    pub(crate) locations: Option<Box<[Place]>>,
}

impl Entry {
    pub(crate) fn new(
        digest: Digest,
        bytes: Span,
        metadata: MetadataIndex,
        locations: Option<Box<[Place]>>,
    ) -> Self {
        Self { digest, bytes, metadata: Some(metadata), locations }
    }

    /// Adds what is said about the op where it stands a second time.
    pub(crate) fn merge(&mut self, list: &mut MetadataList, metadata: MetadataIndex, places: Box<[Place]>) {
        let merged = self.metadata.map_or(metadata, |known| list.merge(known, metadata));
        self.metadata = Some(merged);
        if !places.is_empty() {
            let known = self.locations.take().unwrap_or_default();
            self.locations = Some(known.into_iter().chain(places).collect());
        }
    }
}

/// Ranges in one of a definition's source maps.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    map: i32,
    ranges: Arc<[Range]>,
}

/// An op of a definition.
#[derive(Clone, Copy)]
pub struct DefinitionOp<'a> {
    definition: &'a Inner,
    entry: &'a Entry,
}

/// An op of a definition that was read, as the graph keeps it.
pub(crate) struct LoadedOp {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    pub(crate) metadata: OpMetadata,
    pub(crate) locations: Vec<SourceLocation>,
    pub(crate) inputs: Vec<Edge>,
    pub(crate) platform: Option<Platform>,
}

impl Definition {
    pub(crate) fn new(
        entries: Vec<Entry>,
        bytes: OpBytes,
        metadata: MetadataList,
        infos: Vec<SourceMap>,
        has_source: bool,
    ) -> Self {
        let index = OnceLock::new();
        Self { inner: Arc::new(Inner { entries, bytes, metadata, infos, has_source, index }) }
    }

    /// Reads what [`to_bytes`](Self::to_bytes), BuildKit's `buildctl` and other builders write. Ops are kept
    /// as the bytes they are, so that fields of later versions survive and digests stay.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if the bytes are no definition, and [`ErrorKind::MissingSourceMap`].
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let decoded = pb::Definition::decode(bytes.into());
        Self::from_pb(decoded.map_err(|error| Error::definition(ErrorKind::Decode(error.to_string())))?)
    }

    /// Takes a definition from its message.
    ///
    /// # Errors
    /// [`ErrorKind::MissingSourceMap`] if a source location refers to a map that is not there.
    pub fn from_pb(definition: pb::Definition) -> Result<Self, Error> {
        let pb::Definition { def, mut metadata, source } = definition;
        let has_source = source.is_some();
        let pb::Source { mut locations, infos } = source.unwrap_or_default();
        let infos: Vec<SourceMap> = infos.into_iter().map(info_from_pb).collect::<Result<_, _>>()?;
        let mut entries = Vec::with_capacity(def.len());
        let mut kept = op_bytes::Builder::default();
        let mut list = MetadataList::default();
        for bytes in def {
            let digest = Digest::of(&bytes);
            let name = digest.to_string();
            let metadata = metadata.remove(&name);
            let locations = locations.remove(&name).map(|places| {
                places.locations.into_iter().map(|place| place_from_pb(place, infos.len())).collect()
            });
            entries.push(Entry {
                digest,
                bytes: kept.keep(bytes),
                metadata: metadata.map(|metadata| list.add(metadata_from_pb(metadata))),
                locations: locations.transpose()?,
            });
        }
        Ok(Self::new(entries, kept.finish(), list, infos, has_source))
    }

    /// The bytes of the definition's message; the same definition always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::encode_definition(&self.to_pb())
    }

    /// The definition as its message.
    pub fn to_pb(&self) -> pb::Definition {
        let Inner { entries, bytes, metadata, infos, has_source, .. } = &*self.inner;
        let mut out = pb::Definition {
            def: entries.iter().map(|entry| bytes.share(entry.bytes)).collect(),
            ..pb::Definition::default()
        };
        let mut source =
            pb::Source { infos: infos.iter().map(info_to_pb).collect(), ..pb::Source::default() };
        for entry in entries {
            let name = entry.digest.to_string();
            if let Some(places) = &entry.locations {
                let locations = places.iter().map(place_to_pb).collect();
                source.locations.insert(name.clone(), pb::Locations { locations });
            }
            if let Some(at) = entry.metadata {
                out.metadata.insert(name, metadata_to_pb(metadata.get(at)));
            }
        }
        out.source = has_source.then_some(source);
        out
    }

    /// Whether there is nothing to build: the definition of scratch.
    pub fn is_empty(&self) -> bool {
        self.inner.entries.is_empty()
    }

    /// The ops in order; the last one only names the result.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = DefinitionOp<'_>> + DoubleEndedIterator {
        let definition = &*self.inner;
        definition.entries.iter().map(move |entry| DefinitionOp { definition, entry })
    }

    /// The op called `digest`.
    pub fn op(&self, digest: &Digest) -> Option<DefinitionOp<'_>> {
        self.nth(self.position(digest)?)
    }

    /// The vertex that makes the result, and which of its outputs is the result.
    ///
    /// # Errors
    /// [`ErrorKind::NoResult`] or [`ErrorKind::Decode`] for a definition that was read and names none.
    pub fn head(&self) -> Result<Option<(Digest, i64)>, Error> {
        let Some(last) = self.ops().next_back() else { return Ok(None) };
        let message = last.message()?;
        let input = message.inputs.first().ok_or_else(|| Error::definition(ErrorKind::NoResult))?;
        let digest = input.digest.parse().map_err(|_| missing(&input.digest))?;
        Ok(Some((digest, input.index)))
    }

    /// The source files that ops point to.
    pub fn source_maps(&self) -> &[SourceMap] {
        &self.inner.infos
    }

    pub(crate) fn nth(&self, at: usize) -> Option<DefinitionOp<'_>> {
        let definition = &*self.inner;
        definition.entries.get(at).map(|entry| DefinitionOp { definition, entry })
    }

    /// Where the op called `digest` stands.
    pub(crate) fn position(&self, digest: &Digest) -> Option<usize> {
        let entries = &self.inner.entries;
        let number = || entries.iter().enumerate().map(|(at, entry)| (entry.digest, at)).collect();
        self.inner.index.get_or_init(number).get(digest).copied()
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.ops().next_back().map(|op| op.digest());
        f.debug_struct("Definition").field("ops", &self.inner.entries.len()).field("last", &head).finish()
    }
}

impl PartialEq for Definition {
    /// Equal definitions are sent as the same bytes.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.to_pb() == other.to_pb()
    }
}

impl<'a> DefinitionOp<'a> {
    /// What the op is called by.
    pub fn digest(&self) -> Digest {
        self.entry.digest
    }

    /// The op as it is sent.
    pub fn bytes(&self) -> &'a [u8] {
        self.definition.bytes.get(self.entry.bytes)
    }

    /// The op as it is sent, in memory it shares with the definition.
    pub(crate) fn shared_bytes(&self) -> Bytes {
        self.definition.bytes.share(self.entry.bytes)
    }

    /// What travels beside the op.
    pub fn metadata(&self) -> &'a OpMetadata {
        self.entry.metadata.map_or(OpMetadata::NONE, |at| self.definition.metadata.get(at))
    }

    /// The op as its message.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if a definition that was read has other bytes there.
    pub fn message(&self) -> Result<pb::Op, Error> {
        pb::Op::decode(self.shared_bytes()).map_err(|error| {
            Error::new(ErrorKind::Decode(error.to_string()), format!("op {}", self.entry.digest), None)
        })
    }

    /// The lines of source files the op comes from.
    pub fn locations(&self) -> impl Iterator<Item = (&'a SourceMap, &'a [Range])> {
        let infos = &self.definition.infos;
        let places = self.entry.locations.iter().flatten();
        places.filter_map(move |place| Some((infos.get(usize::try_from(place.map).ok()?)?, &*place.ranges)))
    }

    pub(crate) fn has_metadata(&self) -> bool {
        self.entry.metadata.is_some()
    }
}

impl fmt::Debug for DefinitionOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(f)
    }
}

/// Source maps in the order in which ops first point to them, without repetition.
#[derive(Default)]
pub(crate) struct SourceInfos {
    maps: Vec<SourceMap>,
    by_pointer: SpreadMap<usize, i32>,
    /// By name, language, content and what the file's own graph ends in.
    by_content: HashMap<(String, String, Digest, Option<Digest>), i32>,
    /// Keeps the maps of `by_pointer` alive, so that no other takes their place.
    seen: Vec<SourceMap>,
}

impl SourceInfos {
    /// Where the location is in the definition. A file whose own graph cannot be marshalled loses only its
    /// origin: that must not fail the build.
    pub(crate) fn locate(&mut self, location: &SourceLocation, options: &MarshalOptions) -> Option<Place> {
        let pointer = Arc::as_ptr(&location.map.inner).addr();
        let map = if let Some(map) = self.by_pointer.get(&pointer) {
            *map
        } else {
            let map = self.add(&location.map, options)?;
            self.by_pointer.insert(pointer, map);
            self.seen.push(location.map.clone());
            map
        };
        Some(Place { map, ranges: Arc::clone(&location.ranges) })
    }

    fn add(&mut self, map: &SourceMap, options: &MarshalOptions) -> Option<i32> {
        let inner = &map.inner;
        let resolved = match &inner.definition {
            Origin::Unknown | Origin::Loaded(_) => map.clone(),
            Origin::State(state) => {
                let origin = state.marshal(options).map_or(Origin::Unknown, Origin::Loaded);
                SourceMap::build(inner.filename.clone(), inner.language.clone(), inner.data.clone(), origin)
            }
        };
        let origin = match &resolved.inner.definition {
            Origin::Loaded(definition) => definition.ops().next_back().map(|op| op.digest()),
            Origin::Unknown | Origin::State(_) => None,
        };
        let content = Digest::of(&inner.data);
        let next = i32::try_from(self.maps.len()).ok()?;
        let known = *self
            .by_content
            .entry((inner.filename.clone(), inner.language.clone(), content, origin))
            .or_insert(next);
        if known == next {
            self.maps.push(resolved);
        }
        Some(known)
    }

    pub(crate) fn finish(self) -> Vec<SourceMap> {
        self.maps
    }
}

pub(crate) fn missing(digest: &str) -> Error {
    Error::definition(ErrorKind::MissingInput(digest.to_owned()))
}

pub(crate) fn platform_from_pb(platform: pb::Platform) -> Platform {
    Platform {
        os: platform.os.into(),
        architecture: platform.architecture.into(),
        variant: platform.variant.into(),
        os_version: platform.os_version.into(),
        os_features: platform.os_features,
    }
}

fn metadata_from_pb(metadata: pb::OpMetadata) -> OpMetadata {
    let mut caps = Caps::default();
    for (name, value) in metadata.caps {
        caps.insert_named(&name, value);
    }
    OpMetadata {
        ignore_cache: metadata.ignore_cache,
        description: metadata.description,
        export_cache: metadata.export_cache.map(|export| export.value),
        caps,
        progress_group: metadata
            .progress_group
            .map(|group| Arc::new(ProgressGroup { id: group.id, name: group.name, weak: group.weak })),
        linux_resources: metadata.linux_resources.map(|resources| {
            Arc::new(LinuxResources {
                memory: resources.memory,
                memory_swap: resources.memory_swap,
                cpu_shares: resources.cpu_shares,
                cpu_period: resources.cpu_period,
                cpu_quota: resources.cpu_quota,
                cpuset_cpus: resources.cpuset_cpus,
                cpuset_mems: resources.cpuset_mems,
            })
        }),
    }
}

pub(crate) fn metadata_to_pb(metadata: &OpMetadata) -> pb::OpMetadata {
    pb::OpMetadata {
        ignore_cache: metadata.ignore_cache,
        description: metadata.description.clone(),
        export_cache: metadata.export_cache.map(|value| pb::ExportCache { value }),
        caps: metadata.caps.iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        progress_group: metadata.progress_group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        linux_resources: metadata.linux_resources.as_ref().map(|resources| pb::LinuxResources {
            memory: resources.memory,
            memory_swap: resources.memory_swap,
            cpu_shares: resources.cpu_shares,
            cpu_period: resources.cpu_period,
            cpu_quota: resources.cpu_quota,
            cpuset_cpus: resources.cpuset_cpus.clone(),
            cpuset_mems: resources.cpuset_mems.clone(),
        }),
    }
}

fn place_from_pb(place: pb::Location, maps: usize) -> Result<Place, Error> {
    if usize::try_from(place.source_index).is_ok_and(|index| index < maps) {
        let position = |position: Option<pb::Position>| {
            let position = position.unwrap_or_default();
            Position { line: position.line, character: position.character }
        };
        let ranges = place.ranges.into_iter();
        let ranges = ranges.map(|range| Range { start: position(range.start), end: position(range.end) });
        Ok(Place { map: place.source_index, ranges: ranges.collect() })
    } else {
        Err(Error::definition(ErrorKind::MissingSourceMap(place.source_index)))
    }
}

fn place_to_pb(place: &Place) -> pb::Location {
    let position =
        |position: Position| Some(pb::Position { line: position.line, character: position.character });
    let ranges = place.ranges.iter();
    let ranges = ranges.map(|range| pb::Range { start: position(range.start), end: position(range.end) });
    pb::Location { source_index: place.map, ranges: ranges.collect() }
}

fn info_from_pb(info: pb::SourceInfo) -> Result<SourceMap, Error> {
    // Definitions nest only as deep as the decoder allows.
    let definition = info.definition.map(Definition::from_pb).transpose()?;
    let origin = definition.map_or(Origin::Unknown, Origin::Loaded);
    Ok(SourceMap::build(info.filename, info.language, info.data, origin))
}

fn info_to_pb(map: &SourceMap) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: map.inner.filename.clone(),
        data: map.inner.data.clone(),
        definition: match &map.inner.definition {
            Origin::Loaded(definition) => Some(definition.to_pb()),
            Origin::Unknown | Origin::State(_) => None,
        },
        language: map.inner.language.clone(),
    }
}
