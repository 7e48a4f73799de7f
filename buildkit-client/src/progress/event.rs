//! What a build says while it runs, as data.
//!
//! The JSON of these types is the one `buildctl --progress=rawjson` and `docker buildx --progress=rawjson` print:
//! one [`SolveStatus`] a line, empty fields left out, binary fields in base64, times in RFC 3339 with nanoseconds.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One thing a consumer of progress gets to see.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// An update of steps, transfers, log lines and warnings.
    Status(SolveStatus),
    /// The consumer was too slow: the oldest updates were dropped to bound memory. The build is not affected.
    Dropped {
        /// Log messages lost.
        logs: u64,
        /// Transfer updates lost.
        statuses: u64,
        /// Step updates lost.
        vertexes: u64,
    },
    /// The daemon cut the log of a step short.
    Clipped {
        /// Digest of the step.
        vertex: String,
        /// Which limit of the daemon was hit.
        limit: ClipLimit,
    },
    /// The status stream ended or failed before the build did: what follows is incomplete. The result of the build
    /// is decided by its own call, never by this.
    Incomplete {
        /// Why, for people.
        reason: String,
    },
}

/// A limit of the daemon on the output of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClipLimit {
    /// Bytes per step; `BUILDKIT_STEP_LOG_MAX_SIZE` on the daemon, 2 MiB by default.
    Size,
    /// Bytes per second; `BUILDKIT_STEP_LOG_MAX_SPEED` on the daemon, 200 KiB/s by default.
    Speed,
}

impl ClipLimit {
    /// The environment variable of the daemon that sets this limit; `-1` lifts it.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Size => "BUILDKIT_STEP_LOG_MAX_SIZE",
            Self::Speed => "BUILDKIT_STEP_LOG_MAX_SPEED",
        }
    }

    /// The limit a log message says was hit, if it ends in the daemon's own marker line.
    pub fn of_message(data: &[u8]) -> Option<Self> {
        // The daemon puts the marker on a line of its own at the end of the last chunk that it passes on, so the rest
        // of the chunk need not be searched: `[output clipped, log limit 2MiB reached]`, or `200KiB/s`.
        const HEAD: &[u8] = b"[output clipped, log ";
        let line = data.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?.trim_ascii_start();
        let rest = line.strip_prefix(HEAD)?.strip_suffix(b" reached]")?;
        match (rest.strip_prefix(b"limit "), rest.strip_prefix(b"speed ")) {
            (Some(limit), _) if limit.ends_with(b"/s") => Some(Self::Speed),
            (Some(_), _) => Some(Self::Size),
            (None, Some(_)) => Some(Self::Speed),
            (None, None) => None,
        }
    }
}

/// One update of a build: what changed since the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SolveStatus {
    /// Steps that started, finished or changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<Vertex>,
    /// Progress inside steps: layers pulled, bytes sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<VertexStatus>,
    /// Output of steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<VertexLog>,
    /// Warnings, such as lint results.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<VertexWarning>,
}

impl SolveStatus {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.vertexes.is_empty()
            && self.statuses.is_empty()
            && self.logs.is_empty()
            && self.warnings.is_empty()
    }
}

/// A step of the build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vertex {
    /// Digest of the step's operation; its identity.
    pub digest: String,
    /// Digests of the steps it builds upon.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// When it started, if it did.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional")]
    pub started: Option<SystemTime>,
    /// When it finished, if it did.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional")]
    pub completed: Option<SystemTime>,
    /// Whether its result came from the cache.
    #[serde(skip_serializing_if = "is_false")]
    pub cached: bool,
    /// Error text, empty when there is none; may have several lines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The group it is shown as a part of.
    #[serde(rename = "progressGroup", skip_serializing_if = "Option::is_none")]
    pub progress_group: Option<ProgressGroup>,
}

/// Steps shown as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressGroup {
    /// Identity of the group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name shown instead of the members' names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// A weak member does not make the group visible by itself.
    #[serde(skip_serializing_if = "is_false")]
    pub weak: bool,
}

/// Progress of a part of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexStatus {
    /// Identity within the step, such as a layer's digest or `transferring context:`.
    pub id: String,
    /// Digest of the step.
    pub vertex: String,
    /// Name for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How much there is, usually in bytes; 0 when not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: i64,
    /// How much is done.
    pub current: i64,
    /// When this was measured.
    #[serde(with = "time")]
    pub timestamp: SystemTime,
    /// When the part started.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional")]
    pub started: Option<SystemTime>,
    /// When the part finished.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::optional")]
    pub completed: Option<SystemTime>,
}

impl Default for VertexStatus {
    fn default() -> Self {
        Self {
            id: String::new(),
            vertex: String::new(),
            name: String::new(),
            total: 0,
            current: 0,
            timestamp: SystemTime::UNIX_EPOCH,
            started: None,
            completed: None,
        }
    }
}

/// Output of a step. Message borders mean nothing: a line may come in pieces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexLog {
    /// Digest of the step.
    pub vertex: String,
    /// 1 for standard output, 2 for standard error.
    #[serde(skip_serializing_if = "is_zero")]
    pub stream: i64,
    /// The bytes, as the process wrote them: not necessarily text.
    #[serde(with = "base64_bytes")]
    pub data: Bytes,
    /// When they were written.
    #[serde(with = "time")]
    pub timestamp: SystemTime,
}

impl Default for VertexLog {
    fn default() -> Self {
        Self { vertex: String::new(), stream: 0, data: Bytes::new(), timestamp: SystemTime::UNIX_EPOCH }
    }
}

/// A warning about a step, such as a lint result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexWarning {
    /// Digest of the step.
    pub vertex: String,
    /// Level; larger is less important.
    #[serde(skip_serializing_if = "is_zero")]
    pub level: i64,
    /// The warning in one line.
    #[serde(with = "base64_bytes")]
    pub short: Bytes,
    /// More about it, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "base64_list")]
    pub detail: Vec<Bytes>,
    /// Where it is documented.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The file it is about.
    #[serde(rename = "sourceInfo", skip_serializing_if = "Option::is_none")]
    pub source_info: Option<SourceFile>,
    /// Where in that file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub range: Vec<SourceRange>,
}

impl VertexWarning {
    /// The one line as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.short)
    }
}

/// A file a warning points into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFile {
    /// Name of the file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Its content.
    #[serde(skip_serializing_if = "Bytes::is_empty", with = "base64_bytes")]
    pub data: Bytes,
    /// Its language, such as `Dockerfile`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
}

/// A part of a source file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceRange {
    /// First position.
    pub start: SourcePosition,
    /// Last position.
    pub end: SourcePosition,
}

/// A position in a source file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourcePosition {
    /// Line, counted from 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: i32,
    /// Character in the line, counted from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub character: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// RFC 3339 with as many digits of a second as there are.
mod time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, out: S) -> Result<S::Ok, S::Error> {
        // A time outside the years JSON can say is one only a broken daemon sends: show the epoch, do not fail.
        jiff::Timestamp::try_from(*time).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string().serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<SystemTime, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        text.parse::<jiff::Timestamp>().and_then(SystemTime::try_from).map_err(D::Error::custom)
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Serializer, SystemTime};

        #[allow(clippy::ref_option)] // the signature serde asks for
        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            out: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, out),
                None => out.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            input: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            #[derive(Deserialize)]
            struct Wrapped(#[serde(with = "super")] SystemTime);
            Ok(Option::<Wrapped>::deserialize(input)?.map(|wrapped| wrapped.0))
        }
    }
}

mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        STANDARD.encode(bytes).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

mod base64_list {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Item(#[serde(with = "super::base64_bytes")] Bytes);

    pub(super) fn serialize<S: Serializer>(list: &[Bytes], out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Borrowed<'a>(#[serde(serialize_with = "super::base64_bytes::serialize")] &'a [u8]);
        out.collect_seq(list.iter().map(|bytes| Borrowed(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Bytes>, D::Error> {
        Ok(Vec::<Item>::deserialize(input)?.into_iter().map(|item| item.0).collect())
    }
}
