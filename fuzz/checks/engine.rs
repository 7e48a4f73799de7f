//! What must hold of a Docker Engine's answer to the upgrade, whatever it is.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buildkit_client::connect::{Connector, Engine, Stream};
use buildkit_client::error::ConnectError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The stream behind an upgrade has every byte that follows the answer's head; anything else is an error that is safe
/// to show. How the answer is cut into pieces means nothing, and little of it is read.
///
/// The first byte says how long the pieces are, the rest is what the Engine says.
pub(crate) fn hijack_conn(data: &[u8]) {
    let Some((piece, answer)) = data.split_first() else { return };
    let (whole, read) = upgrade(answer, usize::MAX);
    let (cut, _) = upgrade(answer, usize::from(*piece) + 1);
    assert_eq!(cut, whole);
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    match whole {
        Ok(rest) => {
            let head = head.expect("an upgrade has a head");
            assert!(answer.starts_with(b"HTTP/1") && answer[..head].windows(3).any(|part| part == b"101"));
            assert_eq!(rest, answer[head..]);
        }
        Err(error) => {
            assert!(!error.chars().any(char::is_control), "{error:?}");
            assert!(error.len() < 2048, "{} bytes: {error}", error.len());
            assert!(read <= (16 << 10) + (64 << 10) + (64 << 10), "{read} bytes were read");
        }
    }
}

/// What is behind the upgrade, or the error; and how many bytes were taken.
fn upgrade(answer: &[u8], piece: usize) -> (Result<Vec<u8>, String>, usize) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    let read = Arc::new(AtomicUsize::new(0));
    let far = FarSide { answer: answer.to_vec(), at: 0, piece, read: Arc::clone(&read) };
    let script = Script(Mutex::new(Some(Stream::new(far))));
    let outcome = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let engine = Engine::new(Arc::new(script), "docker://engine");
            let connected = tokio::time::timeout(Duration::from_secs(5), engine.connect()).await;
            match connected.expect("an answer that ends is the end of connecting") {
                Ok(mut stream) => {
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.expect("bytes in memory");
                    Ok(rest)
                }
                Err(error) => Err(error.to_string()),
            }
        })
    });
    (outcome, read.load(Ordering::Relaxed))
}

/// Says what it has to say in pieces, then closes; takes everything.
struct FarSide {
    answer: Vec<u8>,
    at: usize,
    piece: usize,
    read: Arc<AtomicUsize>,
}

impl AsyncRead for FarSide {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let length = (self.answer.len() - self.at).min(self.piece).min(buf.remaining());
        buf.put_slice(&self.answer[self.at..self.at + length]);
        self.at += length;
        self.read.store(self.at, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FarSide {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Hands out one stream.
#[derive(Debug)]
struct Script(Mutex<Option<Stream>>);

#[async_trait::async_trait]
impl Connector for Script {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        Ok(self.0.lock().expect("one thread").take().expect("one connection"))
    }

    fn endpoint(&self) -> String {
        "script".to_owned()
    }
}
