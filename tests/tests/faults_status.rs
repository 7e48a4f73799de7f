//! Progress that is broken, huge or unread, limits, and daemons that ask for too much: rows F24 to F26, F33, F39 and
//! F48 of the fault table.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_client::Error;
use buildkit_client::connect::Liveness;
use buildkit_client::export::{Export, Output};
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::SecretSource;
use buildkit_proto::control::{
    SolveResponse, StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use buildkit_proto::{content, pb};
use buildkit_tests::fake::{FakeBuildKit, Link};
use prost_types::Timestamp;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

/// A writer whose content can be looked at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn time(seconds: i64, nanos: i32) -> Timestamp {
    Timestamp { seconds, nanos }
}

/// Progress such as only a broken or hostile daemon sends.
fn junk() -> StatusResponse {
    let vertex = |digest: &str, name: &str| Vertex {
        digest: digest.into(),
        name: name.into(),
        started: Some(time(-1_000, -5)),
        completed: Some(time(i64::MIN, i32::MIN)),
        ..Default::default()
    };
    let mut odd = vertex("not-a-digest", "\u{1b}]0;owned\u{7}a\u{202e}b\u{9b}31m\r\nc\u{0}");
    odd.error = "\u{1b}[2Jgone\u{2066}".into();
    odd.started = Some(time(10, 0));
    odd.completed = Some(time(1, 0));
    odd.inputs = vec![String::new(), "\u{1b}".into(), "not-a-digest".into()];
    odd.progress_group = Some(pb::ProgressGroup { id: "\u{1b}g".into(), ..Default::default() });
    let status = |vertex: &str| VertexStatus {
        id: "\u{1b}[31mlayer".into(),
        vertex: vertex.into(),
        name: "\u{202e}".into(),
        current: i64::MAX,
        total: i64::MIN,
        timestamp: Some(time(i64::MAX, 999_999_999)),
        started: Some(time(i64::MAX, 0)),
        completed: Some(time(0, i32::MAX)),
    };
    StatusResponse {
        vertexes: vec![
            Vertex::default(),
            odd,
            vertex("", "no digest"),
            vertex(&"d".repeat(100_000), "long"),
            Vertex { started: Some(time(10, 0)), ..vertex("shown", "\u{1b}[31mred\u{202e}") },
        ],
        statuses: vec![VertexStatus::default(), status("not-a-digest"), status("unknown")],
        logs: vec![
            VertexLog::default(),
            VertexLog {
                vertex: "not-a-digest".into(),
                stream: -7,
                msg: b"a\x1b[1mb\x1b]8;;http://x\x07c\xff\xe2\x80\xaed\n"[..].into(),
                timestamp: Some(time(-62_135_596_801, 0)),
            },
            VertexLog { vertex: "unknown".into(), msg: b"lost\n"[..].into(), ..Default::default() },
        ],
        warnings: vec![
            VertexWarning::default(),
            VertexWarning {
                vertex: "not-a-digest".into(),
                level: i64::MIN,
                short: b"\x1b[5mwarned\xff"[..].into(),
                detail: vec![b"\x1b"[..].into(), vec![].into()],
                url: "javascript:alert(1)".into(),
                ranges: vec![pb::Range::default(), pb::Range { start: None, ..Default::default() }],
                ..Default::default()
            },
        ],
    }
}

#[tokio::test]
async fn f24_junk_in_the_progress_is_tolerated_and_made_safe_to_show() {
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            for _ in 0..3 {
                let _ = out.send(Ok(junk())).await;
            }
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(|_| async {
            sleep(Duration::from_millis(100)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let (plain, quiet, raw) = (Shared::default(), Shared::default(), Shared::default());
    let (sink, mut events) = progress::channel();
    let progress = progress::plain()
        .writer(plain.clone())
        .tee(progress::quiet().writer(quiet.clone()))
        .tee(progress::rawjson().writer(raw.clone()))
        .tee(sink);
    let solved = fake.client().solve(dockerfile()).progress(progress).await.unwrap();
    assert!(!solved.warnings().is_empty());
    for shown in [plain.text(), quiet.text()] {
        let bad = |c: &char| {
            c.is_control() && *c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert_eq!(shown.chars().filter(bad).collect::<String>(), "", "{shown:?}");
    }
    assert!(plain.text().contains("warned") && plain.text().contains("abc"), "{:?}", plain.text());
    assert!(plain.text().contains(" red\n"), "{:?}", plain.text());
    assert!(!plain.text().contains("lost"), "{:?}", plain.text());
    // Machines get all of it, in JSON that is JSON.
    for line in raw.text().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let mut names = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Status(status) = event {
            names.extend(status.vertexes.into_iter().map(|vertex| vertex.name));
        }
    }
    assert!(
        names.iter().any(|name| name.contains('\u{1b}')),
        "the API has the names as they came: {names:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn f25_progress_that_fails_never_decides_a_build() {
    let step = || StatusResponse {
        vertexes: vec![Vertex { digest: "sha256:v".into(), name: "step".into(), ..Default::default() }],
        ..Default::default()
    };
    for case in ["error", "end", "never", "nothing", "huge", "endless", "reset"] {
        let fake = FakeBuildKit::script()
            .on_status(move |call, out| async move {
                if case != "never" {
                    let _ = out.send(Ok(step())).await;
                }
                match case {
                    "error" => return Err(Status::internal("status is broken")),
                    "end" => return Ok(()),
                    "huge" => {
                        let msg = vec![b'x'; 65 << 20].into();
                        let log = VertexLog { vertex: "sha256:v".into(), msg, ..Default::default() };
                        let _ = out.send(Ok(StatusResponse { logs: vec![log], ..Default::default() })).await;
                    }
                    "reset" => panic!("the daemon's handler ends without a status"),
                    "endless" => {
                        while out.send(Ok(step())).await.is_ok() {
                            sleep(Duration::from_millis(10)).await;
                        }
                    }
                    _ => std::future::pending::<()>().await,
                }
                call.solve_ended().await;
                Ok(())
            })
            .on_solve(|_| async {
                sleep(Duration::from_secs(5)).await;
                Ok(SolveResponse::default())
            })
            .start();
        let (sink, mut events) = progress::channel();
        let started = Instant::now();
        let solved = fake.client().solve(dockerfile()).progress(sink).await;
        solved.unwrap_or_else(|error| panic!("{case}: {}", error.report()));
        let took = started.elapsed();
        assert!(took <= Duration::from_millis(7_100), "{case}: the rest is waited for 2 s at most: {took:?}");
        let mut incomplete = Vec::new();
        while let Some(event) = events.next().await {
            if let Event::Incomplete { reason } = event {
                incomplete.push(reason);
            }
        }
        match case {
            "error" => assert_eq!(incomplete, ["status is broken"]),
            "huge" => assert!(incomplete.len() == 1 && incomplete[0].contains("too large"), "{incomplete:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn f24_what_a_daemon_says_in_errors_is_safe_to_show() {
    const SAID: &str = "\u{1b}]0;owned\u{7}\u{1b}[2Jno such\u{202e} file\u{9b}31m\r\nsecond\tline\u{0}\u{8}";
    let harmless = |text: &str| {
        !text
            .chars()
            .any(|c| c.is_control() && !matches!(c, '\n' | '\t') || ('\u{202a}'..='\u{202e}').contains(&c))
    };
    let fake = FakeBuildKit::script()
        .on_solve(|_| async { Err(Status::unknown(SAID)) })
        .on_disk_usage(|_| async { Err(Status::internal(SAID)) })
        .start();
    let client = fake.client();
    let solve = client.solve(dockerfile()).await.unwrap_err();
    let call = client.disk_usage(buildkit_client::control::UsageQuery::default()).await.unwrap_err();
    for error in [solve, call] {
        let report = error.report();
        assert!(report.ends_with("no such file\nsecond\tline"), "{report:?}");
        assert!(harmless(&report) && harmless(&error.to_string()), "{report:?}");
    }
}

/// What a daemon says about an error beside its words: nobody panics when that is no base64.
#[tokio::test]
async fn f24_details_of_errors_that_cannot_be_read_are_left_out() {
    for details in [&b"!"[..], b"QQ=Q", b"\xff\xfe", b"====", b"QUJD"] {
        let fake = FakeBuildKit::script()
            .on_solve(move |_| async move {
                let mut headers = http::HeaderMap::new();
                headers.insert("grpc-status-details-bin", http::HeaderValue::from_bytes(details).unwrap());
                let metadata = tonic::metadata::MetadataMap::from_headers(headers);
                Err(Status::with_metadata(tonic::Code::Unknown, "no such image", metadata))
            })
            .start();
        let error = fake.client().solve(dockerfile()).await.unwrap_err();
        assert!(error.report().contains("no such image"), "{details:?}: {}", error.report());
    }
}

#[tokio::test]
async fn f25_progress_of_17_mib_is_taken() {
    // More than gRPC's usual limits, and legal: a message of 16 MiB passes between BuildKit's own parts.
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "step".into(), ..Default::default() };
            let msg = vec![b'x'; 17 << 20].into();
            let log = VertexLog { vertex: "sha256:v".into(), msg, ..Default::default() };
            let message = StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() };
            let _ = out.send(Ok(message)).await;
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(|_| async {
            sleep(Duration::from_millis(500)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let (sink, mut events) = progress::channel();
    fake.client().solve(dockerfile()).progress(sink).await.unwrap();
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        match event {
            Event::Status(status) => bytes += status.logs.iter().map(|log| log.data.len()).sum::<usize>(),
            Event::Incomplete { reason } => panic!("{reason}"),
            _ => {}
        }
    }
    assert_eq!(bytes, 17 << 20);
}

/// Resident memory of this process in MiB: now, and at its highest.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let read = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (read("VmRSS:"), read("VmHWM:"))
}

/// Runs a test of this file again, alone in a process of its own. Whether this is that process.
fn alone(test: &str) -> bool {
    const CHILD: &str = "BUILDKIT_TESTS_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

const LINES_A_LOG: usize = 400;

/// A daemon that writes so many lines of 24 bytes, in logs of 400.
fn flood(lines: usize) -> FakeBuildKit {
    let msg: bytes::Bytes = "a line of a chatty build\n".repeat(LINES_A_LOG).into();
    let done = Arc::new(tokio::sync::Notify::new());
    let all_said = Arc::clone(&done);
    FakeBuildKit::script()
        .on_status(move |_, out| {
            let (msg, done) = (msg.clone(), Arc::clone(&done));
            async move {
                let vertex = Vertex {
                    digest: "sha256:v".into(),
                    name: "RUN yes".into(),
                    started: Some(time(1, 0)),
                    ..Default::default()
                };
                let _ = out.send(Ok(StatusResponse { vertexes: vec![vertex], ..Default::default() })).await;
                let log =
                    VertexLog { vertex: "sha256:v".into(), stream: 1, msg, timestamp: Some(time(2, 0)) };
                let message = StatusResponse { logs: vec![log; 20], ..Default::default() };
                for _ in 0..lines / LINES_A_LOG / 20 {
                    if out.send(Ok(message.clone())).await.is_err() {
                        return Ok(());
                    }
                }
                done.notify_one();
                Ok(())
            }
        })
        .on_solve(move |_| {
            let all_said = Arc::clone(&all_said);
            async move {
                all_said.notified().await;
                Ok(SolveResponse::default())
            }
        })
        .start()
}

#[test]
fn f26_ten_million_lines_that_nobody_reads_take_no_memory() {
    if !alone("f26_ten_million_lines_that_nobody_reads_take_no_memory") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        const LINES: usize = 10_000_000;
        // One consumer never reads, another is stuck in a write, as in a full pipe.
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let build = |lines, sink: progress::Progress| {
            let fake = flood(lines);
            async move { fake.client().solve(dockerfile()).progress(sink).await.map(drop) }
        };
        let (sink, events) = progress::channel();
        build(1_000_000, sink).await.unwrap();
        drop(events);
        let (before, _) = memory();
        let started = std::time::Instant::now();
        let (sink, mut events) = progress::channel();
        build(LINES, sink.tee(progress::plain().writer(Stuck))).await.unwrap();
        let (_, highest) = memory();
        println!("{LINES} lines in {:?}; {before} MiB before, {highest} MiB at most", started.elapsed());
        // Two buffers of 16 MiB, and what is on its way.
        assert!(highest < before.max(64) + 64, "{before} MiB before, {highest} MiB at most");
        let (mut dropped, mut kept) = (0, 0);
        while let Some(event) = events.next().await {
            match event {
                Event::Dropped { logs, .. } => dropped += usize::try_from(logs).unwrap(),
                Event::Status(status) => kept += status.logs.len(),
                _ => {}
            }
        }
        assert_eq!((dropped + kept) * LINES_A_LOG, LINES, "{dropped} dropped, {kept} kept");
        assert!(dropped > kept && kept > 100, "{dropped} dropped, {kept} kept");
    });
    // The stuck writer's thread would be waited for by nobody.
    std::mem::forget(runtime);
}

#[tokio::test]
async fn f26_logs_arrive_whole_where_they_are_read() {
    let lines = 400 * 20 * 20;
    let fake = flood(lines);
    let out = Shared::default();
    let (sink, mut events) = progress::channel();
    let progress = progress::plain().writer(out.clone()).tee(sink);
    let build = tokio::spawn(fake.client().solve(dockerfile()).progress(progress).into_future());
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        match event {
            Event::Status(status) => bytes += status.logs.iter().map(|log| log.data.len()).sum::<usize>(),
            Event::Dropped { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
    build.await.unwrap().unwrap();
    assert_eq!(bytes, lines * 25);
    assert_eq!(out.text().matches("a line of a chatty build").count(), lines);
}

#[tokio::test]
async fn f26_a_hostile_flood_of_steps_and_names_is_bounded() {
    if !alone("f26_a_hostile_flood_of_steps_and_names_is_bounded") {
        return;
    }
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            // 400 MiB of names, errors and ids, each of a step, a transfer and a group of its own.
            for round in 0..100 {
                let big = "n".repeat(1 << 20);
                let vertex = Vertex {
                    digest: format!("sha256:{round}"),
                    name: big.clone(),
                    error: big.clone(),
                    progress_group: Some(pb::ProgressGroup { id: big.clone(), ..Default::default() }),
                    ..Default::default()
                };
                let status =
                    VertexStatus { id: big, vertex: format!("sha256:{round}"), ..Default::default() };
                let message =
                    StatusResponse { vertexes: vec![vertex], statuses: vec![status], ..Default::default() };
                if out.send(Ok(message)).await.is_err() {
                    break;
                }
            }
            for round in 0..200_u32 {
                let many = |at: u32| Vertex { digest: format!("{round}/{at}"), ..Default::default() };
                let vertexes = (0..1000).map(many).collect();
                let _ = out.send(Ok(StatusResponse { vertexes, ..Default::default() })).await;
            }
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(|_| async {
            sleep(Duration::from_secs(2)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let (sink, _events) = progress::channel();
    fake.client().solve(dockerfile()).progress(sink).await.unwrap();
    let (_, highest) = memory();
    assert!(highest < 200, "{highest} MiB at most");
}

/// A writer that fails, as a full disk does.
fn full() -> Output {
    Output::writer(tokio::fs::File::from_std(std::fs::File::create("/dev/full").unwrap()))
}

#[tokio::test]
async fn f33_of_two_exporters_both_are_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    // One fails here, the other on the daemon's side: the local cause comes first, the daemon's words are kept.
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let local = session.export_file(0, &[b"bytes"]).await.unwrap_err();
            session.export_file(1, &[b"whole"]).await?;
            Err(Status::unknown(format!(
                "{}; failed to push reg.local/a: 503 Service Unavailable",
                local.message()
            )))
        })
        .start();
    let path = dir.path().join("other.tar");
    let error = fake
        .client()
        .solve(dockerfile())
        .export(Export::oci(full()))
        .export(Export::tar(&path))
        .export(Export::image("reg.local/a").push())
        .await
        .unwrap_err();
    let Error::Local(local) = &error else { panic!("{error:?}") };
    let text = error.report();
    assert!(text.contains("export 0 (oci)") && text.contains("No space left"), "{text}");
    assert!(local.daemon_error().unwrap().message().contains("failed to push reg.local/a"), "{error:?}");
    assert!(!path.exists(), "the build failed, so no result of it takes its name");

    // Both fail here.
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let first = session.export_file(0, &[b"bytes"]).await.unwrap_err();
            let _ = session.export_file(1, &[b"bytes"]).await.unwrap_err();
            Err(Status::unknown(first.message()))
        })
        .start();
    let error = fake
        .client()
        .solve(dockerfile())
        .export(Export::oci(full()))
        .export(Export::docker(full()))
        .await
        .unwrap_err();
    let Error::Local(local) = &error else { panic!("{error:?}") };
    assert!(error.report().contains("export 0 (oci)"), "{}", error.report());
    let others = local.daemon_error().unwrap().others();
    assert!(others.len() == 1 && others[0].contains("export 1 (docker)"), "{others:?}");
}

#[tokio::test]
async fn f39_what_was_not_offered_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            for dir in ["/etc", "..", "context/..", "Context", ""] {
                assert_eq!(session.pull(dir).await.unwrap_err().code(), Code::NotFound, "{dir}");
            }
            for secret in ["other", "token/../other", "TOKEN", ""] {
                assert_eq!(session.secret(secret).await.unwrap_err().code(), Code::NotFound, "{secret}");
            }
            for exporter in [1, 7, usize::MAX] {
                assert_eq!(session.export_file(exporter, &[b"x"]).await.unwrap_err().code(), Code::NotFound);
            }
            assert_eq!(session.credentials("reg.local").await.unwrap_err().code(), Code::Unimplemented);
            let mut store = content::content_client::ContentClient::new(session.channel());
            let read =
                store.read(content::ReadContentRequest { digest: "sha256:00".into(), ..Default::default() });
            assert_eq!(read.await.unwrap_err().code(), Code::Unimplemented);
            let mut agent = buildkit_proto::sshforward::ssh_client::SshClient::new(session.channel());
            let check = buildkit_proto::sshforward::CheckAgentRequest { id: "default".into() };
            assert_eq!(agent.check_agent(check).await.unwrap_err().code(), Code::Unimplemented);
            // What was offered is there.
            session.pull("context").await?;
            assert_eq!(session.secret("token").await?, "s");
            session.export_file(0, &[b"x"]).await?;
            // Twice is once too often.
            assert!(session.export_file(0, &[b"x"]).await.is_err());
            Ok(SolveResponse::default())
        })
        .start();
    let out = dir.path().join("out.tar");
    let solved = fake
        .client()
        .solve(dockerfile())
        .local("context", dir.path())
        .secret("token", SecretSource::value("s"))
        .export(Export::tar(&out))
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let refused = solved.refused_requests();
    for asked in ["\"/etc\"", "\"..\"", "\"Context\"", "export 1", "export 7"] {
        assert!(refused.iter().any(|line| line.contains(asked)), "{asked}: {refused:?}");
    }
    assert!(refused.len() >= 8, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn f48_a_request_over_the_limit_is_told_at_once_and_never_sent() {
    let fake = FakeBuildKit::script().start();
    let started = Instant::now();
    let huge = dockerfile().opt("build-arg:X", "x".repeat(17 << 20));
    let error = fake.client().solve(huge).await.unwrap_err();
    let text = error.report();
    assert!(text.contains("17825") && text.contains("16777216"), "{text}");
    assert!(!error.may_have_run() && !error.is_transient() && started.elapsed() < Duration::from_millis(1));
    assert!(fake.solves().is_empty() && fake.sessions_opened() == 0);
}

#[tokio::test]
async fn f48_large_answers_are_taken_and_larger_ones_are_an_error() {
    for (size, taken) in [(17 << 20, true), (60 << 20, true), (70 << 20, false)] {
        let fake = FakeBuildKit::script()
            .on_solve(move |_| async move {
                let exporter_response = [("frontend.big".to_owned(), "x".repeat(size))].into();
                Ok(SolveResponse { exporter_response })
            })
            .start();
        let solved = fake.client().solve(dockerfile()).await;
        match solved {
            Ok(solved) => assert!(taken && solved.get("frontend.big").unwrap().len() == size),
            Err(error) => assert!(!taken && error.report().contains("too large"), "{}", error.report()),
        }
    }
    // An error text of megabytes is cut short, and says so.
    let fake =
        FakeBuildKit::script().on_solve(|_| async { Err(Status::unknown("x".repeat(5 << 20))) }).start();
    let error = fake.client().solve(dockerfile()).await.unwrap_err();
    let text = error.report();
    assert!(text.len() < 100_000 && text.ends_with("bytes more)"), "{}", text.len());
}

#[tokio::test]
async fn f48_a_session_takes_16_mib_of_headers_and_messages() {
    let link = Link::default();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let pattern = "x".repeat(1000);
            let headers = vec![("exclude-patterns", pattern.as_str()); 12_000];
            session.pull_with("context", &headers).await?;
            Ok(SolveResponse::default())
        })
        .start();
    link.rebind(&fake);
    let dir = tempfile::tempdir().unwrap();
    let solved = link.client(Liveness::default()).solve(dockerfile()).local("context", dir.path()).await;
    solved.unwrap_or_else(|error| panic!("{}", error.report()));
}
