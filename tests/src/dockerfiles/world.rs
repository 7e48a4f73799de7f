//! What builds of the cases need.

use buildkit_client::export::Export;
use buildkit_client::policy::Entitlement;
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::session::ssh::SshSource;
use buildkit_client::{Client, Session, Solve, dockerfile};
use buildkit_fsutil::memory::MemoryTree;

use super::Case;
use crate::daemon::Daemon;
use crate::fake::{Answer, FakeRegistry};
use crate::git_server::{GitServer, has_git};
use crate::oci::archive;

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
    /// What this engine's images are called by.
    suffix: String,
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
            suffix: daemon.engine.replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
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
            let image = Export::image(format!("{}/{name}-{}", self.registry, self.suffix)).push();
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
        let digest = buildkit_llb::Digest::of(FILE.as_ref()).to_string();
        let (git, commit) = match &self.git {
            Some(git) => (git.url(), git.commit().to_owned()),
            None => Default::default(),
        };
        text.replace("%HTTP%", &format!("http://{}", self.http.address()))
            .replace("%GIT%", &git)
            .replace("%COMMIT%", &commit)
            .replace("%SHA256%", digest.trim_start_matches("sha256:"))
            .replace("%REGISTRY%", &self.registry)
            .replace("%ONBUILD%", &format!("{ONBUILD}-{}", self.suffix))
            .replace("%BASE%", &format!("{BASE}-{}", self.suffix))
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
