//! The rule about sources that the ignore file excludes.

use super::{Linter, Rule, Site};

pub(super) static COPY_IGNORED_FILE: Rule = Rule {
    name: "CopyIgnoredFile",
    description: "A source of COPY or ADD should not be excluded by .dockerignore",
    slug: Some("copy-ignored-file"),
    inline: true,
    experimental: false,
};

impl Linter {
    /// The source `path` of COPY or ADD (`keyword`) is excluded from the build context.
    pub fn copy_ignored_file(&mut self, site: Site<'_>, keyword: &str, path: &str) {
        self.fire(&COPY_IGNORED_FILE, site, || {
            format!("{keyword} of \"{path}\" finds nothing: .dockerignore excludes it")
        });
    }
}
