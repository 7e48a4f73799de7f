//! Row F34: a daemon that opens calls without end and does not read them gets a few at a time. What the rest of the
//! program needs, its threads and files, is left to it.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buildkit_client::export::Export;
use buildkit_client::request::{Frontend, Local};
use buildkit_client::session::ssh::{Ssh, SshSource};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_proto::control::SolveResponse;
use buildkit_proto::sshforward::BytesMessage;
use buildkit_proto::sshforward::ssh_client::SshClient;
use buildkit_tests::fake::FakeBuildKit;
use futures::StreamExt as _;
use tokio::time::{sleep, timeout};
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
async fn until(wanted: impl Fn() -> bool) {
    timeout(PATIENCE, async {
        while !wanted() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[test]
fn f34_transfers_that_nobody_reads_leave_the_program_its_threads() {
    const ENTRIES: usize = 80_000;
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(60).enable_all().build().unwrap();
    runtime.block_on(async {
        let looked_at = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&looked_at);
        let fake = FakeBuildKit::script()
            .on_solve(move |solve| {
                let looked = Arc::clone(&looked);
                async move {
                    let session = solve.session().await?;
                    let mut open = Vec::new();
                    for _ in 0..200 {
                        open.push(session.transfer("context", &[]).await?);
                    }
                    looked.store(1, Ordering::Relaxed);
                    while looked.load(Ordering::Relaxed) == 1 {
                        sleep(Duration::from_millis(5)).await;
                    }
                    // Those that were waiting run once the others are gone.
                    let mut last = open.pop().ok_or_else(|| Status::internal("none"))?;
                    drop(open);
                    let mut entries = 0;
                    while let Some(packet) = last.packets.next().await {
                        match packet?.stat {
                            Some(_) => entries += 1,
                            None => break,
                        }
                    }
                    assert_eq!(entries, ENTRIES);
                    Ok(SolveResponse::default())
                }
            })
            .start();
        let tree = (0..ENTRIES).fold(MemoryTree::new(), |tree, at| tree.dir(format!("a-directory-{at}")));
        let build =
            fake.client().solve(Frontend::new("dockerfile.v0")).local("context", Local::Tree(Arc::new(tree)));
        let build = build.start();
        until(|| looked_at.load(Ordering::Relaxed) == 1).await;
        sleep(Duration::from_millis(100)).await;
        timeout(PATIENCE, tokio::task::spawn_blocking(|| ()))
            .await
            .expect("a thread for something else")
            .unwrap();
        looked_at.store(2, Ordering::Relaxed);
        timeout(PATIENCE, build).await.unwrap().unwrap_or_else(|error| panic!("{}", error.report()));
    });
}

#[test]
fn f34_trees_that_never_come_to_an_end_leave_the_program_its_threads() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(60).enable_all().build().unwrap();
    runtime.block_on(async {
        let state = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&state);
        let fake = FakeBuildKit::script()
            .on_solve(move |solve| {
                let looked = Arc::clone(&looked);
                async move {
                    let session = solve.session().await?;
                    let mut open = Vec::new();
                    for _ in 0..200 {
                        open.push(session.export(0, &[]).await?);
                    }
                    looked.store(1, Ordering::Relaxed);
                    while looked.load(Ordering::Relaxed) == 1 {
                        sleep(Duration::from_millis(5)).await;
                    }
                    drop(open);
                    session.export_tree(0, &[]).await?;
                    Ok(SolveResponse::default())
                }
            })
            .start();
        let out = tempfile::tempdir().unwrap();
        let build = fake.client().solve(Frontend::new("dockerfile.v0")).export(Export::local(out.path()));
        let build = build.start();
        until(|| state.load(Ordering::Relaxed) == 1).await;
        sleep(Duration::from_millis(100)).await;
        timeout(PATIENCE, tokio::task::spawn_blocking(|| ()))
            .await
            .expect("a thread for something else")
            .unwrap();
        state.store(2, Ordering::Relaxed);
        // That most of the trees were left half way is an error of the build, not a hang.
        let done = timeout(PATIENCE, build).await.unwrap();
        assert!(done.is_err());
    });
}

#[cfg(unix)]
#[tokio::test]
async fn f34_connections_to_an_agent_are_limited_and_the_rest_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, highest) = (Arc::clone(&open), Arc::clone(&most));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (now, highest) = (Arc::clone(&now), Arc::clone(&highest));
            highest.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                now.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let fake = FakeBuildKit::script()
        .on_solve(|solve| async move {
            let session = solve.session().await?;
            let calls = (0..200).map(|at| {
                let channel = session.channel();
                async move {
                    let (out, messages) = tokio::sync::mpsc::channel(1);
                    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
                    let mut ssh = SshClient::new(channel);
                    let mut answers = ssh.forward_agent(messages).await?.into_inner();
                    let said = BytesMessage { data: format!("hello {at}").into() };
                    let _ = out.send(said.clone()).await;
                    let answer = answers.next().await.ok_or_else(|| Status::aborted("no echo"))??;
                    assert_eq!(answer.data, said.data);
                    sleep(Duration::from_millis(20)).await;
                    Ok::<_, Status>(())
                }
            });
            futures::future::try_join_all(calls).await?;
            Ok(SolveResponse::default())
        })
        .start();
    let ssh = Ssh::load([("default", SshSource::raw(&path))]).await.unwrap();
    let build = fake.client().solve(Frontend::new("dockerfile.v0")).attach(ssh);
    timeout(PATIENCE, build.into_future())
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{}", error.report()));
    until(|| open.load(Ordering::Relaxed) == 0).await;
    let most = most.load(Ordering::Relaxed);
    assert!((2..=64).contains(&most), "{most} connections at once");
}
