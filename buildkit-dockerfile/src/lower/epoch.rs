//! `SOURCE_DATE_EPOCH`: the time a build pretends to run at.

use std::collections::BTreeMap;

use buildkit_llb::{Git, Http, State};

use crate::Dockerfile;
use crate::error::{Error, ErrorKind, Result};
use crate::expand::Names;
use crate::instructions::{Add, Kind, Stage};

use super::args::GlobalArgs;
use super::context::{Contexts, Tree};
use super::copy::{file_name, git_source, is_http};
use super::expansion::Lexers;
use super::resolver::{Read, ResolveError};
use super::stage::SCRATCH;
use super::timestamp::Timestamp;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// What the time is found with.
pub(crate) struct Search<'a> {
    pub(crate) file: &'a Dockerfile,
    pub(crate) contexts: &'a Contexts<'a>,
    pub(crate) lexers: &'a Lexers,
}

impl Search<'_> {
    /// Resolves the argument and puts the seconds in its place.
    pub(crate) async fn resolve(
        &self,
        build_args: &mut BTreeMap<String, String>,
        globals: &mut GlobalArgs,
    ) -> Result<Option<Timestamp>> {
        let declared = globals.declared.contains_key(NAME).then(|| globals.env.value(NAME)).flatten();
        let value = match (build_args.get(NAME), declared) {
            (Some(value), _) => value.clone(),
            (None, Some(value)) if !value.is_empty() => value.to_owned(),
            (None, _) => return Ok(None),
        };
        let time = if value.is_empty() {
            None
        } else if let Ok(seconds) = value.parse::<i64>() {
            Some(Timestamp::from_unix(seconds))
        } else {
            self.find(&value, build_args, globals).await?
        };
        if let Some(time) = time {
            let seconds = time.seconds.to_string();
            if globals.env.value(NAME).is_some() {
                globals.env.set(NAME, &seconds);
            }
            // An argument that is only declared stays a default, which a stage may override.
            if let Some(value) = build_args.get_mut(NAME) {
                *value = seconds;
            }
        } else {
            build_args.remove(NAME);
            globals.env.remove(NAME);
        }
        Ok(time)
    }

    async fn find(
        &self,
        value: &str,
        build_args: &BTreeMap<String, String>,
        globals: &GlobalArgs,
    ) -> Result<Option<Timestamp>> {
        if value == "context" {
            let state = self.contexts.main(Vec::new()).await?;
            return self.ask(&state, "[internal] resolve main build context metadata").await;
        }
        let given = match self.contexts.find(value, None) {
            Ok(given) => given,
            // Not every text can name a context.
            Err(_) if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b)) => None,
            Err(e) => return Err(e),
        };
        if let Some(given) = given {
            let context = self.contexts.load(&given).await?;
            let Tree::Ready(state) = &context.tree else { return Ok(None) };
            return self.ask(state, &format!("[internal] resolve {NAME} named context {value}")).await;
        }
        let stage = self
            .file
            .stages
            .iter()
            .rev()
            .find(|s| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(value)));
        let Some(stage) = stage else {
            let message = format!(
                "{NAME} is {value:?}; it must be seconds since 1970, context, or the name of a context or stage"
            );
            return Err(Error::new(ErrorKind::Option, message));
        };
        let state = self.stage_source(stage, build_args, globals).map_err(|e| e.at(stage.lines))?;
        self.ask(&state, &format!("[internal] resolve {NAME} source stage {value}")).await
    }

    /// The only source of a stage that does nothing but fetch it.
    fn stage_source(
        &self,
        stage: &Stage,
        build_args: &BTreeMap<String, String>,
        globals: &GlobalArgs,
    ) -> Result<State> {
        let wrong = |why: String| Error::new(ErrorKind::Stage, format!("the stage that {NAME} names {why}"));
        let base = self.lexers.plain(&stage.base, &globals.env)?;
        if base != SCRATCH {
            return Err(wrong("must start from scratch".to_owned()));
        }
        let mut env = buildkit_llb::EnvList::new();
        let mut found: Option<(&Add, buildkit_llb::EnvList)> = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Arg(arg) => {
                    for arg in &arg.args {
                        let value = match (build_args.get(&arg.name), &arg.default) {
                            (Some(value), _) => Some(value.clone()),
                            (None, Some(default)) => Some(self.lexers.plain(default, &env)?),
                            (None, None) => globals.env.value(&arg.name).map(str::to_owned),
                        };
                        if let Some(value) = value {
                            env.set(&arg.name, value);
                        }
                    }
                }
                Kind::Add(_) if found.is_some() => {
                    return Err(wrong("must have one ADD of a remote source, not several".to_owned()));
                }
                Kind::Add(add) => found = Some((add, env.clone())),
                _ => return Err(wrong(format!("may not use {}", instruction.keyword))),
            }
        }
        let Some((add, env)) = found else {
            return Err(wrong("must have one ADD of a remote source".to_owned()));
        };
        let [path] = add.sources.paths.as_slice() else {
            return Err(wrong("must have one ADD with exactly one source".to_owned()));
        };
        if !add.sources.inline.is_empty() {
            return Err(wrong("must have one ADD with exactly one source".to_owned()));
        }
        let mut names = Names::default();
        let path = self.lexers.word.word(path, &env, &mut names)?;
        let checksum = match &add.checksum {
            Some(word) => self.lexers.plain(word, &env)?,
            None => String::new(),
        };
        if let Some(git) = git_source(&path)? {
            let mut source = Git::new(&git.remote, "").reference(&git.reference).subdir(&git.subdir);
            let checksum = if checksum.is_empty() { git.checksum.clone() } else { checksum };
            source = source.checksum(checksum);
            if add.keep_git_dir.or(git.keep_git_dir) == Some(true) {
                source = source.keep_git_dir();
            }
            return Ok(source.into());
        }
        if !is_http(&path) {
            return Err(wrong("must ADD from HTTP or Git".to_owned()));
        }
        let mut source = Http::new(&*path).filename(file_name(&path)?);
        if !checksum.is_empty() {
            source = source.checksum(checksum);
        }
        Ok(source.into())
    }

    /// The time a source was last changed.
    async fn ask(&self, state: &State, log_name: &str) -> Result<Option<Timestamp>> {
        let failed = |e: ResolveError| {
            Error::new(ErrorKind::Gateway, format!("cannot find out the time for {NAME}")).caused_by(e)
        };
        let resolver = self.contexts.resolver;
        let Some(metadata) = resolver.source(state, log_name).await.map_err(failed)? else { return Ok(None) };
        if let Some(commit) = &metadata.commit {
            return Ok(commit_time(commit));
        }
        if let Some(seconds) = metadata.last_modified {
            return Ok(Some(Timestamp::from_unix(seconds)));
        }
        let Some(name) = &metadata.filename else { return Ok(None) };
        let content = resolver.read_file(state, name, Read::default()).await.map_err(failed)?;
        Ok(content.and_then(|c| newest_in_tar(&c)).map(Timestamp::from_unix))
    }
}

/// The committer's time in a raw commit object.
fn commit_time(commit: &[u8]) -> Option<Timestamp> {
    let text = String::from_utf8_lossy(commit);
    let line = text.lines().take_while(|l| !l.is_empty()).find_map(|l| l.strip_prefix("committer "))?;
    let mut words = line.rsplit(' ');
    let zone = words.next()?;
    let seconds = words.next()?.parse().ok()?;
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number: i32 =
        (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())??;
    Some(Timestamp { seconds, nanoseconds: 0, offset: sign * (number / 100 * 3600 + number % 100 * 60) })
}

/// The latest time of a regular file in an uncompressed tar archive.
fn newest_in_tar(archive: &[u8]) -> Option<i64> {
    let octal = |field: &[u8]| -> Option<i64> {
        let digits: String = field
            .iter()
            .copied()
            .skip_while(|b| *b == b' ')
            .take_while(u8::is_ascii_digit)
            .map(char::from)
            .collect();
        i64::from_str_radix(&digits, 8).ok()
    };
    let mut newest = None;
    let mut at = 0usize;
    while let Some(header) = archive.get(at..at.checked_add(512)?) {
        if header.iter().all(|b| *b == 0) {
            break;
        }
        if header.get(257..262) != Some(b"ustar") {
            return newest;
        }
        let size = usize::try_from(octal(header.get(124..136)?)?).ok()?;
        if matches!(header.get(156), Some(b'0' | 0)) {
            newest = newest.max(octal(header.get(136..148)?));
        }
        at = at.checked_add(512)?.checked_add(size.checked_next_multiple_of(512)?)?;
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committer_has_time_and_zone() {
        let commit = b"tree 01\nauthor A <a@x> 1600000000 +0000\ncommitter C <c@x> 1600000123 +0200\n\nmsg\n";
        assert_eq!(commit_time(commit).unwrap().to_string(), "2020-09-13T14:28:43+02:00");
        assert_eq!(commit_time(b"tree 01\n\ncommitter C <c@x> 1 +0000\n"), None);
        assert_eq!(commit_time(b"committer C <c@x> x +0000\n"), None);
    }

    #[test]
    fn the_newest_regular_file_of_an_archive_counts() {
        let entry = |time: i64, kind: u8, size: usize| {
            let mut block = vec![0u8; 512 + size.next_multiple_of(512)];
            block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
            block[136..147].copy_from_slice(format!("{time:011o}").as_bytes());
            block[156] = kind;
            block[257..262].copy_from_slice(b"ustar");
            block
        };
        let archive = [entry(10, b'0', 700), entry(30, b'5', 0), entry(20, b'0', 1), vec![0; 1024]].concat();
        assert_eq!(newest_in_tar(&archive), Some(20));
        assert_eq!(newest_in_tar(b"no archive"), None);
    }
}
