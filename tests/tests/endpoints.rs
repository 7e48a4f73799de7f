//! Ways to a daemon: every kind of address ends at the real one.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use buildkit_client::connect::{Address, Connector, Liveness, Stream};
use buildkit_client::error::{ConnectError, ConnectErrorKind};
use buildkit_client::export::Export;
use buildkit_client::tls::Tls;
use buildkit_client::{Client, Error, Retry};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{FakeBuildKit, Faults};
use buildkit_tests::tls::{Authority, Certificate, TlsBridge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// A build that needs the session as well: its result comes back through it.
async fn works(client: &Client) {
    let out = tempfile::tempdir().unwrap();
    let graph = buildkit_llb::scratch().mkfile("/hello", 0o644, "hello");
    let built = client.solve(graph).export(Export::local(out.path())).await;
    built.unwrap_or_else(|error| panic!("{}: {}", client.endpoint(), error.report()));
    assert_eq!(std::fs::read(out.path().join("hello")).unwrap(), b"hello");
}

fn tcp(daemon: &Daemon) -> &str {
    daemon.endpoint.strip_prefix("tcp://").expect("the tests' daemon listens on TCP")
}

// Commands

/// Runs one test of this file again in a process of its own, with other variables.
fn again(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .envs(variables.iter().copied())
        .env("ENDPOINTS_INNER", "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn inside() -> bool {
    std::env::var_os("ENDPOINTS_INNER").is_some()
}

/// Makes programs called `docker`, `ssh` and so on that note how they were called and carry their standard streams to
/// the daemon; one called with the name `broken` fails as the real ones do.
fn stand_ins(dir: &Path, to: &str) {
    let (host, port) = to.rsplit_once(':').unwrap();
    let script = format!(
        "#!/bin/bash\n\
         name=$(basename \"$0\")\n\
         printf '%s\\n' \"$name $*\" >> \"$(dirname \"$0\")/calls\"\n\
         case \" $* \" in *' broken '*) echo \"$name: no such container: broken\" >&2; exit 1;; esac\n\
         exec 3<>/dev/tcp/{host}/{port}\n\
         cat <&3 &\n\
         cat >&3\n\
         kill %1 2>/dev/null\n"
    );
    for name in ["docker", "podman", "nerdctl", "kubectl", "ssh"] {
        let path = dir.join(name);
        std::fs::write(&path, &script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
}

const COMMANDS: [(&str, &str); 8] = [
    ("docker-container://bk", "docker exec -i bk buildctl dial-stdio"),
    ("docker-container://bk?context=far", "docker --context=far exec -i bk buildctl dial-stdio"),
    ("podman-container://bk", "podman exec -i bk buildctl dial-stdio"),
    ("nerdctl-container://bk", "nerdctl exec -i bk buildctl dial-stdio"),
    ("nerdctl-container://bk?namespace=ns", "nerdctl exec --namespace ns -i bk buildctl dial-stdio"),
    (
        "kube-pod://bk-0?context=c&namespace=n&container=k",
        "kubectl --context=c --namespace=n exec --container=k -i bk-0 -- buildctl dial-stdio",
    ),
    ("ssh://far", "ssh -- far buildctl dial-stdio"),
    (
        "ssh://me@far:2222/run/bk.sock",
        "ssh -l me -p 2222 -- far buildctl --addr unix:///run/bk.sock dial-stdio",
    ),
];

#[test]
fn commands_on_path_lead_to_the_daemon() {
    if inside() {
        return runtime().block_on(async {
            for (address, _) in COMMANDS {
                let client =
                    Client::connect(address).await.unwrap_or_else(|error| panic!("{}", error.report()));
                assert!(client.daemon().await.unwrap().version.is_some());
                works(&client).await;
            }
            // What the command says when it fails is part of the error.
            for engine in ["docker", "podman", "nerdctl"] {
                let error = Client::connect(format!("{engine}-container://broken")).await.unwrap_err();
                let Error::Connect(connect) = &error else { panic!("{error:?}") };
                assert!(matches!(connect.kind(), ConnectErrorKind::Command { .. }), "{connect:?}");
                let text = error.report();
                assert!(
                    text.contains("no such container: broken") && text.contains("exit status: 1"),
                    "{text}"
                );
            }
        });
    }
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    stand_ins(dir.path(), tcp(&daemon));
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    again("commands_on_path_lead_to_the_daemon", &[("PATH", &path)]);
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    for (address, call) in COMMANDS {
        assert!(calls.lines().any(|line| line == call), "{address}: no {call:?} in\n{calls}");
    }
}

#[test]
fn the_address_may_come_from_the_environment() {
    if inside() {
        return runtime().block_on(async {
            let client = Client::from_env().await.unwrap();
            println!("reached {}", client.endpoint());
            works(&client).await;
            let address = Address::from_env().unwrap().unwrap();
            assert_eq!(address.to_string(), client.endpoint());
        });
    }
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let test = "the_address_may_come_from_the_environment";
    let said = again(test, &[("BUILDKIT_HOST", &daemon.endpoint)]);
    assert!(said.contains(&format!("reached {}", daemon.endpoint)), "{said}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn a_program_that_is_not_installed_is_named() {
    let argv = ["no-such-engine", "exec", "bk", "buildctl", "dial-stdio"];
    let builder = Client::builder_over(buildkit_client::connect::Command::new(argv));
    let error = builder.connect().await.unwrap_err();
    assert!(error.to_string().contains("no program \"no-such-engine\" on PATH"), "{error}");
}

// Sockets

#[tokio::test]
async fn a_unix_socket_leads_to_the_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buildkitd.sock");
    let address = format!("unix://{}", path.display());
    let error = Client::connect(&address).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(&address), "{error}");

    let listener = UnixListener::bind(&path).unwrap();
    let to = tcp(&daemon).to_owned();
    let relay = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    works(&Client::connect(&address).await.unwrap()).await;
    relay.abort();
}

#[tokio::test]
async fn a_docker_engine_lends_its_buildkit() {
    for generation in [Generation::Sid, Generation::Trixie] {
        let engine = |daemon: &Daemon| daemon.docker_endpoint.clone();
        let Some((daemon, endpoint)) = Daemon::or_skip_without(generation, "Docker Engine", engine) else {
            continue;
        };
        let client = Client::connect(&endpoint).await.unwrap_or_else(|error| panic!("{}", error.report()));
        let known = client.daemon().await.unwrap();
        let engine = known.engine.clone().unwrap();
        assert!(engine.contains(daemon.engine.split('+').next().unwrap()), "{engine}, {}", daemon.engine);
        assert!(known.version.is_some(), "{known}");
        works(&client).await;
    }
}

#[tokio::test]
async fn an_engine_behind_tls_lends_its_buildkit_too() {
    let engine = |daemon: &Daemon| daemon.docker_socket.clone();
    let Some((_, socket)) = Daemon::or_skip_without(Generation::Sid, "Docker Engine", engine) else { return };
    let authority = Authority::new("engine").unwrap();
    let acceptor = authority.sign(&["localhost"]).unwrap().acceptor(Some(&authority)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = tokio::net::UnixStream::connect(socket).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let me = authority.sign(&["client"]).unwrap();
    let tls = Tls::new().ca_pem(authority.pem()).identity_pem(me.cert, me.key);
    let client = Client::builder(format!("docker://localhost:{port}")).tls(tls).connect().await;
    works(&client.unwrap_or_else(|error| panic!("{}", error.report()))).await;
}

/// Dials the daemon over TCP, and counts how often.
#[derive(Debug)]
struct Own {
    to: String,
    dialled: Arc<AtomicU32>,
    fail_first: u32,
}

#[async_trait::async_trait]
impl Connector for Own {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        if self.dialled.fetch_add(1, Ordering::Relaxed) < self.fail_first {
            return Err(ConnectError::io(&self.endpoint(), std::io::ErrorKind::ConnectionRefused.into()));
        }
        let stream = TcpStream::connect(&self.to).await;
        Ok(Stream::new(stream.map_err(|error| ConnectError::io(&self.endpoint(), error))?))
    }

    fn endpoint(&self) -> String {
        "own://tunnel".into()
    }
}

#[tokio::test]
async fn a_connector_of_ones_own_leads_to_the_daemon_and_is_tried_as_often_as_asked() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let dialled = Arc::new(AtomicU32::new(0));
    let own = |fail_first| Own { to: tcp(&daemon).to_owned(), dialled: Arc::clone(&dialled), fail_first };
    let client = Client::builder_over(own(0)).connect().await.unwrap();
    works(&client).await;
    assert_eq!(dialled.swap(0, Ordering::Relaxed), 2, "one connection for control calls, one for the build");

    let error = Client::builder_over(own(1)).connect().await.unwrap_err();
    assert!(error.to_string().contains("own://tunnel: nobody listens there"), "{error}");
    assert_eq!(dialled.swap(0, Ordering::Relaxed), 1, "once unless told otherwise");

    let patient = Retry { first_wait: Duration::from_millis(10), ..Retry::times(2) };
    let client = Client::builder_over(own(2)).retry_connect(patient.clone()).connect().await.unwrap();
    assert!(client.daemon().await.is_ok());
    assert_eq!(dialled.swap(0, Ordering::Relaxed), 3);
    let error = Client::builder_over(own(9)).retry_connect(patient).connect().await.unwrap_err();
    assert!(error.to_string().contains("3 attempts"), "{error}");
}

/// A daemon that is not there at first.
#[derive(Debug)]
struct Starting {
    fake: FakeBuildKit,
    until: tokio::time::Instant,
}

#[async_trait::async_trait]
impl Connector for Starting {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        if tokio::time::Instant::now() < self.until {
            return Err(ConnectError::io(&self.endpoint(), std::io::ErrorKind::ConnectionRefused.into()));
        }
        Ok(Stream::new(self.fake.dial()))
    }

    fn endpoint(&self) -> String {
        "fake://starting".into()
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_starting_is_waited_for() {
    let client = |seconds| {
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        Client::builder_over(Starting { fake: FakeBuildKit::script().start(), until }).lazy().unwrap()
    };
    let started = tokio::time::Instant::now();
    client(10).wait_ready(Duration::from_secs(30)).await.unwrap();
    assert!((10..=11).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let started = tokio::time::Instant::now();
    let error = client(1000).wait_ready(Duration::from_secs(30)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Connect(error) if *error.kind() == ConnectErrorKind::Refused),
        "{error:?}"
    );
    assert!((28..=31).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_waiting_cannot_cure_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let client = Client::builder(format!("tcp://{address}")).lazy().unwrap();
    let error = client.wait_ready(Duration::from_secs(600)).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
}

#[tokio::test]
async fn what_listens_there_and_is_no_daemon_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9\r\n", b""] {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = near.read(&mut request).await;
            near.write_all(answer).await.unwrap();
        }
    });
    for says in ["HTTP/1.1", "SSH server", "closed the connection at once"] {
        let error = Client::connect(format!("tcp://{address}")).await.unwrap_err();
        assert!(error.report().contains(says), "{says}: {}", error.report());
        assert!(!error.may_have_run());
    }
}

// TLS

async fn over_tls(bridge: &TlsBridge, host: &str, tls: Tls) -> Result<Client, Error> {
    Client::builder(format!("tcp://{host}:{}", bridge.address().port())).tls(tls).connect().await
}

#[tokio::test]
async fn tls_leads_to_the_daemon_and_what_is_wrong_with_it_is_told() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (authority, stranger) = (Authority::new("daemon").unwrap(), Authority::new("stranger").unwrap());
    let bridge = async |certificate: Certificate, clients: Option<&Authority>| {
        TlsBridge::start(tcp(&daemon), certificate.acceptor(clients).unwrap()).await.unwrap()
    };
    let names = ["localhost", "127.0.0.1", "buildkitd.corp"];
    let plain = bridge(authority.sign(&names).unwrap(), None).await;
    let mutual = bridge(authority.sign(&names).unwrap(), Some(&authority)).await;
    let expired = bridge(authority.sign_expired(&names).unwrap(), None).await;
    let named = bridge(authority.sign(&["buildkitd.corp"]).unwrap(), None).await;

    let trusting = || Tls::new().ca_pem(authority.pem());
    let own = |certificate: Certificate| trusting().identity_pem(certificate.cert, certificate.key);
    for (bridge, tls) in [
        (&plain, trusting()),
        (&named, trusting().server_name("buildkitd.corp")),
        (&mutual, own(authority.sign(&["me"]).unwrap())),
    ] {
        let client = over_tls(bridge, "localhost", tls).await;
        works(&client.unwrap_or_else(|error| panic!("{}", error.report()))).await;
    }
    for (what, bridge, tls, says) in [
        ("no CA", &plain, Tls::new(), "not signed by the given CA"),
        ("a wrong CA", &plain, Tls::new().ca_pem(stranger.pem()), "not signed by the given CA"),
        ("a wrong name", &named, trusting(), "is for another name"),
        ("a name asked for", &plain, trusting().server_name("other.corp"), "is for another name"),
        ("an expired certificate", &expired, trusting(), "has expired"),
        ("no client certificate", &mutual, trusting(), "wants a client certificate"),
        (
            "an expired client certificate",
            &mutual,
            own(authority.sign_expired(&["me"]).unwrap()),
            "client certificate has expired",
        ),
        (
            "a stranger's client certificate",
            &mutual,
            own(stranger.sign(&["me"]).unwrap()),
            "does not accept the client certificate",
        ),
    ] {
        let error = over_tls(bridge, "localhost", tls).await.unwrap_err();
        let Error::Connect(connect) = &error else { panic!("{what}: {error:?}") };
        assert!(matches!(connect.kind(), ConnectErrorKind::Tls { .. }), "{what}: {connect:?}");
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert!(!error.is_transient(), "{what}");
    }

    // One side speaks TLS, the other does not.
    let error = Client::connect(format!("tcp://{}", plain.address())).await.unwrap_err();
    assert!(error.report().contains("speaks TLS") || error.report().contains("closed"), "{}", error.report());
    let error = Client::builder(&daemon.endpoint).tls(trusting()).connect().await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn certificates_are_read_again_for_each_connection() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    let start = async |authority: &Authority| {
        let acceptor = authority.sign(&["127.0.0.1"]).unwrap().acceptor(Some(authority)).unwrap();
        TlsBridge::start(tcp(&daemon), acceptor).await.unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    // The names that cert-manager uses are known as well.
    let write = |authority: &Authority| {
        let own = authority.sign(&["me"]).unwrap();
        std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
        std::fs::write(dir.path().join("tls.crt"), own.cert).unwrap();
        std::fs::write(dir.path().join("tls.key"), own.key).unwrap();
    };
    write(&old);
    let before = start(&old).await;
    let tls = Tls::new().dir(dir.path());
    let client = over_tls(&before, "127.0.0.1", tls.clone()).await.unwrap();
    works(&client).await;
    let renewed = start(&new).await;
    let error = over_tls(&renewed, "127.0.0.1", tls.clone()).await.unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
    write(&new);
    works(&over_tls(&renewed, "127.0.0.1", tls).await.unwrap()).await;
    // The same client makes a connection for each build, with what the files hold now.
    let error = client.solve(buildkit_llb::scratch().mkfile("/a", 0o644, "a")).await.unwrap_err();
    assert!(error.to_string().contains("not signed"), "{error}");
}

#[tokio::test]
async fn a_folder_of_certificates_is_read_as_buildctl_reads_it() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let authority = Authority::new("daemon").unwrap();
    let acceptor = authority.sign(&["127.0.0.1"]).unwrap().acceptor(Some(&authority)).unwrap();
    let bridge = TlsBridge::start(tcp(&daemon), acceptor).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    authority.sign(&["me"]).unwrap().write(&authority, dir.path()).unwrap();
    // The first of each pair of names counts.
    std::fs::write(dir.path().join("ca.crt"), "not a certificate").unwrap();
    works(&over_tls(&bridge, "127.0.0.1", Tls::new().dir(dir.path())).await.unwrap()).await;

    for (remove, says) in
        [("key.pem", "a certificate or a key, not both"), ("cert.pem", "wants a client certificate")]
    {
        std::fs::remove_file(dir.path().join(remove)).unwrap();
        let error = over_tls(&bridge, "127.0.0.1", Tls::new().dir(dir.path())).await.unwrap_err();
        assert!(error.to_string().contains(says), "{remove}: {error}");
    }
    for (tls, says) in [
        (Tls::new().ca_file("/no/such/ca.pem"), "could not read the CA certificate /no/such/ca.pem"),
        (Tls::new().ca_pem("nothing"), "holds no PEM certificate"),
        (Tls::new().ca_pem(authority.pem()).identity_pem(authority.pem(), "nothing"), "client key"),
        (Tls::new().dir("/no/such/dir"), "neither a CA nor a certificate"),
    ] {
        let error = over_tls(&bridge, "127.0.0.1", tls).await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[test]
fn the_systems_authorities_are_trusted_when_asked() {
    if inside() {
        return runtime().block_on(async {
            let address = std::env::var("ENDPOINTS_ADDRESS").unwrap();
            let with = Client::builder(&address).tls(Tls::new().system_roots()).connect().await.unwrap();
            works(&with).await;
            let without = Client::builder(&address).tls(Tls::new()).connect().await.unwrap_err();
            assert!(without.to_string().contains("not signed"), "{without}");
        });
    }
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let authority = Authority::new("system").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let roots: PathBuf = dir.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let runtime = runtime();
    let acceptor = authority.sign(&["127.0.0.1"]).unwrap().acceptor(None).unwrap();
    let bridge = runtime.block_on(TlsBridge::start(tcp(&daemon), acceptor)).unwrap();
    let address = format!("tcp://{}", bridge.address());
    let test = std::thread::spawn(move || {
        let roots = roots.to_str().unwrap().to_owned();
        let variables = [("SSL_CERT_FILE", roots.as_str()), ("ENDPOINTS_ADDRESS", address.as_str())];
        again("the_systems_authorities_are_trusted_when_asked", &variables)
    });
    // The bridge lives while its runtime is run.
    runtime.block_on(async {
        while !test.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    test.join().unwrap();
}

#[tokio::test]
async fn tls_is_refused_where_it_means_nothing() {
    for address in ["unix:///run/buildkit/buildkitd.sock", "docker-container://bk", "ssh://host"] {
        let error = Client::builder(address).tls(Tls::new()).lazy().unwrap_err();
        assert!(error.to_string().contains("TLS works with tcp:// only"), "{error}");
    }
    let error = Client::builder("npipe:////./pipe/buildkitd").lazy().unwrap_err();
    assert!(error.to_string().contains("only supported on windows"), "{error}");
}

#[tokio::test]
async fn a_message_near_the_limit_passes_both_ways() {
    use buildkit_proto::control::{SolveResponse, StatusResponse, VertexLog};
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            let log = VertexLog { msg: vec![b'x'; 15 << 20].into(), ..Default::default() };
            let _ = out.send(Ok(StatusResponse { logs: vec![log], ..Default::default() })).await;
            call.solve_ended().await;
            Ok(())
        })
        .on_solve(|solve| async move {
            assert_eq!(solve.request.frontend_attrs["big"].len(), 15 << 20);
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(SolveResponse::default())
        })
        .start();
    let client = fake.client_with(&Faults::default(), Liveness::default());
    let (sink, mut events) = buildkit_client::progress::channel();
    let frontend = buildkit_client::request::Frontend::new("x").opt("big", "x".repeat(15 << 20));
    client.solve(frontend).progress(sink).await.unwrap();
    let mut seen = 0;
    while let Some(event) = events.next().await {
        if let buildkit_client::progress::Event::Status(status) = event {
            seen += status.logs.iter().map(|log| log.data.len()).sum::<usize>();
        }
    }
    assert_eq!(seen, 15 << 20);
}
