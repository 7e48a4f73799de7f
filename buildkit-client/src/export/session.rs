//! Exporters that are chosen when the result is known.

use super::Export;
use crate::error::BoxError;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;

/// Chooses exporters when the daemon has the result of a build. Needs BuildKit 0.21.
///
/// They run after those of the request. A tree or a stream may be chosen; an OCI layout in a
/// directory may not.
#[async_trait]
pub trait SessionExporter: fmt::Debug + Send + Sync + 'static {
    /// Looks at the result and says where else it goes. An error fails the build, and is told as
    /// its cause.
    async fn find(&self, result: &ResultInfo) -> Result<Vec<Export>, BoxError>;

    /// Everything was exported; this is what the exporters returned. BuildKit 0.32 calls it, older
    /// ones do not.
    async fn finalize(&self, response: &BTreeMap<String, String>) -> Result<(), BoxError> {
        let _ = response;
        Ok(())
    }
}

/// A result before it is exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResultInfo {
    /// Metadata of the result, for example `containerimage.config` and `refs.platforms`.
    pub metadata: BTreeMap<String, Bytes>,
    /// The daemon's ids of the trees in it.
    pub refs: Vec<String>,
}
