//! The graph of stages: who starts from whom, who takes files from whom, what the target needs.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use crate::Dockerfile;
use crate::error::{Error, ErrorKind, Result};
use crate::expand::{Lexer, Names};
use crate::instructions::{self, Instruction, Kind};
use crate::lint::Linter;
use crate::parser::{Escape, Lines};
use crate::suggest;

use super::args::GlobalArgs;
use super::context::Contexts;
use super::expansion::{Lexers, NoEnv};
use super::options::Options;
use super::stage::{Command, NOWHERE, SCRATCH, Stage};
use super::step::StageId;

/// Stages and implicit sources of files one conversion may have.
pub(crate) const MAX_STAGES: usize = 10_000;

/// All stages of a conversion.
#[derive(Debug, Default)]
pub(crate) struct Plan<'d> {
    /// Written stages first, in the order of the file; implicit ones after them.
    pub(crate) stages: Vec<Stage<'d>>,
    /// Stages by the index that `COPY --from` gives them. Whenever an implicit one is used by its index it
    /// gets a further one, as in BuildKit.
    numbered: Vec<StageId>,
    by_name: HashMap<String, StageId>,
    /// Paths taken from the file systems of stages; several stages may share a set.
    pub(crate) used_paths: Vec<BTreeSet<String>>,
    /// Paths taken from the main context.
    pub(crate) context_paths: BTreeSet<String>,
    pub(crate) target: StageId,
    escape: Escape,
}

/// What building the stages looks at.
pub(crate) struct Surroundings<'a> {
    pub(crate) options: &'a Options,
    pub(crate) contexts: &'a Contexts<'a>,
    pub(crate) lexers: &'a Lexers,
    pub(crate) globals: &'a GlobalArgs,
    /// The platform asked for, if any was.
    pub(crate) requested: Option<&'a buildkit_llb::Platform>,
}

impl<'d> Plan<'d> {
    /// Makes the stages of `file`, chooses the target and connects them.
    pub(crate) fn build(
        file: &'d Dockerfile,
        around: &Surroundings<'_>,
        linter: &mut Linter,
    ) -> Result<Self> {
        let mut plan = Self { escape: file.escape, ..Self::default() };
        for (index, written) in file.stages.iter().enumerate() {
            plan.add_written(index, written, around, linter)?;
        }
        plan.target = plan.find_target(&around.options.target)?;
        plan.connect()?;
        if let ([_], [only]) = (plan.numbered.as_slice(), plan.stages.as_mut_slice()) {
            only.name.clear();
        }
        Ok(plan)
    }

    fn add_written(
        &mut self,
        index: usize,
        written: &'d instructions::Stage,
        around: &Surroundings<'_>,
        linter: &mut Linter,
    ) -> Result<()> {
        let globals = around.globals;
        let mut names = Names::default();
        let base = around.lexers.word.word(&written.base, &globals.env, &mut names);
        lint_unknown_args(written, &names, globals, linter);
        let base = base.map_err(|e| Error::from(e).at(written.lines))?.into_owned();
        if base.is_empty() {
            let message = format!("the base name {} is empty once its variables are replaced", written.base);
            return Err(Error::new(ErrorKind::Stage, message).at(written.lines));
        }
        let mut used_args = names.matched;

        let paths = self.new_path_set();
        let mut stage = Stage::new(base, written.lines, paths);
        stage.written = Some(written);
        if let Some(word) = &written.platform {
            stage.platform = Some(stage_platform(written, word, around, &mut used_args, linter)?);
        }

        if !stage.given_name().is_empty() {
            let platform = stage.platform.as_ref().or(around.requested);
            stage.replacement = around.contexts.find_named(stage.given_name(), platform)?;
            if stage.replacement.is_some() {
                stage.given_name().clone_into(&mut stage.name);
                let id = self.register(stage)?;
                if let Some(stage) = self.stages.get_mut(id) {
                    stage.base = None;
                }
                return Ok(());
            }
        }

        stage.name = match stage.given_name() {
            "" => format!("stage-{index}"),
            name => name.to_owned(),
        };
        stage.ignore_cache = around.options.no_cache.covers(stage.given_name());
        let steps = written
            .instructions
            .iter()
            .filter(|i| matches!(i.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)));
        stage.counter.total = steps.count();
        let id = self.register(stage)?;
        let base_used = self.stages.get(id).and_then(|s| s.base).and_then(|b| self.stages.get(b));
        if let Some(base) = base_used {
            used_args.extend(base.outline.used_args.iter().cloned());
        }
        if let Some(stage) = self.stages.get_mut(id) {
            if stage.base.is_none() && stage.base_name != SCRATCH {
                stage.counter.total += 1;
            }
            stage.outline.used_args = used_args;
        }
        Ok(())
    }

    fn new_path_set(&mut self) -> usize {
        self.used_paths.push(BTreeSet::new());
        self.used_paths.len() - 1
    }

    /// Adds a stage, makes it a child of the stage its base name names, and gives its own name away.
    fn register(&mut self, mut stage: Stage<'d>) -> Result<StageId> {
        let id = self.stages.len();
        stage.base = self.by_name.get(&stage.base_name).copied();
        let name = stage.given_name();
        if !name.is_empty() {
            self.by_name.insert(name.to_owned(), id);
        }
        self.stages.push(stage);
        self.number(id)?;
        Ok(id)
    }

    /// Gives the stage the next index.
    fn number(&mut self, id: StageId) -> Result<()> {
        if self.numbered.len() >= MAX_STAGES {
            let message = format!("more than {MAX_STAGES} stages and sources of files");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.numbered.push(id);
        Ok(())
    }

    fn find_target(&self, target: &str) -> Result<StageId> {
        if target.is_empty() {
            return Ok(self.stages.len().saturating_sub(1));
        }
        self.by_name.get(&target.to_lowercase()).copied().ok_or_else(|| {
            let names = self.stages.iter().map(Stage::given_name).filter(|n| !n.is_empty());
            Error::new(ErrorKind::Stage, format!("there is no stage called {target:?}"))
                .did_you_mean(suggest::nearest(target, names))
        })
    }

    /// Finds out which stages each stage takes files from.
    fn connect(&mut self) -> Result<()> {
        for id in 0..self.stages.len() {
            let Some(written) = self.stages.get(id).and_then(|s| s.written) else { continue };
            let mut commands = Vec::with_capacity(written.instructions.len());
            for instruction in &written.instructions {
                commands.push(self.command(id, Cow::Borrowed(instruction), false)?);
            }
            if let Some(stage) = self.stages.get_mut(id) {
                stage.commands = commands;
            }
        }
        self.check_cycles()
    }

    /// Prepares an instruction of stage `user`; may add implicit stages.
    pub(crate) fn command(
        &mut self,
        user: StageId,
        instruction: Cow<'d, Instruction>,
        onbuild: bool,
    ) -> Result<Command<'d>> {
        let mut sources = Vec::new();
        match &instruction.kind {
            Kind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    sources.push(self.copy_source(user, from, instruction.lines)?);
                }
            }
            Kind::Run(run) => {
                for mount in &run.mounts {
                    let from = mount.from.as_deref().unwrap_or(SCRATCH);
                    sources.push(match self.by_name.get(&from.to_lowercase()) {
                        Some(id) => *id,
                        None => self.implicit(user, from, NOWHERE)?,
                    });
                }
            }
            _ => {}
        }
        if let Some(stage) = self.stages.get_mut(user) {
            for source in &sources {
                stage.depend_on(*source, instruction.lines);
            }
        }
        Ok(Command { instruction, sources, onbuild })
    }

    fn copy_source(&mut self, user: StageId, from: &str, lines: Lines) -> Result<StageId> {
        let expanded = Lexer::new(self.escape).word(from, &NoEnv, &mut Names::default())?;
        if expanded != from {
            let message = format!(
                "COPY --from={from}: variables are not replaced here; give a stage a name with FROM and use that name"
            );
            return Err(Error::new(ErrorKind::Stage, message));
        }
        if let Some(index) = go_int(from) {
            let found = usize::try_from(index).ok().and_then(|index| self.numbered.get(index)).copied();
            let id = found.ok_or_else(|| {
                Error::new(ErrorKind::Stage, format!("COPY --from={from}: there is no stage with that index"))
            })?;
            if self.stages.get(id).is_some_and(|stage| stage.written.is_none()) {
                self.number(id)?;
            }
            return Ok(id);
        }
        match self.by_name.get(&from.to_lowercase()) {
            Some(id) => Ok(*id),
            None => self.implicit(user, from, lines),
        }
    }

    /// Adds a stage for an image that is only named as a source of files.
    fn implicit(&mut self, user: StageId, base: &str, lines: Lines) -> Result<StageId> {
        let paths = self.new_path_set();
        let mut stage = Stage::new(base.to_owned(), lines, paths);
        if let Some(user) = self.stages.get(user) {
            stage.trigger_depth = user.trigger_depth;
            stage.trigger_chain.clone_from(&user.trigger_chain);
        }
        self.register(stage)
    }

    /// Fails if stages take files from one another in a circle.
    fn check_cycles(&self) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.stages.len()];
        let mark = |marks: &mut Vec<Mark>, id: StageId, mark| {
            if let Some(m) = marks.get_mut(id) {
                *m = mark;
            }
        };
        for (start, stage) in self.stages.iter().enumerate() {
            if marks.get(start) != Some(&Mark::New) {
                continue;
            }
            // Each frame: a stage and the position of its next dependency.
            let mut path: Vec<(StageId, usize)> = vec![(start, 0)];
            mark(&mut marks, start, Mark::Open);
            while let Some((id, next)) = path.last_mut() {
                let dep = self.stages.get(*id).and_then(|s| s.deps.get(*next));
                let Some((dep, _)) = dep else {
                    mark(&mut marks, *id, Mark::Done);
                    path.pop();
                    continue;
                };
                *next += 1;
                match marks.get(*dep) {
                    Some(Mark::New) => {
                        mark(&mut marks, *dep, Mark::Open);
                        path.push((*dep, 0));
                    }
                    Some(Mark::Open) => {
                        let message =
                            format!("stage {} takes files from itself through other stages", stage.name);
                        let error = Error::new(ErrorKind::Stage, message);
                        // One place for each step of the way.
                        return Err(path.iter().fold(error, |error, (id, next)| {
                            let step = self.stages.get(*id).and_then(|s| s.deps.get(next.saturating_sub(1)));
                            error.at(step.map_or(NOWHERE, |(_, lines)| *lines))
                        }));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// For each stage whether the target needs it, and those it needs: first itself, each one before its base, and
    /// that before what is copied from.
    pub(crate) fn reachable(&self) -> (Vec<bool>, Vec<StageId>) {
        let mut reachable = vec![false; self.stages.len()];
        let mut order = Vec::new();
        let mut open = vec![self.target];
        while let Some(id) = open.pop() {
            let (Some(mark), Some(stage)) = (reachable.get_mut(id), self.stages.get(id)) else { continue };
            if !std::mem::replace(mark, true) {
                order.push(id);
                open.extend(stage.deps.iter().rev().map(|(dep, _)| *dep));
                open.extend(stage.base);
            }
        }
        (reachable, order)
    }

    /// Names of stages, for suggestions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(Stage::given_name).filter(|n| !n.is_empty())
    }
}

/// A decimal number as Go's `Atoi` takes it.
fn go_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn lint_unknown_args(
    written: &instructions::Stage,
    names: &Names,
    globals: &GlobalArgs,
    linter: &mut Linter,
) {
    for name in names.unmatched.iter().filter(|name| !globals.knows(name)) {
        linter.undefined_arg_in_from(written.site(), name, suggest::nearest(name, globals.names()));
    }
}

fn stage_platform(
    written: &instructions::Stage,
    word: &str,
    around: &Surroundings<'_>,
    used_args: &mut BTreeSet<String>,
    linter: &mut Linter,
) -> Result<buildkit_llb::Platform> {
    let globals = around.globals;
    let mut names = Names::default();
    let expanded = around.lexers.word.word(word, &globals.env, &mut names);
    lint_unknown_args(written, &names, globals, linter);
    let expanded =
        expanded.map_err(|e| Error::from(e).context(format!("--platform={word}")).at(written.lines))?;

    let only_target =
        names.unmatched.is_empty() && names.matched.iter().map(String::as_str).eq(["TARGETPLATFORM"]);
    if only_target && globals.env.value("TARGETPLATFORM") == Some(&*expanded) {
        linter.redundant_target_platform(written.site(), word);
    }
    let parsed = expanded.parse::<buildkit_llb::Platform>();
    if let Ok(platform) = &parsed
        && names.matched.is_empty()
        && names.unmatched.is_empty()
    {
        let name = written.name.as_deref().unwrap_or_default();
        if !name.contains(&*platform.os) && !name.contains(&*platform.architecture) {
            linter.from_platform_flag_const_disallowed(written.site(), &expanded);
        }
    }

    let meant = || names.unmatched.iter().find_map(|n| suggest::nearest(n, globals.names()));
    if expanded.is_empty() {
        let message = format!("--platform={word} is empty once its variables are replaced");
        return Err(Error::new(ErrorKind::Platform, message).at(written.lines).did_you_mean(meant()));
    }
    let platform = parsed.map_err(|e| {
        // BuildKit adds the place twice here.
        Error::new(ErrorKind::Platform, format!("--platform={word} gives {expanded:?}, which is no platform"))
            .caused_by(e)
            .at(written.lines)
            .at(written.lines)
            .did_you_mean(meant())
    })?;
    used_args.extend(names.matched);
    Ok(platform)
}
