//! The typed parts of a BuildKit error: `Any` values with a JSON payload in the status details.

use super::excerpt::{Location, Position, SourceRange};
use buildkit_frontend::{Detail, SolveFailure, SourceDetail};
use buildkit_proto::pb;
use buildkit_proto::rpc::Status as RpcStatus;
use buildkit_proto::well_known::Any;
use prost::Message as _;
use serde::Deserialize;

/// Details past this count are not looked at.
const MAX_DETAILS: usize = 256;

/// Everything typed that came with an error.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Details {
    /// Digest of the vertex that failed.
    pub vertex: Option<String>,
    /// Exit code of the process that failed.
    pub exit_code: Option<u32>,
    /// Places in source files, outermost first.
    pub locations: Vec<Location>,
    /// The state that the step was in; only where a function drives the build.
    pub failure: Option<Box<SolveFailure>>,
    /// Name of the frontend that failed.
    pub frontend: Option<String>,
    /// A frontend capability that is missing.
    pub frontend_cap: Option<String>,
    /// A subrequest that the frontend does not know.
    pub subrequest: Option<String>,
    /// A feature that the wanted compatibility version lacks, with that version.
    pub compatibility: Option<(String, i64)>,
    /// Texts of a source policy that denied a source.
    pub policy_denials: Vec<String>,
    /// Sources for which the provenance could not be completed.
    pub incomplete_materials: Vec<String>,
    /// Stack traces of the daemon, innermost first.
    pub stacks: Vec<Vec<StackFrame>>,
    /// What this version does not understand.
    pub unknown: Vec<UnknownDetail>,
}

/// One frame of a daemon's stack trace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StackFrame {
    /// Function.
    #[serde(default)]
    pub name: String,
    /// Source file.
    #[serde(default)]
    pub file: String,
    /// Line.
    #[serde(default)]
    pub line: i64,
}

/// A detail that this version does not understand, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDetail {
    /// Its type.
    pub type_url: String,
    /// Its payload.
    pub value: Vec<u8>,
}

impl Details {
    /// Reads the bytes of a `google.rpc.Status`. Whatever cannot be read is left out: an error
    /// about an error helps nobody.
    pub fn decode(status: &[u8]) -> Self {
        RpcStatus::decode(status).map(|status| Self::of(status.details)).unwrap_or_default()
    }

    /// Reads type URL and payload of each detail.
    pub fn from_any<'a>(details: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let any = |(type_url, value): (&str, &[u8])| Any { type_url: type_url.into(), value: value.into() };
        Self::of(details.into_iter().map(any))
    }

    fn of(details: impl IntoIterator<Item = Any>) -> Self {
        let mut out = Self::default();
        for detail in details.into_iter().take(MAX_DETAILS).map(Detail::decode) {
            match detail {
                Detail::Source(source) => out.locations.push((*source).into()),
                Detail::Vertex(digest) => out.vertex = Some(digest),
                Detail::Solve(failure) => out.failure = Some(failure),
                Detail::Exit(code) => out.exit_code = Some(code),
                Detail::FrontendCap(name) => out.frontend_cap = Some(name),
                Detail::Subrequest(name) => out.subrequest = Some(name),
                Detail::Frontend { name, .. } => out.frontend = Some(name),
                Detail::CompatibilityFeature { version, feature } => {
                    out.compatibility = Some((feature, version));
                }
                Detail::PolicyDenied(texts) => out.policy_denials.extend(texts),
                Detail::Other(any) => out.other(any),
                _ => {}
            }
        }
        out
    }

    /// What concerns a client only.
    fn other(&mut self, any: Any) {
        if any.type_url.ends_with("/stack.Stack+json")
            && let Ok(stack) = serde_json::from_slice::<Stack>(&any.value)
        {
            self.stacks.push(stack.frames.unwrap_or_default());
        } else if any.type_url.ends_with("/errdefs.ProvenanceMaterialsIncomplete+json")
            && let Ok(materials) = serde_json::from_slice::<Materials>(&any.value)
        {
            let names = materials.incomplete.into_iter();
            self.incomplete_materials.extend(names.filter_map(|material| material.uri.or(material.name)));
        } else {
            self.unknown.push(UnknownDetail { type_url: any.type_url, value: any.value });
        }
    }
}

#[derive(Deserialize)]
struct Stack {
    frames: Option<Vec<StackFrame>>,
}

#[derive(Deserialize)]
struct Materials {
    incomplete: Vec<Material>,
}

#[derive(Deserialize)]
struct Material {
    uri: Option<String>,
    name: Option<String>,
}

impl From<SourceDetail> for Location {
    fn from(source: SourceDetail) -> Self {
        let info = source.info.unwrap_or_default();
        let place = |place: Option<pb::Position>| {
            let pb::Position { line, character } = place.unwrap_or_default();
            let number = |number: i32| u32::try_from(number).unwrap_or(0);
            Position { line: number(line), character: number(character) }
        };
        let range = |range: pb::Range| SourceRange { start: place(range.start), end: place(range.end) };
        Self {
            filename: info.filename,
            language: info.language,
            data: info.data.into(),
            ranges: source.ranges.into_iter().map(range).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(details: &[(&str, &str)]) -> Details {
        Details::from_any(details.iter().map(|(url, value)| (*url, value.as_bytes())))
    }

    #[test]
    fn a_failed_process_is_read_whole() {
        let details = read(&[
            (
                "github.com/moby/buildkit/stack.Stack+json",
                r#"{"frames":[{"Name":"main.main","File":"main.go","Line":7}],"cmdline":["x"],"pid":1}"#,
            ),
            (
                "github.com/moby/buildkit/errdefs.Source+json",
                r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBhCg==","language":"Dockerfile"},
                   "ranges":[{"start":{"line":1},"end":{"line":1,"character":4}}]}"#,
            ),
            ("github.com/moby/buildkit/errdefs.Vertex+json", r#"{"digest":"sha256:ab"}"#),
            ("github.com/moby/buildkit/gatewayapi.ExitMessage+json", r#"{"Code":3}"#),
            ("type.googleapis.com/other", "?"),
        ]);
        assert_eq!(details.vertex.as_deref(), Some("sha256:ab"));
        assert_eq!(details.exit_code, Some(3));
        assert_eq!(details.locations[0].file_line(), "Dockerfile:1");
        assert_eq!(details.locations[0].data, b"FROM a\n");
        assert_eq!(details.stacks[0][0].line, 7);
        assert_eq!(details.unknown.len(), 1);
    }

    #[test]
    fn the_mounts_of_a_failed_step_are_read_from_protojson() {
        let details = read(&[(
            "github.com/moby/buildkit/errdefs.Solve+json",
            r#"{"inputIDs":["a",""],"mountIDs":["m"],"op":{"exec":{"meta":{"args":["sh"]}}},"file":{"index":"2"}}"#,
        )]);
        let failure = details.failure.unwrap();
        assert_eq!(
            (failure.inputs, failure.mounts),
            (vec!["a".to_owned(), String::new()], vec!["m".to_owned()])
        );
        assert_eq!(failure.index, Some(2));
    }

    #[test]
    fn payloads_that_are_not_what_they_say_are_kept_as_unknown() {
        for payload in
            ["", "null", "[]", "{}", "{\"digest\":7}", "\u{0}", "{\"Code\":-1}", "{\"Code\":5000000000}"]
        {
            for name in ["errdefs.Vertex+json", "errdefs.Source+json", "errdefs.Subrequest+json"] {
                let details = read(&[(&format!("github.com/moby/buildkit/{name}"), payload)]);
                assert_eq!(details.unknown.len(), 1, "{name} {payload}");
            }
            let details = read(&[("github.com/moby/buildkit/gatewayapi.ExitMessage+json", payload)]);
            assert!(details.exit_code.is_none_or(|code| code == 0), "{payload}");
        }
    }

    #[test]
    fn bytes_that_are_no_status_give_no_details() {
        let details = Details::decode(&[0xff; 40]);
        assert!(details.vertex.is_none() && details.unknown.is_empty());
    }
}
