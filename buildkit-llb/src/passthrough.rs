//! Ops that hand inputs on and only make sure that others were built too.

use std::panic::Location;

use crate::constraints::{Constraints, constraint_setters};
use crate::graph::{Edge, Op, Site};
use crate::state::{State, scratch};

/// Hands some of its inputs on as they are, once all of them could be built. Needs BuildKit 0.31.
#[must_use = "a passthrough is part of the graph only if one of its outputs is used"]
#[derive(Debug, Clone)]
pub struct Passthrough {
    id: String,
    inputs: Vec<(State, bool)>,
    constraints: Constraints,
    site: Site,
}

pub(crate) struct PassthroughOp {
    pub(crate) id: String,
    /// Inputs that are not scratch, and whether each is handed on.
    pub(crate) inputs: Vec<(Edge, bool)>,
}

impl Passthrough {
    /// A passthrough; `id` tells it from others with the same inputs.
    #[track_caller]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), inputs: Vec::new(), constraints: Constraints::new(), site: Location::caller() }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Adds an input that must be built but is not handed on.
    pub fn dependency(mut self, state: impl Into<State>) -> Self {
        self.inputs.push((state.into(), false));
        self
    }

    /// Adds an input that is handed on as the next output.
    pub fn hand_on(mut self, state: impl Into<State>) -> Self {
        self.inputs.push((state.into(), true));
        self
    }

    /// The inputs that are handed on, in order. Scratch inputs are left out; if nothing remains, there is a
    /// single state that fails at `marshal`.
    pub fn outputs(self) -> Vec<State> {
        let inputs: Vec<(State, bool)> =
            self.inputs.into_iter().filter(|(state, _)| !state.is_scratch()).collect();
        let handed: Vec<State> =
            inputs.iter().filter(|(_, output)| *output).map(|(state, _)| state.clone()).collect();
        let inputs = inputs.into_iter().filter_map(|(state, output)| Some((state.edge?, output))).collect();
        let op = Op::Passthrough(Box::new(PassthroughOp { id: self.id, inputs }));
        let edge = Edge::new(op, self.constraints, self.site);
        if handed.is_empty() {
            return vec![scratch().on(Some(edge))];
        }
        let edges = (0..).map(|slot| Edge { slot, ..edge.clone() });
        handed.iter().zip(edges).map(|(state, edge)| state.on(Some(edge))).collect()
    }
}

/// [`State::requires`] with options: a state that depends on others without having anything of them.
#[must_use = "the op is part of the graph only if it is used as a state"]
#[derive(Debug, Clone)]
pub struct Requires {
    base: State,
    passthrough: Passthrough,
    dependencies: bool,
}

impl Requires {
    /// `base`, built only if every one of `dependencies` could be built. Without dependencies it is `base`
    /// itself.
    #[track_caller]
    pub fn new(
        base: impl Into<State>,
        id: impl Into<String>,
        dependencies: impl IntoIterator<Item = impl Into<State>>,
    ) -> Self {
        let base = base.into();
        let mut passthrough = Passthrough::new(id).hand_on(&base);
        for dependency in dependencies {
            passthrough = passthrough.dependency(dependency);
        }
        let dependencies = passthrough.inputs.len() > 1;
        Self { base, passthrough, dependencies }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.passthrough.constraints
    }

    constraint_setters!();
}

impl From<Requires> for State {
    fn from(requires: Requires) -> Self {
        if !requires.dependencies {
            return requires.base;
        }
        let output = requires.passthrough.outputs().into_iter().next();
        requires.base.on(output.and_then(|state| state.edge))
    }
}
