//! `RUN`: a process on the file system of a stage.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::expand::Names;
use crate::instructions::{self, CommandLine, Device, Mount, MountKind};
use crate::parser::{Heredoc, HeredocWord, Lines};

use super::config::Layer;
use super::evaluate::{Evaluator, Masked, with_shell};
use super::names::upper_first_word;
use super::options::Channel;
use super::paths::{self, PathStyle};
use super::stage::{Command, Stage};
use super::step::{self, From, Label, Owner, Step};
use super::work::Work;

/// Where scripts given as heredocs are mounted.
pub(crate) const SCRIPT_DIR: &str = "/dev/pipes/";

impl<'d> Evaluator<'_, 'd> {
    pub(crate) fn run(
        &mut self,
        stage: &mut Stage<'d>,
        command: &Command<'d>,
        run: &instructions::Run,
    ) -> Result<()> {
        let instruction = &*command.instruction;
        let mounts = self.judge(stage, command, run)?;

        // A process may look at any file.
        self.mark_used(stage.used_paths, "/");
        let mut name = instruction.text.clone();
        let mut steps = Vec::with_capacity(mounts.len() + 1);
        let args = match &run.command {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(text) => {
                let text = script(text, &run.heredocs, &stage.image.os, &mut name, &mut steps);
                with_shell(&stage.image, text)
            }
        };
        for (index, mount) in mounts.iter().enumerate() {
            let source = command.sources.get(index).copied();
            self.mount(stage, mount, source, instruction.lines, &mut steps)?;
        }
        let devices = self.devices(&run.devices)?;

        let secrets: Vec<String> =
            mounts.iter().filter(|m| m.kind == MountKind::Secret).filter_map(|m| m.env.clone()).collect();
        let masked = Masked { env: &stage.env, secrets: &secrets };
        let expanded = self.settings.lexers.run_name.word(&name, &masked, &mut Names::default());
        let name = upper_first_word(expanded.as_deref().unwrap_or(&name));
        let platform = stage.state_platform.clone();
        let name = self.next_name(stage, platform.as_ref(), command.onbuild, &name);

        let weight: usize = stage.env.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        self.work.charge(Work::VERTEX + weight + name.len())?;
        let history = history(&args, stage);
        stage.steps.push(Step::Run(Box::new(step::Run {
            label: Label {
                name,
                command: Some(instruction.text.clone()),
                lines: instruction.lines,
                ignore_cache: stage.ignore_cache,
            },
            args,
            env: stage.env.clone(),
            dir: stage.dir.clone(),
            user: stage.user.clone(),
            network: match run.network {
                instructions::Network::Default => self.settings.options.network,
                instructions::Network::None => buildkit_llb::Network::None,
                instructions::Network::Host => buildkit_llb::Network::Host,
            },
            insecure: run.security == instructions::Security::Insecure,
            devices,
            mounts: steps,
        })));
        self.commit(stage, history, Layer::FromStep)
    }

    /// Expands and checks mounts.
    fn judge(
        &mut self,
        stage: &Stage<'_>,
        command: &Command<'_>,
        run: &instructions::Run,
    ) -> Result<Vec<Mount>> {
        let site = command.instruction.site();
        let word = &self.settings.lexers.word;
        let mut expand = |value: &str| {
            let mut names = Names::default();
            let expanded = word.word(value, &stage.env, &mut names).map(std::borrow::Cow::into_owned);
            self.report_unset(stage, site, &names.unmatched);
            expanded
        };
        run.mounts.iter().map(|m| m.resolve(&mut expand)).collect()
    }

    /// The devices a process gets: what the daemon can give, if the channel of the frontend allows it.
    fn devices(&self, devices: &[Device]) -> Result<Vec<Device>> {
        if devices.is_empty() || !self.settings.caps.cdi {
            return Ok(Vec::new());
        }
        if self.settings.options.channel == Channel::Stable {
            let message =
                "RUN --device belongs to the labs channel of the Dockerfile frontend, which is not enabled";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(devices.to_vec())
    }

    fn mount(
        &mut self,
        stage: &mut Stage<'d>,
        mount: &Mount,
        source: Option<step::StageId>,
        lines: Lines,
        out: &mut Vec<step::Mount>,
    ) -> Result<()> {
        // A cache without a source starts from the (possibly redefined) stage `scratch`.
        let from_stage = mount.from.is_some() || mount.kind == MountKind::Cache;
        let source = source.filter(|_| from_stage);
        let from = match source {
            None => From::Context,
            Some(id) => {
                if self.plan.stages.get(id).is_some_and(|s| !s.dispatched) {
                    let name = mount.from.as_deref().unwrap_or(super::stage::SCRATCH);
                    let message = format!("mount from={name}: that stage must be defined before this one");
                    return Err(Error::new(ErrorKind::Stage, message));
                }
                From::Stage(id)
            }
        };
        match mount.kind {
            MountKind::Secret => return secret(stage, mount, lines, out),
            MountKind::Ssh => return ssh(stage, mount, lines, out),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
        }

        // Targets have the rules of the machine that runs the frontend, whatever is being built.
        let target = if PathStyle::Unix.is_absolute(&mount.target) {
            mount.target.clone()
        } else {
            buildkit_llb::path::join(&["/", &stage.dir, &mount.target])
        };
        if target == "/" {
            return Err(Error::new(
                ErrorKind::Instruction,
                "a mount needs a target other than the root directory",
            ));
        }
        let source_path = buildkit_llb::path::join(&["/", &mount.source]);
        let mut selector = if source_path == "/" { String::new() } else { source_path.clone() };
        let owned = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
        let owner = (selector.is_empty() && owned).then(|| owner(mount, 0o755));
        if owner.is_some() {
            "/cache".clone_into(&mut selector);
        }
        let read_only = mount.read_only;
        out.push(match mount.kind {
            MountKind::Tmpfs => step::Mount::Tmpfs { target, size: mount.size, read_only, selector },
            MountKind::Cache => {
                let id = if mount.id.is_empty() {
                    buildkit_llb::path::clean(&mount.target)
                } else {
                    mount.id.clone()
                };
                step::Mount::Cache {
                    id: format!("{}/{id}", self.settings.options.cache_namespace()),
                    sharing: mount.sharing,
                    from,
                    target,
                    selector,
                    read_only,
                    owner,
                }
            }
            _ => step::Mount::Bind { from, target, selector, read_only },
        });
        match source.and_then(|id| self.plan.stages.get(id)).map(|s| s.used_paths) {
            Some(paths) => self.mark_used(paths, &source_path),
            None => {
                self.plan.context_paths.insert(source_path);
            }
        }
        Ok(())
    }

    /// Remembers that `path` of the file system behind the set `paths` is needed.
    pub(crate) fn mark_used(&mut self, paths: usize, path: &str) {
        if let Some(set) = self.plan.used_paths.get_mut(paths)
            && !set.contains(path)
        {
            set.insert(path.to_owned());
        }
    }
}

/// The command of a shell form: heredocs are folded into it, or become a script of their own.
fn script(
    text: &str,
    heredocs: &[Heredoc],
    os: &str,
    name: &mut String,
    mounts: &mut Vec<step::Mount>,
) -> String {
    let Some(first) = heredocs.first() else { return text.to_owned() };
    if HeredocWord::parse(text).is_none() {
        // Several, or one among other words: the shell itself reads them.
        let mut full = text.to_owned();
        for heredoc in heredocs {
            full.push('\n');
            full.push_str(&heredoc.raw());
            full.push_str(&heredoc.name);
        }
        return full;
    }
    name.extend([" (", &summary(&first.raw()), ")"]);
    let data = first.content();
    if os != "windows" && data.starts_with(b"#!") {
        let path = buildkit_llb::path::join(&[SCRIPT_DIR, &first.name]);
        mounts.push(step::Mount::Script { name: first.name.clone(), data: Bytes::copy_from_slice(&data) });
        return path;
    }
    String::from_utf8_lossy(&data).into_owned()
}

/// The first line of a heredoc, with dots if there are more.
fn summary(body: &str) -> String {
    let body = body.trim();
    match body.split_once('\n') {
        None => body.to_owned(),
        Some((first, _)) => format!("{}...", first.strip_suffix('\r').unwrap_or(first)),
    }
}

/// The history entry of a process: `RUN |1 A=x /bin/sh -c true`.
fn history(args: &[String], stage: &Stage<'_>) -> String {
    let mut seen: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    let mut list: Vec<(&str, &str)> = Vec::new();
    for (name, value) in &stage.build_args {
        let value = stage.env.value(name).or(value.as_deref()).unwrap_or_default();
        if let Some(at) = seen.get(name.as_str()) {
            if let Some(slot) = list.get_mut(*at) {
                slot.1 = value;
            }
        } else {
            seen.insert(name.as_str(), list.len());
            list.push((name, value));
        }
    }
    let mut text = String::from("RUN");
    if !list.is_empty() {
        text.extend([" |", &list.len().to_string()]);
        for (name, value) in list {
            text.extend([" ", name, "=", value]);
        }
    }
    for arg in args {
        text.push(' ');
        text.push_str(arg);
    }
    text
}

fn owner(mount: &Mount, mode: u32) -> Owner {
    Owner { uid: mount.uid.unwrap_or(0), gid: mount.gid.unwrap_or(0), mode: mount.mode.unwrap_or(mode) }
}

fn secret(stage: &mut Stage<'_>, mount: &Mount, lines: Lines, out: &mut Vec<step::Mount>) -> Result<()> {
    let id = match (mount.source.as_str(), mount.id.as_str(), mount.target.as_str()) {
        ("", "", "") => {
            return Err(Error::new(ErrorKind::Instruction, "a secret mount needs a source or a target"));
        }
        ("", "", target) => paths::base(target),
        ("", id, _) => id,
        (source, _, _) => source,
    };
    let target = match (mount.target.as_str(), &mount.env) {
        ("", Some(_)) => None,
        ("", None) => Some(format!("/run/secrets/{}", paths::base(id))),
        (target, _) => Some(target.to_owned()),
    };
    stage.outline.secrets.entry(id.to_owned()).or_insert((lines, mount.required));
    out.push(step::Mount::Secret {
        id: id.to_owned(),
        target,
        env: mount.env.clone(),
        required: mount.required,
        owner: owner(mount, 0o400),
    });
    Ok(())
}

fn ssh(stage: &mut Stage<'_>, mount: &Mount, lines: Lines, out: &mut Vec<step::Mount>) -> Result<()> {
    if !mount.source.is_empty() {
        return Err(Error::new(ErrorKind::Instruction, "an ssh mount takes no source"));
    }
    let id = if mount.id.is_empty() { "default" } else { &mount.id };
    stage.outline.ssh.entry(id.to_owned()).or_insert((lines, mount.required));
    out.push(step::Mount::Ssh {
        id: mount.id.clone(),
        target: Some(mount.target.clone()).filter(|t| !t.is_empty()),
        required: mount.required,
        owner: owner(mount, 0o600),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_show_the_first_line() {
        for (body, want) in [
            ("echo one\necho two\n", "echo one..."),
            ("x\r\ny\r\n", "x..."),
            ("\n\techo one\n", "echo one"),
            ("", ""),
        ] {
            assert_eq!(summary(body), want);
        }
    }
}
