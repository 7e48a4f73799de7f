//! What a request needs of the daemon.
//!
//! A daemon ignores fields and attributes that it does not know: the build would succeed without
//! what was asked for. So the version is looked at before anything is sent, where it matters.

use crate::client::{Client, Daemon};
use crate::error::{Error, Unsupported};
use buildkit_proto::control::SolveRequest;

/// A version of BuildKit: major, minor.
type Since = (u64, u64);

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
        needs.push(("compatibility versions".into(), (0, 30)));
    }
    if needs.is_empty() {
        return Ok(());
    }
    let daemon = client.daemon().await?;
    match missing(&needs, version(&daemon)) {
        None => Ok(()),
        Some((what, (major, minor))) => Err(Unsupported {
            what: format!("{what}, which BuildKit {major}.{minor} brought"),
            daemon: Some(daemon.to_string()),
            sent: false,
        }
        .into()),
    }
}

/// The first feature that a version lacks.
fn missing(needs: &[(String, Since)], version: Option<Since>) -> Option<(&str, Since)> {
    let version = version?;
    needs.iter().find(|(_, since)| version < *since).map(|(what, since)| (what.as_str(), *since))
}

/// The version of a daemon, where it can be told. Builds of a branch have no number, and those in
/// Linux distributions' engines neither; then the engine tells.
fn version(daemon: &Daemon) -> Option<Since> {
    let Some(text) = &daemon.version else { return Some((0, 10)) };
    let version = numbers(text.trim_start_matches('v'));
    version.filter(|version| *version != (0, 0)).or_else(|| of_engine(daemon.engine.as_deref()?))
}

/// The newest BuildKit that releases of an engine came with.
fn of_engine(engine: &str) -> Option<Since> {
    match numbers(engine.strip_prefix("Docker Engine ")?)?.0 {
        ..=22 => Some((0, 8)),
        23 => Some((0, 10)),
        24 => Some((0, 11)),
        25 => Some((0, 12)),
        26 => Some((0, 13)),
        27 => Some((0, 18)),
        28 => Some((0, 25)),
        _ => None,
    }
}

/// The first two numbers of a version.
fn numbers(text: &str) -> Option<Since> {
    let mut parts = text.split(['.', '-', '+', '~']);
    let mut number = || parts.next()?.parse::<u64>().ok();
    Some((number()?, number()?))
}

fn needs(request: &SolveRequest) -> Vec<(String, Since)> {
    let mut needs: Vec<(String, Since)> = Vec::new();
    let mut add = |what: &str, since| needs.push((what.to_owned(), since));
    if request.exporters.len() > 1 {
        add("several exporters in one build", (0, 13));
    }
    if request.source_policy.is_some() {
        add("source policies", (0, 11));
    }
    if !request.source_policy_session.is_empty() {
        add("policy callbacks", (0, 26));
    }
    if request.enable_session_exporter {
        add("session exporters", (0, 21));
    }
    if request.proxy_network {
        add("the proxy network", (0, 31));
    }
    for exporter in &request.exporters {
        for (key, value) in &exporter.attrs {
            let since = match key.as_str() {
                "tar" if value == "false" => (0, 11),
                "mode" if value.trim().eq_ignore_ascii_case("delete") => (0, 31),
                "platform-split" => (0, 12),
                "rewrite-timestamp" => (0, 13),
                "source-date-epoch" | "store" | "oci-artifact" | "attestation-inline" => (0, 11),
                key if key.starts_with("annotation") => (0, 11),
                _ => continue,
            };
            add(&format!("{key}={value} of the {} exporter", exporter.r#type), since);
        }
    }
    for key in request.frontend_attrs.keys() {
        let since = match key.as_str() {
            key if key.starts_with("attest:") => (0, 11),
            "memory" | "memswap" | "cpushares" | "cpuperiod" | "cpuquota" | "cpusetcpus" | "cpusetmems" => {
                (0, 31)
            }
            _ => continue,
        };
        add(&format!("the option {key}"), since);
    }
    let caches = request.cache.as_ref();
    for cache in caches.into_iter().flat_map(|cache| &cache.exports) {
        for key in ["ignore-error", "compression", "image-manifest"] {
            if cache.attrs.contains_key(key) {
                let since = if key == "compression" { (0, 10) } else { (0, 11) };
                add(&format!("{key} of the {} cache", cache.r#type), since);
            }
        }
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
        let engine = |engine: &str| {
            let engine = Some(engine.to_owned());
            super::version(&Daemon { version: Some("v0.0.0+unknown".into()), engine, ..Daemon::default() })
        };
        assert_eq!(engine("Docker Engine 26.1.5+dfsg1, API 1.45"), Some((0, 13)));
        assert_eq!(engine("Docker Engine 99.0, API 1.99"), None);
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
        let told = |request: &SolveRequest, version| {
            missing(&needs(request), version).map(|(what, _)| what.to_owned())
        };
        assert_eq!(told(&request, Some((0, 12))).unwrap(), "several exporters in one build");
        assert_eq!(told(&request, Some((0, 13))), None);
        assert_eq!(told(&request, None), None, "a version that cannot be told is no reason to refuse");
        request.exporters.pop();
        assert_eq!(told(&request, Some((0, 10))).unwrap(), "tar=false of the oci exporter");
        request.exporters.clear();
        assert!(needs(&request).is_empty(), "a plain request costs no call");
        request.proxy_network = true;
        assert_eq!(told(&request, Some((0, 30))).unwrap(), "the proxy network");
    }
}
