//! Where the files of a build come from, and the options of a Dockerfile build, on a real BuildKit.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;

use buildkit_client::dockerfile::{Context, Dockerfile, Ulimit};
use buildkit_client::error::{Error, RequestError, report};
use buildkit_client::export::Export;
use buildkit_client::history::HistoryQuery;
use buildkit_client::policy::{Entitlement, Policy, Source};
use buildkit_client::request::{Frontend, Local};
use buildkit_client::session::Upload;
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::{Client, Solve};
use buildkit_frontend::Gateway;
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::{self as llb, sh};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{Answer, FakeRegistry};
use buildkit_tests::git_server::{GitServer, has_git};
use buildkit_tests::oci::archive;

async fn client(daemon: &Daemon) -> Client {
    Client::connect(daemon.endpoint.as_str()).await.unwrap()
}

/// Builds, and writes the result into a directory.
async fn out(solve: Solve) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    solve.export(Export::local(dir.path())).await.unwrap_or_else(|error| panic!("{}", report(&error)));
    dir
}

fn read(dir: &tempfile::TempDir, path: &str) -> String {
    std::fs::read_to_string(dir.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const COPY_ALL: &str = "FROM scratch\nCOPY . /c/\n";

fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("Dockerfile", COPY_ALL),
        (".dockerignore", "ignored\n"),
        ("ignored", "no"),
        ("a.txt", "a"),
        ("dir/", ""),
        ("dir/b.txt", "b"),
        ("link", "-> dir/b.txt"),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn arrived(dir: &tempfile::TempDir) {
    assert_eq!(read(dir, "c/a.txt"), "a");
    assert_eq!(read(dir, "c/dir/b.txt"), "b");
    assert_eq!(std::fs::read_link(dir.path().join("c/link")).unwrap(), Path::new("dir/b.txt"));
    assert!(!dir.path().join("c/ignored").exists());
}

#[tokio::test]
async fn an_archive_is_a_context_from_a_file_from_memory_and_from_a_stream() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let plain = archive(&files());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("context.tar");
    std::fs::write(&path, &plain).unwrap();
    let contexts = [
        Context::tar_file(&path),
        Context::tar_bytes(plain.clone()),
        Context::tar_reader(std::io::Cursor::new(gzip(&plain))),
    ];
    for context in contexts {
        arrived(&out(client.solve(Dockerfile::new(context))).await);
    }
}

#[tokio::test]
async fn a_tree_in_memory_is_a_context() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let tree = MemoryTree::new()
        .file("Dockerfile", COPY_ALL)
        .file(".dockerignore", "ignored")
        .file("ignored", "no")
        .file("a.txt", "a")
        .file("dir/b.txt", "b")
        .symlink("link", "dir/b.txt");
    arrived(&out(client(&daemon).await.solve(Dockerfile::new(tree))).await);
}

#[tokio::test]
async fn standard_input_is_a_context_that_the_daemon_unpacks() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let packed = gzip(&archive(&files()[..1]));
    let upload = Upload::reader(std::io::Cursor::new(packed));
    let dir = out(client.solve(Dockerfile::new(Context::upload(upload)))).await;
    assert!(dir.path().join("c/Dockerfile").exists());

    let alone =
        Upload::bytes("FROM alpine\nRUN mkdir /o && echo alone > /o/f\nFROM scratch\nCOPY --from=0 /o /\n");
    let dir = out(client.solve(Dockerfile::new(Context::upload(alone)))).await;
    assert_eq!(read(&dir, "f"), "alone\n");
}

#[tokio::test]
async fn a_private_git_repository_is_a_context_with_its_token_as_a_secret() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    if !has_git() {
        println!("skipped: no git with its http-backend here");
        return;
    }
    let token = "not-in-any-url";
    let repository =
        [("Dockerfile", "FROM scratch\nCOPY . /c/\n"), ("sub/Dockerfile", COPY_ALL), ("sub/f", "sub")];
    let server = GitServer::start(&repository, token).await.unwrap();
    let client = client(&daemon).await;
    let id = Secrets::git_token_id(&server.host());

    let whole = Dockerfile::new(Context::git(format!("{}#main", server.url())));
    let dir = out(client.solve(whole).secret(&id, SecretSource::value(token))).await;
    assert_eq!(read(&dir, "c/sub/f"), "sub");

    let below = Dockerfile::new(Context::git(format!("{}#{}:sub", server.url(), server.commit())));
    let dir = out(client.solve(below).secret(&id, SecretSource::value(token))).await;
    assert_eq!(read(&dir, "c/f"), "sub");

    let own = Dockerfile::new(Context::git(format!("{}#main:sub", server.url())))
        .inline("FROM scratch\nCOPY f /own\n");
    let dir = out(client.solve(own).secret(&id, SecretSource::value(token))).await;
    assert_eq!(read(&dir, "own"), "sub");
}

#[tokio::test]
async fn a_git_repository_without_the_token_fails_and_leaks_nothing() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    if !has_git() {
        println!("skipped: no git with its http-backend here");
        return;
    }
    let server = GitServer::start(&[("Dockerfile", COPY_ALL)], "the-right-one").await.unwrap();
    let client = client(&daemon).await;
    let id = Secrets::git_token_id(&server.host());
    let dockerfile = Dockerfile::new(Context::git(format!("{}#main", server.url())));
    let wrong = client.solve(dockerfile).secret(id, SecretSource::value("the-wrong-one")).await.unwrap_err();
    let text = report(&wrong);
    assert!(text.contains(&server.host()), "{text}");
    assert!(!text.contains("the-wrong-one"), "{text}");
    assert!(server.refused() > 0);
}

#[tokio::test]
async fn an_archive_at_a_url_is_a_context() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let packed = gzip(&archive(&files()[..1]));
    let server =
        FakeRegistry::start(move |_| Answer::Plain(http::StatusCode::OK, vec![], packed.clone().into()));
    let server = server.await.unwrap();
    let url = format!("http://{}/context-{}.tar.gz", server.address(), std::process::id());
    let dir = out(client(&daemon).await.solve(Dockerfile::new(Context::http(url)))).await;
    assert!(dir.path().join("c/Dockerfile").exists());
}

#[tokio::test]
async fn named_contexts_come_from_everywhere() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let layout = tempfile::tempdir().unwrap();
    let base = Dockerfile::new(MemoryTree::new().file("base", "from the layout"))
        .inline("FROM scratch\nCOPY base /base\n");
    client.solve(base).export(Export::oci_dir(layout.path()).name("example.org/base:v1")).await.unwrap();

    let text = "FROM layout\n\
                COPY --from=tree f /tree\n\
                COPY --from=made f /made\n\
                COPY --from=other /bin/sh /sh\n";
    let made = llb::scratch().mkfile("/f", 0o644, "from a graph");
    let dockerfile = Dockerfile::new(MemoryTree::new())
        .inline(text)
        .named_context("layout", Context::oci_layout(layout.path(), "v1"))
        .named_context("tree", Local::tree(MemoryTree::new().file("f", "from memory")))
        .named_context("made", made)
        .named_context("other", Context::image("docker.io/library/alpine:latest"));
    let dir = out(client.solve(dockerfile)).await;
    assert_eq!(read(&dir, "base"), "from the layout");
    assert_eq!(read(&dir, "tree"), "from memory");
    assert_eq!(read(&dir, "made"), "from a graph");
    assert!(dir.path().join("sh").metadata().unwrap().len() > 0);
    let before = std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(before, 3, "a source is not written to");
}

#[tokio::test]
async fn a_layout_is_the_context_of_a_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let layout = tempfile::tempdir().unwrap();
    let text = "FROM scratch\nCOPY f /copied\n";
    let tree = MemoryTree::new().file("f", "from the layout").file("Dockerfile", text);
    let base = Dockerfile::new(tree).inline("FROM scratch\nCOPY . /\n");
    let export = Export::oci_dir(layout.path()).name("example.org/context:v1");
    let digest = client.solve(base).export(export).await.unwrap().digest().to_owned();
    let by_tag = Dockerfile::new(Context::oci_layout(layout.path(), "v1"));
    let dir = out(client.solve(by_tag)).await;
    assert_eq!(read(&dir, "copied"), "from the layout");
    // The Dockerfile from elsewhere, and in this process.
    let by_digest = || {
        Dockerfile::new(Context::oci_digest(layout.path(), &digest)).inline("FROM scratch\nCOPY f /mine\n")
    };
    let theirs = out(client.solve(by_digest())).await;
    assert_eq!(read(&theirs, "mine"), "from the layout");
    let ours = out(client.build(buildkit_dockerfile::build).dockerfile(by_digest())).await;
    assert_eq!(read(&ours, "mine"), "from the layout");
    let missing = Dockerfile::new(Context::oci_layout(layout.path(), "v9"));
    let error = client.solve(missing).await.unwrap_err();
    assert!(report(&error).contains("\"v9\""), "{}", report(&error));
}

#[tokio::test]
async fn a_layout_that_lacks_the_tag_is_found_before_the_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let layout = tempfile::tempdir().unwrap();
    let dockerfile = Dockerfile::new(MemoryTree::new())
        .inline("FROM base\n")
        .named_context("base", Context::oci_layout(layout.path(), "v9"));
    let error = client(&daemon).await.solve(dockerfile).await.unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::Path { .. })), "{error:?}");
    assert!(report(&error).contains("\"v9\""), "{}", report(&error));
}

#[tokio::test]
async fn a_layout_is_a_source_of_a_graph() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let layout = tempfile::tempdir().unwrap();
    let image = llb::scratch().mkfile("/f", 0o644, "graph");
    let image = client.solve(&image).export(Export::oci_dir(layout.path())).await.unwrap();
    let source = llb::OciLayout::new(format!("example.org/any@{}", image.digest())).store("", "here");
    let graph = llb::scratch().copy(llb::State::from(source), "/f", "/copied");
    let dir = out(client.solve(&graph).oci_layout("here", layout.path())).await;
    assert_eq!(read(&dir, "copied"), "graph");
}

#[tokio::test]
async fn a_graph_is_an_input_of_a_frontend() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let context = llb::scratch().mkfile("/Dockerfile", 0o644, "FROM scratch\nCOPY data /data\n").mkfile(
        "/data",
        0o644,
        "in the graph",
    );
    let client = client(&daemon).await;
    let dir = out(client.solve(Dockerfile::new(context.clone()))).await;
    assert_eq!(read(&dir, "data"), "in the graph");
    let plain = Frontend::new("dockerfile.v0").input("context", context.clone()).input("dockerfile", context);
    assert_eq!(read(&out(client.solve(plain)).await, "data"), "in the graph");
}

#[tokio::test]
async fn a_graph_as_an_input_does_not_end_an_old_daemon() {
    // Before 0.14 an entry of a map without a value is one without a message, and the daemon crashes on it.
    let Some(daemon) = Daemon::or_skip(Generation::Trixie) else { return };
    let graph = llb::scratch().mkfile("/Dockerfile", 0o644, "FROM scratch\nCOPY Dockerfile /d\n");
    let dir = out(client(&daemon).await.solve(Dockerfile::new(graph))).await;
    assert!(read(&dir, "d").contains("COPY"));
}

#[tokio::test]
async fn options_of_a_dockerfile_reach_its_steps() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let text = "FROM alpine AS unused\nRUN false\n\
                FROM alpine AS wanted\nARG WHO\n\
                RUN mkdir /o && echo \"$WHO\" > /o/who && grep db /etc/hosts > /o/db && ulimit -n > /o/files \
                && grep /dev/shm /proc/mounts > /o/shm && cat /proc/sys/kernel/hostname > /o/name \
                && cat /proc/net/dev > /o/net\n\
                FROM scratch AS last\nCOPY --from=wanted /o /\n\
                FROM alpine\nRUN false\n";
    let dockerfile = Dockerfile::new(MemoryTree::new().file("other/File", text))
        .file("other/File")
        .target("last")
        .build_arg("WHO", "it's, me=you")
        .add_host("db", [10, 1, 2, 3].into())
        .ulimit(Ulimit::OpenFiles, 1000, 2000)
        .shm_size(128 << 20)
        .hostname("of-the-build")
        .network(buildkit_llb::Network::None)
        .label("made.by", "us");
    let dir = out(client(&daemon).await.solve(dockerfile)).await;
    assert_eq!(read(&dir, "who"), "it's, me=you\n");
    assert!(read(&dir, "db").starts_with("10.1.2.3"), "{}", read(&dir, "db"));
    assert_eq!(read(&dir, "files"), "1000\n");
    assert!(read(&dir, "shm").contains("size=131072k"), "{}", read(&dir, "shm"));
    assert_eq!(read(&dir, "name"), "of-the-build\n");
    assert!(!read(&dir, "net").contains("eth0"), "{}", read(&dir, "net"));
}

#[tokio::test]
async fn trees_of_one_name_in_builds_at_one_time_stay_apart() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let big = "x".repeat(2 << 20);
    let graph = || llb::scratch().copy(llb::State::from(llb::Local::new("src")), "/who", "/who");
    let build = |who: &str| {
        let tree = MemoryTree::new().file("who", who).file("big", &big);
        client.solve(graph()).local("src", tree)
    };
    let driven = |who: &str| {
        let function = move |gateway: Gateway| async move { gateway.solve_state(&graph()).await };
        client.build(function).local("src", MemoryTree::new().file("who", who).file("big", &big))
    };
    let (a, b, c, d) = tokio::join!(out(build("a")), out(build("b")), out(driven("c")), out(driven("d")));
    assert_eq!([read(&a, "who"), read(&b, "who"), read(&c, "who"), read(&d, "who")], ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_function_that_drives_a_build_takes_the_same_options() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let tree = MemoryTree::new().file("f", "here").file(
        "Other",
        "FROM scratch AS a\nCOPY f /no\nFROM scratch AS b\nARG AT\nCOPY f $AT\nCOPY --from=more g /g\n",
    );
    let options = Dockerfile::new(tree)
        .file("Other")
        .target("b")
        .build_arg("AT", "/at")
        .named_context("more", MemoryTree::new().file("g", "more"));
    let dir = out(client(&daemon).await.build(buildkit_dockerfile::build).dockerfile(options)).await;
    assert_eq!(read(&dir, "at"), "here");
    assert_eq!(read(&dir, "g"), "more");
    assert!(!dir.path().join("no").exists());
}

#[tokio::test]
async fn odd_names_and_patterns_arrive() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let tree = MemoryTree::new()
        .file(
            "Dockerfile",
            "FROM scratch\nCOPY [\"d\u{fc} x/\u{2603} (1).txt\", \"/c/\"]\nCOPY [\"sub\", \"/s\"]\n",
        )
        .file(".dockerignore", "**/gr\u{fc}n*\n")
        .file("d\u{fc} x/\u{2603} (1).txt", "snow")
        .file("sub/gr\u{fc}n", "no")
        .file("sub/rot", "yes");
    let dir = out(client(&daemon).await.solve(Dockerfile::new(tree))).await;
    assert_eq!(read(&dir, "c/\u{2603} (1).txt"), "snow");
    assert_eq!(read(&dir, "s/rot"), "yes");
    assert!(!dir.path().join("s/gr\u{fc}n").exists());
}

#[tokio::test]
async fn a_policy_denies_and_converts_sources() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let alpine = || Dockerfile::new(MemoryTree::new()).inline("FROM alpine\nRUN true\n");
    let deny = Policy::new().deny(Source::wildcard("docker-image://docker.io/library/alpine*"));
    let error = client.solve(alpine()).policy(deny).await.unwrap_err();
    let solve = error.as_solve().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(solve.kind(), buildkit_client::error::SolveErrorKind::Policy, "{}", report(&error));

    let other = "docker-image://docker.io/library/busybox:latest";
    let convert =
        Policy::new().convert(Source::exact("docker-image://docker.io/library/alpine:latest"), other);
    let dir = out(client.solve(alpine()).policy(convert)).await;
    assert!(!dir.path().join("etc/alpine-release").exists());
}

#[tokio::test]
async fn an_entitlement_is_granted_or_refused_by_name() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let run =
        llb::image("docker.io/library/alpine:latest").network(llb::Network::Host).run(sh("true")).root();
    let error = client.solve(&run).await.unwrap_err();
    assert!(report(&error).contains("network.host is not allowed"), "{}", report(&error));
    if let Err(error) = client.solve(&run).allow(Entitlement::NetworkHost).await {
        assert!(report(&error).contains("granting entitlement network.host"), "{}", report(&error));
    }
    let error = client.solve(&run).allow("no.such").await.unwrap_err();
    assert!(report(&error).contains("no.such"), "{}", report(&error));
}

#[tokio::test]
async fn a_build_has_the_id_that_it_was_given_and_may_stay_out_of_the_history() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let id = |kind: &str| format!("{kind}-{}", std::process::id());
    let graph = llb::scratch().mkfile("/f", 0o644, "ref");
    let solved = client.solve(&graph).reference(id("kept")).await.unwrap();
    assert_eq!(solved.reference(), id("kept"));
    client.solve(&graph).reference(id("internal")).internal().await.unwrap();
    let found = client.history().list(HistoryQuery::new().reference(id("kept"))).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(client.history().list(HistoryQuery::new().reference(id("internal"))).await.unwrap().is_empty());
}
