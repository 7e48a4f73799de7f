//! Building what a file describes.

use std::panic::Location;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{BuildFile, Edge, Op, Site};
use crate::state::State;

/// Builds the definition that lies in a file of a state, and gives its result.
#[must_use = "a build op is part of the graph only if it is used as a state"]
#[derive(Debug, Clone)]
pub struct BuildOp {
    source: State,
    filename: Option<String>,
    constraints: Constraints,
    site: Site,
}

impl BuildOp {
    /// Builds the file `buildkit.llb.definition` of `source`.
    #[track_caller]
    pub fn new(source: impl Into<State>) -> Self {
        Self {
            source: source.into(),
            filename: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Builds another file of it; the empty name is the default again.
    pub fn filename(mut self, filename: impl Into<String>) -> Self {
        self.filename = Some(filename.into()).filter(|name: &String| !name.is_empty());
        self
    }
}

impl From<BuildOp> for State {
    fn from(build: BuildOp) -> Self {
        let file = BuildFile { input: build.source.edge.clone(), filename: build.filename };
        let op = Op::Build(Box::new(file));
        build.source.on(Some(Edge::new(op, build.constraints, build.site)))
    }
}
