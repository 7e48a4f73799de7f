//! Cases of the Dockerfile frontend.
//!
//! A case holds a Dockerfile, other files, frontend options and image configs. It is built through a gateway
//! that answers as the recorded one did; what the frontend asks for and returns is brought into the form of the
//! case's `expect` and compared field by field. A field that `expect` does not have is not compared.
//!
//! Some cases change the gateway as well: `no_caps` (LLB capabilities it lacks), `inputs` (frontend inputs, each an
//! image), `redirects` (image references that resolve to others), `image_errors` (images that cannot be
//! resolved), `git_object` (the commit of Git sources) and `last_modified` (of HTTP sources, Unix seconds). Files that
//! are no text are in `bytes`, in base64.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit_frontend::{
    Bridge, BuildResult, Caps, Code, Environment, Error, Gateway, Options, Result, Tree, Worker,
};
use buildkit_llb::Platform;
use buildkit_llb::caps::ServerCaps;
use buildkit_proto::{fsutil, gateway, pb, well_known};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Answer, CaseKind, Difference, Verdict, digests};

/// Dockerfiles: `dockerfile`, `files`, `opts` and `images`.
#[derive(Debug, Clone, Copy)]
pub struct Dockerfiles;

impl CaseKind for Dockerfiles {
    fn accepts(&self, case: &Map<String, Value>) -> bool {
        case.contains_key("opts")
    }

    fn answer(&self, case: Map<String, Value>) -> Answer {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Answer::broken(error.to_string()),
        };
        let detail = runtime.block_on(run(&Value::Object(case)));
        let solves = detail.get("solves").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let all: std::collections::BTreeSet<String> = solves.iter().flat_map(digests).collect();
        Answer {
            head: solves.last().map(|solve| text(solve, "head")).unwrap_or_default(),
            digests: all.into_iter().collect(),
            error: detail.get("error").and_then(Value::as_str).map(str::to_owned),
            detail,
            broken: None,
        }
    }

    fn compare(&self, answer: &Answer, expect: &Value) -> Vec<Difference> {
        let differences = compare(expect, &answer.detail);
        differences.into_iter().map(|what| Difference::new(what, "as recorded", "something else")).collect()
    }
}

/// Runs one case and compares.
pub async fn check(case: &Value) -> Verdict {
    let got = run(case).await;
    Verdict { name: text(case, "name"), differences: compare(&case["expect"], &got) }
}

/// Runs one case. The answer has the form of `expect`, without the ops of vertices.
pub async fn run(case: &Value) -> Value {
    let bridge = Arc::new(Recorded::new(case));
    let outcome =
        buildkit_dockerfile::build(Gateway::from_bridge(Arc::clone(&bridge) as Arc<dyn Bridge>)).await;
    let record = bridge.record.lock().unwrap_or_else(PoisonError::into_inner);
    let mut got = Map::new();
    match outcome {
        Ok(result) => describe_result(&result, &record, &mut got),
        Err(error) => describe_error(&error, &mut got),
    }
    got.insert("warnings".into(), record.warnings.clone().into());
    got.insert("solves".into(), record.solves.clone().into());
    Value::Object(got)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn ranges(ranges: &[pb::Range]) -> Value {
    let position = |p: &Option<pb::Position>| p.map_or((0, 0), |p| (p.line, p.character));
    ranges
        .iter()
        .map(|r| {
            let ((a, b), (c, d)) = (position(&r.start), position(&r.end));
            json!([a, b, c, d])
        })
        .collect()
}

fn describe_error(error: &Error, got: &mut Map<String, Value>) {
    got.insert("error".into(), error.report().into());
    let sources: Vec<Value> = error
        .locations()
        .iter()
        .rev()
        .map(|place| {
            let file = place.info.as_ref().map_or("", |i| &i.filename);
            json!({"file": file, "ranges": ranges(&place.ranges)})
        })
        .collect();
    if !sources.is_empty() {
        got.insert("error_sources".into(), sources.into());
    }
}

fn describe_result(result: &BuildResult, record: &Record, got: &mut Map<String, Value>) {
    let hashes: Map<String, Value> =
        result.metadata.iter().map(|(k, v)| (k.clone(), sha256(v).into())).collect();
    let contents: Map<String, Value> = result
        .metadata
        .iter()
        .map(|(k, v)| {
            let value = serde_json::from_slice(v).unwrap_or_else(|_| String::from_utf8_lossy(v).into());
            (k.clone(), value)
        })
        .collect();
    got.insert("metadata_sha256".into(), hashes.into());
    got.insert("metadata".into(), contents.into());
    if result.is_multi_platform() {
        let refs: Map<String, Value> = result
            .references()
            .into_iter()
            .map(|(id, reference)| {
                let head =
                    reference.and_then(|r| r.id().parse::<usize>().ok()).and_then(|n| record.heads.get(n));
                (id.to_owned(), head.cloned().unwrap_or_default().into())
            })
            .collect();
        got.insert("refs".into(), refs.into());
    }
    if !result.attestations.is_empty() {
        let head = |reference: &buildkit_frontend::Reference| {
            reference
                .id()
                .parse::<usize>()
                .ok()
                .and_then(|n| record.heads.get(n))
                .cloned()
                .unwrap_or_default()
        };
        let attestations: Map<String, Value> = result
            .attestations
            .iter()
            .map(|(id, list)| {
                let list = list.iter().map(|a| {
                    let metadata: Map<String, Value> = a
                        .metadata
                        .iter()
                        .map(|(k, v)| (k.clone(), String::from_utf8_lossy(v).into_owned().into()))
                        .collect();
                    json!({
                        "kind": format!("{:?}", a.kind),
                        "path": a.path,
                        "predicate": a.bundle_predicate_type,
                        "metadata": metadata,
                        "ref": a.reference.as_ref().map(head),
                    })
                });
                (id.clone(), list.collect())
            })
            .collect();
        got.insert("attestations".into(), attestations.into());
    }
}

/// The gateway the cases were recorded against.
#[derive(Debug)]
struct Recorded {
    environment: Environment,
    files: BTreeMap<String, Bytes>,
    /// The case, for what it says of images and sources.
    case: Value,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    solves: Vec<Value>,
    /// Root of each solve, by reference id.
    heads: Vec<String>,
    warnings: Vec<Value>,
}

impl Recorded {
    fn new(case: &Value) -> Self {
        let mut files: BTreeMap<String, Bytes> = BTreeMap::new();
        for (name, content) in case["files"].as_object().into_iter().flatten() {
            files.insert(name.clone(), Bytes::from(content.as_str().unwrap_or_default().to_owned()));
        }
        if let Some(dockerfile) = case["dockerfile"].as_str() {
            files.insert("Dockerfile".into(), Bytes::from(dockerfile.to_owned()));
        }
        for (name, content) in case["bytes"].as_object().into_iter().flatten() {
            let content = STANDARD.decode(content.as_str().unwrap_or_default()).unwrap_or_default();
            files.insert(name.clone(), Bytes::from(content));
        }
        let options: Options = case["opts"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect();
        let mut llb_caps = ServerCaps::all();
        for cap in case["no_caps"].as_array().into_iter().flatten() {
            llb_caps.remove(cap.as_str().unwrap_or_default());
        }
        let environment = Environment {
            options,
            session_id: "sess".into(),
            workers: vec![Worker { platforms: vec![Platform::LINUX_AMD64], ..Worker::default() }],
            caps: Caps::current_gateway(),
            llb_caps,
            ..Environment::default()
        };
        Self { environment, files, case: case.clone(), record: Mutex::default() }
    }

    fn config(&self, reference: &str, platform: Option<&pb::Platform>) -> Vec<u8> {
        if let Some(config) = self.case["images"].get(reference) {
            return config
                .as_str()
                .map_or_else(|| config.to_string().into_bytes(), |s| s.as_bytes().to_vec());
        }
        let (os, architecture, variant) =
            platform.map_or(("linux", "amd64", ""), |p| (&*p.os, &*p.architecture, &*p.variant));
        let mut config = json!({
            "architecture": architecture,
            "os": os,
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]},
        });
        if !variant.is_empty() {
            config["variant"] = variant.into();
        }
        config.to_string().into_bytes()
    }
}

#[async_trait]
impl Bridge for Recorded {
    fn environment(&self) -> &Environment {
        &self.environment
    }

    async fn resolve_source(
        &self,
        request: gateway::ResolveSourceMetaRequest,
    ) -> Result<gateway::ResolveSourceMetaResponse> {
        let source = request.source.unwrap_or_default();
        let id = source.identifier.clone();
        let mut response = gateway::ResolveSourceMetaResponse { source: Some(source), ..Default::default() };
        if let Some(reference) =
            id.strip_prefix("docker-image://").or_else(|| id.strip_prefix("oci-layout://"))
        {
            if let Some(why) = self.case["image_errors"].get(reference) {
                return Err(Error::with_code(Code::NotFound, why.as_str().unwrap_or_default().to_owned()));
            }
            if let Some(to) = self.case["redirects"].get(reference).and_then(Value::as_str)
                && let Some(source) = &mut response.source
            {
                source.identifier = format!("docker-image://{to}");
            }
            response.image = Some(gateway::ResolveSourceImageResponse {
                digest: format!("sha256:{}", sha256(reference)),
                config: self.config(reference, request.platform.as_ref()).into(),
                ..Default::default()
            });
        } else if id.starts_with("git://") {
            response.git = Some(gateway::ResolveSourceGitResponse {
                checksum: "ab".repeat(20),
                r#ref: "refs/heads/main".into(),
                commit_object: text(&self.case, "git_object").into(),
                ..Default::default()
            });
        } else if id.starts_with("local://") {
            return Err(Error::with_code(Code::Unimplemented, format!("unsupported source {id}")));
        } else {
            response.http = Some(gateway::ResolveSourceHttpResponse {
                checksum: format!("sha256:{}", sha256(&id)),
                last_modified: Some(well_known::Timestamp {
                    seconds: self.case["last_modified"].as_i64().unwrap_or(1_700_000_000),
                    nanos: 0,
                }),
                ..Default::default()
            });
        }
        Ok(response)
    }

    async fn solve(&self, request: gateway::SolveRequest) -> Result<gateway::Result> {
        let mut solve = Map::new();
        let mut head = String::new();
        if request.frontend.is_empty() {
            let definition = request.definition.unwrap_or_default();
            let vertices: Vec<Value> = definition
                .def
                .iter()
                .map(|bytes| {
                    let digest = format!("sha256:{}", sha256(bytes));
                    let mut vertex = Map::from_iter([("digest".to_owned(), json!(digest))]);
                    vertex.insert(
                        "meta".into(),
                        definition.metadata.get(&digest).map_or(Value::Null, metadata),
                    );
                    head = digest;
                    Value::Object(vertex)
                })
                .collect();
            solve.insert("head".into(), head.clone().into());
            solve.insert("vertices".into(), vertices.into());
        } else {
            solve.insert("frontend".into(), request.frontend.clone().into());
            solve.insert("frontend_opt".into(), json!(request.frontend_opt));
        }
        if request.evaluate {
            solve.insert("evaluate".into(), true.into());
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.solves.push(solve.into());
        let id = record.heads.len().to_string();
        record.heads.push(head);
        Ok(gateway::Result {
            result: Some(gateway::result::Result::Ref(gateway::Ref { id, def: None })),
            ..gateway::Result::default()
        })
    }

    async fn evaluate(&self, _reference: &str) -> Result<()> {
        Ok(())
    }

    async fn read_file(&self, _: Tree<'_>, path: &str, range: Option<gateway::FileRange>) -> Result<Bytes> {
        let Some(content) = self.files.get(path) else {
            let message = format!("open {path}: no such file or directory");
            return Err(Error::with_code(Code::NotFound, message));
        };
        let Some(range) = range else { return Ok(content.clone()) };
        let start = usize::try_from(range.offset).unwrap_or(0).min(content.len());
        let end = start.saturating_add(usize::try_from(range.length).unwrap_or(0)).min(content.len());
        Ok(content.slice(start..end))
    }

    async fn read_dir(&self, _: Tree<'_>, path: &str, _: &str) -> Result<Vec<fsutil::Stat>> {
        Err(Error::with_code(Code::Unimplemented, format!("{path}: directories cannot be read here")))
    }

    async fn stat_file(&self, _: Tree<'_>, path: &str) -> Result<fsutil::Stat> {
        Err(Error::with_code(Code::Unimplemented, format!("{path}: files cannot be looked at here")))
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>> {
        let inputs = self.case["inputs"].as_object().into_iter().flatten();
        inputs
            .map(|(name, image)| {
                let tree = buildkit_llb::image(image.as_str().unwrap_or_default());
                let definition =
                    tree.marshal(Platform::LINUX_AMD64).map_err(|e| Error::new(e.to_string()))?;
                Ok((name.clone(), definition.to_pb()))
            })
            .collect()
    }

    async fn warn(&self, request: gateway::WarnRequest) -> Result<()> {
        let short = String::from_utf8_lossy(&request.short).into_owned();
        let (rule, message) = short.split_once(": ").unwrap_or(("", &short));
        let warning =
            json!({"rule": rule, "message": message, "url": request.url, "ranges": ranges(&request.ranges)});
        self.record.lock().unwrap_or_else(PoisonError::into_inner).warnings.push(warning);
        Ok(())
    }
}

/// Metadata of an op, values that are not set left out.
fn metadata(meta: &pb::OpMetadata) -> Value {
    let mut out = Map::new();
    if meta.ignore_cache {
        out.insert("ignore_cache".into(), true.into());
    }
    if !meta.description.is_empty() {
        out.insert("description".into(), json!(meta.description));
    }
    if let Some(export) = &meta.export_cache {
        out.insert("export_cache".into(), if export.value { json!({"Value": true}) } else { json!({}) });
    }
    if !meta.caps.is_empty() {
        out.insert("caps".into(), json!(meta.caps));
    }
    if let Some(group) = &meta.progress_group {
        let mut value = Map::from_iter([("name".to_owned(), json!(group.name))]);
        if group.weak {
            value.insert("weak".into(), true.into());
        }
        out.insert("progress_group".into(), value.into());
    }
    if let Some(resources) = &meta.linux_resources {
        out.insert("linux_resources".into(), resource_limits(resources));
    }
    out.into()
}

/// 64-bit integers are texts in the JSON of Protocol Buffers.
fn resource_limits(limits: &pb::LinuxResources) -> Value {
    let mut out = Map::new();
    let numbers = [
        ("memory", limits.memory.to_string()),
        ("memorySwap", limits.memory_swap.to_string()),
        ("cpuShares", limits.cpu_shares.to_string()),
        ("cpuPeriod", limits.cpu_period.to_string()),
        ("cpuQuota", limits.cpu_quota.to_string()),
    ];
    for (name, value) in numbers {
        if value != "0" {
            out.insert(name.into(), value.into());
        }
    }
    for (name, set) in [("cpusetCpus", &limits.cpuset_cpus), ("cpusetMems", &limits.cpuset_mems)] {
        if !set.is_empty() {
            out.insert(name.into(), json!(set));
        }
    }
    out.into()
}

/// What differs between a recorded answer and ours.
fn compare(expect: &Value, got: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if expect["error"].is_null() != got["error"].is_null() {
        out.push(format!("error: expected {}, got {}", expect["error"], got["error"]));
    }
    if !expect["error"].is_null() && expect["error_sources"] != got["error_sources"] {
        out.push(format!(
            "error_sources: expected {}, got {}",
            expect["error_sources"], got["error_sources"]
        ));
    }
    compare_warnings(expect, got, &mut out);
    compare_solves(&expect["solves"], &got["solves"], &mut out);
    compare_metadata(expect, got, &mut out);
    if !expect["refs"].is_null() {
        compare_refs(expect, got, &mut out);
    }
    if !expect["attestations"].is_null() && expect["attestations"] != got["attestations"] {
        out.push(format!("attestations: expected {}, got {}", expect["attestations"], got["attestations"]));
    }
    out
}

fn compare_warnings(expect: &Value, got: &Value, out: &mut Vec<String>) {
    let list = |value: &Value| {
        let mut list: Vec<String> = value
            .as_array()
            .into_iter()
            .flatten()
            .map(|w| format!("{} {} {}", w["rule"], w["url"].as_str().unwrap_or_default(), w["ranges"]))
            .collect();
        list.sort();
        list
    };
    let (want, have) = (list(&expect["warnings"]), list(&got["warnings"]));
    if want != have {
        out.push(format!("warnings: expected {want:?}, got {have:?}"));
    }
}

/// A solve in a form in which equal solves are equal texts.
fn normal_solve(solve: &Value, with_meta: bool) -> String {
    let mut vertices: BTreeSet<String> = BTreeSet::new();
    for vertex in solve["vertices"].as_array().into_iter().flatten() {
        let mut meta = vertex["meta"].clone();
        if let Some(group) = meta["progress_group"].as_object_mut() {
            group.remove("id");
        }
        let meta = if with_meta && !vertex["meta"].is_null() { meta.to_string() } else { String::new() };
        vertices
            .insert(format!("{} {meta}", vertex["digest"].as_str().or(vertex.as_str()).unwrap_or_default()));
    }
    let head = solve["head"].as_str().unwrap_or_default();
    format!(
        "head {head} evaluate {} frontend {} {}\n{}",
        solve["evaluate"] == json!(true),
        solve["frontend"],
        solve["frontend_opt"],
        vertices.into_iter().collect::<Vec<_>>().join("\n")
    )
}

fn compare_solves(expect: &Value, got: &Value, out: &mut Vec<String>) {
    let Some(expected) = expect.as_array() else { return };
    let with_meta = expected
        .iter()
        .any(|s| s["vertices"].as_array().is_some_and(|v| v.iter().any(|v| !v["meta"].is_null())));
    let list = |solves: &[Value]| {
        let mut list: Vec<String> = solves.iter().map(|s| normal_solve(s, with_meta)).collect();
        list.sort();
        list
    };
    let (want, have) = (list(expected), list(got.as_array().map_or(&[], Vec::as_slice)));
    let missing: Vec<&String> = want.iter().filter(|s| !have.contains(s)).collect();
    let extra: Vec<&String> = have.iter().filter(|s| !want.contains(s)).collect();
    if want != have {
        // Of solves that differ, only the lines that do.
        let lines = |list: &[&String]| -> BTreeSet<String> {
            list.iter().flat_map(|s| s.lines()).map(str::to_owned).collect()
        };
        let (missing, extra) = (lines(&missing), lines(&extra));
        let join = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
            a.difference(b).map(String::as_str).collect::<Vec<_>>().join("\n    ")
        };
        let (count, ours) = (want.len(), have.len());
        let (missing, extra) = (join(&missing, &extra), join(&extra, &missing));
        out.push(format!("solves ({count}, ours {ours}): missing\n    {missing}\n  extra\n    {extra}"));
    }
}

fn is_compared_by_hash(key: &str) -> bool {
    let name = key.split('/').next().unwrap_or(key);
    matches!(
        name,
        "containerimage.config"
            | "containerimage.base.config"
            | "refs.platforms"
            | "source.date.epoch"
            | "result.statuscode"
    )
}

fn compare_metadata(expect: &Value, got: &Value, out: &mut Vec<String>) {
    if let Some(hashes) = expect["metadata_sha256"].as_object() {
        for (key, hash) in hashes.iter().filter(|(k, _)| is_compared_by_hash(k)) {
            if got["metadata_sha256"][key] != *hash {
                let (want, have) = (&expect["metadata"][key], &got["metadata"][key]);
                out.push(format!("{key}: expected {want}, got {have}"));
            }
        }
        for key in got["metadata_sha256"].as_object().into_iter().flat_map(|m| m.keys()) {
            if is_compared_by_hash(key) && !hashes.contains_key(key) {
                out.push(format!("{key}: not expected"));
            }
        }
    }
    let want = &expect["metadata"]["result.json"];
    if want.is_null() {
        return;
    }
    let (mut want, mut have) = (want.clone(), got["metadata"]["result.json"].clone());
    if want["def"].is_null() {
        strip_texts(&mut want);
        strip_texts(&mut have);
    } else {
        strip_group_ids(&mut want);
        strip_group_ids(&mut have);
    }
    if want != have {
        out.push(format!("result.json: expected {want}, got {have}"));
    }
}

/// Removes the ids of progress groups, which the reference draws at random.
pub(crate) fn strip_group_ids(result: &mut Value) {
    for metadata in result["metadata"].as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
        if let Some(group) = metadata["progress_group"].as_object_mut() {
            group.remove("id");
        }
    }
}

/// Removes the members whose wording is ours.
pub(crate) fn strip_texts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["description", "detail", "message"] {
                map.remove(key);
            }
            map.values_mut().for_each(strip_texts);
        }
        Value::Array(list) => list.iter_mut().for_each(strip_texts),
        _ => {}
    }
}

fn compare_refs(expect: &Value, got: &Value, out: &mut Vec<String>) {
    let keys = |value: &Value| -> BTreeSet<String> {
        match &value["refs"] {
            Value::Object(map) => map.keys().cloned().collect(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => BTreeSet::new(),
        }
    };
    let (want, have) = (keys(expect), keys(got));
    if want != have {
        out.push(format!("refs: expected {}, got {}", expect["refs"], got["refs"]));
    }
    if let (Value::Object(want), Value::Object(have)) = (&expect["refs"], &got["refs"]) {
        for (id, head) in want {
            if head.as_str().is_some_and(|h| h.starts_with("sha256:")) && have.get(id) != Some(head) {
                out.push(format!("refs: {id} is {:?}, expected {head}", have.get(id)));
            }
        }
    }
}
