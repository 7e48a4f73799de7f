//! A real BuildKit behind a link that fails, and one that is frozen and killed. Time is real here: what takes long is
//! waited for together.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use buildkit_client::connect::Liveness;
use buildkit_client::error::{Error, LinkLost};
use buildkit_client::export::Export;
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::{Build, Client, Solve};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{Fault, Faults};
use buildkit_tests::fault_proxy::{Accept, FaultProxy};
use buildkit_tests::lag::Lag;
use buildkit_tests::spare::SpareDaemon;
use tokio::time::{Instant, sleep, timeout};

fn context(dockerfile: &str, files: &[(&str, usize)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    for (name, size) in files {
        std::fs::write(dir.path().join(name), vec![b'x'; *size]).unwrap();
    }
    dir
}

fn solve(client: &Client, context: &Path) -> Solve {
    client
        .solve(Frontend::new("dockerfile.v0"))
        .local("context", context)
        .local("dockerfile", context)
        .no_cache()
}

fn lazy(endpoint: impl Into<String>, liveness: Liveness) -> Client {
    Client::builder(endpoint).liveness(liveness).lazy().unwrap()
}

/// Starts a build and waits until its step writes `running`.
async fn running(client: &Client, context: &Path) -> Build {
    let (sink, mut events) = progress::channel();
    let build = solve(client, context).progress(sink).start();
    let says = |event: &Event| {
        let Event::Status(status) = event else { return false };
        status.logs.iter().any(|log| log.data.starts_with(b"running"))
    };
    let wait = async {
        while let Some(event) = events.next().await {
            if says(&event) {
                return true;
            }
        }
        false
    };
    if timeout(Duration::from_secs(120), wait).await.unwrap_or(false) {
        return build;
    }
    match build.await {
        Ok(_) => panic!("the step did not run"),
        Err(error) => panic!("the build ended: {}", error.report()),
    }
}

const LONG: &str = "FROM alpine\nRUN --network=none echo running; sleep 200\n";

async fn proxied(daemon: &Daemon) -> (FaultProxy, Faults) {
    let proxy = FaultProxy::start(&daemon.endpoint).await.unwrap();
    let faults = proxy.faults().clone();
    (proxy, faults)
}

fn lost(result: Result<buildkit_client::Solved, Error>) -> Box<LinkLost> {
    match result {
        Err(Error::LinkLost(lost)) => lost,
        Err(other) => panic!("not a lost link: {}", other.report()),
        Ok(_) => panic!("the build went on"),
    }
}

#[tokio::test]
async fn f02_f03_f04_f09_what_answers_in_the_daemons_place_is_found_out() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (proxy, _) = proxied(&daemon).await;
    let cases = [
        (Accept::silence(), 13, "no HTTP/2 preface in 10 s"),
        (Accept::settings_only(), 25, "no answer to the first call in 20 s"),
        (Accept::http1(), 3, "it answers HTTP/1.1"),
        (Accept::tls_alert(), 3, "it speaks TLS"),
        (Accept::go_away(), 5, ""),
        (Accept::Reset, 3, ""),
        (Accept::SayAndClose(Vec::new()), 3, ""),
        (Accept::Say(b"\x00random bytes that are no protocol".to_vec()), 3, "its first bytes are"),
    ];
    for (accept, seconds, says) in cases {
        proxy.accept(accept.clone());
        let client = lazy(proxy.endpoint(), Liveness::default());
        let started = Instant::now();
        let error = client.solve(Frontend::new("dockerfile.v0")).await.unwrap_err();
        assert!(started.elapsed() <= Duration::from_secs(seconds), "{accept:?}: {:?}", started.elapsed());
        let text = error.report();
        assert!(text.contains(says) && text.contains(&proxy.endpoint()), "{accept:?}: {text}");
    }
    proxy.accept(Accept::Relay);
    let context = context("FROM scratch\nCOPY Dockerfile /\n", &[]);
    let client = lazy(proxy.endpoint(), Liveness::default());
    solve(&client, context.path()).await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn f05_a_reset_and_an_end_in_the_middle_of_a_step_are_told_at_once() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context(LONG, &[]);
    for reset in [true, false] {
        let (proxy, faults) = proxied(&daemon).await;
        let client = lazy(proxy.endpoint(), Liveness::default());
        let build = running(&client, context.path()).await;
        let reference = build.reference();
        let started = Instant::now();
        if reset {
            faults.reset_now();
        } else {
            let (read, written) = faults.passed();
            faults.reading(Fault::EndAt(read));
            faults.writing(Fault::EndAt(written));
        }
        let lost = lost(build.await);
        assert!(started.elapsed() < Duration::from_secs(5), "reset {reset}: {:?}", started.elapsed());
        assert_eq!(lost.reference(), Some(reference.as_str()));
        assert!(lost.running().iter().any(|step| step.contains("sleep 200")), "{:?}", lost.running());
        // The same client builds on over a link that works.
        faults.heal();
        let small = self::context("FROM scratch\nCOPY Dockerfile /\n", &[]);
        solve(&client, small.path()).await.unwrap_or_else(|error| panic!("{}", error.report()));
    }
}

#[tokio::test]
async fn f06_f07_dead_links_to_a_real_daemon_are_found_within_60_s() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context(LONG, &[]);
    let dead = async |name: &str, break_it: &dyn Fn(&Faults)| {
        let (proxy, faults) = proxied(&daemon).await;
        let client = lazy(proxy.endpoint(), Liveness::default());
        let build = running(&client, context.path()).await;
        let (started, lag) = (Instant::now(), Lag::measure());
        break_it(&faults);
        let lost = lost(build.await);
        let took = started.elapsed().saturating_sub(lag.so_far());
        println!("{name}: found after {took:?}: {}", lost.reason());
        // Two seconds are for what was said before.
        assert!(took <= Duration::from_secs(63), "{name}: {took:?}");
    };
    tokio::join!(
        dead("nothing moves", &Faults::stall_now),
        dead("everything is thrown away", &|faults: &Faults| {
            let (read, written) = faults.passed();
            faults.reading(Fault::DropAt(read));
            faults.writing(Fault::DropAt(written));
        }),
        // The proxy reads what the client says and writes what the daemon says.
        dead("what the daemon says is lost", &|faults: &Faults| faults
            .writing(Fault::DropAt(faults.passed().1))),
        dead("what the client says is lost", &|faults: &Faults| faults
            .reading(Fault::DropAt(faults.passed().0))),
        dead("what the client says is held", &|faults: &Faults| faults
            .reading(Fault::StallAt(faults.passed().0))),
    );
}

#[tokio::test]
async fn f08_stalls_and_slow_links_are_survived() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let salt = std::process::id();
    let long =
        context(&format!("FROM alpine\nRUN --network=none echo running; sleep 30; echo {salt}\n"), &[]);
    let stalled = async {
        let (proxy, faults) = proxied(&daemon).await;
        let client = lazy(proxy.endpoint(), Liveness::default());
        let build = running(&client, long.path()).await;
        faults.stall_now();
        sleep(Duration::from_secs(20)).await;
        faults.heal();
        build.await.unwrap_or_else(|error| panic!("stall of 20 s: {}", error.report()));
    };
    let big = context("FROM scratch\nCOPY big /\n", &[("big", 1 << 20)]);
    let out = tempfile::tempdir().unwrap();
    let slow = async {
        let (proxy, faults) = proxied(&daemon).await;
        faults.both(Fault::Rate(40 << 10));
        let client = lazy(proxy.endpoint(), Liveness::default());
        let started = Instant::now();
        let built = solve(&client, big.path()).export(Export::local(out.path())).await;
        built.unwrap_or_else(|error| panic!("a slow link: {}", error.report()));
        assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
    };
    tokio::join!(stalled, slow);
    assert_eq!(std::fs::metadata(out.path().join("big")).unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn f05_one_byte_at_a_time_from_a_real_daemon_is_only_slow() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY small /\n", &[("small", 5_000)]);
    let out = tempfile::tempdir().unwrap();
    let (proxy, faults) = proxied(&daemon).await;
    faults.both(Fault::Chunks(1));
    let client = lazy(proxy.endpoint(), Liveness::default());
    let built = solve(&client, context.path()).export(Export::local(out.path())).await;
    built.unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(std::fs::metadata(out.path().join("small")).unwrap().len(), 5_000);
}

#[tokio::test]
async fn f05_spoilt_bytes_from_a_real_daemon_end_a_build_or_nothing() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context(LONG, &[]);
    let (proxy, faults) = proxied(&daemon).await;
    let client = lazy(proxy.endpoint(), Liveness::default());
    let build = running(&client, context.path()).await;
    faults.writing(Fault::CorruptEvery(faults.passed().1, 64));
    let (started, lag) = (Instant::now(), Lag::measure());
    let error = timeout(Duration::from_secs(300), build.into_future()).await.expect("an end").unwrap_err();
    let took = started.elapsed().saturating_sub(lag.so_far());
    assert!(took <= Duration::from_secs(63), "{took:?}: {}", error.report());
}

#[tokio::test]
async fn f12_a_cancel_ends_a_build_whose_link_is_dead() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context(LONG, &[]);
    let (proxy, faults) = proxied(&daemon).await;
    let client = lazy(proxy.endpoint(), Liveness::default());
    let build = running(&client, context.path()).await;
    faults.stall_now();
    sleep(Duration::from_secs(1)).await;
    let started = Instant::now();
    build.cancel();
    assert!(matches!(build.await, Err(Error::Canceled)));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn f08_f13_a_daemon_that_freezes_is_waited_for_and_one_that_is_killed_is_not() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let Some(mut spare) = SpareDaemon::start(&daemon).await.unwrap() else { return };
    // Frozen for 60 s, where that is allowed.
    let context = context("FROM alpine\nRUN --network=none echo running; sleep 20\n", &[]);
    let client = lazy(spare.endpoint(), Liveness::dead_after(Duration::from_secs(90)));
    let build = running(&client, context.path()).await;
    spare.freeze();
    sleep(Duration::from_secs(60)).await;
    spare.thaw();
    build.await.unwrap_or_else(|error| panic!("frozen for 60 s: {}", error.report()));

    // Killed in the middle of a step.
    let long = self::context(LONG, &[]);
    let build = running(&client, long.path()).await;
    let started = Instant::now();
    spare.kill();
    let lost = lost(build.await);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(lost.running().iter().any(|step| step.contains("sleep 200")), "{lost}");
    let error = client.solve(Frontend::new("dockerfile.v0")).await.unwrap_err();
    assert!(error.is_transient() && !error.may_have_run(), "{}", error.report());

    // Started again: the same client goes on.
    spare.restart().await.unwrap();
    let small = self::context("FROM scratch\nCOPY Dockerfile /\n", &[]);
    solve(&client, small.path()).await.unwrap_or_else(|error| panic!("{}", error.report()));
}
