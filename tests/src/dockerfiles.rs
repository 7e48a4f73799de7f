//! Dockerfiles to build by the daemon's own frontend and by ours, with what they need to be built.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use buildkit_client::export::Export;
use buildkit_client::policy::Entitlement;
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::session::ssh::SshSource;
use buildkit_client::{Client, Session, Solve, dockerfile};
use buildkit_frontend::{BuildResult, Error};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::Definition;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::conformance::diff;
use crate::conformance::dockerfile::{strip_group_ids, strip_texts};
use crate::daemon::Daemon;
use crate::fake::{Answer, FakeRegistry};
use crate::git_server::{GitServer, has_git};
use crate::oci::archive;

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
    /// The lines of [`described`] that differ: `-` the daemon's, `+` ours.
    pub lines: String,
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
            for (key, lines) in listed.cases {
                let name = key.split(' ').next().unwrap_or_default();
                assert!(names.contains(name), "a difference is listed for {key:?}, which is no case");
                if minor < listed.since {
                    let reason = listed.reason.clone();
                    let vertices = listed.vertices.get(&key).cloned().unwrap_or_default();
                    differences.insert(key, Difference { reason, lines, vertices });
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
    pub fn lines(&self, key: &str) -> &str {
        self.get(key).map_or("", |difference| difference.lines.trim_end())
    }

    /// The lines that differ in the config of the image that a case makes.
    pub fn image_lines(&self, name: &str) -> String {
        if let Some(listed) = self.get(&format!("{name} image")) {
            return listed.lines.trim_end().to_owned();
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

/// What the cases need beside their text: servers, images, a key, trees.
#[derive(Debug)]
pub struct World {
    client: Client,
    http: FakeRegistry,
    git: Option<GitServer>,
    layout: tempfile::TempDir,
    agent: tempfile::TempDir,
    _listener: std::os::unix::net::UnixListener,
    registry: String,
    fresh: String,
}

const TOKEN: &str = "of-the-git-server";
const FILE: &str = "from the web\n";

impl World {
    /// Starts servers and pushes the base images.
    ///
    /// # Panics
    /// When one of them cannot be had.
    pub async fn start(daemon: &Daemon, client: &Client) -> Self {
        let tar = archive(&[("in/", ""), ("in/the.tar", "packed\n"), ("link", "-> in/the.tar")]);
        let context = archive(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f\n")]);
        let http = FakeRegistry::start(move |request| {
            let body = match request.path.split('?').next().unwrap_or_default() {
                "/file.txt" | "/dir/other.txt" => FILE.into(),
                "/archive.tar" => tar.clone().into(),
                "/context.tar" => context.clone().into(),
                "/Dockerfile" => "FROM busybox\nRUN echo from the web\n".into(),
                _ => return Answer::status(404),
            };
            let answer = Answer::Plain(http::StatusCode::OK, vec![], body);
            let tag = format!("\"{}\"", request.path.replace('"', ""));
            answer.header("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT").header("etag", tag)
        });
        let git = if has_git() {
            let files = [
                ("Dockerfile", "FROM scratch\nCOPY . /c/\n"),
                ("sub/Dockerfile", "FROM scratch\nCOPY f /\n"),
                ("sub/f", "sub\n"),
                ("f", "f\n"),
            ];
            Some(GitServer::start(&files, TOKEN).await.unwrap_or_else(|e| panic!("git: {e}")))
        } else {
            None
        };
        let agent = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let listener = std::os::unix::net::UnixListener::bind(agent.path().join("socket"));
        let layout = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let world = Self {
            client: client.clone(),
            http: http.await.unwrap_or_else(|e| panic!("http: {e}")),
            git,
            layout,
            agent,
            _listener: listener.unwrap_or_else(|e| panic!("socket: {e}")),
            registry: daemon.registries.mirror.address.clone(),
            fresh: String::new(),
        };
        world.bases().await;
        world
    }

    /// Builds the images that cases build upon.
    async fn bases(&self) {
        let base = "FROM busybox\nENV FROM_BASE=1\nWORKDIR /based\nUSER 7:8\nENTRYPOINT [\"/e\"]\nCMD [\"c\"]\n\
                    VOLUME /v\nEXPOSE 1\nLABEL l=base\nHEALTHCHECK CMD true\nSTOPSIGNAL 3\nSHELL [\"/bin/sh\", \"-ec\"]\n";
        let onbuild = "FROM busybox\nENV FROM_BASE=1\nONBUILD ARG WHERE=/onbuild\nONBUILD COPY a.txt /onbuild/\n\
                       ONBUILD COPY --from=busybox /etc/passwd $WHERE/\nONBUILD RUN echo $FROM_BASE >> /onbuild/a.txt\n\
                       ONBUILD WORKDIR /onbuild\n";
        let build = |text: &str, export: Export| {
            let dockerfile = dockerfile::Dockerfile::new(MemoryTree::new()).inline(text);
            self.client.solve(dockerfile).export(export)
        };
        let layout = Export::oci_dir(self.layout.path()).name("example.org/base:v1");
        let image = |name: &str| -> Export {
            let image = Export::image(format!("{}/{name}", self.registry)).push();
            image.rewrite_timestamp().source_date_epoch(1_700_000_000).into()
        };
        let (base, onbuild, layout) = tokio::join!(
            build(base, image(BASE)),
            build(onbuild, image(ONBUILD)),
            build("FROM scratch\nLABEL from=layout\n", layout.into()),
        );
        for built in [base, onbuild, layout] {
            built.unwrap_or_else(|error| panic!("{}", error.report()));
        }
    }

    /// Makes the context's `a.txt` another one than in all builds before.
    #[must_use]
    pub fn fresh(self) -> Self {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let fresh = format!("{} {}", std::process::id(), time.unwrap_or_default().as_nanos());
        Self { fresh, ..self }
    }

    /// Whether what a case needs is there; tells so if not.
    pub fn can(&self, case: &Case) -> bool {
        let can = !case.git || self.git.is_some();
        if !can {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("SKIPPED {}: no git with its http-backend here\n", case.name),
            );
        }
        can
    }

    /// Puts what is known now into a text.
    fn filled(&self, text: &str) -> String {
        use sha2::Digest as _;
        let sha: String = sha2::Sha256::digest(FILE).iter().map(|byte| format!("{byte:02x}")).collect();
        let (git, commit) = match &self.git {
            Some(git) => (git.url(), git.commit().to_owned()),
            None => Default::default(),
        };
        text.replace("%HTTP%", &format!("http://{}", self.http.address()))
            .replace("%GIT%", &git)
            .replace("%COMMIT%", &commit)
            .replace("%SHA256%", &sha)
            .replace("%REGISTRY%", &self.registry)
            .replace("%ONBUILD%", ONBUILD)
            .replace("%BASE%", BASE)
    }

    /// The files of a case's context.
    fn context(&self, case: &Case) -> MemoryTree {
        let tar = archive(&[("in/", ""), ("in/the.tar", "packed\n")]);
        let mut tree = MemoryTree::new()
            .file("a.txt", format!("a{}\n", self.fresh))
            .file("b.txt", "b\n")
            .executable("run.sh", "#!/bin/sh\n")
            .file("with space.txt", "space\n")
            .file("dir/b.txt", "dir b\n")
            .file("dir/sub/c.txt", "c\n")
            .file("dir/ünï.txt", "ü\n")
            .file("ünïcode/ß.txt", "ß\n")
            .file(".hidden", "h\n")
            .file("[odd]name", "odd\n")
            .file("$dollar", "d\n")
            .file("src/cmd/main_test.go", "t\n")
            .file("src/main.go", "m\n")
            .file("src/lib/x.go", "x\n")
            .file("src/lib/x_test.go", "xt\n")
            .file("archive.tar", &tar)
            .file("archive.tar.gz", gzip(&tar))
            .symlink("link", "a.txt")
            .dir("empty");
        if let Some(ignore) = &case.ignore {
            tree = tree.file(".dockerignore", ignore);
        }
        for (path, content) in &case.files {
            tree = tree.file(path, content);
        }
        if !case.without_dockerfile {
            let path = case.opts.get("filename").map_or("Dockerfile", String::as_str);
            tree = tree.file(path, self.filled(&case.dockerfile));
        }
        tree
    }

    /// A session with all that the builds of a case may ask for: its files, secrets, an agent, a layout.
    ///
    /// # Panics
    /// When it does not open.
    pub async fn session(&self, client: &Client, case: &Case) -> Session {
        let other = MemoryTree::new()
            .file("f", "other f\n")
            .file("g/h", "other h\n")
            .file("skipped", "s\n")
            .file(".dockerignore", "skip*\n");
        let context = buildkit_client::request::Local::from(self.context(case));
        let mut session = client
            .session()
            .local("context", context.clone())
            .local("dockerfile", context)
            .local("other", other)
            .shared_key(format!("dockerfiles-{}", case.name))
            .secret("the-secret", SecretSource::value("s3cr3t"));
        if let Some(git) = &self.git {
            session = session.secret(Secrets::git_token_id(&git.host()), SecretSource::value(TOKEN));
        }
        if case.ssh {
            session = session.ssh("default", SshSource::raw(self.agent.path().join("socket")));
        }
        if case.oci {
            session = session.oci_layout("store", self.layout.path().to_owned());
        }
        session.open().await.unwrap_or_else(|error| panic!("{}: {}", case.name, error.report()))
    }

    /// Puts a build of a case on a session, with the case's options.
    pub fn on(&self, session: &Session, mut solve: Solve, case: &Case) -> Solve {
        if case.input {
            solve = solve.input("made", buildkit_llb::scratch().mkfile("/f", 0o644, "made"));
        }
        for entitlement in &case.entitlements {
            solve = solve.allow(Entitlement::from(entitlement.as_str()));
        }
        for (key, value) in &case.opts {
            solve = solve.opt(key, self.filled(value));
        }
        solve.session(session)
    }
}

const BASE: &str = "dockerfiles-base";
const ONBUILD: &str = "dockerfiles-onbuild";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).and_then(|()| packed.finish()).unwrap_or_else(|e| panic!("{e}"))
}

/// How [`described`] begins for a Dockerfile that was not taken.
pub const REFUSED: &str = "refused";

/// What a frontend made of a Dockerfile, as text that is the same whenever the graphs, what is said of their
/// vertices, and the metadata of the result are: an error by its places, ops by their fields. The id of the
/// session and the random ids of groups are left out.
///
/// # Panics
/// When a result has no graph, or one that cannot be read.
pub fn described(result: &Result<BuildResult, Error>, session: &str) -> String {
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
            Some(definition) => graph(&definition, session, &mut out),
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

fn graph(definition: &Definition, session: &str, out: &mut String) {
    let numbers: BTreeMap<String, String> = definition
        .ops()
        .enumerate()
        .map(|(number, op)| (op.digest().to_string(), format!("op {number}")))
        .collect();
    for op in definition.ops() {
        let mut json = op.to_json().unwrap_or_else(|e| panic!("{e}"));
        numbered(&mut json, &numbers, session);
        let mut said = op.metadata().to_json();
        if let Some(group) = said.get_mut("progress_group").and_then(Value::as_object_mut) {
            group.remove("id");
        }
        let name = &numbers[&op.digest().to_string()];
        let (json, said) = (serde_json::to_string_pretty(&json), serde_json::to_string_pretty(&said));
        let _ = writeln!(out, "{name}\n{}\n{}", json.unwrap_or_default(), said.unwrap_or_default());
        for (map, ranges) in op.locations() {
            let lines = ranges.iter().map(|range| (range.start.line, range.end.line)).collect::<Vec<_>>();
            let _ = writeln!(out, "{} {lines:?}", map.filename());
        }
    }
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
