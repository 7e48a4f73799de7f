//! A frontend program on the daemon's pipes. This test starts itself as the
//! frontend, so it has no harness: a harness would write to stdout first.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "only in tests")]

mod support;

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use buildkit_frontend::{BuildResult, Error, Gateway, Result, Simulated, serve};
use support::FakeDaemon;
use tokio::process::Command;

async fn build(gateway: Gateway) -> Result<BuildResult> {
    println!("this must not reach the daemon");
    match gateway.options().get("do") {
        Some("panic") => panic!("on purpose"),
        Some("fail") => Err(Error::new("there is a reason")),
        Some("hang") => std::future::pending().await,
        _ => {
            let tree = gateway.solve_state(&buildkit_llb::local("context")).await?;
            let content = tree.reference()?.read_file("hello").await?;
            let kind = gateway.options().get("a=b").is_none();
            assert!(kind && gateway.options().get("a") == Some("b=c"));
            assert_eq!(gateway.workers()[0].platforms[0].to_string(), "linux/arm64");
            Ok(tree
                .with_metadata("content", content)
                .with_metadata("session", gateway.session_id().to_owned()))
        }
    }
}

#[allow(clippy::unused_async)] // needs the runtime that spawns it
async fn start(what: &str) -> (FakeDaemon, tokio::process::Child) {
    let (daemon, child, _) = start_connection(what);
    (daemon, child)
}

fn start_connection(what: &str) -> (FakeDaemon, tokio::process::Child, tokio::task::AbortHandle) {
    let daemon = FakeDaemon::new(Simulated::new().file("context", "hello", "world"));
    let mut child = command(what).spawn().unwrap();
    let io = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let connection = tokio::spawn(daemon.clone().serve(io)).abort_handle();
    (daemon, child, connection)
}

/// This program as a frontend.
fn command(what: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env("BUILDKIT_SESSION_ID", "s1")
        .env(
            "BUILDKIT_WORKERS",
            r#"[{"ID":"w","Labels":null,"Platforms":[{"architecture":"arm64","os":"linux"}]}]"#,
        )
        .env("BUILDKIT_FRONTEND_OPT_0", format!("do={what}"))
        .env("BUILDKIT_FRONTEND_OPT_10", "a=b=c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn a_result_arrives_and_prints_stay_out_of_the_way() {
    let (daemon, child) = start("build").await;
    let returned = daemon.result().await;
    assert_eq!(returned.error, None);
    let metadata = returned.result.unwrap().metadata;
    assert_eq!((&metadata["content"][..], &metadata["session"][..]), (&b"world"[..], &b"s1"[..]));
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("this must not reach the daemon"));
}

async fn an_error_arrives() {
    let (daemon, mut child) = start("fail").await;
    assert_eq!(daemon.result().await.error.unwrap().message, "there is a reason");
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
}

async fn a_panic_arrives_as_an_error() {
    let (daemon, mut child) = start("panic").await;
    let message = daemon.result().await.error.unwrap().message;
    assert!(message.contains("panicked") && message.contains("on purpose"), "{message}");
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
}

async fn a_frontend_ends_with_its_connection() {
    let (daemon, mut child, connection) = start_connection("hang");
    while daemon.calls.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connection.abort();
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    assert!(daemon.returned.lock().unwrap().is_empty());
}

/// What it writes goes nowhere, though its input is open.
async fn a_frontend_whose_output_is_closed_ends() {
    let started = std::time::Instant::now();
    let mut child = command("build").spawn().unwrap();
    drop(child.stdout.take());
    let stdin = child.stdin.take();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "it reports, and is not killed by a signal");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.is_empty() && started.elapsed() < Duration::from_secs(10), "{said}");
    drop(stdin);
}

async fn run_by_hand_it_says_what_it_is() {
    let output = Command::new(std::env::current_exe().unwrap())
        .env("AS_FRONTEND", "1")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("syntax="));
}

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::var_os("BUILDKIT_SESSION_ID").is_some() || std::env::var_os("AS_FRONTEND").is_some() {
        return match serve(build).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    // A panic in one of these ends the program with an error.
    macro_rules! tests {
        ($($test:ident)*) => {$(
            tokio::time::timeout(Duration::from_secs(30), $test()).await.expect(stringify!($test));
            println!("test {} ... ok", stringify!($test));
        )*};
    }
    tests! {
        a_result_arrives_and_prints_stay_out_of_the_way
        an_error_arrives
        a_panic_arrives_as_an_error
        a_frontend_ends_with_its_connection
        a_frontend_whose_output_is_closed_ends
        run_by_hand_it_says_what_it_is
    }
    println!("\ntest result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}
