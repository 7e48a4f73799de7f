//! What holds for any graph: it reads back as itself, and its digests depend on nothing but what it says.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(clippy::print_stdout, reason = "a process tells its parent")]

use std::thread;

use buildkit_llb::{Constraints, Definition, Digest, Local, MarshalOptions, Platform, State, image, scratch};
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

#[path = "../../fuzz/checks/llb.rs"]
mod checks;

use checks::{Recipe, marshal};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_graph_reads_back_as_itself(data in vec(any::<u8>(), 0..640)) {
        checks::llb_roundtrip(&data);
    }

    /// Ops are written field by field; what they are written as is the message they are read as.
    #[test]
    fn an_op_is_the_bytes_of_its_message(data in vec(any::<u8>(), 0..640)) {
        if let Ok(definition) = marshal(&Recipe::read(&data).in_order()) {
            for op in definition.ops() {
                let message = op.message().unwrap();
                prop_assert_eq!(&buildkit_proto::canonical::encode_op(&message), op.bytes(), "{:?}", message);
            }
        }
    }

    #[test]
    fn digests_do_not_depend_on_how_a_graph_was_made(data in vec(any::<u8>(), 0..400)) {
        let recipe = Recipe::read(&data);
        let answer = |state: &State| marshal(state).map_err(|error| error.kind().clone());
        let in_order = answer(&recipe.in_order());
        prop_assert_eq!(&answer(&recipe.on_demand()), &in_order);
        // Neither on threads: many marshal one graph, or each makes its own.
        let shared = recipe.in_order();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|at| {
                    let (answer, shared, recipe) = (&answer, &shared, &recipe);
                    scope.spawn(move || if at % 2 == 0 { answer(shared) } else { answer(&recipe.on_demand()) })
                })
                .collect();
            for thread in threads {
                prop_assert_eq!(&thread.join().unwrap(), &in_order);
            }
            Ok(())
        })?;
    }

    #[test]
    fn equal_parts_need_not_be_shared(data in vec(any::<u8>(), 0..112)) {
        let recipe = Recipe::read(&data);
        let [shared, apart] = [recipe.in_order(), recipe.apart()].map(|state| marshal(&state));
        prop_assert_eq!(shared.map_err(|error| error.kind().clone()), apart.map_err(|error| error.kind().clone()));
    }

    #[test]
    fn building_on_what_was_read_is_building_on_the_graph(data in vec(any::<u8>(), 0..400)) {
        let state = Recipe::read(&data).in_order().fresh();
        if let Ok(definition) = marshal(&state) {
            let read = definition.to_state().unwrap();
            let more = |state: State| marshal(&scratch().copy(state, "/a", "/b").run(["x"]).root()).unwrap();
            prop_assert_eq!(more(read), more(state));
        }
    }

    #[test]
    fn random_bytes_are_read_without_panic(data in vec(any::<u8>(), 0..300)) {
        checks::llb_load(&data);
        checks::image_ref(&data);
        checks::git_url(&data);
    }

    #[test]
    fn odd_texts_are_read_without_panic(text in "[a-zA-Z0-9:/@.#?&=%_~ \\[\\]é-]{0,40}") {
        checks::image_ref(text.as_bytes());
        for prefix in ["", "https://", "git@h:", "ssh://", "github.com/"] {
            checks::git_url(format!("{prefix}{text}").as_bytes());
        }
    }
}

/// What travels beside the ops changes no digest.
#[test]
fn metadata_is_no_part_of_digests() {
    let build = |run: fn(buildkit_llb::Run) -> buildkit_llb::Run| run(image("alpine").run(["x"])).root();
    let plain = marshal(&build(|run| run)).unwrap();
    let digests = |definition: &Definition| definition.ops().map(|op| op.digest()).collect::<Vec<Digest>>();
    for state in [
        build(|run| run.name("n").describe("k", "v")),
        build(|run| run.ignore_cache().export_cache(false)),
        build(|run| run.progress_group("g", "n", true)),
        build(|run| run.linux_resources(buildkit_llb::LinuxResources { memory: 1, ..Default::default() })),
    ] {
        let definition = marshal(&state).unwrap();
        assert_eq!(digests(&definition), digests(&plain));
        assert_ne!(definition, plain);
    }
    let required = MarshalOptions::new(Platform::LINUX_AMD64).constraints(Constraints::new().require("a==b"));
    assert_ne!(digests(&build(|run| run).marshal(required).unwrap()), digests(&plain));
}

/// Fields of later versions survive reading, and so do the digests that cover them.
#[test]
fn fields_of_later_versions_are_kept() {
    let made = image("alpine").run(["x"]).root().marshal(Platform::LINUX_AMD64).unwrap();
    let mut message = made.to_pb();
    // Field 100, a number: the source gets it, and the process refers to the source by its new name.
    let mut source = message.def[0].to_vec();
    source.extend([0xa0, 0x06, 0x2a]);
    let [old, new] = [Digest::of(&message.def[0]), Digest::of(&source)];
    let rename = |bytes: &[u8], old: Digest, new: Digest| {
        let (old, new) = (old.to_string(), new.to_string());
        let at = bytes.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
        let mut bytes = bytes.to_vec();
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
        bytes
    };
    let process = rename(&message.def[1], old, new);
    let last = rename(&message.def[2], Digest::of(&message.def[1]), Digest::of(&process));
    let metadata: Vec<_> = message.metadata.values().cloned().collect();
    message.metadata =
        [&source, &process, &last].iter().map(|op| Digest::of(op).to_string()).zip(metadata).collect();
    message.source = None;
    message.def = vec![source.clone().into(), process.clone().into(), last.into()];

    let read = Definition::from_bytes(Definition::from_pb(message).unwrap().to_bytes()).unwrap();
    let state = read.to_state().unwrap().run(["y"]).root();
    let again = state.marshal(Platform::LINUX_AMD64).unwrap();
    let ops: Vec<&[u8]> = again.ops().map(|op| op.bytes()).collect();
    assert_eq!(ops[..2], [&source[..], &process[..]]);
    assert_eq!(again.ops().nth(2).unwrap().inputs().unwrap(), [(Digest::of(&process), 0)]);
}

/// The recipes of the tests above are worth something: most of them are graphs, and not small ones.
#[test]
fn most_recipes_are_graphs() {
    let mut word = 1_u64;
    let mut byte = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.to_le_bytes()[7]
    };
    let recipes: Vec<Vec<u8>> =
        (0..400).map(|at| (0..16 * (1 + at % 40)).map(|_| byte()).collect()).collect();
    let graphs: Vec<Definition> =
        recipes.iter().filter_map(|data| marshal(&Recipe::read(data).in_order()).ok()).collect();
    let ops: usize = graphs.iter().map(|graph| graph.ops().len()).sum();
    assert!(graphs.len() > 250 && ops > 1000, "{} graphs of {ops} ops", graphs.len());
}

/// A map that is hashed anew in each process would show here.
#[test]
fn r8_a_local_source_is_the_same_op_in_every_process() {
    const CHILD: &str = "BUILDKIT_LLB_TEST_CHILD";
    let source =
        Local::new("context").include(["a", "b", "c/**"]).exclude(["d", "**/e"]).shared_key_hint("k");
    let definition = State::from(source).marshal(MarshalOptions::new(Platform::host())).unwrap();
    let digests: Vec<String> = definition.ops().map(|op| op.digest().to_string()).collect();
    if std::env::var_os(CHILD).is_some() {
        println!("digests: {digests:?}");
        return;
    }
    let program = std::env::current_exe().unwrap();
    for process in 0..12 {
        let test = ["--exact", "r8_a_local_source_is_the_same_op_in_every_process", "--nocapture"];
        let output = std::process::Command::new(&program).args(test).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("digests: {digests:?}")), "process {process}: {text}");
    }
}
