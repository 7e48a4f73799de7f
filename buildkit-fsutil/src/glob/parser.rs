//! Reads the regular expressions that patterns become.

use super::{Classes, Count, Item, State, number};

/// The most times an item may be repeated.
const MAX_COUNT: u32 = 1000;

/// Reads an expression whole. `copies` is how many states repetitions may still make.
pub(super) fn parse(expression: &str, copies: &mut usize) -> Option<(Vec<State>, Classes)> {
    Parser { rest: expression, states: Vec::new(), classes: Classes::default(), copies }.parse()
}

struct Parser<'a> {
    rest: &'a str,
    states: Vec<State>,
    classes: Classes,
    copies: &'a mut usize,
}

impl Parser<'_> {
    fn parse(mut self) -> Option<(Vec<State>, Classes)> {
        // Where the newest alternative begins, and the first state that belongs to it.
        let mut fork = self.rest.contains('|').then(|| self.fork());
        let mut start = self.states.len();
        let mut last_was_count = false;
        while let Some(c) = self.bump() {
            let after_count = std::mem::take(&mut last_was_count);
            let item = match c {
                '{' => {
                    let Some((low, high)) = self.counts() else {
                        self.push(Item::Char('{'));
                        continue;
                    };
                    if after_count || self.states.len() == start {
                        return None;
                    }
                    self.repeat(low, high)?;
                    last_was_count = true;
                    continue;
                }
                '|' => {
                    self.push(Item::Match);
                    let next = self.fork();
                    if let Some(State { item: Item::Fork(target), .. }) =
                        fork.replace(next).and_then(|before| self.states.get_mut(before))
                    {
                        *target = number(next);
                    }
                    // Only the first alternative is held to the start of the path.
                    self.anything();
                    start = self.states.len();
                    continue;
                }
                '^' => Item::Begin,
                '$' => Item::End,
                '.' => Item::Dot,
                '(' => {
                    self.rest = self.rest.strip_prefix(".*/)?")?;
                    self.push(Item::DirsOpen);
                    last_was_count = true;
                    Item::DirsBody
                }
                '*' => {
                    self.states.last_mut()?.count = Count::Any;
                    last_was_count = true;
                    continue;
                }
                '[' => self.class()?,
                '\\' => {
                    self.outer_escape()?;
                    continue;
                }
                ')' | '?' | '+' => return None,
                other => Item::Char(other),
            };
            self.push(item);
        }
        Some((self.states, self.classes))
    }

    fn push(&mut self, item: Item) {
        self.states.push(State { item, count: Count::One });
    }

    /// Begins an alternative that is, so far, the last one.
    fn fork(&mut self) -> usize {
        let at = self.states.len();
        self.push(Item::Fork(number(at + 1)));
        at
    }

    fn anything(&mut self) {
        let item = self.classes.item(true, Vec::new());
        self.states.push(State { item, count: Count::Any });
    }

    /// The numbers of `2}`, `2,}` or `2,3}`, the `{` being read already; `None`, and nothing read, when it is not one
    /// of these. Without an upper number, there is no limit.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let (inside, rest) = self.rest.split_once('}')?;
        let (low, high) = inside
            .split_once(',')
            .map_or((inside, Some(inside)), |(low, high)| (low, (!high.is_empty()).then_some(high)));
        let number = |text: &str| {
            let plain =
                text.bytes().all(|byte| byte.is_ascii_digit()) && !(text.len() > 1 && text.starts_with('0'));
            // Too large for the type is too large in any case.
            (plain && !text.is_empty()).then(|| text.parse().unwrap_or(u32::MAX))
        };
        let counts = (number(low)?, high.map(number).map_or(Some(None), |high| high.map(Some))?);
        self.rest = rest;
        Some(counts)
    }

    /// Repeats the last state. `None` when it cannot be repeated so often.
    fn repeat(&mut self, low: u32, high: Option<u32>) -> Option<()> {
        let most = high.unwrap_or(low);
        if low > MAX_COUNT || most > MAX_COUNT || most < low {
            return None;
        }
        *self.copies = self.copies.checked_sub(usize::try_from(most).ok()?)?;
        let State { item, .. } = self.states.pop()?;
        if low == 0 && self.states.iter().all(|before| matches!(before.item, Item::Fork(_))) {
            // It was the anchor put before every pattern: a path may as well start before what follows.
            self.anything();
            return Some(());
        }
        for index in 0..most {
            let count = if index < low { Count::One } else { Count::Optional };
            self.states.push(State { item, count });
        }
        if high.is_none() {
            self.states.push(State { item, count: Count::Any });
        }
        Some(())
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    fn eat(&mut self, prefix: &str) -> bool {
        let found = self.rest.strip_prefix(prefix);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Pushes what an escape outside brackets stands for, the `\` being read already.
    fn outer_escape(&mut self) -> Option<()> {
        let item = match self.rest.chars().next()? {
            'A' => Item::Begin,
            'z' => Item::End,
            'b' => Item::WordEdge(true),
            'B' => Item::WordEdge(false),
            'Q' => {
                let text = self.rest.get(1..)?;
                let (quoted, rest) = text.split_once("\\E").unwrap_or((text, ""));
                self.rest = rest;
                for c in quoted.chars() {
                    self.push(Item::Char(c));
                }
                return Some(());
            }
            _ => {
                let mut ranges = Vec::new();
                let item = if self.named_set(&mut ranges) {
                    self.classes.item(false, ranges)
                } else {
                    Item::Char(self.escape()?)
                };
                self.push(item);
                return Some(());
            }
        };
        self.bump();
        self.push(item);
        Some(())
    }

    /// `\d`, `\s`, `\w` and their opposites, the `\` being read already.
    fn named_set(&mut self, ranges: &mut Vec<(char, char)>) -> bool {
        let Some(kind) = self.rest.chars().next() else { return false };
        let Some(set) = (match kind.to_ascii_lowercase() {
            'd' => posix("digit"),
            's' => Some(&[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')] as &[_]),
            'w' => posix("word"),
            _ => None,
        }) else {
            return false;
        };
        self.bump();
        if kind.is_ascii_uppercase() {
            complement(set, ranges);
        } else {
            ranges.extend_from_slice(set);
        }
        true
    }

    /// The character an escape stands for, the `\` being read already.
    fn escape(&mut self) -> Option<char> {
        let c = self.bump()?;
        match c {
            '1'..='7' if !self.rest.starts_with(|next: char| ('0'..='7').contains(&next)) => None,
            '0'..='7' => {
                let mut value = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|next| next.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit;
                    self.bump();
                }
                char::from_u32(value)
            }
            'x' if self.eat("{") => {
                let (digits, rest) = self.rest.split_once('}')?;
                self.rest = rest;
                let mut value = 0_u32;
                for digit in digits.chars() {
                    value = value.checked_mul(16)?.checked_add(digit.to_digit(16)?)?;
                }
                (!digits.is_empty()).then(|| char::from_u32(value))?
            }
            'x' => {
                let high = self.bump()?.to_digit(16)?;
                let low = self.bump()?.to_digit(16)?;
                char::from_u32(high * 16 + low)
            }
            'a' => Some('\u{7}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(other),
            _ => None,
        }
    }

    /// A bracket expression, its `[` being read already.
    fn class(&mut self) -> Option<Item> {
        let (negated, mut ranges) = (self.eat("^"), Vec::new());
        let mut first = true;
        loop {
            if !first && self.eat("]") {
                return Some(self.classes.item(negated, ranges));
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some((name, rest)) = self.rest.get(2..).and_then(|text| text.split_once(":]"))
            {
                let (name, opposite) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                let set = posix(name)?;
                if opposite {
                    complement(set, &mut ranges);
                } else {
                    ranges.extend_from_slice(set);
                }
                self.rest = rest;
                continue;
            }
            if let Some(after) = self.rest.strip_prefix('\\') {
                let whole = std::mem::replace(&mut self.rest, after);
                if self.named_set(&mut ranges) {
                    continue;
                }
                self.rest = whole;
            }
            let low = self.class_char()?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.bump();
                high = self.class_char()?;
            }
            if high < low {
                return None;
            }
            ranges.push((low, high));
        }
    }

    fn class_char(&mut self) -> Option<char> {
        match self.bump()? {
            '\\' => self.escape(),
            c => Some(c),
        }
    }
}

/// Adds everything that is not in `set`, which is in ascending order.
fn complement(set: &[(char, char)], ranges: &mut Vec<(char, char)>) {
    let mut low = '\0';
    for (start, end) in set {
        if low < *start {
            ranges.push((low, char::from_u32(u32::from(*start) - 1).unwrap_or(low)));
        }
        low = char::from_u32(u32::from(*end) + 1).unwrap_or(char::MAX);
    }
    ranges.push((low, char::MAX));
}

fn posix(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}
