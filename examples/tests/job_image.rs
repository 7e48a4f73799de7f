//! The image of the batch job: its Dockerfile under our own frontend, and the real image from a real
//! BuildKit, with a program that was linked statically here.
#![allow(missing_docs, clippy::unwrap_used)] // a failed step is a failed test

use std::path::{Path, PathBuf};
use std::process::Command;

use buildkit_dockerfile::Dockerfile;
use buildkit_frontend::Simulated;
use buildkit_tests::daemon::{Daemon, Generation};

const DOCKERFILE: &str = include_str!("../batch-job/Dockerfile");
const IGNORED: &str = include_str!("../batch-job/Dockerfile.dockerignore");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

#[tokio::test]
async fn its_dockerfile_has_no_warnings_and_becomes_a_graph() {
    let file = Dockerfile::parse(DOCKERFILE).unwrap();
    let warnings = file.lint().unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"]}}"#;
    let digest = format!("sha256:{}", "a".repeat(64));
    // The syntax line would hand the file on; the rest of it is ours to convert.
    let (_, rest) = DOCKERFILE.split_once('\n').unwrap();
    let gateway = Simulated::new()
        .image("docker.io/library/rust:1.88-alpine", digest, config)
        .file("dockerfile", "Dockerfile", rest)
        .file("context", "Dockerfile", rest);
    let result = gateway.run(buildkit_dockerfile::build).await.unwrap();
    let config = &result.metadata[buildkit_frontend::IMAGE_CONFIG];
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/batch-job"]));
    assert_eq!(config["config"]["User"], "65532:65532");
}

#[test]
fn what_is_large_or_of_no_use_is_not_sent() {
    for folder in ["target", ".git", "fuzz/target"] {
        assert!(IGNORED.lines().any(|line| line == folder), "{folder}");
    }
}

/// The program, linked so that it needs nothing beside it.
fn linked_statically() -> PathBuf {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let status = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["build", "--quiet", "--package", "buildkit-examples", "--bin", "batch-job", "--target", host])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .unwrap();
    assert!(status.success());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(host).join("debug/batch-job")
}

fn run(daemon: &Daemon, args: &[&str]) {
    let mut job = Command::new(env!("CARGO_BIN_EXE_batch-job"));
    job.env_remove("BUILDKIT_HOST")
        .args(["--addr", &daemon.endpoint, "build", "--progress=plain"])
        .args(args);
    let output = job.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_image_is_built_from_scratch_and_its_program_runs_alone() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    // Stands in for the stage that compiles, which needs images and crates from elsewhere.
    let dir = tempfile::tempdir().unwrap();
    let built = dir.path().join("built");
    std::fs::create_dir_all(built.join("etc/ssl/certs")).unwrap();
    std::fs::write(built.join("etc/ssl/certs/ca-certificates.crt"), "none").unwrap();
    std::fs::copy(linked_statically(), built.join("batch-job")).unwrap();

    let name = daemon.registries.mirror.repository("job/image");
    let root = root().display().to_string();
    // The daemon need not fetch the newest frontend for this.
    let (_, rest) = DOCKERFILE.split_once('\n').unwrap();
    let dockerfile = dir.path().join("dockerfile");
    std::fs::create_dir(&dockerfile).unwrap();
    std::fs::write(dockerfile.join("Dockerfile"), rest).unwrap();
    std::fs::write(dockerfile.join("Dockerfile.dockerignore"), IGNORED).unwrap();
    run(
        &daemon,
        &[
            "--local",
            &format!("context={root}"),
            "--local",
            &format!("dockerfile={}", dockerfile.display()),
            "--local",
            &format!("built={}", built.display()),
            "--opt",
            "context:build=local:built",
            "--output",
            &format!("type=image,name={name},push=true"),
        ],
    );

    // No shell, no libraries: it runs or it does not.
    let out = dir.path().join("out");
    let user = format!(
        "FROM {name} AS job\nRUN [\"/batch-job\", \"--version\"]\nFROM scratch\nCOPY --from=job / /\n"
    );
    std::fs::write(dockerfile.join("Dockerfile"), user).unwrap();
    let context = format!("dockerfile={}", dockerfile.display());
    let output = format!("type=local,dest={}", out.display());
    run(&daemon, &["--local", &context, "--output", &output]);
    let example = std::fs::read_to_string(out.join("context/Dockerfile")).unwrap();
    assert_eq!(example, include_str!("../batch-job/Dockerfile.example"));
    assert!(out.join("etc/ssl/certs/ca-certificates.crt").exists());
}
