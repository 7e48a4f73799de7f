//! From a graph to the bytes a daemon takes: linear, without recursion, the same on every run.

mod exec;
mod file;

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use buildkit_proto::{canonical, pb};
use bytes::{Bytes, BytesMut};

use crate::caps::{Cap, Caps, ServerCaps};
use crate::constraints::{Constraints, OpMetadata};
use crate::definition::{Definition, Entry, SourceInfos};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::exec::{MountPoint, Output};
use crate::graph::{BuildFile, Edge, Op, Vertex};
use crate::platform::Platform;
use crate::source::SourceOp;
use crate::source_map::SourceLocation;
use crate::state::State;

/// What is decided when a graph is marshalled rather than when it is built.
///
/// # Defaults
/// No unique id: two builds with local sources of equal names and options then share their vertices on the
/// daemon. Clients set one per session. No capabilities: the environment of processes is left as it is.
#[derive(Debug, Clone)]
pub struct MarshalOptions {
    /// The platform of ops that have none of their own.
    pub platform: Platform,
    /// Tells local sources of this build apart from those of others.
    pub unique_id: Option<String>,
    /// What the daemon can do; if it does not know where to find commands, processes get a `PATH`.
    pub caps: Option<ServerCaps>,
    /// What holds for every op in addition to its own constraints, which win.
    pub constraints: Constraints,
}

impl MarshalOptions {
    /// Options for a platform.
    pub fn new(platform: Platform) -> Self {
        Self { platform, unique_id: None, caps: None, constraints: Constraints::new() }
    }

    /// The same with a unique id for local sources.
    #[must_use]
    pub fn unique_id(mut self, id: impl Into<String>) -> Self {
        self.unique_id = Some(id.into());
        self
    }

    /// The same with the capabilities of the daemon.
    #[must_use]
    pub fn caps(mut self, caps: ServerCaps) -> Self {
        self.caps = Some(caps);
        self
    }

    /// The same with constraints for every op.
    #[must_use]
    pub fn constraints(mut self, constraints: Constraints) -> Self {
        self.constraints = constraints;
        self
    }
}

impl From<Platform> for MarshalOptions {
    fn from(platform: Platform) -> Self {
        Self::new(platform)
    }
}

impl From<&Platform> for MarshalOptions {
    fn from(platform: &Platform) -> Self {
        Self::new(platform.clone())
    }
}

impl From<&MarshalOptions> for MarshalOptions {
    fn from(options: &MarshalOptions) -> Self {
        options.clone()
    }
}

pub(crate) fn marshal(state: &State, options: &MarshalOptions) -> Result<Definition, Error> {
    let Some(root) = &state.edge else { return Ok(Definition::default()) };
    let mut marshaller = Marshaller::new(options);
    marshaller.walk(root)?;
    marshaller.finish(root)
}

/// Pointers and digests are spread evenly by themselves; nobody chooses them to collide.
#[derive(Default)]
pub(crate) struct SpreadHasher(u64);

impl Hasher for SpreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
}

pub(crate) type SpreadMap<K, V> = HashMap<K, V, BuildHasherDefault<SpreadHasher>>;

struct Marshaller<'a> {
    options: &'a MarshalOptions,
    /// The platform of ops that have none of their own.
    platform: &'a Platform,
    /// Entry of every vertex that is done and may be asked for again.
    done: SpreadMap<*const Vertex, usize>,
    /// The vertex that was done last, and its entry.
    last: (*const Vertex, usize),
    by_digest: ByDigest,
    entries: Vec<Entry>,
    infos: SourceInfos,
    buffer: Vec<u8>,
    arena: BytesMut,
}

enum Visit<'a> {
    /// The flag says that nothing but the op closed next takes the vertex.
    Open(&'a Vertex, bool),
    Close(&'a Vertex, bool),
}

impl<'a> Marshaller<'a> {
    fn new(options: &'a MarshalOptions) -> Self {
        Self {
            options,
            platform: options.constraints.explicit_platform().unwrap_or(&options.platform),
            done: SpreadMap::default(),
            last: (std::ptr::null(), 0),
            by_digest: ByDigest::default(),
            entries: Vec::new(),
            infos: SourceInfos::default(),
            buffer: Vec::new(),
            arena: BytesMut::new(),
        }
    }

    /// Inputs first, in the order of the op; every vertex once.
    fn walk(&mut self, root: &'a Edge) -> Result<(), Error> {
        let mut stack = vec![Visit::Open(&root.vertex, false)];
        let mut inputs = Vec::new();
        while let Some(visit) = stack.pop() {
            match visit {
                Visit::Open(vertex, sole) => {
                    if self.done.contains_key(&std::ptr::from_ref(vertex)) {
                        continue;
                    }
                    stack.push(Visit::Close(vertex, sole));
                    vertex.inputs(&mut inputs);
                    let single = inputs.len() == 1;
                    // An only input that nobody else holds is closed just before its op, and never asked for again.
                    let open = |edge: &'a Edge| {
                        Visit::Open(&edge.vertex, single && Arc::strong_count(&edge.vertex) == 1)
                    };
                    stack.extend(inputs.drain(..).rev().map(open));
                }
                Visit::Close(vertex, sole) => {
                    if sole || !self.done.contains_key(&std::ptr::from_ref(vertex)) {
                        let entry = self.marshal(vertex)?;
                        self.last = (vertex, entry);
                        if !sole {
                            self.done.insert(vertex, entry);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, root: &Edge) -> Result<Definition, Error> {
        let (entry, index) = self.resolve(root)?;
        let terminal = pb::Op { inputs: vec![self.input(entry, index)], ..pb::Op::default() };
        let mut caps: Caps = [Cap::CONSTRAINTS, Cap::PLATFORM].into_iter().collect();
        for entry in &self.entries {
            if entry.metadata.ignore_cache {
                caps.insert(Cap::META_IGNORECACHE);
            }
            if !entry.metadata.description.is_empty() {
                caps.insert(Cap::META_DESCRIPTION);
            }
            if entry.metadata.export_cache.is_some() {
                caps.insert(Cap::META_EXPORTCACHE);
            }
        }
        let bytes = Bytes::from(canonical::encode_op(&terminal));
        let metadata = OpMetadata { caps, ..OpMetadata::default() };
        self.entries.push(Entry::new(Digest::of(&bytes), bytes, metadata, None));
        self.entries.shrink_to_fit();
        Ok(Definition::new(self.entries, self.infos.finish(), true))
    }

    /// The entry and the output index an edge stands for.
    fn resolve(&self, edge: &Edge) -> Result<(usize, i64), Error> {
        let vertex = &*edge.vertex;
        let index = match &vertex.op {
            Op::Exec(op) => match op.mounts.get(edge.slot as usize) {
                Some(MountPoint { output: Output::Index(index), .. }) => i64::from(*index),
                Some(MountPoint { output: Output::Nothing(mount), dest, .. }) => {
                    return Err(fail(vertex, ErrorKind::NoOutput { dest: dest.to_string(), mount }));
                }
                _ => 0,
            },
            _ => i64::from(edge.slot),
        };
        if self.last.0 == std::ptr::from_ref(vertex) {
            return Ok((self.last.1, index));
        }
        match self.done.get(&std::ptr::from_ref(vertex)) {
            Some(entry) => Ok((*entry, index)),
            None => Err(fail(vertex, ErrorKind::Cycle)),
        }
    }

    fn input(&self, entry: usize, index: i64) -> pb::Input {
        let digest = self.entries.get(entry).map(|entry| entry.digest.to_string()).unwrap_or_default();
        pb::Input { digest, index }
    }

    fn marshal(&mut self, vertex: &Vertex) -> Result<usize, Error> {
        let own = vertex.constraints.inner();
        let locations = own.map(|own| own.locations.as_slice()).unwrap_or_default();
        let base = self.options.constraints.inner();
        let mut metadata = match (base, own) {
            (None, None) => OpMetadata::default(),
            (Some(one), None) | (None, Some(one)) => one.metadata.clone(),
            (Some(base), Some(own)) => {
                let mut metadata = base.metadata.clone();
                metadata.merge(&own.metadata);
                metadata
            }
        };
        if let Op::Loaded(op) = &vertex.op {
            return Ok(self.add(op.digest, Some(op.bytes.clone()), op.metadata.clone(), &op.locations));
        }

        let mut op = pb::Op::default();
        let caps = &mut metadata.caps;
        let (body, platform) = match &vertex.op {
            Op::Source(source) => self.source(vertex, source, caps)?,
            Op::Exec(exec) => {
                if metadata.linux_resources.is_some() {
                    caps.insert(Cap::EXEC_META_LINUX_RESOURCES);
                }
                let platform = vertex
                    .constraints
                    .explicit_platform()
                    .or(exec.context.platform.as_deref())
                    .unwrap_or(self.platform);
                (self.exec(vertex, exec, &mut op.inputs, caps)?, Some(platform))
            }
            Op::File(file) => (self.file(vertex, file, &mut op.inputs, caps)?, None),
            Op::Merge(edges) => {
                caps.insert(Cap::MERGEOP);
                op.inputs = self.inputs(edges)?;
                let inputs = (0..).take(edges.len()).map(|input| pb::MergeInput { input }).collect();
                (pb::op::Op::Merge(pb::MergeOp { inputs }), None)
            }
            Op::Diff(diff) => {
                caps.insert(Cap::DIFFOP);
                op.inputs = self.inputs(diff.lower.iter().chain(&diff.upper))?;
                let upper = i64::from(diff.lower.is_some());
                (
                    pb::op::Op::Diff(pb::DiffOp {
                        lower: Some(pb::LowerDiffInput { input: if diff.lower.is_some() { 0 } else { -1 } }),
                        upper: Some(pb::UpperDiffInput {
                            input: if diff.upper.is_some() { upper } else { -1 },
                        }),
                    }),
                    None,
                )
            }
            Op::Passthrough(passthrough) => {
                caps.insert(Cap::PASSTHROUGHOP);
                let handed = (0..).zip(&passthrough.inputs).filter(|(_, (_, output))| *output);
                let outputs: Vec<i64> = handed.map(|(index, _)| index).collect();
                if passthrough.inputs.is_empty() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutInput));
                }
                if passthrough.id.is_empty() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutId));
                }
                if outputs.is_empty() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutOutput));
                }
                op.inputs = self.inputs(passthrough.inputs.iter().map(|(edge, _)| edge))?;
                (pb::op::Op::Passthrough(pb::PassthroughOp { id: passthrough.id.clone(), outputs }), None)
            }
            Op::Build(file) => {
                let BuildFile { input, filename } = &**file;
                caps.insert(Cap::SOURCE_BUILDOP_LLBFILENAME);
                if input.is_none() {
                    return Err(fail(vertex, ErrorKind::BuildWithoutInput));
                }
                op.inputs = self.inputs(input)?;
                let attrs = filename.iter().map(|name| ("llbbuild.filename".to_owned(), name.clone()));
                let build = pb::BuildOp {
                    builder: -1,
                    inputs: [("buildkit.llb.definition".to_owned(), pb::BuildInput { input: 0 })].into(),
                    def: None,
                    attrs: attrs.collect(),
                };
                (pb::op::Op::Build(build), Some(self.platform_of(vertex)))
            }
            Op::Invalid(op) => return Err(fail(vertex, op.kind.clone())),
            Op::Loaded(_) => return Err(fail(vertex, ErrorKind::NoResult)),
        };
        op.op = Some(body);
        op.platform = platform.map(platform_pb);
        let filters = base.iter().chain(&own).flat_map(|inner| inner.filters.iter().cloned());
        op.constraints = Some(pb::WorkerConstraints { filter: filters.collect() });

        self.buffer.clear();
        canonical::encode_op_into(&op, &mut self.buffer);
        let digest = Digest::of(&self.buffer);
        Ok(self.add(digest, None, metadata, locations))
    }

    /// The entry called `digest`, with these bytes or else those of the buffer.
    fn add(
        &mut self,
        digest: Digest,
        bytes: Option<Bytes>,
        metadata: OpMetadata,
        locations: &[SourceLocation],
    ) -> usize {
        let locations: Vec<_> =
            locations.iter().filter_map(|location| self.infos.locate(location, self.options)).collect();
        let entry = self.by_digest.position_or_insert(&self.entries, digest);
        if let Some(known) = self.entries.get_mut(entry) {
            known.metadata.merge(&metadata);
            known.locations.get_or_insert_default().extend(locations);
            return entry;
        }
        let bytes = bytes.unwrap_or_else(|| self.keep());
        self.entries.push(Entry::new(digest, bytes, metadata, Some(locations)));
        entry
    }

    /// The bytes of the buffer, in memory that many ops share.
    fn keep(&mut self) -> Bytes {
        const MOST: usize = 64 << 10;
        if self.arena.capacity() < self.buffer.len() {
            let wanted = (self.entries.len() * 256).clamp(256, MOST).max(self.buffer.len());
            self.arena = BytesMut::with_capacity(wanted);
        }
        self.arena.extend_from_slice(&self.buffer);
        self.arena.split().freeze()
    }

    fn platform_of<'v>(&self, vertex: &'v Vertex) -> &'v Platform
    where
        'a: 'v,
    {
        vertex.constraints.explicit_platform().unwrap_or(self.platform)
    }

    fn inputs<'e>(&self, edges: impl IntoIterator<Item = &'e Edge>) -> Result<Vec<pb::Input>, Error> {
        edges
            .into_iter()
            .map(|edge| self.resolve(edge).map(|(entry, index)| self.input(entry, index)))
            .collect()
    }

    fn source<'v>(
        &self,
        vertex: &'v Vertex,
        source: &SourceOp,
        caps: &mut Caps,
    ) -> Result<(pb::op::Op, Option<&'v Platform>), Error>
    where
        'a: 'v,
    {
        if let Some(error) = &source.error {
            return Err(fail(vertex, error.clone()));
        }
        if source.identifier.is_empty() {
            return Err(fail(vertex, ErrorKind::EmptyIdentifier));
        }
        caps.merge(&source.caps);
        let mut op = pb::SourceOp {
            identifier: source.identifier.clone(),
            attrs: source.attrs.iter().map(|(key, value)| (key.to_string(), value.clone())).collect(),
        };
        if source.unique {
            let given = |constraints: &'_ Constraints| {
                constraints
                    .inner()
                    .and_then(|inner| inner.local_unique_id.clone())
                    .filter(|id| !id.is_empty())
            };
            let own = given(&vertex.constraints).or_else(|| given(&self.options.constraints));
            if let Some(id) = own.or_else(|| self.options.unique_id.clone()) {
                op.attrs.insert("local.unique".to_owned(), id);
                caps.insert(Cap::SOURCE_LOCAL_UNIQUE);
            }
        }
        Ok((pb::op::Op::Source(op), source.platform.then(|| self.platform_of(vertex))))
    }
}

/// Entries by digest. The key is the beginning of the digest, which is enough but for digests that were looked for.
#[derive(Default)]
struct ByDigest {
    prefixes: SpreadMap<u64, u32>,
    /// Digests whose beginning is that of another.
    others: SpreadMap<Digest, usize>,
}

impl ByDigest {
    /// The entry called `digest`, or else the number the next one will have, which is remembered.
    fn position_or_insert(&mut self, entries: &[Entry], digest: Digest) -> usize {
        let next = entries.len();
        let prefix = digest.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        match self.prefixes.entry(prefix) {
            MapEntry::Vacant(slot) => {
                if let Ok(next) = u32::try_from(next) {
                    slot.insert(next);
                }
                next
            }
            MapEntry::Occupied(slot) => {
                let known = *slot.get() as usize;
                if entries.get(known).is_some_and(|entry| entry.digest == digest) {
                    return known;
                }
                *self.others.entry(digest).or_insert(next)
            }
        }
    }
}

/// Inputs without repetition, in the order in which they were first asked for.
#[derive(Default)]
struct InputSet {
    list: Vec<(usize, i64)>,
    /// Only once the list is long.
    index: SpreadMap<(usize, u64), i64>,
}

impl InputSet {
    fn position(&mut self, input: (usize, i64)) -> i64 {
        const LONG: usize = 16;
        let key = |input: &(usize, i64)| (input.0, input.1.cast_unsigned());
        if self.list.len() < LONG {
            if let Some(at) = self.list.iter().position(|known| *known == input) {
                return to_i64(at);
            }
        } else {
            if self.index.is_empty() {
                self.index.extend(self.list.iter().zip(0..).map(|(input, at)| (key(input), at)));
            }
            if let Some(at) = self.index.get(&key(&input)) {
                return *at;
            }
            self.index.insert(key(&input), to_i64(self.list.len()));
        }
        self.list.push(input);
        to_i64(self.list.len() - 1)
    }
}

fn to_i64(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn fail(vertex: &Vertex, kind: ErrorKind) -> Error {
    Error::new(kind, vertex.title(), Some(vertex.site))
}

fn platform_pb(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.to_string(),
        os: platform.os.to_string(),
        variant: platform.variant.to_string(),
        os_version: platform.os_version.to_string(),
        os_features: platform.os_features.clone(),
    }
}
