use std::time::{Duration, Instant, SystemTime};

use super::Plain;
use crate::progress::Renderer as _;
use crate::progress::event::*;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(1_700_000_000.0 + seconds)
}

fn vertex(digest: &str, name: &str, start: f64) -> Vertex {
    Vertex { digest: digest.into(), name: name.into(), started: Some(at(start)), ..Vertex::default() }
}

impl Vertex {
    fn ended(mut self, end: f64) -> Self {
        self.completed = Some(at(end));
        self
    }
    fn cached(mut self) -> Self {
        self.cached = true;
        self
    }
    fn failed(mut self, error: &str) -> Self {
        self.error = error.into();
        self
    }
    fn grouped(mut self, id: &str, name: &str, weak: bool) -> Self {
        self.progress_group = Some(ProgressGroup { id: id.into(), name: name.into(), weak });
        self
    }
}

fn v(vertex: Vertex) -> SolveStatus {
    SolveStatus { vertexes: vec![vertex], ..SolveStatus::default() }
}

fn log(digest: &str, time: f64, text: &str) -> SolveStatus {
    let log =
        VertexLog { vertex: digest.into(), stream: 1, data: text.to_owned().into(), timestamp: at(time) };
    SolveStatus { logs: vec![log], ..SolveStatus::default() }
}

fn status(id: &str, current: i64, total: i64, now: f64, start: f64, end: Option<f64>) -> SolveStatus {
    let status = VertexStatus {
        id: id.into(),
        vertex: "a".into(),
        name: String::new(),
        total,
        current,
        timestamp: at(now),
        started: Some(at(start)),
        completed: end.map(at),
    };
    SolveStatus { statuses: vec![status], ..SolveStatus::default() }
}

fn warning(digest: &str, short: &str) -> SolveStatus {
    let warning =
        VertexWarning { vertex: digest.into(), short: short.to_owned().into(), ..VertexWarning::default() };
    SolveStatus { warnings: vec![warning], ..SolveStatus::default() }
}

/// Prints updates that come 20 ms apart.
fn show(description: Option<&str>, updates: Vec<SolveStatus>) -> String {
    show_events(description, updates.into_iter().map(Event::Status).collect(), Duration::from_millis(20))
}

fn show_events(description: Option<&str>, events: Vec<Event>, apart: Duration) -> String {
    let mut out = Vec::new();
    let mut now = Instant::now();
    let mut plain = Plain::new(&mut out, description, usize::MAX).unwrap();
    for event in events {
        plain.event(event, now).unwrap();
        now += apart;
    }
    plain.finish(now).unwrap();
    drop(plain);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_in_pieces_then_a_cached_step() {
    let shown = show(
        Some("my desc"),
        vec![
            v(vertex("a", "first", 0.0)),
            log("a", 0.5, "hello\nwor"),
            log("a", 1.0, "ld\n"),
            v(vertex("a", "first", 0.0).ended(12.34)),
            v(vertex("b", "second", 13.0).ended(13.0).cached()),
        ],
    );
    assert_eq!(
        shown,
        "#0 my desc\n\n#1 first\n#1 0.500 hello\n#1 0.500 world\n#1 DONE 12.3s\n\n#2 second\n#2 CACHED\n"
    );
}

#[test]
fn transfers_are_shown_when_they_moved() {
    let shown = show(
        None,
        vec![
            v(vertex("a", "dl", 0.0)),
            status("sha256:abc", 0, 1_000_000, 0.0, 0.0, None),
            status("sha256:abc", 10_000, 1_000_000, 1.0, 0.0, None),
            status("sha256:abc", 100_000, 1_000_000, 2.0, 0.0, None),
            status("sha256:abc", 1_000_000, 1_000_000, 3.0, 0.0, Some(3.0)),
            status("extracting x", 0, 0, 3.0, 3.0, Some(3.005)),
            status("transferring ctx:", 2048, 0, 4.0, 3.0, Some(4.0)),
            v(vertex("a", "dl", 0.0).ended(5.0)),
        ],
    );
    assert_eq!(
        shown,
        "#1 dl\n#1 sha256:abc 0B / 1.00MB\n#1 sha256:abc 100.00kB / 1.00MB 2.0s\n\
         #1 sha256:abc 1.00MB / 1.00MB 3.0s done\n#1 extracting x done\n\
         #1 transferring ctx: 2.05kB 1.0s done\n#1 DONE 5.0s\n"
    );
}

#[test]
fn a_step_that_runs_again_adds_up_and_cancellation_is_no_error() {
    let shown = show(
        None,
        vec![
            v(vertex("a", "w", 0.0).ended(1.0)),
            SolveStatus { vertexes: vec![vertex("a", "w", 2.0).ended(4.0)], ..warning("a", "careful") },
            v(Vertex { started: None, ..vertex("b", "c", 0.0) }.failed("context canceled")),
        ],
    );
    assert_eq!(shown, "#1 w\n#1 DONE 1.0s\n\n#1 w\n#1 WARN: careful\n#1 DONE 3.0s\n\n#2 c\n#2 CANCELED\n");
}

#[test]
fn a_group_is_one_step() {
    let shown = show(
        None,
        vec![
            v(vertex("m1", "member 1", 0.0).ended(1.0).cached().grouped("g", "the group", false)),
            v(vertex("m2", "member 2", 0.5).ended(3.0).grouped("g", "the group", false)),
            log("m2", 2.0, "log\n"),
            v(vertex("m3", "weak", 0.5).ended(3.0).grouped("h", "hidden", true)),
        ],
    );
    assert_eq!(
        shown,
        "#1 the group\n#1 CACHED\n\n#1 the group\n#1 DONE 3.0s\n\n#1 the group\n#1 2.000 log\n#1 DONE 3.0s\n"
    );
}

#[test]
fn a_failed_step_is_said_again_at_the_end_with_its_last_output() {
    let shown = show(None, vec![v(vertex("e", "err", 0.0).ended(0.0).failed("boom")), log("e", 0.0, "x\n")]);
    assert_eq!(
        shown,
        "#1 err\n#1 ERROR: boom\n\n#1 err\n#1 0.000 x\n#1 ERROR: boom\n------\n > err:\n0.000 x\n------\n"
    );
}

#[test]
fn the_last_output_has_whole_lines_and_only_ten() {
    let mut updates = vec![v(vertex("e", "err", 0.0)), log("e", 0.0, "partial"), log("e", 0.0, " more\n")];
    let many: String = (0..9).map(|n| format!("line {n}\n")).collect();
    updates.push(log("e", 1.0, &many));
    updates.push(v(vertex("e", "err", 0.0).ended(2.0).failed("boom")));
    let shown = show(None, updates);
    let (_, block) = shown.split_once("------\n > err:\n").unwrap();
    assert!(block.starts_with("0.000 partial more\n1.000 line 0\n"), "{block}");
    assert_eq!(block.lines().count(), 11);
}

#[test]
fn a_switch_closes_the_line_and_says_that_the_step_goes_on() {
    let mut events = vec![
        v(vertex("a", "one", 0.0)),
        log("a", 0.1, "half"),
        v(vertex("b", "two", 0.0)),
        log("b", 1.0, "b speaks\n"),
    ];
    events.extend((0..8).map(|n| log("b", 1.0 + f64::from(n), &format!("b{n}\n"))));
    events.push(v(vertex("b", "two", 0.0).ended(20.0)));
    events.push(log("a", 21.0, " whole\n"));
    events.push(v(vertex("a", "one", 0.0).ended(22.0)));
    let shown =
        show_events(None, events.into_iter().map(Event::Status).collect(), Duration::from_millis(1500));
    assert!(shown.starts_with("#1 one\n#1 0.100 half\n#1 ...\n\n#2 two\n#2 1.000 b speaks\n"), "{shown}");
    assert!(shown.contains("#2 DONE 20.0s\n\n#1 one\n#1  whole\n#1 DONE 22.0s\n"), "{shown}");
}

#[test]
fn junk_is_survived_and_shown_safely() {
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
    let mut odd = vertex("", "no digest", 0.0);
    odd.completed = Some(SystemTime::UNIX_EPOCH);
    let shown = show(
        None,
        vec![
            v(odd),
            v(vertex("j", "name\x1b[2J\u{202e}\nnext", 5.0).ended(-10.0)),
            log("unknown", 0.0, "ignored\n"),
            warning("unknown", "ignored"),
            v(Vertex { completed: Some(far), ..vertex("k", "far", 0.0) }),
            log("k", -5.0, "\x1b]0;title\x07early\x1b[1A\n"),
            status("x", i64::MIN, i64::MAX, 0.0, 9.0, None),
            SolveStatus::default(),
        ],
    );
    assert!(shown.starts_with("#1 name next\n#1 DONE 0.0s\n"), "{shown}");
    assert!(shown.contains("0.000 early\n"), "{shown}");
    assert!(!shown.contains("ignored") && !shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

#[test]
fn lost_and_clipped_output_is_said() {
    let shown = show_events(
        None,
        vec![
            Event::Status(v(vertex("a", "one", 0.0))),
            Event::Clipped { vertex: "a".into(), limit: ClipLimit::Size },
            Event::Dropped { logs: 3, statuses: 1, vertexes: 1 },
            Event::Incomplete { reason: "reset\x1b[0m".into() },
        ],
        Duration::from_millis(20),
    );
    assert_eq!(
        shown,
        "#1 one\n#1 WARN: the daemon clipped the log of this step (BUILDKIT_STEP_LOG_MAX_SIZE)\n\
         #0 WARN: this output is too slow: dropped 3 log messages, 2 updates\n\
         #0 WARN: progress is incomplete: reset\n"
    );
}

#[test]
fn a_long_name_is_cut_where_a_character_ends() {
    assert_eq!(super::cut("abc", 72), "abc");
    assert_eq!(super::cut("ab€", 3), "ab");
    assert_eq!(super::cut("", 0), "");
}
