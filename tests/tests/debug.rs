//! Steps that failed, looked into while the daemon still has their files.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildkit_client::debug::FailedStep;
use buildkit_client::export::Export;
use buildkit_client::request::Frontend;
use buildkit_client::session::secrets::SecretSource;
use buildkit_frontend::Event;
use buildkit_llb::{Mount, sh};
use buildkit_tests::daemon::{Daemon, Generation};

type Seen = Arc<Mutex<Vec<String>>>;

fn note(seen: &Seen, text: impl Into<String>) {
    seen.lock().unwrap().push(text.into());
}

#[tokio::test]
async fn a_failed_step_of_a_graph_shows_the_files_it_left_and_has_its_surroundings() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let step = buildkit_llb::image("alpine")
        .dir("/work")
        .env("NAME", "value")
        .run(sh("echo left > here; echo cached > /cache/there; exit 9"))
        .mount("/cache", Mount::cache(format!("debug-{}", std::process::id())))
        .mount("/run/token", Mount::secret("token"))
        .name("the step")
        .ignore_cache()
        .root();
    let error = client
        .solve(step)
        .secret("token", SecretSource::value("canary"))
        .on_failure(move |step: FailedStep| {
            let notes = Arc::clone(&notes);
            async move {
                assert_eq!(step.error().exit_code(), Some(9));
                note(&notes, step.args().join(" "));
                for script in ["pwd; echo $NAME; cat here", "cat /cache/there", "cat /run/token"] {
                    let output = step.run(["sh", "-c", script]).await?;
                    assert!(output.exit.success(), "{script}: {output:?}");
                    note(&notes, String::from_utf8_lossy(&output.stdout).trim().replace('\n', "|"));
                }
                Ok(())
            }
        })
        .await
        .unwrap_err();
    let seen = seen.lock().unwrap().clone();
    assert!(seen[0].ends_with("exit 9"), "{seen:?}");
    assert_eq!(seen[1..], ["/work|value|left", "cached", "canary"]);
    // The build ends with the error of the step, whoever looked at it.
    let solve = error.as_solve().unwrap_or_else(|| panic!("{}", error.report()));
    assert_eq!(solve.exit_code(), Some(9));
    assert!(solve.vertex().is_some());
    assert_eq!(solve.vertex_name(), Some("the step"));
}

#[tokio::test]
async fn a_failed_step_of_a_dockerfile_gets_a_shell() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("a.txt"), "from the context").unwrap();
    let dockerfile = "FROM alpine\nWORKDIR /src\nCOPY a.txt .\nRUN echo made > made; exit 4\n";
    std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let build = client
        .solve(Frontend::new("dockerfile.v0"))
        .local("context", context.path())
        .local("dockerfile", context.path())
        .no_cache()
        .on_failure(move |step: FailedStep| {
            let notes = Arc::clone(&notes);
            async move {
                let (_container, mut shell) = step.shell().await?;
                shell.resize(24, 80).await?;
                let mut input = shell.stdin().expect("an input");
                input.write("cat a.txt made; exit 12\n").await?;
                let mut shown = Vec::new();
                while let Some(event) = shell.next().await? {
                    if let Event::Stdout(data) | Event::Stderr(data) = event {
                        shown.extend_from_slice(&data);
                    }
                }
                note(&notes, String::from_utf8_lossy(&shown));
                note(&notes, shell.wait().await?.code.to_string());
                Ok(())
            }
        });
    let error = tokio::time::timeout(Duration::from_secs(120), build).await.unwrap().unwrap_err();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2, "{}: {seen:?}", error.report());
    assert!(seen[0].contains("from the context") && seen[0].contains("made"), "{seen:?}");
    assert_eq!(seen[1], "12");
    let solve = error.as_solve().unwrap();
    assert_eq!(solve.exit_code(), Some(4));
    assert_eq!(solve.location().unwrap().file_line(), "Dockerfile:4");
}

#[tokio::test]
async fn a_build_that_works_is_not_disturbed_and_a_missing_image_is_a_step_without_process() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let seen = Seen::default();
    let look = |seen: &Seen| {
        let notes = Arc::clone(seen);
        move |step: FailedStep| {
            note(&notes, format!("{:?}", step.args()));
            async { Ok(()) }
        }
    };
    let name = daemon.registries.mirror.repository("debugged");
    let graph = buildkit_llb::image("alpine").mkfile("/a", 0o644, "a");
    let export = || Export::image(&name).push().source_date_epoch(1_700_000_000);
    let solved = client.solve(&graph).export(export()).on_failure(look(&seen)).await;
    let solved = solved.unwrap_or_else(|error| panic!("{}", error.report()));
    let plain = client.solve(&graph).export(export()).await.unwrap();
    assert_eq!(solved.digest(), plain.digest(), "looking changes nothing of the result");
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());

    let missing = buildkit_llb::image(format!("{}/no/such/image", daemon.registries.mirror.address));
    let error = client.solve(missing.mkfile("/a", 0o644, "a")).on_failure(look(&seen)).await.unwrap_err();
    assert!(error.report().contains("no/such/image"), "{}", error.report());
    assert_eq!(*seen.lock().unwrap(), ["[]"]);
}

#[tokio::test]
async fn a_failed_copy_has_no_process_to_look_from() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let client = daemon.client().await;
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let copy = buildkit_llb::scratch().copy(buildkit_llb::image("alpine"), "/no/such/file", "/");
    let error = client
        .solve(copy)
        .on_failure(move |step: FailedStep| {
            let notes = Arc::clone(&notes);
            async move {
                assert!(step.args().is_empty());
                note(&notes, step.container().await.unwrap_err().to_string());
                Err("looked in vain".into())
            }
        })
        .await
        .unwrap_err();
    assert!(error.report().contains("/no/such/file"), "{}", error.report());
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|text| text.contains("ran no process")), "{seen:?}");
}
