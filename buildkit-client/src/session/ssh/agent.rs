//! The protocol of SSH agents: a request, an answer, each with its length in front.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::key::Key;

const FAILURE: u8 = 5;
const LIST: u8 = 11;
const LIST_ANSWER: u8 = 12;
const SIGN: u8 = 13;
const SIGN_ANSWER: u8 = 14;
/// Longer messages are not of this protocol.
const MAX_MESSAGE: u32 = 256 << 10;

/// Who answers.
pub(super) enum Backend {
    Keys(Arc<Vec<Key>>),
    #[cfg(unix)]
    Socket(tokio::net::UnixStream),
}

/// Answers requests one after another. Listing keys and signing is all that is done; what would change the agent, or is
/// not known, is answered with a failure and not passed on.
pub(super) fn serve<R>(requests: R, backend: Backend) -> BoxStream<'static, io::Result<Bytes>>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    stream::try_unfold((requests, backend), |(mut requests, mut backend)| async move {
        let Some(request) = read(&mut requests).await? else { return Ok(None) };
        let answer = match request.first() {
            Some(&LIST | &SIGN) => backend.answer(&request).await?,
            _ => vec![FAILURE].into(),
        };
        let mut framed = BytesMut::with_capacity(answer.len() + 4);
        framed.put_u32(u32::try_from(answer.len()).map_err(io::Error::other)?);
        framed.extend_from_slice(&answer);
        Ok(Some((framed.freeze(), (requests, backend))))
    })
    .boxed()
}

impl Backend {
    async fn answer(&mut self, request: &Bytes) -> io::Result<Bytes> {
        match self {
            Self::Keys(keys) => Ok(answer(keys, request).unwrap_or_else(|| vec![FAILURE].into())),
            #[cfg(unix)]
            Self::Socket(socket) => {
                use tokio::io::AsyncWriteExt as _;
                let length = u32::try_from(request.len()).map_err(io::Error::other)?;
                socket.write_all(&length.to_be_bytes()).await?;
                socket.write_all(request).await?;
                let answer = read(socket).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                match (request.first(), answer.first()) {
                    (Some(&LIST), Some(&LIST_ANSWER)) | (Some(&SIGN), Some(&SIGN_ANSWER)) => Ok(answer),
                    _ => Ok(vec![FAILURE].into()),
                }
            }
        }
    }
}

/// The next message; `None` when the other side is done.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    if from.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message to an ssh agent"));
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message).await?;
    Ok(Some(message.into()))
}

/// The answer of the agent in memory; `None` is a failure.
fn answer(keys: &[Key], request: &[u8]) -> Option<Bytes> {
    let (&kind, mut rest) = request.split_first()?;
    let mut out = BytesMut::new();
    if kind == LIST {
        out.put_u8(LIST_ANSWER);
        out.put_u32(u32::try_from(keys.len()).ok()?);
        for key in keys {
            put_string(&mut out, key.public_blob())?;
            put_string(&mut out, key.comment().as_bytes())?;
        }
        return Some(out.freeze());
    }
    let blob = take_string(&mut rest)?;
    let data = take_string(&mut rest)?;
    let flags = rest.first_chunk::<4>().map_or(0, |flags| u32::from_be_bytes(*flags));
    let key = keys.iter().find(|key| key.public_blob() == blob)?;
    let (algorithm, signature) = key.sign(data, flags)?;
    let mut blob = BytesMut::new();
    put_string(&mut blob, algorithm.as_bytes())?;
    put_string(&mut blob, &signature)?;
    out.put_u8(SIGN_ANSWER);
    put_string(&mut out, &blob)?;
    Some(out.freeze())
}

/// Appends a string with its length.
pub(super) fn put_string(out: &mut BytesMut, bytes: &[u8]) -> Option<()> {
    out.put_u32(u32::try_from(bytes.len()).ok()?);
    out.extend_from_slice(bytes);
    Some(())
}

/// Takes a string with its length from the front.
pub(super) fn take_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *from = rest;
    Some(string)
}
