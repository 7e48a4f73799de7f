//! Rules about packages: which way the arrows go, how much each may depend on, features that say what
//! they are for.

use std::collections::BTreeSet;
use std::path::Path;

use crate::fail::{Context as _, Result};
use crate::workspace::{Package, packages, root};

/// Which of our packages a package may depend on. Every arrow points at something lighter; an arrow
/// that is not here is a design decision to be made, not a line to be added in passing.
const ARROWS: &[(&str, &[&str])] = &[
    ("buildkit-proto", &[]),
    ("buildkit-llb", &["buildkit-proto"]),
    ("buildkit-fsutil", &["buildkit-proto"]),
    ("buildkit-frontend", &["buildkit-llb", "buildkit-fsutil", "buildkit-proto"]),
    ("buildkit-dockerfile", &["buildkit-frontend", "buildkit-llb", "buildkit-fsutil", "buildkit-proto"]),
    ("buildkit-client", &["buildkit-frontend", "buildkit-llb", "buildkit-fsutil", "buildkit-proto"]),
    ("buildkit-engine", &["buildkit-frontend", "buildkit-llb", "buildkit-fsutil", "buildkit-proto"]),
    (
        "buildkit",
        &[
            "buildkit-client",
            "buildkit-dockerfile",
            "buildkit-engine",
            "buildkit-frontend",
            "buildkit-fsutil",
            "buildkit-llb",
            "buildkit-proto",
        ],
    ),
    ("xtask", &[]),
];

/// Packages that may depend on all of ours but xtask: nothing depends on them.
const TOPS: &[&str] = &["buildkit-examples", "buildkit-tests"];

/// How many packages each may depend on directly, without features.
const BUDGETS: &[(&str, usize)] = &[("buildkit-llb", 6), ("buildkit-fsutil", 8), ("buildkit-frontend", 8)];

/// Checks all manifests.
pub(super) fn check(broken: &mut Vec<String>) -> Result {
    let packages = packages()?;
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut used = BTreeSet::new();
    for package in &packages {
        arrows(package, &ours, broken);
        budget(package, broken);
        used.extend(package.dependencies.iter().map(|dependency| dependency.name.clone()));
        let manifest = Path::new(&package.manifest_path);
        let text = std::fs::read_to_string(manifest).context(&package.manifest_path)?;
        features(&package.name, &text, broken);
        if !text.contains("[lints]\nworkspace = true") {
            broken.push(format!("{}: the workspace's lints are not inherited", package.name));
        }
    }
    let manifest = root().join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).context(manifest.display())?;
    for name in section(&text, "[workspace.dependencies]").filter_map(key) {
        if !used.contains(name) && !ours.contains(name) {
            broken.push(format!("Cargo.toml: nothing uses the dependency {name}"));
        }
    }
    Ok(())
}

fn arrows(package: &Package, ours: &BTreeSet<&str>, broken: &mut Vec<String>) {
    let allowed = ARROWS.iter().find(|(name, _)| *name == package.name).map(|(_, allowed)| *allowed);
    if allowed.is_none() && !TOPS.contains(&package.name.as_str()) {
        broken.push(format!("{}: not in the table of arrows", package.name));
        return;
    }
    for dependency in &package.dependencies {
        let target = dependency.name.as_str();
        // A package's own tests may lean on more, but on nothing that leans on the package itself.
        let free = dependency.kind.as_deref() == Some("dev") || allowed.is_none();
        let fine = !ours.contains(target)
            || (free && target != "xtask")
            || allowed.is_some_and(|allowed| allowed.contains(&target));
        if !fine {
            broken.push(format!("{} must not depend on {target}", package.name));
        }
    }
}

fn budget(package: &Package, broken: &mut Vec<String>) {
    let Some((_, budget)) = BUDGETS.iter().find(|(name, _)| *name == package.name) else { return };
    let mandatory = package.dependencies.iter().filter(|it| it.kind.is_none() && !it.optional).count();
    if mandatory > *budget {
        broken.push(format!("{}: {mandatory} mandatory dependencies, the budget is {budget}", package.name));
    }
}

/// A feature has a line above it that says what it is for.
fn features(package: &str, manifest: &str, broken: &mut Vec<String>) {
    let mut before = "";
    for line in section(manifest, "[features]") {
        if let Some(name) = key(line)
            && name != "default"
            && !before.starts_with("## ")
        {
            broken.push(format!("{package}: the feature {name} has no `##` line above it"));
        }
        before = line;
    }
}

/// The lines of a section of a manifest.
fn section<'a>(manifest: &'a str, header: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.lines().skip_while(move |line| line.trim() != header).skip(1);
    lines.take_while(|line| !line.starts_with('['))
}

/// The key that a line sets; lines that go on with the value before have none.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim_end().trim_end_matches(".workspace");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies.iter().map(|(name, kind)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(str::to_owned),
            optional: false,
        });
        Package { name: name.to_owned(), dependencies: dependencies.collect(), ..Package::default() }
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        let ours = BTreeSet::from(["buildkit-llb", "buildkit-client", "buildkit-proto", "xtask"]);
        let cases = [
            ("buildkit-llb", ("buildkit-proto", None), true),
            ("buildkit-llb", ("buildkit-client", None), false),
            ("buildkit-llb", ("serde", None), true),
            ("buildkit-dockerfile", ("buildkit-client", None), false),
            ("buildkit-dockerfile", ("buildkit-client", Some("dev")), true),
            ("buildkit-tests", ("buildkit-client", None), true),
            ("buildkit-tests", ("xtask", Some("dev")), false),
            ("newcomer", ("serde", None), false),
        ];
        for (name, dependency, fine) in cases {
            let mut broken = Vec::new();
            arrows(&package(name, &[dependency]), &ours, &mut broken);
            assert_eq!(broken.is_empty(), fine, "{name} -> {dependency:?}: {broken:?}");
        }
    }

    #[test]
    fn a_feature_without_a_line_is_found() {
        let manifest =
            "[features]\ndefault = []\n## Says why.\na = [\n  \"x\",\n]\nb = []\n[dependencies]\nc = 1\n";
        let mut broken = Vec::new();
        features("p", manifest, &mut broken);
        assert_eq!(broken, ["p: the feature b has no `##` line above it"]);
    }
}
