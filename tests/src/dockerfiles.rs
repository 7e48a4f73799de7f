//! Dockerfiles to build by the daemon's own frontend and by ours, with what they need to be built.

mod described;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use buildkit_client::Client;
use serde::Deserialize;

use crate::daemon::Daemon;

pub use self::described::{REFUSED, changes, described};
pub use self::world::World;

/// A Dockerfile, its options, and what is known of how frontends differ about it.
///
/// Texts may hold `%HTTP%`, `%GIT%` (URLs of servers with files), `%COMMIT%` (of that repository),
/// `%SHA256%` (of `%HTTP%/file.txt`), `%REGISTRY%`, and `%BASE%` and `%ONBUILD%` (images there).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The file it is in, without its ending.
    #[serde(skip)]
    pub subject: String,
    /// The text.
    pub dockerfile: String,
    /// Options of the frontend.
    #[serde(default)]
    pub opts: BTreeMap<String, String>,
    /// `.dockerignore`.
    pub ignore: Option<String>,
    /// Files of the context beside those that all have.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Leaves the file of that name out of the context.
    #[serde(default)]
    pub without_dockerfile: bool,
    /// What it has to be granted.
    #[serde(default)]
    pub entitlements: Vec<String>,
    /// Whether it needs an ssh agent.
    #[serde(default)]
    pub ssh: bool,
    /// Whether it needs git.
    #[serde(default)]
    pub git: bool,
    /// Whether it needs an OCI layout called `store`.
    #[serde(default)]
    pub oci: bool,
    /// Whether it needs the graph `made` as an input.
    #[serde(default)]
    pub input: bool,
    /// Whether both frontends refuse it.
    #[serde(default)]
    pub fails: bool,
    /// Whether BuildKit itself, asked for what lint rules say of it, ends by a fault of its own.
    #[serde(default)]
    pub lint_ends_the_daemon: bool,
    /// Whether both build its graph until a step fails.
    #[serde(default)]
    pub steps_fail: bool,
}

/// How the frontends of older daemons differ from ours.
#[derive(Clone, Debug, Default)]
pub struct Differences(BTreeMap<String, Difference>);

/// How the frontend of an older daemon differs from ours about a case.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Why.
    pub reason: String,
    /// The lines of [`described`] that differ: `-` the daemon's, `+` ours. `None`: whichever.
    pub lines: Option<String>,
    /// Whether it is there each time.
    pub always: bool,
    /// The vertices that differ, by name.
    pub vertices: BTreeSet<String>,
}

impl Differences {
    /// Those that are listed for the frontend of a daemon.
    ///
    /// # Panics
    /// When the list cannot be read, or names what is no case.
    pub async fn of(daemon: &Daemon, client: &Client) -> Self {
        // An engine does not say which BuildKit is in it.
        let engine = daemon.engine.split('.').next().unwrap_or_default();
        let minor = match engine {
            "26" => 13,
            "28" => 25,
            _ => {
                let known = client.daemon().await.unwrap_or_else(|error| panic!("{}", error.report()));
                let version = known.version.unwrap_or_default();
                let minor = version.trim_start_matches("v0.").split('.').next();
                // One that was built from source is `v0.0.0+unknown`, and nobody does that with old ones.
                minor.and_then(|minor| minor.parse().ok()).filter(|minor| *minor > 0).unwrap_or(u32::MAX)
            }
        };
        Self::before(minor)
    }

    /// Those that are listed for BuildKit `0.minor`.
    fn before(minor: u32) -> Self {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct List {
            difference: Vec<Listed>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Listed {
            /// The first minor version of BuildKit that does as we do.
            since: u32,
            reason: String,
            #[serde(default)]
            vertices: BTreeMap<String, BTreeSet<String>>,
            /// Cases that differ, without the lines.
            #[serde(default)]
            names: Vec<String>,
            /// Cases that differ or not.
            #[serde(default)]
            sometimes: Vec<String>,
            #[serde(default)]
            cases: BTreeMap<String, String>,
        }
        let path = fixtures().join("dockerfile-differences.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut list: List = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let names: BTreeSet<String> = cases().into_iter().map(|case| case.name).collect();
        // What an older frontend did otherwise stands for all that the next ones did.
        list.difference.sort_by_key(|listed| std::cmp::Reverse(listed.since));
        let mut differences = BTreeMap::new();
        for listed in list.difference {
            let sometimes = listed.sometimes.into_iter().map(|name| (name, None, false));
            let names_only = listed.names.into_iter().map(|name| (name, None, true));
            let with_lines = listed.cases.into_iter().map(|(name, lines)| (name, Some(lines), true));
            for (key, lines, always) in sometimes.chain(names_only).chain(with_lines) {
                let name = key.split(' ').next().unwrap_or_default();
                assert!(names.contains(name), "a difference is listed for {key:?}, which is no case");
                if minor < listed.since {
                    let reason = listed.reason.clone();
                    let vertices = listed.vertices.get(&key).cloned().unwrap_or_default();
                    differences.insert(key, Difference { reason, lines, always, vertices });
                }
            }
        }
        Self(differences)
    }

    /// What is listed for a case, or for its answer to a question: `NAME frontend.lint`.
    pub fn get(&self, key: &str) -> Option<&Difference> {
        self.0.get(key)
    }

    /// The lines that are listed; none where the frontends do the same.
    fn lines(&self, key: &str) -> &str {
        self.get(key).and_then(|known| known.lines.as_deref()).unwrap_or_default().trim_end()
    }

    /// Whether two frontends may differ in these lines, and in no others.
    pub fn expects(&self, key: &str, lines: &str) -> bool {
        match self.get(key) {
            Some(Difference { lines: None, always, .. }) => !(*always && lines.is_empty()),
            _ => lines.trim_end() == self.lines(key),
        }
    }

    /// The lines that differ in the config of the image that a case makes.
    pub fn image_lines(&self, name: &str) -> String {
        let own = self.lines(&format!("{name} image"));
        if !own.is_empty() {
            return own.to_owned();
        }
        let lines = self.lines(name).lines();
        let lines: Vec<_> = lines.filter(|line| !line[1..].starts_with(" metadata ")).collect();
        lines.join("\n")
    }

    /// Whether the daemon's frontend refuses a case that ours takes.
    pub fn refuses(&self, name: &str) -> bool {
        self.lines(name).contains(REFUSED)
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// All cases, by file and place.
///
/// # Panics
/// When a file cannot be read.
pub fn cases() -> Vec<Case> {
    #[derive(Deserialize)]
    struct File {
        case: Vec<Case>,
    }
    let dir = fixtures().join("dockerfiles");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut cases = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|ext| ext == "toml")) {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let subject = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cases.extend(file.case.into_iter().map(|case| Case { subject: subject.clone(), ..case }));
    }
    cases
}
