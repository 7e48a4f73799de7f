//! Rules about PARITY.md: each row says how far it is, and the tests it names exist.

use crate::fail::{Context as _, Result};
use crate::workspace::root;

/// How many features BuildKit's client, builder and gateway have, by the count of the first table.
const FEATURES: usize = 182;

/// Checks the file.
pub(super) fn check(broken: &mut Vec<String>) -> Result {
    let path = root().join("PARITY.md");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    rows(&text, broken);
    for (number, test) in tests(&text) {
        if !exists(test) {
            broken.push(format!("PARITY.md:{number}: there is no test `{test}`"));
        }
    }
    Ok(())
}

/// Checks the numbered rows: complete, in order, with a state, and with a test or a reason.
fn rows(text: &str, broken: &mut Vec<String>) {
    let mut next = 1;
    for (line, number) in text.lines().zip(1..) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, feature, _, _, state, proof, _] = cells.as_slice() else { continue };
        let Ok(feature) = feature.parse::<usize>() else { continue };
        if feature != next {
            broken.push(format!("PARITY.md:{number}: row {feature} where row {next} belongs"));
        }
        next = feature + 1;
        let (word, reason) = state.split_once(':').unwrap_or((state, ""));
        let wrong = match word {
            "done" if !proof.contains("::") => "is done and names no test",
            "partial" | "missing" if reason.trim().is_empty() => "does not say why it is not done",
            "done" | "partial" | "missing" => continue,
            _ => "is neither done nor partial nor missing",
        };
        broken.push(format!("PARITY.md:{number}: row {feature} {wrong}"));
    }
    if next != FEATURES + 1 {
        broken.push(format!("PARITY.md: {} rows, there are {FEATURES} features", next - 1));
    }
}

/// The tests that a text names as `path::function` between backticks, with their lines.
fn tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).flat_map(|(number, line)| {
        let quoted = line.split('`').skip(1).step_by(2);
        quoted.filter(|word| word.contains(".rs::")).map(move |word| (number, word))
    })
}

fn exists(test: &str) -> bool {
    let Some((file, function)) = test.split_once("::") else { return false };
    let Ok(text) = std::fs::read_to_string(root().join(file)) else { return false };
    text.contains(&format!("fn {function}("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_lacks_is_found() {
        let whole: String =
            (1..=FEATURES).map(|n| format!("| {n} | f | 0.3 | done | `a.rs::b` |\n")).collect();
        for (change, expected) in [
            ("| 7 | f | 0.3 | done | `a.rs::b` |", 0),
            ("| 7 | f | 0.3 | done | |", 1),
            ("| 7 | f | 0.3 | partial | `a.rs::b` |", 1),
            ("| 7 | f | 0.3 | missing: not built | |", 0),
            ("| 7 | f | 0.3 | nearly | |", 1),
            ("", 1),
        ] {
            let mut broken = Vec::new();
            rows(&whole.replace("| 7 | f | 0.3 | done | `a.rs::b` |", change), &mut broken);
            assert_eq!(broken.len(), expected, "{change}: {broken:?}");
        }
    }

    #[test]
    fn a_test_that_is_not_there_is_found() {
        let here = "xtask/src/tidy/parity.rs::a_test_that_is_not_there_is_found";
        let text = format!("| `{here}`<br>`{here}_either` | `not a test` |");
        let found: Vec<_> = tests(&text).map(|(line, test)| (line, exists(test))).collect();
        assert_eq!(found, [(1, true), (1, false)]);
    }
}
