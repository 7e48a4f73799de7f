//! Several builds on one session: on a scripted daemon, and on a real one.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use buildkit_client::connect::Liveness;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::{BoxError, Error, RequestError, SolveError, report};
use buildkit_client::export::Export;
use buildkit_client::policy::{SourceCheck, Verdict, verifier};
use buildkit_client::request::{Frontend, Local};
use buildkit_client::session::secrets::SecretSource;
use buildkit_client::session::{RegistryScope, Upload};
use buildkit_client::{Client, Solve, progress};
use buildkit_frontend::Gateway;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::{self as llb, Mount, sh};
use buildkit_proto::control::{InfoResponse, SolveResponse};
use buildkit_proto::policysession::CheckPolicyRequest;
use buildkit_proto::policysession::policy_verifier_client::PolicyVerifierClient;
use buildkit_proto::upload::upload_client::UploadClient;
use buildkit_proto::worker;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{FakeBuildKit, Link, Script};
use tokio::sync::{Notify, Semaphore};
use tonic::Status;

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

/// A daemon of this version.
fn script(version: &'static str) -> Script {
    FakeBuildKit::script().on_info(move |_| async move {
        let version = worker::BuildkitVersion { version: version.to_owned(), ..Default::default() };
        Ok(InfoResponse { buildkit_version: Some(version) })
    })
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> String {
    match result {
        Err(Error::Request(error @ RequestError::SharedSession { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn config() -> DockerConfig {
    // "ann:pw", for two registries.
    DockerConfig::from_json(br#"{"auths":{"a.corp":{"auth":"YW5uOnB3"},"b.corp":{"auth":"YW5uOnB3"}}}"#)
        .unwrap()
}

/// A daemon whose builds run until they are released.
fn held(release: &Arc<Semaphore>) -> Script {
    let release = Arc::clone(release);
    FakeBuildKit::script().on_solve(move |solve| {
        let release = Arc::clone(&release);
        async move {
            solve.session().await?;
            release.acquire().await.unwrap().forget();
            Ok(SolveResponse::default())
        }
    })
}

#[tokio::test]
async fn builds_on_one_session_have_what_it_offers_and_what_they_bring() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            assert_eq!(session.secret("token").await?, "s");
            assert_eq!(session.pull("context").await?.len(), 1);
            let own = solve.request.frontend_attrs["own"].clone();
            assert_eq!(session.pull(&own).await?.len(), 1);
            session.export_file(0, &[own.as_bytes()]).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let client = fake.client();
    let tree = |name: &str| Local::tree(MemoryTree::new().file(name, "x"));
    let session = client
        .session()
        .local("context", tree("shared"))
        .secret("token", SecretSource::value("s"))
        .open()
        .await
        .unwrap();
    assert_eq!(fake.sessions(), [session.id()]);
    let dir = tempfile::tempdir().unwrap();
    for own in ["one", "two"] {
        let path = dir.path().join(own);
        let solve = client.solve(dockerfile().opt("own", own)).local(own, tree(own)).session(&session);
        solve.export(Export::tar(&path)).await.unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!(std::fs::read_to_string(path).unwrap(), own);
    }
    let solves = fake.solves();
    assert_ne!(solves[0].r#ref, solves[1].r#ref);
    assert!(solves.iter().all(|solve| solve.session == session.id()));
    assert_eq!(fake.sessions_opened(), 1);
    session.close().await;
    fake.wait_until(|fake| fake.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_session_lives_as_long_as_somebody_has_it() {
    let release = Arc::new(Semaphore::new(0));
    let fake = held(&release).start();
    let client = fake.client();
    let session = client.session().open().await.unwrap();
    let clone = session.clone();
    let dropped = client.solve(dockerfile()).session(&session).start();
    let kept = client.solve(dockerfile()).session(&session).start();
    fake.wait_until(|fake| fake.running_solves() == 2).await;
    drop(dropped);
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    assert_eq!(fake.sessions().len(), 1, "the end of a build is not that of its session");
    drop((session, clone));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.sessions().len(), 1, "a build still needs it");
    release.add_permits(1);
    kept.await.unwrap();
    fake.wait_until(|fake| fake.sessions().is_empty()).await;
}

#[tokio::test]
async fn a_session_whose_opening_is_given_up_is_gone() {
    let fake = FakeBuildKit::script().start();
    let client = fake.client();
    for polls in 1..60 {
        let opened =
            buildkit_tests::polls::drop_after_n_polls(Box::pin(client.session().open()), polls).await;
        drop(opened);
        fake.wait_until(|fake| fake.sessions().is_empty()).await;
    }
    assert!(fake.sessions_opened() > 0, "the last ones got as far as a session");
}

#[tokio::test]
async fn results_come_here_from_one_build_at_a_time() {
    let release = Arc::new(Semaphore::new(0));
    let fake = held(&release).start();
    let client = fake.client();
    let session = client.session().open().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let exporting =
        || client.solve(dockerfile()).session(&session).export(Export::local(dir.path().join("out")));
    let first = exporting().start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    let error = refused(exporting().await);
    assert!(error.contains("sends its result here") && error.contains("after that one"), "{error}");
    // What stays at the daemon's is not concerned.
    let pushed = client.solve(dockerfile()).session(&session).export(Export::image("r/a").push()).start();
    fake.wait_until(|fake| fake.running_solves() == 2).await;
    release.add_permits(2);
    pushed.await.unwrap();
    // It was no success, for nothing came; but it is over.
    assert!(matches!(first.await, Err(Error::Local(_))));
    let given_up = exporting().start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    given_up.cancel();
    assert!(matches!(given_up.await, Err(Error::Canceled)));
    let error = refused(exporting().await);
    assert!(error.contains("given up") && error.contains("another session"), "{error}");
    let solve = client.solve(dockerfile()).session(&session).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    release.add_permits(1);
    solve.await.unwrap();
}

#[tokio::test]
async fn names_keep_their_meaning_and_what_is_the_sessions_is_given_to_it() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let mut request = tonic::Request::new(futures::stream::empty());
            request.metadata_mut().insert("urlpath", "/u".parse().unwrap());
            let answer = UploadClient::new(session.channel()).pull(request).await;
            match solve.request.frontend_attrs.get("upload") {
                Some(_) => answer.map(|_| SolveResponse::default()),
                None => Ok(SolveResponse::default()),
            }
        })
        .start();
    let client = fake.client();
    let dir = tempfile::tempdir().unwrap();
    let session = client.session().local("context", dir.path()).open().await.unwrap();
    let on = |solve: Solve| solve.session(&session);
    let solve = || client.solve(dockerfile());
    on(solve().local("context", dir.path().join("."))).await.unwrap();
    let error = refused(on(solve().local("context", "/")).await);
    assert!(error.contains("\"context\"") && error.contains("another directory"), "{error}");
    on(client.solve(dockerfile().opt("upload", "")).upload("u", Upload::bytes("x"))).await.unwrap();
    let error = refused(on(solve().upload("u", Upload::bytes("x"))).await);
    assert!(error.contains("upload \"u\""), "{error}");
    let allow = verifier(|_: SourceCheck| async { Ok(Verdict::Allow) });
    for (what, solve) in [
        ("a secret", solve().secret("x", SecretSource::value("y"))),
        ("credentials", solve().auth(config())),
        ("a policy callback", solve().policy_callback(allow)),
        ("a key", solve().shared_key("k")),
        ("sending files", solve().send_options(buildkit_fsutil::send::SendOptions::default())),
    ] {
        let error = refused(on(solve).await);
        assert!(error.contains(what) && error.contains("Client::session"), "{error}");
    }
    let elsewhere = FakeBuildKit::script().start();
    let address = format!("tcp://{}", elsewhere.listen().await.unwrap());
    let other = Client::connect(address).await.unwrap();
    let error = refused(other.solve(dockerfile()).session(&session).await);
    assert!(error.contains("fake://buildkit"), "{error}");
    let clone = session.clone();
    session.close().await;
    assert!(clone.is_closed());
    let error = refused(solve().session(&clone).await);
    assert!(error.contains("closed"), "{error}");
}

#[tokio::test]
async fn credentials_are_those_of_the_builds_that_run() {
    let release = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&release);
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let release = Arc::clone(&waits);
            async move {
                let session = solve.session().await?;
                let user = async |host: &str| session.credentials(host).await.map(|found| found.username);
                if solve.request.frontend_attrs.contains_key("hold") {
                    release.acquire().await.unwrap().forget();
                    return Ok(SolveResponse::default());
                }
                let found = format!("{},{}", user("a.corp").await?, user("b.corp").await?);
                Ok(SolveResponse { exporter_response: [("found".to_owned(), found)].into() })
            }
        })
        .start();
    let client = fake.client();
    let session = client.session().auth(config()).open().await.unwrap();
    let build = |image: &str| {
        client.solve(dockerfile()).session(&session).export(Export::image(image).push()).into_future()
    };
    let alone = build("a.corp/x").await.unwrap();
    assert_eq!(alone.get("found"), Some("ann,"));
    assert!(alone.refused_requests()[0].contains("b.corp"), "{:?}", alone.refused_requests());
    let other = client.solve(dockerfile().opt("hold", "")).session(&session);
    let other = other.export(Export::image("b.corp/x").push()).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    assert_eq!(build("a.corp/x").await.unwrap().get("found"), Some("ann,ann"));
    release.add_permits(1);
    other.await.unwrap();
    assert_eq!(build("a.corp/x").await.unwrap().get("found"), Some("ann,"));
    let wide = client.session().auth(config()).registries(RegistryScope::Any).open().await.unwrap();
    let solved = client.solve(dockerfile()).session(&wide).await.unwrap();
    assert_eq!(solved.get("found"), Some("ann,ann"));
}

#[tokio::test]
async fn a_failure_here_is_that_of_the_build_which_it_failed() {
    let failed = Arc::new(Notify::new());
    let fake = script("v0.26.0")
        .on_solve(move |solve| {
            let failed = Arc::clone(&failed);
            async move {
                let session = solve.session().await?;
                if solve.request.frontend_attrs.contains_key("other") {
                    failed.notified().await;
                    return Err(Status::unknown("process did not complete successfully: exit code: 7"));
                }
                let mut asking = PolicyVerifierClient::new(session.channel());
                let answer = asking.check_policy(CheckPolicyRequest::default()).await;
                let answer = answer.map(|_| SolveResponse::default());
                failed.notify_one();
                answer.map_err(|status| Status::unknown(format!("failed to solve: {}", status.message())))
            }
        })
        .start();
    let client = fake.client();
    let broken = verifier(|_: SourceCheck| async { Err(BoxError::from("no rules")) });
    let session = client.session().policy_callback(broken).open().await.unwrap();
    let on = |frontend: Frontend| client.solve(frontend).session(&session).into_future();
    let (theirs, ours) = tokio::join!(on(dockerfile().opt("other", "")), on(dockerfile()));
    let theirs = theirs.unwrap_err();
    assert_eq!(theirs.as_solve().and_then(SolveError::exit_code), Some(7), "{}", theirs.report());
    let ours = ours.unwrap_err();
    assert!(matches!(ours, Error::Local(_)), "{ours:?}");
    assert!(ours.report().contains("no rules"), "{}", ours.report());
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_fails_its_builds_and_says_so() {
    let release = Arc::new(Semaphore::new(0));
    let fake = held(&release).start();
    let link = Link::to(&fake);
    let client = Client::builder_over(link.clone()).liveness(Liveness::default()).lazy().unwrap();
    let session = client.session().open().await.unwrap();
    let building = client.solve(dockerfile()).session(&session).start();
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    session.clone().close().await;
    let error = building.await.unwrap_err();
    assert!(matches!(error, Error::LinkLost(_)), "{error:?}");
    let text = error.report();
    assert!(text.contains("the session that it shares is over: the session was closed"), "{text}");
    assert_eq!(session.ended().await, "the session was closed");
}

#[tokio::test]
async fn a_session_that_is_not_taken_is_an_error() {
    let fake = FakeBuildKit::script().start();
    let link = Link::to(&fake);
    let client = Client::builder_over(link.clone()).lazy().unwrap();
    link.cut();
    assert!(matches!(client.session().open().await, Err(Error::Connect(_))));
    let missing = client.session().secret("s", SecretSource::file("/no/such/file")).open().await;
    assert!(matches!(missing, Err(Error::Request(RequestError::Attachment { what: "secret", .. }))));
    let missing = client.session().local("context", "/no/such/dir").open().await;
    assert!(matches!(missing, Err(Error::Request(RequestError::Path { .. }))));
}

// ---- on a real BuildKit

/// The digests of the steps that a build went through, by name.
fn digests(events: Vec<progress::Event>) -> BTreeSet<(String, String)> {
    let steps = events.into_iter().filter_map(|event| match event {
        progress::Event::Status(status) => Some(status.vertexes),
        _ => None,
    });
    steps
        .flatten()
        .map(|step| (step.name, step.digest))
        .filter(|(name, _)| !name.starts_with("export"))
        .collect()
}

async fn collect(mut events: progress::Events) -> Vec<progress::Event> {
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event);
    }
    all
}

#[tokio::test]
async fn builds_on_one_session_are_the_same_steps_to_the_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM alpine\nCOPY f /\nRUN cat /f > /g\n").unwrap();
    std::fs::write(dir.path().join("f"), format!("{:?}", std::time::SystemTime::now())).unwrap();
    let session = client
        .session()
        .local("context", dir.path())
        .local("dockerfile", dir.path())
        .secret("s", SecretSource::value("v"))
        .open()
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (progress, events) = progress::channel();
        let out = tempfile::tempdir().unwrap();
        let events = tokio::spawn(collect(events));
        let solve = client.solve(dockerfile()).session(&session).progress(progress);
        solve.export(Export::local(out.path())).await.unwrap_or_else(|error| panic!("{}", error.report()));
        let f = std::fs::read(dir.path().join("f")).unwrap();
        assert_eq!(std::fs::read(out.path().join("g")).unwrap(), f);
        seen.push(digests(events.await.unwrap()));
    }
    let internal = |steps: &BTreeSet<(String, String)>| {
        steps.iter().filter(|(name, _)| name.starts_with("[internal] load")).cloned().collect::<Vec<_>>()
    };
    assert!(internal(&seen[0]).len() >= 3, "{seen:?}");
    assert_eq!(internal(&seen[0]), internal(&seen[1]), "local sources are the same steps on one session");
}

#[tokio::test]
async fn builds_at_once_on_one_session_share_secrets_directories_and_steps() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let context = MemoryTree::new().file("f", format!("{:?}", std::time::SystemTime::now()));
    let session = client
        .session()
        .local("context", Local::tree(context))
        .secret("s", SecretSource::value("hidden"))
        .open()
        .await
        .unwrap();
    let stamp = format!("{:?}", std::time::SystemTime::now());
    let build = |target: &'static str| {
        let stamp = stamp.clone();
        let base = llb::image("alpine")
            .run(sh(format!("sleep 2; cat /c/f > /f; head -c 32 /dev/urandom > /once; : {stamp}")))
            .mount("/c", Mount::bind(llb::local("context")))
            .root();
        let image = daemon.registries.mirror.repository(target);
        let graph = base
            .run(sh(format!("grep -q hidden /s && cat /once > /{target}")))
            .mount("/s", Mount::secret("s"))
            .root();
        let client = client.clone();
        let session = session.clone();
        async move {
            let solved = client.solve(&graph).session(&session).export(Export::image(&image).push()).await;
            solved.unwrap_or_else(|error| panic!("{}", error.report()));
            let out = tempfile::tempdir().unwrap();
            let graph = llb::image(&image);
            client.solve(&graph).export(Export::local(out.path())).await.unwrap();
            (std::fs::read(out.path().join("once")).unwrap(), out)
        }
    };
    let ((a, _a), (b, _b)) = tokio::join!(build("a"), build("b"));
    assert_eq!(a.len(), 32);
    assert_eq!(a, b, "what both have in common ran once");
    // And a function of this program runs on it, too.
    let function = |gateway: Gateway| async move {
        let copy = llb::image("alpine").run(sh("cat /c/f > /f"));
        let tree = copy.mount("/c", Mount::bind(llb::local("context"))).root();
        gateway.solve_state(&tree).await
    };
    client.build(function).session(&session).await.unwrap_or_else(|error| panic!("{}", report(&error)));
}

#[tokio::test]
async fn a_build_dropped_on_a_session_leaves_the_others_alone() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let session = client.session().secret("s", SecretSource::value("hidden")).open().await.unwrap();
    let stamp = format!("{:?}", std::time::SystemTime::now());
    let graph = |tail: &str| {
        llb::image("alpine")
            .run(sh(format!("sleep 3; grep -q hidden /s; : {tail} {stamp}")))
            .mount("/s", Mount::secret("s"))
            .root()
    };
    let stays = client.solve(graph("stays")).session(&session).start();
    let goes = client.solve(graph("goes")).session(&session).start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(goes);
    stays.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let again = client.solve(graph("again")).session(&session).await;
    again.unwrap_or_else(|error| panic!("{}", error.report()));
    session.close().await;
}
