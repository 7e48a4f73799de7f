//! What must hold of everything that daemons, registries and configuration files say to the client.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use buildkit_client::connect::Address;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::Details;
use buildkit_client::policy::Policy;
use buildkit_client::progress::Progress;
use buildkit_client::redact;
use buildkit_client::session::auth::{Auth, CredentialProvider as _, CredentialRequest, Scope};
use buildkit_proto::control::StatusResponse;
use prost::Message as _;

/// Kinds of error details.
const KINDS: [&str; 10] = [
    "stack.Stack+json",
    "errdefs.Source+json",
    "errdefs.Vertex+json",
    "errdefs.Solve+json",
    "gatewayapi.ExitMessage+json",
    "errdefs.FrontendCap+json",
    "errdefs.Subrequest+json",
    "errdefs.CompatibilityFeature+json",
    "errdefs.ProvenanceMaterialsIncomplete+json",
    "policysession.DecisionResponse+json",
];

/// Token servers with another name than their registry.
const PAIRS: [&str; 5] =
    ["auth.docker.io", "gitlab.com", "docker-auth.elastic.co", "api.digitalocean.com", "sso.redhat.com"];

/// What may be said to a terminal: no control characters but line ends and tabs, no reordering of text.
///
/// A tab only moves on in its line, and logs are laid out with it. Of all control characters, a line end and a tab
/// are the ones that cannot move back, hide or rename what was shown.
fn harmless(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\t') || ('\u{202a}'..='\u{202e}').contains(&c))
}

/// The same where there is but one line, in which a tab is a space.
fn harmless_line(text: &str) -> bool {
    harmless(text) && !text.contains(['\n', '\t'])
}

/// Progress of any shape is folded without a panic, within bounds, and what is shown of it is safe to show.
///
/// Messages stand one after another, each behind its length in two bytes.
pub(crate) fn status_fold(mut data: &[u8]) {
    let reporter = Progress::none().start();
    let mut digests = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        if let Ok(message) = StatusResponse::decode(message) {
            digests.extend(message.vertexes.iter().map(|vertex| vertex.digest.clone()));
            reporter.status(message);
        }
    }
    for digest in &digests {
        let name = reporter.vertex_name(digest);
        assert!(name.is_none_or(|name| harmless_line(&name) && name.len() <= 64 << 10));
        let lines = reporter.last_logs(digest);
        assert!(lines.len() <= 64 && lines.iter().all(|line| harmless(line)), "{lines:?}");
    }
    assert!(reporter.running().len() <= digests.len());
    assert!(reporter.running().iter().all(|name| harmless_line(name)));
    let _ = reporter.warnings();
}

/// Details of an error are read as far as they can be, and their excerpts are bounded.
pub(crate) fn grpc_status_details(data: &[u8]) {
    let details = Details::decode(data);
    for location in &details.locations {
        assert!(!location.file_line().is_empty());
        let _ = location.excerpt().map(|excerpt| assert!(excerpt.len() <= 8 * data.len() + (64 << 10)));
    }
    // The same, with a payload for each kind of detail.
    for kind in KINDS {
        let details = Details::from_any([(format!("github.com/moby/buildkit/{kind}").as_str(), data)]);
        for location in &details.locations {
            let _ = (location.file_line(), location.line(), location.excerpt());
        }
        assert!(details.unknown.len() <= 1);
    }
}

/// An address that can be read is named by one that can be read and has the same name; an error repeats no password.
pub(crate) fn buildkit_addr(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Address>() {
        Ok(address) => {
            let shown = address.to_string();
            let again = shown.parse::<Address>().map(|again| again.to_string());
            assert_eq!(again.ok().as_ref(), Some(&shown), "{text:?}");
            let _ = buildkit_client::connect::connector(&address, None);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let secret = format!("tcp://user:hunter2{text}@host:1234");
    if let Err(error) = secret.parse::<Address>() {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

/// A password in a URL is gone, whatever stands around it; redacting takes linear time.
pub(crate) fn redact_url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let started = Instant::now();
    let once = redact::text(&text).into_owned();
    // What could not be understood may be masked further, and that is an end to it.
    let twice = redact::text(&once).into_owned();
    let places = once.matches("://").count() + once.matches('=').count();
    assert!(twice.len() <= once.len() + 3 * places, "{text:?}");
    let _ = redact::url(&text);
    assert!(
        started.elapsed() < Duration::from_secs(2) + Duration::from_micros(data.len() as u64),
        "{}",
        data.len()
    );
    // The first line is the user, the second goes into the password.
    let mut lines = text.splitn(3, '\n');
    let user: String = lines
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !"@/?#\\".contains(*c) && !c.is_whitespace())
        .collect();
    let junk = lines.next().unwrap_or_default();
    let url = format!("https://{user}:hunter2{junk}hunter2@host/path");
    assert!(!redact::url(&url).contains("hunter2"), "{url:?} became {:?}", redact::url(&url));
    let inner = format!("https://proxy/{url}");
    assert!(!redact::url(&inner).contains("hunter2"), "{inner:?} became {:?}", redact::url(&inner));
}

/// A configuration is read or refused; what is read from it is not printed, and nothing is run.
pub(crate) fn docker_config_json(data: &[u8]) {
    let config = match DockerConfig::from_json(data) {
        Ok(config) => config.helper_path("/nonexistent"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        for host in ["docker.io", "reg.local", "reg.local:5000", "a"] {
            let mut request = CredentialRequest::new(host);
            request.scopes.push(Scope::parse(&String::from_utf8_lossy(data)));
            if let Ok(Some(found)) = config.credentials(&request).await
                && let Some(secret) = found.secret().and_then(|secret| secret.reveal_str())
                && secret.len() > 8
                // A host or a user of the same name may be printed.
                && data.windows(secret.len()).filter(|part| *part == secret.as_bytes()).count() <= 1
            {
                assert!(!format!("{found:?} {config:?}").contains(secret), "a secret is printed");
            }
        }
    });
}

/// Credentials go to a token server only over TLS or to this machine, and only to the host of the registry.
///
/// The first line is the registry, the rest is what it names as its token server.
pub(crate) fn www_authenticate(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (registry, realm) = text.split_once('\n').unwrap_or(("reg.local", &text));
    let auth = Auth::new(BTreeMap::new());
    let Ok(()) = auth.check_realm(registry, realm) else { return };
    let url = url::Url::parse(realm).expect("what was allowed is a URL");
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let local = url.scheme() == "http"
        && (host == "localhost"
            || host.ends_with(".localhost")
            || host.starts_with("127.")
            || host == "[::1]");
    assert!(url.scheme() == "https" || local, "{realm:?} for {registry:?}");
    assert!(url.username().is_empty() && url.password().is_none(), "{realm:?}");
    let registry = registry.to_ascii_lowercase();
    let name = match registry.split_once(']') {
        Some((ip, _)) => format!("{ip}]"),
        None => registry.split(':').next().unwrap_or_default().to_owned(),
    };
    assert!(
        name == host || PAIRS.contains(&host.as_str()) || host.starts_with("dockerauth."),
        "{realm:?} for {registry:?}"
    );
}

/// A policy is read or refused, and says the same when it is printed.
pub(crate) fn source_policy(data: &[u8]) {
    match Policy::from_json(data) {
        Ok(policy) => assert!(!format!("{policy:?}").is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
