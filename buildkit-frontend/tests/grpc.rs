//! Every call of the gateway over gRPC, decoded by the contract's own server.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "only in tests")]

mod support;

use std::collections::BTreeMap;

use buildkit_frontend::{
    Attestation, BuildResult, ChecksumAlgorithm, Code, ContainerMount, Contexts, Detail, Environment, Error,
    Event, Exit, FileKind, Gateway, GrpcBridge, NewContainer, Output, Process, Reference, ResolveImage,
    ResolveSource, Result, Simulated, Solve, Warning,
};
use buildkit_llb::{Platform, scratch};
use buildkit_proto::{gateway, pb};
use support::FakeDaemon;

/// A tower service in front of the server: no bytes in between, yet the whole
/// of tonic on both sides.
type InMemory = buildkit_proto::gateway::llb_bridge_server::LlbBridgeServer<FakeDaemon>;

async fn connect(daemon: &FakeDaemon, build_id: Option<&str>) -> Result<GrpcBridge<InMemory>> {
    let environment = Environment { session_id: "mine".into(), ..Environment::default() };
    GrpcBridge::connect(daemon.service(), build_id, environment).await
}

async fn gateway(daemon: &FakeDaemon) -> Gateway {
    Gateway::new(connect(daemon, None).await.unwrap())
}

async fn local(gateway: &Gateway, name: &str) -> Reference {
    let result = gateway.solve_state(&buildkit_llb::local(name)).await.unwrap();
    result.reference().unwrap().clone()
}

fn assert_transport<T: buildkit_frontend::Transport>() {}

#[test]
fn any_tonic_service_is_a_transport() {
    assert_transport::<InMemory>();
    assert_transport::<InMemory>();
}

#[tokio::test]
async fn files_are_read_listed_and_looked_at() {
    let simulated = Simulated::new()
        .file("context", "src/main.c", "int main;")
        .file("context", "src/deep/x.c", "")
        .file("context", "README", "hi");
    let tree = local(&gateway(&FakeDaemon::new(simulated)).await, "context").await;

    assert_eq!(tree.read_file("src/main.c").await.unwrap(), "int main;");
    assert_eq!(tree.read_range("/src/main.c", 4..8).await.unwrap(), "main");
    assert_eq!(tree.read_range("README", 1..100).await.unwrap(), "i");
    let names = |list: Vec<buildkit_frontend::FileStat>| {
        list.into_iter().map(|stat| (stat.path_lossy(), stat.kind)).collect::<Vec<_>>()
    };
    assert_eq!(
        names(tree.read_dir("src").await.unwrap()),
        [("deep".into(), FileKind::Dir), ("main.c".into(), FileKind::File)]
    );
    assert_eq!(names(tree.list(".", "R*").await.unwrap()), [("README".into(), FileKind::File)]);
    assert_eq!(tree.stat("README").await.unwrap().size, 2);
    assert!(tree.exists("src").await.unwrap());
    assert!(!tree.exists("nope").await.unwrap());
    assert_eq!(tree.read_optional("nope").await.unwrap(), None);
    assert!(tree.read_file("nope").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn calls_carry_the_build_they_belong_to() {
    let daemon = FakeDaemon::new(Simulated::new());
    let bridge = connect(&daemon, Some("build-1")).await.unwrap();
    bridge.finish(&Ok(BuildResult::default())).await.unwrap();
    assert_eq!(*daemon.build_ids.lock().unwrap(), [Some("build-1".into()), Some("build-1".into())]);

    let error = connect(&daemon, Some("bad\nid")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn images_sources_inputs_and_warnings_go_through() {
    let input = scratch().mkdir("/a", 0o755).marshal(Platform::LINUX_AMD64).unwrap();
    let simulated = Simulated::new()
        .image("docker.io/library/alpine:latest", "sha256:1", r#"{"os":"linux"}"#)
        .input("given", &input);
    let daemon = FakeDaemon::new(simulated);
    let gateway = gateway(&daemon).await;

    let image = gateway.resolve_image("docker.io/library/alpine:latest").await.unwrap();
    assert_eq!((image.digest.as_str(), &image.config[..]), ("sha256:1", &br#"{"os":"linux"}"#[..]));
    let missing = gateway.resolve_image(ResolveImage::new("nope")).await.unwrap_err();
    assert!(missing.is_not_found());
    let git = gateway.resolve_source(ResolveSource::new("git://h/r.git").git_objects()).await.unwrap();
    assert_eq!(git.source.unwrap().identifier, "git://h/r.git");
    assert!(daemon.simulated.resolved()[2].git.unwrap().return_object);

    let inputs = gateway.inputs().await.unwrap();
    assert_eq!(inputs["given"].head().unwrap(), input.head().unwrap());

    let warning = Warning { short: "careful".into(), ..Warning::default() };
    gateway.warn(warning).await.unwrap();
    let seen = daemon.simulated.warnings();
    assert_eq!((seen[0].level, &seen[0].short[..]), (1, &b"careful"[..]));
    assert_eq!(gateway.workers()[0].id, "pinged");
    assert_eq!(gateway.session_id(), "mine");
}

/// What only BuildKit 0.26 and later answers.
#[tokio::test]
async fn commits_checksums_and_attestations_are_asked_for_and_handed_out() {
    let simulated = Simulated::new().on_resolve(|request| {
        let source = request.source.clone();
        let git = request.git.filter(|git| git.return_object).map(|_| gateway::ResolveSourceGitResponse {
            checksum: "tag".into(),
            r#ref: "refs/tags/v1".into(),
            commit_checksum: "commit".into(),
            commit_object: "tree".into(),
            tag_object: "object".into(),
        });
        let http = request.http.clone().map(|http| {
            let asked = http.checksum_request.unwrap();
            gateway::ResolveSourceHttpResponse {
                checksum: "sha256:1".into(),
                filename: "file".into(),
                checksum_response: (asked.suffix != "unanswered").then(|| gateway::ChecksumResponse {
                    digest: format!("{}:2", asked.algo().as_str_name()),
                    suffix: asked.suffix,
                }),
                ..Default::default()
            }
        });
        let image = request.image.clone().map(|image| {
            assert!(image.no_config && image.attestation_chain);
            gateway::ResolveSourceImageResponse {
                digest: "sha256:3".into(),
                attestation_chain: Some(gateway::AttestationChain {
                    attestation_manifest: image.resolve_attestations.join(","),
                    ..Default::default()
                }),
                ..Default::default()
            }
        });
        Some(Ok(gateway::ResolveSourceMetaResponse { source, image, git, http }))
    });
    let mut daemon = FakeDaemon::new(simulated);
    {
        let gateway = gateway(&daemon).await;
        let git = gateway.resolve_source(ResolveSource::new("git://h/r.git#v1").git_objects()).await.unwrap();
        let git = git.git.unwrap();
        assert_eq!((&git.commit_checksum[..], &git.commit_object[..]), ("commit", &b"tree"[..]));
        assert_eq!((&git.r#ref[..], &git.tag_object[..]), ("refs/tags/v1", &b"object"[..]));

        let http = |suffix: &'static str| {
            ResolveSource::new("https://h/f").http_checksum(ChecksumAlgorithm::Sha512, suffix)
        };
        let answer = gateway.resolve_source(http("x")).await.unwrap().http.unwrap();
        let checksum = answer.checksum_response.unwrap();
        assert!(checksum.digest.ends_with("SHA512:2") && checksum.suffix == "x", "{checksum:?}");
        let error = gateway.resolve_source(http("unanswered")).await.unwrap_err();
        assert!(error.message().contains("checksum"), "{error}");

        let image = ResolveSource::new("docker-image://h/i").without_config().attestations(["a", "b"]);
        let image = gateway.resolve_source(image).await.unwrap().image.unwrap();
        assert_eq!(image.attestation_chain.unwrap().attestation_manifest, "a,b");
    }

    daemon.caps.retain(|cap| !cap.starts_with("source.metaresolver."));
    let gateway = gateway(&daemon).await;
    let before = daemon.simulated.resolved().len();
    for refused in [
        ResolveSource::new("https://h/f").http_checksum(ChecksumAlgorithm::Sha256, ""),
        ResolveSource::new("docker-image://h/i").attestation_chain(),
    ] {
        assert_eq!(gateway.resolve_source(refused).await.unwrap_err().code(), Code::Unimplemented);
    }
    assert_eq!(daemon.simulated.resolved().len(), before, "nothing is asked that would not be answered");
}

#[tokio::test]
async fn a_solve_is_what_was_asked_for() {
    let daemon = FakeDaemon::new(Simulated::new());
    let gateway = gateway(&daemon).await;
    let definition = gateway.marshal(&scratch().mkdir("/a", 0o755)).unwrap();
    let result = gateway.solve(Solve::definition(&definition).evaluate()).await.unwrap();
    let head = result.reference().unwrap().definition().unwrap().unwrap().head().unwrap();
    assert_eq!(head, definition.head().unwrap());
    result.reference().unwrap().evaluate().await.unwrap();

    let solves = daemon.simulated.solves();
    assert!(solves[0].evaluate && solves[0].allow_result_return && solves[0].allow_result_array_ref);
    let mut sent = definition.to_pb();
    sent.omit_empty_locations();
    assert_eq!(solves[0].definition.as_ref().unwrap(), &sent);
    assert_eq!(daemon.simulated.evaluated().len(), 1);
}

#[tokio::test]
async fn results_with_platforms_and_attestations_are_returned_whole() {
    let daemon = FakeDaemon::new(Simulated::new());
    let bridge = connect(&daemon, None).await.unwrap();
    let gateway = Gateway::new(bridge.clone());
    let tree = local(&gateway, "context").await;
    let mut result = BuildResult::for_platforms([
        (Platform::LINUX_AMD64, Some(tree.clone())),
        (Platform::LINUX_ARM_V7, None),
    ])
    .with_platform_config(&Platform::LINUX_AMD64, "{}");
    let sbom = Attestation { reference: Some(tree.clone()), path: "/sbom".into(), ..Attestation::default() };
    result.attest(&Platform::LINUX_AMD64, sbom);
    bridge.finish(&Ok(result)).await.unwrap();

    let returned = daemon.result().await.result.unwrap();
    let Some(gateway::result::Result::Refs(refs)) = returned.result else { panic!("not many") };
    assert_eq!(refs.refs["linux/amd64"].id, tree.id());
    assert_eq!(refs.refs["linux/arm/v7"].id, "");
    assert_eq!(returned.metadata["containerimage.config/linux/amd64"], "{}");
    let attested = &returned.attestations["linux/amd64"].attestation[0];
    assert_eq!((attested.path.as_str(), attested.kind()), ("/sbom", gateway::AttestationKind::Bundle));
}

#[tokio::test]
async fn typed_errors_survive_both_ways() {
    let failing = |_: &gateway::SolveRequest| {
        let info =
            pb::SourceInfo { filename: "Dockerfile".into(), data: "RUN x".into(), ..Default::default() };
        let range = pb::Range { start: Some(pb::Position { line: 1, character: 0 }), end: None };
        let error = Error::new("process failed: exit code: 3")
            .with_detail(Detail::Vertex("sha256:v".into()))
            .with_detail(Detail::Exit(3))
            .with_detail(Detail::FrontendCap("cap".into()))
            .at(info, vec![range]);
        Some(Err(error))
    };
    let daemon = FakeDaemon::new(Simulated::new().on_solve(failing));
    let bridge = connect(&daemon, None).await.unwrap();
    let error = Gateway::new(bridge.clone()).solve(Solve::frontend("x")).await.unwrap_err();
    assert_eq!((error.vertex(), error.exit_code()), (Some("sha256:v"), Some(3)));
    let place = error.locations()[0];
    assert_eq!(place.info.as_ref().unwrap().data, "RUN x");
    assert_eq!(place.ranges[0].start.unwrap().line, 1);

    // Handed on with context, nothing is lost.
    bridge.finish(&Err(Error::context("cannot build it", error))).await.unwrap();
    let returned = daemon.result().await.error.unwrap();
    assert_eq!(returned.message, "cannot build it: process failed: exit code: 3");
    let again = Error::from_status(returned);
    assert_eq!((again.vertex(), again.exit_code(), again.locations().len()), (Some("sha256:v"), Some(3), 1));
}

#[tokio::test]
async fn old_daemons_get_the_older_calls() {
    let simulated = Simulated::new().image("alpine", "sha256:1", "{}");
    let mut daemon = FakeDaemon::new(simulated);
    daemon.caps = Vec::new();
    let bridge = connect(&daemon, None).await.unwrap();
    let gateway = Gateway::new(bridge.clone());
    let image = gateway.resolve_image("alpine").await.unwrap();
    assert_eq!((image.reference.as_str(), image.digest.as_str()), ("alpine", "sha256:1"));
    assert_eq!(gateway.inputs().await.unwrap(), BTreeMap::new());
    gateway.warn(Warning::default()).await.unwrap();
    assert_eq!(*daemon.calls.lock().unwrap(), ["Ping", "ResolveImageConfig"]);

    let tree = local(&gateway, "context").await;
    assert_eq!(tree.stat("x").await.unwrap_err().code(), Code::Unimplemented);
    let error = gateway.container(NewContainer::new(&tree)).await.unwrap_err();
    assert!(error.to_string().contains("gateway.exec"), "{error}");
    bridge.finish(&Ok(tree.into())).await.unwrap();
    let returned = daemon.result().await.result.unwrap().result.unwrap();
    assert!(matches!(returned, gateway::result::Result::RefDeprecated(_)), "{returned:?}");
}

#[tokio::test]
async fn graphs_that_need_more_than_the_daemon_has_are_refused_here() {
    let mut daemon = FakeDaemon::new(Simulated::new());
    daemon.simulated = daemon.simulated.configure(|e| e.llb_caps.remove("mergeop"));
    let gateway = gateway(&daemon).await;
    let merged = buildkit_llb::merge([buildkit_llb::image("a"), buildkit_llb::image("b")]);
    let definition = merged.marshal(Platform::LINUX_AMD64).unwrap();
    let error = gateway.solve(definition).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.report().contains("mergeop"), "{}", error.report());
    assert_eq!(daemon.simulated.solves().len(), 0);
}

#[tokio::test]
async fn processes_run_and_containers_end_with_their_handles() {
    let simulated = Simulated::new().file("", "etc/os", "x").on_process(|process| {
        let (code, stdout) = if process.program() == "false" { (1, "") } else { (0, "out") };
        Ok(Output { exit: Exit { code }, stdout: stdout.into(), stderr: "err".into() })
    });
    let daemon = FakeDaemon::new(simulated);
    let gateway = gateway(&daemon).await;
    let tree = local(&gateway, "context").await;
    let request = NewContainer::new(&tree).mount(ContainerMount::cache("/cache", "c")).hostname("h");
    let container = gateway.container(request).await.unwrap();
    assert_eq!(daemon.simulated.containers(), [container.id()]);
    assert_eq!(container.read_file(0, "/etc/os").await.unwrap(), "x");
    assert_eq!(container.read_range(0, "etc/os", 0..9).await.unwrap(), "x");
    assert_eq!(container.read_range(0, "etc/os", 1..9).await.unwrap(), "");
    assert_eq!(container.read_dir(0, ".").await.unwrap()[0].path_lossy(), "etc");
    assert_eq!(container.stat(0, "etc/os").await.unwrap().size, 1);
    assert!(container.read_file(1, "x").await.unwrap_err().is_not_found());
    assert!(container.stat(9, "/").await.is_err());

    let output = container.run(Process::new(["true"]).env("A", "b").dir("/x")).await.unwrap();
    assert_eq!(
        (output.exit.success(), &output.stdout[..], &output.stderr[..]),
        (true, &b"out"[..], &b"err"[..])
    );
    let mut failed = container.start(Process::new(["false"])).await.unwrap();
    assert_eq!(failed.next().await.unwrap(), Some(Event::Stderr("err".into())));
    assert_eq!(failed.wait().await.unwrap(), Exit { code: 1 });
    assert!(container.start(Process::new(Vec::<String>::new())).await.is_err());

    drop(container);
    for _ in 0..100 {
        if daemon.simulated.containers().is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the container outlived its handle");
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_told_soon_and_a_slow_start_is_waited_for() {
    let simulated = Simulated::new()
        .secret("there", "hush")
        .on_process(|process| Ok(Output::success(process.env("TOKEN").unwrap_or("none").to_owned())));
    let mut daemon = FakeDaemon::new(simulated);
    let process = |id: &str| Process::new(["env"]).secret_env("TOKEN", id);
    let begin = tokio::time::Instant::now();
    {
        let gateway = gateway(&daemon).await;
        let tree = local(&gateway, "context").await;
        let container = gateway.container(NewContainer::new(&tree)).await.unwrap();
        assert_eq!(container.run(process("there")).await.unwrap().stdout, "hush");
        assert_eq!(begin.elapsed(), std::time::Duration::ZERO);
        let error = container.run(process("missing")).await.unwrap_err();
        assert_eq!(error.report(), "secret missing: not found");
        assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
        let optional = Process::new(["env"]).optional_secret_env("TOKEN", "missing");
        assert_eq!(container.run(optional).await.unwrap().stdout, "");
        assert_eq!(daemon.simulated.containers(), [container.id()], "what was asked with is gone");
    }

    daemon.starts_after = std::time::Duration::from_secs(1000);
    let gateway = gateway(&daemon).await;
    let tree = local(&gateway, "context").await;
    let container = gateway.container(NewContainer::new(&tree)).await.unwrap();
    assert_eq!(container.run(process("there")).await.unwrap().stdout, "hush");
    assert_eq!(container.run(Process::new(["env"])).await.unwrap().stdout, "none");
}

#[tokio::test]
async fn frontends_are_asked_only_where_the_daemon_checks_what_they_can() {
    let mut daemon = FakeDaemon::new(Simulated::new());
    daemon.caps.retain(|cap| cap != "frontend.caps");
    let error =
        gateway(&daemon).await.ask(Solve::frontend("dockerfile.v0"), "frontend.targets").await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(daemon.simulated.solves().is_empty(), "it would build");
}

#[tokio::test]
async fn contexts_honour_the_options_every_client_sends() {
    let simulated = Simulated::new()
        .file("dockerfile", "other.toml", "x")
        .file("context", ".dockerignore", "target\n!target/keep\n")
        .option("filename", "other.toml")
        .option("context:extra", "local:more")
        .option("context:base", "docker-image://scratch")
        .option("context:odd", "ftp://x");
    let contexts = Contexts::open(&simulated.gateway()).await.unwrap();
    assert_eq!(contexts.file("default").await.unwrap().data, "x");
    let main = contexts.main_paths(["src"]).await.unwrap();
    let definition = main.marshal(Platform::LINUX_AMD64).unwrap();
    let (head, _) = definition.head().unwrap().unwrap();
    let Some(pb::op::Op::Source(source)) = definition.op(&head).unwrap().message().unwrap().op else {
        panic!("not a source")
    };
    assert_eq!(source.identifier, "local://context");
    assert_eq!(source.attrs["local.excludepatterns"], r#"["target","!target/keep"]"#);
    assert_eq!(source.attrs["local.followpaths"], r#"["src"]"#);
    assert_eq!(source.attrs["local.session"], "session");
    assert!(contexts.named("extra").await.unwrap().is_some());
    assert!(contexts.named("base").await.unwrap().unwrap().state.is_scratch());
    assert!(contexts.named("none").await.unwrap().is_none());
    let error = contexts.named("odd").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_git_context_serves_both_context_and_file() {
    let simulated =
        Simulated::new().file("", "Dockerfile", "FROM x").option("context", "https://h/r.git#main:sub");
    let contexts = Contexts::open(&simulated.gateway()).await.unwrap();
    assert_eq!(contexts.file("Dockerfile").await.unwrap().data, "FROM x");
    let bad = Simulated::new().option("context", "https://h/r.git?nope=1");
    assert_eq!(Contexts::open(&bad.gateway()).await.unwrap_err().code(), Code::InvalidArgument);
}
