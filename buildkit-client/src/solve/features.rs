//! What a request needs of the daemon.
//!
//! A daemon ignores fields and attributes that it does not know: the build would succeed without
//! what was asked for. So it is asked before anything is sent, where that matters: for its version,
//! and where it is a build without one, as in the engines of Linux distributions, for what it can do.

use crate::client::{Client, Daemon};
use crate::error::{Error, Unsupported};
use buildkit_frontend::{BuildResult, Gateway};
use buildkit_proto::control::SolveRequest;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// A version of BuildKit: major, minor.
type Since = (u64, u64);

/// Something that not every daemon knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    what: String,
    since: Since,
    /// A capability that came with it.
    capability: &'static str,
}

/// What a daemon lets us know of itself.
enum Known {
    Version(Since),
    Capabilities(Arc<BTreeSet<String>>),
    Nothing,
}

/// Refuses a request that the daemon would not understand as a whole. Asks who it is only when the
/// request has something that not every daemon knows.
pub(super) async fn check(
    client: &Client,
    request: &SolveRequest,
    layout_is_asked_for: bool,
) -> Result<(), Error> {
    let mut needs = needs(request);
    // Otherwise it is that of `reproducible`: older daemons have one layout each.
    if layout_is_asked_for {
        needs.push(Need::new("compatibility versions", (0, 30), "source.git.bundle"));
    }
    if needs.is_empty() {
        return Ok(());
    }
    let daemon = client.daemon().await?;
    let known = match version(&daemon) {
        Some(version) => Known::Version(version),
        // The question is itself a build. It asks for nothing that needs a question.
        None => Box::pin(capabilities(client)).await.map_or(Known::Nothing, Known::Capabilities),
    };
    let Some(need) = missing(&needs, &known) else { return Ok(()) };
    let Need { what, since: (major, minor), capability } = need;
    Err(Unsupported {
        what: format!("{what} (BuildKit {major}.{minor}, capability {capability})"),
        daemon: Some(daemon.to_string()),
        sent: false,
    }
    .into())
}

/// The first feature that a daemon lacks.
fn missing<'a>(needs: &'a [Need], known: &Known) -> Option<&'a Need> {
    needs.iter().find(|need| match known {
        Known::Version(version) => *version < need.since,
        Known::Capabilities(names) => !names.contains(need.capability),
        Known::Nothing => false,
    })
}

/// The version of a daemon, where it can be told.
fn version(daemon: &Daemon) -> Option<Since> {
    let Some(text) = &daemon.version else { return Some((0, 10)) };
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+', '~']);
    let mut number = || parts.next()?.parse::<u64>().ok();
    let version = (number()?, number()?);
    (version != (0, 0)).then_some(version)
}

/// What a daemon says it can do, asked once. `None` where it does not say.
async fn capabilities(client: &Client) -> Option<Arc<BTreeSet<String>>> {
    if let Some(known) = client.known_capabilities() {
        return Some(known);
    }
    let told = Arc::new(Mutex::new(BTreeSet::new()));
    let tell = Arc::clone(&told);
    let ask = client.build(move |gateway: Gateway| {
        let names = gateway.caps().names().chain(gateway.llb_caps().iter().map(|(name, _)| name));
        tell.lock().unwrap_or_else(PoisonError::into_inner).extend(names.map(str::to_owned));
        async { Ok::<_, buildkit_frontend::Error>(BuildResult::new(None)) }
    });
    if let Err(error) = ask.internal().await {
        tracing::debug!(%error, "the daemon does not tell what it can do");
        return None;
    }
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    let told = Arc::new(told);
    client.know_capabilities(Arc::clone(&told));
    Some(told)
}

impl Need {
    fn new(what: impl Into<String>, since: Since, capability: &'static str) -> Self {
        Self { what: what.into(), since, capability }
    }
}

/// One of those that came with BuildKit 0.11, 0.13 and 0.31.
const IN_0_11: &str = "source.ocilayout";
const IN_0_12: &str = "gateway.exec.secretenv";
const IN_0_13: &str = "exporter.multiple";
const IN_0_31: &str = "passthroughop";

fn needs(request: &SolveRequest) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut add = |what: &str, since, capability| needs.push(Need::new(what, since, capability));
    if request.exporters.len() > 1 {
        add("several exporters in one build", (0, 13), "exporter.multiple");
    }
    if request.source_policy.is_some() {
        add("source policies", (0, 11), "source.policy");
    }
    if !request.source_policy_session.is_empty() {
        add("policy callbacks", (0, 26), "source.policy.session");
    }
    if request.enable_session_exporter {
        add("session exporters", (0, 21), "exporter.session");
    }
    if request.proxy_network {
        add("the proxy network", (0, 31), "exec.meta.network.proxy");
    }
    for exporter in &request.exporters {
        for (key, value) in &exporter.attrs {
            let (since, capability) = match key.as_str() {
                "tar" if value == "false" => ((0, 11), IN_0_11),
                "mode" if value.trim().eq_ignore_ascii_case("delete") => ((0, 31), IN_0_31),
                "platform-split" => ((0, 12), IN_0_12),
                "rewrite-timestamp" => ((0, 13), IN_0_13),
                "source-date-epoch" => ((0, 11), "exporter.sourcedateepoch"),
                "oci-artifact" | "attestation-inline" => ((0, 11), "exporter.image.attestations"),
                key if key.starts_with("annotation") => ((0, 11), "exporter.image.annotations"),
                _ => continue,
            };
            add(&format!("{key}={value} of the {} exporter", exporter.r#type), since, capability);
        }
    }
    for (key, value) in &request.frontend_attrs {
        let (since, capability) = match key.as_str() {
            key if key.starts_with("attest:") => ((0, 11), "exporter.image.attestations"),
            key if key.starts_with("context:") && value.starts_with("oci-layout:") => ((0, 11), IN_0_11),
            "memory" | "memswap" | "cpushares" | "cpuperiod" | "cpuquota" | "cpusetcpus" | "cpusetmems" => {
                ((0, 31), "exec.meta.linux.resources")
            }
            _ => continue,
        };
        add(&format!("the option {key}"), since, capability);
    }
    let caches = request.cache.as_ref();
    for cache in caches.into_iter().flat_map(|cache| &cache.exports) {
        for key in ["ignore-error", "image-manifest"] {
            if cache.attrs.contains_key(key) {
                add(&format!("{key} of the {} cache", cache.r#type), (0, 11), IN_0_11);
            }
        }
        let capability = match cache.r#type.as_str() {
            "s3" => "cache.s3",
            "azblob" => "cache.azblob",
            _ => continue,
        };
        add(&format!("the {} cache", cache.r#type), (0, 11), capability);
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildkit_proto::control::Exporter;

    fn of(version: Option<&str>) -> Option<Since> {
        super::version(&Daemon { version: version.map(Into::into), ..Daemon::default() })
    }

    #[test]
    fn versions_are_read_as_daemons_write_them() {
        assert_eq!(of(Some("v0.12.5")), Some((0, 12)));
        assert_eq!(of(Some("0.25.1+dfsg-1")), Some((0, 25)));
        assert_eq!(of(Some("v0.31.0-rc1")), Some((0, 31)));
        assert_eq!(of(Some("v0.0.0+unknown")), None);
        assert_eq!(of(Some("library-import")), None);
        assert_eq!(of(None), Some((0, 10)));
    }

    #[test]
    fn what_a_daemon_would_ignore_is_told_by_name() {
        let export = |kind: &str, key: &str, value: &str| Exporter {
            r#type: kind.into(),
            attrs: [(key.to_owned(), value.to_owned())].into(),
        };
        let mut request = SolveRequest {
            exporters: vec![export("oci", "tar", "false"), export("image", "name", "a")],
            ..SolveRequest::default()
        };
        let told = |request: &SolveRequest, known: Known| {
            missing(&needs(request), &known).map(|need| need.what.clone())
        };
        let version = |minor| Known::Version((0, minor));
        let capabilities = |names: &[&str]| {
            Known::Capabilities(Arc::new(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        assert_eq!(told(&request, version(12)).unwrap(), "several exporters in one build");
        assert_eq!(told(&request, version(13)), None);
        assert_eq!(told(&request, Known::Nothing), None, "not to know is no reason to refuse");
        assert_eq!(
            told(&request, capabilities(&["source.ocilayout"])).unwrap(),
            "several exporters in one build"
        );
        assert_eq!(told(&request, capabilities(&["source.ocilayout", "exporter.multiple"])), None);
        request.exporters.pop();
        assert_eq!(told(&request, version(10)).unwrap(), "tar=false of the oci exporter");
        request.exporters.clear();
        assert!(needs(&request).is_empty(), "a plain request costs no call");
        request.proxy_network = true;
        assert_eq!(told(&request, version(30)).unwrap(), "the proxy network");
    }
}
