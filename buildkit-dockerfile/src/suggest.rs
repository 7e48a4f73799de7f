//! "Did you mean …": the closest of some candidates.

/// The candidate nearest to `word`, if it is near enough to be a slip of the finger: less than three letters
/// to insert, delete or change. The first of equally near ones wins. None if `word` is a candidate itself.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const NEAR: usize = 3;
    let mut best = None;
    let mut best_distance = NEAR;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        let distance = distance(word, candidate, best_distance);
        if distance < best_distance {
            (best, best_distance) = (Some(candidate), distance);
        }
    }
    best
}

/// How many characters must be inserted, deleted or changed to make `b` of `a`; `enough` if it is that much
/// or more.
fn distance(a: &str, b: &str, enough: usize) -> usize {
    let b: Vec<char> = b.chars().take(a.len() + enough).collect();
    // Words whose lengths differ by more cannot be near, however long they are.
    if a.chars().count().abs_diff(b.len()) >= enough {
        return enough;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        let mut least = left;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let cost = (corner + usize::from(ca != *cb)).min(*cell + 1).min(left + 1);
            corner = *cell;
            *cell = cost;
            left = cost;
            least = least.min(cost);
        }
        if least >= enough {
            return enough;
        }
    }
    row.last().copied().unwrap_or(enough).min(enough)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_found() {
        for (word, want) in [
            ("form", Some("from")),
            ("chmd", Some("chmod")),
            ("xyz", None),
            ("from", None),
            ("", None),
            ("paretns", Some("parents")),
        ] {
            assert_eq!(nearest(word, ["chown", "chmod", "from", "parents"]), want, "{word}");
        }
        assert_eq!(nearest("ab", ["ax", "ay"]), Some("ax"));
        let long = "a".repeat(1 << 20);
        assert_eq!(nearest(&long, ["b", "aaaa"]), None);
    }
}
