//! The build itself: connect, solve, write the results, and say what went wrong and where.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use buildkit_client::connect::Address;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::{Error, RequestError, SolveErrorKind};
use buildkit_client::policy::Policy;
use buildkit_client::progress::{self, Display, Progress};
use buildkit_client::request::Frontend;
use buildkit_client::session::auth::{Auth, CredentialError, RealmError, TokenError};
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::session::ssh::{Ssh, SshSource};
use buildkit_client::tls::Tls;
use buildkit_client::trace::TraceContext;
use buildkit_client::{Client, Solved};

use crate::args::{Args, Build, Stream};
use crate::exit::Exit;
use crate::fields::{Agent, RegistryTls, SecretFrom};
use crate::{places, say};

/// Why the job failed: for the process, and for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Failure {
    fn new(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { exit, text: buildkit_client::error::report(error) }
    }

    pub(crate) fn other(doing: &str, error: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Other, text: format!("{doing}: {error}") }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, text: text.into() }
    }
}

/// Builds, and writes what was asked for.
pub(crate) async fn run(args: &Args, build: &Build) -> Result<Solved, Failure> {
    let opts = build.opts().map_err(Failure::usage)?;
    let mut frontend = Frontend::new(&build.frontend);
    for (key, value) in opts {
        frontend = frontend.opt(key, value);
    }
    let outputs = build.outputs().map_err(Failure::usage)?;
    let exports = outputs.into_iter().map(places::export).collect::<Result<Vec<_>, _>>()?;
    let cache_to = build.cache_to.iter().map(places::cache_to).collect::<Result<Vec<_>, _>>()?;
    let cache_from = build.cache_from.iter().map(places::cache_from).collect::<Result<Vec<_>, _>>()?;
    let auth = auth(&build.registry_tls)?;
    let (secrets, agents) = (secrets(build).await?, agents(&build.agents).await?);
    let policy = build.source_policy_file.as_ref().map(Policy::from_file).transpose().map_err(failure)?;
    let progress = progress(build)?;
    for (flag, file) in build.files() {
        writable(flag, file)?;
    }

    let client = connect(args).await?;
    let mut solve = client.solve(frontend).auth(auth).attach(secrets).attach(agents).progress(progress);
    for (name, dir) in build.locals() {
        solve = solve.local(name, dir);
    }
    for (name, dir) in build.oci_layouts() {
        solve = solve.oci_layout(name, dir);
    }
    for export in exports {
        solve = solve.export(export);
    }
    for cache in cache_to {
        solve = solve.cache_to(cache);
    }
    for cache in cache_from {
        solve = solve.cache_from(cache);
    }
    for entitlement in &build.entitlements {
        solve = solve.allow(entitlement.as_str());
    }
    if let Some(policy) = policy {
        solve = solve.policy(policy);
    }
    if let Some(trace) = TraceContext::from_env() {
        solve = solve.trace(trace);
    }
    if build.no_cache {
        solve = solve.no_cache();
    }
    if build.proxy_network {
        solve = solve.proxy_network();
    }
    let started = solve.start();
    let reference = started.reference();
    if let Some(file) = &build.ref_file {
        write(file, &reference).await?;
    }
    let solved = started.await.map_err(failure)?;
    // A build that was run again, because its push failed at first, has another id.
    if let Some(file) = build.ref_file.as_ref().filter(|_| solved.reference() != reference) {
        write(file, solved.reference()).await?;
    }
    results(build, &solved).await?;
    Ok(solved)
}

/// Writes what is known of a build that succeeded.
async fn results(build: &Build, solved: &Solved) -> Result<(), Failure> {
    if let Some(file) = &build.metadata_file {
        write(file, &json(&solved.metadata())?).await?;
    }
    match build.debug_json_cache_metrics {
        Some(Stream::Stdout) => writeln!(std::io::stdout(), "{}", json(solved.cache_metrics())?)
            .map_err(|error| Failure::other("standard output", error))?,
        Some(Stream::Stderr) => say(json(solved.cache_metrics())?),
        None => {}
    }
    if let Some(file) = &build.digest_file {
        if solved.digest().is_empty() {
            return Err(Failure::other("--digest-file", "this build made no image, so there is no digest"));
        }
        write(file, solved.digest()).await?;
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::other("the results as JSON", error))
}

/// What registries are told. A config that cannot be read is known before anything is built.
fn auth(registries: &[RegistryTls]) -> Result<Auth, Failure> {
    let credentials = DockerConfig::load().map_err(|error| Failure::new(Exit::Auth, &error))?;
    Ok(registries.iter().fold(Auth::from(credentials), |auth, registry| {
        let tls = registry.ca.iter().fold(Tls::new(), Tls::ca_file);
        let tls = registry.identity.iter().fold(tls, |tls, (cert, key)| tls.identity_files(cert, key));
        auth.tls(&registry.host, tls)
    }))
}

async fn secrets(build: &Build) -> Result<Secrets, Failure> {
    let sources = build.secrets.iter().map(|secret| {
        let source = match &secret.from {
            SecretFrom::File(path) => SecretSource::file(path),
            SecretFrom::Env(name) => SecretSource::env(name),
        };
        (secret.id.clone(), source)
    });
    Secrets::load(sources).await.map_err(|error| Failure::new(Exit::Other, &error))
}

async fn agents(agents: &[Agent]) -> Result<Ssh, Failure> {
    let sources = agents.iter().map(|agent| {
        let source = match agent.paths.first() {
            Some(socket) if agent.raw => SshSource::raw(socket),
            _ => SshSource::paths(&agent.paths),
        };
        (agent.id.clone(), source)
    });
    Ssh::load(sources).await.map_err(|error| Failure::new(Exit::Other, &error))
}

/// Progress for people, and for the file that was asked for.
fn progress(build: &Build) -> Result<Progress, Failure> {
    let display = Display::new(build.progress);
    let Some(file) = &build.trace else { return Ok(display.into()) };
    let opened = std::fs::File::options().append(true).create(true).open(file);
    let opened = opened.map_err(|error| Failure::other(&file.display().to_string(), error))?;
    Ok(display.tee(progress::rawjson().writer(opened)))
}

/// Waits for a daemon that is still starting.
async fn connect(args: &Args) -> Result<Client, Failure> {
    let builder = match args.addr.as_deref().filter(|address| !address.is_empty()) {
        Some(address) => Client::builder(address),
        None => Client::builder_for(Address::find().unwrap_or_else(|_| Address::default_socket())),
    };
    let builder = match tls(args) {
        Some(tls) => builder.tls(tls),
        None => builder,
    };
    let client = builder.lazy().map_err(|error| Failure::new(Exit::Usage, &error))?;
    let waiting = client.clone();
    let ready = waiting.wait_ready(args.timeout);
    tokio::pin!(ready);
    let outcome = tokio::select! {
        outcome = &mut ready => outcome,
        () = tokio::time::sleep(Duration::from_secs(2)) => {
            let seconds = args.timeout.as_secs();
            say(format_args!("waiting up to {seconds} s for the daemon at {}", client.endpoint()));
            ready.await
        }
    };
    outcome.map_err(|error| Failure::new(Exit::Connect, &error))?;
    Ok(client)
}

/// None of the flags: a plain connection. Without an authority it is one that the system trusts.
fn tls(args: &Args) -> Option<Tls> {
    let Args { tlscacert, tlscert, tlskey, tlsservername, tlsdir, .. } = args;
    if [tlscacert, tlscert, tlsdir].iter().all(|path| path.is_none()) && tlsservername.is_none() {
        return None;
    }
    let mut tls = Tls::new();
    let named = tlsdir.iter().flat_map(|dir| [dir.join("ca.pem"), dir.join("ca.crt")]).any(|ca| ca.exists());
    if tlscacert.is_none() && !named {
        tls = tls.system_roots();
    }
    tls = tlsdir.iter().fold(tls, Tls::dir);
    tls = tlscacert.iter().fold(tls, Tls::ca_file);
    tls = tlscert.iter().zip(tlskey).fold(tls, |tls, (cert, key)| tls.identity_files(cert, key));
    Some(tlsservername.iter().fold(tls, Tls::server_name))
}

/// Why the daemon, or the client, could not build.
fn failure(error: impl Into<Error>) -> Failure {
    let error = error.into();
    Failure { exit: exit(&error), text: text(&error) }
}

/// The error, and the lines of the Dockerfile that it is about.
fn text(error: &Error) -> String {
    let excerpt = error.as_solve().and_then(|error| error.location()?.excerpt());
    match excerpt {
        Some(excerpt) => format!("{}\n{excerpt}", error.report()),
        None => error.report(),
    }
}

/// What the exit code says of an error of the client.
fn exit(error: &Error) -> Exit {
    match error {
        Error::Connect(_) | Error::LinkLost(_) => Exit::Connect,
        Error::Request(RequestError::Path { .. } | RequestError::Attachment { .. }) => Exit::Other,
        Error::Request(_) => Exit::Usage,
        Error::Canceled => Exit::Interrupted,
        Error::Unsupported(_) => Exit::Build,
        Error::Local(_) if is_about_credentials(error) => Exit::Auth,
        _ => match error.as_solve().map(buildkit_client::error::SolveError::kind) {
            Some(SolveErrorKind::Auth) => Exit::Auth,
            Some(SolveErrorKind::Push) => Exit::Push,
            // Not by a signal: the daemon has given the build up.
            Some(SolveErrorKind::Canceled) => Exit::Connect,
            Some(_) => Exit::Build,
            None => Exit::Other,
        },
    }
}

/// Whether credentials could not be had on this side: a store that is not there, a token server that refuses.
fn is_about_credentials(error: &Error) -> bool {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
        .any(|error| error.is::<CredentialError>() || error.is::<RealmError>() || error.is::<TokenError>())
}

/// A result that could not be written is known before anything is built. Leaves no file behind that was not there.
fn writable(flag: &str, file: &Path) -> Result<(), Failure> {
    let found = std::fs::metadata(file);
    // A pipe is for one reader, who takes its end for the end of the result.
    if found.as_ref().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(());
    }
    let opened = std::fs::File::options().append(true).create(true).open(file);
    opened.map_err(|error| Failure::other(&format!("{flag} {}", file.display()), error))?;
    if found.is_err() {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

async fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let written = tokio::fs::write(file, text).await;
    written.map_err(|error| Failure::other(&file.display().to_string(), error))
}
