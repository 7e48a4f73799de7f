//! Answers to a conversion's questions, from the daemon.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use buildkit_frontend::{Gateway, ResolveMode as Mode, ResolveSource, Solve};
use buildkit_llb::{Definition, MarshalOptions, Platform, Source, State, caps};
use buildkit_proto::pb;
use bytes::Bytes;
use futures::lock::Mutex;

use crate::lower::{
    ImageRequest, Read, Redirected, ResolveError, ResolveMode, ResolvedImage, Resolver, SourceMetadata,
};

const IMAGE: &str = "docker-image://";
const OCI_LAYOUT: &str = "oci-layout://";

/// A [`Resolver`] that asks the daemon behind a gateway.
#[derive(Debug)]
pub(crate) struct GatewayResolver {
    gateway: Gateway,
    inputs: Mutex<Option<Arc<BTreeMap<String, Definition>>>>,
}

impl GatewayResolver {
    pub(crate) fn new(gateway: Gateway) -> Self {
        Self { gateway, inputs: Mutex::new(None) }
    }

    /// The frontend's inputs; asked for once.
    pub(crate) async fn inputs(&self) -> Result<Arc<BTreeMap<String, Definition>>, buildkit_frontend::Error> {
        let mut cached = self.inputs.lock().await;
        if let Some(inputs) = &*cached {
            return Ok(Arc::clone(inputs));
        }
        let inputs = Arc::new(self.gateway.inputs().await?);
        *cached = Some(Arc::clone(&inputs));
        Ok(inputs)
    }

    /// Marshals a graph that is solved on the way to the build's own.
    pub(crate) fn marshal(&self, tree: &State) -> Result<Definition, buildkit_llb::Error> {
        const SETS_PATH: &str = "exec.meta.setsdefaultpath";
        let mut known = caps::ServerCaps::new();
        if self.supports(SETS_PATH) {
            known.insert(SETS_PATH, caps::ServerCap { enabled: true, ..caps::ServerCap::default() });
        }
        tree.marshal(MarshalOptions::new(self.gateway.default_platform()).caps(known))
    }
}

/// An HTTP source by itself, and the name of the file it writes.
fn alone(source: &pb::SourceOp) -> Option<(State, String)> {
    let is_http = source.identifier.starts_with("http://") || source.identifier.starts_with("https://");
    let filename = source.attrs.get("http.filename").filter(|name| is_http && !name.is_empty())?;
    let tree =
        source.attrs.iter().fold(Source::new(&source.identifier), |tree, (key, value)| tree.attr(key, value));
    Some((tree.into(), filename.clone()))
}

#[async_trait]
impl Resolver for GatewayResolver {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let scheme = if request.store.is_some() { OCI_LAYOUT } else { IMAGE };
        let mut ask = ResolveSource::new(format!("{scheme}{}", request.reference))
            .log_name(&request.log_name)
            .mode(match request.mode {
                ResolveMode::Default => Mode::Default,
                ResolveMode::Pull => Mode::ForcePull,
                ResolveMode::Local => Mode::PreferLocal,
            });
        if let Some(platform) = &request.platform {
            ask = ask.platform(platform);
        }
        if let Some((session, store)) = &request.store {
            ask = ask.attr("oci.store", store).attr("oci.session", session);
        }
        let answer = self.gateway.resolve_source(ask).await?;
        let identifier = answer.source.map(|s| s.identifier).unwrap_or_default();
        let reference = if identifier.is_empty() {
            request.reference.as_str()
        } else if let Some(reference) =
            identifier.strip_prefix(IMAGE).or_else(|| identifier.strip_prefix(OCI_LAYOUT))
        {
            reference
        } else {
            return Err(Box::new(Redirected { to: identifier }));
        };
        let image = answer.image.unwrap_or_default();
        Ok(ResolvedImage { reference: reference.to_owned(), digest: image.digest, config: image.config })
    }

    async fn read_file(&self, tree: &State, path: &str, read: Read) -> Result<Option<Bytes>, ResolveError> {
        let mut solve = Solve::definition(&self.marshal(tree)?);
        if read.evaluate {
            solve = solve.evaluate();
        }
        let result = self.gateway.solve(solve).await?;
        let Some(reference) = result.single()? else { return Ok(None) };
        let content = match read.limit {
            Some(limit) => reference.read_range(path, 0..limit).await,
            None => reference.read_file(path).await,
        };
        // A tree that cannot be built shows again when the build itself needs it.
        Ok(content.ok())
    }

    async fn source(&self, tree: &State, log_name: &str) -> Result<Option<SourceMetadata>, ResolveError> {
        let definition = self.marshal(tree)?;
        let mut found = None;
        for op in definition.ops() {
            if let Some(pb::op::Op::Source(source)) = op.message()?.op
                && found.replace(source).is_some()
            {
                return Ok(None);
            }
        }
        let Some(source) = found else { return Ok(None) };
        let file = alone(&source);
        let is_git = source.identifier.starts_with("git://");
        let mut ask = ResolveSource::from(source).log_name(log_name);
        if is_git {
            ask = ask.git_objects();
        }
        let answer = self.gateway.resolve_source(ask).await?;
        let http = answer.http;
        Ok(Some(SourceMetadata {
            commit: answer.git.map(|git| git.commit_object).filter(|commit| !commit.is_empty()),
            last_modified: http.as_ref().and_then(|http| http.last_modified.as_ref()).map(|t| t.seconds),
            file,
        }))
    }

    async fn input(&self, name: &str) -> Result<Option<State>, ResolveError> {
        match self.inputs().await?.get(name) {
            None => Ok(None),
            Some(definition) => Ok(Some(definition.to_state()?)),
        }
    }

    fn supports(&self, cap: &str) -> bool {
        self.gateway.llb_caps().contains(cap)
    }

    fn build_platform(&self) -> Option<Platform> {
        Some(self.gateway.default_platform())
    }
}
