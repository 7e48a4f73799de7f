//! `http://` and `https://`

use std::panic::Location;

use super::{FileOptions, SourceOp, file_setters};
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::graph::Site;
use crate::state::State;

/// A file from a web server.
#[track_caller]
pub fn http(url: impl Into<String>) -> State {
    Http::new(url).into()
}

/// An [`http`](http()) download with options.
#[derive(Debug, Clone)]
#[must_use = "a download is part of the graph only if it is used as a state"]
pub struct Http {
    url: String,
    checksum: String,
    file: FileOptions,
    auth_header_secret: String,
    header: Option<(String, String)>,
    signature: Option<(String, String)>,
    constraints: Constraints,
    site: Site,
}

impl Http {
    /// The file at `url`.
    #[track_caller]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            checksum: String::new(),
            file: FileOptions::default(),
            auth_header_secret: String::new(),
            header: None,
            signature: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
    file_setters!();

    /// Fails unless the content has this digest.
    pub fn checksum(mut self, digest: impl Into<String>) -> Self {
        self.checksum = digest.into();
        self
    }

    /// Sends the client's secret of this id as the `Authorization` header.
    pub fn auth_header_secret(mut self, secret: impl Into<String>) -> Self {
        self.auth_header_secret = secret.into();
        self
    }

    /// Sends an `Accept` header; needs BuildKit 0.21.
    pub fn accept(mut self, value: impl Into<String>) -> Self {
        self.header.get_or_insert_default().0 = value.into();
        self
    }

    /// Sends a `User-Agent` header; needs BuildKit 0.21.
    pub fn user_agent(mut self, value: impl Into<String>) -> Self {
        self.header.get_or_insert_default().1 = value.into();
        self
    }

    /// Fails unless `signature` is one of the content by `public_key`; both are armored PGP texts.
    pub fn verify_pgp(mut self, public_key: impl Into<String>, signature: impl Into<String>) -> Self {
        self.signature = Some((public_key.into(), signature.into()));
        self
    }
}

impl From<Http> for State {
    fn from(http: Http) -> Self {
        let mut op = SourceOp::new(http.url, Cap::SOURCE_HTTP);
        if !http.checksum.is_empty() {
            op.attr("http.checksum", http.checksum);
            op.caps.insert(Cap::SOURCE_HTTP_CHECKSUM);
        }
        http.file.apply(&mut op);
        if http.file.mode & 0o777 != 0 {
            op.caps.insert(Cap::SOURCE_HTTP_PERM);
        }
        if http.file.uid != 0 || http.file.gid != 0 {
            op.caps.insert(Cap::SOURCE_HTTP_UIDGID);
        }
        if !http.auth_header_secret.is_empty() {
            op.attr("http.authheadersecret", http.auth_header_secret);
            op.caps.insert(Cap::SOURCE_HTTP_AUTH);
        }
        if let Some((accept, user_agent)) = http.header {
            op.attr_some("http.header.accept", accept);
            op.attr_some("http.header.user-agent", user_agent);
            op.caps.insert(Cap::SOURCE_HTTP_HEADER);
        }
        if let Some((key, signature)) = http.signature {
            op.attr_some("http.sig.pubkey", key);
            op.attr_some("http.sig.signature", signature);
            op.caps.insert(Cap::SOURCE_HTTP_SIGNATUREVERIFY);
        }
        op.state(http.constraints, http.site)
    }
}
