//! Progress as the daemon sends it, made into [`SolveStatus`]: names and errors lose the credentials that a daemon
//! shows in the URLs of sources.

use std::time::{Duration, SystemTime};

use buildkit_proto::{control, pb};
use prost_types::Timestamp;

use crate::redact;

use super::event::{
    ProgressGroup, SolveStatus, SourceFile, SourcePosition, SourceRange, Vertex, VertexLog, VertexStatus,
    VertexWarning,
};

impl From<control::StatusResponse> for SolveStatus {
    fn from(response: control::StatusResponse) -> Self {
        Self {
            vertexes: response.vertexes.into_iter().map(Vertex::from).collect(),
            statuses: response.statuses.into_iter().map(VertexStatus::from).collect(),
            logs: response.logs.into_iter().map(VertexLog::from).collect(),
            warnings: response.warnings.into_iter().map(VertexWarning::from).collect(),
        }
    }
}

impl From<control::Vertex> for Vertex {
    fn from(vertex: control::Vertex) -> Self {
        let group = |group: pb::ProgressGroup| ProgressGroup {
            id: group.id,
            name: redact::owned(group.name),
            weak: group.weak,
        };
        Self {
            digest: vertex.digest,
            inputs: vertex.inputs,
            name: redact::owned(vertex.name),
            started: vertex.started.and_then(time),
            completed: vertex.completed.and_then(time),
            cached: vertex.cached,
            error: redact::owned(vertex.error),
            progress_group: vertex.progress_group.map(group),
        }
    }
}

impl From<control::VertexStatus> for VertexStatus {
    fn from(status: control::VertexStatus) -> Self {
        Self {
            id: redact::owned(status.id),
            vertex: status.vertex,
            name: redact::owned(status.name),
            total: status.total,
            current: status.current,
            timestamp: status.timestamp.and_then(time).unwrap_or(SystemTime::UNIX_EPOCH),
            started: status.started.and_then(time),
            completed: status.completed.and_then(time),
        }
    }
}

impl From<control::VertexLog> for VertexLog {
    fn from(log: control::VertexLog) -> Self {
        Self {
            vertex: log.vertex,
            stream: log.stream,
            data: log.msg,
            timestamp: log.timestamp.and_then(time).unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

impl From<control::VertexWarning> for VertexWarning {
    fn from(warning: control::VertexWarning) -> Self {
        let file = |info: pb::SourceInfo| SourceFile {
            filename: info.filename,
            data: info.data,
            language: info.language,
        };
        Self {
            vertex: warning.vertex,
            level: warning.level,
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
            source_info: warning.info.map(file),
            range: warning.ranges.into_iter().map(range).collect(),
        }
    }
}

fn range(range: pb::Range) -> SourceRange {
    let position = |at: Option<pb::Position>| {
        at.map_or_else(SourcePosition::default, |at| SourcePosition {
            line: at.line,
            character: at.character,
        })
    };
    SourceRange { start: position(range.start), end: position(range.end) }
}

/// `None` for a time that this machine cannot say.
pub(crate) fn time(time: Timestamp) -> Option<SystemTime> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let seconds = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    seconds?.checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, time};
    use std::time::{Duration, SystemTime};

    #[test]
    fn odd_times_are_none_not_a_panic() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (seconds, nanos, want) in [
            (1, 5, Some(epoch + Duration::new(1, 5))),
            (-2, 500_000_000, Some(epoch - Duration::from_millis(1500))),
            (0, -1, None),
            (0, 1_000_000_000, None),
            (i64::MAX, 999_999_999, epoch.checked_add(Duration::new(i64::MAX as u64, 999_999_999))),
        ] {
            assert_eq!(time(Timestamp { seconds, nanos }), want, "{seconds} {nanos}");
        }
        let _ = time(Timestamp { seconds: i64::MIN, nanos: 0 });
    }
}
