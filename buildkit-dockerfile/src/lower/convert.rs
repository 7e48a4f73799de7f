//! The conversion of a parsed Dockerfile, step by step.

use buildkit_fsutil::pattern::PatternMatcher;
use buildkit_llb::{Definition, MarshalOptions, Platform, SourceMap, State, caps};

use crate::Dockerfile;
use crate::error::{Error, ErrorKind, Result};
use crate::lint::{Config, Linter};
use crate::parser::directive;

use super::args;
use super::base::BaseOptions;
use super::config::ImageConfig;
use super::context::Contexts;
use super::emit::{Emitted, emit};
use super::epoch;
use super::evaluate::{Caps, Evaluator, Settings};
use super::expansion::Lexers;
use super::graph::{Plan, Surroundings};
use super::options::Options;
use super::scan::{self, ScanTargets};
use super::stage::Stage;
use super::timestamp::Timestamp;
use super::work::Work;

/// How to convert.
pub(crate) struct Conversion<'a> {
    pub(crate) contexts: &'a Contexts<'a>,
    /// The platform asked for, if any was.
    pub(crate) platform: Option<&'a Platform>,
    /// Also convert stages the target does not need.
    pub(crate) all_stages: bool,
    /// The Dockerfile, for the places of vertices.
    pub(crate) map: Option<&'a SourceMap>,
}

/// An evaluated Dockerfile: everything but the graph.
pub(crate) struct Evaluated<'d> {
    pub(crate) plan: Plan<'d>,
    pub(crate) globals: args::GlobalArgs,
    pub(crate) image: ImageConfig,
    pub(crate) epoch: Option<Timestamp>,
    pub(crate) scan: ScanTargets,
    pub(crate) target_platform: Platform,
    build_args: std::collections::BTreeMap<String, String>,
    lexers: Lexers,
    caps: Caps,
}

/// The graph of an evaluated Dockerfile.
pub(crate) struct Graph {
    pub(crate) target: State,
    pub(crate) emitted: Emitted,
    pub(crate) marshal: MarshalOptions,
}

impl Graph {
    /// The bytes of the graph of the target.
    pub(crate) fn marshal(&self) -> Result<Definition> {
        self.target
            .marshal(&self.marshal)
            .map_err(|e| Error::new(ErrorKind::Graph, "the build graph cannot be made").caused_by(e))
    }
}

/// A linter set up as the build argument or the `check` directive of `source` says.
pub(crate) fn linter(source: &[u8], options: &Options) -> Result<Linter> {
    let config = match (&options.check, directive(source, "check")) {
        (Some(text), _) => Config::parse(text)?,
        // Without a place, as everywhere the reference reports this.
        (None, Some(check)) => Config::parse(check.first_word())?,
        (None, None) => Config::default(),
    };
    Ok(Linter::new(config))
}

impl Conversion<'_> {
    /// Evaluates all stages that are needed.
    pub(crate) async fn evaluate<'d>(
        &self,
        file: &'d Dockerfile,
        linter: &mut Linter,
    ) -> Result<Evaluated<'d>> {
        let contexts = self.contexts;
        let options = contexts.options;
        let build_platform = options
            .build_platform
            .clone()
            .or_else(|| contexts.resolver.build_platform())
            .unwrap_or_else(|| Platform::host().normalized());
        let target_platform = self.platform.unwrap_or(&build_platform).clone();

        let lexers = Lexers::new(file.escape);
        let target_stage = match options.target.as_str() {
            "" => file.stages.last().and_then(|s| s.name.as_deref()).unwrap_or_default(),
            target => target,
        };
        let mut build_args = options.build_args.clone();
        let predefined = args::predefined(&build_platform, &target_platform, target_stage, &build_args);
        lint_default_names(file, &predefined, &lexers, linter);
        let mut globals = args::evaluate(file, &predefined, &build_args, &lexers)?;
        let search = epoch::Search { file, contexts, lexers: &lexers };
        let epoch = search.resolve(&mut build_args, &mut globals).await?;

        let around =
            Surroundings { options, contexts, lexers: &lexers, globals: &globals, requested: self.platform };
        let mut plan = Plan::build(file, &around, linter)?;
        let base = BaseOptions { contexts, target_platform: &target_platform, all_stages: self.all_stages };
        let reachable = plan.resolve(&base, linter).await?;

        let patterns = contexts.ignore_patterns().await?;
        let matcher = PatternMatcher::new(patterns.iter()).map_err(|e| {
            Error::new(ErrorKind::Context, "the ignore file has an unusable pattern").caused_by(e)
        })?;
        let supports = |cap| contexts.resolver.supports(cap);
        let settings = Settings {
            options,
            build_args: &build_args,
            lexers: &lexers,
            globals: &globals,
            epoch,
            target_platform: &target_platform,
            ignore: Some(matcher).filter(|m| !m.is_empty() && !m.has_exclusions()),
            caps: Caps {
                merge: supports("mergeop"),
                bind_no_output: supports("exec.mount.bind.readwrite-nooutput"),
                ulimit: supports("exec.meta.ulimit"),
                cdi: supports("exec.meta.cdi"),
                tmpfs_size: supports("exec.mount.tmpfs.size"),
                cgroup_parent: supports("exec.meta.cgroup.parent"),
                resources: supports("exec.meta.linux.resources"),
            },
        };
        let caps = settings.caps;
        let mut work = Work::default();
        for id in 0..plan.stages.len() {
            let needed = reachable.get(id).copied().unwrap_or_default();
            let done = plan.stages.get(id).is_none_or(|s| s.dispatched);
            if self.all_stages || (needed && !done) {
                Evaluator { plan: &mut plan, settings: &settings, linter, work: &mut work }.stage(id)?;
            }
        }
        let paths = plan.stages.get(plan.target).map(|s| s.used_paths);
        if let Some(set) = paths.and_then(|p| plan.used_paths.get_mut(p)) {
            set.insert("/".to_owned());
        }
        linter.verdict()?;

        let image =
            plan.stages.get(plan.target).map(|s| self.finish(s, &target_platform)).unwrap_or_default();
        let scan = scan::targets(&plan, &reachable, &globals);
        Ok(Evaluated { plan, globals, image, epoch, scan, target_platform, build_args, lexers, caps })
    }

    /// The image config of the target, with the platform and the labels that were asked for.
    fn finish(&self, target: &Stage<'_>, platform: &Platform) -> ImageConfig {
        let mut image = target.image.clone();
        for (name, value) in &self.contexts.options.labels {
            image.config.labels.insert(name.clone(), value.clone());
        }
        if self.platform.is_some() {
            let same = image.os == platform.os && image.architecture == platform.architecture;
            image.os = platform.os.to_string();
            image.architecture = platform.architecture.to_string();
            if !platform.variant.is_empty() || !same {
                image.variant = platform.variant.to_string();
            }
            if !platform.os_version.is_empty() || !same {
                image.os_version = platform.os_version.to_string();
            }
            if !platform.os_features.is_empty() {
                image.os_features.clone_from(&platform.os_features);
            }
        }
        let normalized = image.platform().normalized();
        image.set_platform(normalized);
        image
    }

    /// Builds the graph of what was evaluated.
    pub(crate) async fn graph(&self, evaluated: &Evaluated<'_>) -> Result<Graph> {
        let settings = Settings {
            options: self.contexts.options,
            build_args: &evaluated.build_args,
            lexers: &evaluated.lexers,
            globals: &evaluated.globals,
            epoch: evaluated.epoch,
            target_platform: &evaluated.target_platform,
            ignore: None,
            caps: evaluated.caps,
        };
        let emitted = emit(&evaluated.plan, &settings, self.contexts, self.map).await?;
        let target = emitted.stage(evaluated.plan.target);
        let marshal = marshal_options(self.contexts, evaluated.target_platform.clone());
        Ok(Graph { target, emitted, marshal })
    }
}

/// How graphs of a build are marshalled for `platform`.
pub(crate) fn marshal_options(contexts: &Contexts<'_>, platform: Platform) -> MarshalOptions {
    const SETS_PATH: &str = "exec.meta.setsdefaultpath";
    let mut caps = caps::ServerCaps::new();
    if contexts.resolver.supports(SETS_PATH) {
        caps.insert(SETS_PATH, caps::ServerCap { enabled: true, ..caps::ServerCap::default() });
    }
    MarshalOptions::new(platform).caps(caps)
}

/// Warns of base names that make no sense without build arguments.
fn lint_default_names(
    file: &Dockerfile,
    predefined: &buildkit_llb::EnvList,
    lexers: &Lexers,
    linter: &mut Linter,
) {
    let Ok(globals) = args::evaluate(file, predefined, &std::collections::BTreeMap::new(), lexers) else {
        return;
    };
    for stage in &file.stages {
        let Ok(name) = lexers.plain(&stage.base, &globals.env) else { return };
        if buildkit_llb::reference::Reference::parse_normalized(&name).is_err() {
            linter.invalid_default_arg_in_from(stage.lines, &stage.base);
        }
    }
}
