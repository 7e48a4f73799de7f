//! The build itself: connect, solve, write the results, and say what went wrong and where.

use std::path::Path;
use std::time::Duration;

use buildkit_client::cache::{CacheExport, CacheImport, InlineCache, LocalCache, RegistryCache};
use buildkit_client::connect::Address;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::{Error, RequestError, SolveErrorKind};
use buildkit_client::export::Export;
use buildkit_client::progress::Display;
use buildkit_client::request::Frontend;
use buildkit_client::session::auth::{CredentialError, RealmError, TokenError};
use buildkit_client::session::secrets::{SecretSource, Secrets};
use buildkit_client::tls::Tls;
use buildkit_client::{Client, Solved};

use crate::args::{Args, Build, Output, SecretFrom};
use crate::exit::Exit;

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

    fn other(doing: &str, error: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Other, text: format!("{doing}: {error}") }
    }

    fn usage(text: impl Into<String>) -> Self {
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
    let exports = outputs.into_iter().map(export).collect::<Result<Vec<_>, _>>()?;
    let cache_to = build.cache_to.iter().map(cache_to).collect::<Result<Vec<_>, _>>()?;
    let cache_from = build.cache_from.iter().map(cache_from).collect::<Result<Vec<_>, _>>()?;
    // A config that cannot be read is known before anything is built.
    let credentials = DockerConfig::load().map_err(|error| Failure::new(Exit::Auth, &error))?;
    let secrets = Secrets::load(build.secrets.iter().map(|secret| {
        let source = match &secret.from {
            SecretFrom::File(path) => SecretSource::file(path),
            SecretFrom::Env(name) => SecretSource::env(name),
        };
        (secret.id.clone(), source)
    }));
    let secrets = secrets.await.map_err(|error| Failure::new(Exit::Other, &error))?;

    let client = connect(args).await?;
    let mut solve =
        client.solve(frontend).auth(credentials).attach(secrets).progress(Display::new(build.progress));
    for (name, dir) in build.locals() {
        solve = solve.local(name, dir);
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
    if build.no_cache {
        solve = solve.no_cache();
    }
    let solved = solve.await.map_err(|error| Failure { exit: exit(&error), text: text(&error) })?;
    if let Some(file) = &build.metadata_file {
        let metadata = serde_json::to_string_pretty(&solved.metadata());
        write(file, &metadata.map_err(|error| Failure::other("the metadata as JSON", error))?).await?;
    }
    if let Some(file) = &build.digest_file {
        if solved.digest().is_empty() {
            return Err(Failure::other("--digest-file", "this build made no image, so there is no digest"));
        }
        write(file, solved.digest()).await?;
    }
    Ok(solved)
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
    let ready = waiting.wait_ready(args.wait);
    tokio::pin!(ready);
    let outcome = tokio::select! {
        outcome = &mut ready => outcome,
        () = tokio::time::sleep(Duration::from_secs(2)) => {
            eprintln!("waiting up to {} s for the daemon at {}", args.wait.as_secs(), client.endpoint());
            ready.await
        }
    };
    outcome.map_err(|error| Failure::new(Exit::Connect, &error))?;
    Ok(client)
}

fn tls(args: &Args) -> Option<Tls> {
    let mut tls = None;
    if let Some(dir) = &args.tlsdir {
        tls = Some(Tls::new().dir(dir));
    }
    if let Some(ca) = &args.tlscacert {
        tls = Some(tls.unwrap_or_default().ca_file(ca));
    }
    if let (Some(cert), Some(key)) = (&args.tlscert, &args.tlskey) {
        tls = Some(tls.unwrap_or_default().identity_files(cert, key));
    }
    if let Some(name) = &args.tlsservername {
        tls = Some(tls.unwrap_or_default().server_name(name));
    }
    tls
}

fn export(output: Output) -> Result<Export, Failure> {
    let Output { kind, dest, attrs } = output;
    let mut export = Export::custom(&kind);
    match (kind.as_str(), dest) {
        ("local", Some(dest)) => export = export.to_dir(dest),
        ("tar" | "oci" | "docker", Some(dest)) if dest != "-" => export = export.to_output(dest),
        ("local" | "tar" | "oci" | "docker", _) => {
            return Err(Failure::usage(format!("--output type={kind} needs dest=PATH")));
        }
        (_, Some(dest)) => {
            return Err(Failure::usage(format!("--output type={kind} writes no file: dest={dest}")));
        }
        (_, None) => {}
    }
    for (key, value) in attrs {
        export = export.attr(key, value);
    }
    Ok(export)
}

fn cache_to(cache: &Output) -> Result<CacheExport, Failure> {
    let attrs = || cache.attrs.iter().filter(|(key, _)| *key != "ref");
    Ok(match cache.kind.as_str() {
        "registry" => {
            let cache = RegistryCache::new(required(cache, "--export-cache", "ref")?);
            attrs().fold(cache, |cache, (key, value)| cache.attr(key, value)).into()
        }
        "local" => {
            let dest = cache
                .dest
                .as_ref()
                .ok_or_else(|| Failure::usage("--export-cache type=local needs dest=DIR"))?;
            attrs().fold(LocalCache::new(dest), |cache, (key, value)| cache.attr(key, value)).into()
        }
        "inline" => InlineCache::new().into(),
        other => {
            return Err(Failure::usage(format!(
                "--export-cache type={other}: expected registry, local or inline"
            )));
        }
    })
}

fn cache_from(cache: &Output) -> Result<CacheImport, Failure> {
    let attrs = || cache.attrs.iter().filter(|(key, _)| !matches!(key.as_str(), "ref" | "src"));
    Ok(match cache.kind.as_str() {
        "registry" => {
            let cache = RegistryCache::new(required(cache, "--import-cache", "ref")?);
            attrs().fold(cache, |cache, (key, value)| cache.attr(key, value)).into()
        }
        "local" => {
            let cache = LocalCache::new(required(cache, "--import-cache", "src")?);
            attrs().fold(cache, |cache, (key, value)| cache.attr(key, value)).into()
        }
        other => {
            return Err(Failure::usage(format!("--import-cache type={other}: expected registry or local")));
        }
    })
}

fn required<'a>(cache: &'a Output, flag: &str, key: &str) -> Result<&'a String, Failure> {
    let missing = || Failure::usage(format!("{flag} type={} needs {key}=…", cache.kind));
    cache.attrs.get(key).ok_or_else(missing)
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

async fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let written = tokio::fs::write(file, text).await;
    written.map_err(|error| Failure::other(&file.display().to_string(), error))
}
