//! The guide to frontends, followed to its end: its code is that of the example, and its files make an image of the
//! frontend that gives what the function gives in this process and on a simulation.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use buildkit_client::Solve;
use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_frontend::{BuildResult, Gateway, IMAGE_CONFIG, Simulated};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, package_frontend, program};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks of one language in the guide.
fn blocks(language: &str) -> Vec<String> {
    let guide = std::fs::read_to_string(root().join("docs/guide/frontends.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(found) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if found == language {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

#[test]
fn the_guide_shows_the_whole_code_of_the_example() {
    let read =
        |name: &str| std::fs::read_to_string(root().join("examples/package-frontend").join(name)).unwrap();
    let code = read("frontend.rs") + &read("main.rs");
    let shown = blocks("rs");
    for block in &shown {
        assert!(code.contains(block), "this is not in examples/package-frontend:\n{block}");
    }
    let shown: BTreeSet<&str> = shown.iter().flat_map(|block| block.lines()).collect();
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    for line in code.lines().filter(is_code) {
        assert!(shown.contains(line), "this is not in docs/guide/frontends.md:\n{line}");
    }
}

/// What was built: the digests of the vertices, and the image config.
#[derive(Debug, PartialEq)]
struct Built {
    vertices: BTreeSet<String>,
    config: String,
}

impl Built {
    fn of(result: &BuildResult) -> buildkit_frontend::Result<Self> {
        let graph = result.reference()?.definition()?.unwrap();
        let config = String::from_utf8_lossy(&result.metadata[IMAGE_CONFIG]).into_owned();
        Ok(Self { vertices: graph.ops().map(|op| op.digest().to_string()).collect(), config })
    }
}

#[tokio::test]
async fn the_guide_is_followed_from_its_files_to_an_image() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let registry = &daemon.registries.mirror;
    let push = async |solve: Solve, name: &str| {
        let export = Export::image(name).push().rewrite_timestamp().source_date_epoch(1_700_000_000);
        let solved = solve.export(export).await.unwrap_or_else(|error| panic!("{}", error.report()));
        solved.digest().to_owned()
    };

    // The image of the frontend, from the program and the guide's Dockerfile.
    let crate_dir = tempfile::tempdir().unwrap();
    let [dockerfile] = &blocks("dockerfile")[..] else { panic!("one Dockerfile") };
    let path = dockerfile.lines().find_map(|line| line.strip_prefix("COPY ")?.split(' ').next()).unwrap();
    let placed = crate_dir.path().join(path);
    std::fs::create_dir_all(placed.parent().unwrap()).unwrap();
    std::fs::copy(program("package").await, placed).unwrap();
    std::fs::write(crate_dir.path().join("Dockerfile"), dockerfile).unwrap();
    let files = |solve: Solve, dir: &tempfile::TempDir| {
        solve.local("context", dir.path()).local("dockerfile", dir.path())
    };
    let frontend = registry.repository("tutorial-frontend");
    push(files(client.build(buildkit_dockerfile::build), &crate_dir), &frontend).await;

    // A project with the guide's file. The tests reach no packages, so they are named only; the base is the one that
    // the registry has, under the name in the file.
    let project = tempfile::tempdir().unwrap();
    let list = blocks("toml").into_iter().find(|block| block.starts_with("# syntax=")).unwrap();
    let list = list.replacen("registry.example/package-frontend", &frontend, 1);
    let list = list.replacen("\ncommand", "\ninstall = \"echo > /installed\"\ncommand", 1);
    std::fs::write(project.path().join("Packages.toml"), &list).unwrap();
    std::fs::create_dir(project.path().join("scripts")).unwrap();
    std::fs::write(project.path().join("scripts/start.sh"), "#!/bin/sh\n").unwrap();
    std::fs::write(project.path().join(".dockerignore"), "scripts/*\n!scripts/start.sh\n").unwrap();
    let options = |solve: Solve| {
        files(solve, &project)
            .opt("filename", "Packages.toml")
            .opt("build-arg:LANG", "de_DE.UTF-8")
            .opt("context:alpine:3.22", "docker-image://alpine")
    };

    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let in_process = client.build(move |gateway: Gateway| {
        let keep = Arc::clone(&keep);
        async move {
            let result = package_frontend(gateway.clone()).await?;
            let base = gateway.resolve_image("docker.io/library/alpine:latest").await?;
            *keep.lock().unwrap() = Some((Built::of(&result)?, base, gateway.session_id().to_owned()));
            Ok::<_, buildkit_frontend::Error>(result)
        }
    });
    let built = registry.repository("tutorial-built");
    let function = push(options(in_process), &format!("{built}:function")).await;
    let image = push(options(client.solve(Frontend::new("dockerfile.v0"))), &format!("{built}:image")).await;
    assert_eq!(function, image);

    let (real, base, session) = kept.lock().unwrap().take().unwrap();
    assert!(real.config.contains("LANG=de_DE.UTF-8"), "{}", real.config);
    let simulated = Simulated::new()
        .configure(|environment| environment.session_id = session)
        .option("filename", "Packages.toml")
        .option("build-arg:LANG", "de_DE.UTF-8")
        .option("context:alpine:3.22", "docker-image://alpine")
        .image("docker.io/library/alpine:latest", base.digest, base.config)
        .file("dockerfile", "Packages.toml", list)
        .file("context", ".dockerignore", "scripts/*\n!scripts/start.sh\n");
    assert_eq!(Built::of(&simulated.run(package_frontend).await.unwrap()).unwrap(), real);
}
