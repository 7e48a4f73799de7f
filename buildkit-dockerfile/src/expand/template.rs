//! The replacement of `${name//pattern/replacement}`, which BuildKit reads as a template: `$0` is what
//! matched, other `$name` and `${name}` are empty, `$$` is a dollar sign.

/// Calls `put` with the parts of `template` for one match of `matched`.
pub(super) fn fill<'t, E>(
    template: &'t str,
    matched: &'t str,
    mut put: impl FnMut(&'t str) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        put(before)?;
        rest = after;
        if let Some(after) = after.strip_prefix('$') {
            put("$")?;
            rest = after;
        } else if let Some((name, after)) = name(after) {
            if name == "0" {
                put(matched)?;
            }
            rest = after;
        } else {
            put("$")?;
        }
    }
    put(rest)
}

/// The name after a dollar sign, and what follows.
fn name(text: &str) -> Option<(&str, &str)> {
    let (inner, braced) = match text.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let len = inner.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(inner.len());
    let (name, after) = inner.split_at_checked(len).filter(|(name, _)| !name.is_empty())?;
    Some((name, if braced { after.strip_prefix('}')? } else { after }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn templates_are_filled() {
        for (template, want) in [
            ("x", "x"),
            ("$0-${0}", "m-m"),
            ("$1$x${y}|$$|$", "|$|$"),
            ("$0x|${0", "|${0"),
            ("${} $-", "${} $-"),
            ("$00", ""),
        ] {
            let mut out = String::new();
            let done: Result<(), ()> = super::fill(template, "m", |part| {
                out.push_str(part);
                Ok(())
            });
            assert_eq!((done, out.as_str()), (Ok(()), want), "{template}");
        }
    }
}
