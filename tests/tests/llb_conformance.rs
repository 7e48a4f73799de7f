//! Recipes give the graphs that the reference gave, and the runner of case files notices when they do not.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed step is a failed test

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use buildkit_tests::conformance::{replay, summary};
use serde_json::{Value, json};

fn runner(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llb.jsonl")
}

fn cases() -> Vec<Value> {
    std::fs::read_to_string(fixture())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A case file of its own, in a folder that is removed afterwards.
struct File(tempfile::TempDir);

impl File {
    fn of(cases: &[Value]) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        let lines: String = cases.iter().map(|case| format!("{case}\n")).collect();
        std::fs::write(file.path(), lines).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cases.jsonl")
    }

    fn run(&self, args: &[&str]) -> Output {
        let path = self.path();
        runner(&[args, &[path.to_str().unwrap()]].concat())
    }
}

#[test]
fn recorded_recipes_give_the_recorded_graphs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/llb.jsonl");
    if !path.exists() {
        eprintln!("skipped: the recorded cases llb.jsonl are not beside the repository");
        return;
    }
    let done = replay(&path, None).unwrap();
    assert!(
        done.len() >= 600 && done.iter().all(|case| case.differences.is_empty()),
        "{}",
        summary("llb", &done)
    );
}

#[test]
fn own_recipes_give_the_graphs_they_gave() {
    let output = runner(&[fixture().to_str().unwrap()]);
    assert_eq!(stdout(&output), "llb.jsonl: passed 7 of 7\n");
    assert!(output.status.success());
}

/// Whatever is changed in what was recorded, the case fails, by its name and the field.
#[test]
fn every_wrong_expectation_is_noticed() {
    let digest = json!(format!("sha256:{:064}", 7));
    let changes: [(&str, &str, Value, &str); 9] = [
        ("mounts", "/expect/vertices/1/digest", digest.clone(), "vertices"),
        ("mounts", "/expect/head", digest.clone(), "head"),
        ("mounts", "/expect/vertices/0/meta/caps/source.image", json!(false), "].meta"),
        ("metadata on two platforms", "/expect/vertices/0/meta/description/k", json!("w"), "].meta"),
        ("nothing", "/expect/head", digest, "head"),
        ("nothing", "/expect", json!({ "error": "no" }), "error"),
        ("a tmpfs leaves nothing", "/expect", json!({ "head": "", "vertices": null }), "error"),
        ("files", "/steps/2/actions/0/mode", json!(492), "vertices"),
        ("files", "/steps/2/actions/0/do", json!("chmod"), "nobody knows the action chmod"),
    ];
    for (name, place, value, field) in changes {
        let mut cases = cases();
        let case = cases.iter_mut().find(|case| case["name"] == name).unwrap();
        *case.pointer_mut(place).unwrap() = value;
        let output = File::of(&cases).run(&[]);
        let text = stdout(&output);
        assert!(text.starts_with("cases.jsonl: passed 6 of 7\n"), "{name} {place}: {text}");
        let failed = text.lines().nth(1).unwrap();
        assert!(failed.starts_with(&format!("  {name}: ")) && failed.contains(field), "{text}");
        assert_eq!(output.status.code(), Some(1), "{text}");
    }
}

#[test]
fn fields_nobody_knows_are_not_passed_over() {
    for place in ["", "/steps/0", "/steps/2/mounts/0", "/steps/2/secrets/0"] {
        let mut cases = cases();
        let case = &mut cases[2];
        case.pointer_mut(place).unwrap()["surprise"] = json!(1);
        let passes = place.is_empty();
        let output = File::of(&cases).run(&[]);
        assert_eq!(output.status.success(), passes, "{place}: {}", stdout(&output));
        assert_eq!(stdout(&output).contains("surprise"), !passes, "{}", stdout(&output));
    }
}

/// The reference reads image configs when it is given them, and not when it marshals.
#[test]
fn an_image_config_that_cannot_be_read_is_an_error_wherever_it_is() {
    let case = |config: Value| {
        json!({
            "name": "n", "platform": "linux/amd64", "result": "s",
            "steps": [
                { "op": "scratch", "as": "s" },
                { "op": "image_config", "as": "c", "base": "s", "config": config },
            ],
            "expect": { "error": "of type []string" },
        })
    };
    let file = File::of(&[case(json!({ "config": { "Env": "A=b" } }))]);
    assert!(file.run(&[]).status.success(), "{}", stdout(&file.run(&[])));
    let file = File::of(&[case(json!({ "config": { "Env": ["A=b"] } }))]);
    assert_eq!(file.run(&[]).status.code(), Some(1));
}

#[test]
fn what_comes_out_does_not_depend_on_what_is_expected() {
    let with = File::of(&cases()).run(&["--emit"]);
    let mut without = cases();
    for case in &mut without {
        case.as_object_mut().unwrap().remove("expect");
    }
    let without = File::of(&without).run(&["--emit"]);
    assert!(with.status.success() && without.status.success());
    assert_eq!(stdout(&with), stdout(&without));
    let lines: Vec<Value> = stdout(&with).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], json!({ "name": "nothing", "head": "", "digests": [], "error": null }));
    assert_eq!(lines[1]["head"], cases()[1]["expect"]["head"]);
    assert_eq!(lines[1]["digests"].as_array().unwrap().len(), 3);
    assert!(lines[6]["error"].as_str().unwrap().contains("tmpfs"));
    // Without an expectation nothing is passed.
    let file = File::of(&[json!({ "name": "n", "platform": "linux/amd64", "steps": [], "result": "r" })]);
    assert_eq!(file.run(&[]).status.code(), Some(1));
}

#[test]
fn a_case_is_shown_in_full() {
    let mut cases = cases();
    cases[1]["steps"][1]["shlex"] = json!("tool --other");
    let file = File::of(&cases);
    let output = file.run(&["--show", "image and command"]);
    let text = stdout(&output);
    let marked =
        |mark: char, word: &str| text.lines().any(|line| line.starts_with(mark) && line.contains(word));
    assert!(marked('-', "\"--flag\"") && marked('+', "\"--other\""), "{text}");
    assert_eq!(output.status.code(), Some(1));
    assert!(file.run(&["--show", "files"]).status.success());
    assert_eq!(file.run(&["--show", "no such case"]).status.code(), Some(1));
}

#[test]
fn kinds_of_cases_are_told_by_their_fields() {
    let mut mixed = cases();
    mixed.push(json!({ "name": "df", "dockerfile": "FROM scratch\nCOPY a /a\n", "opts": {}, "expect": {} }));
    mixed.push(json!({ "name": "neither", "expect": {} }));
    let output = File::of(&mixed).run(&[]);
    assert!(stdout(&output).starts_with("cases.jsonl: passed 8 of 9\n"), "{}", stdout(&output));
    assert!(stdout(&output).contains("no known kind"), "{}", stdout(&output));
    assert_eq!(runner(&["/nowhere.jsonl"]).status.code(), Some(1));
}
