//! SBOMs: a scanner image that looks at the result and writes statements about it.

use std::collections::BTreeMap;

use buildkit_frontend::{Attestation, AttestationKind, Reference};
use buildkit_llb::path::join;
use buildkit_llb::{Definition, Image, MarshalOptions, Mount, Platform, Run, State, scratch};

use crate::error::{Error, ErrorKind, Result};
use crate::lower::context::Contexts;
use crate::lower::convert::{Evaluated, Graph};
use crate::lower::{ImageConfig, ImageRequest, SbomScanner};

/// Name of the scan of the result itself.
const CORE: &str = "sbom";
const SOURCE: &str = "/run/src";
const OUT: &str = "/run/out/";
/// What the statements of an SBOM are about.
const PREDICATE: &str = "https://spdx.dev/Document";

/// A scanner whose config is known.
pub(crate) struct Scanner {
    image: String,
    platform: Option<Platform>,
    args: Vec<String>,
    env: Vec<String>,
    dir: String,
    parameters: BTreeMap<String, String>,
}

impl Scanner {
    /// Looks up the scanner's image.
    pub(crate) async fn open(contexts: &Contexts<'_>, sbom: &SbomScanner) -> Result<Self> {
        let platform = contexts.resolver.build_platform();
        let request = ImageRequest {
            reference: sbom.image.clone(),
            platform: platform.clone(),
            mode: contexts.options.resolve_mode,
            log_name: format!("[internal] load metadata for {}", sbom.image),
            store: None,
        };
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Image, format!("the SBOM scanner {} is unusable", sbom.image)).caused_by(e)
        };
        let resolved = contexts.image(request).await.map_err(failed)?;
        let config = ImageConfig::from_json(&resolved.config).map_err(|e| failed(e.into()))?.config;
        let mut args = config.entrypoint;
        args.extend(config.cmd);
        if args.is_empty() {
            let message = format!("the SBOM scanner {} has neither ENTRYPOINT nor CMD", sbom.image);
            return Err(Error::new(ErrorKind::Image, message));
        }
        Ok(Self {
            image: sbom.image.clone(),
            platform,
            args,
            env: config.env,
            dir: config.working_dir,
            parameters: sbom.parameters.clone(),
        })
    }

    /// The graph of a scan of the result for the platform `id`.
    pub(crate) fn graph(&self, id: &str, evaluated: &Evaluated<'_>, graph: &Graph) -> Result<Definition> {
        let scan = &evaluated.scan;
        let mut extras: Vec<(String, State)> = Vec::new();
        if scan.context {
            extras.push(("context".to_owned(), graph.emitted.context.clone()));
        }
        extras.extend(scan.stages.iter().map(|(name, id)| (name.clone(), graph.emitted.stage(*id))));

        let mut image = Image::new(&self.image);
        if let Some(platform) = &self.platform {
            image = image.platform(platform.clone());
        }
        let mut process = Run::new(image, self.args.clone())
            .name(format!("[{id}] generating sbom using {}", self.image))
            .dir(&self.dir);
        for line in &self.env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            process = process.env(name, value);
        }
        process = process
            .env("BUILDKIT_SCAN_DESTINATION", OUT)
            .env("BUILDKIT_SCAN_SOURCE", join(&[SOURCE, "core", CORE]));
        if !extras.is_empty() {
            process = process.env("BUILDKIT_SCAN_SOURCE_EXTRAS", join(&[SOURCE, "extras"]));
        }
        for (name, value) in &self.parameters {
            process = process.env(format!("BUILDKIT_SCAN_{name}"), value);
        }
        if scan.ignore_cache {
            process = process.ignore_cache();
        }
        process = process
            .mount("/tmp", Mount::tmpfs())
            .mount(join(&[SOURCE, "core", CORE]), Mount::bind(&graph.target).readonly());
        for (name, state) in extras {
            let target = join(&[SOURCE, "extras", &format!("{CORE}-{name}")]);
            process = process.mount(target, Mount::bind(state).readonly());
        }
        let failed =
            |e| Error::new(ErrorKind::Graph, "the graph of the SBOM scan cannot be made").caused_by(e);
        // The scan is not a part of the result: what has no platform of its own, such as a process on an empty file
        // system, gets that of the daemon here and not the target's.
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let marshal = MarshalOptions { platform, ..graph.marshal.clone() };
        let definition = process.output(OUT, scratch()).marshal(&marshal).map_err(failed)?;
        without_default_path(&definition).map_err(failed)
    }

    /// What the scan found, as a statement about the result.
    pub(crate) fn attest(reference: Option<Reference>) -> Attestation {
        let metadata = [("reason", "sbom"), ("sbom-core", CORE)];
        Attestation {
            kind: AttestationKind::Bundle,
            bundle_predicate_type: PREDICATE.to_owned(),
            reference,
            path: String::new(),
            metadata: metadata.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect(),
        }
    }
}

/// Takes the wish for a default `PATH` from the scanner's own process: its environment is the scanner's.
fn without_default_path(definition: &Definition) -> Result<Definition, buildkit_llb::Error> {
    let mut wire = definition.to_pb();
    let head = definition.head()?.map(|(digest, _)| digest.to_string());
    if let Some(metadata) = head.and_then(|digest| wire.metadata.get_mut(&digest)) {
        metadata.caps.remove("exec.meta.setsdefaultpath");
    }
    Definition::from_pb(wire)
}
