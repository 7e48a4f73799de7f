//! `cargo xtask frontend-image`: the example frontends as static programs in images `FROM scratch`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::buildkit::{self, Generation};
use crate::fail::{Context as _, Result};
use crate::workspace::{cargo, output, show, target};

/// What is made into images when nothing else is said.
const FRONTENDS: &[&str] = &["dockerfile", "include", "package", "ping"];

/// What only tests need.
const FOR_TESTS: &[&str] = &["unruly"];

/// The most a program may weigh, in bytes: frontends are pulled before builds.
const LIMIT: u64 = 12_000_000;

/// Which frontends, and where their images go.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The frontends: dockerfile, include, package, ping, unruly; all but the last when absent
    names: Vec<String>,
    /// The registry and path before the names; a registry that is set up for it when absent
    #[arg(long)]
    prefix: Option<String>,
    /// The daemon that pushes; one that is set up for it when absent
    #[arg(long)]
    addr: Option<String>,
    /// Build the programs only
    #[arg(long)]
    no_push: bool,
}

/// Builds and pushes.
pub(crate) fn run(options: &Options) -> Result {
    let names: Vec<&str> = if options.names.is_empty() {
        FRONTENDS.to_vec()
    } else {
        options.names.iter().map(String::as_str).collect()
    };
    let known = [FRONTENDS, FOR_TESTS].concat();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("there is no frontend {unknown}; there are {}", known.join(", ")));
    }
    let programs = build(&names)?;
    for (name, program) in names.iter().zip(&programs) {
        let size = std::fs::metadata(program).context(program.display())?.len();
        println!("{name}: {}.{:02} MB, {}", size / 1_000_000, size % 1_000_000 / 10_000, program.display());
        if size > LIMIT {
            return Err(format!("{name} is larger than {} MB", LIMIT / 1_000_000));
        }
    }
    if options.no_push {
        return Ok(());
    }
    let (addr, prefix) = destination(options)?;
    // With the whole workspace, as tests are: what they share is built once.
    show(cargo().args(["build", "--quiet", "--workspace", "--bin", "frontend-image"]))?;
    for (name, program) in names.iter().zip(&programs) {
        let mut push = Command::new(target().join("debug/frontend-image"));
        push.arg("--addr").arg(&addr).arg("--program").arg(program);
        push.arg("--name").arg(format!("{prefix}/{name}-frontend:latest"));
        show(&mut push)?;
    }
    Ok(())
}

/// Where images go: what was said, or what is set up for tests.
fn destination(options: &Options) -> Result<(String, String)> {
    if let (Some(addr), Some(prefix)) = (&options.addr, &options.prefix) {
        return Ok((addr.clone(), prefix.clone()));
    }
    let (state, _) = buildkit::up(&[Generation::Sid])?;
    let daemon = state.daemons.get(Generation::Sid.suite()).context("no daemon")?;
    let mirror = &state.registries.as_ref().context("no registry")?.mirror;
    let addr = options.addr.clone().unwrap_or_else(|| daemon.endpoint.clone());
    let prefix = options.prefix.clone().unwrap_or_else(|| format!("{}/frontends", mirror.address));
    Ok((addr, prefix))
}

/// Static programs, linked with musl where rustup has it for us and with glibc where not.
fn build(names: &[&str]) -> Result<Vec<PathBuf>> {
    let arch = std::env::consts::ARCH;
    let musl = format!("{arch}-unknown-linux-musl");
    let installed = || {
        let list = output(Command::new("rustup").args(["target", "list", "--installed"]));
        list.is_ok_and(|list| list.lines().any(|line| line == musl))
    };
    let has_musl = installed() || {
        let _ = output(Command::new("rustup").args(["target", "add", &musl]));
        installed()
    };
    let (triple, flags) = if has_musl {
        (musl, "")
    } else {
        println!("the target {musl} is not to be had: linking with glibc");
        (format!("{arch}-unknown-linux-gnu"), "-C target-feature=+crt-static")
    };
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "buildkit-examples", "--no-default-features"]);
    command.args(["--profile", "frontend", "--target", &triple]).env("RUSTFLAGS", flags);
    for name in names {
        command.arg("--bin").arg(format!("{name}-frontend"));
    }
    show(&mut command)?;
    let dir = target().join(triple).join("frontend");
    Ok(names.iter().map(|name| Path::new(&dir).join(format!("{name}-frontend"))).collect())
}
