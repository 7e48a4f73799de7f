//! Errors that a program can act on, cancellation, and sessions that live as long as they should.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildkit_client::error::SolveErrorKind;
use buildkit_client::export::Export;
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::SecretSource;
use buildkit_client::{Client, Error, Retry};
use buildkit_llb::{Mount, State, sh};
use buildkit_proto::control::SolveResponse;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{FakeBuildKit, Faults};
use buildkit_tests::lag::Lag;
use tonic::{Code, Status};

fn step(script: &str) -> State {
    buildkit_llb::image("alpine").run(sh(script)).ignore_cache().root()
}

#[tokio::test]
async fn each_kind_of_failure_is_told_from_the_others() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let mirror = &daemon.registries.mirror.address;
    let private = daemon.registries.private.repository("nobody");
    let insecure = buildkit_llb::image("alpine").run(sh("true")).security(buildkit_llb::Security::Insecure);
    let cases = [
        ("a process", client.solve(step("exit 7")), SolveErrorKind::Process),
        (
            "an image",
            client.solve(buildkit_llb::image(format!("{mirror}/no/such")).rm("/x")),
            SolveErrorKind::Registry,
        ),
        (
            "no password",
            client
                .solve(buildkit_llb::scratch().mkfile("/a", 0o644, "a"))
                .export(Export::image(&private).push()),
            SolveErrorKind::Auth,
        ),
        ("an entitlement", client.solve(insecure.root()), SolveErrorKind::Refused),
        ("a frontend", client.solve(Frontend::new("no.such.frontend")), SolveErrorKind::Other),
    ];
    for (what, build, kind) in cases {
        let error = build.await.unwrap_err();
        let Error::Solve(solve) = &error else { panic!("{what}: {error:?}") };
        assert_eq!(solve.kind(), kind, "{what}: {}", error.report());
        assert!(error.may_have_run() && !error.is_transient(), "{what}: {}", error.report());
        assert!(error.to_string().starts_with("failed to solve: "), "{what}: {error}");
        assert!(!solve.reference().is_empty() && solve.elapsed() > Duration::ZERO);
    }
}

#[tokio::test]
async fn r14_a_failed_step_of_a_graph_tells_all_that_is_known_of_it() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    // One stream: between standard output and error no order is kept.
    let script =
        "exec >&2; i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; echo last words; exit 7";
    let run = buildkit_llb::image("alpine").run(sh(script)).name("the step").ignore_cache();
    let error = client.solve(run.root()).await.unwrap_err();
    let solve = error.as_solve().unwrap();
    assert_eq!(solve.exit_code(), Some(7));
    assert_eq!((solve.code(), solve.kind()), (Code::Unknown, SolveErrorKind::Process));
    assert_eq!(solve.vertex_name(), Some("the step"));
    assert!(solve.vertex().is_some_and(|digest| digest.starts_with("sha256:")));
    let logs = solve.last_logs();
    assert_eq!(logs.last().map(String::as_str), Some("last words"), "{logs:?}");
    assert!(logs.iter().any(|line| line == "line 99"), "{logs:?}");
    assert!(!solve.details().stacks.is_empty(), "the daemon's own stack traces are kept");
}

#[tokio::test]
async fn r15_a_cancelled_build_ends_at_once_with_its_step_and_its_session() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let marker = format!("cancel-{}", std::process::id());
    let run = buildkit_llb::image("alpine")
        .run(sh("while true; do date > /c/alive; sleep 0.2; done"))
        .mount("/c", Mount::cache(&marker))
        .ignore_cache()
        .root();
    let (sink, mut events) = progress::channel();
    let build = client.solve(run).progress(sink).start();
    while let Some(event) = events.next().await {
        let started = |status: &progress::SolveStatus| {
            status
                .vertexes
                .iter()
                .any(|vertex| vertex.name.contains("while true") && vertex.started.is_some())
        };
        if matches!(&event, Event::Status(status) if started(status)) {
            break;
        }
    }
    let (cancelled, lag) = (Instant::now(), Lag::measure());
    build.cancel();
    let result = build.await;
    let took = cancelled.elapsed().saturating_sub(lag.so_far());
    println!("cancelled in {took:?}");
    assert!(matches!(result, Err(Error::Canceled)), "{result:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The step is dead: what it wrote all the time stays as it is. Looking takes a container of its own.
    let out = tempfile::tempdir().unwrap();
    let look = async |name: &str| {
        let script = format!("cat /c/alive > /seen; echo {name} > /name");
        let run =
            buildkit_llb::image("alpine").run(sh(script)).mount("/c", Mount::cache(&marker)).ignore_cache();
        let seen = buildkit_llb::scratch().copy(run.root(), "/seen", "/seen");
        client
            .solve(seen)
            .export(Export::local(out.path()))
            .await
            .unwrap_or_else(|e| panic!("{}", e.report()));
        std::fs::read_to_string(out.path().join("seen")).unwrap()
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = look("before").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(before, look("after").await);
}

#[tokio::test]
async fn r15_dropping_a_build_cancels_it_and_leaves_nothing_open() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            solve.session().await?;
            std::future::pending::<()>().await;
            Ok(SolveResponse::default())
        })
        .start();
    for started in [false, true] {
        let build = fake.client().solve(Frontend::new("x")).secret("s", SecretSource::value("v"));
        if started {
            let build = build.start();
            fake.wait_until(|fake| fake.running_solves() == 1 && fake.sessions().len() == 1).await;
            drop(build);
        } else {
            let task = tokio::spawn(build.into_future());
            fake.wait_until(|fake| fake.running_solves() == 1 && fake.sessions().len() == 1).await;
            task.abort();
        }
        fake.wait_until(|fake| fake.running_solves() == 0 && fake.sessions().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r10_a_session_that_is_idle_for_a_minute_is_still_there() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            // The daemon looks every five seconds whether the client lives, and wants nothing else.
            for _ in 0..13 {
                session.health().await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            assert_eq!(&session.secret("s").await?[..], b"v");
            Ok(SolveResponse::default())
        })
        .start();
    let build = fake.client().solve(Frontend::new("x")).secret("s", SecretSource::value("v"));
    build.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn r10_a_session_outlives_the_health_checks_of_the_real_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    // Three checks come before the first call: the secret is asked for by the second step.
    let idle = buildkit_llb::image("alpine").run(sh("sleep 17")).ignore_cache().root();
    let run = idle.run(sh("test \"$(cat /s)\" = v")).mount("/s", Mount::secret("s")).ignore_cache();
    let build = client.solve(run.root()).secret("s", SecretSource::value("v"));
    build.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test(start_paused = true)]
async fn a_push_that_fails_for_a_passing_reason_is_repeated_within_its_budget() {
    let tries = Arc::new(Mutex::new(0));
    let count = Arc::clone(&tries);
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let n = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            async move {
                match (solve.request.exporters[0].attrs["name"].as_str(), n) {
                    ("passing", 1 | 2) => {
                        Err(Status::unknown("failed to push passing: 503 Service Unavailable"))
                    }
                    ("passing", _) => Ok(SolveResponse::default()),
                    ("lasting", _) => Err(Status::unknown("failed to push lasting: 503 Service Unavailable")),
                    _ => Err(Status::unknown("failed to push: 401 Unauthorized")),
                }
            }
        })
        .start();
    let push = async |name: &str, retry: Retry| {
        *tries.lock().unwrap() = 0;
        let client = fake.client_builder(&Faults::default()).retry_push(retry).connect().await.unwrap();
        let result = client.solve(Frontend::new("x")).export(Export::image(name).push()).await;
        (result, *tries.lock().unwrap())
    };
    let (result, tries) = push("passing", Retry::push()).await;
    assert_eq!((result.unwrap().attempts(), tries), (3, 3));
    let (result, tries) = push("lasting", Retry::push()).await;
    assert!(result.unwrap_err().is_transient());
    assert_eq!(tries, 3);
    let (result, tries) = push("passing", Retry::never()).await;
    assert!(result.is_err() && tries == 1);
    // What will not pass is not repeated.
    let (result, tries) = push("refused", Retry::push()).await;
    assert_eq!(result.unwrap_err().as_solve().unwrap().kind(), SolveErrorKind::Auth);
    assert_eq!(tries, 1);
    let short = Retry { budget: Duration::from_millis(1), ..Retry::push() };
    assert_eq!(push("lasting", short).await.1, 1, "the budget holds no wait");
}

#[tokio::test]
async fn what_a_daemon_lacks_is_named_with_all_that_is_known_of_it() {
    let lacks = |message: &'static str, code: Code| {
        FakeBuildKit::script()
            .on_info(|_| async { Err(Status::unimplemented("unknown method Info")) })
            .on_solve(move |_| async move { Err(Status::new(code, message)) })
            .on_disk_usage(|_| async { Err(Status::unimplemented("unknown method DiskUsage")) })
            .start()
    };
    let old = "(older than BuildKit 0.11)";
    for (message, code, what) in [
        ("exporter \"image\" could not be found", Code::Unknown, "the exporter \"image\""),
        ("failed to load LLB: unknown API capability mergeop", Code::Unknown, "the capability mergeop"),
        ("unknown service moby.buildkit.v1.Control", Code::Unimplemented, "this build"),
    ] {
        let fake = lacks(message, code);
        let error = fake.client().solve(Frontend::new("x")).await.unwrap_err();
        let Error::Unsupported(unsupported) = &error else { panic!("{error:?}") };
        assert!(unsupported.what().contains(what), "{error}");
        assert!(error.to_string().ends_with(old), "{error}");
        assert!(error.may_have_run() && !error.is_transient());
    }
    let client: Client = lacks("", Code::Ok).client();
    let usage = client.disk_usage(buildkit_client::control::UsageQuery::new()).await.unwrap_err();
    assert_eq!(usage.to_string(), format!("the daemon does not support Control.DiskUsage {old}"));
}
