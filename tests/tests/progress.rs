//! Progress of builds on the real daemon: warnings as data, clipped logs, machine-readable copies.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use buildkit_client::dockerfile::Dockerfile;
use buildkit_client::progress::event::ClipLimit;
use buildkit_client::progress::{self, Event, Several, SolveStatus};
use buildkit_client::request::Frontend;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::{State, sh};
use buildkit_tests::daemon::{Daemon, Generation};

/// What is written by a renderer, on its thread.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn step(name: &str, script: &str) -> State {
    buildkit_llb::image("alpine").run(sh(script)).name(name).ignore_cache().root()
}

#[tokio::test]
async fn one_build_is_shown_in_every_way_at_once() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let (plain, json, quiet) = (Written::default(), Written::default(), Written::default());
    let (sink, mut events) = progress::channel();
    let all = progress::plain()
        .writer(plain.clone())
        .description("two words")
        .tee(progress::rawjson().writer(json.clone()))
        .tee(progress::quiet().writer(quiet.clone()))
        .tee(sink);
    let error =
        client.solve(step("the step", "echo out; echo err >&2; exit 3")).progress(all).await.unwrap_err();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Status(status) = event {
            seen.push(status);
        }
    }
    // The machine-readable copy is the events themselves, one a line.
    let text = json.text();
    let lines: Vec<SolveStatus> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, seen);
    let logs: Vec<u8> =
        seen.iter().flat_map(|status| &status.logs).flat_map(|log| log.data.to_vec()).collect();
    let logs = String::from_utf8_lossy(&logs);
    assert!(logs.contains("out") && logs.contains("err"), "{logs}");

    let plain = plain.text();
    assert!(plain.starts_with("#0 two words\n"), "{plain}");
    assert!(plain.contains("the step\n") && plain.contains(" out\n"), "{plain}");
    assert!(plain.contains("ERROR: process"), "{plain}");
    assert!(plain.contains("------\n > the step:\n"), "the end says again what failed: {plain}");
    let quiet = quiet.text();
    assert!(quiet.contains("the step") && quiet.contains("out") && !quiet.contains("#1"), "{quiet}");
    assert_eq!(error.as_solve().unwrap().exit_code(), Some(3));
}

#[tokio::test]
async fn a_log_that_the_daemon_clipped_is_told_from_a_whole_one() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    // More than a daemon passes on of one step, by its size or by its speed.
    let script = "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done";
    let (sink, mut events) = progress::channel();
    let plain = Written::default();
    let display = progress::plain().writer(plain.clone()).tee(sink);
    client.solve(step("loud", script)).progress(display).await.unwrap_or_else(|e| panic!("{}", e.report()));
    let mut clipped = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Clipped { limit, vertex } => {
                assert!(vertex.starts_with("sha256:"));
                clipped.push(limit);
            }
            Event::Dropped { .. } => panic!("lost by us: {event:?}"),
            _ => {}
        }
    }
    // 200 KiB in a second are let through, and the script takes no second for its 4 MB.
    assert_eq!(clipped.first(), Some(&ClipLimit::Speed));
    let variable = ClipLimit::Speed.variable();
    assert!(plain.text().contains(variable), "the display says which variable lifts the limit: {variable}");
}

#[tokio::test]
async fn lint_results_are_data() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "from alpine AS base\nRUN true\nMAINTAINER me\n").unwrap();
    let solved = client
        .solve(Frontend::new("dockerfile.v0"))
        .local("context", dir.path())
        .local("dockerfile", dir.path())
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let warnings = solved.warnings();
    let casing = warnings.iter().find(|warning| warning.text().contains("ConsistentInstructionCasing"));
    let casing = casing.unwrap_or_else(|| panic!("{warnings:?}"));
    assert!(casing.url.starts_with("https://"), "{casing:?}");
    assert_eq!(casing.range.first().map(|range| range.start.line), Some(1));
    let file = casing.source_info.as_ref().unwrap();
    assert_eq!(file.filename, "Dockerfile");
    let maintainer = warnings.iter().find(|warning| warning.text().contains("MaintainerDeprecated"));
    assert_eq!(maintainer.unwrap().range.first().map(|range| range.start.line), Some(3));
    // They are in the schema of rawjson as well.
    let json = serde_json::to_value(casing).unwrap();
    assert!(json["sourceInfo"].is_object() && json["range"].is_array(), "{json}");
}

#[tokio::test]
async fn several_builds_share_a_display() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let plain = Written::default();
    let display = Several::new(progress::plain().writer(plain.clone()));
    let one = client.solve(step("first", "echo from one")).progress(display.build("one")).start();
    let two = client.solve(step("second", "echo from two")).progress(display.build("two")).start();
    one.await.unwrap();
    two.await.unwrap();
    display.finish().await;
    let text = plain.text();
    for part in ["[one] first\n", "[two] second\n", " from one\n", " from two\n"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[tokio::test]
async fn the_cache_metrics_of_a_build_tell_what_ran() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let stamp = format!("{:?}", std::time::SystemTime::now());
    let text = format!("FROM alpine\nRUN : {stamp}\nRUN true\n");
    let build = || client.solve(Dockerfile::new(MemoryTree::new().file("Dockerfile", &text)));
    let first = build().await.unwrap_or_else(|error| panic!("{}", error.report()));
    let metrics = first.cache_metrics();
    assert_eq!((metrics.from, metrics.user_total - metrics.user_cacheable), (1, 1), "{metrics:?}");
    assert_eq!((metrics.miss, metrics.missed.len()), (2, 2), "{metrics:?}");
    assert!(metrics.missed.iter().any(|step| step.contains(&stamp)), "{metrics:?}");
    assert!(metrics.total > metrics.user_total, "{metrics:?}");
    let again = build().await.unwrap();
    let metrics = again.cache_metrics();
    assert_eq!(metrics.miss, 0, "{metrics:?}");
    assert!(metrics.user_cached >= 2, "{metrics:?}");
}
