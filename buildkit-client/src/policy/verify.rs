//! A function of the caller decides about sources.

use crate::error::BoxError;
use async_trait::async_trait;
use buildkit_proto::{gateway, pb, policysession};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

/// Is asked about every source before the daemon uses it. Needs BuildKit 0.26.
///
/// Functions are verifiers, too:
///
/// ```
/// # use buildkit_client::policy::{SourceCheck, Verdict, verifier};
/// let only_our_mirror = verifier(|check: SourceCheck| async move {
///     Ok(match check.identifier().strip_prefix("docker-image://docker.io/") {
///         Some(rest) => Verdict::convert(format!("docker-image://mirror.local/{rest}")),
///         None if check.identifier().starts_with("http://") => Verdict::deny("only https"),
///         None => Verdict::Allow,
///     })
/// });
/// ```
#[async_trait]
pub trait SourceVerifier: fmt::Debug + Send + Sync + 'static {
    /// Decides. An error fails the build, and is told as its cause.
    async fn check(&self, source: &SourceCheck) -> Result<Verdict, BoxError>;
}

/// A source in question, and what the daemon knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceCheck(pub(crate) policysession::CheckPolicyRequest);

/// What is to be done with a source.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// Use it.
    Allow,
    /// Fail the build with these reasons.
    Deny(Vec<String>),
    /// Use another source instead, which is then asked about as well.
    Convert(Box<pb::SourceOp>),
    /// Ask again with more metadata; see [`SourceCheck::resolve`]. At most ten rounds.
    Resolve(Box<gateway::ResolveSourceMetaRequest>),
}

impl Verdict {
    /// A denial for one reason.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self::Deny(vec![reason.into()])
    }

    /// Another identifier, without attributes.
    pub fn convert(identifier: impl Into<String>) -> Self {
        Self::Convert(Box::new(pb::SourceOp { identifier: identifier.into(), ..pb::SourceOp::default() }))
    }
}

impl SourceCheck {
    /// Identifier of the source, for example `docker-image://docker.io/library/alpine:3.22`.
    pub fn identifier(&self) -> &str {
        self.source().and_then(|source| source.source.as_ref()).map_or("", |op| &op.identifier)
    }

    /// Its attributes, for example `git.fullurl`.
    pub fn attrs(&self) -> Option<&BTreeMap<String, String>> {
        Some(&self.source()?.source.as_ref()?.attrs)
    }

    /// The platform it is wanted for.
    pub fn platform(&self) -> Option<&pb::Platform> {
        self.0.platform.as_ref()
    }

    /// Digest of an image, or checksum of a file or commit, where it is resolved already.
    pub fn digest(&self) -> Option<&str> {
        let source = self.source()?;
        let image = source.image.as_ref().map(|image| &image.digest);
        let git = source.git.as_ref().map(|git| &git.checksum);
        let http = source.http.as_ref().map(|http| &http.checksum);
        image.or(git).or(http).map(String::as_str).filter(|digest| !digest.is_empty())
    }

    /// Everything that is resolved.
    pub fn source(&self) -> Option<&gateway::ResolveSourceMetaResponse> {
        self.0.source.as_ref()
    }

    /// What the daemon can do for policies, by name.
    pub fn caps(&self) -> &BTreeMap<String, bool> {
        &self.0.caps
    }

    /// A request for metadata of this source: fill in what is wanted, and return it in
    /// [`Verdict::Resolve`]. Source and platform must stay as they are.
    pub fn resolve(&self) -> gateway::ResolveSourceMetaRequest {
        gateway::ResolveSourceMetaRequest {
            source: self.source().and_then(|source| source.source.clone()),
            platform: self.0.platform.clone(),
            ..Default::default()
        }
    }
}

/// Makes a verifier of a function.
pub fn verifier<F, Fut>(check: F) -> Arc<dyn SourceVerifier>
where
    F: Fn(SourceCheck) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Verdict, BoxError>> + Send + 'static,
{
    Arc::new(Function(check))
}

struct Function<F>(F);

impl<F> fmt::Debug for Function<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Function")
    }
}

#[async_trait]
impl<F, Fut> SourceVerifier for Function<F>
where
    F: Fn(SourceCheck) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Verdict, BoxError>> + Send + 'static,
{
    async fn check(&self, source: &SourceCheck) -> Result<Verdict, BoxError> {
        (self.0)(source.clone()).await
    }
}

#[async_trait]
impl SourceVerifier for Arc<dyn SourceVerifier> {
    async fn check(&self, source: &SourceCheck) -> Result<Verdict, BoxError> {
        (**self).check(source).await
    }
}
