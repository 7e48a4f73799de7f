//! Evaluates the instructions of a stage: words are expanded, the image config and its history grow,
//! steps are recorded, lint rules look on.

use std::collections::{BTreeMap, BTreeSet};

use buildkit_fsutil::pattern::PatternMatcher;
use buildkit_llb::{EnvList, Platform};

use crate::error::{Error, ErrorKind, Result};
use crate::expand::{self, Names};
use crate::instructions::{Arg, CommandLine, Healthcheck, Kind, Pair};
use crate::lint::{Linter, Site};
use crate::suggest;

use super::args::{Declared, GlobalArgs};
use super::config::{self, DEFAULT_PATH, ImageConfig, Layer};
use super::expansion::Lexers;
use super::go_text;
use super::graph::Plan;
use super::names::{Counter, upper_first_word};
use super::options::Options;
use super::paths::PathStyle;
use super::stage::{Command, NOWHERE, Stage};
use super::step::{Label, MakeDir, StageId, Step};
use super::timestamp::Timestamp;
use super::work::Work;
use super::{expose, signal};

/// Arguments that never reach the environment of processes.
pub(crate) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
pub(crate) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// Variables one stage may have.
const MAX_VARIABLES: usize = 8192;

/// What is the same for all stages.
pub(crate) struct Settings<'a> {
    pub(crate) options: &'a Options,
    /// Values of arguments, `SOURCE_DATE_EPOCH` resolved.
    pub(crate) build_args: &'a BTreeMap<String, String>,
    pub(crate) lexers: &'a Lexers,
    pub(crate) globals: &'a GlobalArgs,
    pub(crate) epoch: Option<Timestamp>,
    pub(crate) target_platform: &'a Platform,
    /// Patterns of the ignore file, unless some of them include again.
    pub(crate) ignore: Option<PatternMatcher>,
    pub(crate) caps: Caps,
}

/// Capabilities of the daemon that change the graph.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(crate) struct Caps {
    pub(crate) merge: bool,
    pub(crate) bind_no_output: bool,
    pub(crate) ulimit: bool,
    pub(crate) cdi: bool,
    pub(crate) tmpfs_size: bool,
    pub(crate) cgroup_parent: bool,
    pub(crate) resources: bool,
}

/// How many warnings of a build may say what was probably meant.
const MAX_SUGGESTIONS: usize = 1000;

/// Evaluates stages of a plan.
pub(crate) struct Evaluator<'e, 'd> {
    pub(crate) plan: &'e mut Plan<'d>,
    pub(crate) settings: &'e Settings<'e>,
    pub(crate) linter: &'e mut Linter,
    pub(crate) work: &'e mut Work,
}

impl<'d> Evaluator<'_, 'd> {
    /// Evaluates stage `id`: takes over what its base has, then runs through its instructions.
    pub(crate) fn stage(&mut self, id: StageId) -> Result<()> {
        self.inherit(id)?;
        let Some(slot) = self.plan.stages.get_mut(id) else { return Ok(()) };
        slot.dispatched = true;
        slot.evaluated = true;
        // The stage is taken out of the plan, so that instructions can look at the other stages.
        let mut placeholder = Stage::new(String::new(), NOWHERE, slot.used_paths);
        placeholder.dispatched = true;
        let mut stage = std::mem::replace(slot, placeholder);
        let commands = std::mem::take(&mut stage.commands);
        let outcome = Self::begin(&mut stage).and_then(|()| {
            for command in &commands {
                self.work.charge(Work::INSTRUCTION)?;
                self.instruction(&mut stage, command).map_err(|e| e.at(command.instruction.lines))?;
            }
            Ok(())
        });
        stage.commands = commands;
        if stage.platform.as_ref() == Some(&Platform::default()) {
            stage.platform = Some(self.settings.target_platform.clone());
        }
        if let Some(slot) = self.plan.stages.get_mut(id) {
            *slot = stage;
        }
        outcome
    }

    /// Takes over state, config and arguments of the base stage.
    fn inherit(&mut self, id: StageId) -> Result<()> {
        let base = self.plan.stages.get(id).and_then(|s| s.base).and_then(|b| self.plan.stages.get(b));
        let Some(base) = base else { return Ok(()) };
        self.work.charge(base.image.weight() + base.build_args.len() * 64)?;
        let image = ImageConfig {
            config: config::ContainerConfig { on_build: Vec::new(), ..base.image.config.clone() },
            ..base.image.clone()
        };
        let (platform, state_platform, base_image) =
            (base.platform.clone(), base.state_platform.clone(), base.base_image.clone());
        let (env, dir, user) = (base.env.clone(), base.dir.clone(), base.user.clone());
        let (used_paths, workdir_set, build_args) =
            (base.used_paths, base.workdir_set, base.build_args.clone());
        if let Some(stage) = self.plan.stages.get_mut(id) {
            stage.image = image;
            stage.platform = platform;
            stage.state_platform = state_platform;
            stage.base_image = base_image;
            stage.env = env;
            stage.dir = dir;
            stage.user = user;
            stage.used_paths = used_paths;
            stage.workdir_set = workdir_set;
            stage.build_args = build_args;
        }
        Ok(())
    }

    /// What holds before the first instruction.
    fn begin(stage: &mut Stage<'d>) -> Result<()> {
        // Below a directory or a repository no platform is known until the stage is done.
        stage.platform.get_or_insert_default();
        let has_path = stage.image.config.env.iter().any(|l| l == "PATH" || l.starts_with("PATH="));
        if !has_path && stage.os() != "windows" {
            stage.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for line in &stage.image.config.env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            stage.env.set(name, value);
        }
        if !stage.image.config.working_dir.is_empty() {
            let dir = stage.image.config.working_dir.clone();
            change_dir(stage, &dir).map_err(|e| e.at(stage.lines))?;
        }
        if !stage.image.config.user.is_empty() {
            stage.user = Some(stage.image.config.user.as_str().into());
        }
        Ok(())
    }

    fn instruction(&mut self, stage: &mut Stage<'d>, command: &Command<'d>) -> Result<()> {
        let instruction = &*command.instruction;
        let site = instruction.site();
        match &instruction.kind {
            Kind::Maintainer(author) => {
                stage.image.author.clone_from(author);
                self.commit(stage, format!("MAINTAINER {author}"), Layer::Empty)
            }
            Kind::Env(pairs) => self.env(stage, site, &instruction.keyword, pairs),
            Kind::Label(pairs) => self.label(stage, site, &instruction.keyword, pairs),
            Kind::Arg(arg) => self.arg(stage, command, arg),
            Kind::Run(run) => self.run(stage, command, run),
            Kind::Workdir(path) => {
                let path = self.expand(stage, site, path)?;
                self.workdir(stage, command, &path)
            }
            Kind::Add(add) => self.add(stage, command, add),
            Kind::Copy(copy) => self.copy(stage, command, copy),
            Kind::Cmd(line) => {
                self.only_once(stage, command, |seen| &mut seen.cmd);
                let args = self.command_line(stage, command, line);
                let text = format!("CMD {}", go_text::quote_list(&args));
                stage.image.config.cmd = args;
                stage.image.config.args_escaped = true;
                self.commit(stage, text, Layer::Empty)
            }
            Kind::Entrypoint(line) => {
                self.only_once(stage, command, |seen| &mut seen.entrypoint);
                let args = self.command_line(stage, command, line);
                let text = format!("ENTRYPOINT {}", go_text::quote_list(&args));
                stage.image.config.entrypoint = args;
                if stage.seen.cmd.is_none() {
                    stage.image.config.cmd.clear();
                }
                self.commit(stage, text, Layer::Empty)
            }
            Kind::Healthcheck(check) => {
                self.only_once(stage, command, |seen| &mut seen.healthcheck);
                self.healthcheck(stage, check)
            }
            Kind::Expose(specs) => {
                let mut ports = Vec::new();
                for spec in specs {
                    let words = self.settings.lexers.word.words(spec, &stage.env, &mut Names::default())?;
                    let before = ports.len();
                    for word in words {
                        expose::parse(&word, site, self.linter, &mut ports)?;
                    }
                    self.work.charge((ports.len() - before) * Work::PORT)?;
                }
                let text = format!("EXPOSE [{}]", ports.join(" "));
                stage.image.config.exposed_ports.0.extend(ports);
                self.commit(stage, text, Layer::Empty)
            }
            Kind::User(user) => {
                let user = self.expand(stage, site, user)?;
                stage.user = Some(user.as_str().into());
                let text = format!("USER {user}");
                stage.image.config.user = user;
                self.commit(stage, text, Layer::Empty)
            }
            Kind::Volume(paths) => {
                let mut volumes = Vec::with_capacity(paths.len());
                for path in paths {
                    volumes.push(self.expand(stage, site, path)?);
                }
                for volume in &volumes {
                    if volume.is_empty() {
                        let message = "VOLUME has a path that is empty once its variables are replaced";
                        return Err(Error::new(ErrorKind::Instruction, message));
                    }
                    stage.image.config.volumes.0.insert(volume.clone());
                }
                self.commit(stage, format!("VOLUME [{}]", volumes.join(" ")), Layer::Empty)
            }
            Kind::Stopsignal(word) => {
                let name = self.expand(stage, site, word)?;
                signal::check(&name)?;
                let text = format!("STOPSIGNAL {name}");
                stage.image.config.stop_signal = name;
                self.commit(stage, text, Layer::Empty)
            }
            Kind::Shell(shell) => {
                stage.image.config.shell.clone_from(shell);
                self.commit(stage, format!("SHELL [{}]", shell.join(" ")), Layer::Empty)
            }
            Kind::Onbuild(text) => {
                stage.image.config.on_build.push(text.clone());
                Ok(())
            }
        }
    }

    /// Expands one word of an instruction and reports variables that are not set.
    pub(crate) fn expand(&mut self, stage: &Stage<'_>, site: Site<'_>, word: &str) -> Result<String> {
        let mut names = Names::default();
        let out =
            self.settings.lexers.word.word(word, &stage.env, &mut names).map(std::borrow::Cow::into_owned);
        self.report_unset(stage, site, &names.unmatched);
        Ok(out?)
    }

    pub(crate) fn report_unset(&mut self, stage: &Stage<'_>, site: Site<'_>, unset: &BTreeSet<String>) {
        for name in unset {
            let declared = stage.build_args.iter().any(|(n, _)| n == name);
            if declared || name == SCAN_CONTEXT || name == SCAN_STAGE {
                continue;
            }
            // Every name is compared with every variable, so the help ends somewhere.
            let helpful = self.linter.warnings().len() < MAX_SUGGESTIONS;
            let meant = helpful.then(|| suggest::nearest(name, stage.env.iter().map(|(k, _)| k))).flatten();
            self.linter.undefined_var(site, name, meant);
        }
    }

    /// Adds an entry to the history of the image.
    pub(crate) fn commit(&mut self, stage: &mut Stage<'_>, text: String, layer: Layer) -> Result<()> {
        self.work.charge(text.len() + 64)?;
        stage.image.commit(text, layer, self.settings.epoch);
        Ok(())
    }

    pub(crate) fn set_env(stage: &mut Stage<'_>, name: &str, value: &str) -> Result<()> {
        stage.env.set(name, value);
        if stage.env.len() > MAX_VARIABLES {
            let message = format!("more than {MAX_VARIABLES} variables in a stage");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    fn env(&mut self, stage: &mut Stage<'_>, site: Site<'_>, keyword: &str, pairs: &[Pair]) -> Result<()> {
        let pairs = self.pairs(stage, site, pairs)?;
        let mut text = String::from("ENV");
        for (key, value, legacy) in &pairs {
            if *legacy {
                self.linter.legacy_key_value_format(site, keyword);
            }
            self.linter.secrets_used_in_arg_or_env(site, "ENV", key);
            text.extend([" ", key, "=", value]);
            Self::set_env(stage, key, value)?;
            stage.image.set_env(key, value);
        }
        self.commit(stage, text, Layer::Empty)
    }

    fn label(&mut self, stage: &mut Stage<'_>, site: Site<'_>, keyword: &str, pairs: &[Pair]) -> Result<()> {
        let pairs = self.pairs(stage, site, pairs)?;
        let mut text = String::from("LABEL");
        for (key, value, legacy) in pairs {
            if legacy {
                self.linter.legacy_key_value_format(site, keyword);
            }
            text.extend([" ", &key, "=", &value]);
            stage.image.config.labels.insert(key, value);
        }
        self.commit(stage, text, Layer::Empty)
    }

    /// Expands names and values, all in the environment before the instruction.
    fn pairs(
        &mut self,
        stage: &Stage<'_>,
        site: Site<'_>,
        pairs: &[Pair],
    ) -> Result<Vec<(String, String, bool)>> {
        let mut out = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = self.expand(stage, site, &pair.key)?;
            let value = self.expand(stage, site, &pair.value)?;
            out.push((key, value, pair.legacy));
        }
        Ok(out)
    }

    fn arg(&mut self, stage: &mut Stage<'_>, command: &Command<'_>, arg: &Arg) -> Result<()> {
        let instruction = &*command.instruction;
        let site = instruction.site();
        let mut text = String::from("ARG");
        for arg in &arg.args {
            self.linter.secrets_used_in_arg_or_env(site, "ARG", &arg.name);
            let mut inherited = false;
            let value = match (self.settings.build_args.get(&arg.name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(stage, site, default)?),
                (None, None) => {
                    let value = self.settings.globals.env.value(&arg.name).map(str::to_owned);
                    inherited = value.is_some();
                    value
                }
            };
            if let Some(value) = &value
                && arg.name != SCAN_CONTEXT
                && arg.name != SCAN_STAGE
            {
                Self::set_env(stage, &arg.name, value)?;
            }
            if !inherited {
                let info = Declared {
                    description: instruction.describe(&arg.name).map(str::to_owned),
                    value: value.clone().unwrap_or_default(),
                    lines: instruction.lines,
                    uses: BTreeSet::new(),
                };
                stage.outline.args.insert(arg.name.clone(), info);
            }
            stage.outline.used_args.insert(arg.name.clone());
            text.push(' ');
            text.push_str(&arg.name);
            if let Some(value) = &value {
                text.push('=');
                text.push_str(value);
            }
            stage.build_args.push((arg.name.clone(), value));
        }
        self.commit(stage, text, Layer::Empty)
    }

    fn workdir(&mut self, stage: &mut Stage<'d>, command: &Command<'d>, path: &str) -> Result<()> {
        let style = PathStyle::of(stage.os());
        let site = command.instruction.site();
        if !stage.workdir_set && !style.is_absolute(path) {
            self.linter.workdir_relative_path(site, path);
        }
        stage.workdir_set = true;
        change_dir(stage, path)?;
        let dir = stage.dir.clone();
        let layer = if &*dir == "/" { Layer::Empty } else { Layer::Plain };
        if layer == Layer::Plain {
            // It stands in the step, in its vertex and in the graph.
            self.work.charge(Work::VERTEX + 3 * dir.len())?;
            let text = self.plain_name(stage, &command.instruction.text);
            let platform = stage.platform.clone();
            let name = self.next_name(stage, platform.as_ref(), command.onbuild, &text);
            let user = Some(stage.image.config.user.as_str()).filter(|u| !u.is_empty()).map(Into::into);
            let label = Label { name, command: None, lines: command.instruction.lines, ignore_cache: false };
            stage.steps.push(Step::MakeDir(Box::new(MakeDir {
                label,
                path: dir.to_string(),
                user,
                created: self.settings.epoch.map(|t| t.unix_nanoseconds()),
            })));
        }
        self.commit(stage, format!("WORKDIR {dir}"), layer)
    }

    /// The text of an instruction with its variables replaced, for a name; as written if that fails.
    pub(crate) fn plain_name(&self, stage: &Stage<'_>, text: &str) -> String {
        let expanded = self.settings.lexers.plain(text, &stage.env);
        upper_first_word(expanded.as_deref().unwrap_or(text))
    }

    /// The name of the next vertex of the stage.
    pub(crate) fn next_name(
        &mut self,
        stage: &mut Stage<'_>,
        platform: Option<&Platform>,
        onbuild: bool,
        text: &str,
    ) -> String {
        let mut counter: Counter = std::mem::take(&mut stage.counter);
        let platform = platform.filter(|_| self.settings.options.is_multi_platform());
        let name = stage.prefix(platform, onbuild).apply(&mut counter, text);
        stage.counter = counter;
        name
    }

    fn healthcheck(&mut self, stage: &mut Stage<'_>, check: &Healthcheck) -> Result<()> {
        let nanoseconds = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let check = config::Healthcheck {
            test: check.test.clone(),
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: check.retries.into(),
        };
        let text = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            check.test.join(" "),
            go_text::duration(check.interval),
            go_text::duration(check.timeout),
            go_text::duration(check.start_period),
            go_text::duration(check.start_interval),
            check.retries
        );
        stage.image.config.healthcheck = Some(check);
        self.commit(stage, text, Layer::Empty)
    }

    /// Arguments of CMD and ENTRYPOINT; the shell form goes through the shell.
    fn command_line(&mut self, stage: &Stage<'_>, command: &Command<'_>, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(text) => {
                if stage.image.config.shell.is_empty() {
                    let instruction = &command.instruction;
                    self.linter.json_args_recommended(instruction.site(), &instruction.keyword);
                }
                with_shell(&stage.image, text.clone())
            }
        }
    }

    fn only_once(
        &mut self,
        stage: &mut Stage<'_>,
        command: &Command<'_>,
        slot: impl FnOnce(&mut super::stage::Seen) -> &mut Option<crate::parser::Lines>,
    ) {
        let instruction = &command.instruction;
        if let Some(lines) = slot(&mut stage.seen).replace(instruction.lines) {
            // The earlier one is reported, under the comments of the one that overrides it.
            let site = Site { lines, comments: &instruction.comments };
            self.linter.multiple_instructions_disallowed(site, &instruction.keyword);
        }
    }
}

/// `text` as the last argument of the image's shell.
pub(crate) fn with_shell(image: &ImageConfig, text: String) -> Vec<String> {
    let mut args: Vec<String> = if !image.config.shell.is_empty() {
        image.config.shell.clone()
    } else if image.os == "windows" {
        ["cmd", "/S", "/C"].map(str::to_owned).into()
    } else {
        ["/bin/sh", "-c"].map(str::to_owned).into()
    };
    args.push(text);
    args
}

/// Changes the working directory of the stage and of its image.
fn change_dir(stage: &mut Stage<'_>, path: &str) -> Result<()> {
    let style = PathStyle::of(stage.os());
    let dir = style.normalize(&stage.image.config.working_dir, path, false)?;
    stage.dir = dir.as_str().into();
    stage.image.config.working_dir = style.native(dir);
    Ok(())
}

/// What a name lookup sees while secrets are kept out of sight.
#[derive(Debug)]
pub(crate) struct Masked<'a> {
    pub(crate) env: &'a EnvList,
    pub(crate) secrets: &'a [String],
}

impl expand::Env for Masked<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        if self.secrets.iter().any(|s| s == name) { Some("****") } else { self.env.value(name) }
    }
}
