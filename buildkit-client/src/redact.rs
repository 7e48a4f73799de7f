//! Takes credentials out of text before people see it: errors, names of steps, traces.
//!
//! What is masked: the user information of URLs, the values of query parameters that are not known to be harmless, and
//! `Authorization` headers. When a URL cannot be understood, more is masked rather than less.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

const MASK: &str = "***";

/// Query parameters whose values may be shown: BuildKit's own for git, and those of token servers.
const HARMLESS: &[&str] = &[
    "ref",
    "branch",
    "tag",
    "commit",
    "checksum",
    "subdir",
    "submodules",
    "keep-git-dir",
    "service",
    "scope",
    "digest",
    "platform",
];

/// A text that is one URL, without the credentials in it.
///
/// ```
/// assert_eq!(buildkit_client::redact::url("https://ann:pw@host/x?token=t"), "https://***@host/x?token=***");
/// ```
pub fn url(text: &str) -> Cow<'_, str> {
    match text.find("://") {
        Some(at) => {
            let (head, rest) = text.split_at(at + 3);
            let shown = span(rest);
            if shown == rest { Cow::Borrowed(text) } else { Cow::Owned(format!("{head}{shown}")) }
        }
        None => Cow::Borrowed(text),
    }
}

/// A text of any kind, without the credentials in the URLs and headers in it.
///
/// ```
/// let text = "cannot fetch https://ann:pw@host/x: not found";
/// assert_eq!(buildkit_client::redact::text(text), "cannot fetch https://***@host/x: not found");
/// ```
pub fn text(text: &str) -> Cow<'_, str> {
    if !text.contains("://") && find_header(text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        match find_header(line) {
            Some(at) => {
                urls(&line[..at], &mut out);
                out.push_str(MASK);
            }
            None => urls(line, &mut out),
        }
        out.push_str(end);
    }
    Cow::Owned(out)
}

/// [`text`], without a copy where there is nothing to mask.
pub(crate) fn owned(shown: String) -> String {
    match text(&shown) {
        Cow::Owned(redacted) => redacted,
        Cow::Borrowed(_) => shown,
    }
}

/// The value of an option or attribute as `Debug` shows it. Options carry tokens, and build arguments anything.
pub(crate) fn attribute<'a>(key: &str, value: &'a str) -> Cow<'a, str> {
    const SECRET: &[&str] =
        &["token", "secret", "password", "passwd", "credential", "access_key", "account_key", "auth", "sig"];
    let key = key.to_ascii_lowercase();
    if !value.is_empty() && (key.starts_with("build-arg:") || SECRET.iter().any(|word| key.contains(word))) {
        return Cow::Borrowed("[redacted]");
    }
    text(value)
}

/// Options or attributes as `Debug` shows them.
pub(crate) struct Attributes<'a>(pub(crate) &'a BTreeMap<String, String>);

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, value)| (key, attribute(key, value)))).finish()
    }
}

/// Where the value of the first `Authorization` header begins.
fn find_header(line: &str) -> Option<usize> {
    const NAME: &[u8] = b"authorization";
    let bytes = line.as_bytes();
    let names = bytes.windows(NAME.len()).enumerate().filter(|(_, part)| part.eq_ignore_ascii_case(NAME));
    names.map(|(at, _)| at + NAME.len()).find_map(|at| {
        let rest = bytes.get(at..)?;
        let skipped = rest.iter().take_while(|byte| matches!(byte, b'"' | b'\'' | b' ' | b'[')).count();
        let value = at + skipped + 1;
        matches!(rest.get(skipped), Some(b':' | b'='))
            .then_some(value)
            .filter(|&value| line.is_char_boundary(value))
    })
}

/// Appends a line with every URL in it redacted.
fn urls(mut line: &str, out: &mut String) {
    // Counted from the end, so that it need not be looked for again at every URL.
    let last = line.rfind('@').map(|at| line.len() - at);
    while let Some(at) = line.find("://") {
        let (head, rest) = line.split_at(at + 3);
        out.push_str(head);
        let end = end_of_url(rest);
        // A host that cannot be one means a password with odd characters: it may go on past the end.
        let host = authority(&rest[..end]).rsplit('@').next().unwrap_or_default();
        let broken = !is_host(host) || (host.is_empty() && !rest.starts_with('/'));
        let last = last.and_then(|last| rest.len().checked_sub(last));
        let end = match last {
            Some(last) if broken => end.max(last + 1 + end_of_url(&rest[last + 1..])),
            _ => end,
        };
        out.push_str(&span(&rest[..end]));
        line = &rest[end..];
    }
    out.push_str(line);
}

/// Where a URL ends in a text.
fn end_of_url(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).unwrap_or(text.len())
}

/// What follows `://`, redacted, and whatever URLs are in it: behind the name of a proxy, in a fragment.
fn span(mut rest: &str) -> Cow<'_, str> {
    let mut out = String::new();
    loop {
        let authority = authority(rest);
        // With credentials, or what may be some, everything goes up to the last `@`.
        let inner = if is_host(authority) { rest.find("://") } else { None };
        let Some(at) = inner else {
            let last = one(rest);
            return if out.is_empty() { last } else { Cow::Owned(out + &last) };
        };
        out.push_str(&one(&rest[..at]));
        out.push_str("://");
        rest = &rest[at + 3..];
    }
}

fn one(rest: &str) -> Cow<'_, str> {
    let authority = authority(rest);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (mask, tail) = match rest.rfind('@') {
        _ if is_host(host) && host.len() == authority.len() => ("", rest),
        // There are credentials, and with an odd character in them they may go on behind the first `/`.
        Some(last) => (MASK, &rest[last..]),
        None => (MASK, &rest[authority.len()..]),
    };
    let Some(query) = tail.find(['?', '#']) else {
        return if mask.is_empty() { Cow::Borrowed(rest) } else { Cow::Owned(format!("{mask}{tail}")) };
    };
    let (path, query) = tail.split_at(query);
    Cow::Owned(format!("{mask}{path}{}", parameters(query)))
}

/// The query and fragment, with the values masked that are not known to be harmless.
fn parameters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fragment = false;
    for part in text.split_inclusive(['?', '#', '&', ';']) {
        let (part, end) = match part.char_indices().next_back() {
            Some((at, c)) if "?#&;".contains(c) => part.split_at(at),
            _ => (part, ""),
        };
        match part.split_once('=') {
            Some((key, _)) if HARMLESS.contains(&key) => out.push_str(part),
            Some((key, _)) => {
                out.push_str(key);
                out.push('=');
                out.push_str(MASK);
            }
            // A fragment without `=` is a git reference; a query without one may be a bare token.
            None if fragment || part.is_empty() => out.push_str(part),
            None => out.push_str(MASK),
        }
        fragment |= end == "#";
        out.push_str(end);
    }
    out
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

/// Whether this is a host, with a port or without.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) if !ip.is_empty() => (ip, port.strip_prefix(':').unwrap_or(port)),
            _ => return false,
        },
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    let named = if text.starts_with('[') {
        name.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.%".contains(&byte))
    } else {
        name.chars().all(|c| c.is_alphanumeric() || "-._~".contains(c))
    };
    named && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{text, url};
    use proptest::prelude::*;

    #[test]
    fn credentials_go_and_the_rest_stays() {
        for (input, want) in [
            ("https://ann:pw@host/x", "https://***@host/x"),
            ("https://TOKEN@host:8443/x", "https://***@host:8443/x"),
            ("https://a@b:pw@host/x", "https://***@host/x"),
            ("https://host/x?token=SECRET&ref=main", "https://host/x?token=***&ref=main"),
            ("https://host/x?SECRET", "https://host/x?***"),
            ("https://host/x.git#main:sub", "https://host/x.git#main:sub"),
            ("https://host/#access_token=SECRET", "https://host/#access_token=***"),
            ("https://u:%zz@host/x", "https://***@host/x"),
            ("https://u:p/ss@host/x", "https://***@host/x"),
            ("https://u:p?ss@host/x", "https://***@host/x"),
            ("https://[::1]:5000/x", "https://[::1]:5000/x"),
            ("https://u:p@[::1]:5000/x", "https://***@[::1]:5000/x"),
            (
                "docker-image://docker.io/library/alpine@sha256:abc",
                "docker-image://docker.io/library/alpine@sha256:abc",
            ),
            ("https://", "https://"),
            ("no url", "no url"),
        ] {
            assert_eq!(url(input), want, "{input}");
            assert_eq!(text(&format!("at {input}\nnext")), format!("at {want}\nnext"), "{input}");
        }
    }

    #[test]
    fn a_hostile_text_takes_linear_time() {
        for piece in ["://\" ", "://@\" ", "authorization", "://a@b ", "://:", "://?a=b&"] {
            let long = piece.repeat((1 << 20) / piece.len());
            let started = std::time::Instant::now();
            let _ = text(&long);
            assert!(started.elapsed().as_secs() < 10, "{piece}: {:?}", started.elapsed());
        }
    }

    #[test]
    fn text_around_is_kept_and_headers_go() {
        for (input, want) in [
            (
                "GET \"https://a:b@h/x\": 404, then http://c@i",
                "GET \"https://***@h/x\": 404, then http://***@i",
            ),
            ("https://u:p ss@host/x failed", "https://***@host/x failed"),
            ("via https://proxy/https://u:pw@host/x", "via https://proxy/https://***@host/x"),
            ("https://a/x#f,https://u:pw@host", "https://a/x#f,https://***@host"),
            ("(https://a/b)(https://u:pw@host)", "(https://a/b)(https://***@host)"),
            ("https://TOKEN://u:pw@host", "https://TOKEN://***@host"),
            ("https://a?x=https://u:pw@host", "https://a?x=***://***@host"),
            ("Authorization: Basic YTpi\nHost: x", "Authorization:***\nHost: x"),
            ("map[authorization:[Bearer abc]]", "map[authorization:***"),
            ("{\"Authorization\": \"Bearer abc\"}", "{\"Authorization\":***"),
            ("authorization server said no", "authorization server said no"),
            ("authorization failed, authorization: Bearer abc", "authorization failed, authorization:***"),
        ] {
            assert_eq!(text(input), want);
        }
    }

    proptest! {
        #[test]
        fn a_password_never_survives(
            before in "[ -~]{0,10}", scheme in "[a-z]{1,6}", user in "[ -~&&[^@/?#\\\\]]{0,8}",
            junk in "[ -~]{0,6}", host in "[a-z.]{1,10}", after in "[ -~]{0,10}")
        {
            // Whatever stands around it, and however odd it is.
            let secret = format!("CANARY{junk}CANARY");
            let whole = format!("{scheme}://{user}:{secret}@{host}/{after}");
            prop_assert!(!url(&whole).contains("CANARY"), "{}", url(&whole));
            // In a text credentials end where a URL does.
            let line = format!("{before} {whole}");
            let odd = format!("{user}{junk}").contains([' ', '"', '\'', '`', '<', '>']);
            prop_assert!(odd || !text(&line).contains("CANARY"), "{}", text(&line));
        }

        #[test]
        fn any_text_is_survived(input in "\\PC{0,40}") {
            let _ = text(&text(&input));
            let _ = url(&input);
        }
    }
}
