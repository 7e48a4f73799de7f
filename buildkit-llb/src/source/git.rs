//! `git://`

use std::panic::Location;

use super::SourceOp;
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::git_url::{self, GitRef, GitUrl, Scheme};
use crate::graph::Site;
use crate::path;
use crate::state::State;

/// A checkout of a git repository. `fragment` is `ref[:subdir]`, empty for the default branch.
#[track_caller]
pub fn git(remote: impl Into<String>, fragment: impl AsRef<str>) -> State {
    Git::new(remote, fragment).into()
}

/// A [`git`](git()) checkout with options.
///
/// # Defaults
/// The client's secrets `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER` authenticate over HTTP, its default SSH agent
/// over SSH. Nothing is asked of the network here: hosts are known only through
/// [`known_hosts`](Self::known_hosts).
#[derive(Debug, Clone)]
#[must_use = "a checkout is part of the graph only if it is used as a state"]
pub struct Git {
    remote: String,
    reference: String,
    subdir: String,
    keep_git_dir: bool,
    skip_submodules: bool,
    fetch_by_commit: bool,
    auth_token: Option<String>,
    auth_header: Option<String>,
    known_hosts: String,
    ssh_sock: String,
    checksum: String,
    mtime: Option<Mtime>,
    bundle: Option<GitBundle>,
    checkout_bundle: bool,
    signature: Option<GitSignature>,
    constraints: Constraints,
    site: Site,
}

/// Whose signature a commit or tag must have; see [`Git::verify_signature`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitSignature {
    /// The key, or keys, that may have signed: an armored PGP key or a line of an SSH public key.
    pub public_key: String,
    /// Do not accept a signature by a key that expired since.
    pub reject_expired: bool,
    /// The ref must be a tag that is itself signed.
    pub require_signed_tag: bool,
    /// Look at the commit's signature only, even if the ref is a signed tag.
    pub ignore_signed_tag: bool,
}

/// The modification times of a checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mtime {
    /// When it was checked out.
    Checkout,
    /// That of the commit.
    Commit,
}

/// A git bundle to take objects from instead of the remote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitBundle {
    /// Where it is: `docker-image+blob://…@sha256:…` or `oci-layout+blob://…@sha256:…`.
    pub url: String,
    /// For an OCI layout the session of the client that has it; empty for that of the build.
    pub session: String,
    /// For an OCI layout the content store that has it.
    pub store: String,
}

impl Git {
    /// The repository `remote`, a URL (`https://` may be left out) or `user@host:path`; `fragment` is
    /// `ref[:subdir]`, empty for the default branch. A `#…` or `?…` inside `remote` is dropped:
    /// [`from_ref`](Self::from_ref) reads those.
    #[track_caller]
    pub fn new(remote: impl Into<String>, fragment: impl AsRef<str>) -> Self {
        let (reference, subdir) = fragment.as_ref().split_once(':').unwrap_or((fragment.as_ref(), ""));
        Self {
            remote: remote.into(),
            reference: reference.to_owned(),
            subdir: git_url::clean_subdir(subdir),
            keep_git_dir: false,
            skip_submodules: false,
            fetch_by_commit: false,
            auth_token: None,
            auth_header: None,
            known_hosts: String::new(),
            ssh_sock: String::new(),
            checksum: String::new(),
            mtime: None,
            bundle: None,
            checkout_bundle: false,
            signature: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    /// What a user wrote, with everything its `#…` and `?…` ask for.
    #[track_caller]
    pub fn from_ref(git: &GitRef) -> Self {
        let mut out = Self::new(&git.remote, "").reference(&git.reference).subdir(&git.subdir);
        out.checksum.clone_from(&git.checksum);
        out.keep_git_dir = git.keep_git_dir.unwrap_or(false);
        out.skip_submodules = !git.submodules.unwrap_or(true);
        out.fetch_by_commit = git.fetch_by_commit.unwrap_or(false);
        out.mtime = match git.mtime.as_str() {
            "commit" => Some(Mtime::Commit),
            "checkout" => Some(Mtime::Checkout),
            _ => None,
        };
        out
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Branch, tag or commit.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = reference.into();
        self
    }

    /// Takes only this directory of the repository.
    pub fn subdir(mut self, subdir: impl Into<String>) -> Self {
        self.subdir = subdir.into();
        self
    }

    /// Keeps `.git`.
    pub fn keep_git_dir(mut self) -> Self {
        self.keep_git_dir = true;
        self
    }

    /// Leaves submodules out.
    pub fn skip_submodules(mut self) -> Self {
        self.skip_submodules = true;
        self
    }

    /// Fetches the commit rather than the branch or tag it is on.
    pub fn fetch_by_commit(mut self) -> Self {
        self.fetch_by_commit = true;
        self
    }

    /// The client's secret with a token for HTTP; empty for none.
    pub fn auth_token_secret(mut self, secret: impl Into<String>) -> Self {
        self.auth_token = Some(secret.into());
        self
    }

    /// The client's secret with an `Authorization` header for HTTP; empty for none.
    pub fn auth_header_secret(mut self, secret: impl Into<String>) -> Self {
        self.auth_header = Some(secret.into());
        self
    }

    /// Adds lines for `known_hosts`, for SSH.
    pub fn known_hosts(mut self, lines: impl AsRef<str>) -> Self {
        let lines = lines.as_ref();
        self.known_hosts.push_str(lines.strip_suffix('\n').unwrap_or(lines));
        self.known_hosts.push('\n');
        self
    }

    /// The client's SSH agent to use; `default` without this. Other protocols ignore it.
    pub fn ssh_sock(mut self, id: impl Into<String>) -> Self {
        self.ssh_sock = id.into();
        self
    }

    /// Fails unless the commit's hash begins with this.
    pub fn checksum(mut self, checksum: impl Into<String>) -> Self {
        self.checksum = checksum.into();
        self
    }

    /// Chooses modification times.
    pub fn mtime(mut self, mtime: Mtime) -> Self {
        self.mtime = Some(mtime);
        self
    }

    /// Takes objects from a bundle; needs a checksum.
    pub fn bundle(mut self, bundle: GitBundle) -> Self {
        self.bundle = Some(bundle);
        self
    }

    /// Fails unless the commit, or the tag, is signed. Needs BuildKit 0.26.
    pub fn verify_signature(mut self, signature: GitSignature) -> Self {
        self.signature = Some(signature);
        self
    }

    /// Gives the bundle itself instead of a checkout.
    pub fn checkout_bundle(mut self) -> Self {
        self.checkout_bundle = true;
        self
    }
}

impl From<Git> for State {
    fn from(git: Git) -> Self {
        let mut remote = git.remote;
        let mut parsed = GitUrl::parse(&remote);
        if parsed == Err(git_url::Error::UnknownProtocol) {
            remote.insert_str(0, "https://");
            parsed = GitUrl::parse(&remote);
        }
        let mut is_ssh = false;
        let (mut id, full_url) = match parsed {
            Err(_) => (remote.clone(), remote),
            Ok(url) => {
                is_ssh = url.scheme == Scheme::Ssh;
                let mut id = format!("{}{}", url.host, path::join(&["/", &url.path]));
                if !git.reference.is_empty() || !git.subdir.is_empty() {
                    id.push('#');
                    id.push_str(&git.reference);
                    if !git.subdir.is_empty() {
                        id.push(':');
                        id.push_str(&git.subdir);
                    }
                }
                (id, url.remote)
            }
        };
        id.insert_str(0, "git://");
        let mut op = SourceOp::new(id, Cap::SOURCE_GIT);
        op.attr_some("git.fullurl", full_url);
        op.caps.insert(Cap::SOURCE_GIT_FULLURL);
        let asked = git.auth_token.is_some() || git.auth_header.is_some();
        let token = git.auth_token.unwrap_or_else(|| "GIT_AUTH_TOKEN".to_owned());
        let header = git.auth_header.unwrap_or_else(|| "GIT_AUTH_HEADER".to_owned());
        if asked && !(token.is_empty() && header.is_empty()) {
            op.caps.insert(Cap::SOURCE_GIT_HTTPAUTH);
        }
        op.attr_some("git.authtokensecret", token);
        op.attr_some("git.authheadersecret", header);
        if is_ssh {
            op.attr_some("git.knownsshhosts", git.known_hosts);
            op.attr("git.mountsshsock", if git.ssh_sock.is_empty() { "default" } else { &git.ssh_sock });
            op.caps.insert(Cap::SOURCE_GIT_KNOWNSSHHOSTS);
            op.caps.insert(Cap::SOURCE_GIT_MOUNTSSHSOCK);
        }
        for (on, key, cap) in [
            (git.keep_git_dir, "git.keepgitdir", Cap::SOURCE_GIT_KEEPGITDIR),
            (git.skip_submodules, "git.skipsubmodules", Cap::SOURCE_GIT_SKIPSUBMODULES),
            (git.fetch_by_commit, "git.fetchbycommit", Cap::SOURCE_GIT_FETCHBYCOMMIT),
            (git.checkout_bundle, "git.checkoutbundle", Cap::SOURCE_GIT_CHECKOUTBUNDLE),
        ] {
            if on {
                op.attr(key, "true");
                op.caps.insert(cap);
            }
        }
        if !git.checksum.is_empty() {
            op.attr("git.checksum", git.checksum);
            op.caps.insert(Cap::SOURCE_GIT_CHECKSUM);
        }
        if let Some(mtime) = git.mtime {
            let mtime = match mtime {
                Mtime::Checkout => "checkout",
                Mtime::Commit => "commit",
            };
            op.attr("git.mtime", mtime);
            op.caps.insert(Cap::SOURCE_GIT_MTIME);
        }
        if let Some(bundle) = git.bundle {
            if !bundle.url.is_empty() {
                op.attr("git.bundle", bundle.url);
                op.caps.insert(Cap::SOURCE_GIT_BUNDLE);
            }
            op.attr_some("oci.session", bundle.session);
            op.attr_some("oci.store", bundle.store);
        }
        if let Some(signature) = git.signature {
            op.attr_some("git.sig.pubkey", signature.public_key);
            for (on, key) in [
                (signature.reject_expired, "git.sig.rejectexpired"),
                (signature.require_signed_tag, "git.sig.requiresignedtag"),
                (signature.ignore_signed_tag, "git.sig.ignoresignedtag"),
            ] {
                if on {
                    op.attr(key, "true");
                }
            }
            op.caps.insert(Cap::SOURCE_GIT_SIGNATUREVERIFY);
        }
        op.state(git.constraints, git.site)
    }
}
