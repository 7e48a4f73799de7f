//! Rows F25, F34, F39, F43 and F48: what is small on the wire and large in memory, from a hostile daemon.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use buildkit_client::content::{BlobInfo, ContentStore, Digest};
use buildkit_client::export::Export;
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::session::auth::{Auth, Credentials};
use buildkit_client::session::secrets::SecretSource;
use buildkit_proto::auth::FetchTokenRequest;
use buildkit_proto::auth::auth_client::AuthClient;
use buildkit_proto::content::ReadContentRequest;
use buildkit_proto::content::content_client::ContentClient;
use buildkit_proto::control::{SolveResponse, StatusResponse, Vertex, VertexLog};
use buildkit_proto::filesync::file_send_client::FileSendClient;
use buildkit_tests::fake::FakeBuildKit;
use futures::StreamExt as _;
use tokio::io::AsyncRead;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};

const PATIENCE: Duration = Duration::from_secs(60);

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

async fn solved(build: buildkit_client::Solve) -> buildkit_client::Solved {
    let done = timeout(PATIENCE, build.into_future()).await.expect("no hang");
    done.unwrap_or_else(|error| panic!("{}", error.report()))
}

#[tokio::test]
async fn f25_f48_progress_of_millions_of_parts_ends_the_progress_and_not_the_build() {
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            let named =
                |name: &str| Vertex { digest: "sha256:v".into(), name: name.into(), ..Default::default() };
            // As many parts as a real daemon's longest list of steps has, and far more than it has.
            let steps = vec![Vertex::default(); 100_000];
            let logs = vec![VertexLog {
                vertex: "sha256:v".into(),
                msg: "\n\0".repeat(1 << 20).into(),
                ..Default::default()
            }];
            let _ = out.send(Ok(StatusResponse { vertexes: steps, logs, ..Default::default() })).await;
            let _ =
                out.send(Ok(StatusResponse { vertexes: vec![named("before")], ..Default::default() })).await;
            let inputs = vec![String::new(); 3_000_000];
            let bomb = Vertex { inputs, ..named("bomb") };
            let _ = out.send(Ok(StatusResponse { vertexes: vec![bomb], ..Default::default() })).await;
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(|_| async {
            sleep(Duration::from_secs(1)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let (sink, mut events) = progress::channel();
    solved(fake.client().solve(dockerfile()).progress(sink)).await;
    let (mut before, mut incomplete) = (false, Vec::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Incomplete { reason } => incomplete.push(reason),
            other => before |= format!("{other:?}").contains("before"),
        }
    }
    assert!(before, "what came before it was shown");
    assert!(incomplete.len() == 1 && incomplete[0].contains("parts"), "{incomplete:?}");
}

#[tokio::test]
async fn f23b_f34_headers_by_the_hundred_thousand_are_for_one_call_at_a_time() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let many = vec![("exclude-patterns", "a"); 300_000];
            let first = session.transfer("context", &many).await?;
            let refused = session.transfer("context", &many).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            // What has a few is not counted, and whoever goes makes room.
            session.pull_with("context", &[("exclude-patterns", "a")]).await?;
            drop(first);
            let mut again = session.transfer("context", &many).await;
            while again.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
                sleep(Duration::from_millis(20)).await;
                again = session.transfer("context", &many).await;
            }
            again?;
            Ok(SolveResponse::default())
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let solved = solved(fake.client().solve(dockerfile()).local("context", dir.path())).await;
    let refused = solved.refused_requests();
    assert!(refused.iter().any(|line| line.contains("headers")), "{refused:?}");
}

/// A store of one large blob that counts who reads it.
#[derive(Debug, Clone, Default)]
struct Counted {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Zeros(Arc<AtomicUsize>);

impl AsyncRead for Zeros {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        buf.initialize_unfilled();
        let room = buf.remaining();
        buf.advance(room);
        std::task::Poll::Ready(Ok(()))
    }
}

impl Drop for Zeros {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl ContentStore for Counted {
    async fn info(&self, _: &Digest) -> std::io::Result<Option<BlobInfo>> {
        Ok(Some(BlobInfo { size: 64 << 20, written: None }))
    }

    async fn read(&self, _: &Digest, _: u64) -> std::io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Ok(Box::new(Zeros(Arc::clone(&self.now))))
    }
}

#[tokio::test]
async fn f34_f40_blobs_that_nobody_takes_are_read_a_few_at_a_time() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let digest = digest.clone();
            async move {
                let session = solve.session().await?;
                let read = || {
                    let message = ReadContentRequest { digest: digest.clone(), ..Default::default() };
                    let mut request = Request::new(message);
                    request.metadata_mut().insert("buildkit-attachable-store-id", "oci:in".parse().unwrap());
                    let mut store = ContentClient::new(session.channel());
                    tokio::spawn(async move { store.read(request).await })
                };
                let mut calls: Vec<_> = (0..200).map(|_| read()).collect();
                let mut open = Vec::new();
                // Those that are answered stay open; the others wait for their turn.
                for call in calls.drain(..20) {
                    open.push(call.await.unwrap()?);
                }
                sleep(Duration::from_millis(300)).await;
                drop(open);
                for call in calls {
                    let mut chunks = call.await.unwrap()?.into_inner();
                    assert!(!chunks.next().await.unwrap()?.data.is_empty());
                }
                Ok(SolveResponse::default())
            }
        })
        .start();
    let store = Counted::default();
    let layout = buildkit_client::content::OciStore::Store(Arc::new(store.clone()));
    solved(fake.client().solve(dockerfile()).oci_layout("in", layout)).await;
    let most = store.most.load(Ordering::Relaxed);
    assert!((2..=32).contains(&most), "{most} blobs were read at once");
}

#[tokio::test]
async fn f39_names_of_any_length_are_told_in_short() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let long = "\\".repeat(1 << 20);
            let told = |status: Status| {
                assert!(status.message().len() < 2048, "{} bytes", status.message().len());
            };
            told(session.pull(&long).await.unwrap_err());
            told(session.secret(&"s".repeat(200_000)).await.unwrap_err());
            told(session.secret(&"s".repeat(300_000)).await.unwrap_err());
            told(session.credentials(&format!("{}.io", "h".repeat(200_000))).await.unwrap_err());
            Ok(SolveResponse::default())
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    let build = fake.client().solve(dockerfile()).local("context", dir.path());
    let build = build.secret("s", SecretSource::value("x")).auth(Auth::anonymous());
    let solved = solved(build).await;
    let refused = solved.refused_requests();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(
        refused.iter().all(|line| line.len() < 1024),
        "{:?}",
        refused.iter().map(String::len).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn f43_tokens_are_not_asked_for_with_scopes_by_the_thousand() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            for scopes in [vec![String::new(); 2000], vec!["x".repeat(100_000)]] {
                let request = FetchTokenRequest {
                    host: "reg.local".into(),
                    realm: "https://reg.local/token".into(),
                    scopes,
                    ..Default::default()
                };
                let status = AuthClient::new(session.channel()).fetch_token(request).await.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            }
            Ok(SolveResponse::default())
        })
        .start();
    let auth = Auth::new(BTreeMap::from([("reg.local".to_owned(), Credentials::password("ann", "x"))]));
    solved(fake.client().solve(dockerfile()).registry("reg.local").auth(auth)).await;
}

#[tokio::test]
async fn f39_an_exporter_without_a_number_is_none() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            for id in ["-1", "x", "", "99999999999999999999", "0 "] {
                let mut request = Request::new(futures::stream::pending());
                request.metadata_mut().insert("buildkit-attachable-exporter-id", id.parse().unwrap());
                let status = FileSendClient::new(session.channel()).diff_copy(request).await.unwrap_err();
                assert_eq!(status.code(), Code::NotFound, "{id:?}");
            }
            session.export_tree(0, &[]).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let out = tempfile::tempdir().unwrap();
    let solved = solved(fake.client().solve(dockerfile()).export(Export::local(out.path()))).await;
    assert_eq!(solved.refused_requests().len(), 5, "{:?}", solved.refused_requests());
}
