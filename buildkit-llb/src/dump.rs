//! Definitions for people: JSON in BuildKit's field names, and Graphviz.

use std::fmt::Write as _;

use buildkit_proto::pb;
use serde_json::{Map, Value};

use crate::constraints::OpMetadata;
use crate::definition::{Definition, DefinitionOp, metadata_to_pb};
use crate::error::Error;

impl DefinitionOp<'_> {
    /// The op as JSON: protobuf's mapping with the field names of the contract, so 64-bit numbers are texts,
    /// enums names, bytes base64, and fields at their default are left out.
    ///
    /// # Errors
    /// If a definition that was read has something else than an op there.
    pub fn to_json(&self) -> Result<Value, Error> {
        Ok(op_json(&self.message()?, Style::Canonical))
    }

    /// A short text that says what the op does: the identifier of a source, the command of a process, the
    /// actions of a file op.
    ///
    /// # Errors
    /// If a definition that was read has something else than an op there.
    pub fn title(&self) -> Result<String, Error> {
        Ok(label(&self.message()?, &self.digest().to_string()).0)
    }
}

impl OpMetadata {
    /// The metadata as JSON, in the same mapping as [`DefinitionOp::to_json`].
    pub fn to_json(&self) -> Value {
        metadata_json(&metadata_to_pb(self), Style::Canonical)
    }
}

impl Definition {
    /// The lines `buildctl debug dump-llb` prints: per op an object with `Op`, `Digest` and `OpMetadata`, where
    /// numbers and enums are numbers.
    ///
    /// # Errors
    /// If a definition that was read has something else than ops in it.
    pub fn to_json_lines(&self) -> Result<String, Error> {
        let mut out = String::new();
        for op in self.ops() {
            let mut line = Map::new();
            line.insert("Op".to_owned(), op_json(&op.message()?, Style::Numbers));
            line.insert("Digest".to_owned(), Value::String(op.digest().to_string()));
            let metadata = metadata_json(&metadata_to_pb(op.metadata()), Style::Numbers);
            line.insert("OpMetadata".to_owned(), metadata);
            let _ = writeln!(out, "{}", Value::Object(line));
        }
        Ok(out)
    }

    /// The graph for Graphviz, as `buildctl debug dump-llb --dot` prints it.
    ///
    /// # Errors
    /// If a definition that was read has something else than ops in it.
    pub fn to_dot(&self) -> Result<String, Error> {
        let mut nodes = String::from("digraph {\n");
        let mut edges = String::new();
        for op in self.ops() {
            let message = op.message()?;
            let digest = op.digest().to_string();
            let (name, shape) = label(&message, &digest);
            let _ = writeln!(nodes, "  {} [label={} shape={}];", quote(&digest), quote(&name), quote(shape));
            // Where each input is mounted, other than at the root.
            let mut dests = vec![""; message.inputs.len()];
            if let Some(pb::op::Op::Exec(exec)) = &message.op {
                for mount in exec.mounts.iter().filter(|mount| mount.dest != "/") {
                    if let Some(dest) = usize::try_from(mount.input).ok().and_then(|at| dests.get_mut(at)) {
                        *dest = &mount.dest;
                    }
                }
            }
            for (dest, input) in dests.into_iter().zip(&message.inputs) {
                let _ = writeln!(
                    edges,
                    "  {} -> {} [label={}];",
                    quote(&input.digest),
                    quote(&digest),
                    quote(dest)
                );
            }
        }
        nodes.push_str(&edges);
        nodes.push_str("}\n");
        Ok(nodes)
    }
}

fn quote(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// What a node is called, and its shape.
fn label(op: &pb::Op, digest: &str) -> (String, &'static str) {
    match &op.op {
        Some(pb::op::Op::Source(op)) => (op.identifier.clone(), "ellipse"),
        Some(pb::op::Op::Exec(op)) => {
            (op.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default(), "box")
        }
        Some(pb::op::Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(pb::op::Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(pb::op::Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(pb::op::Op::File(op)) => {
            let names: Vec<String> =
                op.actions.iter().filter_map(|action| action.action.as_ref()).map(action_name).collect();
            (names.join(","), "note")
        }
        Some(pb::op::Op::Passthrough(_)) | None => (digest.to_owned(), "plaintext"),
    }
}

fn action_name(action: &pb::file_action::Action) -> String {
    match action {
        pb::file_action::Action::Copy(copy) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        pb::file_action::Action::Mkfile(file) => format!("mkfile{{path={}}}", file.path),
        pb::file_action::Action::Mkdir(dir) => format!("mkdir{{path={}}}", dir.path),
        pb::file_action::Action::Rm(rm) => format!("rm{{path={}}}", rm.path),
        pb::file_action::Action::Symlink(link) => {
            format!("symlink{{oldpath={}, newpath={}}}", link.oldpath, link.newpath)
        }
    }
}

/// How values are written where the two forms differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Protobuf's JSON mapping.
    Canonical,
    /// As Go prints its structs.
    Numbers,
}

/// An object that leaves fields at their default out.
struct Object {
    fields: Map<String, Value>,
    style: Style,
}

impl Object {
    fn new(style: Style) -> Self {
        Self { fields: Map::new(), style }
    }

    fn value(mut self, key: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self.fields.insert(key.to_owned(), value);
        }
        self
    }

    fn text(self, key: &str, text: &str) -> Self {
        self.value(key, (!text.is_empty()).then(|| text.into()))
    }

    fn flag(self, key: &str, flag: bool) -> Self {
        self.value(key, flag.then_some(Value::Bool(true)))
    }

    fn number(self, key: &str, number: impl Into<i64>) -> Self {
        let number = number.into();
        self.value(key, (number != 0).then(|| number.into()))
    }

    fn long(self, key: &str, number: i64) -> Self {
        let value = (number != 0).then(|| long(number, self.style));
        self.value(key, value)
    }

    fn unsigned(self, key: &str, number: u64) -> Self {
        let value = match self.style {
            Style::Canonical => number.to_string().into(),
            Style::Numbers => number.into(),
        };
        self.value(key, (number != 0).then_some(value))
    }

    fn choice(self, key: &str, number: i32, name: Option<&str>) -> Self {
        let value = match (self.style, name) {
            (Style::Canonical, Some(name)) => name.into(),
            _ => number.into(),
        };
        self.value(key, (number != 0).then_some(value))
    }

    fn list(self, key: &str, items: Vec<Value>) -> Self {
        self.value(key, (!items.is_empty()).then_some(Value::Array(items)))
    }

    fn texts(self, key: &str, items: &[String]) -> Self {
        self.list(key, items.iter().map(|item| item.as_str().into()).collect())
    }

    fn map<'a, V: Into<Value>>(self, key: &str, entries: impl IntoIterator<Item = (&'a String, V)>) -> Self {
        let map: Map<String, Value> =
            entries.into_iter().map(|(key, value)| (key.clone(), value.into())).collect();
        self.value(key, (!map.is_empty()).then_some(Value::Object(map)))
    }

    fn done(self) -> Value {
        Value::Object(self.fields)
    }
}

fn long(number: i64, style: Style) -> Value {
    match style {
        Style::Canonical => number.to_string().into(),
        Style::Numbers => number.into(),
    }
}

fn op_json(op: &pb::Op, style: Style) -> Value {
    let object = || Object::new(style);
    let inputs = op.inputs.iter();
    let inputs = inputs.map(|input| object().text("digest", &input.digest).long("index", input.index).done());
    let out = object().list("inputs", inputs.collect());
    let body = op.op.as_ref().map(|body| match body {
        pb::op::Op::Exec(op) => ("exec", exec_json(op, style)),
        pb::op::Op::Source(op) => {
            ("source", object().text("identifier", &op.identifier).map("attrs", to_values(&op.attrs)).done())
        }
        pb::op::Op::File(op) => {
            let actions = op.actions.iter().map(|action| action_json(action, style)).collect();
            ("file", object().list("actions", actions).done())
        }
        pb::op::Op::Build(op) => {
            let inputs = op.inputs.iter();
            let inputs = inputs.map(|(key, input)| (key, object().long("input", input.input).done()));
            let build = object().long("builder", op.builder).map("inputs", inputs);
            ("build", build.map("attrs", to_values(&op.attrs)).done())
        }
        pb::op::Op::Merge(op) => {
            let inputs = op.inputs.iter().map(|input| object().long("input", input.input).done());
            ("merge", object().list("inputs", inputs.collect()).done())
        }
        pb::op::Op::Diff(op) => {
            let lower = op.lower.map(|lower| object().long("input", lower.input).done());
            let upper = op.upper.map(|upper| object().long("input", upper.input).done());
            ("diff", object().value("lower", lower).value("upper", upper).done())
        }
        pb::op::Op::Passthrough(op) => {
            let outputs = op.outputs.iter().map(|output| long(*output, style)).collect();
            ("passthrough", object().text("id", &op.id).list("outputs", outputs).done())
        }
    });
    let out = body_json(out, "Op", body);
    let platform = op.platform.as_ref().map(|platform| {
        object()
            .text("Architecture", &platform.architecture)
            .text("OS", &platform.os)
            .text("Variant", &platform.variant)
            .text("OSVersion", &platform.os_version)
            .texts("OSFeatures", &platform.os_features)
            .done()
    });
    let constraints = op.constraints.as_ref().map(|held| object().texts("filter", &held.filter).done());
    out.value("platform", platform).value("constraints", constraints).done()
}

fn to_values(
    map: &std::collections::BTreeMap<String, String>,
) -> impl Iterator<Item = (&String, Value)> + '_ {
    map.iter().map(|(key, value)| (key, Value::String(value.clone())))
}

fn exec_json(op: &pb::ExecOp, style: Style) -> Value {
    let object = || Object::new(style);
    let meta = op.meta.as_ref().map(|meta| {
        let proxy = meta.proxy_env.as_ref().map(|proxy| {
            object()
                .text("http_proxy", &proxy.http_proxy)
                .text("https_proxy", &proxy.https_proxy)
                .text("ftp_proxy", &proxy.ftp_proxy)
                .text("no_proxy", &proxy.no_proxy)
                .text("all_proxy", &proxy.all_proxy)
                .done()
        });
        let hosts = meta.extra_hosts.iter();
        let hosts = hosts.map(|host| object().text("Host", &host.host).text("IP", &host.ip).done());
        let limits = meta.ulimit.iter().map(|limit| {
            object().text("Name", &limit.name).long("Soft", limit.soft).long("Hard", limit.hard).done()
        });
        object()
            .texts("args", &meta.args)
            .texts("env", &meta.env)
            .text("cwd", &meta.cwd)
            .text("user", &meta.user)
            .value("proxy_env", proxy)
            .list("extraHosts", hosts.collect())
            .text("hostname", &meta.hostname)
            .list("ulimit", limits.collect())
            .text("cgroupParent", &meta.cgroup_parent)
            .flag("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
            .list("validExitCodes", meta.valid_exit_codes.iter().map(|code| (*code).into()).collect())
            .done()
    });
    let secrets = op.secretenv.iter().map(|secret| {
        object().text("ID", &secret.id).text("name", &secret.name).flag("optional", secret.optional).done()
    });
    let devices = op.cdi_devices.iter();
    let devices =
        devices.map(|device| object().text("name", &device.name).flag("optional", device.optional).done());
    object()
        .value("meta", meta)
        .list("mounts", op.mounts.iter().map(|mount| mount_json(mount, style)).collect())
        .choice("network", op.network, pb::NetMode::try_from(op.network).ok().map(|mode| mode.as_str_name()))
        .choice(
            "security",
            op.security,
            pb::SecurityMode::try_from(op.security).ok().map(|mode| mode.as_str_name()),
        )
        .list("secretenv", secrets.collect())
        .list("cdiDevices", devices.collect())
        .done()
}

fn mount_json(mount: &pb::Mount, style: Style) -> Value {
    let object = || Object::new(style);
    let kind = pb::MountType::try_from(mount.mount_type).ok();
    let content = pb::MountContentCache::try_from(mount.content_cache).ok();
    let cache = mount.cache_opt.as_ref().map(|cache| {
        let sharing = pb::CacheSharingOpt::try_from(cache.sharing).ok();
        object()
            .text("ID", &cache.id)
            .choice("sharing", cache.sharing, sharing.map(|sharing| sharing.as_str_name()))
            .done()
    });
    let file = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        object()
            .text("ID", id)
            .number("uid", uid)
            .number("gid", gid)
            .number("mode", mode)
            .flag("optional", optional)
            .done()
    };
    object()
        .long("input", mount.input)
        .text("selector", &mount.selector)
        .text("dest", &mount.dest)
        .long("output", mount.output)
        .flag("readonly", mount.readonly)
        .choice("mountType", mount.mount_type, kind.map(|kind| kind.as_str_name()))
        .value("TmpfsOpt", mount.tmpfs_opt.map(|tmpfs| object().long("size", tmpfs.size).done()))
        .value("cacheOpt", cache)
        .value("secretOpt", mount.secret_opt.as_ref().map(|s| file(&s.id, s.uid, s.gid, s.mode, s.optional)))
        .value("SSHOpt", mount.ssh_opt.as_ref().map(|s| file(&s.id, s.uid, s.gid, s.mode, s.optional)))
        .text("resultID", &mount.result_id)
        .choice("contentCache", mount.content_cache, content.map(|content| content.as_str_name()))
        .done()
}

fn action_json(action: &pb::FileAction, style: Style) -> Value {
    let object = || Object::new(style);
    let user = |user: &pb::UserOpt| {
        let body = user.user.as_ref().and_then(|user| match (user, style) {
            (pb::user_opt::User::ByName(name), _) => {
                Some(("byName", object().text("name", &name.name).long("input", name.input).done()))
            }
            (pb::user_opt::User::ById(id), Style::Canonical) => Some(("byID", (*id).into())),
            (pb::user_opt::User::ById(0), Style::Numbers) => None,
            (pb::user_opt::User::ById(id), Style::Numbers) => Some(("byId", (*id).into())),
        });
        body_json(object(), "User", body).done()
    };
    let owner = |owner: &Option<pb::ChownOpt>| {
        owner.as_ref().map(|owner| {
            object()
                .value("user", owner.user.as_ref().map(user))
                .value("group", owner.group.as_ref().map(user))
                .done()
        })
    };
    let body = action.action.as_ref().map(|body| match body {
        pb::file_action::Action::Copy(copy) => (
            "copy",
            object()
                .text("src", &copy.src)
                .text("dest", &copy.dest)
                .value("owner", owner(&copy.owner))
                .number("mode", copy.mode)
                .flag("followSymlink", copy.follow_symlink)
                .flag("dirCopyContents", copy.dir_copy_contents)
                .flag("attemptUnpackDockerCompatibility", copy.attempt_unpack_docker_compatibility)
                .flag("createDestPath", copy.create_dest_path)
                .flag("allowWildcard", copy.allow_wildcard)
                .flag("allowEmptyWildcard", copy.allow_empty_wildcard)
                .long("timestamp", copy.timestamp)
                .texts("include_patterns", &copy.include_patterns)
                .texts("exclude_patterns", &copy.exclude_patterns)
                .flag("alwaysReplaceExistingDestPaths", copy.always_replace_existing_dest_paths)
                .text("modeStr", &copy.mode_str)
                .texts("required_paths", &copy.required_paths)
                .done(),
        ),
        pb::file_action::Action::Mkfile(file) => (
            "mkfile",
            object()
                .text("path", &file.path)
                .number("mode", file.mode)
                .text("data", &base64(&file.data))
                .value("owner", owner(&file.owner))
                .long("timestamp", file.timestamp)
                .done(),
        ),
        pb::file_action::Action::Mkdir(dir) => (
            "mkdir",
            object()
                .text("path", &dir.path)
                .number("mode", dir.mode)
                .flag("makeParents", dir.make_parents)
                .value("owner", owner(&dir.owner))
                .long("timestamp", dir.timestamp)
                .done(),
        ),
        pb::file_action::Action::Rm(rm) => (
            "rm",
            object()
                .text("path", &rm.path)
                .flag("allowNotFound", rm.allow_not_found)
                .flag("allowWildcard", rm.allow_wildcard)
                .done(),
        ),
        pb::file_action::Action::Symlink(link) => (
            "symlink",
            object()
                .text("oldpath", &link.oldpath)
                .text("newpath", &link.newpath)
                .value("owner", owner(&link.owner))
                .long("timestamp", link.timestamp)
                .done(),
        ),
    });
    let indexes =
        [("input", action.input), ("secondaryInput", action.secondary_input), ("output", action.output)];
    let out = indexes.into_iter().fold(object(), |out, (key, index)| match style {
        Style::Canonical => out.long(key, index),
        Style::Numbers => out.value(key, Some(index.into())),
    });
    body_json(out, "Action", body).done()
}

/// Adds the one of several fields that is there; Go's form puts it into an object of its own, be it empty.
fn body_json(out: Object, name: &str, body: Option<(&str, Value)>) -> Object {
    let style = out.style;
    match (style, body) {
        (Style::Canonical, None) => out,
        (Style::Canonical, Some((key, body))) => out.value(key, Some(body)),
        (Style::Numbers, body) => {
            let inner = match body {
                Some((key, body)) => Object::new(style).value(key, Some(body)),
                None => Object::new(style),
            };
            out.value(name, Some(inner.done()))
        }
    }
}

fn metadata_json(metadata: &pb::OpMetadata, style: Style) -> Value {
    let object = || Object::new(style);
    let group = metadata.progress_group.as_ref().map(|group| {
        object().text("id", &group.id).text("name", &group.name).flag("weak", group.weak).done()
    });
    let resources = metadata.linux_resources.as_ref().map(|limits| {
        object()
            .long("memory", limits.memory)
            .long("memorySwap", limits.memory_swap)
            .unsigned("cpuShares", limits.cpu_shares)
            .unsigned("cpuPeriod", limits.cpu_period)
            .long("cpuQuota", limits.cpu_quota)
            .text("cpusetCpus", &limits.cpuset_cpus)
            .text("cpusetMems", &limits.cpuset_mems)
            .done()
    });
    object()
        .flag("ignore_cache", metadata.ignore_cache)
        .map("description", to_values(&metadata.description))
        .value(
            "export_cache",
            metadata.export_cache.map(|export| object().flag("Value", export.value).done()),
        )
        .map("caps", metadata.caps.iter().map(|(name, value)| (name, *value)))
        .value("progress_group", group)
        .value("linux_resources", resources)
        .done()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= chunk.len() {
                out.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Platform, image, scratch};

    #[test]
    fn base64_pads() {
        for (bytes, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
    }

    #[test]
    fn both_forms_name_fields_as_the_contract_does() {
        let state = image("alpine").run(["x"]).mount("/a\"b", scratch()).root().mkfile("/f", 0o644, "hi");
        let definition = state.marshal(Platform::LINUX_AMD64).unwrap();
        let json = definition.ops().nth(2).unwrap().to_json().unwrap();
        assert_eq!(json["file"]["actions"][0]["mkfile"]["timestamp"], "-1");
        let lines = definition.to_json_lines().unwrap();
        let third: Value = serde_json::from_str(lines.lines().nth(2).unwrap()).unwrap();
        assert_eq!(third["Op"]["Op"]["file"]["actions"][0]["Action"]["mkfile"]["timestamp"], -1);
        assert_eq!(third["OpMetadata"]["caps"]["file.base"], true);
        assert_eq!(lines.lines().count(), 4);
    }

    /// As tools that read the lines of `buildctl` find it.
    #[test]
    fn the_lines_have_the_shape_of_those_of_buildctl() {
        let action = crate::FileAction::new()
            .then(crate::MkDir::new("/d", 0o755).owner((0, 7)))
            .then(crate::MkFile::new("/f", 0o644, "hi").owner("u"))
            .symlink("/f", "/l");
        let state = image("alpine").file(action);
        let lines = state.marshal(Platform::LINUX_AMD64).unwrap().to_json_lines().unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let actions = serde_json::json!([
            {"input": 0, "secondaryInput": -1, "output": -1, "Action": {"mkdir": {
                "path": "/d", "mode": 0o755, "timestamp": -1,
                "owner": {"user": {"User": {}}, "group": {"User": {"byId": 7}}}}}},
            {"input": 1, "secondaryInput": -1, "output": -1, "Action": {"mkfile": {
                "path": "/f", "mode": 0o644, "data": "aGk=", "timestamp": -1,
                "owner": {"user": {"User": {"byName": {"name": "u"}}}}}}},
            // `buildctl` leaves links out; here they are where they would be.
            {"input": 2, "secondaryInput": -1, "output": 0, "Action": {"symlink": {
                "oldpath": "/f", "newpath": "/l", "timestamp": -1}}},
        ]);
        assert_eq!(lines[1]["Op"]["Op"]["file"]["actions"], actions);
        // The last one only names the result.
        assert_eq!(lines[2]["Op"], serde_json::json!({"inputs": [{"digest": lines[1]["Digest"]}], "Op": {}}));
    }

    #[test]
    fn dot_quotes_what_people_wrote() {
        let state = image("alpine").run(["echo", "\"hi\""]).mount("/src", image("busybox")).root();
        let dot = state.marshal(Platform::LINUX_AMD64).unwrap().to_dot().unwrap();
        assert!(dot.starts_with("digraph {\n") && dot.ends_with("}\n"));
        assert!(dot.contains("[label=\"echo \\\"hi\\\"\" shape=\"box\"];"), "{dot}");
        assert!(dot.contains("[label=\"/src\"];"), "{dot}");
    }
}
