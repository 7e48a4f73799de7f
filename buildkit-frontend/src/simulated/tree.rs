//! Files in memory, read as the daemon reads those of a result.

use std::collections::BTreeMap;

use buildkit_llb::Definition;
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;

use crate::error::{Code, Error, Result};

/// The files of a tree, by path.
#[derive(Debug, Clone, Default)]
pub(super) struct Files(BTreeMap<String, Bytes>);

impl Files {
    pub(super) const EMPTY: Self = Self(BTreeMap::new());

    pub(super) fn insert(&mut self, path: &str, content: Bytes) {
        self.0.insert(clean(path), content);
    }

    pub(super) fn read(&self, path: &str, range: Option<gateway::FileRange>) -> Result<Bytes> {
        let name = clean(path);
        let Some(content) = self.0.get(&name).cloned() else {
            return Err(if self.is_folder(&name) {
                Error::new(format!("{path} is not a regular file"))
            } else {
                missing("open", path)
            });
        };
        let Some(range) = range else {
            return Ok(content);
        };
        let start = usize::try_from(range.offset).unwrap_or(0).min(content.len());
        let length = usize::try_from(range.length).unwrap_or(0);
        Ok(content.slice(start..start.saturating_add(length).min(content.len())))
    }

    pub(super) fn list(&self, path: &str, include: &str) -> Result<Vec<fsutil::Stat>> {
        let folder = clean(path);
        if !self.is_folder(&folder) {
            return Err(missing("open", path));
        }
        let prefix = if folder.is_empty() { folder } else { folder + "/" };
        let below = self.0.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut entries: BTreeMap<&str, fsutil::Stat> = BTreeMap::new();
        for (name, content) in below {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            let (name, stat) = match rest.split_once('/') {
                Some((folder, _)) => (folder, folder_stat(folder)),
                None => (rest, file_stat(rest, content)),
            };
            if matches(include, name) {
                entries.insert(name, stat);
            }
        }
        Ok(entries.into_values().collect())
    }

    pub(super) fn stat(&self, path: &str) -> Result<fsutil::Stat> {
        let name = clean(path);
        match self.0.get(&name) {
            Some(content) => Ok(file_stat(path, content)),
            None if self.is_folder(&name) => Ok(folder_stat(path)),
            None => Err(missing("lstat", path)),
        }
    }

    /// Whether there are files below, as in the root of every tree.
    fn is_folder(&self, name: &str) -> bool {
        let prefix = format!("{name}/");
        name.is_empty() || self.0.range(prefix.clone()..).next().is_some_and(|(n, _)| n.starts_with(&prefix))
    }
}

/// The names that the files of a graph may be put in under, where it is one source.
pub(super) fn names(definition: &pb::Definition) -> Vec<String> {
    let Some(identifier) = identifier(definition) else { return Vec::new() };
    let (scheme, name) = identifier.split_once("://").unwrap_or(("", &identifier));
    let mut names = match scheme {
        "local" => return vec![name.to_owned()],
        "docker-image" | "oci-layout" | "git" => vec![name.to_owned()],
        _ => Vec::new(),
    };
    if let Some((undigested, _)) = name.rsplit_once('@') {
        names.push(undigested.to_owned());
    }
    names.push(identifier);
    names
}

fn identifier(definition: &pb::Definition) -> Option<String> {
    let definition = Definition::from_pb(definition.clone()).ok()?;
    let (head, _) = definition.head().ok()??;
    match definition.op(&head)?.message().ok()?.op? {
        pb::op::Op::Source(source) => Some(source.identifier),
        _ => None,
    }
}

fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

fn missing(call: &str, path: &str) -> Error {
    Error::with_code(Code::NotFound, format!("{call} {path}: no such file or directory"))
}

fn file_stat(path: &str, content: &Bytes) -> fsutil::Stat {
    fsutil::Stat {
        path: Bytes::copy_from_slice(path.as_bytes()),
        mode: 0o644,
        size: i64::try_from(content.len()).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

fn folder_stat(path: &str) -> fsutil::Stat {
    fsutil::Stat {
        path: Bytes::copy_from_slice(path.as_bytes()),
        mode: 1 << 31 | 0o755,
        ..Default::default()
    }
}

/// Whether a name matches a pattern of `*` and `?`; an empty one matches all.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || Some(&c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // The star takes one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}
