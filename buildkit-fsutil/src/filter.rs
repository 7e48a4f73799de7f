//! Which entries of a tree are sent.

use std::fmt;
use std::sync::Arc;

use crate::follow_links::follow_links;
use crate::pattern::{PatternError, PatternMatcher};
use crate::source::SourceFs;
use crate::stat::Stat;

/// What to select, as the receiver of a tree asks for it.
///
/// # Defaults
/// Everything, unchanged.
#[derive(Clone, Default)]
pub struct FilterOptions {
    /// Only what one of these matches; empty for everything.
    pub include_patterns: Vec<String>,
    /// Not what these match.
    pub exclude_patterns: Vec<String>,
    /// Paths that are included together with every symbolic link on the way and what it points to. Wildcards `*`,
    /// `?` and `[` are allowed.
    pub follow_paths: Vec<String>,
    /// Looks at each selected entry, may change it and decides; see [`Decision`].
    pub map: Option<MapEntry>,
}

impl fmt::Debug for FilterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterOptions")
            .field("include_patterns", &self.include_patterns)
            .field("exclude_patterns", &self.exclude_patterns)
            .field("follow_paths", &self.follow_paths)
            .field("map", &self.map.is_some())
            .finish()
    }
}

/// Called for each selected entry, also for a directory that is only sent because something below it is.
pub type MapEntry = Arc<dyn Fn(&mut Stat) -> Decision + Send + Sync>;

/// What a [`MapEntry`] makes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Keep,
    /// Do not send it. A directory is sent all the same when something below it is.
    Exclude,
    /// A directory: neither it nor anything below it. Anything else: nor the rest of its directory.
    SkipDir,
}

/// Makes everything belong to root: a build's context does not carry the owners of the machine it comes from.
pub fn owned_by_root() -> MapEntry {
    Arc::new(|stat| {
        stat.uid = 0;
        stat.gid = 0;
        Decision::Keep
    })
}

/// Options made ready for one tree.
#[derive(Clone, Default)]
pub struct Filter {
    pub(crate) include: Option<PatternMatcher>,
    pub(crate) exclude: Option<PatternMatcher>,
    pub(crate) map: Option<MapEntry>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("include", &self.include)
            .field("exclude", &self.exclude)
            .field("map", &self.map.is_some())
            .finish()
    }
}

impl Filter {
    /// Compiles the patterns and resolves the paths to follow, which reads links of `source`: it blocks.
    ///
    /// # Errors
    /// [`FilterError`] for patterns that cannot be read, and when links cannot be read.
    pub fn new(source: &dyn SourceFs, options: FilterOptions) -> Result<Self, FilterError> {
        let FilterOptions { mut include_patterns, exclude_patterns, follow_paths, map } = options;
        let followed = follow_links(source, &follow_paths).map_err(|(path, source)| FilterError {
            kind: FilterErrorKind::FollowPath(path),
            source: source.into(),
        })?;
        if !followed.is_empty() {
            include_patterns.extend(followed);
            if include_patterns.iter().any(|pattern| pattern == ".") {
                include_patterns.clear();
            }
        }
        let matcher = |patterns: Vec<String>, kind: fn(Vec<String>) -> FilterErrorKind| {
            if patterns.is_empty() {
                return Ok(None);
            }
            PatternMatcher::new(&patterns)
                .map(Some)
                .map_err(|error| FilterError { kind: kind(patterns), source: error.into() })
        };
        Ok(Self {
            include: matcher(include_patterns, FilterErrorKind::Include)?,
            exclude: matcher(exclude_patterns, FilterErrorKind::Exclude)?,
            map,
        })
    }
}

/// A filter that cannot be made.
#[derive(Debug)]
pub struct FilterError {
    kind: FilterErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl FilterError {
    /// The pattern at fault, when it is one.
    pub fn pattern(&self) -> Option<&PatternError> {
        self.source.downcast_ref()
    }
}

#[derive(Debug)]
enum FilterErrorKind {
    Include(Vec<String>),
    Exclude(Vec<String>),
    FollowPath(String),
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A list from a peer may be long; its start tells which one it is.
        let list = |patterns: &[String]| {
            let mut shown = patterns.iter().take(8).cloned().collect::<Vec<_>>().join(" ");
            if patterns.len() > 8 {
                shown.push_str(" …");
            }
            shown
        };
        match &self.kind {
            FilterErrorKind::Include(patterns) => write!(f, "invalid includepatterns: [{}]", list(patterns)),
            FilterErrorKind::Exclude(patterns) => write!(f, "invalid excludepatterns: [{}]", list(patterns)),
            FilterErrorKind::FollowPath(path) => write!(f, "cannot follow the links of {path:?}"),
        }
    }
}

impl std::error::Error for FilterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
