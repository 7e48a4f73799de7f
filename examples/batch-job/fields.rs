//! The values of flags, as buildctl reads them: lists of fields between commas.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use buildkit_client::progress::Mode;

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

/// One ssh agent: the user's own, one at a socket, or one made of key files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) id: String,
    /// Sockets or keys; none is the user's own agent.
    pub(crate) paths: Vec<PathBuf>,
    /// The one socket is passed on as it is.
    pub(crate) raw: bool,
}

/// What tells a registry's token server who is who.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistryTls {
    pub(crate) host: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

pub(crate) fn mode(text: &str) -> Result<Mode, String> {
    text.parse().map_err(|_| "expected auto, plain, tty, quiet or rawjson".to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|error| error.to_string())
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text}: expected KEY=VALUE")),
    }
}

pub(crate) fn output(text: &str) -> Result<Output, String> {
    let mut output = Output::default();
    for field in of(text)? {
        // A bare word is a switch, as in buildctl: `push` is `push=`.
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match key.to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut output.kind),
            "dest" => output.dest = Some(value.to_owned()),
            "output" => return Err(format!("output={value}: the key is dest={value}")),
            "" => return Err(format!("{field}: expected KEY=VALUE")),
            key => drop(output.attrs.insert(key.to_owned(), value.to_owned())),
        }
    }
    if output.kind.is_empty() {
        return Err("the type is missing: type=image,name=…,push=true".to_owned());
    }
    Ok(output)
}

/// A cache; a text without a type is a reference in a registry, which buildctl still takes.
pub(crate) fn cache(text: &str) -> Result<Output, String> {
    if is_reference(text) {
        let attrs = BTreeMap::from([("ref".to_owned(), text.to_owned())]);
        return Ok(Output { kind: "registry".to_owned(), dest: None, attrs });
    }
    output(text)
}

fn is_reference(text: &str) -> bool {
    !text.is_empty() && !text.contains(['=', ','])
}

pub(crate) fn secret(text: &str) -> Result<Secret, String> {
    let (mut id, mut source, mut env, mut kind) = (None, None, None, None);
    for field in of(text)? {
        let (key, value) = pair(&field)?;
        match key.to_ascii_lowercase().as_str() {
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

pub(crate) fn agent(text: &str) -> Result<Agent, String> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    let mut agent = Agent { id: id.to_owned(), paths: Vec::new(), raw: false };
    for field in paths.split(',').filter(|field| !field.is_empty()) {
        match field.strip_prefix("raw=") {
            Some(switch) => {
                agent.raw = truth(switch).ok_or_else(|| format!("{field}: expected true or false"))?;
            }
            None => agent.paths.push(field.into()),
        }
    }
    if agent.raw && agent.paths.len() != 1 {
        return Err(format!("{text}: raw=true goes with one socket"));
    }
    Ok(agent)
}

pub(crate) fn registry_tls(text: &str) -> Result<RegistryTls, String> {
    let mut tls = RegistryTls::default();
    let (mut cert, mut key) = (None, None);
    for field in of(text)? {
        let (name, value) = pair(&field)?;
        match name.to_ascii_lowercase().as_str() {
            "host" => {
                let host = value.split_once("://").map_or(value.as_str(), |(_, host)| host);
                host.trim_end_matches('/').clone_into(&mut tls.host);
            }
            "ca" => tls.ca = Some(value.into()),
            "cert" => cert = Some(value.into()),
            "key" => key = Some(value.into()),
            "insecure" if truth(&value) == Some(false) => {}
            "insecure" => {
                return Err("insecure: a token server's certificate is always checked; give ca=FILE".into());
            }
            _ => return Err(format!("unexpected key '{name}' in '{text}'")),
        }
    }
    tls.identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(format!("{text}: cert=FILE and key=FILE go together")),
    };
    if tls.host.is_empty() || (tls.ca.is_none() && tls.identity.is_none()) {
        return Err(format!("{text}: expected host=HOST with ca=FILE, or with cert=FILE and key=FILE"));
    }
    Ok(tls)
}

/// A switch in the words that Go takes.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The fields of a line of comma-separated values; a field in double quotes may hold commas, and two
/// quotes in it are one.
pub(crate) fn of(text: &str) -> Result<Vec<String>, String> {
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

    fn image(attrs: &[(&str, &str)]) -> Output {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Output { kind: "image".into(), dest: None, attrs: attrs.collect() }
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
            ("ID=A", env("A", "A")),
        ] {
            assert_eq!(secret(text), Ok(expected), "{text}");
        }
        for text in ["", "id=a,src=b,env=c", "id=a,colour=red", "env=A"] {
            assert!(secret(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_cache_may_be_a_reference_alone() {
        let registry = cache("type=registry,ref=r:5000/a/cache:1").unwrap();
        assert_eq!(cache("r:5000/a/cache:1"), Ok(registry));
        assert_eq!(cache("Type=s3,Bucket=b").unwrap().attrs["bucket"], "b");
        for text in ["", "ref=r/a", "r/a,mode=max"] {
            assert!(cache(text).is_err(), "{text}");
        }
    }

    #[test]
    fn agents_are_named_and_may_be_sockets_or_keys() {
        let agent_of = |id: &str, paths: &[&str], raw| Agent {
            id: id.into(),
            paths: paths.iter().map(PathBuf::from).collect(),
            raw,
        };
        for (text, expected) in [
            ("default", agent_of("default", &[], false)),
            ("a=/run/agent.sock", agent_of("a", &["/run/agent.sock"], false)),
            ("a=/k1,/k2", agent_of("a", &["/k1", "/k2"], false)),
            ("a=/s,raw=true", agent_of("a", &["/s"], true)),
            ("a=/s,raw=false", agent_of("a", &["/s"], false)),
        ] {
            assert_eq!(agent(text), Ok(expected), "{text}");
        }
        for text in ["a=raw=true", "a=/s,/t,raw=true", "a=/s,raw=maybe"] {
            assert!(agent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_registrys_tls_has_a_host_and_something_to_say_of_it() {
        let full = RegistryTls {
            host: "r.example:5001".into(),
            ca: Some("/ca".into()),
            identity: Some(("/cert".into(), "/key".into())),
        };
        let text = "host=https://r.example:5001/,insecure=false,ca=/ca,cert=/cert,key=/key";
        assert_eq!(registry_tls(text), Ok(full));
        assert_eq!(registry_tls("host=r,ca=/ca").unwrap().identity, None);
        for text in ["ca=/ca", "host=r", "host=r,cert=/c", "host=r,ca=/ca,insecure=true", "host=r,ca=/a,b=c"]
        {
            assert!(registry_tls(text).is_err(), "{text}");
        }
    }
}
