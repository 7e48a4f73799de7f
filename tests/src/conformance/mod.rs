//! Replays recorded cases: inputs with what the reference implementation answers to them.
//!
//! A case is one line of JSON. [`CaseKind`] is what differs between kinds of cases: how a case is told, done
//! and compared. Reading files, running, counting and printing are the same for all.

pub(crate) mod diff;
pub mod dockerfile;
pub mod llb;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use buildkit_llb::Definition;
use serde_json::{Map, Value, json};

/// A kind of case file.
pub trait CaseKind: Sync {
    /// Whether a case is of this kind, by the fields it has.
    fn accepts(&self, case: &Map<String, Value>) -> bool;

    /// Does what the case says. The case comes without `expect`.
    fn answer(&self, case: Map<String, Value>) -> Answer;

    /// What differs between the answer and the recorded one. Fields that were not recorded are not compared.
    fn compare(&self, answer: &Answer, expect: &Value) -> Vec<Difference>;
}

/// The kinds this runner knows.
const KINDS: &[&dyn CaseKind] = &[&llb::Recipes, &dockerfile::Dockerfiles];

/// What came out of a case.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The last op of the (last) definition; empty for scratch.
    pub head: String,
    /// Digests of all vertices, sorted.
    pub digests: Vec<String>,
    /// Why there is no result.
    pub error: Option<String>,
    /// Everything, in the form of the case's `expect`.
    pub detail: Value,
    /// Why the case could not be done at all: a field or an op nobody knows, a panic.
    pub broken: Option<String>,
}

impl Answer {
    /// A case that could not be done at all.
    pub fn broken(why: impl Into<String>) -> Self {
        Self { broken: Some(why.into()), ..Self::default() }
    }
}

/// A field that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Where in `expect`.
    pub field: String,
    /// What was recorded.
    pub expected: String,
    /// What came out.
    pub actual: String,
}

impl Difference {
    /// A field that differs.
    #[allow(clippy::needless_pass_by_value)] // literals and owned values alike
    pub fn new(field: impl Into<String>, expected: impl ToString, actual: impl ToString) -> Self {
        Self { field: field.into(), expected: expected.to_string(), actual: actual.to_string() }
    }
}

/// How one case went.
#[derive(Debug)]
pub struct Verdict {
    /// Name of the case.
    pub name: String,
    /// What differs; empty if the case passes.
    pub differences: Vec<String>,
}

/// A case that was done.
#[derive(Debug)]
pub struct Done {
    /// Name of the case.
    pub name: String,
    /// What came out.
    pub answer: Answer,
    /// What was recorded.
    pub expect: Option<Value>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// The cases of a file, in order. `only` is the name of the one to do.
///
/// # Errors
/// If the file cannot be read.
pub fn replay(path: &Path, only: Option<&str>) -> std::io::Result<Vec<Done>> {
    let text = std::fs::read_to_string(path)?;
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((number, line)) = lines.get(at) else { break };
            if let Some(case) = replay_line(number + 1, line, only)
                && let Ok(mut done) = done.lock()
            {
                done.insert(at, case);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads.min(lines.len().max(1)) {
            // Cases are other people's input: deep ones are welcome.
            let spawned = std::thread::Builder::new().stack_size(8 << 20).spawn_scoped(scope, work);
            if spawned.is_err() {
                work();
            }
        }
    });
    Ok(done.into_inner().unwrap_or_default().into_values().collect())
}

fn replay_line(number: usize, line: &str, only: Option<&str>) -> Option<Done> {
    let unreadable = |why: String| Done {
        name: format!("line {number}"),
        answer: Answer::broken(why.clone()),
        expect: None,
        differences: vec![Difference::new("case", "a case", why)],
    };
    let mut case = match serde_json::from_str(line) {
        Ok(Value::Object(case)) => case,
        Ok(_) => return Some(unreadable("not an object".into())),
        Err(error) => return Some(unreadable(error.to_string())),
    };
    let name =
        case.get("name").and_then(Value::as_str).map_or_else(|| format!("line {number}"), str::to_owned);
    if only.is_some_and(|only| only != name) {
        return None;
    }
    let expect = case.remove("expect");
    let Some(kind) = KINDS.iter().find(|kind| kind.accepts(&case)) else {
        return Some(unreadable("a case of no known kind".into()));
    };
    let answer = catch_unwind(AssertUnwindSafe(|| kind.answer(case)))
        .unwrap_or_else(|_| Answer::broken("it panicked"));
    let differences = match (&answer.broken, &expect) {
        (Some(why), _) => vec![Difference::new("case", "an answer", why)],
        (None, None) => vec![Difference::new("expect", "(not recorded)", "an answer")],
        (None, Some(expect)) => kind.compare(&answer, expect),
    };
    Some(Done { name, answer, expect, differences })
}

/// One line for `--emit`.
pub fn emitted(done: &Done) -> String {
    let error = done.answer.error.as_ref().or(done.answer.broken.as_ref());
    json!({
        "name": done.name,
        "head": done.answer.head,
        "digests": done.answer.digests,
        "error": error,
    })
    .to_string()
}

/// `NAME: passed N of M`, and a line per failing case.
pub fn summary(file: &str, cases: &[Done]) -> String {
    let failed: Vec<&Done> = cases.iter().filter(|case| !case.differences.is_empty()).collect();
    let mut out = format!("{file}: passed {} of {}\n", cases.len() - failed.len(), cases.len());
    for case in failed {
        if let Some(first) = case.differences.first() {
            let short = |text: &str| text.chars().take(160).collect::<String>();
            let _ = writeln!(
                out,
                "  {}: {}: expected {}, got {}",
                case.name,
                first.field,
                short(&first.expected),
                short(&first.actual)
            );
        }
    }
    out
}

/// Everything about one case: what differs, and the recorded answer beside ours.
pub fn shown(case: &Done) -> String {
    let mut out = format!("{}: {} differences\n", case.name, case.differences.len());
    for difference in &case.differences {
        let Difference { field, expected, actual } = difference;
        let _ = writeln!(out, "{field}\n  expected {expected}\n  got      {actual}");
    }
    if let Some(error) = &case.answer.error {
        let _ = writeln!(out, "our error: {error}");
    }
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let expected = case.expect.as_ref().map(pretty).unwrap_or_default();
    out.push_str(&diff::lines(&expected, &pretty(&case.answer.detail)));
    out
}

/// A definition in the form of the case files: `head` and `vertices` with digest, op and metadata.
pub fn graph_json(definition: &Definition) -> Value {
    let vertices: Vec<Value> = definition
        .ops()
        .map(|op| {
            json!({
                "digest": op.digest().to_string(),
                "op": op.to_json().unwrap_or_default(),
                "meta": op.metadata().to_json(),
            })
        })
        .collect();
    let head = definition.ops().next_back().map(|op| op.digest().to_string()).unwrap_or_default();
    json!({ "head": head, "vertices": if vertices.is_empty() { Value::Null } else { Value::Array(vertices) } })
}

/// The digests of a graph in the form of the case files, sorted.
pub fn digests(graph: &Value) -> BTreeSet<String> {
    let vertices = graph.get("vertices").and_then(Value::as_array).into_iter().flatten();
    vertices.filter_map(|vertex| vertex.get("digest").unwrap_or(vertex).as_str()).map(str::to_owned).collect()
}

/// Compares two graphs in the form of the case files: head, set of digests, metadata of every op. `meta` may
/// change what of the metadata is compared; `at` is the place of the graph in `expect`.
pub fn compare_graph(at: &str, ours: &Value, expect: &Value, meta: &dyn Fn(&mut Value)) -> Vec<Difference> {
    let mut out = Vec::new();
    if expect.get("vertices").is_some() {
        let (expected, actual) = (digests(expect), digests(ours));
        for digest in expected.difference(&actual) {
            out.push(Difference::new(format!("{at}vertices"), digest, "no such vertex"));
        }
        for digest in actual.difference(&expected) {
            out.push(Difference::new(format!("{at}vertices"), "no such vertex", digest));
        }
    }
    if let Some(head) = expect.get("head")
        && Some(head) != ours.get("head")
    {
        out.push(Difference::new(format!("{at}head"), head, ours.get("head").unwrap_or(&Value::Null)));
    }
    let known: BTreeMap<&str, &Value> = vertices(ours).collect();
    for (digest, vertex) in vertices(expect) {
        let (Some(expected), Some(actual)) = (vertex.get("meta"), known.get(digest)) else { continue };
        let plain = |value: &Value| {
            let mut value = value.clone();
            meta(&mut value);
            texts_for_numbers(&mut value);
            value
        };
        let (expected, actual) = (plain(expected), plain(actual.get("meta").unwrap_or(&Value::Null)));
        if expected != actual {
            out.push(Difference::new(format!("{at}vertices[{digest}].meta"), expected, actual));
        }
    }
    out
}

fn vertices(graph: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let vertices = graph.get("vertices").and_then(Value::as_array).into_iter().flatten();
    vertices.filter_map(|vertex| Some((vertex.get("digest")?.as_str()?, vertex)))
}

/// 64-bit numbers are texts in one JSON mapping of protobuf and numbers in another.
fn texts_for_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Array(items) => items.iter_mut().for_each(texts_for_numbers),
        Value::Object(fields) => fields.values_mut().for_each(texts_for_numbers),
        _ => {}
    }
}

/// Whether both sides have an error, as a difference if not.
pub fn compare_error(answer: &Answer, expect: &Value) -> Option<Difference> {
    let expected = expect.get("error").filter(|error| !error.is_null());
    match (expected, &answer.error) {
        (None, Some(error)) => Some(Difference::new("error", "no error", error)),
        (Some(error), None) => Some(Difference::new("error", error, "no error")),
        _ => None,
    }
}
