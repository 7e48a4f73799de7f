//! What may be said about any op: its platform, its name, how it is cached, where it may run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::caps::Caps;
use crate::platform::Platform;
use crate::source_map::SourceLocation;

/// Options every op takes; each builder has them as methods of its own.
///
/// Only the platform (of images, OCI layouts, processes and build ops) and the worker filters are part of an
/// op's digest; the rest travels beside it.
#[derive(Clone, Default)]
#[must_use = "constraints hold only for the op they are given to"]
pub struct Constraints {
    inner: Option<Box<Inner>>,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Inner {
    pub(crate) platform: Option<Platform>,
    pub(crate) filters: Vec<String>,
    pub(crate) metadata: OpMetadata,
    pub(crate) local_unique_id: Option<String>,
    pub(crate) locations: Vec<SourceLocation>,
}

impl Constraints {
    /// No constraints.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn inner(&self) -> Option<&Inner> {
        self.inner.as_deref()
    }

    pub(crate) fn edit(&mut self) -> &mut Inner {
        self.inner.get_or_insert_default()
    }

    pub(crate) fn explicit_platform(&self) -> Option<&Platform> {
        self.inner().and_then(|inner| inner.platform.as_ref())
    }

    pub(crate) fn constraints_mut(&mut self) -> &mut Self {
        self
    }

    /// Adds everything `other` says; where both say something, `other` wins.
    pub fn merged(mut self, other: &Constraints) -> Self {
        if let Some(other) = other.inner() {
            let inner = self.edit();
            if other.platform.is_some() {
                inner.platform.clone_from(&other.platform);
            }
            inner.filters.extend(other.filters.iter().cloned());
            inner.metadata.merge(&other.metadata);
            if other.local_unique_id.is_some() {
                inner.local_unique_id.clone_from(&other.local_unique_id);
            }
            inner.locations.extend(other.locations.iter().cloned());
        }
        self
    }

    constraint_setters!();
}

impl fmt::Debug for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner() {
            None => f.write_str("Constraints"),
            Some(inner) => inner.fmt(f),
        }
    }
}

/// The setters of [`Constraints`], as methods of a builder that has `constraints_mut`.
macro_rules! constraint_setters {
    () => {
        /// The platform of this op, kept as given; without it the op takes that of the state or of `marshal`.
        pub fn platform(mut self, platform: $crate::Platform) -> Self {
            self.constraints_mut().edit().platform = Some(platform);
            self
        }

        /// The name progress shows for this op.
        pub fn name(self, name: impl Into<String>) -> Self {
            self.describe("llb.customname", name)
        }

        /// Adds an entry to the op's description, which goes to progress and history as it is.
        pub fn describe(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.constraints_mut().edit().metadata.description.insert(key.into(), value.into());
            self
        }

        /// Runs the op even if its result is in the cache.
        pub fn ignore_cache(mut self) -> Self {
            self.constraints_mut().edit().metadata.ignore_cache = true;
            self
        }

        /// Whether the result goes into an exported cache; without it the exporter decides.
        pub fn export_cache(mut self, export: bool) -> Self {
            self.constraints_mut().edit().metadata.export_cache = Some(export);
            self
        }

        /// Shows the op in progress under a group; ops with equal `id` are one group, `weak` groups only lend
        /// their name to ops without one.
        pub fn progress_group(mut self, id: impl Into<String>, name: impl Into<String>, weak: bool) -> Self {
            let group = $crate::ProgressGroup { id: id.into(), name: name.into(), weak };
            self.constraints_mut().edit().metadata.progress_group = Some(std::sync::Arc::new(group));
            self
        }

        /// Runs the op only on workers whose labels match the filter (containerd's filter syntax).
        pub fn require(mut self, filter: impl Into<String>) -> Self {
            self.constraints_mut().edit().filters.push(filter.into());
            self
        }

        /// Limits of memory and processor for the op's processes; they are part of no digest.
        pub fn linux_resources(mut self, resources: $crate::LinuxResources) -> Self {
            self.constraints_mut().edit().metadata.linux_resources = Some(std::sync::Arc::new(resources));
            self
        }

        /// Says which lines of a source file the op comes from; errors of the op then point there.
        pub fn location(mut self, location: $crate::SourceLocation) -> Self {
            self.constraints_mut().edit().locations.push(location);
            self
        }

        /// Tells local sources of this op apart from those of other builds, instead of the id given to `marshal`.
        pub fn unique_id(mut self, id: impl Into<String>) -> Self {
            self.constraints_mut().edit().local_unique_id = Some(id.into());
            self
        }

        /// Adds everything `constraints` says; where both say something, the new one wins.
        pub fn constraints(mut self, constraints: &$crate::Constraints) -> Self {
            let own = std::mem::take(self.constraints_mut());
            *self.constraints_mut() = own.merged(constraints);
            self
        }
    };
}
pub(crate) use constraint_setters;

/// What travels beside an op: how it is shown and cached, and what it needs of the daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpMetadata {
    /// Run even if the result is in the cache.
    pub ignore_cache: bool,
    /// Texts for progress and history; `llb.customname` is the op's name.
    pub description: BTreeMap<String, String>,
    /// Whether the result goes into an exported cache; none leaves it to the exporter.
    pub export_cache: Option<bool>,
    /// What the op needs of the daemon.
    pub caps: Caps,
    /// The group under which progress shows the op.
    pub progress_group: Option<Arc<ProgressGroup>>,
    /// Limits for the op's processes.
    pub linux_resources: Option<Arc<LinuxResources>>,
}

impl OpMetadata {
    /// Of an op about which nothing is said.
    pub(crate) const NONE: &Self = &Self {
        ignore_cache: false,
        description: BTreeMap::new(),
        export_cache: None,
        caps: Caps::NONE,
        progress_group: None,
        linux_resources: None,
    };

    pub(crate) fn merge(&mut self, from: &Self) {
        self.ignore_cache |= from.ignore_cache;
        self.description.extend(from.description.iter().map(|(k, v)| (k.clone(), v.clone())));
        if from.export_cache.is_some() {
            self.export_cache = from.export_cache;
        }
        self.caps.merge(&from.caps);
        if from.progress_group.is_some() {
            self.progress_group.clone_from(&from.progress_group);
        }
        if from.linux_resources.is_some() {
            self.linux_resources.clone_from(&from.linux_resources);
        }
    }
}

/// The metadata of many ops, nearly always kept once where it is equal: most ops of a graph differ in nothing but
/// what they do.
#[derive(Default)]
pub(crate) struct MetadataList {
    list: Vec<OpMetadata>,
}

/// A place in a [`MetadataList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetadataIndex(u32);

impl MetadataList {
    /// How many of those added last a new one is compared with.
    const RECENT: usize = 4;

    pub(crate) fn add(&mut self, metadata: OpMetadata) -> MetadataIndex {
        let recent = self.list.iter().enumerate().rev().take(Self::RECENT);
        let known = recent.filter(|(_, known)| **known == metadata).map(|(at, _)| at).next();
        let at = known.unwrap_or_else(|| {
            self.list.push(metadata);
            self.list.len() - 1
        });
        MetadataIndex(u32::try_from(at).unwrap_or(u32::MAX))
    }

    pub(crate) fn get(&self, at: MetadataIndex) -> &OpMetadata {
        self.list.get(at.0 as usize).unwrap_or(OpMetadata::NONE)
    }

    /// Everything that is said at one place or the other, where they differ at the other.
    pub(crate) fn merge(&mut self, one: MetadataIndex, other: MetadataIndex) -> MetadataIndex {
        if one == other {
            return one;
        }
        let mut merged = self.get(one).clone();
        merged.merge(self.get(other));
        self.add(merged)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &OpMetadata> {
        self.list.iter()
    }
}

/// A group of ops in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressGroup {
    /// What makes two ops members of one group.
    pub id: String,
    /// The name shown.
    pub name: String,
    /// Give way to another group of the same op.
    pub weak: bool,
}

/// Limits for the processes of an op, as Linux control groups have them. Zero and empty mean no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// Memory, in bytes.
    pub memory: i64,
    /// Memory and swap together, in bytes.
    pub memory_swap: i64,
    /// Relative weight of processor time.
    pub cpu_shares: u64,
    /// Length of a scheduling period, in microseconds.
    pub cpu_period: u64,
    /// Processor time per period, in microseconds.
    pub cpu_quota: i64,
    /// Processors that may be used, such as `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes that may be used.
    pub cpuset_mems: String,
}
