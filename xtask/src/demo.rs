//! `cargo xtask demo`: the batch job on a real BuildKit, from nothing to a digest in a registry.

use std::process::Command;

use crate::buildkit::{self, Generation, Registry};
use crate::fail::{Context as _, Result};
use crate::workspace::{cargo, root, show, target};

/// What to do afterwards.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave the daemon and the registries running
    #[arg(long)]
    keep: bool,
}

/// Sets up a daemon and a registry, builds, pushes, and asks the registry what it has.
pub(crate) fn run(options: &Options) -> Result {
    let (state, started) = buildkit::up(&[Generation::Sid])?;
    let daemon = state.daemons.get(Generation::Sid.suite()).context("no daemon")?;
    let registry = &state.registries.as_ref().context("no registry")?.private;
    println!("BuildKit of Docker Engine {} at {}", daemon.engine, daemon.endpoint);
    println!("registry with a password at {}\n", registry.address);
    let outcome = build_and_push(&daemon.endpoint, registry);
    if !options.keep {
        buildkit::stop(&started)?;
    }
    outcome
}

fn build_and_push(endpoint: &str, registry: &Registry) -> Result {
    let dir = target().join("demo");
    let context = dir.join("context");
    std::fs::create_dir_all(&context).context(context.display())?;
    let example = root().join("examples/batch-job/Dockerfile.example");
    std::fs::copy(&example, context.join("Dockerfile")).context(example.display())?;
    let docker = dir.join("docker");
    std::fs::create_dir_all(&docker).context(docker.display())?;
    std::fs::write(docker.join("config.json"), registry.docker_config()).context(docker.display())?;
    let digest_file = dir.join("digest");
    let _ = std::fs::remove_file(&digest_file);

    show(cargo().args(["build", "--quiet", "--package", "buildkit-examples", "--bin", "batch-job"]))?;
    let mut job = Command::new(target().join("debug/batch-job"));
    job.env("DOCKER_CONFIG", &docker).env_remove("BUILDKIT_HOST").args(["--addr", endpoint, "build"]);
    job.arg("--progress=plain").arg("--frontend=dockerfile.v0");
    job.arg("--local").arg(format!("context={}", context.display()));
    job.arg("--local").arg(format!("dockerfile={}", context.display()));
    job.arg("--output").arg(format!("type=image,name={}/demo/example:latest,push=true", registry.address));
    job.arg("--digest-file").arg(&digest_file);
    println!("$ DOCKER_CONFIG={} {}", docker.display(), crate::workspace::words(&job));
    show(&mut job)?;

    let ours = std::fs::read_to_string(&digest_file).context(digest_file.display())?;
    let (theirs, manifest) = registry.manifest("demo/example", "latest")?;
    println!("\nthe registry's manifest of demo/example:latest:\n{manifest}");
    println!("the job's digest      {}", ours.trim());
    println!("the registry's digest {theirs}");
    if ours.trim() == theirs { Ok(()) } else { Err("the digests differ".into()) }
}
