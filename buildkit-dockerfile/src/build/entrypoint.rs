//! Finding and reading the Dockerfile.

use buildkit_frontend::{Gateway, Solve};
use buildkit_llb::{Differ, Local, SourceMap, State};
use buildkit_proto::pb;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::lower::context::{Contexts, DOCKERIGNORE, with_session};
use crate::parser::Lines;

use super::resolver::GatewayResolver;

const DOCKERFILE: &str = "Dockerfile";

/// The Dockerfile of a build.
pub(crate) struct Entrypoint {
    pub(crate) data: Bytes,
    pub(crate) map: SourceMap,
    pub(crate) info: pb::SourceInfo,
    /// Digest of the vertex the file comes from.
    pub(crate) vertex: String,
}

impl Entrypoint {
    /// Reads the Dockerfile; an ignore file beside it goes to `contexts`.
    pub(crate) async fn read(
        gateway: &Gateway,
        resolver: &GatewayResolver,
        contexts: &mut Contexts<'_>,
    ) -> Result<Self> {
        let options = contexts.options;
        let filename = match (&contexts.dockerfile_name, &options.filename) {
            (Some(name), _) | (None, Some(name)) => name.clone(),
            (None, None) => DOCKERFILE.to_owned(),
        };
        let lower = filename
            .trim_end_matches('/')
            .strip_suffix(DOCKERFILE)
            .filter(|dir| dir.is_empty() || dir.ends_with('/'));
        let lower =
            lower.map(|dir| buildkit_llb::path::clean(&format!("{dir}{}", DOCKERFILE.to_ascii_lowercase())));
        let remote = contexts.dockerfile.clone().filter(|_| options.dockerfile_local.is_none());
        let state = match remote {
            Some(state) => state,
            None => local_source(contexts, &filename, lower.as_deref()),
        };

        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Gateway, format!("cannot read {filename}")).caused_by(e)
        };
        let definition = resolver.marshal(&state).map_err(|e| failed(e.into()))?;
        let result = gateway.solve(Solve::definition(&definition)).await.map_err(|e| failed(e.into()))?;
        let reference = result.reference().map_err(|e| failed(e.into()))?;
        let data = match (reference.read_file(&filename).await, lower) {
            (Ok(data), _) => data,
            (Err(error), Some(lower)) => match reference.read_file(&lower).await {
                Ok(data) => data,
                Err(_) => return Err(failed(error.into())),
            },
            (Err(error), None) => return Err(failed(error.into())),
        };
        if let Ok(content) = reference.read_file(&format!("{filename}{DOCKERIGNORE}")).await {
            contexts.own_ignore = Some(content);
        }
        let vertex =
            definition.head().ok().flatten().map(|(digest, _)| digest.to_string()).unwrap_or_default();
        let map = SourceMap::new(&filename, DOCKERFILE, data.clone()).read_from(&state);
        let info = pb::SourceInfo {
            filename,
            data: data.clone(),
            definition: Some(definition.to_pb()),
            language: DOCKERFILE.to_owned(),
        };
        Ok(Self { data, map, info, vertex })
    }
}

fn local_source(contexts: &Contexts<'_>, filename: &str, lower: Option<&str>) -> State {
    let options = contexts.options;
    let name = options.dockerfile_local.as_deref().unwrap_or("dockerfile");
    let mut follow = vec![filename.to_owned(), format!("{filename}{DOCKERIGNORE}")];
    follow.extend(lower.map(str::to_owned));
    let local = Local::new(name)
        .follow(follow)
        .shared_key_hint(name)
        .name(format!("[internal] load build definition from {filename}"))
        .differ(Differ::None, false);
    with_session(local, options.session_of(name)).into()
}

/// One range a line, as BuildKit describes places.
pub(crate) fn ranges(lines: Lines) -> Vec<pb::Range> {
    lines
        .iter()
        .map(|n| {
            let line = i32::try_from(n).unwrap_or(i32::MAX);
            let position = pb::Position { line, character: 0 };
            pb::Range { start: Some(position), end: Some(position) }
        })
        .collect()
}
