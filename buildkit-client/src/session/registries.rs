//! Which registries a build is about, and so whose credentials a daemon may have.

use std::collections::BTreeSet;

/// Registries whose credentials a build may use.
///
/// Unless one is set, a build may use those that it names itself: in its graph, its exporters and caches, the options
/// of its frontend, and the Dockerfile that it sends; and Docker Hub where a frontend may read a short name such as
/// `alpine`. A daemon that asks for another one's gets none, and the build says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryScope {
    /// Any host that credentials are known for. Trusts the daemon with all of them.
    Any,
    /// Only these hosts, as they stand in image references (`docker.io`, `ghcr.io`, `host:5000`).
    Hosts(BTreeSet<String>),
}

impl RegistryScope {
    /// Only these hosts.
    pub fn hosts(hosts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::Hosts(hosts.into_iter().map(|host| hub(host.as_ref()).to_owned()).collect())
    }

    /// Whether credentials for `host` may be given. Docker Hub's names are one host.
    pub fn allows(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Hosts(hosts) => hosts.contains(hub(host)),
        }
    }
}

/// Docker Hub goes by several names.
pub(crate) fn hub(host: &str) -> &str {
    match host {
        "registry-1.docker.io" | "index.docker.io" | "docker.io" => DOCKER_HUB,
        other => other,
    }
}

/// The registry of references without a host.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Texts past this many hosts have hosts that nobody named.
const MAX_HOSTS: usize = 4096;

/// Host of an image reference: the part before the first slash when it looks like a host.
pub(crate) fn registry_of(reference: &str) -> String {
    let reference = reference.trim();
    let host = match reference.split_once('/') {
        Some((first, _)) if is_host(first) => first,
        _ => DOCKER_HUB,
    };
    hub(host).to_owned()
}

/// Everything in a text that could be the host of an image reference, such as `ghcr.io` in `FROM ghcr.io/a/b` and
/// `reg:5000` in `ARG BASE="reg:5000/x"`. Words that merely look like a host, `main.rs` for instance, are among them:
/// they do no harm, for nobody has credentials for them.
pub(crate) fn hosts_in(text: &str, hosts: &mut BTreeSet<String>) {
    let part_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    // A scheme ends with a colon that is none of the host's.
    for word in text.split(|c| !part_of_host(c)).map(|word| word.trim_end_matches(':')) {
        if hosts.len() >= MAX_HOSTS {
            return;
        }
        if is_host(word) && word.len() <= 255 {
            hosts.insert(hub(word).to_owned());
        }
    }
}

fn is_host(word: &str) -> bool {
    word.contains(['.', ':']) || word == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_a_dockerfile_are_found_and_nothing_like_them() {
        let text = "# syntax=reg.corp/docker/dockerfile:1\nARG BASE=\"ghcr.io\"\nARG R=reg:5000/x\n\
                    FROM ${BASE}/a/b:1 AS x\nFROM index.docker.io/library/alpine@sha256:ab\n\
                    COPY --from=localhost/img main.rs [::1]:80/\nADD https://example.com:8443/f /\n";
        let mut hosts = BTreeSet::new();
        hosts_in(text, &mut hosts);
        let scope = RegistryScope::Hosts(hosts);
        for named in [
            "reg.corp",
            "ghcr.io",
            "reg:5000",
            "docker.io",
            "registry-1.docker.io",
            "localhost",
            "example.com:8443",
        ] {
            assert!(scope.allows(named), "{named}");
        }
        for foreign in ["gcr.io", "ghcr.io.evil.com", "reg", "reg:5001", "corp", "", "https"] {
            assert!(!scope.allows(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_flood_of_words_is_bounded() {
        let mut hosts = BTreeSet::new();
        hosts_in(&(0..10_000).map(|n| format!("h{n}.io ")).collect::<String>(), &mut hosts);
        assert_eq!(hosts.len(), MAX_HOSTS);
    }

    #[test]
    fn references_without_a_host_are_docker_hubs() {
        for (reference, host) in [
            ("alpine", "docker.io"),
            ("a/b", "docker.io"),
            ("a.b/c", "a.b"),
            (" r:5/x:1 ", "r:5"),
            ("localhost/x", "localhost"),
        ] {
            assert_eq!(registry_of(reference), host);
        }
    }
}
