//! `RUN --mount`.

use super::{csv, fail, parse_bool, parse_size};
use crate::suggest::nearest;
use crate::{Error, Result, expand};

/// A `--mount` as written: its comma separated fields.
///
/// BuildKit judges fields when it executes the instruction, because values are expanded in the
/// environment of the stage; [`RunMount::resolve`] does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// The fields, CSV quotes removed.
    pub fields: Vec<String>,
    /// The value of `from`, which is never expanded; absent if empty.
    pub from: Option<String>,
}

impl RunMount {
    /// Judges the fields. `expand` is called on each value, in order.
    ///
    /// # Errors
    ///
    /// What `expand` returns; an unknown type or key, a bad value, a forbidden combination. Errors have
    /// no place yet.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, expand::Error>) -> Result<Mount> {
        let mut mount = Mount::default();
        let mut read_only = None;
        let mut sharing = None;
        for field in &self.fields {
            let Some((key, value)) = field.split_once('=') else {
                match field.to_lowercase().as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" => *mount.required_of("required")? = true,
                    _ => {
                        return Err(fail(format!(
                            "the field '{field}' of --mount is not of the form key=value"
                        )));
                    }
                }
                continue;
            };
            let key = key.to_lowercase();
            let value = expand(value)?;
            let bad = || fail(format!("{value:?} is no value for {key} of --mount"));
            match key.as_str() {
                "type" => mount.kind = MountKind::parse(&value)?,
                "from" => mount.from = Some(value).filter(|from| !from.is_empty()),
                "source" | "src" => mount.source = value,
                "target" | "dst" | "destination" => mount.target = value,
                "readonly" | "ro" => read_only = Some(parse_bool(&value).ok_or_else(bad)?),
                "readwrite" | "rw" => read_only = Some(!parse_bool(&value).ok_or_else(bad)?),
                "required" => *mount.required_of(&key)? = parse_bool(&value).ok_or_else(bad)?,
                "size" if mount.kind == MountKind::Tmpfs => {
                    mount.size = parse_size(&value).ok_or_else(bad)?;
                }
                "size" => return Err(mount.no_key(&key)),
                "id" => mount.id = value,
                "sharing" => sharing = Some(Sharing::parse(&value)?),
                "mode" => mount.mode = Some(number(&value, 8).ok_or_else(bad)?),
                "uid" => mount.uid = Some(number(&value, 10).ok_or_else(bad)?),
                "gid" => mount.gid = Some(number(&value, 10).ok_or_else(bad)?),
                "env" => mount.env = Some(value),
                _ => {
                    let error = fail(format!("--mount has no key '{key}' (in '{field}')"));
                    return Err(error.did_you_mean(nearest(&key, KEYS)));
                }
            }
        }
        mount.finish(read_only, sharing)
    }

    pub(super) fn parse(value: &str) -> Result<Self> {
        let fields = csv::fields(value).map_err(|e| e.context("--mount"))?;
        let mut from = None;
        for (key, value) in fields.iter().filter_map(|field| field.split_once('=')) {
            if !key.eq_ignore_ascii_case("from") {
                continue;
            }
            if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                let message = "from of --mount cannot hold variables; define a stage with FROM and name that";
                return Err(fail(message.to_owned()));
            }
            from = Some(value.to_owned()).filter(|from| !from.is_empty());
        }
        Ok(Self { fields, from })
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// A number without a sign.
fn number(text: &str, radix: u32) -> Option<u32> {
    if text.starts_with('+') { None } else { u32::from_str_radix(text, radix).ok() }
}

/// A judged `--mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The type.
    pub kind: MountKind,
    /// `from`: a stage or an image; absent if empty.
    pub from: Option<String>,
    /// `source`, as expanded; empty if absent.
    pub source: String,
    /// `target`, as expanded; empty if absent.
    pub target: String,
    /// Whether it is read-only. Default: true but for cache and tmpfs.
    pub read_only: bool,
    /// `id`, as expanded; empty if absent.
    pub id: String,
    /// `sharing` of a cache. Default: shared.
    pub sharing: Sharing,
    /// `required` of a secret or ssh mount. Default: false.
    pub required: bool,
    /// `env` of a secret: the variable that holds it.
    pub env: Option<String>,
    /// `size` of a tmpfs in bytes; 0 means no limit.
    pub size: i64,
    /// `mode` of a cache directory, a secret or a socket.
    pub mode: Option<u32>,
    /// `uid` of a cache directory, a secret or a socket.
    pub uid: Option<u32>,
    /// `gid` of a cache directory, a secret or a socket.
    pub gid: Option<u32>,
}

impl Mount {
    fn no_key(&self, key: &str) -> Error {
        fail(format!("a mount of type {} has no key '{key}'", self.kind.name()))
    }

    /// `required`, for the types that have it.
    fn required_of(&mut self, key: &str) -> Result<&mut bool> {
        match self.kind {
            MountKind::Secret | MountKind::Ssh => Ok(&mut self.required),
            _ => Err(self.no_key(key)),
        }
    }

    /// Applies defaults and judges combinations.
    fn finish(mut self, read_only: Option<bool>, sharing: Option<Sharing>) -> Result<Self> {
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(self.no_key(key));
                }
            }
        }
        self.read_only = read_only.unwrap_or(!matches!(self.kind, MountKind::Cache | MountKind::Tmpfs));
        if self.kind == MountKind::Secret {
            if self.from.is_some() {
                return Err(self.no_key("from"));
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(fail("a mount of type secret needs an id or a target".to_owned()));
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(fail("a mount of type secret has an id or a source, not both".to_owned()));
            }
        }
        if sharing.is_some() && self.kind != MountKind::Cache {
            return Err(self.no_key("sharing"));
        }
        self.sharing = sharing.unwrap_or_default();
        Ok(self)
    }
}

/// The type of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret of the client, as a file or a variable.
    Secret,
    /// An ssh agent of the client.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One build; others get another directory.
    Private,
    /// One build; others wait.
    Locked,
}

impl MountKind {
    /// The type as it is written.
    pub fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        const ALL: [MountKind; 5] =
            [MountKind::Bind, MountKind::Cache, MountKind::Tmpfs, MountKind::Secret, MountKind::Ssh];
        let lower = text.to_lowercase();
        ALL.into_iter().find(|kind| kind.name() == lower).ok_or_else(|| {
            fail(format!("there is no mount type {text:?}"))
                .did_you_mean(nearest(&lower, ALL.map(MountKind::name)))
        })
    }
}

impl Sharing {
    fn parse(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        match lower.as_str() {
            "shared" => Ok(Sharing::Shared),
            "private" => Ok(Sharing::Private),
            "locked" => Ok(Sharing::Locked),
            _ => Err(fail(format!("the sharing of a cache is shared, private or locked, not {text:?}"))
                .did_you_mean(nearest(&lower, ["shared", "private", "locked"]))),
        }
    }
}
