//! References: results a frontend can look into.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use buildkit_llb::{Definition, State};
use buildkit_proto::{fsutil, gateway, pb};
use bytes::Bytes;

use crate::bridge::{Bridge, Tree};
use crate::caps::gateway as cap;
use crate::error::{Code, Error, Result};
use crate::stat::FileStat;

/// A file tree that was solved for, and perhaps is still to be built: looking
/// into it builds it. An empty tree has no reference.
#[derive(Clone)]
pub struct Reference {
    bridge: Arc<dyn Bridge>,
    id: String,
    definition: Option<pb::Definition>,
}

impl Reference {
    /// The reference of this wire form; `None` for the empty tree.
    pub(crate) fn new(bridge: &Arc<dyn Bridge>, wire: gateway::Ref) -> Option<Self> {
        let gateway::Ref { id, def } = wire;
        (!id.is_empty()).then(|| Self { bridge: Arc::clone(bridge), id, definition: def })
    }

    pub(crate) fn to_wire(&self) -> gateway::Ref {
        gateway::Ref { id: self.id.clone(), def: self.definition.clone() }
    }

    /// What the daemon calls it; of no meaning outside this build.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The graph that makes this tree; `None` where the daemon does not tell
    /// it.
    pub fn definition(&self) -> Result<Option<Definition>> {
        Ok(self.definition.clone().map(Definition::from_pb).transpose()?)
    }

    /// The tree as a state to build on.
    ///
    /// # Errors
    /// When the daemon does not tell the graph.
    pub fn state(&self) -> Result<State> {
        let definition = self.definition()?.ok_or_else(|| {
            Error::with_code(Code::Unimplemented, "the daemon does not tell what a result is made of")
        })?;
        Ok(definition.to_state()?)
    }

    /// Builds the tree now.
    ///
    /// # Errors
    /// When it cannot be built; the error says which vertex failed and how.
    pub async fn evaluate(&self) -> Result<()> {
        if self.bridge.environment().caps.contains(cap::EVALUATE) {
            self.bridge.evaluate(&self.id).await
        } else {
            self.bridge.stat_file(self.tree(), ".").await.map(drop)
        }
    }

    /// Reads a file whole. A message holds at most 16 MiB; larger files are
    /// read with [`read_range`](Self::read_range).
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such file.
    pub async fn read_file(&self, path: &str) -> Result<Bytes> {
        self.bridge.read_file(self.tree(), path, None).await
    }

    /// Reads a part of a file; less comes back at its end.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.bridge.read_file(self.tree(), path, Some(file_range(range)?)).await
    }

    /// Reads a file whole, or `None` when there is no such file.
    pub async fn read_optional(&self, path: &str) -> Result<Option<Bytes>> {
        match self.read_file(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists a directory, sorted by name.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<FileStat>> {
        self.list(path, "").await
    }

    /// Lists what matches a pattern such as `*.toml` in a directory.
    pub async fn list(&self, path: &str, include: &str) -> Result<Vec<FileStat>> {
        let environment = self.bridge.environment();
        environment.caps.require(cap::READ_DIR, &environment.product)?;
        let entries = self.bridge.read_dir(self.tree(), path, include).await?;
        Ok(stats(entries))
    }

    /// Looks at a file.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such file.
    pub async fn stat(&self, path: &str) -> Result<FileStat> {
        let environment = self.bridge.environment();
        environment.caps.require(cap::STAT_FILE, &environment.product)?;
        self.bridge.stat_file(self.tree(), path).await.map(FileStat::from)
    }

    /// Whether there is a file at `path`.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tree(&self) -> Tree<'_> {
        Tree::Reference(&self.id)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").field("id", &self.id).finish_non_exhaustive()
    }
}

fn file_range(range: Range<u64>) -> Result<gateway::FileRange> {
    let number = |n: u64| {
        i64::try_from(n)
            .map_err(|_| Error::with_code(Code::InvalidArgument, "the range of a file is too large"))
    };
    Ok(gateway::FileRange {
        offset: number(range.start)?,
        length: number(range.end.saturating_sub(range.start))?,
    })
}

pub(crate) fn stats(entries: Vec<fsutil::Stat>) -> Vec<FileStat> {
    entries.into_iter().map(FileStat::from).collect()
}
