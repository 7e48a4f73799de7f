//! Global build arguments: the predefined ones and those above the first `FROM`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use buildkit_llb::{EnvList, Platform};

use crate::Dockerfile;
use crate::error::{Error, Result};
use crate::expand::Names;
use crate::instructions::Kind;
use crate::parser::Lines;

use super::expansion::Lexers;

/// Global arguments with their values, as `FROM` and value-less `ARG`s of stages see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct GlobalArgs {
    /// Values in the order they were set.
    pub(crate) env: EnvList,
    /// What was declared above the first `FROM`, with or without a value.
    pub(crate) declared: Arc<BTreeMap<String, Declared>>,
}

/// A declared build argument.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) description: Option<String>,
    pub(crate) value: String,
    pub(crate) lines: Lines,
    /// Arguments its default used.
    pub(crate) uses: BTreeSet<String>,
}

impl GlobalArgs {
    /// Whether `FROM` may use `name` without a lint.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.env.value(name).is_some() || self.declared.contains_key(name)
    }

    /// Names that may have been meant where an unknown one is used.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.env.iter().map(|(k, _)| k).chain(self.declared.keys().map(String::as_str))
    }
}

/// The arguments every Dockerfile has.
pub(crate) fn predefined(
    build: &Platform,
    target: &Platform,
    stage: &str,
    build_args: &BTreeMap<String, String>,
) -> EnvList {
    let plain = Platform { os_version: "".into(), os_features: Vec::new(), ..build.clone() };
    let stage = if stage.is_empty() { "default" } else { stage };
    let values = [
        ("BUILDPLATFORM", plain.to_string()),
        ("BUILDOS", build.os.to_string()),
        ("BUILDOSVERSION", build.os_version.to_string()),
        ("BUILDARCH", build.architecture.to_string()),
        ("BUILDVARIANT", build.variant.to_string()),
        ("TARGETPLATFORM", target.format_all()),
        ("TARGETOS", target.os.to_string()),
        ("TARGETOSVERSION", target.os_version.to_string()),
        ("TARGETARCH", target.architecture.to_string()),
        ("TARGETVARIANT", target.variant.to_string()),
        ("TARGETSTAGE", stage.to_owned()),
    ];
    let mut env = EnvList::new();
    for (name, value) in values {
        env.set(name, build_args.get(name).unwrap_or(&value));
    }
    env
}

/// Evaluates the `ARG`s above the first `FROM` on top of the predefined ones.
pub(crate) fn evaluate(
    file: &Dockerfile,
    predefined: &EnvList,
    build_args: &BTreeMap<String, String>,
    lexers: &Lexers,
) -> Result<GlobalArgs> {
    let mut env = predefined.clone();
    let mut declared: BTreeMap<String, Declared> = BTreeMap::new();
    for instruction in &file.args {
        let Kind::Arg(arg) = &instruction.kind else { continue };
        for arg in &arg.args {
            let mut uses = BTreeSet::new();
            let value = match (build_args.get(&arg.name), &arg.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let mut names = Names::default();
                    let value = lexers
                        .word
                        .word(default, &env, &mut names)
                        .map_err(|e| Error::from(e).at(instruction.lines))?
                        .into_owned();
                    uses = names.matched;
                    // `ARG X=${X}-y` still depends on what the X above it depended on.
                    if uses.contains(&arg.name)
                        && let Some(before) = declared.get(&arg.name)
                    {
                        uses.extend(before.uses.iter().cloned());
                    }
                    Some(value)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                env.set(&arg.name, value);
            }
            let info = Declared {
                description: instruction.describe(&arg.name).map(str::to_owned),
                value: value.unwrap_or_default(),
                lines: instruction.lines,
                uses,
            };
            declared.insert(arg.name.clone(), info);
        }
    }
    Ok(GlobalArgs { env, declared: Arc::new(declared) })
}
