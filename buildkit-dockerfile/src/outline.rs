//! What a Dockerfile offers: its targets, and what one of them takes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Dockerfile;
use crate::lower::args::Declared;
use crate::lower::convert::Evaluated;
use crate::lower::step::StageId;
use crate::parser::Lines;

/// What building one target takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outline {
    /// Name of the target; empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The comment above the target.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Build arguments, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Secrets, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineSecret>,
    /// SSH agents, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineSecret>,
}

/// A build argument a target takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The comment above its declaration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The value it has in this build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where it is declared.
    pub location: Location,
}

/// A secret or SSH agent a target takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlineSecret {
    /// Its id; `default` for an agent without one.
    pub name: String,
    /// Whether the build fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Where it is used.
    pub location: Location,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// Its name; empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Built when no target is chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The comment above it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it starts from, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// `--platform`, as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Where it begins.
    pub location: Location,
}

/// A place in the Dockerfile, as results of subrequests write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Location {
    /// One range a line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<LineRange>,
}

/// Lines, the last one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LineRange {
    /// First line.
    pub start: Position,
    /// Last line.
    pub end: Position,
}

/// A line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl From<Lines> for Location {
    fn from(lines: Lines) -> Self {
        Self {
            ranges: lines
                .iter()
                .map(|n| LineRange { start: Position { line: n }, end: Position { line: n } })
                .collect(),
        }
    }
}

impl Location {
    fn first(&self) -> u32 {
        self.ranges.first().map_or(0, |r| r.start.line)
    }
}

impl Dockerfile {
    /// The stages that can be built, in order.
    pub fn targets(&self) -> Vec<Target> {
        let last = self.stages.len().saturating_sub(1);
        self.stages
            .iter()
            .enumerate()
            .map(|(index, stage)| Target {
                name: stage.name.clone().unwrap_or_default(),
                default: index == last,
                description: stage.describe().unwrap_or_default().to_owned(),
                base: stage.base.clone(),
                platform: stage.platform.clone().unwrap_or_default(),
                location: stage.lines.into(),
            })
            .collect()
    }
}

/// Collects the outline of the target of an evaluated Dockerfile.
pub(crate) fn outline(evaluated: &Evaluated<'_>) -> Outline {
    let plan = &evaluated.plan;
    let mut args: BTreeMap<&str, &Declared> = BTreeMap::new();
    let mut secrets: BTreeMap<&str, (Lines, bool)> = BTreeMap::new();
    let mut ssh: BTreeMap<&str, (Lines, bool)> = BTreeMap::new();
    let mut seen: BTreeSet<StageId> = BTreeSet::new();
    let mut open = vec![plan.target];
    while let Some(id) = open.pop() {
        let Some(stage) = plan.stages.get(id) else { continue };
        if !seen.insert(id) {
            continue;
        }
        let declared =
            |name: &str| stage.outline.args.get(name).or_else(|| evaluated.globals.declared.get(name));
        let mut used: BTreeSet<&str> = BTreeSet::new();
        let mut names: Vec<&str> = stage.outline.used_args.iter().map(String::as_str).collect();
        while let Some(name) = names.pop() {
            if used.insert(name)
                && let Some(info) = declared(name)
            {
                names.extend(info.uses.iter().map(String::as_str));
                args.entry(name_of(name, stage, evaluated)).or_insert(info);
            }
        }
        for (name, info) in &stage.outline.secrets {
            secrets.entry(name).or_insert(*info);
        }
        for (name, info) in &stage.outline.ssh {
            ssh.entry(name).or_insert(*info);
        }
        open.extend(stage.deps.iter().rev().map(|(dep, _)| *dep));
        open.extend(stage.base);
    }
    let target = plan.stages.get(plan.target).and_then(|s| s.written);
    let mut args: Vec<OutlineArg> = args
        .into_iter()
        .map(|(name, info)| OutlineArg {
            name: name.to_owned(),
            description: info.description.clone().unwrap_or_default(),
            value: info.value.clone(),
            location: info.lines.into(),
        })
        .collect();
    args.sort_by_key(|a| a.location.first());
    let list = |map: BTreeMap<&str, (Lines, bool)>| {
        let mut list: Vec<OutlineSecret> = map
            .into_iter()
            .map(|(name, (lines, required))| OutlineSecret {
                name: name.to_owned(),
                required,
                location: lines.into(),
            })
            .collect();
        list.sort_by_key(|s| s.location.first());
        list
    };
    Outline {
        name: target.and_then(|s| s.name.clone()).unwrap_or_default(),
        description: target.and_then(|s| s.describe()).unwrap_or_default().to_owned(),
        args,
        secrets: list(secrets),
        ssh: list(ssh),
    }
}

/// The name as it is kept where it is declared, which lives as long as the evaluation.
fn name_of<'e>(
    name: &str,
    stage: &'e crate::lower::stage::Stage<'_>,
    evaluated: &'e Evaluated<'_>,
) -> &'e str {
    stage
        .outline
        .args
        .get_key_value(name)
        .or_else(|| evaluated.globals.declared.get_key_value(name))
        .map_or("", |(k, _)| k)
}

/// Columns of text: every cell but the last of a row is padded to the width of its column.
pub(crate) fn table(rows: &[Vec<String>], padding: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                let width = widths.get(column).copied().unwrap_or(0) + padding;
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

impl Outline {
    /// The outline as text for people.
    pub fn to_text(&self) -> String {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut out = String::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            let mut rows =
                vec![row(&["TARGET:", if self.name.is_empty() { "(default)" } else { &self.name }])];
            if !self.description.is_empty() {
                rows.push(row(&["DESCRIPTION:", &self.description]));
            }
            out.push_str(&table(&rows, 1));
            out.push('\n');
        }
        if !self.args.is_empty() {
            let mut rows = vec![row(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
            rows.extend(self.args.iter().map(|a| row(&[&a.name, &a.value, &a.description])));
            out.push_str(&table(&rows, 3));
            out.push('\n');
        }
        for (title, list) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if !list.is_empty() {
                let mut rows = vec![row(&[title, "REQUIRED"])];
                rows.extend(list.iter().map(|s| row(&[&s.name, if s.required { "true" } else { "" }])));
                out.push_str(&table(&rows, 3));
                out.push('\n');
            }
        }
        out
    }
}
