//! A build from its request to its result, against a scripted daemon.
#![allow(missing_docs)]

use buildkit_client::Error;
use buildkit_client::dockerfile::Dockerfile;
use buildkit_client::error::{RequestError, SolveErrorKind};
use buildkit_client::export::{Export, Output};
use buildkit_client::progress;
use buildkit_client::request::Frontend;
use buildkit_proto::control::{SolveResponse, StatusResponse, Vertex, VertexLog};
use buildkit_tests::fake::FakeBuildKit;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tonic::Status;

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

fn response(pairs: &[(&str, &str)]) -> SolveResponse {
    SolveResponse {
        exporter_response: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

#[tokio::test]
async fn a_context_is_sent_and_the_digest_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    std::fs::write(dir.path().join("src/a.txt"), "hello").unwrap();
    std::os::unix::fs::symlink("src/a.txt", dir.path().join("link")).unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            assert!(session.methods().contains(&"/moby.filesync.v1.FileSync/DiffCopy".to_owned()));
            assert!(session.methods().contains(&"/grpc.health.v1.Health/Check".to_owned()));
            session.health().await?;
            let tree = session.pull("context").await?;
            let shown: Vec<_> = tree
                .iter()
                .map(|entry| (String::from_utf8_lossy(&entry.stat.path).into_owned(), entry.data.clone()))
                .collect();
            assert_eq!(
                shown,
                [
                    ("link".to_owned(), None),
                    ("src".to_owned(), None),
                    ("src/a.txt".to_owned(), Some("hello".into()))
                ]
            );
            assert!(tree.iter().all(|entry| entry.stat.uid == 0 && entry.stat.gid == 0));
            Ok(response(&[("containerimage.digest", "sha256:abc"), ("image.name", "r/a:1")]))
        })
        .start();
    let solved = fake
        .client()
        .solve(dockerfile())
        .local("context", dir.path())
        .export(Export::image("r/a:1").push())
        .await
        .unwrap();
    assert_eq!(solved.digest(), "sha256:abc");
    assert_eq!(solved.refs(), ["r/a:1@sha256:abc"]);
    let request = fake.solves().remove(0);
    assert_eq!(request.frontend, "dockerfile.v0");
    assert_eq!(request.exporters[0].attrs["push"], "true");
    fake.wait_until(|fake| fake.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_directory_that_was_not_attached_is_refused_and_reported() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let status = session.pull("/etc").await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::NotFound);
            assert_eq!(status.message(), "no access allowed to dir \"/etc\"");
            let secret = session.secret("x").await.unwrap_err();
            assert_eq!(secret.code(), tonic::Code::Unimplemented);
            Ok(SolveResponse::default())
        })
        .start();
    let solved = fake.client().solve(dockerfile()).local("context", ".").await.unwrap();
    assert_eq!(solved.refused_requests(), ["local directory \"/etc\""]);
}

#[tokio::test]
async fn a_missing_directory_is_found_before_anything_is_sent() {
    let fake = FakeBuildKit::script().start();
    let error = fake.client().solve(dockerfile()).local("context", "/no/such/dir").await.unwrap_err();
    assert!(matches!(&error, Error::Request(RequestError::Path { .. })), "{error:?}");
    assert!(error.report().contains("/no/such/dir"), "{}", error.report());
    assert!(!error.may_have_run());
    assert!(fake.solves().is_empty());
}

#[tokio::test]
async fn what_a_graph_cannot_take_is_refused_before_anything_is_sent() {
    let fake = FakeBuildKit::script().start();
    let graph = || buildkit_llb::image("alpine");
    let input = fake.client().solve(graph()).input("context", graph());
    let dockerfile = fake.client().solve(graph()).dockerfile(Dockerfile::new(".").target("app"));
    for (name, solve) in [("input", input), ("dockerfile", dockerfile)] {
        let error = solve.await.unwrap_err();
        assert!(matches!(&error, Error::Request(RequestError::Option { .. })), "{error:?}");
        assert!(error.report().contains(name), "{}", error.report());
    }
    assert!(fake.solves().is_empty());
}

#[tokio::test]
async fn a_failed_step_tells_its_exit_code_lines_and_last_words() {
    use buildkit_proto::rpc::Status as RpcStatus;
    use prost::Message as _;
    let detail = |name: &str, json: &str| prost_types::Any {
        type_url: format!("github.com/moby/buildkit/{name}"),
        value: json.as_bytes().to_vec(),
    };
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "RUN false".into(), ..Default::default() };
            let log = VertexLog { vertex: "sha256:v".into(), stream: 2, msg: "no such thing\n".into(), ..Default::default() };
            let _ = out.send(Ok(StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() })).await;
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(move |_| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let details = vec![
                detail(
                    "errdefs.Source+json",
                    r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBhClJVTiBmYWxzZQo="},"ranges":[{"start":{"line":2},"end":{"line":2}}]}"#,
                ),
                detail("errdefs.Vertex+json", r#"{"digest":"sha256:v"}"#),
                detail("gatewayapi.ExitMessage+json", r#"{"Code":7}"#),
            ];
            let message = "process \"/bin/sh -c false\" did not complete successfully: exit code: 7";
            let status = RpcStatus { code: 2, message: message.into(), details };
            Err(Status::with_details(tonic::Code::Unknown, message, status.encode_to_vec().into()))
        })
        .start();
    let error = fake.client().solve(dockerfile()).await.unwrap_err();
    let solve = error.as_solve().unwrap();
    assert_eq!(solve.kind(), SolveErrorKind::Process);
    assert_eq!(solve.exit_code(), Some(7));
    assert_eq!(solve.vertex(), Some("sha256:v"));
    assert_eq!(solve.vertex_name(), Some("RUN false"));
    assert_eq!(solve.last_logs(), ["no such thing"]);
    assert_eq!(solve.location().unwrap().line(), 2);
    assert!(error.to_string().starts_with("failed to solve: Dockerfile:2: process"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_tar_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            session.export_file(0, &[b"first ", b"second"]).await?;
            Ok(SolveResponse::default())
        })
        .start();
    fake.client().solve(dockerfile()).export(Export::tar(&path)).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"first second");

    let failing = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            session.export_file(0, &[b"torn"]).await?;
            Err(Status::unknown("later"))
        })
        .start();
    failing.client().solve(dockerfile()).export(Export::tar(&path)).await.unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"first second");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_stream_reaches_the_writer_of_the_caller() {
    let (writer, mut reader) = tokio::io::duplex(64);
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            solve.session().await?.export_file(0, &[b"bytes"]).await?;
            Ok(SolveResponse::default())
        })
        .start();
    fake.client().solve(dockerfile()).export(Export::oci(Output::writer(writer))).await.unwrap();
    let mut written = Vec::new();
    reader.read_to_end(&mut written).await.unwrap();
    assert_eq!(written, b"bytes");
}

#[tokio::test]
async fn progress_reaches_its_consumer_and_never_decides() {
    let fake = FakeBuildKit::script()
        .on_status(|_, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "step".into(), ..Default::default() };
            let _ = out.send(Ok(StatusResponse { vertexes: vec![vertex], ..Default::default() })).await;
            Err(Status::internal("status is broken"))
        })
        .on_solve(|_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let (sink, mut events) = progress::channel();
    fake.client().solve(dockerfile()).progress(sink).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(format!("{event:?}"));
    }
    assert!(seen[0].contains("step"), "{seen:?}");
    assert!(seen.iter().any(|event| event.contains("status is broken")), "{seen:?}");
}

#[tokio::test]
async fn a_missing_exporter_is_told_as_such() {
    let fake = FakeBuildKit::script()
        .on_solve(|_| async { Err(Status::unknown("exporter \"image\" could not be found")) })
        .start();
    let error = fake.client().solve(dockerfile()).export(Export::image("a")).await.unwrap_err();
    assert_eq!(error.to_string(), "the daemon does not support the exporter \"image\" (BuildKit v0.25.0)");
}

#[tokio::test]
async fn a_started_build_can_be_cancelled_and_says_so() {
    let fake = FakeBuildKit::script()
        .on_solve(|_| async {
            std::future::pending::<()>().await;
            Ok(SolveResponse::default())
        })
        .start();
    let build = fake.client().solve(dockerfile()).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    build.cancel();
    build.cancel();
    let result = tokio::time::timeout(Duration::from_secs(3), build).await.unwrap();
    assert!(matches!(result, Err(Error::Canceled)), "{result:?}");
    fake.wait_until(|fake| fake.running_solves() == 0 && fake.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_tree_is_written_to_a_directory() {
    use buildkit_proto::fsutil::Stat;
    use buildkit_tests::fake::Entry;
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let stat = |path: &str, mode: u32, size: i64| Stat {
                path: path.to_owned().into(),
                mode,
                size,
                ..Default::default()
            };
            let entries = [
                Entry { stat: stat("d", 0x8000_01ed, 0), data: None },
                Entry { stat: stat("d/f", 0o644, 5), data: Some("hello".into()) },
            ];
            solve.session().await?.export_tree(0, &entries).await?;
            Ok(SolveResponse::default())
        })
        .start();
    fake.client().solve(dockerfile()).export(Export::local(&out)).await.unwrap();
    assert_eq!(std::fs::read(out.join("d/f")).unwrap(), b"hello");
}

#[tokio::test(start_paused = true)]
async fn f06_a_link_that_dies_without_a_word_is_given_up_in_a_minute() {
    use buildkit_client::connect::Liveness;
    use buildkit_tests::fake::Faults;
    let fake = FakeBuildKit::script()
        .on_solve(|_| async {
            std::future::pending::<()>().await;
            Ok(SolveResponse::default())
        })
        .start();
    let faults = Faults::default();
    let build = fake.client_with(&faults, Liveness::default()).solve(dockerfile()).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    faults.stall_now();
    let started = tokio::time::Instant::now();
    let error = build.await.unwrap_err();
    assert!(matches!(error, Error::LinkLost(_)), "{error:?}");
    assert!(started.elapsed() <= Duration::from_secs(65), "{:?}", started.elapsed());
}
