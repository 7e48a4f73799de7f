//! A whole build graph as JSON, for tools that look at what a Dockerfile turns into.
//!
//! Ops follow the JSON mapping of Protocol Buffers (64-bit integers are texts, fields without a value are
//! left out); metadata and source maps are plain JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit_llb::Definition;
use buildkit_proto::pb;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};

/// The answer to `frontend.convertllb`.
#[derive(Serialize)]
pub(crate) struct Answer {
    def: Map<String, Value>,
    metadata: Map<String, Value>,
    source: Value,
}

/// A source file as results of subrequests write it.
#[derive(Serialize)]
pub(crate) struct SourceInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
}

impl From<&pb::SourceInfo> for SourceInfo {
    fn from(info: &pb::SourceInfo) -> Self {
        Self {
            filename: info.filename.clone(),
            data: STANDARD.encode(&info.data),
            definition: info.definition.as_ref().map(definition_value),
            language: info.language.clone(),
        }
    }
}

/// The JSON of `definition`.
pub(crate) fn definition(definition: &Definition) -> Result<Answer> {
    let broken =
        |e: buildkit_llb::Error| Error::new(ErrorKind::Graph, "the build graph cannot be shown").caused_by(e);
    let mut def = Map::new();
    for op in definition.ops() {
        def.insert(op.digest().to_string(), op_value(&op.message().map_err(broken)?));
    }
    let wire = definition.to_pb();
    Ok(Answer {
        def,
        metadata: wire.metadata.iter().map(|(k, v)| (k.clone(), metadata_value(v))).collect(),
        source: source_value(&wire.source.unwrap_or_default()),
    })
}

/// An object of the members that have a value.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let filled = members.into_iter().filter(|(_, value)| match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_i64() != Some(0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(_) => true,
    });
    Value::Object(filled.map(|(k, v)| (k.to_owned(), v)).collect())
}

/// A 64-bit integer, which JSON cannot hold; nothing for 0.
fn long(n: i64) -> Value {
    if n == 0 { Value::Null } else { n.to_string().into() }
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(value).collect())
}

fn some<T>(item: Option<&T>, value: impl Fn(&T) -> Value) -> Value {
    item.map_or(Value::Null, value)
}

fn texts(map: &BTreeMap<String, String>) -> Value {
    if map.is_empty() { Value::Null } else { json!(map) }
}

fn op_value(op: &pb::Op) -> Value {
    let (kind, value) = match &op.op {
        Some(pb::op::Op::Exec(exec)) => ("exec", exec_value(exec)),
        Some(pb::op::Op::Source(source)) => {
            ("source", object([("identifier", json!(source.identifier)), ("attrs", texts(&source.attrs))]))
        }
        Some(pb::op::Op::File(file)) => ("file", object([("actions", list(&file.actions, action_value))])),
        Some(pb::op::Op::Merge(merge)) => {
            let input = |i: &pb::MergeInput| object([("input", long(i.input))]);
            ("merge", object([("inputs", list(&merge.inputs, input))]))
        }
        // A Dockerfile makes none of the others.
        _ => ("op", Value::Null),
    };
    object([
        ("inputs", list(&op.inputs, |i| object([("digest", json!(i.digest)), ("index", long(i.index))]))),
        (kind, value),
        (
            "platform",
            some(op.platform.as_ref(), |p| {
                object([
                    ("Architecture", json!(p.architecture)),
                    ("OS", json!(p.os)),
                    ("Variant", json!(p.variant)),
                    ("OSVersion", json!(p.os_version)),
                    ("OSFeatures", json!(p.os_features)),
                ])
            }),
        ),
        ("constraints", some(op.constraints.as_ref(), |c| object([("filter", json!(c.filter))]))),
    ])
}

fn exec_value(exec: &pb::ExecOp) -> Value {
    let name = |value: i32, name: &'static str| if value == 0 { Value::Null } else { json!(name) };
    let network = pb::NetMode::try_from(exec.network).map_or("", |n| n.as_str_name());
    let security = pb::SecurityMode::try_from(exec.security).map_or("", |s| s.as_str_name());
    object([
        ("meta", some(exec.meta.as_ref(), meta_value)),
        ("mounts", list(&exec.mounts, mount_value)),
        ("network", name(exec.network, network)),
        ("security", name(exec.security, security)),
        (
            "secretenv",
            list(&exec.secretenv, |s| {
                object([("ID", json!(s.id)), ("name", json!(s.name)), ("optional", json!(s.optional))])
            }),
        ),
        (
            "cdiDevices",
            list(&exec.cdi_devices, |d| object([("name", json!(d.name)), ("optional", json!(d.optional))])),
        ),
    ])
}

fn meta_value(meta: &pb::Meta) -> Value {
    object([
        ("args", json!(meta.args)),
        ("env", json!(meta.env)),
        ("cwd", json!(meta.cwd)),
        ("user", json!(meta.user)),
        (
            "proxyEnv",
            some(meta.proxy_env.as_ref(), |p| {
                object([
                    ("httpProxy", json!(p.http_proxy)),
                    ("httpsProxy", json!(p.https_proxy)),
                    ("ftpProxy", json!(p.ftp_proxy)),
                    ("noProxy", json!(p.no_proxy)),
                    ("allProxy", json!(p.all_proxy)),
                ])
            }),
        ),
        ("extraHosts", list(&meta.extra_hosts, |h| object([("Host", json!(h.host)), ("IP", json!(h.ip))]))),
        ("hostname", json!(meta.hostname)),
        (
            "ulimit",
            list(&meta.ulimit, |u| {
                object([("Name", json!(u.name)), ("Soft", long(u.soft)), ("Hard", long(u.hard))])
            }),
        ),
        ("cgroupParent", json!(meta.cgroup_parent)),
        ("removeMountStubsRecursive", json!(meta.remove_mount_stubs_recursive)),
        ("validExitCodes", json!(meta.valid_exit_codes)),
    ])
}

fn mount_value(mount: &pb::Mount) -> Value {
    let kind = pb::MountType::try_from(mount.mount_type).map_or("", |k| k.as_str_name());
    let cache = |c: &pb::CacheOpt| {
        let sharing = pb::CacheSharingOpt::try_from(c.sharing).map_or("", |s| s.as_str_name());
        object([("ID", json!(c.id)), ("sharing", if c.sharing == 0 { Value::Null } else { json!(sharing) })])
    };
    object([
        ("input", long(mount.input)),
        ("selector", json!(mount.selector)),
        ("dest", json!(mount.dest)),
        ("output", long(mount.output)),
        ("readonly", json!(mount.readonly)),
        ("mountType", if mount.mount_type == 0 { Value::Null } else { json!(kind) }),
        ("TmpfsOpt", some(mount.tmpfs_opt.as_ref(), |t| object([("size", long(t.size))]))),
        ("cacheOpt", some(mount.cache_opt.as_ref(), cache)),
        ("secretOpt", some(mount.secret_opt.as_ref(), |s| file_opt(&s.id, s.uid, s.gid, s.mode, s.optional))),
        ("SSHOpt", some(mount.ssh_opt.as_ref(), |s| file_opt(&s.id, s.uid, s.gid, s.mode, s.optional))),
    ])
}

fn file_opt(id: &str, uid: u32, gid: u32, mode: u32, optional: bool) -> Value {
    object([
        ("ID", json!(id)),
        ("uid", json!(uid)),
        ("gid", json!(gid)),
        ("mode", json!(mode)),
        ("optional", json!(optional)),
    ])
}

fn action_value(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let (kind, value) = match &action.action {
        Some(Action::Copy(copy)) => ("copy", copy_value(copy)),
        Some(Action::Mkfile(file)) => (
            "mkfile",
            object([
                ("path", json!(file.path)),
                ("mode", json!(file.mode)),
                ("data", json!(STANDARD.encode(&file.data))),
                ("owner", some(file.owner.as_ref(), owner_value)),
                ("timestamp", long(file.timestamp)),
            ]),
        ),
        Some(Action::Mkdir(dir)) => (
            "mkdir",
            object([
                ("path", json!(dir.path)),
                ("mode", json!(dir.mode)),
                ("makeParents", json!(dir.make_parents)),
                ("owner", some(dir.owner.as_ref(), owner_value)),
                ("timestamp", long(dir.timestamp)),
            ]),
        ),
        _ => ("action", Value::Null),
    };
    object([
        ("input", long(action.input)),
        ("secondaryInput", long(action.secondary_input)),
        ("output", long(action.output)),
        (kind, value),
    ])
}

fn copy_value(copy: &pb::FileActionCopy) -> Value {
    object([
        ("src", json!(copy.src)),
        ("dest", json!(copy.dest)),
        ("owner", some(copy.owner.as_ref(), owner_value)),
        ("mode", json!(copy.mode)),
        ("followSymlink", json!(copy.follow_symlink)),
        ("dirCopyContents", json!(copy.dir_copy_contents)),
        ("attemptUnpackDockerCompatibility", json!(copy.attempt_unpack_docker_compatibility)),
        ("createDestPath", json!(copy.create_dest_path)),
        ("allowWildcard", json!(copy.allow_wildcard)),
        ("allowEmptyWildcard", json!(copy.allow_empty_wildcard)),
        ("timestamp", long(copy.timestamp)),
        ("includePatterns", json!(copy.include_patterns)),
        ("excludePatterns", json!(copy.exclude_patterns)),
        ("alwaysReplaceExistingDestPaths", json!(copy.always_replace_existing_dest_paths)),
        ("modeStr", json!(copy.mode_str)),
        ("requiredPaths", json!(copy.required_paths)),
    ])
}

fn owner_value(owner: &pb::ChownOpt) -> Value {
    let user = |user: &pb::UserOpt| match &user.user {
        // Zero is a value here.
        Some(pb::user_opt::User::ById(id)) => json!({ "byID": id }),
        Some(pb::user_opt::User::ByName(named)) => {
            json!({ "byName": object([("name", json!(named.name)), ("input", long(named.input))]) })
        }
        None => json!({}),
    };
    object([("user", some(owner.user.as_ref(), user)), ("group", some(owner.group.as_ref(), user))])
}

fn metadata_value(metadata: &pb::OpMetadata) -> Value {
    let caps = if metadata.caps.is_empty() { Value::Null } else { json!(metadata.caps) };
    object([
        ("ignore_cache", json!(metadata.ignore_cache)),
        ("description", texts(&metadata.description)),
        ("export_cache", some(metadata.export_cache.as_ref(), |e| object([("Value", json!(e.value))]))),
        ("caps", caps),
        (
            "progress_group",
            some(metadata.progress_group.as_ref(), |g| {
                object([("id", json!(g.id)), ("name", json!(g.name)), ("weak", json!(g.weak))])
            }),
        ),
        (
            "linux_resources",
            some(metadata.linux_resources.as_ref(), |r| {
                object([
                    ("memory", json!(r.memory)),
                    ("memorySwap", json!(r.memory_swap)),
                    ("cpuShares", json!(r.cpu_shares)),
                    ("cpuPeriod", json!(r.cpu_period)),
                    ("cpuQuota", json!(r.cpu_quota)),
                    ("cpusetCpus", json!(r.cpuset_cpus)),
                    ("cpusetMems", json!(r.cpuset_mems)),
                ])
            }),
        ),
    ])
}

fn source_value(source: &pb::Source) -> Value {
    let location = |l: &pb::Location| {
        object([("sourceIndex", json!(l.source_index)), ("ranges", list(&l.ranges, range_value))])
    };
    let locations: Map<String, Value> = source
        .locations
        .iter()
        .map(|(digest, places)| (digest.clone(), object([("locations", list(&places.locations, location))])))
        .collect();
    let locations = if locations.is_empty() { Value::Null } else { Value::Object(locations) };
    object([("locations", locations), ("infos", list(&source.infos, |info| json!(SourceInfo::from(info))))])
}

fn range_value(range: &pb::Range) -> Value {
    let position = |p: &pb::Position| object([("line", json!(p.line)), ("character", json!(p.character))]);
    object([("start", some(range.start.as_ref(), position)), ("end", some(range.end.as_ref(), position))])
}

fn definition_value(definition: &pb::Definition) -> Value {
    let metadata: Map<String, Value> =
        definition.metadata.iter().map(|(k, v)| (k.clone(), metadata_value(v))).collect();
    let metadata = if metadata.is_empty() { Value::Null } else { Value::Object(metadata) };
    object([
        ("def", list(&definition.def, |bytes| json!(STANDARD.encode(bytes)))),
        ("metadata", metadata),
        ("Source", some(definition.source.as_ref(), source_value)),
    ])
}
