//! Patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/…}`.
//!
//! `*` is any run without a line end, `?` one character but a line end; all else stands for itself. A
//! pattern is cut at its stars into pieces without stars. Matching takes each piece at its first place after
//! the one before, and the last piece at its first or last place; going back is never needed: a gap cannot
//! cross a line end, so a later place of one piece never helps the next.

use super::Reason;

/// A pattern, cut at its stars.
#[derive(Debug)]
pub(super) struct Pattern {
    /// At least one.
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    /// `None` is a question mark.
    Chars(Vec<Option<char>>),
}

/// How many steps matching may still take.
#[derive(Debug)]
pub(super) struct Steps(pub(super) usize);

impl Steps {
    fn take(&mut self, steps: usize) -> Result<(), Reason> {
        self.0 = self.0.checked_sub(steps).ok_or(Reason::TooCostly)?;
        Ok(())
    }
}

impl Pattern {
    /// Reads a pattern. `\*`, `\?` and `\\` stand for the character; so do `\}` and `\/`.
    pub(super) fn new(source: &str) -> Result<Self, Reason> {
        let bad = |escape| Reason::Pattern { pattern: source.to_owned(), escape };
        let mut pieces = vec![Piece::Text(String::new())];
        let mut chars = source.strip_prefix('\u{feff}').unwrap_or(source).chars().peekable();
        while let Some(c) = chars.next() {
            let one = match c {
                '*' => {
                    pieces.push(Piece::Text(String::new()));
                    continue;
                }
                '?' => None,
                '\\' => match chars.peek() {
                    // The brace or slash itself is the next character.
                    Some('}' | '/') => continue,
                    Some('*' | '?' | '\\') => chars.next(),
                    other => return Err(bad(other.copied())),
                },
                c => Some(c),
            };
            if let Some(last) = pieces.last_mut() {
                last.push(one);
            }
        }
        Ok(Self { pieces })
    }

    /// Where the match that starts at the start of `value` ends.
    pub(super) fn prefix(
        &self,
        value: &str,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<Option<usize>, Reason> {
        match self.pieces.first().map(|p| p.at_start(value, steps)).transpose()?.flatten() {
            Some(end) => self.finish(value, end, longest, steps).map(Result::ok),
            None => Ok(None),
        }
    }

    /// The first and longest match in `value` at or after `from`.
    pub(super) fn find(
        &self,
        value: &str,
        mut from: usize,
        steps: &mut Steps,
    ) -> Result<Option<(usize, usize)>, Reason> {
        let Some(first) = self.pieces.first() else { return Ok(None) };
        while let Some((start, end)) = first.find(value, from, value.len(), steps)? {
            match self.finish(value, end, true, steps)? {
                Ok(end) => return Ok(Some((start, end))),
                // Whatever else leads into this line fails in the same way.
                Err(line_end) => {
                    let past = match first.has_line_end() {
                        None => line_end,
                        Some(true) => line_end.saturating_sub(end - start),
                        Some(false) => start,
                    };
                    from = next_start(value, start, past);
                }
            }
        }
        Ok(None)
    }

    /// Goes on after the first piece, which ended at `at`. Gives the end of the match, or else the end of
    /// the line that the first gap cannot leave.
    fn finish(
        &self,
        value: &str,
        mut at: usize,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<Result<usize, usize>, Reason> {
        let rest = self.pieces.get(1..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Ok(at));
        }
        let first_line_end = line_end(value, at, steps)?;
        let mut end_of_line = first_line_end;
        for (n, piece) in rest.iter().enumerate() {
            if at > end_of_line {
                end_of_line = line_end(value, at, steps)?;
            }
            let found = if longest && n + 1 == rest.len() {
                piece.find_last(value, at, end_of_line, steps)?
            } else {
                piece.find(value, at, end_of_line, steps)?.map(|(_, end)| end)
            };
            match found {
                Some(end) => at = end,
                None => return Ok(Err(first_line_end)),
            }
        }
        Ok(Ok(at))
    }
}

/// The first character boundary after `start`, and after `past` as well.
fn next_start(value: &str, start: usize, past: usize) -> usize {
    let mut next = start.max(past) + 1;
    while next < value.len() && !value.is_char_boundary(next) {
        next += 1;
    }
    next
}

/// The end of the line that `at` is in.
fn line_end(value: &str, at: usize, steps: &mut Steps) -> Result<usize, Reason> {
    let end = value.get(at..).and_then(|rest| rest.find('\n')).map_or(value.len(), |n| at + n);
    steps.take(end - at)?;
    Ok(end)
}

impl Piece {
    fn push(&mut self, one: Option<char>) {
        match (&mut *self, one) {
            (Piece::Text(text), Some(c)) => text.push(c),
            (Piece::Chars(chars), one) => chars.push(one),
            (Piece::Text(text), None) => {
                *self = Piece::Chars(text.chars().map(Some).chain([None]).collect());
            }
        }
    }

    /// Whether it holds a line end; if so, whether all its places have the same length.
    fn has_line_end(&self) -> Option<bool> {
        match self {
            Piece::Text(text) => text.contains('\n').then_some(true),
            Piece::Chars(chars) => chars.contains(&Some('\n')).then_some(false),
        }
    }

    /// Where the piece ends if `value` starts with it.
    fn at_start(&self, value: &str, steps: &mut Steps) -> Result<Option<usize>, Reason> {
        match self {
            Piece::Text(text) => Ok(value.starts_with(text.as_str()).then_some(text.len())),
            Piece::Chars(wanted) => {
                let mut chars = value.chars();
                for (n, want) in wanted.iter().enumerate() {
                    let fits = match (chars.next(), want) {
                        (Some(c), Some(want)) => c == *want,
                        (Some(c), None) => c != '\n',
                        (None, _) => false,
                    };
                    if !fits {
                        steps.take(n + 1)?;
                        return Ok(None);
                    }
                }
                steps.take(wanted.len())?;
                Ok(Some(value.len() - chars.as_str().len()))
            }
        }
    }

    /// The first place that starts at or after `from` and at or before `until`.
    fn find(
        &self,
        value: &str,
        from: usize,
        until: usize,
        steps: &mut Steps,
    ) -> Result<Option<(usize, usize)>, Reason> {
        match self {
            Piece::Text(text) => {
                let Some(rest) = value.get(from..end_of_places(value, until, text)) else { return Ok(None) };
                let found = rest.find(text.as_str());
                steps.take(found.unwrap_or(rest.len()) + text.len())?;
                Ok(found.map(|n| (from + n, from + n + text.len())))
            }
            Piece::Chars(_) => {
                let Some(region) = value.get(from..until) else { return Ok(None) };
                for start in boundaries(region) {
                    let here = value.get(from + start..).unwrap_or_default();
                    if let Some(len) = self.at_start(here, steps)? {
                        return Ok(Some((from + start, from + start + len)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The end of the last place that starts at or after `from` and at or before `until`.
    fn find_last(
        &self,
        value: &str,
        from: usize,
        until: usize,
        steps: &mut Steps,
    ) -> Result<Option<usize>, Reason> {
        match self {
            Piece::Text(text) => {
                let region = value.get(from..end_of_places(value, until, text)).unwrap_or_default();
                steps.take(region.len() + text.len())?;
                Ok(region.rfind(text.as_str()).map(|n| from + n + text.len()))
            }
            Piece::Chars(_) => {
                let region = value.get(from..until).unwrap_or_default();
                for start in boundaries(region).rev() {
                    let here = value.get(from + start..).unwrap_or_default();
                    if let Some(len) = self.at_start(here, steps)? {
                        return Ok(Some(from + start + len));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Where a place of `text` that starts at or before `until` ends at the latest.
fn end_of_places(value: &str, until: usize, text: &str) -> usize {
    let end = until.saturating_add(text.len()).min(value.len());
    // Rounding down loses nothing: a place ends between characters.
    (0..=end).rev().find(|&n| value.is_char_boundary(n)).unwrap_or(0)
}

/// All places between characters, both ends included.
fn boundaries(text: &str) -> impl DoubleEndedIterator<Item = usize> {
    text.char_indices().map(|(n, _)| n).chain([text.len()])
}

/// `pattern` from back to front, so that a suffix becomes a prefix; a pair of an escape and its character
/// keeps its order.
pub(super) fn reversed_pattern(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut len = c.len_utf8();
        if c == '\\' {
            len += rest.get(len..).and_then(|r| r.chars().next()).map_or(0, char::len_utf8);
        }
        let (part, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
        parts.push(part);
        rest = after;
    }
    parts.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Steps, reversed_pattern};

    fn steps() -> Steps {
        Steps(1 << 23)
    }

    fn find(pattern: &str, value: &str) -> Option<(usize, usize)> {
        Pattern::new(pattern).unwrap().find(value, 0, &mut steps()).unwrap()
    }

    fn prefix(pattern: &str, value: &str, longest: bool) -> Option<usize> {
        Pattern::new(pattern).unwrap().prefix(value, longest, &mut steps()).unwrap()
    }

    #[test]
    fn the_first_and_longest_match_is_found() {
        for (pattern, value, want) in [
            ("", "abc", Some((0, 0))),
            ("b", "abc", Some((1, 2))),
            ("?", "é", Some((0, 2))),
            ("?", "\nx", Some((1, 2))),
            ("b*", "abc\nd", Some((1, 3))),
            ("*", "ab\nc", Some((0, 2))),
            ("a*b", "xaab.b a\nb", Some((1, 6))),
            ("a*b", "a\nb ab", Some((4, 6))),
            ("a*b*c", "ab\nabb\nac bc", Some((7, 12))),
            ("a*\n*c", "a1\n2\na3\n4c", Some((5, 10))),
            ("a*?c", "ac acc", Some((0, 6))),
            ("a*?c", "ac", None),
            ("é*ü", "xéaüü", Some((1, 8))),
            ("[a]", "a[a]", Some((1, 4))),
            (r"\*\?\\\}\/", r"*?\}/", Some((0, 5))),
            ("a*\n", "ab\n\n", Some((0, 3))),
            ("aa", "a", None),
        ] {
            assert_eq!(find(pattern, value), want, "{pattern:?} in {value:?}");
        }
    }

    #[test]
    fn prefixes_are_shortest_or_longest() {
        for (pattern, value, short, long) in [
            ("*/", "/a/b", Some(1), Some(3)),
            ("a*c*", "abcbc", Some(3), Some(5)),
            ("b", "ab", None, None),
            ("?b", "ab", Some(2), Some(2)),
            ("*", "ab\nc", Some(0), Some(2)),
            ("", "ab", Some(0), Some(0)),
        ] {
            assert_eq!(
                (prefix(pattern, value, false), prefix(pattern, value, true)),
                (short, long),
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn bad_escapes_are_errors() {
        for pattern in [r"\a", r"a\", r"\é"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn patterns_are_reversed_without_their_escapes() {
        assert_eq!(reversed_pattern(r"a\*cé"), r"éc\*a");
        assert_eq!(reversed_pattern(r"a\"), r"\a");
    }

    #[test]
    fn hostile_patterns_end() {
        let value = "a".repeat(1 << 20);
        let stars = "a*".repeat(1000) + "b";
        assert_eq!(find(&stars, &value), None);
        let half = "a".repeat(1 << 19) + "b";
        assert_eq!(find(&half, &value), None);
        let lines = "a\n".repeat(1 << 19);
        let pattern = "a*\n".repeat(1 << 18) + "b";
        let found = Pattern::new(&pattern).unwrap().find(&lines, 0, &mut steps());
        assert!(!matches!(found, Ok(Some(_))));
        let questions = "?".repeat(1 << 19) + "b";
        assert!(Pattern::new(&questions).unwrap().find(&value, 0, &mut steps()).is_err());
    }

    /// Tries every way, to compare with.
    fn slow(pattern: &[char], value: &[char]) -> Vec<usize> {
        match pattern.split_first() {
            None => vec![0],
            Some(('*', rest)) => {
                let mut ends = Vec::new();
                for n in 0..=value.len() {
                    ends.extend(slow(rest, &value[n..]).into_iter().map(|e| e + n));
                    if value.get(n) == Some(&'\n') {
                        break;
                    }
                }
                ends
            }
            Some((p, rest)) => match value.split_first() {
                Some((c, after)) if (*p == '?' && *c != '\n') || p == c => {
                    slow(rest, after).into_iter().map(|e| e + 1).collect()
                }
                _ => Vec::new(),
            },
        }
    }

    proptest::proptest! {
        #[test]
        fn matches_are_those_of_a_slow_matcher(pattern in "[ab*?\n]{0,7}", value in "[abé\n]{0,10}") {
            let (p, v): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
            let at = |start: usize| slow(&p, &v[start..]).into_iter().map(|e| start + e).max();
            let bytes = |n: usize| v[..n].iter().map(|c| c.len_utf8()).sum::<usize>();
            let want = (0..=v.len()).find_map(|start| at(start).map(|end| (bytes(start), bytes(end))));
            proptest::prop_assert_eq!(find(&pattern, &value), want);
            proptest::prop_assert_eq!(prefix(&pattern, &value, true), slow(&p, &v).into_iter().max().map(bytes));
            proptest::prop_assert_eq!(prefix(&pattern, &value, false), slow(&p, &v).into_iter().min().map(bytes));
        }
    }
}
