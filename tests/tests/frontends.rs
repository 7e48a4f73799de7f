//! Frontends as images on the real BuildKit, against the same functions in this process.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_client::{Client, Error, Solve};
use buildkit_frontend::{BuildResult, Code, Gateway, Simulated, Solve as Nested, subrequest};
use buildkit_llb::Definition;
use buildkit_tests::daemon::{Daemon, Generation, Registry};
use buildkit_tests::frontends::{
    CAPS, client, image, labelled, mark, nothing_holds, nothing_runs, package_frontend, runs,
};
use bytes::Bytes;

const ALPINE: &str = "docker.io/library/alpine:latest";

/// Builds and pushes an image with a fixed time; returns its digest.
async fn push(solve: Solve, name: &str) -> String {
    let export = Export::image(name).push().rewrite_timestamp().source_date_epoch(1_700_000_000);
    let solved = solve.export(export).await.unwrap_or_else(|error| panic!("{}", error.report()));
    solved.digest().to_owned()
}

/// The config of an image for one platform.
async fn config(registry: &Registry, name: &str) -> serde_json::Value {
    let (repository, tag) =
        name.strip_prefix(&format!("{}/", registry.address)).unwrap().rsplit_once(':').unwrap();
    let (_, manifest) = registry.manifest(repository, tag).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["config"]["digest"].as_str().unwrap();
    serde_json::from_slice(&registry.blob(repository, digest).await.unwrap()).unwrap()
}

/// A build with a directory as context and as the place of the file.
fn with_files(solve: Solve, dir: &tempfile::TempDir) -> Solve {
    solve.local("context", dir.path()).local("dockerfile", dir.path())
}

/// What a frontend has built: the vertices of its graph, and what it says of them.
#[derive(Debug, PartialEq)]
struct Built {
    vertices: BTreeSet<String>,
    metadata: BTreeMap<String, Bytes>,
}

impl Built {
    fn of(result: &BuildResult) -> buildkit_frontend::Result<Self> {
        let definition = result.reference()?.definition()?.unwrap();
        Ok(Self { vertices: vertices(&definition), metadata: result.metadata.clone() })
    }
}

fn vertices(definition: &Definition) -> BTreeSet<String> {
    definition.ops().map(|op| op.digest().to_string()).collect()
}

const PACKAGES: &str = "base = \"alpine\"\npackages = [\"curl\"]\ninstall = \"echo install > /installed;: \"\n\
                        command = [\"date\"]\n[env]\nLANG = \"C\"\n[files]\n\"a.txt\" = \"/a\"\n";

fn packages(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Packages.toml"), text).unwrap();
    std::fs::write(dir.path().join("a.txt"), "a").unwrap();
    dir
}

#[tokio::test]
async fn the_package_frontend_gives_the_same_in_process_as_image_and_simulated() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = image(&daemon, "package").await;
    let dir = packages(PACKAGES);
    let client = client(&daemon).await;
    let mirror = &daemon.registries.mirror;
    let name = mirror.repository("frontends-package");

    // In this process. What it builds, and what it builds on, is kept for the simulation.
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let build = move |gateway: Gateway| {
        let keep = Arc::clone(&keep);
        async move {
            let result = package_frontend(gateway.clone()).await?;
            let base = gateway.resolve_image(ALPINE).await?;
            *keep.lock().unwrap() = Some((Built::of(&result)?, base, gateway.session_id().to_owned()));
            Ok::<_, buildkit_frontend::Error>(result)
        }
    };
    let in_process = push(with_files(client.build(build), &dir), &format!("{name}:p")).await;
    let as_image =
        push(with_files(client.solve(Frontend::image(frontend)), &dir), &format!("{name}:i")).await;
    assert_eq!(in_process, as_image);
    let config = config(mirror, &format!("{name}:i")).await;
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["date"]));

    let (real, base, session) = kept.lock().unwrap().take().unwrap();
    let simulated = Simulated::new()
        .configure(|environment| environment.session_id = session)
        .image(ALPINE, base.digest, base.config)
        .file("dockerfile", "Packages.toml", PACKAGES);
    let result = simulated.run(package_frontend).await.unwrap();
    assert_eq!(Built::of(&result).unwrap(), real);
}

#[tokio::test]
async fn a_frontend_for_many_platforms_gives_the_same_index_in_process_and_as_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = image(&daemon, "package").await;
    let dir = packages("base = \"alpine\"\ncommand = [\"date\"]\n[files]\n\"a.txt\" = \"/a\"\n");
    let client = client(&daemon).await;
    let name = daemon.registries.mirror.repository("frontends-platforms");
    let mut digests = Vec::new();
    for (tag, solve) in
        [("p", client.build(package_frontend)), ("i", client.solve(Frontend::image(frontend)))]
    {
        let solve = with_files(solve, &dir).opt("platform", "linux/amd64,linux/arm64");
        digests.push(push(solve, &format!("{name}:{tag}")).await);
    }
    assert_eq!(digests[0], digests[1]);
    let repository = name.split_once('/').unwrap().1;
    let (_, index) = daemon.registries.mirror.manifest(repository, "i").await.unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
}

/// A Dockerfile with much of what one can have, without its first line.
const DOCKERFILE: &str = r#"
ARG BASE=alpine
FROM ${BASE} AS base
ARG V=1
ENV A=$V B="b ${A:-none}"
RUN echo $A > /x
RUN <<EOF
mkdir -p /made
echo "$B" > /made/here
EOF

FROM base AS tool
COPY --chmod=0755 <<"EOF" /tool
#!/bin/sh
echo $PATH
EOF
RUN --mount=type=cache,target=/cache --mount=type=bind,source=sub,target=/in cat /in/b.txt > /b

FROM base
COPY --from=tool /tool /b /usr/local/bin/
COPY a.txt sub/*.txt /files/
ADD --chown=1:2 a.txt /owned
WORKDIR /w
USER nobody
EXPOSE 80/tcp
VOLUME /data
LABEL l=1 "m n"='o p'
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/tool"]
CMD ["date"]
"#;

#[tokio::test]
async fn a_syntax_line_runs_our_dockerfile_frontend_with_the_result_of_the_client_side() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let syntax = format!("# syntax={}", image(&daemon, "dockerfile").await);
    let client = client(&daemon).await;
    let mirror = &daemon.registries.mirror;
    let name = mirror.repository("frontends-dockerfile");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "a").unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/b.txt"), "b").unwrap();
    std::fs::write(dir.path().join(".dockerignore"), "Dockerfile\n").unwrap();
    let write = |first: &str, text: &str| {
        std::fs::write(dir.path().join("Dockerfile"), format!("{first}{text}")).unwrap();
    };
    let by_syntax = || with_files(client.solve(Frontend::new("dockerfile.v0")), &dir).opt("build-arg:V", "2");
    let here = || with_files(client.build(buildkit_dockerfile::build), &dir).opt("build-arg:V", "2");

    write(&syntax, DOCKERFILE);
    let image = push(by_syntax(), &format!("{name}:s")).await;
    write("# a comment", DOCKERFILE);
    let function = push(here(), &format!("{name}:c")).await;
    assert_eq!(image, function);
    let built = config(mirror, &format!("{name}:s")).await;
    assert_eq!(built, config(mirror, &format!("{name}:c")).await);
    assert_eq!(built["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/tool"]));
    let env = built["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&serde_json::json!("B=b none")), "{env:?}");

    // And for many platforms.
    let text = "\nFROM alpine\nARG TARGETARCH\nCOPY a.txt /$TARGETARCH/\nENV ARCH=$TARGETARCH\n";
    let many = |solve: Solve| solve.opt("platform", "linux/amd64,linux/arm64");
    write(&syntax, text);
    let image = push(many(by_syntax()), &format!("{name}:ms")).await;
    write("# a comment", text);
    assert_eq!(image, push(many(here()), &format!("{name}:mc")).await);
}

#[tokio::test]
async fn our_dockerfile_frontend_answers_questions_as_an_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = image(&daemon, "dockerfile").await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch AS one\nFROM scratch AS two\n").unwrap();
    let build = move |gateway: Gateway| {
        let ask = Nested::frontend_image(&frontend);
        async move {
            let targets = gateway.ask(ask.clone(), subrequest::TARGETS).await?;
            let text = subrequest::text(&targets).unwrap();
            assert!(text.contains("one") && text.contains("two (default)"), "{text}");
            let error = gateway.ask(ask, "frontend.no-such").await.unwrap_err();
            assert_eq!(error.code(), Code::Unimplemented);
            assert!(error.report().contains("frontend.no-such"), "{}", error.report());
            Ok::<_, buildkit_frontend::Error>(BuildResult::default())
        }
    };
    let solve = with_files(client(&daemon).await.build(build), &dir);
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn the_include_frontend_hands_over_to_the_dockerfile_frontend() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let syntax = format!("# syntax={}\n", image(&daemon, "include").await);
    std::fs::write(dir.path().join("Dockerfile"), syntax + "FROM alpine\nINCLUDE+ more.inc\n").unwrap();
    std::fs::write(dir.path().join("more.inc"), "RUN echo included > /included\n").unwrap();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("out.tar");
    with_files(client(&daemon).await.solve(Frontend::new("dockerfile.v0")), &dir)
        .export(Export::tar(&archive))
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()));
    let mut archive = tar::Archive::new(std::fs::File::open(&archive).unwrap());
    let mut included = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("included") {
            entry.read_to_string(&mut included).unwrap();
        }
    }
    assert_eq!(included, "included\n");
}

#[tokio::test]
async fn a_frontend_that_fails_says_where_in_process_and_as_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = image(&daemon, "package").await;
    let dir = packages("base = \"alpine\"\ncommand = 3\n");
    let client = client(&daemon).await;
    for solve in [client.build(package_frontend), client.solve(Frontend::image(frontend))] {
        let Error::Solve(error) = with_files(solve, &dir).await.unwrap_err() else {
            panic!("no error of the build")
        };
        let place = error.location().expect("the place");
        assert!(place.file_line().ends_with("Packages.toml:2"), "{}", place.file_line());
        assert!(place.excerpt().expect("an excerpt").contains("command = 3"));
    }
}

#[tokio::test]
async fn an_image_knows_what_it_was_made_of() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = image(&daemon, "unruly").await;
    let solve = client(&daemon).await.solve(Frontend::image(&frontend).opt("do", "self"));
    let solved = solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let sources = solved.get("frontend.sources").unwrap();
    assert!(sources.contains(&frontend), "{sources}");
    assert_eq!(
        solved.get("frontend.same-size"),
        Some("true"),
        "its graph is solved to the program that runs"
    );
}

#[tokio::test]
async fn the_labels_of_an_image_say_what_it_gets_and_what_it_is_asked() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let alone = labelled(&daemon, "unruly", "", false).await;
    let connected = labelled(&daemon, "unruly", CAPS, true).await;

    // moby.buildkit.frontend.network.none
    let mut interfaces = Vec::new();
    for image in [&alone, &connected] {
        let solve = client.solve(Frontend::image(image).opt("do", "network"));
        let solved = solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
        interfaces.push(solved.get("frontend.interfaces").unwrap().to_owned());
    }
    assert_eq!(interfaces[0], "lo", "without a network there is only the loopback");
    assert_ne!(interfaces[1], "lo", "with one there is more");

    // moby.buildkit.frontend.caps: what it does not say it is not asked for.
    let input = || buildkit_llb::scratch().mkfile("/x", 0o644, "x");
    let refused: [(Frontend, &str); 2] = [
        (
            Frontend::image(&alone).opt("do", "return").input("given", input()),
            "moby.buildkit.frontend.inputs",
        ),
        (
            Frontend::image(&connected)
                .opt("do", "return")
                .opt("frontend.caps", "moby.buildkit.frontend.no-such+x"),
            "moby.buildkit.frontend.no-such",
        ),
    ];
    for (frontend, cap) in refused {
        let error = client.solve(frontend).await.unwrap_err();
        let Error::Solve(error) = error else { panic!("{}", error.report()) };
        assert_eq!(error.details().frontend_cap.as_deref(), Some(cap));
        let wanted = format!("unsupported frontend capability {cap}");
        assert!(error.to_string().contains(&wanted), "{error}");
        println!("{error}");
    }
    client.solve(Frontend::image(&connected).opt("do", "return").input("given", input())).await.unwrap();
}

#[tokio::test]
async fn an_image_is_told_soon_that_a_secret_is_missing() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let frontend = Frontend::image(image(&daemon, "unruly").await).opt("do", "secret");
    let solved =
        client(&daemon).await.solve(frontend).await.unwrap_or_else(|error| panic!("{}", error.report()));
    let error = solved.get("frontend.error").unwrap();
    assert!(error.contains("there-is-no-such-secret") && error.contains("not found"), "{error}");
    let took = solved.get("frontend.milliseconds").unwrap();
    println!("{error}: told after {took} ms");
    // The daemon itself never tells. It is asked after 1 s, and after 4 s and 10 s where it cannot say.
    assert!(took.parse::<u64>().unwrap() < 9000, "{took} ms");
}

/// Runs the frontend that misbehaves, with a mark that its process carries.
async fn unruly(daemon: &Daemon, client: &Client, how: &str) -> Result<buildkit_client::Solved, String> {
    let mark = mark("unruly");
    let frontend = Frontend::image(image(daemon, "unruly").await).opt("do", how).opt("mark", &mark);
    let result = client.solve(frontend).await;
    nothing_runs(&mark).await;
    result.map_err(|error| error.report())
}

#[tokio::test]
async fn an_image_that_misbehaves_ends_its_build_with_a_clear_message() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    for (how, wanted) in [
        ("panic", &["panicked", "this is on purpose"][..]),
        ("fail", &["there is a reason"]),
        ("exit", &["exit code: 3"]),
    ] {
        let error = unruly(&daemon, &client, how).await.unwrap_err();
        assert!(wanted.iter().all(|text| error.contains(text)), "{how}: {error}");
    }
    unruly(&daemon, &client, "return").await.unwrap();
    nothing_holds(&daemon, "add unruly-frontend").await;
    let printed = unruly(&daemon, &client, "print").await.unwrap();
    assert_eq!(printed.get("frontend.printed"), Some("10000"));
}

#[tokio::test]
async fn an_image_ends_with_its_build() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    for drops in [false, true] {
        let mark = mark("hang");
        let frontend = Frontend::image(image(&daemon, "unruly").await).opt("do", "hang").opt("mark", &mark);
        let build = client.solve(frontend).start();
        if !runs(&daemon, &mark).await {
            return;
        }
        if drops {
            drop(build);
        } else {
            build.cancel();
            assert!(matches!(build.await, Err(Error::Canceled)));
        }
        nothing_runs(&mark).await;
        nothing_holds(&daemon, "add unruly-frontend").await;
    }
}
