//! Walking a tree in the order in which it is sent.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use crate::filter::{Decision, Filter};
use crate::path::{self, Printable};
use crate::pattern::{MatchInfo, PatternError};
use crate::source::{Entry, Names, SourceDir, SourceFs};
use crate::stat::Kind;

/// What a walk does about entries that cannot be read.
///
/// # Defaults
/// Every such entry ends the walk with an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalkOptions {
    /// Leave out what this process may not read, instead of failing.
    pub skip_unreadable: bool,
    /// Leave out what is gone between being listed and being looked at, instead of failing.
    pub allow_vanished: bool,
}

/// The selected entries of a tree: depth first, siblings in byte order, a directory before what is in it.
///
/// Directories in which nothing can be selected are not opened. What is only needed to hold selected entries is
/// returned just before the first of them. Memory grows with depth and with the size of the directories above the
/// current entry, not with the tree. Every call may block.
pub struct Walk<'a> {
    source: &'a dyn SourceFs,
    filter: &'a Filter,
    options: WalkOptions,
    frames: Vec<Frame<'a>>,
    path: Vec<u8>,
    ready: VecDeque<Result<Found, WalkError>>,
    started: bool,
}

/// How many directories are held open at once; those further up are opened again when they are needed.
const OPEN_DIRS: usize = 64;

struct Frame<'a> {
    dir: Option<Box<dyn SourceDir + 'a>>,
    names: Names,
    next: usize,
    path_len: usize,
    include: MatchInfo,
    exclude: MatchInfo,
    /// The directory's own entry, until it is sent.
    unsent: Option<Box<Entry>>,
}

/// One step of a walk.
#[derive(Debug)]
pub enum Found {
    /// A selected entry, its path filled in.
    Entry(Box<Entry>),
    /// An entry that was left out as [`WalkOptions`] allow.
    Skipped(WalkError),
}

impl<'a> Walk<'a> {
    /// Starts at the root of `source`.
    pub fn new(source: &'a dyn SourceFs, filter: &'a Filter, options: WalkOptions) -> Self {
        Self {
            source,
            filter,
            options,
            frames: Vec::new(),
            path: Vec::new(),
            ready: VecDeque::new(),
            started: false,
        }
    }

    /// Looks at the next name of the innermost directory.
    fn advance(&mut self) -> Option<()> {
        if !self.started {
            self.started = true;
            match open(self.source, b"") {
                Ok((dir, names)) => self.enter(dir, names, MatchInfo::default(), MatchInfo::default(), None),
                Err(error) => self.fail(error),
            }
            return Some(());
        }
        let frame = self.frames.last_mut()?;
        self.path.truncate(frame.path_len);
        let Some((name, kind)) = frame.names.at(frame.next) else {
            self.frames.pop();
            return Some(());
        };
        frame.next += 1;
        let name = name.to_vec();
        path::push(&mut self.path, &name);
        if let Err(error) = self.look(&name, kind) {
            let allowed = match error.kind() {
                io::ErrorKind::PermissionDenied => self.options.skip_unreadable,
                _ => self.options.allow_vanished && is_out_of_reach(&error),
            };
            if allowed {
                self.ready
                    .push_back(Ok(Found::Skipped(WalkError { path: self.path.clone(), source: error })));
            } else {
                self.fail(error);
            }
        }
        Some(())
    }

    fn look(&mut self, name: &[u8], mut kind: Kind) -> io::Result<()> {
        let mut entry = None;
        if kind == Kind::Unknown {
            let found = self.entry_in(self.frames.len(), name)?;
            kind = found.stat.mode.kind();
            entry = Some(found);
        }
        let is_dir = kind == Kind::Directory;
        let top = self.frames.len() == 1;
        let parent = self.frames.last();
        let (mut include, mut exclude) = (MatchInfo::default(), MatchInfo::default());
        let mut selected = true;
        if let Some(patterns) = &self.filter.include {
            let above = parent.filter(|_| !top).map(|frame| &frame.include);
            if !patterns
                .matches_using_parent(&self.path, above, is_dir.then_some(&mut include))
                .map_err(malformed)?
            {
                if !is_dir || !patterns.may_match_below(&self.path, false) {
                    return Ok(());
                }
                selected = false;
            }
        }
        if let Some(patterns) = &self.filter.exclude {
            let above = parent.filter(|_| !top).map(|frame| &frame.exclude);
            if patterns
                .matches_using_parent(&self.path, above, is_dir.then_some(&mut exclude))
                .map_err(malformed)?
            {
                if !is_dir || !patterns.may_match_below(&self.path, true) {
                    return Ok(());
                }
                selected = false;
            }
        }
        let mut entry = match entry.map_or_else(|| self.entry_in(self.frames.len(), name), Ok) {
            Err(error) if !selected && is_out_of_reach(&error) => return Ok(()),
            entry => entry?,
        };
        if is_dir != entry.stat.mode.is_dir() {
            // What was listed is gone; something else has its name.
            return Err(io::ErrorKind::NotFound.into());
        }
        entry.stat.path.clone_from(&self.path);
        let mut unsent = Some(Box::new(entry));
        if selected {
            match self.decide(&mut unsent) {
                Decision::SkipDir => {
                    if !is_dir && let Some(frame) = self.frames.last_mut() {
                        frame.next = frame.names.len();
                    }
                    return Ok(());
                }
                Decision::Exclude if !is_dir => return Ok(()),
                Decision::Exclude => selected = false,
                Decision::Keep => {}
            }
        }
        let opened = if is_dir {
            match open(self.source, &self.path) {
                Err(error) if !selected && is_out_of_reach(&error) => return Ok(()),
                opened => Some(opened?),
            }
        } else {
            if self.options.skip_unreadable && kind == Kind::File {
                self.source.open(&self.path)?;
            }
            None
        };
        if selected {
            if !self.send_parents() {
                return Ok(());
            }
            self.ready.extend(unsent.take().map(|entry| Ok(Found::Entry(entry))));
        }
        if let Some((dir, names)) = opened {
            self.enter(dir, names, include, exclude, unsent);
        }
        Ok(())
    }

    fn decide(&self, entry: &mut Option<Box<Entry>>) -> Decision {
        match (&self.filter.map, entry) {
            (Some(map), Some(entry)) => map(&mut entry.stat),
            _ => Decision::Keep,
        }
    }

    /// Queues the directories above that were not sent so far. `false` when one of them is to be skipped: then the
    /// walk leaves it.
    fn send_parents(&mut self) -> bool {
        for index in 1..self.frames.len() {
            let Some(mut unsent) = self.frames.get_mut(index).map(|frame| frame.unsent.take()) else { break };
            if unsent.is_none() {
                continue;
            }
            if self.decide(&mut unsent) == Decision::SkipDir {
                self.frames.truncate(index);
                return false;
            }
            self.ready.extend(unsent.map(|entry| Ok(Found::Entry(entry))));
        }
        true
    }

    fn enter(
        &mut self,
        dir: Box<dyn SourceDir + 'a>,
        names: Names,
        include: MatchInfo,
        exclude: MatchInfo,
        unsent: Option<Box<Entry>>,
    ) {
        if let Some(far) =
            self.frames.len().checked_sub(OPEN_DIRS).and_then(|index| self.frames.get_mut(index))
        {
            far.dir = None;
        }
        let path_len = self.path.len();
        self.frames.push(Frame { dir: Some(dir), names, next: 0, path_len, include, exclude, unsent });
    }

    /// An entry of the directory at this depth, which is opened again if it was closed to save handles.
    fn entry_in(&mut self, depth: usize, name: &[u8]) -> io::Result<Entry> {
        let Some(frame) = depth.checked_sub(1).and_then(|index| self.frames.get_mut(index)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let dir = match &mut frame.dir {
            Some(dir) => dir,
            closed => {
                let path = self.path.get(..frame.path_len).unwrap_or_default();
                closed.insert(self.source.open_dir(path)?)
            }
        };
        retry(|| dir.entry(name))
    }

    fn fail(&mut self, source: io::Error) {
        self.frames.clear();
        self.ready.push_back(Err(WalkError { path: self.path.clone(), source }));
    }
}

fn open<'a>(source: &'a dyn SourceFs, path: &[u8]) -> io::Result<(Box<dyn SourceDir + 'a>, Names)> {
    let mut dir = retry(|| source.open_dir(path))?;
    let mut names = retry(|| dir.names())?;
    names.sort();
    Ok((dir, names))
}

fn malformed(error: PatternError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Gone, or closed to this process: no reason to fail where nothing of it is wanted.
fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// Makes a call again for as long as signals interrupt it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Some(found);
            }
            self.advance()?;
        }
    }
}

impl fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("at", &format_args!("{}", Printable(&self.path)))
            .field("depth", &self.frames.len())
            .finish_non_exhaustive()
    }
}

/// An entry of a tree could not be looked at, listed or opened.
#[derive(Debug)]
pub struct WalkError {
    /// The entry; empty for the root.
    pub path: Vec<u8>,
    /// What the file system said.
    pub source: io::Error,
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str("cannot read the root of the tree");
        }
        write!(f, "cannot read {}", Printable(&self.path))
    }
}

impl std::error::Error for WalkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
