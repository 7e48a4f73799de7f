//! The little HTTP that token servers need: one request on a connection of its own.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;
use zeroize::Zeroizing;

use crate::connect::Stream;
use crate::error::ConnectError;
use crate::tls::Tls;

/// More than this is no token.
const MAX_BODY: usize = 1 << 20;
/// Until the connection is up, and again until the answer begins.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request. Its body is a form.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) authorization: Option<Zeroizing<String>>,
    pub(super) form: Option<Zeroizing<String>>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    Connect(io::Error),
    Tls(ConnectError),
    Http(hyper::Error),
    Timeout,
    TooLarge,
    Invalid(http::Error),
}

impl CallError {
    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout => true,
            Self::Http(error) => !error.is_parse() && !error.is_user(),
            Self::Tls(_) | Self::TooLarge | Self::Invalid(_) => false,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("cannot connect"),
            Self::Tls(_) => f.write_str("no TLS connection"),
            Self::Http(_) => f.write_str("the connection broke"),
            Self::Timeout => write!(f, "no answer within {} s", PATIENCE.as_secs()),
            Self::TooLarge => write!(f, "the answer is larger than {} MiB", MAX_BODY >> 20),
            Self::Invalid(_) => f.write_str("the request cannot be made"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Http(error) => Some(error),
            Self::Invalid(error) => Some(error),
            Self::Timeout | Self::TooLarge => None,
        }
    }
}

impl Call<'_> {
    /// Sends it; redirects are for the caller to judge.
    pub(super) async fn send(self, tls: Option<&Tls>) -> Result<Answer, CallError> {
        let stream =
            tokio::time::timeout(PATIENCE, dial(self.url, tls)).await.map_err(|_| CallError::Timeout)??;
        tokio::time::timeout(PATIENCE * 2, self.talk(stream)).await.map_err(|_| CallError::Timeout)?
    }

    async fn talk(self, stream: Stream) -> Result<Answer, CallError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(CallError::Http)?;
        let mut target = self.url.path().to_owned();
        if let Some(query) = self.url.query() {
            target.push('?');
            target.push_str(query);
        }
        let host = match (self.url.host_str().unwrap_or_default(), self.url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let mut request = http::Request::builder()
            .method(self.method)
            .uri(target)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("buildkit-client/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(value) = &self.authorization {
            let mut value = header::HeaderValue::try_from(value.as_str())
                .map_err(|error| CallError::Invalid(error.into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let body = match self.form {
            Some(form) => {
                request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                Bytes::copy_from_slice(form.as_bytes())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(CallError::Invalid)?;
        // The connection is driven beside the request and ends with it: nothing is left running.
        let exchange = async {
            let response = tokio::time::timeout(PATIENCE, sender.send_request(request))
                .await
                .map_err(|_| CallError::Timeout)?
                .map_err(|error| broken(self.url, error))?;
            let (head, mut body) = response.into_parts();
            let mut bytes = Zeroizing::new(Vec::new());
            while let Some(frame) = body.frame().await {
                if let Some(data) = frame.map_err(CallError::Http)?.data_ref() {
                    if bytes.len() + data.len() > MAX_BODY {
                        return Err(CallError::TooLarge);
                    }
                    bytes.extend_from_slice(data);
                }
            }
            Ok(Answer { status: head.status, headers: head.headers, body: bytes })
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end before its last bytes were taken.
            ended = &mut connection => match exchange.await {
                Err(CallError::Http(_)) if ended.is_err() => {
                    Err(ended.err().map_or(CallError::Timeout, |error| broken(self.url, error)))
                }
                answer => answer,
            },
        }
    }
}

/// A server says only after the handshake of TLS 1.3 that it does not like the client.
fn broken(url: &Url, error: hyper::Error) -> CallError {
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = io.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return CallError::Tls(crate::tls::explain(url.as_str(), io::Error::other(tls.clone())));
        }
        next = cause.source();
    }
    CallError::Http(error)
}

async fn dial(url: &Url, tls: Option<&Tls>) -> Result<Stream, CallError> {
    let invalid = || CallError::Connect(io::Error::new(io::ErrorKind::InvalidInput, "no host in the URL"));
    let host = url.host_str().ok_or_else(invalid)?;
    let port = url.port_or_known_default().ok_or_else(invalid)?;
    // Brackets belong to the URL, not to the address.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await.map_err(CallError::Connect)?;
    let _ = stream.set_nodelay(true);
    if url.scheme() != "https" {
        return Ok(Stream::new(stream));
    }
    let tls = tls.cloned().unwrap_or_default().system_roots().http1();
    tls.handshake(stream, name, url.as_str()).await.map_err(CallError::Tls)
}
