//! Capabilities: what an op needs of the daemon, and what a daemon has.

use std::collections::BTreeMap;
use std::fmt;

/// A capability this crate knows, by the position of its name in the sorted list of names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cap(u8);

impl Cap {
    /// Every capability this crate knows, sorted by name.
    pub fn all() -> impl ExactSizeIterator<Item = Cap> {
        (0..u8::try_from(NAMES.len()).unwrap_or(u8::MAX)).map(Cap)
    }

    /// The capability called `name`.
    pub fn named(name: &str) -> Option<Cap> {
        NAMES.binary_search(&name).ok().and_then(|at| u8::try_from(at).ok()).map(Cap)
    }

    /// Its name on the wire, such as `exec.mount.cache`.
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }
}

impl fmt::Debug for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The capabilities an op needs; part of its metadata, not of its digest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Caps {
    /// A bit each; two words, as one of twice the size would align every vertex to it.
    known: [u64; 2],
    /// Names of later versions, and entries a definition carried with the value false.
    #[allow(clippy::box_collection, reason = "almost always absent, and there is one per vertex")]
    other: Option<Box<BTreeMap<String, bool>>>,
}

impl Caps {
    /// No capability.
    pub(crate) const NONE: Self = Self { known: [0; 2], other: None };

    /// Whether `name` is needed.
    pub fn contains(&self, name: &str) -> bool {
        match Cap::named(name) {
            Some(cap) => self.knows(cap),
            None => self.other.as_ref().is_some_and(|other| other.get(name) == Some(&true)),
        }
    }

    fn knows(&self, cap: Cap) -> bool {
        let (word, bit) = place(cap);
        self.known[word] & bit != 0
    }

    /// Adds a capability.
    pub fn insert(&mut self, cap: Cap) {
        let (word, bit) = place(cap);
        self.known[word] |= bit;
    }

    pub(crate) fn insert_named(&mut self, name: &str, value: bool) {
        match Cap::named(name) {
            Some(cap) if value => self.insert(cap),
            _ => {
                self.other.get_or_insert_default().insert(name.to_owned(), value);
            }
        }
    }

    pub(crate) fn merge(&mut self, from: &Self) {
        self.known[0] |= from.known[0];
        self.known[1] |= from.known[1];
        if let Some(other) = &from.other {
            self.other
                .get_or_insert_default()
                .extend(other.iter().map(|(name, value)| (name.clone(), *value)));
        }
    }

    /// Names and values as the wire has them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        let known = Cap::all().filter(|cap| self.knows(*cap)).map(|cap| (cap.name(), true));
        known.chain(
            self.other.iter().flat_map(|other| other.iter()).map(|(name, value)| (name.as_str(), *value)),
        )
    }
}

impl fmt::Debug for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

impl FromIterator<Cap> for Caps {
    fn from_iter<I: IntoIterator<Item = Cap>>(caps: I) -> Self {
        let mut out = Self::default();
        for cap in caps {
            out.insert(cap);
        }
        out
    }
}

/// One capability as a daemon announces it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerCap {
    /// Whether it may be used.
    pub enabled: bool,
    /// Whether it will go away.
    pub deprecated: bool,
    /// Why it is off: a machine-readable key.
    pub disabled_reason: String,
    /// Why it is off, for people.
    pub disabled_reason_message: String,
    /// What to use instead.
    pub disabled_alternative: String,
}

/// The capabilities of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerCaps {
    caps: BTreeMap<String, ServerCap>,
}

/// Why a capability cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// This crate does not know the capability either.
    Unknown(String),
    /// The daemon does not have it: it is too old, or built without.
    Missing(String),
    /// The daemon has it, but it is switched off.
    Disabled {
        /// The capability.
        cap: String,
        /// Why, in the daemon's words; may be empty.
        reason: String,
    },
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(cap) => write!(f, "unknown API capability {cap}"),
            Self::Missing(cap) => {
                write!(f, "the build server does not support {cap}; a newer BuildKit is needed")
            }
            Self::Disabled { cap, reason } if reason.is_empty() => {
                write!(f, "{cap} is switched off on the build server")
            }
            Self::Disabled { cap, reason } => {
                write!(f, "{cap} is switched off on the build server: {reason}")
            }
        }
    }
}

impl std::error::Error for Unsupported {}

impl ServerCaps {
    /// No capability at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every capability this crate knows, enabled: a daemon as new as this crate.
    pub fn all() -> Self {
        Cap::all().map(Cap::name).collect()
    }

    /// What a gateway that announces nothing is taken to have: the list was frozen when announcing began.
    pub fn frozen() -> Self {
        FROZEN.iter().copied().collect()
    }

    /// Adds or replaces a capability.
    pub fn insert(&mut self, name: impl Into<String>, cap: ServerCap) {
        self.caps.insert(name.into(), cap);
    }

    /// Takes a capability away.
    pub fn remove(&mut self, name: &str) {
        self.caps.remove(name);
    }

    /// Whether the daemon lists `name`, enabled or not, known to this crate or not.
    pub fn contains(&self, name: &str) -> bool {
        self.caps.contains_key(name)
    }

    /// Whether `cap` can be used.
    ///
    /// # Errors
    /// Says whether the capability is missing or switched off.
    pub fn supports(&self, cap: Cap) -> Result<(), Unsupported> {
        self.supports_named(cap.name())
    }

    /// As [`supports`](Self::supports), by name.
    ///
    /// # Errors
    /// Also when this crate does not know the name.
    pub fn supports_named(&self, name: &str) -> Result<(), Unsupported> {
        if Cap::named(name).is_none() {
            return Err(Unsupported::Unknown(name.to_owned()));
        }
        match self.caps.get(name) {
            None => Err(Unsupported::Missing(name.to_owned())),
            Some(cap) if !cap.enabled => Err(Unsupported::Disabled {
                cap: name.to_owned(),
                reason: cap.disabled_reason_message.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Whether the daemon lists `name` as usable, known to this crate or not.
    pub(crate) fn offers(&self, name: &str) -> Result<(), Unsupported> {
        match self.caps.get(name) {
            Some(cap) if cap.enabled => Ok(()),
            None if Cap::named(name).is_some() => Err(Unsupported::Missing(name.to_owned())),
            _ => self.supports_named(name),
        }
    }

    /// Every capability with its name, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ServerCap)> {
        self.caps.iter().map(|(name, cap)| (name.as_str(), cap))
    }
}

impl<S: Into<String>> FromIterator<S> for ServerCaps {
    /// Enabled capabilities by name.
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let cap = || ServerCap { enabled: true, ..ServerCap::default() };
        Self { caps: names.into_iter().map(|name| (name.into(), cap())).collect() }
    }
}

/// The word and the bit in it that stand for `cap`.
fn place(cap: Cap) -> (usize, u64) {
    (usize::from(cap.0 >= 64), 1 << (cap.0 % 64))
}

/// Constants for names, which are sorted.
macro_rules! caps {
    ($($cap:ident = $name:literal,)*) => {
        /// The place of each capability.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "spelled as the constants are")]
        enum Place {
            $($cap,)*
        }

        impl Cap {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $cap: Cap = Cap(Place::$cap as u8);
            )*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

// The constants are spelled after the names; `soruce.http.uidgid` is a slip of the protocol that stayed.
caps! {
    CACHE_AZBLOB = "cache.azblob",
    CACHE_GHA = "cache.gha",
    CACHE_S3 = "cache.s3",
    CONSTRAINTS = "constraints",
    DIFFOP = "diffop",
    EXEC_CGROUP = "exec.cgroup",
    EXEC_META_BASE = "exec.meta.base",
    EXEC_META_CDI = "exec.meta.cdi",
    EXEC_META_CGROUP_PARENT = "exec.meta.cgroup.parent",
    EXEC_META_LINUX_RESOURCES = "exec.meta.linux.resources",
    EXEC_META_NETWORK = "exec.meta.network",
    EXEC_META_NETWORK_PROXY = "exec.meta.network.proxy",
    EXEC_META_PROXYENV = "exec.meta.proxyenv",
    EXEC_META_SECURITY = "exec.meta.security",
    EXEC_META_SECURITY_DEVICES_V1 = "exec.meta.security.devices.v1",
    EXEC_META_SETSDEFAULTPATH = "exec.meta.setsdefaultpath",
    EXEC_META_ULIMIT = "exec.meta.ulimit",
    EXEC_MOUNT_BIND = "exec.mount.bind",
    EXEC_MOUNT_BIND_READWRITE_NOOUTPUT = "exec.mount.bind.readwrite-nooutput",
    EXEC_MOUNT_CACHE = "exec.mount.cache",
    EXEC_MOUNT_CACHE_CONTENT = "exec.mount.cache.content",
    EXEC_MOUNT_CACHE_SHARING = "exec.mount.cache.sharing",
    EXEC_MOUNT_SECRET = "exec.mount.secret",
    EXEC_MOUNT_SELECTOR = "exec.mount.selector",
    EXEC_MOUNT_SSH = "exec.mount.ssh",
    EXEC_MOUNT_TMPFS = "exec.mount.tmpfs",
    EXEC_MOUNT_TMPFS_SIZE = "exec.mount.tmpfs.size",
    EXEC_SECRETENV = "exec.secretenv",
    EXEC_VALIDEXITCODE = "exec.validexitcode",
    EXPORTER_IMAGE_ANNOTATIONS = "exporter.image.annotations",
    EXPORTER_IMAGE_ATTESTATIONS = "exporter.image.attestations",
    EXPORTER_MULTIPLE = "exporter.multiple",
    EXPORTER_SESSION = "exporter.session",
    EXPORTER_SOURCEDATEEPOCH = "exporter.sourcedateepoch",
    FILE_BASE = "file.base",
    FILE_COPY_ALWAYSREPLACEEXISTINGDESTPATHS = "file.copy.alwaysreplaceexistingdestpaths",
    FILE_COPY_INCLUDEEXCLUDEPATTERNS = "file.copy.includeexcludepatterns",
    FILE_COPY_REQUIREDPATHS = "file.copy.requiredpaths",
    FILE_RM_NOFOLLOWSYMLINK = "file.rm.nofollowsymlink",
    FILE_RM_WILDCARD = "file.rm.wildcard",
    FILE_SYMLINK_CREATE = "file.symlink.create",
    GC_FREESPACEFILTER = "gc.freespacefilter",
    HISTORY_FILTER = "history.filter",
    MERGEOP = "mergeop",
    META_DESCRIPTION = "meta.description",
    META_EXPORTCACHE = "meta.exportcache",
    META_IGNORECACHE = "meta.ignorecache",
    PASSTHROUGHOP = "passthroughop",
    PLATFORM = "platform",
    SOURCE_HTTP_UIDGID = "soruce.http.uidgid",
    SOURCE_BUILDOP_LLBFILENAME = "source.buildop.llbfilename",
    SOURCE_GIT = "source.git",
    SOURCE_GIT_BUNDLE = "source.git.bundle",
    SOURCE_GIT_CHECKOUTBUNDLE = "source.git.checkoutbundle",
    SOURCE_GIT_CHECKSUM = "source.git.checksum",
    SOURCE_GIT_FETCHBYCOMMIT = "source.git.fetchbycommit",
    SOURCE_GIT_FULLURL = "source.git.fullurl",
    SOURCE_GIT_HTTPAUTH = "source.git.httpauth",
    SOURCE_GIT_KEEPGITDIR = "source.git.keepgitdir",
    SOURCE_GIT_KNOWNSSHHOSTS = "source.git.knownsshhosts",
    SOURCE_GIT_MOUNTSSHSOCK = "source.git.mountsshsock",
    SOURCE_GIT_MTIME = "source.git.mtime",
    SOURCE_GIT_SIGNATUREVERIFY = "source.git.signatureverify",
    SOURCE_GIT_SKIPSUBMODULES = "source.git.skipsubmodules",
    SOURCE_GIT_SUBDIR = "source.git.subdir",
    SOURCE_HTTP = "source.http",
    SOURCE_HTTP_AUTH = "source.http.auth",
    SOURCE_HTTP_CHECKSUM = "source.http.checksum",
    SOURCE_HTTP_HEADER = "source.http.header",
    SOURCE_HTTP_PERM = "source.http.perm",
    SOURCE_HTTP_SIGNATUREVERIFY = "source.http.signatureverify",
    SOURCE_IMAGE = "source.image",
    SOURCE_IMAGE_CHECKSUM = "source.image.checksum",
    SOURCE_IMAGE_LAYERLIMIT = "source.image.layerlimit",
    SOURCE_IMAGE_RESOLVEMODE = "source.image.resolvemode",
    SOURCE_IMAGEBLOB = "source.imageblob",
    SOURCE_LOCAL = "source.local",
    SOURCE_LOCAL_DIFFER = "source.local.differ",
    SOURCE_LOCAL_EXCLUDEPATTERNS = "source.local.excludepatterns",
    SOURCE_LOCAL_FOLLOWPATHS = "source.local.followpaths",
    SOURCE_LOCAL_INCLUDEPATTERNS = "source.local.includepatterns",
    SOURCE_LOCAL_METADATATRANSFER = "source.local.metadatatransfer",
    SOURCE_LOCAL_SESSIONID = "source.local.sessionid",
    SOURCE_LOCAL_SHAREDKEYHINT = "source.local.sharedkeyhint",
    SOURCE_LOCAL_UNIQUE = "source.local.unique",
    SOURCE_OCILAYOUT = "source.ocilayout",
    SOURCE_POLICY = "source.policy",
    SOURCE_POLICY_SESSION = "source.policy.session",
}

const FROZEN: &[&str] = &[
    "source.image",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.http",
    "source.http.checksum",
    "source.http.perm",
    "soruce.http.uidgid",
    "source.buildop.llbfilename",
    "exec.meta.base",
    "exec.meta.proxyenv",
    "exec.mount.bind",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.secret",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_found() {
        assert!(NAMES.is_sorted());
        for cap in Cap::all() {
            assert_eq!(Cap::named(cap.name()), Some(cap));
        }
        assert!(FROZEN.iter().all(|name| Cap::named(name).is_some()));
        assert_eq!(Cap::SOURCE_HTTP_UIDGID.name(), "soruce.http.uidgid");
    }

    #[test]
    fn a_daemon_without_a_capability_says_so() {
        let mut caps = ServerCaps::all();
        assert_eq!(caps.supports(Cap::MERGEOP), Ok(()));
        caps.remove("mergeop");
        assert_eq!(caps.supports(Cap::MERGEOP), Err(Unsupported::Missing("mergeop".into())));
        let off = ServerCap { disabled_reason_message: "policy".into(), ..ServerCap::default() };
        caps.insert("mergeop", off);
        assert_eq!(
            caps.supports(Cap::MERGEOP).unwrap_err().to_string(),
            "mergeop is switched off on the build server: policy"
        );
        assert_eq!(caps.supports_named("x"), Err(Unsupported::Unknown("x".into())));
    }

    #[test]
    fn unknown_names_are_kept() {
        let mut caps = Caps::default();
        caps.insert_named("exec.meta.base", true);
        caps.insert_named("later.cap", true);
        caps.insert_named("mergeop", false);
        assert_eq!(
            caps.iter().collect::<Vec<_>>(),
            [("exec.meta.base", true), ("later.cap", true), ("mergeop", false)]
        );
    }
}
