use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Fetch, Patience, Token, TokenError};
use crate::session::auth::credentials::Credentials;
use crate::session::auth::realm::Realm;

/// A token server that answers each request with the next text, and keeps what it was sent.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let n = stream.read(&mut buffer).await.unwrap();
                    request.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&request);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if n == 0 || body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
                        break;
                    }
                }
                log.lock().unwrap().push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).await.ok();
            }
        });
        Self { port, seen }
    }

    fn realm(&self) -> Realm {
        let realm = format!("http://127.0.0.1:{}/token", self.port);
        Realm::check(&format!("127.0.0.1:{}", self.port), &realm, None, false).unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn json(body: &str) -> String {
    status("200 OK", "", body)
}

fn status(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}", body.len())
}

async fn fetch(server: &Server, credentials: Option<&Credentials>) -> Result<Token, TokenError> {
    let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull,push".to_owned()];
    let realm = server.realm();
    let fetch = Fetch {
        realm: &realm,
        tls: None,
        client: "buildkit-client",
        service: "reg",
        scopes: &scopes,
        credentials,
    };
    let patience = Patience { tries: 3, pause: Duration::from_millis(1), budget: Duration::from_secs(20) };
    fetch.run(patience).await
}

#[tokio::test]
async fn r12_a_password_is_in_the_body_never_in_the_url() {
    let server = Server::start(vec![json(r#"{"access_token":"T","token":"old","expires_in":300}"#)]).await;
    let token = fetch(&server, Some(&Credentials::password("ann", "p&w"))).await.unwrap();
    assert_eq!((token.token.reveal_str(), token.expires_in, token.issued_at), (Some("T"), 300, 0));
    let seen = server.seen().remove(0);
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /token HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-www-form-urlencoded"), "{head}");
    assert_eq!(
        body,
        "client_id=buildkit-client&grant_type=password&username=ann&password=p%26w\
         &scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull%2Cpush&service=reg"
    );
}

#[tokio::test]
async fn an_identity_token_is_a_refresh_token() {
    let server = Server::start(vec![json(r#"{"access_token":"T"}"#)]).await;
    let token = fetch(&server, Some(&Credentials::identity_token("ID"))).await.unwrap();
    assert_eq!(token.expires_in, 60, "when the server does not say");
    assert!(server.seen()[0].contains("grant_type=refresh_token&refresh_token=ID&"), "{}", server.seen()[0]);
}

#[tokio::test]
async fn a_server_without_oauth_is_asked_in_the_older_way() {
    for refusal in ["404 Not Found", "405 Method Not Allowed", "401 Unauthorized"] {
        let server =
            Server::start(vec![status(refusal, "", ""), json(r#"{"token":"T","expires_in":0}"#)]).await;
        let token = fetch(&server, Some(&Credentials::password("ann", "pw"))).await.unwrap();
        assert_eq!((token.token.reveal_str(), token.expires_in), (Some("T"), 60));
        let second = server.seen().remove(1);
        assert!(
            second.starts_with(
                "GET /token?service=reg&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull%2Cpush HTTP/1.1"
            ),
            "{second}"
        );
        assert!(second.contains("authorization: Basic YW5uOnB3\r\n"), "{second}");
    }
}

#[tokio::test]
async fn without_credentials_none_are_sent() {
    let server = Server::start(vec![json(r#"{"token":"T","access_token":"A"}"#)]).await;
    let token = fetch(&server, None).await.unwrap();
    assert_eq!(token.token.reveal_str(), Some("A"), "access_token is preferred");
    let seen = server.seen().remove(0).to_lowercase();
    assert!(seen.starts_with("get /token?service=reg&") && !seen.contains("authorization"), "{seen}");
}

#[tokio::test]
async fn f42_redirects_never_carry_credentials() {
    let target = Server::start(vec![json(r#"{"token":"T"}"#)]).await;
    let here = format!("Location: http://127.0.0.1:{}/elsewhere\r\n", target.port);
    let server = Server::start(vec![status("404 Not Found", "", ""), status("302 Found", &here, "")]).await;
    fetch(&server, Some(&Credentials::password("ann", "canary"))).await.unwrap();
    let seen = target.seen().remove(0).to_lowercase();
    assert!(seen.starts_with("get /elsewhere") && !seen.contains("authorization"), "{seen}");
    for location in ["http://127.0.0.2:1/x", "https://evil.example/x", "ftp://127.0.0.1/"] {
        let there = format!("Location: {location}\r\n");
        let server = Server::start(vec![status("307 Temporary Redirect", &there, "")]).await;
        let error = fetch(&server, None).await.unwrap_err();
        assert!(error.to_string().contains("redirected elsewhere"), "{error}");
    }
    let server = Server::start(vec![status("307 Temporary Redirect", &here, "")]).await;
    let error = fetch(&server, Some(&Credentials::password("ann", "canary"))).await.unwrap_err();
    assert!(error.to_string().contains("307") && !format!("{error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn f44_what_may_pass_is_tried_again_and_what_will_not_is_not() {
    let busy = || status("503 Service Unavailable", "", "");
    let server = Server::start(vec![
        busy(),
        status("429 Too Many", "Retry-After: 0\r\n", ""),
        json(r#"{"token":"T"}"#),
    ]);
    let server = server.await;
    fetch(&server, None).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    let server = Server::start(vec![busy(), busy(), busy(), json(r#"{"token":"T"}"#)]).await;
    let error = fetch(&server, None).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("503"), "{error}");
    assert_eq!(server.seen().len(), 3, "tries are bounded");
    for (answer, says) in [
        (status("403 Forbidden", "", ""), "the credentials are wrong"),
        (json("<html>"), "not JSON"),
        (json("{}"), "no token"),
        (json(&format!(r#"{{"token":"{}"}}"#, "x".repeat(2 << 20))), "larger than 1 MiB"),
    ] {
        let server = Server::start(vec![answer, json(r#"{"token":"T"}"#)]).await;
        let error = fetch(&server, None).await.unwrap_err();
        assert!(error.to_string().contains(says) && !error.is_transient(), "{error}");
        assert_eq!(server.seen().len(), 1, "{says}");
    }
    let server =
        Server::start(vec![status("401 Unauthorized", "", ""), status("401 Unauthorized", "", "")]).await;
    let error = fetch(&server, Some(&Credentials::password("ann", "bad"))).await.unwrap_err();
    assert!(error.is_unauthorized() && error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn f45_a_server_with_a_wrong_clock_does_not_decide_how_long_a_token_lives() {
    let now = jiff::Timestamp::now();
    for (issued, believed) in [
        ("2001-01-01T00:00:00Z".to_owned(), false),
        ("2099-01-01T00:00:00Z".to_owned(), false),
        ("junk".to_owned(), false),
        (now.to_string(), true),
    ] {
        let answer = json(&format!(r#"{{"token":"T","expires_in":60,"issued_at":"{issued}"}}"#));
        let token = fetch(&Server::start(vec![answer]).await, None).await.unwrap();
        assert_eq!(token.issued_at != 0, believed, "{issued}");
    }
    let negative = json(r#"{"token":"T","expires_in":-5}"#);
    assert_eq!(fetch(&Server::start(vec![negative]).await, None).await.unwrap().expires_in, 60);
}
