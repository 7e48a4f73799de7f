//! How much of a build came from the cache.

use serde::Serialize;

use super::fold::Fold;

/// How much of a build came from the cache, counted in steps. As JSON it is what buildctl writes with
/// `--debug-json-cache-metrics`, but for the time that the build took.
///
/// The counts named `user` leave out what frontends, exporters and this client do for themselves: steps named
/// `[internal] …`, `[auth] …`, `importing cache …` and `exporting …`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheMetrics {
    /// All steps.
    pub total: u64,
    /// Those of them that were finished.
    pub completed: u64,
    /// Steps of the user.
    pub user_total: u64,
    /// Those of them whose result came from the cache.
    pub user_cached: u64,
    /// Those of them that were finished.
    pub user_completed: u64,
    /// Those of them that could have come from the cache: all but base images.
    pub user_cacheable: u64,
    /// Base images.
    pub from: u64,
    /// Steps of the user, without base images, that did not come from the cache.
    pub miss: u64,
    /// The names of those, in the order in which they were first told.
    #[serde(skip)]
    pub missed: Vec<String>,
}

impl CacheMetrics {
    pub(super) fn of(fold: &Fold) -> Self {
        const OTHERS: [&str; 5] = ["[internal]", "[auth]", "[security]", "importing cache", "exporting "];
        let mut metrics = Self::default();
        for step in fold.steps() {
            metrics.total += 1;
            metrics.completed += u64::from(step.was_completed);
            if OTHERS.iter().any(|other| step.name.starts_with(other)) {
                continue;
            }
            let from = step.name.starts_with('[') && step.name.contains("] FROM");
            metrics.user_total += 1;
            metrics.user_cached += u64::from(step.was_cached);
            metrics.user_completed += u64::from(step.was_completed);
            metrics.user_cacheable += u64::from(!from);
            metrics.from += u64::from(from);
            if !step.was_cached && !from {
                metrics.miss += 1;
                metrics.missed.push(step.name.clone());
            }
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::event::{SolveStatus, Vertex};
    use std::time::SystemTime;

    #[test]
    fn steps_are_counted_by_whose_they_are_and_where_they_came_from() {
        let now = Some(SystemTime::UNIX_EPOCH);
        let step = |name: &str, cached, completed| Vertex {
            digest: name.into(),
            name: name.into(),
            started: now,
            completed,
            cached,
            ..Vertex::default()
        };
        let mut fold = Fold::default();
        let vertexes = vec![
            step("[internal] load build definition from Dockerfile", false, now),
            step("[auth] library/alpine:pull token for registry-1.docker.io", false, now),
            step("[base 1/2] FROM docker.io/library/alpine", false, now),
            step("[base 2/2] RUN make", true, now),
            step("[2/2] COPY --from=base /FROM /", false, None),
            step("exporting to image", false, now),
        ];
        fold.apply(&SolveStatus { vertexes, ..SolveStatus::default() }, |_, _, _| {});
        // It is told again, with less to say.
        let again = vec![step("[base 2/2] RUN make", false, None)];
        fold.apply(&SolveStatus { vertexes: again, ..SolveStatus::default() }, |_, _, _| {});
        let metrics = CacheMetrics::of(&fold);
        assert_eq!(metrics.missed, ["[2/2] COPY --from=base /FROM /"]);
        assert_eq!(
            serde_json::to_string(&metrics).unwrap(),
            "{\"total\":6,\"completed\":5,\"user_total\":3,\"user_cached\":1,\"user_completed\":2,\
             \"user_cacheable\":2,\"from\":1,\"miss\":1}"
        );
    }
}
