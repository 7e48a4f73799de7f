//! What conversions in tests are done with.

use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use buildkit_llb::Platform;

/// Every image exists, and has one layer.
pub(crate) struct Images;

#[async_trait::async_trait]
impl Resolver for Images {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let config =
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#;
        Ok(ResolvedImage {
            reference: request.reference.clone(),
            digest: format!("sha256:{}", "b".repeat(64)),
            config: config.into(),
        })
    }
}

pub(crate) fn options() -> Options {
    Options::default().session("sess").platform(&Platform::LINUX_AMD64)
}
