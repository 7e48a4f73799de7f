//! Rows F27 to F33: a failed or cancelled export leaves the destination as it was.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::large_stack_arrays, reason = "a file's content reads best as an array")]

use buildkit_client::Error;
use buildkit_client::connect::Liveness;
use buildkit_client::error::{BoxError, RequestError};
use buildkit_client::export::{Export, Output, TreeSink};
use buildkit_client::request::Frontend;
use buildkit_fsutil::disk_writer::WriteOptions;
use buildkit_proto::control::SolveResponse;
use buildkit_proto::filesync::RawMessage;
use buildkit_proto::fsutil::packet::PacketType;
use buildkit_proto::fsutil::{Packet, Stat};
use buildkit_tests::fake::{Entry, FakeBuildKit, Fault, Faults, Solve};
use buildkit_tests::lag::Lag;
use futures::StreamExt as _;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Status;

fn frontend() -> Frontend {
    Frontend::new("dockerfile.v0")
}

fn entry(path: &str, mode: u32, data: Option<&[u8]>) -> Entry {
    let size = data.map_or(0, |data| i64::try_from(data.len()).unwrap());
    let stat = Stat { path: path.to_owned().into(), mode, size, ..Stat::default() };
    Entry { stat, data: data.map(|data| data.to_vec().into()) }
}

const DIR: u32 = 1 << 31;

fn tree() -> Vec<Entry> {
    vec![
        entry("d", DIR | 0o777, None),
        entry("d/f", 0o666, Some(&[b'n'; 200_000])),
        entry("run", 0o777, Some(b"#!/bin/sh")),
    ]
}

/// Everything below a directory.
fn listing(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for found in std::fs::read_dir(&dir).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            out.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
    out.sort();
    out
}

async fn within<T>(seconds: u64, what: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what.into_future()).await.expect("no hang")
}

#[tokio::test]
async fn f27_unusable_destinations_are_found_before_the_build_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "old").unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    let cases: [(Export, io::ErrorKind); 9] = [
        (Export::local(at("file")).into(), io::ErrorKind::NotADirectory),
        (Export::local(at("file/below")).into(), io::ErrorKind::NotADirectory),
        (Export::local(at("dangling")).into(), io::ErrorKind::NotFound),
        (Export::local(at("dangling/below")).into(), io::ErrorKind::NotFound),
        (Export::tar(at("dir")).into(), io::ErrorKind::IsADirectory),
        (Export::tar(at("no/such/dir/x.tar")).into(), io::ErrorKind::NotFound),
        (Export::oci(at("file/x.tar")).into(), io::ErrorKind::NotADirectory),
        (Export::oci_dir(at("file")).into(), io::ErrorKind::NotADirectory),
        // A file system that nobody can write to, not even root.
        (Export::tar(PathBuf::from("/proc/x.tar")).into(), io::ErrorKind::NotFound),
    ];
    let fake = FakeBuildKit::script().start();
    for (export, kind) in cases {
        let shown = format!("{export:?}");
        let error = within(10, fake.client().solve(frontend()).export(export)).await.unwrap_err();
        assert!(!error.may_have_run(), "{shown}");
        let report = error.report();
        let Error::Request(RequestError::Path { source, path, .. }) = error else {
            panic!("{shown}: {report}")
        };
        assert_eq!(source.kind(), kind, "{shown}");
        assert!(report.contains(&path.display().to_string()), "{report}");
    }
    assert!(fake.solves().is_empty(), "nothing was sent");
    assert_eq!(listing(dir.path()), ["dangling", "dir", "file"]);
}

async fn send_tree(solve: Solve) -> Result<SolveResponse, Status> {
    solve.session().await?.export_tree(0, &tree()).await?;
    Ok(SolveResponse::default())
}

async fn send_file(solve: Solve) -> Result<SolveResponse, Status> {
    let piece = vec![7; 200_000];
    solve.session().await?.export_file(0, &[&piece, &piece, &piece]).await?;
    Ok(SolveResponse::default())
}

/// A program of its own exports in a namespace of its own, where the destination is a full disk.
async fn export_to_small_disk(action: &str, dir: &Path, to: &Path) -> Option<String> {
    let fake = match action {
        "dir" => FakeBuildKit::script().on_solve(|solve| async move {
            let big = [entry("a", 0o644, Some(b"small")), entry("big", 0o644, Some(&vec![1; 2 << 20]))];
            solve.session().await?.export_tree(0, &big).await?;
            Ok(SolveResponse::default())
        }),
        _ => FakeBuildKit::script().on_solve(|solve| async move {
            let piece = vec![7; 500_000];
            solve.session().await?.export_file(0, &[&piece, &piece, &piece, &piece]).await?;
            Ok(SolveResponse::default())
        }),
    }
    .start();
    let address = format!("tcp://{}", fake.listen().await.unwrap());
    // What the disk holds afterwards is copied out, for nobody else sees it.
    let script = "mount -t tmpfs -o size=1m none \"$1\" && echo old > \"$1/keep.tar\" && echo old > \"$1/a\" || exit 77
                  \"$2\" \"$3\" \"$4\" \"$5\"; ls -A \"$1\" > \"$1.after\"; cat \"$1/keep.tar\" >> \"$1.after\"";
    let run = tokio::process::Command::new("unshare")
        .args(["--mount", "--", "sh", "-c", script, "sh"])
        .args([
            dir.as_os_str(),
            env!("CARGO_BIN_EXE_transfer").as_ref(),
            address.as_ref(),
            action.as_ref(),
            to.as_os_str(),
        ])
        .stdin(Stdio::null())
        .output();
    let output = within(30, run).await.ok().filter(|output| !matches!(output.status.code(), Some(1 | 77)))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(said.trim_end().split_once('\t').unwrap_or_else(|| panic!("{output:?}")).1.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_full_disk_is_the_error_and_leaves_what_was_there() {
    for (action, file, named) in [("dir", "", "\"big\""), ("tar", "keep.tar", "keep.tar")] {
        let outer = tempfile::tempdir().unwrap();
        let disk = outer.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let Some(ended) = export_to_small_disk(action, &disk, &disk.join(file)).await else {
            println!(
                "SKIPPED: no file system can be mounted here; the double in buildkit-fsutil does it all the same"
            );
            return;
        };
        assert!(ended.starts_with("cannot write export 0"), "{ended}");
        assert!(ended.contains("No space left on device") && ended.contains(named), "{ended}");
        let after = std::fs::read_to_string(outer.path().join("disk.after")).unwrap();
        assert_eq!(after, "a\nkeep.tar\nold\n", "{action}: nothing half written, the old bytes kept");
    }
}

#[tokio::test]
async fn f28_errors_of_a_device_come_first_and_keep_the_daemons_words() {
    let fake = FakeBuildKit::script().on_solve(send_file).start();
    let error =
        within(10, fake.client().solve(frontend()).export(Export::tar("/dev/full"))).await.unwrap_err();
    let report = error.report();
    assert!(report.starts_with("cannot write export 0 (tar) to /dev/full: "), "{report}");
    assert!(report.contains("No space left on device"), "{report}");
    let Error::Local(local) = error else { panic!("{report}") };
    assert!(local.daemon_error().is_some());
}

/// The daemon claims success although the client told it that writing failed.
#[tokio::test]
async fn f28_success_that_the_daemon_only_claims_is_no_success() {
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let _ = send_file(solve).await;
            Ok(SolveResponse::default())
        })
        .start();
    let error =
        within(10, fake.client().solve(frontend()).export(Export::tar("/dev/full"))).await.unwrap_err();
    assert!(error.report().contains("No space left on device"), "{}", error.report());
}

#[tokio::test]
async fn f29_failed_build_leaves_what_it_would_have_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keep");
    for export in [Export::tar(&path).into(), Export::oci(&path).into(), Export::from(Export::docker(&path))]
    {
        std::fs::write(&path, "old").unwrap();
        let fake = FakeBuildKit::script()
            .on_solve(|solve| async move {
                send_file(solve).await?;
                Err(Status::unknown("and then it failed"))
            })
            .start();
        let error = within(10, fake.client().solve(frontend()).export(export)).await.unwrap_err();
        assert!(error.to_string().contains("and then it failed"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(listing(dir.path()), ["keep"]);
    }
    let fake = FakeBuildKit::script()
        .on_solve(|_| async { Err(Status::unknown("before anything was sent")) })
        .start();
    within(10, fake.client().solve(frontend()).export(Export::local(dir.path()))).await.unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(listing(dir.path()), ["keep"]);
}

/// The link breaks after every so many bytes.
#[tokio::test]
async fn f30_cut_links_leave_nothing_half_written() {
    for kind in ["tar", "local"] {
        let mut cuts = 0;
        for cut in (1_000..640_000_u64).step_by(16_000) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("run"), "old").unwrap();
            let fake = FakeBuildKit::script();
            let fake =
                if kind == "tar" { fake.on_solve(send_file) } else { fake.on_solve(send_tree) }.start();
            let faults = Faults::default();
            faults.reading(Fault::ResetAt(cut));
            let client = fake.client_with(&faults, Liveness::default());
            let build = client.solve(frontend());
            let build = if kind == "tar" {
                build.export(Export::tar(dir.path().join("run")))
            } else {
                build.export(Export::local(dir.path()))
            };
            let done = within(10, build).await;
            cuts += usize::from(done.is_err());
            let (ended, lag) = (Instant::now(), Lag::measure());
            while listing(dir.path()).iter().any(|name| name.contains(".tmp") || name.starts_with(".run")) {
                assert!(
                    ended.elapsed() < Duration::from_secs(1) + lag.so_far(),
                    "{kind} {cut}: {:?}",
                    listing(dir.path())
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let run = std::fs::read(dir.path().join("run")).unwrap();
            let whole = run == b"old" || run == b"#!/bin/sh" || run.len() == 600_000;
            assert!(whole, "{kind} {cut}: {} bytes", run.len());
            if kind == "tar" && done.is_err() {
                assert_eq!(run, b"old", "{cut}");
            }
            if let Ok(half) = std::fs::read(dir.path().join("d/f")) {
                assert_eq!(half.len(), 200_000, "{cut}");
            }
        }
        assert!(cuts > 10, "{kind}: {cuts} builds were cut");
    }
}

#[tokio::test]
async fn f30_cancelled_export_takes_its_temporary_files_back() {
    for kind in ["tar", "local"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("run"), "old").unwrap();
        let fake = FakeBuildKit::script()
            .on_solve(|solve| async move {
                let session = solve.session().await?;
                let (out, _answers) = session.export(0, &[]).await?;
                let stat = entry("run", 0o644, Some(&[0; 9])).stat;
                for packet in [
                    Packet { stat: Some(stat), ..Packet::default() },
                    Packet::default(),
                    Packet {
                        r#type: PacketType::PacketData.into(),
                        data: "half".into(),
                        ..Packet::default()
                    },
                ] {
                    let _ = out.send(RawMessage::of(&packet)).await;
                }
                std::future::pending().await
            })
            .start();
        let build = fake.client().solve(frontend());
        let export: Export = if kind == "tar" {
            Export::tar(dir.path().join("run")).into()
        } else {
            Export::local(dir.path()).into()
        };
        let build = build.export(export).start();
        let started = Instant::now();
        while listing(dir.path()).len() < 2 {
            assert!(started.elapsed() < Duration::from_secs(60), "{kind}: nothing is being written");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (dropped, lag) = (Instant::now(), Lag::measure());
        drop(build);
        while listing(dir.path()) != ["run"] {
            assert!(
                dropped.elapsed() < Duration::from_secs(1) + lag.so_far(),
                "{kind}: {:?}",
                listing(dir.path())
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(std::fs::read(dir.path().join("run")).unwrap(), b"old");
    }
}

/// A program of its own, because the umask belongs to the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_umask_of_the_process_is_honoured() {
    for (umask, dir_mode, file_mode, run_mode) in [("077", 0o700, 0o600, 0o700), ("027", 0o750, 0o640, 0o750)]
    {
        let out = tempfile::tempdir().unwrap();
        let fake = FakeBuildKit::script()
            .on_solve(|solve| async move {
                let tar = solve.request.exporters[0].r#type == "tar";
                if tar { send_file(solve).await } else { send_tree(solve).await }
            })
            .start();
        let address = format!("tcp://{}", fake.listen().await.unwrap());
        for (action, to) in [("dir", "tree"), ("tar", "x.tar")] {
            let run = tokio::process::Command::new("sh")
                .args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask, env!("CARGO_BIN_EXE_transfer")])
                .args([address.as_ref(), action.as_ref(), out.path().join(to).as_os_str()])
                .stdin(Stdio::null())
                .output();
            let output = within(30, run).await.unwrap();
            assert!(String::from_utf8_lossy(&output.stdout).ends_with("\tok\n"), "{output:?}");
        }
        let mode = |path: &str| out.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("tree/d"), mode("tree/d/f"), mode("tree/run"), mode("x.tar")),
            (dir_mode, file_mode, run_mode, file_mode),
            "umask {umask}"
        );
    }
}

#[tokio::test]
async fn f31_modes_are_kept_when_asked_for() {
    let out = tempfile::tempdir().unwrap();
    let fake = FakeBuildKit::script().on_solve(send_tree).start();
    let options = WriteOptions { ignore_umask: true, ..WriteOptions::default() };
    let export = Export::local(out.path()).write_options(options);
    within(10, fake.client().solve(frontend()).export(export)).await.unwrap();
    let mode = |path: &str| out.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("d"), mode("d/f"), mode("run")), (0o777, 0o666, 0o777));
}

#[tokio::test]
async fn f32_pipe_that_nobody_reads_any_more_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let fake = FakeBuildKit::script().on_solve(send_file).start();
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            let mut some = [0; 1000];
            io::Read::read_exact(&mut std::fs::File::open(pipe).unwrap(), &mut some).unwrap();
        })
    };
    let error = within(10, fake.client().solve(frontend()).export(Export::tar(&pipe))).await.unwrap_err();
    reader.join().unwrap();
    let report = error.report();
    assert!(
        report.starts_with("cannot write export 0 (tar) to ") && report.contains("Broken pipe"),
        "{report}"
    );

    // A pipe of the caller's own.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let writer = tokio::net::unix::pipe::Sender::from_owned_fd(writer.into()).unwrap();
    let error = within(10, fake.client().solve(frontend()).export(Export::tar(Output::writer(writer)))).await;
    assert!(error.unwrap_err().report().contains("Broken pipe"));
}

/// A pipe that nobody has opened for reading yet is waited for, but not by a thread that cannot be called back.
#[test]
fn f32_pipe_that_nobody_reads_yet_does_not_hold_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let fake = FakeBuildKit::script().on_solve(send_file).start();
        let build = fake.client().solve(frontend()).export(Export::tar(&pipe)).start();
        fake.wait_until(|fake| !fake.sessions().is_empty()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        build.cancel();
        assert!(matches!(within(3, build).await, Err(Error::Canceled)));
    });
    let (dropped, lag) = (Instant::now(), Lag::measure());
    drop(runtime);
    assert!(
        dropped.elapsed() < Duration::from_secs(1) + lag.so_far(),
        "a thread held the runtime for {:?}",
        dropped.elapsed()
    );
}

#[tokio::test]
async fn f33_each_failed_export_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.tar");
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let piece = vec![7; 300_000];
            session.export_file(0, &[&piece]).await?;
            let one = session.export_file(1, &[&piece, &piece]).await;
            let two = session.export_tree(2, &tree()).await;
            let failed =
                [one, two].into_iter().filter_map(Result::err).map(|status| status.message().to_owned());
            Err(Status::unknown(format!("failed to export: {}", failed.collect::<Vec<_>>().join("; "))))
        })
        .start();
    let build = fake.client().solve(frontend()).export(Export::tar(&good)).export(Export::tar("/dev/full"));
    let error = within(10, build.export(Export::tree(Refusing))).await.unwrap_err();
    let report = error.report();
    assert!(report.contains("cannot write export 1 (tar) to /dev/full"), "{report}");
    let Error::Local(local) = error else { panic!("{report}") };
    let others = local.daemon_error().unwrap().others();
    assert!(others.iter().any(|other| other.contains("cannot write export 2 (local)")), "{others:?}");
    assert!(!good.exists(), "what went well does not count when the build has failed");
}

struct Refusing;

impl TreeSink for Refusing {
    fn entry(&self, _: &Stat) -> Result<(), BoxError> {
        Err("the sink is closed".into())
    }

    fn data(&self, _: &[u8], _: &[u8]) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A disk that is slow for a moment while tens of thousands of small entries arrive: they wait, the session lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_slow_disk_does_not_cost_the_session() {
    #[derive(Default)]
    struct Slow(AtomicUsize);
    struct Shared(Arc<Slow>);
    impl TreeSink for Shared {
        fn entry(&self, _: &Stat) -> Result<(), BoxError> {
            if self.0.0.fetch_add(1, Ordering::Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(1500));
            }
            Ok(())
        }

        fn data(&self, _: &[u8], _: &[u8]) -> Result<(), BoxError> {
            Ok(())
        }
    }
    const ENTRIES: usize = 60_000;
    let slow = Arc::new(Slow::default());
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let (out, mut answers) = solve.session().await?.export(0, &[]).await?;
            let say = async |packet: Packet| {
                let _ = out.send(RawMessage::of(&packet)).await;
                // Each in a frame of its own, as the real daemon sends them.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            };
            for at in 0..ENTRIES {
                let stat = Some(entry(&format!("d{at:05}"), DIR, None).stat);
                say(Packet { stat, ..Packet::default() }).await;
            }
            say(Packet::default()).await;
            while let Some(answer) = answers.next().await {
                if answer?.decode_as::<Packet>().is_ok_and(|packet| packet.r#type() == PacketType::PacketFin)
                {
                    say(Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() }).await;
                }
            }
            Ok(SolveResponse::default())
        })
        .start();
    let build = fake.client().solve(frontend()).export(Export::tree(Shared(Arc::clone(&slow))));
    // Without the window it ends with an error after seconds; that it ends is what matters on a busy machine.
    within(600, build).await.unwrap();
    assert_eq!(slow.0.load(Ordering::Relaxed), ENTRIES);
}
