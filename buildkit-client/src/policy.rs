//! What a build may use: entitlements and source policies.

mod verify;

pub use verify::{SourceCheck, SourceVerifier, Verdict, verifier};

use crate::error::RequestError;
use buildkit_proto::sourcepolicy as pb;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Something that steps of the build may do, and that the daemon must allow as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Entitlement {
    /// Processes in the daemon's network.
    NetworkHost,
    /// Privileged processes.
    SecurityInsecure,
    /// A CDI device, or all of them.
    Device(Option<String>),
    /// One that this crate has no word for.
    Other(String),
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkHost => f.write_str("network.host"),
            Self::SecurityInsecure => f.write_str("security.insecure"),
            Self::Device(None) => f.write_str("device"),
            Self::Device(Some(name)) => write!(f, "device={name}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl From<&str> for Entitlement {
    fn from(name: &str) -> Self {
        match name {
            "network.host" => Self::NetworkHost,
            "security.insecure" => Self::SecurityInsecure,
            "device" => Self::Device(None),
            other => match other.strip_prefix("device=") {
                Some(device) => Self::Device(Some(device.to_owned())),
                None => Self::Other(other.to_owned()),
            },
        }
    }
}

/// Rules about sources, checked by the daemon before a source is used.
///
/// Of the rules that allow or deny a source the last that matches wins. A rule that converts
/// replaces the source, and the rules are tried again, up to 20 times. Image sources are matched
/// in full: `docker-image://docker.io/library/alpine:3.22`.
///
/// ```
/// # use buildkit_client::policy::{Policy, Source};
/// let pinned = Policy::new()
///     .deny(Source::wildcard("docker-image://*"))
///     .allow(Source::exact("docker-image://docker.io/library/alpine:3.22"))
///     .convert(
///         Source::exact("docker-image://docker.io/library/alpine:3.22"),
///         "docker-image://docker.io/library/alpine:3.22@sha256:…",
///     );
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy(pub(crate) pb::Policy);

/// Which sources a rule is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Source(pb::Selector);

impl Source {
    /// Sources whose identifier matches; `*` stands for any text. Each `*` can be used in the
    /// replacement of a conversion as `${1}`, `${2}` and so on.
    pub fn wildcard(pattern: impl Into<String>) -> Self {
        Self::of(pattern, pb::MatchType::Wildcard)
    }

    /// The source with exactly this identifier.
    pub fn exact(identifier: impl Into<String>) -> Self {
        Self::of(identifier, pb::MatchType::Exact)
    }

    /// Sources whose identifier matches a regular expression.
    pub fn regex(pattern: impl Into<String>) -> Self {
        Self::of(pattern, pb::MatchType::Regex)
    }

    fn of(identifier: impl Into<String>, kind: pb::MatchType) -> Self {
        Self(pb::Selector { identifier: identifier.into(), match_type: kind.into(), constraints: Vec::new() })
    }

    /// Only those whose attribute `key` equals `value`.
    #[must_use]
    pub fn with_attr(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.constrain(key, value, pb::AttrMatch::Equal)
    }

    /// Only those whose attribute `key` differs from `value`.
    #[must_use]
    pub fn without_attr(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.constrain(key, value, pb::AttrMatch::Notequal)
    }

    /// Only those whose attribute `key` matches a regular expression.
    #[must_use]
    pub fn attr_matches(self, key: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.constrain(key, pattern, pb::AttrMatch::Matches)
    }

    fn constrain(
        mut self,
        key: impl Into<String>,
        value: impl Into<String>,
        condition: pb::AttrMatch,
    ) -> Self {
        self.0.constraints.push(pb::AttrConstraint {
            key: key.into(),
            value: value.into(),
            condition: condition.into(),
        });
        self
    }
}

impl Policy {
    /// No rules: everything is allowed.
    pub fn new() -> Self {
        Self(pb::Policy { version: 1, rules: Vec::new() })
    }

    /// Allows sources that an earlier rule denied.
    #[must_use]
    pub fn allow(self, source: Source) -> Self {
        self.rule(pb::PolicyAction::Allow, source, None)
    }

    /// Denies sources.
    #[must_use]
    pub fn deny(self, source: Source) -> Self {
        self.rule(pb::PolicyAction::Deny, source, None)
    }

    /// Replaces the identifier of sources.
    #[must_use]
    pub fn convert(self, source: Source, identifier: impl Into<String>) -> Self {
        self.convert_attrs(source, identifier, [])
    }

    /// Replaces the identifier of sources (keeps it when empty) and sets attributes, for example
    /// `http.checksum`.
    #[must_use]
    pub fn convert_attrs(
        self,
        source: Source,
        identifier: impl Into<String>,
        attrs: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let update = pb::Update { identifier: identifier.into(), attrs: attrs.into_iter().collect() };
        self.rule(pb::PolicyAction::Convert, source, Some(update))
    }

    fn rule(mut self, action: pb::PolicyAction, source: Source, updates: Option<pb::Update>) -> Self {
        self.0.rules.push(pb::Rule { action: action.into(), selector: Some(source.0), updates });
        self
    }

    /// Reads the JSON of a policy file, as `buildctl --source-policy-file` does.
    ///
    /// # Errors
    /// When it is no JSON, or names an action, match or condition that does not exist.
    pub fn from_json(json: &[u8]) -> Result<Self, RequestError> {
        let wrong = |reason: String| RequestError::option("source policy", reason);
        let file: File = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        let mut policy = pb::Policy { version: file.version, rules: Vec::new() };
        for rule in file.rules {
            let action = word(&rule.action, &["ALLOW", "DENY", "CONVERT"]).map_err(wrong)?;
            let selector = match rule.selector {
                None => None,
                Some(selector) => {
                    let constraints = selector
                        .constraints
                        .into_iter()
                        .map(|constraint| {
                            Ok(pb::AttrConstraint {
                                key: constraint.key,
                                value: constraint.value,
                                condition: word(&constraint.condition, &["EQUAL", "NOTEQUAL", "MATCHES"])?,
                            })
                        })
                        .collect::<Result<_, String>>()
                        .map_err(wrong)?;
                    Some(pb::Selector {
                        identifier: selector.identifier,
                        match_type: word(&selector.match_type, &["WILDCARD", "EXACT", "REGEX"])
                            .map_err(wrong)?,
                        constraints,
                    })
                }
            };
            let updates =
                rule.updates.map(|update| pb::Update { identifier: update.identifier, attrs: update.attrs });
            policy.rules.push(pb::Rule { action, selector, updates });
        }
        Ok(Self(policy))
    }

    /// Reads a policy file; see [`from_json`](Self::from_json). This blocks.
    ///
    /// # Errors
    /// When the file cannot be read, or as `from_json`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, RequestError> {
        let path = path.as_ref();
        let json = std::fs::read(path).map_err(|source| RequestError::Path {
            role: "source policy".into(),
            path: path.to_owned(),
            source,
        })?;
        Self::from_json(&json)
    }
}

/// An enum in JSON: by name, by number, or absent for the first.
fn word(value: &serde_json::Value, words: &[&str]) -> Result<i32, String> {
    use serde_json::Value;
    let index = match value {
        Value::Null => Some(0),
        Value::Number(number) => number.as_u64().and_then(|n| usize::try_from(n).ok()),
        Value::String(text) => words.iter().position(|word| word == text),
        _ => None,
    };
    index
        .filter(|index| *index < words.len())
        .and_then(|index| i32::try_from(index).ok())
        .ok_or_else(|| format!("{value} is none of {}", words.join(", ")))
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
struct FileRule {
    #[serde(default)]
    action: serde_json::Value,
    selector: Option<FileSelector>,
    updates: Option<FileUpdate>,
}

#[derive(Deserialize)]
struct FileSelector {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: serde_json::Value,
    #[serde(default)]
    constraints: Vec<FileConstraint>,
}

#[derive(Deserialize)]
struct FileConstraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: serde_json::Value,
}

#[derive(Deserialize)]
struct FileUpdate {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_file_reads_like_the_same_policy_built() {
        let json = br#"{"version":1,"rules":[
            {"action":"DENY","selector":{"identifier":"docker-image://*"}},
            {"action":"CONVERT","selector":{"identifier":"x","match_type":"EXACT",
              "constraints":[{"key":"k","value":"v","condition":"NOTEQUAL"}]},"updates":{"identifier":"y"}}]}"#;
        let built = Policy::new()
            .deny(Source::wildcard("docker-image://*"))
            .convert(Source::exact("x").without_attr("k", "v"), "y");
        assert_eq!(Policy::from_json(json).unwrap(), built);
    }

    #[test]
    fn a_word_that_is_not_one_is_refused() {
        let error = Policy::from_json(br#"{"rules":[{"action":"PERMIT"}]}"#).unwrap_err();
        assert!(error.to_string().contains("\"PERMIT\" is none of ALLOW, DENY, CONVERT"), "{error}");
    }

    #[test]
    fn entitlements_have_the_names_of_buildctl() {
        for name in ["network.host", "security.insecure", "device", "device=gpu", "x.y"] {
            assert_eq!(Entitlement::from(name).to_string(), name);
        }
    }
}
