//! Rules about files: their length, their names, words that have no place in them.

use std::path::{Path, PathBuf};

use crate::fail::{Context as _, Result};
use crate::workspace::root;

/// Past this many lines there is a seam to be found.
const MAX_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils.rs", "util.rs", "common.rs", "types.rs", "helpers.rs", "misc.rs"];

/// Words that tie the repository to one machine, in pieces so that this file does not hold them.
const WORDS: &[[&str; 2]] = &[
    ["/work", "/"],
    ["/root", "/.cargo"],
    ["deb.debian", ".org"],
    ["static.crates", ".io"],
    ["index.crates", ".io"],
    ["registry.npmjs", ".org"],
    ["pypi", ".org"],
];

/// Checks all files.
pub(super) fn check(files: &[PathBuf], broken: &mut Vec<String>) -> Result {
    for path in files {
        let bytes = std::fs::read(root().join(path)).context(path.display())?;
        // Whatever is not text has no lines and no words.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        file(path, &text, broken);
    }
    Ok(())
}

fn file(path: &Path, text: &str, broken: &mut Vec<String>) {
    let generated = path.components().any(|part| part.as_os_str() == "generated");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.extension().is_some_and(|extension| extension == "rs") {
        let lines = text.lines().count();
        if lines > MAX_LINES && !generated {
            broken.push(format!("{}: {lines} lines, the limit is {MAX_LINES}", path.display()));
        }
        if EMPTY_NAMES.contains(&&*name) {
            broken.push(format!("{}: the name says nothing about what is inside", path.display()));
        }
    }
    if name == "Cargo.lock" {
        return;
    }
    for word in WORDS {
        let word = word.concat();
        for (number, line) in text.lines().enumerate() {
            if line.contains(&word) {
                broken.push(format!("{}:{}: `{word}` ties it to one machine", path.display(), number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tidy_is_found() {
        let long = "//\n".repeat(MAX_LINES + 1);
        let word = WORDS[0].concat();
        let cases = [
            ("a/src/b.rs", "fn a() {}\n", 0),
            ("a/src/b.rs", long.as_str(), 1),
            ("a/src/generated/b.rs", long.as_str(), 0),
            ("a/src/common.rs", "", 1),
            ("notes.md", word.as_str(), 1),
        ];
        for (path, text, expected) in cases {
            let mut broken = Vec::new();
            file(Path::new(path), text, &mut broken);
            assert_eq!(broken.len(), expected, "{path}: {broken:?}");
        }
    }
}
