//! The calls of the gateway on the real BuildKit, from a function in this process.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::collections::BTreeMap;

use buildkit_client::export::Export;
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_frontend::{
    Attestation, AttestationKind, BuildResult, ChecksumAlgorithm, Code, Contexts, Error, FileKind, Gateway,
    ImageConfig, ResolveImage, ResolveSource, Result, Solve, Subject, Warning, subrequest,
};
use buildkit_llb::{Git, Http, Platform, State, scratch, sh};
use buildkit_proto::pb;
use buildkit_proto::sourcepolicy::{Policy, PolicyAction, Rule, Selector};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, with_gateway};
use buildkit_tests::git_server::{GitServer, has_git};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ALPINE: &str = "docker.io/library/alpine:latest";

/// Runs a test as the function of a build.
async fn run<F, Fut>(daemon: &Daemon, test: F)
where
    F: Fn(Gateway) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    with_gateway(daemon, test).await.unwrap_or_else(|error| panic!("{}", error.report()));
}

/// A server that answers every request with `content`.
async fn web_server(content: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let body = if request.starts_with(b"HEAD") { "" } else { content };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
                     Connection: close\r\n\r\n{body}",
                    content.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    format!("http://{address}/file.txt")
}

#[tokio::test]
async fn a_function_knows_its_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let build = async |gateway: Gateway| {
        assert!(!gateway.session_id().is_empty());
        assert!(!gateway.workers().is_empty() && gateway.default_platform().os == "linux");
        assert!(gateway.caps().contains("gateway.exec") && gateway.llb_caps().contains("file.base"));
        assert_eq!(gateway.options().build_arg("A"), Some("b=c"));
        assert!(gateway.options().switch("quick")?);
        assert!(gateway.current_frontend().is_none(), "it is no image");
        Ok::<_, Error>(
            BuildResult::default().with_metadata("frontend.said", "hello").with_metadata("other", "x"),
        )
    };
    let solved = client.build(build).opt("build-arg:A", "b=c").opt("quick", "").await.unwrap();
    assert_eq!((solved.get("frontend.said"), solved.get("other")), (Some("hello"), None));
}

#[tokio::test]
async fn images_are_resolved_for_a_platform() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let missing = daemon.registries.mirror.repository("frontends-missing");
    run(&daemon, move |gateway| {
        let missing = missing.clone();
        async move {
            let host = gateway.resolve_image(ALPINE).await?;
            assert!(host.digest.starts_with("sha256:") && host.reference.starts_with(ALPINE), "{host:?}");
            let arm = Platform::new("linux", "arm64");
            let other = gateway.resolve_image(ResolveImage::new(ALPINE).platform(&arm)).await?;
            assert_eq!(ImageConfig::from_json(&other.config)?.platform().architecture, "arm64");
            assert_eq!(host.digest, other.digest, "the digest is that of the index");
            let error = gateway.resolve_image(ResolveImage::new(format!("{missing}:1"))).await.unwrap_err();
            assert!(error.is_not_found() && error.report().contains(&missing), "{}", error.report());
            let error = gateway.image("Not A Reference").await.unwrap_err();
            assert_eq!(error.message(), "\"Not A Reference\" is not the name of an image");
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn sources_are_resolved_and_read() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let url = web_server("hello").await;
    run(&daemon, move |gateway| {
        let url = url.clone();
        async move {
            let plain = gateway.resolve_source(ResolveSource::new(&url)).await?;
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let digest = |content: &str| format!("sha256:{}", hex(&Sha256::digest(content)));
            // Daemons before 0.28 know what images are only, and hand back the rest as it came.
            if let Some(http) = &plain.http {
                assert_eq!(http.checksum, digest("hello"));
            }
            assert_eq!(plain.source.unwrap().identifier, url);
            let asked = ResolveSource::new(&url).http_checksum(ChecksumAlgorithm::Sha256, "suffix");
            match gateway.resolve_source(asked).await {
                Ok(answer) => {
                    let checksum = answer.http.unwrap().checksum_response.unwrap();
                    assert_eq!(checksum.digest, digest("hellosuffix"));
                }
                Err(error) => {
                    assert!(!gateway.caps().contains("source.metaresolver.http.checksumrequest"));
                    assert_eq!(error.code(), Code::Unimplemented, "{}", error.report());
                }
            }
            let tree = gateway.solve_state(&State::from(Http::new(&url).filename("got"))).await?;
            assert_eq!(tree.reference()?.read_file("got").await?, "hello");
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_git_repository_is_resolved_and_read() {
    let Some((daemon, ())) =
        Daemon::or_skip_without(Generation::Sid, "git server beside it", |_| has_git().then_some(()))
    else {
        return;
    };
    let server = GitServer::start(&[("dir/file", "content")], "a-token").await.unwrap();
    let (url, commit) = (server.url(), server.commit().to_owned());
    let build = move |gateway: Gateway| {
        let (url, commit) = (url.clone(), commit.clone());
        async move {
            let git = Git::new(&url, "main");
            let graph = gateway.marshal(&State::from(git.clone()))?;
            let op = graph.ops().next().unwrap().message()?.op;
            let Some(pb::op::Op::Source(source)) = op else { panic!("no source") };
            let asked = ResolveSource::from(source.clone()).git_objects();
            let answer = gateway.resolve_source(asked).await?;
            assert_eq!(answer.source.unwrap().identifier, source.identifier);
            // Daemons before 0.26 know what images are only, and hand back the rest as it came.
            if let Some(git) = answer.git {
                assert_eq!((git.checksum.as_str(), git.r#ref.as_str()), (commit.as_str(), "refs/heads/main"));
                assert!(String::from_utf8_lossy(&git.commit_object).contains("Test <test@example.org>"));
            }
            let tree = gateway.solve_state(&State::from(git)).await?;
            assert_eq!(tree.reference()?.read_file("dir/file").await?, "content");
            Ok::<_, Error>(BuildResult::default())
        }
    };
    let token = SecretSource::value("a-token");
    let solve = client(&daemon).await.build(build).secret(Secrets::git_token_id(&server.host()), token);
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn trees_are_read_listed_and_looked_at() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let state = scratch()
            .mkdir("/dir", 0o750)
            .mkfile("/dir/a.toml", 0o640, "0123456789")
            .mkfile("/dir/b ä.txt", 0o600, "")
            .symlink("/dir/a.toml", "/link");
        let result = gateway.solve_state(&state).await?;
        let tree = result.reference()?;
        assert_eq!(tree.read_file("/dir/a.toml").await?, "0123456789");
        assert_eq!(tree.read_range("dir/a.toml", 2..5).await?, "234");
        assert_eq!(tree.read_range("dir/a.toml", 8..99).await?, "89");
        assert_eq!(tree.read_file("link").await?, "0123456789", "links stay inside the tree");
        let names = |list: Vec<buildkit_frontend::FileStat>| -> Vec<(String, FileKind)> {
            list.into_iter().map(|stat| (stat.path_lossy(), stat.kind)).collect()
        };
        assert_eq!(
            names(tree.read_dir("/").await?),
            [("dir".to_owned(), FileKind::Dir), ("link".to_owned(), FileKind::Symlink)]
        );
        assert_eq!(names(tree.list("dir", "*.toml").await?), [("a.toml".to_owned(), FileKind::File)]);
        assert_eq!(tree.read_dir("dir").await?[1].path_lossy(), "b ä.txt");
        let stat = tree.stat("dir/a.toml").await?;
        assert_eq!((stat.size, stat.permissions, stat.is_file()), (10, 0o640, true));
        assert!(tree.exists("dir").await? && !tree.exists("nope").await?);
        assert_eq!(tree.read_optional("nope").await?, None);
        assert!(tree.read_file("nope").await.unwrap_err().is_not_found());
        assert!(!tree.read_file("dir").await.unwrap_err().is_not_found(), "a directory is no file");

        // The tree can be built on, and is the same graph again.
        let again = gateway.solve_state(&tree.state()?).await?;
        assert_eq!(again.reference()?.definition()?.unwrap().head()?, tree.definition()?.unwrap().head()?);
        let empty = gateway.solve(Solve::default()).await?;
        assert!(empty.single()?.is_none());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn results_are_lazy_until_they_are_evaluated() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let failing = gateway.image("alpine").await?.run(sh("echo some words >&2; exit 4")).root();
        let lazy = gateway.solve_state(&failing).await?;
        for error in [
            lazy.reference()?.evaluate().await.unwrap_err(),
            lazy.reference()?.read_file("/etc/passwd").await.unwrap_err(),
            gateway.solve(Solve::definition(&gateway.marshal(&failing)?).evaluate()).await.unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), Some(4), "{}", error.report());
            assert!(error.vertex().is_some_and(|digest| digest.starts_with("sha256:")));
        }
        let fine = gateway.image("alpine").await?.run(sh("echo fine > /fine")).root();
        let fine = gateway.solve_state(&fine).await?;
        fine.reference()?.evaluate().await?;
        assert_eq!(fine.reference()?.read_file("fine").await?, "fine\n");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn policies_of_one_solve_hold_for_it() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let selector = Selector { identifier: format!("docker-image://{ALPINE}*"), ..Selector::default() };
        let rule = Rule { action: PolicyAction::Deny.into(), selector: Some(selector), updates: None };
        let policy = Policy { version: 1, rules: vec![rule] };
        let graph = gateway.marshal(&buildkit_llb::image(ALPINE))?;
        let denied = Solve::definition(&graph).source_policy(policy.clone()).evaluate();
        let error = gateway.solve(denied).await.unwrap_err();
        assert!(error.report().contains("denied"), "{}", error.report());
        let denied = gateway.resolve_image(ResolveImage::new(ALPINE).source_policy(policy)).await;
        assert!(denied.is_err());
        gateway.solve(Solve::definition(&graph).evaluate()).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn inputs_of_the_caller_take_the_place_of_contexts() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let build = async |gateway: Gateway| {
        let inputs = gateway.inputs().await?;
        assert_eq!(inputs.keys().collect::<Vec<_>>(), ["context", "dockerfile"]);
        let contexts = Contexts::open(&gateway).await?;
        let file = contexts.file("List").await?;
        assert_eq!(file.text()?, "from an input");
        let tree = gateway.solve_state(&contexts.main().await?).await?;
        assert_eq!(tree.reference()?.read_file("c").await?, "context");
        Ok::<_, Error>(BuildResult::default())
    };
    let solve = client(&daemon).await.build(build);
    let solve = solve.input("context", scratch().mkfile("/c", 0o644, "context"));
    let solve = solve.input("dockerfile", scratch().mkfile("/List", 0o644, "from an input"));
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn warnings_arrive_with_their_place() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("List"), "one\ntwo\n").unwrap();
    let build = async |gateway: Gateway| {
        let file = Contexts::open(&gateway).await?.file("List").await?;
        let warning = file.warning(&(2..=2), "two is too much");
        let detail = vec!["one is enough".into(), "three is worse".into()];
        gateway.warn(Warning { level: 2, detail, url: "https://example/two".into(), ..warning }).await?;
        Ok::<_, Error>(BuildResult::default())
    };
    let solve = client(&daemon).await.build(build).local("dockerfile", dir.path());
    let solved = solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let [warning] = solved.warnings() else { panic!("{:?}", solved.warnings()) };
    assert_eq!((warning.text().as_ref(), warning.url.as_str()), ("two is too much", "https://example/two"));
    assert_eq!(warning.range[0].start.line, 2);
    let detail: Vec<_> = warning.detail.iter().map(|line| String::from_utf8_lossy(line)).collect();
    assert_eq!((warning.level, &detail[..]), (2, &["one is enough".into(), "three is worse".into()][..]));
    assert_eq!(warning.source_info.as_ref().unwrap().filename, "List");
}

#[tokio::test]
async fn other_frontends_are_called_and_asked() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let text = "FROM scratch AS first\nFROM scratch AS second\nLABEL who=nested\n";
        let dockerfile = gateway.marshal(&scratch().mkfile("/Dockerfile", 0o644, text))?;
        let frontend = || {
            Solve::frontend("dockerfile.v0").input("dockerfile", &dockerfile).input("context", &dockerfile)
        };
        let built = gateway.solve(frontend().option("target", "second")).await?;
        let config = ImageConfig::from_json(&built.metadata[buildkit_frontend::IMAGE_CONFIG])?;
        assert_eq!(config.config.labels["who"], "nested");

        let targets = gateway.ask(frontend(), subrequest::TARGETS).await?;
        let json: BTreeMap<String, serde_json::Value> = subrequest::json(&targets)?;
        assert_eq!(json["targets"][0]["name"], "first");
        assert!(subrequest::text(&targets).unwrap().contains("second"));
        let error = gateway.ask(frontend(), "frontend.nope").await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{}", error.report());
        let error = gateway.solve(Solve::frontend("no.such")).await.unwrap_err();
        assert!(error.report().contains("no.such"), "{}", error.report());
        Ok(())
    })
    .await;
}

/// A tree for each of two platforms, with a statement about the first.
async fn two_platforms(gateway: Gateway) -> Result<BuildResult> {
    let statement = scratch().mkfile("/statement.json", 0o644, r#"{"checked":true}"#);
    let statement = gateway.solve_state(&statement).await?;
    let (amd64, arm64) = (Platform::LINUX_AMD64, Platform::new("linux", "arm64"));
    let mut trees = Vec::new();
    for platform in [&amd64, &arm64] {
        let tree = gateway.solve_state(&scratch().mkfile("/arch", 0o644, platform.to_string())).await?;
        trees.push((platform.clone(), tree.single()?.cloned()));
    }
    let config = |platform| ImageConfig::new(platform).cmd(["/arch"]).to_json();
    let mut result = BuildResult::for_platforms(trees)
        .with_platform_config(&amd64, config(&amd64))
        .with_platform_config(&arm64, config(&arm64));
    result.attest(
        &amd64,
        Attestation {
            kind: AttestationKind::InToto {
                predicate_type: "https://example/checked".into(),
                subjects: vec![Subject::Itself],
            },
            bundle_predicate_type: String::new(),
            reference: statement.single()?.cloned(),
            path: "/statement.json".into(),
            metadata: BTreeMap::new(),
        },
    );
    Ok(result)
}

#[tokio::test]
async fn results_for_many_platforms_with_statements_become_an_index() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let mirror = &daemon.registries.mirror;
    let name = mirror.repository("frontends-platforms");
    let client = client(&daemon).await;
    let solve = client.build(two_platforms).export(Export::image(format!("{name}:1")).push());
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));

    let repository = name.strip_prefix(&format!("{}/", mirror.address)).unwrap();
    let (_, index) = mirror.manifest(repository, "1").await.unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "unknown"], "{index}");
    let attestation = index["manifests"][2]["digest"].as_str().unwrap();
    let (_, manifest) = mirror.manifest(repository, attestation).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let statement: serde_json::Value =
        serde_json::from_slice(&mirror.blob(repository, layer).await.unwrap()).unwrap();
    assert_eq!(statement["predicate"]["checked"], true, "{statement}");
    assert_eq!(statement["predicateType"], "https://example/checked");

    // The statements of an image can be asked for, where the daemon can find them.
    run(&daemon, move |gateway| {
        let name = name.clone();
        async move {
            let asked = ResolveSource::new(format!("docker-image://{name}:1"));
            let asked = asked.platform(&Platform::LINUX_AMD64).attestations(["https://example/checked"]);
            match gateway.resolve_source(asked).await {
                Ok(answer) => {
                    let chain = answer.image.unwrap().attestation_chain.unwrap();
                    assert!(!chain.attestation_manifest.is_empty());
                }
                Err(error) => {
                    assert!(!gateway.caps().contains("source.metaresolver.image.attestations"));
                    assert_eq!(error.code(), Code::Unimplemented, "{}", error.report());
                }
            }
            Ok(())
        }
    })
    .await;
}
