//! Dockerfile builds: the options of the frontend, typed, and where its files come from.

use crate::content::OciStore;
use crate::request::{Frontend, Input, Local, Request, new_id};
use crate::session::upload::{self, Upload};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_llb::{Platform, State};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A build of a Dockerfile, by the frontend `dockerfile.v0` of the daemon.
///
/// ```no_run
/// # async fn f(client: buildkit_client::Client) -> Result<(), buildkit_client::Error> {
/// use buildkit_client::{dockerfile::{Context, Dockerfile}, export::Export};
/// let app = Dockerfile::new(".")
///     .target("app")
///     .build_arg("VERSION", "1.2")
///     .label("org.opencontainers.image.source", "https://example.com/app.git")
///     .named_context("base", Context::image("docker.io/library/alpine:3.22"));
/// client.solve(app).export(Export::local("out")).await?;
/// # Ok(()) }
/// ```
///
/// # Defaults
///
/// The file `Dockerfile` of the context, its last stage, the daemon's platform, no build arguments.
#[derive(Debug, Clone)]
#[must_use = "give it to a client: client.solve(…)"]
pub struct Dockerfile {
    request: Request,
    frontend: Frontend,
}

/// Names of the trees that the frontend asks for.
const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";

impl Dockerfile {
    /// The build of a context: a directory, unless [`Context`] says otherwise.
    pub fn new(context: impl Into<Context>) -> Self {
        let mut this = Self { request: Request::default(), frontend: Frontend::new("dockerfile.v0") };
        match context.into().0 {
            Kind::Local(local) => {
                this.request.locals.insert(DOCKERFILE.into(), local.clone());
                this.request.locals.insert(CONTEXT.into(), local);
            }
            Kind::Remote(url) => this.set(CONTEXT, url),
            Kind::Upload(upload) => {
                let url = this.upload(upload);
                this.set(CONTEXT, url);
            }
            Kind::State(state) => this.graph(&state),
            Kind::Image(reference) => this.graph(&buildkit_llb::image(reference)),
            Kind::Oci(store, reference) => {
                let id = store_id(CONTEXT);
                this.set(CONTEXT, format!("oci-layout://{id}{reference}"));
                this.request.oci_layouts.insert(id, store);
            }
        }
        this
    }

    /// Another frontend than the daemon's own: an image, as `# syntax=` names it.
    pub fn frontend_image(mut self, reference: impl Into<String>) -> Self {
        self.frontend.name = "gateway.v0".into();
        self.set("source", reference);
        self
    }

    /// The Dockerfile by its path below the context, or below [`dockerfile_from`](Self::dockerfile_from).
    pub fn file(mut self, path: impl Into<String>) -> Self {
        self.set("filename", path);
        self
    }

    /// The text of the Dockerfile.
    pub fn inline(self, text: impl AsRef<[u8]>) -> Self {
        let name = self.frontend.opts.get("filename").cloned();
        self.dockerfile_from(MemoryTree::new().file(name.as_deref().unwrap_or("Dockerfile"), text))
    }

    /// Takes the Dockerfile from another directory or tree than the context.
    pub fn dockerfile_from(mut self, local: impl Into<Local>) -> Self {
        self.request.locals.insert(DOCKERFILE.into(), local.into());
        // Else it would be looked for in a context that is fetched from elsewhere.
        self.set("dockerfilekey", DOCKERFILE);
        self
    }

    /// The stage to build.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.set("target", stage);
        self
    }

    /// A build argument. They end up in the image's history and in the provenance: no place for
    /// secrets.
    pub fn build_arg(mut self, name: impl fmt::Display, value: impl Into<String>) -> Self {
        self.set(format!("build-arg:{name}"), value);
        self
    }

    /// Several build arguments.
    pub fn build_args<K: fmt::Display, V: Into<String>>(
        self,
        args: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        args.into_iter().fold(self, |this, (name, value)| this.build_arg(name, value))
    }

    /// A label of the image.
    pub fn label(mut self, name: impl fmt::Display, value: impl Into<String>) -> Self {
        self.set(format!("label:{name}"), value);
        self
    }

    /// A platform to build for; with several the result is an index.
    pub fn platform(mut self, platform: &Platform) -> Self {
        self.add("platform", platform.to_string());
        self
    }

    /// Whether the result is an index even of one platform.
    pub fn multi_platform(mut self, on: bool) -> Self {
        self.set("multi-platform", on.to_string());
        self
    }

    /// A line of `/etc/hosts` in every step.
    pub fn add_host(mut self, host: impl fmt::Display, address: IpAddr) -> Self {
        self.add("add-hosts", format!("{host}={address}"));
        self
    }

    /// A limit of the processes of every step.
    pub fn ulimit(mut self, limit: Ulimit, soft: i64, hard: i64) -> Self {
        self.add("ulimit", format!("{}={soft}:{hard}", limit.name()));
        self
    }

    /// Size of `/dev/shm` in every step, in bytes.
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.set("shm-size", bytes.to_string());
        self
    }

    /// The cgroup above those of the steps.
    pub fn cgroup_parent(mut self, cgroup: impl Into<String>) -> Self {
        self.set("cgroup-parent", cgroup);
        self
    }

    /// Resource limits of every step. BuildKit 0.31.
    pub fn resources(mut self, resources: Resources) -> Self {
        let Resources { memory, memory_swap, cpu_shares, cpu_period, cpu_quota, cpuset_cpus, cpuset_mems } =
            resources;
        let numbers = [
            ("memory", memory),
            ("memswap", memory_swap),
            ("cpushares", cpu_shares),
            ("cpuperiod", cpu_period),
            ("cpuquota", cpu_quota),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                self.set(key, number.to_string());
            }
        }
        for (key, set) in [("cpusetcpus", cpuset_cpus), ("cpusetmems", cpuset_mems)] {
            if let Some(set) = set {
                self.set(key, set);
            }
        }
        self
    }

    /// Host name in every step.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.set("hostname", name);
        self
    }

    /// The network of steps that do not choose one. The host's needs
    /// [`Entitlement::NetworkHost`](crate::policy::Entitlement::NetworkHost).
    pub fn network(mut self, network: buildkit_llb::Network) -> Self {
        use buildkit_llb::Network;
        let mode = match network {
            Network::Sandbox => "sandbox",
            Network::None => "none",
            Network::Host => "host",
        };
        self.set("force-network-mode", mode);
        self
    }

    /// Runs the steps of every stage even where their results are cached.
    pub fn no_cache(mut self) -> Self {
        self.set("no-cache", "");
        self
    }

    /// Runs the steps of one stage even where their results are cached.
    pub fn no_cache_stage(mut self, stage: impl Into<String>) -> Self {
        self.add("no-cache", stage.into());
        self
    }

    /// Where base images are looked for.
    pub fn image_resolve_mode(mut self, mode: buildkit_llb::ResolveMode) -> Self {
        use buildkit_llb::ResolveMode;
        let mode = match mode {
            ResolveMode::Default => "default",
            ResolveMode::Pull => "pull",
            ResolveMode::Local => "local",
        };
        self.set("image-resolve-mode", mode);
        self
    }

    /// What `FROM NAME` and `--from=NAME` mean in the Dockerfile.
    pub fn named_context(mut self, name: impl Into<String>, context: impl Into<Context>) -> Self {
        let name = name.into();
        self.named(&name, context.into().0);
        self
    }

    /// Only a directory of the context, where that is fetched from elsewhere.
    pub fn context_subdir(mut self, dir: impl Into<String>) -> Self {
        self.set("contextsubdir", dir);
        self
    }

    /// An option that has no method here.
    pub fn opt(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(key, value);
        self
    }

    /// Offers an upload and returns its URL, which no other build has: the daemon takes what has one
    /// URL for one thing.
    fn upload(&mut self, upload: Upload) -> String {
        let id = new_id();
        let url = upload::url(&id);
        self.request.uploads.insert(id, upload);
        url
    }

    /// Takes context and Dockerfile from the result of a graph.
    fn graph(&mut self, state: &State) {
        for name in [CONTEXT, DOCKERFILE] {
            self.frontend.inputs.insert(name.into(), crate::request::FrontendInput::State(state.clone()));
        }
    }

    fn named(&mut self, name: &str, context: Kind) {
        let key = format!("context:{name}");
        // The names of the trees that the frontend asks for by itself are taken.
        let local =
            if matches!(name, CONTEXT | DOCKERFILE) { format!("{name}-context") } else { name.into() };
        match context {
            Kind::Local(tree) => {
                self.set(key, format!("local:{local}"));
                self.request.locals.insert(local, tree);
            }
            Kind::Remote(url) => self.set(key, url),
            Kind::Upload(upload) => {
                let url = self.upload(upload);
                self.set(key, url);
            }
            Kind::Image(reference) => self.set(key, format!("docker-image://{reference}")),
            Kind::State(state) => {
                self.set(key, format!("input:{local}"));
                self.frontend.inputs.insert(local, crate::request::FrontendInput::State(*state));
            }
            Kind::Oci(store, reference) => {
                let id = store_id(name);
                self.set(key, format!("oci-layout://{id}{reference}"));
                self.request.oci_layouts.insert(id, store);
            }
        }
    }

    fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.frontend.opts.insert(key.into(), value.into());
    }

    /// Appends to a list in the form of a line of CSV.
    fn add(&mut self, key: &str, value: String) {
        let value = if value.contains(['"', ',', '\n', '\r']) || value.starts_with(' ') {
            format!("\"{}\"", value.replace('"', "\"\""))
        } else {
            value
        };
        match self.frontend.opts.get_mut(key).filter(|list| !list.is_empty()) {
            Some(list) => {
                list.push(',');
                list.push_str(&value);
            }
            None => self.set(key, value),
        }
    }
}

impl From<Dockerfile> for Request {
    fn from(dockerfile: Dockerfile) -> Self {
        Self { input: Input::Frontend(dockerfile.frontend), ..dockerfile.request }
    }
}

impl Request {
    /// Adds the options, contexts and inputs of a Dockerfile build, for a function that drives one.
    pub(crate) fn take_dockerfile(&mut self, dockerfile: Dockerfile) {
        let Dockerfile { request, frontend } = dockerfile;
        self.locals.extend(request.locals);
        self.uploads.extend(request.uploads);
        self.oci_layouts.extend(request.oci_layouts);
        if let Input::Frontend(mine) | Input::Gateway(mine) = &mut self.input {
            mine.opts.extend(frontend.opts);
            mine.inputs.extend(frontend.inputs);
        }
    }
}

/// The id of a content store travels as the name of an image.
fn store_id(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let id: String = name.chars().map(plain).collect();
    format!("context-{}", id.trim_matches('-'))
}

/// Where the files of a build come from.
#[derive(Debug, Clone)]
pub struct Context(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Local(Local),
    Remote(String),
    Upload(Upload),
    Image(String),
    State(Box<State>),
    /// A store, and `:TAG` or `@DIGEST`.
    Oci(OciStore, String),
}

impl Context {
    /// A directory on this side.
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Local(Local::dir(path)))
    }

    /// Any tree on this side: from memory, an archive, or one of the caller's own.
    pub fn local(local: impl Into<Local>) -> Self {
        Self(Kind::Local(local.into()))
    }

    /// Files in memory.
    pub fn memory(tree: MemoryTree) -> Self {
        Self::local(tree)
    }

    /// A tar archive in a file; see [`Local::tar_file`]. Only what the build needs of it is sent.
    pub fn tar_file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Local(Local::tar_file(path)))
    }

    /// A tar archive in memory; see [`Local::tar_bytes`].
    pub fn tar_bytes(archive: impl Into<bytes::Bytes>) -> Self {
        Self(Kind::Local(Local::tar_bytes(archive)))
    }

    /// A tar archive from a stream such as standard input; see [`Local::tar_reader`].
    pub fn tar_reader(archive: impl std::io::Read + Send + 'static) -> Self {
        Self(Kind::Local(Local::tar_reader(archive)))
    }

    /// An archive or a Dockerfile that the daemon fetches whole through the session and unpacks
    /// itself: tar, plain or compressed with gzip, bzip2 or xz.
    pub fn upload(upload: Upload) -> Self {
        Self(Kind::Upload(upload))
    }

    /// A git repository, fetched by the daemon: `https://host/repo.git#branch:dir`. A token belongs
    /// into a secret ([`Secrets::git_token_id`](crate::session::secrets::Secrets::git_token_id)),
    /// never into the URL.
    pub fn git(url: impl Into<String>) -> Self {
        Self(Kind::Remote(url.into()))
    }

    /// An archive or a single Dockerfile at a URL, fetched by the daemon.
    pub fn http(url: impl Into<String>) -> Self {
        Self(Kind::Remote(url.into()))
    }

    /// An image; as a named context it takes the place of another.
    pub fn image(reference: impl Into<String>) -> Self {
        Self(Kind::Image(reference.into()))
    }

    /// A graph.
    pub fn state(state: impl Into<State>) -> Self {
        Self(Kind::State(Box::new(state.into())))
    }

    /// An image in an OCI layout, by tag; the layout is read only. Needs BuildKit 0.11.
    pub fn oci_layout(dir: impl AsRef<Path>, tag: impl fmt::Display) -> Self {
        Self(Kind::Oci(OciStore::Dir(dir.as_ref().to_owned()), format!(":{tag}")))
    }

    /// An image in an OCI layout or a store of the caller's own, by digest.
    pub fn oci_digest(store: impl Into<OciStore>, digest: impl fmt::Display) -> Self {
        Self(Kind::Oci(store.into(), format!("@{digest}")))
    }
}

macro_rules! from_local {
    ($($local:ty),*) => {$(
        impl From<$local> for Context {
            fn from(local: $local) -> Self {
                Self::local(local)
            }
        }
    )*};
}

from_local!(Local, MemoryTree, &str, String, &Path, PathBuf, &PathBuf);

impl From<State> for Context {
    fn from(state: State) -> Self {
        Self::state(state)
    }
}

/// Limits of the steps of a build; see [`Dockerfile::resources`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Memory and swap in bytes; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<i64>,
    /// Period of the CPU quota, in microseconds.
    pub cpu_period: Option<i64>,
    /// CPU time in each period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// CPUs to run on, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use.
    pub cpuset_mems: Option<String>,
}

/// What a limit of processes is about; see `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names of setrlimit(2)")]
pub enum Ulimit {
    Core,
    Cpu,
    Data,
    FileSize,
    Locks,
    MemoryLocked,
    MessageQueue,
    Nice,
    OpenFiles,
    Processes,
    ResidentSet,
    RealtimePriority,
    RealtimeTime,
    PendingSignals,
    Stack,
}

impl Ulimit {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::FileSize => "fsize",
            Self::Locks => "locks",
            Self::MemoryLocked => "memlock",
            Self::MessageQueue => "msgqueue",
            Self::Nice => "nice",
            Self::OpenFiles => "nofile",
            Self::Processes => "nproc",
            Self::ResidentSet => "rss",
            Self::RealtimePriority => "rtprio",
            Self::RealtimeTime => "rttime",
            Self::PendingSignals => "sigpending",
            Self::Stack => "stack",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opts(dockerfile: Dockerfile) -> Vec<String> {
        let request = Request::from(dockerfile);
        let Input::Frontend(frontend) = request.input else { panic!("no frontend") };
        frontend.opts.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn options_become_the_attributes_of_the_frontend() {
        let dockerfile = Dockerfile::new(".")
            .file("build/Dockerfile")
            .target("app")
            .build_args([("A", "1"), ("B", "x=y, z")])
            .label("l", "v")
            .platform(&Platform::LINUX_AMD64)
            .platform(&Platform::LINUX_ARM64)
            .multi_platform(true)
            .add_host("db", [10, 0, 0, 1].into())
            .add_host("v6", "::1".parse().unwrap())
            .ulimit(Ulimit::OpenFiles, 1024, 2048)
            .ulimit(Ulimit::Core, 0, 0)
            .shm_size(64 << 20)
            .cgroup_parent("/ci")
            .hostname("builder")
            .network(buildkit_llb::Network::None)
            .no_cache_stage("a")
            .no_cache_stage("b")
            .image_resolve_mode(buildkit_llb::ResolveMode::Pull)
            .resources(Resources {
                memory: Some(1 << 30),
                cpuset_cpus: Some("0-3".into()),
                ..Resources::default()
            });
        let expected = [
            "add-hosts=db=10.0.0.1,v6=::1",
            "build-arg:A=1",
            "build-arg:B=x=y, z",
            "cgroup-parent=/ci",
            "cpusetcpus=0-3",
            "filename=build/Dockerfile",
            "force-network-mode=none",
            "hostname=builder",
            "image-resolve-mode=pull",
            "label:l=v",
            "memory=1073741824",
            "multi-platform=true",
            "no-cache=a,b",
            "platform=linux/amd64,linux/arm64",
            "shm-size=67108864",
            "target=app",
            "ulimit=nofile=1024:2048,core=0:0",
        ];
        assert_eq!(opts(dockerfile), expected);
    }

    #[test]
    fn contexts_become_what_the_frontend_looks_for() {
        let git = Dockerfile::new(Context::git("https://e.org/r.git#v1:dir")).inline("FROM scratch");
        assert_eq!(opts(git.clone()), ["context=https://e.org/r.git#v1:dir", "dockerfilekey=dockerfile"]);
        assert_eq!(Request::from(git).locals.keys().collect::<Vec<_>>(), ["dockerfile"]);

        let stdin = Dockerfile::new(Context::upload(Upload::bytes(&b"tar"[..])));
        let request = Request::from(stdin.clone());
        let id = request.uploads.keys().next().unwrap();
        assert_eq!(opts(stdin), [format!("context=http://buildkit-session/{id}")]);

        let named = Dockerfile::new(".")
            .named_context("src", "other/dir")
            .named_context("dockerfile", "third/dir")
            .named_context("alpine", Context::image("mirror/alpine:1"))
            .named_context("made", Context::state(buildkit_llb::scratch()))
            .named_context("My/Base:1", Context::oci_layout("layout", "v1"));
        assert_eq!(
            opts(named.clone()),
            [
                "context:My/Base:1=oci-layout://context-my-base-1:v1",
                "context:alpine=docker-image://mirror/alpine:1",
                "context:dockerfile=local:dockerfile-context",
                "context:made=input:made",
                "context:src=local:src",
            ]
        );
        let request = Request::from(named);
        let locals: Vec<_> = request.locals.keys().map(String::as_str).collect();
        assert_eq!(locals, ["context", "dockerfile", "dockerfile-context", "src"]);
        assert_eq!(request.oci_layouts.keys().collect::<Vec<_>>(), ["context-my-base-1"]);
    }

    #[test]
    fn fields_of_lists_are_quoted_where_they_must_be() {
        let mut dockerfile = Dockerfile::new(".");
        dockerfile.add("x", "a,b".into());
        dockerfile.add("x", "say \"hi\"".into());
        dockerfile.add("x", "plain".into());
        assert_eq!(opts(dockerfile), [r#"x="a,b","say ""hi""",plain"#]);
    }
}
