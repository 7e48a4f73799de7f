//! `local://`

use std::panic::Location;

use super::{SourceOp, json_list};
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::graph::Site;
use crate::state::State;

/// A directory of the client, under the name the client gives it.
#[track_caller]
pub fn local(name: impl Into<String>) -> State {
    Local::new(name).into()
}

/// A [`local`](local()) directory with options.
#[derive(Debug, Clone)]
#[must_use = "a directory is part of the graph only if it is used as a state"]
pub struct Local {
    name: String,
    session: String,
    include: Vec<String>,
    exclude: Vec<String>,
    follow: Vec<String>,
    shared_key_hint: String,
    differ: Option<(Differ, bool)>,
    metadata_only: Option<Vec<String>>,
    constraints: Constraints,
    site: Site,
}

/// How the daemon finds out which files changed since it last saw the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Differ {
    /// It takes every file for changed.
    None,
    /// By size, time, mode and owner.
    Metadata,
}

impl Local {
    /// The directory the client calls `name`.
    #[track_caller]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            session: String::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            follow: Vec::new(),
            shared_key_hint: String::new(),
            differ: None,
            metadata_only: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Takes the directory from the client of this session rather than from that of the build. The session
    /// then is what tells the source apart, and no unique id is added.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session = session.into();
        self
    }

    /// Transfers only what matches one of these patterns; replaces those given before.
    pub fn include(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.include = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Does not transfer what matches these patterns, in the syntax of `.dockerignore`; replaces those given
    /// before.
    pub fn exclude(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.exclude = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Transfers only these paths and what their symbolic links lead to; replaces those given before.
    pub fn follow(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.follow = paths.into_iter().map(Into::into).collect();
        self
    }

    /// A key under which the daemon keeps the directory for the next transfer: equal keys share it.
    pub fn shared_key_hint(mut self, key: impl Into<String>) -> Self {
        self.shared_key_hint = key.into();
        self
    }

    /// How changes are found. If `required`, a daemon that cannot choose refuses the build.
    pub fn differ(mut self, differ: Differ, required: bool) -> Self {
        self.differ = Some((differ, required));
        self
    }

    /// Transfers names, sizes and modes only, and content just of the files that match `exceptions`.
    pub fn metadata_only(mut self, exceptions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.metadata_only = Some(exceptions.into_iter().map(Into::into).collect());
        self
    }
}

impl From<Local> for State {
    fn from(local: Local) -> Self {
        let mut op = SourceOp::new(format!("local://{}", local.name), Cap::SOURCE_LOCAL);
        if local.session.is_empty() {
            op.unique = true;
        } else {
            op.attr("local.session", local.session);
            op.caps.insert(Cap::SOURCE_LOCAL_SESSIONID);
        }
        for (items, key, cap) in [
            (&local.include, "local.includepattern", Cap::SOURCE_LOCAL_INCLUDEPATTERNS),
            (&local.exclude, "local.excludepatterns", Cap::SOURCE_LOCAL_EXCLUDEPATTERNS),
            (&local.follow, "local.followpaths", Cap::SOURCE_LOCAL_FOLLOWPATHS),
        ] {
            if !items.is_empty() {
                op.attr(key, json_list(items));
                op.caps.insert(cap);
            }
        }
        if !local.shared_key_hint.is_empty() {
            op.attr("local.sharedkeyhint", local.shared_key_hint);
            op.caps.insert(Cap::SOURCE_LOCAL_SHAREDKEYHINT);
        }
        if let Some((differ, required)) = local.differ {
            let differ = match differ {
                Differ::None => "none",
                Differ::Metadata => "metadata",
            };
            op.attr("local.differ", differ);
            if required {
                op.caps.insert(Cap::SOURCE_LOCAL_DIFFER);
            }
        }
        if let Some(exceptions) = local.metadata_only {
            op.attr("local.metadatatransfer", "true");
            if !exceptions.is_empty() {
                op.attr("local.metadatatransferexclude", json_list(&exceptions));
            }
            op.caps.insert(Cap::SOURCE_LOCAL_METADATATRANSFER);
        }
        op.state(local.constraints, local.site)
    }
}
