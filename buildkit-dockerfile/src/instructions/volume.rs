//! VOLUME.

use super::fail;
use super::parse::Request;
use crate::Result;

pub(super) fn parse(request: Request) -> Result<Vec<String>> {
    request.not_empty()?;
    request.no_flags()?;
    let (mut paths, _) = Request::words(request.args);
    for path in &mut paths {
        let trimmed = path.trim();
        if trimmed.is_empty() {
            return Err(fail("VOLUME has an empty path".to_owned()));
        }
        if trimmed.len() < path.len() {
            *path = trimmed.to_owned();
        }
    }
    Ok(paths)
}
