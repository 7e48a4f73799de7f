//! The seeds of the fuzz targets hold what the targets check.
#![allow(clippy::expect_used, clippy::cast_possible_truncation, reason = "these are tests")]

#[path = "../../fuzz/checks/client.rs"]
mod client;
#[path = "../../fuzz/checks/engine.rs"]
mod engine;
#[path = "../../fuzz/checks/layout.rs"]
mod layout;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn status_fold_seeds() {
    replay::seeds("status_fold", client::status_fold);
}

#[test]
fn grpc_status_details_seeds() {
    replay::seeds("grpc_status_details", client::grpc_status_details);
}

#[test]
fn buildkit_addr_seeds() {
    replay::seeds("buildkit_addr", client::buildkit_addr);
}

#[test]
fn redact_url_seeds() {
    replay::seeds("redact_url", client::redact_url);
}

#[test]
fn docker_config_json_seeds() {
    replay::seeds("docker_config_json", client::docker_config_json);
}

#[test]
fn www_authenticate_seeds() {
    replay::seeds("www_authenticate", client::www_authenticate);
}

#[test]
fn source_policy_seeds() {
    replay::seeds("source_policy", client::source_policy);
}

#[test]
fn oci_manifest_seeds() {
    replay::seeds("oci_manifest", layout::oci_manifest);
}

#[test]
fn hijack_conn_seeds() {
    replay::seeds("hijack_conn", engine::hijack_conn);
}
