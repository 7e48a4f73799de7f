//! The seeds of the fuzz targets hold what the targets check.

#![allow(clippy::expect_used, reason = "these are tests")]

#[allow(dead_code, reason = "other ways to make a recipe are for other tests")]
#[path = "../../fuzz/checks/llb.rs"]
mod checks;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn llb_load_seeds() {
    replay::seeds("llb_load", checks::llb_load);
}

#[test]
fn llb_roundtrip_seeds() {
    replay::seeds("llb_roundtrip", checks::llb_roundtrip);
}

#[test]
fn image_ref_seeds() {
    replay::seeds("image_ref", checks::image_ref);
}

#[test]
fn git_url_seeds() {
    replay::seeds("git_url", checks::git_url);
}
