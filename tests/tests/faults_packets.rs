//! Rows F34 to F41: a hostile daemon reads only what was offered and writes only where it may, and nothing hangs.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::large_stack_arrays, reason = "a file's content reads best as an array")]

use buildkit_client::Error;
use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_fsutil::disk_writer::{Devices, WriteOptions};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_proto::content::content_client::ContentClient;
use buildkit_proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest,
};
use buildkit_proto::control::SolveResponse;
use buildkit_proto::filesync::RawMessage;
use buildkit_proto::fsutil::packet::PacketType;
use buildkit_proto::fsutil::{Packet, Stat};
use buildkit_tests::fake::{FakeBuildKit, Session};
use buildkit_tests::lag::Lag;
use bytes::Bytes;
use futures::StreamExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::{Code, Request, Status};

fn frontend() -> Frontend {
    Frontend::new("dockerfile.v0")
}

fn control(kind: PacketType, id: u32) -> Packet {
    Packet { r#type: kind.into(), id, ..Packet::default() }
}

fn data(id: u32, content: &[u8]) -> Packet {
    Packet { data: content.to_vec().into(), ..control(PacketType::PacketData, id) }
}

fn entry(path: &str, mode: u32, size: i64, link: &str) -> Packet {
    let stat = Stat {
        path: path.to_owned().into(),
        mode,
        size,
        linkname: link.to_owned().into(),
        ..Stat::default()
    };
    Packet { stat: Some(stat), ..Packet::default() }
}

const DIRECTORY: u32 = 1 << 31 | 0o755;
const SYMLINK: u32 = 1 << 27 | 0o777;

fn file(path: &str, size: i64) -> Packet {
    entry(path, 0o644, size, "")
}

fn dir(path: &str) -> Packet {
    entry(path, DIRECTORY, 0, "")
}

fn link(path: &str, target: &str) -> Packet {
    entry(path, SYMLINK, 0, target)
}

/// A file with so many extended attributes of so many bytes.
fn with_attributes(count: usize, bytes: usize) -> Packet {
    let mut packet = file("a", 3);
    if let Some(stat) = &mut packet.stat {
        stat.xattrs = (0..count).map(|at| (format!("user.{at}"), vec![0; bytes].into())).collect();
    }
    packet
}

fn end() -> Packet {
    Packet::default()
}

/// What the client said last, and how long it took to close its half after the script was played, without the time in
/// which the machine did not let it.
#[derive(Debug, Clone)]
struct Answer {
    last: Option<Packet>,
    status: Option<Status>,
    took: Duration,
}

/// Plays packets to the exporter of a client, keeps its own half open, and waits for the client to close.
async fn play(session: Session, script: Vec<RawMessage>) -> Result<Answer, Status> {
    let (out, mut answers) = session.export(0, &[]).await?;
    for message in script {
        if out.send(message).await.is_err() {
            break;
        }
    }
    let (played, lag) = (Instant::now(), Lag::measure());
    let (mut last, mut status) = (None, None);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(answer) => {
                last = answer.decode_as::<Packet>().ok();
                // Whoever has got everything is told that it was all.
                if last.as_ref().is_some_and(|packet| packet.r#type() == PacketType::PacketFin) {
                    let _ = out.send(RawMessage::of(&control(PacketType::PacketFin, 0))).await;
                }
            }
            Err(error) => status = Some(error),
        }
    }
    drop(out);
    let took = played.elapsed().saturating_sub(lag.so_far());
    Ok(Answer { last, status, took })
}

/// A build whose local export meets a hostile daemon.
async fn hostile_export(
    to: &Path,
    options: WriteOptions,
    script: Vec<RawMessage>,
) -> (Answer, Result<(), Error>) {
    let answer: Arc<Mutex<Option<Answer>>> = Arc::default();
    let kept = Arc::clone(&answer);
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let (kept, script) = (Arc::clone(&kept), script.clone());
            async move {
                let played = play(solve.session().await?, script).await?;
                *kept.lock().unwrap() = Some(played);
                // A daemon that lies to the end.
                Ok(SolveResponse::default())
            }
        })
        .start();
    let export = Export::local(to).write_options(options);
    let build = fake.client().solve(frontend()).export(export);
    let done = tokio::time::timeout(Duration::from_secs(20), build.into_future()).await.expect("no hang");
    let answer = answer.lock().unwrap().take().expect("the script was played");
    (answer, done.map(drop))
}

fn raw(script: Vec<Packet>) -> Vec<RawMessage> {
    script.into_iter().map(|packet| RawMessage::of(&packet)).collect()
}

/// Everything below a directory: path and content or target.
fn listing(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for found in std::fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(found.unwrap().file_name());
            let whole = root.join(&path);
            let what = if whole.is_symlink() {
                format!(" -> {}", std::fs::read_link(&whole).unwrap().display())
            } else if whole.is_dir() {
                open.push(path.clone());
                "/".to_owned()
            } else {
                format!(" = {}", String::from_utf8_lossy(&std::fs::read(&whole).unwrap()))
            };
            out.push(format!("{}{what}", path.display()));
        }
    }
    out.sort();
    out
}

#[tokio::test]
async fn f34_hostile_sender_is_told_and_the_build_says_why() {
    let stats = || vec![file("a", 3), file("b", 3), end()];
    let with = |more: Vec<Packet>| raw(stats().into_iter().chain(more).collect());
    let junk = RawMessage(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff junk"));
    for (name, script, says) in [
        (
            "data for an unknown id",
            with(vec![data(7, b"x")]),
            "content for file id 7, which was not requested",
        ),
        (
            "data after the end",
            with(vec![data(0, b"xyz"), data(0, b""), data(0, b"x")]),
            "which was not requested",
        ),
        ("data before its entry", raw(vec![data(0, b"x")]), "which was not requested"),
        ("too much data", with(vec![data(0, b"wxyz")]), "\"a\" has 4 bytes of content instead of 3"),
        (
            "too little data",
            with(vec![data(0, b"x"), data(0, b"")]),
            "\"a\" has 1 bytes of content instead of 3",
        ),
        ("early end", with(vec![control(PacketType::PacketFin, 0)]), "end of transfer before"),
        ("entry after the end", with(vec![file("c", 0)]), "an entry after the end of entries"),
        ("a request", raw(vec![control(PacketType::PacketReq, 0)]), "unexpected packet of type 1"),
        (
            "an unknown type",
            raw(vec![Packet { r#type: 99, ..Packet::default() }]),
            "unexpected packet of type 99",
        ),
        ("a huge packet", with(vec![data(0, &vec![0; 5 << 20])]), "unexpected packet of type 2"),
        ("a huge path", raw(vec![file(&"x".repeat(1 << 20), 3)]), "unusable metadata of \"xxx"),
        ("a huge target", raw(vec![link("a", &"x".repeat(1 << 20))]), "unusable metadata of \"a\""),
        ("attributes by the thousand", raw(vec![with_attributes(20_000, 0)]), "unusable metadata of \"a\""),
        ("attributes by the megabyte", raw(vec![with_attributes(5, 1 << 20)]), "unusable metadata of \"a\""),
        ("no packet at all", vec![junk], "broke"),
    ] {
        let out = tempfile::tempdir().unwrap();
        let (answer, done) = hostile_export(out.path(), WriteOptions::default(), script).await;
        assert!(answer.took < Duration::from_secs(1), "{name}: {answer:?}");
        let report = done.expect_err(name).report();
        if says != "broke" {
            let last = answer.last.as_ref().unwrap_or_else(|| panic!("{name}: {answer:?}"));
            assert_eq!(last.r#type, i32::from(PacketType::PacketErr), "{name}");
            assert!(String::from_utf8_lossy(&last.data).contains(says), "{name}: {last:?}");
            assert!(report.contains(says), "{name}: {report}");
        }
        assert!(listing(out.path()).is_empty() || listing(out.path()) == ["a = xyz"], "{name}");
    }
}

/// Somebody who announces entries without end is stopped by what would have to be remembered.
#[tokio::test]
async fn f34_empty_trees_and_silence_end_with_the_build() {
    let out = tempfile::tempdir().unwrap();
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let (out, _answers) = solve.session().await?.export(0, &[]).await?;
            let _ = out.send(RawMessage::of(&file("a", 3))).await;
            // Success is claimed although nothing was sent and the stream is still open.
            Ok(SolveResponse::default())
        })
        .start();
    let (started, lag) = (Instant::now(), Lag::measure());
    let build = fake.client().solve(frontend()).export(Export::local(out.path()));
    let done = tokio::time::timeout(Duration::from_secs(20), build.into_future()).await.expect("no hang");
    let report = done.unwrap_err().report();
    assert!(report.contains("cannot write export 0"), "{report}");
    assert!(started.elapsed() < Duration::from_secs(6) + lag.so_far(), "{:?}", started.elapsed());
    assert!(listing(out.path()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn f28_an_export_that_failed_here_ends_a_build_that_its_daemon_does_not_end() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            play(solve.session().await?, raw(vec![file("../a", 3)])).await?;
            std::future::pending().await
        })
        .start();
    let out = tempfile::tempdir().unwrap();
    let started = tokio::time::Instant::now();
    let build = fake.client().solve(frontend()).export(Export::local(out.path()));
    let done = tokio::time::timeout(Duration::from_secs(3600), build.into_future()).await.expect("no hang");
    let report = done.unwrap_err().report();
    assert!(report.contains("cannot write export 0") && report.contains("\"../a\""), "{report}");
    assert!(started.elapsed() <= Duration::from_secs(62), "{:?}", started.elapsed());
}

#[tokio::test]
async fn f34_hostile_receiver_is_told_and_the_build_says_why() {
    let req = |id| control(PacketType::PacketReq, id);
    for (name, script, says) in [
        ("an unknown id", vec![req(99)], "invalid file id 99"),
        ("a directory", vec![req(0)], "invalid file id 0"),
        ("twice", vec![req(1), req(1)], "invalid file id 1"),
        ("data", vec![data(1, b"x")], "unexpected packet of type 2"),
        ("an unknown type", vec![Packet { r#type: -1, ..Packet::default() }], "unexpected packet of type -1"),
    ] {
        let told: Arc<Mutex<Option<(String, Duration)>>> = Arc::default();
        let kept = Arc::clone(&told);
        let fake = FakeBuildKit::script()
            .on_solve(move |solve| {
                let (kept, script) = (Arc::clone(&kept), script.clone());
                async move {
                    let mut transfer = solve.session().await?.transfer("context", &[]).await?;
                    // All entries first: what is asked for before it is announced is unknown as well.
                    while let Some(Ok(packet)) = transfer.packets.next().await {
                        if packet.r#type() == PacketType::PacketStat && packet.stat.is_none() {
                            break;
                        }
                    }
                    for packet in script {
                        let _ = transfer.out.send(packet).await;
                    }
                    let (played, lag) = (Instant::now(), Lag::measure());
                    let mut last = String::new();
                    while let Some(Ok(packet)) = transfer.packets.next().await {
                        if packet.r#type() == PacketType::PacketErr {
                            last = String::from_utf8_lossy(&packet.data).into_owned();
                        }
                    }
                    let took = played.elapsed().saturating_sub(lag.so_far());
                    *kept.lock().unwrap() = Some((last, took));
                    Err(Status::unknown("failed to load the context"))
                }
            })
            .start();
        let tree = MemoryTree::new().dir("d").file("f", "content");
        let context = buildkit_client::request::Local::Tree(Arc::new(tree));
        let build = fake.client().solve(frontend()).local("context", context);
        let done = tokio::time::timeout(Duration::from_secs(20), build.into_future()).await.expect("no hang");
        let (last, took) = told.lock().unwrap().take().expect("the script was played");
        assert!(last.contains(says), "{name}: {last}");
        assert!(took < Duration::from_secs(1), "{name}: {took:?}");
        let report = done.unwrap_err().report();
        assert!(report.contains(says), "{name}: {report}");
    }
}

#[tokio::test]
async fn f35_ghsa_g2h8_426c_7976_paths_that_lead_outside_are_refused() {
    let long = "n".repeat(300);
    for (name, script) in [
        ("bare dotdot", vec![dir(".."), end()]),
        ("a file called dotdot", vec![file("..", 0), end()]),
        ("dotdot", vec![file("../evil", 0), end()]),
        ("inner dotdot", vec![dir("a"), file("a/../../evil", 0), end()]),
        ("trailing dotdot", vec![dir("a"), dir("a/.."), end()]),
        ("dot", vec![dir("."), end()]),
        ("inner dot", vec![dir("a"), file("a/./evil", 0), end()]),
        ("absolute", vec![file("/evil", 0), end()]),
        ("double slash", vec![dir("a"), file("a//evil", 0), end()]),
        ("trailing slash", vec![dir("a/"), end()]),
        ("empty", vec![file("", 0), end()]),
        ("NUL", vec![file("evil\0", 0), end()]),
        ("long name", vec![file(&long, 0), end(), data(0, b"")]),
        ("child of a link", vec![link("l", "../outside"), file("l/evil", 0), end()]),
        ("child of a file", vec![file("f", 0), file("f/evil", 0), end()]),
        ("parent not sent", vec![file("a/evil", 0), end()]),
        ("out of order", vec![file("b", 0), file("a", 0), end()]),
        ("twice", vec![dir("a"), dir("a"), end()]),
        ("hard link outside", vec![entry("h", 0o644, 0, "../outside/canary"), end()]),
        ("hard link to an absolute path", vec![entry("h", 0o644, 0, "/etc/passwd"), end()]),
        ("hard link to a link", vec![link("a", "../outside/canary"), entry("h", 0o644, 0, "a"), end()]),
    ] {
        let outer = tempfile::tempdir().unwrap();
        let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "intact").unwrap();
        let (answer, done) = hostile_export(&dest, WriteOptions::default(), raw(script)).await;
        done.expect_err(name);
        assert!(answer.took < Duration::from_secs(1), "{name}: {answer:?}");
        assert_eq!(answer.last.map(|packet| packet.r#type), Some(4), "{name}: the daemon is told");
        assert_eq!(listing(&outside), ["canary = intact"], "{name}");
        assert!(listing(&dest).iter().all(|line| !line.contains("evil") && !line.contains(".tmp")), "{name}");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2, "{name}");
    }
}

/// Row F35 once more, and what went wrong in tar readers: modes are not set through links.
#[tokio::test]
async fn f35_rustsec_2026_0067_links_planted_in_the_destination_are_replaced_not_followed() {
    let outer = tempfile::tempdir().unwrap();
    let (dest, outside) = (outer.path().join("dest"), outer.path().join("outside"));
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir(&dest).unwrap();
    std::fs::write(outside.join("canary"), "intact").unwrap();
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
    };
    let (dir_mode, file_mode) = (mode(&outside), mode(&outside.join("canary")));
    symlink("../outside", dest.join("d")).unwrap();
    symlink("../outside/canary", dest.join("f")).unwrap();
    symlink("../outside/canary", dest.join("s")).unwrap();
    let script = vec![
        entry("d", 1 << 31 | 0o700, 0, ""),
        file("d/canary", 4),
        entry("f", 0o600, 4, ""),
        link("s", "../outside/canary"),
        end(),
        data(1, b"mine"),
        data(1, b""),
        data(2, b"mine"),
        data(2, b""),
    ];
    let (answer, _) = hostile_export(&dest, WriteOptions::default(), raw(script)).await;
    assert!(answer.status.is_none(), "{answer:?}");
    assert_eq!(listing(&outside), ["canary = intact"]);
    assert_eq!(
        (mode(&outside), mode(&outside.join("canary"))),
        (dir_mode, file_mode),
        "modes outside are as before"
    );
    assert_eq!(listing(&dest), ["d/", "d/canary = mine", "f = mine", "s -> ../outside/canary"]);
}

#[tokio::test]
async fn f37_devices_and_privileges_are_refused_unless_asked_for() {
    let device = || entry("null", 1 << 26 | 1 << 21 | 0o666, 0, "");
    let out = tempfile::tempdir().unwrap();
    let (_, done) = hostile_export(out.path(), WriteOptions::default(), raw(vec![device(), end()])).await;
    let report = done.unwrap_err().report();
    assert!(report.contains("\"null\"") && report.contains("devices are not created"), "{report}");
    assert!(listing(out.path()).is_empty());
    let skip = WriteOptions { devices: Devices::Skip, ..WriteOptions::default() };
    hostile_export(out.path(), skip, raw(vec![device(), end()])).await.1.unwrap();
    assert!(listing(out.path()).is_empty());

    let privileged = || {
        let mut su = entry("su", 1 << 23 | 1 << 22 | 0o755, 3, "");
        if let Some(stat) = &mut su.stat {
            stat.xattrs.insert(
                "security.capability".into(),
                Bytes::from_static(b"\x01\0\0\x02\x00\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            );
        }
        raw(vec![su, end(), data(0, b"elf"), data(0, b"")])
    };
    let mode = || {
        std::os::unix::fs::PermissionsExt::mode(&out.path().join("su").metadata().unwrap().permissions())
            & 0o7000
    };
    hostile_export(out.path(), WriteOptions::default(), privileged()).await.1.unwrap();
    assert_eq!(mode(), 0);
    let names = |path: &Path| {
        let mut names = Vec::with_capacity(1024);
        let _ = rustix::fs::listxattr(path, rustix::buffer::spare_capacity(&mut names));
        String::from_utf8_lossy(&names).into_owned()
    };
    assert!(!names(&out.path().join("su")).contains("security.capability"));
    let keep = WriteOptions { preserve_setid: true, ..WriteOptions::default() };
    hostile_export(out.path(), keep, privileged()).await.1.unwrap();
    assert_eq!(mode(), 0o6000);
}

fn sha256(content: &[u8]) -> String {
    buildkit_llb::Digest::of(content).to_string()
}

fn named<T>(store: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-attachable-store-id", store.parse().unwrap());
    request
}

#[tokio::test]
async fn f40_input_layouts_are_read_only() {
    let layout = tempfile::tempdir().unwrap();
    let content = b"a blob";
    let digest = sha256(content);
    let blob = layout.path().join("blobs/sha256").join(&digest[7..]);
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(&blob, content).unwrap();
    std::fs::write(layout.path().join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    let before = listing(layout.path());
    let asked = digest.clone();
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let digest = asked.clone();
            async move {
                let mut store = ContentClient::new(solve.session().await?.channel());
                let read = ReadContentRequest { digest: digest.clone(), ..Default::default() };
                let mut chunks = store.read(named("oci:layout", read)).await?.into_inner();
                assert_eq!(&chunks.next().await.unwrap()?.data[..], b"a blob");
                let denied = |answer: Result<(), Status>| {
                    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
                };
                let delete = DeleteContentRequest { digest: digest.clone() };
                denied(store.delete(named("oci:layout", delete)).await.map(drop));
                let update = UpdateRequest {
                    info: Some(Info { digest: digest.clone(), ..Default::default() }),
                    ..Default::default()
                };
                denied(store.update(named("oci:layout", update)).await.map(drop));
                denied(store.abort(named("oci:layout", AbortRequest { r#ref: "x".into() })).await.map(drop));
                let write = WriteContentRequest {
                    action: WriteAction::Commit.into(),
                    r#ref: "x".into(),
                    data: "evil".into(),
                    ..Default::default()
                };
                let written = match store.write(named("oci:layout", futures::stream::iter([write]))).await {
                    Ok(answers) => answers.into_inner().next().await.unwrap().map(drop),
                    Err(status) => Err(status),
                };
                denied(written);
                // Digests are no paths, and other stores are not there.
                for odd in ["sha256:../../index.json", "../../../etc/passwd", "sha256:", ""] {
                    let status = store
                        .info(named("oci:layout", InfoRequest { digest: odd.into() }))
                        .await
                        .unwrap_err();
                    assert_eq!(status.code(), Code::InvalidArgument, "{odd}");
                }
                for other in ["export", "local:/etc", "oci:other", "oci:../layout"] {
                    let status =
                        store.info(named(other, InfoRequest { digest: digest.clone() })).await.unwrap_err();
                    assert_eq!(status.code(), Code::NotFound, "{other}");
                }
                Ok(SolveResponse::default())
            }
        })
        .start();
    let build = fake.client().solve(frontend()).oci_layout("layout", layout.path());
    let solved = tokio::time::timeout(Duration::from_secs(20), build.into_future()).await.unwrap().unwrap();
    assert_eq!(listing(layout.path()), before, "the layout is as it was");
    assert!(solved.refused_requests().len() >= 8, "{:?}", solved.refused_requests());
}

#[tokio::test]
async fn f40_exported_blobs_are_checked_by_digest_and_size() {
    let out = tempfile::tempdir().unwrap();
    let good = sha256(b"content");
    let expected = good.clone();
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let good = expected.clone();
            async move {
                let mut store = ContentClient::new(solve.session().await?.channel());
                let mut write = async |name: &str,
                                       expected: &str,
                                       total: i64,
                                       data: &'static [u8]|
                       -> Result<(), Status> {
                    let commit = WriteContentRequest {
                        action: WriteAction::Commit.into(),
                        r#ref: name.to_owned(),
                        expected: expected.to_owned(),
                        total,
                        data: Bytes::from_static(data),
                        ..Default::default()
                    };
                    let mut answers =
                        store.write(named("export", futures::stream::iter([commit]))).await?.into_inner();
                    answers.next().await.unwrap_or_else(|| Err(Status::aborted("no answer"))).map(drop)
                };
                write("wrong digest", &good, 7, b"contenT").await.unwrap_err();
                write("wrong size", &good, 9, b"content").await.unwrap_err();
                write("odd digest", "sha256:../../../evil", 4, b"evil").await.unwrap_err();
                write("../../evil", &sha256(b"named"), 5, b"named").await?;
                write("good", &good, 7, b"content").await?;
                Err(Status::unknown("enough"))
            }
        })
        .start();
    let build = fake.client().solve(frontend()).export(Export::oci_dir(out.path().join("layout")));
    let _ = tokio::time::timeout(Duration::from_secs(20), build.into_future()).await.unwrap();
    let all = listing(out.path());
    let blobs: Vec<_> = all.iter().filter(|line| line.contains(" = ")).collect();
    assert!(
        blobs.iter().any(|line| line.ends_with(" = content"))
            && blobs.iter().any(|line| line.ends_with(" = named")),
        "{all:?}"
    );
    assert!(
        !all.iter().any(|line| line.contains("evil") || line.contains("contenT") || line.contains("ingest")),
        "{all:?}"
    );
}
