//! ENV and LABEL.

use super::fail;
use super::parse::Request;
use crate::Result;
use crate::parser::{Args, Pair};

pub(super) fn parse(request: Request) -> Result<Vec<Pair>> {
    request.no_flags()?;
    request.not_empty()?;
    let Args::Pairs(pairs) = request.args else { return Ok(Vec::new()) };
    if pairs.iter().any(|pair| pair.key.is_empty()) {
        return Err(fail(format!("{} has a value without a name", request.keyword)));
    }
    Ok(pairs)
}
