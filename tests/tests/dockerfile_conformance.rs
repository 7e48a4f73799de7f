//! Dockerfiles give the graphs, configs, warnings and places of errors that the reference gave.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed step is a failed test

use std::path::Path;

use buildkit_tests::conformance::dockerfile;

/// Runs all cases of a file; they are not part of the repository, and where they are absent that is said.
async fn all_pass(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance").join(file);
    let Ok(content) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the recorded cases {file} are not beside the repository");
        return;
    };
    passes(file, &content).await;
}

/// Runs all cases of a file of this repository; gives their number.
async fn own_pass(file: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
    passes(file, &std::fs::read_to_string(path).unwrap()).await
}

async fn passes(file: &str, content: &str) -> usize {
    let (mut total, mut failed) = (0, Vec::new());
    for line in content.lines() {
        let case = serde_json::from_str(line).unwrap();
        let verdict = dockerfile::check(&case).await;
        total += 1;
        if !verdict.differences.is_empty() {
            failed.push(verdict);
        }
    }
    assert!(total > 0, "{file} has no case");
    for verdict in failed.iter().take(3) {
        eprintln!("{}: {:#?}", verdict.name, verdict.differences);
    }
    assert!(failed.is_empty(), "{} of {total} cases of {file} differ", failed.len());
    total
}

#[tokio::test]
async fn every_worked_example_converts_as_recorded() {
    assert_eq!(own_pass("dockerfile-examples.jsonl").await, 63);
}

#[tokio::test]
async fn every_listed_error_is_one_at_its_place() {
    assert_eq!(own_pass("dockerfile-errors.jsonl").await, 176);
}

#[tokio::test]
async fn quirks_of_options_contexts_and_rules_are_those_of_the_reference() {
    assert!(own_pass("dockerfile-quirks.jsonl").await >= 69);
}

#[tokio::test]
async fn real_dockerfiles_convert_as_recorded() {
    all_pass("dockerfile.jsonl").await;
}

#[tokio::test]
async fn each_feature_converts_as_recorded() {
    all_pass("dockerfile-features.jsonl").await;
}

#[tokio::test]
async fn ignore_files_act_as_recorded() {
    all_pass("dockerfile-ignore.jsonl").await;
}

/// A comparison that cannot fail proves nothing.
#[tokio::test]
async fn a_wrong_expectation_is_noticed() {
    let mut case = serde_json::json!({
        "name": "own", "dockerfile": "FROM scratch\nCOPY a /a\n", "opts": {}, "expect": {},
    });
    assert!(dockerfile::check(&case).await.differences.is_empty());
    case["expect"]["metadata_sha256"] = serde_json::json!({"containerimage.config": "00"});
    assert_eq!(dockerfile::check(&case).await.differences.len(), 2, "the config and the unexpected keys");
}
