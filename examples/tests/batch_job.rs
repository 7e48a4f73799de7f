//! The batch job as a user runs it: the program, its exit codes and its files, on a real BuildKit.
#![allow(missing_docs, clippy::unwrap_used)] // a failed step is a failed test

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use buildkit_tests::daemon::{Daemon, Generation, Registry};
use buildkit_tests::tls::{Authority, TlsBridge};
use tokio::process::Command;

const EXAMPLE: &str = include_str!("../batch-job/Dockerfile.example");

/// A folder with a Dockerfile, and beside it an empty one for Docker's configuration.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(dockerfile: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["context", "docker", "out"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("context/Dockerfile"), dockerfile).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn login(self, registry: &Registry) -> Self {
        registry.docker_config(&self.dir.path().join("docker")).unwrap();
        self
    }

    /// The program with an environment of its own.
    fn job(&self) -> Command {
        let mut job = Command::new(env!("CARGO_BIN_EXE_batch-job"));
        for variable in ["BUILDKIT_HOST", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "BUILDKIT_PROGRESS"] {
            job.env_remove(variable);
        }
        job.env("DOCKER_CONFIG", self.path("docker")).stdin(Stdio::null()).kill_on_drop(true);
        job
    }

    /// `build` of the folder, with plain progress.
    fn build(&self, address: &str) -> Command {
        let mut job = self.job();
        job.args(["--addr", address, "build", "--progress=plain"]);
        for name in ["context", "dockerfile"] {
            job.arg("--local").arg(format!("{name}={}", self.path("context")));
        }
        job
    }
}

/// What came of it.
struct Ran {
    code: i32,
    said: String,
    printed: Vec<u8>,
}

async fn run(job: &mut Command) -> Ran {
    let output = tokio::time::timeout(Duration::from_secs(120), job.output()).await;
    let Output { status, stderr, stdout } = output.expect("the job did not end").unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    Ran { code: status.code().unwrap_or(-1), said, printed: stdout }
}

impl Ran {
    /// The exit code is this one, and all of these texts were said.
    #[track_caller]
    fn ended(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.said);
        for text in texts {
            assert!(self.said.contains(text), "{text:?} is missing:\n{}", self.said);
        }
    }
}

fn image(name: &str) -> String {
    format!("type=image,name={name},push=true")
}

/// The digest that the registry has for the tag `latest` of `HOST/PATH`.
async fn digest_in(registry: &Registry, name: &str) -> String {
    let (_, path) = name.split_once('/').unwrap();
    registry.manifest(path, "latest").await.unwrap().0
}

#[tokio::test]
async fn done_is_0_and_the_digest_is_the_registrys() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.private;
    let name = registry.repository("job/example");
    let scene = Scene::new(EXAMPLE).login(registry);
    let mut job = scene.build(&daemon.endpoint);
    job.args(["--frontend", "dockerfile.v0", "--opt", "filename=Dockerfile", "--output", &image(&name)]);
    job.args(["--digest-file", &scene.path("digest"), "--metadata-file", &scene.path("metadata")]);
    let ran = run(&mut job).await;
    let digest = digest_in(registry, &name).await;
    ran.ended(0, &["RUN touch .i-was-here", &format!("digest: {digest}")]);
    assert_eq!(scene.read("digest"), digest);
    let metadata: serde_json::Value = serde_json::from_str(&scene.read("metadata")).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], digest.as_str());
    assert_eq!(metadata["image.name"], name.as_str());
    assert!(!ran.said.contains("warning:"), "{}", ran.said);
}

#[tokio::test]
async fn the_old_words_and_the_environments_address_do_the_same_and_each_word_is_warned_of() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.private;
    let name = registry.repository("job/old");
    let scene = Scene::new("FROM scratch\n").login(registry);
    std::fs::write(scene.path("context/Other"), EXAMPLE).unwrap();
    let mut job = scene.job();
    job.env("BUILDKIT_HOST", &daemon.endpoint).args(["build", "--progress=plain"]);
    job.args(["--frontend=dockerfile.v0", "--frontend-opt", "filename=Other"]);
    job.arg("--local").arg(format!("context={}", scene.path("context")));
    job.arg("--local").arg(format!("dockerfile={}", scene.path("context")));
    job.args(["--exporter", "image", "--exporter-opt", &format!("name={name}")]);
    job.args(["--exporter-opt", "push=true"]);
    let ran = run(&mut job).await;
    let digest = digest_in(registry, &name).await;
    ran.ended(
        0,
        &[
            "warning: --frontend-opt is deprecated: use --opt",
            "warning: --exporter is deprecated: use --output",
            "warning: --exporter-opt is deprecated: use --output",
            &digest,
        ],
    );
}

#[tokio::test]
async fn a_docker_engine_and_a_folder_will_do() {
    let engine = |daemon: &Daemon| daemon.docker_endpoint.clone();
    let Some((_, engine)) = Daemon::or_skip_without(Generation::Sid, "Docker Engine", engine) else { return };
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /copied\n");
    let mut job = scene.build(&engine);
    let ran = run(job.arg("--output").arg(format!("type=local,dest={}", scene.path("out")))).await;
    ran.ended(0, &[]);
    assert_eq!(scene.read("out/copied"), scene.read("context/Dockerfile"));
}

#[tokio::test]
async fn what_the_build_gets_wrong_is_4_with_the_place() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let cases: &[(&str, &[&str])] = &[
        ("FROM alpine\nRUN echo last words && exit 7\n", &["exit code: 7", "Dockerfile:2", ">>> RUN echo"]),
        ("FROM scratch\nCOPPY a /a\n", &["Dockerfile:2", ">>> COPPY a /a", "unknown instruction"]),
        ("FROM scratch\nCOPY nowhere /a\n", &["Dockerfile:2", ">>> COPY nowhere", "not found"]),
        ("FROM surely/not-there:1\n", &["Dockerfile:1", "surely/not-there:1", ">>> FROM"]),
    ];
    for (dockerfile, texts) in cases {
        let scene = Scene::new(dockerfile);
        let ran = run(&mut scene.build(&daemon.endpoint)).await;
        ran.ended(4, texts);
    }
    let scene = Scene::new(EXAMPLE);
    let ran = run(scene.build(&daemon.endpoint).args(["--opt", "filename=Not.There"])).await;
    ran.ended(4, &["Not.There", "no such file"]);
}

#[tokio::test]
async fn what_an_old_daemon_lacks_is_4_and_named() {
    let Some(daemon) = Daemon::or_skip(Generation::Bookworm) else { return };
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    let ran = run(scene.build(&daemon.endpoint).args(["--output", &image("r.example/a")])).await;
    ran.ended(4, &["the daemon does not support the exporter \"image\"", "older than BuildKit 0.11"]);
}

#[tokio::test]
async fn what_the_registry_will_not_take_is_5() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    // A registry that nobody runs. Its pushes are worth another try, so the job makes a few.
    let ran = run(scene.build(&daemon.endpoint).args(["--output", &image("127.0.0.1:1/a/b")])).await;
    ran.ended(5, &["127.0.0.1:1"]);
}

#[tokio::test]
async fn credentials_that_are_wrong_or_not_to_be_had_are_6() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.private;
    let output = image(&registry.repository("job/refused"));

    let mut stranger = registry.clone();
    stranger.password = Some("somebody-elses".to_owned());
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n").login(&stranger);
    let ran = run(scene.build(&daemon.endpoint).args(["--output", &output])).await;
    ran.ended(6, &[&registry.address]);
    assert!(!ran.said.contains("somebody-elses"), "{}", ran.said);

    // None at all.
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    run(scene.build(&daemon.endpoint).args(["--output", &output])).await.ended(6, &[&registry.address]);

    // What a config.json copied from a desktop looks like.
    let config = format!(r#"{{"auths": {{"{}": {{}}}}, "credsStore": "desktop"}}"#, registry.address);
    std::fs::write(scene.path("docker/config.json"), config).unwrap();
    let ran = run(scene.build(&daemon.endpoint).args(["--output", &output])).await;
    ran.ended(
        6,
        &[
            &registry.address,
            "credential store \"desktop\"",
            &scene.path("docker/config.json"),
            "docker-credential-desktop is not installed",
        ],
    );

    std::fs::write(scene.path("docker/config.json"), "{").unwrap();
    let ran = run(scene.build(&daemon.endpoint).args(["--output", &output])).await;
    ran.ended(6, &[&scene.path("docker/config.json")]);
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense_is_2() {
    let scene = Scene::new(EXAMPLE);
    let cases: &[(&[&str], &str)] = &[
        (&["--bogus"], "--bogus"),
        (&["--output", "name=a"], "the type is missing"),
        (&["--output", "type=local"], "needs dest=DIR"),
        (&["--local", "context"], "expected KEY=VALUE"),
        (&["--opt", "target"], "a value is missing"),
        (&["--ssh", "a=/s,raw=maybe"], "expected true or false"),
        (&["--registry-auth-tlscontext", "host=r"], "ca=FILE"),
        (&["--debug-json-cache-metrics", "printer"], "stdout"),
    ];
    for (args, text) in cases {
        run(scene.build("tcp://127.0.0.1:1").args(*args)).await.ended(2, &[text]);
    }
    run(scene.job().args(["build", "--progress", "loud"])).await.ended(2, &["expected auto, plain"]);
    run(&mut scene.build("buildkitd:1234")).await.ended(2, &["buildkitd:1234", "no scheme"]);
    run(&mut scene.job()).await.ended(2, &["Usage:"]);
    // Help is no failure, and lists the codes.
    let help = scene.job().arg("--help").output().await.unwrap();
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes: 0 done"));
}

#[tokio::test]
async fn what_is_wrong_on_this_side_is_1() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    let missing = scene.path("nowhere");
    let mut job = scene.job();
    job.args(["--addr", &daemon.endpoint, "build", "--local", &format!("context={missing}")]);
    run(&mut job).await.ended(1, &["context", &missing, "No such file"]);
    let secret = format!("id=s,src={missing}");
    run(scene.build(&daemon.endpoint).args(["--secret", &secret])).await.ended(1, &[&missing]);
    run(scene.build(&daemon.endpoint).args(["--digest-file", &scene.path("digest")]))
        .await
        .ended(1, &["no digest"]);
    assert!(!Path::new(&scene.path("digest")).exists());
    // Before the build, not after an image was pushed.
    for flag in ["--metadata-file", "--digest-file", "--ref-file"] {
        let file = format!("{missing}/file");
        let ran = run(scene.build(&daemon.endpoint).args([flag, &file])).await;
        ran.ended(1, &[&format!("{flag} {file}: No such file")]);
        assert!(!ran.said.contains("load build definition"), "{}", ran.said);
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_3_after_the_time_given() {
    let scene = Scene::new(EXAMPLE);
    let start = Instant::now();
    let ran = run(scene.build("tcp://127.0.0.1:1").args(["--timeout", "4"])).await;
    ran.ended(3, &["waiting up to 4 s for the daemon at tcp://127.0.0.1:1", "connection refused"]);
    let took = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&took), "{took:?}");
    // The code is the same where nobody reads what it says.
    let mut job =
        scene.build("tcp://127.0.0.1:1").args(["--timeout", "4"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(job.stderr.take());
    assert_eq!(job.wait().await.unwrap().code(), Some(3));
    // What waiting cannot cure is told at once.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let start = Instant::now();
    run(scene.build(&address).args(["--tlscacert", "/nowhere"])).await.ended(3, &["/nowhere"]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_daemon_that_checks_certificates_takes_those_of_the_job() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (authority, stranger) = (Authority::new("ours").unwrap(), Authority::new("somebody's").unwrap());
    let server = authority.sign(&["buildkitd-mtls"]).unwrap();
    let bridge =
        TlsBridge::start(&daemon.endpoint, server.acceptor(Some(&authority)).unwrap()).await.unwrap();
    let address = format!("tcp://{}", bridge.address());
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    let certs = |name: &str, authority: &Authority, signer: &Authority| {
        let dir = scene.path(name);
        signer.sign(&["job"]).unwrap().write(authority, Path::new(&dir)).unwrap();
        dir
    };
    let good = certs("good", &authority, &authority);
    let named = ["--tlsservername", "buildkitd-mtls"];
    run(scene.build(&address).args(named).args(["--tlsdir", &good])).await.ended(0, &[]);
    let files = [("--tlscacert", "ca"), ("--tlscert", "cert"), ("--tlskey", "key")];
    let mut job = scene.build(&address);
    for (flag, file) in files {
        job.arg(flag).arg(format!("{good}/{file}.pem"));
    }
    run(job.args(named)).await.ended(0, &[]);

    // Each is told at once: waiting for the daemon cures none of them.
    let start = Instant::now();
    run(scene.build(&address).args(["--tlsdir", &good])).await.ended(3, &["127.0.0.1", "buildkitd-mtls"]);
    let theirs = certs("theirs", &stranger, &authority);
    run(scene.build(&address).args(named).args(["--tlsdir", &theirs])).await.ended(3, &["TLS"]);
    let refused = certs("refused", &authority, &stranger);
    run(scene.build(&address).args(named).args(["--tlsdir", &refused])).await.ended(3, &["TLS"]);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_daemon_that_is_still_starting_is_waited_for() {
    let port = |daemon: &Daemon| daemon.endpoint.strip_prefix("tcp://").map(str::to_owned);
    let Some((_, upstream)) = Daemon::or_skip_without(Generation::Sid, "TCP port", port) else { return };
    // A port that is free now, and a daemon behind it a little later.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let listener = tokio::net::TcpListener::bind(port).await.unwrap();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut daemon = tokio::net::TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move {
                // Whoever hangs up first ends it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut daemon).await;
            });
        }
    });
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /\n");
    let ran = run(scene.build(&format!("tcp://{port}")).args(["--timeout", "60"])).await;
    late.abort();
    ran.ended(0, &["waiting up to 60 s for the daemon"]);
}

#[tokio::test]
async fn a_signal_stops_the_build_on_the_daemon_and_is_130() {
    use tokio::io::AsyncReadExt as _;
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let salt = std::process::id();
    let scene = Scene::new(&format!("FROM alpine\nRUN echo started-{salt} && sleep 300\n"));
    let mut job = scene.build(&daemon.endpoint).arg("--no-cache").stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = job.stderr.take().unwrap();
    let mut said = Vec::new();
    let started = format!(" started-{salt}\n");
    while !String::from_utf8_lossy(&said).contains(&started) {
        let read = tokio::time::timeout(Duration::from_secs(60), stderr.read_buf(&mut said)).await;
        assert!(read.unwrap().unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(job.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    let status = tokio::time::timeout(Duration::from_secs(10), job.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    stderr.read_to_end(&mut said).await.unwrap();
    assert!(String::from_utf8_lossy(&said).ends_with("the daemon has been told to stop\n"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Nobody runs the step any more: the daemon's processes are ours to see.
    let gone = || {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        !processes
            .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
            .any(|line| String::from_utf8_lossy(&line).contains(&format!("echo started-{salt} && sleep")))
    };
    let start = Instant::now();
    while !gone() {
        assert!(start.elapsed() < Duration::from_secs(20), "the step still runs");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_cache_in_a_registry_is_written_by_one_job_and_read_by_the_next() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let registry = &daemon.registries.private;
    let cache = format!("type=registry,ref={}", registry.repository("job/cache"));
    let scene = Scene::new("FROM alpine\nRUN echo cached > /cached\n").login(registry);
    let written =
        run(scene.build(&daemon.endpoint).args(["--export-cache", &format!("{cache},mode=max")])).await;
    written.ended(0, &["exporting cache to registry", "sharing credentials"]);
    let read = run(scene.build(&daemon.endpoint).args(["--import-cache", &cache])).await;
    read.ended(0, &["importing cache manifest from"]);
    for (flag, value, says) in [
        ("--export-cache", "type=registry", "needs ref="),
        ("--export-cache", "type=floppy", "expected registry, local, inline"),
        ("--import-cache", "type=local", "needs src="),
    ] {
        run(scene.build(&daemon.endpoint).args([flag, value])).await.ended(2, &[says]);
    }
}

#[tokio::test]
async fn a_command_line_of_buildctl_does_the_same() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let scene = Scene::new(
        "FROM alpine\nARG SOURCE_DATE_EPOCH\nARG NAME\nRUN --mount=type=secret,id=token \
         --mount=type=secret,id=word --mount=type=ssh,id=deploy,target=/agent \
         test -S /agent && echo \"$(cat /run/secrets/token)$(cat /run/secrets/word) $NAME $SOURCE_DATE_EPOCH\" > /out\n\
         FROM scratch\nCOPY --from=0 /out /\n",
    );
    let (token, socket) = (scene.path("token"), scene.path("agent.sock"));
    std::fs::write(&token, "from-a-file").unwrap();
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut job = scene.job();
    job.env("WORD", "-and-a-variable").env("NAME", "by-name").env("SOURCE_DATE_EPOCH", "1700000000");
    job.args([
        "--debug",
        "--log-format",
        "text",
        "--timeout",
        "30",
        "--wait",
        "--addr",
        &daemon.endpoint,
        "b",
    ]);
    job.args([
        "--frontend=dockerfile.v0",
        "--opt",
        "build-arg:NAME",
        "--allow",
        "network.host",
        "--no-cache",
    ]);
    for name in ["context", "dockerfile"] {
        job.arg("--local").arg(format!("{name}={}", scene.path("context")));
    }
    job.arg("--secret").arg(format!("id=token,src={token}")).args(["--secret", "type=env,id=word,env=WORD"]);
    job.arg("--ssh").arg(format!("deploy={socket}"));
    job.arg("-o").arg(format!("type=local,dest={}", scene.path("out")));
    for flag in ["trace", "ref-file", "metadata-file"] {
        job.arg(format!("--{flag}")).arg(scene.path(flag));
    }
    job.args(["--debug-json-cache-metrics", "stdout"]);
    let ran = run(&mut job).await;
    ran.ended(0, &[]);
    assert_eq!(scene.read("out/out"), "from-a-file-and-a-variable by-name 1700000000\n");
    let metrics: serde_json::Value = serde_json::from_slice(&ran.printed).unwrap();
    assert_eq!((&metrics["from"], &metrics["miss"]), (&1.into(), &2.into()), "{metrics}");
    // The progress, an update a line; the id, by which the daemon knows the build.
    let trace = scene.read("trace");
    assert!(trace.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap().is_object()));
    assert!(trace.contains("COPY --from=0"), "{trace}");
    let reference = scene.read("ref-file");
    let client = daemon.client().await;
    assert!(client.history().find(&reference).await.unwrap().is_some(), "{reference}");
    assert!(scene.read("metadata-file").starts_with('{'));
}

#[tokio::test]
async fn what_a_build_may_not_use_is_4_and_an_agent_that_is_not_there_is_1() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let scene = Scene::new(EXAMPLE);
    let policy = r#"{"rules": [{"action": "DENY", "selector": {"identifier": "docker-image://*"}}]}"#;
    std::fs::write(scene.path("policy"), policy).unwrap();
    let ran = run(scene.build(&daemon.endpoint).args(["--source-policy-file", &scene.path("policy")])).await;
    ran.ended(4, &["docker.io/library/alpine", "denied by policy"]);
    let ran = run(scene.build(&daemon.endpoint).args(["--allow", "no.such"])).await;
    ran.ended(4, &["no.such"]);
    let missing = scene.path("nowhere");
    run(scene.build(&daemon.endpoint).args(["--source-policy-file", &missing])).await.ended(1, &[&missing]);
    run(scene.build(&daemon.endpoint).args(["--ssh", &format!("a={missing}")])).await.ended(1, &[&missing]);
    let mut job = scene.build(&daemon.endpoint);
    run(job.env_remove("SSH_AUTH_SOCK").args(["--ssh", "default"])).await.ended(1, &["SSH_AUTH_SOCK"]);
    run(scene.build(&daemon.endpoint).arg("--trace").arg(scene.path("context")))
        .await
        .ended(1, &["directory"]);
}

#[tokio::test]
async fn an_archive_goes_to_standard_output_and_a_layout_to_a_folder_that_another_job_reads() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let scene = Scene::new("FROM scratch\nCOPY Dockerfile /copied\n");
    for output in ["type=tar", "type=tar,dest=-"] {
        let ran = run(scene.build(&daemon.endpoint).args(["--output", output])).await;
        ran.ended(0, &[]);
        let entries = buildkit_tests::oci::entries(&ran.printed);
        assert!(entries.iter().any(|entry| entry.path == "copied"), "{output}");
    }
    let layout = scene.path("layout");
    let ran =
        run(scene.build(&daemon.endpoint).arg("-o").arg(format!("type=oci,tar=false,dest={layout}"))).await;
    ran.ended(0, &["digest: sha256:"]);
    let (_, digest) = ran.said.split_once("digest: ").unwrap();
    let user = Scene::new("FROM base AS again\nCOPY Dockerfile /second\n");
    let mut job = user.build(&daemon.endpoint);
    job.arg("--oci-layout").arg(format!("store={layout}"));
    job.arg("--opt").arg(format!("context:base=oci-layout://store@{}", digest.trim()));
    job.arg("-o").arg(format!("type=local,dest={}", user.path("out")));
    run(&mut job).await.ended(0, &[]);
    assert_eq!(user.read("out/copied"), scene.read("context/Dockerfile"));
    assert_eq!(user.read("out/second"), user.read("context/Dockerfile"));
}
