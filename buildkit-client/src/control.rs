//! What a daemon holds and who does its work: workers, disk usage, pruning.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use buildkit_proto::control::{self, DiskUsageRequest, ListWorkersRequest, PruneRequest};
use buildkit_proto::worker;

use crate::client::{Client, Follow};
use crate::error::Error;
use crate::progress::time;

/// Something in the daemon's cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRecord {
    /// Identity.
    pub id: String,
    /// Whether it can be written to.
    pub mutable: bool,
    /// Whether a build uses it now: then it is not pruned.
    pub in_use: bool,
    /// Bytes that it takes on disk.
    pub size: i64,
    /// What it is built upon.
    pub parents: Vec<String>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
    /// How often it was used.
    pub usage_count: i64,
    /// What it is, for people.
    pub description: String,
    /// Kind, such as `regular`, `source.local` or `exec.cachemount`.
    pub record_type: String,
    /// Whether other records share its data.
    pub shared: bool,
}

impl From<control::UsageRecord> for UsageRecord {
    fn from(record: control::UsageRecord) -> Self {
        #[allow(deprecated)] // daemons before 0.10 know one parent only
        let parent = Some(record.parent).filter(|parent| !parent.is_empty());
        let parents = if record.parents.is_empty() { parent.into_iter().collect() } else { record.parents };
        Self {
            id: record.id,
            mutable: record.mutable,
            in_use: record.in_use,
            size: record.size,
            parents,
            created: record.created_at.and_then(time),
            last_used: record.last_used_at.and_then(time),
            usage_count: record.usage_count,
            description: record.description,
            record_type: record.record_type,
            shared: record.shared,
        }
    }
}

/// Which records of the daemon's cache to list. Filters are those of [`Prune`].
///
/// # Defaults
///
/// All records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct UsageQuery {
    filters: Vec<String>,
    unused_for: Duration,
}

impl UsageQuery {
    /// All records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only what this filter selects, or another one.
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filters.push(filter.into());
        self
    }

    /// Only what was not used within this time. Daemons before BuildKit 0.22 list all.
    pub fn unused_for(mut self, time: Duration) -> Self {
        self.unused_for = time;
        self
    }
}

/// What to remove from the daemon's cache.
///
/// Filters are containerd's: `type==exec.cachemount`, `id~=^abc`, `inuse`; a comma means "and", several filters mean
/// "or". The daemon says when it does not understand one.
///
/// # Defaults
///
/// Everything that is not in use, but for records of the daemon's own frontends; nothing is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Prune {
    filters: Vec<String>,
    all: bool,
    keep: Duration,
    reserved: u64,
    max_used: u64,
    min_free: u64,
}

impl Prune {
    /// Everything that is not in use.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only what this filter selects, or another one.
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filters.push(filter.into());
        self
    }

    /// Internal and frontend records too.
    pub fn all(mut self) -> Self {
        self.all = true;
        self
    }

    /// Keeps what was used within this time.
    pub fn keep_duration(mut self, time: Duration) -> Self {
        self.keep = time;
        self
    }

    /// Always keeps this many bytes.
    pub fn reserved_space(mut self, bytes: u64) -> Self {
        self.reserved = bytes;
        self
    }

    /// Removes only until the cache takes no more than this many bytes.
    pub fn max_used_space(mut self, bytes: u64) -> Self {
        self.max_used = bytes;
        self
    }

    /// Removes only until this many bytes of the disk are free.
    pub fn min_free_space(mut self, bytes: u64) -> Self {
        self.min_free = bytes;
        self
    }

    fn request(self) -> PruneRequest {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        PruneRequest {
            filter: self.filters,
            all: self.all,
            keep_duration: nanos(self.keep),
            reserved_space: bytes(self.reserved),
            max_used_space: bytes(self.max_used),
            min_free_space: bytes(self.min_free),
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// Records as they are removed. Dropping it stops the removal.
#[must_use = "pruning goes on only while it is read"]
pub struct Pruned {
    stream: Follow<control::UsageRecord>,
}

impl Pruned {
    /// The next record that was removed; `None` when all is done. Cancel-safe.
    ///
    /// # Errors
    /// When the daemon refuses, or is lost.
    pub async fn next(&mut self) -> Result<Option<UsageRecord>, Error> {
        Ok(self.stream.next().await?.map(UsageRecord::from))
    }

    /// Waits for the end and counts what was removed.
    ///
    /// # Errors
    /// As [`Pruned::next`].
    pub async fn finish(mut self) -> Result<Reclaimed, Error> {
        let mut total = Reclaimed::default();
        while let Some(record) = self.next().await? {
            total.records += 1;
            total.bytes = total.bytes.saturating_add(u64::try_from(record.size).unwrap_or(0));
        }
        Ok(total)
    }
}

impl std::fmt::Debug for Pruned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pruned").finish_non_exhaustive()
    }
}

/// What pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Number of records.
    pub records: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Who runs the steps of a build.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// Identity.
    pub id: String,
    /// Labels, such as `org.mobyproject.buildkit.worker.executor`.
    pub labels: BTreeMap<String, String>,
    /// Platforms it runs, such as `linux/amd64`; the first is its own.
    pub platforms: Vec<String>,
    /// When it prunes by itself.
    pub gc_policy: Vec<worker::GcPolicy>,
    /// BuildKit's version there; empty when it does not say.
    pub version: String,
    /// Devices that steps may be given.
    pub devices: Vec<String>,
}

impl From<worker::WorkerRecord> for Worker {
    fn from(record: worker::WorkerRecord) -> Self {
        let platform = |platform: buildkit_proto::pb::Platform| {
            let parts = [platform.os, platform.architecture, platform.variant];
            parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/")
        };
        Self {
            id: record.id,
            labels: record.labels.into_iter().collect(),
            platforms: record.platforms.into_iter().map(platform).collect(),
            gc_policy: record.gc_policy,
            version: record.buildkit_version.map(|version| version.version).unwrap_or_default(),
            devices: record.cdi_devices.into_iter().map(|device| device.name).collect(),
        }
    }
}

impl Client {
    /// What the daemon's cache holds, in order of size and id.
    ///
    /// # Errors
    /// When a filter is not understood, or the daemon cannot be reached.
    pub async fn disk_usage(&self, query: UsageQuery) -> Result<Vec<UsageRecord>, Error> {
        let request = DiskUsageRequest { filter: query.filters, age_limit: nanos(query.unused_for) };
        let call = |mut control: crate::client::Control| async move { control.disk_usage(request).await };
        let answer = self.call("Control.DiskUsage", call).await?;
        let mut records: Vec<_> = answer.record.into_iter().map(UsageRecord::from).collect();
        records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
        Ok(records)
    }

    /// Removes what is not used from the daemon's cache; the records come as they are removed.
    ///
    /// # Errors
    /// When the daemon cannot be reached.
    pub async fn prune(&self, prune: Prune) -> Result<Pruned, Error> {
        let request = prune.request();
        let call = |mut control: crate::client::Control| async move { control.prune(request).await };
        Ok(Pruned { stream: self.follow("Control.Prune", call).await? })
    }

    /// The daemon's workers; the first is the default one. Filters are on `id` and `labels.KEY`; none selects all.
    ///
    /// # Errors
    /// When a filter is not understood, or the daemon cannot be reached.
    pub async fn workers(
        &self,
        filters: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Vec<Worker>, Error> {
        let request = ListWorkersRequest { filter: filters.into_iter().map(Into::into).collect() };
        let call = |mut control: crate::client::Control| async move { control.list_workers(request).await };
        let answer = self.call("Control.ListWorkers", call).await?;
        Ok(answer.record.into_iter().map(Worker::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sent_in_the_daemons_units() {
        let prune = Prune::new()
            .filter("type==regular")
            .all()
            .keep_duration(Duration::from_secs(2))
            .reserved_space(1)
            .max_used_space(u64::MAX)
            .min_free_space(3);
        let request = prune.request();
        assert_eq!(request.filter, ["type==regular"]);
        assert!(request.all);
        assert_eq!(
            (request.keep_duration, request.reserved_space, request.max_used_space, request.min_free_space),
            (2_000_000_000, 1, i64::MAX, 3)
        );
    }

    #[test]
    fn an_old_daemon_knows_one_parent() {
        #[allow(deprecated)]
        let old = control::UsageRecord { parent: "p".into(), ..control::UsageRecord::default() };
        assert_eq!(UsageRecord::from(old).parents, ["p"]);
        assert!(UsageRecord::from(control::UsageRecord::default()).parents.is_empty());
    }
}
