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
    let mut out = Vec::with_capacity(op.size());
    op.put(&mut out);
    out
}

/// Appends the canonical bytes of `op` to `out`, for callers that encode many
/// ops into one buffer.
pub fn encode_op_into(op: &Op, out: &mut Vec<u8>) {
    out.reserve(op.size());
    op.put(out);
}

/// The canonical bytes of `definition`: the same definition always gives the
/// same bytes, though the daemon itself does not depend on them.
pub fn encode_definition(definition: &pb::Definition) -> Vec<u8> {
    let mut out = Vec::with_capacity(definition.size());
    definition.put(&mut out);
    out
}

const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// A message written by the rules above, without its own key and length.
trait Canonical {
    fn size(&self) -> usize;
    fn put(&self, out: &mut Vec<u8>);
}

/// Hands messages without maps to prost.
macro_rules! plain {
    ($($message:ty),* $(,)?) => {$(
        impl Canonical for $message {
            fn size(&self) -> usize {
                self.encoded_len()
            }

            fn put(&self, out: &mut Vec<u8>) {
                self.encode_raw(out);
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
    fn size(&self) -> usize {
        messages_size(1, &self.inputs)
            + message_size(10, self.platform.as_ref())
            + message_size(11, self.constraints.as_ref())
            + match &self.op {
                None => 0,
                Some(pb::op::Op::Exec(op)) => message_size(2, Some(op)),
                Some(pb::op::Op::Source(op)) => message_size(3, Some(op)),
                Some(pb::op::Op::File(op)) => message_size(4, Some(op)),
                Some(pb::op::Op::Build(op)) => message_size(5, Some(op)),
                Some(pb::op::Op::Merge(op)) => message_size(6, Some(op)),
                Some(pb::op::Op::Diff(op)) => message_size(7, Some(op)),
                Some(pb::op::Op::Passthrough(op)) => message_size(8, Some(op)),
            }
    }

    fn put(&self, out: &mut Vec<u8>) {
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
    fn size(&self) -> usize {
        bytes_size(1, self.identifier.as_bytes()) + map_size(2, &self.attrs)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.identifier.as_bytes());
        put_map(out, 2, &self.attrs);
    }
}

impl Canonical for pb::BuildOp {
    fn size(&self) -> usize {
        int64_size(1, self.builder)
            + map_size(2, &self.inputs)
            + message_size(3, self.def.as_ref())
            + map_size(4, &self.attrs)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_int64(out, 1, self.builder);
        put_map(out, 2, &self.inputs);
        put_message(out, 3, self.def.as_ref());
        put_map(out, 4, &self.attrs);
    }
}

impl Canonical for pb::Definition {
    fn size(&self) -> usize {
        self.def.iter().map(|op| field_size(1, op.len())).sum::<usize>()
            + map_size(2, &self.metadata)
            + message_size(3, self.source.as_ref())
    }

    fn put(&self, out: &mut Vec<u8>) {
        for op in &self.def {
            put_field(out, 1, op);
        }
        put_map(out, 2, &self.metadata);
        put_message(out, 3, self.source.as_ref());
    }
}

impl Canonical for pb::OpMetadata {
    fn size(&self) -> usize {
        bool_size(1, self.ignore_cache)
            + map_size(2, &self.description)
            + message_size(4, self.export_cache.as_ref())
            + map_size(5, &self.caps)
            + message_size(6, self.progress_group.as_ref())
            + message_size(7, self.linux_resources.as_ref())
    }

    fn put(&self, out: &mut Vec<u8>) {
        if self.ignore_cache {
            put_key(out, 1, VARINT);
            out.push(1);
        }
        put_map(out, 2, &self.description);
        put_message(out, 4, self.export_cache.as_ref());
        put_map(out, 5, &self.caps);
        put_message(out, 6, self.progress_group.as_ref());
        put_message(out, 7, self.linux_resources.as_ref());
    }
}

impl Canonical for pb::Source {
    fn size(&self) -> usize {
        map_size(1, &self.locations) + messages_size(2, &self.infos)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_map(out, 1, &self.locations);
        put_messages(out, 2, &self.infos);
    }
}

impl Canonical for pb::SourceInfo {
    fn size(&self) -> usize {
        bytes_size(1, self.filename.as_bytes())
            + bytes_size(2, &self.data)
            + message_size(3, self.definition.as_ref())
            + bytes_size(4, self.language.as_bytes())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.filename.as_bytes());
        put_bytes(out, 2, &self.data);
        put_message(out, 3, self.definition.as_ref());
        put_bytes(out, 4, self.language.as_bytes());
    }
}

/// The value of a map entry: field 2, written whatever it is.
trait Value {
    fn size(&self) -> usize;
    fn put(&self, out: &mut Vec<u8>);
}

impl Value for String {
    fn size(&self) -> usize {
        field_size(2, self.len())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_field(out, 2, self.as_bytes());
    }
}

impl Value for Bytes {
    fn size(&self) -> usize {
        field_size(2, self.len())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_field(out, 2, self);
    }
}

impl Value for bool {
    fn size(&self) -> usize {
        2
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_key(out, 2, VARINT);
        out.push(u8::from(*self));
    }
}

/// Messages that stand in a map.
macro_rules! map_value {
    ($($message:ty),* $(,)?) => {$(
        impl Value for $message {
            fn size(&self) -> usize {
                message_size(2, Some(self))
            }

            fn put(&self, out: &mut Vec<u8>) {
                put_message(out, 2, Some(self));
            }
        }
    )*};
}

map_value!(pb::BuildInput, pb::OpMetadata, pb::Locations);

fn map_size<V: Value>(field: u32, map: &BTreeMap<String, V>) -> usize {
    map.iter().map(|(key, value)| field_size(field, field_size(1, key.len()) + value.size())).sum()
}

fn put_map<V: Value>(out: &mut Vec<u8>, field: u32, map: &BTreeMap<String, V>) {
    for (key, value) in map {
        put_key(out, field, BYTES);
        put_varint(out, (field_size(1, key.len()) + value.size()) as u64);
        put_field(out, 1, key.as_bytes());
        value.put(out);
    }
}

fn message_size<M: Canonical>(field: u32, message: Option<&M>) -> usize {
    message.map_or(0, |m| field_size(field, m.size()))
}

fn put_message<M: Canonical>(out: &mut Vec<u8>, field: u32, message: Option<&M>) {
    if let Some(message) = message {
        put_key(out, field, BYTES);
        put_varint(out, message.size() as u64);
        message.put(out);
    }
}

fn messages_size<M: Canonical>(field: u32, messages: &[M]) -> usize {
    messages.iter().map(|m| message_size(field, Some(m))).sum()
}

fn put_messages<M: Canonical>(out: &mut Vec<u8>, field: u32, messages: &[M]) {
    for message in messages {
        put_message(out, field, Some(message));
    }
}

fn bytes_size(field: u32, bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { field_size(field, bytes.len()) }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_field(out, field, bytes);
    }
}

fn bool_size(field: u32, value: bool) -> usize {
    if value { key_size(field) + 1 } else { 0 }
}

fn int64_size(field: u32, value: i64) -> usize {
    if value == 0 { 0 } else { key_size(field) + varint_size(value.cast_unsigned()) }
}

fn put_int64(out: &mut Vec<u8>, field: u32, value: i64) {
    if value != 0 {
        put_key(out, field, VARINT);
        put_varint(out, value.cast_unsigned());
    }
}

fn field_size(field: u32, len: usize) -> usize {
    key_size(field) + varint_size(len as u64) + len
}

fn put_field(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_key(out, field, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn key_size(field: u32) -> usize {
    varint_size(u64::from(field) << 3)
}

fn put_key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

fn varint_size(value: u64) -> usize {
    // Seven bits a byte, and one byte for zero.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
