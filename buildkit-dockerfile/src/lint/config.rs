//! Which rules are on: the `check` directive, its inline form and its build argument.

use crate::{Error, ErrorKind, Result};

/// Which rules to skip, which experimental ones to add, whether a warning fails the build.
///
/// # Defaults
///
/// All rules but the experimental ones are on and none fails the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Rules that are off.
    pub skip: Names,
    /// Experimental rules that are on.
    pub experimental: Names,
    /// Whether a rule that fires is an error in the end.
    pub error: bool,
}

/// Names of rules, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Every rule.
    All,
    /// These rules. Unknown names are kept and match nothing.
    These(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Names::These(Vec::new())
    }
}

impl Names {
    /// Whether `rule` is among them.
    pub fn has(&self, rule: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|n| n == rule),
        }
    }

    /// Adds a list of names, or all.
    fn extend(&mut self, list: &str) {
        match self {
            Names::All => {}
            _ if list == "all" => *self = Names::All,
            Names::These(names) => *names = list.split(',').map(|n| n.trim().to_owned()).collect(),
        }
    }
}

impl Config {
    /// Reads a check string such as `skip=JSONArgsRecommended,StageNameCasing;error=true`.
    ///
    /// # Errors
    ///
    /// An option that is not `skip`, `experimental` or `error`, or an `error` that is not a boolean.
    pub fn parse(text: &str) -> Result<Self> {
        let mut config = Config::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for part in text.splitn(3, ';') {
            let (key, value) = part.split_once('=').ok_or_else(|| unknown(part))?;
            match key.trim() {
                "skip" => config.skip.extend(value.trim()),
                "experimental" => config.experimental.extend(value.trim()),
                "error" => {
                    config.error = crate::instructions::parse_bool(value.trim()).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Lint,
                            format!("check option \"error\" is not a boolean: {value:?}"),
                        )
                    })?;
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(config)
    }

    /// The configuration of a comment `check=…` above an instruction, if a good one is there.
    pub(crate) fn from_comments(comments: &[String]) -> Option<Self> {
        let check = comments.iter().find_map(|c| crate::parser::inline_directive(c, "check"))?;
        Config::parse(check.split(' ').next().unwrap_or_default()).ok()
    }
}

fn unknown(option: &str) -> Error {
    Error::new(
        ErrorKind::Lint,
        format!("unknown check option {:?}; known are skip, experimental and error", option.trim()),
    )
}
