//! File ops as the wire has them.

use buildkit_proto::pb;

use super::{InputSet, Marshaller, fail, to_i64};
use crate::caps::{Cap, Caps};
use crate::error::{Error, ErrorKind};
use crate::file::{ActionKind, CopyInput, FileOp, Mode, Owner, Timestamp, User};
use crate::graph::Vertex;

impl Marshaller<'_> {
    pub(super) fn file(
        &self,
        vertex: &Vertex,
        file: &FileOp,
        inputs: &mut Vec<pb::Input>,
        caps: &mut Caps,
    ) -> Result<pb::op::Op, Error> {
        if file.actions.is_empty() || file.incomplete {
            return Err(fail(vertex, ErrorKind::NoActions));
        }
        caps.insert(Cap::FILE_BASE);
        let mut seen = InputSet::default();
        let mut positions = Vec::with_capacity(file.edges.len());
        for edge in &file.edges {
            positions.push(seen.position(self.resolve(edge)?));
        }
        *inputs = seen.list.iter().map(|(entry, index)| self.input(*entry, *index)).collect();

        let edge = |at: usize| positions.get(at).copied().unwrap_or(-1);
        // Results of actions are numbered after the inputs.
        let result = |at: usize| to_i64(inputs.len() + at);
        let last = file.actions.len() - 1;
        let actions = file.actions.iter().enumerate().map(|(at, action)| {
            let base = action.base.map_or(-1, edge);
            let mut secondary_input = -1;
            let owner = |owner: &Option<Owner>| owner.as_ref().map(|owner| owner_pb(owner, base));
            let time = |time: &Option<Timestamp>| time.map_or(-1, Timestamp::nanos);
            let body = match &action.kind {
                ActionKind::MkDir { path, mode, parents, owner: o, created } => {
                    pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                        path: path.clone(),
                        mode: mode.cast_signed(),
                        make_parents: *parents,
                        owner: owner(o),
                        timestamp: time(created),
                    })
                }
                ActionKind::MkFile { path, mode, data, owner: o, created } => {
                    pb::file_action::Action::Mkfile(pb::FileActionMkFile {
                        path: path.clone(),
                        mode: mode.cast_signed(),
                        data: data.clone(),
                        owner: owner(o),
                        timestamp: time(created),
                    })
                }
                ActionKind::Rm { path, allow_not_found, wildcard } => {
                    pb::file_action::Action::Rm(pb::FileActionRm {
                        path: path.clone(),
                        allow_not_found: *allow_not_found,
                        allow_wildcard: *wildcard,
                    })
                }
                ActionKind::Symlink { target, path, owner: o, created } => {
                    pb::file_action::Action::Symlink(pb::FileActionSymlink {
                        oldpath: target.clone(),
                        newpath: path.clone(),
                        owner: owner(o),
                        timestamp: time(created),
                    })
                }
                ActionKind::Copy(copy) => {
                    secondary_input = match copy.from {
                        CopyInput::Scratch => -1,
                        CopyInput::Edge(at) => edge(at),
                        CopyInput::Action(at) => result(at),
                    };
                    let options = &copy.options;
                    let (mode, mode_str) = match &options.mode {
                        None => (-1, String::new()),
                        Some(Mode::Bits(bits)) => (bits.cast_signed(), String::new()),
                        Some(Mode::Symbolic(text)) => (0, text.clone()),
                    };
                    pb::file_action::Action::Copy(pb::FileActionCopy {
                        src: copy.src.clone(),
                        dest: copy.dest.clone(),
                        owner: owner(&options.owner),
                        mode,
                        follow_symlink: options.follow_symlinks,
                        dir_copy_contents: options.contents_only,
                        attempt_unpack_docker_compatibility: options.unpack,
                        create_dest_path: options.create_dest,
                        allow_wildcard: options.wildcard,
                        allow_empty_wildcard: options.allow_empty_wildcard,
                        timestamp: time(&options.created),
                        include_patterns: options.include.clone(),
                        exclude_patterns: options.exclude.clone(),
                        always_replace_existing_dest_paths: options.always_replace,
                        mode_str,
                        required_paths: options.required_paths.clone(),
                    })
                }
            };
            pb::FileAction {
                input: action.previous.map_or(base, result),
                secondary_input,
                output: if at == last { 0 } else { -1 },
                action: Some(body),
            }
        });
        Ok(pb::op::Op::File(pb::FileOp { actions: actions.collect() }))
    }
}

fn owner_pb(owner: &Owner, input: i64) -> pb::ChownOpt {
    let user = |user: &Option<User>| {
        user.as_ref().map(|user| pb::UserOpt {
            user: Some(match user {
                User::Id(id) => pb::user_opt::User::ById(*id),
                User::Name(name) => {
                    pb::user_opt::User::ByName(pb::NamedUserOpt { name: name.clone(), input })
                }
            }),
        })
    };
    pb::ChownOpt { user: user(&owner.user), group: user(&owner.group) }
}
