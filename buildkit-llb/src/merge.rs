//! Laying file trees over one another.

use std::panic::Location;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{Edge, Op, Site};
use crate::state::{State, scratch};

/// Lays states over one another, later ones on top, without copying: a change below one of them leaves the
/// others in the cache. Processes on the result run as those of the first input that is not scratch.
#[track_caller]
pub fn merge(inputs: impl IntoIterator<Item = impl Into<State>>) -> State {
    Merge::new(inputs).into()
}

/// A [`merge`] with options.
#[must_use = "a merge is part of the graph only if it is used as a state"]
#[derive(Debug, Clone)]
pub struct Merge {
    inputs: Vec<State>,
    constraints: Constraints,
    site: Site,
}

impl Merge {
    /// Lays `inputs` over one another.
    #[track_caller]
    pub fn new(inputs: impl IntoIterator<Item = impl Into<State>>) -> Self {
        Self {
            inputs: inputs.into_iter().map(Into::into).collect(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
}

impl From<Merge> for State {
    fn from(merge: Merge) -> Self {
        let mut inputs = merge.inputs;
        inputs.retain(|input| !input.is_scratch());
        let Some(first) = inputs.first().cloned() else { return scratch() };
        if inputs.len() == 1 {
            return first;
        }
        let edges = inputs.into_iter().filter_map(|input| input.edge).collect();
        first.on(Some(Edge::new(Op::Merge(edges), merge.constraints, merge.site)))
    }
}
