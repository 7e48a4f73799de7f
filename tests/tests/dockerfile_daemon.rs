//! Our Dockerfile frontend against the one of a real BuildKit: the same graphs, vertices, images and answers.
//!
//! The Dockerfiles are in `fixtures/dockerfiles`. What the frontend of an older daemon does otherwise is listed in
//! `fixtures/dockerfile-differences.toml`, with the reason; any other difference is a fault, and so is one that is
//! listed and not found.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs, clippy::print_stdout)] // what was seen is shown with what fails

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use buildkit_client::export::Export;
use buildkit_client::progress::{self, Event, Vertex};
use buildkit_client::request::Frontend;
use buildkit_client::{Client, Solve, Solved};
use buildkit_frontend::{BuildResult, Gateway, Simulated, Solve as Nested, subrequest};
use buildkit_llb::Digest;
use buildkit_tests::daemon::{Daemon, Generation, Registry};
use buildkit_tests::dockerfiles::{Case, Differences, REFUSED, World, cases, changes, described};
use futures::StreamExt as _;

const DOCKERFILE: &str = "dockerfile.v0";

/// How many builds run at a time.
const AT_A_TIME: usize = 4;

/// The subjects whose cases are pushed as images.
const EXPORTED: [&str; 5] = ["add", "config", "copy", "options", "stages"];

/// What both frontends, the daemon's first, make of what a gateway is asked; see [`described`].
async fn both(gateway: &Gateway, loose: bool) -> buildkit_frontend::Result<[String; 2]> {
    let mut daemon = Nested::frontend(DOCKERFILE).options(gateway.options().clone().into_map());
    for (name, input) in gateway.inputs().await? {
        daemon = daemon.input(name, &input);
    }
    let daemon = gateway.solve(daemon).await;
    let ours = buildkit_dockerfile::build(gateway.clone()).await;
    Ok([&daemon, &ours].map(|result| described(result, gateway.session_id(), loose)))
}

/// What both frontends answer to each question about a case, over one session; `""` asks for its graph. No step is
/// run.
async fn ask(
    client: &Client,
    world: &World,
    case: &Case,
    questions: &[&'static str],
    loose: bool,
) -> Vec<(&'static str, [String; 2])> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let questions = questions.to_vec();
    let build = move |gateway: Gateway| {
        let (keep, questions) = (Arc::clone(&keep), questions.clone());
        async move {
            for question in questions {
                let mut options = gateway.options().clone();
                if !question.is_empty() {
                    options.insert("requestid", question);
                }
                let said = both(&gateway.with_options(options), loose).await?;
                keep.lock().unwrap().push((question, said));
            }
            Ok::<_, buildkit_frontend::Error>(BuildResult::default())
        }
    };
    let session = world.session(client, case).await;
    let built = world.on(&session, client.build(build), case).await;
    built.unwrap_or_else(|error| panic!("{}: {}", case.name, error.report()));
    std::mem::take(&mut *kept.lock().unwrap())
}

/// Tells what differs otherwise than is listed.
fn check(key: &str, [daemon, ours]: &[String; 2], known: &Differences) -> Option<String> {
    let (changed, around) = changes(daemon, ours);
    (!known.expects(key, &changed)).then(|| format!("{key}:\n{around}\n{changed}"))
}

/// The cases that a daemon can build here; those whose names hold `DOCKERFILE_CASE`, where it is set.
fn possible(world: &World) -> Vec<Case> {
    let wanted = std::env::var("DOCKERFILE_CASE").unwrap_or_default();
    let mut cases = cases();
    cases.retain(|case| world.can(case) && case.name.contains(&wanted));
    cases
}

/// Tells what is left out, past the capture of the test harness.
fn skipped(what: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED {what}\n"));
}

async fn compare(daemon: &Daemon, questions: &[&'static str], loose: bool) {
    let client = daemon.client().await;
    let known = Differences::of(daemon, &client).await;
    let world = World::start(daemon, &client).await;
    let cases = possible(&world);
    let answers = futures::stream::iter(&cases).map(async |case| {
        let mut questions = questions.to_vec();
        if known.refuses(&case.name) {
            questions.retain(|question| question.is_empty());
        }
        if case.lint_ends_the_daemon && questions.contains(&subrequest::LINT) {
            skipped(&format!("frontend.lint of {}: the daemon ends by it", case.name));
            questions.retain(|question| *question != subrequest::LINT);
        }
        (case, ask(&client, &world, case, &questions, loose).await)
    });
    let mut answers = std::pin::pin!(answers.buffered(AT_A_TIME));
    let mut wrong = Vec::new();
    while let Some((case, answers)) = answers.next().await {
        for (question, said) in &answers {
            wrong.extend(check(format!("{} {question}", case.name).trim(), said, &known));
            let refused = said[1].starts_with(REFUSED);
            if question.is_empty() && known.get(&case.name).is_none() && refused != case.fails {
                wrong.push(format!(
                    "{}: ours refuses it, or it does not, against what is said of it",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{} differ", wrong.join("\n"), wrong.len());
}

#[tokio::test]
async fn graphs_configs_and_answers_are_those_of_the_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    compare(&daemon, &["", subrequest::LINT, subrequest::OUTLINE, subrequest::TARGETS], false).await;
}

#[tokio::test]
async fn graphs_of_an_older_daemon_differ_where_it_is_listed() {
    let Some(daemon) = Daemon::or_skip(Generation::Trixie) else { return };
    compare(&daemon, &[""], true).await;
}

/// Whether the frontend of the daemon tells its graph, which it does since BuildKit 0.26.
async fn converts(daemon: &Daemon) -> bool {
    let asked = buildkit_tests::frontends::with_gateway(daemon, |gateway| async move {
        let made = buildkit_llb::scratch().mkfile("/Dockerfile", 0o644, "FROM scratch\nCMD x\n");
        let made = gateway.marshal(&made)?;
        let ask = Nested::frontend(DOCKERFILE).input("context", &made).input("dockerfile", &made);
        match gateway.ask(ask, subrequest::CONVERT_LLB).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == buildkit_frontend::Code::Unimplemented => Ok(false),
            Err(error) => Err(error),
        }
    });
    asked.await.unwrap_or_else(|error| panic!("{}", error.report()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_graph_is_told_as_the_daemon_tells_it() {
    let what = "answer to frontend.convertllb (BuildKit 0.26)";
    let can = |daemon: &Daemon| {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| runtime.block_on(converts(daemon))).then_some(())
    };
    let Some((daemon, ())) = Daemon::or_skip_without(Generation::Sid, what, can) else { return };
    compare(&daemon, &[subrequest::CONVERT_LLB], false).await;
}

#[tokio::test]
async fn a_daemon_that_tells_another_graph_is_noticed() {
    // A daemon that knows the question, as far as a simulation is one: it answers as we do, or not quite.
    for change in [None, Some(("echo", "ECHO"))] {
        let text = "FROM scratch AS a\nCOPY x /\nFROM scratch\nCOPY --from=a /x /y\nLABEL a=echo\nRUN echo\n";
        let plain = Simulated::new()
            .file("dockerfile", "Dockerfile", text)
            .option("requestid", subrequest::CONVERT_LLB);
        let mut answer = plain.run(buildkit_dockerfile::build).await.unwrap();
        if let Some((from, to)) = change {
            for value in answer.metadata.values_mut() {
                *value = String::from_utf8_lossy(value).replace(from, to).into();
            }
        }
        let daemon =
            plain.on_solve(move |solve| (solve.frontend == DOCKERFILE).then(|| Ok(answer.to_wire())));
        let said = both(&daemon.gateway(), false).await.unwrap();
        assert!(said[1].contains("result.json") && said[1].contains("echo"), "{}", said[1]);
        assert_eq!(check("x", &said, &Differences::default()).is_some(), change.is_some());
    }
}

/// Builds, and hands out the last that was said of each vertex.
async fn built(solve: Solve) -> (Result<Solved, buildkit_client::Error>, BTreeMap<String, Vertex>) {
    let (sink, mut events) = progress::channel();
    let build = solve.progress(sink).into_future();
    let seen = async {
        let mut seen = BTreeMap::<String, Vertex>::new();
        while let Some(event) = events.next().await {
            match event {
                Event::Status(status) => {
                    for vertex in status.vertexes {
                        let cached = seen.get(&vertex.digest).is_some_and(|before| before.cached);
                        let cached = cached || vertex.cached;
                        seen.insert(vertex.digest.clone(), Vertex { cached, ..vertex });
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        seen
    };
    tokio::join!(build, seen)
}

/// What a vertex is called where it runs beside one of the same op that may be taken from the cache.
fn ignoring_cache(digest: &str) -> String {
    Digest::of(format!("{digest}-ignorecache").as_bytes()).to_string()
}

/// The names of the vertices that only one of two builds over one session has.
fn apart(daemon: &BTreeMap<String, Vertex>, ours: &BTreeMap<String, Vertex>) -> BTreeSet<String> {
    let only = |one: &BTreeMap<String, Vertex>, other: &BTreeMap<String, Vertex>| -> Vec<String> {
        let twins: BTreeSet<String> = other.keys().map(|digest| ignoring_cache(digest)).collect();
        let missing = |digest: &str| {
            let twin = other.contains_key(&ignoring_cache(digest)) || twins.contains(digest);
            !other.contains_key(digest) && !twin
        };
        one.values().filter(|vertex| missing(&vertex.digest)).map(|vertex| vertex.name.clone()).collect()
    };
    only(daemon, ours).into_iter().chain(only(ours, daemon)).collect()
}

/// Builds a case by both frontends over one session. Returns whether each failed and how, the names of the vertices
/// that only one of them had, and how many there are.
async fn over_one_session(
    client: &Client,
    world: &World,
    case: &Case,
) -> ([Result<Solved, buildkit_client::Error>; 2], BTreeSet<String>, usize) {
    let session = world.session(client, case).await;
    let (theirs, before) = built(world.on(&session, client.solve(Frontend::new(DOCKERFILE)), case)).await;
    let (ours, after) = built(world.on(&session, client.build(buildkit_dockerfile::build), case)).await;
    ([theirs, ours], apart(&before, &after), after.len())
}

#[tokio::test]
async fn vertices_are_those_of_the_daemon_over_one_session() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let known = Differences::of(&daemon, &client).await;
    let world = World::start(&daemon, &client).await;
    let cases = possible(&world);
    let builds = futures::stream::iter(&cases)
        .map(async |case| (case, over_one_session(&client, &world, case).await))
        .buffered(AT_A_TIME);
    let mut builds = std::pin::pin!(builds);
    let (mut wrong, mut again, mut vertices) = (Vec::new(), Vec::new(), 0);
    while let Some((case, (results, apart, count))) = builds.next().await {
        let fails = case.fails || case.steps_fail;
        let whose = [("the daemon's", fails || known.refuses(&case.name)), ("ours", fails)];
        for (result, (whose, fails)) in results.iter().zip(whose) {
            match result {
                Err(error) if !fails => {
                    wrong.push(format!("{}: {whose} fails: {}", case.name, error.report()));
                }
                Ok(_) if fails => wrong.push(format!("{}: {whose} does not fail", case.name)),
                _ => {}
            }
        }
        let listed = known.get(&case.name).map(|known| known.vertices.clone()).unwrap_or_default();
        if !known.refuses(&case.name) && apart != listed {
            again.push((case, listed, apart));
        }
        vertices += count;
    }
    // Where the daemon finds that a step of one build is one of another that runs beside it, it tells the one build of
    // the other's, too. That is another step each time, if it happens at all; a difference stays.
    for (case, listed, mut apart) in again {
        for _ in 0..3 {
            let (_, seen, _) = over_one_session(&client, &world, case).await;
            apart.retain(|name| seen.contains(name));
        }
        if apart != listed {
            wrong.push(format!(
                "{}: other vertices than the daemon's, but for {listed:#?}: {apart:#?}",
                case.name
            ));
        }
    }
    println!("{} Dockerfiles with {vertices} vertices", cases.len());
    assert!(wrong.is_empty(), "{}\n{} differ", wrong.join("\n"), wrong.len());
}

/// The config of the image that is called so, of each platform.
async fn configs(registry: &Registry, name: &str) -> String {
    let (repository, tag) =
        name.strip_prefix(&format!("{}/", registry.address)).unwrap().rsplit_once(':').unwrap();
    let read = async |digest: &str| {
        let (_, manifest) = registry.manifest(repository, digest).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()
    };
    let top = read(tag).await;
    let mut manifests = Vec::new();
    match top["manifests"].as_array() {
        None => manifests.push(top.clone()),
        Some(list) => {
            for entry in list {
                manifests.push(read(entry["digest"].as_str().unwrap()).await);
            }
        }
    }
    let mut out = String::new();
    for manifest in manifests {
        let digest = manifest["config"]["digest"].as_str().unwrap();
        let config = registry.blob(repository, digest).await.unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        out += &serde_json::to_string_pretty(&config).unwrap();
        out.push('\n');
    }
    out
}

/// Whether a vertex is one that a second build has to look at again.
fn is_source(name: &str) -> bool {
    let sources =
        ["[internal]", "[auth]", "[context ", "exporting ", "http://", "git://", "resolve image config"];
    sources.iter().any(|start| name.starts_with(start))
        || name.starts_with("FROM ")
        || name.contains("] FROM ")
        || name.contains(" internal] ")
}

#[tokio::test]
async fn images_are_those_of_the_daemon_and_the_second_build_is_cached_by_the_first() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let tcp = daemon.client().await;
    let known = Differences::of(&daemon, &tcp).await;
    let world = World::start(&daemon, &tcp).await.fresh();
    // Each way to the daemon is taken for each of the frontends.
    let mut clients = vec![tcp];
    match &daemon.docker_endpoint {
        Some(endpoint) => clients.push(Client::connect(endpoint).await.unwrap()),
        None => skipped("builds over docker://: the daemon is no Docker Engine"),
    }
    let registry = &daemon.registries.mirror;
    let name = registry.repository("dockerfile-images");
    let image = |number: usize, whose: &str| format!("{name}:{number}-{whose}");
    let build = async |number: usize, case: &Case, ours: bool| {
        let client = &clients[(number >> usize::from(ours)) % clients.len()];
        let (whose, solve) = if ours {
            ("ours", client.build(buildkit_dockerfile::build))
        } else {
            ("daemon", client.solve(Frontend::new(DOCKERFILE)))
        };
        let export = Export::image(image(number, whose)).push().rewrite_timestamp();
        let solve = solve.export(export.source_date_epoch(1_700_000_000));
        let session = world.session(client, case).await;
        built(world.on(&session, solve, case)).await
    };
    let mut all = possible(&world);
    all.retain(|case| EXPORTED.contains(&case.subject.as_str()) && !case.fails && !case.steps_fail);
    all.retain(|case| !known.refuses(&case.name));
    // The daemon's first, all of them: a step that runs for another build at the same time is not cached.
    let mut results = Vec::new();
    for ours in [false, true] {
        let builds = futures::stream::iter(all.iter().enumerate());
        let builds = builds.map(|(number, case)| build(number, case, ours)).buffered(AT_A_TIME);
        results.push(builds.collect::<Vec<_>>().await);
    }
    let (ours, theirs) = (results.pop().unwrap(), results.pop().unwrap());
    let mut wrong = Vec::new();
    let names = |seen: &BTreeMap<String, Vertex>| -> BTreeSet<String> {
        let ran = |vertex: &&Vertex| !is_source(&vertex.name) && vertex.started.is_some() && !vertex.cached;
        seen.values().filter(ran).map(|step| step.name.clone()).collect()
    };
    let (mut ran, mut again) = (0, Vec::new());
    for (number, (case, ((theirs, before), (ours, after)))) in
        all.iter().zip(theirs.into_iter().zip(ours)).enumerate()
    {
        let mut failed = false;
        for (whose, result) in [("the daemon's", &theirs), ("ours", &ours)] {
            if let Err(error) = result {
                wrong.push(format!("{}: {whose} fails: {}", case.name, error.report()));
                failed = true;
            }
        }
        if failed {
            continue;
        }
        if theirs.unwrap().digest() != ours.unwrap().digest() {
            let theirs = configs(registry, &image(number, "daemon")).await;
            let (changed, _) = changes(&theirs, &configs(registry, &image(number, "ours")).await);
            if changed.is_empty() || changed.trim_end() != known.image_lines(&case.name) {
                wrong.push(format!("{}: other images:\n{changed}", case.name));
            }
        }
        ran += names(&before).len();
        let steps = names(&after);
        if !steps.is_empty() && !case.opts.contains_key("no-cache") {
            again.push((number, case, steps));
        }
    }
    // Some steps BuildKit runs again whoever asks for them: copies of what git has, for example.
    let mut anyway = BTreeSet::new();
    for (number, case, _) in &again {
        anyway.extend(names(&build(*number, case, false).await.1));
    }
    for (_, case, steps) in &again {
        let steps = steps.difference(&anyway);
        wrong.extend(steps.map(|step| format!("{}: not cached: {step}", case.name)));
    }
    println!("runs again for the daemon's frontend, too: {anyway:#?}");
    println!("{} Dockerfiles, {ran} steps run by the first builds", all.len());
    // A filter may leave too few to say anything of.
    let many = all.len() > 20;
    assert!(!many || ran > all.len(), "only {ran} steps ran in the first builds");
    assert!(!many || again.len() * 10 < all.len(), "{} of {} builds were not cached", again.len(), all.len());
    assert!(wrong.is_empty(), "{}\n{} differ", wrong.join("\n"), wrong.len());
}
