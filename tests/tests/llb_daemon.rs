//! A real BuildKit takes our graphs, and calls their vertices as we do.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use buildkit_client::Client;
use buildkit_client::error::{Error, report};
use buildkit_client::progress::{self, Event};
use buildkit_frontend::{BuildResult, Gateway};
use buildkit_llb::caps::ServerCaps;
use buildkit_llb::{
    self as llb, Copy, Definition, Image, MarshalOptions, MkDir, MkFile, Mount, Owner, Platform, Rm, Secret,
    State, diff, merge, scratch, sh,
};
use buildkit_tests::conformance;
use buildkit_tests::daemon::{Daemon, Generation};
use serde_json::Value;

async fn client(daemon: &Daemon) -> Client {
    Client::connect(daemon.endpoint.as_str()).await.unwrap()
}

/// What the daemon can do.
async fn caps(client: &Client) -> ServerCaps {
    let seen = Arc::new(Mutex::new(ServerCaps::new()));
    let into = Arc::clone(&seen);
    let build = client.build(move |gateway: Gateway| {
        *into.lock().unwrap() = gateway.llb_caps().clone();
        async { Ok::<_, buildkit_frontend::Error>(BuildResult::default()) }
    });
    build.await.unwrap_or_else(|error| panic!("{}", report(&error)));
    let caps = seen.lock().unwrap().clone();
    assert!(caps.supports_named("exec.meta.base").is_ok());
    caps
}

fn marshal(state: &State) -> Definition {
    state.marshal(MarshalOptions::new(Platform::LINUX_AMD64).unique_id("u")).unwrap()
}

/// Solves the definition; the vertices the daemon told of, with their inputs.
async fn vertices(
    client: &Client,
    definition: &Definition,
) -> (BTreeMap<String, Vec<String>>, Result<(), Error>) {
    let (sink, mut events) = progress::channel();
    let build = client.solve(definition.clone()).progress(sink).start();
    let mut seen = BTreeMap::new();
    while let Some(event) = events.next().await {
        if let Event::Status(status) = event {
            seen.extend(status.vertexes.iter().map(|vertex| (vertex.digest.clone(), vertex.inputs.clone())));
        }
    }
    (seen, build.await.map(drop))
}

/// The ops of the definition with their inputs, as the daemon should tell of them.
fn expected(definition: &Definition) -> BTreeMap<String, Vec<String>> {
    let inputs = |op: &llb::DefinitionOp<'_>| {
        op.inputs().unwrap().iter().map(|(digest, _)| digest.to_string()).collect::<Vec<String>>()
    };
    definition.walk().unwrap().iter().map(|op| (op.digest().to_string(), inputs(op))).collect()
}

/// Graphs with something of everything that needs no network but the mirror of `alpine`.
fn graphs() -> Vec<(&'static str, State)> {
    let alpine = llb::image("alpine");
    let salt = std::process::id().to_string();
    let files = scratch().dir("/w").file(
        llb::FileAction::from(MkDir::new("a/b", 0o755).parents().owner(Owner::ids(7, 8)))
            .then(MkFile::new("a/b/f", 0o640, "text").created(llb::Timestamp::from_secs(1_000_000_000)))
            .then(MkFile::new("a/gone", 0o600, salt.clone()))
            .then(Rm::new("a/g*").wildcard())
            .then(Rm::new("/nothing").allow_not_found()),
    );
    let copied =
        alpine.file(Copy::new(&files, "/w/a", "/copied/").create_dest().mode(0o700).owner("root:daemon"));
    let process = alpine
        .clone()
        .dir("/work")
        .env("SALT", &salt)
        .user("root:root")
        .hostname("h")
        .add_host("db", [10, 0, 0, 1])
        .run(sh("test $(hostname) = h && test -f /in/w/a/b/f && echo $SALT > /out/salt && touch /cache/x /tmp/y && exit 3"))
        .valid_exit_codes([3])
        .mount("/in", Mount::bind(&files).readonly())
        .mount("/cache", Mount::cache("llb-daemon-test").private())
        .mount("/tmp", Mount::tmpfs().size(1 << 20))
        .secret(Secret::new("none").dest("/run/none").env("NONE").optional())
        .network(llb::Network::None)
        .ulimit("nofile", 512, 1024)
        .proxy(llb::ProxyEnv { http: "http://proxy.test".into(), ..llb::ProxyEnv::default() })
        .name("the process");
    let out = process.output("/out", scratch().file(MkDir::new("/d", 0o777)).file(llb::mkdir("/e", 0o777)));
    let changes = diff(&alpine, alpine.run(sh(format!("echo {salt} > /changed"))).root());
    vec![
        ("files", files.clone()),
        ("a copy", copied.clone()),
        ("merge and diff", merge([copied, changes.clone(), files.clone()])),
        ("a difference alone", changes),
        (
            "constraints",
            Image::new("alpine").name("base").ignore_cache().resolve_mode(llb::ResolveMode::Local).into(),
        ),
        ("an output", out.clone()),
        ("a link", out.symlink("/d", "/l")),
    ]
}

#[tokio::test]
async fn vertices_are_called_as_they_are_here() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = client(&daemon).await;
    let caps = caps(&client).await;
    for (name, state) in graphs() {
        let definition = marshal(&state);
        definition.validate().unwrap();
        definition.check_caps(&caps).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (seen, result) = vertices(&client, &definition).await;
        assert_eq!(seen, expected(&definition), "{name}");
        result.unwrap_or_else(|error| panic!("{name}: {}", report(&error)));
    }
}

/// Recorded recipes are loaded under the names they have here. What random commands do does not matter: the
/// daemon tells of all vertices before it runs the first.
#[tokio::test]
async fn recorded_recipes_are_called_as_they_are_here() {
    const SOURCES: [&str; 3] = ["git", "http", "oci_layout"];
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/llb.jsonl");
    let Ok(text) = std::fs::read_to_string(path) else {
        eprintln!("skipped: the recorded cases llb.jsonl are not beside the repository");
        return;
    };
    let client = client(&daemon).await;
    let caps = caps(&client).await;
    let (mut compared, mut lacking) = (0, 0);
    for line in text.lines() {
        let Ok(Value::Object(case)) = serde_json::from_str(line) else { panic!("{line}") };
        let steps = case["steps"].as_array().unwrap();
        // Only what needs nothing but the daemon and its mirror of `alpine`, and no entitlement.
        let reachable = steps.iter().all(|step| match step["op"].as_str().unwrap() {
            "image" => step["ref"] == "alpine",
            "local" | "security" => false,
            op => !SOURCES.contains(&op) && step["network"] != "host" && step["mode"] != "host",
        });
        // Nor what this one does not have: devices, labels of workers, processes without confinement.
        let special = ["security", "require", "devices"];
        if !reachable || steps.iter().any(|step| special.iter().any(|field| step.get(field).is_some())) {
            continue;
        }
        let name = case["name"].clone();
        let Ok(definition) = conformance::llb::definition(case).unwrap() else { continue };
        if definition.is_empty() {
            continue;
        }
        if definition.check_caps(&caps).is_err() {
            lacking += 1;
            continue;
        }
        let (seen, result) = vertices(&client, &definition).await;
        let expected = expected(&definition);
        assert_eq!(
            seen,
            expected,
            "{name}: {}",
            result.err().map(|error| report(&error)).unwrap_or_default()
        );
        compared += expected.len();
        if compared > 60 {
            break;
        }
    }
    eprintln!(
        "{compared} vertices of recorded recipes compared; {lacking} recipes need more than the daemon has"
    );
    assert!(compared > 20, "only {compared} vertices compared");
}
