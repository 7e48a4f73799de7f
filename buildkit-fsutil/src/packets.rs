//! The packets both sides exchange, and where to put them.

use std::future::Future;
use std::time::Duration;

use buildkit_proto::fsutil::Packet;
use buildkit_proto::fsutil::packet::PacketType;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::{ProtocolError, TransferError};

/// Where packets go: a channel, in front of whatever carries them.
pub trait PacketSink: Send {
    /// Waits until there is room for a packet, then hands it over. An error says that nobody takes packets any more.
    fn send(&mut self, packet: Packet) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

/// Nobody takes packets any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkClosed;

impl PacketSink for mpsc::Sender<Packet> {
    async fn send(&mut self, packet: Packet) -> Result<(), SinkClosed> {
        mpsc::Sender::send(self, packet).await.map_err(|_| SinkClosed)
    }
}

impl<E: Send> PacketSink for mpsc::Sender<Result<Packet, E>> {
    async fn send(&mut self, packet: Packet) -> Result<(), SinkClosed> {
        mpsc::Sender::send(self, Ok(packet)).await.map_err(|_| SinkClosed)
    }
}

impl From<SinkClosed> for TransferError {
    fn from(_: SinkClosed) -> Self {
        Self::Ended
    }
}

pub(crate) fn packet(kind: PacketType, id: u32, data: Bytes) -> Packet {
    Packet { r#type: kind.into(), id, data, stat: None }
}

pub(crate) fn kind(packet: &Packet) -> Result<PacketType, ProtocolError> {
    PacketType::try_from(packet.r#type).map_err(|_| ProtocolError::Packet(packet.r#type))
}

/// Tells the other side why this one gives up, unless it was the other side's own doing. A peer that takes nothing
/// any more is not waited for.
pub(crate) async fn tell_failure(outgoing: &mut impl PacketSink, error: &TransferError) {
    if matches!(error, TransferError::Peer { .. } | TransferError::Ended | TransferError::Stream(_)) {
        return;
    }
    let packet = packet(PacketType::PacketErr, 0, error.for_peer().into());
    let _ = tokio::time::timeout(Duration::from_secs(1), outgoing.send(packet)).await;
}
