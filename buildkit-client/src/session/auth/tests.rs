use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::progress;
use crate::progress::Reporter;
use crate::session::RegistryScope;
use crate::session::member::{Joined, Offer};

fn service(auth: Auth, hosts: &[&str]) -> (AuthService, Joined) {
    shown_service(auth, hosts, None)
}

fn shown_service(auth: Auth, hosts: &[&str], progress: Option<Reporter>) -> (AuthService, Joined) {
    let session = SessionContext::new("id".into());
    let scope = RegistryScope::hosts(hosts);
    let build = session.join(Offer { scope, progress, ..Offer::default() }).unwrap();
    let seeds = Seeds::new(None);
    let fetches = Arc::new(Semaphore::new(1));
    (AuthService { auth, session, seeds, hosts: Arc::default(), fetches }, build)
}

fn ann(host: &str) -> Auth {
    Auth::new(BTreeMap::from([(host.to_owned(), Credentials::password("ann", "canary"))]))
        .daemon_fetches_tokens(false)
}

async fn ask(service: &AuthService, host: &str) -> Result<CredentialsResponse, Status> {
    let request = Request::new(CredentialsRequest { host: host.into() });
    AuthRpc::credentials(service, request).await.map(Response::into_inner)
}

#[tokio::test]
async fn f43_r11_credentials_are_for_registries_of_this_build_only() {
    let (progress, mut events) = progress::channel();
    let reporter = progress.start();
    let (service, session) = shown_service(ann("gcr.io"), &["gcr.io"], Some(reporter.clone()));
    let found = ask(&service, "gcr.io").await.unwrap();
    assert_eq!((found.username.as_str(), found.secret.as_str()), ("ann", "canary"));
    ask(&service, "gcr.io").await.unwrap();
    for foreign in ["gcr.io.evil.com", "other.io", "docker.io", "gcr.io:443", ""] {
        let none = ask(&service, foreign).await.unwrap();
        assert_eq!((none.username.as_str(), none.secret.as_str()), ("", ""), "{foreign}");
    }
    ask(&service, "other.io").await.unwrap();
    assert_eq!(session.suspicions().0, 5, "each is noted once");
    reporter.finish().await;
    let mut shown = Vec::new();
    while let Some(event) = events.next().await {
        if let progress::Event::Status(status) = event {
            shown.extend(status.vertexes.into_iter().filter(|v| v.completed.is_some()).map(|v| v.name));
        }
    }
    let grants: Vec<_> = shown.iter().filter(|name| name.starts_with("[auth] sharing")).collect();
    assert_eq!(grants, ["[auth] sharing credentials for gcr.io"], "one event per grant: {shown:?}");
}

#[tokio::test]
async fn credentials_of_the_same_host_but_other_names_are_found() {
    let (service, _build) = service(ann("docker.io"), &["docker.io"]);
    for name in ["docker.io", "registry-1.docker.io", "index.docker.io"] {
        assert_eq!(ask(&service, name).await.unwrap().username, "ann", "{name}");
    }
}

#[derive(Debug, Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl CredentialProvider for Counting {
    async fn credentials(&self, request: &CredentialRequest) -> Result<Option<Credentials>, CredentialError> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let found = Credentials::password(format!("u{n}"), "p");
        Ok(Some(if request.host == "short" { found.expires_in(Duration::from_secs(60)) } else { found }))
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_kept_until_they_expire() {
    let (service, _build) = service(Auth::new(Counting::default()), &["short", "long"]);
    assert_eq!(ask(&service, "short").await.unwrap().username, "u0");
    assert_eq!(ask(&service, "long").await.unwrap().username, "u1");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&service, "short").await.unwrap().username, "u0");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(ask(&service, "short").await.unwrap().username, "u2");
    tokio::time::advance(Duration::from_secs(220)).await;
    assert_eq!(ask(&service, "long").await.unwrap().username, "u1");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ask(&service, "long").await.unwrap().username, "u3", "4 min 50 s are over");
}

#[tokio::test]
async fn the_next_provider_is_asked_when_one_has_none() {
    let auth = ann("a").or(BTreeMap::from([("b".to_owned(), Credentials::password("bob", "p"))]));
    let explained = auth.explain(&CredentialRequest::new("b")).await;
    assert!(explained.answered.is_some() && explained.tried.len() == 1, "{explained}");
    let (service, _build) = service(auth, &["a", "b"]);
    assert_eq!(ask(&service, "a").await.unwrap().username, "ann");
    assert_eq!(ask(&service, "b").await.unwrap().username, "bob");
}

fn token(host: &str, realm: &str) -> Request<FetchTokenRequest> {
    Request::new(FetchTokenRequest {
        client_id: "buildkit-client".into(),
        host: host.into(),
        realm: realm.into(),
        service: "s".into(),
        scopes: vec!["repository:a:pull".into()],
    })
}

#[tokio::test]
async fn f42_a_foreign_realm_is_refused_with_a_reason() {
    let (service, session) = service(ann("reg.local"), &["reg.local"]);
    for (realm, says) in [
        ("https://evil.example/token", "trust_realm"),
        ("http://reg.local/token", "without TLS"),
        ("https://x:y@reg.local/token", "user name"),
    ] {
        let status = service.fetch_token(token("reg.local", realm)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(says) && status.message().contains("reg.local"), "{status}");
    }
    assert_eq!(session.take_failures().len(), 3, "the build's error can name the cause");
}

#[tokio::test]
async fn a_registry_token_is_given_as_it_is() {
    let auth = Auth::new(BTreeMap::from([("r".to_owned(), Credentials::registry_token("RT"))]));
    let (service, _build) = service(auth, &["r"]);
    let found = service.fetch_token(token("r", "https://evil.example/")).await.unwrap().into_inner();
    assert_eq!((found.token.as_str(), found.expires_in, found.issued_at), ("RT", 60, 0));
    assert_eq!(ask(&service, "r").await.unwrap().secret, "", "it is no password");
}

#[tokio::test]
async fn sessions_with_and_without_a_secret_have_different_keys() {
    let (service, _build) = service(ann("a"), &["a", "b"]);
    let key = async |host: &str| {
        let request = Request::new(GetTokenAuthorityRequest { host: host.into(), salt: vec![7; 32].into() });
        service.get_token_authority(request).await.unwrap().into_inner().public_key
    };
    let (a, b, refused) = (key("a").await, key("b").await, key("c").await);
    assert_ne!(a, b);
    assert_eq!(b, refused, "a host that is not of this build has no secret");
    let verify = VerifyTokenAuthorityRequest {
        host: "a".into(),
        payload: b"payload".to_vec().into(),
        salt: vec![7; 32].into(),
    };
    let signed = service.verify_token_authority(Request::new(verify)).await.unwrap().into_inner().signed;
    let (signature, payload) = signed.split_at(64);
    assert_eq!(payload, b"payload");
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &a)
        .verify(payload, signature)
        .unwrap();
}

#[tokio::test]
async fn tokens_may_be_left_to_the_daemon() {
    let (service, _build) = service(ann("a").daemon_fetches_tokens(true), &["a"]);
    let request = Request::new(GetTokenAuthorityRequest { host: "a".into(), salt: vec![0; 32].into() });
    let status = service.get_token_authority(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "client side tokens disabled"));
}
