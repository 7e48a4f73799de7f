//! Which entries are sent, and in which order.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use buildkit_fsutil::directory::Directory;
use buildkit_fsutil::filter::{Decision, Filter, FilterOptions, owned_by_root};
use buildkit_fsutil::memory::MemoryTree;
use buildkit_fsutil::source::SourceFs;
use buildkit_fsutil::stat::Stat;
use buildkit_fsutil::walk::{Found, Walk, WalkOptions};
use buildkit_fsutil::{compare, follow_links};

const FILES: &[&str] =
    &["a/f1", "a/f2", "a/sub/g1", "b/h", "c.txt", "d.go", "vendor/x/README", "vendor/x/y.go"];
const LINKS: &[(&str, &str)] = &[
    ("a/sub/up", "../../l1"),
    ("dang", "missing"),
    ("l1", "a/f1"),
    ("l2", "/a/sub"),
    ("loopa", "loopb"),
    ("loopb", "loopa"),
    ("out", "../../etc"),
];

fn in_memory() -> MemoryTree {
    let tree = FILES.iter().fold(MemoryTree::new().dir("emptydir"), |tree, path| tree.file(path, path));
    LINKS.iter().fold(tree, |tree, (path, target)| tree.symlink(path, target))
}

fn on_disk() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in FILES.iter().chain(&["emptydir/."]) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        if !path.ends_with(".") && path.file_name().is_some_and(|name| name != "emptydir") {
            std::fs::write(&path, b"x").expect("written");
        }
    }
    std::fs::create_dir_all(dir.path().join("emptydir")).expect("made");
    for (path, target) in LINKS {
        std::os::unix::fs::symlink(target, dir.path().join(path)).expect("linked");
    }
    let source = Directory::open(dir.path()).expect("opened");
    (dir, source)
}

fn walk(source: &dyn SourceFs, options: FilterOptions) -> Vec<String> {
    let filter = Filter::new(source, options).expect("a good filter");
    Walk::new(source, &filter, WalkOptions::default())
        .map(|found| match found.expect("no error") {
            Found::Entry(entry) => String::from_utf8(entry.stat.path).expect("text"),
            Found::Skipped(error) => panic!("skipped: {error}"),
        })
        .collect()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

const EVERYTHING: &str = "a a/f1 a/f2 a/sub a/sub/g1 a/sub/up b b/h c.txt d.go dang emptydir l1 l2 loopa loopb out \
                          vendor vendor/x vendor/x/README vendor/x/y.go";

#[test]
fn filters_select_what_the_reference_selects() {
    let all_but =
        |gone: &str| EVERYTHING.split_whitespace().filter(|path| *path != gone).collect::<Vec<_>>().join(" ");
    let memory = in_memory();
    let (_dir, disk) = on_disk();
    for (include, exclude, follow, expected) in [
        (&[][..], &[][..], &[][..], EVERYTHING),
        (&["a/sub"], &[], &[], "a a/sub a/sub/g1 a/sub/up"),
        (&["**/*.go"], &[], &[], "d.go vendor vendor/x vendor/x/y.go"),
        (&["a", "!a/f1"], &[], &[], "a a/f2 a/sub a/sub/g1 a/sub/up"),
        (&["nope"], &[], &[], ""),
        (&[], &["**", "!a/f1"], &[], "a a/f1"),
        (&[], &["*", "!vendor/x/*.go"], &[], "vendor vendor/x vendor/x/y.go"),
        (&[], &["vendor", "!vendor/x/README"], &[], &all_but("vendor/x/y.go")),
        (&["a"], &["a/f1"], &[], "a a/f2 a/sub a/sub/g1 a/sub/up"),
        (&[], &[], &["l1"], "a a/f1 l1"),
        (&[], &[], &["l2/g1"], "a a/sub a/sub/g1 l2"),
        (&[], &[], &["l*"], "a a/f1 a/sub a/sub/g1 a/sub/up l1 l2 loopa loopb"),
        (&[], &[], &["a/sub/up"], "a a/f1 a/sub a/sub/up l1"),
        (&[], &[], &["out"], "out"),
        (&[], &[], &["dang"], "dang"),
        (&[], &[], &["loopa"], "loopa loopb"),
        (&[], &[], &["."], EVERYTHING),
        (&["b"], &[], &["c.txt"], "b b/h c.txt"),
        (&["."], &[], &["c.txt"], EVERYTHING),
    ] {
        let options = || FilterOptions {
            include_patterns: strings(include),
            exclude_patterns: strings(exclude),
            follow_paths: strings(follow),
            map: None,
        };
        let expected = strings(&expected.split_whitespace().collect::<Vec<_>>());
        let context = format!("include {include:?} exclude {exclude:?} follow {follow:?}");
        assert_eq!(walk(&memory, options()), expected, "memory, {context}");
        assert_eq!(walk(&disk, options()), expected, "disk, {context}");
    }
}

#[test]
fn links_are_followed_as_the_reference_follows_them() {
    let memory = in_memory();
    let (_dir, disk) = on_disk();
    for (paths, expected) in [
        (&["l1"][..], &["a/f1", "l1"][..]),
        (&["l*"], &["a/f1", "a/sub", "l*", "loopa", "loopb"]),
        (&["l2/g1"], &["a/sub/g1", "l2"]),
        (&["out"], &["etc", "out"]),
        (&["dang"], &["dang", "missing"]),
        (&["."], &[]),
        (&["a", "a/f1"], &["a"]),
        (&["missing/x"], &["missing/x"]),
        (&["l?/g*"], &["a/f1/g*", "a/sub/g*", "l?"]),
        (&["*/f1"], &["*", "a/f1/f1", "a/sub/f1", "etc/f1", "loopa", "loopb", "missing/f1"]),
        (&["../../l1"], &["a/f1", "l1"]),
        (&["/l1"], &["a/f1", "l1"]),
        (&["l\\*"], &["l\\*"]),
        (&["["], &["["]),
    ] {
        assert_eq!(follow_links(&memory, &strings(paths)).unwrap(), strings(expected), "memory, {paths:?}");
        assert_eq!(follow_links(&disk, &strings(paths)).unwrap(), strings(expected), "disk, {paths:?}");
    }
}

/// Row F23: links that grow with every hop, long chains, links out of the tree.
#[test]
fn f23_symlink_loops_and_escapes_end() {
    let mut tree = MemoryTree::new().symlink("a", "a/b").symlink("x", "../../../../etc/passwd");
    for hop in 0..3000 {
        tree = tree.symlink(format!("hop{hop}"), format!("hop{}", hop + 1));
    }
    assert_eq!(follow_links(&tree, &strings(&["a/c"])).unwrap(), ["a"]);
    assert_eq!(follow_links(&tree, &strings(&["x"])).unwrap(), ["etc/passwd", "x"]);
    assert_eq!(follow_links(&tree, &strings(&["hop0"])).unwrap().len(), 3001);
}

#[test]
fn order_is_component_wise() {
    let tree =
        ["a/b/f2", "a/f1", "a-b", "a.txt", "z/y"].iter().fold(MemoryTree::new(), |t, p| t.file(p, "x"));
    let walked = walk(&tree, FilterOptions::default());
    assert_eq!(walked, ["a", "a/b", "a/b/f2", "a/f1", "a-b", "a.txt", "z", "z/y"]);
    assert!(walked.windows(2).all(|pair| compare(pair[0].as_bytes(), pair[1].as_bytes()).is_lt()));
}

#[test]
fn map_decides_about_entries_and_changes_them() {
    let tree = in_memory();
    let deciding = |decide: fn(&mut Stat) -> Decision| FilterOptions {
        map: Some(Arc::new(decide)),
        ..Default::default()
    };
    let walked = walk(
        &tree,
        deciding(|stat| match &stat.path[..] {
            b"a/sub" | b"emptydir" | b"vendor" => Decision::SkipDir,
            b"a" | b"c.txt" => Decision::Exclude,
            _ => Decision::Keep,
        }),
    );
    let expected = "a a/f1 a/f2 b b/h d.go dang l1 l2 loopa loopb out";
    assert_eq!(walked.join(" "), expected, "an excluded directory is sent when something below it is");
    let walked =
        walk(&tree, deciding(|stat| if stat.path == b"c.txt" { Decision::SkipDir } else { Decision::Keep }));
    assert_eq!(walked.last().map(String::as_str), Some("b/h"), "SkipDir on a file ends its directory");
    let lazily = FilterOptions {
        include_patterns: strings(&["vendor/x/y.go", "b/h"]),
        map: Some(Arc::new(|stat| if stat.path == b"vendor" { Decision::SkipDir } else { Decision::Keep })),
        ..Default::default()
    };
    assert_eq!(walk(&tree, lazily), ["b", "b/h"]);
}

#[test]
fn owner_can_be_mapped_away() {
    let mut tree = MemoryTree::new();
    tree.insert(Stat { path: b"f".to_vec(), uid: 1000, gid: 1000, ..Stat::default() }, b"x").unwrap();
    let filter =
        Filter::new(&tree, FilterOptions { map: Some(owned_by_root()), ..Default::default() }).unwrap();
    let Some(Ok(Found::Entry(entry))) = Walk::new(&tree, &filter, WalkOptions::default()).next() else {
        panic!("one entry")
    };
    assert_eq!((entry.stat.uid, entry.stat.gid), (0, 0));
}

#[test]
fn excluded_directories_are_not_opened() {
    struct Watch(MemoryTree);
    impl SourceFs for Watch {
        fn open_dir(&self, path: &[u8]) -> std::io::Result<Box<dyn buildkit_fsutil::source::SourceDir + '_>> {
            assert!(!path.starts_with(b"node_modules") && !path.starts_with(b"a/sub"), "{path:?} was opened");
            self.0.open_dir(path)
        }
        fn open(&self, path: &[u8]) -> std::io::Result<Box<dyn buildkit_fsutil::source::SourceFile + '_>> {
            self.0.open(path)
        }
    }
    let tree = Watch(in_memory().file("node_modules/x/y", "z"));
    let options = FilterOptions {
        exclude_patterns: strings(&["node_modules", "**/sub", "!*.go", "!vendor/**/z"]),
        ..Default::default()
    };
    assert!(walk(&tree, options).contains(&"d.go".to_owned()));
    let options = FilterOptions { include_patterns: strings(&["b/*", "vendor/x/**"]), ..Default::default() };
    assert_eq!(walk(&tree, options), ["b", "b/h", "vendor", "vendor/x", "vendor/x/README", "vendor/x/y.go"]);
}

#[test]
fn unusable_filters_name_their_list() {
    let tree = MemoryTree::new();
    let include = FilterOptions { include_patterns: strings(&["a["]), ..Default::default() };
    let error = Filter::new(&tree, include).unwrap_err();
    assert_eq!(error.to_string(), "invalid includepatterns: [a[]");
    assert!(error.pattern().is_some());
    let exclude = FilterOptions { exclude_patterns: strings(&["!"]), ..Default::default() };
    assert_eq!(Filter::new(&tree, exclude).unwrap_err().to_string(), "invalid excludepatterns: [!]");
}

/// As in the reference, a pattern whose fault a list's check does not reach ends the walk at the first entry on which
/// it comes to be tried.
#[test]
fn malformed_patterns_end_a_walk_where_they_are_tried() {
    let tree = in_memory();
    let walked = |options: FilterOptions| -> Result<Vec<String>, String> {
        let filter = Filter::new(&tree, options).expect("an accepted filter");
        let walk = Walk::new(&tree, &filter, WalkOptions { skip_unreadable: true, allow_vanished: true });
        walk.map(|found| match found {
            Ok(Found::Entry(entry)) => Ok(String::from_utf8(entry.stat.path).expect("text")),
            Ok(Found::Skipped(error)) | Err(error) => {
                Err(format!("{error}: {}", std::error::Error::source(&error).expect("a source")))
            }
        })
        .collect()
    };
    let exclude = |list: &[&str]| FilterOptions { exclude_patterns: strings(list), ..Default::default() };
    let include = |list: &[&str]| FilterOptions { include_patterns: strings(list), ..Default::default() };
    let at = |path: &str| Err(format!("cannot read {path:?}: syntax error in pattern: \"b*/[\""));
    assert_eq!(walked(exclude(&["b*/["])), at("a"));
    assert_eq!(walked(exclude(&["a", "b*/["])), at("b"));
    assert_eq!(walked(exclude(&["*", "b*/["])), Ok(vec![]));
    assert_eq!(
        walked(include(&["*", "b*/["])).map(|paths| paths.len()),
        Ok(EVERYTHING.split_whitespace().count())
    );
    assert_eq!(walked(include(&["a", "b*/["])), at("b"));
    // Below what is excluded nothing is looked at, unless an exclusion may take something back.
    assert_eq!(walked(exclude(&["*", "!b*/["])), at("a"));
}

#[test]
fn directory_tells_modes_links_times_and_names_as_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff\xfename.txt");
    std::fs::write(dir.path().join(name), b"12345").unwrap();
    std::fs::hard_link(dir.path().join(name), dir.path().join("hard")).unwrap();
    std::os::unix::fs::symlink("hard", dir.path().join("sym")).unwrap();
    let when = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_600_000_000_123_456_789);
    std::fs::File::open(dir.path().join(name)).unwrap().set_modified(when).unwrap();
    let source = Directory::open(dir.path()).unwrap();
    let filter = Filter::default();
    let entries: Vec<_> = Walk::new(&source, &filter, WalkOptions::default())
        .map(|found| match found.unwrap() {
            Found::Entry(entry) => *entry,
            Found::Skipped(error) => panic!("{error}"),
        })
        .collect();
    let [bad, hard, sym] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(bad.stat.path, b"bad\xff\xfename.txt");
    assert_eq!(bad.stat.size, 5);
    assert_eq!(bad.stat.mod_time, 1_600_000_000_123_456_789);
    assert_eq!((bad.version, bad.links), (hard.version, 2));
    assert_eq!((&sym.stat.link_name[..], sym.stat.size), (&b"hard"[..], 4));
    assert_eq!(sym.stat.mode.0, 0x0800_01ff);
}

#[test]
fn modes_are_those_of_go() {
    use buildkit_fsutil::stat::FileMode;
    for (unix, go) in [
        (0o040_755, 0x8000_01ed),
        (0o041_777, 0x8010_01ff),
        (0o120_777, 0x0800_01ff),
        (0o104_755, 0x0080_01ed),
        (0o102_755, 0x0040_01ed),
        (0o100_644, 0o644),
        (0o060_660, 0x0400_01b0),
        (0o020_660, 0x0420_01b0),
        (0o010_600, 0x0200_0180),
        (0o140_755, 0x0100_01ed),
    ] {
        let mode = FileMode::from_unix(unix);
        assert_eq!(mode, FileMode(go), "{unix:o}");
        assert_eq!(mode.unix_permissions(), unix & 0o7777);
        assert_eq!(FileMode(mode.0).with_unix_permissions(unix), mode);
    }
}
