//! Progress as JSON, one update a line.

use std::io::{self, Write};
use std::time::Instant;

use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::Renderer;
use super::event::{Event, SolveStatus};

/// Writes every update as one line of JSON.
pub(super) struct RawJson<W> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> RawJson<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }
}

impl<W: Write + Send> Renderer for RawJson<W> {
    fn event(&mut self, event: Event, _: Instant) -> io::Result<()> {
        // The schema has no place for anything but updates.
        let Event::Status(status) = event else { return Ok(()) };
        self.line.clear();
        write_line(&status, &mut self.line)?;
        self.out.write_all(&self.line)?;
        self.out.flush()
    }
}

/// Appends one line.
fn write_line(status: &SolveStatus, line: &mut Vec<u8>) -> io::Result<()> {
    status.serialize(&mut Serializer::with_formatter(&mut *line, HtmlSafe))?;
    line.push(b'\n');
    Ok(())
}

/// JSON that may stand inside HTML, as BuildKit's own tools write it: `<`, `>`, `&` and the line separators that
/// JavaScript knows are escaped.
struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                CompactFormatter.write_string_fragment(writer, &fragment[plain..at])?;
                write!(writer, "\\u{:04x}", u32::from(c))?;
                plain = at + c.len_utf8();
            }
        }
        CompactFormatter.write_string_fragment(writer, &fragment[plain..])
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::write_line;
    use crate::progress::event::*;

    fn at(nanos: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    fn json(status: &SolveStatus) -> String {
        let mut line = Vec::new();
        write_line(status, &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn every_field_has_the_name_and_form_of_the_schema() {
        let status = SolveStatus {
            vertexes: vec![
                Vertex { digest: "sha256:a".into(), ..Vertex::default() },
                Vertex {
                    digest: "sha256:b".into(),
                    inputs: vec!["sha256:a".into()],
                    name: "RUN a && b <c>".into(),
                    started: Some(at(1_000_000_001_500_000_000)),
                    completed: Some(at(1_000_000_002_000_000_000)),
                    cached: true,
                    error: "boom".into(),
                    progress_group: Some(ProgressGroup { id: "g".into(), name: "group".into(), weak: true }),
                },
            ],
            statuses: vec![VertexStatus {
                id: "layer".into(),
                vertex: "sha256:b".into(),
                name: "n".into(),
                total: 10,
                current: 0,
                timestamp: at(1_000_000_001_123_456_789),
                started: Some(at(1_000_000_001_000_000_000)),
                completed: None,
            }],
            logs: vec![VertexLog {
                vertex: "sha256:b".into(),
                stream: 2,
                data: b"hi\xff".as_slice().into(),
                timestamp: at(1),
            }],
            warnings: vec![VertexWarning {
                vertex: "sha256:b".into(),
                level: 1,
                short: b"careful".as_slice().into(),
                detail: vec![b"more".as_slice().into()],
                url: "https://x/?a&b".into(),
                source_info: Some(SourceFile {
                    filename: "Dockerfile".into(),
                    data: b"FROM x".as_slice().into(),
                    language: "Dockerfile".into(),
                }),
                range: vec![SourceRange {
                    start: SourcePosition { line: 1, character: 0 },
                    end: SourcePosition { line: 1, character: 4 },
                }],
            }],
        };
        let want = concat!(
            r#"{"vertexes":[{"digest":"sha256:a"},{"digest":"sha256:b","inputs":["sha256:a"],"#,
            r#""name":"RUN a \u0026\u0026 b \u003cc\u003e","started":"2001-09-09T01:46:41.5Z","#,
            r#""completed":"2001-09-09T01:46:42Z","cached":true,"error":"boom","#,
            r#""progressGroup":{"id":"g","name":"group","weak":true}}],"#,
            r#""statuses":[{"id":"layer","vertex":"sha256:b","name":"n","total":10,"current":0,"#,
            r#""timestamp":"2001-09-09T01:46:41.123456789Z","started":"2001-09-09T01:46:41Z"}],"#,
            r#""logs":[{"vertex":"sha256:b","stream":2,"data":"aGn/","timestamp":"1970-01-01T00:00:00.000000001Z"}],"#,
            r#""warnings":[{"vertex":"sha256:b","level":1,"short":"Y2FyZWZ1bA==","detail":["bW9yZQ=="],"#,
            r#""url":"https://x/?a\u0026b","sourceInfo":{"filename":"Dockerfile","data":"RlJPTSB4","#,
            r#""language":"Dockerfile"},"range":[{"start":{"line":1},"end":{"line":1,"character":4}}]}]}"#,
            "\n"
        );
        assert_eq!(json(&status), want);
        assert_eq!(serde_json::from_str::<SolveStatus>(want).unwrap(), status, "and it reads back");
    }

    #[test]
    fn an_empty_update_is_an_empty_object() {
        assert_eq!(json(&SolveStatus::default()), "{}\n");
        assert_eq!(serde_json::from_str::<SolveStatus>("{}").unwrap(), SolveStatus::default());
    }

    #[test]
    fn a_time_json_cannot_say_does_not_fail() {
        let far = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1 << 60)).unwrap();
        let log = VertexLog { timestamp: far, ..VertexLog::default() };
        assert!(json(&SolveStatus { logs: vec![log], ..SolveStatus::default() }).contains("1970-01-01"));
    }

    #[test]
    fn a_line_says_what_limit_clipped_the_log() {
        for (line, want) in [
            ("[output clipped, log limit 2MiB reached]\n", Some(ClipLimit::Size)),
            ("[output clipped, log speed 200KiB/s reached]\n", Some(ClipLimit::Speed)),
            ("the last words\n[output clipped, log limit 200KiB/s reached]\n", Some(ClipLimit::Speed)),
            ("[output clipped, log limit 2MiB reached]\nmore", None),
            ("\n[output clipped, log limit 2MiB reached]\n", Some(ClipLimit::Size)),
            ("echo [output clipped, log limit 2MiB reached]", None),
            ("[output clipped, log size 2MiB reached]", None),
            ("[output clipped, log ", None),
        ] {
            assert_eq!(ClipLimit::of_message(line.as_bytes()), want, "{line:?}");
        }
    }
}
