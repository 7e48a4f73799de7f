//! Which token server may get the credentials of which registry.

use std::collections::BTreeSet;
use std::fmt;

use url::{Host, Url};

use crate::progress::one_line;

/// Registries whose token server has another name. A host that ends in one of these names is not one of them.
const KNOWN: &[(&str, &str)] = &[
    ("docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("registry.digitalocean.com", "api.digitalocean.com"),
    ("registry.connect.redhat.com", "sso.redhat.com"),
];

/// A token server that may be asked.
#[derive(Debug)]
pub(super) struct Realm {
    url: Url,
    registry: String,
    trusted: BTreeSet<String>,
    plain: bool,
}

impl Realm {
    /// Checks the realm that a registry names. `trusted` holds further hosts that the user named; `plain` allows
    /// `http` to other machines.
    pub(super) fn check(
        registry: &str,
        realm: &str,
        trusted: Option<&BTreeSet<String>>,
        plain: bool,
    ) -> Result<Self, RealmError> {
        let url = Url::parse(realm).map_err(|_| RealmError::new(registry, realm, Refusal::NotAUrl))?;
        let realm =
            Self { url, registry: registry.to_owned(), trusted: trusted.cloned().unwrap_or_default(), plain };
        realm.allows(&realm.url)?;
        Ok(realm)
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether a redirect of the token server may be followed.
    pub(super) fn allows(&self, url: &Url) -> Result<(), RealmError> {
        let refuse = |refusal| Err(RealmError::new(&self.registry, url.as_str(), refusal));
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(Refusal::UserInfo);
        }
        let Some(host) = url.host() else { return refuse(Refusal::NotAUrl) };
        match url.scheme() {
            "https" => {}
            "http" if self.plain || is_loopback(&host) => {}
            "http" => return refuse(Refusal::Plaintext),
            _ => return refuse(Refusal::Scheme),
        }
        let name = host.to_string();
        let own = host_name(&self.registry).is_some_and(|own| own.eq_ignore_ascii_case(&name));
        let known = KNOWN.iter().any(|&(registry, server)| registry == self.registry && server == name);
        if own || known || aliyun(&self.registry, &name) || self.trusted.contains(&name) {
            Ok(())
        } else {
            refuse(Refusal::Foreign)
        }
    }
}

/// Alibaba's registries have a token server per region: `registry.REGION…` and `dockerauth.REGION…`.
fn aliyun(registry: &str, server: &str) -> bool {
    let region = registry.strip_prefix("registry.").filter(|rest| rest.ends_with(".aliyuncs.com"));
    region.is_some_and(|region| server.strip_prefix("dockerauth.") == Some(region))
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// A registry's host without its port; `None` for what is no host, whatever it begins with.
fn host_name(registry: &str) -> Option<&str> {
    let end = match registry.strip_prefix('[') {
        Some(_) => registry.find(']')? + 1,
        None => registry.find(':').unwrap_or(registry.len()),
    };
    let (name, port) = registry.split_at_checked(end)?;
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

/// A registry wants its credentials sent where they do not belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmError {
    registry: String,
    realm: String,
    refusal: Refusal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NotAUrl,
    UserInfo,
    Scheme,
    Plaintext,
    Foreign,
}

impl RealmError {
    fn new(registry: &str, realm: &str, refusal: Refusal) -> Self {
        let realm = crate::redact::url(realm).chars().take(300).collect();
        Self { registry: registry.to_owned(), realm, refusal }
    }

    /// The registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }
}

impl fmt::Display for RealmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (registry, realm) = (one_line(&self.registry), one_line(&self.realm));
        write!(f, "the registry {registry} names the token server {realm}, which is not asked: ")?;
        match self.refusal {
            Refusal::NotAUrl => f.write_str("it is not the URL of a server"),
            Refusal::UserInfo => f.write_str("its URL carries a user name"),
            Refusal::Scheme => f.write_str("its URL is neither https nor http"),
            Refusal::Plaintext => f.write_str(
                "credentials are not sent without TLS (allow_plaintext permits it for this registry)",
            ),
            Refusal::Foreign => {
                f.write_str("it is another host (trust_realm permits it, if it belongs to this registry)")
            }
        }
    }
}

impl std::error::Error for RealmError {}

#[cfg(test)]
mod tests {
    use super::{Realm, Refusal};
    use std::collections::BTreeSet;

    #[test]
    fn f42_token_realm_gets_credentials_only_where_they_belong() {
        let trusted = BTreeSet::from(["sso.corp".to_owned()]);
        for (registry, realm, plain, want) in [
            ("docker.io", "https://auth.docker.io/token", false, Ok(())),
            ("docker.io", "https://docker.io/token", false, Ok(())),
            ("docker.io", "https://auth.docker.io.evil.com/token", false, Err(Refusal::Foreign)),
            ("evil.io", "https://auth.docker.io/token", false, Err(Refusal::Foreign)),
            ("ghcr.io", "https://ghcr.io/token", false, Ok(())),
            ("ghcr.io", "https://GHCR.io/token", false, Ok(())),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth", false, Ok(())),
            ("xregistry.gitlab.com", "https://gitlab.com/jwt/auth", false, Err(Refusal::Foreign)),
            (
                "registry.cn-hangzhou.aliyuncs.com",
                "https://dockerauth.cn-hangzhou.aliyuncs.com/auth",
                false,
                Ok(()),
            ),
            (
                "registry.cn-hangzhou.aliyuncs.com",
                "https://dockerauth.evil.com/.cn-hangzhou.aliyuncs.com",
                false,
                Err(Refusal::Foreign),
            ),
            ("reg.local:5000", "https://reg.local:5001/token", false, Ok(())),
            ("reg.local:5000", "https://sso.corp/token", false, Ok(())),
            ("reg.local:5000", "https://user@reg.local/token", false, Err(Refusal::UserInfo)),
            ("reg.local:5000", "https://:pw@reg.local/token", false, Err(Refusal::UserInfo)),
            ("reg.local:5000", "https://reg.local@evil.com/token", false, Err(Refusal::UserInfo)),
            ("reg.local:5000", "http://reg.local/token", false, Err(Refusal::Plaintext)),
            ("reg.local:5000", "http://reg.local/token", true, Ok(())),
            ("reg.local:5000", "http://evil.com/token", true, Err(Refusal::Foreign)),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/token", false, Ok(())),
            ("127.0.0.1:5000", "http://127.0.0.2:34567/evil-token", false, Err(Refusal::Foreign)),
            ("localhost:5000", "http://localhost:5000/token", false, Ok(())),
            ("[::1]:5000", "http://[::1]:5001/token", false, Ok(())),
            ("reg.local://[::2]:", "https://reg.local/token", false, Err(Refusal::Foreign)),
            ("reg.local:", "https://reg.local/token", false, Err(Refusal::Foreign)),
            ("[::1", "http://[::1]/token", false, Err(Refusal::Foreign)),
            ("reg.local", "file:///etc/passwd", false, Err(Refusal::NotAUrl)),
            ("reg.local", "ftp://reg.local/token", false, Err(Refusal::Scheme)),
            ("reg.local", "/token", false, Err(Refusal::NotAUrl)),
            ("reg.local", "", false, Err(Refusal::NotAUrl)),
        ] {
            let got = Realm::check(registry, realm, Some(&trusted), plain);
            assert_eq!(got.map(drop).map_err(|error| error.refusal), want, "{registry} {realm}");
        }
    }

    #[test]
    fn the_error_says_who_and_what_to_do_and_no_password() {
        let error = Realm::check("reg.local", "https://ann:hunter2@evil.com/", None, false).unwrap_err();
        assert!(error.to_string().contains("reg.local") && !error.to_string().contains("hunter2"), "{error}");
        let error = Realm::check("reg.local", "https://evil.com/token", None, false).unwrap_err();
        assert!(error.to_string().contains("trust_realm"), "{error}");
    }
}
