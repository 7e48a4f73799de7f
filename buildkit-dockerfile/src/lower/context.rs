//! Build contexts: the main one, named ones, and the ignore files of local ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use buildkit_frontend::{ARCHIVE_START, input_image_config, is_archive};
use buildkit_fsutil::pattern::read_ignore;
use buildkit_llb::git_url::GitRef;
use buildkit_llb::reference::Reference;
use buildkit_llb::{Copy, FileSteps};
use buildkit_llb::{Differ, Git, Http, Image, Local, Mtime, OciLayout};
use buildkit_llb::{Platform, State, scratch};
use bytes::Bytes;
use futures::lock::Mutex as AsyncMutex;

use crate::error::{Error, ErrorKind, Result};

use super::config::ImageConfig;
use super::options::Options;
use super::resolver::{ImageRequest, Read, Redirected, ResolveError, ResolvedImage, Resolver};

/// Name of ignore files.
pub(crate) const DOCKERIGNORE: &str = ".dockerignore";

/// Name of the local directory with the main build context.
const CONTEXT: &str = "context";
/// Name of the local directory with the Dockerfile.
const DOCKERFILE: &str = "dockerfile";

/// How often a source policy may send a named context elsewhere.
const MAX_REDIRECTS: usize = 10;

/// The build contexts of one build, shared by the conversions for its platforms.
pub(crate) struct Contexts<'a> {
    pub(crate) options: &'a Options,
    pub(crate) resolver: &'a dyn Resolver,
    /// The remote main context, if it is not the client's directory.
    pub(crate) remote: Option<State>,
    /// Where the Dockerfile is, if it is not in a directory of the client.
    pub(crate) dockerfile: Option<State>,
    /// The remote main context is the Dockerfile itself, under this name.
    pub(crate) dockerfile_name: Option<String>,
    /// The ignore file of the main context; read once.
    ignore: AsyncMutex<Option<Arc<[String]>>>,
    /// The ignore file found beside the Dockerfile.
    pub(crate) own_ignore: Option<Bytes>,
    images: Mutex<HashMap<ImageRequest, Slot>>,
}

type Slot = Arc<AsyncMutex<Option<ResolvedImage>>>;

/// What a named context stands for.
#[derive(Clone, Debug)]
pub(crate) struct NamedContext {
    pub(crate) tree: Tree,
    /// The image config, where the context has one.
    pub(crate) image: Option<Arc<ImageConfig>>,
}

/// A named context that a stage or image name leads to.
#[derive(Clone, Debug)]
pub(crate) struct FoundContext {
    /// The name as it was matched, with the platform if that was part of it.
    key: String,
    /// `scheme:value`.
    value: String,
    name: Reference,
    platform: Option<Platform>,
}

/// A file system whose vertex may depend on what is used of it.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Ready(State),
    Local(Arc<LocalTree>),
}

/// A directory of the client that is not the main context.
#[derive(Debug)]
pub(crate) struct LocalTree {
    name: String,
    session: Option<String>,
    shared_key: String,
    label: String,
    exclude: Vec<String>,
}

impl NamedContext {
    /// The platform of the file system, if it has one.
    pub(crate) fn platform(&self) -> Option<Platform> {
        match &self.tree {
            Tree::Ready(state) => state.context().platform().cloned(),
            Tree::Local(_) => None,
        }
    }
}

impl Tree {
    /// The file system, of which `paths` are used (none: all of it).
    pub(crate) fn state(&self, paths: Vec<String>) -> State {
        match self {
            Self::Ready(state) => state.clone(),
            Self::Local(tree) => with_session(Local::new(&tree.name), tree.session.as_deref())
                .shared_key_hint(&tree.shared_key)
                .exclude(tree.exclude.iter())
                .follow(paths)
                .name(&tree.label)
                .into(),
        }
    }
}

/// Says whose directory it is. Without a session it is that of one conversion only.
pub(crate) fn with_session(local: Local, session: Option<&str>) -> Local {
    match session {
        Some(session) => local.session(session),
        None => local.unique_id(unique_id()),
    }
}

/// An id that no other conversion uses.
fn unique_id() -> String {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    static ID: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // The hasher of the standard library is seeded with randomness of the system.
    let process = ID.get_or_init(|| RandomState::new().build_hasher().finish());
    format!("{process:016x}{:09x}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Context, message)
}

fn failed(what: impl std::fmt::Display, error: ResolveError) -> Error {
    Error::new(ErrorKind::Gateway, format!("cannot {what}")).caused_by(error)
}

impl<'a> Contexts<'a> {
    /// Finds out where main context and Dockerfile are.
    pub(crate) async fn open(options: &'a Options, resolver: &'a dyn Resolver) -> Result<Self> {
        let mut contexts = Self {
            options,
            resolver,
            remote: None,
            dockerfile: None,
            dockerfile_name: None,
            ignore: AsyncMutex::new(None),
            own_ignore: None,
            images: Mutex::default(),
        };
        let reference = options.context.as_deref().unwrap_or_default();
        if let Some(state) = contexts.git_context(reference)? {
            contexts.dockerfile = Some(state.clone());
            contexts.remote = Some(state);
        } else if reference.starts_with("http://") || reference.starts_with("https://") {
            contexts.open_http(reference).await?;
        } else {
            let input = |name: String| async move {
                resolver.input(&name).await.map_err(|e| failed(format!("get the input {name:?}"), e))
            };
            if options.dockerfile_local.is_none() {
                contexts.dockerfile = input(DOCKERFILE.to_owned()).await?;
            }
            contexts.remote = input(CONTEXT.to_owned()).await?;
        }
        if let Some(state) = &contexts.remote
            && let Some(subdir) = &options.context_subdir
        {
            let copy = Copy::new(state, subdir, "/").contents_only();
            contexts.remote = Some(FileSteps::new(scratch(), copy).into());
        }
        Ok(contexts)
    }

    /// The main context as a Git repository, if `reference` names one.
    fn git_context(&self, reference: &str) -> Result<Option<State>> {
        let Some(git) = git_ref(reference)? else { return Ok(None) };
        let mut source = Git::from_ref(&git).name(format!("[internal] load git source {reference}"));
        if self.options.keep_git_dir {
            source = source.keep_git_dir();
        }
        if self.options.build_args.get("SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty()) {
            source = source.mtime(Mtime::Commit);
        }
        Ok(Some(source.into()))
    }

    async fn open_http(&mut self, url: &str) -> Result<()> {
        let state: State =
            Http::new(url).filename(CONTEXT).name("[internal] load remote build context").into();
        let read = Read { limit: Some(ARCHIVE_START), evaluate: false };
        let start = self
            .resolver
            .read_file(&state, CONTEXT, read)
            .await
            .map_err(|e| failed(format!("download the build context {url}"), e))?
            .ok_or_else(|| wrong(format!("the build context {url} cannot be read")))?;
        let tree: State = if is_archive(&start) {
            FileSteps::new(scratch(), Copy::new(state, "/context", "/").unpack()).into()
        } else {
            self.dockerfile_name = Some(CONTEXT.to_owned());
            state
        };
        self.dockerfile = Some(tree.clone());
        self.remote = Some(tree);
        Ok(())
    }

    /// The main context, of which `paths` are used (none: all of it).
    pub(crate) async fn main(&self, paths: Vec<String>) -> Result<State> {
        if let Some(state) = &self.remote {
            return Ok(state.clone());
        }
        let ignore = self.ignore_patterns().await?;
        let local = Local::new(CONTEXT)
            .shared_key_hint(CONTEXT)
            .exclude(ignore.iter())
            .follow(paths)
            .name("[internal] load build context");
        Ok(with_session(local, self.options.session_of(CONTEXT)).into())
    }

    /// Patterns of the ignore file of the main context; none for a remote context.
    pub(crate) async fn ignore_patterns(&self) -> Result<Arc<[String]>> {
        if self.remote.is_some() {
            return Ok(Arc::from([]));
        }
        let mut cached = self.ignore.lock().await;
        if let Some(patterns) = &*cached {
            return Ok(Arc::clone(patterns));
        }
        let content = if let Some(content) = &self.own_ignore {
            content.clone()
        } else {
            let session = self.options.session_of(CONTEXT);
            self.local_ignore(CONTEXT, session, "context-.dockerignore", "[internal]", false).await?
        };
        let patterns: Arc<[String]> = parse_ignore(&content)?.into();
        *cached = Some(Arc::clone(&patterns));
        Ok(patterns)
    }

    /// The ignore file at the root of the client's directory `name`.
    async fn local_ignore(
        &self,
        name: &str,
        session: Option<&str>,
        shared_key: &str,
        prefix: &str,
        evaluate: bool,
    ) -> Result<Bytes> {
        let local = Local::new(name)
            .follow([DOCKERIGNORE])
            .shared_key_hint(shared_key)
            .name(format!("{prefix} load {DOCKERIGNORE}"))
            .differ(Differ::None, false);
        let state: State = with_session(local, session).into();
        let content = self.resolver.read_file(&state, DOCKERIGNORE, Read { limit: None, evaluate }).await;
        Ok(content.map_err(|e| failed(format!("read the ignore file of {name:?}"), e))?.unwrap_or_default())
    }

    /// Metadata of an image; equal requests are asked once.
    pub(crate) async fn image(&self, request: ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let slot = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(images.entry(request.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(image) = &*slot {
            return Ok(image.clone());
        }
        let image = self.resolver.image(&request).await?;
        *slot = Some(image.clone());
        Ok(image)
    }

    /// The named context that replaces the stage or image `name`, if there is one.
    pub(crate) async fn named(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Option<NamedContext>> {
        match self.find_named(name, platform)? {
            Some(found) => self.load(&found).await.map(Some),
            None => Ok(None),
        }
    }

    /// What replaces the stage or image `name`, not looked at yet.
    ///
    /// # Errors
    ///
    /// `name` cannot be that of a context, whether there are any or not.
    pub(crate) fn find_named(&self, name: &str, platform: Option<&Platform>) -> Result<Option<FoundContext>> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case(CONTEXT) {
            return Ok(None);
        }
        self.find(name, platform)
    }

    /// As [`find_named`](Self::find_named), also for the names that mean something else to a build.
    pub(crate) fn find(&self, name: &str, platform: Option<&Platform>) -> Result<Option<FoundContext>> {
        let reference = Reference::parse_normalized(name)
            .map_err(|e| wrong(format!("{name:?} cannot be the name of a context")).caused_by(e))?;
        if self.options.contexts.is_empty() {
            return Ok(None);
        }
        let familiar = reference.familiar();
        let key = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let wanted = match platform {
            Some(platform) => platform.normalized(),
            None => self.resolver.build_platform().unwrap_or_else(Platform::host).normalized(),
        };
        let specific = format!("{key}::{}", wanted.format_all());
        let found =
            [specific.as_str(), key].into_iter().find_map(|k| Some((k, self.options.contexts.get(k)?)));
        let Some((key, value)) = found else { return Ok(None) };
        let name = Reference::parse_normalized(familiar.strip_suffix(":latest").unwrap_or(&familiar))
            .map_err(|e| wrong(format!("{name:?} cannot be the name of a context")).caused_by(e))?;
        Ok(Some(FoundContext {
            key: key.to_owned(),
            value: value.clone(),
            name,
            platform: platform.cloned(),
        }))
    }

    /// Builds the context that was found.
    pub(crate) async fn load(&self, found: &FoundContext) -> Result<NamedContext> {
        let FoundContext { key, value, name, platform } = found;
        let mut value = value.clone();
        for _ in 0..=MAX_REDIRECTS {
            match self.load_once(key, &value, name, platform.as_ref()).await? {
                Loaded::Context(context) => return Ok(context),
                Loaded::Redirected(to) => value = to,
            }
        }
        Err(wrong(format!("source policies send the context {key:?} around in circles")))
    }

    async fn load_once(
        &self,
        key: &str,
        value: &str,
        name: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Loaded> {
        let Some((scheme, rest)) = value.split_once(':') else {
            return Err(wrong(format!("the context {key:?} is {value:?}; it must be scheme:value")));
        };
        let scheme = if scheme.starts_with("git@") { "git" } else { scheme };
        let plain =
            |state: State| Ok(Loaded::Context(NamedContext { tree: Tree::Ready(state), image: None }));
        match scheme {
            "docker-image" => {
                self.image_context(key, rest.strip_prefix("//").unwrap_or(rest), platform).await
            }
            "git" | "http" | "https" => {
                if let Some(git) = git_ref(value)? {
                    return plain(
                        Git::from_ref(&git).name(format!("[internal] load git source {value}")).into(),
                    );
                }
                if scheme == "git" {
                    return Err(wrong(format!("the context {key:?} is no Git repository: {value}")));
                }
                plain(Http::new(value).filename(CONTEXT).name(format!("[context {key}] {value}")).into())
            }
            "oci-layout" => {
                self.layout_context(key, rest.strip_prefix("//").unwrap_or(rest), name, platform).await
            }
            "local" => {
                let session = self.options.session_of(rest);
                let hint = format!("context:{key}-{DOCKERIGNORE}");
                let content =
                    self.local_ignore(rest, session, &hint, &format!("[context {key}]"), true).await?;
                let shared = self.options.shared_keys.get(key).map_or("", String::as_str);
                let tree = LocalTree {
                    name: rest.to_owned(),
                    session: session.map(str::to_owned),
                    shared_key: format!("context:{key}-{shared}"),
                    label: format!("[context {key}] load from client"),
                    exclude: parse_ignore(&content)?,
                };
                Ok(Loaded::Context(NamedContext { tree: Tree::Local(Arc::new(tree)), image: None }))
            }
            "input" => self.input_context(key, rest).await,
            other => Err(wrong(format!("the context {key:?} has the unknown scheme {other:?}"))),
        }
    }

    async fn image_context(&self, key: &str, reference: &str, platform: Option<&Platform>) -> Result<Loaded> {
        if reference == "scratch" {
            return Ok(Loaded::Context(NamedContext { tree: Tree::Ready(scratch()), image: None }));
        }
        let normalized = Reference::parse_normalized(reference)
            .map_err(|e| {
                wrong(format!("the context {key:?} is no image reference: {reference:?}")).caused_by(e)
            })?
            .with_default_tag()
            .to_string();
        let request = ImageRequest {
            log_name: format!("[context {key}] load metadata for {normalized}"),
            reference: normalized,
            platform: platform.cloned(),
            mode: self.options.resolve_mode,
            store: None,
        };
        let resolved = match self.image(request).await {
            Ok(resolved) => resolved,
            Err(e) => {
                return match e.downcast::<Redirected>() {
                    Ok(redirected) => Ok(Loaded::Redirected(redirected.to)),
                    Err(e) => Err(failed(format!("resolve the context {key:?}, image {reference}"), e)),
                };
            }
        };
        let mut source = Image::new(&resolved.reference).name(format!("[context {key}] {reference}"));
        if let Some(platform) = platform {
            source = source.platform(platform.clone());
        }
        with_config(key, source.into(), &resolved.config)
    }

    async fn layout_context(
        &self,
        key: &str,
        spec: &str,
        name: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Loaded> {
        let unusable =
            || wrong(format!("the context {key:?} must be oci-layout://store@digest, not {spec:?}"));
        let layout = Reference::parse(spec).map_err(|e| unusable().caused_by(e))?;
        let (store, digest) = (layout.name(), layout.digest().ok_or_else(unusable)?);
        let reference = name
            .clone()
            .with_digest(digest)
            .map_err(|e| wrong(format!("the context {key:?} has an unusable digest: {spec:?}")).caused_by(e))?
            .to_string();
        let session = self.options.session.clone().unwrap_or_default();
        let request = ImageRequest {
            log_name: format!("[context {key}] load metadata for {reference}"),
            reference: reference.clone(),
            platform: platform.cloned(),
            mode: super::options::ResolveMode::Default,
            store: Some((session.clone(), store.clone())),
        };
        let resolved =
            self.image(request).await.map_err(|e| failed(format!("resolve the context {key:?}"), e))?;
        let mut source = OciLayout::new(reference)
            .name(format!("[context {key}] OCI load from client"))
            .store(session, store);
        if let Some(platform) = platform {
            source = source.platform(platform.clone());
        }
        with_config(key, source.into(), &resolved.config)
    }

    async fn input_context(&self, key: &str, input: &str) -> Result<Loaded> {
        let state = self
            .resolver
            .input(input)
            .await
            .map_err(|e| failed(format!("get the input {input:?}"), e))?
            .ok_or_else(|| {
                wrong(format!("the context {key:?} needs the input {input:?}, which was not given"))
            })?;
        let Some(metadata) = self.options.input_metadata.get(input) else {
            return Ok(Loaded::Context(NamedContext { tree: Tree::Ready(state), image: None }));
        };
        let config = input_image_config(metadata)
            .map_err(|e| wrong(format!("the metadata of the input {input:?} cannot be read")).caused_by(e))?;
        match config {
            None => Ok(Loaded::Context(NamedContext { tree: Tree::Ready(state), image: None })),
            Some(config) => with_config(key, state, &config),
        }
    }
}

enum Loaded {
    Context(NamedContext),
    /// A source policy says to take this instead.
    Redirected(String),
}

/// `state` with environment, directory and platform of the image `config`.
fn with_config(key: &str, state: State, config: &Bytes) -> Result<Loaded> {
    let mut image = ImageConfig::from_json(config)
        .map_err(|e| wrong(format!("the context {key:?} has an unusable image config")).caused_by(e))?;
    image.created = None;
    let state = state.image_config(config);
    Ok(Loaded::Context(NamedContext { tree: Tree::Ready(state), image: Some(Arc::new(image)) }))
}

/// The Git repository a context names, if it names one.
fn git_ref(text: &str) -> Result<Option<GitRef>> {
    match GitRef::parse(text) {
        Ok(git) => Ok(Some(git)),
        Err(e) if e.is_git() => Err(wrong(format!("{text} is no usable Git URL")).caused_by(e)),
        Err(_) => Ok(None),
    }
}

fn parse_ignore(content: &[u8]) -> Result<Vec<String>> {
    read_ignore(content).map_err(|e| wrong("the ignore file cannot be read").caused_by(e))
}
