//! From a graph to the bytes a daemon takes: linear, without recursion, the same on every run.

mod exec;
mod file;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use buildkit_proto::canonical::Writer;

use crate::caps::{Cap, Caps, ServerCaps};
use crate::constraints::{Constraints, MetadataList, OpMetadata};
use crate::definition::{Definition, Entry, SourceInfos};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::exec::{MountPoint, Output};
use crate::graph::{BuildFile, Edge, Op, Vertex};
use crate::op_bytes::{self, Span};
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

/// For keys that are spread evenly by themselves and that nobody can choose to collide in great number: pointers, the
/// first four bytes of digests.
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
    known: Known,
    entries: Vec<Entry>,
    infos: SourceInfos,
    metadata: MetadataList,
    scratch: Scratch,
    bytes: op_bytes::Builder,
}

/// Memory that every op begins with anew.
#[derive(Default)]
struct Scratch {
    /// The op as it is written.
    out: Writer,
    /// What the op takes.
    inputs: InputSet,
    /// Which of the inputs each edge of the op is.
    positions: Vec<i64>,
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
            known: Known::default(),
            entries: Vec::new(),
            infos: SourceInfos::default(),
            metadata: MetadataList::default(),
            scratch: Scratch::default(),
            bytes: op_bytes::Builder::default(),
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
                        if self.entries.len() == self.entries.capacity() {
                            // What is open will nearly all be entered.
                            self.entries.reserve(stack.len() + 2);
                            self.known.followers.reserve(stack.len() + 2);
                        }
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
        let head = self.resolve(root)?;
        let mut terminal = Writer::new();
        self.inputs(&mut terminal, &[head]);
        let mut caps: Caps = [Cap::CONSTRAINTS, Cap::PLATFORM].into_iter().collect();
        for metadata in self.metadata.iter() {
            if metadata.ignore_cache {
                caps.insert(Cap::META_IGNORECACHE);
            }
            if !metadata.description.is_empty() {
                caps.insert(Cap::META_DESCRIPTION);
            }
            if metadata.export_cache.is_some() {
                caps.insert(Cap::META_EXPORTCACHE);
            }
        }
        let metadata = self.metadata.add(OpMetadata { caps, ..OpMetadata::default() });
        let (digest, bytes) = (Digest::of(terminal.as_bytes()), self.bytes.copy(terminal.as_bytes()));
        self.entries.push(Entry::new(digest, bytes, metadata, None));
        self.entries.shrink_to_fit();
        Ok(Definition::new(self.entries, self.bytes.finish(), self.metadata, self.infos.finish(), true))
    }

    /// The entry and the output index an edge stands for.
    fn resolve(&self, edge: &Edge) -> Result<(usize, i64), Error> {
        let vertex = &*edge.vertex;
        let index = match &vertex.op {
            Op::Exec(op) => match op.mounts.get(edge.slot as usize) {
                Some(MountPoint { output: Output::Index(index), .. }) => i64::from(*index),
                Some(MountPoint { output: Output::Nothing(mount), dest, .. }) => {
                    let (dest, mount) = (dest.to_string(), mount.name());
                    return Err(fail(vertex, ErrorKind::NoOutput { dest, mount }));
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

    fn marshal(&mut self, vertex: &Vertex) -> Result<usize, Error> {
        let own = vertex.constraints.inner();
        let locations = own.map(|own| own.locations.as_slice()).unwrap_or_default();
        if let Op::Loaded(op) = &vertex.op {
            let mut last = None;
            for edge in &op.inputs {
                last = last.max(Some(self.resolve(edge)?.0));
            }
            let metadata = op.metadata.clone();
            let bytes = |bytes: &mut op_bytes::Builder| bytes.keep(op.bytes.clone());
            return Ok(self.add(op.digest, last, metadata, &op.locations, bytes));
        }
        let mut metadata = match (self.options.constraints.inner(), own) {
            (None, None) => OpMetadata::default(),
            (Some(one), None) | (None, Some(one)) => one.metadata.clone(),
            (Some(base), Some(own)) => {
                let mut metadata = base.metadata.clone();
                metadata.merge(&own.metadata);
                metadata
            }
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.write(vertex, &mut scratch, &mut metadata)?;
        let digest = Digest::of(scratch.out.as_bytes());
        let last = scratch.inputs.list.iter().map(|(entry, _)| *entry).max();
        let entry = self.add(digest, last, metadata, locations, |bytes| bytes.copy(scratch.out.as_bytes()));
        self.scratch = scratch;
        Ok(entry)
    }

    /// Writes an op, field by field: the numbers are those of `ops.proto`.
    fn write(&self, vertex: &Vertex, scratch: &mut Scratch, metadata: &mut OpMetadata) -> Result<(), Error> {
        let caps = &mut metadata.caps;
        match &vertex.op {
            Op::Source(source) => self.source(vertex, source, &mut scratch.out, caps)?,
            Op::Exec(exec) => {
                if metadata.linux_resources.is_some() {
                    caps.insert(Cap::EXEC_META_LINUX_RESOURCES);
                }
                self.exec(vertex, exec, scratch, caps)?;
            }
            Op::File(file) => self.file(vertex, file, scratch, caps)?,
            Op::Merge(edges) => {
                caps.insert(Cap::MERGEOP);
                let out = self.begin(vertex, edges, None, scratch)?;
                out.message(6, |merge| {
                    for input in 0..to_i64(edges.len()) {
                        merge.message(1, |out| out.int(1, input));
                    }
                });
            }
            Op::Diff(diff) => {
                caps.insert(Cap::DIFFOP);
                let out = self.begin(vertex, diff.lower.iter().chain(&diff.upper), None, scratch)?;
                let upper = i64::from(diff.lower.is_some());
                out.message(7, |out| {
                    out.message(1, |out| out.int(1, if diff.lower.is_some() { 0 } else { -1 }));
                    out.message(2, |out| out.int(1, if diff.upper.is_some() { upper } else { -1 }));
                });
            }
            Op::Passthrough(passthrough) => {
                caps.insert(Cap::PASSTHROUGHOP);
                let handed = (0_i64..).zip(&passthrough.inputs).filter(|(_, (_, output))| *output);
                let mut outputs = handed.map(|(index, _)| index).peekable();
                if passthrough.inputs.is_empty() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutInput));
                }
                if passthrough.id.is_empty() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutId));
                }
                if outputs.peek().is_none() {
                    return Err(fail(vertex, ErrorKind::PassthroughWithoutOutput));
                }
                let edges = passthrough.inputs.iter().map(|(edge, _)| edge);
                let out = self.begin(vertex, edges, None, scratch)?;
                out.message(8, |out| {
                    out.bytes(1, &passthrough.id);
                    out.packed(2, outputs);
                });
            }
            Op::Build(file) => {
                let BuildFile { input, filename } = &**file;
                caps.insert(Cap::SOURCE_BUILDOP_LLBFILENAME);
                if input.is_none() {
                    return Err(fail(vertex, ErrorKind::BuildWithoutInput));
                }
                let out = self.begin(vertex, input, Some(self.platform_of(vertex)), scratch)?;
                out.message(5, |out| {
                    out.int(1, -1);
                    out.message(2, |input| {
                        input.item(1, "buildkit.llb.definition");
                        // The first input of the op: a message without fields.
                        input.message(2, |_| ());
                    });
                    if let Some(name) = filename {
                        out.entry(4, "llbbuild.filename", name);
                    }
                });
            }
            Op::Invalid(op) => return Err(fail(vertex, op.kind.clone())),
            Op::Loaded(_) => return Err(fail(vertex, ErrorKind::NoResult)),
        }
        Ok(())
    }

    /// The entry called `digest`, which takes the entry `last` and nothing later; its bytes are asked for only if it
    /// is new.
    fn add(
        &mut self,
        digest: Digest,
        last: Option<usize>,
        metadata: OpMetadata,
        locations: &[SourceLocation],
        bytes: impl FnOnce(&mut op_bytes::Builder) -> Span,
    ) -> usize {
        let locations =
            locations.iter().filter_map(|location| self.infos.locate(location, self.options)).collect();
        let metadata = self.metadata.add(metadata);
        let entry = self.known.position_or_insert(&self.entries, digest, last);
        if let Some(known) = self.entries.get_mut(entry) {
            known.merge(&mut self.metadata, metadata, locations);
        } else {
            let bytes = bytes(&mut self.bytes);
            self.entries.push(Entry::new(digest, bytes, metadata, Some(locations)));
        }
        entry
    }

    fn platform_of<'v>(&self, vertex: &'v Vertex) -> &'v Platform
    where
        'a: 'v,
    {
        vertex.constraints.explicit_platform().unwrap_or(self.platform)
    }

    /// Writes what comes before the body of an op whose inputs are `edges`.
    fn begin<'s, 'e>(
        &self,
        vertex: &Vertex,
        edges: impl IntoIterator<Item = &'e Edge>,
        platform: Option<&Platform>,
        scratch: &'s mut Scratch,
    ) -> Result<&'s mut Writer, Error> {
        for edge in edges {
            scratch.inputs.list.push(self.resolve(edge)?);
        }
        self.head(&mut scratch.out, vertex, &scratch.inputs.list, platform);
        Ok(&mut scratch.out)
    }

    /// Inputs, platform and constraints, which stand before the body of every op.
    fn head(&self, out: &mut Writer, vertex: &Vertex, inputs: &[(usize, i64)], platform: Option<&Platform>) {
        self.inputs(out, inputs);
        if let Some(platform) = platform {
            out.message(10, |out| {
                out.bytes(1, &*platform.architecture);
                out.bytes(2, &*platform.os);
                out.bytes(3, &*platform.variant);
                out.bytes(4, &*platform.os_version);
                out.items(5, &platform.os_features);
            });
        }
        out.message(11, |out| {
            for constraints in [&self.options.constraints, &vertex.constraints] {
                if let Some(inner) = constraints.inner() {
                    out.items(1, &inner.filters);
                }
            }
        });
    }

    fn inputs(&self, out: &mut Writer, inputs: &[(usize, i64)]) {
        for (entry, index) in inputs {
            out.message(1, |out| {
                if let Some(entry) = self.entries.get(*entry) {
                    out.bytes(1, entry.digest.text());
                }
                out.int(2, *index);
            });
        }
    }

    fn source(
        &self,
        vertex: &Vertex,
        source: &SourceOp,
        out: &mut Writer,
        caps: &mut Caps,
    ) -> Result<(), Error> {
        if let Some(error) = &source.error {
            return Err(fail(vertex, error.clone()));
        }
        if source.identifier.is_empty() {
            return Err(fail(vertex, ErrorKind::EmptyIdentifier));
        }
        caps.merge(&source.caps);
        let mut attrs: BTreeMap<&str, &str> =
            source.attrs.iter().map(|(key, value)| (&**key, value.as_str())).collect();
        if source.unique {
            let given = |constraints: &'a Constraints| constraints.inner()?.local_unique_id.as_deref();
            let own = vertex.constraints.inner().and_then(|inner| inner.local_unique_id.as_deref());
            let own = own.filter(|id| !id.is_empty());
            let all = || given(&self.options.constraints).filter(|id| !id.is_empty());
            if let Some(id) = own.or_else(all).or(self.options.unique_id.as_deref()) {
                attrs.insert("local.unique", id);
                caps.insert(Cap::SOURCE_LOCAL_UNIQUE);
            }
        }
        self.head(out, vertex, &[], source.platform.then(|| self.platform_of(vertex)));
        out.message(3, |out| {
            out.bytes(1, &source.identifier);
            for (key, value) in attrs {
                out.entry(2, key, value);
            }
        });
        Ok(())
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.out.clear();
        self.inputs.clear();
        self.positions.clear();
    }
}

/// Finds an op that stands in the definition already.
///
/// Equal ops take the same inputs. So the first op that takes what was entered last is remembered there, beside it,
/// and only further ones are looked for by digest: a chain of ops never leaves the memory it has just used.
#[derive(Default)]
struct Known {
    /// For every entry the first entry that takes it and nothing later; 0 for none, as the first takes nothing.
    followers: Vec<u32>,
    /// The others. The key is the beginning of the digest, which is enough for nearly all.
    prefixes: SpreadMap<u32, u32>,
    /// Digests whose beginning is that of another.
    others: BTreeMap<Digest, usize>,
}

impl Known {
    /// The entry called `digest`, which takes `last` and nothing later, or else the number the next one will have,
    /// which is remembered.
    fn position_or_insert(&mut self, entries: &[Entry], digest: Digest, last: Option<usize>) -> usize {
        let next = entries.len();
        let Ok(number) = u32::try_from(next) else { return next };
        let is = |at: u32| entries.get(at as usize).is_some_and(|entry| entry.digest == digest);
        if let Some(last) = last {
            if self.followers.len() <= last {
                self.followers.resize(next, 0);
            }
            match self.followers.get_mut(last) {
                Some(first) if *first == 0 => {
                    *first = number;
                    return next;
                }
                Some(first) if is(*first) => return *first as usize,
                _ => {}
            }
        }
        let prefix = digest.as_bytes().first_chunk().map_or(0, |first| u32::from_le_bytes(*first));
        match self.prefixes.entry(prefix) {
            MapEntry::Vacant(slot) => {
                slot.insert(number);
                next
            }
            MapEntry::Occupied(slot) if is(*slot.get()) => *slot.get() as usize,
            MapEntry::Occupied(_) => *self.others.entry(digest).or_insert(next),
        }
    }
}

/// Inputs without repetition, in the order in which they were first asked for.
#[derive(Default)]
struct InputSet {
    list: Vec<(usize, i64)>,
    /// Only once the list is long.
    index: BTreeMap<(usize, i64), i64>,
}

impl InputSet {
    fn clear(&mut self) {
        self.list.clear();
        self.index.clear();
    }

    fn position(&mut self, input: (usize, i64)) -> i64 {
        const LONG: usize = 16;
        if self.list.len() < LONG {
            if let Some(at) = self.list.iter().position(|known| *known == input) {
                return to_i64(at);
            }
        } else {
            if self.index.is_empty() {
                self.index.extend(self.list.iter().copied().zip(0..));
            }
            if let Some(at) = self.index.get(&input) {
                return *at;
            }
            self.index.insert(input, to_i64(self.list.len()));
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
