//! Every Dockerfile of the recorded conformance cases: what the text alone decides.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

use std::collections::BTreeSet;
use std::path::Path;

use buildkit_dockerfile::Dockerfile;
use buildkit_dockerfile::lint::{Config, Linter};
use buildkit_dockerfile::parser::{self, detect_syntax, directive};
use serde_json::Value;

/// The cases of one file, or `None`, said aloud, where the files are not at hand.
fn cases(file: &str) -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("SKIPPED: {} is not there", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

const FILES: [&str; 3] = ["dockerfile.jsonl", "dockerfile-features.jsonl", "dockerfile-ignore.jsonl"];

/// Errors of the reference that come from the text or from a single instruction.
const PARSE_ERRORS: [&str; 11] = [
    "dockerfile parse error on line",
    "the Dockerfile cannot be empty",
    "file with no instructions",
    "dockerfile contains no stages",
    "no build stage in current context",
    "ENV must have two",
    "LABEL must have two",
    "Syntax error - can't find =",
    "when using JSON array syntax",
    "unterminated heredoc",
    "invalid escape token",
];

/// Rules that need nothing but the text.
const PARSE_RULES: [&str; 8] = [
    "StageNameCasing",
    "FromAsCasing",
    "NoEmptyContinuation",
    "ConsistentInstructionCasing",
    "DuplicateStageName",
    "ReservedStageName",
    "MaintainerDeprecated",
    "InvalidDefinitionDescription",
];

type Ranges = Vec<u64>;

/// One range a line, as the reference writes places.
fn lines(lines: parser::Lines) -> Ranges {
    lines.iter().map(u64::from).collect()
}

fn recorded(ranges: &Value) -> Ranges {
    ranges.as_array().into_iter().flatten().map(|r| r[0].as_u64().unwrap()).collect()
}

#[test]
fn parsing_ends_as_in_the_reference() {
    let mut compared = 0;
    let mut bad = Vec::new();
    for case in FILES.iter().filter_map(|file| cases(file)).flatten() {
        let (name, opts, expect) = (&case["name"], &case["opts"], &case["expect"]);
        let Some(text) = case["dockerfile"].as_str() else { continue };
        let config =
            match (opts["build-arg:BUILDKIT_DOCKERFILE_CHECK"].as_str(), directive(text.as_bytes(), "check"))
            {
                (Some(check), _) => Config::parse(check),
                (None, Some(check)) => Config::parse(check.first_word()),
                (None, None) => Ok(Config::default()),
            };
        let expected = expect["error"].as_str();
        let forwarded = opts["cmdline"].is_string() || detect_syntax(text.as_bytes()).is_some();
        let Some(config) = config.ok().filter(|_| !forwarded && opts["requestid"].is_null()) else {
            continue;
        };
        let mut linter = Linter::new(config);
        let got = Dockerfile::parse_with(text, &mut linter);
        let parse_error = expected.filter(|e| PARSE_ERRORS.iter().any(|known| e.starts_with(known)));
        match (&got, parse_error, expected) {
            (Ok(_), None, _) => {}
            (Err(error), Some(_), _) => {
                let places: Vec<_> = error.locations().iter().map(|l| lines(*l)).collect();
                let sources = expect["error_sources"].as_array().into_iter().flatten();
                let want: Vec<_> = sources.map(|s| recorded(&s["ranges"])).collect();
                if places != want {
                    bad.push(format!("{name}: {error}: at {places:?}, not {want:?}"));
                }
            }
            // Options are judged before the text; subrequests report in another way.
            (Err(_), None, Some(_)) => continue,
            (got, ..) => bad.push(format!("{name}: {expected:?} expected, got {:?}", got.as_ref().err())),
        }
        compared += 1;
        // Where an earlier step failed no rule was looked at.
        if expected.is_some() && parse_error.is_none() && expect["warnings"].is_null() {
            continue;
        }
        let got: BTreeSet<_> = linter
            .warnings()
            .iter()
            .filter(|w| PARSE_RULES.contains(&w.rule.name))
            .map(|w| (w.rule.name.to_owned(), w.rule.url(), lines(w.lines)))
            .collect();
        let want: BTreeSet<_> = expect["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|w| {
                (
                    w["rule"].as_str().unwrap().to_owned(),
                    w["url"].as_str().unwrap_or_default().to_owned(),
                    recorded(&w["ranges"]),
                )
            })
            .filter(|(rule, ..)| PARSE_RULES.contains(&rule.as_str()))
            .collect();
        if got != want {
            bad.push(format!("{name}: warnings {got:?}, not {want:?}"));
        }
    }
    assert!(bad.is_empty(), "{} of {compared}:\n{}", bad.len(), bad.join("\n"));
    eprintln!("{compared} cases compared");
}

#[test]
fn printing_gives_the_same_bytes_and_places_are_true() {
    for case in FILES.iter().filter_map(|file| cases(file)).flatten() {
        let Some(text) = case["dockerfile"].as_str() else { continue };
        let Ok(ast) = parser::parse(text.as_bytes()) else { continue };
        assert_eq!(String::from_utf8(ast.print_with(|_| None)).unwrap(), text, "{}", case["name"]);
        let line_of = |at: u32| 1 + text[..at as usize].matches('\n').count();
        for node in &ast.nodes {
            let (span, lines) = (node.span, node.lines);
            assert_eq!((line_of(span.start), line_of(span.end)), (lines.start as usize, lines.end as usize));
            if node.keyword_span.len() == node.keyword.len() {
                assert_eq!(text[node.keyword_span.range()], node.keyword);
            }
            for heredoc in &node.heredocs {
                assert_eq!(text[heredoc.span.range()].as_bytes(), heredoc.body);
                assert_eq!(line_of(heredoc.span.start), heredoc.lines.start as usize);
            }
        }
    }
}
