//! What lint rules say about a Dockerfile, as JSON and as text.

use std::fmt::Write as _;

use buildkit_proto::pb;
use serde::Serialize;

use crate::error::{Error, excerpt};
use crate::lint::Warning;
use crate::outline::{LineRange, Location, Position};
use crate::parser::Lines;

use super::convertllb::SourceInfo;

/// The answer to `frontend.lint`.
#[derive(Serialize)]
pub(crate) struct Report {
    warnings: Option<Vec<Entry>>,
    sources: [SourceInfo; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    build_error: Option<BuildError>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    rule_name: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
    detail: String,
    location: Location,
    #[serde(skip)]
    lines: Lines,
}

#[derive(Serialize)]
struct BuildError {
    message: String,
    location: Location,
}

impl Report {
    pub(crate) fn new(info: &pb::SourceInfo) -> Self {
        Self { warnings: None, sources: [info.into()], build_error: None }
    }

    pub(crate) fn warnings(&mut self, warnings: &[Warning]) {
        if warnings.is_empty() {
            return;
        }
        self.warnings.get_or_insert_default().extend(warnings.iter().map(|w| Entry {
            rule_name: w.rule.name,
            description: w.rule.description,
            url: w.rule.url(),
            detail: w.message.clone(),
            location: w.lines.into(),
            lines: w.lines,
        }));
    }

    pub(crate) fn error(&mut self, error: &Error) {
        let location = merged(error.locations());
        self.build_error = Some(BuildError { message: error.to_string(), location });
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.warnings.is_none() && self.build_error.is_none()
    }

    /// The warnings with the lines they are about, by line.
    pub(crate) fn to_text(&self, data: &[u8]) -> String {
        const RULER: &str = "--------------------\n";
        let mut entries: Vec<&Entry> = self.warnings.iter().flatten().collect();
        entries.sort_by_key(|e| e.lines.start);
        let filename = self.sources.iter().map(|s| s.filename.as_str()).next().unwrap_or_default();
        let mut out = String::new();
        for entry in entries {
            let _ = write!(out, "\nWARNING: {}", entry.rule_name);
            if !entry.url.is_empty() {
                let _ = write!(out, " - {}", entry.url);
            }
            let _ = write!(out, "\n{}\n{filename}:{}\n", entry.detail, entry.lines.start);
            out.push_str(RULER);
            out.push_str(&excerpt(data, &[entry.lines]));
            out.push_str(RULER);
        }
        out
    }
}

/// All places together, by line, without repetitions.
fn merged(places: &[Lines]) -> Location {
    let mut lines: Vec<u32> = places.iter().flat_map(|l| l.iter()).collect();
    lines.sort_unstable();
    lines.dedup();
    Location {
        ranges: lines
            .into_iter()
            .map(|line| LineRange { start: Position { line }, end: Position { line } })
            .collect(),
    }
}
