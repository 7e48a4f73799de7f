//! A registry in this process that answers each request as a test says, and remembers all it got.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A request that the registry got.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers, credentials included.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How many requests of this method and path there have been, this one included.
    pub count: usize,
}

impl Received {
    /// The `Authorization` header.
    pub fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").and_then(|value| value.to_str().ok())
    }

    /// Whether these bytes are anywhere in the request: path, headers or body.
    pub fn contains(&self, needle: &str) -> bool {
        let body = self.body.windows(needle.len().max(1)).any(|window| window == needle.as_bytes());
        body || self.path.contains(needle)
            || self.headers.values().any(|value| String::from_utf8_lossy(value.as_bytes()).contains(needle))
    }
}

/// What the registry does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status, headers and body.
    Plain(StatusCode, Vec<(&'static str, String)>, Bytes),
    /// Announces the whole body, sends this many bytes of it, and closes.
    Truncated(Bytes, usize),
    /// Announces the whole body, sends this many bytes of it, and then nothing.
    Stalled(Bytes, usize),
    /// Never answers.
    Silence,
    /// Answers after this time.
    Late(Duration, Box<Answer>),
}

impl Answer {
    /// 200 with a JSON body.
    pub fn json(value: &serde_json::Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Answer::Plain(StatusCode::OK, headers, value.to_string().into())
    }

    /// A status with no body.
    pub fn status(code: u16) -> Self {
        Answer::Plain(StatusCode::from_u16(code).unwrap_or(StatusCode::IM_A_TEAPOT), vec![], Bytes::new())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Answer::Plain(_, headers, _) = &mut self {
            headers.push((name, value.into()));
        }
        self
    }

    /// 401 with a challenge for a bearer token.
    pub fn challenge(realm: &str, scope: &str) -> Self {
        let challenge = format!(r#"Bearer realm="{realm}",service="registry",scope="{scope}""#);
        Answer::status(401).header("www-authenticate", challenge)
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

/// A registry on a loopback port; it ends when dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    _guard: DropGuard,
}

impl FakeRegistry {
    /// Starts it on 127.0.0.1 without TLS.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(
        answer: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::start_at("127.0.0.1", None, answer).await
    }

    /// Starts it on this host, with TLS if there is an acceptor.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start_at(
        host: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let stopped = CancellationToken::new();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let answer = Arc::new(answer);
        let stop = stopped.clone();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, log, answer) = (tls.clone(), Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    match tls {
                        None => serve(stream, log, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, log, answer).await;
                            }
                        }
                    }
                }));
            }
        }));
        Ok(Self { address, received, _guard: stopped.drop_guard() })
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Everything it got so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve<F: Fn(&Received) -> Answer + Send + Sync + 'static>(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    log: Arc<Mutex<Vec<Received>>>,
    answer: Arc<F>,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let mut received = Received {
                method: head.method,
                path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                headers: head.headers,
                body,
                count: 1,
            };
            {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                let same = |other: &&Received| other.method == received.method && other.path == received.path;
                received.count += log.iter().filter(same).count();
                log.push(received.clone());
            }
            Ok::<_, Infallible>(response(answer(&received)).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn response(mut answer: Answer) -> Response<Body> {
    while let Answer::Late(time, later) = answer {
        tokio::time::sleep(time).await;
        answer = *later;
    }
    let whole = |body: Bytes| Full::new(body).map_err(|never: Infallible| match never {}).boxed();
    let (status, headers, length, body) = match answer {
        Answer::Plain(status, headers, body) => (status, headers, body.len(), whole(body)),
        Answer::Truncated(body, sent) => (StatusCode::OK, vec![], body.len(), part(&body, sent, false)),
        Answer::Stalled(body, sent) => (StatusCode::OK, vec![], body.len(), part(&body, sent, true)),
        Answer::Silence | Answer::Late(..) => std::future::pending().await,
    };
    let mut response = Response::builder().status(status).header("content-length", length);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body).unwrap_or_default_body()
}

/// The first bytes of a body, and then either silence or an error that closes the connection.
fn part(body: &Bytes, sent: usize, stall: bool) -> Body {
    use futures::StreamExt as _;
    let first = futures::stream::iter([Ok(Frame::data(body.slice(..sent.min(body.len()))))]);
    let rest = futures::stream::once(async move {
        if stall {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    BoxBody::new(StreamBody::new(first.chain(rest)))
}

trait OrEmpty {
    fn unwrap_or_default_body(self) -> Response<Body>;
}

impl OrEmpty for Result<Response<Body>, http::Error> {
    /// A script with an impossible header gets a status that no test expects.
    fn unwrap_or_default_body(self) -> Response<Body> {
        self.unwrap_or_else(|error| {
            let body = Full::new(Bytes::from(error.to_string()));
            let mut response = Response::new(body.map_err(|never: Infallible| match never {}).boxed());
            *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
            response
        })
    }
}
