//! Sources: where file trees come from.

mod blob;
mod git;
mod http;
mod image;
mod local;
mod oci_layout;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::panic::Location;

pub use self::blob::{ImageBlob, OciLayoutBlob};
pub use self::git::{Git, GitBundle, GitSignature, Mtime, git};
pub use self::http::{Http, http};
pub use self::image::{Image, RecordType, ResolveMode, image};
pub use self::local::{Differ, Local, local};
pub use self::oci_layout::OciLayout;

use crate::caps::{Cap, Caps};
use crate::constraints::{Constraints, constraint_setters};
use crate::error::ErrorKind;
use crate::graph::{Edge, Op, Site};
use crate::state::State;

/// A source as the graph keeps it.
#[derive(Debug, Default)]
pub(crate) struct SourceOp {
    pub(crate) identifier: String,
    pub(crate) attrs: Vec<(Cow<'static, str>, String)>,
    pub(crate) caps: Caps,
    /// Whether the op says for which platform it is.
    pub(crate) platform: bool,
    /// Whether the op needs the id that tells local sources of different builds apart.
    pub(crate) unique: bool,
    pub(crate) error: Option<ErrorKind>,
}

impl SourceOp {
    fn new(identifier: String, cap: Cap) -> Self {
        Self { identifier, caps: [cap].into_iter().collect(), ..Self::default() }
    }

    fn attr(&mut self, key: &'static str, value: impl Into<String>) {
        self.attrs.push((Cow::Borrowed(key), value.into()));
    }

    /// Adds an attribute unless it is empty.
    fn attr_some(&mut self, key: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.attr(key, value);
        }
    }

    fn state(self, constraints: Constraints, site: Site) -> State {
        State::from_edge(Edge::new(Op::Source(Box::new(self)), constraints, site))
    }

    pub(crate) fn title(&self) -> String {
        format!("source {:?}", self.identifier)
    }
}

/// Mode, owner and name of a downloaded file, as HTTP and blob sources spell them.
#[derive(Debug, Clone, Default)]
struct FileOptions {
    filename: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl FileOptions {
    fn apply(&self, op: &mut SourceOp) {
        op.attr_some("http.filename", self.filename.as_str());
        let mode = self.mode & 0o777;
        if mode != 0 {
            op.attr("http.perm", format!("0{mode:o}"));
        }
        for (key, id) in [("http.uid", self.uid), ("http.gid", self.gid)] {
            if id != 0 {
                op.attr(key, id.to_string());
            }
        }
    }
}

/// The setters for [`FileOptions`] of a builder with a field `file`.
macro_rules! file_setters {
    () => {
        /// Names the file; without this the last part of the address, or what the server says.
        pub fn filename(mut self, filename: impl Into<String>) -> Self {
            self.file.filename = filename.into();
            self
        }

        /// Permission bits of the file; 0600 without this.
        pub fn mode(mut self, mode: u32) -> Self {
            self.file.mode = mode;
            self
        }

        /// User and group the file belongs to; root without this.
        pub fn owner(mut self, uid: u32, gid: u32) -> Self {
            self.file.uid = uid;
            self.file.gid = gid;
            self
        }
    };
}
use file_setters;

/// A source of a kind this crate has no type for. It asks for no capability, but `local://` gets the unique id
/// that [`Local`] gets.
#[derive(Debug, Clone)]
#[must_use = "a source is part of the graph only if it is used as a state"]
pub struct Source {
    identifier: String,
    attrs: Vec<(String, String)>,
    constraints: Constraints,
    site: Site,
}

impl Source {
    /// The source `identifier`, a URL whose scheme says its kind.
    #[track_caller]
    pub fn new(identifier: impl Into<String>) -> Self {
        Self {
            identifier: identifier.into(),
            attrs: Vec::new(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Sets an attribute; an empty value is kept.
    pub fn attr(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attrs.push((key.into(), value.into()));
        self
    }
}

impl From<Source> for State {
    fn from(source: Source) -> Self {
        let platform = ["docker-image://", "oci-layout://"].iter().any(|s| source.identifier.starts_with(s));
        let unique = source.identifier.starts_with("local://")
            && !source.attrs.iter().any(|(key, _)| key == "local.session");
        let op = SourceOp {
            attrs: source.attrs.into_iter().map(|(key, value)| (Cow::Owned(key), value)).collect(),
            identifier: source.identifier,
            platform,
            unique,
            ..SourceOp::default()
        };
        op.state(source.constraints, source.site)
    }
}

/// Patterns as a JSON array, spelled as BuildKit's clients spell it: without spaces, and with the characters
/// that are special in HTML and JavaScript escaped. The text is part of a digest.
fn json_list(items: &[String]) -> String {
    let mut out = String::from("[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push('"');
        for c in item.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_escaped_as_in_go() {
        let items = ["a/*", "<b>&", "\u{2028}\u{1}\u{7f}é\"\\\n\u{8}"].map(str::to_owned);
        assert_eq!(
            json_list(&items),
            "[\"a/*\",\"\\u003cb\\u003e\\u0026\",\"\\u2028\\u0001\u{7f}é\\\"\\\\\\n\\b\"]"
        );
    }
}
