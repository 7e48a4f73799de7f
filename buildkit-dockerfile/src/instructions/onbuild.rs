//! ONBUILD.

use super::fail;
use super::parse::Request;
use crate::Result;
use crate::parser::Args;

/// The text of the trigger, its heredocs included.
pub(super) fn parse(request: &Request) -> Result<String> {
    request.not_empty()?;
    request.no_flags()?;
    let Args::Trigger(trigger) = &request.args else { return Ok(String::new()) };
    let keyword = trigger.keyword.to_uppercase();
    if matches!(keyword.as_str(), "ONBUILD" | "MAINTAINER" | "FROM") {
        return Err(fail(format!("{keyword} cannot be the trigger of an ONBUILD")));
    }
    let blanks = ['\t', '\n', '\u{c}', '\r', ' '];
    // Behind any other white space the keyword stays in the trigger, as it does in the reference.
    let mut text = match request.text.trim_start_matches(blanks).split_at_checked("ONBUILD".len()) {
        Some((keyword, rest)) if keyword.eq_ignore_ascii_case("ONBUILD") => {
            rest.trim_start_matches(blanks).to_owned()
        }
        _ => request.text.clone(),
    };
    for heredoc in &request.heredocs {
        text.push('\n');
        text.push_str(&heredoc.raw());
        text.push_str(&heredoc.name);
    }
    Ok(text)
}
