//! Answers of a peer without what tonic cannot read.

use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::client::GrpcService;
use tonic::codegen::http::header::HeaderMap;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;

/// Where the details of an error travel, in base64.
const DETAILS: &str = "grpc-status-details-bin";

/// A connection to a peer that is not trusted: details of errors that are no base64 are left out of its answers.
///
/// tonic panics when it reads them. What is left is the error without details.
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

    struct Trailers(Option<HeaderMap>);

    impl Body for Trailers {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
        }
    }

    impl Service<Request<tonic::body::Body>> for Peer {
        type Response = Response<Trailers>;
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
            let mut answer = Response::new(Trailers(None));
            if self.behind {
                *answer.body_mut() = Trailers(Some(end));
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
