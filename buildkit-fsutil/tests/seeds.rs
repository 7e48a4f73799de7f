//! The seeds of the fuzz targets hold what the targets check.
#![cfg(feature = "transfer")]
#![allow(clippy::expect_used, clippy::cast_possible_truncation, reason = "these are tests")]

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/checks/transfer.rs"]
mod transfer;
#[path = "../../fuzz/checks/trees.rs"]
mod trees;

#[test]
fn packet_receiver_seeds() {
    replay::seeds("packet_receiver", transfer::packet_receiver);
}

#[test]
fn packet_sender_seeds() {
    replay::seeds("packet_sender", transfer::packet_sender);
}

#[test]
fn tar_extract_seeds() {
    replay::seeds("tar_extract", trees::tar_extract);
}

#[test]
fn ignore_match_seeds() {
    replay::seeds("ignore_match", trees::ignore_match);
}

#[test]
fn ignore_pattern_seeds() {
    replay::seeds("ignore_pattern", trees::ignore_pattern);
}
