//! One line of comma separated values, as `--mount` and `--device` have.

use super::fail;
use crate::Result;
use crate::parser::Parser;

/// The fields of `line`, which may end with a line break. A field in quotes may hold commas, and quotes written twice.
///
/// # Errors
///
/// An empty line, line break or not; quotes inside a field without quotes; text behind a closing quote, or none at all.
pub(crate) fn fields(line: &str) -> Result<Vec<String>> {
    let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(fail("the value is empty".to_owned()));
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if fields.len() == Parser::MAX_WORDS {
            return Err(fail(format!("the value has more than {} fields", Parser::MAX_WORDS)));
        }
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted).ok_or_else(|| {
                fail(format!("a quoted field of {line:?} does not end with a quote and a comma"))
            })?;
            fields.push(field);
            after
        } else {
            let len = rest.find(',').unwrap_or(rest.len());
            let (field, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
            if field.contains('"') {
                return Err(fail(format!("the field {field:?} has a quote inside; quote the whole field")));
            }
            fields.push(field.to_owned());
            after
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The field that starts behind an opening quote, and what follows its closing one: a comma or nothing.
fn quoted_field(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"')?;
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return (after.is_empty() || after.starts_with(',')).then_some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn fields_are_split() {
        for (line, want) in [
            ("a", Some(&["a"][..])),
            ("a,,b=c", Some(&["a", "", "b=c"])),
            ("a,", Some(&["a", ""])),
            ("\"a,b\",c", Some(&["a,b", "c"])),
            ("\"a\"\"b\"", Some(&["a\"b"])),
            ("\"\"", Some(&[""])),
            ("a,b\n", Some(&["a", "b"])),
            ("\"a\"\r\n", Some(&["a"])),
            ("a\r", Some(&["a\r"])),
            ("", None),
            ("\n", None),
            ("a\"b", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("a,\"", None),
        ] {
            let got = fields(line).ok();
            assert_eq!(
                got.as_deref(),
                want.map(|w| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{line}"
            );
        }
    }
}
