//! Addresses of daemons, as buildctl writes them.

use crate::error::ConnectError;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// `tcp://host:port`.
    Tcp {
        /// Name or IP address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:///path`.
    Unix {
        /// Path of the socket.
        path: PathBuf,
    },
    /// `npipe:////./pipe/name`, for Windows.
    Npipe {
        /// Name of the pipe.
        name: String,
    },
    /// `docker://[/path]`: BuildKit inside a Docker Engine, on its socket.
    DockerSocket {
        /// Path of the socket; `/var/run/docker.sock` when the address names none.
        path: PathBuf,
    },
    /// `docker://host:port`: BuildKit inside a Docker Engine that listens on TCP.
    DockerTcp {
        /// Name or IP address.
        host: String,
        /// Port.
        port: u16,
    },
    /// `docker-container://name`, `podman-container://name`, `nerdctl-container://name`.
    Container {
        /// The program that runs containers.
        engine: ContainerEngine,
        /// Name or id of the container.
        name: String,
        /// Docker context or containerd namespace.
        scope: Option<String>,
    },
    /// `kube-pod://pod[?context=&namespace=&container=]`.
    KubePod {
        /// Name of the pod.
        pod: String,
        /// Context of the kubeconfig; empty for the current one.
        context: String,
        /// Namespace; empty for the context's.
        namespace: String,
        /// Container of the pod; empty for the default one.
        container: String,
    },
    /// `ssh://[user@]host[:port][/socket]`.
    Ssh {
        /// Login name.
        user: Option<String>,
        /// Host.
        host: String,
        /// Port of the ssh server.
        port: Option<u16>,
        /// Socket of the daemon on the host, where it is not the default one.
        socket: Option<String>,
    },
}

/// Programs that run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEngine {
    /// `docker`.
    Docker,
    /// `podman`.
    Podman,
    /// `nerdctl`.
    Nerdctl,
}

pub(super) const DOCKER_SOCKET: &str = "/var/run/docker.sock";

impl Address {
    /// `BUILDKIT_HOST` where it is set and not empty.
    ///
    /// # Errors
    /// When it is set and cannot be understood.
    pub fn from_env() -> Result<Option<Self>, ConnectError> {
        match std::env::var("BUILDKIT_HOST") {
            Ok(text) if !text.trim().is_empty() => text.trim().parse().map(Some),
            _ => Ok(None),
        }
    }

    /// Where buildkitd listens unless told otherwise: `/run/buildkit/buildkitd.sock` on Linux,
    /// below `/var/run` on other Unix systems, a named pipe on Windows.
    pub fn default_socket() -> Self {
        if cfg!(windows) {
            Self::Npipe { name: "//./pipe/buildkitd".into() }
        } else if cfg!(target_os = "linux") {
            Self::Unix { path: "/run/buildkit/buildkitd.sock".into() }
        } else {
            Self::Unix { path: "/var/run/buildkit/buildkitd.sock".into() }
        }
    }

    /// Where a rootless buildkitd listens: below `XDG_RUNTIME_DIR`, if that is set.
    pub fn rootless_socket() -> Option<Self> {
        let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
        Some(Self::Unix { path: PathBuf::from(dir).join("buildkit/buildkitd.sock") })
    }

    /// Program and arguments that carry the connection, for the addresses that need some.
    pub fn command(&self) -> Option<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let dial = ["buildctl", "dial-stdio"];
        Some(match self {
            Self::Container { engine: ContainerEngine::Docker, name, scope } => {
                let mut argv = words(&["docker"]);
                argv.extend(scope.as_ref().map(|context| format!("--context={context}")));
                argv.extend(words(&["exec", "-i", name]));
                argv.extend(words(&dial));
                argv
            }
            Self::Container { engine: ContainerEngine::Podman, name, .. } => {
                let mut argv = words(&["podman", "exec", "-i", name]);
                argv.extend(words(&dial));
                argv
            }
            Self::Container { engine: ContainerEngine::Nerdctl, name, scope } => {
                let mut argv = words(&["nerdctl", "exec"]);
                if let Some(namespace) = scope {
                    argv.extend(words(&["--namespace", namespace]));
                }
                argv.extend(words(&["-i", name]));
                argv.extend(words(&dial));
                argv
            }
            Self::KubePod { pod, context, namespace, container } => {
                let mut argv = vec![
                    "kubectl".to_owned(),
                    format!("--context={context}"),
                    format!("--namespace={namespace}"),
                    "exec".to_owned(),
                    format!("--container={container}"),
                ];
                argv.extend(words(&["-i", pod, "--"]));
                argv.extend(words(&dial));
                argv
            }
            Self::Ssh { user, host, port, socket } => {
                let mut argv = words(&["ssh"]);
                if let Some(user) = user {
                    argv.extend(words(&["-l", user]));
                }
                if let Some(port) = port {
                    argv.extend(words(&["-p", &port.to_string()]));
                }
                argv.extend(words(&["--", host, "buildctl"]));
                if let Some(socket) = socket {
                    argv.extend(words(&["--addr", &format!("unix://{socket}")]));
                }
                argv.push("dial-stdio".to_owned());
                argv
            }
            _ => return None,
        })
    }
}

impl FromStr for Address {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        parse(text).map_err(|reason| ConnectError::address(&shown(text), reason))
    }
}

/// The address for a message: a password that should not be there is not repeated.
fn shown(text: &str) -> String {
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, rest)), Some(at)) if rest.contains('@') && rest.contains(':') => {
            format!("{scheme}://…{}", &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Address, String> {
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("it holds blanks or control characters".into());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("it has no scheme: write tcp://host:port or unix:///path".into());
    };
    let (before, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let no_query = |what: &str| match query {
        Some(_) => Err(format!("{what} addresses take no query")),
        None => Ok(()),
    };
    match scheme {
        "tcp" => {
            no_query("tcp")?;
            let (host, port) = host_port(before.trim_end_matches('/'))?;
            Ok(Address::Tcp {
                host,
                port: port.ok_or("it has no port: buildkitd has no fixed one, often 1234")?,
            })
        }
        "unix" => {
            no_query("unix")?;
            if before.is_empty() {
                return Err("it has no path".into());
            }
            Ok(Address::Unix { path: before.into() })
        }
        "npipe" => Ok(Address::Npipe { name: before.to_owned() }),
        "docker" => {
            no_query("docker")?;
            // `DOCKER_HOST` as it stands, behind `docker://`, is understood as well.
            let before = before.strip_prefix("unix://").or(before.strip_prefix("tcp://")).unwrap_or(before);
            if before.is_empty() {
                Ok(Address::DockerSocket { path: DOCKER_SOCKET.into() })
            } else if before.starts_with('/') {
                Ok(Address::DockerSocket { path: before.into() })
            } else {
                let (host, port) = host_port(before.trim_end_matches('/'))?;
                Ok(Address::DockerTcp { host, port: port.unwrap_or(2375) })
            }
        }
        "docker-container" => container(ContainerEngine::Docker, before, query, Some("context")),
        "podman-container" => container(ContainerEngine::Podman, before, query, None),
        "nerdctl-container" => container(ContainerEngine::Nerdctl, before, query, Some("namespace")),
        "kube-pod" => kube_pod(before, query),
        "ssh" => ssh(rest),
        "http" | "https" => Err(format!(
            "scheme {scheme:?} leads to no BuildKit: write tcp://host:port, with TLS settings where it speaks TLS"
        )),
        other => Err(format!(
            "scheme {other:?} is not known; there are tcp, unix, docker, ssh, kube-pod, and docker-, podman- and \
             nerdctl-container"
        )),
    }
}

fn container(
    engine: ContainerEngine,
    name: &str,
    query: Option<&str>,
    key: Option<&str>,
) -> Result<Address, String> {
    let name = name.trim_end_matches('/');
    if name.is_empty() {
        return Err("url lacks container name".into());
    }
    plain_word("container name", name)?;
    let mut scope = None;
    for (k, v) in pairs(query)? {
        if Some(k.as_str()) != key {
            return Err(format!("unknown query key {k:?}"));
        }
        plain_word(&k, &v)?;
        scope = Some(v).filter(|v| !v.is_empty());
    }
    Ok(Address::Container { engine, name: name.to_owned(), scope })
}

fn kube_pod(pod: &str, query: Option<&str>) -> Result<Address, String> {
    let pod = pod.trim_end_matches('/');
    if pod.is_empty() {
        return Err("url lacks pod name".into());
    }
    let (mut context, mut namespace, mut container) = (String::new(), String::new(), String::new());
    for (key, value) in pairs(query)? {
        match key.as_str() {
            "context" => context = value,
            "namespace" => namespace = value,
            "container" => container = value,
            _ => return Err(format!("unknown query key {key:?}")),
        }
    }
    let valid = |text: &str| {
        text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')) && !text.starts_with('-')
    };
    if !valid(pod) {
        return Err(format!("unsupported pod name: {pod:?}"));
    }
    if !valid(&namespace) {
        return Err(format!("unsupported namespace name: {namespace:?}"));
    }
    if !valid(&container) {
        return Err(format!("unsupported container name: {container:?}"));
    }
    Ok(Address::KubePod { pod: pod.to_owned(), context, namespace, container })
}

fn ssh(rest: &str) -> Result<Address, String> {
    if rest.contains('?') {
        return Err("extra query after the host".into());
    }
    if rest.contains('#') {
        return Err("extra fragment after the host".into());
    }
    let (authority, socket) = match rest.find('/') {
        Some(at) => (&rest[..at], Some(&rest[at..]).filter(|path| path.len() > 1)),
        None => (rest, None),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err("plain-text password is not supported".into());
    }
    if let Some(user) = user {
        plain_word("user", user)?;
    }
    let (host, port) = host_port(host)?;
    plain_word("host", &host)?;
    Ok(Address::Ssh {
        user: user.filter(|user| !user.is_empty()).map(Into::into),
        host,
        port,
        socket: socket.map(Into::into),
    })
}

/// Words that go on a command line must not look like options.
fn plain_word(what: &str, word: &str) -> Result<(), String> {
    if word.starts_with('-') {
        return Err(format!("the {what} must not start with a dash"));
    }
    Ok(())
}

fn host_port(text: &str) -> Result<(String, Option<u16>), String> {
    let parse_port = |port: &str| port.parse::<u16>().map_err(|_| format!("{port:?} is no port"));
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let Some((host, rest)) = inner.split_once(']') else {
            return Err("a bracket is not closed".into());
        };
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(parse_port(port)?)),
            None if rest.is_empty() => (host, None),
            None => return Err("there is text after the bracket".into()),
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err("write IPv6 addresses in brackets: [::1]:1234".into());
            }
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("no host specified".into());
    }
    if host.contains(['/', '@', '[', ']', '#', '\\']) {
        return Err(format!("{host:?} is no host name"));
    }
    Ok((host.to_owned(), port))
}

fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| "the query is not UTF-8".to_owned())
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            if value.chars().any(char::is_control) {
                return Err("the query holds control characters".to_owned());
            }
            Ok((decode(key)?, value))
        })
        .collect()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Self::Tcp { host, port } => write!(f, "tcp://{}:{port}", bracketed(host)),
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
            Self::Npipe { name } => write!(f, "npipe://{name}"),
            Self::DockerSocket { path } => write!(f, "docker://{}", path.display()),
            Self::DockerTcp { host, port } => write!(f, "docker://{}:{port}", bracketed(host)),
            Self::Container { engine, name, .. } => {
                let engine = match engine {
                    ContainerEngine::Docker => "docker",
                    ContainerEngine::Podman => "podman",
                    ContainerEngine::Nerdctl => "nerdctl",
                };
                write!(f, "{engine}-container://{name}")
            }
            Self::KubePod { pod, .. } => write!(f, "kube-pod://{pod}"),
            Self::Ssh { user, host, port, socket } => {
                f.write_str("ssh://")?;
                if let Some(user) = user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&bracketed(host))?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> String {
        text.parse::<Address>().unwrap().command().unwrap().join(" ")
    }

    #[test]
    fn every_form_is_understood_and_written_back() {
        for text in [
            "tcp://buildkitd:1234",
            "tcp://[::1]:1234",
            "unix:///run/buildkit/buildkitd.sock",
            "docker:///var/run/docker.sock",
            "docker://host:2375",
            "docker-container://bk",
            "podman-container://bk",
            "nerdctl-container://bk",
            "kube-pod://bk-0",
            "ssh://me@host:22/run/bk.sock",
            "ssh://host",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("docker://unix:///d.sock".parse::<Address>().unwrap().to_string(), "docker:///d.sock");
        assert_eq!("docker://".parse::<Address>().unwrap().to_string(), "docker:///var/run/docker.sock");
    }

    #[test]
    fn commands_are_those_of_buildctl() {
        for (address, expected) in [
            ("docker-container://bk", "docker exec -i bk buildctl dial-stdio"),
            ("docker-container://bk?context=c", "docker --context=c exec -i bk buildctl dial-stdio"),
            ("podman-container://bk", "podman exec -i bk buildctl dial-stdio"),
            ("nerdctl-container://bk?namespace=n", "nerdctl exec --namespace n -i bk buildctl dial-stdio"),
            (
                "kube-pod://bk?namespace=n",
                "kubectl --context= --namespace=n exec --container= -i bk -- buildctl dial-stdio",
            ),
            ("ssh://h", "ssh -- h buildctl dial-stdio"),
            ("ssh://u@h:22/s.sock", "ssh -l u -p 22 -- h buildctl --addr unix:///s.sock dial-stdio"),
        ] {
            assert_eq!(command(address), expected);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "no scheme"),
            ("buildkitd:1234", "no scheme"),
            ("https://buildkitd:1234", "write tcp://host:port"),
            ("udp://buildkitd:1234", "there are tcp, unix, docker,"),
            ("http://x:1", "scheme \"http\""),
            ("tcp://host", "no port"),
            ("tcp://:1234", "no host"),
            ("tcp://::1:1234", "brackets"),
            ("tcp://h:99999", "no port"),
            ("unix://", "no path"),
            ("docker-container://", "url lacks container name"),
            ("docker-container://-v", "dash"),
            ("docker-container://bk?x=1", "unknown query key"),
            ("kube-pod://", "url lacks pod name"),
            ("kube-pod://A", "unsupported pod name: \"A\""),
            ("kube-pod://p?namespace=a;b", "unsupported namespace"),
            ("ssh://u:pw@h", "plain-text password"),
            ("ssh://-oProxyCommand=x", "dash"),
            ("ssh://", "no host specified"),
            ("ssh://h?x", "query"),
            ("tcp://a b:1", "blanks"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("pw@"), "{error}");
        }
    }
}
