//! What each generation of BuildKit can do, and what a program is told of the rest: the table in PARITY.md.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs, clippy::print_stdout)] // what was seen is the next table

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use buildkit_client::cache::{InlineCache, LocalCache, RegistryCache};
use buildkit_client::control::{Prune, UsageQuery};
use buildkit_client::debug::FailedStep;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::dockerfile::{Context, Dockerfile};
use buildkit_client::error::{BoxError, Location};
use buildkit_client::export::{Export, Output, ResultInfo, SessionExporter, TreeSink};
use buildkit_client::history::HistoryQuery;
use buildkit_client::policy::{Entitlement, Policy, Source, SourceCheck, Verdict, verifier};
use buildkit_client::progress::{self, Event};
use buildkit_client::request::{Frontend, Local};
use buildkit_client::session::Upload;
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::session::ssh::SshSource;
use buildkit_client::{Client, Error, Provenance, Solve};
use buildkit_frontend::{Gateway, NewContainer, Process};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::{Mount, Network, Platform, State, sh};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::git_server::{GitServer, has_git};
use buildkit_tests::oci::archive;
use futures::future::BoxFuture;

/// One thing to try. What it returns as an error is what the table holds.
type Probe = fn(World) -> BoxFuture<'static, Result<(), String>>;

#[derive(Clone)]
struct World {
    client: Client,
    daemon: Daemon,
}

impl World {
    fn context(dockerfile: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
        std::fs::write(dir.path().join("a.txt"), "a").unwrap();
        dir
    }

    fn dockerfile(&self, context: &Path) -> Solve {
        self.client
            .solve(Frontend::new("dockerfile.v0"))
            .local("context", context)
            .local("dockerfile", context)
    }
}

/// What an error says in the table: without what differs from run to run.
fn told(error: &Error) -> String {
    let text = error.to_string().replace(['|', '\n'], " ");
    let words = text.split(' ').map(|word| if word.starts_with("127.0.0.1:") { "HOST" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

async fn done<T>(build: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, String> {
    build.await.map_err(|error| told(&error))
}

fn small() -> State {
    buildkit_llb::scratch().mkfile("/hello", 0o644, "hello")
}

macro_rules! probes {
    ($($name:literal => |$world:ident| $body:block)*) => {
        const PROBES: &[(&str, Probe)] = &[$(($name, |$world: World| Box::pin(async move { $body }))),*];
    };
}

probes! {
    "the daemon says its version" => |world| {
        let known = done(world.client.daemon()).await?;
        if known.version.is_some() { Ok(()) } else { Err(known.to_string()) }
    }
    "workers" => |world| {
        let workers = done(world.client.workers([] as [&str; 0])).await?;
        assert!(!workers.is_empty());
        Ok(())
    }
    "disk usage" => |world| { done(world.client.disk_usage(UsageQuery::new())).await.map(drop) }
    "prune" => |world| {
        let mut pruned = done(world.client.prune(Prune::new().filter("id==no-such-record"))).await?;
        done(pruned.next()).await.map(drop)
    }
    "history" => |world| { done(world.client.history().list(HistoryQuery::new())).await.map(drop) }
    "history of one build: log, pin, delete" => |world| {
        let history = world.client.history();
        let build = world.client.solve(small().mkfile("/generations", 0o644, "x")).start();
        let reference = build.reference();
        done(build).await?;
        let record = done(history.find(&reference)).await?.ok_or("it is not there")?;
        let mut updates = 0;
        done(history.logs(&record, |_| updates += 1)).await?;
        assert!(updates > 0);
        done(history.pin(&reference, true)).await?;
        done(history.delete(&reference)).await
    }
    "history of one build: finalized, with its trace" => |world| {
        let history = world.client.history();
        let solved = done(world.client.solve(small())).await?;
        done(history.finalize(solved.reference())).await?;
        let record = done(history.find(solved.reference())).await?.ok_or("it is not there")?;
        done(history.trace(&record)).await?.map(drop).ok_or_else(|| "there is no trace".into())
    }
    "build followed by its id" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("sleep 2")).ignore_cache().root();
        let build = world.client.solve(step).start();
        let reference = build.reference();
        let (attached, built) = tokio::join!(
            async {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                done(world.client.attach(&reference, progress::Progress::none())).await
            },
            done(build)
        );
        built?;
        attached.map(drop)
    }
    "graph, exported to a directory" => |world| {
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::local(out.path()))).await?;
        assert_eq!(std::fs::read(out.path().join("hello")).unwrap(), b"hello");
        Ok(())
    }
    "tar archive" => |world| {
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::tar(out.path().join("out.tar")))).await.map(drop)
    }
    "OCI archive" => |world| {
        let out = tempfile::tempdir().unwrap();
        let export = Export::oci(Output::file(out.path().join("out.tar")));
        done(world.client.solve(small()).export(export)).await.map(drop)
    }
    "docker archive" => |world| {
        let out = tempfile::tempdir().unwrap();
        let export = Export::docker(Output::file(out.path().join("out.tar")));
        done(world.client.solve(small()).export(export)).await.map(drop)
    }
    "image in the daemon's store" => |world| {
        done(world.client.solve(small()).export(Export::image("generations:test"))).await.map(drop)
    }
    "push to a registry" => |world| {
        let registry = world.daemon.registries.private.clone();
        let dir = tempfile::tempdir().unwrap();
        registry.docker_config(dir.path()).unwrap();
        let config = DockerConfig::from_file(dir.path().join("config.json")).unwrap();
        let name = registry.repository("generations");
        let solved = done(world.client.solve(small()).auth(config).export(Export::image(&name).push())).await?;
        let repository = name.split_once('/').unwrap().1;
        assert_eq!(solved.digest(), registry.manifest(repository, "latest").await.unwrap().0);
        Ok(())
    }
    "several exporters" => |world| {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let build = world.client.solve(small()).export(Export::local(one.path())).export(Export::local(two.path()));
        done(build).await?;
        // A daemon that knows one exporter only runs the first, and says nothing.
        if two.path().join("hello").exists() { Ok(()) } else { Err("only the first exporter is run".into()) }
    }
    "OCI layout in a directory" => |world| {
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::oci_dir(out.path().join("out")))).await?;
        assert!(out.path().join("out/index.json").exists());
        Ok(())
    }
    "docker layout in a directory" => |world| {
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::docker_dir(out.path().join("out")))).await.map(drop)
    }
    "directory for each platform" => |world| {
        let out = tempfile::tempdir().unwrap();
        let platforms = ["linux/amd64", "linux/arm64"].map(|platform| platform.parse::<Platform>().unwrap());
        let dockerfile = Dockerfile::new(MemoryTree::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"));
        let dockerfile = platforms.iter().fold(dockerfile, Dockerfile::platform);
        done(world.client.solve(dockerfile).export(Export::local(out.path()))).await?;
        assert!(out.path().join("linux_arm64/Dockerfile").exists());
        Ok(())
    }
    "directory without what is not in the result" => |world| {
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::local(out.path()).delete())).await.map(drop)
    }
    "tree handed to a function" => |world| {
        #[derive(Debug, Default)]
        struct Names(Arc<Mutex<Vec<String>>>);
        impl TreeSink for Names {
            fn entry(&self, stat: &buildkit_proto::fsutil::Stat) -> Result<(), BoxError> {
                self.0.lock().unwrap().push(format!("{:?}", stat.path));
                Ok(())
            }
            fn data(&self, _: &[u8], _: &[u8]) -> Result<(), BoxError> {
                Ok(())
            }
        }
        let names = Arc::default();
        done(world.client.solve(small()).export(Export::tree(Names(Arc::clone(&names))))).await?;
        assert!(names.lock().unwrap().iter().any(|name: &String| name.contains("hello")));
        Ok(())
    }
    "exporter chosen when the result is known" => |world| {
        #[derive(Debug)]
        struct Here(PathBuf);
        #[async_trait::async_trait]
        impl SessionExporter for Here {
            async fn find(&self, _: &ResultInfo) -> Result<Vec<Export>, BoxError> {
                Ok(vec![Export::local(&self.0).into()])
            }
        }
        let out = tempfile::tempdir().unwrap();
        let chosen = Here(out.path().join("out"));
        done(world.client.solve(small()).session_exporter(chosen)).await?;
        assert!(out.path().join("out/hello").exists());
        Ok(())
    }
    "same digest from the same input" => |world| {
        let out = tempfile::tempdir().unwrap();
        let export = Export::oci(Output::file(out.path().join("out.tar")));
        done(world.client.solve(small()).reproducible(7).export(export)).await.map(drop)
    }
    "Dockerfile" => |world| {
        let context = World::context("FROM alpine AS base\nRUN echo made > /made\nFROM scratch\nCOPY --from=base /made /\nCOPY a.txt /\n");
        let out = tempfile::tempdir().unwrap();
        done(world.dockerfile(context.path()).export(Export::local(out.path()))).await?;
        assert_eq!(std::fs::read(out.path().join("made")).unwrap(), b"made\n");
        Ok(())
    }
    "Dockerfile with a heredoc" => |world| {
        let context = World::context("FROM scratch\nCOPY <<EOF /file\nhere\nEOF\n");
        done(world.dockerfile(context.path())).await.map(drop)
    }
    "frontend inputs" => |world| {
        let dockerfile = buildkit_llb::scratch().mkfile("/Dockerfile", 0o644, "FROM scratch\nCOPY hello /copied\n");
        let frontend = Frontend::new("dockerfile.v0").input("context", small()).input("dockerfile", dockerfile);
        let out = tempfile::tempdir().unwrap();
        done(world.client.solve(frontend).export(Export::local(out.path()))).await?;
        assert_eq!(std::fs::read(out.path().join("copied")).unwrap(), b"hello");
        Ok(())
    }
    "secret mount" => |world| {
        let step = buildkit_llb::image("alpine")
            .run(sh("test \"$(cat /run/token)\" = canary"))
            .mount("/run/token", Mount::secret("token"))
            .ignore_cache();
        done(world.client.solve(step.root()).secret("token", SecretSource::value("canary"))).await.map(drop)
    }
    "secret in a variable" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("test \"$TOKEN\" = canary")).secret_env("TOKEN", "token");
        let step = step.ignore_cache().root();
        done(world.client.solve(step).secret("token", SecretSource::value("canary"))).await.map(drop)
    }
    "context in an upload" => |world| {
        let tar = archive(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "uploaded")]);
        let out = tempfile::tempdir().unwrap();
        let dockerfile = Dockerfile::new(Context::upload(Upload::bytes(tar)));
        done(world.client.solve(dockerfile).export(Export::local(out.path()))).await?;
        assert_eq!(std::fs::read(out.path().join("f")).unwrap(), b"uploaded");
        Ok(())
    }
    "context that is an OCI layout" => |world| {
        let layout = tempfile::tempdir().unwrap();
        done(world.client.solve(small()).export(Export::oci_dir(layout.path()).name("e.org/a:v1"))).await?;
        let dockerfile = Dockerfile::new(MemoryTree::new().file("Dockerfile", "FROM a\nCOPY Dockerfile /\n"));
        let dockerfile = dockerfile.named_context("a", Context::oci_layout(layout.path(), "v1"));
        done(world.client.solve(dockerfile)).await.map(drop)
    }
    "git context" => |world| {
        if !has_git() {
            return Ok(());
        }
        let server = GitServer::start(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /f\n")], "t").await.unwrap();
        let id = Secrets::git_token_id(&server.host());
        let solve = world.client.solve(Dockerfile::new(Context::git(format!("{}#main", server.url()))));
        done(solve.secret(id, SecretSource::value("t"))).await.map(drop)
    }
    "two builds on one session" => |world| {
        let tree = Local::tree(MemoryTree::new().file("f", "shared"));
        let session = done(world.client.session().local("src", tree).open()).await?;
        let build = || {
            let graph = buildkit_llb::scratch().copy(buildkit_llb::local("src"), "/f", "/f");
            world.client.solve(graph).session(&session).into_future()
        };
        let (one, two) = tokio::join!(done(build()), done(build()));
        one.and(two).map(drop)
    }
    "ssh agent" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("test -S \"$SSH_AUTH_SOCK\"")).ssh(Mount::ssh());
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let step = step.ignore_cache().root();
        done(world.client.solve(step).ssh("default", SshSource::socket(&socket))).await.map(drop)
    }
    "cache mount" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("date > /c/date")).mount("/c", Mount::cache("generations"));
        done(world.client.solve(step.ignore_cache().root())).await.map(drop)
    }
    "merge" => |world| {
        let merged = buildkit_llb::merge([small(), buildkit_llb::scratch().mkfile("/b", 0o644, "b")]);
        done(world.client.solve(merged)).await.map(drop)
    }
    "diff" => |world| {
        let base = buildkit_llb::image("alpine");
        let diff = buildkit_llb::diff(&base, base.mkfile("/b", 0o644, "b"));
        done(world.client.solve(diff)).await.map(drop)
    }
    "inline cache" => |world| {
        let name = world.daemon.registries.mirror.repository("inline");
        let build = world.client.solve(small()).export(Export::image(&name).push());
        done(build.cache_to(InlineCache::new())).await.map(drop)
    }
    "registry cache" => |world| {
        let name = world.daemon.registries.mirror.repository("cache");
        done(world.client.solve(small()).cache_to(RegistryCache::new(&name))).await?;
        done(world.client.solve(small()).cache_from(RegistryCache::new(&name))).await.map(drop)
    }
    "local cache" => |world| {
        let dir = tempfile::tempdir().unwrap();
        let step = || buildkit_llb::image("alpine").run(sh("echo generations > /cached")).root();
        done(world.client.solve(step()).cache_to(LocalCache::new(dir.path()).max())).await?;
        assert!(dir.path().join("index.json").exists());
        done(world.client.solve(step()).cache_from(LocalCache::new(dir.path()))).await.map(drop)
    }
    "provenance" => |world| {
        let context = World::context("FROM alpine\nRUN true\n");
        let out = tempfile::tempdir().unwrap();
        let build = world.dockerfile(context.path()).attest_provenance(Provenance::Max);
        done(build.export(Export::local(out.path()))).await?;
        if out.path().join("provenance.json").exists() { Ok(()) } else { Err("none is written".into()) }
    }
    "SBOM" => |world| {
        let scanner = format!("{}:1", world.daemon.registries.mirror.repository("generations-scanner"));
        let text = "FROM alpine\nCOPY scan /scan\nENTRYPOINT [\"/scan\"]\n";
        let scan = "#!/bin/sh\necho '{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"predicate\":{},\
                    \"predicateType\":\"https://spdx.dev/Document\"}' > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json\n";
        let tree = MemoryTree::new().file("Dockerfile", text).executable("scan", scan);
        let made = world.client.solve(Dockerfile::new(tree)).export(Export::image(&scanner).push());
        // Where there are no SBOMs the next one says so, with a scanner and without.
        let _ = made.await;
        let context = World::context("FROM scratch\nCOPY a.txt /\n");
        let out = tempfile::tempdir().unwrap();
        let build = world.dockerfile(context.path()).attest_sbom_with(scanner);
        done(build.export(Export::local(out.path()))).await?;
        if out.path().join("sbom.spdx.json").exists() { Ok(()) } else { Err("none is written".into()) }
    }
    "source policy" => |world| {
        let deny = Policy::new().deny(Source::exact("docker-image://docker.io/library/alpine:latest"));
        let step = buildkit_llb::image("alpine").run(sh("true")).ignore_cache().root();
        match done(world.client.solve(step).policy(deny)).await {
            Ok(_) => Err("it is not applied".into()),
            Err(error) if error.contains("denied by policy") || error.contains("not allowed by policy") => Ok(()),
            Err(error) => Err(error),
        }
    }
    "policy callback" => |world| {
        let allow = verifier(|_: SourceCheck| async { Ok(Verdict::Allow) });
        done(world.client.solve(small()).policy_callback(allow)).await.map(drop)
    }
    "network of the host" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("true")).network(Network::Host).ignore_cache().root();
        done(world.client.solve(step).allow(Entitlement::NetworkHost)).await.map(drop)
    }
    "network through the recording proxy" => |world| {
        done(world.client.solve(small()).proxy_network()).await.map(drop)
    }
    "layout of images by version" => |world| {
        let out = tempfile::tempdir().unwrap();
        let export = Export::oci(Output::file(out.path().join("out.tar")));
        done(world.client.solve(small()).compatibility_version(20).export(export)).await.map(drop)
    }
    "lint results" => |world| {
        let context = World::context("from scratch\nCOPY a.txt /\n");
        let solved = done(world.dockerfile(context.path())).await?;
        if solved.warnings().is_empty() { Err("none came".into()) } else { Ok(()) }
    }
    "function of the caller" => |world| {
        let build = |gateway: Gateway| async move {
            let base = gateway.image("alpine").await?;
            let result = gateway.solve_state(&base.mkfile("/b", 0o644, "b")).await?;
            assert_eq!(&result.reference()?.read_file("/b").await?[..], b"b");
            Ok::<_, buildkit_frontend::Error>(result)
        };
        done(world.client.build(build)).await.map(drop)
    }
    "container of the gateway" => |world| {
        let build = |gateway: Gateway| async move {
            let result = gateway.solve_state(&buildkit_llb::image("alpine")).await?;
            let container = gateway.container(NewContainer::new(result.reference()?)).await?;
            let output = container.run(Process::new(["echo", "hi"])).await?;
            assert_eq!(&output.stdout[..], b"hi\n");
            Ok::<_, buildkit_frontend::Error>(result)
        };
        done(world.client.build(build)).await.map(drop)
    }
    "failed step looked into" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("echo left > /left; exit 9")).ignore_cache().root();
        let (tell, told) = std::sync::mpsc::channel();
        let build = world.client.solve(step).on_failure(move |step: FailedStep| {
            let tell = tell.clone();
            async move {
                tell.send(step.run(["cat", "/left"]).await?.stdout)?;
                Ok(())
            }
        });
        let error = build.await.unwrap_err();
        match told.try_recv() {
            Ok(left) => assert_eq!(&left[..], b"left\n"),
            Err(_) => return Err(self::told(&error)),
        }
        Ok(())
    }
    "exit code and place of a failed step" => |world| {
        let context = World::context("FROM alpine\nRUN exit 7\n");
        let error = world.dockerfile(context.path()).no_cache().await.unwrap_err();
        let solve = error.as_solve().ok_or_else(|| told(&error))?;
        match (solve.exit_code(), solve.location().map(Location::file_line)) {
            (Some(7), Some(place)) if place == "Dockerfile:2" => Ok(()),
            (code, place) => Err(format!("the error carries exit code {code:?}, place {place:?}")),
        }
    }
    "log of a step while it runs" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("echo said; sleep 2")).ignore_cache().root();
        let (sink, mut events) = progress::channel();
        let build = world.client.solve(step).progress(sink).start();
        while let Some(event) = events.next().await {
            let Event::Status(status) = event else { continue };
            if status.logs.iter().any(|log| log.data.starts_with(b"said")) {
                return done(build).await.map(drop);
            }
        }
        Err("no line came".into())
    }
    "cancelled build" => |world| {
        let step = buildkit_llb::image("alpine").run(sh("sleep 60")).ignore_cache().root();
        let build = world.client.solve(step).start();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        build.cancel();
        match build.await {
            Err(Error::Canceled) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// The cells of one column of the table in PARITY.md, by probe.
fn column(at: usize) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../PARITY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("## Generations of BuildKit").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| | "));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].to_owned(), cells[1 + at].to_owned())
    })
    .collect()
}

/// Tries everything on a daemon, and compares what happens with the table.
async fn try_all(generation: Generation, at: usize) {
    let Some(daemon) = Daemon::or_skip(generation) else { return };
    // Through the Engine where there is one: it says more of itself than an old BuildKit.
    let address = daemon.docker_endpoint.clone().unwrap_or_else(|| daemon.endpoint.clone());
    let client = Client::connect(&address).await.unwrap_or_else(|error| panic!("{}", error.report()));
    println!("{address}: {}", client.daemon().await.unwrap());
    let written = column(at);
    let mut wrong = Vec::new();
    for (name, probe) in PROBES {
        let world = World { client: client.clone(), daemon: daemon.clone() };
        let seen = match probe(world).await {
            Ok(()) => "yes".to_owned(),
            Err(error) => error,
        };
        println!("| {name} | {seen} |");
        match written.get(*name) {
            Some(cell) if *cell == seen => {}
            Some(cell) => wrong.push(format!("{name}: PARITY.md says {cell:?}, seen was {seen:?}")),
            None => wrong.push(format!("{name}: not in PARITY.md, seen was {seen:?}")),
        }
    }
    assert_eq!(written.len(), PROBES.len(), "the table in PARITY.md has other rows than there are probes");
    // A daemon that the tests did not provision may be of any age.
    if daemon.engine != "unknown" {
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn the_newest_does_what_the_table_says() {
    try_all(Generation::Sid, 1).await;
}

#[tokio::test]
async fn engine_26_does_what_the_table_says() {
    try_all(Generation::Trixie, 2).await;
}

#[tokio::test]
async fn engine_20_10_does_what_the_table_says() {
    try_all(Generation::Bookworm, 3).await;
}
