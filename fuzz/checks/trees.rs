//! What must hold of archives and ignore patterns, whatever they are.

use std::time::{Duration, Instant};

use buildkit_fsutil::compare;
use buildkit_fsutil::filter::{Filter, FilterOptions};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::pattern::{MatchInfo, PatternError, PatternMatcher, read_ignore};
use buildkit_fsutil::source::SourceFs as _;
use buildkit_fsutil::stat::Kind;
use buildkit_fsutil::tar::Tar;
use buildkit_fsutil::walk::{Found, Walk, WalkOptions};

/// What an archive becomes is a tree that may be sent: clean paths in order, and content as long as announced.
pub(crate) fn tar_extract(data: &[u8]) {
    let tar = match Tar::from_bytes(data) {
        Ok(tar) => tar,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let filter = Filter::default();
    let mut last: Vec<u8> = Vec::new();
    let mut content = 0_usize;
    for found in Walk::new(&tar, &filter, WalkOptions::default()) {
        let Ok(Found::Entry(entry)) = found else { panic!("{found:?}") };
        let stat = &entry.stat;
        assert!(!stat.path.is_empty());
        for part in stat.path.split(|byte| *byte == b'/') {
            assert!(
                !part.is_empty() && part != b"." && part != b".." && !part.contains(&0),
                "{:?}",
                stat.path
            );
        }
        assert!(last.is_empty() || compare(&last, &stat.path).is_lt(), "{last:?} before {:?}", stat.path);
        last.clone_from(&stat.path);
        if stat.mode.kind() == Kind::File {
            let mut file = tar.open(&stat.path).expect("an announced file");
            let mut buffer = [0; 4096];
            let mut length = 0;
            loop {
                let count = file.read(&mut buffer).expect("content in memory");
                if count == 0 {
                    break;
                }
                length += count;
                content += count;
                assert!(content <= 64 * data.len() + 4096 || length <= data.len(), "content from nowhere");
            }
            assert_eq!(i64::try_from(length).ok(), Some(stat.size), "{:?}", stat.path);
        }
    }
}

/// The first line is a path, the rest an ignore file. Reading and matching end, and what is asked on a walk agrees with
/// what is asked alone.
pub(crate) fn ignore_match(data: &[u8]) {
    let (path, file) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let Ok(patterns) = read_ignore(file) else { return };
    let matcher = match PatternMatcher::new(&patterns) {
        Ok(matcher) => matcher,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b"." && *part != b"..")
        .collect();
    let path = parts.join(&b'/');
    if path.is_empty() {
        return;
    }
    // A list with a malformed pattern ends when that pattern comes to be tried.
    let Ok(alone) = matcher.matches_or_parent_matches(&path) else { return };
    // A walk from the top.
    let mut above: Option<MatchInfo> = None;
    let mut walked = false;
    let mut reachable = true;
    let mut prefix: Vec<u8> = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            // Where nothing is matched below, a walk does not go.
            reachable &= walked || matcher.may_match_below(&prefix, false);
            prefix.push(b'/');
        }
        prefix.extend_from_slice(part);
        let mut info = MatchInfo::default();
        let Ok(now) = matcher.matches_using_parent(&prefix, above.as_ref(), Some(&mut info)) else { return };
        walked = now;
        above = Some(info);
    }
    // The reference itself differs where exclusions are involved, so only without them.
    if !matcher.has_exclusions() {
        assert_eq!(walked, alone, "{patterns:?} {path:?}");
        assert!(!walked || reachable, "{patterns:?} would not be looked for at {path:?}");
    }
}

/// Patterns as they travel, one on a line: up to an empty line they include, after it they exclude. They are matched
/// in linear time, and a walk of a tree selects what asking for each file alone selects.
pub(crate) fn ignore_pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (include, exclude) = text.split_once("\n\n").unwrap_or((&text, ""));
    let list = |lines: &str| lines.lines().map(str::to_owned).collect::<Vec<_>>();
    let options = FilterOptions {
        include_patterns: list(include),
        exclude_patterns: list(exclude),
        ..FilterOptions::default()
    };
    let matcher = |patterns: &[String]| PatternMatcher::new(patterns);
    let (included, excluded) = match (matcher(&options.include_patterns), matcher(&options.exclude_patterns))
    {
        (Ok(included), Ok(excluded)) => (included, excluded),
        (Err(error), _) | (_, Err(error)) => return assert!(!error.to_string().is_empty()),
    };
    let started = Instant::now();
    let long = ["a".repeat(4000), "a/".repeat(2000) + "b", "ab/*[".repeat(800)];
    for path in &long {
        let _ = (included.matches_or_parent_matches(path), excluded.matches_or_parent_matches(path));
        let _ = (included.may_match_below(path.as_bytes(), false), excluded.may_match_below(b"a", true));
    }
    let limit = Duration::from_secs(5) + Duration::from_millis(data.len() as u64);
    assert!(started.elapsed() < limit, "{:?} for {} bytes", started.elapsed(), data.len());

    let names: [&[u8]; 9] =
        [b"a", b"b", b"ab", b"c.go", b"a b", b"[a]", b"*", b"\xc3\xa9\xff", b"node_modules"];
    let mut files: Vec<Vec<u8>> = Vec::new();
    for top in names {
        files.push([b"f-".as_slice(), top].concat());
        for below in names {
            files.push([top, b"/d/", below].concat());
        }
    }
    let tree = files.iter().fold(MemoryTree::new(), |tree, path| tree.file(path, ""));
    let filter = Filter::new(&tree, options).expect("patterns that could be read");
    let mut selected: Vec<Vec<u8>> = Vec::new();
    for found in Walk::new(&tree, &filter, WalkOptions::default()) {
        let entry = match found {
            Ok(Found::Entry(entry)) => entry,
            // A pattern malformed further back ends a walk when it comes to be tried.
            Err(error) if matches!(error.source.get_ref(), Some(inner) if inner.is::<PatternError>()) => {
                return;
            }
            found => panic!("{found:?}"),
        };
        if entry.stat.mode.kind() == Kind::File {
            selected.push(entry.stat.path.clone());
        }
    }
    assert!(selected.is_sorted_by(|a, b| compare(a, b).is_lt()));
    // The reference itself differs where exclusions are involved. A list of nothing but blank lines is none.
    if included.has_exclusions() || excluded.has_exclusions() || included.is_empty() {
        return;
    }
    files.retain(|path| {
        included.matches_or_parent_matches(path) == Ok(true)
            && excluded.matches_or_parent_matches(path) == Ok(false)
    });
    files.sort_by(|a, b| compare(a, b));
    assert_eq!(selected, files, "{include:?} without {exclude:?}");
}
