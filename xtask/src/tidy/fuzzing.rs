//! Rules about fuzz targets: each has seeds, and a plain test that replays them.

use std::path::Path;

use crate::fail::{Context as _, Result};
use crate::fuzz;
use crate::workspace::root;

/// Checks all targets.
pub(super) fn check(broken: &mut Vec<String>) -> Result {
    let names = fuzz::names()?;
    let mut replayed = String::new();
    for entry in std::fs::read_dir(root()).context("the root")? {
        let tests = entry.context("the root")?.path().join("tests/seeds.rs");
        if tests.is_file() {
            replayed += &std::fs::read_to_string(&tests).context(tests.display())?;
        }
    }
    for name in &names {
        if !replayed.contains(&format!("\"{name}\"")) {
            broken.push(format!("fuzz/src/bin/{name}.rs: no tests/seeds.rs replays its seeds"));
        }
        if !root().join("fuzz/seeds").join(name).is_dir() {
            broken.push(format!("fuzz/src/bin/{name}.rs: it has no seeds"));
        }
    }
    let seeds = root().join("fuzz/seeds");
    for entry in std::fs::read_dir(&seeds).context(seeds.display())? {
        let name = entry.context(seeds.display())?.file_name();
        if !names.iter().any(|known| Path::new(known) == Path::new(&name)) {
            broken.push(format!("fuzz/seeds/{}: no fuzz target has this name", name.display()));
        }
    }
    Ok(())
}
