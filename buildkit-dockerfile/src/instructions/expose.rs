//! EXPOSE.

use super::parse::Request;
use crate::Result;

pub(super) fn parse(request: Request) -> Result<Vec<String>> {
    request.not_empty()?;
    request.no_flags()?;
    let (mut ports, _) = Request::words(request.args);
    ports.sort_unstable();
    Ok(ports)
}
