//! The command line: buildctl's words, the old ones included.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use buildkit_client::progress::Mode;
use clap::{Parser, Subcommand};

/// Builds on a BuildKit daemon and pushes the image.
#[derive(Debug, Parser)]
#[command(name = "batch-job", version, after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// The daemon, for example tcp://buildkitd:1234; without it the usual local sockets are tried
    #[arg(long, global = true, env = "BUILDKIT_HOST", value_name = "ADDRESS")]
    pub(crate) addr: Option<String>,

    /// How long to wait for a daemon that is still starting, in seconds
    #[arg(long, global = true, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) wait: Duration,

    /// Authority of the daemon's certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,

    /// Certificate of this client (PEM)
    #[arg(long, global = true, value_name = "FILE", requires = "tlskey")]
    pub(crate) tlscert: Option<PathBuf>,

    /// Key of this client's certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", requires = "tlscert")]
    pub(crate) tlskey: Option<PathBuf>,

    /// Name in the daemon's certificate, where it is not the host of the address
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tlsservername: Option<String>,

    /// Folder with ca.pem, cert.pem and key.pem (or ca.crt, tls.crt and tls.key)
    #[arg(long, global = true, value_name = "DIR", conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub(crate) tlsdir: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build
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

    /// Where the result goes: type=image,name=…,push=true; may be repeated
    #[arg(short, long = "output", value_name = "CSV", value_parser = output)]
    outputs: Vec<Output>,

    /// A cache to read: type=registry,ref=… or type=local,src=DIR; may be repeated
    #[arg(long = "import-cache", value_name = "CSV", value_parser = output)]
    pub(crate) cache_from: Vec<Output>,

    /// A cache to write: type=registry,ref=…,mode=max, type=local,dest=DIR, or type=inline; may be repeated
    #[arg(long = "export-cache", value_name = "CSV", value_parser = output)]
    pub(crate) cache_to: Vec<Output>,

    /// A secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated
    #[arg(long = "secret", value_name = "CSV", value_parser = secret)]
    pub(crate) secrets: Vec<Secret>,

    /// Run every step even where its result is cached
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// How progress is shown: auto, plain, tty, quiet, rawjson
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = mode)]
    pub(crate) progress: Mode,

    /// Writes what the exporters answered, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Writes the digest of the image and nothing else, say to /dev/termination-log
    #[arg(long, value_name = "FILE")]
    pub(crate) digest_file: Option<PathBuf>,

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

/// One exporter, or one cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) kind: String,
    /// The file or folder on this side, for exporters that have one.
    pub(crate) dest: Option<String>,
    pub(crate) attrs: BTreeMap<String, String>,
}

/// One secret and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) id: String,
    pub(crate) from: SecretFrom,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretFrom {
    File(PathBuf),
    Env(String),
}

impl Build {
    /// The frontend's options, old word and new.
    pub(crate) fn opts(&self) -> Result<BTreeMap<String, String>, String> {
        let mut opts = BTreeMap::new();
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

    /// The exporters, old words and new.
    pub(crate) fn outputs(&self) -> Result<Vec<Output>, String> {
        let mut outputs = self.outputs.clone();
        if let Some(kind) = &self.exporter {
            let mut exporter = Output { kind: kind.clone(), ..Output::default() };
            for text in &self.exporter_opt {
                // A field without `=` goes on with the value before: a list of names has commas, too.
                let mut fields: Vec<String> = Vec::new();
                for field in fields_of(text)? {
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

fn mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|_| "expected auto, plain, tty, quiet or rawjson".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|error| error.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text}: expected KEY=VALUE")),
    }
}

fn output(text: &str) -> Result<Output, String> {
    let mut output = Output::default();
    for field in fields_of(text)? {
        // A bare word is a switch, as in buildctl: `push` is `push=`.
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match key {
            "type" => value.clone_into(&mut output.kind),
            "dest" => output.dest = Some(value.to_owned()),
            "output" => return Err(format!("output={value}: the key is dest={value}")),
            "" => return Err(format!("{field}: expected KEY=VALUE")),
            _ => drop(output.attrs.insert(key.to_owned(), value.to_owned())),
        }
    }
    if output.kind.is_empty() {
        return Err("the type is missing: type=image,name=…,push=true".to_owned());
    }
    Ok(output)
}

fn secret(text: &str) -> Result<Secret, String> {
    let (mut id, mut source, mut env, mut kind) = (None, None, None, None);
    for field in fields_of(text)? {
        let (key, value) = pair(&field)?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => env = Some(value),
            "type" => kind = Some(value),
            _ => return Err(format!("unexpected key '{key}' in '{text}'")),
        }
    }
    let id = id.or_else(|| source.clone()).ok_or("the id is missing")?;
    let from = match (kind.as_deref(), source, env) {
        (None | Some("env"), None, Some(name)) | (Some("env"), Some(name), None) => SecretFrom::Env(name),
        (None | Some("file"), Some(path), None) => SecretFrom::File(path.into()),
        (None, None, None) => SecretFrom::Env(id.clone()),
        _ => return Err(format!("{text}: expected src=FILE or env=VARIABLE")),
    };
    Ok(Secret { id, from })
}

/// The fields of a line of comma-separated values; a field in double quotes may hold commas, and two
/// quotes in it are one.
fn fields_of(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("{text}: a quote is not closed"));
    }
    fields.push(field);
    Ok(fields)
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
    fn outputs_are_comma_separated_values() {
        let cases = [
            ("type=image,name=a,push=true", image(&[("name", "a"), ("push", "true")])),
            (r#"type=image,"name=a,b",push"#, image(&[("name", "a,b"), ("push", "")])),
            (
                "type=oci,dest=x.tar",
                Output { kind: "oci".into(), dest: Some("x.tar".into()), ..Output::default() },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(output(text).as_ref(), Ok(&expected), "{text}");
        }
        for text in ["name=a", "type=oci,output=x", "", r#"type=image,"name=a"#, "type=image,=x"] {
            assert!(output(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_come_from_files_or_the_environment() {
        let file = |id: &str, path: &str| Secret { id: id.into(), from: SecretFrom::File(path.into()) };
        let env = |id: &str, name: &str| Secret { id: id.into(), from: SecretFrom::Env(name.into()) };
        for (text, expected) in [
            ("id=a,src=/b", file("a", "/b")),
            ("src=/b", file("/b", "/b")),
            ("id=a,env=B", env("a", "B")),
            ("id=a,type=env,src=B", env("a", "B")),
            ("id=A", env("A", "A")),
        ] {
            assert_eq!(secret(text), Ok(expected), "{text}");
        }
        for text in ["", "id=a,src=b,env=c", "id=a,colour=red", "env=A"] {
            assert!(secret(text).is_err(), "{text}");
        }
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
