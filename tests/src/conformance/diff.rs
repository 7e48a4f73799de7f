//! Two texts, line by line.

use std::fmt::Write as _;

/// How many equal lines are shown around a difference.
const AROUND: usize = 3;
/// Beyond this many cells the middle is shown as one replacement.
const MOST_CELLS: usize = 40_000_000;

/// The lines of both texts: `-` only in the first, `+` only in the second, runs of equal lines cut short.
pub(crate) fn lines(first: &str, second: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (a_rest, b_rest) = (&a[head..], &b[head..]);
    let tail = a_rest.iter().rev().zip(b_rest.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a_mid, b_mid) = (&a_rest[..a_rest.len() - tail], &b_rest[..b_rest.len() - tail]);

    let mut script: Vec<(char, &str)> = a[..head].iter().map(|line| (' ', *line)).collect();
    middle(a_mid, b_mid, &mut script);
    script.extend(a_rest[a_rest.len() - tail..].iter().map(|line| (' ', *line)));

    let near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        let to = (at + AROUND + 1).min(script.len());
        script[from..to].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut out = String::new();
    let mut cut = false;
    for (at, (mark, line)) in script.iter().enumerate() {
        if near(at) {
            let _ = writeln!(out, "{mark} {line}");
            cut = false;
        } else if !cut {
            out.push_str("  …\n");
            cut = true;
        }
    }
    out
}

/// Longest common subsequence, the plain way.
fn middle<'a>(a: &[&'a str], b: &[&'a str], script: &mut Vec<(char, &'a str)>) {
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > MOST_CELLS {
        script.extend(a.iter().map(|line| ('-', *line)));
        script.extend(b.iter().map(|line| ('+', *line)));
        return;
    }
    let mut common = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            script.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            script.push(('-', a[i]));
            i += 1;
        } else {
            script.push(('+', b[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_marked_and_the_rest_is_cut() {
        let text = |change: &str| -> String {
            (0..20)
                .flat_map(|i| [if i == 10 { change.to_owned() } else { i.to_string() }, "\n".to_owned()])
                .collect()
        };
        let (first, second) = (text("x"), text("y"));
        assert_eq!(lines(&first, &second), "  …\n  7\n  8\n  9\n- x\n+ y\n  11\n  12\n  13\n  …\n");
        assert_eq!(lines("a\nb\nc", "a\nc\nd"), "  a\n- b\n  c\n+ d\n");
    }
}
