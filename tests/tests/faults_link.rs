//! Links that fail, against a scripted daemon: rows F01 to F09 and F13 of the fault table.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buildkit_client::connect::Liveness;
use buildkit_client::control::{Prune, UsageQuery};
use buildkit_client::error::{ConnectErrorKind, LinkLost};
use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::SecretSource;
use buildkit_client::{Client, Error, Retry};
use buildkit_proto::control::{SolveResponse, StatusResponse, Vertex, VertexLog};
use buildkit_tests::fake::{FakeBuildKit, Fault, Faults, Link, Session, Solve};
use buildkit_tests::fault_proxy::{Accept, FaultProxy};
use tokio::time::{Instant, sleep, timeout};

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

fn lost(error: Error) -> LinkLost {
    match error {
        Error::LinkLost(lost) => *lost,
        other => panic!("not a lost link: {other:?}"),
    }
}

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Checks a session as the real daemon does; ends when it is to be given up.
async fn checked(session: &Session) {
    let mut failures = 0;
    while failures < 2 {
        sleep(Duration::from_secs(5)).await;
        let check = timeout(Duration::from_secs(15), session.health());
        failures = if matches!(check.await, Ok(Ok(_))) { 0 } else { failures + 1 };
    }
}

/// A daemon whose builds last `seconds`, and that checks the session as the real one does.
fn building(seconds: u64) -> FakeBuildKit {
    FakeBuildKit::script()
        .on_solve(move |solve| async move {
            let session = solve.session().await?;
            tokio::select! {
                () = sleep(Duration::from_secs(seconds)) => Ok(SolveResponse::default()),
                () = checked(&session) => Err(tonic::Status::deadline_exceeded("session healthcheck failed fatally")),
            }
        })
        .on_status(|call, out| async move {
            let vertex = Vertex {
                digest: "sha256:v".into(),
                name: "RUN sleep".into(),
                started: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
                ..Default::default()
            };
            let _ = out.send(Ok(StatusResponse { vertexes: vec![vertex], ..Default::default() })).await;
            call.solve_ended().await;
            Ok(())
        })
        .start()
}

/// Starts a build, lets it run for a while, spoils the link, and returns how the build ended, and after how long.
async fn spoilt(
    fake: &FakeBuildKit,
    liveness: Liveness,
    spoil: impl AsyncFnOnce(&Faults),
) -> (Result<(), Error>, Duration) {
    let faults = Faults::default();
    let build = fake.client_with(&faults, liveness).solve(dockerfile()).start();
    fake.wait_until(|fake| fake.running_solves() == 1 && fake.sessions().len() == 1).await;
    sleep(Duration::from_secs(7)).await;
    let started = Instant::now();
    spoil(&faults).await;
    let ended = build.await.map(drop);
    (ended, started.elapsed())
}

#[tokio::test]
async fn f01_a_closed_port_and_an_unknown_name_say_where_and_how_often() {
    let port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let address = format!("tcp://127.0.0.1:{port}");
    let started = std::time::Instant::now();
    let error = Client::connect(address.as_str()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2), "it is not tried again: {:?}", started.elapsed());
    let Error::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!((error.kind(), error.attempts()), (&ConnectErrorKind::Refused, 1));
    assert_eq!(error.endpoint(), address);
    assert!(error.to_string().contains(&address), "{error}");

    let retry = Retry { retries: 2, first_wait: Duration::from_millis(20), ..Retry::times(2) };
    let error = Client::builder(address.as_str()).retry_connect(retry).connect().await.unwrap_err();
    assert!(error.is_transient() && !error.may_have_run());
    let Error::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!(error.attempts(), 3);
    assert!(
        error.to_string().contains("3 attempts") && error.elapsed() >= Duration::from_millis(20),
        "{error}"
    );

    let error = Client::connect("tcp://no-such-host.invalid:1234").await.unwrap_err();
    let Error::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!(*error.kind(), ConnectErrorKind::Resolve);
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn f02_a_far_side_that_says_nothing_is_given_up_in_10_s() {
    let fake = building(0);
    for (name, read, write) in [
        ("nothing moves", Fault::StallAt(0), Fault::StallAt(0)),
        ("nothing comes", Fault::StallAt(0), Fault::None),
        ("nothing is taken", Fault::None, Fault::StallAt(0)),
        ("nothing is taken after a while", Fault::StallAt(0), Fault::StallAt(10)),
        ("everything is thrown away", Fault::DropAt(0), Fault::DropAt(0)),
        ("half a frame comes", Fault::StallAt(5), Fault::None),
    ] {
        let faults = Faults::default();
        faults.reading(read);
        faults.writing(write);
        let started = Instant::now();
        let error = fake.client_builder(&faults).connect().await.unwrap_err();
        let waited = started.elapsed();
        assert!((9..=21).contains(&waited.as_secs()), "{name}: {waited:?}");
        if read != Fault::None {
            assert!(waited <= Duration::from_millis(10_100), "{name}: {waited:?}");
            assert!(error.to_string().contains("no HTTP/2 preface in 10 s"), "{name}: {error}");
            assert!(error.is_transient() && !error.may_have_run());
        }
    }
    let link = Link::default();
    link.never();
    let started = Instant::now();
    let error = link.client(Liveness::default()).solve(dockerfile()).await.unwrap_err();
    assert!(error.to_string().contains("no connection in 10 s"), "{error}");
    assert!(started.elapsed() <= Duration::from_millis(10_100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f03_settings_and_then_silence_is_given_up_in_20_s_and_left_in_2_s() {
    let link = Link::default();
    link.say(SETTINGS, false);
    let started = Instant::now();
    let error = link.client(Liveness::default()).daemon().await.unwrap_err();
    assert!(lost(error).reason().contains("no answer to the first call in 20 s"));
    assert!(started.elapsed() <= Duration::from_secs(21), "{:?}", started.elapsed());

    let started = Instant::now();
    let error = link.client(Liveness::default()).solve(dockerfile()).await.unwrap_err();
    assert!(lost(error).reason().contains("no answer to the first call in 20 s"));
    assert!(started.elapsed() <= Duration::from_secs(23), "{:?}", started.elapsed());

    let build = link.client(Liveness::default()).solve(dockerfile()).start();
    sleep(Duration::from_secs(3)).await;
    let started = Instant::now();
    build.cancel();
    assert!(matches!(build.await, Err(Error::Canceled)));
    assert!(started.elapsed() <= Duration::from_millis(2_100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f04_what_is_no_buildkit_is_told_by_what_it_looks_like() {
    for (bytes, close, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], true, "it answers HTTP/1.1"),
        (b"\x15\x03\x03\x00\x02\x02\x28", true, "it speaks TLS; give the client TLS settings"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false, "it speaks TLS"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", false, "it is an SSH server; use ssh://"),
        (b"\x7f\x00\xfe\xca\xbe\xba\xab\xcd\xef\x01\x02\x03", false, "its first bytes are"),
        (b"\x1b[2J\x1b[31mred alert\r\n", false, "its first bytes are"),
    ] {
        let link = Link::default();
        link.say(bytes, close);
        let started = Instant::now();
        let error = link.client(Liveness::default()).solve(dockerfile()).await.unwrap_err();
        let Error::Connect(error) = error else { panic!("{says}: {error:?}") };
        assert!(
            matches!(error.kind(), ConnectErrorKind::NotBuildKit { hint } if hint.contains(says)),
            "{error:?}"
        );
        assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
        assert!(!error.is_transient());
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    let link = Link::default();
    link.say(b"", true);
    let error = link.client(Liveness::default()).daemon().await.unwrap_err();
    assert!(
        error.is_transient() && error.report().contains("closed the connection at once"),
        "{}",
        error.report()
    );
}

/// A build that uses everything: a context, a secret, progress, an export.
async fn whole_build(faults: &Faults, dir: &std::path::Path) -> (FakeBuildKit, Result<(), Error>, Duration) {
    let fake = FakeBuildKit::script()
        .on_solve(|solve: Solve| async move {
            let session = solve.session().await?;
            let build = async {
                session.secret("token").await?;
                session.pull("context").await?;
                session.export_file(0, &[&[7; 3000], &[8; 3000]]).await?;
                Ok(SolveResponse::default())
            };
            tokio::select! {
                built = build => built,
                () = checked(&session) => Err(tonic::Status::deadline_exceeded("session healthcheck failed fatally")),
            }
        })
        .on_status(|call, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "a step".into(), ..Default::default() };
            let log =
                VertexLog { vertex: "sha256:v".into(), msg: vec![b'x'; 500].into(), ..Default::default() };
            let message = StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() };
            let _ = out.send(Ok(message)).await;
            call.solve_ended().await;
            Ok(())
        })
        .start();
    let started = Instant::now();
    let ended = fake
        .client_with(faults, Liveness::default())
        .solve(dockerfile())
        .reference("the-build")
        .local("context", dir.join("context"))
        .secret("token", SecretSource::value("s"))
        .export(Export::tar(dir.join("out.tar")))
        .await
        .map(drop);
    (fake, ended, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn f05_a_link_cut_at_any_byte_is_told_as_a_lost_link() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("a"), [1; 5000]).unwrap();
    std::fs::write(context.join("b"), "b").unwrap();
    let clean = Faults::default();
    whole_build(&clean, dir.path()).await.1.unwrap();
    std::fs::remove_file(dir.path().join("out.tar")).unwrap();
    let (read, written) = clean.passed();
    assert!(read > 5_000 && written > 5_000, "{read} {written}");

    let (mut cut, mut whole) = (0, 0);
    for point in 0..500_u64 {
        let faults = Faults::default();
        let (total, at) = if point % 2 == 0 { (read, point / 2) } else { (written, point / 2) };
        let at = total * at / 250;
        let fault = if point % 4 < 2 { Fault::ResetAt(at) } else { Fault::EndAt(at) };
        if point % 2 == 0 {
            faults.reading(fault);
        } else {
            faults.writing(fault);
        }
        let (fake, ended, took) = whole_build(&faults, dir.path()).await;
        assert!(took <= Duration::from_secs(15), "{fault:?}: {took:?}");
        let out = std::fs::exists(dir.path().join("out.tar")).unwrap();
        match ended {
            Ok(()) => {
                whole += 1;
                assert_eq!(std::fs::metadata(dir.path().join("out.tar")).unwrap().len(), 6000, "{fault:?}");
                std::fs::remove_file(dir.path().join("out.tar")).unwrap();
            }
            Err(Error::Connect(_)) => assert!(at < 100 && !out, "{fault:?}"),
            Err(error) => {
                cut += 1;
                let text = error.report();
                let lost = lost(error);
                assert!(
                    lost.reference().is_none_or(|reference| reference == "the-build"),
                    "{fault:?}: {text}"
                );
                assert!(lost.elapsed() <= took && text.contains("fake://buildkit"), "{fault:?}: {text}");
                assert!(!out, "{fault:?}: a torn export has its name");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{fault:?}: a temporary file is left");
        fake.wait_until(|fake| fake.running_solves() == 0 && fake.sessions().is_empty()).await;
    }
    // What is cut behind the result does no harm.
    assert!(cut > 350 && whole < 100, "{cut} {whole}");
}

#[tokio::test(start_paused = true)]
async fn f05_what_ran_when_the_link_broke_is_listed() {
    let fake = building(600);
    let (ended, took) = spoilt(&fake, Liveness::default(), async |faults| faults.reset_now()).await;
    let lost = lost(ended.unwrap_err());
    assert_eq!(lost.running(), ["RUN sleep"]);
    assert!(lost.reference().is_some_and(|reference| reference.len() == 25));
    assert!(took < Duration::from_secs(3) && lost.elapsed() >= Duration::from_secs(7), "{took:?}");
    let text = lost.to_string();
    assert!(text.contains("Control.Solve") && text.contains("running: RUN sleep"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn f05_a_session_that_is_lost_under_a_build_is_the_reason_whatever_the_daemon_says() {
    for (says, after) in [
        (tonic::Status::cancelled("grpc: the client connection is closing"), 0),
        (tonic::Status::cancelled("context canceled"), 3),
        (tonic::Status::unknown("no active session for x: context deadline exceeded"), 5),
        (tonic::Status::unknown("failed to copy: context canceled"), 0),
    ] {
        let told = says.clone();
        let fake = FakeBuildKit::script()
            .on_solve(move |solve| {
                let says = says.clone();
                async move {
                    solve.session().await?.end();
                    sleep(Duration::from_secs(after)).await;
                    Err(says)
                }
            })
            .start();
        let error = fake.client().solve(dockerfile()).await.unwrap_err();
        assert!(error.is_transient(), "{told}: {error:?}");
        let lost = lost(error);
        assert!(lost.reason().contains("session"), "{told}: {lost:?}");
    }
    // A session that lives on has nothing to do with it.
    let fake = FakeBuildKit::script().on_solve(|_| async { Err(tonic::Status::cancelled("shutting down")) });
    let error = fake.start().client().solve(dockerfile()).await.unwrap_err();
    assert!(matches!(&error, Error::Solve(error) if error.message() == "shutting down"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn f06_half_open_both_ways_is_found_within_60_s() {
    for halves in ["stall", "drop"] {
        let fake = building(100_000);
        let (ended, took) = spoilt(&fake, Liveness::default(), async |faults| {
            let (read, written) = faults.passed();
            if halves == "stall" {
                faults.stall_now();
            } else {
                faults.reading(Fault::DropAt(read));
                faults.writing(Fault::DropAt(written));
            }
        })
        .await;
        let lost = lost(ended.unwrap_err());
        assert!(took <= Duration::from_millis(62_100), "{halves}: {took:?}");
        assert!(took >= Duration::from_secs(30), "{halves}: an outage of 30 s is survived: {took:?}");
        assert!(lost.silent() <= Duration::from_secs(61) && lost.running() == ["RUN sleep"], "{lost:?}");
    }
    // Twenty seconds, where that is what is wanted.
    let fake = building(100_000);
    let short = Liveness::dead_after(Duration::from_secs(20));
    let (ended, took) = spoilt(&fake, short, async |faults| faults.stall_now()).await;
    lost(ended.unwrap_err());
    assert!(took <= Duration::from_millis(22_100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn f06_control_calls_find_a_dead_link_too() {
    let fake = FakeBuildKit::script()
        .on_disk_usage(|_| async {
            sleep(Duration::from_secs(1_000_000)).await;
            Ok(buildkit_proto::control::DiskUsageResponse::default())
        })
        .start();
    let faults = Faults::default();
    let client = fake.client_with(&faults, Liveness::default());
    client.daemon().await.unwrap();
    faults.stall_now();
    let started = Instant::now();
    let error = client.disk_usage(UsageQuery::default()).await.unwrap_err();
    assert!(lost(error).reason().contains("health check"));
    assert!(started.elapsed() <= Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f07_a_link_dead_in_one_direction_is_found_within_60_s() {
    // Only what the daemon says is lost.
    let fake = building(100_000);
    let (ended, took) = spoilt(&fake, Liveness::default(), async |faults| {
        faults.reading(Fault::DropAt(faults.passed().0));
    })
    .await;
    lost(ended.unwrap_err());
    assert!(took <= Duration::from_millis(62_100), "{took:?}");

    // Only what the client says is lost: the daemon goes on telling its progress for ever.
    let fake = FakeBuildKit::script()
        .on_solve(|_| async {
            sleep(Duration::from_secs(1_000_000)).await;
            Ok(SolveResponse::default())
        })
        .on_status(|_, out| async move {
            while out.send(Ok(StatusResponse::default())).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        })
        .start();
    for stall in [true, false] {
        let (ended, took) = spoilt(&fake, Liveness::default(), async |faults| {
            let written = faults.passed().1;
            faults.writing(if stall { Fault::StallAt(written) } else { Fault::DropAt(written) });
        })
        .await;
        assert!(lost(ended.unwrap_err()).reason().contains("does not hear us"));
        assert!(took <= Duration::from_millis(62_100), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn f07_much_that_waits_to_be_sent_is_no_dead_link() {
    // A slow link on which a health call waits behind the upload for minutes.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("big"), vec![3; 2 << 20]).unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            solve.session().await?.pull("context").await?;
            Ok(SolveResponse::default())
        })
        .start();
    let faults = Faults::default();
    faults.writing(Fault::Rate(10 << 10));
    let started = Instant::now();
    fake.client_with(&faults, Liveness::default())
        .solve(dockerfile())
        .local("context", dir.path())
        .await
        .unwrap();
    assert!(started.elapsed() > Duration::from_secs(180), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f08_a_stall_of_30_s_is_survived_and_of_60_s_where_asked_for() {
    let fake = building(120);
    let (ended, _) = spoilt(&fake, Liveness::default(), async |faults| {
        faults.stall_now();
        sleep(Duration::from_secs(20)).await;
        faults.heal();
    })
    .await;
    ended.unwrap();
    // Without a daemon that gives the session up first.
    let fake = FakeBuildKit::script()
        .on_solve(|_| async {
            sleep(Duration::from_secs(120)).await;
            Ok(SolveResponse::default())
        })
        .start();
    for (stall, dead_after) in [(30, 60), (60, 90), (3000, u64::MAX)] {
        let (ended, _) =
            spoilt(&fake, Liveness::dead_after(Duration::from_secs(dead_after)), async |faults| {
                faults.stall_now();
                sleep(Duration::from_secs(stall)).await;
                faults.heal();
            })
            .await;
        ended.unwrap_or_else(|error| panic!("{stall} s: {}", error.report()));
    }
}

#[tokio::test(start_paused = true)]
async fn f09_go_away_keeps_its_words_and_lets_running_builds_finish() {
    for (code, text) in [(0, ""), (0, "max_age")] {
        let fake = building(30);
        let link = Link::to(&fake);
        let client = link.client(Liveness::default());
        let build = client.solve(dockerfile()).start();
        fake.wait_until(|fake| fake.running_solves() == 1).await;
        let (_, frames) = link.controls();
        frames.go_away(code, text);
        sleep(Duration::from_secs(1)).await;
        build.await.unwrap_or_else(|error| panic!("{code} {text}: {}", error.report()));
    }

    let fake = building(600);
    let link = Link::to(&fake);
    let build = link.client(Liveness::default()).solve(dockerfile()).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    let (_, frames) = link.controls();
    frames.go_away(11, "too_many_pings");
    sleep(Duration::from_secs(1)).await;
    let (faults, _) = link.controls();
    faults.reading(Fault::EndAt(faults.passed().0));
    let error = build.await.unwrap_err();
    assert!(error.report().contains("too_many_pings"), "{}", error.report());
    lost(error);

    // At the start, before the first answer.
    let link = Link::default();
    let go_away = b"\x00\x00\x12\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x0bgo slower!";
    link.say(&[SETTINGS, go_away].concat(), false);
    let started = Instant::now();
    let error = link.client(Liveness::default()).solve(dockerfile()).await.unwrap_err();
    assert!(error.report().contains("ENHANCE_YOUR_CALM: go slower!"), "{}", error.report());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // Without words, its number is told by name; to other calls as well.
    let link = Link::default();
    let go_away = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x0b";
    link.say(&[SETTINGS, go_away].concat(), false);
    let error = link.client(Liveness::default()).solve(dockerfile()).await.unwrap_err();
    assert!(error.report().contains("ENHANCE_YOUR_CALM"), "{}", error.report());
    let error = link.client(Liveness::default()).workers([] as [&str; 0]).await.unwrap_err();
    assert!(error.report().contains("ENHANCE_YOUR_CALM"), "{}", error.report());
    lost(error);
}

#[tokio::test(start_paused = true)]
async fn f09_after_go_away_the_next_call_goes_over_a_new_connection() {
    let fake = FakeBuildKit::script()
        .on_prune(|_, out| async move {
            out.closed().await;
            Ok(())
        })
        .start();
    let link = Link::to(&fake);
    let client = link.client(Liveness::default());
    // A call that still runs keeps the old connection.
    let mut pruned = client.prune(Prune::new()).await.unwrap();
    assert!(timeout(Duration::from_secs(1), pruned.next()).await.is_err());
    link.controls().1.go_away(0, "");
    sleep(Duration::from_secs(1)).await;
    link.rebind(&fake);
    client.workers([] as [&str; 0]).await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test(start_paused = true)]
async fn f13_a_client_outlives_its_daemon() {
    let first = building(1);
    let link = Link::to(&first);
    let client = link.client(Liveness::default());
    client.solve(dockerfile()).await.unwrap();
    client.workers([] as [&str; 0]).await.unwrap();
    // Its connections die with it.
    link.controls().0.reset_now();
    drop(first);
    link.cut();
    sleep(Duration::from_secs(1)).await;
    let error = client.solve(dockerfile()).await.unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    let second = building(1);
    link.rebind(&second);
    client.solve(dockerfile()).await.unwrap_or_else(|error| panic!("{}", error.report()));
    client.workers([] as [&str; 0]).await.unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(second.solves().len(), 1);
}

#[tokio::test]
async fn f13_a_client_outlives_its_daemon_over_tcp() {
    let first = FakeBuildKit::script().start();
    let proxy = FaultProxy::start(&first.listen().await.unwrap().to_string()).await.unwrap();
    let client = Client::connect(proxy.endpoint()).await.unwrap();
    client.solve(dockerfile()).await.unwrap();
    proxy.faults().reset_now();
    proxy.accept(Accept::Reset);
    let error = client.solve(dockerfile()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    proxy.faults().heal();
    proxy.accept(Accept::Relay);
    client.wait_ready(Duration::from_secs(10)).await.unwrap();
    client.solve(dockerfile()).await.unwrap();
    assert_eq!(first.solves().len(), 2);
}

#[tokio::test]
async fn f05_one_byte_at_a_time_is_only_slow() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("context")).unwrap();
    std::fs::write(dir.path().join("context/a"), [1; 3000]).unwrap();
    let faults = Faults::default();
    faults.both(Fault::Chunks(1));
    whole_build(&faults, dir.path()).await.1.unwrap();
    assert_eq!(std::fs::metadata(dir.path().join("out.tar")).unwrap().len(), 6000);
}

#[tokio::test(start_paused = true)]
async fn f05_bytes_that_are_spoilt_again_and_again_never_hang() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("context")).unwrap();
    std::fs::write(dir.path().join("context/a"), [1; 3000]).unwrap();
    let clean = Faults::default();
    whole_build(&clean, dir.path()).await.1.unwrap();
    let (read, written) = clean.passed();
    let mut failed = 0;
    for at in 0..60 {
        let faults = Faults::default();
        if at % 2 == 0 {
            faults.reading(Fault::CorruptEvery(read * at / 60, 61));
        } else {
            faults.writing(Fault::CorruptEvery(written * at / 60, 61));
        }
        let (_, ended, took) = whole_build(&faults, dir.path()).await;
        assert!(took <= Duration::from_secs(80), "{at}: {took:?}: {ended:?}");
        failed += usize::from(ended.is_err());
    }
    assert!(failed > 20, "{failed}");
}

#[tokio::test]
async fn the_bytes_of_a_session_may_come_in_messages_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir(dir.path().join("context")).unwrap();
    std::fs::write(dir.path().join("context/a"), &content).unwrap();
    for chunk in [1, 2, 5, 9, 24, 1000, 16_384, 100_000] {
        let expected = content.clone();
        let fake = FakeBuildKit::script()
            .session_chunk(chunk)
            .on_solve(move |solve| {
                let expected = expected.clone();
                async move {
                    let session = solve.session().await?;
                    session.health().await?;
                    let tree = session.pull("context").await?;
                    assert!(tree[0].data.as_ref().unwrap() == &expected);
                    session.export_file(0, &[&expected[..], b"end"]).await?;
                    Ok(SolveResponse::default())
                }
            })
            .start();
        let out = dir.path().join("out.tar");
        let build = fake
            .client()
            .solve(dockerfile())
            .local("context", dir.path().join("context"))
            .export(Export::tar(&out));
        build.await.unwrap_or_else(|error| panic!("{chunk}: {}", error.report()));
        assert_eq!(std::fs::read(&out).unwrap(), [&content[..], b"end"].concat(), "{chunk}");
        std::fs::remove_file(&out).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn f05_an_answer_that_is_lost_on_a_living_link_is_found_by_asking() {
    for (case, asked_again, is_lost) in [
        ("unknown to a daemon", Some(tonic::Status::not_found("no such job x")), true),
        ("unknown to an old one", Some(tonic::Status::unknown("no such job x")), true),
        ("known", None, false),
        ("the daemon cannot say", Some(tonic::Status::internal("busy")), false),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let fake = FakeBuildKit::script()
            .on_solve(|_| async {
                sleep(Duration::from_secs(300)).await;
                Ok(SolveResponse::default())
            })
            .on_status(move |_, _| {
                let first = count.fetch_add(1, Ordering::Relaxed) == 0;
                let answer = asked_again.clone().filter(|_| !first);
                async move { answer.map_or(Ok(()), Err) }
            })
            .start();
        let started = Instant::now();
        let done = fake.client().solve(dockerfile()).await;
        if is_lost {
            let lost = lost(done.unwrap_err());
            let text = lost.to_string();
            assert!(text.contains("does not know the build"), "{case}: {text}");
            assert!(started.elapsed() <= Duration::from_secs(61), "{case}: {:?}", started.elapsed());
        } else {
            done.unwrap_or_else(|error| panic!("{case}: {}", error.report()));
        }
        assert!(asked.load(Ordering::Relaxed) > 1, "{case}");
    }
}
