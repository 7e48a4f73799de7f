//! What a build offers the daemon on its session beyond files and secrets, against a scripted daemon.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use buildkit_client::dockerfile::{Context, Dockerfile};
use buildkit_client::error::{BoxError, Error, report};
use buildkit_client::export::{Export, ResultInfo, SessionExporter};
use buildkit_client::policy::{SourceCheck, Verdict, verifier};
use buildkit_client::request::{Frontend, Local};
use buildkit_client::session::Upload;
use buildkit_client::{Client, Provenance, Retry, Solve};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_proto::content::content_client::ContentClient;
use buildkit_proto::content::{
    DeleteContentRequest, InfoRequest as BlobInfoRequest, ReadContentRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use buildkit_proto::control::{InfoResponse, SolveResponse};
use buildkit_proto::exporter::exporter_client::ExporterClient;
use buildkit_proto::exporter::{FinalizeExportRequest, FindExportersRequest};
use buildkit_proto::fsutil::Stat;
use buildkit_proto::policysession::check_policy_response::Result as Answer;
use buildkit_proto::policysession::policy_verifier_client::PolicyVerifierClient;
use buildkit_proto::policysession::{CheckPolicyRequest, DecisionResponse};
use buildkit_proto::sourcepolicy::PolicyAction;
use buildkit_proto::upload::upload_client::UploadClient;
use buildkit_proto::{gateway, pb, worker};
use buildkit_tests::fake::{Entry, FakeBuildKit, Faults, Script, Session};
use buildkit_tests::oci::archive;
use futures::StreamExt as _;
use tonic::{Code, Request, Status};

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

fn ok(pairs: &[(&str, &str)]) -> SolveResponse {
    SolveResponse {
        exporter_response: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

/// A daemon of this version.
fn script(version: &'static str) -> Script {
    FakeBuildKit::script().on_info(move |_| async move {
        let version = worker::BuildkitVersion { version: version.to_owned(), ..Default::default() };
        Ok(InfoResponse { buildkit_version: Some(version) })
    })
}

async fn check(session: &Session, identifier: &str) -> Result<Answer, Status> {
    let source = pb::SourceOp { identifier: identifier.to_owned(), ..Default::default() };
    let image = gateway::ResolveSourceImageResponse { digest: "sha256:abc".into(), ..Default::default() };
    let source =
        gateway::ResolveSourceMetaResponse { source: Some(source), image: Some(image), ..Default::default() };
    let request = CheckPolicyRequest { source: Some(source), ..Default::default() };
    let answer = PolicyVerifierClient::new(session.channel()).check_policy(request).await?;
    answer.into_inner().result.ok_or_else(|| Status::internal("no answer"))
}

fn action(answer: &Answer) -> PolicyAction {
    match answer {
        Answer::Decision(decision) => decision.action(),
        Answer::Request(_) => panic!("not decided"),
    }
}

#[tokio::test]
async fn a_function_decides_about_sources() {
    let fake = script("v0.26.0")
        .on_solve(|solve| async move {
            assert_eq!(solve.request.source_policy_session, solve.request.session);
            let session = solve.session().await?;
            let allowed = check(&session, "docker-image://docker.io/library/alpine:3").await?;
            assert_eq!(action(&allowed), PolicyAction::Allow);
            let denied = check(&session, "http://plain/x").await?;
            let Answer::Decision(DecisionResponse { deny_messages, .. }) = &denied else {
                panic!("{denied:?}")
            };
            assert_eq!(action(&denied), PolicyAction::Deny);
            assert_eq!(deny_messages[0].message, "only https");
            let converted = check(&session, "docker-image://docker.io/library/old:1").await?;
            let Answer::Decision(decision) = &converted else { panic!("{converted:?}") };
            assert_eq!(decision.update.as_ref().unwrap().identifier, "docker-image://mirror/new:1");
            let Answer::Request(more) = check(&session, "git://host/repo").await? else { panic!("decided") };
            assert_eq!(more.source.unwrap().identifier, "git://host/repo");
            assert!(more.git.unwrap().return_object);
            Ok(SolveResponse::default())
        })
        .start();
    let policy = verifier(|source: SourceCheck| async move {
        assert_eq!(source.digest(), Some("sha256:abc"));
        Ok(match source.identifier() {
            plain if plain.starts_with("http://") => Verdict::deny("only https"),
            old if old.contains("/old:") => Verdict::convert("docker-image://mirror/new:1"),
            git if git.starts_with("git://") => {
                let mut request = source.resolve();
                request.git = Some(gateway::ResolveSourceGitRequest { return_object: true });
                Verdict::Resolve(Box::new(request))
            }
            _ => Verdict::Allow,
        })
    });
    fake.client().solve(dockerfile()).policy_callback(policy).await.unwrap();
}

#[tokio::test]
async fn a_decision_that_fails_is_the_cause_of_the_failed_build() {
    let fake = script("v0.26.0")
        .on_solve(|solve| async move {
            let status = check(&solve.session().await?, "docker-image://a").await.unwrap_err();
            Err(Status::unknown(format!("source not allowed: {}", status.message())))
        })
        .start();
    let policy = verifier(|_| async { Err::<Verdict, BoxError>("the rules are not to be had".into()) });
    let error = fake.client().solve(dockerfile()).policy_callback(policy).await.unwrap_err();
    assert!(matches!(error, Error::Local(_)), "{error:?}");
    let text = report(&error);
    assert!(text.contains("\"docker-image://a\"") && text.contains("the rules are not to be had"), "{text}");
}

#[derive(Debug, Default, Clone)]
struct Chooser {
    dir: std::path::PathBuf,
    finalized: Arc<Mutex<BTreeMap<String, String>>>,
}

#[async_trait::async_trait]
impl SessionExporter for Chooser {
    async fn find(&self, result: &ResultInfo) -> Result<Vec<Export>, BoxError> {
        assert_eq!(result.metadata["k"], "v");
        Ok(vec![Export::image("r/a:1").push().into(), Export::tar(self.dir.join("chosen.tar")).into()])
    }

    async fn finalize(&self, response: &BTreeMap<String, String>) -> Result<(), BoxError> {
        self.finalized.lock().unwrap().clone_from(response);
        Ok(())
    }
}

#[tokio::test]
async fn exporters_are_chosen_when_the_result_is_known() {
    let fake = script("v0.32.0")
        .on_solve(|solve| async move {
            assert!(solve.request.enable_session_exporter);
            let session = solve.session().await?;
            let mut client = ExporterClient::new(session.channel());
            let metadata = BTreeMap::from([("k".to_owned(), "v".into())]);
            let found = client.find_exporters(FindExportersRequest { metadata, refs: vec!["ref".into()] });
            let found = found.await?.into_inner().exporters;
            let kinds: Vec<&str> = found.iter().map(|exporter| exporter.r#type.as_str()).collect();
            assert_eq!(kinds, ["image", "tar"]);
            session.export_file(0, &[b"asked for"]).await?;
            session.export_file(2, &[b"chosen"]).await?;
            let response = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:x".to_owned())]);
            client.finalize_export(FinalizeExportRequest { exporter_response: response }).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    let chooser = Chooser { dir: dir.path().to_owned(), ..Chooser::default() };
    let solve = fake.client().solve(dockerfile()).export(Export::tar(dir.path().join("fixed.tar")));
    solve.session_exporter(chooser.clone()).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("fixed.tar")).unwrap(), b"asked for");
    assert_eq!(std::fs::read(dir.path().join("chosen.tar")).unwrap(), b"chosen");
    assert_eq!(chooser.finalized.lock().unwrap()["containerimage.digest"], "sha256:x");
}

fn file(path: &str, data: &'static str) -> Entry {
    let size = i64::try_from(data.len()).unwrap();
    let stat = Stat { path: path.to_owned().into(), mode: 0o644, size, ..Default::default() };
    Entry { stat, data: Some(data.into()) }
}

#[tokio::test]
async fn what_is_not_in_the_result_is_deleted_when_that_is_asked_for() {
    for knows in [true, false] {
        let fake = script("v0.31.0")
            .on_solve(move |solve| async move {
                assert_eq!(solve.request.exporters[0].attrs["mode"], "delete");
                let session = solve.session().await?;
                if knows {
                    let headers = [("buildkit-exporter-multi-platform", "1")];
                    session.export_tree_with(0, &[file("new", "n")], &headers).await?;
                } else {
                    session.export_tree(0, &[file("new", "n")]).await?;
                }
                Ok(SolveResponse::default())
            })
            .start();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("old"), "o").unwrap();
        let result = fake.client().solve(dockerfile()).export(Export::local(dir.path()).delete()).await;
        assert_eq!(result.is_ok(), knows, "{result:?}");
        assert_eq!(dir.path().join("old").exists(), !knows);
        assert_eq!(dir.path().join("new").exists(), knows);
    }
}

fn digest(data: &[u8]) -> String {
    buildkit_llb::Digest::of(data).to_string()
}

fn on<T>(store: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-attachable-store-id", store.parse().unwrap());
    request
}

/// Writes a blob as the daemon does.
async fn write(session: &Session, store: &str, name: &str, data: &[u8]) -> Result<String, Status> {
    let size = i64::try_from(data.len()).unwrap();
    let base = || WriteContentRequest {
        r#ref: name.to_owned(),
        total: size,
        expected: digest(data),
        ..Default::default()
    };
    let (first, rest) = data.split_at(data.len() / 2);
    let offset = i64::try_from(first.len()).unwrap();
    let write = WriteAction::Write.into();
    let messages = vec![
        base(),
        WriteContentRequest { action: write, data: first.to_vec().into(), ..base() },
        WriteContentRequest { action: write, offset, data: rest.to_vec().into(), ..base() },
        WriteContentRequest { action: WriteAction::Commit.into(), offset: size, ..base() },
    ];
    say(session, store, messages).await.map(|last| last.digest)
}

async fn say(
    session: &Session,
    store: &str,
    messages: Vec<WriteContentRequest>,
) -> Result<WriteContentResponse, Status> {
    let mut client = ContentClient::new(session.channel());
    let mut answers = client.write(on(store, futures::stream::iter(messages))).await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.next().await {
        last = Some(answer?);
    }
    last.ok_or_else(|| Status::internal("no answer"))
}

async fn blob(
    session: &Session,
    store: &str,
    digest: &str,
    offset: i64,
    size: i64,
) -> Result<Vec<u8>, Status> {
    let request = ReadContentRequest { digest: digest.to_owned(), offset, size };
    let mut client = ContentClient::new(session.channel()).max_decoding_message_size(16 << 20);
    let mut parts = client.read(on(store, request)).await?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part?;
        assert_eq!(part.offset, i64::try_from(data.len()).unwrap());
        data.extend_from_slice(&part.data);
    }
    Ok(data)
}

const MANIFEST: &[u8] = br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;

#[tokio::test]
async fn blobs_are_written_checked_and_entered_into_the_index() {
    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let layer = vec![7; 3 << 20];
            assert_eq!(write(&session, "export", "layer", &layer).await?, digest(&layer));
            assert_eq!(write(&session, "export", "manifest", MANIFEST).await?, digest(MANIFEST));
            // What is there is not taken again.
            let again = write(&session, "export", "layer", &layer).await.unwrap_err();
            assert_eq!(again.code(), Code::AlreadyExists);
            assert_eq!(blob(&session, "export", &digest(&layer), (3 << 20) - 3, 0).await?, [7, 7, 7]);
            assert_eq!(blob(&session, "export", &digest(MANIFEST), 1, 5).await?, &MANIFEST[1..6]);
            let past = blob(&session, "export", &digest(MANIFEST), 1000, 0).await.unwrap_err();
            assert_eq!(past.code(), Code::OutOfRange);
            // The daemon tells the descriptor of another exporter, which is not in this layout.
            Ok(ok(&[("containerimage.digest", "sha256:other")]))
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    fake.client().solve(dockerfile()).export(Export::oci_dir(dir.path())).await.unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], digest(MANIFEST));
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "latest");
}

#[tokio::test]
async fn a_blob_that_is_not_what_it_should_be_is_not_kept() {
    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let base = || WriteContentRequest { r#ref: "x".into(), ..Default::default() };
            let commit = |offset, expected: String, total| WriteContentRequest {
                action: WriteAction::Commit.into(),
                data: "data".into(),
                offset,
                expected,
                total,
                ..base()
            };
            let wrong = say(&session, "export", vec![commit(0, digest(b"other"), 4)]).await.unwrap_err();
            assert_eq!(wrong.code(), Code::FailedPrecondition, "{wrong:?}");
            let short = say(&session, "export", vec![commit(0, digest(b"data"), 5)]).await.unwrap_err();
            assert_eq!(short.code(), Code::FailedPrecondition, "{short:?}");
            let gap = say(&session, "export", vec![commit(7, String::new(), 0)]).await.unwrap_err();
            assert_eq!(gap.code(), Code::OutOfRange, "{gap:?}");
            let path = WriteContentRequest { expected: "sha256:../../etc/passwd".into(), ..base() };
            assert_eq!(say(&session, "export", vec![path]).await.unwrap_err().code(), Code::InvalidArgument);
            assert_eq!(say(&session, "export", vec![]).await.unwrap_err().code(), Code::Internal);
            let again =
                WriteContentRequest { action: WriteAction::Write.into(), data: "torn".into(), ..base() };
            let anew = say(&session, "export", vec![again, commit(0, digest(b"data"), 4)]).await?;
            assert_eq!(anew.digest, digest(b"data"));
            write(&session, "export", "manifest", MANIFEST).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    fake.client().solve(dockerfile()).export(Export::oci_dir(dir.path())).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 2);
    assert!(!dir.path().join("ingest").exists());
}

#[tokio::test]
async fn f40_a_source_is_never_written_to() {
    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let mut client = ContentClient::new(session.channel());
            let known = digest(MANIFEST);
            let info =
                client.info(on("oci:base", BlobInfoRequest { digest: known.clone() })).await?.into_inner();
            assert_eq!(info.info.unwrap().size, i64::try_from(MANIFEST.len()).unwrap());
            let written = write(&session, "oci:base", "x", b"planted").await.unwrap_err();
            assert_eq!(written.code(), Code::PermissionDenied);
            let deleted =
                client.delete(on("oci:base", DeleteContentRequest { digest: known })).await.unwrap_err();
            assert_eq!(deleted.code(), Code::PermissionDenied);
            let other =
                client.info(on("local:/etc", BlobInfoRequest { digest: digest(b"") })).await.unwrap_err();
            assert_eq!(other.code(), Code::NotFound);
            let path = BlobInfoRequest { digest: "sha256:../../index.json".into() };
            assert_eq!(client.info(on("oci:base", path)).await.unwrap_err().code(), Code::InvalidArgument);
            let none = client.info(Request::new(BlobInfoRequest { digest: digest(b"") })).await.unwrap_err();
            assert_eq!(none.code(), Code::InvalidArgument);
            Ok(SolveResponse::default())
        })
        .start();
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(digest(MANIFEST).trim_start_matches("sha256:")), MANIFEST).unwrap();
    let solved = fake.client().solve(dockerfile()).oci_layout("base", dir.path()).await.unwrap();
    assert_eq!(solved.refused_requests().len(), 3, "{:?}", solved.refused_requests());
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    assert_eq!(std::fs::read(blobs.join(digest(MANIFEST).trim_start_matches("sha256:"))).unwrap(), MANIFEST);
}

async fn pull(session: &Session, id: &str) -> Result<Vec<u8>, Status> {
    let mut request = Request::new(futures::stream::pending());
    request.metadata_mut().insert("urlpath", format!("/{id}").parse().unwrap());
    request.metadata_mut().insert("urlhost", "buildkit-session".parse().unwrap());
    let mut parts = UploadClient::new(session.channel()).pull(request).await?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = parts.next().await {
        data.extend_from_slice(&part?.data);
    }
    Ok(data)
}

#[tokio::test]
async fn an_upload_is_served_once() {
    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let url = &solve.request.frontend_attrs["context"];
            let mine = url.strip_prefix("http://buildkit-session/").unwrap();
            let session = solve.session().await?;
            assert_eq!(pull(&session, mine).await?, vec![5; 1 << 20]);
            for id in [mine, "../etc/passwd", ""] {
                let again = pull(&session, id).await.unwrap_err();
                assert_eq!(again.code(), Code::NotFound, "{id}");
                assert!(again.message().starts_with("no http response from session for"), "{again:?}");
            }
            Ok(SolveResponse::default())
        })
        .start();
    let upload = Upload::reader(std::io::Cursor::new(vec![5; 1 << 20]));
    let solved = fake.client().solve(Dockerfile::new(Context::upload(upload))).await.unwrap();
    assert_eq!(solved.refused_requests().len(), 3);
}

#[tokio::test]
async fn an_upload_that_cannot_be_read_is_given_up_at_once_and_told() {
    /// Fails, and counts how often it was asked.
    struct Broken(Arc<AtomicUsize>);

    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Err(std::io::Error::other("the tape is torn")))
        }
    }

    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let url = &solve.request.frontend_attrs["context"];
            let id = url.strip_prefix("http://buildkit-session/").unwrap();
            pull(&solve.session().await?, id).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let asked = Arc::new(AtomicUsize::new(0));
    let upload = Upload::reader(Broken(Arc::clone(&asked)));
    let error = fake.client().solve(Dockerfile::new(Context::upload(upload))).await.unwrap_err();
    assert!(error.report().contains("the tape is torn"), "{}", error.report());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_archive_is_sent_entry_by_entry() {
    let fake = script("v0.25.0")
        .on_solve(|solve| async move {
            let headers = [("include-patterns", "wanted"), ("exclude-patterns", "wanted/not")];
            let entries = solve.session().await?.pull_with("context", &headers).await?;
            let paths: Vec<_> =
                entries.iter().map(|e| String::from_utf8_lossy(&e.stat.path).into_owned()).collect();
            assert_eq!(paths, ["wanted", "wanted/f"]);
            assert_eq!(entries[1].data.as_deref(), Some(&b"content"[..]));
            Ok(SolveResponse::default())
        })
        .start();
    let tar = archive(&[("other", "x"), ("wanted/f", "content"), ("wanted/not", "x")]);
    fake.client().solve(dockerfile()).local("context", Local::tar_bytes(tar)).await.unwrap();
}

fn failing_push(times: usize, message: &'static str) -> (FakeBuildKit, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let fake = script("v0.25.0")
        .on_solve(move |_| {
            let run = count.fetch_add(1, Ordering::SeqCst);
            async move {
                if run < times {
                    Err(Status::unknown(message))
                } else {
                    Ok(ok(&[("containerimage.digest", "sha256:a")]))
                }
            }
        })
        .start();
    (fake, runs)
}

const BUSY: &str = "failed to push r/a: unexpected status: 503 Service Unavailable";

#[tokio::test(start_paused = true)]
async fn a_push_is_repeated_when_the_registry_was_busy() {
    let (fake, runs) = failing_push(2, BUSY);
    let push = || Export::image("r/a:1").push();
    let solved = fake.client().solve(dockerfile()).export(push()).await.unwrap();
    assert_eq!(solved.attempts(), 3);
    let references: std::collections::BTreeSet<String> =
        fake.solves().into_iter().map(|solve| solve.r#ref).collect();
    assert_eq!((references.len(), runs.load(Ordering::SeqCst)), (3, 3), "each run has an id of its own");

    let (fake, runs) = failing_push(1, BUSY);
    let build = fake.client().solve(dockerfile()).export(push()).start();
    let first = build.reference();
    assert_eq!(build.await.unwrap().attempts(), 2, "what was started is repeated as well");
    assert_eq!((fake.solves()[0].r#ref.clone(), runs.load(Ordering::SeqCst)), (first, 2));

    let (fake, runs) = failing_push(3, BUSY);
    fake.client().solve(dockerfile()).export(push()).await.unwrap_err();
    assert_eq!(runs.load(Ordering::SeqCst), 3, "the first and two more");
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is_repeated() {
    type Ask = fn(Client) -> Solve;
    let push = || Export::image("r/a:1").push();
    let cases: [(&str, Ask); 6] = [
        ("failed to push r/a: unexpected status: 403 Forbidden", |client| {
            client.solve(dockerfile()).export(Export::image("r/a:1").push())
        }),
        (BUSY, |client| client.solve(dockerfile()).export(Export::image("r/a:1"))),
        (BUSY, |client| {
            client.solve(dockerfile()).export(Export::image("r/a:1").push()).retry_push(Retry::never())
        }),
        (BUSY, |client| {
            let upload = Upload::reader(std::io::Cursor::new("x"));
            client.solve(Dockerfile::new(Context::upload(upload))).export(Export::image("r/a:1").push())
        }),
        (BUSY, |client| {
            client.solve(dockerfile()).export(Export::image("r/a:1").push()).reference(format!("{:032x}", 7))
        }),
        (BUSY, |client| {
            let solve = client.solve(dockerfile()).export(Export::image("r/a:1").push());
            solve.session_exporter(Chooser::default())
        }),
    ];
    for (message, solve) in cases {
        let (fake, runs) = failing_push(1, message);
        solve(fake.client()).await.unwrap_err();
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{message}");
    }
    let (fake, runs) = failing_push(9, BUSY);
    let budget = Retry { budget: Duration::ZERO, ..Retry::times(5) };
    let client = fake.client_builder(&Faults::default()).retry_push(budget).lazy().unwrap();
    client.solve(dockerfile()).export(push()).await.unwrap_err();
    assert_eq!(runs.load(Ordering::SeqCst), 1, "no budget, no repetition");
}

#[tokio::test]
async fn what_an_old_daemon_would_ignore_is_refused_before_it_is_sent() {
    type Ask = fn(Solve) -> Solve;
    let tree = || MemoryTree::new().file("Dockerfile", "FROM scratch");
    let cases: [(&'static str, Ask, &str); 7] = [
        ("v0.10.6", |solve| solve.attest_provenance(Provenance::Max), "attest:provenance"),
        ("v0.12.5", |solve| solve.export(Export::image("a")).export(Export::image("b")), "several exporters"),
        (
            "v0.10.6",
            |solve| solve.export(Export::oci_dir(std::env::temp_dir().join("none"))),
            "tar=false of the oci exporter",
        ),
        (
            "v0.25.0",
            |solve| solve.policy_callback(verifier(|_| async { Ok(Verdict::Allow) })),
            "policy callbacks",
        ),
        ("v0.29.0", |solve| solve.compatibility_version(20), "compatibility versions"),
        ("v0.30.1", Solve::proxy_network, "the proxy network"),
        ("v0.20.0", |solve| solve.session_exporter(Chooser::default()), "session exporters"),
    ];
    for (version, ask, what) in cases {
        let fake = script(version).start();
        let error = ask(fake.client().solve(Dockerfile::new(tree()))).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && !error.may_have_run(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(version), "{text}");
        assert!(fake.solves().is_empty());
    }
}

#[tokio::test]
async fn new_daemons_get_what_is_new() {
    let fake = script("v0.31.0").start();
    let solve = fake.client().solve(dockerfile()).proxy_network().reproducible(7).export(Export::image("a"));
    solve.await.unwrap();
    let request = fake.solves().remove(0);
    assert!(request.proxy_network);
    assert_eq!(request.compatibility_version, 30);
    assert_eq!(request.frontend_attrs["build-arg:SOURCE_DATE_EPOCH"], "7");
    assert_eq!(request.exporters[0].attrs["rewrite-timestamp"], "true");
    assert_eq!(request.exporters[0].attrs["source-date-epoch"], "7");

    let graph = fake.client().solve(buildkit_llb::image("a")).compatibility_version(20).reproducible(7);
    graph.await.unwrap();
    let request = fake.solves().remove(1);
    assert_eq!(request.compatibility_version, 20, "what was asked for stays");
    assert!(request.frontend_attrs.is_empty());
}
