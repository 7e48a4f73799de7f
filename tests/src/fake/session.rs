//! A client's session, seen from the daemon: calls into the client, as the real daemon makes them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use buildkit_proto::auth::auth_client::AuthClient;
use buildkit_proto::auth::{CredentialsRequest, CredentialsResponse};
use buildkit_proto::control::BytesMessage;
use buildkit_proto::filesync::RawMessage;
use buildkit_proto::filesync::file_send_client::FileSendClient;
use buildkit_proto::filesync::file_sync_client::FileSyncClient;
use buildkit_proto::fsutil::packet::PacketType;
use buildkit_proto::fsutil::{Packet, Stat};
use buildkit_proto::health::health_client::HealthClient;
use buildkit_proto::health::{HealthCheckRequest, HealthCheckResponse};
use buildkit_proto::secrets::GetSecretRequest;
use buildkit_proto::secrets::secrets_client::SecretsClient;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

use super::Shared;

/// An open session of a client.
#[derive(Clone)]
pub struct Session {
    channel: Channel,
    metadata: MetadataMap,
    over: CancellationToken,
}

/// A file tree on its way, packet by packet, for tests that do not keep to the protocol.
#[derive(Debug)]
pub struct Transfer {
    /// What the daemon says; dropping it half-closes.
    pub out: mpsc::Sender<Packet>,
    /// What the client says.
    pub packets: Streaming<Packet>,
}

/// A file or folder that a client has sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// As sent.
    pub stat: Stat,
    /// The content, where it was a file with content of its own.
    pub data: Option<Bytes>,
}

impl Session {
    /// The connection to the client's services, for calls that have no method here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Ends the session, as a daemon does that has lost it: calls in it break off.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// The headers with which the client opened the session.
    pub fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// The methods that the client says it offers.
    pub fn methods(&self) -> Vec<String> {
        let all = self.metadata.get_all("x-docker-expose-session-grpc-method");
        all.iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    }

    /// Asks for the session's health.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn health(&self) -> Result<HealthCheckResponse, Status> {
        let answer = HealthClient::new(self.channel()).check(HealthCheckRequest::default()).await?;
        Ok(answer.into_inner())
    }

    /// Asks for the credentials of a registry.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn credentials(&self, host: &str) -> Result<CredentialsResponse, Status> {
        let request = CredentialsRequest { host: host.to_owned() };
        Ok(AuthClient::new(self.channel()).credentials(request).await?.into_inner())
    }

    /// Asks for a secret.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn secret(&self, id: &str) -> Result<Bytes, Status> {
        let request = GetSecretRequest { id: id.to_owned(), ..Default::default() };
        Ok(SecretsClient::new(self.channel()).get_secret(request).await?.into_inner().data)
    }

    /// Fetches a local source whole, as the real daemon would.
    ///
    /// # Errors
    /// What the client answers, and `Aborted` with its text when it sends an error packet.
    pub async fn pull(&self, dir: &str) -> Result<Vec<Entry>, Status> {
        self.pull_with(dir, &[]).await
    }

    /// Fetches a local source with more headers: `include-patterns`, `exclude-patterns`, `followpaths`.
    ///
    /// # Errors
    /// As [`Session::pull`].
    pub async fn pull_with(&self, dir: &str, headers: &[(&'static str, &str)]) -> Result<Vec<Entry>, Status> {
        let mut transfer = self.transfer(dir, headers).await?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut open = 0_usize;
        let mut listed = false;
        let mut finished = false;
        while let Some(packet) = transfer.packets.next().await {
            let packet = packet?;
            match packet.r#type() {
                PacketType::PacketStat => match packet.stat {
                    Some(stat) => {
                        let id = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                        // Only a file with content of its own has anything to ask for.
                        let file = stat.mode & 0x8f28_0000 == 0 && stat.linkname.is_empty();
                        if file {
                            open += 1;
                            transfer.say(PacketType::PacketReq, id, Bytes::new()).await?;
                        }
                        entries.push(Entry { stat, data: file.then(Bytes::new) });
                    }
                    None => listed = true,
                },
                PacketType::PacketData if packet.data.is_empty() => open -= 1,
                PacketType::PacketData => {
                    let entry = entries.get_mut(packet.id as usize);
                    let data = entry.and_then(|entry| entry.data.as_mut());
                    let data = data.ok_or_else(|| Status::aborted("data for what is no file"))?;
                    *data = [&data[..], &packet.data[..]].concat().into();
                }
                PacketType::PacketFin => break,
                PacketType::PacketErr => {
                    return Err(Status::aborted(String::from_utf8_lossy(&packet.data).into_owned()));
                }
                PacketType::PacketReq => return Err(Status::aborted("a sender asked for a file")),
            }
            if listed && open == 0 && !finished {
                finished = true;
                transfer.say(PacketType::PacketFin, 0, Bytes::new()).await?;
            }
        }
        if finished { Ok(entries) } else { Err(Status::aborted("the transfer ended early")) }
    }

    /// Opens a local source and leaves the conversation to the test.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn transfer(&self, dir: &str, headers: &[(&'static str, &str)]) -> Result<Transfer, Status> {
        let (out, packets) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(packets));
        for (name, value) in [("dir-name", dir)].iter().chain(headers) {
            request.metadata_mut().append(*name, ascii(value)?);
        }
        let mut client = FileSyncClient::new(self.channel()).max_decoding_message_size(16 << 20);
        Ok(Transfer { out, packets: client.diff_copy(request).await?.into_inner() })
    }

    /// Opens an export and leaves the conversation to the test: packets for a folder, byte messages for a
    /// file.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn export(
        &self,
        exporter: usize,
        headers: &[(&'static str, &str)],
    ) -> Result<(mpsc::Sender<RawMessage>, Streaming<RawMessage>), Status> {
        let (out, messages) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(messages));
        let id = exporter.to_string();
        for (name, value) in [("buildkit-attachable-exporter-id", id.as_str())].iter().chain(headers) {
            request.metadata_mut().append(*name, ascii(value)?);
        }
        let mut client = FileSendClient::new(self.channel()).max_decoding_message_size(16 << 20);
        Ok((out, client.diff_copy(request).await?.into_inner()))
    }

    /// Exports a file: sends its pieces, ends, and waits for the client's end.
    ///
    /// # Errors
    /// What the client answers.
    pub async fn export_file(&self, exporter: usize, pieces: &[&[u8]]) -> Result<(), Status> {
        let (out, mut answers) = self.export(exporter, &[]).await?;
        for piece in pieces {
            let message = RawMessage::of(&BytesMessage { data: Bytes::copy_from_slice(piece) });
            if out.send(message).await.is_err() {
                break;
            }
        }
        drop(out);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }

    /// Exports a folder, as the real daemon does: lists the entries, sends what the client asks for.
    ///
    /// # Errors
    /// What the client answers, and `Aborted` with its text when it sends an error packet.
    pub async fn export_tree(&self, exporter: usize, entries: &[Entry]) -> Result<(), Status> {
        self.export_tree_with(exporter, entries, &[]).await
    }

    /// Exports a folder with more headers.
    ///
    /// # Errors
    /// As [`Session::export_tree`].
    pub async fn export_tree_with(
        &self,
        exporter: usize,
        entries: &[Entry],
        headers: &[(&'static str, &str)],
    ) -> Result<(), Status> {
        let (out, mut answers) = self.export(exporter, headers).await?;
        let say = async |packet: Packet| {
            let sent = out.send(RawMessage::of(&packet)).await;
            sent.map_err(|_| Status::aborted("the client has closed"))
        };
        for entry in entries {
            say(Packet { stat: Some(entry.stat.clone()), ..Default::default() }).await?;
        }
        say(Packet::default()).await?;
        while let Some(answer) = answers.next().await {
            let packet: Packet = answer?.decode_as().map_err(|error| Status::aborted(error.to_string()))?;
            match packet.r#type() {
                PacketType::PacketReq => {
                    let entry = entries.get(packet.id as usize);
                    let data = entry.and_then(|entry| entry.data.clone());
                    let data = data.ok_or_else(|| Status::aborted("asked for what is no file"))?;
                    for piece in data.chunks(32 * 1024).chain([&[][..]]) {
                        let data = Bytes::copy_from_slice(piece);
                        let r#type = PacketType::PacketData.into();
                        say(Packet { r#type, id: packet.id, data, ..Default::default() }).await?;
                    }
                }
                PacketType::PacketFin => {
                    say(Packet { r#type: PacketType::PacketFin.into(), ..Default::default() }).await?;
                    return Ok(());
                }
                PacketType::PacketErr => {
                    return Err(Status::aborted(String::from_utf8_lossy(&packet.data).into_owned()));
                }
                other => return Err(Status::aborted(format!("a receiver sent {other:?}"))),
            }
        }
        Err(Status::aborted("the transfer ended early"))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("methods", &self.methods()).finish_non_exhaustive()
    }
}

impl Transfer {
    /// Sends a packet.
    ///
    /// # Errors
    /// When the client has closed the stream.
    pub async fn say(&self, r#type: PacketType, id: u32, data: Bytes) -> Result<(), Status> {
        let packet = Packet { r#type: r#type.into(), id, data, ..Default::default() };
        self.out.send(packet).await.map_err(|_| Status::aborted("the client has closed"))
    }
}

fn ascii(value: &str) -> Result<AsciiMetadataValue, Status> {
    value.parse().map_err(|_| Status::internal(format!("no header value: {value:?}")))
}

type Tunnel = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

/// Takes a session: the client is the server of the HTTP/2 connection inside.
pub(super) fn accept(
    shared: &Arc<Shared>,
    request: Request<Streaming<BytesMessage>>,
) -> Result<Tunnel, Status> {
    let (metadata, _, mut inbound) = request.into_parts();
    let id = metadata.get("x-docker-expose-session-uuid").and_then(|value| value.to_str().ok());
    let id = id.ok_or_else(|| Status::invalid_argument("a session without an id"))?.to_owned();
    let (near, far) = duplex(64 * 1024);
    let (mut from_daemon, mut to_daemon) = tokio::io::split(far);
    let (out, tunnel) = mpsc::channel::<Result<BytesMessage, Status>>(16);

    // HTTP/2 is spoken at once, before the client has answered anything.
    let mut io = Some(TokioIo::new(near));
    let channel = Endpoint::from_static("http://localhost")
        .http2_max_header_list_size(16 << 20)
        // A real daemon does not end a session for many small frames; this one would, with a small window.
        .initial_connection_window_size(256 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let io = io.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { io.map_err(std::io::Error::from) }
        }));
    let over = CancellationToken::new();
    let session = Session { channel, metadata, over: over.clone() };

    let record = Arc::clone(shared);
    let chunk = shared.session_chunk;
    shared.change(|record| {
        record.sessions.insert(id.clone(), session);
        record.sessions_opened += 1;
    });
    tokio::spawn(async move {
        let upwards = async {
            while let Some(Ok(message)) = inbound.next().await {
                if to_daemon.write_all(&message.data).await.is_err() {
                    break;
                }
            }
        };
        let downwards = async {
            let mut buffer = vec![0; chunk];
            while let Ok(read @ 1..) = from_daemon.read(&mut buffer).await {
                let data = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
                if out.send(Ok(BytesMessage { data })).await.is_err() {
                    break;
                }
                // Empty messages are legal.
                if chunk < 32 * 1024 && out.send(Ok(BytesMessage::default())).await.is_err() {
                    break;
                }
            }
        };
        // The session is over when the client has half-closed or gone away.
        tokio::select! {
            () = upwards => {}
            () = downwards => {}
            () = out.closed() => {}
            () = over.cancelled() => {}
        }
        record.change(|record| record.sessions.remove(&id));
    });
    Ok(Box::pin(ReceiverStream::new(tunnel)))
}
