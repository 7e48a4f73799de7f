//! Files between client and daemon, served by the client.

use crate::bounded::{self, Bounded};
use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

pub use crate::generated::moby::filesync::v1::BytesMessage;
#[cfg(feature = "grpc")]
pub use crate::generated::moby::filesync::v1::{
    file_send_client, file_send_server, file_sync_client, file_sync_server,
};

/// One message of a stream, still encoded.
///
/// `FileSend.DiffCopy` carries [`BytesMessage`] when an exporter writes a
/// file and [`Packet`](crate::fsutil::Packet) when it writes a directory.
/// Only the exporter's owner knows which, so the service hands over the bytes
/// and the owner decodes them.
///
/// ```
/// use buildkit_proto::{filesync::RawMessage, fsutil::Packet};
/// use prost::Message as _;
///
/// let packet = Packet { id: 2, ..Packet::default() };
/// let raw = RawMessage::of(&packet);
/// assert_eq!(RawMessage::decode(&raw.encode_to_vec()[..]).unwrap(), raw);
/// assert_eq!(raw.decode_as::<Packet>().unwrap(), packet);
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RawMessage(pub Bytes);

impl RawMessage {
    /// Encodes `message`.
    pub fn of(message: &impl Message) -> Self {
        Self(message.encode_to_vec().into())
    }

    /// Decodes the bytes; `bytes` fields share the buffer.
    ///
    /// # Errors
    /// When the bytes are not a message of this kind, or one of more than [`MAX_PARTS`](crate::bounded::MAX_PARTS).
    pub fn decode_as<M: Message + Default>(self) -> Result<M, Bounded> {
        bounded::decode(self.0)
    }
}

impl std::fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawMessage({} bytes)", self.0.len())
    }
}

impl Message for RawMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        // Only reached for a RawMessage inside another message, which no
        // contract has: `merge` below takes whole messages.
        prost::encoding::skip_field(wire_type, tag, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        self.0 = buf.copy_to_bytes(buf.remaining());
        Ok(())
    }
}
