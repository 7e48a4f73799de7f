//! What a request names: local directories, and registries.

use crate::error::RequestError;
use crate::session::{DOCKER_HUB, hosts_in, registry_of};
use buildkit_proto::{control, pb};
use prost::Message as _;
use std::collections::BTreeSet;

/// What a graph reads.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) locals: BTreeSet<String>,
    pub(super) registries: BTreeSet<String>,
}

impl Sources {
    pub(super) fn of(definition: &pb::Definition) -> Result<Self, RequestError> {
        let mut found = Self::default();
        for bytes in &definition.def {
            let op = pb::Op::decode(bytes.clone())
                .map_err(|error| RequestError::Definition { source: error.into() })?;
            // A graph inside a build op may name more; the daemon alone sees it.
            if let Some(pb::op::Op::Source(source)) = op.op {
                let id = source.identifier;
                if let Some(name) = id.strip_prefix("local://") {
                    found.locals.insert(name.to_owned());
                } else if let Some((scheme, rest)) = id.split_once("://")
                    && scheme.starts_with("docker-image")
                {
                    found.registries.insert(registry_of(rest));
                }
            }
        }
        Ok(found)
    }
}

/// Registries that a frontend's options and inputs name.
pub(super) fn hosts_of_frontend(message: &control::SolveRequest) -> Result<BTreeSet<String>, RequestError> {
    // Where a frontend reads `alpine` it means Docker Hub.
    let mut hosts = BTreeSet::from([DOCKER_HUB.to_owned()]);
    hosts_of_options(message, &mut hosts);
    for definition in message.frontend_inputs.values() {
        hosts.extend(Sources::of(definition)?.registries);
    }
    Ok(hosts)
}

/// Registries that options name: those of a frontend, and those that the daemon reads itself.
pub(super) fn hosts_of_options(message: &control::SolveRequest, hosts: &mut BTreeSet<String>) {
    for (key, value) in &message.frontend_attrs {
        // `context:ghcr.io/a/b` replaces an image by something else.
        hosts_in(key.strip_prefix("context:").unwrap_or_default(), hosts);
        hosts_in(value, hosts);
        // Scanners are images, Docker Hub's unless they say otherwise.
        if key == "attest:sbom" {
            hosts.insert(DOCKER_HUB.to_owned());
        }
    }
}

/// Registries that a graph names; none where it cannot be read.
pub(crate) fn registries_of(definition: &pb::Definition) -> BTreeSet<String> {
    Sources::of(definition).map(|sources| sources.registries).unwrap_or_default()
}
