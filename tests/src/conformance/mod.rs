//! Runs recorded cases and compares what comes out with what the reference answered.

pub mod dockerfile;

/// How one case went.
#[derive(Debug)]
pub struct Verdict {
    /// Name of the case.
    pub name: String,
    /// What differs; empty if the case passes.
    pub differences: Vec<String>,
}
