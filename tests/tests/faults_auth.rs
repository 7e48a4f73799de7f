//! Credentials, and who tries to get them: rows F42 to F47 of the fault table, and the advisories about them. The
//! registry and its token server misbehave; what they receive is searched for the secret.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildkit_client::cache::{GhaCache, RegistryCache, S3Cache};
use buildkit_client::connect::{Connector, Stream, Tcp};
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::ConnectError;
use buildkit_client::export::Export;
use buildkit_client::progress;
use buildkit_client::request::Frontend;
use buildkit_client::session::auth::{Auth, Credentials};
use buildkit_client::session::secrets::SecretSource;
use buildkit_client::tls::Tls;
use buildkit_client::{Error, Secret, Solve};
use buildkit_proto::auth::auth_client::AuthClient;
use buildkit_proto::auth::{FetchTokenRequest, FetchTokenResponse};
use buildkit_proto::control::{SolveResponse, StatusResponse, Vertex, VertexLog};
use buildkit_proto::pb;
use buildkit_tests::canary;
use buildkit_tests::fake::{Answer, FakeBuildKit, FakeRegistry, Link, Session};
use tonic::{Code, Status};

fn dockerfile() -> Frontend {
    Frontend::new("dockerfile.v0")
}

async fn token(session: &Session, host: &str, realm: &str) -> Result<FetchTokenResponse, Status> {
    let request = FetchTokenRequest {
        client_id: "buildkit-client".into(),
        host: host.into(),
        realm: realm.into(),
        service: "registry".into(),
        scopes: vec!["repository:a:pull".into()],
    };
    Ok(AuthClient::new(session.channel()).fetch_token(request).await?.into_inner())
}

/// A build in which the daemon asks for a token of `host` at each of the realms; what it got.
async fn tokens(host: &str, realms: &[String], password: &str) -> Vec<Result<FetchTokenResponse, Status>> {
    let got = Arc::new(Mutex::new(Vec::new()));
    let (notes, asked_host, realms) = (Arc::clone(&got), host.to_owned(), realms.to_vec());
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let (notes, host, realms) = (Arc::clone(&notes), asked_host.clone(), realms.clone());
            async move {
                let session = solve.session().await?;
                for realm in realms {
                    let answer = token(&session, &host, &realm).await;
                    notes.lock().unwrap().push(answer);
                }
                Ok(SolveResponse::default())
            }
        })
        .start();
    let auth = Auth::new(BTreeMap::from([(host.to_owned(), Credentials::password("ann", password))]));
    // A failure on this side is the build's, even where the daemon goes on.
    let _ = fake.client().solve(dockerfile()).registry(host).auth(auth).await;
    std::mem::take(&mut *got.lock().unwrap())
}

#[tokio::test]
async fn f42_cve_2020_15157_a_password_never_reaches_a_foreign_token_server() {
    let password = canary::secret("f42");
    let evil =
        FakeRegistry::start_at("127.0.0.2", None, |_| Answer::json(&serde_json::json!({"token": "T"})));
    let evil = evil.await.unwrap();
    let target = evil.address();
    // A registry that redirects its own token server elsewhere, in every way there is.
    let registry = FakeRegistry::start(move |request| {
        let code = request.path.split(['/', '?']).nth(1).and_then(|part| part.parse().ok()).unwrap_or(302);
        Answer::status(code).header("location", format!("http://{target}/stolen"))
    });
    let registry = registry.await.unwrap();
    let host = registry.address();
    let mut realms = vec![
        format!("http://{}/token", evil.address()),
        format!("http://{host}@{}/token", evil.address()),
        format!("http://{}/token?x=http://{host}", evil.address()),
        format!("http://{}:{}/token", "127.0.0.1.evil.example", 80),
        "file:///etc/passwd".to_owned(),
        "http://reg.example/token".to_owned(),
    ];
    realms.extend([301, 302, 303, 307, 308].map(|code| format!("http://{host}/{code}/token")));
    for (realm, answer) in realms.iter().zip(tokens(&host, &realms, &password).await) {
        let status = answer.map(drop).unwrap_err();
        assert!(!canary::leaks(status.message()), "{realm}: the error tells the password");
    }
    assert!(evil.received().is_empty(), "{:?}", evil.received().iter().map(|r| &r.path).collect::<Vec<_>>());
    // The registry's own server did get it, in the body of a request only.
    let received = registry.received();
    assert!(received.iter().any(|request| request.contains(&password)));
    assert!(received.iter().all(|request| !request.path.contains(&password)), "never in a URL");
}

#[tokio::test]
async fn f42_redirects_on_the_own_host_carry_no_credentials() {
    let password = canary::secret("f42");
    let registry = FakeRegistry::start(|request| match request.path.split('?').next() {
        Some("/token") if request.method == http::Method::POST => Answer::status(404),
        Some("/token") => Answer::status(302).header("location", "/moved"),
        _ => Answer::json(&serde_json::json!({"token": "T"})),
    });
    let registry = registry.await.unwrap();
    let host = registry.address();
    let answers = tokens(&host, &[format!("http://{host}/token")], &password).await;
    assert_eq!(answers[0].as_ref().unwrap().token, "T");
    let received = registry.received();
    let moved = received.iter().find(|request| request.path.starts_with("/moved")).unwrap();
    assert!(moved.authorization().is_none() && !moved.contains(&password));
}

#[tokio::test]
async fn f44_a_registry_that_is_busy_or_broken_is_asked_a_few_times_with_pauses() {
    // 401 for ever: the credentials are wrong, and asking again does not change that.
    for (code, most) in [(401, 2), (403, 2), (400, 1), (404, 2)] {
        let registry = FakeRegistry::start(move |_| Answer::status(code)).await.unwrap();
        let host = registry.address();
        let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
        let status = answer.unwrap_err();
        assert!(registry.received().len() <= most, "{code}: {} requests", registry.received().len());
        assert!(status.message().contains(&code.to_string()), "{code}: {status}");
    }
    // Busy once: as long as it says is waited, then it is asked again.
    let registry = FakeRegistry::start(|request| match request.count {
        1 => Answer::status(429).header("retry-after", "1"),
        _ => Answer::json(&serde_json::json!({"access_token": "T"})),
    });
    let registry = registry.await.unwrap();
    let host = registry.address();
    let started = Instant::now();
    let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
    assert_eq!(answer.unwrap().token, "T");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(registry.received().len(), 2);
    // Busy for years: that is not waited for.
    let registry =
        FakeRegistry::start(|_| Answer::status(503).header("retry-after", "4294967295")).await.unwrap();
    let host = registry.address();
    let started = Instant::now();
    let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
    assert!(answer.unwrap_err().message().contains("503"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn f44_answers_that_are_cut_short_or_no_token_are_errors() {
    let whole = || bytes::Bytes::from(r#"{"access_token":"T","expires_in":300}"#);
    for (name, answer) in [
        ("cut", Answer::Truncated(whole(), 10)),
        ("html", Answer::Plain(http::StatusCode::OK, vec![], "<html>".into())),
        ("empty", Answer::status(200)),
        ("no token", Answer::json(&serde_json::json!({"token": ""}))),
        ("a list", Answer::json(&serde_json::json!([1, 2]))),
        ("a number", Answer::json(&serde_json::json!({"access_token": 5}))),
        ("huge", Answer::Plain(http::StatusCode::OK, vec![], vec![b'['; 3 << 20].into())),
    ] {
        let registry = FakeRegistry::start(move |_| answer.clone()).await.unwrap();
        let host = registry.address();
        let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
        assert!(answer.is_err(), "{name}");
        assert!(registry.received().len() <= 5, "{name}: {}", registry.received().len());
    }
}

#[tokio::test(start_paused = true)]
async fn f44_a_token_server_that_never_answers_is_given_up_within_a_minute() {
    for answer in [Answer::Silence, Answer::Stalled(bytes::Bytes::from(r#"{"access_token":"T"}"#), 5)] {
        let registry = FakeRegistry::start(move |_| answer.clone()).await.unwrap();
        let host = registry.address();
        let started = tokio::time::Instant::now();
        let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
        assert!(answer.unwrap_err().message().contains(&host));
        assert!(started.elapsed() <= Duration::from_secs(60), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn f45_a_token_counts_from_when_it_was_received_where_the_clock_of_its_server_is_wrong() {
    for (issued, trusted) in [("1999-01-01T00:00:00Z", false), ("2099-01-01T00:00:00Z", false)] {
        let registry = FakeRegistry::start(move |_| {
            Answer::json(&serde_json::json!({"access_token": "T", "expires_in": 300, "issued_at": issued}))
        });
        let registry = registry.await.unwrap();
        let host = registry.address();
        let answer = tokens(&host, &[format!("http://{host}/token")], "p").await.remove(0);
        // 0 lets the daemon count from now.
        let answer = answer.unwrap();
        assert_eq!(answer.issued_at != 0, trusted, "{issued}");
    }
}

#[tokio::test]
async fn f47_a_hanging_credential_helper_ends_with_its_build() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("docker-credential-hangs");
    std::fs::write(&helper, "#!/bin/sh\nsleep 1000 &\necho $! > \"$0.pid\"\nwait\n").unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            solve.session().await?.credentials("reg.local").await?;
            Ok(SolveResponse::default())
        })
        .start();
    let config = DockerConfig::from_json(br#"{"credHelpers":{"reg.local":"hangs"}}"#).unwrap();
    let config = config.helper_path(dir.path());
    let build = fake.client().solve(dockerfile()).registry("reg.local").auth(config).start();
    let file = dir.path().join("docker-credential-hangs.pid");
    let pid = loop {
        match std::fs::read_to_string(&file) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    build.cancel();
    assert!(matches!(build.await, Err(Error::Canceled)));
    let stat = format!("/proc/{pid}/stat");
    for _ in 0..1000 {
        if !std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("what the helper started, {pid}, is still running");
}

/// A daemon that gets hold of every secret and says it wherever it can: in names, errors, progress.
fn indiscreet() -> FakeBuildKit {
    FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let secret = session.secret("token").await?;
            let secret = String::from_utf8_lossy(&secret).into_owned();
            let given = session.credentials("reg.local").await?;
            assert!(given.secret.contains(canary::MARK) && secret.contains(canary::MARK));
            let url = format!("https://ann:{}@git.example/r.git?access_token={secret}#main", given.secret);
            Err(Status::unknown(format!("failed to fetch {url}: Authorization: Basic {secret}")))
        })
        .on_status(|call, out| async move {
            let secret = canary::secret("name");
            let url = format!("https://ann:{secret}@git.example/r.git?token={secret}");
            let odd = format!("https://ann:%zz{secret}/?#@git.example/");
            let vertex = Vertex {
                digest: "sha256:v".into(),
                name: format!("[internal] load git source {url} {odd}"),
                error: format!("cannot fetch {url}"),
                started: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
                ..Default::default()
            };
            let member = Vertex {
                digest: "sha256:m".into(),
                progress_group: Some(pb::ProgressGroup { id: "g".into(), name: url.clone(), weak: false }),
                ..vertex.clone()
            };
            let status = buildkit_proto::control::VertexStatus {
                id: format!("fetching {url}"),
                vertex: "sha256:v".into(),
                ..Default::default()
            };
            let log =
                VertexLog { vertex: "sha256:v".into(), msg: b"cloning\n"[..].into(), ..Default::default() };
            let message = StatusResponse {
                vertexes: vec![vertex, member],
                statuses: vec![status],
                logs: vec![log],
                ..Default::default()
            };
            let _ = out.send(Ok(message)).await;
            call.solve_ended().await;
            Ok(())
        })
        .start()
}

/// A build with secrets in every place that takes one.
fn full_of_secrets(fake: &FakeBuildKit) -> Solve {
    let password = canary::secret("password");
    let credentials =
        BTreeMap::from([("reg.local".to_owned(), Credentials::password("ann", password.as_str()))]);
    let url = format!("https://ann:{}@git.example/r.git", canary::secret("url"));
    fake.client()
        .solve(
            dockerfile()
                .opt("context", url.as_str())
                .opt("build-arg:NPM_TOKEN", canary::secret("arg"))
                .opt("build-arg:PLAIN", canary::secret("arg"))
                .opt("context:base", url.as_str()),
        )
        .secret("token", SecretSource::value(canary::secret("value").as_str()))
        .registry("reg.local")
        .auth(Auth::new(credentials))
        .cache_to(RegistryCache::new("reg.local/c").attr("token", canary::secret("attr")))
        .cache_to(
            S3Cache::new("bucket", "region")
                .attr("secret_access_key", canary::secret("attr"))
                .attr("session_token", canary::secret("attr")),
        )
        .cache_from(GhaCache::from_env().attr("token", canary::secret("attr")).attr("url", url.as_str()))
        .export(Export::image("reg.local/a").push().attr("registry.token", canary::secret("attr")))
}

#[tokio::test]
async fn f46_cve_2023_26054_cve_2025_0495_secrets_show_nowhere() {
    let (plain, raw) = (Lines::default(), Lines::default());
    let fake = indiscreet();
    let (sink, mut events) = progress::channel();
    let progress =
        progress::plain().writer(plain.clone()).tee(progress::rawjson().writer(raw.clone())).tee(sink);
    let solve = full_of_secrets(&fake).progress(progress);
    let shown = format!("{solve:?} {:#?} {:?}", solve.request(), fake.client());
    assert!(!canary::leaks(&shown), "Debug of a build tells a secret");
    assert!(shown.contains("build-arg:NPM_TOKEN"), "names of options are shown: {shown}");
    let error = solve.await.unwrap_err();
    let error_shown = format!("{error} {error:?} {error:#?} {}", error.report());
    assert!(!canary::leaks(&error_shown), "an error tells a secret");
    assert!(error_shown.contains("git.example/r.git"), "{error_shown}");
    for (name, shown) in [("plain", plain.text()), ("rawjson", raw.text())] {
        assert!(!canary::leaks(&shown), "{name} progress tells a secret");
        assert!(shown.contains("load git source https://***@git.example/r.git?token=***"), "{name}: {shown}");
    }
    while let Some(event) = events.next().await {
        assert!(!canary::leaks(&format!("{event:?}")), "an event tells a secret");
    }
    assert_eq!(canary::traced(canary::MARK), Vec::<String>::new());
    assert!(!canary::traced("credentials shared").is_empty(), "the traces are looked at");
    // In the request to the daemon they are, of course.
    let sent = fake.solves().remove(0);
    assert!(sent.frontend_attrs["build-arg:NPM_TOKEN"].contains(canary::MARK));
}

#[test]
fn f46_values_that_hold_a_secret_do_not_print_it() {
    let secret = canary::secret("value");
    let values: Vec<Box<dyn std::fmt::Debug>> = vec![
        Box::new(Secret::from(secret.as_str())),
        Box::new(Credentials::password("ann", secret.as_str())),
        Box::new(Credentials::identity_token(secret.as_str())),
        Box::new(Credentials::registry_token(secret.as_str())),
        Box::new(SecretSource::value(secret.as_str())),
        Box::new(Auth::new(BTreeMap::from([("h".to_owned(), Credentials::password("u", secret.as_str()))]))),
        Box::new(DockerConfig::from_json(
            format!(
                r#"{{"auths":{{"h":{{"username":"u","password":"{secret}"}},"i":{{"identitytoken":"{secret}"}}}}}}"#
            )
            .as_bytes(),
        )),
        Box::new(DockerConfig::from_json(format!(r#"{{"auths":{{"h":{{"auth":"{secret}"}}}}}}"#).as_bytes())),
        Box::new(DockerConfig::from_json(format!(r#"{{"auths":{{"h":"{secret}"}}"#).as_bytes())),
        Box::new(buildkit_proto::auth::CredentialsResponse { secret: secret.clone(), ..Default::default() }),
        Box::new(FetchTokenResponse { token: secret.clone(), ..Default::default() }),
        Box::new(buildkit_proto::secrets::GetSecretResponse { data: secret.clone().into() }),
    ];
    for value in values {
        let shown = format!("{value:?} {value:#?}");
        assert!(!canary::leaks(&shown), "{}", shown.replace(canary::MARK, "[secret]"));
    }
}

#[tokio::test]
async fn f46_an_address_with_a_password_in_it_is_refused_without_telling_it() {
    let secret = canary::secret("address");
    for address in [
        format!("tcp://ann:{secret}@host:1234"),
        format!("ssh://ann:{secret}@host"),
        format!("docker://ann:{secret}@host:1234"),
        format!("http://ann:{secret}@host"),
        format!("tcp://{secret}@host:99999"),
    ] {
        match buildkit_client::Client::builder(address.as_str()).lazy() {
            Ok(client) => {
                let error = client.solve(dockerfile()).await.unwrap_err();
                let shown = format!("{client:?} {error:?} {}", error.report());
                assert!(!canary::leaks(&shown), "{}", shown.replace(canary::MARK, "[secret]"));
            }
            Err(error) => {
                let shown = format!("{error:?} {}", error.report());
                assert!(!canary::leaks(&shown), "{}", shown.replace(canary::MARK, "[secret]"));
            }
        }
    }
}

#[tokio::test]
async fn f46_secrets_over_a_connection_without_encryption_are_announced() {
    #[derive(Debug)]
    struct Exposed(Link, bool);
    #[async_trait::async_trait]
    impl Connector for Exposed {
        async fn connect(&self) -> Result<Stream, ConnectError> {
            self.0.connect().await
        }
        fn endpoint(&self) -> String {
            "tcp://far.example:1234".to_owned()
        }
        fn is_exposed(&self) -> bool {
            self.1
        }
    }
    for (exposed, secret) in [(true, true), (true, false), (false, true)] {
        let fake = FakeBuildKit::script().start();
        let client = buildkit_client::Client::builder_over(Exposed(Link::to(&fake), exposed)).lazy().unwrap();
        let lines = Lines::default();
        let mut build = client.solve(dockerfile()).progress(progress::plain().writer(lines.clone()));
        if secret {
            build = build.secret("token", SecretSource::value("s"));
        }
        build.await.unwrap();
        let said = lines.text().contains("[security] tcp://far.example:1234 is not encrypted");
        assert_eq!(said, exposed && secret, "{}", lines.text());
    }
    assert!(Tcp::new("far.example", 1, None).is_exposed() && Tcp::new("10.0.0.1", 1, None).is_exposed());
    for local in ["127.0.0.1", "::1", "localhost"] {
        assert!(!Tcp::new(local, 1, None).is_exposed(), "{local}");
    }
    assert!(!Tcp::new("far.example", 1, Some(Tls::new())).is_exposed());
}

/// One registry, two builds with a user each: none of them gets what belongs to the other.
#[tokio::test]
async fn f43_sessions_do_not_share_credentials() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let first = session.credentials("reg.local").await?.username;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let again = session.credentials("reg.local").await?.username;
            Ok(SolveResponse { exporter_response: [("user".to_owned(), format!("{first} {again}"))].into() })
        })
        .start();
    let client = fake.client();
    let build = |user: &str| {
        let known = BTreeMap::from([("reg.local".to_owned(), Credentials::password(user, "p"))]);
        client.solve(dockerfile()).registry("reg.local").auth(Auth::new(known)).into_future()
    };
    let (ann, bob) = tokio::join!(build("ann"), build("bob"));
    assert_eq!(ann.unwrap().get("user"), Some("ann ann"));
    assert_eq!(bob.unwrap().get("user"), Some("bob bob"));
}

/// Messages that are none, on every service that a session offers.
#[tokio::test]
async fn cve_2024_23650_malformed_calls_of_a_daemon_are_errors() {
    use tonic::client::Grpc;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            for method in session.methods() {
                for bytes in [&b""[..], b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x08\x96\x01", &[0x0a; 300]] {
                    let mut grpc = Grpc::new(session.channel());
                    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                    let path = method.parse().map_err(|_| Status::internal("no path"))?;
                    let messages = futures::stream::iter([bytes::Bytes::copy_from_slice(bytes)]);
                    let call = grpc.streaming(tonic::Request::new(messages), path, Raw);
                    let answer = tokio::time::timeout(Duration::from_secs(5), call).await;
                    if let Ok(Ok(answer)) = answer {
                        let mut stream = answer.into_inner();
                        let read = async { while let Ok(Some(_)) = stream.message().await {} };
                        let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
                    }
                }
            }
            // It lives, and what was offered is still there.
            session.health().await?;
            assert_eq!(session.secret("token").await?, "s");
            Ok(SolveResponse::default())
        })
        .start();
    let known = BTreeMap::from([("reg.local".to_owned(), Credentials::password("ann", "p"))]);
    let build = fake
        .client()
        .solve(dockerfile())
        .local("context", dir.path())
        .secret("token", SecretSource::value("s"))
        .auth(Auth::new(known))
        .export(Export::tar(dir.path().join("out.tar")));
    match build.await {
        Ok(_) => {}
        // The export never came, or came as junk.
        Err(Error::Local(error)) => assert!(error.to_string().contains("export 0"), "{error}"),
        Err(error) => panic!("{}", error.report()),
    }
}

/// Sends and receives bytes as they are.
#[derive(Clone, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = bytes::Bytes;
    type Decode = bytes::Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = bytes::Bytes;
    type Error = Status;

    fn encode(&mut self, item: bytes::Bytes, buf: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buf, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = bytes::Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<bytes::Bytes>, Status> {
        use bytes::Buf as _;
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Versions with known defects of what a peer's bytes go through.
#[test]
fn rustsec_2024_0376_rustsec_2024_0003_rustsec_2024_0332_rustsec_2025_0111_libraries_are_past_their_defects()
{
    #[derive(serde::Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock: Lock = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let parts = |version: &str| -> Vec<u64> {
        version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
    };
    let mut seen = 0;
    for Package { name, version } in &lock.package {
        let least: &[u64] = match name.as_str() {
            "tonic" => &[0, 12, 3],
            "h2" => &[0, 4, 4],
            "rustls" => &[0, 23, 5],
            "tar" => &[0, 4, 45],
            "tokio-tar" | "async-tar" | "openssl" | "openssl-sys" | "native-tls" => {
                panic!("{name} is not to be used")
            }
            _ => continue,
        };
        seen += 1;
        assert!(parts(version).as_slice() >= least, "{name} {version}");
    }
    assert!(seen >= 4, "{seen}");
    let duplicates = |name: &str| lock.package.iter().filter(|package| package.name == name).count();
    for name in ["h2", "hyper", "prost", "rustls", "tonic"] {
        assert_eq!(duplicates(name), 1, "{name}");
    }
    assert_eq!(Code::from_i32(99), Code::Unknown, "unknown codes are no panic");
}
