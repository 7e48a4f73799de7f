//! Errors of calls that reached the daemon, or may have.

use super::{Details, Location};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// Longest error text of a daemon that is kept.
const MAX_MESSAGE: usize = 64 * 1024;

/// The daemon answered a build with an error.
#[derive(Debug)]
pub struct SolveError {
    code: Code,
    message: String,
    details: Details,
    reference: String,
    elapsed: Duration,
    vertex_name: Option<String>,
    last_logs: Vec<String>,
    others: Vec<String>,
}

impl SolveError {
    pub(crate) fn new(reference: &str, elapsed: Duration, status: &tonic::Status) -> Self {
        Self {
            code: status.code(),
            message: shown(status.message()),
            details: Details::decode(status.details()),
            reference: reference.to_owned(),
            elapsed,
            vertex_name: None,
            last_logs: Vec::new(),
            others: Vec::new(),
        }
    }

    pub(crate) fn with_vertex(mut self, name: Option<String>, last_logs: Vec<String>) -> Self {
        self.vertex_name = name;
        self.last_logs = last_logs;
        self
    }

    pub(crate) fn with_others(mut self, others: Vec<String>) -> Self {
        self.others.extend(others);
        self
    }

    /// gRPC code; most build failures carry `Unknown`.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The daemon's text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Everything typed that came with it.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// Ref of the build, to be found in the history.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// From the start of the build to the error.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Digest of the step that failed.
    pub fn vertex(&self) -> Option<&str> {
        self.details.vertex.as_deref()
    }

    /// Name of the step that failed, as progress showed it.
    pub fn vertex_name(&self) -> Option<&str> {
        self.vertex_name.as_deref()
    }

    /// Exit code of the process that failed. Daemons before BuildKit 0.10 tell it in their text only.
    pub fn exit_code(&self) -> Option<u32> {
        self.details.exit_code.or_else(|| {
            let (process, code) = self.message.rsplit_once(": exit code: ")?;
            let known = ["executor failed running", "did not complete successfully"];
            known.iter().any(|text| process.contains(text)).then(|| code.trim().parse().ok())?
        })
    }

    /// The place in the source file that failed, innermost.
    pub fn location(&self) -> Option<&Location> {
        self.details.locations.last()
    }

    /// Last lines that the failed step wrote, oldest first; at most 64.
    pub fn last_logs(&self) -> &[String] {
        &self.last_logs
    }

    /// Other failures that the build reported, for example of a second exporter.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// What kind of failure this is, as far as BuildKit lets us know.
    pub fn kind(&self) -> SolveErrorKind {
        let says = |words: &[&str]| words.iter().any(|word| self.message.contains(word));
        if self.code == Code::Cancelled || self.message.ends_with("context canceled") {
            SolveErrorKind::Canceled
        } else if self.exit_code().is_some() {
            SolveErrorKind::Process
        } else if !self.details.policy_denials.is_empty()
            || says(&["denied by policy", "not allowed by policy"])
        {
            SolveErrorKind::Policy
        } else if says(&["no active session", "session healthcheck failed"]) {
            SolveErrorKind::Session
        } else if says(&[
            "401 Unauthorized",
            "403 Forbidden",
            "failed to authorize",
            "insufficient_scope",
            // What follows these words is masked like any value of an `authorization`.
            "may require authorization",
            "no basic auth credentials",
            "failed to fetch oauth token",
            "failed to fetch anonymous token",
        ]) {
            SolveErrorKind::Auth
        } else if says(&["failed to push", "error writing manifest blob", "error writing layer blob"]) {
            SolveErrorKind::Push
        } else if says(&[
            "failed to resolve source metadata",
            "failed to do request",
            "failed to copy:",
            "unexpected status from",
        ]) || (says(&["failed to load cache key"]) && self.message.ends_with(": not found"))
        {
            SolveErrorKind::Registry
        } else if self.details.subrequest.is_some()
            || self.details.frontend_cap.is_some()
            || self.details.compatibility.is_some()
            || self.code == Code::Unimplemented
            || says(&["unknown API capability"])
        {
            SolveErrorKind::Unsupported
        } else if says(&["failed to load LLB", "unknown entitlement", "granting entitlement"]) {
            SolveErrorKind::Refused
        } else {
            SolveErrorKind::Other
        }
    }

    /// Whether the same build may succeed when repeated: a registry that was busy, a link that
    /// dropped, a session that was lost. Everything done so far is in the daemon's cache.
    pub fn is_transient(&self) -> bool {
        const TRANSIENT: &[&str] = &[
            "connection reset by peer",
            "connection refused",
            "broken pipe",
            "i/o timeout",
            "TLS handshake timeout",
            "unexpected EOF",
            "server closed idle connection",
            "use of closed network connection",
            "no such host",
            "408 Request Timeout",
            "429 Too Many Requests",
            "500 Internal Server Error",
            "502 Bad Gateway",
            "503 Service Unavailable",
            "504 Gateway Timeout",
            "no active session",
            "session healthcheck failed",
        ];
        if self.exit_code().is_some() {
            return false;
        }
        matches!(self.code, Code::Unavailable) || TRANSIENT.iter().any(|text| self.message.contains(text))
    }
}

/// Kinds of build failures.
///
/// BuildKit types few of its errors; the rest is told by its texts, so treat the kind as advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SolveErrorKind {
    /// A process of the build ended with a code other than 0.
    Process,
    /// A registry refused the credentials, or wanted some.
    Auth,
    /// The image could not be pushed.
    Push,
    /// A registry or another source did not deliver.
    Registry,
    /// A source policy denied a source.
    Policy,
    /// The daemon lost this client's session.
    Session,
    /// The daemon or the frontend lacks something.
    Unsupported,
    /// The daemon refuses the build: an entitlement, a malformed graph.
    Refused,
    /// The build was cancelled.
    Canceled,
    /// Anything else.
    Other,
}

impl fmt::Display for SolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to solve: ")?;
        if let Some(location) = self.location()
            && !self.message.contains(&location.filename)
        {
            write!(f, "{}: ", location.file_line())?;
        }
        if let Some(frontend_cap) = &self.details.frontend_cap
            && !self.message.contains(frontend_cap.as_str())
        {
            write!(f, "unsupported frontend capability {frontend_cap}: ")?;
        }
        f.write_str(if self.message.is_empty() { self.code.description() } else { &self.message })?;
        for other in &self.others {
            write!(f, "; also: {other}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SolveError {}

/// The link to the daemon died under a call.
#[derive(Debug)]
pub struct LinkLost {
    pub(crate) endpoint: String,
    pub(crate) call: &'static str,
    pub(crate) reference: Option<String>,
    pub(crate) reason: String,
    pub(crate) elapsed: Duration,
    pub(crate) silent: Duration,
    pub(crate) running: Vec<String>,
    pub(crate) source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl LinkLost {
    /// The daemon's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Ref of the build that was under way.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// What was seen, for example `no byte for 60 s`.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// From the start of the call.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How long nothing had come from the daemon when the link was given up.
    pub fn silent(&self) -> Duration {
        self.silent
    }

    /// Names of the steps that were running.
    pub fn running(&self) -> &[String] {
        &self.running
    }
}

impl fmt::Display for LinkLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost the link to {} during {}", self.endpoint, self.call)?;
        if let Some(reference) = &self.reference {
            write!(f, " of build {reference}")?;
        }
        write!(f, " after {:.1} s: {}", self.elapsed.as_secs_f32(), self.reason)?;
        if let Some(first) = self.running.first() {
            write!(f, "; running: {first}")?;
            if self.running.len() > 1 {
                write!(f, " and {} more", self.running.len() - 1)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for LinkLost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// A call other than a build failed.
#[derive(Debug)]
pub struct RpcError {
    call: &'static str,
    code: Code,
    message: String,
    details: Details,
}

impl RpcError {
    pub(crate) fn new(call: &'static str, status: &tonic::Status) -> Self {
        Self {
            call,
            code: status.code(),
            message: shown(status.message()),
            details: Details::decode(status.details()),
        }
    }

    /// The call, for example `Control.Prune`.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The daemon's text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Everything typed that came with it.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// Whether a repetition may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { self.code.description() } else { &self.message };
        write!(f, "{} failed: {message}", self.call)
    }
}

impl std::error::Error for RpcError {}

/// A peer's text as errors show it: bounded, without what a terminal would obey, and without the credentials that may be
/// in it.
pub(crate) fn shown(text: &str) -> String {
    crate::redact::text(&crate::progress::clean_lines(&bounded(text))).into_owned()
}

/// A text of bounded length: a peer may send megabytes.
fn bounded(text: &str) -> String {
    if text.len() <= MAX_MESSAGE {
        return text.to_owned();
    }
    let mut end = MAX_MESSAGE;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}… ({} bytes more)", &text[..end], text.len() - end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Position, SourceRange};

    fn failed(code: Code, message: &str) -> SolveError {
        SolveError::new("ref", Duration::ZERO, &tonic::Status::new(code, message))
    }

    #[test]
    fn kinds_follow_code_and_text() {
        let cases = [
            (
                Code::Unknown,
                "failed to push reg/x: unexpected status: 401 Unauthorized",
                SolveErrorKind::Auth,
                false,
            ),
            (
                Code::Unknown,
                "failed to push reg/x: push access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                SolveErrorKind::Auth,
                false,
            ),
            (Code::Unknown, "failed to push reg/x: 503 Service Unavailable", SolveErrorKind::Push, true),
            (Code::Unknown, "source \"x\" denied by policy", SolveErrorKind::Policy, false),
            (Code::Cancelled, "context canceled", SolveErrorKind::Canceled, false),
            (
                Code::Unknown,
                "no active session for x: context deadline exceeded",
                SolveErrorKind::Session,
                true,
            ),
            (
                Code::Unknown,
                "failed to load LLB: security.insecure is not allowed",
                SolveErrorKind::Refused,
                false,
            ),
            (Code::Unknown, "whatever", SolveErrorKind::Other, false),
        ];
        for (code, message, kind, transient) in cases {
            let error = failed(code, message);
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.is_transient(), transient, "{message}");
        }
    }

    #[test]
    fn an_old_daemon_tells_the_exit_code_in_words() {
        let old =
            "rpc error: code = Unknown desc = executor failed running [/bin/sh -c exit 9]: exit code: 9";
        let error = failed(Code::Unknown, old);
        assert_eq!((error.exit_code(), error.kind()), (Some(9), SolveErrorKind::Process));
        for other in ["my words: exit code: 9", "executor failed running [x]: exit code: many", ""] {
            assert_eq!(failed(Code::Unknown, other).exit_code(), None, "{other}");
        }
    }

    #[test]
    fn what_main_shows_is_for_people() {
        let place = |line| Position { line, character: 0 };
        let mut error = failed(Code::Unknown, "process \"make\" did not complete successfully: exit code: 2")
            .with_vertex(Some("RUN make".into()), (1..=12).map(|n| format!("said {n}\u{1b}[31m")).collect());
        error.details.locations.push(Location {
            filename: "Dockerfile".into(),
            data: b"FROM a\nRUN make\n".to_vec(),
            ranges: vec![SourceRange { start: place(2), end: place(2) }],
            ..Location::default()
        });
        let error = Error::Solve(Box::new(error));
        let shown = format!("{error:?}");
        assert!(shown.starts_with("failed to solve: Dockerfile:2: process \"make\""), "{shown}");
        assert!(
            shown.contains(">>> RUN make") && shown.contains("\nsaid 3") && shown.contains("\nsaid 12"),
            "{shown}"
        );
        assert!(!shown.contains("said 2\n") && !shown.contains('\u{1b}'), "{shown}");
        // The fields are there for whoever looks for them, without the file.
        let fields = format!("{error:#?}");
        assert!(fields.starts_with("Solve(") && fields.contains("data: 16 bytes"), "{fields}");
    }

    #[test]
    fn a_huge_text_is_cut_at_a_character() {
        let error = failed(Code::Unknown, &"é".repeat(4 * 1024 * 1024));
        assert!(error.message().len() < MAX_MESSAGE + 64);
        assert!(error.message().ends_with("bytes more)"));
    }
}
