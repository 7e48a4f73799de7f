use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// Whether OpenSSH's programs are there; says so when not.
fn have_openssh() -> bool {
    let found = Command::new("ssh-keygen").arg("-?").output().is_ok();
    if !found {
        println!("SKIPPED: ssh-keygen is not installed");
    }
    found
}

fn run(program: &str, arguments: &[&str], agent: Option<&Path>, stdin: Option<&Path>) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("SSH_AUTH_SOCK");
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", agent);
    }
    if let Some(stdin) = stdin {
        command.stdin(std::fs::File::open(stdin).unwrap());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Puts what a build step would talk to on a socket.
fn listen(agent: Agent, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let agent = agent.clone();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut answers = forward(&agent, ReaderStream::new(read)).await.unwrap();
                while let Some(Ok(chunk)) = answers.next().await {
                    write.write_all(&chunk).await.unwrap();
                }
            });
        }
    });
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn key(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let file = dir.join(name);
    let mut all = vec!["-q", "-N", "", "-C", name, "-f", file.to_str().unwrap()];
    all.extend(arguments);
    run("ssh-keygen", &all, None, None);
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_key_signs_so_that_openssh_verifies_it() {
    if !have_openssh() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let files: Vec<PathBuf> = vec![
        key(&path, "ed25519", &["-t", "ed25519"]),
        key(&path, "p256", &["-t", "ecdsa", "-b", "256"]),
        key(&path, "p384", &["-t", "ecdsa", "-b", "384"]),
        key(&path, "rsa", &["-t", "rsa", "-b", "2048"]),
        key(&path, "rsa-pem", &["-t", "rsa", "-b", "3072", "-m", "PEM"]),
        key(&path, "ec-pem", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
        key(&path, "rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        key(&path, "ec-pkcs8", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ];
    let ssh = Ssh::load([("", SshSource::keys(&files))]).await.unwrap();
    let socket = path.join("agent");
    listen(ssh.agent("default").unwrap().clone(), &socket);
    blocking(move || {
        let listed = run("ssh-add", &["-L"], Some(&socket), None);
        let kinds = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
        for (file, line) in files.iter().zip(listed.lines()) {
            let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
            assert_eq!(kinds(line), kinds(&public), "{}", file.display());
        }
        let data = path.join("data");
        std::fs::write(&data, "signed by the agent in memory").unwrap();
        for file in &files {
            let public = file.with_extension("pub");
            let text = std::fs::read_to_string(&public).unwrap();
            // Without the private file ssh-keygen must ask the agent.
            let alone = file.with_extension("only.pub");
            std::fs::write(&alone, &text).unwrap();
            let signature = path.join("data.sig");
            let _ = std::fs::remove_file(&signature);
            let (alone, data) = (alone.to_str().unwrap(), data.to_str().unwrap());
            run("ssh-keygen", &["-q", "-Y", "sign", "-f", alone, "-n", "test", data], Some(&socket), None);
            let signers = path.join("signers");
            std::fs::write(&signers, format!("me {text}")).unwrap();
            let (signers, signature) = (signers.to_str().unwrap(), signature.to_str().unwrap());
            let verify = ["-Y", "verify", "-f", signers, "-I", "me", "-n", "test", "-s", signature];
            run("ssh-keygen", &verify, None, Some(Path::new(data)));
        }
    })
    .await;
}

#[tokio::test]
async fn keys_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    if have_openssh() {
        for (name, arguments, says) in [
            ("locked", vec!["-t", "ed25519", "-N", "secret phrase"], "passphrase"),
            ("locked-pem", vec!["-t", "rsa", "-m", "PEM", "-N", "secret phrase"], "passphrase"),
            ("p521", vec!["-t", "ecdsa", "-b", "521", "-N", ""], "ecdsa-sha2-nistp521"),
        ] {
            let file = dir.path().join(name);
            let mut all = vec!["-q", "-f", file.to_str().unwrap()];
            all.extend(arguments);
            run("ssh-keygen", &all, None, None);
            let error = Ssh::load([("k", SshSource::keys([&file]))]).await.unwrap_err();
            assert!(error.to_string().contains(&format!("failed to parse {}", file.display())), "{error}");
            assert!(error.source().unwrap().to_string().contains(says), "{:?}", error.source());
        }
    }
    for junk in ["", "junk", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"] {
        assert!(matches!(Key::parse(junk.as_bytes()), Err(KeyError::NotAKey)), "{junk:?}");
    }
}

#[tokio::test]
async fn what_is_given_is_checked_before_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, file) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("file"));
    let _listeners = (UnixListener::bind(&a).unwrap(), UnixListener::bind(&b).unwrap());
    std::fs::write(&file, "x").unwrap();
    for (source, says) in [
        (SshSource::paths([&a, &b]), "only single socket allowed"),
        (SshSource::paths([&a, &file]), "invalid combination of keys and sockets"),
        (SshSource::raw(&file), "raw mode only supported with socket paths"),
        (SshSource::keys([dir.path().join("absent")]), "failed to open"),
        (SshSource::keys([dir.path()]), "failed to open"),
    ] {
        let error = Ssh::load([("k", source)]).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let twice = [("", SshSource::socket(&a)), ("default", SshSource::socket(&b))];
    assert_eq!(Ssh::load(twice).await.unwrap_err().to_string(), "duplicate agent ID \"default\"");
    let ssh = Ssh::load([("git", SshSource::socket(&a))]).await.unwrap();
    let check = async |id: &str| ssh.check_agent(Request::new(CheckAgentRequest { id: id.into() })).await;
    assert!(check("git").await.is_ok());
    assert_eq!(check("").await.unwrap_err().message(), "unset ssh forward key default");
}

/// A message with its length.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(message);
    out
}

#[tokio::test]
async fn a_proxied_agent_is_only_asked_to_list_and_sign() {
    let dir = tempfile::tempdir().unwrap();
    let (real, ours) = (dir.path().join("real"), dir.path().join("ours"));
    let listener = UnixListener::bind(&real).unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while let Ok(length) = stream.read_u32().await {
            let mut message = vec![0; length as usize];
            stream.read_exact(&mut message).await.unwrap();
            let answer = if message[0] == 13 { vec![14, 1, 2] } else { vec![12, 0, 0, 0, 0] };
            seen.push(message);
            stream.write_all(&framed(&answer)).await.unwrap();
        }
        seen
    });
    let ssh = Ssh::load([("", SshSource::socket(&real))]).await.unwrap();
    listen(ssh.agent("").unwrap().clone(), &ours);
    let mut client = UnixStream::connect(&ours).await.unwrap();
    for (request, want) in [
        (vec![11], vec![12, 0, 0, 0, 0]),
        (vec![17, 9, 9], vec![5]),
        (vec![18], vec![5]),
        (vec![19], vec![5]),
        (vec![22], vec![5]),
        (vec![27, 0], vec![5]),
        (vec![255], vec![5]),
        (vec![13, 7], vec![14, 1, 2]),
    ] {
        client.write_all(&framed(&request)).await.unwrap();
        let length = client.read_u32().await.unwrap();
        let mut answer = vec![0; length as usize];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, want, "{request:?}");
    }
    drop(client);
    assert_eq!(seen.await.unwrap(), [vec![11], vec![13, 7]]);
}

#[tokio::test]
async fn a_message_that_is_none_ends_the_connection() {
    let ssh = Agent::Keys(Arc::new(Vec::new()));
    for junk in [vec![0, 0, 0, 0], vec![0xff, 0xff, 0xff, 0xff, 1], vec![0, 0, 0, 9, 11]] {
        let requests = futures::stream::iter([Ok(Bytes::from(junk.clone()))]);
        let answers: Vec<_> = forward(&ssh, requests).await.unwrap().collect().await;
        assert!(matches!(answers.as_slice(), [Err(_)]), "{junk:?} {answers:?}");
    }
    // Requests may be cut anywhere.
    let requests = framed(&[11]).into_iter().map(|byte| Ok(Bytes::from(vec![byte])));
    let answers: Vec<_> = forward(&ssh, futures::stream::iter(requests)).await.unwrap().collect().await;
    assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [framed(&[12, 0, 0, 0, 0])]);
}

#[tokio::test]
async fn raw_mode_passes_bytes_and_the_end_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        // Answers only when it has seen the end.
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    });
    let ssh = Ssh::load([("r", SshSource::raw(&path))]).await.unwrap();
    let requests = futures::stream::iter([Ok(Bytes::from("abc")), Ok(Bytes::from("def"))]);
    let answers: Vec<u8> = forward(ssh.agent("r").unwrap(), requests)
        .await
        .unwrap()
        .map(|chunk| chunk.unwrap().to_vec())
        .concat()
        .await;
    assert_eq!(answers, b"fedcba");
}
