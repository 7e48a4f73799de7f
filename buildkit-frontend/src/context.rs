//! Contexts: the directories, repositories and images a build reads from, and
//! the file that says what to build.

use std::ops::RangeInclusive;

use buildkit_fsutil::pattern::read_ignore;
use buildkit_llb::git_url::GitRef;
use buildkit_llb::{Copy, Definition, Differ, FileSteps, Git, Http, Local, State, scratch};
use buildkit_proto::pb;
use bytes::Bytes;

use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
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

impl Contexts {
    /// Finds out where the main context is.
    ///
    /// # Errors
    /// When the option `context` is a bad Git URL, or a download is no
    /// archive.
    pub async fn open(gateway: &Gateway) -> Result<Self> {
        let mut contexts = Self { gateway: gateway.clone(), remote: None, file_tree: None };
        let place = gateway.options().get(CONTEXT).unwrap_or_default();
        if let Some(git) = git(place)? {
            let state = State::from(Git::from_ref(&git).name(format!("[internal] load git source {place}")));
            contexts.file_tree = Some(state.clone());
            contexts.remote = Some(state);
        } else if place.starts_with("https://") || place.starts_with("http://") {
            let file = Http::new(place).filename(CONTEXT).name("[internal] load remote build context");
            let unpack = Copy::new(State::from(file), format!("/{CONTEXT}"), "/").unpack();
            let state = State::from(FileSteps::new(scratch(), unpack));
            contexts.file_tree = Some(state.clone());
            contexts.remote = Some(state);
        } else {
            let inputs = gateway.inputs().await?;
            let input = |name: &str| inputs.get(name).map(Definition::to_state).transpose();
            contexts.file_tree = input(DOCKERFILE)?;
            contexts.remote = input(CONTEXT)?;
        }
        if let (Some(state), Some(folder)) = (&contexts.remote, gateway.options().get("contextsubdir")) {
            let copy = Copy::new(state, folder, "/").contents_only();
            contexts.remote = Some(FileSteps::new(scratch(), copy).into());
        }
        Ok(contexts)
    }

    /// Reads the file that says what to build: the one that the option
    /// `filename` names, or `default`.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such file.
    pub async fn file(&self, default: &str) -> Result<DefinitionFile> {
        let options = self.gateway.options();
        let name = options.get("filename").filter(|name| !name.is_empty()).unwrap_or(default).to_owned();
        let state = match &self.file_tree {
            Some(state) => state.clone(),
            None => Local::new(DOCKERFILE)
                .follow([name.clone(), format!("{name}{IGNORE}")])
                .session(self.session_of(DOCKERFILE))
                .shared_key_hint(DOCKERFILE)
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
        Ok(DefinitionFile { name, data, definition, tree })
    }

    /// The main context without what its `.dockerignore` ignores.
    pub async fn main(&self) -> Result<State> {
        self.main_paths(std::iter::empty::<String>()).await
    }

    /// The main context, of which only `paths` are used; the client sends
    /// nothing else. No paths at all are the whole context.
    pub async fn main_paths<T: Into<String>>(&self, paths: impl IntoIterator<Item = T>) -> Result<State> {
        if let Some(state) = &self.remote {
            return Ok(state.clone());
        }
        let ignored = self.ignored(CONTEXT, "[internal]").await?;
        Ok(Local::new(CONTEXT)
            .session(self.session_of(CONTEXT))
            .exclude(ignored)
            .follow(paths)
            .shared_key_hint(CONTEXT)
            .name("[internal] load build context")
            .into())
    }

    /// The context that the client gave under a name (option `context:NAME`):
    /// a directory of the client, an image, a Git repository, a download or
    /// an input.
    ///
    /// # Errors
    /// When the client gave something else, or something that is not there.
    pub async fn named(&self, name: &str) -> Result<Option<State>> {
        let options = self.gateway.options();
        let specific = format!("context:{name}::{}", self.gateway.default_platform());
        let plain = format!("context:{name}");
        let Some(place) = options.get(&specific).or_else(|| options.get(&plain)) else {
            return Ok(None);
        };
        let wrong = |reason: &str| {
            Error::with_code(Code::InvalidArgument, format!("the context {name} is {place:?}: {reason}"))
        };
        let Some((scheme, rest)) = place.split_once(':') else {
            return Err(wrong("it must begin with a scheme, as in local:NAME"));
        };
        let path = rest.strip_prefix("//").unwrap_or(rest);
        let state = match scheme {
            "local" => {
                let ignored = self.ignored(path, &format!("[context {name}]")).await?;
                Local::new(path)
                    .session(self.session_of(path))
                    .exclude(ignored)
                    .shared_key_hint(format!("context:{name}"))
                    .name(format!("[context {name}] load from client"))
                    .into()
            }
            "docker-image" if path == "scratch" => scratch(),
            "docker-image" => self.gateway.image(path).await?,
            "oci-layout" => {
                let (store, _) =
                    path.split_once(['@', ':']).ok_or_else(|| wrong("a layout needs a digest"))?;
                let request = ResolveImage::new(path).oci_layout(store, self.session_of(store));
                let image = self.gateway.resolve_image(request).await?;
                let layout = buildkit_llb::OciLayout::new(image.reference)
                    .store(self.session_of(store), store)
                    .name(format!("[context {name}] load from client"));
                State::from(layout).image_config(&image.config)
            }
            "input" => {
                let inputs = self.gateway.inputs().await?;
                let input = inputs.get(path).ok_or_else(|| wrong("there is no such input"))?;
                input.to_state()?
            }
            _ => match git(place)? {
                Some(git) => Git::from_ref(&git).name(format!("[context {name}] {place}")).into(),
                None if scheme == "https" || scheme == "http" => {
                    Http::new(place).filename(CONTEXT).name(format!("[context {name}] {place}")).into()
                }
                None => {
                    return Err(wrong("contexts are local, docker-image, oci-layout, git, https or input"));
                }
            },
        };
        Ok(Some(state))
    }

    /// The patterns of the `.dockerignore` of a directory of the client.
    async fn ignored(&self, local: &str, prefix: &str) -> Result<Vec<String>> {
        let state = Local::new(local)
            .follow([IGNORE])
            .session(self.session_of(local))
            .shared_key_hint(format!("{local}-{IGNORE}"))
            .differ(Differ::None, false)
            .name(format!("{prefix} load {IGNORE}"));
        let result = self.gateway.solve_state(&state.into()).await?;
        let Some(file) = result.reference()?.read_optional(IGNORE).await? else {
            return Ok(Vec::new());
        };
        read_ignore(&file).map_err(|error| Error::context(format!("{IGNORE} of {local} is damaged"), error))
    }

    /// The session a directory of the client comes from.
    fn session_of(&self, local: &str) -> &str {
        self.gateway.options().get(&format!("local-sessionid:{local}")).unwrap_or(self.gateway.session_id())
    }
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
