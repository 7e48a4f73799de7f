//! What a frontend made of a Dockerfile, as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use buildkit_frontend::{BuildResult, Error};
use buildkit_llb::{Definition, DefinitionOp};
use serde_json::{Value, json};

use crate::conformance::diff;
use crate::conformance::dockerfile::{strip_group_ids, strip_texts};

/// How [`described`] begins for a Dockerfile that was not taken.
pub const REFUSED: &str = "refused";

/// What a frontend made of a Dockerfile, as text that is the same whenever the graphs, what is said of their
/// vertices, and the metadata of the result are: an error by its places, ops by their fields. The id of the
/// session and the random ids of groups are left out.
///
/// With `loose` the vertices of a graph come after their inputs, whatever their order in the definition, and nothing
/// is said of them but what they do: old frontends leave the order to chance, and which name a vertex has that comes
/// from several places. (Before 0.16 they also write the same ops as other bytes, so there are no digests to compare.)
///
/// # Panics
/// When a result has no graph, or one that cannot be read.
pub fn described(result: &Result<BuildResult, Error>, session: &str, loose: bool) -> String {
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            let places = error.locations().into_iter().map(|place| {
                let file = place.info.as_ref().map_or("", |info| &info.filename);
                let lines = place.ranges.iter().map(|range| {
                    let line = |at: &Option<buildkit_proto::pb::Position>| at.map_or(0, |at| at.line);
                    (line(&range.start), line(&range.end))
                });
                json!([file, lines.collect::<Vec<_>>()]).to_string()
            });
            return format!("{REFUSED}\n{}\n", places.collect::<Vec<_>>().join("\n"));
        }
    };
    let mut out = String::new();
    for (id, reference) in result.references() {
        let _ = writeln!(out, "result {id}");
        let definition = reference.map(buildkit_frontend::Reference::definition).transpose();
        match definition.unwrap_or_else(|e| panic!("{}", e.report())).flatten() {
            Some(definition) => graph(&definition, session, loose, &mut out),
            None => out.push_str("nothing\n"),
        }
    }
    for (key, value) in &result.metadata {
        let answer = key == "result.json";
        let text = match serde_json::from_slice::<Value>(value) {
            Ok(mut json) => {
                if answer {
                    strip_texts(&mut json);
                    strip_group_ids(&mut json);
                    order_lines(&mut json);
                }
                serde_json::to_string_pretty(&json).unwrap_or_default()
            }
            // Tables for people have their own words.
            Err(_) if key == "result.txt" => String::new(),
            Err(_) => String::from_utf8_lossy(value).into_owned(),
        };
        // Where the words are ours, the length is, too.
        let size =
            if answer || key == "result.txt" { String::new() } else { format!(" {} bytes", value.len()) };
        let _ = writeln!(out, "metadata {key}{size}\n{text}");
    }
    out
}

/// Orders what an outline lists of one line, where the reference leaves it to chance.
fn order_lines(answer: &mut Value) {
    let line = |entry: &Value| entry["location"]["ranges"][0]["start"]["line"].as_u64();
    for list in ["args", "secrets", "ssh"] {
        if let Some(entries) = answer.get_mut(list).and_then(Value::as_array_mut) {
            for same in entries.chunk_by_mut(|a, b| line(a) == line(b)) {
                same.sort_by_key(|entry| entry["name"].to_string());
            }
        }
    }
}

fn graph(definition: &Definition, session: &str, loose: bool, out: &mut String) {
    let ops = if loose { after_their_inputs(definition) } else { definition.ops().collect() };
    let numbers: BTreeMap<String, String> = ops
        .iter()
        .enumerate()
        .map(|(number, op)| (op.digest().to_string(), format!("op {number}")))
        .collect();
    for op in ops {
        let mut json = op.to_json().unwrap_or_else(|e| panic!("{e}"));
        numbered(&mut json, &numbers, session);
        let name = &numbers[&op.digest().to_string()];
        let _ = writeln!(out, "{name}\n{}", serde_json::to_string_pretty(&json).unwrap_or_default());
        if loose {
            continue;
        }
        let mut said = op.metadata().to_json();
        if let Some(group) = said.get_mut("progress_group").and_then(Value::as_object_mut) {
            group.remove("id");
        }
        let _ = writeln!(out, "{}", serde_json::to_string_pretty(&said).unwrap_or_default());
        for (map, ranges) in op.locations() {
            let lines = ranges.iter().map(|range| (range.start.line, range.end.line)).collect::<Vec<_>>();
            let _ = writeln!(out, "{} {lines:?}", map.filename());
        }
    }
}

/// The ops that the last one is made of, each after its inputs, in their order.
fn after_their_inputs(definition: &Definition) -> Vec<DefinitionOp<'_>> {
    let (mut sorted, mut seen) = (Vec::new(), BTreeSet::new());
    let mut open: Vec<_> = definition.ops().next_back().map(|op| (op, false)).into_iter().collect();
    while let Some((op, inputs_done)) = open.pop() {
        if inputs_done {
            sorted.push(op);
        } else if seen.insert(op.digest()) {
            open.push((op, true));
            let message = op.message().unwrap_or_else(|e| panic!("{e}"));
            let inputs = message.inputs.iter().rev().filter_map(|input| input.digest.parse().ok());
            open.extend(inputs.filter_map(|digest| definition.op(&digest)).map(|op| (op, false)));
        }
    }
    sorted
}

/// Puts numbers for the digests of vertices, and a word for the id of the session.
fn numbered(value: &mut Value, numbers: &BTreeMap<String, String>, session: &str) {
    match value {
        Value::String(text) => {
            if let Some(number) = numbers.get(text) {
                text.clone_from(number);
            } else if text == session {
                "SESSION".clone_into(text);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| numbered(item, numbers, session)),
        Value::Object(fields) => fields.values_mut().for_each(|field| numbered(field, numbers, session)),
        _ => {}
    }
}

/// The lines in which two texts of [`described`] differ, `-` of the first and `+` of the second, and those around
/// them. Where only one frontend refuses the Dockerfile, the graph of the other is left out.
pub fn changes(daemon: &str, ours: &str) -> (String, String) {
    if daemon == ours {
        return Default::default();
    }
    let short = |text: &str, other: &str| {
        if other.starts_with(REFUSED) && !text.starts_with(REFUSED) { "built\n" } else { text }.to_owned()
    };
    let (daemon, ours) = (&short(daemon, ours), &short(ours, daemon));
    let around = diff::lines(daemon, ours);
    let changed = around.lines().filter(|line| line.starts_with(['-', '+']));
    (changed.map(|line| format!("{line}\n")).collect(), around)
}
