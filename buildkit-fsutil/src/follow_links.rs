//! From paths to the paths that must be sent so that they can be reached through symbolic links.

use std::collections::BTreeSet;
use std::io;

use crate::glob::Glob;
use crate::path;
use crate::source::{Names, SourceFs};
use crate::stat::Kind;

/// Resolves `paths` in `source`: the result holds each path, every link on the way to it and what the links point
/// to, sorted, without those that lie below another one. Links cannot leave the root. Empty when the root itself is
/// among them, which is to say everything.
///
/// # Errors
/// The path at which a directory or link could not be read, and why. What is missing is no error.
pub fn follow_links(source: &dyn SourceFs, paths: &[String]) -> Result<Vec<String>, (String, io::Error)> {
    let mut resolver = Resolver { source, resolved: BTreeSet::new(), listed: None };
    for path in paths {
        resolver.resolve(path).map_err(|error| (path.clone(), error))?;
    }
    if resolver.resolved.contains(&b""[..]) {
        return Ok(Vec::new());
    }
    let mut out: Vec<Vec<u8>> = Vec::new();
    for path in resolver.resolved {
        let below = out
            .last()
            .is_some_and(|last| path.strip_prefix(&last[..]).is_some_and(|rest| rest.starts_with(b"/")));
        if !below {
            out.push(path);
        }
    }
    Ok(out.iter().map(|path| as_pattern(path)).collect())
}

/// A path as a pattern; what is not text becomes `?`, which matches one byte that is not text.
fn as_pattern(path: &[u8]) -> String {
    path.utf8_chunks()
        .flat_map(|chunk| [chunk.valid().to_owned(), "?".repeat(chunk.invalid().len())])
        .collect()
}

struct Resolver<'a> {
    source: &'a dyn SourceFs,
    resolved: BTreeSet<Vec<u8>>,
    /// The directory listed last: wildcards of one list tend to ask for the same one.
    listed: Option<(Vec<u8>, Names)>,
}

impl Resolver<'_> {
    fn resolve(&mut self, path: &str) -> io::Result<()> {
        // Paths still to be resolved, the next one last. Every link is taken at most once, so this ends.
        let mut open = vec![path::below_root(path.as_bytes())];
        while let Some(path) = open.pop() {
            let mut end = 0;
            loop {
                end = path
                    .get(end..)
                    .and_then(|rest| rest.iter().position(|byte| *byte == b'/'))
                    .map_or(path.len(), |at| end + at);
                let prefix = path.get(..end).unwrap_or_default();
                let rest = path.get(end + 1..).unwrap_or_default();
                let targets = self.targets(prefix)?;
                if rest.is_empty() || !targets.is_empty() {
                    if !self.resolved.insert(prefix.to_vec()) {
                        break;
                    }
                    open.extend(targets.iter().rev().map(|target| {
                        let mut next = target.clone();
                        next.push(b'/');
                        next.extend_from_slice(rest);
                        path::below_root(&next)
                    }));
                    break;
                }
                end += 1;
            }
        }
        Ok(())
    }

    /// Where the links at `path` point to, from the root; its last component may have wildcards.
    fn targets(&mut self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let (dir, name) = path::split(path);
        if name.is_empty() {
            return Ok(Vec::new());
        }
        if !has_wildcards(name) {
            return Ok(self.target(dir, name)?.into_iter().collect());
        }
        let Some(pattern) = std::str::from_utf8(name).ok().and_then(Glob::of_name) else {
            return Ok(Vec::new());
        };
        if self.listed.as_ref().is_none_or(|(listed, _)| listed != dir) {
            let names = absent(self.source.open_dir(dir).and_then(|mut dir| dir.names()))?;
            let mut names = names.unwrap_or_default();
            names.sort();
            self.listed = Some((dir.to_vec(), names));
        }
        let names = self.listed.take();
        let mut targets = Vec::new();
        if let Some((_, names)) = &names {
            for (name, kind) in (0..names.len()).filter_map(|index| names.at(index)) {
                if matches!(kind, Kind::Symlink | Kind::Unknown) && pattern.matches(name) {
                    targets.extend(self.target(dir, name)?);
                }
            }
        }
        self.listed = names;
        Ok(targets)
    }

    fn target(&self, dir: &[u8], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(entry) = absent(self.source.open_dir(dir).and_then(|dir| dir.entry(name)))? else {
            return Ok(None);
        };
        if entry.stat.mode.kind() != Kind::Symlink {
            return Ok(None);
        }
        let target = entry.stat.link_name;
        Ok(Some(if target.starts_with(b"/") {
            path::below_root(&target)
        } else {
            let mut whole = dir.to_vec();
            whole.push(b'/');
            whole.extend_from_slice(&target);
            path::below_root(&whole)
        }))
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nothing is there, or cannot be: a parent is no directory, or a name is longer than any name may be.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || matches!(Errno::from_io_error(error), Some(Errno::NAMETOOLONG | Errno::LOOP))
}

fn has_wildcards(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}
