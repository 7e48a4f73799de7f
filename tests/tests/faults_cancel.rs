//! Builds that are given up, at any point and in any way: rows F10 to F12 of the fault table.
#![allow(missing_docs, clippy::unwrap_used)]
#![allow(clippy::await_holding_lock)] // a test of this file waits for the others, whatever it awaits itself

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buildkit_client::connect::Liveness;
use buildkit_client::docker_config::DockerConfig;
use buildkit_client::error::Error;
use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::SecretSource;
use buildkit_client::{Build, Client, Solve};
use buildkit_proto::control::{SolveResponse, StatusResponse, Vertex};
use buildkit_tests::fake::{FakeBuildKit, Faults};
use buildkit_tests::polls::drop_after_n_polls;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// File descriptors and children are counted, so the tests of this file run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A daemon that makes use of everything that is offered, and then builds for ever or succeeds.
fn daemon(forever: bool) -> FakeBuildKit {
    FakeBuildKit::script()
        .on_solve(move |solve| async move {
            let session = solve.session().await?;
            session.health().await?;
            session.secret("token").await?;
            let credentials = session.credentials("reg.local").await?;
            assert_eq!(credentials.username, "ann");
            session.pull("context").await?;
            session.export_file(0, &[&[7; 3000], &[8; 3000]]).await?;
            if forever {
                std::future::pending::<()>().await;
            }
            Ok(SolveResponse::default())
        })
        .on_status(|call, out| async move {
            let vertex = Vertex { digest: "sha256:v".into(), name: "a step".into(), ..Default::default() };
            let _ = out.send(Ok(StatusResponse { vertexes: vec![vertex], ..Default::default() })).await;
            call.solve_ended().await;
            Ok(())
        })
        .start()
}

/// A folder with a context, and a credential helper that takes its time.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("context")).unwrap();
    std::fs::write(dir.path().join("context/a"), vec![1; 100_000]).unwrap();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let helper = dir.path().join("docker-credential-slow");
    let script = "#!/bin/sh\ncat > /dev/null\necho '{\"Username\":\"ann\",\"Secret\":\"s\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn solve(client: &Client, dir: &Path) -> Solve {
    let config = DockerConfig::from_json(br#"{"credHelpers":{"reg.local":"slow"}}"#).unwrap();
    client
        .solve(Frontend::new("dockerfile.v0"))
        .local("context", dir.join("context"))
        .secret("token", SecretSource::value("s"))
        .registry("reg.local")
        .auth(config.helper_path(dir))
        .export(Export::tar(dir.join("out/out.tar")))
}

/// Tasks that are alive in this runtime.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Files, pipes and sockets that this process holds. What runtimes hold for themselves does not count: the harness
/// starts one for every test.
fn descriptors() -> BTreeSet<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let all = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let own = |target: &PathBuf| target.to_string_lossy().starts_with("anon_inode:");
    all.filter(|target| !own(target) && !target.starts_with("/proc")).collect()
}

fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.map(|list| list.split_whitespace().count()).sum()
}

/// Names in the folder of exports.
fn left(out: &Path) -> Vec<OsString> {
    std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Waits until nothing is left of a build but its daemon. On an idle machine that takes half a second at most; here
/// others may be at work.
///
/// A dropped build may have given work to the thread pool that has not begun: a probe of the destination, say, whose file
/// comes into being after the drop and goes with the probe's end. No count tells of such work, so a folder that was
/// seen empty may have a file for a moment.
async fn gone(
    fake: &FakeBuildKit,
    out: &Path,
    tasks_before: usize,
    descriptors_before: &BTreeSet<PathBuf>,
    may_have_succeeded: bool,
    what: &str,
) {
    // What had succeeded when it was dropped may be there, whole.
    let whole = || std::fs::metadata(out.join("out.tar")).is_ok_and(|file| file.len() == 6000);
    let stray = || left(out).iter().any(|name| !may_have_succeeded || name != "out.tar" || !whole());
    let clean = || {
        !stray()
            && fake.running_solves() == 0
            && fake.sessions().is_empty()
            && tasks() <= tasks_before
            && descriptors().is_subset(descriptors_before)
            && children() == 0
    };
    for _ in 0..2000 {
        if clean() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!(
        "{what}: after ten seconds there are {fake:?}, {:?}, {} tasks (before: {tasks_before}), {:?} more descriptors than \
         {descriptors_before:?}, {} children",
        left(out),
        tasks(),
        descriptors().difference(descriptors_before),
        children()
    );
}

#[tokio::test]
async fn f10_a_build_dropped_at_any_poll_leaves_nothing() {
    let _alone = alone();
    let dir = folder();
    let mut finished = 0;
    let mut farthest = 0;
    for polls in 1..=400 {
        let fake = daemon(false);
        // The daemon's own tasks come and go with its connections.
        tokio::task::yield_now().await;
        let (tasks_before, descriptors_before) = (tasks(), descriptors());
        let client = fake.client();
        let result = drop_after_n_polls(solve(&client, dir.path()).into_future(), polls).await;
        match result {
            Some(result) => {
                result.unwrap_or_else(|error| panic!("{polls}: {}", error.report()));
                finished += 1;
                assert!(dir.path().join("out/out.tar").exists());
            }
            None => farthest = polls,
        }
        drop(client);
        let out = dir.path().join("out");
        gone(&fake, &out, tasks_before, &descriptors_before, true, &format!("{polls} polls")).await;
        let _ = std::fs::remove_file(out.join("out.tar"));
    }
    assert!(farthest >= 5, "the build was never dropped half way: {farthest}");
    assert!(finished > 0, "no build got to its end");
}

#[tokio::test]
async fn f10_a_build_dropped_at_any_time_leaves_nothing() {
    let _alone = alone();
    let dir = folder();
    for micros in (0..60).map(|step: u64| step * step * 25) {
        let fake = daemon(true);
        let address = fake.listen().await.unwrap();
        let (tasks_before, descriptors_before) = (tasks(), descriptors());
        let client = Client::builder(format!("tcp://{address}")).lazy().unwrap();
        let build = solve(&client, dir.path()).start();
        sleep(Duration::from_micros(micros)).await;
        drop(build);
        drop(client);
        let out = dir.path().join("out");
        gone(&fake, &out, tasks_before, &descriptors_before, false, &format!("{micros} µs")).await;
    }
}

#[tokio::test]
async fn f10_a_dropped_build_leaves_nothing_though_its_link_is_dead() {
    let _alone = alone();
    let dir = folder();
    let fake = daemon(true);
    for round in 0..3 {
        let tasks_before = tasks();
        let faults = Faults::default();
        let client = fake.client_with(&faults, Liveness::default());
        let build = solve(&client, dir.path()).start();
        fake.wait_until(|fake| fake.running_solves() == 1 && !fake.sessions().is_empty()).await;
        faults.stall_now();
        sleep(Duration::from_millis(20)).await;
        drop(build);
        drop(client);
        let start = Instant::now();
        // The daemon's end is closed with ours, though no byte can be said about it.
        let out = dir.path().join("out");
        while tasks() > tasks_before
            || fake.running_solves() > 0
            || !fake.sessions().is_empty()
            || !left(&out).is_empty()
        {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "round {round}: {} of {tasks_before}, {:?}: {fake:?}",
                tasks(),
                left(&out)
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn f11_a_runtime_may_end_while_a_build_runs() {
    let _alone = alone();
    let dir = folder();
    // What every runtime of a process shares is there from now on.
    drop(tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    for (round, millis) in [0, 1, 2, 5, 10, 20, 40, 80].into_iter().enumerate() {
        for aborted in [false, true] {
            let descriptors_before = descriptors();
            let dir = dir.path().to_owned();
            // A panic or a hang in a destructor shows here.
            let thread = std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                let runtime = runtime.unwrap();
                let mut task = None;
                runtime.block_on(async {
                    let fake = daemon(true);
                    let client = fake.client();
                    let build = solve(&client, &dir).start();
                    let running = tokio::spawn(async move {
                        let _fake = fake;
                        build.await.map(drop)
                    });
                    sleep(Duration::from_millis(millis)).await;
                    if aborted {
                        running.abort();
                    }
                    task = Some(running);
                });
                let started = std::time::Instant::now();
                if round % 2 == 0 {
                    runtime.shutdown_background();
                } else {
                    drop(runtime);
                }
                drop(task);
                started.elapsed()
            });
            let took = thread.join().expect("nothing panics");
            assert!(took < Duration::from_secs(10), "{millis} ms, aborted {aborted}: {took:?}");
            for _ in 0..2000 {
                if descriptors().is_subset(&descriptors_before) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let left: Vec<_> = descriptors().difference(&descriptors_before).cloned().collect();
            assert!(left.is_empty(), "{millis} ms: {left:?}");
        }
    }
}

/// What may happen to a running build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Cancel,
    CancelToken,
    Answered,
    Failed,
    LinkLost,
    Dropped,
}

/// Every order of every choice of events.
fn orders(events: &[Event]) -> Vec<Vec<Event>> {
    let mut all = vec![Vec::new()];
    for (at, &event) in events.iter().enumerate() {
        let rest: Vec<_> =
            events.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, e)| *e).collect();
        all.extend(orders(&rest).into_iter().map(|mut order| {
            order.insert(0, event);
            order
        }));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn f12_cancels_may_meet_each_other_and_the_end_in_any_order() {
    use Event::{Answered, Cancel, CancelToken, Dropped, Failed, LinkLost};
    let _alone = alone();
    let mut orders: Vec<_> = [[Cancel, CancelToken, Answered], [Cancel, CancelToken, Failed]]
        .iter()
        .chain(&[[Cancel, CancelToken, LinkLost], [Cancel, Answered, Dropped], [Cancel, Answered, LinkLost]])
        .flat_map(|events| orders(events))
        .collect();
    orders.sort_by_key(|order| format!("{order:?}"));
    orders.dedup();
    assert!(orders.len() > 50, "{}", orders.len());
    for order in orders {
        // With and without time in between: what meets in one poll, and what comes one after the other.
        for pause in [0, 50] {
            let tasks_before = tasks();
            let (answer, answered) = oneshot::channel::<Result<(), tonic::Status>>();
            let answered = std::sync::Arc::new(Mutex::new(Some(answered)));
            let fake = FakeBuildKit::script()
                .on_solve(move |_| {
                    let answered = answered.lock().unwrap().take();
                    async move {
                        match answered.unwrap().await {
                            Ok(answer) => answer.map(|()| SolveResponse::default()),
                            Err(_) => std::future::pending().await,
                        }
                    }
                })
                .start();
            let faults = Faults::default();
            let build =
                fake.client_with(&faults, Liveness::default()).solve(Frontend::new("dockerfile.v0")).start();
            fake.wait_until(|fake| fake.running_solves() == 1).await;
            let token = build.cancel_token();
            let mut build = Some(build);
            let mut answer = Some(answer);
            for event in &order {
                match event {
                    Cancel => build.iter().for_each(Build::cancel),
                    CancelToken => token.cancel(),
                    Answered => drop(answer.take().map(|answer| answer.send(Ok(())))),
                    Failed => {
                        drop(answer.take().map(|answer| answer.send(Err(tonic::Status::unknown("no")))));
                    }
                    LinkLost => faults.reset_now(),
                    Dropped => build = None,
                }
                if pause > 0 {
                    sleep(Duration::from_millis(pause)).await;
                }
            }
            let dropped = build.is_none();
            if let Some(build) = build {
                if order.is_empty() {
                    build.cancel();
                }
                let ended = timeout(Duration::from_secs(5), build).await;
                let ended = ended.unwrap_or_else(|_| panic!("{order:?}: it never ends"));
                let first = order.first().copied().filter(|_| pause > 0);
                let fits = matches!(
                    (&ended, first),
                    (Ok(_), None | Some(Answered))
                        | (Err(Error::Solve(_)), None | Some(Failed))
                        | (Err(Error::LinkLost(_)), None | Some(LinkLost))
                        | (Err(Error::Canceled), None | Some(Cancel | CancelToken))
                );
                assert!(fits, "{order:?}, {pause} ms apart: {ended:?}");
                assert!(ended.is_err() || order.contains(&Answered), "{order:?}");
            }
            drop(answer);
            fake.wait_until(|fake| fake.running_solves() == 0 && fake.sessions().is_empty()).await;
            drop(fake);
            let start = Instant::now();
            while tasks() > tasks_before {
                assert!(
                    start.elapsed() < Duration::from_secs(3),
                    "{order:?}, dropped {dropped}: {} tasks",
                    tasks()
                );
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f12_a_cancel_ends_a_build_in_bounded_time_whatever_its_daemon_does() {
    let _alone = alone();
    // The daemon neither ends the progress nor takes notice, and the link is dead as well.
    let fake = FakeBuildKit::script()
        .on_solve(|_| async { std::future::pending().await })
        .on_status(|_, _| async { std::future::pending().await })
        .start();
    for dead in [false, true] {
        let faults = Faults::default();
        let client = fake.client_with(&faults, Liveness::default());
        let build = client.solve(Frontend::new("dockerfile.v0")).start();
        fake.wait_until(|fake| fake.running_solves() == 1).await;
        if dead {
            faults.stall_now();
        }
        let started = Instant::now();
        build.cancel();
        assert!(matches!(build.await, Err(Error::Canceled)));
        assert!(started.elapsed() <= Duration::from_millis(2_100), "{:?}", started.elapsed());
    }
}
