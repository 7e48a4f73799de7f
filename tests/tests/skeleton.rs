//! The thin path from end to end, on a real BuildKit: what peers get wrong, and failures a user can act on.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::{Error, SolveErrorKind, report};
use buildkit_client::export::Export;
use buildkit_client::progress::{self, Event};
use buildkit_client::request::Frontend;
use buildkit_client::{Client, Solve, Solved};
use buildkit_proto::control::SolveResponse;
use buildkit_tests::daemon::{Daemon, Generation, Registry};
use buildkit_tests::fake::FakeBuildKit;
use buildkit_tests::lag::Lag;

/// A context folder with a Dockerfile and files.
fn context(dockerfile: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

async fn client(daemon: &Daemon) -> Client {
    Client::connect(daemon.endpoint.as_str()).await.unwrap()
}

fn dockerfile(client: &Client, context: &Path) -> Solve {
    client.solve(Frontend::new("dockerfile.v0")).local("context", context).local("dockerfile", context)
}

/// Builds the Dockerfile and exports its last stage into a folder.
async fn to_folder(daemon: &Daemon, context: &Path) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let client = client(daemon).await;
    dockerfile(&client, context)
        .export(Export::local(out.path()))
        .await
        .unwrap_or_else(|e| panic!("{}", report(&e)));
    out
}

fn credentials(registry: &Registry) -> DockerConfig {
    let dir = tempfile::tempdir().unwrap();
    registry.docker_config(dir.path()).unwrap();
    DockerConfig::from_file(dir.path().join("config.json")).unwrap()
}

#[tokio::test]
async fn r1_a_folder_arrives_whole() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context(
        "FROM scratch\nCOPY src /src\n",
        &[("src/a.txt", "a"), ("src/sub/b.txt", "b"), ("other", "x")],
    );
    let out = to_folder(&daemon, context.path()).await;
    assert_eq!(std::fs::read(out.path().join("src/a.txt")).unwrap(), b"a");
    assert_eq!(std::fs::read(out.path().join("src/sub/b.txt")).unwrap(), b"b");
    assert!(!out.path().join("other").exists());
}

#[tokio::test]
async fn r2_ignored_files_stay_here() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let files = [(".dockerignore", "secret.env\n"), ("secret.env", "no"), ("kept", "yes")];
    let context = context("FROM scratch\nCOPY . /c\n", &files);
    let out = to_folder(&daemon, context.path()).await;
    assert!(out.path().join("c/kept").exists());
    assert!(!out.path().join("c/secret.env").exists());
}

#[tokio::test]
async fn r3_a_long_build_lives_and_its_log_arrives_while_it_runs() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let steps = "RUN for i in 1 2 3 4 5 6 7 8; do echo line$i; sleep 5; done\n";
    let context = context(&format!("FROM alpine\nARG SALT\n{steps}"), &[]);
    let (sink, mut events) = progress::channel();
    let client = client(&daemon).await;
    let salt = std::process::id().to_string();
    let build = dockerfile(&client, context.path()).opt("build-arg:SALT", salt).progress(sink).start();
    let start = Instant::now();
    let mut lags = Vec::new();
    while let Some(event) = events.next().await {
        let Event::Status(status) = event else { continue };
        let lines = status.logs.iter().filter(|log| log.data.starts_with(b"line"));
        // The daemon is on this machine: its clock is ours.
        lags.extend(lines.map(|log| log.timestamp.elapsed().unwrap_or_default()));
    }
    build.await.unwrap_or_else(|e| panic!("{}", report(&e)));
    assert!(start.elapsed() > Duration::from_secs(38), "{:?}", start.elapsed());
    // Five seconds apart: each is here before the next is written. Some may be late on a busy machine, not most.
    lags.sort();
    assert_eq!(lags.len(), 8, "{lags:?}");
    assert!(lags[4] < Duration::from_secs(4), "{lags:?}");
}

#[tokio::test]
async fn r4_a_symbolic_link_stays_one() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY . /c\n", &[("tgt", "t")]);
    std::os::unix::fs::symlink("tgt", context.path().join("l")).unwrap();
    let out = to_folder(&daemon, context.path()).await;
    assert_eq!(std::fs::read_link(out.path().join("c/l")).unwrap(), Path::new("tgt"));
}

#[tokio::test]
async fn r6_a_wildcard_finds_its_files() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY *.txt /c/\n", &[("a.txt", "a"), ("b.md", "b")]);
    let out = to_folder(&daemon, context.path()).await;
    assert_eq!(std::fs::read(out.path().join("c/a.txt")).unwrap(), b"a");
    assert!(!out.path().join("c/b.md").exists());
}

#[tokio::test]
async fn r7_times_of_files_are_kept() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY f /f\n", &[("f", "f")]);
    let then = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let file = std::fs::File::options().write(true).open(context.path().join("f")).unwrap();
    file.set_modified(then).unwrap();
    let out = to_folder(&daemon, context.path()).await;
    assert_eq!(out.path().join("f").metadata().unwrap().modified().unwrap(), then);
}

#[tokio::test]
async fn r9_contents_arrive_whatever_their_size() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY . /c\n", &[]);
    let sizes = [1_usize, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 5_000_003];
    let bytes = |size: usize| (0..size).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect::<Vec<u8>>();
    for size in sizes {
        std::fs::write(context.path().join(size.to_string()), bytes(size)).unwrap();
    }
    let out = to_folder(&daemon, context.path()).await;
    for size in sizes {
        assert!(std::fs::read(out.path().join("c").join(size.to_string())).unwrap() == bytes(size), "{size}");
    }
}

fn odd_name() -> (&'static std::ffi::OsStr, tempfile::TempDir) {
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9-\xff\x01");
    let context = context("FROM scratch\nCOPY d /d\n", &[("d/plain", "p")]);
    std::fs::write(context.path().join("d").join(name), "odd").unwrap();
    (name, context)
}

/// What is sent: byte for byte, to a daemon that takes whatever comes.
#[tokio::test]
async fn names_that_are_not_utf8_are_sent_byte_for_byte() {
    let (name, context) = odd_name();
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| async move {
            let tree = solve.session().await?.pull("context").await?;
            let path = [b"d/", name.as_bytes()].concat();
            let entry = tree.iter().find(|entry| entry.stat.path == path);
            assert_eq!(entry.and_then(|entry| entry.data.as_deref()), Some(&b"odd"[..]));
            Ok(SolveResponse::default())
        })
        .start();
    let built = fake.client().solve(Frontend::new("dockerfile.v0")).local("context", context.path()).await;
    built.unwrap_or_else(|e| panic!("{}", report(&e)));
}

async fn names_arrive_byte_for_byte(generation: Generation) {
    let Some(daemon) = Daemon::or_skip(generation) else { return };
    let (name, context) = odd_name();
    let out = to_folder(&daemon, context.path()).await;
    assert_eq!(std::fs::read(out.path().join("d").join(name)).unwrap(), b"odd");
}

#[tokio::test]
async fn names_that_are_not_utf8_arrive_byte_for_byte() {
    names_arrive_byte_for_byte(Generation::Trixie).await;
}

#[tokio::test]
async fn names_that_are_not_utf8_arrive_byte_for_byte_on_the_oldest() {
    names_arrive_byte_for_byte(Generation::Bookworm).await;
}

/// Docker Engine 28 reads our packets with a protobuf library that checks strings: its gRPC layer refuses
/// the message before anything of BuildKit sees it.
#[tokio::test]
async fn a_daemon_that_refuses_names_that_are_not_utf8_fails_the_build_and_the_file_is_named() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (name, context) = odd_name();
    let out = tempfile::tempdir().unwrap();
    let client = client(&daemon).await;
    let built = dockerfile(&client, context.path()).export(Export::local(out.path())).await;
    match built {
        Ok(_) => assert_eq!(std::fs::read(out.path().join("d").join(name)).unwrap(), b"odd"),
        Err(error) => {
            let text = error.report();
            assert!(text.contains("local directory \"context\""), "{text}");
            assert!(text.contains(r"d/caf\xe9-\xff\x01") && text.contains("not UTF-8"), "{text}");
            let Error::Local(local) = error else { panic!("{text}") };
            assert!(local.daemon_error().unwrap().message().contains("invalid UTF-8"));
        }
    }
}

async fn push(daemon: &Daemon, auth: DockerConfig, name: &str) -> Result<Solved, Error> {
    let context = context("FROM alpine\nRUN touch .i-was-here\nCMD date\n", &[]);
    let client = client(daemon).await;
    dockerfile(&client, context.path()).auth(auth).export(Export::image(name).push()).await
}

#[tokio::test]
async fn r13_the_digest_is_the_registrys() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.private;
    let name = registry.repository("pushed");
    let solved = push(&daemon, credentials(registry), &format!("{name}:v1")).await;
    let solved = solved.unwrap_or_else(|e| panic!("{}", report(&e)));
    let repository = name.split_once('/').unwrap().1;
    let (digest, manifest) = registry.manifest(repository, "v1").await.unwrap();
    assert_eq!(solved.digest(), digest);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn wrong_credentials_are_told_as_such() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let mut registry = daemon.registries.private.clone();
    registry.password = Some("not-the-one".to_owned());
    let name = registry.repository("refused");
    let error = push(&daemon, credentials(&registry), &name).await.unwrap_err();
    let text = report(&error);
    assert_eq!(error.as_solve().unwrap().kind(), SolveErrorKind::Auth, "{text}");
    assert!(text.contains(&registry.address), "{text}");
    assert!(!text.contains("not-the-one"), "{text}");
}

#[tokio::test]
async fn a_dead_registry_is_told_by_its_name() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let error = push(&daemon, DockerConfig::empty(), "127.0.0.1:1/dead/image:latest").await.unwrap_err();
    let text = report(&error);
    assert!(text.contains("127.0.0.1:1"), "{text}");
    let kind = error.as_solve().unwrap().kind();
    assert!(matches!(kind, SolveErrorKind::Push | SolveErrorKind::Registry), "{kind:?}: {text}");
}

#[tokio::test]
async fn a_missing_dockerfile_is_told_by_its_name() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\n", &[]);
    let client = client(&daemon).await;
    let error = dockerfile(&client, context.path()).opt("filename", "Nowhere.Dockerfile").await.unwrap_err();
    let text = report(&error);
    assert!(text.contains("Nowhere.Dockerfile"), "{text}");
}

#[tokio::test]
async fn an_error_in_a_dockerfile_shows_the_place() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM scratch\nCOPY a /a\nCOPPY b /b\n", &[("a", "a")]);
    let client = client(&daemon).await;
    let error = dockerfile(&client, context.path()).await.unwrap_err();
    let text = error.report();
    let location = error.as_solve().unwrap().location().unwrap_or_else(|| panic!("no place: {text}"));
    assert_eq!(location.file_line(), "Dockerfile:3");
    let excerpt = location.excerpt().unwrap_or_default();
    assert!(excerpt.contains("COPPY b /b"), "{excerpt}");
}

#[tokio::test]
async fn r14_a_failed_step_tells_code_vertex_and_line() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM alpine\nRUN echo before the end; exit 7\n", &[]);
    let client = client(&daemon).await;
    let error = dockerfile(&client, context.path()).no_cache().await.unwrap_err();
    let text = report(&error);
    let solve = error.as_solve().unwrap();
    assert_eq!(solve.exit_code(), Some(7), "{text}");
    assert!(solve.vertex().is_some_and(|digest| digest.starts_with("sha256:")), "{text}");
    assert_eq!(solve.location().unwrap().file_line(), "Dockerfile:2");
    assert!(solve.last_logs().iter().any(|line| line.contains("before the end")), "{:?}", solve.last_logs());
}

#[tokio::test]
async fn r15_a_cancelled_build_ends_at_once() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = context("FROM alpine\nRUN sleep 300\n", &[]);
    let client = client(&daemon).await;
    let build = dockerfile(&client, context.path()).no_cache().start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (start, lag) = (Instant::now(), Lag::measure());
    build.cancel();
    let result = build.await;
    assert!(matches!(result, Err(Error::Canceled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(2) + lag.so_far(), "{:?}", start.elapsed());
}
