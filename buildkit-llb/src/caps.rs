//! Capabilities: what an op needs of the daemon, and what a daemon has.

use std::collections::BTreeMap;
use std::fmt;

/// A capability this crate knows, by the position of its name in the sorted list of names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cap(u8);

impl Cap {
    /// Every capability this crate knows, sorted by name.
    pub fn all() -> impl ExactSizeIterator<Item = Cap> {
        (0..COUNT).map(Cap)
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

const COUNT: u8 = 88;

/// The constants are spelled after the names; `soruce.http.uidgid` is a slip of the protocol that stayed.
impl Cap {
    /// `cache.azblob`
    pub const CACHE_AZBLOB: Cap = Cap(0);
    /// `cache.gha`
    pub const CACHE_GHA: Cap = Cap(1);
    /// `cache.s3`
    pub const CACHE_S3: Cap = Cap(2);
    /// `constraints`
    pub const CONSTRAINTS: Cap = Cap(3);
    /// `diffop`
    pub const DIFFOP: Cap = Cap(4);
    /// `exec.cgroup`
    pub const EXEC_CGROUP: Cap = Cap(5);
    /// `exec.meta.base`
    pub const EXEC_META_BASE: Cap = Cap(6);
    /// `exec.meta.cdi`
    pub const EXEC_META_CDI: Cap = Cap(7);
    /// `exec.meta.cgroup.parent`
    pub const EXEC_META_CGROUP_PARENT: Cap = Cap(8);
    /// `exec.meta.linux.resources`
    pub const EXEC_META_LINUX_RESOURCES: Cap = Cap(9);
    /// `exec.meta.network`
    pub const EXEC_META_NETWORK: Cap = Cap(10);
    /// `exec.meta.network.proxy`
    pub const EXEC_META_NETWORK_PROXY: Cap = Cap(11);
    /// `exec.meta.proxyenv`
    pub const EXEC_META_PROXYENV: Cap = Cap(12);
    /// `exec.meta.security`
    pub const EXEC_META_SECURITY: Cap = Cap(13);
    /// `exec.meta.security.devices.v1`
    pub const EXEC_META_SECURITY_DEVICES_V1: Cap = Cap(14);
    /// `exec.meta.setsdefaultpath`
    pub const EXEC_META_SETSDEFAULTPATH: Cap = Cap(15);
    /// `exec.meta.ulimit`
    pub const EXEC_META_ULIMIT: Cap = Cap(16);
    /// `exec.mount.bind`
    pub const EXEC_MOUNT_BIND: Cap = Cap(17);
    /// `exec.mount.bind.readwrite-nooutput`
    pub const EXEC_MOUNT_BIND_READWRITE_NOOUTPUT: Cap = Cap(18);
    /// `exec.mount.cache`
    pub const EXEC_MOUNT_CACHE: Cap = Cap(19);
    /// `exec.mount.cache.content`
    pub const EXEC_MOUNT_CACHE_CONTENT: Cap = Cap(20);
    /// `exec.mount.cache.sharing`
    pub const EXEC_MOUNT_CACHE_SHARING: Cap = Cap(21);
    /// `exec.mount.secret`
    pub const EXEC_MOUNT_SECRET: Cap = Cap(22);
    /// `exec.mount.selector`
    pub const EXEC_MOUNT_SELECTOR: Cap = Cap(23);
    /// `exec.mount.ssh`
    pub const EXEC_MOUNT_SSH: Cap = Cap(24);
    /// `exec.mount.tmpfs`
    pub const EXEC_MOUNT_TMPFS: Cap = Cap(25);
    /// `exec.mount.tmpfs.size`
    pub const EXEC_MOUNT_TMPFS_SIZE: Cap = Cap(26);
    /// `exec.secretenv`
    pub const EXEC_SECRETENV: Cap = Cap(27);
    /// `exec.validexitcode`
    pub const EXEC_VALIDEXITCODE: Cap = Cap(28);
    /// `exporter.image.annotations`
    pub const EXPORTER_IMAGE_ANNOTATIONS: Cap = Cap(29);
    /// `exporter.image.attestations`
    pub const EXPORTER_IMAGE_ATTESTATIONS: Cap = Cap(30);
    /// `exporter.multiple`
    pub const EXPORTER_MULTIPLE: Cap = Cap(31);
    /// `exporter.session`
    pub const EXPORTER_SESSION: Cap = Cap(32);
    /// `exporter.sourcedateepoch`
    pub const EXPORTER_SOURCEDATEEPOCH: Cap = Cap(33);
    /// `file.base`
    pub const FILE_BASE: Cap = Cap(34);
    /// `file.copy.alwaysreplaceexistingdestpaths`
    pub const FILE_COPY_ALWAYSREPLACEEXISTINGDESTPATHS: Cap = Cap(35);
    /// `file.copy.includeexcludepatterns`
    pub const FILE_COPY_INCLUDEEXCLUDEPATTERNS: Cap = Cap(36);
    /// `file.copy.requiredpaths`
    pub const FILE_COPY_REQUIREDPATHS: Cap = Cap(37);
    /// `file.rm.nofollowsymlink`
    pub const FILE_RM_NOFOLLOWSYMLINK: Cap = Cap(38);
    /// `file.rm.wildcard`
    pub const FILE_RM_WILDCARD: Cap = Cap(39);
    /// `file.symlink.create`
    pub const FILE_SYMLINK_CREATE: Cap = Cap(40);
    /// `gc.freespacefilter`
    pub const GC_FREESPACEFILTER: Cap = Cap(41);
    /// `history.filter`
    pub const HISTORY_FILTER: Cap = Cap(42);
    /// `mergeop`
    pub const MERGEOP: Cap = Cap(43);
    /// `meta.description`
    pub const META_DESCRIPTION: Cap = Cap(44);
    /// `meta.exportcache`
    pub const META_EXPORTCACHE: Cap = Cap(45);
    /// `meta.ignorecache`
    pub const META_IGNORECACHE: Cap = Cap(46);
    /// `passthroughop`
    pub const PASSTHROUGHOP: Cap = Cap(47);
    /// `platform`
    pub const PLATFORM: Cap = Cap(48);
    /// `soruce.http.uidgid`
    pub const SOURCE_HTTP_UIDGID: Cap = Cap(49);
    /// `source.buildop.llbfilename`
    pub const SOURCE_BUILDOP_LLBFILENAME: Cap = Cap(50);
    /// `source.git`
    pub const SOURCE_GIT: Cap = Cap(51);
    /// `source.git.bundle`
    pub const SOURCE_GIT_BUNDLE: Cap = Cap(52);
    /// `source.git.checkoutbundle`
    pub const SOURCE_GIT_CHECKOUTBUNDLE: Cap = Cap(53);
    /// `source.git.checksum`
    pub const SOURCE_GIT_CHECKSUM: Cap = Cap(54);
    /// `source.git.fetchbycommit`
    pub const SOURCE_GIT_FETCHBYCOMMIT: Cap = Cap(55);
    /// `source.git.fullurl`
    pub const SOURCE_GIT_FULLURL: Cap = Cap(56);
    /// `source.git.httpauth`
    pub const SOURCE_GIT_HTTPAUTH: Cap = Cap(57);
    /// `source.git.keepgitdir`
    pub const SOURCE_GIT_KEEPGITDIR: Cap = Cap(58);
    /// `source.git.knownsshhosts`
    pub const SOURCE_GIT_KNOWNSSHHOSTS: Cap = Cap(59);
    /// `source.git.mountsshsock`
    pub const SOURCE_GIT_MOUNTSSHSOCK: Cap = Cap(60);
    /// `source.git.mtime`
    pub const SOURCE_GIT_MTIME: Cap = Cap(61);
    /// `source.git.signatureverify`
    pub const SOURCE_GIT_SIGNATUREVERIFY: Cap = Cap(62);
    /// `source.git.skipsubmodules`
    pub const SOURCE_GIT_SKIPSUBMODULES: Cap = Cap(63);
    /// `source.git.subdir`
    pub const SOURCE_GIT_SUBDIR: Cap = Cap(64);
    /// `source.http`
    pub const SOURCE_HTTP: Cap = Cap(65);
    /// `source.http.auth`
    pub const SOURCE_HTTP_AUTH: Cap = Cap(66);
    /// `source.http.checksum`
    pub const SOURCE_HTTP_CHECKSUM: Cap = Cap(67);
    /// `source.http.header`
    pub const SOURCE_HTTP_HEADER: Cap = Cap(68);
    /// `source.http.perm`
    pub const SOURCE_HTTP_PERM: Cap = Cap(69);
    /// `source.http.signatureverify`
    pub const SOURCE_HTTP_SIGNATUREVERIFY: Cap = Cap(70);
    /// `source.image`
    pub const SOURCE_IMAGE: Cap = Cap(71);
    /// `source.image.checksum`
    pub const SOURCE_IMAGE_CHECKSUM: Cap = Cap(72);
    /// `source.image.layerlimit`
    pub const SOURCE_IMAGE_LAYERLIMIT: Cap = Cap(73);
    /// `source.image.resolvemode`
    pub const SOURCE_IMAGE_RESOLVEMODE: Cap = Cap(74);
    /// `source.imageblob`
    pub const SOURCE_IMAGEBLOB: Cap = Cap(75);
    /// `source.local`
    pub const SOURCE_LOCAL: Cap = Cap(76);
    /// `source.local.differ`
    pub const SOURCE_LOCAL_DIFFER: Cap = Cap(77);
    /// `source.local.excludepatterns`
    pub const SOURCE_LOCAL_EXCLUDEPATTERNS: Cap = Cap(78);
    /// `source.local.followpaths`
    pub const SOURCE_LOCAL_FOLLOWPATHS: Cap = Cap(79);
    /// `source.local.includepatterns`
    pub const SOURCE_LOCAL_INCLUDEPATTERNS: Cap = Cap(80);
    /// `source.local.metadatatransfer`
    pub const SOURCE_LOCAL_METADATATRANSFER: Cap = Cap(81);
    /// `source.local.sessionid`
    pub const SOURCE_LOCAL_SESSIONID: Cap = Cap(82);
    /// `source.local.sharedkeyhint`
    pub const SOURCE_LOCAL_SHAREDKEYHINT: Cap = Cap(83);
    /// `source.local.unique`
    pub const SOURCE_LOCAL_UNIQUE: Cap = Cap(84);
    /// `source.ocilayout`
    pub const SOURCE_OCILAYOUT: Cap = Cap(85);
    /// `source.policy`
    pub const SOURCE_POLICY: Cap = Cap(86);
    /// `source.policy.session`
    pub const SOURCE_POLICY_SESSION: Cap = Cap(87);
}

const NAMES: [&str; COUNT as usize] = [
    "cache.azblob",
    "cache.gha",
    "cache.s3",
    "constraints",
    "diffop",
    "exec.cgroup",
    "exec.meta.base",
    "exec.meta.cdi",
    "exec.meta.cgroup.parent",
    "exec.meta.linux.resources",
    "exec.meta.network",
    "exec.meta.network.proxy",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.content",
    "exec.mount.cache.sharing",
    "exec.mount.secret",
    "exec.mount.selector",
    "exec.mount.ssh",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.secretenv",
    "exec.validexitcode",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "exporter.sourcedateepoch",
    "file.base",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.includeexcludepatterns",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.rm.wildcard",
    "file.symlink.create",
    "gc.freespacefilter",
    "history.filter",
    "mergeop",
    "meta.description",
    "meta.exportcache",
    "meta.ignorecache",
    "passthroughop",
    "platform",
    "soruce.http.uidgid",
    "source.buildop.llbfilename",
    "source.git",
    "source.git.bundle",
    "source.git.checkoutbundle",
    "source.git.checksum",
    "source.git.fetchbycommit",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.keepgitdir",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.mtime",
    "source.git.signatureverify",
    "source.git.skipsubmodules",
    "source.git.subdir",
    "source.http",
    "source.http.auth",
    "source.http.checksum",
    "source.http.header",
    "source.http.perm",
    "source.http.signatureverify",
    "source.image",
    "source.image.checksum",
    "source.image.layerlimit",
    "source.image.resolvemode",
    "source.imageblob",
    "source.local",
    "source.local.differ",
    "source.local.excludepatterns",
    "source.local.followpaths",
    "source.local.includepatterns",
    "source.local.metadatatransfer",
    "source.local.sessionid",
    "source.local.sharedkeyhint",
    "source.local.unique",
    "source.ocilayout",
    "source.policy",
    "source.policy.session",
];

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
