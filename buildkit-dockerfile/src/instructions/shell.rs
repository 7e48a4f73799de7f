//! SHELL.

use super::fail;
use super::parse::Request;
use crate::Result;

pub(super) fn parse(request: Request) -> Result<Vec<String>> {
    request.no_flags()?;
    request.not_empty()?;
    match Request::words(request.args) {
        (words, true) => Ok(words),
        _ => Err(fail(r#"SHELL takes a JSON array: SHELL ["/bin/bash", "-c"]"#.to_owned())),
    }
}
