//! Slash-separated paths as LLB spells them: always `/`, whatever the host.

/// Shortens `path` without looking at any file system: doubled slashes, `.` and `..` are resolved,
/// a trailing slash is dropped and the empty path becomes `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut out = String::with_capacity(path.len());
    if rooted {
        out.push('/');
    }
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            out.push('/');
        }
        out.push_str(part);
    }
    if out.is_empty() {
        out.push('.');
    }
    out
}

/// Joins the non-empty `parts` with slashes and [`clean`]s the result; nothing to join is the empty path.
pub fn join(parts: &[&str]) -> String {
    let mut joined = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        if !joined.is_empty() {
            joined.push('/');
        }
        joined.push_str(part);
    }
    if joined.is_empty() { joined } else { clean(&joined) }
}

/// The absolute form of `path` for a file action in a state whose directory is `dir`.
pub(crate) fn normalize(dir: &str, path: &str) -> String {
    let cleaned = clean(path);
    if cleaned.starts_with('/') { cleaned } else { join(&["/", dir, &cleaned]) }
}

/// As [`normalize`], keeping what a trailing `/` or `/.` says about the destination of a copy.
pub(crate) fn normalize_dest(dir: &str, path: &str) -> String {
    let mut out = normalize(dir, path);
    if path.ends_with('/') {
        if !out.ends_with('/') {
            out.push('/');
        }
    } else if path.ends_with("/.") {
        if !out.ends_with('/') {
            out.push('/');
        }
        out.push('.');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_resolves_what_it_can() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//", "/"),
            ("a//b/../c/", "a/c"),
            ("/../x", "/x"),
            ("../../s", "../../s"),
            ("a/../..", ".."),
            ("/a//b/", "/a/b"),
            ("./../a", "../a"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
        }
    }

    #[test]
    fn join_skips_what_is_empty() {
        for (parts, want) in
            [(&["", ""][..], ""), (&["/x", "y"], "/x/y"), (&["/", "", "../f"], "/f"), (&["a", ""], "a")]
        {
            assert_eq!(join(parts), want, "{parts:?}");
        }
    }

    #[test]
    fn destinations_keep_their_tail() {
        for (dir, path, want) in [
            ("/", "/", "/"),
            ("/w", "./", "/w/"),
            ("/w", "x/.", "/w/x/."),
            ("/", "/.", "/."),
            ("/w", "dst", "/w/dst"),
            ("/w", ".", "/w"),
        ] {
            assert_eq!(normalize_dest(dir, path), want, "{path:?} in {dir:?}");
        }
    }
}
