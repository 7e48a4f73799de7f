//! The scripted daemon itself: other tests lean on it.
#![allow(missing_docs)]

use std::time::Duration;

use buildkit_proto::control::control_client::ControlClient;
use buildkit_proto::control::{InfoRequest, SolveRequest, SolveResponse, StatusRequest, StatusResponse};
use buildkit_tests::fake::{FakeBuildKit, Fault};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

fn client(fake: &FakeBuildKit) -> (ControlClient<Channel>, buildkit_tests::fake::Faults) {
    let stream = fake.dial();
    let faults = stream.faults().clone();
    let mut io = Some(TokioIo::new(stream));
    let channel =
        Endpoint::from_static("http://fake").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let io = io.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { io.map_err(std::io::Error::from) }
        }));
    (ControlClient::new(channel), faults)
}

#[tokio::test]
async fn defaults_answer_and_are_recorded() {
    let fake = FakeBuildKit::script().start();
    let (mut client, _) = client(&fake);
    let info = client.info(InfoRequest::default()).await.unwrap().into_inner();
    assert_eq!(info.buildkit_version.unwrap().version, "v0.25.0");
    client.solve(SolveRequest { r#ref: "r1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(fake.solves().first().unwrap().r#ref, "r1");
    let status = client.status(StatusRequest { r#ref: "r1".into() }).await.unwrap();
    assert!(status.into_inner().next().await.is_none());
}

#[tokio::test]
async fn a_dropped_solve_is_seen_as_cancelled() {
    let fake = FakeBuildKit::script()
        .on_solve(|_| async {
            std::future::pending::<()>().await;
            Ok(SolveResponse::default())
        })
        .start();
    let (mut client, _) = client(&fake);
    let call = tokio::spawn(async move { client.solve(SolveRequest::default()).await });
    fake.wait_until(|fake| fake.running_solves() == 1).await;
    call.abort();
    fake.wait_until(|fake| fake.running_solves() == 0).await;
}

#[tokio::test]
async fn a_script_sends_status_and_its_error_comes_last() {
    let fake = FakeBuildKit::script()
        .on_status(|call, out| async move {
            assert_eq!(call.reference, "r");
            let _ = out.send(Ok(StatusResponse::default())).await;
            Err(tonic::Status::internal("boom"))
        })
        .start();
    let (mut client, _) = client(&fake);
    let mut status = client.status(StatusRequest { r#ref: "r".into() }).await.unwrap().into_inner();
    assert!(status.next().await.unwrap().is_ok());
    assert_eq!(status.next().await.unwrap().unwrap_err().message(), "boom");
}

#[tokio::test(start_paused = true)]
async fn faults_reach_the_client() {
    let fake = FakeBuildKit::script().start();
    let (mut client, faults) = client(&fake);
    client.info(InfoRequest::default()).await.unwrap();
    faults.stall_now();
    let call = tokio::time::timeout(Duration::from_secs(600), client.info(InfoRequest::default()));
    assert!(call.await.is_err());
    faults.reading(Fault::ResetAt(0));
    assert!(client.info(InfoRequest::default()).await.is_err());
}
