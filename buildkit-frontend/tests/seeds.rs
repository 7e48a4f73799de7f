//! The seeds of the fuzz targets hold what the targets check.
#![allow(clippy::expect_used, reason = "these are tests")]

#[path = "../../fuzz/checks/gateway.rs"]
mod gateway;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn gateway_request_seeds() {
    replay::seeds("gateway_request", gateway::gateway_request);
}
