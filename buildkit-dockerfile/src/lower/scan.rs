//! What an SBOM scanner is to look at besides the result.

use std::collections::BTreeMap;

use crate::instructions::parse_bool;

use super::args::GlobalArgs;
use super::evaluate::{SCAN_CONTEXT, SCAN_STAGE};
use super::graph::Plan;
use super::stage::Stage;
use super::step::StageId;

/// What to scan.
#[derive(Debug, Default)]
pub(crate) struct ScanTargets {
    /// The main build context.
    pub(crate) context: bool,
    /// Stages, by name; the last one of a name counts.
    pub(crate) stages: BTreeMap<String, StageId>,
    /// A scanned stage is built without cache.
    pub(crate) ignore_cache: bool,
}

/// Reads the arguments that ask for scans.
pub(crate) fn targets(plan: &Plan<'_>, reachable: &[bool], globals: &GlobalArgs) -> ScanTargets {
    let mut targets = ScanTargets::default();
    let Some(target) = plan.stages.get(plan.target) else { return targets };
    targets.context = enabled(target, SCAN_CONTEXT, globals);
    targets.ignore_cache = target.ignore_cache;
    for (id, stage) in plan.stages.iter().enumerate() {
        let needed = reachable.get(id).copied().unwrap_or_default();
        if id != plan.target && needed && enabled(stage, SCAN_STAGE, globals) {
            targets.stages.insert(stage.name.clone(), id);
            targets.ignore_cache |= stage.ignore_cache;
        }
    }
    targets
}

fn enabled(stage: &Stage<'_>, name: &str, globals: &GlobalArgs) -> bool {
    if !stage.evaluated {
        return false;
    }
    let own = stage.build_args.iter().rev().filter(|(n, _)| n == name).find_map(|(_, v)| v.as_deref());
    let global = || globals.declared.contains_key(name).then(|| globals.env.value(name)).flatten();
    let Some(value) = own.or_else(global) else { return false };
    match parse_bool(value) {
        Some(on) => on,
        None => value.split(',').any(|n| n == stage.name),
    }
}
