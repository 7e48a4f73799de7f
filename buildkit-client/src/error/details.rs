//! The typed parts of a BuildKit error: `Any` values with a JSON payload in the status details.

use super::excerpt::{Location, Position, SourceRange};
use base64::Engine as _;
use buildkit_proto::rpc::Status as RpcStatus;
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;

const PREFIX: &str = "github.com/moby/buildkit/";

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
    /// The op that failed and the ids of its inputs and mounts; only on calls of the gateway.
    pub op: Option<ProcessOp>,
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

/// What a failed solve of the gateway says about the step: use it to look into its mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessOp {
    /// Result ids of the inputs of the op; empty for scratch.
    pub input_ids: Vec<String>,
    /// Result ids of the mounts as the failed process left them.
    pub mount_ids: Vec<String>,
    /// The op, in the JSON form of its message.
    pub op: Option<String>,
}

/// One frame of a daemon's stack trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackFrame {
    /// Function.
    pub name: String,
    /// Source file.
    pub file: String,
    /// Line.
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
        match RpcStatus::decode(status) {
            Ok(status) => {
                Self::from_any(status.details.iter().map(|any| (any.type_url.as_str(), any.value.as_slice())))
            }
            Err(_) => Self::default(),
        }
    }

    /// Reads type URL and payload of each detail.
    pub fn from_any<'a>(details: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut out = Self::default();
        for (type_url, value) in details.into_iter().take(MAX_DETAILS) {
            let name = type_url.strip_prefix(PREFIX).unwrap_or(type_url);
            if out.take(name, value).is_none() {
                out.unknown.push(UnknownDetail { type_url: type_url.into(), value: value.into() });
            }
        }
        out
    }

    fn take(&mut self, name: &str, value: &[u8]) -> Option<()> {
        match name {
            "stack.Stack+json" => {
                let stack: Stack = serde_json::from_slice(value).ok()?;
                self.stacks.push(
                    stack
                        .frames
                        .unwrap_or_default()
                        .into_iter()
                        .map(|f| StackFrame { name: f.name, file: f.file, line: f.line })
                        .collect(),
                );
            }
            "errdefs.Source+json" => self.locations.push(location(value)?),
            "errdefs.Vertex+json" => {
                self.vertex = Some(text(value, &["digest", "Digest"])?);
            }
            "errdefs.Solve+json" => self.op = Some(process_op(value)?),
            "gatewayapi.ExitMessage+json" => {
                let value: Value = serde_json::from_slice(value).ok()?;
                let code = field(&value, &["Code", "code"]).map_or(Some(0), Value::as_u64)?;
                self.exit_code = Some(u32::try_from(code).ok()?);
            }
            "errdefs.FrontendCap+json" => self.frontend_cap = Some(text(value, &["name", "Name"])?),
            "errdefs.Subrequest+json" => self.subrequest = Some(text(value, &["name", "Name"])?),
            "errdefs.Frontend+json" => self.frontend = Some(text(value, &["name", "Name"])?),
            "errdefs.CompatibilityFeature+json" => {
                let parsed: Value = serde_json::from_slice(value).ok()?;
                let version = field(&parsed, &["version", "Version"]).and_then(number).unwrap_or(0);
                self.compatibility = Some((text(value, &["feature", "Feature"])?, version));
            }
            "errdefs.ProvenanceMaterialsIncomplete+json" => {
                let parsed: Value = serde_json::from_slice(value).ok()?;
                let list = field(&parsed, &["incomplete"])?.as_array()?;
                self.incomplete_materials.extend(list.iter().filter_map(|item| {
                    field(item, &["uri", "name"]).and_then(Value::as_str).map(Into::into)
                }));
            }
            "policysession.DecisionResponse+json" => {
                let parsed: Value = serde_json::from_slice(value).ok()?;
                let list = field(&parsed, &["denyMessages", "deny_messages"]);
                self.policy_denials.extend(
                    list.and_then(Value::as_array)
                        .into_iter()
                        .flatten()
                        .filter_map(|item| field(item, &["message"]).and_then(Value::as_str).map(Into::into)),
                );
            }
            _ => return None,
        }
        Some(())
    }
}

#[derive(Deserialize)]
struct Stack {
    frames: Option<Vec<Frame>>,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default, alias = "name", rename = "Name")]
    name: String,
    #[serde(default, alias = "file", rename = "File")]
    file: String,
    #[serde(default, alias = "line", rename = "Line")]
    line: i64,
}

/// The first of `names` that is there: daemons of different age spell keys differently.
fn field<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| value.get(name)).filter(|value| !value.is_null())
}

fn text(value: &[u8], names: &[&str]) -> Option<String> {
    let value: Value = serde_json::from_slice(value).ok()?;
    Some(field(&value, names)?.as_str()?.to_owned())
}

/// A number written as one or, in protojson, as a string.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn location(value: &[u8]) -> Option<Location> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let info = field(&value, &["info"])?;
    let string = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let data = base64::engine::general_purpose::STANDARD.decode(string("data")).unwrap_or_default();
    let place = |value: Option<&Value>| {
        let part = |name: &str| {
            value
                .and_then(|value| value.get(name))
                .and_then(number)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0)
        };
        Position { line: part("line"), character: part("character") }
    };
    let ranges = field(&value, &["ranges"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|range| SourceRange { start: place(range.get("start")), end: place(range.get("end")) })
        .collect();
    Some(Location { filename: string("filename"), language: string("language"), data, ranges })
}

fn process_op(value: &[u8]) -> Option<ProcessOp> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let list = |names: &[&str]| {
        field(&value, names)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|id| id.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    Some(ProcessOp {
        input_ids: list(&["inputIDs", "input_ids", "InputIDs"]),
        mount_ids: list(&["mountIDs", "mount_ids", "MountIDs"]),
        op: field(&value, &["op", "Op"]).map(Value::to_string),
    })
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
        let op = details.op.unwrap();
        assert_eq!(op.input_ids, ["a", ""]);
        assert_eq!(op.mount_ids, ["m"]);
        assert!(op.op.unwrap().contains("args"));
    }

    #[test]
    fn payloads_that_are_not_what_they_say_are_kept_as_unknown() {
        for payload in
            ["", "null", "[]", "{}", "{\"digest\":7}", "\u{0}", "{\"Code\":-1}", "{\"Code\":5000000000}"]
        {
            for name in ["errdefs.Vertex+json", "errdefs.Source+json", "errdefs.Subrequest+json"] {
                let details = read(&[(&format!("{PREFIX}{name}"), payload)]);
                assert_eq!(details.unknown.len(), 1, "{name} {payload}");
            }
            let details = read(&[(&format!("{PREFIX}gatewayapi.ExitMessage+json"), payload)]);
            assert!(details.exit_code.is_none_or(|code| code == 0), "{payload}");
        }
    }

    #[test]
    fn bytes_that_are_no_status_give_no_details() {
        let details = Details::decode(&[0xff; 40]);
        assert!(details.vertex.is_none() && details.unknown.is_empty());
    }
}
