//! Credentials: who gets them, in what form, and where they come from.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::{SolveError, SolveErrorKind};
use buildkit_client::export::Export;
use buildkit_client::policy::{SourceCheck, Verdict, verifier};
use buildkit_client::request::Frontend;
use buildkit_client::session::RegistryScope;
use buildkit_client::session::auth::{Auth, Credentials};
use buildkit_client::tls::Tls;
use buildkit_client::{Error, Solve};
use buildkit_proto::auth::FetchTokenRequest;
use buildkit_proto::auth::auth_client::AuthClient;
use buildkit_proto::control::{InfoResponse, SolveResponse};
use buildkit_proto::gateway::ResolveSourceMetaResponse;
use buildkit_proto::policysession::CheckPolicyRequest;
use buildkit_proto::policysession::policy_verifier_client::PolicyVerifierClient;
use buildkit_proto::{pb, worker};
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::fake::{Answer, FakeBuildKit, FakeRegistry, Session};
use buildkit_tests::tls::Authority;
use buildkit_tests::token_registry::{Asked, TokenRegistry};
use http::Method;
use tonic::Status;

const HOSTS: [&str; 5] = ["docker.io", "reg.corp", "ghcr.io", "gcr.io", "quay.io"];

/// Knows credentials for everything in [`HOSTS`].
fn rich() -> Auth {
    let known = |host: &str| (host.to_owned(), Credentials::password("ann", "canary"));
    Auth::new(HOSTS.into_iter().map(known).collect::<BTreeMap<_, _>>())
}

/// A daemon that asks for the credentials of hosts, and notes which of them it got.
fn greedy(hosts: &'static [&'static str]) -> (FakeBuildKit, Arc<Mutex<Vec<&'static str>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&got);
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let notes = Arc::clone(&notes);
            async move {
                let session = solve.session().await?;
                for host in hosts {
                    if session.credentials(host).await?.secret == "canary" {
                        notes.lock().unwrap().push(*host);
                    }
                }
                Ok(SolveResponse::default())
            }
        })
        .start();
    (fake, got)
}

fn context(dockerfile: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    dir
}

#[tokio::test]
async fn f43_r11_a_dockerfile_build_shares_the_credentials_of_what_it_names() {
    const ASKED: [&str; 7] =
        ["registry-1.docker.io", "reg.corp", "ghcr.io", "gcr.io", "gcr.io.evil.com", "quay.io", "other.io"];
    let dir = context("ARG R=ghcr.io\nFROM ${R}/a/b\nCOPY --from=gcr.io.evil.com/x /a /a\n");
    let (fake, got) = greedy(&ASKED);
    let build = fake
        .client()
        .solve(Frontend::new("dockerfile.v0"))
        .local("context", dir.path())
        .export(Export::image("reg.corp/app:1").push())
        .auth(rich());
    let solved = build.await.unwrap();
    assert_eq!(*got.lock().unwrap(), ["registry-1.docker.io", "reg.corp", "ghcr.io"]);
    let refused = solved.refused_requests();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused.iter().any(|text| text.contains("gcr.io,")), "{refused:?}");
}

#[tokio::test]
async fn f43_what_the_caller_adds_or_trusts_is_shared() {
    const ASKED: [&str; 3] = ["docker.io", "gcr.io", "quay.io"];
    let dir = context("FROM scratch\n");
    let shared = async |change: &dyn Fn(Solve) -> Solve| {
        let (fake, got) = greedy(&ASKED);
        let build = fake.client().solve(Frontend::new("dockerfile.v0")).local("context", dir.path());
        change(build).auth(rich()).await.unwrap();
        std::mem::take(&mut *got.lock().unwrap())
    };
    assert_eq!(shared(&|build| build).await, ["docker.io"]);
    assert_eq!(shared(&|build| build.registry("gcr.io")).await, ["docker.io", "gcr.io"]);
    assert_eq!(shared(&|build| build.registries(RegistryScope::Any)).await, ASKED);
    assert_eq!(shared(&|build| build.registries(RegistryScope::hosts(["quay.io"]))).await, ["quay.io"]);
}

#[tokio::test]
async fn a_refused_registry_is_named_by_the_error_of_the_build() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let given = solve.session().await?.credentials("gcr.io").await?;
            assert_eq!((given.username.as_str(), given.secret.as_str()), ("", ""));
            Err(Status::unknown("failed to resolve source metadata for gcr.io/a: 401 Unauthorized"))
        })
        .start();
    let frontend = Frontend::new("dockerfile.v0").opt("context", "https://example.com/a.git");
    let error = fake.client().solve(frontend).auth(rich()).await.unwrap_err();
    assert!(error.to_string().contains(".registry(\"gcr.io\")"), "{error}");
    assert_eq!(error.as_solve().unwrap().kind(), SolveErrorKind::Auth);
}

#[tokio::test]
async fn a_registry_that_lets_nobody_in_is_told_with_what_it_was_given() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let registry = &daemon.registries.private;
    let build = || {
        let graph = buildkit_llb::scratch().mkfile("/f", 0o644, "x");
        client.solve(graph).export(Export::image(registry.repository("denied")).push())
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    // "builder:wrong"
    let config = serde_json::json!({"auths": {&registry.address: {"auth": "YnVpbGRlcjp3cm9uZw=="}}});
    std::fs::write(&path, config.to_string()).unwrap();
    let wrong = DockerConfig::from_file(&path).unwrap();
    let (missing, other) = (dir.path().join("missing.json"), dir.path().join("other.json"));
    std::fs::write(&other, "{}").unwrap();
    for (solve, says) in [
        (build().auth(wrong), format!("came from auths[{:?}] in {}", registry.address, path.display())),
        (build().auth(DockerConfig::empty()), format!("no credentials for {} were found", registry.address)),
        (
            build().auth(DockerConfig::from_file(&missing).unwrap()),
            format!("{} were found ({}: no such file)", registry.address, missing.display()),
        ),
        (build().auth(DockerConfig::from_file(&other).unwrap()), format!("({}: no entry)", other.display())),
        (build(), "no credentials were given to the build".to_owned()),
    ] {
        let error = solve.await.unwrap_err();
        assert_eq!(error.as_solve().map(SolveError::kind), Some(SolveErrorKind::Auth), "{}", error.report());
        assert!(error.report().contains(&says), "{says}: {}", error.report());
    }
}

#[tokio::test]
async fn a_policy_callback_names_the_registries_of_what_it_puts_in_place_of_others() {
    let fake = FakeBuildKit::script()
        .on_info(|_| async {
            let version = worker::BuildkitVersion { version: "v0.26.0".into(), ..Default::default() };
            Ok(InfoResponse { buildkit_version: Some(version) })
        })
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let user = async |host: &str| session.credentials(host).await.map(|found| found.username);
            let before = user("reg.corp").await?;
            for identifier in ["docker-image://docker.io/library/a", "docker-image://gcr.io/asked/about"] {
                let source = pb::SourceOp { identifier: identifier.into(), ..Default::default() };
                let source = ResolveSourceMetaResponse { source: Some(source), ..Default::default() };
                let request = CheckPolicyRequest { source: Some(source), ..Default::default() };
                PolicyVerifierClient::new(session.channel()).check_policy(request).await?;
            }
            let found = format!("{before},{},{}", user("reg.corp").await?, user("gcr.io").await?);
            Ok(SolveResponse { exporter_response: [("found".to_owned(), found)].into() })
        })
        .start();
    let convert = verifier(|check: SourceCheck| async move {
        Ok(match check.identifier() {
            "docker-image://docker.io/library/a" => Verdict::convert("docker-image://reg.corp/a"),
            _ => Verdict::Allow,
        })
    });
    let solve = fake.client().solve(Frontend::new("dockerfile.v0")).auth(rich()).policy_callback(convert);
    assert_eq!(solve.await.unwrap().get("found"), Some(",ann,"));
}

#[tokio::test]
async fn f43_a_function_shares_the_credentials_of_what_it_asks_for() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let private = daemon.registries.private.clone();
    let name = private.repository("base");
    let dir = tempfile::tempdir().unwrap();
    private.docker_config(dir.path()).unwrap();
    let config = DockerConfig::from_file(dir.path().join("config.json")).unwrap();
    let client = daemon.client().await;
    let base = buildkit_llb::image("alpine");
    let pushed = client.solve(&base).auth(config.clone()).export(Export::image(&name).push()).await;
    pushed.unwrap_or_else(|error| panic!("{}", error.report()));
    // Nothing but the function knows where the base comes from.
    let build = client.build(move |gateway: buildkit_frontend::Gateway| {
        let name = name.clone();
        async move {
            let base = gateway.image(&name).await?;
            gateway.solve_state(&base.mkfile("/a", 0o644, "a")).await
        }
    });
    build.auth(config).await.unwrap_or_else(|error| panic!("{}", error.report()));
}

/// Pushes a small image.
async fn push(daemon: &Daemon, auth: impl Into<Auth>, name: &str) -> Result<String, Error> {
    let graph = buildkit_llb::scratch().mkfile("/name", 0o644, name.to_owned());
    let client = daemon.client().await;
    let solved = client.solve(graph).auth(auth).export(Export::image(name).push()).await?;
    Ok(solved.digest().to_owned())
}

#[tokio::test]
async fn r12_a_registry_with_tokens_gets_them_and_the_daemon_no_password() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let users = BTreeMap::from([("ann", ("canary-ann", "team-a/")), ("bob", ("canary-bob", "team-b/"))]);
    let Some(registry) = TokenRegistry::start(&daemon, users).await.unwrap() else { return };
    let host = registry.address();
    // One host, two projects, two credentials: those that cover the repository count.
    let config = serde_json::json!({"auths": {
        format!("{host}/team-a"): {"username": "ann", "password": "canary-ann"},
        format!("{host}/team-b"): {"username": "bob", "password": "canary-bob"},
    }});
    let config = DockerConfig::from_json(config.to_string().as_bytes()).unwrap();
    for (user, team) in [("ann", "team-a"), ("bob", "team-b")] {
        let explained = config.explain(host, Some(&format!("{team}/app"))).await.to_string();
        assert!(explained.contains(&format!("{host}/{team}")), "{explained}");
        let before = registry.requests().len();
        let digest = push(&daemon, config.clone(), &format!("{host}/{team}/app:1")).await;
        let digest = digest.unwrap_or_else(|error| panic!("{}", error.report()));
        assert!(digest.starts_with("sha256:"), "{digest}");
        let requests = registry.requests().split_off(before);
        let granted: Vec<_> = requests.iter().map(Asked::read).filter(|asked| asked.user.is_some()).collect();
        assert!(!granted.is_empty());
        for asked in granted {
            assert_eq!(asked.user.as_deref(), Some(user), "{asked:?}");
            assert!(asked.scopes.iter().all(|scope| scope.contains(team)), "{asked:?}");
        }
        for request in requests {
            assert!(!request.path.contains("canary"), "a password in a URL: {}", request.path);
            if request.contains("canary") {
                assert_eq!(request.method, Method::POST);
            }
        }
    }
}

#[tokio::test]
async fn a_token_server_that_refuses_is_told_with_the_registry() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let users = BTreeMap::from([("ann", ("canary-ann", "a/"))]);
    let Some(registry) = TokenRegistry::start(&daemon, users).await.unwrap() else { return };
    let host = registry.address();
    let auth = |password: &str| {
        Auth::new(BTreeMap::from([(host.to_owned(), Credentials::password("ann", password.to_owned()))]))
    };
    let wrong = push(&daemon, auth("canary-wrong"), &format!("{host}/a/app")).await.unwrap_err();
    let text = wrong.report();
    assert!(text.contains(host) && text.contains("the credentials are wrong"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    // A repository of somebody else: the token gives no access.
    let foreign = push(&daemon, auth("canary-ann"), &format!("{host}/b/app")).await.unwrap_err();
    let kind = foreign.as_solve().map(buildkit_client::error::SolveError::kind);
    assert_eq!(kind, Some(SolveErrorKind::Auth), "{}", foreign.report());
    let right = push(&daemon, auth("canary-ann"), &format!("{host}/a/app")).await;
    assert!(right.is_ok(), "{:?}", right.map_err(|error| error.report()));
}

#[tokio::test]
async fn tokens_may_be_fetched_by_the_daemon() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let users = BTreeMap::from([("ann", ("canary-ann", "a/"))]);
    let Some(registry) = TokenRegistry::start(&daemon, users).await.unwrap() else { return };
    let host = registry.address();
    let auth = Auth::new(BTreeMap::from([(host.to_owned(), Credentials::password("ann", "canary-ann"))]));
    let pushed = push(&daemon, auth.daemon_fetches_tokens(true), &format!("{host}/a/app")).await;
    pushed.unwrap_or_else(|error| panic!("{}", error.report()));
    let agents: Vec<_> = registry
        .requests()
        .iter()
        .filter_map(|request| Some(request.headers.get("user-agent")?.to_str().ok()?.to_owned()))
        .collect();
    assert!(
        !agents.is_empty() && agents.iter().all(|agent| !agent.contains("buildkit-client")),
        "{agents:?}"
    );
}

async fn token(session: &Session, host: &str) -> Result<String, Status> {
    let request = FetchTokenRequest {
        client_id: "buildkit-client".into(),
        host: host.into(),
        realm: format!("https://{host}/token"),
        service: "s".into(),
        scopes: vec!["repository:a:pull".into()],
    };
    Ok(AuthClient::new(session.channel()).fetch_token(request).await?.into_inner().token)
}

#[tokio::test]
async fn a_token_server_behind_mutual_tls_is_reached_with_its_registrys_certificates_only() {
    let (authority, other) = (Authority::new("tokens").unwrap(), Authority::new("other").unwrap());
    let acceptor = |clients| authority.sign(&["127.0.0.1"]).unwrap().acceptor(clients).unwrap();
    let answer = |_: &_| Answer::json(&serde_json::json!({"access_token": "T", "token": "T"}));
    let strict = FakeRegistry::start_at("127.0.0.1", Some(acceptor(Some(&authority))), answer).await.unwrap();
    let open = FakeRegistry::start_at("127.0.0.1", Some(acceptor(None)), answer).await.unwrap();
    let (strict, open) = (strict.address(), open.address());

    let me = authority.sign(&["client"]).unwrap();
    let known = |host: &String| (host.clone(), Credentials::password("ann", "canary"));
    let auth = || Auth::new([&strict, &open].into_iter().map(known).collect::<BTreeMap<_, _>>());
    let full = Tls::new().ca_pem(authority.pem()).identity_pem(me.cert, me.key);
    let cases = [
        (auth().tls(&strict, full.clone()), &strict, Ok("T")),
        (auth(), &strict, Err("not signed by the given CA")),
        (auth().tls(&strict, Tls::new().ca_pem(authority.pem())), &strict, Err("client certificate")),
        (auth().tls(&open, Tls::new().ca_pem(authority.pem())), &open, Ok("T")),
        (auth().tls(&open, Tls::new().ca_pem(other.pem())), &open, Err("not signed by the given CA")),
        // The certificates of one registry are none of another.
        (auth().tls(&strict, full), &open, Err("not signed by the given CA")),
    ];
    for (auth, host, expected) in cases {
        let asked = host.clone();
        let outcome = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&outcome);
        let fake = FakeBuildKit::script()
            .on_solve(move |solve| {
                let (asked, keep) = (asked.clone(), Arc::clone(&keep));
                async move {
                    let token = token(&solve.session().await?, &asked).await;
                    *keep.lock().unwrap() = Some(token);
                    Ok(SolveResponse::default())
                }
            })
            .start();
        let build = fake.client().solve(Frontend::new("dockerfile.v0")).registry(host);
        build.auth(auth).await.unwrap();
        let outcome = outcome.lock().unwrap().take().unwrap();
        match (outcome, expected) {
            (Ok(token), Ok(expected)) => assert_eq!(token, expected),
            (Err(status), Err(part)) => assert!(status.message().contains(part), "{status}"),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }
}
