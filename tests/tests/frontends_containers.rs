//! Containers of frontends on the real BuildKit.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildkit_client::Error;
use buildkit_client::Secret;
use buildkit_client::session::secrets::SecretSource;
use buildkit_frontend::{
    BuildResult, Code, Container, ContainerMount, Event, Exit, FileKind, Gateway, NewContainer, Process,
    Result, Solve,
};
use buildkit_llb::{Mount, sh};
use buildkit_proto::pb::NetMode;
use buildkit_tests::daemon::{Daemon, Generation};
use buildkit_tests::frontends::{client, mark, nothing_holds, nothing_runs, runs, with_gateway};

/// A container with Alpine, and an empty directory at `/scratch`.
async fn alpine(gateway: &Gateway) -> Result<Container> {
    let base = gateway.solve_state(&gateway.image("alpine").await?).await?;
    let scratch = ContainerMount::scratch("/scratch");
    gateway.container(NewContainer::new(base.reference()?).mount(scratch)).await
}

/// Runs a test as the function of a build.
async fn run<F, Fut>(daemon: &Daemon, test: F)
where
    F: Fn(Gateway) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    with_gateway(daemon, test).await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn a_process_runs_with_its_environment_and_tells_how_it_ended() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        let script = "echo out; echo err >&2; echo $A > /scratch/a; cat /scratch/a; pwd; id -u; exit 7";
        let process = Process::new(["sh", "-c", script]).env("A", "b").dir("/tmp").user("nobody");
        let output = container.run(process).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.starts_with("err\n") && errors.contains("Permission denied"), "{errors}");
        assert_eq!(output.exit.code, 7);
        assert_eq!(output.stdout, "out\n/tmp\n65534\n");

        let container = alpine(&gateway).await?;
        let output = container.run(Process::new(["sh", "-c", "echo $A > /scratch/a"]).env("A", "b")).await?;
        assert!(output.exit.success());
        if gateway.caps().contains("gateway.exec.filesystem") {
            // Its mounts are read when it has ended, too.
            assert_eq!(container.read_file(1, "a").await?, "b\n");
            assert_eq!(container.read_range(1, "/a", 1..9).await?, "\n");
            assert_eq!(container.stat(1, "a").await?.size, 2);
            let listed = container.read_dir(1, "/").await?;
            assert_eq!((listed.len(), listed[0].kind), (1, FileKind::File));
            assert!(container.read_file(1, "nope").await.unwrap_err().is_not_found());
            assert!(container.stat(9, "a").await.is_err());
        } else {
            // Before 0.27 there are no such calls.
            assert_eq!(container.read_file(1, "a").await.unwrap_err().code(), Code::Unimplemented);
        }
        container.release().await
    })
    .await;
}

#[tokio::test]
async fn processes_of_one_container_see_each_other() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        let script = "echo first > /made; echo ready; cat";
        let mut first = container.start(Process::new(["sh", "-c", script]).stdin()).await?;
        assert_eq!(first.next().await?, Some(Event::Stdout("ready\n".into())));
        let second = container.run(Process::new(["cat", "/made", "/proc/1/cmdline"]).env("A", "b")).await?;
        let text = String::from_utf8_lossy(&second.stdout);
        assert!(text.starts_with("first\ncat"), "{second:?}");
        // The container ends with its first process.
        first.stdin().expect("a connected input").close().await?;
        assert!(first.wait().await?.success());
        assert!(!container.run(Process::new(["true"])).await.is_ok_and(|output| output.exit.success()));

        // One that fails is told as any other; the daemon then ends the whole container.
        let container = alpine(&gateway).await?;
        let _first = container.start(Process::new(["sleep", "1000"])).await?;
        let failed = container.run(Process::new(["sh", "-c", "exit 6"])).await?;
        assert_eq!(failed.exit.code, 6);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn output_streams_while_input_is_written() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        let mut cat = container.start(Process::new(["cat"]).stdin()).await?;
        let mut stdin = cat.stdin().expect("a connected input");
        stdin.write("one\n").await?;
        assert_eq!(cat.next().await?, Some(Event::Stdout("one\n".into())), "output comes while it runs");
        stdin.write("two\n").await?;
        stdin.close().await?;
        let rest = cat.output().await?;
        assert_eq!((rest.exit, &rest.stdout[..]), (Exit { code: 0 }, &b"two\n"[..]));

        // More than a message holds.
        let container = alpine(&gateway).await?;
        let mut wc = container.start(Process::new(["wc", "-c"]).stdin()).await?;
        let mut stdin = wc.stdin().expect("a connected input");
        stdin.write(vec![b'x'; 20 << 20]).await?;
        stdin.close().await?;
        assert_eq!(String::from_utf8_lossy(&wc.output().await?.stdout).trim(), (20 << 20).to_string());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        let script = "yes 0123456789abcde | head -c 8388608; echo end >&2";
        let mut process = container.start(Process::new(["sh", "-c", script])).await?;
        let (mut bytes, mut errors) = (0, Vec::new());
        while let Some(event) = process.next().await? {
            match event {
                Event::Stdout(data) => bytes += data.len(),
                Event::Stderr(data) => errors.extend_from_slice(&data),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bytes, &errors[..]), (8 << 20, &b"end\n"[..]));
        assert!(process.wait().await?.success());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_terminal_has_the_size_that_it_is_given() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        // The shell says when the new size has arrived: nothing here waits for a time.
        let script =
            "echo e >&2; tty >/dev/null && echo $TERM; until stty size | grep 33; do sleep 0.1; done";
        let mut tty = container.start(Process::new(["sh", "-c", script]).tty()).await?;
        tty.resize(33, 77).await?;
        let shown = tty.output().await?;
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.stderr.is_empty() && shown.exit.success(), "{shown:?}");
        assert!(text.contains("33 77") && text.contains('e') && text.contains("xterm"), "{text:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_process_is_killed_and_gone() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let (kill, term, dropped) = (mark("kill"), mark("term"), mark("dropped"));
    let (daemon, kept) = (Arc::new(daemon), [kill.clone(), term.clone(), dropped.clone()]);
    let inner = Arc::clone(&daemon);
    run(&daemon, move |gateway| {
        let (daemon, [kill, term, dropped]) = (Arc::clone(&inner), kept.clone());
        async move {
            let started = Instant::now();
            let container = alpine(&gateway).await?;
            let mut sleeper = container.start(Process::new(["sleep", "1000"]).env("MARK", &kill)).await?;
            runs(&daemon, &kill).await;
            sleeper.signal("KILL").await?;
            assert!(!sleeper.wait().await?.success());
            nothing_runs(&kill).await;
            // How its processes ended is no error of the release.
            container.release().await?;

            let container = alpine(&gateway).await?;
            let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
            let mut process = container.start(Process::new(["sh", "-c", script]).env("MARK", &term)).await?;
            assert_eq!(process.next().await?, Some(Event::Stdout("ready\n".into())));
            process.signal("SIGTERM").await?;
            let output = process.output().await?;
            assert_eq!((output.exit.code, &output.stdout[..]), (5, &b"bye\n"[..]));
            assert!(process.signal("TERM").await.is_err(), "it has ended");
            container.release().await?;

            // A process ends with its handle, and a container with what runs in it.
            for whole in [false, true] {
                let container = alpine(&gateway).await?;
                let process = Process::new(["sleep", "1000"]).env("MARK", &dropped);
                let process = container.start(process).await?;
                runs(&daemon, &dropped).await;
                if whole {
                    container.release().await?;
                    nothing_runs(&dropped).await;
                    drop(process);
                } else {
                    drop(process);
                    nothing_runs(&dropped).await;
                }
            }
            assert!(started.elapsed() < Duration::from_secs(120));
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let container = alpine(&gateway).await?;
        let outcome = match container.start(Process::new(["/no/such/program"])).await {
            Ok(mut running) => running.wait().await,
            Err(error) => Err(error),
        };
        assert!(!outcome.is_ok_and(Exit::success));

        let container = alpine(&gateway).await?;
        let process = Process::new(["env"]).secret_env("TOKEN", "there-is-no-such-secret");
        let begun = Instant::now();
        let error = container.run(process).await.unwrap_err();
        assert!(error.report().contains("there-is-no-such-secret"), "{}", error.report());
        // The daemon tells it only when it is asked.
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());

        let tmpfs = NewContainer::without_root().mount(ContainerMount::tmpfs("/", 0));
        assert!(gateway.container(tmpfs).await.is_err(), "a root must be a tree");
        let lost = NewContainer::without_root().mount(ContainerMount::failed("/", "no-such-reference"));
        assert!(gateway.container(lost).await.is_err());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn mounts_hosts_and_secrets_are_there() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let build = async |gateway: Gateway| {
        let base = gateway.solve_state(&gateway.image("alpine").await?).await?;
        let tree = buildkit_llb::scratch().mkdir("/d", 0o755).mkfile("/d/f", 0o644, "content");
        let tree = gateway.solve_state(&tree).await?;
        let request = NewContainer::new(base.reference()?)
            .mount(ContainerMount::tree("/tree", tree.reference()?).selector("/d").readonly())
            .mount(ContainerMount::cache("/cache", "frontends-containers"))
            .mount(ContainerMount::tmpfs("/tmp", 1 << 20))
            .mount(ContainerMount::secret("/run/secret", "s").mode(0o440))
            .mount(ContainerMount::secret("/run/none", "no-such").optional())
            .host("db.example", "10.1.2.3".parse().unwrap())
            .hostname("inside");
        let container = gateway.container(request).await?;
        let script = "cat /tree/f; touch /tree/x 2>/dev/null || echo ' readonly'; cat /run/secret; echo; \
                      stat -c %a /run/secret; test -e /run/none || echo none; grep -o db.example /etc/hosts; \
                      hostname; grep -c ' /tmp tmpfs' /proc/mounts; touch /cache/x && echo cached; \
                      echo $TOKEN; echo \"[$OPTIONAL]\"";
        let process = Process::new(["sh", "-c", script])
            .secret_env("TOKEN", "s")
            .optional_secret_env("OPTIONAL", "no-such");
        let output = container.run(process).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "content readonly\nhush\n440\nnone\ndb.example\ninside\n1\ncached\nhush\n[]\n",
            "{errors}"
        );

        let alone = NewContainer::new(base.reference()?).network(NetMode::None);
        let interfaces = Process::new(["sh", "-c", "grep : /proc/net/dev | cut -d: -f1"]);
        let output = gateway.container(alone).await?.run(interfaces).await?;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "lo", "without a network");
        Ok::<_, buildkit_frontend::Error>(BuildResult::default())
    };
    let solve = client(&daemon).await.build(build).secret("s", SecretSource::value(Secret::new("hush")));
    solve.await.unwrap_or_else(|error| panic!("{}", error.report()));
}

#[tokio::test]
async fn a_failed_step_can_be_looked_into() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    run(&daemon, async |gateway| {
        let run = gateway.image("alpine").await?.dir("/tmp").env("WHO", "me");
        let run = run.run(sh("echo $WHO in $(pwd) > /left; echo mounted > /out/left; exit 9"));
        let state = run.mount("/out", Mount::bind(buildkit_llb::scratch())).root();
        let graph = gateway.marshal(&state)?;
        let error = gateway.solve(Solve::definition(&graph).evaluate()).await.unwrap_err();
        assert_eq!(error.exit_code(), Some(9), "{}", error.report());
        assert!(error.vertex().is_some());
        let failure = error.solve_failure().expect("the state of the failed step");

        let container = gateway.container(failure.container()?).await?;
        let output = container.run(Process::new(["cat", "/left", "/out/left"])).await?;
        assert_eq!(output.stdout, "me in /tmp\nmounted\n");

        // The same mount by hand, and the same process once more.
        let root = ContainerMount::failed("/", failure.mounts[0].clone());
        let container = gateway.container(NewContainer::without_root().mount(root)).await?;
        assert_eq!(container.run(Process::new(["cat", "/left"])).await?.stdout, "me in /tmp\n");
        let again = gateway.container(failure.container()?).await?;
        assert_eq!(again.run(failure.process()?).await?.exit.code, 9);
        Ok(())
    })
    .await;
}

/// How a function of a build ends before its time.
#[derive(Clone, Copy)]
enum End {
    Error,
    Panic,
    Cancel,
    Drop,
}

/// Starts a process in a container, then ends the build so.
async fn end(daemon: &Daemon, how: End) {
    struct Dropped(Arc<Mutex<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = true;
        }
    }
    let mark = mark("ended");
    let (started, dropped) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(false)));
    let (starts, drops, inner) = (Arc::clone(&started), Arc::clone(&dropped), mark.clone());
    let build = client(daemon).await.build(move |gateway: Gateway| {
        let (starts, guard, mark) = (Arc::clone(&starts), Dropped(Arc::clone(&drops)), inner.clone());
        async move {
            let _guard = guard;
            let base = gateway.image("alpine").await?.run(sh(format!("echo {mark} > /mark"))).root();
            let base = gateway.solve_state(&base).await?;
            let container = gateway.container(NewContainer::new(base.reference()?)).await?;
            let process = container.start(Process::new(["sleep", "1000"]).env("MARK", &mark)).await?;
            *starts.lock().unwrap() = true;
            match how {
                End::Error => return Err(buildkit_frontend::Error::new("there is a reason")),
                End::Panic => panic!("this is a panic"),
                End::Cancel | End::Drop => {}
            }
            std::future::pending::<()>().await;
            drop((container, process));
            Ok(BuildResult::default())
        }
    });
    let build = build.start();
    match how {
        End::Error | End::Panic => {
            let error = build.await.unwrap_err().report();
            let wanted: &[&str] = match how {
                End::Error => &["there is a reason"],
                _ => &["panicked", "this is a panic"],
            };
            assert!(wanted.iter().all(|text| error.contains(text)), "{error}");
        }
        End::Cancel | End::Drop => {
            while !*started.lock().unwrap() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            runs(daemon, &mark).await;
            if matches!(how, End::Cancel) {
                build.cancel();
                assert!(matches!(build.await, Err(Error::Canceled)));
                assert!(*dropped.lock().unwrap(), "the function goes on");
            } else {
                drop(build);
            }
        }
    }
    nothing_runs(&mark).await;
    // The container, too, is gone, and with it the hold on what it was made of.
    nothing_holds(daemon, &mark).await;
    assert!(*dropped.lock().unwrap(), "the function goes on");
}

#[tokio::test]
async fn an_error_of_a_function_ends_its_build_and_processes() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    end(&daemon, End::Error).await;
}

#[tokio::test]
async fn a_panic_of_a_function_ends_its_build_and_processes() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    end(&daemon, End::Panic).await;
}

#[tokio::test]
async fn a_cancelled_function_ends_with_its_build_and_processes() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    end(&daemon, End::Cancel).await;
    end(&daemon, End::Drop).await;
}
