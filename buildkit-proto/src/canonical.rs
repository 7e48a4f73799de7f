//! The bytes a vertex digest is made of.
//!
//! A vertex is called after the SHA-256 of its encoded [`Op`], so an encoder
//! must agree with the daemon's to the byte. The daemon's differs from
//! prost's in two ways: members of a oneof come after all other fields, and
//! map entries always write both key and value, sorted by key. Field order,
//! packing, omitted zeros and empty sub-messages are the same, so only the
//! messages that hold a map, and `Op` itself, are written here; the rest is
//! left to prost.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::pb;
use crate::pb::Op;

/// The canonical bytes of `op`.
pub fn encode_op(op: &Op) -> Vec<u8> {
    let mut out = Writer::new();
    op.put(&mut out);
    out.out
}

/// The canonical bytes of `definition`: the same definition always gives the
/// same bytes, though the daemon itself does not depend on them.
pub fn encode_definition(definition: &pb::Definition) -> Vec<u8> {
    let ops: usize = definition.def.iter().map(|op| op.len() + 5).sum();
    let mut out = Writer::with_capacity(ops);
    definition.put(&mut out);
    out.out
}

const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// Writes a message field by field, for callers that need not build the
/// message first. The fields of the canonical form are in the order of their
/// numbers, those of a oneof last.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// A writer of an empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer of an empty message, with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.out
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Begins again, with the memory it has.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// A text or bytes; left out if empty.
    #[inline]
    pub fn bytes(&mut self, field: u32, bytes: impl AsRef<[u8]>) {
        if !bytes.as_ref().is_empty() {
            self.item(field, bytes);
        }
    }

    /// A text or bytes of a list or a oneof, which are written even if empty.
    #[inline]
    pub fn item(&mut self, field: u32, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.key(field, BYTES);
        self.varint(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// A text of a list, given in parts.
    pub fn joined<const N: usize>(&mut self, field: u32, parts: [&str; N]) {
        self.key(field, BYTES);
        self.varint(parts.iter().map(|part| part.len() as u64).sum());
        for part in parts {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    /// Fields that were written before.
    pub fn fields(&mut self, written: &[u8]) {
        self.out.extend_from_slice(written);
    }

    /// Every text of a list.
    pub fn items(&mut self, field: u32, texts: &[String]) {
        for text in texts {
            self.item(field, text);
        }
    }

    /// A value of an enumeration; left out if zero.
    pub fn enumeration(&mut self, field: u32, value: impl Into<i32>) {
        self.int(field, value.into());
    }

    /// A signed number of any width; left out if zero.
    #[inline]
    pub fn int(&mut self, field: u32, value: impl Into<i64>) {
        self.uint(field, value.into().cast_unsigned());
    }

    /// An unsigned number of any width; left out if zero.
    #[inline]
    pub fn uint(&mut self, field: u32, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.choice(field, value);
        }
    }

    /// An unsigned number of a oneof, which is written even if zero.
    #[inline]
    pub fn choice(&mut self, field: u32, value: impl Into<u64>) {
        self.key(field, VARINT);
        self.varint(value.into());
    }

    /// A flag; left out if false.
    #[inline]
    pub fn flag(&mut self, field: u32, value: bool) {
        self.uint(field, u64::from(value));
    }

    /// Numbers of any width in a list; left out if there is none.
    pub fn packed(&mut self, field: u32, values: impl IntoIterator<Item = impl Into<i64>>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_some() {
            self.message(field, |out| {
                for value in values {
                    out.varint(value.into().cast_unsigned());
                }
            });
        }
    }

    /// An entry of a map of texts.
    pub fn entry(&mut self, field: u32, key: &str, value: &str) {
        self.message(field, |entry| {
            entry.item(1, key);
            entry.item(2, value);
        });
    }

    /// A message, written even if empty.
    #[inline]
    pub fn message(&mut self, field: u32, content: impl FnOnce(&mut Self)) {
        self.key(field, BYTES);
        let at = self.out.len();
        // One byte is enough for most lengths.
        self.out.push(0);
        content(self);
        let len = self.out.len() - at - 1;
        match (u8::try_from(len), self.out.get_mut(at)) {
            (Ok(short @ ..0x80), Some(place)) => *place = short,
            _ => self.widen(at, len),
        }
    }

    /// Moves what follows `at` to make room for a long length.
    fn widen(&mut self, at: usize, len: usize) {
        let mut length = Self::new();
        length.varint(len as u64);
        self.out.splice(at..=at, length.out);
    }

    #[inline]
    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.out.push(value.to_le_bytes()[0]);
    }
}

/// A message written by the rules above, without its own key and length.
trait Canonical {
    fn put(&self, out: &mut Writer);
}

/// Hands messages without maps to prost.
macro_rules! plain {
    ($($message:ty),* $(,)?) => {$(
        impl Canonical for $message {
            fn put(&self, out: &mut Writer) {
                self.encode_raw(&mut out.out);
            }
        }
    )*};
}

plain!(
    pb::Input,
    pb::Platform,
    pb::WorkerConstraints,
    pb::ExecOp,
    pb::FileOp,
    pb::MergeOp,
    pb::DiffOp,
    pb::PassthroughOp,
    pb::BuildInput,
    pb::ExportCache,
    pb::ProgressGroup,
    pb::LinuxResources,
    pb::Locations,
);

impl Canonical for Op {
    fn put(&self, out: &mut Writer) {
        put_messages(out, 1, &self.inputs);
        put_message(out, 10, self.platform.as_ref());
        put_message(out, 11, self.constraints.as_ref());
        match &self.op {
            None => {}
            Some(pb::op::Op::Exec(op)) => put_message(out, 2, Some(op)),
            Some(pb::op::Op::Source(op)) => put_message(out, 3, Some(op)),
            Some(pb::op::Op::File(op)) => put_message(out, 4, Some(op)),
            Some(pb::op::Op::Build(op)) => put_message(out, 5, Some(op)),
            Some(pb::op::Op::Merge(op)) => put_message(out, 6, Some(op)),
            Some(pb::op::Op::Diff(op)) => put_message(out, 7, Some(op)),
            Some(pb::op::Op::Passthrough(op)) => put_message(out, 8, Some(op)),
        }
    }
}

impl Canonical for pb::SourceOp {
    fn put(&self, out: &mut Writer) {
        out.bytes(1, &self.identifier);
        put_map(out, 2, &self.attrs);
    }
}

impl Canonical for pb::BuildOp {
    fn put(&self, out: &mut Writer) {
        out.int(1, self.builder);
        put_map(out, 2, &self.inputs);
        put_message(out, 3, self.def.as_ref());
        put_map(out, 4, &self.attrs);
    }
}

impl Canonical for pb::Definition {
    fn put(&self, out: &mut Writer) {
        for op in &self.def {
            out.item(1, op);
        }
        put_map(out, 2, &self.metadata);
        put_message(out, 3, self.source.as_ref());
    }
}

impl Canonical for pb::OpMetadata {
    fn put(&self, out: &mut Writer) {
        out.flag(1, self.ignore_cache);
        put_map(out, 2, &self.description);
        put_message(out, 4, self.export_cache.as_ref());
        put_map(out, 5, &self.caps);
        put_message(out, 6, self.progress_group.as_ref());
        put_message(out, 7, self.linux_resources.as_ref());
    }
}

impl Canonical for pb::Source {
    fn put(&self, out: &mut Writer) {
        put_map(out, 1, &self.locations);
        put_messages(out, 2, &self.infos);
    }
}

impl Canonical for pb::SourceInfo {
    fn put(&self, out: &mut Writer) {
        out.bytes(1, &self.filename);
        out.bytes(2, &self.data);
        put_message(out, 3, self.definition.as_ref());
        out.bytes(4, &self.language);
    }
}

/// The value of a map entry: field 2, written whatever it is.
trait Value {
    fn put(&self, out: &mut Writer);
}

impl Value for String {
    fn put(&self, out: &mut Writer) {
        out.item(2, self);
    }
}

impl Value for Bytes {
    fn put(&self, out: &mut Writer) {
        out.item(2, self);
    }
}

impl Value for bool {
    fn put(&self, out: &mut Writer) {
        out.choice(2, *self);
    }
}

/// Messages that stand in a map.
macro_rules! map_value {
    ($($message:ty),* $(,)?) => {$(
        impl Value for $message {
            fn put(&self, out: &mut Writer) {
                put_message(out, 2, Some(self));
            }
        }
    )*};
}

map_value!(pb::BuildInput, pb::OpMetadata, pb::Locations);

fn put_map<V: Value>(out: &mut Writer, field: u32, map: &BTreeMap<String, V>) {
    for (key, value) in map {
        out.message(field, |entry| {
            entry.item(1, key);
            value.put(entry);
        });
    }
}

fn put_message<M: Canonical>(out: &mut Writer, field: u32, message: Option<&M>) {
    if let Some(message) = message {
        out.message(field, |out| message.put(out));
    }
}

fn put_messages<M: Canonical>(out: &mut Writer, field: u32, messages: &[M]) {
    for message in messages {
        put_message(out, field, Some(message));
    }
}
