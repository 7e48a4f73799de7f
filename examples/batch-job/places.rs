//! Where results go, and where caches are: the words of the command line in the client's types.

use std::io::IsTerminal as _;

use buildkit_client::cache::{
    CacheExport, CacheImport, CustomCache, GhaCache, InlineCache, LocalCache, RegistryCache,
};
use buildkit_client::export::{Export, Output as Destination};

use crate::fields::{Output, truth};
use crate::job::Failure;

/// An exporter.
pub(crate) fn export(output: Output) -> Result<Export, Failure> {
    let Output { kind, dest, attrs } = output;
    let dest = dest.filter(|dest| dest != "-");
    let is_layout = attrs.get("tar").and_then(|tar| truth(tar)) == Some(false);
    let mut export = match (kind.as_str(), dest) {
        ("local", Some(dest)) => Export::custom(kind).to_dir(dest),
        ("oci", Some(dest)) if is_layout => Export::oci_dir(dest).into(),
        ("docker", Some(dest)) if is_layout => Export::docker_dir(dest).into(),
        ("tar" | "oci" | "docker", Some(dest)) => Export::custom(kind).to_output(dest),
        ("tar" | "oci" | "docker", None) if !is_layout => {
            if std::io::stdout().is_terminal() {
                return Err(Failure::usage(format!(
                    "--output type={kind} would write an archive to the terminal: add dest=FILE, or send it elsewhere"
                )));
            }
            Export::custom(kind).to_output(Destination::writer(tokio::io::stdout()))
        }
        ("local" | "oci" | "docker", None) => {
            return Err(Failure::usage(format!("--output type={kind} needs dest=DIR")));
        }
        (_, Some(dest)) => {
            return Err(Failure::usage(format!("--output type={kind} writes no file: dest={dest}")));
        }
        (_, None) => Export::custom(kind),
    };
    for (key, value) in attrs {
        export = export.attr(key, value);
    }
    Ok(export)
}

/// A cache to write.
pub(crate) fn cache_to(cache: &Output) -> Result<CacheExport, Failure> {
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
        "gha" => attrs().fold(GhaCache::from_env(), |cache, (key, value)| cache.attr(key, value)).into(),
        kind @ ("s3" | "azblob") => {
            attrs().fold(CustomCache::new(kind), |cache, (key, value)| cache.attr(key, value)).into()
        }
        other => {
            return Err(Failure::usage(format!(
                "--export-cache type={other}: expected registry, local, inline, gha, s3 or azblob"
            )));
        }
    })
}

/// A cache to read.
pub(crate) fn cache_from(cache: &Output) -> Result<CacheImport, Failure> {
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
        "gha" => attrs().fold(GhaCache::from_env(), |cache, (key, value)| cache.attr(key, value)).into(),
        kind @ ("s3" | "azblob") => {
            attrs().fold(CustomCache::new(kind), |cache, (key, value)| cache.attr(key, value)).into()
        }
        other => {
            return Err(Failure::usage(format!(
                "--import-cache type={other}: expected registry, local, gha, s3 or azblob"
            )));
        }
    })
}

fn required<'a>(cache: &'a Output, flag: &str, key: &str) -> Result<&'a String, Failure> {
    let missing = || Failure::usage(format!("{flag} type={} needs {key}=…", cache.kind));
    cache.attrs.get(key).ok_or_else(missing)
}
