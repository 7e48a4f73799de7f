//! A stage while it is being evaluated.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buildkit_llb::{EnvList, Platform};

use crate::instructions::{self, Instruction};
use crate::parser::Lines;

use super::args::Declared;
use super::config::ImageConfig;
use super::context::{FoundContext, NamedContext};
use super::names::{Counter, Prefix};
use super::step::{StageId, Step};

/// The base name that stands for an empty file system.
pub(crate) const SCRATCH: &str = "scratch";

/// No place in the Dockerfile: an empty range of lines.
pub(crate) const NOWHERE: Lines = Lines { start: 1, end: 0 };

/// A stage of the Dockerfile, or an image that `COPY --from` or a mount names.
#[derive(Debug)]
pub(crate) struct Stage<'d> {
    /// The stage in the Dockerfile; `None` for one that is only named as a source of files.
    pub(crate) written: Option<&'d instructions::Stage>,
    /// The name shown in vertex names; `stage-N` if none was given.
    pub(crate) name: String,
    /// What it starts from: after expansion, then after resolution.
    pub(crate) base_name: String,
    /// What it starts from as the author of the Dockerfile would recognise it.
    pub(crate) original_base: String,
    /// Where it is defined.
    pub(crate) lines: Lines,
    /// The stage it starts from.
    pub(crate) base: Option<StageId>,
    /// The named context that replaces it.
    pub(crate) replacement: Option<FoundContext>,
    /// Where its file system comes from.
    pub(crate) origin: Origin,
    /// Stages whose files it uses, each with the last instruction that does.
    pub(crate) deps: Vec<(StageId, Lines)>,
    pub(crate) commands: Vec<Command<'d>>,
    /// How deep in triggers of base images this stage was named.
    pub(crate) trigger_depth: u32,
    /// Base images whose triggers led here.
    pub(crate) trigger_chain: Option<Arc<TriggerChain>>,

    /// The base image was looked up.
    pub(crate) resolved: bool,
    /// The triggers of the base stage were added.
    pub(crate) triggers_added: bool,
    /// Its files can be used: the instructions were evaluated, or there are none.
    pub(crate) dispatched: bool,
    /// The instructions were evaluated.
    pub(crate) evaluated: bool,

    /// `--platform` of the FROM, then the platform of the base.
    pub(crate) platform: Option<Platform>,
    /// The platform the file system itself carries.
    pub(crate) state_platform: Option<Platform>,
    pub(crate) image: ImageConfig,
    /// Config of the base image as it was resolved.
    pub(crate) base_image: Option<Arc<ImageConfig>>,
    pub(crate) env: EnvList,
    pub(crate) dir: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) build_args: Vec<(String, Option<String>)>,
    /// Set of used paths; stages on one base share it.
    pub(crate) used_paths: usize,
    pub(crate) workdir_set: bool,
    pub(crate) ignore_cache: bool,
    pub(crate) counter: Counter,
    pub(crate) seen: Seen,
    pub(crate) steps: Vec<Step>,
    pub(crate) outline: Captured,
}

/// Where the file system of a stage comes from.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// Not known (yet), or that of the base stage.
    #[default]
    Unset,
    Scratch,
    Image {
        reference: String,
        name: String,
        /// As given, not normalised.
        platform: Platform,
        command: String,
        lines: Lines,
    },
    Context {
        context: NamedContext,
        /// Platform given to the file system.
        platform: Option<Platform>,
    },
}

/// Base images whose `ONBUILD` triggers led to a stage.
#[derive(Debug)]
pub(crate) struct TriggerChain {
    pub(crate) image: String,
    pub(crate) parent: Option<Arc<TriggerChain>>,
}

/// An instruction of a stage and the stages it takes files from.
#[derive(Debug)]
pub(crate) struct Command<'d> {
    pub(crate) instruction: Cow<'d, Instruction>,
    /// One for `COPY --from`, one a mount for `RUN`.
    pub(crate) sources: Vec<StageId>,
    pub(crate) onbuild: bool,
}

/// Instructions of which only the last one of a stage counts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) cmd: Option<Lines>,
    pub(crate) entrypoint: Option<Lines>,
    pub(crate) healthcheck: Option<Lines>,
}

/// What an outline tells about a stage.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    /// Arguments declared in the stage, or in the stages it starts from when it was defined.
    pub(crate) args: BTreeMap<String, Declared>,
    pub(crate) used_args: BTreeSet<String>,
    pub(crate) secrets: BTreeMap<String, (Lines, bool)>,
    pub(crate) ssh: BTreeMap<String, (Lines, bool)>,
}

impl<'d> Stage<'d> {
    /// A stage that starts from `base_name`, defined at `lines`.
    pub(crate) fn new(base_name: String, lines: Lines, used_paths: usize) -> Self {
        Self {
            written: None,
            name: String::new(),
            original_base: base_name.clone(),
            base_name,
            lines,
            base: None,
            replacement: None,
            origin: Origin::Unset,
            deps: Vec::new(),
            commands: Vec::new(),
            trigger_depth: 0,
            trigger_chain: None,
            resolved: false,
            triggers_added: false,
            dispatched: false,
            evaluated: false,
            platform: None,
            state_platform: None,
            image: ImageConfig::default(),
            base_image: None,
            env: EnvList::new(),
            dir: "/".into(),
            user: None,
            build_args: Vec::new(),
            used_paths,
            workdir_set: false,
            ignore_cache: false,
            counter: Counter::default(),
            seen: Seen::default(),
            steps: Vec::new(),
            outline: Captured::default(),
        }
    }

    /// The name given in the Dockerfile, in lower case; empty for none.
    pub(crate) fn given_name(&self) -> &'d str {
        self.written.and_then(|s| s.name.as_deref()).unwrap_or_default()
    }

    /// The FROM as written; empty for an implicit stage.
    pub(crate) fn text(&self) -> &'d str {
        self.written.map_or("", |s| &s.text)
    }

    /// Remembers that `lines` take files from `dep`.
    pub(crate) fn depend_on(&mut self, dep: StageId, lines: Lines) {
        match self.deps.iter_mut().find(|(d, _)| *d == dep) {
            Some((_, at)) => *at = lines,
            None => self.deps.push((dep, lines)),
        }
    }

    /// The operating system of the image being built.
    pub(crate) fn os(&self) -> &str {
        self.platform.as_ref().map_or("", |p| &p.os)
    }

    /// Prefix of the names of vertices.
    pub(crate) fn prefix<'s>(&'s self, platform: Option<&'s Platform>, onbuild: bool) -> Prefix<'s> {
        Prefix { stage: &self.name, platform, env: Some(&self.env), onbuild }
    }
}
