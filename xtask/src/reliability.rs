//! `cargo xtask reliability`: the table of promises and faults, with the tests that prove each.
//!
//! What is promised is written by hand in `docs/reliability.toml`; which tests prove it is read from their names: `f14_…`
//! belongs to row F14, `cve_2026_33748_…` to that advisory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fail::{Context as _, Result};
use crate::fuzz;
use crate::workspace::root;

const SOURCE: &str = "docs/reliability.toml";
const TABLE: &str = "docs/reliability.md";
/// Told when the table is made, but no reason for `tidy` to fail: a test comes first, its proof after it.
const NOT_SWITCHED_OFF: &str = "does not say which defence was switched off";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    introduction: String,
    promise: Vec<Promise>,
    row: Vec<Row>,
    advisory: Vec<Advisory>,
    fuzz: Vec<Fuzz>,
}

/// What is held whatever goes wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    id: String,
    text: String,
    /// Rows that measure it.
    rows: Vec<String>,
}

/// A fault, and what is promised when it happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    fault: String,
    promise: String,
    /// Which defence was switched off once, and what the test said.
    #[serde(default)]
    switched_off: String,
}

/// A vulnerability that others had.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisory {
    id: String,
    problem: String,
    property: String,
    #[serde(default)]
    switched_off: String,
    /// Proved by something else than a test of that name.
    #[serde(default)]
    proof: String,
}

/// What was run of a fuzz target, and found.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fuzz {
    target: String,
    holds: String,
    #[serde(default)]
    runs: String,
}

/// Whether to write.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only say what is missing, and whether the table is up to date
    #[arg(long)]
    check: bool,
}

/// Writes the table anew.
pub(crate) fn run(options: &Options, files: &[PathBuf]) -> Result {
    let mut broken = Vec::new();
    if options.check {
        check(files, &mut broken)?;
    } else {
        let table = table(files, &mut broken)?;
        std::fs::write(root().join(TABLE), table).context(TABLE)?;
        println!("{TABLE} is written");
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("incomplete:\n  {}", broken.join("\n  "))) }
}

/// Says which rows lack a test, and whether the table is the one that is checked in.
pub(crate) fn check(files: &[PathBuf], broken: &mut Vec<String>) -> Result {
    let mut missing = Vec::new();
    let table = table(files, &mut missing)?;
    broken.extend(missing.into_iter().filter(|line| !line.ends_with(NOT_SWITCHED_OFF)));
    if std::fs::read_to_string(root().join(TABLE)).context(TABLE)? != table {
        broken.push(format!("{TABLE}: not up to date, run `cargo xtask reliability`"));
    }
    Ok(())
}

fn table(files: &[PathBuf], broken: &mut Vec<String>) -> Result<String> {
    let text = std::fs::read_to_string(root().join(SOURCE)).context(SOURCE)?;
    let source: Source = toml::from_str(&text).context(SOURCE)?;
    let mut tests = BTreeMap::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let text = std::fs::read_to_string(root().join(path)).context(path.display())?;
        for name in proofs(&text) {
            for id in ids(name) {
                tests.entry(id).or_insert_with(BTreeSet::new).insert((path.clone(), name.to_owned()));
            }
        }
    }
    let fuzzed = fuzz::names()?;
    complete(&source, &tests, &fuzzed, broken);
    Ok(render(&source, &tests))
}

type Tests = BTreeMap<String, BTreeSet<(PathBuf, String)>>;

/// The names of the tests of a file.
fn proofs(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ")
            && !line.starts_with("//")
        {
            if std::mem::take(&mut is_test) {
                names.extend(rest.split('(').next());
            }
        } else if line.ends_with('}') || line.ends_with(';') {
            is_test = false;
        }
    }
    names
}

/// The rows and advisories that a test names.
fn ids(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let mut ids = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let row = word.strip_prefix('f').map(|row| row.strip_suffix('b').unwrap_or(row));
        if row.is_some_and(|row| row.len() == 2 && row.bytes().all(|byte| byte.is_ascii_digit())) {
            ids.push(word.to_ascii_uppercase().replace('B', "b"));
        }
        if *word == "patternmatcher" {
            ids.push("patternmatcher 0.6.1".to_owned());
        }
        let length = match *word {
            "cve" | "rustsec" => 3,
            "ghsa" => 4,
            _ => continue,
        };
        if let Some(id) = words.get(at..at + length) {
            let (kind, rest) = id.split_at(1);
            let rest = rest.join("-");
            ids.push(format!("{}-{rest}", kind.concat().to_ascii_uppercase()));
        }
    }
    ids
}

fn complete(source: &Source, tests: &Tests, fuzzed: &[String], broken: &mut Vec<String>) {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for row in &source.row {
        known.insert(&row.id);
        if !tests.contains_key(&row.id) {
            broken.push(format!("{SOURCE}: no test is named after row {}", row.id));
        }
        if row.switched_off.is_empty() {
            broken.push(format!("{SOURCE}: row {} {NOT_SWITCHED_OFF}", row.id));
        }
    }
    for advisory in &source.advisory {
        known.insert(&advisory.id);
        if !tests.contains_key(&advisory.id) && advisory.proof.is_empty() {
            broken.push(format!("{SOURCE}: no test is named after {}", advisory.id));
        }
    }
    for id in tests.keys().filter(|id| !known.contains(id.as_str())) {
        broken.push(format!("{SOURCE}: tests are named after {id}, which is not in it"));
    }
    for promise in &source.promise {
        for row in promise.rows.iter().filter(|row| !known.contains(row.as_str())) {
            broken.push(format!("{SOURCE}: {} is measured by {row}, which is not in it", promise.id));
        }
    }
    let told: BTreeSet<_> = source.fuzz.iter().map(|fuzz| &fuzz.target).collect();
    for name in fuzzed.iter().filter(|name| !told.contains(name)) {
        broken.push(format!("{SOURCE}: nothing is said of the fuzz target {name}"));
    }
    for name in told.iter().filter(|name| !fuzzed.contains(name)) {
        broken.push(format!("{SOURCE}: there is no fuzz target {name}"));
    }
}

fn render(source: &Source, tests: &Tests) -> String {
    let mut page = format!(
        "# Reliability\n\n<!-- Written by `cargo xtask reliability` from reliability.toml and the names of tests. -->\n\n{}\n\n",
        source.introduction.trim()
    );
    page.push_str("## Promises\n\n| | We promise | Measured by |\n|---|---|---|\n");
    for promise in &source.promise {
        let _ = writeln!(page, "| {} | {} | {} |", promise.id, cell(&promise.text), promise.rows.join(", "));
    }
    page.push_str("\n## Faults\n\n| | When | Then | Proved by |\n|---|---|---|---|\n");
    for row in &source.row {
        let proved = links(tests.get(&row.id));
        let _ = writeln!(page, "| {} | {} | {} | {proved} |", row.id, cell(&row.fault), cell(&row.promise));
    }
    page.push_str("\n## Advisories\n\nWhat went wrong elsewhere, and what holds here.\n\n");
    page.push_str("| | Elsewhere | Here | Proved by |\n|---|---|---|---|\n");
    for advisory in &source.advisory {
        let mut proved = links(tests.get(&advisory.id));
        if !advisory.proof.is_empty() {
            proved =
                format!("{}{}{proved}", cell(&advisory.proof), if proved.is_empty() { "" } else { "<br>" });
        }
        let (problem, property) = (cell(&advisory.problem), cell(&advisory.property));
        let _ = writeln!(page, "| {} | {problem} | {property} | {proved} |", advisory.id);
    }
    page.push_str("\n## Defences switched off\n\nA test that cannot fail proves nothing. Each was seen to fail once, with the defence taken out.\n\n");
    page.push_str("| | Taken out, and what the test said |\n|---|---|\n");
    let rows = source.row.iter().map(|row| (&row.id, &row.switched_off));
    let advisories = source.advisory.iter().map(|advisory| (&advisory.id, &advisory.switched_off));
    for (id, text) in rows.chain(advisories).filter(|(_, text)| !text.is_empty()) {
        let _ = writeln!(page, "| {id} | {} |", cell(text));
    }
    page.push_str("\n## Fuzzing\n\nEach check also runs over its seeds, and small changes to them, in `cargo xtask test`.\n\n");
    page.push_str("| Target | What holds of any input | Runs |\n|---|---|---|\n");
    for fuzz in &source.fuzz {
        let _ = writeln!(page, "| `{}` | {} | {} |", fuzz.target, cell(&fuzz.holds), cell(&fuzz.runs));
    }
    page
}

fn links(tests: Option<&BTreeSet<(PathBuf, String)>>) -> String {
    let link = |(path, name): &(PathBuf, String)| format!("[`{name}`](../{})", Path::new(path).display());
    tests.into_iter().flatten().map(link).collect::<Vec<_>>().join("<br>")
}

/// A text as one cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_other_functions_and_name_their_rows() {
        let text = "fn f01_helper() {}\n#[test]\nfn f02_x() {\n}\n#[tokio::test(start_paused = true)]\n// why\n\
                    async fn f28_a_and_f23b_b() {\n}\n#[cfg(test)]\nmod x {\n    #[test]\n    fn cve_2026_33748_y() {}\n";
        assert_eq!(proofs(text), ["f02_x", "f28_a_and_f23b_b", "cve_2026_33748_y"]);
        assert_eq!(ids("f28_a_and_f23b_b"), ["F28", "F23b"]);
        assert_eq!(ids("cve_2026_33748_y"), ["CVE-2026-33748"]);
        assert_eq!(
            ids("ghsa_g2h8_426c_7976_dots_and_rustsec_2025_0111"),
            ["GHSA-g2h8-426c-7976", "RUSTSEC-2025-0111"]
        );
        assert!(ids("files_of_100_f1_fn_foo").is_empty());
    }

    #[test]
    fn rows_without_a_test_and_tests_without_a_row_are_found() {
        let source = toml::from_str(
            "introduction = ''\n[[promise]]\nid = 'P1'\ntext = ''\nrows = ['F09']\n\
             [[row]]\nid = 'F01'\nfault = ''\npromise = ''\nswitched_off = 'x'\n\
             [[row]]\nid = 'F02'\nfault = ''\npromise = ''\n\
             [[advisory]]\nid = 'CVE-1-2'\nproblem = ''\nproperty = ''\n[[fuzz]]\ntarget = 'gone'\nholds = ''\n",
        )
        .unwrap();
        let test = |id: &str| (id.to_owned(), BTreeSet::from([(PathBuf::from("a.rs"), "t".to_owned())]));
        let tests = Tests::from([test("F01"), test("F07")]);
        let mut broken = Vec::new();
        complete(&source, &tests, &["new".to_owned()], &mut broken);
        let about: Vec<_> = broken
            .iter()
            .map(|line| line.rsplit(' ').find(|w| w.contains(char::is_numeric)).unwrap_or("fuzz"))
            .collect();
        assert_eq!(about, ["F02", "F02", "CVE-1-2", "F07,", "F09,", "fuzz", "fuzz"], "{broken:?}");
    }
}
