//! What a sender may announce: clean paths, in order, directories before what is in them.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use crate::error::ProtocolError;
use crate::path;
use crate::stat::{Kind, Stat};

/// Checks entries as they come.
#[derive(Debug, Default)]
pub(crate) struct Order {
    last: Vec<u8>,
    /// Lengths of the prefixes of `last` that are directories.
    dirs: Vec<usize>,
    /// Hashes of the paths of all files so far. A hash that two paths share by chance lets a link through, which
    /// then fails on disk; nobody can arrange for one, since the hashes are keyed.
    files: HashSet<u64>,
    keys: RandomState,
}

impl Order {
    pub(crate) fn check(&mut self, stat: &Stat) -> Result<(), ProtocolError> {
        let path = &stat.path;
        if !path::is_clean_relative(path) {
            return Err(ProtocolError::Path(path.clone()));
        }
        if !self.last.is_empty() && path::compare(path, &self.last).is_le() {
            return Err(ProtocolError::Order { path: path.clone(), previous: self.last.clone() });
        }
        let is_above = |end: usize| path.get(end) == Some(&b'/') && path.get(..end) == self.last.get(..end);
        while self.dirs.last().is_some_and(|end| !is_above(*end)) {
            self.dirs.pop();
        }
        if path::parent(path).len() != self.dirs.last().copied().unwrap_or(0) {
            return Err(ProtocolError::NoParent(path.clone()));
        }
        match stat.mode.kind() {
            Kind::Unknown => return Err(ProtocolError::BadStat(path.clone())),
            Kind::Symlink if stat.link_name.is_empty() || stat.link_name.contains(&0) => {
                return Err(ProtocolError::BadStat(path.clone()));
            }
            Kind::File => {
                if stat.size < 0 {
                    return Err(ProtocolError::BadStat(path.clone()));
                }
                if !stat.link_name.is_empty() && !self.files.contains(&self.keys.hash_one(&stat.link_name)) {
                    return Err(ProtocolError::Link { path: path.clone(), target: stat.link_name.clone() });
                }
                self.files.insert(self.keys.hash_one(path));
            }
            _ => {}
        }
        self.last.clone_from(path);
        if stat.mode.is_dir() {
            self.dirs.push(path.len());
        }
        Ok(())
    }
}
