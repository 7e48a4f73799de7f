//! `cargo xtask deny`: what may be linked into this project.
//!
//! `deny.toml` is for cargo-deny, and cargo-deny checks all of it where it can be run. What needs no database, the
//! licences, the refused packages and where packages come from, is checked here as well, so that it is checked
//! everywhere.

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;

use crate::fail::{Context as _, Result};
use crate::workspace::{cargo, output, root, show};

/// Checks, with cargo-deny if there is one. Says what could not be checked.
pub(crate) fn run() -> Result<Option<String>> {
    let mut broken = Vec::new();
    let packages = check(&mut broken)?;
    if !broken.is_empty() {
        return Err(format!("not to be linked:\n  {}", broken.join("\n  ")));
    }
    println!("licences, sources and refused packages: {packages} packages are in order");
    if let Err(error) = output(Command::new("cargo-deny").arg("--version")) {
        let reason = format!("advisories, because cargo-deny cannot be run ({})", first_line(&error));
        println!("SKIPPED: {reason}");
        println!("         (`cargo install --locked cargo-deny` installs it)");
        return Ok(Some(reason));
    }
    show(cargo().args(["deny", "--all-features", "check", "licenses", "bans", "sources"]))?;
    let advisories = output(cargo().args(["deny", "--all-features", "check", "advisories"]));
    match advisories {
        Ok(_) => {
            println!("advisories: none");
            Ok(None)
        }
        // Without the database nothing is known, and that is said; with it a finding is an error.
        Err(error) if error.contains("failed to fetch advisory database") => {
            let reason = "advisories, because their database cannot be fetched";
            println!("SKIPPED: {reason}");
            Ok(Some(reason.to_owned()))
        }
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct Config {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

/// A package that is refused, as a whole (`name`) or before a version (`crate = "h2@<0.4.4"`).
#[derive(Deserialize)]
struct Ban {
    name: Option<String>,
    #[serde(rename = "crate")]
    versions: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Adds what is wrong; says how many packages there are.
pub(crate) fn check(broken: &mut Vec<String>) -> Result<usize> {
    let path = root().join("deny.toml");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    let config: Config = toml::from_str(&text).context(path.display())?;
    let json = output(cargo().args(["metadata", "--format-version", "1", "--all-features", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    for package in &metadata.packages {
        let Some(source) = &package.source else { continue };
        let name = format!("{} {}", package.name, package.version);
        if !source.starts_with("registry+") {
            broken.push(format!("{name}: it comes from {source}, which is no registry"));
        }
        match &package.license {
            None => broken.push(format!("{name}: it names no licence")),
            Some(license) if !allowed(license, &config.licenses.allow) => {
                broken.push(format!("{name}: its licence is {license}"));
            }
            Some(_) => {}
        }
        if config.bans.deny.iter().any(|ban| ban.refuses(&package.name, &package.version)) {
            broken.push(format!("{name}: deny.toml refuses it"));
        }
    }
    Ok(metadata.packages.len())
}

impl Ban {
    fn refuses(&self, name: &str, version: &str) -> bool {
        if let Some(whole) = &self.name {
            return whole == name;
        }
        let Some((of, below)) = self.versions.as_deref().and_then(|text| text.split_once("@<")) else {
            return false;
        };
        of == name && numbers(version) < numbers(below)
    }
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

/// Whether an SPDX expression can be met with these licences.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    // The old form of `OR`.
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    let met = any(&mut words, allow);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = all(words, allow);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allow);
    }
    met
}

fn all(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = one(words, allow);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allow);
    }
    met
}

fn one(words: &mut Words<'_>, allow: &BTreeSet<String>) -> bool {
    match words.next() {
        Some("(") => {
            let met = any(words, allow);
            met && words.next() == Some(")")
        }
        Some(license) => {
            let exception = words.next_if_eq(&"WITH").and_then(|_| words.next());
            exception.is_none() && allow.contains(license)
        }
        None => false,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Ban, allowed};

    #[test]
    fn licences_are_read_as_expressions() {
        let allow: BTreeSet<_> = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
        for (expression, met) in [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0", false),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR GPL-3.0) AND LGPL-2.1", false),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("MIT ISC", false),
            ("", false),
        ] {
            assert_eq!(allowed(expression, &allow), met, "{expression}");
        }
    }

    #[test]
    fn refused_versions_end_where_they_should() {
        let ban = Ban { name: None, versions: Some("h2@<0.4.4".into()) };
        assert!(ban.refuses("h2", "0.4.3") && ban.refuses("h2", "0.3.99") && !ban.refuses("h2", "0.4.4"));
        assert!(!ban.refuses("h2", "0.4.20") && !ban.refuses("h3", "0.1.0"));
        let ban = Ban { name: Some("openssl".into()), versions: None };
        assert!(ban.refuses("openssl", "9.9.9") && !ban.refuses("openssl-probe", "0.1.0"));
    }
}
