//! Image references: `alpine`, `quay.io/foo/bar:1`, `host:5000/x@sha256:…`.

use std::fmt;

/// A normalised image reference: the registry is spelled out, the tag and the digest are as given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no repository name.
    Empty,
    /// The text is 64 hexadecimal digits: an image id, which no registry resolves.
    ImageId(String),
    /// A repository name with an upper-case letter.
    Uppercase(String),
    /// A repository name of more than 255 bytes.
    TooLong,
    /// The digest names an algorithm nobody verifies, or its value has a wrong length or a wrong letter.
    Digest(String),
    /// Anything else that does not follow `[host[:port]/]name[:tag][@digest]`.
    Format(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the image reference is empty"),
            Self::ImageId(text) => {
                write!(f, "{text} looks like an image id; a repository name cannot be 64 hexadecimal digits")
            }
            Self::Uppercase(name) => write!(f, "repository name {name:?} must be lower-case"),
            Self::TooLong => f.write_str("the repository name is longer than 255 bytes"),
            Self::Digest(digest) => {
                write!(f, "{digest:?} is not a digest such as sha256:<64 hexadecimal digits>")
            }
            Self::Format(text) => {
                write!(f, "{text:?} does not have the form [host[:port]/]name[:tag][@digest]")
            }
        }
    }
}

impl std::error::Error for Error {}

const DEFAULT_DOMAIN: &str = "docker.io";

impl Reference {
    /// Reads a reference the way Docker's users write them: `alpine` is `docker.io/library/alpine`.
    ///
    /// # Errors
    /// Text that no registry could resolve; [`Error`] says why.
    pub fn parse_normalized(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(Error::ImageId(text.to_owned()));
        }
        let (mut domain, rest) = match text.split_once('/') {
            Some((first, rest)) if looks_like_domain(first) => (first, rest),
            _ => (DEFAULT_DOMAIN, text),
        };
        if domain == "index.docker.io" {
            domain = DEFAULT_DOMAIN;
        }
        let remote = rest.split(':').next().unwrap_or_default();
        if remote.chars().any(char::is_uppercase) {
            return Err(Error::Uppercase(remote.to_owned()));
        }
        let prefix = if domain == DEFAULT_DOMAIN && !rest.contains('/') { "library/" } else { "" };
        Self::parse(&format!("{domain}/{prefix}{rest}")).map_err(|error| match error {
            Error::Format(_) => Error::Format(text.to_owned()),
            other => other,
        })
    }

    /// Reads a reference as it stands, with nothing added: the name of a store of images is one, and `alpine` is a
    /// repository without a registry.
    ///
    /// # Errors
    /// Text that is none; [`Error`] says why.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        let bad = || Error::Format(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((first, path)) if is_domain(first) => (first, path),
            // Without a host the whole text may still be one long repository name.
            _ => ("", name),
        };
        if !path.split('/').all(is_path_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            let upper = path.bytes().any(|b| b.is_ascii_uppercase());
            return Err(if upper { Error::Uppercase(path.to_owned()) } else { bad() });
        }
        if path.len() > 255 {
            return Err(Error::TooLong);
        }
        if let Some(digest) = digest
            && !is_digest(digest)
        {
            return Err(Error::Digest(digest.to_owned()));
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The registry: `docker.io`, `quay.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        if self.domain.is_empty() { self.path.clone() } else { format!("{}/{}", self.domain, self.path) }
    }

    /// The name as people write it: `alpine` for `docker.io/library/alpine`.
    pub fn familiar_name(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            match self.path.strip_prefix("library/") {
                Some(short) if !short.contains('/') => short.to_owned(),
                _ => self.path.clone(),
            }
        } else {
            self.name()
        }
    }

    /// The whole reference as people write it, tag and digest included: `alpine:3`.
    pub fn familiar(&self) -> String {
        self.with_tag_and_digest(self.familiar_name())
    }

    fn with_tag_and_digest(&self, mut name: String) -> String {
        for (mark, part) in [(':', &self.tag), ('@', &self.digest)] {
            if let Some(part) = part {
                name.push(mark);
                name.push_str(part);
            }
        }
        name
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest (`sha256:…`), if one was given.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The reference with the tag `latest` if it has neither a tag nor a digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The reference pinned to `digest`; a tag is kept.
    ///
    /// # Errors
    /// [`Error::Digest`] if `digest` is not one.
    pub fn with_digest(mut self, digest: &str) -> Result<Self, Error> {
        if !is_digest(digest) {
            return Err(Error::Digest(digest.to_owned()));
        }
        self.digest = Some(digest.to_owned());
        Ok(self)
    }

    /// The reference without its tag and digest.
    #[must_use]
    pub fn name_only(mut self) -> Self {
        self.tag = None;
        self.digest = None;
        self
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_tag_and_digest(self.name()))
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse_normalized(text)
    }
}

/// Whether `text` is `algorithm:hex` with an algorithm OCI registers and the right number of digits.
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == digits && hex.bytes().all(is_lower_hex)
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((inner, tail)) = rest.split_once(']') else { return false };
        if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match tail.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if tail.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    let port_ok = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_ok && host.is_none_or(|host| host.split('.').all(label_ok))
}

/// Runs of lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut seen = false;
    for c in component.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let ok = match separator.as_str() {
                "" | "." | "_" | "__" => true,
                dashes => dashes.chars().all(|c| c == '-'),
            };
            if !ok || (!seen && !separator.is_empty()) {
                return false;
            }
            separator.clear();
            seen = true;
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    seen && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    bytes.next().is_some_and(word) && tag.len() <= 128 && bytes.all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn short_names_are_completed() {
        for (text, want) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("foo/bar", "docker.io/foo/bar:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("h:5000/x/y:t", "h:5000/x/y:t"),
            ("UPPER/x", "UPPER/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
            ("foo.bar_baz/x", "foo.bar_baz/x:latest"),
        ] {
            let got = Reference::parse_normalized(text).unwrap().with_default_tag();
            assert_eq!(got.to_string(), want, "{text:?}");
        }
        let pinned = format!("quay.io/foo/bar:1@{SHA}");
        assert_eq!(Reference::parse_normalized(&pinned).unwrap().with_default_tag().to_string(), pinned);
    }

    #[test]
    fn what_no_registry_resolves_is_refused() {
        let id = "a".repeat(64);
        for text in [
            "",
            "/",
            "a/",
            ":t",
            "alpine:",
            "alpine@",
            "alpine:-x",
            "Alpine",
            "quay.io/Case",
            "a//b",
            "a___b",
            "-a",
            "a-",
            "a..b",
            "a b",
            "é",
            "x@sha256:12",
            "x@md5:00000000000000000000000000000000",
            &id,
        ] {
            assert!(Reference::parse_normalized(text).is_err(), "{text:?}");
        }
        assert_eq!(Reference::parse_normalized(&"a".repeat(300)), Err(Error::TooLong));
    }

    #[test]
    fn familiar_names_are_short() {
        for (text, want) in [("alpine:3", "alpine"), ("foo/bar", "foo/bar"), ("quay.io/a/b", "quay.io/a/b")] {
            assert_eq!(Reference::parse_normalized(text).unwrap().familiar_name(), want);
        }
        let pinned = Reference::parse_normalized(&format!("docker.io/library/alpine:latest@{SHA}")).unwrap();
        assert_eq!(pinned.familiar(), format!("alpine:latest@{SHA}"));
    }

    #[test]
    fn nothing_is_added_to_a_reference_as_it_stands() {
        for (text, name, domain) in [
            ("store", "store", ""),
            ("store:1", "store", ""),
            ("a/b", "a/b", "a"),
            ("Host/b:t", "Host/b", "Host"),
            ("host:5000/a/b", "host:5000/a/b", "host:5000"),
            ("a_b/c", "a_b/c", ""),
        ] {
            let reference = Reference::parse(&format!("{text}@{SHA}")).unwrap();
            assert_eq!((reference.name().as_str(), reference.domain()), (name, domain), "{text}");
            assert_eq!(reference.to_string(), format!("{text}@{SHA}"));
        }
        for text in ["Store", "Store:1", "a/Store"] {
            assert!(matches!(Reference::parse(text), Err(Error::Uppercase(_))), "{text}");
        }
        for text in ["", ":1", "@", "a//b", "/a", "a/", "host:5000", "a@sha256:12"] {
            assert_eq!(Reference::parse(text).is_err(), text != "host:5000", "{text:?}");
        }
    }
}
