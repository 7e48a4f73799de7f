//! Typed details of errors. They travel as JSON inside gRPC's status.

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use buildkit_proto::pb;
use buildkit_proto::well_known::Any;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What BuildKit says about an error beside its text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Detail {
    /// A place in a file the user wrote.
    Source(Box<SourceDetail>),
    /// The digest of the vertex that failed.
    Vertex(String),
    /// The state the failed vertex was in.
    Solve(Box<SolveFailure>),
    /// The exit code of the process that failed.
    Exit(u32),
    /// A capability the frontend image lacks.
    FrontendCap(String),
    /// A subrequest the frontend does not know.
    Subrequest(String),
    /// The frontend that failed.
    Frontend {
        /// What the daemon calls it, such as `gateway.v0`.
        name: String,
        /// Its image, empty for those inside the daemon.
        source: String,
    },
    /// A feature that the wanted compatibility version does not have.
    CompatibilityFeature {
        /// The wanted version.
        version: i64,
        /// The feature.
        feature: String,
    },
    /// A source policy's reasons to deny a source.
    PolicyDenied(Vec<String>),
    /// Anything else, such as stack traces, as it came.
    Other(Any),
}

/// A place in a file the user wrote.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceDetail {
    /// The file with its content.
    pub info: Option<pb::SourceInfo>,
    /// The ranges in it, lines counted from 1.
    pub ranges: Vec<pb::Range>,
}

/// The state a failed vertex was in. The references in it live as long as
/// the build and can be mounted into containers, to look around.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SolveFailure {
    /// The inputs of the vertex; empty texts are empty trees.
    pub inputs: Vec<String>,
    /// The mounts of a failed process as it left them, in the order of the
    /// op's mounts.
    pub mounts: Vec<String>,
    /// The op, in protobuf's JSON.
    pub op: Value,
    /// The index of the file action or cache input that failed.
    pub index: Option<u64>,
    /// The description of the vertex.
    pub description: BTreeMap<String, String>,
}

const PREFIX: &str = "github.com/moby/buildkit/";
const SUFFIX: &str = "+json";

impl Detail {
    /// Reads a detail. What is unknown or damaged is kept as
    /// [`Other`](Self::Other).
    pub fn decode(any: Any) -> Self {
        Self::read(&any).unwrap_or(Self::Other(any))
    }

    fn read(any: &Any) -> Option<Self> {
        let name = any.type_url.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let json = &any.value[..];
        Some(match name {
            "errdefs.Source" => {
                let source = SourceDetail::from(parse::<json::Source>(json)?);
                source.info.as_ref()?;
                Self::Source(Box::new(source))
            }
            "errdefs.Vertex" => Self::Vertex(filled(parse::<json::Vertex>(json)?.digest)?),
            "errdefs.Solve" => Self::Solve(Box::new(parse::<json::Solve>(json)?.into())),
            "gatewayapi.ExitMessage" => Self::Exit(parse::<json::Exit>(json)?.code),
            "errdefs.FrontendCap" => Self::FrontendCap(filled(parse::<json::Named>(json)?.name)?),
            "errdefs.Subrequest" => Self::Subrequest(filled(parse::<json::Named>(json)?.name)?),
            "errdefs.Frontend" => {
                let frontend = parse::<json::Named>(json)?;
                Self::Frontend { name: frontend.name, source: frontend.source }
            }
            "errdefs.CompatibilityFeature" => {
                let feature = parse::<json::Feature>(json)?;
                Self::CompatibilityFeature { version: feature.version, feature: feature.feature }
            }
            "policysession.DecisionResponse" => {
                let decision = parse::<json::Decision>(json)?;
                Self::PolicyDenied(decision.deny_messages.into_iter().map(|m| m.message).collect())
            }
            _ => return None,
        })
    }

    /// The detail as it travels. Those that only the daemon makes are left
    /// out unless they are [`Other`](Self::Other).
    pub fn encode(&self) -> Option<Any> {
        let (name, value) = match self {
            Self::Source(source) => ("errdefs.Source", serde_json::to_vec(&json::Source::from(&**source))),
            Self::Vertex(digest) => {
                ("errdefs.Vertex", serde_json::to_vec(&json::Vertex { digest: digest.clone() }))
            }
            Self::Solve(failure) => ("errdefs.Solve", serde_json::to_vec(&json::Solve::from(&**failure))),
            Self::Exit(code) => ("gatewayapi.ExitMessage", serde_json::to_vec(&json::Exit { code: *code })),
            Self::FrontendCap(name) => ("errdefs.FrontendCap", serde_json::to_vec(&json::Named::new(name))),
            Self::Subrequest(name) => ("errdefs.Subrequest", serde_json::to_vec(&json::Named::new(name))),
            Self::Frontend { name, source } => (
                "errdefs.Frontend",
                serde_json::to_vec(&json::Named { name: name.clone(), source: source.clone() }),
            ),
            Self::CompatibilityFeature { version, feature } => (
                "errdefs.CompatibilityFeature",
                serde_json::to_vec(&json::Feature { version: *version, feature: feature.clone() }),
            ),
            Self::PolicyDenied(_) => return None,
            Self::Other(any) => return Some(any.clone()),
        };
        Some(Any { type_url: format!("{PREFIX}{name}{SUFFIX}"), value: value.ok()? })
    }
}

/// A text that says something: without it the detail is damaged.
fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// The shapes of the JSON, as Go writes its structs.
mod json {
    use base64::Engine as _;

    use super::{BTreeMap, Bytes, Deserialize, STANDARD, Serialize, SolveFailure, SourceDetail, Value, pb};

    #[derive(Serialize, Deserialize)]
    pub(super) struct Vertex {
        #[serde(default)]
        pub(super) digest: String,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Exit {
        #[serde(rename = "Code", default)]
        pub(super) code: u32,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Named {
        #[serde(default)]
        pub(super) name: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        pub(super) source: String,
    }

    impl Named {
        pub(super) fn new(name: &str) -> Self {
            Self { name: name.into(), source: String::new() }
        }
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Feature {
        #[serde(default)]
        pub(super) version: i64,
        #[serde(default)]
        pub(super) feature: String,
    }

    #[derive(Deserialize)]
    pub(super) struct Decision {
        #[serde(rename = "denyMessages", default)]
        pub(super) deny_messages: Vec<Deny>,
    }

    #[derive(Deserialize)]
    pub(super) struct Deny {
        #[serde(default)]
        pub(super) message: String,
    }

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    pub(super) struct Source {
        info: Option<Info>,
        ranges: Vec<Range>,
    }

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Info {
        #[serde(skip_serializing_if = "String::is_empty")]
        filename: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        data: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        language: String,
    }

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Range {
        start: Position,
        end: Position,
    }

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Position {
        #[serde(skip_serializing_if = "is_zero")]
        line: i32,
        #[serde(skip_serializing_if = "is_zero")]
        character: i32,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_zero(number: &i32) -> bool {
        *number == 0
    }

    impl From<Source> for SourceDetail {
        fn from(json: Source) -> Self {
            let position = |p: Position| Some(pb::Position { line: p.line, character: p.character });
            Self {
                info: json.info.map(|info| pb::SourceInfo {
                    filename: info.filename,
                    data: STANDARD.decode(info.data).map(Bytes::from).unwrap_or_default(),
                    language: info.language,
                    definition: None,
                }),
                ranges: json
                    .ranges
                    .into_iter()
                    .map(|range| pb::Range { start: position(range.start), end: position(range.end) })
                    .collect(),
            }
        }
    }

    impl From<&SourceDetail> for Source {
        fn from(detail: &SourceDetail) -> Self {
            let position = |p: Option<&pb::Position>| {
                p.map_or_else(Position::default, |p| Position { line: p.line, character: p.character })
            };
            Self {
                info: detail.info.as_ref().map(|info| Info {
                    filename: info.filename.clone(),
                    data: STANDARD.encode(&info.data),
                    language: info.language.clone(),
                }),
                ranges: detail
                    .ranges
                    .iter()
                    .map(|range| Range {
                        start: position(range.start.as_ref()),
                        end: position(range.end.as_ref()),
                    })
                    .collect(),
            }
        }
    }

    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    pub(super) struct Solve {
        #[serde(rename = "inputIDs", skip_serializing_if = "Vec::is_empty")]
        inputs: Vec<String>,
        #[serde(rename = "mountIDs", skip_serializing_if = "Vec::is_empty")]
        mounts: Vec<String>,
        #[serde(skip_serializing_if = "Value::is_null")]
        op: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<Subject>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<Subject>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        description: BTreeMap<String, String>,
    }

    /// Protobuf's JSON writes 64-bit numbers as texts.
    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Subject {
        index: Value,
    }

    impl From<Solve> for SolveFailure {
        fn from(json: Solve) -> Self {
            let index = json.file.or(json.cache).map(|subject| match subject.index {
                Value::String(text) => text.parse().unwrap_or(0),
                number => number.as_u64().unwrap_or(0),
            });
            Self {
                inputs: json.inputs,
                mounts: json.mounts,
                op: json.op,
                index,
                description: json.description,
            }
        }
    }

    impl From<&SolveFailure> for Solve {
        fn from(failure: &SolveFailure) -> Self {
            let subject = failure.index.map(|index| Subject { index: Value::String(index.to_string()) });
            let is_file = failure.op.get("file").is_some();
            let (file, cache) = if is_file { (subject, None) } else { (None, subject) };
            Self {
                inputs: failure.inputs.clone(),
                mounts: failure.mounts.clone(),
                op: failure.op.clone(),
                file,
                cache,
                description: failure.description.clone(),
            }
        }
    }
}
