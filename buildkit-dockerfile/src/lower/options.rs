//! The options of a Dockerfile build: what `docker build --build-arg … --platform …` turns into.

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use buildkit_llb::ResolveMode;
use buildkit_llb::reference::Reference;
use buildkit_llb::{LinuxResources, Network, Platform, Ulimit};

use crate::error::{Error, ErrorKind, Result};
use crate::instructions::{csv, parse_bool};
use crate::lint::Config;

use super::go_text::lowercase;

/// Options of a conversion, with the meaning they have for BuildKit's own Dockerfile frontend.
///
/// Made by hand for use as a library, or from the string options of a solve request with
/// [`Options::from_frontend`].
///
/// # Defaults
///
/// Everything is empty: the last stage is the target, the platform is that of the first worker (for a
/// conversion without a daemon: of [`build_platform`](Self::build_platform), else `linux` on the
/// architecture of this machine), the build context is the local directory `context`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Stage to build; empty for the last one.
    pub target: String,
    /// Which instructions and flags are allowed.
    pub channel: Channel,
    /// Values of `ARG`s, by name.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image; they win over the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// Platforms to build for. [`Dockerfile::to_llb`](crate::Dockerfile::to_llb) uses the first.
    pub platforms: Vec<Platform>,
    /// Platform of the machine that runs the build.
    pub build_platform: Option<Platform>,
    /// Whether results carry a platform id even for one platform. `None` = only for several.
    pub multi_platform: Option<bool>,
    /// Named contexts: `alpine` or `alpine::linux/amd64` → `docker-image://…`, `local:…`, a Git URL, ….
    pub contexts: BTreeMap<String, String>,
    /// Stages built without cache.
    pub no_cache: NoCache,
    /// How image references are resolved.
    pub resolve_mode: ResolveMode,
    /// Lines for `/etc/hosts` of every process.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Size of `/dev/shm` in bytes; 0 for the daemon's default.
    pub shm_size: i64,
    /// Resource limits of every process (`ulimit`).
    pub ulimits: Vec<Ulimit>,
    /// Resources of the machine that processes may use.
    pub resources: Option<LinuxResources>,
    /// Parent cgroup of every process; empty for the daemon's default.
    pub cgroup_parent: String,
    /// Host name every process sees; empty for the daemon's default.
    pub hostname: String,
    /// Network of processes that do not ask for one themselves.
    pub network: Network,
    /// Caches to import from.
    pub cache_imports: Vec<CacheImport>,
    /// Scanner that makes an SBOM of the result, if wanted.
    pub sbom: Option<SbomScanner>,
    /// The lint configuration that replaces the one of the `check` directive.
    pub check: Option<String>,
    /// Name of the Dockerfile within its context. Default: `Dockerfile`.
    pub filename: Option<String>,
    /// The remote build context (Git URL, HTTP URL), or `None` for the client's directory.
    pub context: Option<String>,
    /// Directory within a remote context to use as the context. Default: all of it.
    pub context_subdir: Option<String>,
    /// Name of the local directory with the Dockerfile, which is then never read from the remote context.
    pub dockerfile_local: Option<String>,
    /// Keep `.git` in Git contexts.
    pub keep_git_dir: bool,
    /// Session whose directories local sources name. `None` makes them unique to each conversion.
    pub session: Option<String>,
    /// Other sessions, by name of the local directory.
    pub local_sessions: BTreeMap<String, String>,
    /// Hints that let transfers of named local contexts share their cache, by name of the context.
    pub shared_keys: BTreeMap<String, String>,
    /// Image configs of named contexts that are frontend inputs, by name of the input, as JSON.
    pub input_metadata: BTreeMap<String, String>,
}

/// Which instructions and flags a frontend allows. Those of [`Channel::Stable`] are allowed everywhere.
///
/// BuildKit makes this choice when its frontend is compiled; here the feature `labs` only makes the other
/// channel nameable, and what is stable stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Channel {
    /// What `docker/dockerfile:1` allows.
    #[default]
    Stable,
    /// What `docker/dockerfile:1-labs` allows besides: `RUN --device`.
    #[cfg(feature = "labs")]
    Labs,
}

/// Which stages are built without cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None of them.
    #[default]
    Off,
    /// All of them.
    All,
    /// The named ones (letters match in either case).
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the stage called `name` is built without cache.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Off => false,
            Self::All => true,
            Self::Stages(stages) => stages.iter().any(|s| s.eq_ignore_ascii_case(name)),
        }
    }
}

/// A cache to import from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheImport {
    /// Kind of the cache, such as `registry`.
    pub kind: String,
    /// Attributes of that kind.
    pub attributes: BTreeMap<String, String>,
}

/// An image that scans file systems and writes SBOMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SbomScanner {
    /// Reference of the image, normalised.
    pub image: String,
    /// Parameters; the scanner sees them as `BUILDKIT_SCAN_<name>`.
    pub parameters: BTreeMap<String, String>,
}

const DEFAULT_SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

impl Options {
    /// Reads the string options of a solve request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Option`] or [`ErrorKind::Platform`] naming the option that is malformed, in conflict
    /// with another one, or no longer supported.
    pub fn from_frontend(opts: &BTreeMap<String, String>) -> Result<Self> {
        let text = |key: &str| opts.get(key).map_or("", String::as_str);
        let arg = |key: &str| opts.get(&format!("build-arg:{key}")).map_or("", String::as_str);
        let prefixed = |prefix: &str| -> BTreeMap<String, String> {
            opts.range(prefix.to_owned()..)
                .take_while(|(k, _)| k.starts_with(prefix))
                .filter_map(|(k, v)| Some((k.get(prefix.len()..)?.to_owned(), v.clone())))
                .collect()
        };
        if !text("override-copy-image").is_empty() {
            return Err(invalid("the option \"override-copy-image\" is gone since BuildKit 0.11"));
        }
        if parse_bool(arg("BUILDKIT_DISABLE_FILEOP")) == Some(true) {
            return Err(invalid("the build argument BUILDKIT_DISABLE_FILEOP is gone since BuildKit 0.11"));
        }

        let mut platforms = Vec::new();
        for word in text("platform").split(',').filter(|_| !text("platform").is_empty()) {
            platforms.push(parse_platform(word, "the option \"platform\"")?.normalized());
        }
        let multi_text = if arg("BUILDKIT_MULTI_PLATFORM").is_empty() {
            text("multi-platform")
        } else {
            arg("BUILDKIT_MULTI_PLATFORM")
        };
        let multi_platform = match multi_text {
            "" => None,
            word => Some(
                parse_bool(word)
                    .ok_or_else(|| invalid(format!("multi-platform must be true or false, not {word:?}")))?,
            ),
        };
        if multi_platform == Some(false) && platforms.len() > 1 {
            return Err(invalid("several platforms are asked for, but multi-platform is false"));
        }

        let resolve_mode = match text("image-resolve-mode") {
            "" | "default" => ResolveMode::Default,
            "pull" => ResolveMode::Pull,
            "local" => ResolveMode::Local,
            other => {
                return Err(invalid(format!(
                    "image-resolve-mode must be default, pull or local, not {other:?}"
                )));
            }
        };
        let network = match text("force-network-mode") {
            "" | "sandbox" => Network::Sandbox,
            "none" => Network::None,
            "host" => Network::Host,
            other => {
                return Err(invalid(format!(
                    "force-network-mode must be sandbox, none or host, not {other:?}"
                )));
            }
        };
        let no_cache = match opts.get("no-cache").map(String::as_str) {
            None => NoCache::Off,
            Some("") => NoCache::All,
            Some(stages) => NoCache::Stages(stages.split(',').map(str::to_owned).collect()),
        };
        let shm_size = match text("shm-size") {
            "" => 0,
            word => word.parse().map_err(|e| {
                invalid(format!("shm-size must be a number of bytes, not {word:?}")).caused_by(boxed(e))
            })?,
        };
        let hostname = match arg("BUILDKIT_SANDBOX_HOSTNAME") {
            "" => text("hostname"),
            name => name,
        };
        // An option that is given counts, also with an empty text.
        let context_key = opts.get("contextkey").map_or("context", String::as_str);

        Ok(Self {
            target: text("target").to_owned(),
            channel: Channel::Stable,
            build_args: prefixed("build-arg:"),
            labels: prefixed("label:"),
            platforms,
            build_platform: None,
            multi_platform,
            contexts: prefixed("context:"),
            no_cache,
            resolve_mode,
            extra_hosts: parse_hosts(text("add-hosts"))?,
            shm_size,
            ulimits: parse_ulimits(text("ulimit"))?,
            resources: parse_resources(opts)?,
            cgroup_parent: text("cgroup-parent").to_owned(),
            hostname: hostname.to_owned(),
            network,
            cache_imports: parse_cache_imports(opts)?,
            sbom: parse_attestations(opts)?,
            check: match opts.get("build-arg:BUILDKIT_DOCKERFILE_CHECK") {
                Some(text) => {
                    Config::parse(text).map_err(|e| e.context("build argument BUILDKIT_DOCKERFILE_CHECK"))?;
                    Some(text.clone())
                }
                None => None,
            },
            filename: opts.get("filename").cloned(),
            context: opts.get(context_key).cloned().filter(|v| !v.is_empty()),
            context_subdir: opts.get("contextsubdir").cloned(),
            dockerfile_local: opts.get("dockerfilekey").cloned(),
            keep_git_dir: parse_bool(arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR")) == Some(true),
            session: None,
            local_sessions: prefixed("local-sessionid:"),
            shared_keys: prefixed("sharedkey:localdir:"),
            input_metadata: prefixed("input-metadata:"),
        })
    }

    /// Sets the value of an `ARG`.
    #[must_use]
    pub fn build_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.build_args.insert(name.into(), value.into());
        self
    }

    /// Sets the stage to build.
    #[must_use]
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = stage.into();
        self
    }

    /// Adds a platform to build for.
    #[must_use]
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.platforms.push(platform.normalized());
        self
    }

    /// Sets a label of the image.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Adds a named context, such as `alpine` → `docker-image://mirror.local/alpine:3`.
    #[must_use]
    pub fn named_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.contexts.insert(name.into(), value.into());
        self
    }

    /// Sets the session whose directories local sources name.
    #[must_use]
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.session = Some(id.into());
        self
    }

    /// Session that serves the local directory `name`.
    pub(crate) fn session_of(&self, name: &str) -> Option<&str> {
        let session = self.local_sessions.get(name).or(self.session.as_ref());
        session.map(String::as_str).filter(|id| !id.is_empty())
    }

    /// Prefix of the ids of cache mounts.
    pub(crate) fn cache_namespace(&self) -> &str {
        self.build_args.get("BUILDKIT_CACHE_MOUNT_NS").map_or("", String::as_str)
    }

    /// Whether the result carries platform ids.
    pub(crate) fn is_multi_platform(&self) -> bool {
        self.multi_platform.unwrap_or(self.platforms.len() > 1)
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Option, message)
}

fn boxed<E: std::error::Error + Send + Sync + 'static>(e: E) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(e)
}

/// Reads a platform such as `linux/arm64`; `what` says where it was written.
pub(crate) fn parse_platform(word: &str, what: &str) -> Result<Platform> {
    word.parse::<Platform>().map_err(|e| {
        Error::new(ErrorKind::Platform, format!("{word:?} in {what} is no platform")).caused_by(boxed(e))
    })
}

fn fields(option: &str, line: &str) -> Result<Vec<String>> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    csv::fields(line).map_err(|e| invalid(format!("the option {option:?} is no list")).caused_by(e))
}

fn parse_hosts(line: &str) -> Result<Vec<(String, IpAddr)>> {
    let mut hosts = Vec::new();
    for field in fields("add-hosts", line)? {
        let field = lowercase(&field);
        let (host, ip) = field
            .split_once('=')
            .ok_or_else(|| invalid(format!("add-hosts takes host=address, not {field:?}")))?;
        let ip: IpAddr = ip.parse().map_err(|e| {
            invalid(format!("the address of host {host:?} in add-hosts is no IP address: {ip:?}"))
                .caused_by(boxed(e))
        })?;
        hosts.push((host.to_owned(), ip.to_canonical()));
    }
    Ok(hosts)
}

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn parse_ulimits(line: &str) -> Result<Vec<Ulimit>> {
    let mut ulimits = Vec::new();
    for field in fields("ulimit", line)? {
        let (name, limits) = field
            .split_once('=')
            .ok_or_else(|| invalid(format!("ulimit takes name=soft[:hard], not {field:?}")))?;
        if !ULIMITS.contains(&name) {
            return Err(invalid(format!("ulimit {name:?} is none of {}", ULIMITS.join(", "))));
        }
        let number = |word: &str| {
            word.parse::<i64>().map_err(|e| {
                invalid(format!("ulimit {name} has the limit {word:?}, which is no number"))
                    .caused_by(boxed(e))
            })
        };
        let (soft, hard) = match limits.split_once(':') {
            None => (number(limits)?, number(limits)?),
            Some((_, hard)) if hard.contains(':') => {
                return Err(invalid(format!("ulimit {name} has more than two limits: {limits:?}")));
            }
            Some((soft, hard)) => (number(soft)?, number(hard)?),
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(invalid(format!(
                "the soft limit of ulimit {name} is above its hard limit: {soft} > {hard}"
            )));
        }
        ulimits.push(Ulimit { name: name.to_owned(), soft, hard });
    }
    Ok(ulimits)
}

fn parse_resources(opts: &BTreeMap<String, String>) -> Result<Option<LinuxResources>> {
    let text = |key: &str| opts.get(key).map(String::as_str).filter(|v| !v.is_empty());
    let wrong =
        |key: &str, value: &str, rule: &str| invalid(format!("the option {key:?} is {value:?} but {rule}"));
    let positive = |key: &str| -> Result<i64> {
        let Some(v) = text(key) else { return Ok(0) };
        v.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(key, v, "must be a number above 0"))
    };
    let unsigned = |key: &str| -> Result<u64> {
        let Some(v) = text(key) else { return Ok(0) };
        let plain = v.bytes().all(|b| b.is_ascii_digit());
        let number = v.parse().ok().filter(|n| plain && *n > 0);
        number.ok_or_else(|| wrong(key, v, "must be a number above 0"))
    };
    let cpuset = |key: &str| -> Result<String> {
        let Some(v) = text(key) else { return Ok(String::new()) };
        let rule = "must be numbers up to 8192 and ranges, such as 0-3,7";
        if check_cpuset(v) { Ok(v.to_owned()) } else { Err(wrong(key, v, rule)) }
    };
    let memory_swap = match text("memswap") {
        None => 0,
        Some(v) => v
            .parse()
            .ok()
            .filter(|n| *n == -1 || *n > 0)
            .ok_or_else(|| wrong("memswap", v, "must be -1 (unlimited) or a number above 0"))?,
    };
    let resources = LinuxResources {
        memory: positive("memory")?,
        memory_swap,
        cpu_shares: unsigned("cpushares")?,
        cpu_period: unsigned("cpuperiod")?,
        cpu_quota: positive("cpuquota")?,
        cpuset_cpus: cpuset("cpusetcpus")?,
        cpuset_mems: cpuset("cpusetmems")?,
    };
    Ok((resources != LinuxResources::default()).then_some(resources))
}

fn check_cpuset(list: &str) -> bool {
    let number = |word: &str| word.trim().parse::<u32>().ok().filter(|n| *n <= 8192);
    list.split(',').map(str::trim).all(|part| match part.split_once('-') {
        _ if part.is_empty() => true,
        None => number(part).is_some(),
        Some((low, high)) => matches!((number(low), number(high)), (Some(l), Some(h)) if l <= h),
    })
}

fn parse_cache_imports(opts: &BTreeMap<String, String>) -> Result<Vec<CacheImport>> {
    let mut imports = Vec::new();
    if let Some(json) = opts.get("cache-imports").filter(|v| !v.is_empty()) {
        let wrong =
            |why: String| invalid(format!("the option \"cache-imports\" is no list of caches: {why}"));
        let list: Option<Vec<Option<serde_json::Map<String, serde_json::Value>>>> =
            serde_json::from_str(json).map_err(|e| wrong(e.to_string()))?;
        for entry in list.into_iter().flatten().flatten() {
            let mut import = CacheImport { kind: String::new(), attributes: BTreeMap::new() };
            for (key, value) in entry {
                match (key.to_ascii_lowercase().as_str(), value) {
                    ("type", serde_json::Value::String(kind)) => import.kind = kind,
                    ("attrs", serde_json::Value::Object(attributes)) => {
                        for (name, value) in attributes {
                            let serde_json::Value::String(value) = value else {
                                return Err(wrong(format!("attribute {name:?} is no string")));
                            };
                            import.attributes.insert(name, value);
                        }
                    }
                    ("type" | "attrs", serde_json::Value::Null) => {}
                    ("type" | "attrs", _) => return Err(wrong(format!("member {key:?} has the wrong type"))),
                    _ => {}
                }
            }
            imports.push(import);
        }
    }
    if let Some(list) = opts.get("cache-from").filter(|v| !v.is_empty()) {
        imports.extend(list.split(',').map(|reference| CacheImport {
            kind: "registry".to_owned(),
            attributes: BTreeMap::from([("ref".to_owned(), reference.to_owned())]),
        }));
    }
    Ok(imports)
}

fn parse_attestations(opts: &BTreeMap<String, String>) -> Result<Option<SbomScanner>> {
    let mut kinds = BTreeMap::new();
    for prefix in ["build-arg:BUILDKIT_ATTEST_", "attest:"] {
        for (key, value) in opts {
            if let Some(kind) = key.strip_prefix(prefix) {
                kinds.insert(kind.to_lowercase(), value.as_str());
            }
        }
    }
    if let Some(kind) = kinds.keys().find(|k| *k != "sbom" && *k != "provenance") {
        return Err(invalid(format!("{kind:?} is no kind of attestation; there are sbom and provenance")));
    }
    // What provenance is to say is the daemon's business, but a malformed list is told by the frontend.
    if let Some(line) = kinds.get("provenance") {
        fields("attest:provenance", line)?;
    }
    let Some(line) = kinds.get("sbom") else { return Ok(None) };
    let mut generator = DEFAULT_SCANNER.to_owned();
    let mut parameters = BTreeMap::new();
    for field in fields("attest:sbom", line)? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        if key == "generator" {
            value.clone_into(&mut generator);
        } else {
            parameters.insert(key.to_owned(), value.to_owned());
        }
    }
    let image = Reference::parse_normalized(&generator).map_err(|e| {
        invalid(format!("the SBOM scanner {generator:?} is no image reference")).caused_by(boxed(e))
    })?;
    Ok(Some(SbomScanner { image: image.with_default_tag().to_string(), parameters }))
}
