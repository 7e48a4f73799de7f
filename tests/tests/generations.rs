//! The daemons that `cargo xtask buildkit up` provisions are what the tests take them for.

#![allow(clippy::unwrap_used)] // a failed step is a failed test
#![allow(missing_docs)]

use buildkit_proto::control::control_client::ControlClient;
use buildkit_proto::control::{InfoRequest, ListWorkersRequest};
use buildkit_tests::daemon::{Daemon, Generation};
use tonic::Code;
use tonic::transport::Channel;

async fn control(daemon: &Daemon) -> ControlClient<Channel> {
    let address = daemon.endpoint.replacen("tcp://", "http://", 1);
    ControlClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

#[tokio::test]
async fn the_newest_says_its_version_and_has_a_worker() {
    let Some(daemon) = Daemon::or_skip(Generation::Sid) else { return };
    let mut control = control(&daemon).await;
    let info = control.info(InfoRequest::default()).await.unwrap().into_inner();
    let version = info.buildkit_version.unwrap();
    println!("BuildKit {} in Docker Engine {}", version.version, daemon.engine);
    assert!(version.package.contains("buildkit"), "{version:?}");
    let workers = control.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner();
    let worker = workers.record.first().unwrap();
    println!("{:?}", worker.labels);
    assert!(worker.platforms.iter().any(|platform| platform.os == "linux"));
}

#[tokio::test]
async fn engine_26_says_its_version() {
    let Some(daemon) = Daemon::or_skip(Generation::Trixie) else { return };
    let info = control(&daemon).await.info(InfoRequest::default()).await.unwrap().into_inner();
    println!("BuildKit {:?} in Docker Engine {}", info.buildkit_version, daemon.engine);
}

#[tokio::test]
async fn engine_20_10_does_not_know_info_yet() {
    let Some(daemon) = Daemon::or_skip(Generation::Bookworm) else { return };
    let mut control = control(&daemon).await;
    let error = control.info(InfoRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let workers = control.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner();
    assert_eq!(workers.record.len(), 1);
}
