//! Rules about FROM: its arguments and its platform.

use super::{Linter, Rule, Site};
use crate::parser::Lines;

pub(super) static UNDEFINED_ARG_IN_FROM: Rule = Rule {
    name: "UndefinedArgInFrom",
    description: "FROM should use declared build arguments only",
    slug: Some("undefined-arg-in-from"),
    inline: true,
    experimental: false,
};

pub(super) static INVALID_DEFAULT_ARG_IN_FROM: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    description: "The defaults of global build arguments should give a valid base image",
    slug: Some("invalid-default-arg-in-from"),
    inline: false,
    experimental: false,
};

pub(super) static INVALID_BASE_IMAGE_PLATFORM: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    description: "The base image should have the platform that the build expects",
    slug: None,
    inline: false,
    experimental: false,
};

pub(super) static REDUNDANT_TARGET_PLATFORM: Rule = Rule {
    name: "RedundantTargetPlatform",
    description: "FROM --platform=$TARGETPLATFORM says what is the default anyway",
    slug: Some("redundant-target-platform"),
    inline: true,
    experimental: false,
};

pub(super) static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    description: "FROM --platform should not be a constant",
    slug: Some("from-platform-flag-const-disallowed"),
    inline: true,
    experimental: false,
};

impl Linter {
    /// FROM uses `name`, which no global ARG declares.
    pub fn undefined_arg_in_from(&mut self, site: Site<'_>, name: &str, meant: Option<&str>) {
        self.fire(&UNDEFINED_ARG_IN_FROM, site, || {
            let hint = meant.map(|m| format!(" (did you mean {m}?)")).unwrap_or_default();
            format!("no ARG above the first FROM declares '{name}'{hint}")
        });
    }

    /// The base name `raw` is no valid image reference when only defaults of global ARGs are used.
    pub fn invalid_default_arg_in_from(&mut self, lines: Lines, raw: &str) {
        self.fire(&INVALID_DEFAULT_ARG_IN_FROM, lines.into(), || {
            format!("without build arguments {raw} is not a valid image name; give the ARG a default")
        });
    }

    /// The base image `name` has the platform `actual`, while `expected` is being built.
    pub fn invalid_base_image_platform(&mut self, lines: Lines, name: &str, actual: &str, expected: &str) {
        self.fire(&INVALID_BASE_IMAGE_PLATFORM, lines.into(), || {
            format!("base image {name} is for \"{actual}\", but this build is for \"{expected}\"")
        });
    }

    /// `--platform` is `raw`, which uses nothing but TARGETPLATFORM and gives the target platform.
    pub fn redundant_target_platform(&mut self, site: Site<'_>, raw: &str) {
        self.fire(&REDUNDANT_TARGET_PLATFORM, site, || format!("--platform={raw} is the default; remove it"));
    }

    /// `--platform` is the constant `value`, and the stage is not named after it.
    pub fn from_platform_flag_const_disallowed(&mut self, site: Site<'_>, value: &str) {
        self.fire(&FROM_PLATFORM_FLAG_CONST_DISALLOWED, site, || {
            format!("--platform={value} ties the stage to one platform; use a variable, or name the stage after it")
        });
    }
}
