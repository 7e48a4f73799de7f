//! What a daemon checks when it loads a definition, checked before it is sent.

use buildkit_proto::pb;

use crate::caps::{Caps, ServerCaps};
use crate::definition::{Definition, DefinitionOp, missing};
use crate::error::{Error, ErrorKind};

impl Definition {
    /// Checks what a daemon checks when it loads a definition, and that ops refer only to inputs they have.
    /// What [`State::marshal`](crate::State::marshal) gives always passes; this is for definitions that were
    /// read, and for messages made by hand. An empty definition is the one of scratch; it passes here, though a
    /// daemon has nothing to solve in it.
    ///
    /// Not checked: what only the daemon knows, such as entitlements, source policies and, but for
    /// [`check_caps`](Self::check_caps), capabilities.
    ///
    /// # Errors
    /// The first op that a daemon would refuse, and why.
    pub fn validate(&self) -> Result<(), Error> {
        let count = self.ops().len();
        if count == 1 {
            return Err(Error::definition(ErrorKind::TooFewOps(count)));
        }
        for (at, op) in self.ops().enumerate() {
            let message = op.message()?;
            let fail = |kind| Error::new(kind, format!("op {}", op.digest()), None);
            for input in &message.inputs {
                if input.index < 0 {
                    return Err(fail(ErrorKind::NegativeIndex(input.index)));
                }
                let known = input.digest.parse().ok().and_then(|digest| self.position(&digest));
                known.ok_or_else(|| missing(&input.digest))?;
            }
            match &message.op {
                None if at + 1 == count && message.inputs.is_empty() => {
                    return Err(fail(ErrorKind::NoResult));
                }
                None if at + 1 == count => {}
                None => return Err(fail(ErrorKind::EmptyOp)),
                Some(body) => check(body, message.inputs.len()).map_err(fail)?,
            }
        }
        self.walk()?;
        Ok(())
    }

    /// What the ops of the definition need of a daemon, all taken together.
    pub fn caps(&self) -> Caps {
        let mut caps = Caps::default();
        for op in self.ops() {
            caps.merge(&op.metadata().caps);
        }
        caps
    }

    /// Checks that a daemon has what the ops need, so that an old daemon is told by the feature it lacks before
    /// anything is sent.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], naming the op.
    pub fn check_caps(&self, server: &ServerCaps) -> Result<(), Error> {
        for op in self.ops() {
            for (name, needed) in op.metadata().caps.iter() {
                if needed {
                    let title =
                        |op: &DefinitionOp<'_>| op.title().unwrap_or_else(|_| op.digest().to_string());
                    let checked = server.offers(name);
                    checked.map_err(|error| Error::new(ErrorKind::Unsupported(error), title(&op), None))?;
                }
            }
        }
        Ok(())
    }
}

fn check(body: &pb::op::Op, inputs: usize) -> Result<(), ErrorKind> {
    let in_range = |index: i64, more: usize| {
        let known = usize::try_from(index).is_ok_and(|index| index < inputs + more);
        if known || index == -1 { Ok(()) } else { Err(ErrorKind::InputOutOfRange(index)) }
    };
    match body {
        pb::op::Op::Source(source) => {
            if source.identifier.is_empty() {
                return Err(ErrorKind::EmptyIdentifier);
            }
        }
        pb::op::Op::Exec(exec) => {
            if exec.meta.as_ref().is_none_or(|meta| meta.args.is_empty()) {
                return Err(ErrorKind::NoArguments);
            }
            if !exec.mounts.iter().any(|mount| mount.dest == "/") {
                return Err(ErrorKind::NoRoot);
            }
            exec.mounts.iter().try_for_each(|mount| in_range(mount.input, 0))?;
        }
        pb::op::Op::File(file) => {
            if file.actions.is_empty() {
                return Err(ErrorKind::NoActions);
            }
            for (at, action) in file.actions.iter().enumerate() {
                // The results of the actions before count as inputs.
                in_range(action.input, at)?;
                in_range(action.secondary_input, at)?;
                if action.action.is_none() {
                    return Err(ErrorKind::EmptyOp);
                }
            }
        }
        pb::op::Op::Build(build) => {
            build.inputs.values().try_for_each(|input| in_range(input.input, 0))?;
        }
        pb::op::Op::Merge(merge) => {
            merge.inputs.iter().try_for_each(|input| in_range(input.input, 0))?;
        }
        pb::op::Op::Diff(diff) => {
            let (Some(lower), Some(upper)) = (&diff.lower, &diff.upper) else {
                return Err(ErrorKind::DiffWithoutSide);
            };
            in_range(lower.input, 0)?;
            in_range(upper.input, 0)?;
        }
        pb::op::Op::Passthrough(passthrough) => {
            if passthrough.id.is_empty() {
                return Err(ErrorKind::PassthroughWithoutId);
            }
            if inputs == 0 {
                return Err(ErrorKind::PassthroughWithoutInput);
            }
            if passthrough.outputs.is_empty() {
                return Err(ErrorKind::PassthroughWithoutOutput);
            }
            for output in &passthrough.outputs {
                if *output < 0 {
                    return Err(ErrorKind::InputOutOfRange(*output));
                }
                in_range(*output, 0)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::{Cap, Unsupported};
    use crate::{Platform, State, image, merge, scratch};

    fn state() -> State {
        let process = image("alpine").run(["x"]).ignore_cache().mount("/m", scratch()).root();
        merge([image("alpine"), process]).mkfile("/a", 0o644, "a")
    }

    /// A definition whose op at `at` was changed by hand; the ops after it follow to its new name.
    fn changed(at: usize, change: impl FnOnce(&mut pb::Op)) -> Definition {
        let definition = state().marshal(Platform::LINUX_AMD64).unwrap();
        let mut ops: Vec<pb::Op> = definition.ops().map(|op| op.message().unwrap()).collect();
        let mut names: Vec<String> = definition.ops().map(|op| op.digest().to_string()).collect();
        change(&mut ops[at]);
        let mut out = pb::Definition::default();
        for at in 0..ops.len() {
            let bytes = buildkit_proto::canonical::encode_op(&ops[at]);
            let name = crate::Digest::of(&bytes).to_string();
            let old = std::mem::replace(&mut names[at], name.clone());
            for op in &mut ops[at + 1..] {
                for input in op.inputs.iter_mut().filter(|input| input.digest == old) {
                    input.digest.clone_from(&name);
                }
            }
            out.metadata.insert(name, pb::OpMetadata::default());
            out.def.push(bytes.into());
        }
        Definition::from_pb(out).unwrap()
    }

    fn refusal(at: usize, change: impl FnOnce(&mut pb::Op)) -> ErrorKind {
        changed(at, change).validate().unwrap_err().kind().clone()
    }

    #[test]
    fn a_marshalled_graph_passes() {
        state().marshal(Platform::LINUX_AMD64).unwrap().validate().unwrap();
        scratch().marshal(Platform::LINUX_AMD64).unwrap().validate().unwrap();
        changed(0, |_| ()).validate().unwrap();
    }

    #[test]
    fn ghsa_qx3x_mv6r_52p6_what_a_daemon_refuses_is_refused() {
        let exec = |change: fn(&mut pb::ExecOp)| {
            move |op: &mut pb::Op| {
                if let Some(pb::op::Op::Exec(exec)) = &mut op.op {
                    change(exec);
                }
            }
        };
        assert_eq!(refusal(1, exec(|exec| exec.meta = None)), ErrorKind::NoArguments);
        assert_eq!(refusal(1, exec(|exec| exec.mounts.clear())), ErrorKind::NoRoot);
        assert_eq!(refusal(1, exec(|exec| exec.mounts[0].input = 7)), ErrorKind::InputOutOfRange(7));
        assert_eq!(refusal(1, |op| op.inputs[0].index = -2), ErrorKind::NegativeIndex(-2));
        assert!(matches!(refusal(1, |op| op.inputs[0].digest = "x".into()), ErrorKind::MissingInput(_)));
        assert_eq!(refusal(0, |op| op.op = None), ErrorKind::EmptyOp);
        let merge = pb::op::Op::Merge(pb::MergeOp { inputs: vec![pb::MergeInput { input: 2 }] });
        assert_eq!(refusal(2, |op| op.op = Some(merge)), ErrorKind::InputOutOfRange(2));
        let diff = pb::op::Op::Diff(pb::DiffOp::default());
        assert_eq!(refusal(2, |op| op.op = Some(diff)), ErrorKind::DiffWithoutSide);
        let passthrough = |id: &str, outputs: &[i64]| {
            let passthrough = pb::PassthroughOp { id: id.into(), outputs: outputs.into() };
            move |op: &mut pb::Op| op.op = Some(pb::op::Op::Passthrough(passthrough))
        };
        assert_eq!(refusal(2, passthrough("", &[0])), ErrorKind::PassthroughWithoutId);
        assert_eq!(refusal(2, passthrough("p", &[])), ErrorKind::PassthroughWithoutOutput);
        assert_eq!(refusal(2, passthrough("p", &[2])), ErrorKind::InputOutOfRange(2));
        assert_eq!(refusal(2, passthrough("p", &[-1])), ErrorKind::InputOutOfRange(-1));
        assert_eq!(
            refusal(3, |op| op.op = Some(pb::op::Op::File(pb::FileOp::default()))),
            ErrorKind::NoActions
        );
        assert_eq!(refusal(4, |op| op.inputs.clear()), ErrorKind::NoResult);
        let alone = pb::Definition { def: vec![vec![].into()], ..pb::Definition::default() };
        let alone = Definition::from_pb(alone).unwrap().validate().unwrap_err();
        assert_eq!(alone.kind(), &ErrorKind::TooFewOps(1));
    }

    #[test]
    fn an_old_daemon_is_told_by_what_it_lacks() {
        let definition = state().marshal(Platform::LINUX_AMD64).unwrap();
        definition.check_caps(&ServerCaps::all()).unwrap();
        assert!(definition.caps().contains("mergeop") && definition.caps().contains("meta.ignorecache"));
        assert!(!definition.caps().contains("diffop"));
        let error = definition.check_caps(&ServerCaps::frozen()).unwrap_err();
        assert_eq!(error.op(), "merge");
        assert_eq!(error.kind(), &ErrorKind::Unsupported(Unsupported::Missing("mergeop".into())));
        let mut later = definition.to_pb();
        for metadata in later.metadata.values_mut() {
            metadata.caps.insert("later.cap".into(), true);
        }
        let later = Definition::from_pb(later).unwrap();
        let mut server = ServerCaps::all();
        assert!(later.check_caps(&server).is_err(), "neither this crate nor the daemon knows it");
        server.insert("later.cap", crate::caps::ServerCap { enabled: true, ..Default::default() });
        later.check_caps(&server).unwrap();
        assert_eq!(server.supports(Cap::MERGEOP), Ok(()));
    }
}
