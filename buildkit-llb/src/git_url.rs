//! Git remotes: URLs, `user@host:path`, and the `#ref:dir` and `?key=value` that say what to check out.

use std::fmt;

use crate::path;

/// The protocol of a git remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http://`
    Http,
    /// `https://`
    Https,
    /// `ssh://` and `user@host:path`
    Ssh,
    /// `git://`
    Git,
}

/// Why a text is no git remote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Neither a URL with a scheme nor `user@host:path`.
    UnknownProtocol,
    /// A scheme git remotes do not have.
    InvalidProtocol(String),
    /// A malformed URL; the text says what is wrong.
    Malformed(&'static str),
    /// The text is something else (a path, a web page); only [`GitRef::parse`] says so.
    NotGit,
    /// A key of the query that needs a value has none.
    QueryWithoutValue(String),
    /// A key of the query that is there more than once.
    QueryTwice(String),
    /// A key of the query that nobody knows.
    UnexpectedQuery(String),
    /// Two places name different things, e.g. `?ref=a#b`.
    Conflict {
        /// What they disagree on: `ref` or `subdir`.
        what: &'static str,
        /// The value of the fragment or the earlier key.
        first: String,
        /// The value that disagrees.
        second: String,
    },
    /// Both a branch and a tag.
    BranchAndTag,
    /// A value that a key of the query does not take.
    InvalidValue {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl Error {
    /// Whether the text is a git remote, if a wrong one: the caller then reports the error instead of taking
    /// the text for something else.
    pub fn is_git(&self) -> bool {
        !matches!(self, Self::UnknownProtocol | Self::InvalidProtocol(_) | Self::Malformed(_) | Self::NotGit)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownProtocol => f.write_str("a git remote is a URL or user@host:path"),
            Self::InvalidProtocol(scheme) => write!(f, "{scheme}: git remotes are http, https, ssh or git"),
            Self::Malformed(what) => write!(f, "malformed URL: {what}"),
            Self::NotGit => f.write_str("not a git remote"),
            Self::QueryWithoutValue(key) => write!(f, "query {key:?} has no value"),
            Self::QueryTwice(key) => write!(f, "query {key:?} has multiple values"),
            Self::UnexpectedQuery(key) => write!(f, "unexpected query {key:?}"),
            Self::Conflict { what, first, second } => write!(f, "{what} conflicts: {first:?} vs {second:?}"),
            Self::BranchAndTag => f.write_str("a branch and a tag cannot both be asked for"),
            Self::InvalidValue { key, value, expected } => {
                write!(f, "invalid {key} value: {value:?} (expected {expected})")
            }
        }
    }
}

impl std::error::Error for Error {}

/// A parsed git remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// Protocol.
    pub scheme: Scheme,
    /// User and, if any, password, percent-decoded.
    pub user: Option<(String, Option<String>)>,
    /// Host, with its port if one is given.
    pub host: String,
    /// Path on the host, percent-decoded; without a leading slash for `user@host:path`.
    pub path: String,
    /// Keys and values after `?`, in order; a key without `=` has no value. What cannot be read, because it contains
    /// `;` or a bad escape, is left out of those of URLs with a scheme.
    pub query: Vec<(String, Option<String>)>,
    /// Ref and directory after `#`, if there is a fragment.
    pub fragment: Option<Fragment>,
    /// The remote as git takes it: without query and fragment, though a `?` with nothing behind it stays.
    pub remote: String,
}

/// `ref[:subdir]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    /// Branch, tag or commit; may be empty.
    pub reference: String,
    /// Directory inside the repository, clean and relative; may be empty.
    pub subdir: String,
}

impl Fragment {
    /// Reads `ref[:subdir]`.
    pub fn parse(text: &str) -> Self {
        let (reference, subdir) = text.split_once(':').unwrap_or((text, ""));
        Self { reference: reference.to_owned(), subdir: clean_subdir(subdir) }
    }
}

/// A subdirectory as identifiers spell it: clean, inside the repository, without a leading slash.
pub(crate) fn clean_subdir(subdir: &str) -> String {
    path::join(&["/", subdir]).trim_start_matches('/').to_owned()
}

impl GitUrl {
    /// Reads a URL with a scheme, or `user@host:path`.
    ///
    /// # Errors
    /// [`Error::UnknownProtocol`], [`Error::InvalidProtocol`] or [`Error::Malformed`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(at) = text.find("://")
            && at > 0
            && text.bytes().take(at).all(|b| b.is_ascii_alphanumeric())
        {
            let (scheme, rest) = text.split_at(at);
            let lower = scheme.to_ascii_lowercase();
            let scheme = match lower.as_str() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                "ssh" => Scheme::Ssh,
                "git" => Scheme::Git,
                _ => return Err(Error::InvalidProtocol(lower)),
            };
            return Self::parse_standard(scheme, &lower, rest.get(3..).unwrap_or_default());
        }
        Self::parse_scp(text).ok_or(Error::UnknownProtocol)
    }

    fn parse_standard(scheme: Scheme, scheme_text: &str, rest: &str) -> Result<Self, Error> {
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (rest, None),
        };
        if rest.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(Error::Malformed("control character"));
        }
        let fragment = fragment
            .map(|text| percent_decode(text, false).ok_or(Error::Malformed("bad escape")))
            .transpose()?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, raw_path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        let host = parse_host(scheme, host)?;
        let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let user = match userinfo {
            None => None,
            Some(text) => {
                if !text.bytes().all(is_userinfo_byte) {
                    return Err(Error::Malformed("invalid character in the user"));
                }
                let (name, password) = match text.split_once(':') {
                    Some((name, password)) => (name, Some(password)),
                    None => (text, None),
                };
                let decode =
                    |s: &str| percent_decode(s, false).ok_or(Error::Malformed("bad escape in the user"));
                Some((decode(name)?, password.map(decode).transpose()?))
            }
        };
        let decoded = percent_decode(raw_path, false).ok_or(Error::Malformed("bad escape in the path"))?;
        let web = matches!(scheme, Scheme::Http | Scheme::Https);
        // What cannot be text is a mistake in a git remote, and no matter in the address of a file.
        let is_file = web && !decoded.ends_with(b".git");
        let as_text = |key, bytes| if is_file { Ok(lossy(bytes)) } else { utf8(key, bytes) };
        let fragment = fragment.map(|fragment| as_text("fragment", fragment)).transpose()?;
        let escaped_host = percent_encode(&host, b"-_.~!$&'()*+,;=:[]<>\"");
        let host = as_text("host", host)?;
        let mut remote = format!("{scheme_text}://");
        if let Some((name, password)) = &user {
            remote.push_str(&percent_encode(name, b"-_.~$&+,;="));
            if let Some(password) = password {
                remote.push(':');
                remote.push_str(&percent_encode(password, b"-_.~$&+,;="));
            }
            remote.push('@');
        } else if host.is_empty() && raw_path.is_empty() {
            remote.truncate(scheme_text.len() + 1);
        }
        remote.push_str(&escaped_host);
        if raw_path.bytes().all(is_raw_path_byte) {
            remote.push_str(raw_path);
        } else {
            remote.push_str(&percent_encode(&decoded, b"-_.~$&+,/:;=@"));
        }
        if query == Some("") {
            remote.push('?');
        }
        Ok(Self {
            scheme,
            user: user.map(|(name, password)| (lossy(name), password.map(lossy))),
            host,
            path: lossy(decoded),
            query: parse_query(query.unwrap_or_default(), as_text)
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
            fragment: fragment.map(|fragment| Fragment::parse(&fragment)),
            remote,
        })
    }

    /// `user@host:path[?query][#fragment]`.
    fn parse_scp(text: &str) -> Option<Self> {
        let (user, rest) = text.split_once('@')?;
        let (host, rest) = rest.split_once(':')?;
        let user_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let host_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        if user.is_empty() || host.is_empty() || !user.bytes().all(user_ok) || !host.bytes().all(host_ok) {
            return None;
        }
        if rest.contains('\n') {
            return None;
        }
        // The first `?` or `#`, whichever comes first, ends the path.
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (repo, tail) = rest.split_at(end);
        let (query, fragment) = match tail.strip_prefix('?') {
            Some(tail) => match tail.split_once('#') {
                Some((query, fragment)) => (query, Some(fragment)),
                None => (tail, None),
            },
            None => ("", tail.strip_prefix('#')),
        };
        Some(Self {
            scheme: Scheme::Ssh,
            user: Some((user.to_owned(), None)),
            host: host.to_owned(),
            path: repo.to_owned(),
            query: parse_query(query, utf8).map(|pair| pair.ok().flatten()).collect::<Option<_>>()?,
            fragment: fragment.filter(|f| !f.is_empty()).map(Fragment::parse),
            remote: format!("{user}@{host}:{repo}"),
        })
    }

    /// Whether the connection is neither encrypted nor authenticated.
    pub fn is_unencrypted(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Git)
    }
}

/// What `ADD <git remote>` and git build contexts name: a remote and what to check out of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitRef {
    /// The remote as git takes it.
    pub remote: String,
    /// Last element of the remote without `.git`: the name of the directory a clone makes.
    pub short_name: String,
    /// Branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// The commit it must be, or the beginning of its hash; empty for any.
    pub checksum: String,
    /// Directory inside the repository; empty for all of it.
    pub subdir: String,
    /// `keep-git-dir` of the query.
    pub keep_git_dir: Option<bool>,
    /// `submodules` of the query.
    pub submodules: Option<bool>,
    /// `fetch-by-commit` of the query.
    pub fetch_by_commit: Option<bool>,
    /// `mtime` of the query: `checkout` or `commit`; empty when absent.
    pub mtime: String,
    /// `github.com/…` without a scheme, which could also be a local path. Deprecated.
    pub looks_local: bool,
    /// `http://` and `git://`: neither encrypted nor authenticated.
    pub unencrypted: bool,
}

impl GitRef {
    /// Reads what a user wrote where a git remote may stand.
    ///
    /// # Errors
    /// An error whose [`is_git`](Error::is_git) is false means that the text is something else; the others
    /// are mistakes in a git remote.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut out = Self::default();
        if text.starts_with("./") || text.starts_with("../") {
            return Err(Error::NotGit);
        }
        let url;
        if text.starts_with("github.com/") {
            out.looks_local = true;
            url = GitUrl::parse(&format!("https://{text}"))?;
            url.remote.strip_prefix("https://").unwrap_or(&url.remote).clone_into(&mut out.remote);
        } else {
            url = GitUrl::parse(text)?;
            if matches!(url.scheme, Scheme::Http | Scheme::Https) && url.path.strip_suffix(".git").is_none() {
                return Err(Error::NotGit);
            }
            out.unencrypted = url.is_unencrypted();
            out.remote.clone_from(&url.remote);
        }
        if let Some(fragment) = &url.fragment {
            out.reference.clone_from(&fragment.reference);
            out.subdir.clone_from(&fragment.subdir);
        }
        let name = out.remote.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".git").unwrap_or(name).to_owned();
        out.short_name = name;
        out.apply_query(&url.query)?;
        Ok(out)
    }

    fn apply_query(&mut self, query: &[(String, Option<String>)]) -> Result<(), Error> {
        let mut keys: Vec<&str> = query.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair.first() == pair.last()).and_then(|p| p.first())
        {
            return Err(Error::QueryTwice((*twice).to_owned()));
        }
        let mut tag = None;
        let mut branch = None;
        for (key, value) in query {
            let text = value.as_deref().unwrap_or_default();
            if text.is_empty() && !matches!(key.as_str(), "keep-git-dir" | "submodules" | "fetch-by-commit") {
                let known = ["ref", "tag", "branch", "subdir", "checksum", "commit", "mtime"];
                return Err(if known.contains(&key.as_str()) || value.is_none() {
                    Error::QueryWithoutValue(key.clone())
                } else {
                    Error::UnexpectedQuery(key.clone())
                });
            }
            match key.as_str() {
                "ref" => self.set_reference(text.to_owned())?,
                "tag" => tag = Some(qualified("refs/tags/", text)),
                "branch" => branch = Some(qualified("refs/heads/", text)),
                // Unlike that of a fragment, it stays as it was written.
                "subdir" => {
                    if !self.subdir.is_empty() && self.subdir != text {
                        return Err(Error::Conflict {
                            what: "subdir",
                            first: self.subdir.clone(),
                            second: text.to_owned(),
                        });
                    }
                    text.clone_into(&mut self.subdir);
                }
                "checksum" | "commit" => text.clone_into(&mut self.checksum),
                "keep-git-dir" => self.keep_git_dir = Some(flag("keep-git-dir", text)?),
                "submodules" => self.submodules = Some(flag("submodules", text)?),
                "fetch-by-commit" => self.fetch_by_commit = Some(flag("fetch-by-commit", text)?),
                "mtime" if matches!(text, "checkout" | "commit") => text.clone_into(&mut self.mtime),
                "mtime" => {
                    return Err(Error::InvalidValue {
                        key: "mtime",
                        value: text.to_owned(),
                        expected: "\"checkout\" or \"commit\"",
                    });
                }
                _ => return Err(Error::UnexpectedQuery(key.clone())),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err(Error::BranchAndTag),
            (Some(reference), None) | (None, Some(reference)) => self.set_reference(reference),
            (None, None) => Ok(()),
        }
    }

    fn set_reference(&mut self, reference: String) -> Result<(), Error> {
        if !self.reference.is_empty() && self.reference != reference {
            return Err(Error::Conflict { what: "ref", first: self.reference.clone(), second: reference });
        }
        self.reference = reference;
        Ok(())
    }

    /// `remote[#ref[:subdir]]`, as BuildKit prints a git context; the directory only if `with_subdir`.
    pub fn fragment_format(&self, remote: &str, with_subdir: bool) -> String {
        let mut out = remote.to_owned();
        let subdir = if with_subdir { clean_subdir(&self.subdir) } else { String::new() };
        if !self.reference.is_empty() || !subdir.is_empty() {
            out.push('#');
            out.push_str(&self.reference);
            if !subdir.is_empty() {
                out.push(':');
                out.push_str(&subdir);
            }
        }
        out
    }
}

fn qualified(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

fn flag(key: &'static str, value: &str) -> Result<bool, Error> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::InvalidValue { key, value: value.to_owned(), expected: "true or false" }),
    }
}

type Pair = (String, Option<String>);

/// The pairs of a query; `None` for each that cannot be read.
fn parse_query(
    query: &str,
    text: impl Fn(&'static str, Vec<u8>) -> Result<String, Error>,
) -> impl Iterator<Item = Result<Option<Pair>, Error>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
        let (Some(key), value) = (percent_decode(key, true), value.map(|value| percent_decode(value, true)))
        else {
            return Ok(None);
        };
        if pair.contains(';') || value == Some(None) {
            return Ok(None);
        }
        Ok(Some((text("query", key)?, value.flatten().map(|value| text("query", value)).transpose()?)))
    })
}

fn utf8(key: &'static str, bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| Error::InvalidValue {
        key,
        value: String::from_utf8_lossy(error.as_bytes()).into_owned(),
        expected: "UTF-8",
    })
}

fn parse_host(scheme: Scheme, host: &str) -> Result<Vec<u8>, Error> {
    let mut zone = None;
    let port = match host.rfind('[') {
        Some(1..) => return Err(Error::Malformed("'[' inside of the host")),
        Some(0) => {
            let (address, port) =
                host.rsplit_once(']').ok_or(Error::Malformed("unclosed '[' in the host"))?;
            zone = address.find("%25");
            let address = address.get(1..zone.unwrap_or(address.len())).unwrap_or_default();
            if address.parse::<std::net::Ipv6Addr>().is_err() || zone == Some(address.len()) {
                return Err(Error::Malformed("no IPv6 address between the brackets"));
            }
            port
        }
        None => {
            let web = matches!(scheme, Scheme::Http | Scheme::Https);
            let colon = if web { host.find(':') } else { host.rfind(':') };
            colon.and_then(|at| host.get(at..)).unwrap_or_default()
        }
    };
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    if !port_ok {
        return Err(Error::Malformed("invalid port"));
    }
    let bad = Error::Malformed("bad escape in the host");
    // Outside of a zone, which comes behind `%25`, escapes are for what is not ASCII.
    let escaped = host.get(..zone.unwrap_or(host.len())).unwrap_or_default().match_indices('%');
    for (at, _) in escaped {
        if host.as_bytes().get(at + 1).is_none_or(|digit| digit.is_ascii_digit() && *digit < b'8') {
            return Err(bad);
        }
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"-_.~!$&'()*+,;=:[]<>\"%".contains(&b);
    if !host.bytes().all(ok) {
        return Err(Error::Malformed("invalid character in the host"));
    }
    percent_decode(host, false).ok_or(bad)
}

fn is_userinfo_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)
}

fn is_raw_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&b)
}

fn percent_decode(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus_is_space => out.push(b' '),
            b => out.push(b),
        }
    }
    Some(out)
}

fn percent_encode(text: &[u8], keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &b in text {
        if b.is_ascii_alphanumeric() || keep.contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            for digit in [b >> 4, b & 15] {
                out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_lose_query_and_fragment() {
        for (text, host, path, remote) in [
            ("https://h/x.git#main:sub", "h", "/x.git", "https://h/x.git"),
            ("HTTPS://H:1/x?y=1", "H:1", "/x", "https://H:1/x"),
            (
                "ssh://git@h.example:2222/a/b.git",
                "h.example:2222",
                "/a/b.git",
                "ssh://git@h.example:2222/a/b.git",
            ),
            ("https://u:p@h/r.git", "h", "/r.git", "https://u:p@h/r.git"),
            (
                "git@github.com:moby/buildkit.git#v1:sub",
                "github.com",
                "moby/buildkit.git",
                "git@github.com:moby/buildkit.git",
            ),
            ("git@h:22/x.git", "h", "22/x.git", "git@h:22/x.git"),
            ("https://h/a%20b.git", "h", "/a b.git", "https://h/a%20b.git"),
            ("https://h/a b.git", "h", "/a b.git", "https://h/a%20b.git"),
            ("git://[::1]:9418/x", "[::1]:9418", "/x", "git://[::1]:9418/x"),
            ("https://h/x.git?", "h", "/x.git", "https://h/x.git?"),
            ("https://h/x.git??", "h", "/x.git", "https://h/x.git"),
            ("ssh://h:/x?#v1", "h:", "/x", "ssh://h:/x?"),
            ("ssh://#v1", "", "", "ssh:"),
            ("ssh://a:b:1/x", "a:b:1", "/x", "ssh://a:b:1/x"),
            ("https://h/%ff.git", "h", "/\u{fffd}.git", "https://h/%ff.git"),
            ("https://[fe80::1%25en0]/x.git", "[fe80::1%en0]", "/x.git", "https://[fe80::1%25en0]/x.git"),
        ] {
            let url = GitUrl::parse(text).unwrap();
            assert_eq!(
                (url.host.as_str(), url.path.as_str(), url.remote.as_str()),
                (host, path, remote),
                "{text}"
            );
        }
        for (text, want) in [
            ("httpx://foo/bar", Error::InvalidProtocol("httpx".into())),
            ("foo/bar", Error::UnknownProtocol),
            ("https://h:p/x", Error::Malformed("invalid port")),
            ("https://h/%zz", Error::Malformed("bad escape in the path")),
            ("https://h:1:2/x", Error::Malformed("invalid port")),
            ("https://[h]/x", Error::Malformed("no IPv6 address between the brackets")),
            ("https://[1.2.3.4]/x", Error::Malformed("no IPv6 address between the brackets")),
            ("https://h[::1]/x", Error::Malformed("'[' inside of the host")),
            ("https://h%41/x", Error::Malformed("bad escape in the host")),
            ("git@h:x?a;b", Error::UnknownProtocol),
            ("git@h:x?%zz", Error::UnknownProtocol),
        ] {
            assert_eq!(GitUrl::parse(text), Err(want), "{text}");
        }
    }

    #[test]
    fn refs_come_from_fragment_and_query() {
        let r = |reference: &str, checksum: &str, subdir: &str| GitRef {
            reference: reference.into(),
            checksum: checksum.into(),
            subdir: subdir.into(),
            remote: "https://h/x.git".into(),
            short_name: "x".into(),
            ..GitRef::default()
        };
        for (text, want) in [
            ("https://h/x.git", r("", "", "")),
            ("https://h/x.git#main:sub/dir", r("main", "", "sub/dir")),
            ("https://h/x.git#:sub", r("", "", "sub")),
            ("https://h/x.git#a:b:c", r("a", "", "b:c")),
            ("https://h/x.git#a\u{1}", r("a\u{1}", "", "")),
            ("https://h/x.git?tag=v1", r("refs/tags/v1", "", "")),
            ("https://h/x.git?branch=b&subdir=s&checksum=abc", r("refs/heads/b", "abc", "s")),
            ("https://h/x.git?subdir=/a/../b", r("", "", "/a/../b")),
            ("https://h/x.git#:/a/../b", r("", "", "b")),
            ("https://h/x.git?tag=refs/tags/v1#refs/tags/v1", r("refs/tags/v1", "", "")),
            (
                "https://h/x.git?keep-git-dir&submodules=false",
                GitRef { keep_git_dir: Some(true), submodules: Some(false), ..r("", "", "") },
            ),
            (
                "https://h/x.git?mtime=commit&fetch-by-commit=1&commit=c",
                GitRef { mtime: "commit".into(), fetch_by_commit: Some(true), ..r("", "c", "") },
            ),
            (
                "github.com/moby/buildkit.git#v1",
                GitRef {
                    remote: "github.com/moby/buildkit.git".into(),
                    short_name: "buildkit".into(),
                    looks_local: true,
                    ..r("v1", "", "")
                },
            ),
            (
                "git@github.com:moby/buildkit.git?subdir=s&keep-git-dir=true#v1",
                GitRef {
                    remote: "git@github.com:moby/buildkit.git".into(),
                    short_name: "buildkit".into(),
                    keep_git_dir: Some(true),
                    ..r("v1", "", "s")
                },
            ),
            ("https://h/x.git?ref=a;ref=b&%zz=1&subdir=%&checksum=abc", r("", "abc", "")),
            ("git://h/x", GitRef { remote: "git://h/x".into(), unencrypted: true, ..r("", "", "") }),
        ] {
            assert_eq!(GitRef::parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_from_other_texts() {
        for (text, is_git, message) in [
            ("https://h/x.git?ref=r#q", true, "ref conflicts: \"q\" vs \"r\""),
            ("https://h/x.git?ref", true, "query \"ref\" has no value"),
            ("https://h/x.git?ref=a&ref=b", true, "query \"ref\" has multiple values"),
            ("https://h/x.git?x=1", true, "unexpected query \"x\""),
            ("https://h/x.git?subdir=a#:b", true, "subdir conflicts: \"b\" vs \"a\""),
            ("https://h/x.git?tag=a&branch=a", true, "a branch and a tag cannot both be asked for"),
            (
                "https://h/x.git?submodules=z",
                true,
                "invalid submodules value: \"z\" (expected true or false)",
            ),
            ("https://h/x.git#%ff", true, "invalid fragment value: \"\u{fffd}\" (expected UTF-8)"),
            ("git://h%ff/x", true, "invalid host value: \"h\u{fffd}\" (expected UTF-8)"),
            ("https://h%ff/x?%ff=1#%ff", false, "not a git remote"),
            ("https://github.com/moby/buildkit", false, "not a git remote"),
            ("./x.git", false, "not a git remote"),
            ("file:///x.git", false, "file: git remotes are http, https, ssh or git"),
            ("some/dir", false, "a git remote is a URL or user@host:path"),
        ] {
            let error = GitRef::parse(text).unwrap_err();
            assert_eq!((error.is_git(), error.to_string().as_str()), (is_git, message), "{text}");
        }
    }
}
