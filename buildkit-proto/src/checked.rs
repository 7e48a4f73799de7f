//! Answers of a peer without what tonic cannot read.

use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::client::GrpcService;
use tonic::codegen::http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;

/// Where the details of an error travel, in base64.
const DETAILS: &str = "grpc-status-details-bin";
/// With more names, headers or trailers lose what gRPC has no use for. Where both have many, tonic panics when it puts
/// them into one map.
const MAX_NAMES: usize = 1024;

/// A connection to a peer that is not trusted: details of errors that are no base64 are left out of its answers, and
/// names of headers by the thousand.
///
/// tonic panics when it reads them. What is left is the error without details, and what gRPC knows of the headers.
#[derive(Debug, Clone)]
pub struct Checked<S>(S);

impl<S> Checked<S> {
    /// Checks the answers that come over `connection`.
    pub fn new(connection: S) -> Self {
        Self(connection)
    }
}

impl<S> Service<Request<tonic::body::Body>> for Checked<S>
where
    S: GrpcService<tonic::body::Body>,
    S::ResponseBody: 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<CheckedBody<S::ResponseBody>>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(checked(answer.await?)) })
    }
}

/// An answer without details that cannot be read, neither in its headers nor in its trailers.
pub fn checked<B>(mut answer: Response<B>) -> Response<CheckedBody<B>> {
    check(answer.headers_mut());
    answer.map(|body| CheckedBody(Box::pin(body)))
}

/// The body of an answer; see [`checked`].
#[derive(Debug)]
pub struct CheckedBody<B>(Pin<Box<B>>);

impl<B: Body> Body for CheckedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = self.0.as_mut().poll_frame(cx);
        frame.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                check(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

fn check(headers: &mut HeaderMap) {
    if headers.keys_len() > MAX_NAMES {
        let known = |name: &HeaderName| name.as_str().starts_with("grpc-") || *name == CONTENT_TYPE;
        let few = headers.iter().filter(|(name, _)| known(name)).take(MAX_NAMES);
        *headers = few.map(|(name, value)| (name.clone(), value.clone())).collect();
    }
    let Some(value) = headers.get(DETAILS) else { return };
    let mut alone = HeaderMap::new();
    alone.insert(DETAILS, value.clone());
    let alone = MetadataMap::from_headers(alone);
    if alone.get_bin(DETAILS).is_none_or(|value| value.to_bytes().is_err()) {
        headers.remove(DETAILS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{InfoRequest, control_client::ControlClient};
    use std::convert::Infallible;
    use tonic::codegen::Bytes;
    use tonic::codegen::http::HeaderValue;

    /// Answers with an error whose details are these bytes, in its headers or behind a message.
    #[derive(Clone)]
    struct Peer {
        details: &'static [u8],
        behind: bool,
    }

    /// Answers with an empty message and this many names of headers, and as many of trailers.
    #[derive(Clone)]
    struct Wordy(usize);

    /// The frames of an answer, the last one first.
    struct Message(Vec<Frame<Bytes>>);

    impl Body for Message {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    impl Service<Request<tonic::body::Body>> for Wordy {
        type Response = Response<Message>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<tonic::body::Body>) -> Self::Future {
            let named = |start: &'static str| {
                let names =
                    (0..self.0).filter_map(move |at| format!("{start}-{at}").parse::<HeaderName>().ok());
                names.map(|name| (name, HeaderValue::from_static("")))
            };
            let mut end: HeaderMap = named("t").collect();
            end.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = vec![Frame::trailers(end), Frame::data(Bytes::from_static(&[0; 5]))];
            let mut answer = Response::new(Message(frames));
            answer.headers_mut().extend(named("h").map(|(name, value)| (Some(name), value)));
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            std::future::ready(Ok(answer))
        }
    }

    #[test]
    fn names_of_headers_by_the_thousand_are_left_out() {
        for (names, left) in [(0, 2), (500, 1002), (1500, 2), (20_000, 2)] {
            let mut client = ControlClient::new(Checked::new(Wordy(names)));
            let mut call = Box::pin(client.info(InfoRequest {}));
            let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
            else {
                panic!("the peer answers at once");
            };
            let answer = answer.expect("the peer answers with a message");
            // Of the names that are known, one is in the headers and one behind the message.
            assert_eq!(answer.metadata().keys().count(), left, "{names}");
        }
    }

    impl Service<Request<tonic::body::Body>> for Peer {
        type Response = Response<Message>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<tonic::body::Body>) -> Self::Future {
            let mut end = HeaderMap::new();
            end.insert("grpc-status", HeaderValue::from_static("9"));
            end.insert("grpc-message", HeaderValue::from_static("why"));
            if let Ok(details) = HeaderValue::from_bytes(self.details) {
                end.insert(DETAILS, details);
            }
            let mut answer = Response::new(Message(Vec::new()));
            if self.behind {
                *answer.body_mut() = Message(vec![Frame::trailers(end)]);
            } else {
                *answer.headers_mut() = end;
            }
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            std::future::ready(Ok(answer))
        }
    }

    #[test]
    fn details_that_are_no_base64_are_left_out() {
        let cases =
            [(&b"!"[..], &b""[..]), (b"QQ=Q", b""), (b"\xff\xfe", b""), (b"QUJD", b"ABC"), (b"QQ", b"A")];
        for ((details, read), behind) in cases.into_iter().flat_map(|case| [(case, true), (case, false)]) {
            let mut client = ControlClient::new(Checked::new(Peer { details, behind }));
            let mut call = Box::pin(client.info(InfoRequest {}));
            let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
            else {
                panic!("the peer answers at once");
            };
            let status = answer.expect_err("the peer answers with an error");
            assert_eq!((status.message(), status.details()), ("why", read), "{details:?}");
        }
    }
}
