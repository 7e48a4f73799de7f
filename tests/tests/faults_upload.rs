//! Rows F14 to F23b: what reaches the daemon is what was on disk, or the build fails and names the file.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::large_stack_arrays, reason = "a file's content reads best as an array")]

#[path = "../../buildkit-fsutil/tests/support/mod.rs"]
mod support;

use buildkit_client::request::{Frontend, Local};
use buildkit_client::{Error, Solved};
use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::send::SendOptions;
use buildkit_fsutil::walk::WalkOptions;
use buildkit_proto::control::SolveResponse;
use buildkit_tests::fake::{Entry, FakeBuildKit};
use std::future::IntoFuture as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Faulty, Op};
use tonic::Status;

const EACCES: i32 = 13;
const EIO: i32 = 5;
const ESTALE: i32 = 116;

type Pulled = Result<Vec<Entry>, Status>;

/// Builds with a context that the daemon pulls whole. What it got, and how the build ended.
async fn upload(
    context: impl Into<Local>,
    options: SendOptions,
    headers: &[(&'static str, &str)],
) -> (Pulled, Result<Solved, Error>) {
    let got: Arc<Mutex<Option<Pulled>>> = Arc::default();
    let kept = Arc::clone(&got);
    let headers: Vec<(&'static str, String)> =
        headers.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let fake = FakeBuildKit::script()
        .on_solve(move |solve| {
            let (kept, headers) = (Arc::clone(&kept), headers.clone());
            async move {
                let headers: Vec<_> = headers.iter().map(|(key, value)| (*key, value.as_str())).collect();
                let pulled = solve.session().await?.pull_with("context", &headers).await;
                let failed = pulled.as_ref().err().map(|status| status.message().to_owned());
                *kept.lock().unwrap() = Some(pulled);
                // The real daemon's words: they do not help anybody.
                match failed {
                    None => Ok(SolveResponse::default()),
                    Some(text) => {
                        Err(Status::unknown(format!("failed to load cache key: error from sender: {text}")))
                    }
                }
            }
        })
        .start();
    let build =
        fake.client().solve(Frontend::new("dockerfile.v0")).local("context", context).send_options(options);
    let done = tokio::time::timeout(Duration::from_secs(30), build.into_future()).await.expect("no hang");
    fake.wait_until(|fake| fake.sessions().is_empty()).await;
    assert_eq!(fake.solves().len(), 1, "a build is not repeated in silence");
    let got = got.lock().unwrap().take().expect("the daemon was asked");
    (got, done)
}

fn disk(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

fn open(path: &Path) -> Directory {
    Directory::open(path).unwrap()
}

/// A context whose calls fail, or do things to it, by a rule.
fn faulty(dir: &Path, rule: impl FnMut(Op, &[u8]) -> Option<io::Error> + Send + 'static) -> Local {
    Local::Tree(Faulty::new(open(dir), rule))
}

fn paths(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.stat.path).into_owned()).collect()
}

/// The daemon was told, and the build's error starts with what happened here.
#[track_caller]
fn fails_naming(got: Pulled, done: Result<Solved, Error>, what: &str, cause: &str) {
    let told = got.expect_err("the daemon must not get a tree");
    assert!(told.message().contains(what) && told.message().contains(cause), "{told:?}");
    let error = done.expect_err("the build must fail");
    let report = error.report();
    assert!(report.starts_with("cannot send local directory \"context\": "), "{report}");
    assert!(report.contains(what) && report.contains(cause), "{report}");
    let Error::Local(local) = error else { panic!("{report}") };
    assert!(local.daemon_error().is_some(), "what the daemon made of it is kept");
}

#[tokio::test]
async fn f14_unreadable_file_fails_the_build_and_is_named() {
    let dir = disk(&[("ok", b"1"), ("sub/secret", b"22")]);
    let closed = || {
        faulty(dir.path(), |op, path| {
            (op == Op::Open && path == b"sub/secret").then(|| io::Error::from_raw_os_error(EACCES))
        })
    };
    let (got, done) = upload(closed(), SendOptions::default(), &[]).await;
    fails_naming(got, done, "\"sub/secret\"", "Permission denied");

    let walk = WalkOptions { skip_unreadable: true, ..Default::default() };
    let (got, done) = upload(closed(), SendOptions { walk, ..Default::default() }, &[]).await;
    assert_eq!(paths(&got.unwrap()), ["ok", "sub"]);
    let solved = done.unwrap();
    let warnings: Vec<_> = solved.warnings().iter().map(|warning| warning.text().into_owned()).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("\"sub/secret\"") && warnings[0].contains("left out"), "{warnings:?}");
}

#[tokio::test]
async fn f14_unreadable_directory_fails_the_build_and_is_named() {
    let dir = disk(&[("a/b/c", b"1")]);
    let closed = faulty(dir.path(), |op, path| {
        (op == Op::OpenDir && path == b"a/b").then(|| io::Error::from_raw_os_error(EACCES))
    });
    let (got, done) = upload(closed, SendOptions::default(), &[]).await;
    fails_naming(got, done, "\"a/b\"", "Permission denied");
}

#[tokio::test]
async fn f15_file_removed_during_upload() {
    let dir = disk(&[("gone", b"content")]);
    let victim = dir.path().join("gone");
    let vanishing = faulty(dir.path(), move |op, path| {
        if op == Op::Open && path == b"gone" {
            std::fs::remove_file(&victim).unwrap();
        }
        None
    });
    let (got, done) = upload(vanishing, SendOptions::default(), &[]).await;
    fails_naming(got, done, "\"gone\"", "vanished while it was sent");
}

#[tokio::test]
async fn f15_file_removed_while_listing_can_be_left_out() {
    let dir = disk(&[("a", b"1"), ("gone", b"1"), ("z", b"1")]);
    let vanishing = || {
        let victim = dir.path().join("gone");
        std::fs::write(&victim, b"1").unwrap();
        faulty(dir.path(), move |op, path| {
            if op == Op::Entry && path == b"gone" {
                std::fs::remove_file(&victim).unwrap();
            }
            None
        })
    };
    let (got, done) = upload(vanishing(), SendOptions::default(), &[]).await;
    fails_naming(got, done, "\"gone\"", "No such file");
    let walk = WalkOptions { allow_vanished: true, ..Default::default() };
    let (got, done) = upload(vanishing(), SendOptions { walk, ..Default::default() }, &[]).await;
    assert_eq!(paths(&got.unwrap()), ["a", "z"]);
    done.unwrap();
}

/// Uploads one file of 300,000 bytes that is changed at its second read.
async fn changed_at_second_read(change: fn(&Path)) -> (Pulled, Result<Solved, Error>) {
    let dir = disk(&[("f", &[1; 300_000])]);
    let (victim, mut reads) = (dir.path().join("f"), 0);
    let changing = faulty(dir.path(), move |op, _| {
        if op == Op::Read {
            reads += 1;
            if reads == 2 {
                change(&victim);
            }
        }
        None
    });
    upload(changing, SendOptions::default(), &[]).await
}

#[tokio::test]
async fn f16_file_truncated_during_upload() {
    let cut = |path: &Path| std::fs::File::options().write(true).open(path).unwrap().set_len(40_000).unwrap();
    let (got, done) = changed_at_second_read(cut).await;
    fails_naming(got, done, "\"f\"", "became shorter while it was sent");
}

#[tokio::test]
async fn f16_file_grown_during_upload() {
    let grow = |path: &Path| {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        io::Write::write_all(&mut &file, &[2; 10]).unwrap();
    };
    let (got, done) = changed_at_second_read(grow).await;
    fails_naming(got, done, "\"f\"", "became longer while it was sent");
}

#[tokio::test]
async fn f17_file_rewritten_during_upload() {
    // Same size, and the time of modification put back.
    let rewrite = |path: &Path| {
        let modified = path.metadata().unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(path, [2; 300_000]).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    };
    let (got, done) = changed_at_second_read(rewrite).await;
    fails_naming(got, done, "\"f\"", "was modified while it was sent");
}

/// Two writers rewrite a file all the time. A write that has begun before the file is opened and ends while it is read
/// cannot be seen, because its time is that of its beginning; so what is asked for is that others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_two_writers_are_noticed() {
    const SIZE: usize = 400_000;
    let dir = disk(&[("f", &[b'a'; SIZE])]);
    let stop = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = [b'a', b'b']
        .map(|letter| {
            let (path, stop) = (dir.path().join("f"), Arc::clone(&stop));
            std::thread::spawn(move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    let file = std::fs::File::options().write(true).open(&path).unwrap();
                    io::Write::write_all(&mut &file, &vec![letter; SIZE]).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
        })
        .into_iter()
        .collect();
    let (mut whole, mut refused) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2)
        || refused == 0 && started.elapsed() < Duration::from_secs(20)
    {
        let (got, done) = upload(dir.path(), SendOptions::default(), &[]).await;
        if let Ok(entries) = got {
            assert_eq!(entries[0].data.as_ref().unwrap().len(), SIZE);
            whole += 1;
            done.unwrap();
        } else {
            let report = done.unwrap_err().report();
            assert!(report.contains("\"f\" of the context was modified"), "{report}");
            refused += 1;
        }
    }
    stop.store(1, Ordering::Relaxed);
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(refused > 0, "{whole} whole, {refused} refused");
}

#[tokio::test]
async fn f18_read_errors_fail_the_build_and_name_the_file() {
    let dir = disk(&[("sub/f", &[1; 100_000])]);
    for (errno, text) in [(EIO, "Input/output error"), (ESTALE, "Stale file handle")] {
        for op in [Op::Open, Op::Read, Op::Version] {
            let failing = faulty(dir.path(), move |called, path| {
                (called == op && path == b"sub/f").then(|| io::Error::from_raw_os_error(errno))
            });
            let (got, done) = upload(failing, SendOptions::default(), &[]).await;
            fails_naming(got, done, "\"sub/f\"", text);
        }
    }
    let mut calls = 0;
    let interrupted = faulty(dir.path(), move |_, _| {
        calls += 1;
        (calls % 2 == 1).then(|| io::ErrorKind::Interrupted.into())
    });
    let (got, done) = upload(interrupted, SendOptions::default(), &[]).await;
    assert_eq!(got.unwrap()[1].data.as_ref().unwrap().len(), 100_000);
    done.unwrap();
}

#[tokio::test]
async fn f19_file_swapped_during_upload() {
    type Swap = fn(&Path);
    let swaps: [(&str, Swap); 4] = [
        ("link", |path| symlink("/etc/passwd", path).unwrap()),
        ("link in a parent", |path| {
            let dir = path.parent().unwrap();
            std::fs::create_dir(dir).unwrap();
            std::fs::write(path, b"CANARY").unwrap();
            std::fs::rename(dir, dir.with_extension("outside")).unwrap();
            symlink(dir.with_extension("outside"), dir).unwrap();
        }),
        ("pipe", |path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
        }),
        ("another file", |path| std::fs::write(path, b"CANARY").unwrap()),
    ];
    for (name, swap) in swaps {
        let dir = disk(&[("sub/f", b"public")]);
        let victim = dir.path().join("sub/f");
        let swapping = faulty(dir.path(), move |op, path| {
            if op == Op::Open && path == b"sub/f" {
                // Kept under another name, so that its inode is not used again.
                let moved = if name == "link in a parent" { victim.parent().unwrap() } else { &victim };
                std::fs::rename(moved, moved.with_extension("old")).unwrap();
                swap(&victim);
            }
            None
        });
        let (got, done) = upload(swapping, SendOptions::default(), &[]).await;
        fails_naming(got, done, "\"sub/f\"", "was replaced by another file");
    }
}

#[tokio::test]
async fn f21_special_files_are_warned_of_or_refused() {
    let dir = disk(&[("plain", b"1")]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    let (got, done) = upload(dir.path(), SendOptions::default(), &[]).await;
    let got = got.unwrap();
    assert_eq!(paths(&got), ["pipe", "plain", "socket", "sparse"]);
    assert_eq!(got[0].stat.mode & 0o777_000_000 & !0o777, 1 << 25, "a pipe stays one");
    assert_eq!(
        (got[2].stat.mode & !0o777, got[2].data.as_deref()),
        (0, Some(&b""[..])),
        "a socket is an empty file"
    );
    assert!(got[3].data.as_ref().unwrap().iter().all(|byte| *byte == 0) && got[3].stat.size == 1 << 20);
    let solved = done.unwrap();
    let warnings: Vec<_> = solved.warnings().iter().map(|warning| warning.text().into_owned()).collect();
    assert_eq!(
        warnings,
        [
            "local directory \"context\": \"pipe\" is a named pipe",
            "local directory \"context\": \"socket\" is a socket"
        ]
    );
    let deny = SendOptions { deny_special: true, ..Default::default() };
    let (got, done) = upload(dir.path(), deny, &[]).await;
    fails_naming(got, done, "\"pipe\"", "is a named pipe, which is not to be sent");
}

#[tokio::test]
async fn f22_names_of_any_bytes_arrive_and_are_escaped_in_messages() {
    let names: [&[u8]; 5] =
        [b"\x1b[2Jclear", b"bad\xff\xfename.txt", b"line\nfeed", b"\xe2\x80\xaertl", b"\x01"];
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let (got, done) = upload(dir.path(), SendOptions::default(), &[]).await;
    let mut sent = names.to_vec();
    sent.sort_unstable();
    let got = got.unwrap();
    assert_eq!(got.iter().map(|entry| &entry.stat.path[..]).collect::<Vec<_>>(), sent);
    assert!(got.iter().all(|entry| entry.data.as_deref() == Some(&entry.stat.path[..])));
    done.unwrap();
    for name in names {
        let failing = faulty(dir.path(), move |op, path| {
            (op == Op::Open && path == name).then(|| io::Error::from_raw_os_error(EACCES))
        });
        let (_, done) = upload(failing, SendOptions::default(), &[]).await;
        let report = done.unwrap_err().report();
        let hidden = |c: char| c.is_control() || c == '\u{202e}';
        assert!(report.contains("cannot read \"") && !report.contains(hidden), "{report:?}");
    }
}

#[tokio::test]
async fn f23_followed_paths_end_and_never_leave_the_context() {
    let outer = disk(&[("canary", b"CANARY"), ("tree/a/f", b"inside"), ("tree/deep/x", b"x")]);
    let root = outer.path().join("tree");
    symlink("../canary", root.join("out")).unwrap();
    symlink("../../../../../../../../etc/passwd", root.join("far")).unwrap();
    symlink(outer.path().join("canary"), root.join("absolute")).unwrap();
    symlink("a/b", root.join("a/b")).unwrap();
    symlink("self/below", root.join("self")).unwrap();
    symlink("two", root.join("one")).unwrap();
    symlink("one", root.join("two")).unwrap();
    symlink("..", root.join("a/up")).unwrap();
    // A chain of links longer than any kernel would follow.
    for step in 0..300 {
        symlink(format!("chain{:03}", step + 1), root.join(format!("chain{step:03}"))).unwrap();
    }
    symlink("a/f", root.join("chain300")).unwrap();
    for follow in [
        "out",
        "far",
        "absolute",
        "a/b",
        "self",
        "self/x",
        "one/x",
        "a/up/a/up/a/f",
        "../canary",
        "/../canary",
        "chain000",
        "*",
        "a/*/a/*/f",
    ] {
        let (got, done) = upload(root.as_path(), SendOptions::default(), &[("followpaths", follow)]).await;
        for entry in got.unwrap() {
            assert!(!entry.stat.path.starts_with(b".."), "{follow}: {entry:?}");
            assert_ne!(entry.data.as_deref(), Some(&b"CANARY"[..]), "{follow}");
        }
        done.unwrap();
    }
    let (got, _) = upload(root.as_path(), SendOptions::default(), &[("followpaths", "chain000")]).await;
    let got = got.unwrap();
    assert_eq!(got.len(), 303, "the whole chain, the directory and the file at its end");
    assert!(got.iter().any(|entry| entry.data.as_deref() == Some(&b"inside"[..])));
}

#[tokio::test]
async fn f23b_fifty_thousand_patterns_arrive_and_are_applied() {
    let dir = disk(&[("keep", b"1"), ("ignored-49999", b"2"), ("ignored-0", b"3")]);
    let patterns: Vec<String> = (0..50_000).map(|number| format!("ignored-{number}")).collect();
    let headers: Vec<_> = patterns.iter().map(|pattern| ("exclude-patterns", pattern.as_str())).collect();
    let started = Instant::now();
    let (got, done) = upload(dir.path(), SendOptions::default(), &headers).await;
    assert_eq!(paths(&got.unwrap()), ["keep"]);
    done.unwrap();
    println!("50,000 patterns in {:?}", started.elapsed());
}
