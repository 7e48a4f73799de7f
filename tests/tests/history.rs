//! What a daemon remembers of builds, and builds that are followed from elsewhere.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_client::error::{SolveError, SolveErrorKind};
use buildkit_client::export::Export;
use buildkit_client::history::{HistoryEvent, HistoryQuery, HistoryRecord};
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::{Client, Error};
use buildkit_llb::{State, sh};
use buildkit_proto::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, Descriptor, StatusResponse, Vertex,
    VertexLog,
};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::FakeBuildKit;
use tonic::{Code, Status};

/// A step that no other test has in its cache.
fn step(name: &str, script: &str) -> State {
    let salt = format!("{name}-{}-{:?}", std::process::id(), std::time::SystemTime::now());
    buildkit_llb::image("alpine").env("SALT", salt).run(sh(script)).name(name).root()
}

/// The record of a build once the daemon has stored it, which it does shortly after the build's end.
async fn record(client: &Client, reference: &str) -> HistoryRecord {
    for _ in 0..100 {
        if let Some(record) = client.history().find(reference).await.unwrap()
            && record.completed.is_some()
        {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{reference} is not remembered");
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent { r#type: kind.into(), record: Some(record) }
}

#[tokio::test]
async fn a_build_is_remembered_with_its_log_and_can_be_pinned_and_forgotten() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let out = tempfile::tempdir().unwrap();
    let build =
        client.solve(step("remembered", "echo remember me")).export(Export::local(out.path())).start();
    let reference = build.reference();
    build.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let history = client.history();
    let found = record(&client, &reference).await;
    assert_eq!((found.error.as_ref(), found.pinned), (None, false));
    assert!(found.total_steps >= 2 && found.completed_steps == found.total_steps, "{found:?}");
    assert!(found.created <= found.completed);

    let mut text = Vec::new();
    let mut names = Vec::new();
    let each = |status: progress::SolveStatus| {
        text.extend(status.logs.iter().flat_map(|log| log.data.to_vec()));
        names.extend(status.vertexes.into_iter().map(|vertex| vertex.name));
    };
    history.logs(&found, each).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("remember me"), "{text:?}");
    assert!(names.iter().any(|name| name == "remembered"), "{names:?}");

    history.pin(&reference, true).await.unwrap();
    assert!(history.find(&reference).await.unwrap().unwrap().pinned);
    history.pin(&reference, false).await.unwrap();
    assert!(!history.find(&reference).await.unwrap().unwrap().pinned);

    history.finalize(&reference).await.unwrap();
    let traced = history.find(&reference).await.unwrap().unwrap();
    if let Some(trace) = history.trace(&traced).await.unwrap() {
        let documents = serde_json::Deserializer::from_slice(&trace).into_iter::<serde_json::Value>();
        assert!(documents.map(Result::unwrap).count() > 0);
    }

    let solved = history.result(&found).await.unwrap();
    assert_eq!(solved.reference(), reference);

    history.delete(&reference).await.unwrap();
    assert_eq!(history.find(&reference).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_build_tells_in_history_what_it_told_its_client() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let build = client.solve(step("failing", "echo last words >&2; exit 3")).start();
    let reference = build.reference();
    let told = build.await.unwrap_err();
    let record = record(&client, &reference).await;
    assert!(record.error.as_ref().is_some_and(|error| error.message.contains("exit code: 3")), "{record:?}");
    let error = client.history().result(&record).await.unwrap_err();
    let (told, solve) = (told.as_solve().unwrap(), error.as_solve().unwrap());
    assert_eq!((solve.exit_code(), solve.kind()), (Some(3), SolveErrorKind::Process), "{}", error.report());
    assert_eq!(solve.vertex(), told.vertex());
    let listed = client.history().list(HistoryQuery::new()).await.unwrap();
    assert!(listed.iter().any(|record| record.reference == reference));
}

// Filters and limits are not tried on the real daemon: that of Engine 28.5 ends with a nil pointer when one of them
// meets a build that is being removed, and takes all other tests with it.
#[tokio::test]
async fn filters_and_limits_are_the_daemons_to_apply() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&asked);
    let fake = FakeBuildKit::script()
        .on_history(move |request, out| {
            keep.lock().unwrap().push(request.clone());
            async move {
                if request.filter.iter().any(|filter| filter == "junk") {
                    return Err(Status::unknown("failed to parse history filters [junk]"));
                }
                let record = BuildHistoryRecord { r#ref: "r".into(), ..Default::default() };
                let _ = out.send(Ok(event(BuildHistoryEventType::Complete, record))).await;
                Ok(())
            }
        })
        .start();
    let client = fake.client();
    let history = client.history();
    let query = HistoryQuery::new().filter("status==error,startedAt>24h").filter("duration>=10s").limit(3);
    assert_eq!(history.list(query).await.unwrap().len(), 1);
    let error = history.list(HistoryQuery::new().filter("junk")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Control.ListenBuildHistory failed: failed to parse history filters [junk]"
    );
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].filter, ["status==error,startedAt>24h", "duration>=10s"]);
    assert_eq!((asked[0].limit, asked[0].early_exit), (3, true));
}

#[tokio::test]
async fn events_of_builds_arrive_as_they_happen() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let reference = format!("monitored{}", std::process::id());
    let mut monitor = client.history().monitor(HistoryQuery::new().reference(&reference)).await.unwrap();
    client.solve(step("monitored", "sleep 1")).reference(&reference).await.unwrap();
    let mut seen = Vec::new();
    let wait = async {
        while let Some(event) = monitor.next().await.unwrap() {
            match event {
                HistoryEvent::Started(record) => seen.push(("started", record.reference)),
                HistoryEvent::Complete(record) => {
                    seen.push(("complete", record.reference));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
    // A running build may be told of several times.
    seen.dedup();
    assert_eq!(seen, [("started", reference.clone()), ("complete", reference.clone())]);
}

/// Follows a build in a process of its own.
fn attach_elsewhere(daemon: &Daemon, reference: &str) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_process_follows_a_build_and_gets_its_result", "--nocapture"])
        .env("HISTORY_ATTACH", reference)
        .env("HISTORY_ENDPOINT", &daemon.endpoint)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn another_process_follows_a_build_and_gets_its_result() {
    if let Ok(reference) = std::env::var("HISTORY_ATTACH") {
        let client = Client::connect(std::env::var("HISTORY_ENDPOINT").unwrap()).await.unwrap();
        let result = client.attach(&reference, progress::plain().writer(std::io::stdout())).await;
        match result {
            Ok(solved) => println!("RESULT {} {}", solved.reference(), solved.digest()),
            Err(error) => println!("ERROR {} {:?}", error, error.as_solve().and_then(SolveError::exit_code)),
        }
        return;
    }
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let name = daemon.registries.mirror.repository("attached");
    let script = "for i in 1 2 3 4; do echo tick $i; sleep 1; done";
    let build = client.solve(step("followed", script)).export(Export::image(&name).push()).start();
    let reference = build.reference();
    // Attached early and while it runs.
    let early = attach_elsewhere(&daemon, &reference);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = attach_elsewhere(&daemon, &reference);
    let solved = build.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let stored = client.history().result(&record(&client, &reference).await).await.unwrap();
    assert_eq!(
        (stored.digest(), stored.refs()),
        (solved.digest(), vec![format!("{name}@{}", solved.digest())])
    );
    // And when it is over.
    let after = attach_elsewhere(&daemon, &reference);
    for process in [early, late, after] {
        let output = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("tick 4"), "{said}");
        assert!(said.contains(&format!("RESULT {reference} {}", solved.digest())), "{said}");
    }

    let failing = client.solve(step("failing elsewhere", "sleep 2; exit 5")).start();
    let reference = failing.reference();
    let process = attach_elsewhere(&daemon, &reference);
    failing.await.unwrap_err();
    let output = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("ERROR failed to solve") && said.contains("Some(5)"), "{said}");
}

#[tokio::test]
async fn a_build_that_nobody_knows_is_told_as_such() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let attached =
        tokio::time::timeout(Duration::from_secs(30), client.attach("never-was", progress::Progress::none()));
    let error = attached.await.expect("an answer").unwrap_err();
    assert!(error.report().contains("never-was"), "{}", error.report());
    assert_eq!(client.history().find("never-was").await.unwrap(), None);
}

#[tokio::test]
async fn a_detached_build_goes_on() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let reference = client.solve(step("detached", "sleep 2; echo done")).start().detach();
    let attached = client.attach(&reference, progress::Progress::none()).await;
    assert_eq!(attached.unwrap_or_else(|error| panic!("{}", error.report())).reference(), reference);
}

#[tokio::test]
async fn a_cancelled_build_is_cancelled_for_its_followers_too() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let build = client.solve(step("cancelled", "sleep 300")).start();
    let reference = build.reference();
    let cancel = build.cancel_token();
    let (sink, mut events) = progress::channel();
    let follow = tokio::spawn({
        let (client, reference) = (client.clone(), reference.clone());
        async move { client.attach(&reference, sink).await }
    });
    while let Some(event) = events.next().await {
        let running = |vertex: &progress::Vertex| vertex.name == "cancelled" && vertex.started.is_some();
        if matches!(&event, Event::Status(status) if status.vertexes.iter().any(running)) {
            break;
        }
    }
    cancel.cancel();
    assert!(matches!(build.await, Err(Error::Canceled)));
    let followed = tokio::time::timeout(Duration::from_secs(20), follow).await.unwrap().unwrap();
    assert!(matches!(followed, Err(Error::Canceled)), "{followed:?}");
}

#[tokio::test]
async fn a_daemon_without_history_is_told_by_the_call_it_lacks() {
    let fake = FakeBuildKit::script()
        .on_info(|_| async { Err(Status::unimplemented("unknown method Info")) })
        .on_history(|_, _| async { Err(Status::unimplemented("unknown method ListenBuildHistory")) })
        .start();
    let client = fake.client();
    let error = client.history().list(HistoryQuery::new()).await.unwrap_err();
    let expected = "the daemon does not support Control.ListenBuildHistory (older than BuildKit 0.11)";
    assert_eq!(error.to_string(), expected);
    let error = client.attach("ref", progress::Progress::none()).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_running_build_has_no_result_yet_and_a_short_log_is_an_error() {
    let fake = FakeBuildKit::script()
        .on_history(|_, out| async move {
            let digest = |digest: &str| Some(Descriptor { digest: digest.into(), ..Default::default() });
            let record = BuildHistoryRecord {
                r#ref: "running".into(),
                logs: digest("sha256:0"),
                ..Default::default()
            };
            let _ = out.send(Ok(event(BuildHistoryEventType::Started, record))).await;
            Ok(())
        })
        .start();
    let client = fake.client();
    let record = client.history().find("running").await.unwrap().unwrap();
    let error = client.history().result(&record).await.unwrap_err();
    assert!(error.report().contains("still runs"), "{error}");
    // The scripted daemon has no content store.
    assert!(client.history().logs(&record, |_| {}).await.is_err());
}

#[tokio::test]
async fn a_follower_whose_status_breaks_still_gets_the_result() {
    let sent = Arc::new(Mutex::new(0));
    let count = Arc::clone(&sent);
    let fake = FakeBuildKit::script()
        .on_status(|_, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "step".into(), ..Default::default() };
            let log = VertexLog { vertex: "sha256:v".into(), msg: "a line\n".into(), ..Default::default() };
            let message = StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() };
            let _ = out.send(Ok(message)).await;
            Err(Status::internal("status is broken"))
        })
        .on_history(move |_, out| {
            let count = Arc::clone(&count);
            async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                *count.lock().unwrap() += 1;
                let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
                let record = BuildHistoryRecord {
                    r#ref: "r".into(),
                    created_at: time,
                    completed_at: time,
                    exporter_response: [("containerimage.digest".to_owned(), "sha256:d".to_owned())].into(),
                    ..Default::default()
                };
                let _ = out.send(Ok(event(BuildHistoryEventType::Complete, record))).await;
                Ok(())
            }
        })
        .start();
    let (sink, mut events) = progress::channel();
    let solved = fake.client().attach("r", sink).await.unwrap();
    assert_eq!(solved.digest(), "sha256:d");
    let mut said = Vec::new();
    while let Some(event) = events.next().await {
        said.push(format!("{event:?}"));
    }
    assert!(said.iter().any(|event| event.contains("a line")), "{said:?}");
    assert!(said.iter().any(|event| event.contains("status is broken")), "{said:?}");
    assert_eq!(*sent.lock().unwrap(), 1);
}

#[tokio::test]
async fn an_internal_build_is_not_remembered() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let reference = format!("internal{}", std::process::id());
    client.solve(step("internal", "true")).reference(&reference).internal().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.history().find(&reference).await.unwrap(), None);
    // A ref of one's own is taken, and twice it is refused.
    let frontend = Frontend::new("no.such.frontend");
    let error = client.solve(frontend).reference("one-of-my-own").await.unwrap_err();
    let Error::Solve(solve) = &error else { panic!("{error:?}") };
    assert_eq!(solve.reference(), "one-of-my-own");
    assert_eq!(solve.code(), Code::Unknown);
}
