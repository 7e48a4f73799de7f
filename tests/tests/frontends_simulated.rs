//! The example frontends over a simulated gateway.

#[path = "../../examples/include-frontend/frontend.rs"]
mod include;

use buildkit_frontend::{BuildResult, IMAGE_CONFIG, ImageConfig, Simulated, subrequest};
use buildkit_llb::{Definition, Platform};
use buildkit_proto::{gateway, pb};
use buildkit_tests::frontends::package_frontend;

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]}}"#;

fn with_alpine() -> Simulated {
    let digest = format!("sha256:{}", "a".repeat(64));
    Simulated::new().image("docker.io/library/alpine:3.22", digest, CONFIG)
}

/// The graph of the last solve.
fn last_graph(simulated: &Simulated) -> Definition {
    let solves = simulated.solves();
    let definition = solves.last().and_then(|solve| solve.definition.clone()).expect("a graph was solved");
    Definition::from_pb(definition).expect("the graph is whole")
}

fn ops(definition: &Definition) -> Vec<pb::op::Op> {
    definition.ops().filter_map(|op| op.message().ok()?.op).collect()
}

fn line(error: &buildkit_frontend::Error) -> Option<i32> {
    Some(error.locations().first()?.ranges.first()?.start?.line)
}

const PACKAGES: &str = r#"# syntax=example/package-frontend
base = "alpine:3.22"
packages = ["curl", "git"]
command = ["curl", "--version"]

[env]
LANG = "C.UTF-8"

[files]
"scripts/start.sh" = "/start"
"#;

#[tokio::test]
async fn packages_become_a_graph_and_a_config() {
    let simulated = with_alpine().file("dockerfile", "Packages.toml", PACKAGES);
    let result = simulated.run(package_frontend).await.unwrap();
    let config = ImageConfig::from_json(&result.metadata[IMAGE_CONFIG]).unwrap();
    assert_eq!(config.config.cmd, ["curl", "--version"]);
    assert_eq!(config.config.env, ["PATH=/bin", "LANG=C.UTF-8"]);
    assert_eq!(result.platforms().unwrap(), [("linux/amd64".to_owned(), Platform::LINUX_AMD64)]);

    let graph = last_graph(&simulated);
    let mut seen = Vec::new();
    for op in ops(&graph) {
        match op {
            pb::op::Op::Source(source) => seen.push(source.identifier),
            pb::op::Op::Exec(exec) => seen.push(exec.meta.unwrap().args.join(" ")),
            pb::op::Op::File(_) => seen.push("copy".into()),
            _ => {}
        }
    }
    seen.sort();
    let pinned = format!("docker-image://docker.io/library/alpine:3.22@sha256:{}", "a".repeat(64));
    assert_eq!(seen, ["/bin/sh -c apk add --no-cache curl git", "copy", pinned.as_str(), "local://context"]);
}

#[tokio::test]
async fn mistakes_in_the_package_list_are_shown_where_they_are() {
    for (text, wanted) in [
        ("base = \"alpine:3.22\"\ncommand = 5\n", 2),
        ("base = \"alpine:3.22\"\ncommand = []\nno_such_key = 1\n", 3),
        ("\n\nbase = \"nope\"\ncommand = []\n", 3),
        ("base = \n", 1),
    ] {
        let simulated = with_alpine().file("dockerfile", "Packages.toml", text);
        let error = simulated.run(package_frontend).await.unwrap_err();
        assert_eq!(line(&error), Some(wanted), "{text:?}: {}", error.report());
    }
    let error = with_alpine().run(package_frontend).await.unwrap_err();
    assert!(error.report().contains("Packages.toml"), "{}", error.report());
}

#[tokio::test]
async fn an_empty_package_list_is_worth_a_warning() {
    let text = "base = \"alpine:3.22\"\ncommand = [\"date\"]\n";
    let simulated = with_alpine().file("dockerfile", "Packages.toml", text);
    simulated.run(package_frontend).await.unwrap();
    assert_eq!(simulated.warnings().len(), 1);
}

#[tokio::test]
async fn the_package_frontend_answers_questions() {
    let ask =
        |name: &str| with_alpine().file("dockerfile", "Packages.toml", PACKAGES).option("requestid", name);
    let list = ask("frontend.packages").run(package_frontend).await.unwrap();
    assert_eq!(subrequest::text(&list), Some("curl\ngit"));
    let described: Vec<subrequest::Description> =
        subrequest::json(&ask(subrequest::DESCRIBE).run(package_frontend).await.unwrap()).unwrap();
    assert_eq!(described.len(), 2);
    let error = ask("frontend.nope").run(package_frontend).await.unwrap_err();
    assert_eq!(error.code(), buildkit_frontend::Code::Unimplemented);
}

async fn include(simulated: &Simulated) -> Result<String, buildkit_frontend::Error> {
    let _: BuildResult = simulated.run(include::build).await?;
    let solves = simulated.solves();
    let forwarded: &gateway::SolveRequest = solves.last().expect("something was solved");
    assert_eq!(forwarded.frontend, "dockerfile.v0");
    let input = Definition::from_pb(forwarded.frontend_inputs["dockerfile"].clone())?;
    let Some(pb::op::Op::File(file)) = ops(&input).into_iter().next() else { panic!("no file op") };
    let Some(pb::file_action::Action::Mkfile(file)) = file.actions[0].action.clone() else {
        panic!("no file")
    };
    assert_eq!(file.path, format!("/{}", forwarded.frontend_opt["filename"]));
    Ok(String::from_utf8_lossy(&file.data).into_owned())
}

#[tokio::test]
async fn includes_are_expanded_and_forwarded_with_all_options() {
    let simulated = Simulated::new()
        .file("dockerfile", "Dockerfile", "FROM alpine\nINCLUDE+ lib/a\n  INCLUDE+ lib/b\nRUN last\n")
        .file("context", "lib/a", "RUN a\nINCLUDE+ lib/b")
        .file("context", "lib/b", "RUN b")
        .option("target", "x")
        .option("source", "the/include:frontend");
    assert_eq!(include(&simulated).await.unwrap(), "FROM alpine\nRUN a\nRUN b\nRUN b\nRUN last\n");
    let forwarded = simulated.solves().pop().unwrap();
    assert_eq!(forwarded.frontend_opt["target"], "x");
    assert!(!forwarded.frontend_opt.contains_key("source"), "the wrapper would call itself");
}

#[tokio::test]
async fn includes_that_cannot_be_are_shown_where_they_are() {
    let circle = Simulated::new()
        .file("dockerfile", "Dockerfile", "FROM alpine\nINCLUDE+ a\n")
        .file("context", "a", "INCLUDE+ b\n")
        .file("context", "b", "INCLUDE+ a\n");
    let error = include(&circle).await.unwrap_err();
    assert_eq!(line(&error), Some(2));
    assert!(error.to_string().contains("a → b → a"), "{error}");

    let missing = Simulated::new().file("dockerfile", "Dockerfile", "FROM alpine\n\nINCLUDE+ nope\n");
    let error = include(&missing).await.unwrap_err();
    assert_eq!(line(&error), Some(3));

    let doubling = (0..16).fold(
        Simulated::new().file("dockerfile", "Dockerfile", "INCLUDE+ 0\n").file(
            "context",
            "16",
            "x".repeat(1024),
        ),
        |simulated, n| simulated.file("context", &n.to_string(), format!("INCLUDE+ {0}\n", n + 1).repeat(16)),
    );
    assert!(include(&doubling).await.is_err(), "growth is bounded");
}
