//! What one file tree has over another.

use std::panic::Location;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{Edge, Op, Site};
use crate::state::{State, scratch};

/// The changes that lead from `lower` to `upper`, as a layer to [`merge`](crate::merge()) onto something else.
/// Processes on the result run as those of `lower`.
#[track_caller]
pub fn diff(lower: impl Into<State>, upper: impl Into<State>) -> State {
    Diff::new(lower, upper).into()
}

/// A [`diff`] with options.
#[must_use = "a diff is part of the graph only if it is used as a state"]
#[derive(Debug, Clone)]
pub struct Diff {
    lower: State,
    upper: State,
    constraints: Constraints,
    site: Site,
}

pub(crate) struct DiffOp {
    pub(crate) lower: Option<Edge>,
    pub(crate) upper: Option<Edge>,
}

impl Diff {
    /// The changes that lead from `lower` to `upper`.
    #[track_caller]
    pub fn new(lower: impl Into<State>, upper: impl Into<State>) -> Self {
        Self {
            lower: lower.into(),
            upper: upper.into(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
}

impl From<Diff> for State {
    fn from(diff: Diff) -> Self {
        match (diff.lower.is_scratch(), diff.upper.is_scratch()) {
            (true, true) => scratch(),
            (true, false) => diff.upper,
            (false, _) => {
                let op = DiffOp { lower: diff.lower.edge.clone(), upper: diff.upper.edge };
                diff.lower.on(Some(Edge::new(Op::Diff(Box::new(op)), diff.constraints, diff.site)))
            }
        }
    }
}
