//! The JSON of `config.json`, `auth.json` and `DOCKER_AUTH_CONFIG`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::session::{auth::Credentials, hub};

/// What such a file says about credentials; the rest of it is ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct File {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore", deserialize_with = "null_is_default")]
    pub(super) creds_store: String,
    #[serde(default, rename = "credHelpers", deserialize_with = "null_is_default")]
    pub(super) cred_helpers: BTreeMap<String, String>,
}

/// The same in an environment variable, where a misspelt field would go unnoticed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inline {
    auths: BTreeMap<String, InlineEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InlineEntry {
    auth: Secret,
}

/// What is known of one registry.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Entry {
    #[serde(default, deserialize_with = "null_is_default")]
    auth: Secret,
    #[serde(default, deserialize_with = "null_is_default")]
    identitytoken: Secret,
    #[serde(default, deserialize_with = "null_is_default")]
    registrytoken: Secret,
    #[serde(default, deserialize_with = "null_is_default")]
    username: String,
    #[serde(default, deserialize_with = "null_is_default")]
    password: Secret,
}

fn null_is_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(input).map(Option::unwrap_or_default)
}

/// Where the JSON is wrong. The parser's own words may quote a password, so they are left out.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "ends too early",
        serde_json::error::Category::Data => "has a field that is unknown or not of the right kind",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

impl File {
    /// Reads a file; an empty one says nothing.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        if json.trim_ascii().is_empty() { Ok(Self::default()) } else { serde_json::from_slice(json) }
    }

    /// Reads `DOCKER_AUTH_CONFIG`.
    pub(super) fn parse_inline(json: &[u8]) -> Result<Self, serde_json::Error> {
        let inline: Inline = serde_json::from_slice(json)?;
        let entry = |entry: InlineEntry| Entry { auth: entry.auth, ..Entry::default() };
        let auths = inline.auths.into_iter().map(|(host, inline)| (host, entry(inline))).collect();
        Ok(Self { auths, ..Self::default() })
    }

    /// Whether it says anything about credentials.
    pub(super) fn is_empty(&self) -> bool {
        self.auths.is_empty() && self.creds_store.is_empty() && self.cred_helpers.is_empty()
    }

    /// The entry for a registry, and its key: the longest key that covers the repository, else the host's own.
    pub(super) fn entry(&self, host: &str, repository: Option<&str>) -> Option<(&str, &Entry)> {
        let mut best: Option<(usize, &str, &Entry)> = None;
        let mut narrower = Vec::new();
        for (key, entry) in &self.auths {
            let (key_host, path) = split(key);
            if hub(key_host) != host {
                continue;
            }
            let covers = match (path, repository) {
                ("", _) => true,
                (path, Some(repository)) => {
                    repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
                (_, None) => false,
            };
            if !covers {
                narrower.push((key.as_str(), entry));
                continue;
            }
            // An exact key is better than one with a scheme or an API path.
            let rank = path.len() * 2 + usize::from(key == host);
            if best.is_none_or(|(held, _, _)| rank > held) {
                best = Some((rank, key, entry));
            }
        }
        match (best, repository, narrower.as_slice()) {
            (Some((_, key, entry)), _, _) => Some((key, entry)),
            // The daemon did not say which repository: the only candidate will do.
            (None, None, &[only]) => Some(only),
            _ => None,
        }
    }

    /// The helper for a registry: its own, else the store for all.
    pub(super) fn helper(&self, host: &str) -> Option<(&str, &'static str)> {
        let own = self.cred_helpers.iter().find(|(key, _)| hub(split(key).0) == host);
        let store = (!self.creds_store.is_empty()).then_some((self.creds_store.as_str(), "credsStore"));
        own.map(|(_, helper)| (helper.as_str(), "credHelpers")).filter(|(name, _)| !name.is_empty()).or(store)
    }
}

impl Entry {
    /// The credentials in it; `None` when it only says that some are kept elsewhere.
    pub(super) fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::registry_token(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::identity_token(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let known = !(self.username.is_empty() && self.password.is_empty());
            return Ok(known.then(|| Credentials::password(self.username.clone(), self.password.clone())));
        }
        let engine = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let pair =
            engine.decode(self.auth.reveal().trim_ascii()).map_err(|_| "the field auth is not base64")?;
        let pair = Zeroizing::new(pair);
        let pair = std::str::from_utf8(&pair).map_err(|_| "the field auth is not text")?;
        let (username, password) =
            pair.split_once(':').ok_or("the field auth is not of the form user:password")?;
        let password = password.trim_matches('\0');
        Ok(match (username, password) {
            ("", "") => None,
            (username, password) => Some(Credentials::password(username, password)),
        })
    }
}

/// Host and repository path of a key. Keys may have a scheme, and the path of an API instead of a repository's.
fn split(key: &str) -> (&str, &str) {
    let (api, rest) = match key.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, key),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    // `https://host/anything` is an old way to say the host.
    let path = if api || matches!(path, "v1" | "v2") { "" } else { path };
    (host, path)
}

#[cfg(test)]
mod tests {
    use super::{File, reason};

    fn user(file: &File, host: &str, repository: Option<&str>) -> Option<String> {
        let (_, entry) = file.entry(host, repository)?;
        Some(entry.credentials().unwrap()?.username().to_owned())
    }

    #[test]
    fn a_host_has_many_spellings() {
        for (key, host, found) in [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("registry-1.docker.io", "docker.io", true),
            ("docker.io", "docker.io", true),
            ("reg:5000", "reg:5000", true),
            ("https://reg:5000", "reg:5000", true),
            ("http://reg:5000/v2/", "reg:5000", true),
            ("reg:5000/v1/", "reg:5000", true),
            ("https://reg:5000/some/path", "reg:5000", true),
            ("reg", "reg:5000", false),
            ("gcr.io", "gcr.io.evil.com", false),
            ("evil-gcr.io", "gcr.io", false),
        ] {
            let file =
                File::parse(format!(r#"{{"auths":{{"{key}":{{"auth":"YW5uOnB3"}}}}}}"#).as_bytes()).unwrap();
            assert_eq!(user(&file, host, None).is_some(), found, "{key} for {host}");
        }
    }

    #[test]
    fn the_longest_key_that_covers_the_repository_wins() {
        let file = File::parse(
            br#"{"auths":{
                "quay.io":{"username":"all","password":"p"},
                "quay.io/team":{"username":"team","password":"p"},
                "quay.io/team/app":{"username":"app","password":"p"},
                "other.io/team":{"username":"only","password":"p"}}}"#,
        )
        .unwrap();
        for (host, repository, want) in [
            ("quay.io", Some("team/app"), Some("app")),
            ("quay.io", Some("team/app/sub"), Some("app")),
            ("quay.io", Some("team/application"), Some("team")),
            ("quay.io", Some("team"), Some("team")),
            ("quay.io", Some("teams/x"), Some("all")),
            ("quay.io", None, Some("all")),
            ("other.io", None, Some("only")),
            ("other.io", Some("team/x"), Some("only")),
            ("other.io", Some("elsewhere"), None),
        ] {
            assert_eq!(user(&file, host, repository).as_deref(), want, "{host} {repository:?}");
        }
    }

    #[test]
    fn every_form_of_an_entry() {
        let file = File::parse(
            br#"{"auths":{"pair":{"auth":"YW5uOnA6dw=="},"unpadded":{"auth":"YW5uOnA6dw"},"id":{"auth":"YW5uOg==",
                "identitytoken":"I"},"reg":{"registrytoken":"R"},"stored":{},"null":{"auth":null},
                "bad":{"auth":"%%%"},"nocolon":{"auth":"YW5u"},"empty":{"auth":"Og=="}}}"#,
        )
        .unwrap();
        let get = |key: &str| file.auths[key].credentials();
        for key in ["pair", "unpadded"] {
            let pair = get(key).unwrap().unwrap();
            assert_eq!((pair.username(), pair.secret().unwrap().reveal_str()), ("ann", Some("p:w")), "{key}");
        }
        let id = get("id").unwrap().unwrap();
        assert_eq!((id.username(), id.secret().unwrap().reveal_str()), ("", Some("I")));
        assert_eq!(get("reg").unwrap().unwrap().as_registry_token().unwrap().reveal_str(), Some("R"));
        for none in ["stored", "null", "empty"] {
            assert!(get(none).unwrap().is_none(), "{none}");
        }
        for bad in ["bad", "nocolon"] {
            assert!(get(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_variable_knows_no_other_fields() {
        assert!(File::parse_inline(br#"{"auths":{"h":{"auth":"YTpi"}}}"#).is_ok());
        assert!(File::parse_inline(br#"{"auths":{"h":{"auth":"YTpi"}},"credsStore":"x"}"#).is_err());
        assert!(File::parse_inline(br#"{"auths":{"h":{"auth":"YTpi","email":"x"}}}"#).is_err());
    }

    #[test]
    fn a_parse_error_quotes_nothing() {
        for json in [
            r#"{"auths":{"h":"hunter2"}}"#,
            r#"{"auths": hunter2"#,
            r#"{"auths":{"h":{"auth":["hunter2"]}}}"#,
        ] {
            let reason = reason(&File::parse(json.as_bytes()).unwrap_err());
            assert!(!reason.contains("hunter2") && reason.contains("line 1"), "{reason}");
        }
    }
}
