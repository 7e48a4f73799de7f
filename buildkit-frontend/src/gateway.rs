//! The handle a frontend builds with.

use std::collections::BTreeMap;
use std::sync::Arc;

use buildkit_llb::caps::{ServerCaps, Unsupported};
use buildkit_llb::reference::Reference as ImageReference;
use buildkit_llb::{Definition, Image, MarshalOptions, Platform, State, scratch};
use buildkit_proto::{gateway, pb};

use crate::bridge::{Bridge, Environment, Worker};
use crate::caps::{Caps, gateway as cap};
use crate::container::{Container, NewContainer};
use crate::detail::Detail;
use crate::error::{Code, Error, Result};
use crate::image_config::ImageConfig;
use crate::options::Options;
use crate::output::BuildResult;
use crate::resolve::{ResolveImage, ResolveSource, ResolvedImage};
use crate::solve::Solve;

/// A running build, seen from a frontend: its options, and everything the
/// daemon does for it.
///
/// Cloning is cheap, and clones are the same build. Dropping a call's future
/// gives up on the call.
#[derive(Debug, Clone)]
pub struct Gateway {
    bridge: Arc<dyn Bridge>,
    /// In place of those that the bridge knows.
    options: Option<Arc<Options>>,
}

impl Gateway {
    /// The build that `bridge` serves.
    pub fn new(bridge: impl Bridge) -> Self {
        Self::from_bridge(Arc::new(bridge))
    }

    /// The build that a shared `bridge` serves.
    pub fn from_bridge(bridge: Arc<dyn Bridge>) -> Self {
        Self { bridge, options: None }
    }

    /// What is below: for calls this type does not offer.
    pub fn bridge(&self) -> &Arc<dyn Bridge> {
        &self.bridge
    }

    /// The same build with other options, to call a nested `build` function.
    #[must_use]
    pub fn with_options(&self, options: Options) -> Self {
        Self { options: Some(Arc::new(options)), ..self.clone() }
    }

    fn environment(&self) -> &Environment {
        self.bridge.environment()
    }

    /// The options the frontend was called with.
    pub fn options(&self) -> &Options {
        self.options.as_deref().unwrap_or(&self.environment().options)
    }

    /// The session that answers this build's callbacks.
    pub fn session_id(&self) -> &str {
        &self.environment().session_id
    }

    /// The daemon's product, for messages to the user; empty is BuildKit.
    pub fn product(&self) -> &str {
        &self.environment().product
    }

    /// The workers, the default one first.
    pub fn workers(&self) -> &[Worker] {
        &self.environment().workers
    }

    /// The platform that is built for when nobody asks for another one: the
    /// default worker's own.
    pub fn default_platform(&self) -> Platform {
        let own = self.workers().first().and_then(|worker| worker.platforms.first());
        own.cloned().unwrap_or_else(Platform::host).normalized()
    }

    /// What the gateway can do.
    pub fn caps(&self) -> &Caps {
        &self.environment().caps
    }

    /// What may be used in graphs.
    pub fn llb_caps(&self) -> &ServerCaps {
        &self.environment().llb_caps
    }

    /// The graph the running frontend image came from, where the daemon tells
    /// it; it can be given to [`Solve`] to read more of the image.
    pub fn current_frontend(&self) -> Option<&Definition> {
        self.environment().frontend.as_ref()
    }

    /// Turns a state into a graph for this daemon and its platform.
    ///
    /// # Errors
    /// When the state was built from bad input; the error names the op and
    /// the line that built it.
    pub fn marshal(&self, state: &State) -> Result<Definition> {
        let mut options = MarshalOptions::new(self.default_platform()).caps(self.llb_caps().clone());
        // Without it, local sources of one name in two builds are one and the same to the daemon.
        if !self.environment().session_id.is_empty() {
            options = options.unique_id(&self.environment().session_id);
        }
        Ok(state.marshal(options)?)
    }

    /// Builds a state; shorthand for [`marshal`](Self::marshal) and
    /// [`solve`](Self::solve).
    pub async fn solve_state(&self, state: &State) -> Result<BuildResult> {
        self.solve(self.marshal(state)?).await
    }

    /// Builds a graph, or calls another frontend.
    ///
    /// The result may still have to be built, unless the request says
    /// [`evaluate`](Solve::evaluate).
    ///
    /// # Errors
    /// When the daemon lacks a capability that the graph needs, or when the
    /// build fails. See [`Error::vertex`], [`Error::exit_code`] and
    /// [`Error::locations`].
    pub async fn solve(&self, request: impl Into<Solve>) -> Result<BuildResult> {
        let mut request = request.into().request;
        self.check_caps(&request)?;
        if !request.frontend.is_empty() {
            self.hand_on_caches(&mut request);
        }
        for definition in request.definition.iter_mut().chain(request.frontend_inputs.values_mut()) {
            definition.omit_empty_locations();
        }
        request.allow_result_return = true;
        request.allow_result_array_ref = true;
        let evaluate = request.evaluate;
        let evaluates = self.caps().contains(cap::SOLVE_EVALUATE);
        request.evaluate &= evaluates;

        let result = BuildResult::from_wire(&self.bridge, self.bridge.solve(request).await?);
        if evaluate && !evaluates {
            for (_, reference) in result.references() {
                if let Some(reference) = reference {
                    reference.evaluate().await?;
                }
            }
        }
        Ok(result)
    }

    fn check_caps(&self, request: &gateway::SolveRequest) -> Result<()> {
        let product = self.product();
        if let Some(definition) = &request.definition {
            for (digest, metadata) in &definition.metadata {
                for name in metadata.caps.iter().filter_map(|(name, needed)| needed.then_some(name)) {
                    match self.llb_caps().supports_named(name) {
                        Ok(()) => {}
                        // A graph made by a newer builder for a newer daemon.
                        Err(Unsupported::Unknown(_)) if self.llb_caps().contains(name) => {}
                        Err(reason) => {
                            let vertex = metadata.description.get("llb.customname").unwrap_or(digest);
                            let text = format!("cannot solve {vertex}");
                            return Err(Error::context(text, reason).or_code(Code::Unimplemented));
                        }
                    }
                }
            }
        }
        if !request.cache_imports.is_empty() {
            self.caps().require(cap::IMPORT_CACHES, product)?;
        }
        if !request.frontend_inputs.is_empty() {
            self.caps().require(cap::INPUTS, product)?;
        }
        Ok(())
    }

    /// Nested frontends read the caches of the outermost one.
    fn hand_on_caches(&self, request: &mut gateway::SolveRequest) {
        for name in ["cache-imports", "cache-from"] {
            if let Some(text) = self.options().get(name) {
                request.frontend_opt.entry(name.into()).or_insert_with(|| text.into());
            }
        }
    }

    /// Resolves an image to its digest and config.
    ///
    /// # Errors
    /// When there is no such image, or when a source policy denies it or
    /// makes it something else than an image.
    pub async fn resolve_image(&self, request: impl Into<ResolveImage>) -> Result<ResolvedImage> {
        let source = request.into().into_source();
        let asked = source.identifier().to_owned();
        ResolvedImage::from_wire(&asked, self.resolve(source).await?)
    }

    /// An image as a state to build on, for the default platform; shorthand
    /// for [`base_image`](Self::base_image).
    ///
    /// # Errors
    /// Those of [`resolve_image`](Self::resolve_image).
    pub async fn image(&self, reference: &str) -> Result<State> {
        Ok(self.base_image(reference, &self.default_platform()).await?.state)
    }

    /// An image to build on: pinned to the digest it has now, with the
    /// environment, directory and platform of its config. `scratch` is the
    /// empty image.
    ///
    /// The option `image-resolve-mode` of the frontend (`default`, `pull` or
    /// `local`) says where it is looked for.
    ///
    /// # Errors
    /// Those of [`resolve_image`](Self::resolve_image).
    pub async fn base_image(&self, reference: &str, platform: &Platform) -> Result<BaseImage> {
        if reference == "scratch" {
            return Ok(BaseImage {
                state: scratch().platform(&platform.normalized()),
                config: ImageConfig::new(&platform.normalized()),
                reference: reference.into(),
                digest: String::new(),
            });
        }
        let named = ImageReference::parse_normalized(reference)
            .map_err(|error| Error::context(format!("{reference:?} is not the name of an image"), error))?
            .with_default_tag();
        let request = ResolveImage::new(named.to_string())
            .platform(platform)
            .mode(self.options().resolve_mode()?)
            .log_name(format!("[internal] load metadata for {named}"));
        let image = self.resolve_image(request).await?;
        let pinned = match ImageReference::parse_normalized(&image.reference) {
            Ok(name) if name.digest().is_none() && !image.digest.is_empty() => {
                name.with_digest(&image.digest).map_or(image.reference, |name| name.to_string())
            }
            _ => image.reference,
        };
        let state = State::from(Image::new(&pinned).platform(platform.clone()));
        let (state, config) = if image.config.is_empty() {
            (state.platform(&platform.normalized()), ImageConfig::new(&platform.normalized()))
        } else {
            (state.image_config(&image.config), ImageConfig::from_json(&image.config)?)
        };
        Ok(BaseImage { state, config, reference: pinned, digest: image.digest })
    }

    /// Resolves a source of any kind: the commit of a git reference, the
    /// checksum of a file, the attestations of an image.
    ///
    /// # Errors
    /// When there is no such source, a policy denies it, or the daemon cannot
    /// tell what was asked for.
    pub async fn resolve_source(
        &self,
        request: impl Into<ResolveSource>,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        self.resolve(request.into()).await
    }

    async fn resolve(&self, source: ResolveSource) -> Result<gateway::ResolveSourceMetaResponse> {
        let request = source.request;
        let wants_checksum = request.http.as_ref().is_some_and(|http| http.checksum_request.is_some());
        let wants_attestations = request
            .image
            .as_ref()
            .is_some_and(|image| image.attestation_chain || !image.resolve_attestations.is_empty());
        for (wanted, name) in
            [(wants_checksum, cap::HTTP_CHECKSUM), (wants_attestations, cap::IMAGE_ATTESTATIONS)]
        {
            if wanted {
                self.caps().require(name, self.product())?;
            }
        }
        let response = self.bridge.resolve_source(request).await?;
        if wants_checksum && response.http.as_ref().is_none_or(|http| http.checksum_response.is_none()) {
            return Err(Error::new("the daemon was asked for a checksum but did not answer with one"));
        }
        Ok(response)
    }

    /// The graphs that were given to the frontend in place of contexts, by
    /// name; none where the daemon does not know inputs.
    pub async fn inputs(&self) -> Result<BTreeMap<String, Definition>> {
        if !self.caps().contains(cap::INPUTS) {
            return Ok(BTreeMap::new());
        }
        let inputs = self.bridge.inputs().await?;
        inputs.into_iter().map(|(name, input)| Ok((name, Definition::from_pb(input)?))).collect()
    }

    /// Checks the capabilities that the client says a frontend must have
    /// (option `frontend.caps`) against those of this one, given without
    /// their prefix `moby.buildkit.frontend.`: `inputs`, `subrequests`,
    /// `contexts`. To be called first.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] with [`Detail::FrontendCap`] for the first one
    /// that is missing.
    pub fn require_frontend_caps(&self, supported: &[&str]) -> Result<()> {
        let wanted = self.options().get("frontend.caps").unwrap_or_default();
        for cap in wanted.split(',').filter(|cap| !cap.is_empty()) {
            // What follows a plus says how the capability is used.
            let name = cap.split('+').next().unwrap_or(cap);
            if !name.strip_prefix("moby.buildkit.frontend.").is_some_and(|short| supported.contains(&short)) {
                return Err(Error::with_code(
                    Code::Unimplemented,
                    format!("unsupported frontend capability {name}"),
                )
                .with_detail(Detail::FrontendCap(name.into())));
            }
        }
        Ok(())
    }

    /// Shows a warning to the user; nothing happens where the daemon does not
    /// know warnings.
    pub async fn warn(&self, warning: Warning) -> Result<()> {
        if !self.caps().contains(cap::WARNINGS) {
            return Ok(());
        }
        if warning.info.is_none() && !warning.ranges.is_empty() {
            return Err(invalid("a warning with ranges needs the file they are in"));
        }
        self.bridge
            .warn(gateway::WarnRequest {
                digest: warning.vertex,
                level: warning.level.max(1),
                short: warning.short.into(),
                detail: warning.detail.into_iter().map(Into::into).collect(),
                url: warning.url,
                info: warning.info,
                ranges: warning.ranges,
            })
            .await
    }

    /// Makes a container to run processes in. It is there until its handle is
    /// dropped or the build ends.
    ///
    /// # Errors
    /// When the daemon does not know containers, or when a mount cannot be
    /// made.
    pub async fn container(&self, request: NewContainer) -> Result<Container> {
        Container::create(&self.bridge, request).await
    }
}

/// An image to build on; [`Gateway::base_image`] gives it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BaseImage {
    /// Its files, with environment, directory and platform of its config.
    pub state: State,
    /// Its config, to be changed for the new image.
    pub config: ImageConfig,
    /// Its reference, pinned to a digest where there is one.
    pub reference: String,
    /// The digest of its manifest or index; empty for the empty image.
    pub digest: String,
}

/// A warning for the user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Warning {
    /// The digest of the vertex it is shown with. Displays drop warnings
    /// about vertices they do not know.
    pub vertex: String,
    /// How important it is: 1, the default, or more for what matters less.
    pub level: i64,
    /// The warning in a line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where to read about it.
    pub url: String,
    /// The file it is about.
    pub info: Option<pb::SourceInfo>,
    /// The places in the file.
    pub ranges: Vec<pb::Range>,
}

fn invalid(text: &str) -> Error {
    Error::with_code(Code::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::simulated::Simulated;

    #[test]
    fn directories_of_the_client_are_those_of_the_builds_session() {
        let unique = |session: &str| {
            let simulated = Simulated::new().configure(|known| session.clone_into(&mut known.session_id));
            let definition = simulated.gateway().marshal(&buildkit_llb::local("src")).unwrap();
            let op = definition.ops().next().unwrap().message().unwrap().op;
            let Some(pb::op::Op::Source(source)) = op else { panic!("no source") };
            source.attrs.get("local.unique").cloned()
        };
        assert_eq!(unique("s").as_deref(), Some("s"));
        assert_eq!(unique(""), None);
    }

    #[test]
    fn nested_frontends_read_the_caches_of_the_outermost_one() {
        let simulated =
            Simulated::new().option("cache-from", "a").option("cache-imports", "b").option("x", "");
        let nested = Solve::frontend("dockerfile.v0").options([("cache-imports", "its own")]);
        block_on(simulated.gateway().solve(nested)).unwrap();
        let solves = simulated.solves();
        let mut options: Vec<_> =
            solves[0].frontend_opt.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        options.sort_unstable();
        assert_eq!(options, [("cache-from", "a"), ("cache-imports", "its own")]);
    }
}
