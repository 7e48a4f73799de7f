//! `docker://`: the BuildKit inside a Docker Engine, behind an HTTP/1.1 upgrade.

use super::{Connector, Stream};
use crate::error::{ConnectError, ConnectErrorKind};
use crate::progress::one_line;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Longest head of an answer that is read.
const MAX_HEAD: usize = 16 * 1024;
/// Longest body of an error answer that is read.
const MAX_BODY: u64 = 64 * 1024;
/// How many characters of it are shown.
const MAX_SHOWN: usize = 300;
/// What every answer begins with.
const HTTP: &[u8] = b"HTTP/1";

/// Upgrades the streams of another connector, which end at a Docker Engine, to its BuildKit.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<dyn Connector>,
    endpoint: String,
}

impl Engine {
    /// `inner` reaches the Engine's API; `endpoint` is what messages call it.
    pub fn new(inner: Arc<dyn Connector>, endpoint: impl Into<String>) -> Self {
        Self { inner, endpoint: endpoint.into() }
    }

    fn refused(&self, hint: impl Into<String>) -> ConnectError {
        ConnectError::new(&self.endpoint, ConnectErrorKind::NotBuildKit { hint: hint.into() })
    }

    async fn version(&self) -> Option<String> {
        let mut stream = self.inner.connect().await.ok()?;
        stream.write_all(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n").await.ok()?;
        stream.flush().await.ok()?;
        let mut answer = Vec::new();
        stream.take(MAX_BODY).read_to_end(&mut answer).await.ok()?;
        let split = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let body: serde_json::Value = serde_json::from_slice(answer.get(split + 4..)?).ok()?;
        let version = body.get("Version")?.as_str()?;
        let api = body.get("ApiVersion").and_then(serde_json::Value::as_str).unwrap_or("?");
        Some(format!("Docker Engine {version}, API {api}"))
    }
}

#[async_trait::async_trait]
impl Connector for Engine {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let mut stream = self.inner.connect().await?;
        let request = b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n";
        let broken = |error| ConnectError::io(&self.endpoint, error);
        stream.write_all(request).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;

        let mut read = Vec::with_capacity(1024);
        let mut searched = 0;
        let split = loop {
            // However the answer is cut into pieces, it is judged as the bytes come.
            if !read.iter().zip(HTTP).all(|(byte, expected)| byte == expected) {
                return Err(self.refused("it does not speak HTTP; docker:// wants the Engine's API socket"));
            }
            let head = read.get(..read.len().min(MAX_HEAD)).unwrap_or_default();
            let fresh = head.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.windows(4).position(|window| window == b"\r\n\r\n") {
                break searched + at + 4;
            }
            if read.len() > MAX_HEAD {
                return Err(self.refused("its answer to the upgrade has no end"));
            }
            searched = read.len().saturating_sub(3);
            if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
                return Err(self.refused("it closed the connection instead of upgrading it"));
            }
        };
        let rest = read.split_off(split);
        let Some(status) = status(&read) else {
            return Err(self.refused("its answer to the upgrade is no HTTP"));
        };
        if status == "101" {
            return Ok(Stream::new(Prefixed { rest, at: 0, inner: stream }));
        }
        let mut body = rest;
        let _ =
            tokio::time::timeout(Duration::from_secs(1), stream.take(MAX_BODY).read_to_end(&mut body)).await;
        // What the far side says may be said to a terminal.
        let body = body.get(..body.len().min(4 * MAX_SHOWN)).unwrap_or_default();
        let body = one_line(String::from_utf8_lossy(body).trim()).chars().take(MAX_SHOWN).collect::<String>();
        Err(self.refused(match status {
            "404" => format!("the Engine has no /grpc: it is older than 18.09, or something else ({body})"),
            _ => format!("the Engine answered {status} to the upgrade: {body}"),
        }))
    }

    fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    fn is_exposed(&self) -> bool {
        self.inner.is_exposed()
    }

    async fn describe(&self) -> Option<String> {
        tokio::time::timeout(Duration::from_secs(5), self.version()).await.ok()?
    }
}

/// The status in the first line of an answer: three digits.
fn status(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let status = line.split(|byte| *byte == b' ').nth(1)?;
    let digits = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(status).ok().filter(|_| digits)
}

/// A stream some of whose bytes were already read.
struct Prefixed {
    rest: Vec<u8>,
    at: usize,
    inner: Stream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(rest) = self.rest.get(self.at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..n).unwrap_or_default());
            self.at += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Hands out one end of a pipe whose other end plays an Engine.
    #[derive(Debug)]
    struct Script(Mutex<Option<Stream>>);

    #[async_trait::async_trait]
    impl Connector for Script {
        async fn connect(&self) -> Result<Stream, ConnectError> {
            Ok(self.0.lock().unwrap().take().unwrap())
        }
        fn endpoint(&self) -> String {
            "script".into()
        }
    }

    async fn upgrade(answer: &'static [u8]) -> Result<Stream, ConnectError> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let n = theirs.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"POST /grpc HTTP/1.1\r\n"));
            theirs.write_all(answer).await.unwrap();
            let _ = theirs.shutdown().await;
        });
        Engine::new(Arc::new(Script(Mutex::new(Some(Stream::new(ours))))), "docker://").connect().await
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_kept() {
        let mut stream =
            upgrade(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nSETTINGS")
                .await
                .unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "SETTINGS");
    }

    #[tokio::test]
    async fn a_refusal_says_what_the_engine_said() {
        for (answer, expected) in [
            (&b"HTTP/1.1 404 Not Found\r\n\r\npage not found"[..], "no /grpc"),
            (
                b"HTTP/1.1 403 Forbidden\r\n\r\ndenied by plugin",
                "answered 403 to the upgrade: denied by plugin",
            ),
            (
                b"HTTP/1.1 500 Oops\r\n\r\n\x1b[2Jall\tis\nlost\x07",
                "answered 500 to the upgrade: all is lost",
            ),
            (b"HTTP/1.1 10\x1b1 What\r\n\r\n", "is no HTTP"),
            (b"HTTP/1.1\r\n101: 101 \r\n\r\n", "is no HTTP"),
            (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
            (b"SSH-2.0 101 x\r\n\r\n", "does not speak HTTP"),
            (b"", "closed the connection"),
        ] {
            let error = upgrade(answer).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
