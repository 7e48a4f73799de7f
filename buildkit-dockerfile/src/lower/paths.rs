//! Paths inside the built image: `/` for Linux, drive letters and backslashes for Windows.

use std::borrow::Cow;

use buildkit_llb::path::{clean, join};

use crate::error::{Error, ErrorKind, Result};

/// Rules for paths of one operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathStyle {
    Unix,
    Windows,
}

impl PathStyle {
    /// The rules of the operating system `os`.
    pub(crate) fn of(os: &str) -> Self {
        if os == "windows" { Self::Windows } else { Self::Unix }
    }

    /// `path` with `/` as separator.
    pub(crate) fn to_slash(self, path: &str) -> Cow<'_, str> {
        match self {
            Self::Windows if path.contains('\\') => path.replace('\\', "/").into(),
            _ => path.into(),
        }
    }

    /// `path` with the system's own separator.
    pub(crate) fn native(self, path: String) -> String {
        match self {
            Self::Windows => path.replace('/', "\\"),
            Self::Unix => path,
        }
    }

    /// Whether `path` starts at the root, with or without a drive letter.
    pub(crate) fn is_absolute(self, path: &str) -> bool {
        self.without_drive(path, false).is_ok_and(|p| self.to_slash(&p).starts_with('/'))
    }

    /// `path` without its drive letter. Only drive C exists in images.
    pub(crate) fn without_drive(self, path: &str, keep_slash: bool) -> Result<Cow<'_, str>> {
        if self == Self::Unix {
            return Ok(path.into());
        }
        let bytes = path.as_bytes();
        if bytes.len() == 2 && bytes.get(1) == Some(&b':') {
            return Err(error(format!("{path:?} is a drive without a path")));
        }
        if matches!(bytes, [b'/' | b'\\', b'/' | b'\\', ..]) {
            return Err(error(format!("{path:?} is a network path, which images do not have")));
        }
        let rest = match path.split_once(':') {
            None => path,
            Some(("c" | "C", rest)) => rest,
            Some(_) => return Err(error(format!("{path:?} is not on drive C:"))),
        };
        let slashed = self.to_slash(rest);
        let mut cleaned = clean(&slashed);
        // A name of one letter loses its slash in the reference too.
        if keep_slash && cleaned.len() > 1 && slashed.ends_with('/') {
            cleaned.push('/');
        }
        Ok(cleaned.into())
    }

    /// `path` below `parent`, made absolute. An absolute path is kept as it is written, not cleaned.
    /// With `keep_slash` a final `/` or `/.` survives.
    pub(crate) fn normalize(self, parent: &str, path: &str, keep_slash: bool) -> Result<String> {
        let parent = self.to_slash(if parent.is_empty() { "/" } else { parent });
        let mut parent = self.without_drive(&parent, keep_slash)?.into_owned();
        if !self.is_absolute(&parent) {
            parent = join(&["/", &parent]);
        }
        let original = self.to_slash(path);
        let path: &str = if original.is_empty() { &parent } else { &original };
        let mut out = self.without_drive(path, keep_slash)?.into_owned();
        if !self.is_absolute(&out) {
            out = join(&[&parent, &out]);
        }
        if keep_slash {
            if original.ends_with('/') && !out.ends_with('/') {
                // The drive is gone by now, and with it a slash that `without_drive` did not keep.
                out.push('/');
            } else if original.ends_with("/.") {
                if out != "/" {
                    out.push('/');
                }
                out.push('.');
            }
        }
        Ok(self.to_slash(&out).into_owned())
    }

    /// Destination of a copy: `path` below the working directory `dir`.
    pub(crate) fn destination(self, dir: &str, path: &str) -> Result<String> {
        let path = self.without_drive(path, true)?;
        if self.is_absolute(&path) {
            return self.normalize("/", &path, true);
        }
        let path = if matches!(&*path, "." | "") { "./" } else { &path };
        self.normalize(dir, path, true)
    }
}

fn error(message: String) -> Error {
    Error::new(ErrorKind::Instruction, message)
}

/// `path.Base` of Go: the last element, `/` for the root, `.` for nothing.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_on_linux() {
        let cases = [
            ("/w", "", "/w/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "a/b/..", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", "a/.", "/w/a/."),
            ("/w", "/abs//x/", "/abs//x/"),
            ("/", "..", "/"),
        ];
        for (dir, path, want) in cases {
            assert_eq!(PathStyle::Unix.destination(dir, path).unwrap(), want, "{dir} {path}");
        }
    }

    #[test]
    fn destinations_on_windows() {
        let cases = [
            ("/app/x", "b\\", "/app/x/b"),
            ("/app/x", "bin\\", "/app/x/bin/"),
            ("/app/x", "C:\\y\\", "/y/"),
            ("/app/x", "c:/y", "/y"),
            ("/app", "a\\b", "/app/a/b"),
        ];
        for (dir, path, want) in cases {
            assert_eq!(PathStyle::Windows.destination(dir, path).unwrap(), want, "{dir} {path}");
        }
        for path in ["D:\\x", "C:", "\\\\server\\share", "//server"] {
            assert!(PathStyle::Windows.destination("/", path).is_err(), "{path}");
        }
    }

    #[test]
    fn working_directories() {
        let cases = [
            ("", "/abs/./x/../y", "/abs/./x/../y"),
            ("/a", "b/../c", "/a/c"),
            ("/a", "", "/a"),
            ("rel", "rel", "/rel/rel"),
        ];
        for (parent, path, want) in cases {
            assert_eq!(PathStyle::Unix.normalize(parent, path, false).unwrap(), want);
        }
        let windows = PathStyle::Windows;
        assert_eq!(windows.native(windows.normalize("", "C:\\app\\x", false).unwrap()), "\\app\\x");
    }

    #[test]
    fn last_elements() {
        for (path, want) in [("", "."), ("/", "/"), ("//", "/"), ("a", "a"), ("a/b/", "b"), ("/x", "x")] {
            assert_eq!(base(path), want);
        }
    }
}
