//! From evaluated stages to the build graph.

use std::collections::BTreeSet;

use buildkit_llb::path::join;
use buildkit_llb::{
    Constraints, Copy as CopyFiles, CopyOptions, CustomKind, CustomMount, Device, FileAction, FileSteps, Git,
    Http, Image, MkDir, MkFile, Owner, ProxyEnv, Range, Run as Process, Secret, Security, SourceLocation,
    SourceMap, Ssh, State, Timestamp, scratch,
};
use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::instructions::Sharing;
use crate::parser::Lines;

use super::context::Contexts;
use super::evaluate::Settings;
use super::graph::Plan;
use super::run::SCRIPT_DIR;
use super::stage::{Origin, Stage};
use super::step::{Copy, From, Label, MakeDir, Mode, Mount, Run, Source, StageId, Step};

/// Key of the description that holds the instruction as written.
const COMMAND: &str = "com.docker.dockerfile.v1.command";

/// The file systems of the stages of a plan.
pub(crate) struct Emitted {
    states: Vec<Option<State>>,
    /// The main build context.
    pub(crate) context: State,
}

impl Emitted {
    /// The file system of stage `id`; empty if the stage was not needed.
    pub(crate) fn stage(&self, id: StageId) -> State {
        self.states.get(id).cloned().flatten().unwrap_or_else(scratch)
    }
}

/// Builds the graph of all evaluated stages.
pub(crate) async fn emit(
    plan: &Plan<'_>,
    settings: &Settings<'_>,
    contexts: &Contexts<'_>,
    map: Option<&SourceMap>,
) -> Result<Emitted> {
    let context = contexts.main(follow(&plan.context_paths)).await?;
    let proxy = proxy(settings);
    let mut emitter = Emitter { plan, settings, map, proxy, states: vec![None; plan.stages.len()], context };
    // Stages that start from nothing in the Dockerfile come first: implicit ones are used before their turn.
    for (id, stage) in plan.stages.iter().enumerate() {
        let start = emitter.origin(stage);
        emitter.set(id, start);
    }
    for (id, stage) in plan.stages.iter().enumerate() {
        let mut state = match stage.base {
            None if stage.steps.is_empty() => continue,
            None => emitter.state(id),
            Some(base) if stage.dispatched => emitter.state(base),
            Some(_) => continue,
        };
        for (index, step) in stage.steps.iter().enumerate() {
            // A trigger may copy from the stage it runs in.
            emitter.set(id, Some(state.clone()));
            state = match step {
                Step::Run(run) => emitter.run(&state, run),
                Step::Copy(copy) => emitter.copy(&state, copy, id, index),
                Step::MakeDir(dir) => emitter.make_dir(&state, dir),
            };
        }
        emitter.set(id, Some(state));
    }
    Ok(Emitted { states: emitter.states, context: emitter.context })
}

/// The paths a context must hold, or none if it must hold all.
fn follow(paths: &BTreeSet<String>) -> Vec<String> {
    if paths.contains("/") {
        return Vec::new();
    }
    let mut relative: Vec<String> = paths.iter().map(|p| join(&[".", p])).collect();
    relative.sort_unstable();
    relative
}

/// Proxies named by build arguments.
fn proxy(settings: &Settings<'_>) -> Option<ProxyEnv> {
    let mut proxy = ProxyEnv::default();
    let mut found = false;
    for (name, value) in settings.build_args {
        let slot = match name.to_lowercase().as_str() {
            "http_proxy" => &mut proxy.http,
            "https_proxy" => &mut proxy.https,
            "ftp_proxy" => &mut proxy.ftp,
            "no_proxy" => &mut proxy.no,
            "all_proxy" => &mut proxy.all,
            _ => continue,
        };
        slot.clone_from(value);
        found = true;
    }
    found.then_some(proxy)
}

struct Emitter<'e> {
    plan: &'e Plan<'e>,
    settings: &'e Settings<'e>,
    map: Option<&'e SourceMap>,
    proxy: Option<ProxyEnv>,
    states: Vec<Option<State>>,
    context: State,
}

impl Emitter<'_> {
    fn set(&mut self, id: StageId, state: Option<State>) {
        if let Some(slot) = self.states.get_mut(id) {
            *slot = state;
        }
    }

    fn state(&self, id: StageId) -> State {
        self.states.get(id).cloned().flatten().unwrap_or_else(scratch)
    }

    fn from(&self, from: From) -> State {
        match from {
            From::Context => self.context.clone(),
            From::Stage(id) => self.state(id),
        }
    }

    fn location(&self, lines: Lines) -> Option<SourceLocation> {
        let ranges = lines.iter().map(|n| {
            let line = i32::try_from(n).unwrap_or(i32::MAX);
            Range::lines(line, line)
        });
        self.map.map(|map| map.location(ranges))
    }

    /// What a vertex of `label` carries besides its op.
    fn constraints(&self, label: &Label) -> Constraints {
        let mut constraints = Constraints::new().name(&label.name);
        if let Some(command) = &label.command {
            constraints = constraints.describe(COMMAND, command);
        }
        if let Some(location) = self.location(label.lines) {
            constraints = constraints.location(location);
        }
        if label.ignore_cache {
            constraints = constraints.ignore_cache();
        }
        constraints
    }

    fn origin(&self, stage: &Stage<'_>) -> Option<State> {
        match &stage.origin {
            Origin::Unset => None,
            Origin::Scratch => Some(scratch()),
            Origin::Image { reference, name, platform, command, lines } => {
                let mut image = Image::new(reference)
                    .name(name)
                    .describe(COMMAND, command)
                    .platform(platform.clone())
                    .resolve_mode(self.settings.options.resolve_mode);
                if let Some(location) = self.location(*lines) {
                    image = image.location(location);
                }
                Some(image.into())
            }
            Origin::Context { context, platform } => {
                let used = self.plan.used_paths.get(stage.used_paths).map(follow).unwrap_or_default();
                let state = context.tree.state(used);
                Some(match platform {
                    Some(platform) => state.platform(platform),
                    None => state,
                })
            }
        }
    }

    fn run(&self, state: &State, run: &Run) -> State {
        let options = self.settings.options;
        let caps = self.settings.caps;
        let mut process = Process::new(state, run.args.clone())
            .constraints(&self.constraints(&run.label))
            .env_list(run.env.clone())
            .dir(&*run.dir)
            .network(run.network);
        if let Some(user) = &run.user {
            process = process.user(&**user);
        }
        if !options.hostname.is_empty() {
            process = process.hostname(&options.hostname);
        }
        if let Some(proxy) = &self.proxy {
            process = process.proxy(proxy.clone());
        }
        for mount in &run.mounts {
            process = self.mount(process, mount);
        }
        if run.insecure {
            process = process.security(Security::Insecure);
        }
        if caps.ulimit {
            for limit in &options.ulimits {
                process = process.ulimit(&limit.name, limit.soft, limit.hard);
            }
        }
        for device in &run.devices {
            let name = Device::new(&device.name);
            process = process.device(if device.required { name } else { name.optional() });
        }
        for (host, ip) in &options.extra_hosts {
            process = process.add_host(host, *ip);
        }
        if caps.tmpfs_size && options.shm_size > 0 {
            process = process.mount("/dev/shm", buildkit_llb::Mount::tmpfs().size(options.shm_size));
        }
        if caps.cgroup_parent && !options.cgroup_parent.is_empty() {
            process = process.cgroup_parent(&options.cgroup_parent);
        }
        if caps.resources
            && let Some(resources) = &options.resources
        {
            process = process.linux_resources(resources.clone());
        }
        process.root()
    }

    fn mount(&self, process: Process, mount: &Mount) -> Process {
        match mount {
            Mount::Script { name, data } => {
                let file: State = FileSteps::new(scratch(), MkFile::new(name, 0o755, data.clone()))
                    .name("[internal] preparing inline document")
                    .into();
                process.mount(SCRIPT_DIR, buildkit_llb::Mount::bind(file).selector("/").readonly())
            }
            Mount::Bind { from, target, selector, read_only } => {
                let mount = CustomMount {
                    source: Some(self.from(*from)),
                    selector: selector.clone(),
                    readonly: *read_only,
                    no_output: !read_only && self.settings.caps.bind_no_output,
                    ..CustomMount::default()
                };
                process.mount(target, mount)
            }
            Mount::Cache { id, sharing, from, target, selector, read_only, owner } => {
                let mut source = self.from(*from);
                if let Some(owner) = owner {
                    let dir = MkDir::new("/cache", owner.mode).owner(Owner::ids(owner.uid, owner.gid));
                    source =
                        FileSteps::new(source, dir).name("[internal] setting cache mount permissions").into();
                }
                let sharing = match sharing {
                    Sharing::Shared => buildkit_llb::Sharing::Shared,
                    Sharing::Private => buildkit_llb::Sharing::Private,
                    Sharing::Locked => buildkit_llb::Sharing::Locked,
                };
                let mount = CustomMount {
                    source: Some(source),
                    selector: selector.clone(),
                    readonly: *read_only,
                    kind: CustomKind::Cache { id: id.clone(), sharing },
                    ..CustomMount::default()
                };
                process.mount(target, mount)
            }
            Mount::Tmpfs { target, size, read_only, selector } => {
                let mount = CustomMount {
                    selector: selector.clone(),
                    readonly: *read_only,
                    kind: CustomKind::Tmpfs { size: *size },
                    ..CustomMount::default()
                };
                process.mount(target, mount)
            }
            Mount::Secret { id, target, env, required, owner } => {
                let mut secret = Secret::new(id).owner(owner.uid, owner.gid).mode(owner.mode);
                if let Some(target) = target {
                    secret = secret.dest(target);
                }
                if let Some(env) = env {
                    secret = secret.env(env);
                }
                process.secret(if *required { secret } else { secret.optional() })
            }
            Mount::Ssh { id, target, required, owner } => {
                let mut ssh = Ssh::new().id(id).owner(owner.uid, owner.gid).mode(owner.mode);
                if let Some(target) = target {
                    ssh = ssh.dest(target);
                }
                process.ssh(if *required { ssh } else { ssh.optional() })
            }
        }
    }

    fn copy(&self, state: &State, copy: &Copy, stage: StageId, index: usize) -> State {
        let mut action = FileAction::new();
        for source in &copy.sources {
            action = action.then(self.source(copy, source));
        }
        let constraints = self.constraints(&copy.label);
        let Some(link) = &copy.link else {
            return FileSteps::new(state, action).constraints(&constraints).into();
        };
        let group = group_id(stage, index, &copy.label.name);
        let copied: State = FileSteps::new(scratch(), action)
            .constraints(&constraints)
            .progress_group(&group, &copy.label.name, true)
            .into();
        let merged: State = buildkit_llb::Merge::new([state.clone(), copied])
            .constraints(&constraints)
            .progress_group(&group, &copy.label.name, false)
            .name(link)
            .into();
        state.with_output(&merged)
    }

    fn source(&self, copy: &Copy, source: &Source) -> CopyFiles {
        let mut options = CopyOptions {
            create_dest: true,
            exclude: copy.exclude.clone(),
            owner: copy.owner.as_deref().map(Owner::named),
            mode: match &copy.mode {
                Mode::Keep => None,
                Mode::Octal(bits) => Some(buildkit_llb::Mode::Bits(*bits)),
                Mode::Symbolic(text) => Some(buildkit_llb::Mode::Symbolic(text.clone())),
            },
            ..CopyOptions::default()
        };
        let (state, path) = match source {
            Source::Local { from, path, include, required, unpack } => {
                options.follow_symlinks = true;
                options.contents_only = true;
                options.wildcard = true;
                options.allow_empty_wildcard = true;
                options.unpack = *unpack;
                options.include = include.iter().cloned().collect();
                options.required_paths = required.iter().cloned().collect();
                (self.from(*from), path.clone())
            }
            Source::Git { reference, keep_git_dir, checksum } => {
                let mut git = Git::new(&reference.remote, "")
                    .reference(&reference.reference)
                    .subdir(&reference.subdir)
                    .checksum(checksum)
                    .name(&copy.label.name);
                if *keep_git_dir {
                    git = git.keep_git_dir();
                }
                if reference.submodules == Some(false) {
                    git = git.skip_submodules();
                }
                if reference.fetch_by_commit == Some(true) {
                    git = git.fetch_by_commit();
                }
                (git.into(), "/".to_owned())
            }
            Source::Http { url, filename, checksum, unpack } => {
                options.unpack = *unpack;
                let mut http = Http::new(url).filename(filename).name(&copy.label.name).describe(COMMAND, "");
                if !checksum.is_empty() {
                    http = http.checksum(checksum);
                }
                (http.into(), filename.clone())
            }
            Source::Inline { name, data } => {
                let file = FileSteps::new(scratch(), MkFile::new(name, 0o644, data.clone()))
                    .name("[internal] preparing inline document");
                (file.into(), name.clone())
            }
        };
        CopyFiles::new(state, path, &copy.dest).options(options)
    }

    fn make_dir(&self, state: &State, dir: &MakeDir) -> State {
        let mut action = MkDir::new(&dir.path, 0o755).parents();
        if let Some(user) = &dir.user {
            action = action.owner(Owner::named(user));
        }
        if let Some(created) = dir.created {
            action = action.created(Timestamp::from_nanos(created));
        }
        FileSteps::new(state, action).constraints(&self.constraints(&dir.label)).into()
    }
}

/// An id that is the same for the vertices of one linked copy and no other step of the build.
fn group_id(stage: StageId, index: usize, name: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = Sha256::new();
    hash.update(format!("{stage}/{index}/{name}"));
    hash.finalize()
        .iter()
        .take(25)
        .map(|b| DIGITS.get(usize::from(b % 36)).map_or('0', |d| char::from(*d)))
        .collect()
}
