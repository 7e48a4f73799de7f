//! Building for many platforms, and platforms as they travel.

use std::future::Future;

use buildkit_llb::Platform;
use buildkit_proto::pb;
use futures::future::join_all;

use crate::error::Result;
use crate::gateway::Gateway;
use crate::output::BuildResult;

/// The option that makes a list of platforms of one, too.
const MULTI: &str = "multi-platform";

impl Gateway {
    /// The platforms to build for: those of the option `platform`, else the
    /// default one.
    ///
    /// # Errors
    /// When one of them is no platform.
    pub fn platforms(&self) -> Result<Vec<Platform>> {
        let asked = self.options().platforms()?;
        Ok(if asked.is_empty() { vec![self.default_platform()] } else { asked })
    }

    /// Builds for all of [`platforms`](Self::platforms) at once and joins the
    /// results, each of one tree. One platform gives a plain result, unless
    /// the option `multi-platform` is set.
    ///
    /// ```
    /// use buildkit_frontend::{BuildResult, Gateway, Result};
    /// use buildkit_llb::sh;
    ///
    /// async fn build(gateway: Gateway) -> Result<BuildResult> {
    ///     gateway
    ///         .for_each_platform(async |platform| {
    ///             let base = gateway.base_image("alpine", &platform).await?;
    ///             let tree = gateway.solve_state(&base.state.run(sh("date > /built")).root()).await?;
    ///             Ok(tree.with_config(base.config.cmd(["cat", "/built"]).to_json()))
    ///         })
    ///         .await
    /// }
    /// # let alpine = r#"{"os":"linux","architecture":"arm64"}"#;
    /// # let simulated = buildkit_frontend::Simulated::new()
    /// #     .image("docker.io/library/alpine:latest", "", alpine)
    /// #     .option("platform", "linux/amd64,linux/arm64");
    /// # let result = futures::executor::block_on(simulated.run(build)).unwrap();
    /// # assert!(result.metadata.contains_key("containerimage.config/linux/arm64"));
    /// ```
    ///
    /// # Errors
    /// The error of the first platform that has one, in the order they were
    /// asked for, after all have ended; a result of more than one tree.
    pub async fn for_each_platform<F, Fut>(&self, build: F) -> Result<BuildResult>
    where
        F: Fn(Platform) -> Fut,
        Fut: Future<Output = Result<BuildResult>>,
    {
        let platforms = self.platforms()?;
        let multi = platforms.len() > 1 || self.options().switch(MULTI)?;
        // Platforms do not stop each other: what one of them builds is cached for the next time.
        let built = join_all(platforms.iter().cloned().map(build)).await;
        let mut built = platforms.into_iter().zip(built).map(|(platform, result)| Ok((platform, result?)));
        if multi {
            return BuildResult::join(built.collect::<Result<Vec<_>>>()?);
        }
        match built.next().transpose()? {
            Some((platform, result)) => Ok(result.with_platforms(&[platform])),
            None => Ok(BuildResult::default()),
        }
    }
}

pub(crate) fn to_wire(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.to_string(),
        os: platform.os.to_string(),
        variant: platform.variant.to_string(),
        os_version: platform.os_version.to_string(),
        os_features: platform.os_features.clone(),
    }
}

#[cfg(feature = "grpc")]
pub(crate) fn from_wire(wire: pb::Platform) -> Platform {
    let mut platform = Platform::new(wire.os, wire.architecture).with_variant(wire.variant);
    platform.os_version = wire.os_version.into();
    platform.os_features = wire.os_features;
    platform
}
