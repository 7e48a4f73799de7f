//! A file op as the graph keeps it.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Bound, CopyOptions, FileAction, MkDir, MkFile, Owner, Rm, Source, Step, Symlink, Timestamp};
use crate::graph::Edge;
use crate::path;
use crate::state::State;

/// Every list of actions in one, paths made absolute.
#[derive(Default)]
pub(crate) struct FileOp {
    /// In the order in which the op names its inputs; equal ones are found out when digests are known.
    pub(crate) edges: Vec<Edge>,
    pub(crate) actions: Vec<Action>,
    /// Whether a copy takes from a list without actions.
    pub(crate) incomplete: bool,
}

pub(crate) struct Action {
    /// Position in the edges of the state the action is done on; none for scratch.
    pub(crate) base: Option<usize>,
    /// The action before it in its list.
    pub(crate) previous: Option<usize>,
    pub(crate) kind: ActionKind,
}

pub(crate) enum ActionKind {
    MkDir { path: String, mode: u32, parents: bool, owner: Option<Owner>, created: Option<Timestamp> },
    MkFile { path: String, mode: u32, data: Bytes, owner: Option<Owner>, created: Option<Timestamp> },
    Rm { path: String, allow_not_found: bool, wildcard: bool },
    Symlink { target: String, path: String, owner: Option<Owner>, created: Option<Timestamp> },
    Copy(Box<CopyAction>),
}

pub(crate) struct CopyAction {
    pub(crate) from: CopyInput,
    pub(crate) src: String,
    pub(crate) dest: String,
    pub(crate) options: CopyOptions,
}

pub(crate) enum CopyInput {
    Scratch,
    /// Position in the edges.
    Edge(usize),
    /// Position in the actions.
    Action(usize),
}

struct Frame<'a> {
    base: &'a State,
    base_edge: Option<usize>,
    steps: &'a [Step],
    at: usize,
    previous: Option<usize>,
    bound: *const Bound,
}

impl FileOp {
    pub(super) fn build(base: &State, action: &FileAction) -> Self {
        // Exact for nearly all, which are one action on one state.
        let mut op = Self {
            edges: Vec::with_capacity(usize::from(base.edge.is_some())),
            actions: Vec::with_capacity(action.steps.len()),
            incomplete: false,
        };
        let mut done: HashMap<*const Bound, Option<usize>> = HashMap::new();
        let mut stack = vec![Frame::new(base, action, std::ptr::null())];
        while let Some(frame) = stack.last_mut() {
            let Some(step) = frame.steps.get(frame.at) else {
                if !frame.bound.is_null() {
                    done.insert(frame.bound, frame.previous);
                }
                stack.pop();
                continue;
            };
            if frame.base_edge.is_none()
                && let Some(edge) = &frame.base.edge
            {
                frame.base_edge = Some(op.edges.len());
                op.edges.push(edge.clone());
            }
            let dir = frame.base.context.dir();
            let kind = match step {
                Step::MkDir(MkDir { path, mode, parents, owner, created }) => ActionKind::MkDir {
                    path: path::normalize(dir, path),
                    mode: mode & 0o777,
                    parents: *parents,
                    owner: owner.clone(),
                    created: *created,
                },
                Step::MkFile(MkFile { path, mode, data, owner, created }) => ActionKind::MkFile {
                    path: path::normalize(dir, path),
                    mode: mode & 0o777,
                    data: data.clone(),
                    owner: owner.clone(),
                    created: *created,
                },
                Step::Rm(Rm { path, allow_not_found, wildcard }) => ActionKind::Rm {
                    path: path::normalize(dir, path),
                    allow_not_found: *allow_not_found,
                    wildcard: *wildcard,
                },
                Step::Symlink(Symlink { target, path, owner, created }) => ActionKind::Symlink {
                    target: target.clone(),
                    path: path.clone(),
                    owner: owner.clone(),
                    created: *created,
                },
                Step::Copy(copy) => {
                    let (from, source_dir) = match &copy.from.0 {
                        Source::State(state) => {
                            let from = match &state.edge {
                                None => CopyInput::Scratch,
                                Some(edge) => {
                                    op.edges.push(edge.clone());
                                    CopyInput::Edge(op.edges.len() - 1)
                                }
                            };
                            (from, state.context.dir())
                        }
                        Source::Action(action) => {
                            let bound: &Bound = &action.inner;
                            match done.get(&std::ptr::from_ref(bound)) {
                                Some(Some(last)) => (CopyInput::Action(*last), bound.base.context.dir()),
                                Some(None) => {
                                    op.incomplete = true;
                                    (CopyInput::Scratch, "/")
                                }
                                None => {
                                    stack.push(Frame::new(&bound.base, &bound.action, bound));
                                    continue;
                                }
                            }
                        }
                    };
                    ActionKind::Copy(Box::new(CopyAction {
                        from,
                        src: path::normalize(source_dir, &copy.src),
                        dest: path::normalize_dest(dir, &copy.dest),
                        options: copy.options.clone(),
                    }))
                }
            };
            let action = Action { base: frame.base_edge, previous: frame.previous, kind };
            frame.previous = Some(op.actions.len());
            frame.at += 1;
            op.actions.push(action);
        }
        op
    }

    pub(crate) fn inputs<'a>(&'a self, out: &mut Vec<&'a Edge>) {
        for action in self.actions.iter().rev() {
            out.extend(action.base.and_then(|base| self.edges.get(base)));
            if let ActionKind::Copy(copy) = &action.kind
                && let CopyInput::Edge(edge) = copy.from
            {
                out.extend(self.edges.get(edge));
            }
        }
    }

    pub(crate) fn take_inputs(&mut self, take: impl FnMut(Edge)) {
        self.edges.drain(..).for_each(take);
    }

    pub(crate) fn title(&self) -> String {
        let mut title = String::from("file");
        for (i, action) in self.actions.iter().enumerate() {
            if i == 3 {
                title.push_str(", …");
                break;
            }
            title.push_str(if i == 0 { " (" } else { ", " });
            let (verb, path) = match &action.kind {
                ActionKind::MkDir { path, .. } => ("mkdir ", path),
                ActionKind::MkFile { path, .. } => ("mkfile ", path),
                ActionKind::Rm { path, .. } => ("rm ", path),
                ActionKind::Symlink { path, .. } => ("symlink ", path),
                ActionKind::Copy(copy) => ("copy to ", &copy.dest),
            };
            title.push_str(verb);
            title.push_str(path);
        }
        if !self.actions.is_empty() {
            title.push(')');
        }
        title
    }
}

impl<'a> Frame<'a> {
    fn new(base: &'a State, action: &'a FileAction, bound: *const Bound) -> Self {
        Self { base, base_edge: None, steps: &action.steps, at: 0, previous: None, bound }
    }
}
