//! Conversion as a library: a parsed Dockerfile in, graph and image config out.

use buildkit_llb::{Definition, SourceMap};

use crate::Dockerfile;
use crate::error::Result;
use crate::lint::Warning;
use crate::outline::{Outline, outline};

use super::config::ImageConfig;
use super::context::Contexts;
use super::convert::{self, Conversion};
use super::options::Options;
use super::resolver::Resolver;
use super::timestamp::Timestamp;

/// What a Dockerfile turns into.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The build graph of the target.
    pub definition: Definition,
    /// The config of the image.
    pub image: ImageConfig,
    /// The config of the base image, if there is one.
    pub base_image: Option<ImageConfig>,
    /// `SOURCE_DATE_EPOCH`, if it was given.
    pub epoch: Option<Timestamp>,
    /// What lint rules say about the conversion; rules about the text alone are in
    /// [`Dockerfile::lint`].
    pub warnings: Vec<Warning>,
}

impl Dockerfile {
    /// Converts the Dockerfile to a build graph, without a daemon: image configs come from `resolver`.
    /// The first of the [platforms](Options::platforms) is built for.
    ///
    /// ```
    /// use buildkit_dockerfile::{Dockerfile, lower};
    ///
    /// struct NoImages;
    ///
    /// #[async_trait::async_trait]
    /// impl lower::Resolver for NoImages {
    ///     async fn image(&self, request: &lower::ImageRequest) -> Result<lower::ResolvedImage, lower::ResolveError> {
    ///         Err(format!("no image {}", request.reference).into())
    ///     }
    /// }
    ///
    /// # futures::executor::block_on(async {
    /// let file = Dockerfile::parse("FROM scratch\nCOPY app /bin/app\nENTRYPOINT [\"/bin/app\"]\n")?;
    /// let converted = file.to_llb(&lower::Options::default().session("mine"), &NoImages).await?;
    /// assert_eq!(converted.definition.ops().len(), 3);
    /// assert_eq!(converted.image.config.entrypoint, ["/bin/app"]);
    /// # Ok::<(), buildkit_dockerfile::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the Dockerfile, an option or an image, with the lines concerned.
    pub async fn to_llb(&self, options: &Options, resolver: &dyn Resolver) -> Result<Converted> {
        let contexts = Contexts::open(options, resolver).await?;
        let name = options.filename.as_deref().unwrap_or("Dockerfile");
        let map = SourceMap::new(name, "Dockerfile", self.source().to_vec());
        let conversion = Conversion {
            contexts: &contexts,
            platform: options.platforms.first(),
            all_stages: false,
            map: Some(&map),
        };
        let mut linter = convert::linter(self.source(), options)?;
        let evaluated = conversion.evaluate(self, &mut linter).await?;
        let graph = conversion.graph(&evaluated).await?;
        let target = evaluated.plan.stages.get(evaluated.plan.target);
        Ok(Converted {
            definition: graph.marshal()?,
            base_image: target.and_then(|s| s.base_image.as_deref().cloned()),
            epoch: evaluated.epoch,
            image: evaluated.image,
            warnings: linter.take_warnings(),
        })
    }

    /// What building the [target](Options::target) takes: arguments, secrets, SSH agents.
    ///
    /// # Errors
    ///
    /// As [`to_llb`](Self::to_llb): the whole conversion is gone through.
    pub async fn outline(&self, options: &Options, resolver: &dyn Resolver) -> Result<Outline> {
        let contexts = Contexts::open(options, resolver).await?;
        let conversion = Conversion {
            contexts: &contexts,
            platform: options.platforms.first(),
            all_stages: false,
            map: None,
        };
        let mut linter = convert::linter(self.source(), options)?;
        Ok(outline(&conversion.evaluate(self, &mut linter).await?))
    }
}
