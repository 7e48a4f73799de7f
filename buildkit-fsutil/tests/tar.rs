//! Archives as trees.

#![allow(clippy::format_push_string, clippy::maybe_infinite_iter)] // short generated inputs

use std::io::Write as _;
use std::process::Command;

use buildkit_fsutil::filter::Filter;
use buildkit_fsutil::source::SourceFs;
use buildkit_fsutil::tar::Tar;
use buildkit_fsutil::walk::{Found, Walk, WalkOptions};

/// A header block with the right checksum, and content.
fn entry(path: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0001750\0");
    put(116, b"0001750\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000007\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (0..).find(|length| format!("{length}{rest}").len() == *length).expect("a length");
        body.push_str(&format!("{length}{rest}"));
    }
    entry("pax", b'x', "", body.as_bytes())
}

fn show(tar: &Tar) -> Vec<String> {
    let filter = Filter::default();
    Walk::new(tar, &filter, WalkOptions::default())
        .map(|found| {
            let Ok(Found::Entry(entry)) = found else { panic!("{found:?}") };
            let path = String::from_utf8_lossy(&entry.stat.path).into_owned();
            if !entry.stat.link_name.is_empty() {
                return format!("{path} -> {}", String::from_utf8_lossy(&entry.stat.link_name));
            }
            if entry.stat.mode.is_dir() {
                return format!("{path}/");
            }
            let mut content = Vec::new();
            let mut file = tar.open(&entry.stat.path).expect("a file");
            let mut buffer = [0; 3];
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                content.extend_from_slice(&buffer[..count]);
            }
            format!("{path} = {}", String::from_utf8_lossy(&content))
        })
        .collect()
}

#[test]
fn cve_2026_28406_entries_are_sorted_confined_and_the_last_one_counts() {
    let archive = [
        entry("./z/f", b'0', "", b"zed"),
        entry("../../evil", b'0', "", b"inside"),
        entry("/abs", b'0', "", b"inside"),
        entry("twice", b'0', "", b"one"),
        entry("twice", b'0', "", b"two!"),
        entry("dir/", b'5', "", b""),
        entry("old/", b'0', "", b""),
        entry("dir/sym", b'2', "../twice", b""),
        entry("hard", b'1', "z/f", b""),
    ]
    .concat();
    let expected = [
        "abs = inside",
        "dir/",
        "dir/sym -> ../twice",
        "evil = inside",
        "hard = zed",
        "old/",
        "twice = two!",
        "z/",
        "z/f = zed",
    ];
    assert_eq!(show(&Tar::from_bytes(archive.clone()).unwrap()), expected);
    assert_eq!(show(&Tar::from_reader(&archive[..]).unwrap()), expected);
}

#[test]
fn rustsec_2025_0111_extended_headers_override_the_plain_ones() {
    let long = "n".repeat(150);
    let archive = [
        pax(&[
            ("path", &format!("d/{long}")),
            ("mtime", "1600000000.25"),
            ("uid", "7"),
            ("SCHILY.xattr.user.x", "v"),
        ]),
        entry("short", b'0', "", b"abc"),
        entry("././@LongLink", b'L', "", format!("gnu/{long}\0").as_bytes()),
        entry("short", b'0', "", b"def"),
        // The size in the extended header is the one that counts.
        pax(&[("size", "2")]),
        {
            let mut wrong = entry("sized", b'0', "", b"");
            wrong.extend(entry("x", b'0', "", b"")[..0].iter());
            wrong.extend(b"hi".iter().copied().chain(std::iter::repeat_n(0, 510)));
            wrong
        },
        entry("after", b'0', "", b"ok"),
    ]
    .concat();
    let tar = Tar::from_bytes(archive).unwrap();
    assert_eq!(
        show(&tar),
        [
            "after = ok".to_owned(),
            "d/".to_owned(),
            format!("d/{long} = abc"),
            "gnu/".to_owned(),
            format!("gnu/{long} = def"),
            "sized = hi".to_owned()
        ]
    );
    let entry = tar.open_dir(b"d").unwrap().entry(long.as_bytes()).unwrap();
    assert_eq!((entry.stat.uid, entry.stat.gid, entry.stat.mod_time), (7, 0o1750, 1_600_000_000_250_000_000));
    assert_eq!(entry.stat.xattrs["user.x"], b"v");
}

#[test]
fn unusable_archives_are_errors() {
    for (name, archive) in [
        ("gzip", b"\x1f\x8b\x08\0".repeat(200)),
        ("cut header", entry("f", b'0', "", b"")[..300].to_vec()),
        ("cut content", entry("f", b'0', "", b"abc")[..512].to_vec()),
        ("sparse", entry("f", b'S', "", b"")),
        ("sparse pax", [pax(&[("GNU.sparse.major", "1")]), entry("f", b'0', "", b"")].concat()),
        ("link to nothing", entry("h", b'1', "missing", b"")),
        ("below a file", [entry("f", b'0', "", b""), entry("f/x", b'0', "", b"")].concat()),
        ("bad record", entry("p", b'x', "", b"99999 path=x\n")),
        ("endless record", entry("p", b'x', "", b"0 path=x\n")),
        ("huge size", [pax(&[("size", "18446744073709551615")]), entry("f", b'0', "", b"")].concat()),
        (
            "huge header",
            [{
                let mut block = entry("p", b'x', "", b"");
                block[124..136].copy_from_slice(b"77777777777\0");
                block
            }]
            .concat(),
        ),
    ] {
        assert!(Tar::from_bytes(archive).is_err(), "{name}");
    }
    assert!(show(&Tar::from_bytes(Vec::new()).unwrap()).is_empty());
}

/// Every truncation and many single-byte changes end in a tree or an error.
#[test]
fn damaged_archives_never_panic() {
    let archive =
        [pax(&[("path", "p"), ("size", "3")]), entry("f", b'0', "", b"abc"), entry("l", b'1', "p", b"")]
            .concat();
    for cut in 0..archive.len() {
        let _ = Tar::from_bytes(&archive[..cut]);
    }
    for at in 0..archive.len() {
        for value in [0, b'9', 0x80, 0xff] {
            let mut damaged = archive.clone();
            damaged[at] = value;
            if let Ok(tar) = Tar::from_bytes(damaged) {
                show(&tar);
            }
        }
    }
}

/// What GNU tar writes in each of its formats.
#[test]
fn archives_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = "d".repeat(120);
    std::fs::create_dir(dir.path().join(&long)).unwrap();
    std::fs::File::create(dir.path().join(&long).join("file")).unwrap().write_all(b"content").unwrap();
    std::os::unix::fs::symlink(format!("{long}/file"), dir.path().join("sym")).unwrap();
    for format in ["gnu", "posix", "ustar"] {
        let made = Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .args([&format!("--format={format}"), "-cf", "-", "."])
            .output();
        let Ok(made) = made else {
            eprintln!("skipped: there is no tar program here");
            return;
        };
        if format == "ustar" && !made.status.success() {
            continue; // the link's target is too long for it
        }
        let expected = [format!("{long}/"), format!("{long}/file = content"), format!("sym -> {long}/file")];
        assert_eq!(show(&Tar::from_bytes(made.stdout).unwrap()), expected, "{format}");
    }
}
