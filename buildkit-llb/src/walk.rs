//! Going through a definition from its inputs to its result.

use std::panic::Location;

use buildkit_proto::pb;

use crate::constraints::Constraints;
use crate::definition::{Definition, DefinitionOp, LoadedOp, missing, platform_from_pb};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind};
use crate::graph::{Edge, Op, Site};
use crate::source_map::SourceLocation;
use crate::state::{State, scratch};

impl Definition {
    /// Every op the result is made of, inputs before the ops that take them, each once. The last op, which only
    /// names the result, is not among them, nor are ops the result does not need.
    ///
    /// ```
    /// # use buildkit_llb::{self as llb, Definition, Platform};
    /// # let state = llb::image("alpine").run(["make"]).root();
    /// let definition = Definition::from_bytes(state.marshal(Platform::LINUX_AMD64)?.to_bytes())?;
    /// for op in definition.walk()? {
    ///     let inputs: Vec<String> = op.inputs()?.iter().map(|(digest, _)| digest.to_string()).collect();
    ///     println!("{} makes {} of {}", op.title()?, op.digest(), inputs.join(", "));
    /// }
    /// # Ok::<(), llb::Error>(())
    /// ```
    ///
    /// # Errors
    /// An op that cannot be read, an input that is not there.
    pub fn walk(&self) -> Result<Vec<DefinitionOp<'_>>, Error> {
        let mut order = Vec::new();
        if let Some((head, _)) = self.head()? {
            self.visit(head, |_, op, _| {
                order.push(op);
                Ok(())
            })?;
        }
        Ok(order)
    }

    /// The result as a state to build upon. Its ops are kept byte by byte; directory and environment are those
    /// of an image without a config, since a definition does not say more.
    ///
    /// # Errors
    /// An op that cannot be read, an input that is not there, a result without metadata.
    #[track_caller]
    pub fn to_state(&self) -> Result<State, Error> {
        let site = Location::caller();
        let Some((head, index)) = self.head()? else { return Ok(scratch()) };
        let slot = slot(index)?;
        let mut edges: Vec<Option<Edge>> = vec![None; self.ops().len()];
        let mut result = None;
        self.visit(head, |at, op, message| {
            let edge = self.vertex(op, message, &edges, site)?;
            result = Some(edge.clone());
            if let Some(slot) = edges.get_mut(at) {
                *slot = Some(edge);
            }
            Ok(())
        })?;
        let edge = result.ok_or_else(|| missing(&head.to_string()))?;
        if !self.op(&head).is_some_and(|op| op.has_metadata()) {
            return Err(Error::definition(ErrorKind::MissingMetadata(head.to_string())));
        }
        Ok(State::from_edge(Edge { slot, ..edge }))
    }

    /// Calls `each` for the op called `head` and all it is made of, inputs first, however the ops are listed.
    fn visit<'a>(
        &'a self,
        head: Digest,
        mut each: impl FnMut(usize, DefinitionOp<'a>, pb::Op) -> Result<(), Error>,
    ) -> Result<(), Error> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.ops().len()];
        let mut stack: Vec<(usize, Option<pb::Op>)> = vec![(self.find(&head.to_string())?, None)];
        while let Some((at, message)) = stack.pop() {
            let (Some(op), Some(mark)) = (self.nth(at), marks.get_mut(at)) else {
                return Err(Error::definition(ErrorKind::NoResult));
            };
            match (*mark, message) {
                (_, Some(message)) => {
                    *mark = Mark::Done;
                    each(at, op, message)?;
                }
                (Mark::Done, None) => {}
                (Mark::Open, None) => return Err(Error::definition(ErrorKind::Cycle)),
                (Mark::New, None) => {
                    *mark = Mark::Open;
                    let message = op.message()?;
                    let from = stack.len() + 1;
                    stack.push((at, None));
                    for input in &message.inputs {
                        stack.push((self.find(&input.digest)?, None));
                    }
                    if let Some(own) = stack.get_mut(from - 1) {
                        own.1 = Some(message);
                    }
                    if let Some(inputs) = stack.get_mut(from..) {
                        inputs.reverse();
                    }
                }
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, Error> {
        let digest: Digest = name.parse().map_err(|_| missing(name))?;
        self.position(&digest).ok_or_else(|| missing(name))
    }

    fn vertex(
        &self,
        op: DefinitionOp<'_>,
        message: pb::Op,
        edges: &[Option<Edge>],
        site: Site,
    ) -> Result<Edge, Error> {
        let mut inputs = Vec::with_capacity(message.inputs.len());
        for input in &message.inputs {
            let slot = slot(input.index)?;
            let known = edges.get(self.find(&input.digest)?).and_then(Option::as_ref);
            let edge = known.ok_or_else(|| Error::definition(ErrorKind::Cycle))?;
            inputs.push(Edge { slot, ..edge.clone() });
        }
        if let Some(pb::op::Op::File(file)) = &message.op {
            in_order(&mut inputs, &visiting_order(file, message.inputs.len()));
        }
        let locations = op.locations();
        let locations =
            locations.map(|(map, ranges)| SourceLocation { map: map.clone(), ranges: ranges.into() });
        let loaded = LoadedOp {
            digest: op.digest(),
            bytes: op.shared_bytes(),
            metadata: op.metadata().clone(),
            locations: locations.collect(),
            inputs,
            platform: message.platform.map(platform_from_pb),
        };
        Ok(Edge::new(Op::Loaded(Box::new(loaded)), Constraints::new(), site))
    }
}

impl TryFrom<&Definition> for State {
    type Error = Error;

    /// As [`Definition::to_state`].
    fn try_from(definition: &Definition) -> Result<Self, Error> {
        definition.to_state()
    }
}

impl DefinitionOp<'_> {
    /// The ops this one takes, and which of their outputs, in the order of the op.
    ///
    /// # Errors
    /// If a definition that was read has something else than an op there, or an op with a malformed input.
    pub fn inputs(&self) -> Result<Vec<(Digest, i64)>, Error> {
        let inputs = self.message()?.inputs;
        let inputs = inputs.iter();
        inputs
            .map(|input| Ok((input.digest.parse().map_err(|_| missing(&input.digest))?, input.index)))
            .collect()
    }
}

/// The order in which the inputs of a file op are listed in a definition: from the last action back, as when
/// the op was first marshalled. Only so does a definition that was read marshal to itself.
fn visiting_order(file: &pb::FileOp, inputs: usize) -> Vec<usize> {
    let input = |index: i64| usize::try_from(index).ok();
    // The base of an action is that of the action it follows.
    let mut bases: Vec<Option<usize>> = Vec::with_capacity(file.actions.len());
    for action in &file.actions {
        let base = input(action.input).and_then(|at| match at.checked_sub(inputs) {
            None => Some(at),
            Some(earlier) => bases.get(earlier).copied().flatten(),
        });
        bases.push(base);
    }
    let mut order = Vec::with_capacity(inputs);
    for (action, base) in file.actions.iter().zip(bases).rev() {
        order.extend(base);
        order.extend(input(action.secondary_input).filter(|at| *at < inputs));
    }
    order
}

/// Moves the items at the positions of `order` to the front, in that order.
fn in_order(items: &mut Vec<Edge>, order: &[usize]) {
    let mut slots: Vec<Option<Edge>> = items.drain(..).map(Some).collect();
    items.extend(order.iter().filter_map(|at| slots.get_mut(*at)?.take()));
    items.extend(slots.into_iter().flatten());
}

fn slot(index: i64) -> Result<u32, Error> {
    u32::try_from(index).map_err(|_| Error::definition(ErrorKind::NegativeIndex(index)))
}
