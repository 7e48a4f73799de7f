//! `SOURCE_DATE_EPOCH`: the time a build pretends to run at.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use buildkit_llb::{EnvList, Git, Http, State};
use bytes::Bytes;
use futures::channel::oneshot;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::Dockerfile;
use crate::error::{Error, ErrorKind, Result};
use crate::expand::Names;
use crate::instructions::{Add, Kind, Stage};

use super::args::GlobalArgs;
use super::context::Contexts;
use super::copy::{check_digest, file_name, git_source, is_http};
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

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Stage, format!("the stage that {NAME} names {why}"))
}

impl Search<'_> {
    /// Resolves the argument and puts the seconds in its place.
    pub(crate) async fn resolve(
        &self,
        build_args: &mut BTreeMap<String, String>,
        globals: &mut GlobalArgs,
    ) -> Result<Option<Timestamp>> {
        let declared = globals.declared.contains_key(NAME).then(|| globals.env.value(NAME)).flatten();
        let (value, given) = match (build_args.get(NAME), declared) {
            (Some(value), _) => (value.clone(), true),
            (None, Some(value)) if !value.is_empty() => (value.to_owned(), false),
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
            if given {
                build_args.insert(NAME.to_owned(), seconds);
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
        if let Some(found) = self.contexts.find(value, None)? {
            let state = self.contexts.load(&found).await?.tree.state(Vec::new());
            return self.ask(&state, &format!("[internal] resolve {NAME} named context {value}")).await;
        }
        let named = |s: &&Stage| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(value));
        let stage = self.file.stages.iter().find(named);
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
        let base = self.lexers.plain(&stage.base, &globals.env)?;
        if base != SCRATCH {
            return Err(wrong("must start from scratch"));
        }
        let mut env = globals.env.clone();
        env.remove(NAME);
        let mut found = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Arg(arg) => {
                    for arg in &arg.args {
                        let value = match (build_args.get(&arg.name), &arg.default) {
                            (Some(value), _) => Some(value.clone()),
                            (None, Some(default)) => Some(self.lexers.plain(default, &env)?),
                            (None, None) => None,
                        };
                        if let Some(value) = value {
                            env.set(&arg.name, value);
                        }
                    }
                }
                Kind::Add(_) if found.is_some() => {
                    return Err(wrong("must have one ADD of a remote source, not several"));
                }
                Kind::Add(add) => found = Some(self.add_source(add, &env)?),
                _ => return Err(wrong(format_args!("may not use {}", instruction.keyword))),
            }
        }
        found.ok_or_else(|| wrong("must have one ADD of a remote source"))
    }

    /// The remote source of an ADD.
    fn add_source(&self, add: &Add, env: &EnvList) -> Result<State> {
        let [path] = add.sources.paths.as_slice() else {
            return Err(wrong("must have one ADD with exactly one source"));
        };
        if !add.sources.inline.is_empty() {
            return Err(wrong("must have one ADD with exactly one source"));
        }
        let mut names = Names::default();
        let path = self.lexers.word.word(path, env, &mut names)?;
        let checksum = match &add.checksum {
            Some(word) => self.lexers.plain(word, env)?,
            None => String::new(),
        };
        if let Some(git) = git_source(&path)? {
            let mut source = Git::new(&git.remote, "").reference(&git.reference).subdir(&git.subdir);
            let checksum = if checksum.is_empty() { git.checksum.clone() } else { checksum };
            source = source.checksum(checksum);
            if add.keep_git_dir == Some(true) || git.keep_git_dir == Some(true) {
                source = source.keep_git_dir();
            }
            if git.submodules == Some(false) {
                source = source.skip_submodules();
            }
            return Ok(source.into());
        }
        if !is_http(&path) {
            return Err(wrong("must ADD from HTTP or Git"));
        }
        let mut source = Http::new(&*path).filename(file_name(&path));
        if !checksum.is_empty() {
            check_digest(&checksum)?;
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
            return commit_time(commit).map_err(|why| failed(why.into()));
        }
        if let Some(seconds) = metadata.last_modified {
            return Ok(Some(Timestamp::from_unix(seconds)));
        }
        let Some((source, name)) = &metadata.file else { return Ok(None) };
        let content = resolver.read_file(source, name, Read::default()).await.map_err(failed)?;
        match content {
            Some(content) => Ok(newest_in_archive(content).await?.map(Timestamp::from_unix)),
            None => Ok(None),
        }
    }
}

/// The committer's time in a raw commit object, if the committer has one.
///
/// # Errors
///
/// What is wrong with the object.
fn commit_time(commit: &[u8]) -> Result<Option<Timestamp>, &'static str> {
    let text = String::from_utf8_lossy(commit);
    if text.starts_with("object ") {
        return Err("the Git object is a tag, no commit");
    }
    let header = |name: &str| text.lines().take_while(|l| !l.is_empty()).find_map(|l| l.strip_prefix(name));
    if header("tree ").is_none() || header("author ").is_none() {
        return Err("the Git object lacks a tree or an author");
    }
    let committer = header("committer ").ok_or("the Git object lacks a committer")?;
    Ok(actor_time(committer))
}

/// The time behind the mail address of an author or committer.
fn actor_time(actor: &str) -> Option<Timestamp> {
    let (_, time) = actor.rsplit_once('>').filter(|(name, _)| name.contains('<'))?;
    let mut words = time.split_whitespace();
    let (seconds, zone) = (words.next()?.parse().ok()?, words.next()?);
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let number: i32 =
        (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())??;
    Some(Timestamp { seconds, nanoseconds: 0, offset: sign * (number / 100 * 3600 + number % 100 * 60) })
}

/// Archives are looked at up to so many unpacked bytes.
const MAX_UNPACKED: u64 = 4 << 30;

/// The latest time of a regular file in a tar archive, which may be compressed with gzip, bzip2 or zstd (not with xz:
/// the reference runs a program for that one, which its images do not have). Unpacking can take a while, so it has a
/// thread of its own.
async fn newest_in_archive(archive: Bytes) -> Result<Option<i64>> {
    let (answer, newest) = oneshot::channel();
    let content = archive.clone();
    let spawned = std::thread::Builder::new().name("unpack".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = answer.send(newest_in_tar(&content));
    });
    match spawned {
        Ok(_) => newest.await.unwrap_or(Ok(None)),
        // Where there are no threads.
        Err(_) => newest_in_tar(&archive),
    }
}

fn newest_in_tar(archive: &[u8]) -> Result<Option<i64>> {
    let unpacked: &mut dyn io::Read = match archive {
        [0x1f, 0x8b, ..] => &mut flate2::read::MultiGzDecoder::new(archive),
        [b'B', b'Z', b'h', ..] => &mut bzip2::read::MultiBzDecoder::new(archive),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            &mut Zstd { rest: archive, frame: None }
        }
        _ => &mut { archive },
    };
    let mut unpacked = unpacked.take(MAX_UNPACKED);
    let newest = newest_of(&mut unpacked);
    if unpacked.limit() == 0 {
        let message = format!("the archive for {NAME} is larger than {} GiB", MAX_UNPACKED >> 30);
        return Err(Error::new(ErrorKind::Limit, message));
    }
    // What is no archive has no time.
    Ok(newest.ok().flatten())
}

/// Zstandard frames one after the other.
struct Zstd<'a> {
    rest: &'a [u8],
    frame: Option<StreamingDecoder<&'a [u8], FrameDecoder>>,
}

impl io::Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                if let Some(frame) = self.frame.take() {
                    self.rest = frame.into_inner();
                }
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            match StreamingDecoder::new(self.rest) {
                Ok(frame) => self.frame = Some(frame),
                // Holds what is of use to others: a number, its length, then so many bytes.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = usize::try_from(length).ok().and_then(|length| length.checked_add(8));
                    let rest = skipped.and_then(|skipped| self.rest.get(skipped..));
                    self.rest = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

/// The latest time of a regular file in a tar archive.
fn newest_of(archive: &mut dyn io::Read) -> io::Result<Option<i64>> {
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
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut newest = None;
    loop {
        let mut header = [0; 512];
        archive.read_exact(&mut header)?;
        if header == [0; 512] {
            return Ok(newest);
        }
        let field = |from: usize, to: usize| header.get(from..to).and_then(octal).ok_or_else(malformed);
        if header.get(257..262) != Some(b"ustar") {
            return Err(malformed());
        }
        let size = u64::try_from(field(124, 136)?).map_err(|_| malformed())?;
        if matches!(header.get(156), Some(b'0' | 0)) {
            newest = newest.max(Some(field(136, 148)?));
        }
        let size = size.checked_next_multiple_of(512).ok_or_else(malformed)?;
        io::copy(&mut archive.take(size), &mut io::sink())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::CompressionLevel;

    #[test]
    fn the_committer_has_time_and_zone() {
        let commit = b"tree 01\nauthor A <a@x> 1600000000 +0000\ncommitter C <c@x> 1600000123 +0200\n\nmsg\n";
        assert_eq!(commit_time(commit).unwrap().unwrap().to_string(), "2020-09-13T14:28:43+02:00");
        assert!(commit_time(b"tree 01\n\ncommitter C <c@x> 1 +0000\n").is_err());
        assert!(commit_time(b"object 01\ntype commit\n").is_err());
        assert_eq!(commit_time(b"tree 1\nauthor a\ncommitter C <c@x> x +0000\n"), Ok(None));
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
        assert_eq!(newest_in_tar(&archive).unwrap(), Some(20));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        io::Write::write_all(&mut packed, &archive).unwrap();
        let packed = Bytes::from(packed.finish().unwrap());
        assert_eq!(futures::executor::block_on(newest_in_archive(packed)).unwrap(), Some(20));
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        io::Write::write_all(&mut packed, &archive).unwrap();
        assert_eq!(newest_in_tar(&packed.finish().unwrap()).unwrap(), Some(20));
        let zstd = |part: &[u8]| ruzstd::encoding::compress_to_vec(part, CompressionLevel::Fastest);
        let (front, back) = archive.split_at(900);
        let other = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], b"xyz".as_slice()].concat();
        for packed in [zstd(&archive), [other.clone(), zstd(front), other.clone(), zstd(back)].concat()] {
            assert_eq!(newest_in_tar(&packed).unwrap(), Some(20));
            // What is cut short is no archive.
            assert_eq!(newest_in_tar(&packed[..packed.len() / 2]).unwrap(), None);
        }
        assert_eq!(newest_in_tar(&other[..10]).unwrap(), None);
        assert_eq!(newest_in_tar(b"no archive").unwrap(), None);
    }
}
