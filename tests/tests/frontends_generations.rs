//! Frontends on older daemons: what these cannot do is known before it is asked of them, and the rest works.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs, clippy::print_stdout)] // what an old daemon says is worth reading

use std::collections::BTreeMap;
use std::path::Path;

use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_client::{Client, Solve};
use buildkit_frontend::{
    BuildResult, ChecksumAlgorithm, Code, Gateway, NewContainer, Process, ResolveSource, Result,
    Solve as Nested, Warning,
};
use buildkit_llb::{merge, scratch, sh};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, image, package_frontend, with_gateway};

/// What the daemon cannot do that frontends ask about: of the gateway, and of graphs.
struct Lacks {
    gateway: &'static [&'static str],
    graphs: &'static [&'static str],
}

/// BuildKit 0.13.
const ENGINE_26: Lacks = Lacks {
    gateway: &[
        "gateway.exec.filesystem",
        "source.metaresolver.http.checksumrequest",
        "source.metaresolver.image.attestations",
    ],
    graphs: &[],
};

/// BuildKit 0.8.
const ENGINE_20_10: Lacks = Lacks {
    gateway: &[
        "gateway.evaluate",
        "gateway.exec.extrahosts",
        "gateway.exec.filesystem",
        "gateway.exec.secretenv",
        "gateway.exec.signals",
        "gateway.warnings",
        "reference.attestations",
        "source.metaresolver",
        "source.metaresolver.http.checksumrequest",
        "source.metaresolver.image.attestations",
    ],
    graphs: &["diffop", "mergeop"],
};

/// What a frontend is told, and what becomes of the calls that the daemon does not know.
async fn negotiate(gateway: Gateway, lacks: &'static Lacks) -> Result<String> {
    let all = buildkit_frontend::Caps::current_gateway();
    let missing: Vec<&str> = all.names().filter(|name| !gateway.caps().contains(name)).collect();
    assert_eq!(missing, lacks.gateway);
    let has = |cap: &str| !lacks.gateway.contains(&cap);
    let unimplemented = |error: buildkit_frontend::Error, what: &str| {
        assert_eq!(error.code(), Code::Unimplemented, "{}", error.report());
        assert!(error.report().contains(what), "{}", error.report());
        println!("{}", error.report());
    };

    // By the older call where the newer one is not known.
    let base = gateway.image("alpine").await?;
    let http = ResolveSource::new("https://example.com/").http_checksum(ChecksumAlgorithm::Sha256, "x");
    unimplemented(
        gateway.resolve_source(http).await.unwrap_err(),
        "source.metaresolver.http.checksumrequest",
    );

    let failing = gateway.solve_state(&base.run(sh("exit 4")).root()).await?;
    let error = failing.reference()?.evaluate().await.unwrap_err();
    assert!(error.report().contains("exit code: 4"), "{}", error.report());
    let evaluated = Nested::definition(&gateway.marshal(&base.run(sh("exit 5")).root())?).evaluate();
    assert!(gateway.solve(evaluated).await.unwrap_err().report().contains("exit code: 5"));

    let merged = merge([base.clone(), scratch().mkfile("/m", 0o644, "m")]);
    if lacks.graphs.contains(&"mergeop") {
        unimplemented(gateway.solve_state(&merged).await.unwrap_err(), "mergeop");
    } else {
        let tree = gateway.solve_state(&merged).await?;
        assert_eq!(tree.reference()?.read_file("m").await?, "m");
    }

    // Shown, or dropped where there are no warnings.
    gateway.warn(Warning { short: "careful".into(), ..Warning::default() }).await?;

    let tree = gateway.solve_state(&base).await?;
    let container = gateway.container(NewContainer::new(tree.reference()?)).await?;
    let output = container.run(Process::new(["sh", "-c", "echo out; echo err >&2; exit 3"])).await?;
    assert_eq!((output.exit.code, &output.stdout[..], &output.stderr[..]), (3, &b"out\n"[..], &b"err\n"[..]));
    unimplemented(container.read_file(0, "/etc/passwd").await.unwrap_err(), "gateway.exec.filesystem");
    if !has("gateway.exec.extrahosts") {
        let hosts = NewContainer::new(tree.reference()?).host("db", "10.0.0.1".parse().unwrap());
        unimplemented(gateway.container(hosts).await.unwrap_err(), "gateway.exec.extrahosts");
    }
    let container = gateway.container(NewContainer::new(tree.reference()?)).await?;
    if !has("gateway.exec.secretenv") {
        let secret = Process::new(["true"]).secret_env("TOKEN", "id");
        unimplemented(container.start(secret).await.unwrap_err(), "gateway.exec.secretenv");
    }
    let mut sleeper = container.start(Process::new(["sleep", "1000"])).await?;
    if has("gateway.exec.signals") {
        sleeper.signal("KILL").await?;
        assert!(!sleeper.wait().await?.success());
    } else {
        unimplemented(sleeper.signal("KILL").await.unwrap_err(), "gateway.exec.signals");
        // Its container ends it.
        container.release().await?;
    }

    let names: Vec<&str> = gateway.caps().names().collect();
    Ok(names.join(","))
}

/// The files of a build's result, those of Alpine aside.
async fn files(solve: Solve, dir: &Path) -> BTreeMap<String, String> {
    let out = tempfile::tempdir().unwrap();
    let solve = solve.local("context", dir).local("dockerfile", dir).export(Export::local(out.path()));
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).ok();
    ["a", "installed", "arch"].into_iter().filter_map(|name| Some((name.to_owned(), read(name)?))).collect()
}

async fn frontends_run(generation: Generation, lacks: &'static Lacks) {
    let (Some(daemon), Some(newest)) = (Daemon::or_skip(generation), Daemon::or_skip(Generation::Sid)) else {
        return;
    };
    // The newest makes the images: an old one cannot push.
    let image_of = async |name: &str| image(&newest, name).await;
    let client: Client = client(&daemon).await;

    let here = with_gateway(&daemon, move |gateway| negotiate(gateway, lacks)).await;
    let here = here.unwrap_or_else(|error| panic!("{}", error.report()));
    let frontend = Frontend::image(image_of("unruly").await).opt("do", "caps");
    let told = client.solve(frontend).await.unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(
        told.get("frontend.gateway-caps"),
        Some(here.as_str()),
        "a function and an image are told the same"
    );
    assert_ne!(told.get("frontend.workers"), Some("0"));
    for cap in lacks.graphs {
        assert!(!told.get("frontend.llb-caps").unwrap().split(',').any(|name| name == *cap), "{cap}");
    }

    let dir = tempfile::tempdir().unwrap();
    let packages = "base = \"alpine\"\npackages = [\"curl\"]\ninstall = \"echo install > /installed;: \"\n\
                    command = [\"date\"]\n[files]\n\"a.txt\" = \"/a\"\n";
    std::fs::write(dir.path().join("Packages.toml"), packages).unwrap();
    std::fs::write(dir.path().join("a.txt"), "a").unwrap();
    let expected =
        [("a", "a"), ("installed", "install\n")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let function = files(client.build(package_frontend), dir.path()).await;
    let as_image = files(client.solve(Frontend::image(image_of("package").await)), dir.path()).await;
    assert_eq!(function, BTreeMap::from(expected));
    assert_eq!(as_image, function);

    let text = "FROM alpine\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\nCOPY a.txt /a\n";
    std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
    let function = files(client.build(buildkit_dockerfile::build), dir.path()).await;
    let syntax = format!("# syntax={}\n{text}", image_of("dockerfile").await);
    std::fs::write(dir.path().join("Dockerfile"), syntax).unwrap();
    let as_image = files(client.solve(Frontend::new("dockerfile.v0")), dir.path()).await;
    assert_eq!((function.len(), &function), (2, &as_image));

    let nothing =
        client.build(async |_: Gateway| Ok::<_, buildkit_frontend::Error>(BuildResult::default())).await;
    nothing.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn engine_26_runs_our_frontends() {
    frontends_run(Generation::Trixie, &ENGINE_26).await;
}

#[tokio::test]
async fn engine_20_10_runs_our_frontends() {
    frontends_run(Generation::Bookworm, &ENGINE_20_10).await;
}
