//! Random graphs: recipes whose steps make states.

use std::collections::{BTreeMap, HashMap};

use buildkit_llb as llb;
use buildkit_llb::{Constraints, CustomKind, CustomMount, MarshalOptions, Platform, State};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Answer, CaseKind, Difference, compare_error, compare_graph, digests, graph_json};

/// Recipes: `steps`, and the name of the state that is the result.
#[derive(Debug, Clone, Copy)]
pub struct Recipes;

impl CaseKind for Recipes {
    fn accepts(&self, case: &Map<String, Value>) -> bool {
        case.contains_key("steps")
    }

    fn answer(&self, case: Map<String, Value>) -> Answer {
        match definition(case) {
            Err(why) => Answer::broken(why),
            Ok(Err(error)) => Answer {
                detail: serde_json::json!({ "error": error.to_string() }),
                error: Some(error.to_string()),
                ..Answer::default()
            },
            Ok(Ok(definition)) => {
                let detail = graph_json(&definition);
                Answer {
                    head: detail.get("head").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    digests: digests(&detail).into_iter().collect(),
                    detail,
                    ..Answer::default()
                }
            }
        }
    }

    fn compare(&self, answer: &Answer, expect: &Value) -> Vec<Difference> {
        if let Some(difference) = compare_error(answer, expect) {
            return vec![difference];
        }
        if answer.error.is_some() {
            return Vec::new();
        }
        compare_graph("", &answer.detail, expect, &|_| {})
    }
}

/// The graph of a recipe, marshalled.
///
/// # Errors
/// The outer error is a recipe nobody can follow.
pub fn definition(case: Map<String, Value>) -> Result<Result<llb::Definition, llb::Error>, String> {
    let mut case = Fields(case);
    let platform = platform(&case.take::<String>("platform")?)?;
    let result: String = case.take("result")?;
    let steps: Vec<Map<String, Value>> = case.take("steps")?;
    let mut states = States::default();
    for (at, step) in steps.into_iter().enumerate() {
        let mut step = Fields(step);
        let op: String = step.take("op")?;
        states
            .step(&op, &mut step)
            .and_then(|()| step.finish())
            .map_err(|why| format!("step {at} ({op}): {why}"))?;
    }
    let result = states.named(&result)?.marshal(MarshalOptions::new(platform).unique_id("unique"));
    // The reference stops at an image config it cannot read, even if the result has nothing of it.
    Ok(match states.unreadable {
        Some(error) => Err(error),
        None => result,
    })
}

fn platform(text: &str) -> Result<Platform, String> {
    text.parse().map_err(|error: llb::platform::ParseError| error.to_string())
}

/// The fields of an object that nobody looked at yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn maybe<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, String> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|error| format!("{key}: {error}")),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, String> {
        self.maybe(key)?.ok_or_else(|| format!("{key} is missing"))
    }

    fn list<T: DeserializeOwned>(&mut self, key: &str) -> Result<Vec<T>, String> {
        Ok(self.maybe(key)?.unwrap_or_default())
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        Ok(self.maybe(key)?.unwrap_or_default())
    }

    /// What was not understood must not pass as done.
    fn finish(&self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(key) => Err(format!("nobody knows the field {key}")),
            None => Ok(()),
        }
    }

    /// The options any op may carry.
    fn constraints(&mut self) -> Result<Constraints, String> {
        let mut out = Constraints::new();
        for (key, value) in self.maybe::<BTreeMap<String, String>>("description")?.unwrap_or_default() {
            out = out.describe(key, value);
        }
        if let Some(name) = self.maybe::<String>("name")? {
            out = out.name(name);
        }
        if self.flag("ignore_cache")? {
            out = out.ignore_cache();
        }
        if let Some(export) = self.maybe("export_cache")? {
            out = out.export_cache(export);
        }
        if let Some(text) = self.maybe::<String>("platform")? {
            out = out.platform(platform(&text)?);
        }
        if let Some(Group { id, name, weak }) = self.maybe("progress_group")? {
            out = out.progress_group(id, name, weak);
        }
        for filter in self.list::<String>("require")? {
            out = out.require(filter);
        }
        if let Some(limits) = self.maybe::<Limits>("linux_resources")? {
            out = out.linux_resources(llb::LinuxResources {
                memory: limits.memory,
                memory_swap: limits.memory_swap,
                cpu_shares: limits.cpu_shares,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpuset_cpus: limits.cpuset_cpus,
                cpuset_mems: limits.cpuset_mems,
            });
        }
        Ok(out)
    }
}

/// A table of the case format: missing fields are at their default, unknown ones are refused.
macro_rules! tables {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        #[derive(Deserialize, Default)]
        #[serde(default, deny_unknown_fields)]
        struct $name { $($field: $type),* }
    )*};
}

tables! {
    Group { id: String, name: String, weak: bool }
    Limits {
        memory: i64, memory_swap: i64, cpu_shares: u64, cpu_period: u64, cpu_quota: i64,
        cpuset_cpus: String, cpuset_mems: String,
    }
    Header { accept: String, user_agent: String }
    Variable { key: String, value: String }
    Host { host: String, ip: String }
    Ulimit { name: String, soft: i64, hard: i64 }
    Proxy { http: String, https: String, ftp: String, no: String, all: String }
    Secret {
        dest: String, id: Option<String>, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>,
        optional: bool, env: Option<String>,
    }
    Ssh {
        id: Option<String>, target: Option<String>, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>,
        optional: bool,
    }
    Device { name: String, optional: bool }
    MountPoint {
        target: String, source: Option<String>, readonly: bool, selector: String, no_output: bool,
        content_cache: String, cache: Option<Cache>, tmpfs: Option<Tmpfs>, r#as: Option<String>,
    }
    Cache { id: String, sharing: String }
    Tmpfs { size: i64 }
    Chown { user: Option<String>, uid: Option<u32>, gid: Option<u32> }
}

/// The states made so far.
#[derive(Default)]
struct States {
    by_name: HashMap<String, State>,
    /// Why an image config could not be read.
    unreadable: Option<llb::Error>,
}

impl States {
    fn named(&self, name: &str) -> Result<&State, String> {
        self.by_name.get(name).ok_or_else(|| format!("there is no state {name}"))
    }

    fn from(&self, step: &mut Fields, key: &str) -> Result<State, String> {
        self.named(&step.take::<String>(key)?).cloned()
    }

    fn all(&self, names: &[String]) -> Result<Vec<State>, String> {
        names.iter().map(|name| self.named(name).cloned()).collect()
    }

    fn step(&mut self, op: &str, step: &mut Fields) -> Result<(), String> {
        let name: String = step.take("as")?;
        let constraints = step.constraints()?;
        let state = match op {
            "scratch" => llb::scratch(),
            "image" => image(step, &constraints)?,
            "local" => local(step, &constraints)?,
            "git" => git(step, &constraints)?,
            "http" => http(step, &constraints)?,
            "oci_layout" => oci_layout(step, &constraints)?,
            "run" => self.run(step, &constraints)?,
            "file" => self.file(step, &constraints)?,
            "merge" => {
                let inputs = self.all(&step.take::<Vec<String>>("inputs")?)?;
                llb::Merge::new(inputs).constraints(&constraints).into()
            }
            "diff" => {
                let (lower, upper) = (self.from(step, "lower")?, self.from(step, "upper")?);
                llb::Diff::new(lower, upper).constraints(&constraints).into()
            }
            "requires" => {
                let base = self.from(step, "base")?;
                let dependencies = self.all(&step.list::<String>("deps")?)?;
                llb::Requires::new(base, step.take::<String>("id")?, dependencies)
                    .constraints(&constraints)
                    .into()
            }
            "image_config" => {
                let config = step.take::<Value>("config")?.to_string();
                let alone = llb::scratch().image_config(&config).marshal(Platform::LINUX_AMD64);
                self.unreadable = self.unreadable.take().or(alone.err());
                self.from(step, "base")?.image_config(config)
            }
            setter => set(setter, self.from(step, "base")?, step)?,
        };
        self.by_name.insert(name, state);
        Ok(())
    }

    fn run(&mut self, step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
        let base = self.from(step, "base")?;
        let shlex = step.maybe::<String>("shlex")?;
        let args = step.list::<String>("args")?;
        let mut run = match shlex {
            Some(line) => base.run(llb::shlex(line)),
            None => base.run(args),
        };
        for Variable { key, value } in step.list("env")? {
            run = run.env(key, value);
        }
        if let Some(dir) = step.maybe::<String>("dir")? {
            run = run.dir(dir);
        }
        if let Some(user) = step.maybe::<String>("user")? {
            run = run.user(user);
        }
        if let Some(mode) = step.maybe::<String>("network")? {
            run = run.network(network(&mode)?);
        }
        if let Some(mode) = step.maybe::<String>("security")? {
            run = run.security(security(&mode)?);
        }
        if let Some(hostname) = step.maybe::<String>("hostname")? {
            run = run.hostname(hostname);
        }
        if let Some(parent) = step.maybe::<String>("cgroup_parent")? {
            run = run.cgroup_parent(parent);
        }
        for Host { host, ip } in step.list("hosts")? {
            run = run.add_host(host, address(&ip)?);
        }
        for Ulimit { name, soft, hard } in step.list("ulimits")? {
            run = run.ulimit(name, soft, hard);
        }
        if step.flag("readonly_root")? {
            run = run.readonly_root();
        }
        run = run.valid_exit_codes(step.list::<i32>("valid_exit_codes")?);
        if let Some(Proxy { http, https, ftp, no, all }) = step.maybe("proxy")? {
            run = run.proxy(llb::ProxyEnv { http, https, ftp, no, all });
        }
        for secret in step.list::<Secret>("secrets")? {
            let mut out =
                llb::Secret::new(secret.id.unwrap_or_else(|| secret.dest.clone())).dest(secret.dest);
            if secret.uid.is_some() || secret.gid.is_some() || secret.mode.is_some() {
                out = out
                    .owner(secret.uid.unwrap_or(0), secret.gid.unwrap_or(0))
                    .mode(secret.mode.unwrap_or(0));
            }
            if let Some(env) = secret.env {
                out = out.env(env);
            }
            run = run.secret(if secret.optional { out.optional() } else { out });
        }
        for ssh in step.list::<Ssh>("ssh")? {
            let mut out = llb::Ssh::new().id(ssh.id.unwrap_or_default());
            if let Some(target) = ssh.target.filter(|target| !target.is_empty()) {
                out = out.dest(target);
            }
            if ssh.uid.is_some() || ssh.gid.is_some() || ssh.mode.is_some() {
                out = out.owner(ssh.uid.unwrap_or(0), ssh.gid.unwrap_or(0)).mode(ssh.mode.unwrap_or(0));
            }
            run = run.ssh(if ssh.optional { out.optional() } else { out });
        }
        for Device { name, optional } in step.list("devices")? {
            let device = llb::Device::new(name);
            run = run.device(if optional { device.optional() } else { device });
        }
        let mut names = Vec::new();
        for mount in step.list::<MountPoint>("mounts")? {
            let (target, name, mount) = self.mount(mount)?;
            names.push(name);
            run = run.mount(target, mount);
        }
        let exec = run.constraints(constraints).exec();
        for (at, name) in names.into_iter().enumerate() {
            if let (Some(name), Some(state)) = (name, exec.mount_output(at)) {
                self.by_name.insert(name, state);
            }
        }
        Ok(exec.root())
    }

    fn mount(&self, mount: MountPoint) -> Result<(String, Option<String>, CustomMount), String> {
        let kind = match (mount.cache, mount.tmpfs) {
            (Some(Cache { id, sharing }), None) => CustomKind::Cache {
                id,
                sharing: match sharing.as_str() {
                    "shared" | "" => llb::Sharing::Shared,
                    "private" => llb::Sharing::Private,
                    "locked" => llb::Sharing::Locked,
                    other => return Err(format!("nobody knows the sharing {other}")),
                },
            },
            (None, Some(Tmpfs { size })) => CustomKind::Tmpfs { size },
            (None, None) => CustomKind::Bind,
            (Some(_), Some(_)) => return Err("a mount is both a cache and a tmpfs".into()),
        };
        let custom = CustomMount {
            source: mount.source.map(|name| self.named(&name).cloned()).transpose()?,
            selector: mount.selector,
            readonly: mount.readonly,
            no_output: mount.no_output,
            content_cache: match mount.content_cache.as_str() {
                "" | "default" => llb::ContentCache::Default,
                "on" => llb::ContentCache::On,
                "off" => llb::ContentCache::Off,
                other => return Err(format!("nobody knows the content cache {other}")),
            },
            kind,
        };
        Ok((mount.target, mount.r#as, custom))
    }

    fn file(&self, step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
        let base = self.from(step, "base")?;
        let mut action = llb::FileAction::new();
        for (at, fields) in step.take::<Vec<Map<String, Value>>>("actions")?.into_iter().enumerate() {
            let mut fields = Fields(fields);
            let next = self.action(&mut fields).and_then(|next| fields.finish().map(|()| next));
            action = action.then(next.map_err(|why| format!("action {at}: {why}"))?);
        }
        Ok(llb::FileSteps::new(base, action).constraints(constraints).into())
    }

    fn action(&self, fields: &mut Fields) -> Result<llb::FileAction, String> {
        let verb: String = fields.take("do")?;
        let owner = fields.maybe::<Chown>("chown")?.map(|chown| match chown.user {
            Some(user) => llb::Owner::named(&user),
            None => llb::Owner::ids(chown.uid.unwrap_or(0), chown.gid.unwrap_or(0)),
        });
        let created = fields.maybe::<i64>("created")?.map(llb::Timestamp::from_secs);
        /// Owner and time, which all but removals have.
        macro_rules! finished {
            ($action:expr) => {{
                let mut action = $action;
                if let Some(owner) = owner {
                    action = action.owner(owner);
                }
                if let Some(created) = created {
                    action = action.created(created);
                }
                action.into()
            }};
        }
        Ok(match verb.as_str() {
            "mkdir" => {
                let dir = llb::MkDir::new(fields.take::<String>("path")?, fields.maybe("mode")?.unwrap_or(0));
                finished!(if fields.flag("parents")? { dir.parents() } else { dir })
            }
            "mkfile" => {
                let data = fields.maybe::<String>("data")?.unwrap_or_default();
                let mode = fields.maybe("mode")?.unwrap_or(0);
                finished!(llb::MkFile::new(fields.take::<String>("path")?, mode, data))
            }
            "symlink" => {
                finished!(llb::Symlink::new(fields.take::<String>("old")?, fields.take::<String>("new")?))
            }
            "rm" => {
                let mut rm = llb::Rm::new(fields.take::<String>("path")?);
                if fields.flag("allow_not_found")? {
                    rm = rm.allow_not_found();
                }
                if fields.flag("allow_wildcard")? {
                    rm = rm.wildcard();
                }
                rm.into()
            }
            "copy" => {
                let from = self.from(fields, "from")?;
                let (src, dest) = (fields.take::<String>("src")?, fields.take::<String>("dest")?);
                let bits = fields.maybe("mode")?.map(llb::Mode::Bits);
                let text = fields.maybe::<String>("mode_str")?.filter(|text| !text.is_empty());
                let mode = text.map(llb::Mode::Symbolic).or(bits);
                let options = llb::CopyOptions {
                    mode,
                    follow_symlinks: fields.flag("follow_symlinks")?,
                    contents_only: fields.flag("dir_contents_only")?,
                    unpack: fields.flag("unpack")?,
                    create_dest: fields.flag("create_dest")?,
                    wildcard: fields.flag("allow_wildcard")?,
                    allow_empty_wildcard: fields.flag("allow_empty_wildcard")?,
                    include: fields.list("include")?,
                    exclude: fields.list("exclude")?,
                    required_paths: fields.list("required")?,
                    always_replace: fields.flag("always_replace")?,
                    owner,
                    created,
                };
                llb::Copy::new(from, src, dest).options(options).into()
            }
            other => return Err(format!("nobody knows the action {other}")),
        })
    }
}

fn address(ip: &str) -> Result<std::net::IpAddr, String> {
    ip.parse().map_err(|error| format!("{ip}: {error}"))
}

fn network(mode: &str) -> Result<llb::Network, String> {
    match mode {
        "sandbox" => Ok(llb::Network::Sandbox),
        "host" => Ok(llb::Network::Host),
        "none" => Ok(llb::Network::None),
        other => Err(format!("nobody knows the network {other}")),
    }
}

fn security(mode: &str) -> Result<llb::Security, String> {
    match mode {
        "sandbox" => Ok(llb::Security::Sandbox),
        "insecure" => Ok(llb::Security::Insecure),
        other => Err(format!("nobody knows the security mode {other}")),
    }
}

fn set(setter: &str, base: State, step: &mut Fields) -> Result<State, String> {
    Ok(match setter {
        "env" => base.env(step.take::<String>("key")?, step.maybe::<String>("value")?.unwrap_or_default()),
        "dir" => base.dir(step.take::<String>("path")?),
        "user" => base.user(step.take::<String>("user")?),
        "hostname" => base.hostname(step.take::<String>("hostname")?),
        "network" => base.network(network(&step.take::<String>("mode")?)?),
        "security" => base.security(security(&step.take::<String>("mode")?)?),
        "add_host" => base.add_host(step.take::<String>("host")?, address(&step.take::<String>("ip")?)?),
        "ulimit" => base.ulimit(
            step.take::<String>("ulimit")?,
            step.maybe("soft")?.unwrap_or(0),
            step.maybe("hard")?.unwrap_or(0),
        ),
        "cgroup_parent" => base.cgroup_parent(step.take::<String>("parent")?),
        "set_platform" => base.platform(&platform(&step.take::<String>("to")?)?),
        other => return Err(format!("nobody knows the op {other}")),
    })
}

fn image(step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
    let mut image = llb::Image::new(step.take::<String>("ref")?);
    image = match step.maybe::<String>("resolve")?.as_deref() {
        None | Some("default") => image,
        Some("pull") => image.always_pull(),
        Some("local") => image.resolve_mode(llb::ResolveMode::Local),
        Some(other) => return Err(format!("nobody knows the resolve mode {other}")),
    };
    if let Some(layers) = step.maybe("layer_limit")? {
        image = image.layer_limit(layers);
    }
    if let Some(checksum) = step.maybe::<String>("checksum")? {
        image = image.checksum(checksum);
    }
    Ok(image.constraints(constraints).into())
}

fn local(step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
    let mut local = llb::Local::new(step.take::<String>("local")?)
        .include(step.list::<String>("include")?)
        .exclude(step.list::<String>("exclude")?)
        .follow(step.list::<String>("follow")?);
    if let Some(session) = step.maybe::<String>("session")? {
        local = local.session(session);
    }
    if let Some(unique) = step.maybe::<String>("unique")? {
        local = local.unique_id(unique);
    }
    if let Some(key) = step.maybe::<String>("shared_key")? {
        local = local.shared_key_hint(key);
    }
    let required = step.flag("differ_required")?;
    local = match step.maybe::<String>("differ")?.as_deref() {
        None => local,
        Some("none") => local.differ(llb::Differ::None, required),
        Some("metadata") => local.differ(llb::Differ::Metadata, required),
        Some(other) => return Err(format!("nobody knows the differ {other}")),
    };
    if let Some(exceptions) = step.maybe::<Vec<String>>("metadata_only")? {
        local = local.metadata_only(exceptions);
    }
    Ok(local.constraints(constraints).into())
}

fn git(step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
    let fragment = step.maybe::<String>("fragment")?.unwrap_or_default();
    let mut git = llb::Git::new(step.take::<String>("remote")?, fragment);
    /// Calls a setter if its field is there.
    macro_rules! texts {
        ($($key:literal => $setter:ident),*) => {$(
            if let Some(value) = step.maybe::<String>($key)? {
                git = git.$setter(value);
            }
        )*};
    }
    texts!(
        "ref" => reference, "subdir" => subdir, "auth_token" => auth_token_secret,
        "auth_header" => auth_header_secret, "known_hosts" => known_hosts, "ssh_sock" => ssh_sock,
        "checksum" => checksum
    );
    if step.flag("keep_git_dir")? {
        git = git.keep_git_dir();
    }
    if step.flag("skip_submodules")? {
        git = git.skip_submodules();
    }
    if step.flag("fetch_by_commit")? {
        git = git.fetch_by_commit();
    }
    git = match step.maybe::<String>("mtime")?.as_deref() {
        None => git,
        Some("checkout") => git.mtime(llb::Mtime::Checkout),
        Some("commit") => git.mtime(llb::Mtime::Commit),
        Some(other) => return Err(format!("nobody knows the mtime {other}")),
    };
    Ok(git.constraints(constraints).into())
}

fn http(step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
    let mut http = llb::Http::new(step.take::<String>("url")?);
    if let Some(checksum) = step.maybe::<String>("checksum")? {
        http = http.checksum(checksum);
    }
    if let Some(filename) = step.maybe::<String>("filename")? {
        http = http.filename(filename);
    }
    if let Some(mode) = step.maybe("chmod")? {
        http = http.mode(mode);
    }
    let (uid, gid) = (step.maybe("uid")?.unwrap_or(0), step.maybe("gid")?.unwrap_or(0));
    http = http.owner(uid, gid);
    if let Some(secret) = step.maybe::<String>("auth_header")? {
        http = http.auth_header_secret(secret);
    }
    if let Some(Header { accept, user_agent }) = step.maybe("header")? {
        http = http.accept(accept).user_agent(user_agent);
    }
    Ok(http.constraints(constraints).into())
}

fn oci_layout(step: &mut Fields, constraints: &Constraints) -> Result<State, String> {
    let mut layout = llb::OciLayout::new(step.take::<String>("ref")?);
    let session = step.maybe::<String>("session")?.unwrap_or_default();
    layout = layout.store(session, step.maybe::<String>("store")?.unwrap_or_default());
    if let Some(layers) = step.maybe("layer_limit")? {
        layout = layout.layer_limit(layers);
    }
    // The reference takes a checksum and does nothing with it.
    step.maybe::<String>("checksum")?;
    Ok(layout.constraints(constraints).into())
}
