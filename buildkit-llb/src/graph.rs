//! Vertices and edges: the graph behind every state.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::constraints::Constraints;
use crate::definition::LoadedOp;
use crate::diff::DiffOp;
use crate::error::ErrorKind;
use crate::exec::{ExecOp, MountPoint};
use crate::file::FileOp;
use crate::passthrough::PassthroughOp;
use crate::platform::Platform;
use crate::source::SourceOp;

/// The line of the program that built an op.
pub(crate) type Site = &'static Location<'static>;

/// An op with its constraints. Shared, immutable, and dropped without recursion.
pub(crate) struct Vertex {
    pub(crate) op: Op,
    pub(crate) constraints: Constraints,
    pub(crate) site: Site,
}

pub(crate) enum Op {
    Source(Box<SourceOp>),
    /// Not in a box: most ops are processes.
    Exec(ExecOp),
    File(Box<FileOp>),
    Merge(Vec<Edge>),
    Diff(Box<DiffOp>),
    Passthrough(Box<PassthroughOp>),
    /// Runs the definition found in a file of its input.
    Build(Box<BuildFile>),
    Loaded(Box<LoadedOp>),
    /// A mistake made where there is no op to keep it, such as an unreadable image config.
    Invalid(Box<Invalid>),
}

pub(crate) struct BuildFile {
    pub(crate) input: Option<Edge>,
    pub(crate) filename: Option<String>,
}

pub(crate) struct Invalid {
    pub(crate) title: &'static str,
    pub(crate) kind: ErrorKind,
    pub(crate) input: Option<Edge>,
}

/// One output of a vertex.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) vertex: Arc<Vertex>,
    /// For a process the position of the mount in the op, else the index of the output.
    pub(crate) slot: u32,
}

impl Edge {
    pub(crate) fn new(op: Op, constraints: Constraints, site: Site) -> Self {
        Self { vertex: Arc::new(Vertex { op, constraints, site }), slot: 0 }
    }

    /// The platform the output brings along, if it knows one.
    pub(crate) fn platform(&self) -> Option<Platform> {
        match &self.vertex.op {
            // What leaves nothing behind brings nothing along.
            Op::Exec(op) if op.mounts.get(self.slot as usize).is_some_and(MountPoint::is_lost) => None,
            Op::Source(_) | Op::Exec(_) => self.vertex.constraints.explicit_platform().cloned(),
            Op::Loaded(op) => op.platform.clone(),
            _ => None,
        }
    }
}

impl Vertex {
    /// The edges of the op in the order in which a definition lists them.
    pub(crate) fn inputs<'a>(&'a self, out: &mut Vec<&'a Edge>) {
        match &self.op {
            Op::Source(_) => {}
            Op::Exec(op) => out.extend(op.mounts.iter().filter_map(|mount| mount.source.as_ref())),
            Op::File(op) => op.inputs(out),
            Op::Merge(inputs) => out.extend(inputs),
            Op::Diff(op) => out.extend(op.lower.iter().chain(&op.upper)),
            Op::Passthrough(op) => out.extend(op.inputs.iter().map(|(edge, _)| edge)),
            Op::Build(op) => out.extend(&op.input),
            Op::Invalid(op) => out.extend(&op.input),
            Op::Loaded(op) => out.extend(&op.inputs),
        }
    }

    fn take_inputs(&mut self, mut take: impl FnMut(Edge)) {
        match &mut self.op {
            Op::Source(_) => {}
            Op::Exec(op) => op.mounts.iter_mut().filter_map(|mount| mount.source.take()).for_each(take),
            Op::File(op) => op.take_inputs(take),
            Op::Merge(inputs) => inputs.drain(..).for_each(take),
            Op::Diff(op) => op.lower.take().into_iter().chain(op.upper.take()).for_each(take),
            Op::Passthrough(op) => op.inputs.drain(..).for_each(|(edge, _)| take(edge)),
            Op::Build(op) => op.input.take().into_iter().for_each(take),
            Op::Invalid(op) => op.input.take().into_iter().for_each(take),
            Op::Loaded(op) => op.inputs.drain(..).for_each(take),
        }
    }

    /// What one would call the op in a sentence.
    pub(crate) fn title(&self) -> String {
        match &self.op {
            Op::Source(op) => op.title(),
            Op::Exec(op) => format!("run {}", op.command),
            Op::File(op) => op.title(),
            Op::Merge(inputs) => format!("merge of {}", inputs.len()),
            Op::Diff(_) => "diff".to_owned(),
            Op::Passthrough(op) => format!("passthrough {:?}", op.id),
            Op::Build(_) => "build".to_owned(),
            Op::Loaded(op) => format!("loaded op {}", op.digest),
            Op::Invalid(op) => op.title.to_owned(),
        }
    }
}

impl Drop for Vertex {
    /// A chain of a million ops must not need a stack frame each.
    fn drop(&mut self) {
        let mut orphans: Vec<Vertex> = Vec::new();
        self.take_inputs(|edge| orphans.extend(Arc::into_inner(edge.vertex)));
        while let Some(mut orphan) = orphans.pop() {
            orphan.take_inputs(|edge| orphans.extend(Arc::into_inner(edge.vertex)));
        }
    }
}

impl fmt::Debug for Vertex {
    /// Only this op: its inputs may be shared a million times over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())
    }
}
