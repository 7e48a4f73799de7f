//! The worked programs of the specification, E01 to E75: a test each.
//!
//! Digests and capabilities of every op are recorded in `facts.rs`. Where the recorded answers of the reference
//! are beside the repository, its bytes and metadata are compared too.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test")]

mod exec;
mod facts;
mod file;
mod graph;
mod sources;

use std::path::Path;
use std::sync::OnceLock;

use buildkit_llb::{Definition, Error, MarshalOptions, Platform, State, image};
use serde_json::{Map, Value};

use self::facts::{OPS, PROGRAMS};

const SHA: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn options() -> MarshalOptions {
    MarshalOptions::new(Platform::LINUX_AMD64).unique_id("uid0")
}

fn alpine() -> State {
    image("alpine")
}

fn busybox() -> State {
    image("busybox")
}

/// The state gives the recorded graph of the program `id`.
#[track_caller]
fn check(id: &str, state: &State) -> Definition {
    check_with(id, state, &options())
}

#[track_caller]
fn check_with(id: &str, state: &State, options: &MarshalOptions) -> Definition {
    let definition = state.marshal(options).unwrap();
    let program = PROGRAMS.iter().find(|program| program.id == id).unwrap();
    let mut expected: Vec<(String, String)> = Vec::new();
    for number in program.ops {
        let (digest, caps) = OPS[number - 1];
        expected.push((format!("sha256:{digest}"), caps.to_owned()));
    }
    let mut caps: Vec<&str> = program.caps.split_whitespace().chain(["constraints", "platform"]).collect();
    caps.sort_unstable();
    expected.push((format!("sha256:{}", program.last), caps.join(" ")));
    let ours = definition.ops().map(|op| {
        let caps: Vec<&str> = op.metadata().caps.iter().map(|(name, _)| name).collect();
        (op.digest().to_string(), caps.join(" "))
    });
    let ours: Vec<(String, String)> = ours.collect();
    assert_eq!(ours, expected, "{}", definition.to_json_lines().unwrap());
    definition.validate().unwrap();
    compare_recorded(id, &definition);

    // Reading the bytes and building on them changes nothing.
    let read = Definition::from_bytes(definition.to_bytes()).unwrap();
    assert_eq!(read, definition);
    assert_eq!(read.to_state().unwrap().marshal(options).unwrap(), definition);
    definition
}

/// The recorded answers by the name of the program, if they are there.
fn recorded() -> Option<&'static Map<String, Value>> {
    static RECORDED: OnceLock<Option<Map<String, Value>>> = OnceLock::new();
    let read = || {
        let path = "../../shared/conformance/llb-vectors.json";
        let Ok(text) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)) else {
            eprintln!(
                "skipped: comparing bytes and metadata, as the recorded answers are not beside the repository"
            );
            return None;
        };
        let programs: Vec<Value> = serde_json::from_str(&text).unwrap();
        let name = |program: &Value| program["id"].as_str().unwrap().to_owned();
        Some(programs.into_iter().map(|program| (name(&program), program)).collect())
    };
    RECORDED.get_or_init(read).as_ref()
}

#[track_caller]
fn compare_recorded(id: &str, definition: &Definition) {
    let Some(programs) = recorded() else { return };
    let program = &programs[id];
    let ops = program["ops"].as_array().unwrap();
    assert_eq!(definition.ops().len(), ops.len());
    for (ours, theirs) in definition.ops().zip(ops) {
        let hex: String = ours.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, theirs["hex"].as_str().unwrap(), "bytes of {}", ours.title().unwrap());
        assert_eq!(plain(ours.to_json().unwrap()), plain(theirs["op"].clone()));
        let meta = &program["metadata"][ours.digest().to_string()];
        assert_eq!(plain(ours.metadata().to_json()), plain(meta.clone()), "{}", ours.title().unwrap());
    }
}

/// JSON in which both spellings of names (`proxy_env`, `proxyEnv`) and of numbers (`1`, `"1"`) are one.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(fields) => {
            let name = |name: String| {
                // Names of capabilities, attributes and digests are data.
                if name.contains(['.', ':']) { name } else { name.replace('_', "").to_lowercase() }
            };
            fields.into_iter().map(|(key, value)| (name(key), plain(value))).collect()
        }
        other => other,
    }
}

/// The state cannot be marshalled, as that of the program cannot in the reference.
#[track_caller]
fn check_error(id: &str, state: &State) -> Error {
    if let Some(programs) = recorded() {
        assert!(programs[id]["err"].is_string(), "{id} is recorded as an error");
    }
    let error = state.marshal(options()).unwrap_err();
    let location = error.location().unwrap();
    assert!(location.file().contains("vectors"), "built at {location}");
    error
}

#[test]
fn every_recorded_program_has_a_test() {
    let sources = [
        include_str!("exec.rs"),
        include_str!("file.rs"),
        include_str!("graph.rs"),
        include_str!("sources.rs"),
    ];
    let tests = sources.concat();
    let known: Vec<&str> = PROGRAMS.iter().map(|program| program.id).collect();
    for id in &known {
        assert!(tests.contains(&format!("(\"{id}\",")), "{id} has no test");
    }
    let Some(programs) = recorded() else { return };
    assert_eq!(programs.len(), 77);
    for id in programs.keys() {
        assert!(tests.contains(&format!("fn {}_", id.to_lowercase())), "{id} has no test");
    }
}
