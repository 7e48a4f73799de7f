//! What the daemon can do.

use std::collections::BTreeMap;

use buildkit_proto::caps::ApiCap;

use crate::error::{Code, Error, Result};

/// The capabilities of a daemon's gateway, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caps(BTreeMap<String, ApiCap>);

impl Caps {
    /// The set the daemon announced.
    pub fn new(caps: impl IntoIterator<Item = ApiCap>) -> Self {
        Self(caps.into_iter().map(|cap| (cap.id.clone(), cap)).collect())
    }

    /// A set in which all of `names` are enabled.
    pub fn enabled<I: IntoIterator<Item: Into<String>>>(names: I) -> Self {
        Self::new(names.into_iter().map(|name| ApiCap {
            id: name.into(),
            enabled: true,
            ..ApiCap::default()
        }))
    }

    /// All capabilities of a gateway that current daemons announce.
    pub fn current_gateway() -> Self {
        Self::enabled(gateway::ALL.iter().copied())
    }

    /// Whether the capability may be used.
    pub fn contains(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|cap| cap.enabled)
    }

    /// The names, in order, of those that may be used.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().filter(|cap| cap.enabled).map(|cap| cap.id.as_str())
    }

    /// An error that says what to do when the capability may not be used.
    pub fn require(&self, name: &str, product: &str) -> Result<()> {
        let text = match self.0.get(name) {
            Some(cap) if cap.enabled => return Ok(()),
            None => format!(
                "the build server does not support {name}; update {}",
                if product.is_empty() { "BuildKit" } else { product }
            ),
            Some(cap) => {
                let mut text = format!("{name} has been disabled on the build server");
                if !cap.disabled_reason_msg.is_empty() {
                    text.push_str(": ");
                    text.push_str(&cap.disabled_reason_msg);
                }
                if !cap.disabled_alternative.is_empty() {
                    text.push_str("; use ");
                    text.push_str(&cap.disabled_alternative);
                    text.push_str(" instead");
                }
                text
            }
        };
        Err(Error::with_code(Code::Unimplemented, text))
    }
}

/// What daemons can do that do not say what they can do.
#[cfg(feature = "grpc")]
pub(crate) mod legacy {
    pub(crate) const GATEWAY: &[&str] = &["solve.base", "solve.inlinereturn", "resolveimage", "readfile"];
}

/// Capabilities of the gateway that this crate asks about.
pub(crate) mod gateway {
    pub(crate) const RESOLVE_SOURCE: &str = "source.metaresolver";
    pub(crate) const EVALUATE: &str = "gateway.evaluate";
    pub(crate) const SOLVE_EVALUATE: &str = "gateway.solve.evaluate";
    pub(crate) const READ_DIR: &str = "readdir";
    pub(crate) const STAT_FILE: &str = "statfile";
    pub(crate) const RETURN_MAP: &str = "returnmap";
    pub(crate) const REF_ARRAY: &str = "proto.refarray";
    pub(crate) const IMPORT_CACHES: &str = "importcaches";
    pub(crate) const INPUTS: &str = "frontend.inputs";
    pub(crate) const FRONTEND_CAPS: &str = "frontend.caps";
    pub(crate) const WARNINGS: &str = "gateway.warnings";
    pub(crate) const EXEC: &str = "gateway.exec";
    pub(crate) const EXEC_EXTRA_HOSTS: &str = "gateway.exec.extrahosts";
    pub(crate) const EXEC_SIGNALS: &str = "gateway.exec.signals";
    pub(crate) const EXEC_SECRET_ENV: &str = "gateway.exec.secretenv";
    pub(crate) const EXEC_FILESYSTEM: &str = "gateway.exec.filesystem";
    pub(crate) const ATTESTATIONS: &str = "reference.attestations";
    pub(crate) const IMAGE_ATTESTATIONS: &str = "source.metaresolver.image.attestations";
    pub(crate) const HTTP_CHECKSUM: &str = "source.metaresolver.http.checksumrequest";

    /// All that current daemons announce.
    pub(crate) const ALL: &[&str] = &[
        "solve.base",
        "solve.inlinereturn",
        "resolveimage",
        "resolveimage.resolvemode",
        "readfile",
        READ_DIR,
        STAT_FILE,
        "return",
        RETURN_MAP,
        IMPORT_CACHES,
        REF_ARRAY,
        "reference.output",
        INPUTS,
        "gateway.solve.metadata",
        EXEC,
        FRONTEND_CAPS,
        SOLVE_EVALUATE,
        EXEC_EXTRA_HOSTS,
        EXEC_SIGNALS,
        WARNINGS,
        EVALUATE,
        ATTESTATIONS,
        EXEC_SECRET_ENV,
        RESOLVE_SOURCE,
        EXEC_FILESYSTEM,
        IMAGE_ATTESTATIONS,
        HTTP_CHECKSUM,
    ];
}
