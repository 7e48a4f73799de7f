use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::DockerConfig;
use crate::session::auth::{CredentialProvider as _, CredentialRequest, Scope};

fn helper(dir: &Path, name: &str, script: &str) {
    let file = dir.join(format!("docker-credential-{name}"));
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn with_path(json: &str, dir: &Path) -> DockerConfig {
    let mut path = dir.as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    DockerConfig::from_json(json.as_bytes()).unwrap().helper_path(path)
}

async fn pair(config: &DockerConfig, host: &str) -> Option<(String, String)> {
    let found = config.credentials(&CredentialRequest::new(host)).await.unwrap()?;
    Some((found.username().to_owned(), found.secret()?.reveal_str()?.to_owned()))
}

fn some(user: &str, password: &str) -> Option<(String, String)> {
    Some((user.to_owned(), password.to_owned()))
}

#[tokio::test]
async fn sources_are_asked_in_order_and_fall_through() {
    let dir = tempfile::tempdir().unwrap();
    let docker = dir.path().join("docker");
    std::fs::create_dir(&docker).unwrap();
    std::fs::write(
        docker.join("config.json"),
        r#"{"auths":{"a":{"auth":"ZmlsZTphCg=="},"b":{"auth":"ZmlsZTpi"},"c":{"auth":"ZmlsZTpj"}}}"#,
    )
    .unwrap();
    let podman = dir.path().join("auth.json");
    std::fs::write(&podman, r#"{"auths":{"a":{"auth":"cG9kOmE="},"b/team":{"auth":"cG9kOmI="}}}"#).unwrap();
    let variables = |name: &str| match name {
        "DOCKER_AUTH_CONFIG" => Some(OsString::from(r#"{"auths":{"a":{"auth":"dmFyOmE="}}}"#)),
        "DOCKER_CONFIG" => Some(docker.clone().into()),
        "REGISTRY_AUTH_FILE" => Some(podman.clone().into()),
        _ => None,
    };
    let config = DockerConfig::load_with(&variables).unwrap();
    assert_eq!(pair(&config, "a").await, some("var", "a"));
    assert_eq!(pair(&config, "c").await, some("file", "c"));
    assert_eq!(pair(&config, "none").await, None);
    let explained = |scope: &'static str| config.explain("b", Some(scope));
    assert!(explained("team/x").await.answered.unwrap().contains("auth.json"));
    let other = explained("x").await;
    assert!(other.answered.as_deref().unwrap().contains("config.json"), "{other}");
    assert_eq!(other.tried.len(), 2, "{other}");
    assert_eq!(config.dir(), Some(docker.as_path()));
}

#[tokio::test]
async fn a_rotated_file_is_seen_and_a_broken_one_is_not_fatal() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"a":{"auth":"b2xkOjE="}}}"#).unwrap();
    let config = DockerConfig::from_file(&file).unwrap();
    assert_eq!(pair(&config, "a").await, some("old", "1"));
    std::fs::write(&file, r#"{"auths":{"a":{"auth":"bmV3OjI="}}}"#).unwrap();
    assert_eq!(pair(&config, "a").await, some("new", "2"));
    std::fs::write(&file, r#"{"auths":"#).unwrap();
    assert_eq!(pair(&config, "a").await, some("old", "1"));
}

#[tokio::test]
async fn a_secret_of_kubernetes_is_read_by_its_own_name_and_when_it_was_rotated() {
    // As the kubelet mounts it: the file is a link through `..data`, which is exchanged as a whole.
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, auth: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let config = format!(r#"{{"auths":{{"a":{{"auth":"{auth}"}}}}}}"#);
        std::fs::write(folder.join(".dockerconfigjson"), config).unwrap();
        std::os::unix::fs::symlink(name, dir.path().join("..data_tmp")).unwrap();
        std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    version("..2026_01", "b2xkOjE=");
    std::os::unix::fs::symlink("..data/.dockerconfigjson", dir.path().join(".dockerconfigjson")).unwrap();
    let at = |name: &str| (name == "DOCKER_CONFIG").then(|| dir.path().as_os_str().to_owned());
    let config = DockerConfig::load_with(&at).unwrap();
    assert_eq!(pair(&config, "a").await, some("old", "1"));
    version("..2026_02", "bmV3OjI=");
    assert_eq!(pair(&config, "a").await, some("new", "2"));
    // Docker's own name goes first.
    std::fs::write(dir.path().join("config.json"), r#"{"auths":{"a":{"auth":"ZmlsZTpj"}}}"#).unwrap();
    let config = DockerConfig::load_with(&at).unwrap();
    assert_eq!(pair(&config, "a").await, some("file", "c"));
}

#[test]
fn a_configuration_that_is_not_there_is_empty_and_a_broken_one_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| (name == "DOCKER_CONFIG").then(|| dir.path().as_os_str().to_owned());
    DockerConfig::load_with(&at).unwrap();
    std::fs::write(dir.path().join("config.json"), "{\"auths\":{\"h\":\"hunter2\"}}").unwrap();
    let error = DockerConfig::load_with(&at).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("line 1"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn helpers_come_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    helper(
        dir.path(),
        "own",
        r#"read -r s; echo "{\"ServerURL\":\"x\",\"Username\":\"own\",\"Secret\":\"$s\"}""#,
    );
    helper(dir.path(), "all", r#"echo '{"Username":"<token>","Secret":"refresh"}'"#);
    helper(dir.path(), "none", "echo credentials not found in native keychain; exit 1");
    let config = with_path(
        r#"{"credHelpers":{"a":"own","docker.io":"own","c":"none"},"credsStore":"all",
            "auths":{"a":{"auth":"ZmlsZTphCg=="},"c":{"auth":"ZmlsZTpj"}}}"#,
        dir.path(),
    );
    assert_eq!(pair(&config, "a").await, some("own", "a"));
    let hub = "https://index.docker.io/v1/";
    assert_eq!(pair(&config, "registry-1.docker.io").await, some("own", hub));
    assert_eq!(pair(&config, "b").await, some("", "refresh"), "an identity token");
    assert_eq!(pair(&config, "c").await, some("file", "c"), "the helper has none");
    let explained = config.explain("a", None).await.to_string();
    assert_eq!(
        explained,
        "a: credentials from docker-credential-own (credHelpers in the given configuration)"
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    for json in [r#"{"credsStore":"desktop"}"#, r#"{"auths":{"reg.local":{}},"credsStore":"desktop"}"#] {
        let config = with_path(json, dir.path());
        let error = config.credentials(&CredentialRequest::new("reg.local")).await.unwrap_err().to_string();
        assert!(
            error.contains("reg.local")
                && error.contains("credential store \"desktop\"")
                && error.contains("docker-credential-desktop is not installed"),
            "{error}"
        );
    }
    // The file says which registries the store holds: this one is not among them.
    let config = with_path(r#"{"auths":{"other":{}},"credsStore":"desktop"}"#, dir.path());
    assert_eq!(pair(&config, "reg.local").await, None);
}

#[tokio::test]
async fn a_helper_is_never_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_path(r#"{"credHelpers":{"a":"../../bin/sh"}}"#, dir.path());
    assert!(config.credentials(&CredentialRequest::new("a")).await.is_err());
}

#[tokio::test]
async fn f47_credential_helper_misbehaves() {
    let dir = tempfile::tempdir().unwrap();
    helper(dir.path(), "fails", "echo hunter2; echo 'keychain is locked' >&2; exit 1");
    helper(dir.path(), "junk", "echo hunter2");
    helper(dir.path(), "floods", "cat /dev/zero");
    helper(dir.path(), "hangs", "sleep 1000 & echo $! > \"$0.pid\"; wait");
    for (name, says) in [
        ("fails", "keychain is locked"),
        ("junk", "did not answer with the JSON"),
        ("floods", "more than 1 MiB"),
        ("hangs", "did not answer within 300ms"),
    ] {
        let config = with_path(&format!(r#"{{"credHelpers":{{"h":"{name}"}}}}"#), dir.path())
            .helper_timeout(Duration::from_millis(if name == "hangs" { 300 } else { 20_000 }));
        let start = Instant::now();
        let error = config.credentials(&CredentialRequest::new("h")).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert_gone(&dir.path().join("docker-credential-hangs.pid")).await;
}

#[tokio::test]
async fn f47_a_dropped_lookup_kills_the_helper_and_its_children() {
    let dir = tempfile::tempdir().unwrap();
    helper(dir.path(), "hangs", "sleep 1000 & echo $! > \"$0.pid\"; wait");
    let config = with_path(r#"{"credHelpers":{"h":"hangs"}}"#, dir.path());
    let file = dir.path().join("docker-credential-hangs.pid");
    let request = CredentialRequest::new("h");
    tokio::select! {
        found = config.credentials(&request) => panic!("{found:?}"),
        () = async { while std::fs::read_to_string(&file).is_ok_and(|pid| !pid.ends_with('\n')) || !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        } } => {}
    }
    assert_gone(&file).await;
}

/// The process whose id is in the file ends within a second.
async fn assert_gone(file: &Path) {
    let pid = std::fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    for _ in 0..200 {
        match std::fs::read_to_string(&stat) {
            Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => return,
        }
    }
    panic!("{pid} is still running");
}

#[test]
fn scopes_choose_between_projects() {
    let mut request = CredentialRequest::new("quay.io");
    request.scopes = vec![Scope::parse("repository:b/base:pull"), Scope::parse("repository:a/app:pull,push")];
    assert_eq!(request.repository(), Some("a/app"));
}
