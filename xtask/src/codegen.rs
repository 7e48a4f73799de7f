//! `cargo xtask codegen`: brings the checked-in protobuf code up to date.

use crate::fail::Result;
use crate::workspace::{cargo, show};

/// Runs the test that holds the generator. It rewrites what is stale and then
/// fails, so a second run tells whether all is well.
pub(crate) fn run() -> Result {
    let regenerate =
        || show(cargo().args(["test", "--quiet", "--package", "buildkit-proto", "--test", "regenerate"]));
    regenerate().or_else(|_| regenerate())
}
