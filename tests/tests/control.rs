//! Control calls: who does the work, what the cache holds, pruning it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_client::Error;
use buildkit_client::control::{Prune, UsageQuery, UsageRecord};
use buildkit_client::trace::TraceContext;
use buildkit_llb::{Mount, sh};
use buildkit_proto::control::{SolveResponse, UsageRecord as Wire};
use buildkit_proto::trace::ExportTraceServiceRequest;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{FakeBuildKit, Faults};
use http::HeaderValue;
use tonic::{Code, Status};

#[tokio::test]
async fn the_daemon_tells_its_version_and_its_workers() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let known = client.daemon().await.unwrap();
    assert!(known.version.is_some() && known.package.contains("buildkit"), "{known:?}");
    let workers = client.workers([] as [&str; 0]).await.unwrap();
    let worker = workers.first().expect("a worker");
    assert!(worker.platforms.iter().any(|platform| platform.starts_with("linux/")), "{worker:?}");
    assert!(!worker.id.is_empty());
    println!("{known}: {worker:?}");
    let same = client.workers([format!("id=={}", worker.id)]).await.unwrap();
    assert_eq!(same.len(), 1);
    let none = client.workers(["id==no-such-worker"]).await.unwrap();
    assert!(none.is_empty(), "{none:?}");
}

#[tokio::test]
async fn what_the_cache_holds_is_listed_and_pruned_by_filters() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let id = format!("prune-{}", std::process::id());
    let step = buildkit_llb::image("alpine")
        .run(sh("head -c 3000000 /dev/urandom > /cache/file"))
        .mount("/cache", Mount::cache(&id))
        .ignore_cache();
    client.solve(step.root()).await.unwrap_or_else(|error| panic!("{}", error.report()));

    let mounts = async || {
        let query = UsageQuery::new().filter("type==exec.cachemount");
        let records = client.disk_usage(query).await.unwrap();
        assert!(records.iter().all(|record| record.record_type == "exec.cachemount"), "{records:?}");
        records.into_iter().filter(|record| record.description.contains(&id)).collect::<Vec<UsageRecord>>()
    };
    let found = mounts().await;
    let [mount] = found.as_slice() else { panic!("{found:?}") };
    assert!(mount.size >= 3_000_000 && mount.mutable && mount.usage_count >= 1, "{mount:?}");
    assert!(mount.created.is_some());

    let all = client.disk_usage(UsageQuery::new()).await.unwrap();
    assert!(all.is_sorted_by_key(|record| (record.size, record.id.clone())));
    let aged = client.disk_usage(UsageQuery::new().unused_for(Duration::from_secs(24 * 3600))).await.unwrap();
    assert!(aged.len() <= all.len());

    // Nothing is removed that was used just now.
    let kept = client
        .prune(Prune::new().filter(format!("id=={}", mount.id)).keep_duration(Duration::from_secs(3600)));
    assert_eq!(kept.await.unwrap().finish().await.unwrap().records, 0);
    let mut pruned = client.prune(Prune::new().filter(format!("id=={}", mount.id))).await.unwrap();
    let record = pruned.next().await.unwrap().expect("a record that was removed");
    assert_eq!((record.id.as_str(), record.size), (mount.id.as_str(), mount.size));
    assert_eq!(pruned.next().await.unwrap(), None);
    assert!(mounts().await.is_empty());

    let error = client.disk_usage(UsageQuery::new().filter("type==")).await.unwrap_err();
    assert!(error.report().contains("failed to parse"), "{}", error.report());
    let error = client.prune(Prune::new().filter("type==")).await.unwrap().finish().await.unwrap_err();
    assert!(error.report().contains("failed to parse"), "{}", error.report());
}

#[tokio::test]
async fn pruning_reports_each_record_and_an_error_in_the_middle() {
    let fake = FakeBuildKit::script()
        .on_prune(|request, out| async move {
            assert_eq!(request.filter, ["type==regular"]);
            for (id, size) in [("a", 10), ("b", 20)] {
                let record = Wire { id: id.into(), size, ..Default::default() };
                let _ = out.send(Ok(record)).await;
            }
            if request.all { Err(Status::internal("the disk is gone")) } else { Ok(()) }
        })
        .start();
    let client = fake.client();
    let prune = || Prune::new().filter("type==regular");
    let total = client.prune(prune()).await.unwrap().finish().await.unwrap();
    assert_eq!((total.records, total.bytes), (2, 30));
    let mut broken = client.prune(prune().all()).await.unwrap();
    assert_eq!(broken.next().await.unwrap().unwrap().id, "a");
    assert_eq!(broken.next().await.unwrap().unwrap().id, "b");
    let Error::Rpc(error) = broken.next().await.unwrap_err() else { panic!() };
    assert_eq!(
        (error.call(), error.code(), error.message()),
        ("Control.Prune", Code::Internal, "the disk is gone")
    );
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn headers_reach_every_call_and_may_change() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let token = session.metadata().get("authorization").and_then(|value| value.to_str().ok());
            assert_eq!(token, Some("Bearer 1"), "the session is a call as well");
            assert_eq!(session.metadata().get("traceparent").unwrap(), PARENT);
            Ok(SolveResponse::default())
        })
        .start();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let client = fake
        .client_builder(&Faults::default())
        .headers(move |headers| {
            *count.lock().unwrap() += 1;
            headers.insert("authorization", HeaderValue::from_static("Bearer 1"));
        })
        .connect()
        .await
        .unwrap();
    let trace = TraceContext::new(PARENT).unwrap();
    client.solve(buildkit_client::request::Frontend::new("x")).trace(trace).await.unwrap();
    let calls = *asked.lock().unwrap();
    assert!(calls >= 4, "Info, Solve, Session, Status: {calls}");
}

#[tokio::test]
async fn a_build_is_part_of_the_trace_it_was_given() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    // Told apart from earlier runs, for the daemon keeps traces by build.
    let trace = TraceContext::new(PARENT).unwrap();
    let step = buildkit_llb::image("alpine").run(sh("echo traced")).ignore_cache().root();
    let build = client.solve(step).trace(trace.clone()).start();
    let reference = build.reference();
    build.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let history = client.history();
    let mut found = None;
    for _ in 0..100 {
        let _ = history.finalize(&reference).await;
        found = history.find(&reference).await.unwrap().filter(|record| record.trace.is_some());
        if found.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let record = found.expect("a stored trace");
    let stored = history.trace(&record).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&stored);
    assert!(text.contains(trace.trace_id()), "{text:.2000}");
}

#[tokio::test]
async fn spans_are_taken_by_the_daemon_or_refused_in_words() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    match client.export_spans(ExportTraceServiceRequest::default()).await {
        Ok(()) => {}
        Err(Error::Rpc(error)) => {
            assert_eq!(error.call(), "TraceService.Export");
            assert!(error.message().contains("trace collector not configured"), "{error}");
        }
        Err(Error::Unsupported(error)) => assert_eq!(error.what(), "TraceService.Export"),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_and_builds_have_spans_with_what_they_are_about() {
    let seen = spans::record();
    let fake = FakeBuildKit::script().start();
    let client = fake.client();
    client.workers([] as [&str; 0]).await.unwrap();
    let solved = client.solve(buildkit_client::request::Frontend::new("x")).await.unwrap();
    let text = seen.lock().unwrap().join("\n");
    assert!(text.contains("buildkit.call call=\"Control.ListWorkers\""), "{text}");
    assert!(text.contains("buildkit.solve endpoint=fake://buildkit"), "{text}");
    assert!(text.contains(&format!("reference={}", solved.reference())), "{text}");
}

/// A subscriber that writes down the spans of this thread.
mod spans {
    use std::fmt::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    pub(super) type Seen = Arc<Mutex<Vec<String>>>;

    /// Starts writing; goes on until the thread ends.
    pub(super) fn record() -> Seen {
        let seen = Seen::default();
        let spans = Spans { seen: Arc::clone(&seen), next: AtomicU64::new(1) };
        std::mem::forget(tracing::subscriber::set_default(spans));
        seen
    }

    struct Spans {
        seen: Seen,
        next: AtomicU64,
    }

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl Subscriber for Spans {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.name().starts_with("buildkit.")
        }
        fn new_span(&self, attributes: &Attributes<'_>) -> Id {
            let mut text = Text(attributes.metadata().name().to_owned());
            attributes.record(&mut text);
            self.seen.lock().unwrap().push(text.0);
            Id::from_u64(self.next.fetch_add(1, Ordering::Relaxed))
        }
        fn record(&self, _: &Id, values: &Record<'_>) {
            let mut text = Text(String::new());
            values.record(&mut text);
            self.seen.lock().unwrap().push(text.0);
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
}
