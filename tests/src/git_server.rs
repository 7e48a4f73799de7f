//! A git server on loopback that wants a token: `git http-backend` behind a check of the header.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Serves one repository, `repo.git`, with the branch `main`. It ends when dropped.
#[derive(Debug)]
pub struct GitServer {
    address: SocketAddr,
    refused: Arc<Mutex<usize>>,
    commit: String,
    _dir: tempfile::TempDir,
    _guard: DropGuard,
}

/// Whether git is there, with its server.
pub fn has_git() -> bool {
    let path = Command::new("git").arg("--exec-path").output();
    path.is_ok_and(|out| {
        let dir = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        Path::new(&dir).join("git-http-backend").exists()
    })
}

fn git(dir: &Path, args: &[&str]) -> std::io::Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(std::io::Error::other(format!("git {args:?}: {text}")))
}

impl GitServer {
    /// Commits these files and serves them to those who have the token.
    ///
    /// # Errors
    /// When git fails, or no port can be had.
    pub async fn start(files: &[(&str, &str)], token: &str) -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let work = dir.path().join("work");
        std::fs::create_dir(&work)?;
        git(&work, &["init", "-q"])?;
        for (name, content) in files {
            let path = work.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, content)?;
        }
        git(&work, &["add", "-A"])?;
        git(&work, &["commit", "-q", "-m", "files"])?;
        let commit = git(&work, &["rev-parse", "HEAD"])?;
        git(dir.path(), &["clone", "-q", "--bare", "work", "repo.git"])?;
        git(&dir.path().join("repo.git"), &["config", "uploadpack.allowAnySHA1InWant", "true"])?;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let refused = Arc::new(Mutex::new(0));
        let stopped = CancellationToken::new();
        let wanted = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
        let (root, count) = (dir.path().to_owned(), Arc::clone(&refused));
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (root, count, wanted) = (root.clone(), Arc::clone(&count), wanted.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (root, count, wanted) = (root.clone(), Arc::clone(&count), wanted.clone());
                    async move {
                        let header =
                            request.headers().get("authorization").and_then(|value| value.to_str().ok());
                        let given = header.and_then(|value| value.split_once(' '));
                        if given.is_some_and(|(scheme, pair)| {
                            scheme.eq_ignore_ascii_case("basic") && pair == wanted
                        }) {
                            return Ok::<_, Infallible>(answer(root, request).await);
                        }
                        *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                        let mut refusal = Response::new(Full::new(Bytes::new()));
                        *refusal.status_mut() = http::StatusCode::UNAUTHORIZED;
                        let realm = http::HeaderValue::from_static("Basic realm=\"git\"");
                        refusal.headers_mut().insert("www-authenticate", realm);
                        Ok(refusal)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        }));
        Ok(Self { address, refused, commit, _dir: dir, _guard: stopped.drop_guard() })
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// URL of the repository.
    pub fn url(&self) -> String {
        format!("http://{}/repo.git", self.address)
    }

    /// The only commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// How many requests came without the token.
    pub fn refused(&self) -> usize {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs git's own server for one request.
async fn answer(root: PathBuf, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let header = |name: &str| {
        head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let variables = BTreeMap::from([
        ("GIT_PROJECT_ROOT", root.to_string_lossy().into_owned()),
        ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
        ("PATH_INFO", head.uri.path().to_owned()),
        ("QUERY_STRING", head.uri.query().unwrap_or_default().to_owned()),
        ("REQUEST_METHOD", head.method.to_string()),
        ("CONTENT_TYPE", header("content-type")),
        ("HTTP_CONTENT_ENCODING", header("content-encoding")),
        ("GIT_PROTOCOL", header("git-protocol")),
        ("REMOTE_ADDR", "127.0.0.1".to_owned()),
    ]);
    let run = move || -> std::io::Result<Vec<u8>> {
        let mut child = Command::new("git")
            .arg("http-backend")
            .envs(variables)
            // The repository may belong to another user than the one who runs the tests.
            .envs([
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", "safe.directory"),
                ("GIT_CONFIG_VALUE_0", "*"),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&body)?;
        }
        Ok(child.wait_with_output()?.stdout)
    };
    let output = tokio::task::spawn_blocking(run).await;
    let output = output.unwrap_or_else(|error| Err(std::io::Error::other(error))).unwrap_or_default();
    response(&output)
}

/// Reads what a CGI program writes: headers, an empty line, the body.
fn response(output: &[u8]) -> Response<Full<Bytes>> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let (head, body) = output.split_at(end);
    let body = Bytes::copy_from_slice(body.get(4..).unwrap_or_default());
    let mut response = Response::new(Full::new(body));
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok());
            *response.status_mut() = code.unwrap_or(http::StatusCode::BAD_GATEWAY);
        } else if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
