//! The OCI image configuration with Docker's extensions, read and written as BuildKit does.

use std::collections::BTreeMap;

use buildkit_llb::Platform;
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

use super::go_json;
use super::timestamp::Timestamp;

/// An image configuration. Serialises to the very bytes BuildKit writes: field order, omitted empty
/// values, sorted maps and escapes included.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImageConfig {
    /// When the image was built. Never inherited from a base image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who maintains the image (the deprecated `MAINTAINER`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// CPU architecture, such as `amd64`. Always written.
    pub architecture: String,
    /// Operating system, such as `linux`. Always written.
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system (Windows).
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the CPU, such as `v7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The layers.
    pub rootfs: RootFs,
    /// One entry per instruction.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// What a container started from the image runs with.
    pub config: ContainerConfig,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers; `None` is written as `null` (not known before the export).
    pub diff_ids: Option<Vec<String>>,
}

/// One entry of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// When the step was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The instruction.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who built the step.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step made no layer.
    #[serde(skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// What a container started from an image runs with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User (and group) of the process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports the process listens on, such as `80/tcp`.
    #[serde(skip_serializing_if = "Set::is_empty")]
    pub exposed_ports: Set,
    /// Environment as `KEY=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program, before `cmd`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Default arguments, or the program where there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Paths that get a volume of their own.
    #[serde(skip_serializing_if = "Set::is_empty")]
    pub volumes: Set,
    /// Working directory of the process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels of the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops the process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// The command is already escaped (Windows); set by `CMD`.
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// How to tell whether the process is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for the Dockerfiles that build upon this image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Shell of the shell form of `RUN`, `CMD` and `ENTRYPOINT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

/// A health check. Durations are nanoseconds; 0 means the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a check failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time the container may take to start.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks while the container starts.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// What an instruction adds to the layers of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// Nothing.
    Empty,
    /// A layer made by a step that BuildKit signs.
    FromStep,
    /// A layer, without a signature in the text.
    Plain,
}

/// `PATH` of processes in images that do not set it.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A set of names, written as a JSON object with empty objects for values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(pub std::collections::BTreeSet<String>);

impl Set {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Set {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for name in &self.0 {
            map.serialize_entry(name, &Empty {})?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Empty {}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_false(b: &bool) -> bool {
    !b
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Why an image configuration could not be read.
#[derive(Debug)]
pub enum ConfigError {
    /// Not JSON at all.
    Json(serde_json::Error),
    /// A member has another type than it should.
    Member {
        /// Name of the member.
        name: &'static str,
        /// What it should hold.
        want: &'static str,
    },
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(_) => f.write_str("the image config is not JSON"),
            Self::Member { name, want } => write!(f, "member {name:?} of the image config is not {want}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(e) => Some(e),
            Self::Member { .. } => None,
        }
    }
}

impl ImageConfig {
    /// Reads the JSON of an image config. Member names match without regard to case, `null` counts as
    /// absent and unknown members are dropped, as in BuildKit.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        let mut image = Self::default();
        for (key, value) in members("image", &value)? {
            match fold(key).as_str() {
                "created" => image.created = timestamp("created", value)?,
                "author" => image.author = string("author", value)?,
                "architecture" => image.architecture = string("architecture", value)?,
                "os" => image.os = string("os", value)?,
                "os.version" => image.os_version = string("os.version", value)?,
                "os.features" => image.os_features = strings("os.features", value)?,
                "variant" => image.variant = string("variant", value)?,
                "rootfs" => image.rootfs = rootfs(value)?,
                "history" => {
                    image.history = array("history", value)?.iter().map(history).collect::<Result<_, _>>()?;
                }
                "config" => image.config = container(value)?,
                _ => {}
            }
        }
        Ok(image)
    }

    /// The config of an empty file system for `platform`.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut image = Self::default();
        image.set_platform(platform.clone());
        "layers".clone_into(&mut image.rootfs.kind);
        "/".clone_into(&mut image.config.working_dir);
        if platform.os != "windows" {
            image.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        }
        image
    }

    /// The platform the config names.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone().into(),
            architecture: self.architecture.clone().into(),
            variant: self.variant.clone().into(),
            os_version: self.os_version.clone().into(),
            os_features: self.os_features.clone(),
        }
    }

    /// Replaces all of the platform.
    pub(crate) fn set_platform(&mut self, platform: Platform) {
        self.os = platform.os.into_owned();
        self.architecture = platform.architecture.into_owned();
        self.variant = platform.variant.into_owned();
        self.os_version = platform.os_version.into_owned();
        self.os_features = platform.os_features;
    }

    /// Whether the image has no layer at all, as far as the config tells.
    pub(crate) fn has_no_layers(&self) -> bool {
        self.rootfs.diff_ids.as_ref().is_none_or(Vec::is_empty) && self.history.iter().all(|h| h.empty_layer)
    }

    /// Sets a variable in the place it has, or at the end.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let line = format!("{name}={value}");
        let slot =
            self.config.env.iter_mut().find(|l| l.split_once('=').map_or(l.as_str(), |(k, _)| k) == name);
        match slot {
            Some(slot) => *slot = line,
            None => self.config.env.push(line),
        }
    }

    /// Adds an entry to the history, as BuildKit words them.
    pub(crate) fn commit(&mut self, mut created_by: String, layer: Layer, created: Option<Timestamp>) {
        if layer == Layer::FromStep {
            created_by.push_str(" # buildkit");
        }
        self.history.push(History {
            created,
            created_by,
            author: String::new(),
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer: layer == Layer::Empty,
        });
    }

    /// Roughly the memory a copy of the config takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let history: usize = self.history.iter().map(|h| 96 + h.created_by.len()).sum();
        let env: usize = self.config.env.iter().map(|e| 24 + e.len()).sum();
        let labels: usize = self.config.labels.iter().map(|(k, v)| 64 + k.len() + v.len()).sum();
        let sets = (self.config.exposed_ports.0.len() + self.config.volumes.0.len()) * 64;
        512 + history + env + labels + sets
    }

    /// The bytes of the config as BuildKit writes them.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, integers and string-keyed maps: nothing here can fail to serialise.
        go_json::to_vec(self).unwrap_or_default()
    }
}

fn fold(key: &str) -> String {
    key.to_ascii_lowercase()
}

type Member<'a> = (&'a String, &'a Value);
type Flat<'a> = std::iter::Flatten<std::option::IntoIter<&'a serde_json::Map<String, Value>>>;
type Members<'a> = std::iter::Filter<Flat<'a>, fn(&Member<'a>) -> bool>;

/// The members of an object that are not `null`; none of `null` itself.
fn members<'a>(name: &'static str, value: &'a Value) -> Result<Members<'a>, ConfigError> {
    let map = match value {
        Value::Object(map) => Some(map),
        Value::Null => None,
        _ => return Err(ConfigError::Member { name, want: "an object" }),
    };
    Ok(map.into_iter().flatten().filter(|(_, v)| !v.is_null()))
}

fn array<'a>(name: &'static str, value: &'a Value) -> Result<&'a [Value], ConfigError> {
    value.as_array().map(Vec::as_slice).ok_or(ConfigError::Member { name, want: "an array" })
}

fn string(name: &'static str, value: &Value) -> Result<String, ConfigError> {
    value.as_str().map(str::to_owned).ok_or(ConfigError::Member { name, want: "a string" })
}

fn strings(name: &'static str, value: &Value) -> Result<Vec<String>, ConfigError> {
    array(name, value)?
        .iter()
        .map(|v| if v.is_null() { Ok(String::new()) } else { string(name, v) })
        .collect()
}

fn integer(name: &'static str, value: &Value) -> Result<i64, ConfigError> {
    value.as_i64().ok_or(ConfigError::Member { name, want: "an integer" })
}

fn boolean(name: &'static str, value: &Value) -> Result<bool, ConfigError> {
    value.as_bool().ok_or(ConfigError::Member { name, want: "a boolean" })
}

fn timestamp(name: &'static str, value: &Value) -> Result<Option<Timestamp>, ConfigError> {
    let text = value.as_str().ok_or(ConfigError::Member { name, want: "a time" })?;
    Timestamp::parse(text).map(Some).ok_or(ConfigError::Member { name, want: "an RFC 3339 time" })
}

fn set(name: &'static str, value: &Value) -> Result<Set, ConfigError> {
    match value {
        Value::Object(map) => Ok(Set(map.keys().cloned().collect())),
        _ => Err(ConfigError::Member { name, want: "an object" }),
    }
}

fn rootfs(value: &Value) -> Result<RootFs, ConfigError> {
    let mut rootfs = RootFs::default();
    for (key, value) in members("rootfs", value)? {
        match fold(key).as_str() {
            "type" => rootfs.kind = string("rootfs.type", value)?,
            "diff_ids" => rootfs.diff_ids = Some(strings("rootfs.diff_ids", value)?),
            _ => {}
        }
    }
    Ok(rootfs)
}

fn history(value: &Value) -> Result<History, ConfigError> {
    let mut entry = History::default();
    for (key, value) in members("history", value)? {
        match fold(key).as_str() {
            "created" => entry.created = timestamp("history.created", value)?,
            "created_by" => entry.created_by = string("history.created_by", value)?,
            "author" => entry.author = string("history.author", value)?,
            "comment" => entry.comment = string("history.comment", value)?,
            "empty_layer" => entry.empty_layer = boolean("history.empty_layer", value)?,
            _ => {}
        }
    }
    Ok(entry)
}

fn container(value: &Value) -> Result<ContainerConfig, ConfigError> {
    let mut config = ContainerConfig::default();
    for (key, value) in members("config", value)? {
        match fold(key).as_str() {
            "user" => config.user = string("config.User", value)?,
            "exposedports" => config.exposed_ports = set("config.ExposedPorts", value)?,
            "env" => config.env = strings("config.Env", value)?,
            "entrypoint" => config.entrypoint = strings("config.Entrypoint", value)?,
            "cmd" => config.cmd = strings("config.Cmd", value)?,
            "volumes" => config.volumes = set("config.Volumes", value)?,
            "workingdir" => config.working_dir = string("config.WorkingDir", value)?,
            "labels" => {
                for (key, value) in members("config.Labels", value)? {
                    config.labels.insert(key.clone(), string("config.Labels", value)?);
                }
            }
            "stopsignal" => config.stop_signal = string("config.StopSignal", value)?,
            "argsescaped" => config.args_escaped = boolean("config.ArgsEscaped", value)?,
            "healthcheck" => config.healthcheck = Some(healthcheck(value)?),
            "onbuild" => config.on_build = strings("config.OnBuild", value)?,
            "shell" => config.shell = strings("config.Shell", value)?,
            _ => {}
        }
    }
    Ok(config)
}

fn healthcheck(value: &Value) -> Result<Healthcheck, ConfigError> {
    let mut check = Healthcheck::default();
    for (key, value) in members("config.Healthcheck", value)? {
        match fold(key).as_str() {
            "test" => check.test = strings("Healthcheck.Test", value)?,
            "interval" => check.interval = integer("Healthcheck.Interval", value)?,
            "timeout" => check.timeout = integer("Healthcheck.Timeout", value)?,
            "startperiod" => check.start_period = integer("Healthcheck.StartPeriod", value)?,
            "startinterval" => check.start_interval = integer("Healthcheck.StartInterval", value)?,
            "retries" => check.retries = integer("Healthcheck.Retries", value)?,
            _ => {}
        }
    }
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: &str) -> String {
        String::from_utf8(ImageConfig::from_json(json.as_bytes()).unwrap().to_json()).unwrap()
    }

    #[test]
    fn members_are_written_in_the_order_of_the_reference() {
        let json = r#"{"config":{"Shell":["s"],"Healthcheck":{"Test":["NONE"],"Retries":2},"StopSignal":"9",
            "Labels":{"b":"1","a":"2"},"WorkingDir":"/w","Volumes":{"/b":{},"/a":{}},"Cmd":["c"],
            "Entrypoint":["e"],"Env":["PATH=/p"],"ExposedPorts":{"2/tcp":{},"1/tcp":{}},"User":"u",
            "ArgsEscaped":true,"Hostname":"h","Image":"x"},"author":"me","variant":"v2","os.version":"1",
            "os.features":["z","a"],"os":"linux","architecture":"amd64","created":"2020-01-01T00:00:00.5Z",
            "history":[{"created":"2020-01-01T00:00:00Z","author":"q","comment":"cm","created_by":"cb",
            "empty_layer":true}],"docker_version":"1","rootfs":{"type":"layers","diff_ids":["sha256:00"]}}"#;
        let want = concat!(
            r#"{"created":"2020-01-01T00:00:00.5Z","author":"me","architecture":"amd64","os":"linux","#,
            r#""os.version":"1","os.features":["z","a"],"variant":"v2","#,
            r#""rootfs":{"type":"layers","diff_ids":["sha256:00"]},"#,
            r#""history":[{"created":"2020-01-01T00:00:00Z","created_by":"cb","author":"q","comment":"cm","#,
            r#""empty_layer":true}],"config":{"User":"u","ExposedPorts":{"1/tcp":{},"2/tcp":{}},"#,
            r#""Env":["PATH=/p"],"Entrypoint":["e"],"Cmd":["c"],"Volumes":{"/a":{},"/b":{}},"WorkingDir":"/w","#,
            r#""Labels":{"a":"2","b":"1"},"StopSignal":"9","ArgsEscaped":true,"#,
            r#""Healthcheck":{"Test":["NONE"],"Retries":2},"Shell":["s"]}}"#
        );
        assert_eq!(round_trip(json), want);
    }

    #[test]
    fn required_members_are_always_written() {
        assert_eq!(
            round_trip("{}"),
            r#"{"architecture":"","os":"","rootfs":{"type":"","diff_ids":null},"config":{}}"#
        );
        assert_eq!(
            round_trip(r#"{"rootfs":{"diff_ids":[]},"config":null}"#),
            r#"{"architecture":"","os":"","rootfs":{"type":"","diff_ids":[]},"config":{}}"#
        );
    }

    #[test]
    fn wrong_types_are_errors_that_name_the_member() {
        for json in ["", "[]", r#"{"os":1}"#, r#"{"config":{"Env":"A=b"}}"#, r#"{"created":"yesterday"}"#] {
            assert!(ImageConfig::from_json(json.as_bytes()).is_err(), "{json}");
        }
        let e = ImageConfig::from_json(br#"{"config":{"Env":"A=b"}}"#).unwrap_err();
        assert_eq!(e.to_string(), r#"member "config.Env" of the image config is not an array"#);
    }
}
