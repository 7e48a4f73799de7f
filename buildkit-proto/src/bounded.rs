//! Messages of a peer that are small on the wire and large in memory.
//!
//! Two bytes say "here is an empty step", which takes two hundred in memory. A limit on the length of a message alone
//! lets a peer that is not trusted take a hundred times of it. So what a message is made of is counted too, as it is
//! read: at any depth, and without what is inside of texts and bytes.

use bytes::{Buf, Bytes};
use prost::{DecodeError, Message};

/// The most parts that a message may be made of: tags, lengths, numbers and texts. An honest one of 16 MiB, a list of
/// a hundred thousand cache records, has nearly as many.
pub const MAX_PARTS: usize = 1 << 22;

/// Decodes a message, unless it is made of more than [`MAX_PARTS`]. What it decodes to takes some hundred bytes for
/// each part at most, beside its texts and bytes.
///
/// # Errors
/// [`Bounded::TooManyParts`], and when the bytes are not a message of this kind.
pub fn decode<M: Message + Default>(bytes: impl Buf) -> Result<M, Bounded> {
    decode_within(bytes, MAX_PARTS)
}

/// As [`decode`], with a limit of one's own.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<M: Message + Default>(bytes: impl Buf, parts: usize) -> Result<M, Bounded> {
    let mut counted = Counted { inner: bytes, left: parts };
    let decoded = M::decode(&mut counted);
    if counted.left == 0 { Err(Bounded::TooManyParts(parts)) } else { decoded.map_err(Bounded::Decode) }
}

/// Why a message was not decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Bounded {
    /// It is made of more parts than this.
    TooManyParts(usize),
    /// It is not one.
    Decode(DecodeError),
}

impl std::fmt::Display for Bounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyParts(limit) => write!(f, "the message is made of more than {limit} parts"),
            Self::Decode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Bounded {}

/// Bytes that come to an end when they were taken in too many pieces: each piece is a part of the message.
struct Counted<B> {
    inner: B,
    left: usize,
}

impl<B: Buf> Buf for Counted<B> {
    fn remaining(&self) -> usize {
        if self.left == 0 { 0 } else { self.inner.remaining() }
    }

    fn chunk(&self) -> &[u8] {
        if self.left == 0 { &[] } else { self.inner.chunk() }
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(1);
        self.inner.advance(count);
    }

    // What the bytes can do without copying, they still can.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.left = self.left.saturating_sub(1);
        self.inner.copy_to_bytes(len)
    }
}

#[cfg(feature = "grpc")]
pub use grpc::BoundedCodec;

#[cfg(feature = "grpc")]
mod grpc {
    use super::{Bounded, decode};
    use bytes::Buf as _;
    use prost::Message;
    use std::marker::PhantomData;
    use tonic::codec::{Codec, DecodeBuf, Decoder};
    use tonic::{Code, Status};
    use tonic_prost::ProstEncoder;

    /// Reads messages with [`decode`]; what all clients and servers of this crate use.
    #[derive(Debug)]
    pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

    impl<T, U> Default for BoundedCodec<T, U> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<T, U> Codec for BoundedCodec<T, U>
    where
        T: Message + Send + 'static,
        U: Message + Default + Send + 'static,
    {
        type Encode = T;
        type Decode = U;
        type Encoder = ProstEncoder<T>;
        type Decoder = BoundedDecoder<U>;

        fn encoder(&mut self) -> Self::Encoder {
            ProstEncoder::default()
        }

        fn decoder(&mut self) -> Self::Decoder {
            BoundedDecoder(PhantomData)
        }
    }

    /// The half of [`BoundedCodec`] that reads.
    #[derive(Debug)]
    pub struct BoundedDecoder<U>(PhantomData<U>);

    impl<U: Message + Default> Decoder for BoundedDecoder<U> {
        type Item = U;
        type Error = Status;

        fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
            let len = bytes.remaining();
            decode(bytes).map(Some).map_err(|error| match error {
                // The code of messages that are too long.
                Bounded::TooManyParts(_) => Status::new(Code::OutOfRange, format!("{error}, in {len} bytes")),
                Bounded::Decode(error) => Status::internal(error.to_string()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{StatusResponse, Vertex};

    #[test]
    fn parts_are_counted_at_any_depth_and_texts_are_one() {
        let text = "\n\0".repeat(10_000);
        let status = |inputs: usize| {
            let vertex =
                Vertex { name: text.clone(), inputs: vec![String::new(); inputs], ..Vertex::default() };
            StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }
        };
        for (inputs, taken) in [(0, true), (10, true), (100, false)] {
            let bytes = status(inputs).encode_to_vec();
            let decoded = decode_within::<StatusResponse>(&bytes[..], 100);
            let expected = if taken { Ok(status(inputs)) } else { Err(Bounded::TooManyParts(100)) };
            assert_eq!(decoded, expected, "{inputs}");
        }
    }

    #[test]
    fn a_message_within_the_limit_is_decoded_as_ever() {
        let status = StatusResponse { vertexes: vec![Vertex::default(); 1000], ..StatusResponse::default() };
        let bytes = status.encode_to_vec();
        assert_eq!(decode(&bytes[..]), Ok(status));
        let cut = bytes.get(..bytes.len() - 1).unwrap_or_default();
        assert!(matches!(decode::<StatusResponse>(cut), Err(Bounded::Decode(_))));
        assert!(matches!(decode::<StatusResponse>(&[0xff; 20][..]), Err(Bounded::Decode(_))));
        // Wherever the limit falls, what is left out is told.
        for limit in 1..2000 {
            assert!(decode_within::<StatusResponse>(&bytes[..], limit).is_err(), "{limit}");
        }
    }

    #[test]
    fn bytes_are_shared_with_the_message_that_they_came_in() {
        let bytes = Bytes::from(
            crate::fsutil::Packet { data: vec![7; 1000].into(), ..Default::default() }.encode_to_vec(),
        );
        let packet: crate::fsutil::Packet = decode(bytes.clone()).unwrap();
        assert!(bytes.as_ptr_range().contains(&packet.data.as_ptr()));
    }
}
