//! Secrets and SSH agents on the real daemon.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use buildkit_client::error::BoxError;
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::{SecretProvider, SecretSource, Secrets};
use buildkit_client::session::ssh::SshSource;
use buildkit_client::{Error, Secret, Solve};
use buildkit_llb::{Mount, sh};
use buildkit_tests::daemon::{Daemon, Generation};

async fn works(build: Solve) {
    build.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

/// A step that no cache answers.
fn step(script: &str) -> buildkit_llb::Run {
    buildkit_llb::image("alpine").run(sh(script)).ignore_cache()
}

#[derive(Debug)]
struct Vault;

#[async_trait::async_trait]
impl SecretProvider for Vault {
    async fn secret(&self, id: &str) -> Result<Option<Secret>, BoxError> {
        match id {
            "sealed" => Err("the vault is sealed".into()),
            id => Ok(id.strip_prefix("vault-").map(|rest| Secret::new(rest.to_owned()))),
        }
    }
}

#[tokio::test]
async fn secrets_of_every_source_reach_their_step() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, b"from a file\0\xff").unwrap();
    let script = "set -e\n\
        test \"$(od -An -c /s/file | tr -d ' \\n')\" = 'fromafile\\0377'\n\
        test \"$(cat /s/value)\" = 'from memory'\n\
        test -n \"$(cat /s/env)\"\n\
        test \"$(cat /s/vault-a)\" = a\n\
        test \"$VARIABLE\" = 'from memory'\n\
        test \"$(stat -c %a:%u /s/value)\" = 440:7\n";
    let mut run = step(script).secret_env("VARIABLE", "value");
    for id in ["file", "env", "vault-a"] {
        run = run.mount(format!("/s/{id}"), Mount::secret(id));
    }
    let run = run.mount("/s/value", Mount::secret("value").mode(0o440).owner(7, 7));
    let build = client
        .solve(run.root())
        .secret("file", SecretSource::file(&path))
        .secret("value", SecretSource::value("from memory"))
        .secret("env", SecretSource::env("PATH"))
        .secret("vault-a", SecretSource::provider(Vault));
    works(build).await;
}

#[tokio::test]
async fn r5_an_absent_secret_is_none_where_it_is_optional_and_named_where_it_is_not() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let dockerfile = async |text: &str, secrets: bool| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
        let build = client.solve(Frontend::new("dockerfile.v0")).local("context", dir.path());
        let build = build.local("dockerfile", dir.path()).no_cache();
        if secrets { build.secret("other", SecretSource::value("x")).await } else { build.await }
    };
    let optional = "FROM alpine\nRUN --mount=type=secret,id=nope test ! -e /run/secrets/nope\n";
    let required = "FROM alpine\nRUN --mount=type=secret,id=nope,required true\n";
    // With a secrets service that does not know it, and with none at all.
    for secrets in [true, false] {
        dockerfile(optional, secrets).await.unwrap_or_else(|error| panic!("{}", error.report()));
        let error = dockerfile(required, secrets).await.unwrap_err();
        assert!(error.report().contains("nope: not found"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_the_cause_of_the_error() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let run = step("true").mount("/s", Mount::secret("sealed"));
    let secrets = Secrets::load([("a", SecretSource::value("x"))]).await.unwrap().or(Vault);
    let error = client.solve(run.root()).attach(secrets).await.unwrap_err();
    let text = error.report();
    assert!(matches!(error, Error::Local(_)) && text.contains("the vault is sealed"), "{text}");
}

#[tokio::test]
async fn what_a_secret_says_is_in_no_error_and_no_progress() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let run = step("test $(cat /s) = something else entirely").mount("/s", Mount::secret("s"));
    let (sink, mut events) = buildkit_client::progress::channel();
    let build = client.solve(run.root()).secret("s", SecretSource::value("canary-5b1d")).progress(sink);
    let shown = format!("{build:?}");
    let error = build.await.unwrap_err();
    let mut seen = format!("{shown}{error:?}{}", error.report());
    while let Some(event) = events.next().await {
        write!(seen, "{event:?}").unwrap();
    }
    assert!(!seen.contains("canary-5b1d"));
}

// SSH

/// A real ssh-agent with a key of its own; it ends when dropped.
struct SshAgent {
    process: Child,
    dir: tempfile::TempDir,
}

impl SshAgent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        key(dir.path(), "ed25519");
        let socket = dir.path().join("agent.sock");
        let process =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let added = Command::new("ssh-add")
            .env("SSH_AUTH_SOCK", &socket)
            .arg(dir.path().join("ed25519"))
            .stderr(Stdio::null())
            .status();
        assert!(added.unwrap().success());
        Self { process, dir }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("agent.sock")
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a key file of a kind, called like it.
fn key(dir: &Path, name: &str) {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", name, "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
}

/// What `ssh-add -l` calls a key.
fn fingerprint(path: &Path) -> String {
    let said = Command::new("ssh-keygen").args(["-l", "-f"]).arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
}

fn has_openssh() -> bool {
    let found = ["ssh-agent", "ssh-keygen"].iter().all(|name| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(name).exists())
    });
    if !found {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no ssh-agent");
    }
    found
}

/// A folder with ssh-add, and the libraries it needs: the image of the steps has none.
fn tools() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|path| path.join("ssh-add"))
        .find(|path| path.exists())
        .unwrap();
    let said = Command::new("ldd").arg(&program).output().unwrap();
    let libraries = String::from_utf8(said.stdout).unwrap();
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.map(Path::new).chain([program.as_path()]) {
        std::fs::copy(path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// A step that talks to its agent with ssh-add, called `add` in the script.
fn with_tools(script: &str) -> buildkit_llb::Run {
    let script = format!(
        "add() {{ /tools/ld-linux-x86-64.so.2 --library-path /tools /tools/ssh-add \"$@\"; }}; {script}"
    );
    step(&script).mount("/tools", Mount::bind(buildkit_llb::local("tools")).readonly())
}

#[tokio::test]
async fn a_step_talks_to_the_users_agent_or_to_one_with_the_given_keys() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    if !has_openssh() {
        return;
    }
    let client = daemon.client().await;
    let (agent, tools) = (SshAgent::start(), tools());
    let of_agent = fingerprint(&agent.dir.path().join("ed25519"));
    let other = tempfile::tempdir().unwrap();
    key(other.path(), "ecdsa");
    let of_file = fingerprint(&other.path().join("ecdsa"));
    // Lists the keys, has one of them sign, and is refused what would change the agent.
    let script = |fingerprint: &str| {
        format!(
            "set -e; add -l | tee /dev/stderr | grep -q {fingerprint}; add -L > /key.pub; add -T /key.pub; \
             ! add -D; ! add -x; add -l | grep -q {fingerprint}"
        )
    };
    let run = |script: &str| with_tools(script).ssh(Mount::ssh()).root();
    let build = client.solve(run(&script(&of_agent))).local("tools", tools.path());
    works(build.ssh("default", SshSource::socket(agent.socket()))).await;
    let build = client.solve(run(&script(&of_file))).local("tools", tools.path());
    works(build.ssh("default", SshSource::keys([other.path().join("ecdsa")]))).await;

    // Two agents in one step, told apart by their ids; the raw one does whatever it is asked.
    let script = format!(
        "set -e; SSH_AUTH_SOCK=/keys.sock add -l | grep -q {of_file}; SSH_AUTH_SOCK=/raw.sock add -l | grep -q {of_agent}; \
         SSH_AUTH_SOCK=/raw.sock add -D; ! SSH_AUTH_SOCK=/raw.sock add -l"
    );
    let both = with_tools(&script)
        .ssh(Mount::ssh().id("keys").dest("/keys.sock"))
        .ssh(Mount::ssh().id("raw").dest("/raw.sock"));
    let build = client
        .solve(both.root())
        .local("tools", tools.path())
        .ssh("keys", SshSource::keys([other.path().join("ecdsa")]))
        .ssh("raw", SshSource::raw(agent.socket()));
    works(build).await;
}

#[tokio::test]
async fn a_step_without_an_agent_is_told_and_an_optional_one_goes_on() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let error = client.solve(step("true").ssh(Mount::ssh()).root()).await.unwrap_err();
    assert!(error.report().to_lowercase().contains("ssh"), "{}", error.report());
    works(client.solve(step("test ! -S \"$SSH_AUTH_SOCK\"").ssh(Mount::ssh().optional()).root())).await;
    let error = client
        .solve(step("true").ssh(Mount::ssh()).root())
        .ssh("default", SshSource::socket("/no/such/agent.sock"))
        .await
        .unwrap_err();
    assert!(!error.may_have_run() && error.report().contains("/no/such/agent.sock"), "{}", error.report());
}
