//! The command line: buildctl's words, the old ones included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use buildkit_client::progress::Mode;
use clap::{Parser, Subcommand, ValueEnum};

use crate::fields::{Agent, Output, RegistryTls, Secret};
use crate::fields::{agent, cache, mode, output, pair, registry_tls, seconds, secret};

/// Of the flags that are about the daemon, in the help of both commands.
const DAEMON: &str = "The daemon";

/// Builds on a BuildKit daemon and pushes the image.
#[derive(Debug, Parser)]
#[command(name = "batch-job", version, after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// The daemon, for example tcp://buildkitd:1234; without it the usual local sockets are tried
    #[arg(long, global = true, help_heading = DAEMON, env = "BUILDKIT_HOST", hide_env_values = true, value_name = "ADDRESS")]
    pub(crate) addr: Option<String>,

    /// How long to wait for a daemon that is still starting, in seconds
    #[arg(long, global = true, help_heading = DAEMON, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// Authority of the daemon's certificate (PEM)
    #[arg(long, global = true, help_heading = DAEMON, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,

    /// Certificate of this client (PEM)
    #[arg(long, global = true, help_heading = DAEMON, value_name = "FILE", requires = "tlskey")]
    pub(crate) tlscert: Option<PathBuf>,

    /// Key of this client's certificate (PEM)
    #[arg(long, global = true, help_heading = DAEMON, value_name = "FILE", requires = "tlscert")]
    pub(crate) tlskey: Option<PathBuf>,

    /// Name in the daemon's certificate, where it is not the host of the address
    #[arg(long, global = true, help_heading = DAEMON, value_name = "NAME")]
    pub(crate) tlsservername: Option<String>,

    /// Folder with ca.pem, cert.pem and key.pem (or ca.crt, tls.crt and tls.key)
    #[arg(long, global = true, help_heading = DAEMON, value_name = "DIR", conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub(crate) tlsdir: Option<PathBuf>,

    // What buildctl has and a job does anyway, or has no use for.
    #[arg(long = "wait", global = true, hide = true)]
    _wait: bool,
    #[arg(long = "debug", global = true, hide = true)]
    _debug: bool,
    #[arg(long = "log-format", global = true, hide = true, value_name = "FORMAT")]
    _log_format: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Builds a Dockerfile, or whatever another frontend reads
    #[command(visible_alias = "b", after_help = crate::exit::HELP)]
    Build(Box<Build>),
}

/// The flags of `build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// The frontend: dockerfile.v0 or gateway.v0
    #[arg(long, value_name = "NAME", default_value = "dockerfile.v0")]
    pub(crate) frontend: String,

    /// An option of the frontend; may be repeated. `build-arg:NAME` alone takes the environment's value
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    opts: Vec<String>,

    /// A folder that the build may read, by name: context, dockerfile; may be repeated
    #[arg(long = "local", value_name = "NAME=DIR", value_parser = pair)]
    locals: Vec<(String, String)>,

    /// An OCI layout that the build may read, by name; may be repeated
    #[arg(long = "oci-layout", value_name = "NAME=DIR", value_parser = pair)]
    oci_layouts: Vec<(String, String)>,

    /// Where the result goes: type=image,name=…,push=true; may be repeated. Without dest=FILE, an archive goes to
    /// standard output
    #[arg(short, long = "output", value_name = "CSV", value_parser = output)]
    outputs: Vec<Output>,

    /// A cache to read: type=registry,ref=…, type=local,src=DIR, or one of gha, s3 and azblob; may be repeated
    #[arg(long = "import-cache", value_name = "CSV", value_parser = cache)]
    pub(crate) cache_from: Vec<Output>,

    /// A cache to write: type=registry,ref=…,mode=max, type=local,dest=DIR, type=inline, or one of gha, s3 and
    /// azblob; may be repeated
    #[arg(long = "export-cache", value_name = "CSV", value_parser = cache)]
    pub(crate) cache_to: Vec<Output>,

    /// A secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long = "secret", value_name = "CSV", value_parser = secret)]
    pub(crate) secrets: Vec<Secret>,

    /// An ssh agent for RUN --mount=type=ssh: `default` alone is the one of SSH_AUTH_SOCK; may be repeated
    #[arg(long = "ssh", value_name = "ID[=SOCKET[,raw=true]|KEY,…]", value_parser = agent)]
    pub(crate) agents: Vec<Agent>,

    /// What steps may do beyond the usual, if the daemon agrees: network.host, security.insecure; may be repeated
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(crate) entitlements: Vec<String>,

    /// Rules about the sources that a build may use (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) source_policy_file: Option<PathBuf>,

    /// TLS towards a registry's token server: host=HOST,ca=FILE,cert=FILE,key=FILE; may be repeated
    #[arg(long = "registry-auth-tlscontext", value_name = "CSV", value_parser = registry_tls)]
    pub(crate) registry_tls: Vec<RegistryTls>,

    /// Run every step even where its result is cached
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Send the network traffic of steps through a proxy that notes it for the provenance
    #[arg(long)]
    pub(crate) proxy_network: bool,

    /// How progress is shown: auto, plain, tty, quiet, rawjson
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = mode)]
    pub(crate) progress: Mode,

    /// Appends the progress to a file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Writes the build's id when it starts, with which others can follow it
    #[arg(long, value_name = "FILE")]
    pub(crate) ref_file: Option<PathBuf>,

    /// Writes what the exporters answered, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Writes the digest of the image and nothing else, say to /dev/termination-log
    #[arg(long, value_name = "FILE")]
    pub(crate) digest_file: Option<PathBuf>,

    /// Writes how much came from the cache, as JSON
    #[arg(long, value_name = "WHERE")]
    pub(crate) debug_json_cache_metrics: Option<Stream>,

    /// Old word for --opt
    #[arg(long, hide = true, value_name = "KEY=VALUE")]
    frontend_opt: Vec<String>,

    /// Old word for the type of --output
    #[arg(long, hide = true, value_name = "TYPE", conflicts_with = "outputs")]
    exporter: Option<String>,

    /// Old word for the rest of --output
    #[arg(long, hide = true, value_name = "KEY=VALUE", requires = "exporter")]
    exporter_opt: Vec<String>,
}

/// One of the two that a process writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Build {
    /// The frontend's options, old word and new. `SOURCE_DATE_EPOCH` of the environment is one, too.
    pub(crate) fn opts(&self) -> Result<BTreeMap<String, String>, String> {
        let mut opts = BTreeMap::new();
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            opts.insert("build-arg:SOURCE_DATE_EPOCH".to_owned(), epoch);
        }
        for text in self.frontend_opt.iter().chain(&self.opts) {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None => match text.strip_prefix("build-arg:") {
                    // Absent from the environment means absent from the build.
                    Some(name) => match std::env::var(name) {
                        Ok(value) => (text.as_str(), value),
                        Err(_) => continue,
                    },
                    None => return Err(format!("--opt {text}: a value is missing (KEY=VALUE)")),
                },
            };
            opts.insert(key.to_owned(), value);
        }
        Ok(opts)
    }

    /// The folders that the build may read.
    pub(crate) fn locals(&self) -> BTreeMap<String, PathBuf> {
        self.locals.iter().map(|(name, dir)| (name.clone(), PathBuf::from(dir))).collect()
    }

    /// The OCI layouts that the build may read.
    pub(crate) fn oci_layouts(&self) -> BTreeMap<String, PathBuf> {
        self.oci_layouts.iter().map(|(name, dir)| (name.clone(), PathBuf::from(dir))).collect()
    }

    /// The files that are written, by flag.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("--metadata-file", &self.metadata_file),
            ("--digest-file", &self.digest_file),
            ("--ref-file", &self.ref_file),
        ];
        files.into_iter().filter_map(|(flag, file)| Some((flag, file.as_deref()?)))
    }

    /// The exporters, old words and new.
    pub(crate) fn outputs(&self) -> Result<Vec<Output>, String> {
        let mut outputs = self.outputs.clone();
        if let Some(kind) = &self.exporter {
            let mut exporter = Output { kind: kind.clone(), ..Output::default() };
            for text in &self.exporter_opt {
                // A field without `=` goes on with the value before: a list of names has commas, too.
                let mut fields: Vec<String> = Vec::new();
                for field in crate::fields::of(text)? {
                    match fields.last_mut() {
                        Some(last) if !field.contains('=') => *last = format!("{last},{field}"),
                        _ => fields.push(field),
                    }
                }
                for field in fields {
                    let (key, value) = pair(&field).map_err(|error| format!("--exporter-opt {error}"))?;
                    match key.as_str() {
                        "output" | "dest" => exporter.dest = Some(value),
                        _ => drop(exporter.attrs.insert(key, value)),
                    }
                }
            }
            outputs.push(exporter);
        }
        Ok(outputs)
    }

    /// What to say about old words that were used.
    pub(crate) fn deprecations(&self) -> Vec<&'static str> {
        let mut said = Vec::new();
        if !self.frontend_opt.is_empty() {
            said.push("--frontend-opt is deprecated: use --opt KEY=VALUE");
        }
        if self.exporter.is_some() {
            said.push("--exporter is deprecated: use --output type=TYPE,KEY=VALUE");
        }
        if !self.exporter_opt.is_empty() {
            said.push("--exporter-opt is deprecated: use --output type=TYPE,KEY=VALUE");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(args: &[&str]) -> Build {
        let args = ["batch-job", "--addr", "tcp://buildkitd:1234", "build"].iter().chain(args);
        let Command::Build(build) = Args::try_parse_from(args).unwrap().command;
        *build
    }

    fn image(attrs: &[(&str, &str)]) -> Output {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Output { kind: "image".into(), dest: None, attrs: attrs.collect() }
    }

    #[test]
    fn the_old_words_mean_what_the_new_ones_mean() {
        let new = build(&[
            "--frontend=dockerfile.v0",
            "--opt=filename=Dockerfile.example",
            "--local=context=/src",
            "--output=type=image,name=r/a,push=true",
        ]);
        let old = build(&[
            "--frontend",
            "dockerfile.v0",
            "--frontend-opt",
            "filename=Dockerfile.example",
            "--local",
            "context=/src",
            "--exporter",
            "image",
            "--exporter-opt",
            "name=r/a",
            "--exporter-opt",
            "push=true",
        ]);
        assert_eq!(old.opts(), new.opts());
        assert_eq!(old.outputs(), new.outputs());
        assert_eq!(new.outputs().unwrap(), [image(&[("name", "r/a"), ("push", "true")])]);
        assert_eq!(old.deprecations().len(), 3);
        assert!(new.deprecations().is_empty());
    }

    #[test]
    fn old_exporter_options_may_share_a_flag_and_names_may_have_commas() {
        let old = build(&["--exporter=image", "--exporter-opt=name=r/a,r/b,push=true"]);
        assert_eq!(old.outputs().unwrap(), [image(&[("name", "r/a,r/b"), ("push", "true")])]);
    }

    #[test]
    fn a_build_argument_without_a_value_takes_the_environments() {
        let build = build(&["--opt=build-arg:PATH", "--opt=build-arg:SURELY_NOT_SET_ANYWHERE"]);
        let opts = build.opts().unwrap();
        assert_eq!(opts.get("build-arg:PATH").cloned(), std::env::var("PATH").ok());
        assert_eq!(opts.len(), 1);
        assert!(super::tests::build(&["--opt=target"]).opts().is_err());
    }
}
