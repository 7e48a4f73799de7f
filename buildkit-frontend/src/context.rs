//! Contexts: the directories, repositories and images a build reads from, and
//! the file that says what to build.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buildkit_fsutil::pattern::read_ignore;
use buildkit_llb::git_url::GitRef;
use buildkit_llb::reference::Reference as ImageReference;
use buildkit_llb::{Copy, Definition, Differ, FileSteps, Git, Http, Local, Platform, State, scratch};
use buildkit_proto::pb;
use bytes::Bytes;

use crate::archive::{ARCHIVE_START, is_archive};
use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::image_config::{ImageConfig, input_image_config};
use crate::reference::Reference;
use crate::resolve::ResolveImage;

/// The name of the client's directory that is the main context.
const CONTEXT: &str = "context";

/// The name of the client's directory with the file that says what to build.
const DOCKERFILE: &str = "dockerfile";

const IGNORE: &str = ".dockerignore";

/// Where a build reads from, as every client says it: the options `context`,
/// `filename`, `contextsubdir` and `context:NAME`, the client's directories
/// `context` and `dockerfile`, and inputs.
///
/// ```
/// use buildkit_frontend::{BuildResult, Contexts, Gateway, Result};
///
/// /// Makes an image of the context without its ignored files.
/// async fn build(gateway: Gateway) -> Result<BuildResult> {
///     let contexts = Contexts::open(&gateway).await?;
///     let file = contexts.file("Packages.toml").await?;
///     if file.data.is_empty() {
///         return Err(file.error(1..=1, "nothing to do"));
///     }
///     gateway.solve_state(&contexts.main().await?).await
/// }
///
/// # futures::executor::block_on(async {
/// # use buildkit_frontend::Simulated;
/// let simulated = Simulated::new().file("dockerfile", "Packages.toml", "a = 1").file("context", "src/main.c", "");
/// let result = simulated.run(build).await?;
/// assert!(result.reference()?.exists("src/main.c").await?);
/// # Ok::<(), buildkit_frontend::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Contexts {
    gateway: Gateway,
    /// The main context, when it is not the client's directory.
    remote: Option<State>,
    /// Where the file is, when it is not in the client's directory.
    file_tree: Option<State>,
    /// The name of the file, where the main context is that file.
    only_file: Option<&'static str>,
    /// The ignore file beside the file that says what to build, once that was read.
    own_ignore: Arc<Mutex<Option<Bytes>>>,
    /// What is ignored, by the client's directory; each ignore file is read once.
    ignored: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

/// The file that says what to build, with what is needed to point at its
/// lines.
#[derive(Debug, Clone)]
pub struct DefinitionFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub data: Bytes,
    /// The graph it was read from, which displays show with warnings.
    pub definition: Definition,
    tree: Reference,
}

/// A context that the client gave under a name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NamedContext {
    /// Its files; those of an image have the environment of its config.
    pub state: State,
    /// Its image config, where it has one.
    pub config: Option<ImageConfig>,
}

impl Contexts {
    /// Finds out where the main context is.
    ///
    /// # Errors
    /// When the option `context` is a bad Git URL, or cannot be downloaded.
    pub async fn open(gateway: &Gateway) -> Result<Self> {
        let mut contexts = Self {
            gateway: gateway.clone(),
            remote: None,
            file_tree: None,
            only_file: None,
            own_ignore: Arc::default(),
            ignored: Arc::default(),
        };
        let options = gateway.options();
        let key = options.get("contextkey").filter(|key| !key.is_empty()).unwrap_or(CONTEXT);
        let place = options.get(key).unwrap_or_default();
        if let Some(git) = git(place)? {
            let state = State::from(Git::from_ref(&git).name(format!("[internal] load git source {place}")));
            contexts.file_tree = Some(state.clone());
            contexts.remote = Some(state);
        } else if place.starts_with("https://") || place.starts_with("http://") {
            contexts.download(place).await?;
        } else {
            let inputs = gateway.inputs().await?;
            let input = |name: &str| inputs.get(name).map(Definition::to_state).transpose();
            if contexts.file_local() == DOCKERFILE {
                contexts.file_tree = input(DOCKERFILE)?;
            }
            contexts.remote = input(CONTEXT)?;
        }
        if let (Some(state), Some(folder)) = (&contexts.remote, options.get("contextsubdir")) {
            let copy = Copy::new(state, folder, "/").contents_only();
            contexts.remote = Some(FileSteps::new(scratch(), copy).into());
        }
        Ok(contexts)
    }

    /// A download is an archive of the context, or the file that says what to build.
    async fn download(&mut self, url: &str) -> Result<()> {
        let file = Http::new(url).filename(CONTEXT).name("[internal] load remote build context");
        let file = State::from(file);
        let result = self.gateway.solve_state(&file).await?;
        let start = result
            .reference()?
            .read_range(CONTEXT, 0..ARCHIVE_START)
            .await
            .map_err(|error| Error::context(format!("cannot download the build context {url}"), error))?;
        let tree = if is_archive(&start) {
            State::from(FileSteps::new(scratch(), Copy::new(file, format!("/{CONTEXT}"), "/").unpack()))
        } else {
            self.only_file = Some(CONTEXT);
            file
        };
        self.file_tree = Some(tree.clone());
        self.remote = Some(tree);
        Ok(())
    }

    /// The client's directory with the file that says what to build.
    fn file_local(&self) -> &str {
        self.gateway.options().get("dockerfilekey").filter(|name| !name.is_empty()).unwrap_or(DOCKERFILE)
    }

    /// Reads the file that says what to build: the one that the option
    /// `filename` names, or `default`. Where there is an ignore file of its
    /// own beside it, called as it with `.dockerignore` at the end, that one
    /// is for the main context from then on.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such file.
    pub async fn file(&self, default: &str) -> Result<DefinitionFile> {
        let options = self.gateway.options();
        let name = options.get("filename").filter(|name| !name.is_empty());
        let name = self.only_file.or(name).unwrap_or(default).to_owned();
        let local = self.file_local();
        // A directory that was asked for by name is the client's.
        let state = match self.file_tree.as_ref().filter(|_| local == DOCKERFILE) {
            Some(state) => state.clone(),
            None => Local::new(local)
                .follow([name.clone(), format!("{name}{IGNORE}")])
                .session(self.session_of(local))
                .shared_key_hint(local)
                .differ(Differ::None, false)
                .name(format!("[internal] load build definition from {name}"))
                .into(),
        };
        let definition = self.gateway.marshal(&state)?;
        let result = self.gateway.solve(&definition).await?;
        let tree = result.reference()?.clone();
        let data = tree
            .read_file(&name)
            .await
            .map_err(|error| Error::context(format!("cannot read {name}"), error))?;
        if let Some(ignore) = tree.read_optional(&format!("{name}{IGNORE}")).await? {
            *lock(&self.own_ignore) = Some(ignore);
        }
        Ok(DefinitionFile { name, data, definition, tree })
    }

    /// The main context without what its ignore file says: the own one of
    /// [`file`](Self::file), or `.dockerignore`. Contexts that are not a
    /// directory of the client are whole.
    pub async fn main(&self) -> Result<State> {
        self.main_paths(std::iter::empty::<String>()).await
    }

    /// The main context, of which only `paths` are used; the client sends
    /// nothing else. No paths at all are the whole context.
    pub async fn main_paths<T: Into<String>>(&self, paths: impl IntoIterator<Item = T>) -> Result<State> {
        if let Some(state) = &self.remote {
            return Ok(state.clone());
        }
        let own = lock(&self.own_ignore).clone();
        let ignored = match own {
            Some(own) => patterns(CONTEXT, &own)?,
            None => self.ignored(CONTEXT, CONTEXT, "[internal]").await?,
        };
        Ok(Local::new(CONTEXT)
            .session(self.session_of(CONTEXT))
            .exclude(ignored)
            .follow(paths)
            .shared_key_hint(CONTEXT)
            .name("[internal] load build context")
            .into())
    }

    /// The context that the client gave under a name, for the default
    /// platform: see [`named_for`](Self::named_for).
    pub async fn named(&self, name: &str) -> Result<Option<NamedContext>> {
        self.named_for(name, &self.gateway.default_platform()).await
    }

    /// The context that the client gave under a name (option
    /// `context:NAME::PLATFORM`, else `context:NAME`): a directory of the
    /// client, an image, a Git repository, a download or an input; `None`
    /// when it gave none.
    ///
    /// Names are those of images: `alpine`, `docker.io/library/alpine` and
    /// `alpine:latest` are one.
    ///
    /// # Errors
    /// When the client gave something else, or something that is not there.
    pub async fn named_for(&self, name: &str, platform: &Platform) -> Result<Option<NamedContext>> {
        let options = self.gateway.options();
        let key = familiar(name)?;
        let specific = format!("context:{key}::{}", platform.normalized().format_all());
        let plain = format!("context:{key}");
        let Some((key, place)) = [&specific, &plain]
            .into_iter()
            .find_map(|option| Some((option.strip_prefix("context:")?, options.get(option)?)))
        else {
            return Ok(None);
        };
        let wrong = |reason: &str| {
            Error::with_code(Code::InvalidArgument, format!("the context {key} is {place:?}: {reason}"))
        };
        let Some((scheme, rest)) = place.split_once(':') else {
            return Err(wrong("it must begin with a scheme, as in local:NAME"));
        };
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let plain = |state: State| Ok(Some(NamedContext { state, config: None }));
        match scheme {
            "local" => {
                let prefix = format!("[context {key}]");
                let ignored = self.ignored(path, &format!("context:{key}"), &prefix).await?;
                let shared = options.get(&format!("sharedkey:localdir:{key}")).unwrap_or_default();
                let local = Local::new(path)
                    .session(self.session_of(path))
                    .exclude(ignored)
                    .shared_key_hint(format!("context:{key}-{shared}"))
                    .name(format!("{prefix} load from client"));
                plain(local.into())
            }
            "docker-image" => {
                let image = self.gateway.base_image(path, platform).await?;
                Ok(Some(NamedContext { state: image.state, config: Some(image.config) }))
            }
            "oci-layout" => {
                let layout = ImageReference::parse(path).map_err(|error| wrong(&error.to_string()))?;
                let digest = layout.digest().ok_or_else(|| wrong("a layout needs a name and a digest"))?;
                let store = &layout.name();
                let reference = format!("{store}@{digest}");
                let request = ResolveImage::new(&reference)
                    .platform(platform)
                    .oci_layout(store, self.session_of(store));
                let image = self.gateway.resolve_image(request).await?;
                let layout = buildkit_llb::OciLayout::new(image.reference)
                    .store(self.session_of(store), store)
                    .platform(platform.clone())
                    .name(format!("[context {key}] load from client"));
                with_config(layout.into(), &image.config)
            }
            "input" => {
                let inputs = self.gateway.inputs().await?;
                let state = inputs.get(path).ok_or_else(|| wrong("there is no such input"))?.to_state()?;
                match self.input_config(path)? {
                    Some(config) => with_config(state, &config),
                    None => plain(state),
                }
            }
            _ => match git(place)? {
                Some(git) => plain(Git::from_ref(&git).name(format!("[context {key}] {place}")).into()),
                None if scheme == "https" || scheme == "http" => {
                    plain(Http::new(place).filename(CONTEXT).name(format!("[context {key}] {place}")).into())
                }
                None => Err(wrong("contexts are local, docker-image, oci-layout, git, https or input")),
            },
        }
    }

    /// The image config that the client gave with an input.
    fn input_config(&self, input: &str) -> Result<Option<Bytes>> {
        let option = format!("input-metadata:{input}");
        let Some(metadata) = self.gateway.options().get(&option) else { return Ok(None) };
        input_image_config(metadata).map_err(|error| Error::context(format!("the option {option}"), error))
    }

    /// The patterns of the `.dockerignore` of a directory of the client.
    async fn ignored(&self, local: &str, key: &str, prefix: &str) -> Result<Vec<String>> {
        if let Some(known) = lock(&self.ignored).get(local) {
            return Ok(known.clone());
        }
        let state = Local::new(local)
            .follow([IGNORE])
            .session(self.session_of(local))
            .shared_key_hint(format!("{key}-{IGNORE}"))
            .differ(Differ::None, false)
            .name(format!("{prefix} load {IGNORE}"));
        let result = self.gateway.solve_state(&state.into()).await?;
        let ignored = match result.reference()?.read_optional(IGNORE).await? {
            Some(file) => patterns(local, &file)?,
            None => Vec::new(),
        };
        lock(&self.ignored).insert(local.to_owned(), ignored.clone());
        Ok(ignored)
    }

    /// The session a directory of the client comes from.
    fn session_of(&self, local: &str) -> &str {
        self.gateway.options().get(&format!("local-sessionid:{local}")).unwrap_or(self.gateway.session_id())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values in it are whole, whatever a thread that panicked was about to do.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn patterns(local: &str, ignore: &[u8]) -> Result<Vec<String>> {
    read_ignore(ignore).map_err(|error| {
        Error::context(format!("the ignore file of {local} is damaged"), error).or_code(Code::InvalidArgument)
    })
}

fn with_config(state: State, config: &Bytes) -> Result<Option<NamedContext>> {
    let state = state.image_config(config);
    Ok(Some(NamedContext { state, config: Some(ImageConfig::from_json(config)?) }))
}

/// The form of a context's name in options: that of an image, as short as it can be.
fn familiar(name: &str) -> Result<String> {
    let reference = ImageReference::parse_normalized(name).map_err(|error| {
        Error::context(format!("{name:?} cannot be the name of a context"), error)
            .or_code(Code::InvalidArgument)
    })?;
    let familiar = reference.familiar();
    Ok(familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned))
}

impl DefinitionFile {
    /// The content as text.
    ///
    /// # Errors
    /// When it is not UTF-8; the error points at the line.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.data).map_err(|error| {
            let good = self.data.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.split(|byte| *byte == b'\n').count();
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            self.error(line..=line, format!("{} is not UTF-8", self.name))
        })
    }

    /// Reads another file beside this one, or `None` when it is not there.
    /// Directories of the client send only what was asked for, so this finds
    /// files of remote contexts and inputs.
    pub async fn sibling(&self, path: &str) -> Result<Option<Bytes>> {
        self.tree.read_optional(path).await
    }

    /// The file as displays show it.
    pub fn info(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.name.clone(),
            data: self.data.clone(),
            definition: Some(self.definition.to_pb()),
            language: String::new(),
        }
    }

    /// An error at these lines, counted from 1: the user sees an excerpt.
    pub fn error(&self, lines: RangeInclusive<u32>, message: impl Into<String>) -> Error {
        Error::with_code(Code::InvalidArgument, message).at(self.info(), vec![range(&lines)])
    }

    /// A warning at these lines.
    pub fn warning(&self, lines: &RangeInclusive<u32>, message: impl Into<String>) -> crate::Warning {
        let vertex = self.definition.head().ok().flatten().map(|(digest, _)| digest.to_string());
        crate::Warning {
            vertex: vertex.unwrap_or_default(),
            short: message.into(),
            info: Some(self.info()),
            ranges: vec![range(lines)],
            ..crate::Warning::default()
        }
    }
}

fn range(lines: &RangeInclusive<u32>) -> pb::Range {
    let position =
        |line: u32| Some(pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    pb::Range { start: position(*lines.start()), end: position(*lines.end()) }
}

/// The repository that a text names, if it names one.
fn git(text: &str) -> Result<Option<GitRef>> {
    match GitRef::parse(text) {
        Ok(git) => Ok(Some(git)),
        Err(error) if error.is_git() => {
            Err(Error::context(format!("{text} is no Git repository"), error).or_code(Code::InvalidArgument))
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::Simulated;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use futures::executor::block_on;

    fn identifier(state: &State, gateway: &Gateway) -> String {
        let definition = gateway.marshal(state).unwrap();
        let sources = definition.ops().filter_map(|op| match op.message().ok()?.op? {
            pb::op::Op::Source(source) => Some(source.identifier),
            _ => None,
        });
        sources.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_download_is_the_context_or_the_file() {
        let simulated = Simulated::new().option("context", "https://example.com/f");
        let text = simulated.clone().file("", "context", "a = 1");
        let contexts = block_on(Contexts::open(&text.gateway())).unwrap();
        let file = block_on(contexts.file("Packages.toml")).unwrap();
        assert_eq!((file.name.as_str(), &file.data[..]), ("context", &b"a = 1"[..]));

        let archive = simulated.file("", "context", "BZh91").file("", "Packages.toml", "b = 2");
        let contexts = block_on(Contexts::open(&archive.gateway())).unwrap();
        assert_eq!(block_on(contexts.file("Packages.toml")).unwrap().data, "b = 2");
        let main = block_on(contexts.main()).unwrap();
        assert_eq!(identifier(&main, &archive.gateway()), "https://example.com/f");
    }

    #[test]
    fn the_ignore_file_of_a_file_goes_before_that_of_the_context() {
        let simulated = Simulated::new()
            .file("context", ".dockerignore", "general\n")
            .file("dockerfile", "F", "x")
            .file("dockerfile", "F.dockerignore", "own\n");
        let gateway = simulated.gateway();
        let excludes = |state: &State| {
            let definition = gateway.marshal(state).unwrap();
            let op = definition.ops().next().unwrap().message().unwrap().op.unwrap();
            let pb::op::Op::Source(source) = op else { panic!("no source") };
            source.attrs["local.excludepatterns"].clone()
        };
        let contexts = block_on(Contexts::open(&gateway)).unwrap();
        assert_eq!(excludes(&block_on(contexts.main()).unwrap()), r#"["general"]"#);
        let _ = block_on(contexts.main_paths(["a"])).unwrap();
        assert_eq!(simulated.solves().len(), 1, "the ignore file is read once");
        block_on(contexts.file("F")).unwrap();
        assert_eq!(excludes(&block_on(contexts.main()).unwrap()), r#"["own"]"#);
    }

    #[test]
    fn named_contexts_are_found_under_any_form_of_their_name() {
        let config = r#"{"os":"linux","architecture":"amd64","config":{"Env":["A=b"]}}"#;
        let digest = format!("sha256:{}", "a".repeat(64));
        let simulated = Simulated::new()
            .image("docker.io/library/other:1", &digest, config)
            .image(format!("store@{digest}"), &digest, config)
            .input("given", &scratch().mkfile("/x", 0o644, "").marshal(Platform::LINUX_AMD64).unwrap())
            .option(
                "input-metadata:given",
                format!(r#"{{"containerimage.config":"{}"}}"#, STANDARD.encode(config)),
            )
            .option("context:alpine", "docker-image://other:1")
            .option("context:alpine::linux/arm64", "local:arm")
            .option("context:git", "https://example.com/r.git#main")
            .option("context:layout", format!("oci-layout://store:1@{digest}"))
            .option("context:in", "input:given")
            .option("context:bad", "nothing")
            .option("context:shouted", format!("oci-layout://STORE@{digest}"))
            .option("context:loose", "oci-layout://store:1")
            .option("context:nulled", "input:nulled")
            .input("nulled", &scratch().mkfile("/x", 0o644, "").marshal(Platform::LINUX_AMD64).unwrap())
            .option("input-metadata:nulled", r#"{"containerimage.config":null}"#);
        let gateway = simulated.gateway();
        let contexts = block_on(Contexts::open(&gateway)).unwrap();
        let named =
            |name: &str| block_on(contexts.named(name)).unwrap().map(|c| (identifier(&c.state, &gateway), c));
        for name in ["alpine", "alpine:latest", "docker.io/library/alpine"] {
            let (source, context) = named(name).unwrap();
            assert_eq!(source, format!("docker-image://docker.io/library/other:1@{digest}"));
            assert_eq!(context.config.unwrap().config.env, ["A=b"]);
        }
        let arm = block_on(contexts.named_for("alpine", &Platform::new("linux", "arm64"))).unwrap().unwrap();
        assert_eq!(identifier(&arm.state, &gateway), "local://arm");
        assert_eq!(named("git").unwrap().0, "git://example.com/r.git#main");
        assert!(named("layout").unwrap().0.starts_with("oci-layout://"));
        assert_eq!(named("in").unwrap().1.config.unwrap().config.env, ["A=b"]);
        assert!(named("alpine:3").is_none());
        assert!(block_on(contexts.named("nulled")).is_err(), "an image config that is null is none");
        for name in ["bad", "shouted", "loose"] {
            assert_eq!(block_on(contexts.named(name)).unwrap_err().code(), Code::InvalidArgument, "{name}");
        }
        assert!(block_on(contexts.named("Bad Name")).is_err());
    }
}
