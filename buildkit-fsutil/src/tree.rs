//! An index of files by path, for trees that are not on disk.

use std::collections::BTreeMap;
use std::io;

use crate::path;
use crate::source::{Entry, Names, SourceDir, Version};
use crate::stat::{FileMode, Kind, Stat};

/// Files with content of kind `C`.
#[derive(Debug)]
pub(crate) struct Tree<C> {
    nodes: Vec<Node<C>>,
}

#[derive(Debug)]
struct Node<C> {
    stat: Stat,
    /// Which node holds the content: another one when this is a further hard link.
    inode: usize,
    links: u64,
    content: Option<C>,
    children: BTreeMap<Box<[u8]>, usize>,
}

impl<C> Tree<C> {
    /// Only the root, a directory.
    pub(crate) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.add(Stat { mode: FileMode(FileMode::DIRECTORY | 0o755), ..Stat::default() }, None);
        tree
    }

    fn add(&mut self, mut stat: Stat, content: Option<C>) -> usize {
        let inode = self.nodes.len();
        stat.path = Vec::new();
        self.nodes.push(Node { stat, inode, links: 1, content, children: BTreeMap::new() });
        inode
    }

    fn find(&self, path: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let node = self.nodes.get(at).ok_or(io::ErrorKind::NotFound)?;
            if !node.stat.mode.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            at = *node.children.get(part).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// Puts an entry at a clean path, in place of what is there (a directory keeps its entries when the new one is
    /// a directory too). Missing parents become directories with mode 0755 and the entry's time.
    ///
    /// Fails with `NotADirectory` when a parent is something else.
    pub(crate) fn insert(&mut self, path: &[u8], stat: Stat, content: Option<C>) -> io::Result<()> {
        let (parent, name) = path::split(path);
        if name.is_empty() {
            if let Some(root) = self.nodes.first_mut() {
                root.stat = Stat { path: Vec::new(), ..stat };
            }
            return Ok(());
        }
        let parent = self.make_dirs(parent, stat.mod_time)?;
        if stat.mode.is_dir()
            && let Some(&old) = self.nodes.get(parent).and_then(|node| node.children.get(name))
            && let Some(node) = self.nodes.get_mut(old)
            && node.stat.mode.is_dir()
        {
            node.stat = Stat { path: Vec::new(), ..stat };
            return Ok(());
        }
        let new = self.add(stat, content);
        self.attach(parent, name, new);
        Ok(())
    }

    /// Gives the regular file at `target` a further name.
    ///
    /// Fails with `NotFound` when there is none, with `InvalidInput` when it is something else, or when `path` is the
    /// root, which can only be a directory.
    pub(crate) fn link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        if path.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let found = self.find(target)?;
        let node = self.nodes.get_mut(found).ok_or(io::ErrorKind::NotFound)?;
        if node.stat.mode.is_dir() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (inode, stat) = (node.inode, node.stat.clone());
        let (parent, name) = path::split(path);
        let parent = self.make_dirs(parent, stat.mod_time)?;
        let new = self.add(stat, None);
        if let Some(node) = self.nodes.get_mut(new) {
            node.inode = inode;
        }
        if let Some(first) = self.nodes.get_mut(inode) {
            first.links += 1;
        }
        self.attach(parent, name, new);
        Ok(())
    }

    fn attach(&mut self, parent: usize, name: &[u8], node: usize) {
        let replaced = self.nodes.get_mut(parent).and_then(|dir| dir.children.insert(name.into(), node));
        if let Some(inode) = replaced.and_then(|old| self.nodes.get(old)).map(|old| old.inode)
            && let Some(first) = self.nodes.get_mut(inode)
        {
            first.links = first.links.saturating_sub(1);
        }
    }

    fn make_dirs(&mut self, path: &[u8], mod_time: i64) -> io::Result<usize> {
        let mut at = 0;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let node = self.nodes.get(at).ok_or(io::ErrorKind::NotFound)?;
            if !node.stat.mode.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            at = if let Some(&next) = node.children.get(part) {
                next
            } else {
                let mode = FileMode(FileMode::DIRECTORY | 0o755);
                let new = self.add(Stat { mode, mod_time, ..Stat::default() }, None);
                self.attach(at, part, new);
                new
            };
        }
        match self.nodes.get(at) {
            Some(node) if node.stat.mode.is_dir() => Ok(at),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(crate) fn open_dir(&self, path: &[u8]) -> io::Result<Box<dyn SourceDir + '_>>
    where
        C: Send + Sync,
    {
        let at = self.find(path)?;
        match self.nodes.get(at) {
            Some(node) if node.stat.mode.is_dir() => Ok(Box::new(TreeDir { tree: self, node })),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The content of a regular file, and its version.
    pub(crate) fn content(&self, path: &[u8]) -> io::Result<(Option<&C>, Version)> {
        let named = self.nodes.get(self.find(path)?).ok_or(io::ErrorKind::NotFound)?;
        let node = self.nodes.get(named.inode).ok_or(io::ErrorKind::NotFound)?;
        if node.stat.mode.is_file() {
            Ok((node.content.as_ref(), node.version()))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

impl<C> Node<C> {
    fn version(&self) -> Version {
        Version {
            device: 0,
            inode: self.inode as u64,
            size: self.stat.size,
            modified: self.stat.mod_time,
            changed: self.stat.mod_time,
        }
    }
}

struct TreeDir<'a, C> {
    tree: &'a Tree<C>,
    node: &'a Node<C>,
}

impl<C: Send + Sync> SourceDir for TreeDir<'_, C> {
    fn names(&mut self) -> io::Result<Names> {
        let mut names = Names::default();
        for (name, child) in &self.node.children {
            let kind = self.tree.nodes.get(*child).map_or(Kind::Unknown, |node| node.stat.mode.kind());
            names.push(name, kind)?;
        }
        Ok(names)
    }

    fn entry(&self, name: &[u8]) -> io::Result<Entry> {
        let child = self.node.children.get(name).ok_or(io::ErrorKind::NotFound)?;
        let named = self.tree.nodes.get(*child).ok_or(io::ErrorKind::NotFound)?;
        let first = self.tree.nodes.get(named.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(Entry { stat: first.stat.clone(), version: first.version(), links: first.links })
    }
}
