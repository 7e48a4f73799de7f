//! `COPY` and `ADD`: files from contexts, stages, Git, HTTP and the Dockerfile itself.

use buildkit_fsutil::pattern::PatternMatcher;
use buildkit_llb::git_url::{GitRef, GitUrl};
use buildkit_llb::path::{clean, join};
use buildkit_llb::reference::is_digest;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::expand::Names;
use crate::instructions::{Add, Copy, InlineFile, Sources};

use super::config::Layer;
use super::evaluate::Evaluator;
use super::ownership;
use super::paths::PathStyle;
use super::stage::{Command, Stage};
use super::step::{self, From, Label, Source, Step};
use super::work::Work;

/// What COPY and ADD have in common.
struct Request<'i> {
    keyword: &'static str,
    sources: &'i Sources,
    chown: Option<&'i String>,
    chmod: Option<&'i String>,
    exclude: &'i [String],
    link: bool,
    parents: bool,
    from: From,
    /// Options of ADD.
    add: Option<&'i Add>,
}

/// Words of a request with their variables replaced.
struct Expanded {
    chown: String,
    chmod: String,
    checksum: String,
    paths: Vec<String>,
    dest: String,
    inline: Vec<(String, Bytes)>,
}

impl<'d> Evaluator<'_, 'd> {
    pub(crate) fn add(&mut self, stage: &mut Stage<'d>, command: &Command<'d>, add: &Add) -> Result<()> {
        let request = Request {
            keyword: "ADD",
            sources: &add.sources,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            exclude: &add.exclude,
            link: add.link,
            parents: false,
            from: From::Context,
            add: Some(add),
        };
        let words = self.copy_step(stage, command, &request)?;
        for path in words.paths.iter().filter(|p| !p.starts_with("http://") && !p.starts_with("https://")) {
            self.plan.context_paths.insert(join(&["/", path]));
        }
        Ok(())
    }

    pub(crate) fn copy(&mut self, stage: &mut Stage<'d>, command: &Command<'d>, copy: &Copy) -> Result<()> {
        let source = command.sources.first().copied();
        let request = Request {
            keyword: "COPY",
            sources: &copy.sources,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            exclude: &copy.exclude,
            link: copy.link,
            parents: copy.parents,
            from: source.map_or(From::Context, From::Stage),
            add: None,
        };
        let words = self.copy_step(stage, command, &request)?;
        let used = source.and_then(|id| self.plan.stages.get(id)).map(|s| s.used_paths);
        for path in &words.paths {
            let path = join(&["/", path]);
            match used {
                Some(paths) => self.mark_used(paths, &path),
                None => {
                    self.plan.context_paths.insert(path);
                }
            }
        }
        Ok(())
    }

    fn copy_step(
        &mut self,
        stage: &mut Stage<'d>,
        command: &Command<'d>,
        request: &Request<'_>,
    ) -> Result<Expanded> {
        let count = request.sources.paths.len() + request.sources.inline.len();
        self.work.charge(Work::VERTEX * (1 + count))?;
        let words = self.expand_request(stage, command, request)?;
        if let From::Stage(id) = request.from
            && self.plan.stages.get(id).is_some_and(|s| !s.dispatched)
        {
            let message = format!("{} takes files from a stage that is defined later", request.keyword);
            return Err(Error::new(ErrorKind::Stage, message));
        }
        let style = PathStyle::of(stage.os());
        let dest = style.destination(&stage.dir, &words.dest)?;
        let mode = ownership::parse_mode(&words.chmod)?;
        Self::check_checksum(&words, request)?;

        let mut sources = Vec::with_capacity(words.paths.len() + words.inline.len());
        let mut git =
            GitFlags { keep: request.add.and_then(|a| a.keep_git_dir), checksum: words.checksum.clone() };
        for path in &words.paths {
            sources.push(self.source(style, command, request, &mut git, path)?);
        }
        for (name, data) in &words.inline {
            let name = style.without_drive(name, false)?.into_owned();
            sources.push(Source::Inline { name, data: data.clone() });
        }

        let text = self.plain_name(stage, &command.instruction.text);
        let platform = stage.platform.clone();
        let name = self.next_name(stage, platform.as_ref(), command.onbuild, &text);
        let link = (request.link && words.chmod.is_empty() && self.settings.caps.merge).then(|| {
            let shown = platform.as_ref().filter(|_| self.settings.options.is_multi_platform());
            stage.prefix(shown, command.onbuild).at(&stage.counter, &format!("LINK {text}"))
        });
        self.work.charge(name.len() + words.dest.len())?;
        stage.steps.push(Step::Copy(Box::new(step::Copy {
            label: Label {
                name,
                command: None,
                lines: command.instruction.lines,
                ignore_cache: stage.ignore_cache,
            },
            link,
            sources,
            dest,
            owner: Some(words.chown.clone()).filter(|c| !c.is_empty()),
            mode,
            exclude: request.exclude.to_vec(),
        })));
        self.commit(stage, history(request, &words), Layer::FromStep)?;
        Ok(words)
    }

    fn expand_request(
        &mut self,
        stage: &Stage<'d>,
        command: &Command<'d>,
        request: &Request<'_>,
    ) -> Result<Expanded> {
        let site = command.instruction.site();
        let checksum = request.add.and_then(|a| a.checksum.as_ref());
        let optional = |this: &mut Self, word: Option<&String>| match word {
            Some(word) => this.expand(stage, site, word),
            None => Ok(String::new()),
        };
        let chown = optional(self, request.chown)?;
        let chmod = optional(self, request.chmod)?;
        let checksum = optional(self, checksum)?;
        let paths: Vec<String> =
            request.sources.paths.iter().map(|p| self.expand(stage, site, p)).collect::<Result<_>>()?;
        let dest = self.expand(stage, site, &request.sources.dest)?;
        let inline =
            request.sources.inline.iter().map(|f| self.inline(stage, command, f)).collect::<Result<_>>()?;
        Ok(Expanded { chown, chmod, checksum, paths, dest, inline })
    }

    fn inline(
        &mut self,
        stage: &Stage<'d>,
        command: &Command<'d>,
        file: &InlineFile,
    ) -> Result<(String, Bytes)> {
        if !file.expand {
            return Ok((file.name.clone(), Bytes::copy_from_slice(&file.content)));
        }
        let text = String::from_utf8_lossy(&file.content);
        let mut names = Names::default();
        let data = self
            .settings
            .lexers
            .heredoc
            .word(&text, &stage.env, &mut names)
            .map(std::borrow::Cow::into_owned);
        self.report_unset(stage, command.instruction.site(), &names.unmatched);
        Ok((file.name.clone(), data?.into()))
    }

    fn check_checksum(words: &Expanded, request: &Request<'_>) -> Result<()> {
        if words.checksum.is_empty() {
            return Ok(());
        }
        let wrong = |why: &str| {
            Err(Error::new(ErrorKind::Instruction, format!("{} --checksum {why}", request.keyword)))
        };
        let [only] = words.paths.as_slice() else { return wrong("works with a single source only") };
        if !words.inline.is_empty() {
            return wrong("works with a single source only");
        }
        if !is_http(only) && GitRef::parse(only).is_err() {
            return wrong("works with HTTP and Git sources only");
        }
        Ok(())
    }

    fn source(
        &mut self,
        style: PathStyle,
        command: &Command<'d>,
        request: &Request<'_>,
        git: &mut GitFlags,
        path: &str,
    ) -> Result<Source> {
        if let Some(reference) = git_source(path)? {
            if request.add.is_none() {
                return Err(Error::new(
                    ErrorKind::Instruction,
                    format!("COPY takes no Git repository; use ADD {path}"),
                ));
            }
            return git.source(reference);
        }
        if is_http(path) {
            let Some(add) = request.add else {
                return Err(Error::new(ErrorKind::Instruction, format!("COPY takes no URL; use ADD {path}")));
            };
            if !git.checksum.is_empty() {
                check_digest(&git.checksum)?;
            }
            return Ok(Source::Http {
                url: path.to_owned(),
                filename: file_name(path),
                checksum: git.checksum.clone(),
                unpack: add.unpack == Some(true),
            });
        }
        self.lint_ignored(command, request, path);
        let (path, include, required) = if request.parents {
            let (parent, pattern) = path.split_once("/./").unwrap_or(("/", path));
            let pattern = style.normalize("/", pattern, false)?;
            let plain = !has_wildcards(parent) && !has_wildcards(&pattern);
            let required =
                plain.then(|| style.normalize("/", &join(&[parent, &pattern]), false)).transpose()?;
            let include = pattern.strip_prefix('/').unwrap_or(&pattern).to_owned();
            (parent, Some(include), required)
        } else {
            (path, None, None)
        };
        let unpack = request.add.is_some_and(|add| add.unpack.unwrap_or(true));
        Ok(Source::Local {
            from: request.from,
            path: style.normalize("/", path, false)?,
            include,
            required,
            unpack,
        })
    }

    /// Warns of a source that the ignore file keeps out of the context.
    fn lint_ignored(&mut self, command: &Command<'d>, request: &Request<'_>, path: &str) {
        if request.from != From::Context {
            return;
        }
        let Some(ignore) = &self.settings.ignore else { return };
        if excluded(ignore, path) {
            let keyword = if request.add.is_some() { "ADD" } else { "COPY" };
            self.linter.copy_ignored_file(command.instruction.site(), keyword, path);
        }
    }
}

/// Flags of ADD for Git sources. What one source's URL says also holds for the sources after it.
struct GitFlags {
    keep: Option<bool>,
    checksum: String,
}

impl GitFlags {
    fn source(&mut self, reference: GitRef) -> Result<Source> {
        let wrong = |message: String| Err(Error::new(ErrorKind::Instruction, message));
        match (self.keep, reference.keep_git_dir) {
            (Some(flag), Some(query)) if flag != query => {
                return wrong(format!("--keep-git-dir={flag} contradicts keep-git-dir={query} in the URL"));
            }
            (None, Some(query)) => self.keep = Some(query),
            _ => {}
        }
        if !reference.checksum.is_empty() {
            if self.checksum.is_empty() {
                self.checksum.clone_from(&reference.checksum);
            } else if self.checksum != reference.checksum {
                return wrong(format!(
                    "the checksum {} contradicts {} in the URL",
                    self.checksum, reference.checksum
                ));
            }
        }
        Ok(Source::Git {
            keep_git_dir: self.keep == Some(true),
            checksum: self.checksum.clone(),
            reference: Box::new(reference),
        })
    }
}

fn history(request: &Request<'_>, words: &Expanded) -> String {
    let mut text = String::from(request.keyword);
    if request.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &words.chown), ("chmod", &words.chmod)] {
        if !value.is_empty() {
            text.extend([" --", flag, "=", value]);
        }
    }
    for path in &words.paths {
        text.extend([" ", path]);
    }
    for (name, _) in &words.inline {
        text.extend([" <<", name]);
    }
    text.extend([" ", &words.dest]);
    text
}

pub(crate) fn is_http(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// The Git repository `path` names, if it names one. `github.com/…` without a scheme is a local path here.
pub(crate) fn git_source(path: &str) -> Result<Option<GitRef>> {
    match GitRef::parse(path) {
        Ok(reference) if reference.looks_local => Ok(None),
        Ok(reference) => Ok(Some(reference)),
        Err(error) if error.is_git() => {
            Err(Error::new(ErrorKind::Instruction, format!("{path} is no usable Git URL")).caused_by(error))
        }
        Err(_) => Ok(None),
    }
}

pub(crate) fn check_digest(checksum: &str) -> Result<()> {
    if is_digest(checksum) {
        return Ok(());
    }
    let message = format!("--checksum={checksum} is no digest; write sha256: and 64 hexadecimal digits");
    Err(Error::new(ErrorKind::Instruction, message))
}

/// The name of the file an URL is stored under: the last element of its decoded path. An URL that is broken
/// or has none gives a name that stands for that.
pub(crate) fn file_name(url: &str) -> String {
    let path = GitUrl::parse(url).map(|url| url.path).unwrap_or_default();
    match super::paths::base(&path) {
        "." | ".." | "/" => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// Whether a wildcard stands in `path` without an escape before it.
fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

fn excluded(ignore: &PatternMatcher, path: &str) -> bool {
    let cleaned = clean(path);
    if matches!(cleaned.as_str(), "." | "/")
        && !ignore.patterns().any(|p| matches!(p.as_str(), "*" | "**" | "**/*"))
    {
        return false;
    }
    // The client that sends the context tells of a malformed pattern; there is nothing to warn of here.
    ignore.matches_or_parent_matches(&cleaned).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_urls_are_named_after_the_decoded_path() {
        let cases = [
            ("https://example.com/a%20b/", "a b"),
            ("https://example.com/f#frag", "f"),
            ("https://example.com/x/f.tar.gz?q=/z", "f.tar.gz"),
            ("https://example.com", "__unnamed__"),
            ("https://example.com/", "__unnamed__"),
            ("https://example.com/%zz", "__unnamed__"),
            ("https://example.com:port/x", "__unnamed__"),
        ];
        for (url, want) in cases {
            assert_eq!(file_name(url), want);
        }
    }

    #[test]
    fn escaped_wildcards_are_none() {
        for (path, want) in
            [("a*", true), ("a\\*", false), ("a\\\\*", true), ("[x", true), ("a?b", true), ("ab", false)]
        {
            assert_eq!(has_wildcards(path), want, "{path}");
        }
    }
}
