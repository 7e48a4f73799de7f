//! File ops as the wire has them.

use buildkit_proto::canonical::Writer;

use super::{Marshaller, Scratch, fail, to_i64};
use crate::caps::{Cap, Caps};
use crate::error::{Error, ErrorKind};
use crate::file::{ActionKind, CopyInput, CopyOptions, FileOp, Mode, Owner, Timestamp, User};
use crate::graph::Vertex;

impl Marshaller<'_> {
    pub(super) fn file(
        &self,
        vertex: &Vertex,
        file: &FileOp,
        scratch: &mut Scratch,
        caps: &mut Caps,
    ) -> Result<(), Error> {
        if file.actions.is_empty() || file.incomplete {
            return Err(fail(vertex, ErrorKind::NoActions));
        }
        caps.insert(Cap::FILE_BASE);
        let Scratch { out, inputs, positions } = scratch;
        for edge in &file.edges {
            positions.push(inputs.position(self.resolve(edge)?));
        }
        self.head(out, vertex, &inputs.list, None);

        let edge = |at: usize| positions.get(at).copied().unwrap_or(-1);
        // Results of actions are numbered after the inputs.
        let result = |at: usize| to_i64(inputs.list.len() + at);
        out.message(4, |out| {
            for (at, action) in file.actions.iter().enumerate() {
                let base = action.base.map_or(-1, edge);
                let from = match &action.kind {
                    ActionKind::Copy(copy) => match copy.from {
                        CopyInput::Scratch => -1,
                        CopyInput::Edge(at) => edge(at),
                        CopyInput::Action(at) => result(at),
                    },
                    _ => -1,
                };
                out.message(2, |out| {
                    out.int(1, action.previous.map_or(base, result));
                    out.int(2, from);
                    out.int(3, if at + 1 == file.actions.len() { 0 } else { -1 });
                    put_action(out, &action.kind, base);
                });
            }
        });
        Ok(())
    }
}

/// The action itself; names of users are looked up in the input `base`.
fn put_action(out: &mut Writer, action: &ActionKind, base: i64) {
    match action {
        ActionKind::Copy(copy) => out.message(4, |out| {
            out.bytes(1, &copy.src);
            out.bytes(2, &copy.dest);
            put_copy_options(out, &copy.options, base);
        }),
        ActionKind::MkFile { path, mode, data, owner, created } => out.message(5, |out| {
            out.bytes(1, path);
            out.int(2, mode.cast_signed());
            out.bytes(3, data);
            put_owner(out, 4, owner.as_ref(), base);
            out.int(5, time(*created));
        }),
        ActionKind::MkDir { path, mode, parents, owner, created } => out.message(6, |out| {
            out.bytes(1, path);
            out.int(2, mode.cast_signed());
            out.flag(3, *parents);
            put_owner(out, 4, owner.as_ref(), base);
            out.int(5, time(*created));
        }),
        ActionKind::Rm { path, allow_not_found, wildcard } => out.message(7, |out| {
            out.bytes(1, path);
            out.flag(2, *allow_not_found);
            out.flag(3, *wildcard);
        }),
        ActionKind::Symlink { target, path, owner, created } => out.message(8, |out| {
            out.bytes(1, target);
            out.bytes(2, path);
            put_owner(out, 3, owner.as_ref(), base);
            out.int(4, time(*created));
        }),
    }
}

fn put_copy_options(out: &mut Writer, options: &CopyOptions, base: i64) {
    put_owner(out, 3, options.owner.as_ref(), base);
    out.int(
        4,
        match &options.mode {
            None => -1,
            Some(Mode::Bits(bits)) => bits.cast_signed(),
            Some(Mode::Symbolic(_)) => 0,
        },
    );
    out.flag(5, options.follow_symlinks);
    out.flag(6, options.contents_only);
    out.flag(7, options.unpack);
    out.flag(8, options.create_dest);
    out.flag(9, options.wildcard);
    out.flag(10, options.allow_empty_wildcard);
    out.int(11, time(options.created));
    out.items(12, &options.include);
    out.items(13, &options.exclude);
    out.flag(14, options.always_replace);
    if let Some(Mode::Symbolic(text)) = &options.mode {
        out.bytes(15, text);
    }
    out.items(16, &options.required_paths);
}

fn put_owner(out: &mut Writer, field: u32, owner: Option<&Owner>, input: i64) {
    if let Some(Owner { user, group }) = owner {
        out.message(field, |out| {
            for (field, user) in [(1, user), (2, group)] {
                if let Some(user) = user {
                    out.message(field, |out| match user {
                        User::Name(name) => out.message(1, |out| {
                            out.bytes(1, name);
                            out.int(2, input);
                        }),
                        User::Id(id) => out.choice(2, *id),
                    });
                }
            }
        });
    }
}

fn time(time: Option<Timestamp>) -> i64 {
    time.map_or(-1, Timestamp::nanos)
}
