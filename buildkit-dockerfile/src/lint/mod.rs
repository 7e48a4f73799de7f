//! BuildKit's lint rules: what they are called, where they fire, what they tell the user.
//!
//! A [`Linter`] collects. Parsing and conversion call one method a rule on it (`linter.undefined_var(…)`),
//! in the order BuildKit does; the method decides whether the rule is on at that place and writes the
//! message. Rules are methods in files by subject next to this one.

mod commands;
mod config;
mod copy_ignored;
mod description;
mod expose;
mod from;
mod stage;
mod variables;

use crate::parser::Lines;

pub use self::config::{Config, Names};

/// One lint rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name, as used in `# check=skip=…`.
    pub name: &'static str,
    /// What the rule asks for, in one sentence.
    pub description: &'static str,
    /// The last part of the address of its documentation, if it has any.
    slug: Option<&'static str>,
    /// Whether a `check=` comment right above an instruction is heard.
    inline: bool,
    /// Whether it is off until it is switched on by name or by `experimental=all`.
    pub experimental: bool,
}

impl Rule {
    /// The address of the rule's documentation; empty if there is none.
    pub fn url(&self) -> String {
        self.slug
            .map(|slug| format!("https://docs.docker.com/go/dockerfile/rule/{slug}/"))
            .unwrap_or_default()
    }

    /// All rules, by name.
    pub fn all() -> &'static [&'static Rule] {
        ALL
    }
}

static ALL: &[&Rule] = &[
    &stage::CONSISTENT_INSTRUCTION_CASING,
    &copy_ignored::COPY_IGNORED_FILE,
    &stage::DUPLICATE_STAGE_NAME,
    &expose::EXPOSE_INVALID_FORMAT,
    &expose::EXPOSE_PROTO_CASING,
    &stage::FROM_AS_CASING,
    &from::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    &from::INVALID_BASE_IMAGE_PLATFORM,
    &from::INVALID_DEFAULT_ARG_IN_FROM,
    &description::INVALID_DEFINITION_DESCRIPTION,
    &commands::JSON_ARGS_RECOMMENDED,
    &commands::LEGACY_KEY_VALUE_FORMAT,
    &commands::MAINTAINER_DEPRECATED,
    &commands::MULTIPLE_INSTRUCTIONS_DISALLOWED,
    &commands::NO_EMPTY_CONTINUATION,
    &from::REDUNDANT_TARGET_PLATFORM,
    &stage::RESERVED_STAGE_NAME,
    &variables::SECRETS_USED_IN_ARG_OR_ENV,
    &stage::STAGE_NAME_CASING,
    &from::UNDEFINED_ARG_IN_FROM,
    &variables::UNDEFINED_VAR,
    &commands::WORKDIR_RELATIVE_PATH,
];

/// A rule that fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: &'static Rule,
    /// What is wrong at this place and what to do about it.
    pub message: String,
    /// Where.
    pub lines: Lines,
}

/// Where a rule may fire: the lines of an instruction and the comments above it.
///
/// Made by [`Instruction::site`](crate::instructions::Instruction::site),
/// [`Stage::site`](crate::instructions::Stage::site) or from bare [`Lines`].
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The lines reported.
    pub lines: Lines,
    /// Comments that may hold a `check=` for this place only.
    pub comments: &'a [String],
}

impl From<Lines> for Site<'_> {
    fn from(lines: Lines) -> Self {
        Self { lines, comments: &[] }
    }
}

/// Collects warnings according to a [`Config`].
#[derive(Clone, Debug, Default)]
pub struct Linter {
    config: Config,
    listening: bool,
    warnings: Vec<Warning>,
    fired: Vec<&'static Rule>,
}

impl Linter {
    /// A linter that keeps what fires under `config`.
    pub fn new(config: Config) -> Self {
        Self { config, listening: true, warnings: Vec::new(), fired: Vec::new() }
    }

    /// A linter that hears nothing; for triggers of base images.
    pub fn silent() -> Self {
        Self::default()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What fired so far and was not taken yet, in order.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Takes what fired since the last call. [`Linter::verdict`] still counts it.
    pub fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// An error if the configuration makes warnings errors and at least one fired.
    pub fn verdict(&self) -> crate::Result<()> {
        if !self.config.error || self.fired.is_empty() {
            return Ok(());
        }
        let mut names: Vec<_> = self.fired.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        let names = names.join(", ");
        Err(crate::Error::new(
            crate::ErrorKind::Lint,
            format!("lint rules are set to fail the build: {names}"),
        ))
    }

    /// A linter of the same configuration that has heard nothing yet.
    pub(crate) fn fork(&self) -> Self {
        Self { config: self.config.clone(), listening: self.listening, ..Self::default() }
    }

    /// Adds what a fork heard.
    pub(crate) fn join(&mut self, fork: Self) {
        self.warnings.extend(fork.warnings);
        self.fired.extend(fork.fired);
    }

    /// Records a warning of `rule` at `site` if the rule is on there.
    pub(crate) fn fire(&mut self, rule: &'static Rule, site: Site<'_>, message: impl FnOnce() -> String) {
        if !self.listening || !self.is_on(rule, site) {
            return;
        }
        self.fired.push(rule);
        self.warnings.push(Warning { rule, message: message(), lines: site.lines });
    }

    fn is_on(&self, rule: &Rule, site: Site<'_>) -> bool {
        let own = if rule.inline { Config::from_comments(site.comments) } else { None };
        let asked = |f: fn(&Config) -> &config::Names| {
            f(&self.config).has(rule.name) || own.as_ref().is_some_and(|c| f(c).has(rule.name))
        };
        if rule.experimental { asked(|c| &c.experimental) } else { !asked(|c| &c.skip) }
    }
}
