//! A build as plain data.

mod input;
mod local;
mod sources;

pub(crate) use input::FrontendInput;
pub use input::{Frontend, Input};
pub use local::{Local, TarSource};
pub(crate) use sources::registries_of;
use sources::{Sources, hosts_of_frontend, hosts_of_options};

use crate::cache::{CacheExport, CacheImport};
use crate::content::OciStore;
use crate::error::RequestError;
use crate::export::{Export, Target};
use crate::policy::{Entitlement, Policy};
use crate::session::upload::Upload;
use crate::session::{DOCKER_HUB, RegistryScope, SessionContext, registry_of};
use buildkit_fsutil::source::SourceFs;
use buildkit_llb::{MarshalOptions, OciLayout, Platform, State};
use buildkit_proto::{control, pb};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Largest message that a daemon takes.
pub(crate) const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// Everything about a build but its session's services. All fields are public: fill it in, change
/// it, keep it; [`Client::solve`](crate::Client::solve) has a method for each.
///
/// # Defaults
///
/// No exporter (the result stays in the daemon's cache), no caches, no entitlements, no policy, no
/// attestations, a new random ref, the newest image layout that the daemon knows.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What to build.
    pub input: Input,
    /// The platform of a graph's steps that name none; that of this program when `None`. Of a frontend, the option
    /// `platform` where it is not set.
    pub platform: Option<Platform>,
    /// Id of the build; a random one when `None`. It must be new to the daemon.
    pub reference: Option<String>,
    /// Directories and trees that the build may read, by name.
    pub locals: BTreeMap<String, Local>,
    /// OCI layouts that the build may read, by id.
    pub oci_layouts: BTreeMap<String, OciStore>,
    /// Streams that the build may fetch as `http://buildkit-session/ID`, by id.
    pub uploads: BTreeMap<String, Upload>,
    /// Where the result goes.
    pub exports: Vec<Export>,
    /// Caches to write.
    pub cache_to: Vec<CacheExport>,
    /// Caches to read, in order.
    pub cache_from: Vec<CacheImport>,
    /// What steps may do beyond the usual.
    pub entitlements: BTreeSet<Entitlement>,
    /// Rules about sources.
    pub policy: Option<Policy>,
    /// Runs every step even where its result is cached.
    pub no_cache: bool,
    /// Keeps the build out of the history.
    pub internal: bool,
    /// Sends the network traffic of steps through a recording proxy. BuildKit 0.31.
    pub proxy_network: bool,
    /// Layout of images: 10, 20 or 30; 0 is the newest.
    pub compatibility_version: i64,
    /// Makes the same input give the same digest: all times are this one, in seconds since 1970.
    pub reproducible: Option<i64>,
    /// Key under which the daemon keeps copies of local directories between builds; made from
    /// this host and the absolute paths when `None`.
    pub shared_key: Option<String>,
    /// Options that the daemon reads itself, whatever it builds: `attest:sbom`, `attest:provenance`. A [`Frontend`] has
    /// its own.
    pub opts: BTreeMap<String, String>,
    /// Registries whose credentials the build may use, instead of those that it names; see
    /// [`RegistryScope`].
    pub registries: Option<RegistryScope>,
    /// Registries that the build uses beside those that it names.
    pub more_registries: BTreeSet<String>,
}

/// A request whose graph is marshalled and whose parts fit together.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) message: control::SolveRequest,
    pub(crate) shared_key: String,
    /// Names of the local directories that the build may ask for.
    pub(crate) locals: BTreeMap<String, Local>,
    pub(crate) registries: RegistryScope,
}

impl Request {
    /// Checks what can be checked without I/O, marshals, and makes the message. The caches to read
    /// are those that were found.
    pub(crate) fn prepare(
        &self,
        reference: &str,
        session: &SessionContext,
        cache_from: &[CacheImport],
    ) -> Result<Prepared, RequestError> {
        for export in &self.exports {
            export.validate()?;
        }
        if self.exports.iter().filter(|export| matches!(export.target, Target::Store(_))).count() > 1 {
            return Err(RequestError::Duplicate { what: "oci store key", name: "export".into() });
        }
        for (at, cache) in self.cache_to.iter().enumerate() {
            cache.0.validate("cache_to")?;
            if self.cache_to.iter().take(at).any(|other| other.0 == cache.0) {
                return Err(RequestError::Duplicate { what: "cache export", name: cache.0.kind.to_string() });
            }
        }
        for cache in &self.cache_from {
            cache.0.validate("cache_from")?;
        }
        if let Some(id) = self.oci_layouts.keys().find(|id| !id.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(RequestError::option("oci_layout", format!("the id {id:?} cannot be sent")));
        }

        let mut message = control::SolveRequest {
            r#ref: reference.to_owned(),
            session: session.id().to_owned(),
            internal: self.internal,
            proxy_network: self.proxy_network,
            compatibility_version: self.compatibility_version,
            entitlements: self.entitlements.iter().map(ToString::to_string).collect(),
            source_policy: self.policy.as_ref().map(|policy| policy.0.clone()),
            frontend_attrs: self.opts.clone(),
            ..Default::default()
        };
        let mut sources = None;
        match &self.input {
            Input::Empty => return Err(RequestError::Empty),
            Input::State(state) => message.definition = Some(self.marshal(state, session.id())?),
            Input::Definition(definition) => message.definition = Some(definition.clone()),
            Input::Frontend(frontend) if frontend.name.is_empty() => return Err(RequestError::Empty),
            Input::Frontend(frontend) | Input::Gateway(frontend) => {
                message.frontend.clone_from(&frontend.name);
                message.frontend_attrs.extend(frontend.opts.clone());
                if let Some(platform) = &self.platform {
                    message.frontend_attrs.entry("platform".into()).or_insert_with(|| platform.to_string());
                }
                for (name, input) in &frontend.inputs {
                    let definition = match input {
                        FrontendInput::State(state) => self.marshal(state, session.id())?,
                        FrontendInput::Definition(definition) => definition.clone(),
                    };
                    message.frontend_inputs.insert(name.clone(), definition);
                }
            }
        }
        if let Some((name, _)) = message.frontend_inputs.iter().find(|(_, input)| input.def.is_empty()) {
            // There is no graph for a daemon to read, and old ones crash on it.
            return Err(RequestError::option(
                "input",
                format!("{name:?} is empty, which no frontend can read"),
            ));
        }
        for definition in message.definition.iter_mut().chain(message.frontend_inputs.values_mut()) {
            definition.omit_empty_locations();
        }
        if let Some(definition) = &mut message.definition {
            if definition.def.is_empty() {
                return Err(RequestError::Empty);
            }
            if self.no_cache {
                for metadata in definition.metadata.values_mut() {
                    metadata.ignore_cache = true;
                }
            }
            let found = Sources::of(definition)?;
            if let Some(name) = found
                .locals
                .iter()
                .find(|name| !self.locals.contains_key(*name) && session.local(name).is_none())
            {
                return Err(RequestError::LocalNotAttached { name: name.clone() });
            }
            sources = Some(found);
        } else if self.no_cache {
            message.frontend_attrs.entry("no-cache".into()).or_default();
        }

        self.add_caches(&mut message, cache_from)?;
        message.exporters = self
            .exports
            .iter()
            .map(|export| control::Exporter { r#type: export.kind.clone(), attrs: export.attrs.clone() })
            .collect();
        if let Some(epoch) = self.reproducible {
            make_reproducible(&mut message, epoch);
        }
        // Daemons before 0.13 know one exporter only, and newer ones ignore these fields.
        if let Some(first) = message.exporters.first() {
            message.exporter_deprecated.clone_from(&first.r#type);
            message.exporter_attrs_deprecated.clone_from(&first.attrs);
        }
        let size = message.encoded_len();
        if size > MAX_REQUEST {
            let what = if message.definition.is_some() { "definition" } else { "request" };
            return Err(RequestError::TooLarge { what, size, limit: MAX_REQUEST });
        }

        let mut locals = self.locals.clone();
        if let Some(sources) = &sources {
            locals.retain(|name, _| sources.locals.contains(name));
        }
        let registries = match (&self.registries, sources) {
            (Some(scope), _) => scope.clone(),
            (None, Some(mut sources)) => {
                hosts_of_options(&message, &mut sources.registries);
                RegistryScope::Hosts(self.hosts(sources.registries))
            }
            (None, None) => RegistryScope::Hosts(self.hosts(hosts_of_frontend(&message)?)),
        };
        Ok(Prepared {
            message,
            shared_key: self.shared_key.clone().unwrap_or_else(|| shared_key(&self.locals)),
            locals,
            registries,
        })
    }

    fn marshal(&self, state: &State, session: &str) -> Result<pb::Definition, RequestError> {
        // Without an id of their own, trees of one name in two builds are one and the same to the
        // daemon, and one of the builds gets the files of the other.
        let options = MarshalOptions::new(self.platform.clone().unwrap_or_else(Platform::host));
        let definition = state
            .marshal(options.unique_id(session))
            .map_err(|error| RequestError::Definition { source: error.into() })?;
        Ok(definition.to_pb())
    }

    /// Makes an input of a context that is an image in an OCI layout: frontends know those as named contexts only.
    pub(crate) fn give_layout_as_context(
        &self,
        message: &mut control::SolveRequest,
        session: &SessionContext,
    ) -> Result<(), RequestError> {
        let Some(context) = message.frontend_attrs.get("context") else { return Ok(()) };
        let Some(reference) = context.strip_prefix("oci-layout://") else { return Ok(()) };
        let Some((name, digest)) = reference.split_once('@') else {
            let reason =
                format!("{context:?} has no digest, and no directory in which its tag could be looked up");
            return Err(RequestError::option("context", reason));
        };
        let store = name.split_once(':').map_or(name, |(store, _)| store);
        // A name needs a host; it is looked up nowhere.
        let layout =
            OciLayout::new(format!("{DOCKER_HUB}/library/{store}@{digest}")).store(session.id(), store);
        let mut graph = self.marshal(&layout.into(), session.id())?;
        graph.omit_empty_locations();
        message.frontend_attrs.remove("context");
        if !self.locals.contains_key("dockerfile") {
            message.frontend_inputs.entry("dockerfile".into()).or_insert_with(|| graph.clone());
        }
        message.frontend_inputs.insert("context".into(), graph);
        Ok(())
    }

    fn add_caches(
        &self,
        message: &mut control::SolveRequest,
        cache_from: &[CacheImport],
    ) -> Result<(), RequestError> {
        let entry = |kind: &str, mut attrs: BTreeMap<String, String>, other_side: &str| {
            attrs.remove(other_side);
            control::CacheOptionsEntry { r#type: kind.to_owned(), attrs }
        };
        let imports: Vec<_> =
            cache_from.iter().map(|cache| entry(&cache.0.kind, cache.0.attrs.clone(), "dest")).collect();
        let exports: Vec<_> =
            self.cache_to.iter().map(|cache| entry(&cache.0.kind, cache.0.attrs.clone(), "src")).collect();
        if matches!(self.input, Input::Frontend(_) | Input::Gateway(_)) && !imports.is_empty() {
            let list: Vec<_> = imports
                .iter()
                .map(|import| serde_json::json!({ "Type": import.r#type, "Attrs": import.attrs }))
                .collect();
            let json = serde_json::to_string(&list)
                .map_err(|error| RequestError::option("cache_from", error.to_string()))?;
            message.frontend_attrs.insert("cache-imports".into(), json);
        }
        message.cache = Some(control::CacheOptions { exports, imports, ..Default::default() });
        Ok(())
    }

    /// The file that a frontend starts from, where this side sends it: its directory, and its path there.
    pub(crate) fn start_file(&self, session: &SessionContext) -> Option<(Arc<dyn SourceFs>, String)> {
        let (Input::Frontend(frontend) | Input::Gateway(frontend)) = &self.input else { return None };
        let dir = ["dockerfile", "context"].into_iter().find_map(|name| session.local(name))?;
        let path = frontend.opts.get("filename").map_or("Dockerfile", String::as_str);
        Some((dir, path.trim_start_matches("./").to_owned()))
    }

    /// Registries named by the graph, the exporters and the caches, and by the caller.
    fn hosts(&self, mut hosts: BTreeSet<String>) -> BTreeSet<String> {
        hosts.extend(self.more_registries.iter().cloned());
        let names = self
            .exports
            .iter()
            .filter_map(|export| export.attrs.get("name"))
            .chain(self.cache_to.iter().filter_map(|cache| cache.0.attrs.get("ref")))
            .chain(self.cache_from.iter().filter_map(|cache| cache.0.attrs.get("ref")));
        for name in names.flat_map(|names| names.split(',')) {
            hosts.insert(registry_of(name));
        }
        hosts
    }
}

impl From<Input> for Request {
    fn from(input: Input) -> Self {
        Self { input, ..Self::default() }
    }
}

macro_rules! from_input {
    ($($input:ty),*) => {$(
        impl From<$input> for Request {
            fn from(input: $input) -> Self {
                Input::from(input).into()
            }
        }
    )*};
}

from_input!(State, &State, pb::Definition, buildkit_llb::Definition, Frontend);

/// The image layout of BuildKit 0.31.
const REPRODUCIBLE_LAYOUT: i64 = 30;

/// All times are the given one, and the layout of images is a fixed one unless the caller chose.
fn make_reproducible(message: &mut control::SolveRequest, epoch: i64) {
    let epoch = epoch.to_string();
    for exporter in &mut message.exporters {
        exporter.attrs.entry("source-date-epoch".into()).or_insert_with(|| epoch.clone());
        if matches!(exporter.r#type.as_str(), "image" | "oci" | "docker" | "moby") {
            exporter.attrs.entry("rewrite-timestamp".into()).or_insert_with(|| "true".into());
        }
    }
    if message.definition.is_none() {
        message.frontend_attrs.entry("build-arg:SOURCE_DATE_EPOCH".into()).or_insert(epoch);
    }
    if message.compatibility_version == 0 {
        message.compatibility_version = REPRODUCIBLE_LAYOUT;
    }
}

/// The same directories on the same host are the same to the daemon, others never.
pub(crate) fn shared_key(locals: &BTreeMap<String, Local>) -> String {
    use sha2::Digest as _;
    if locals.is_empty() {
        return String::new();
    }
    let mut hash = sha2::Sha256::new();
    hash.update(rustix::system::uname().nodename().to_bytes());
    for (name, local) in locals {
        hash.update([0]);
        hash.update(name.as_bytes());
        hash.update([0]);
        match local {
            Local::Dir(path) => {
                hash.update(local::absolute(path).as_os_str().as_encoded_bytes());
            }
            Local::Tree(_) | Local::Tar(_) => {}
        }
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A new random id of 25 characters, 0 to 9 and a to z.
pub(crate) fn new_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0; 25];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        // No randomness from the system: time and address still tell two builds apart.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        for (byte, time) in bytes.iter_mut().zip(now.as_nanos().to_le_bytes()) {
            *byte = time;
        }
    }
    bytes.iter().map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{RegistryCache, S3Cache};

    fn graph(identifiers: &[&str]) -> pb::Definition {
        let def = identifiers
            .iter()
            .map(|identifier| {
                let source = pb::SourceOp { identifier: (*identifier).into(), ..Default::default() };
                pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }.encode_to_vec().into()
            })
            .collect();
        pb::Definition { def, ..Default::default() }
    }

    fn request(input: impl Into<Request>) -> Request {
        input.into()
    }

    fn prepare(request: &Request) -> Result<Prepared, RequestError> {
        request.prepare("r", &SessionContext::new("s".into()), &request.cache_from)
    }

    #[test]
    fn a_graph_gets_only_the_directories_it_names() {
        let mut request = request(graph(&["local://context"]));
        assert!(
            matches!(prepare(&request), Err(RequestError::LocalNotAttached { name }) if name == "context")
        );
        request.locals.insert("context".into(), ".".into());
        request.locals.insert("other".into(), "/etc".into());
        let prepared = prepare(&request).unwrap();
        assert_eq!(prepared.locals.keys().collect::<Vec<_>>(), ["context"]);
    }

    #[test]
    fn a_graph_gets_only_the_credentials_of_its_registries() {
        let mut request = request(graph(&["docker-image://docker.io/library/alpine:3", "https://e.org/x"]));
        request.exports.push(Export::image("reg:5000/a:1,ghcr.io/o/a").push().into());
        request.cache_to.push(RegistryCache::new("cache.local/c").into());
        let scope = prepare(&request).unwrap().registries;
        for host in ["registry-1.docker.io", "docker.io", "reg:5000", "ghcr.io", "cache.local"] {
            assert!(scope.allows(host), "{host}");
        }
        for host in ["gcr.io", "ghcr.io.evil.com", "e.org", "reg"] {
            assert!(!scope.allows(host), "{host}");
        }
    }

    #[test]
    fn a_frontend_is_told_of_the_platform_unless_it_has_its_own() {
        let mut request = request(Frontend::new("dockerfile.v0"));
        let told =
            |request: &Request| prepare(request).unwrap().message.frontend_attrs.get("platform").cloned();
        assert_eq!(told(&request), None);
        request.platform = Some(Platform::LINUX_ARM64);
        assert_eq!(told(&request).as_deref(), Some("linux/arm64"));
        request.input = Frontend::new("dockerfile.v0").opt("platform", "linux/s390x").into();
        assert_eq!(told(&request).as_deref(), Some("linux/s390x"));
    }

    #[test]
    fn what_the_daemon_reads_of_a_graphs_options_is_sent_and_their_registries_may_be_used() {
        let mut request = request(graph(&["docker-image://quay.io/o/app:3"]));
        request.opts.insert("attest:sbom".into(), "generator=reg.corp/scanner:1".into());
        let prepared = prepare(&request).unwrap();
        assert_eq!(prepared.message.frontend_attrs, request.opts.clone().into_iter().collect());
        for host in ["quay.io", "reg.corp", "docker.io"] {
            assert!(prepared.registries.allows(host), "{host}");
        }
        request.opts.clear();
        for host in ["reg.corp", "docker.io"] {
            assert!(!prepare(&request).unwrap().registries.allows(host), "{host}");
        }
    }

    #[test]
    fn a_frontend_gets_only_the_credentials_of_the_registries_it_is_told_of() {
        let frontend = Frontend::image("reg.corp/frontend:1")
            .opt("build-arg:BASE", "ghcr.io/o/base:1")
            .opt("context:app", "docker-image://quay.io/o/app")
            .input("extra", buildkit_llb::image("mirror.local/x"));
        let mut request = request(frontend);
        request.exports.push(Export::image("reg:5000/a:1").push().into());
        request.more_registries.insert("added.io".into());
        let scope = prepare(&request).unwrap().registries;
        for host in ["docker.io", "reg.corp", "ghcr.io", "quay.io", "mirror.local", "reg:5000", "added.io"] {
            assert!(scope.allows(host), "{host}");
        }
        for host in ["gcr.io", "ghcr.io.evil.com", "prod.corp"] {
            assert!(!scope.allows(host), "{host}");
        }
        request.registries = Some(RegistryScope::hosts(["only.io"]));
        let scope = prepare(&request).unwrap().registries;
        assert!(scope.allows("only.io") && !scope.allows("docker.io"));
    }

    #[test]
    fn daemons_before_several_exporters_get_the_first() {
        let mut request = request(Frontend::new("dockerfile.v0"));
        request.exports = vec![Export::image("a").into(), Export::local("out").into()];
        let message = prepare(&request).unwrap().message;
        assert_eq!(message.exporter_deprecated, "image");
        assert_eq!(message.exporters.len(), 2);
    }

    #[test]
    fn cache_imports_reach_the_frontend_as_well() {
        let mut request = request(Frontend::new("dockerfile.v0"));
        request.cache_from = vec![RegistryCache::new("r/c").into(), S3Cache::new("b", "r").into()];
        let message = prepare(&request).unwrap().message;
        assert_eq!(
            message.frontend_attrs["cache-imports"],
            r#"[{"Attrs":{"ref":"r/c"},"Type":"registry"},{"Attrs":{"bucket":"b","region":"r"},"Type":"s3"}]"#
        );
        assert_eq!(message.cache.unwrap().imports.len(), 2);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(matches!(prepare(&request(Input::Empty)), Err(RequestError::Empty)));
        assert!(matches!(prepare(&request(Frontend::new(""))), Err(RequestError::Empty)));
        let mut layout = request(Frontend::new("dockerfile.v0"));
        let mut message =
            prepare(&request(Frontend::new("dockerfile.v0").opt("context", "oci-layout://x:y")))
                .unwrap()
                .message;
        let given = layout.give_layout_as_context(&mut message, &SessionContext::new("s".into()));
        assert!(matches!(given, Err(RequestError::Option { option: "context", .. })));
        layout.oci_layouts.insert("näme".into(), "dir".into());
        assert!(matches!(prepare(&layout), Err(RequestError::Option { option: "oci_layout", .. })));
        let mut twice = request(Frontend::new("dockerfile.v0"));
        twice.cache_to = vec![RegistryCache::new("r/c").into(), RegistryCache::new("r/c").into()];
        assert!(matches!(prepare(&twice), Err(RequestError::Duplicate { .. })));
    }

    #[test]
    fn daemons_before_014_get_no_entry_without_a_value() {
        let state = buildkit_llb::image("a").run(buildkit_llb::sh("true")).root();
        let frontend = Frontend::new("dockerfile.v0").input("context", &state);
        let message = prepare(&request(frontend)).unwrap().message;
        let input = &message.frontend_inputs["context"];
        assert!(input.source.as_ref().unwrap().locations.is_empty());
        let message = prepare(&request(&state)).unwrap().message;
        assert!(message.definition.unwrap().source.unwrap().locations.is_empty());
        let empty = Frontend::new("dockerfile.v0").input("context", buildkit_llb::scratch());
        assert!(matches!(prepare(&request(empty)), Err(RequestError::Option { option: "input", .. })));
    }

    #[test]
    fn f48_a_graph_past_the_limit_is_refused_before_it_is_sent() {
        let op = pb::Op {
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: "x".repeat(17 * 1024 * 1024),
                ..Default::default()
            })),
            ..Default::default()
        };
        let definition = pb::Definition { def: vec![op.encode_to_vec().into()], ..Default::default() };
        assert!(matches!(
            prepare(&request(definition)),
            Err(RequestError::TooLarge { what: "definition", .. })
        ));
    }

    #[test]
    fn the_files_of_every_image_get_the_time_of_a_reproducible_build() {
        for (kind, rewritten) in
            [("image", true), ("oci", true), ("docker", true), ("moby", true), ("tar", false)]
        {
            let exporter = control::Exporter { r#type: kind.into(), ..Default::default() };
            let mut message = control::SolveRequest { exporters: vec![exporter], ..Default::default() };
            make_reproducible(&mut message, 7);
            let attrs = &message.exporters[0].attrs;
            assert_eq!(attrs["source-date-epoch"], "7", "{kind}");
            assert_eq!(attrs.contains_key("rewrite-timestamp"), rewritten, "{kind}");
        }
    }

    #[test]
    fn no_cache_reaches_every_step() {
        let mut definition = graph(&["docker-image://a"]);
        definition.metadata.insert("sha256:a".into(), pb::OpMetadata::default());
        let mut request = request(definition);
        request.no_cache = true;
        let message = prepare(&request).unwrap().message;
        assert!(message.definition.unwrap().metadata["sha256:a"].ignore_cache);
        request.input = Frontend::new("dockerfile.v0").into();
        assert_eq!(prepare(&request).unwrap().message.frontend_attrs["no-cache"], "");
    }

    #[test]
    fn ids_are_25_characters_and_never_the_same() {
        let ids: BTreeSet<_> = (0..100).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 100);
        assert!(
            ids.iter()
                .all(|id| id.len() == 25 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        );
    }
}
