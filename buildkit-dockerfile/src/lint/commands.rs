//! Rules about single instructions of a stage.

use super::{Linter, Rule, Site};
use crate::parser::Lines;

pub(super) static NO_EMPTY_CONTINUATION: Rule = Rule {
    name: "NoEmptyContinuation",
    description: "Blank lines inside an instruction will be errors in a future release",
    slug: Some("no-empty-continuation"),
    inline: false,
    experimental: false,
};

pub(super) static JSON_ARGS_RECOMMENDED: Rule = Rule {
    name: "JSONArgsRecommended",
    description: "ENTRYPOINT and CMD should use the JSON form, so that signals reach the process",
    slug: Some("json-args-recommended"),
    inline: true,
    experimental: false,
};

pub(super) static MAINTAINER_DEPRECATED: Rule = Rule {
    name: "MaintainerDeprecated",
    description: "MAINTAINER is deprecated; a label names the author of an image",
    slug: Some("maintainer-deprecated"),
    inline: true,
    experimental: false,
};

pub(super) static WORKDIR_RELATIVE_PATH: Rule = Rule {
    name: "WorkdirRelativePath",
    description: "A relative WORKDIR before any absolute one depends on the base image",
    slug: Some("workdir-relative-path"),
    inline: true,
    experimental: false,
};

pub(super) static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    description: "An instruction of which only the last one counts should occur once in a stage",
    slug: Some("multiple-instructions-disallowed"),
    inline: true,
    experimental: false,
};

pub(super) static LEGACY_KEY_VALUE_FORMAT: Rule = Rule {
    name: "LegacyKeyValueFormat",
    description: "Names and values should be joined by an equals sign, not by a blank",
    slug: Some("legacy-key-value-format"),
    inline: true,
    experimental: false,
};

impl Linter {
    /// An instruction has a blank line inside; `line` is its last line before any heredoc.
    pub fn no_empty_continuation(&mut self, line: u32) {
        self.fire(&NO_EMPTY_CONTINUATION, Lines::single(line).into(), || {
            "a blank line stands inside this instruction; remove it, or make it a comment".to_owned()
        });
    }

    /// CMD or ENTRYPOINT, here called `keyword` as written, in shell form without a SHELL of its own.
    pub fn json_args_recommended(&mut self, site: Site<'_>, keyword: &str) {
        self.fire(&JSON_ARGS_RECOMMENDED, site, || {
            format!(
                "{keyword} in shell form keeps signals from the process; write {keyword} [\"program\", \"argument\"]"
            )
        });
    }

    /// MAINTAINER is used.
    pub fn maintainer_deprecated(&mut self, site: Site<'_>) {
        self.fire(&MAINTAINER_DEPRECATED, site, || {
            "MAINTAINER is deprecated; write LABEL org.opencontainers.image.authors=\"…\"".to_owned()
        });
    }

    /// The first WORKDIR of a chain of stages is `path`, which is relative.
    pub fn workdir_relative_path(&mut self, site: Site<'_>, path: &str) {
        self.fire(&WORKDIR_RELATIVE_PATH, site, || {
            format!(
                "\"{path}\" is relative to whatever directory the base image has; start with an absolute path"
            )
        });
    }

    /// Another `keyword`, as written there, follows the one at `site` in the same stage.
    pub fn multiple_instructions_disallowed(&mut self, site: Site<'_>, keyword: &str) {
        self.fire(&MULTIPLE_INSTRUCTIONS_DISALLOWED, site, || {
            format!("a later {keyword} of this stage overrides this one; remove it")
        });
    }

    /// `keyword` (as written) has a name and a value with a blank between.
    pub fn legacy_key_value_format(&mut self, site: Site<'_>, keyword: &str) {
        self.fire(&LEGACY_KEY_VALUE_FORMAT, site, || {
            format!("\"{keyword} key value\" is the old form; write \"{keyword} key=value\"")
        });
    }
}
