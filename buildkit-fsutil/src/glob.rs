//! Patterns with wildcards, matched by stepping a set of states along the path: no backtracking.
//!
//! A pattern is first rewritten as a regular expression, character by character and without regard to brackets, then
//! that expression is read. The detour is what the reference does, and it shows: `[a*]` becomes `[a[^/]*]`, which is
//! any run of `a`, `[`, `^` and `/`, then `]`. `|` and `{2}` reach the expression as they are, so there they are an
//! alternative and a repetition.

mod parser;

use std::collections::BTreeMap;

/// What a pattern needs in order to be matched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Exact,
    Prefix,
    Suffix,
    /// The text of the regular expression.
    Expression(String),
}

/// Finds the cheapest way to match `pattern`.
pub(crate) fn shape(pattern: &str) -> Shape {
    let mut shape = Shape::Exact;
    let mut expression = String::with_capacity(pattern.len() + 8);
    expression.push('^');
    let mut chars = pattern.chars().peekable();
    // The reference's scanner drops a byte order mark, but only where it builds an expression.
    chars.next_if_eq(&'\u{FEFF}');
    let mut first = true;
    let mut wild = false;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                let plain = !wild && shape == Shape::Exact;
                match chars.peek() {
                    None if plain => shape = Shape::Prefix,
                    None => {
                        expression.push_str(".*");
                        wild = true;
                    }
                    Some(_) => {
                        expression.push_str("(.*/)?");
                        wild = true;
                    }
                }
                if first {
                    shape = Shape::Suffix;
                    wild = false;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                wild = true;
            }
            '?' => {
                expression.push_str("[^/]");
                wild = true;
            }
            '.' | '+' | '(' | ')' | '$' => {
                expression.push('\\');
                expression.push(c);
            }
            '\\' => {
                expression.push('\\');
                if let Some(escaped) = chars.next() {
                    expression.push(escaped);
                    wild = true;
                }
            }
            '[' | ']' => {
                expression.push(c);
                wild = true;
            }
            other => expression.push(other),
        }
        first = false;
    }
    if wild {
        expression.push('$');
        return Shape::Expression(expression);
    }
    shape
}

/// Whether the reference takes `pattern` into a list: it tries the pattern on the path `.`, and that goes through the
/// parts between the `*` only as far as they match.
pub(crate) fn is_accepted(pattern: &str) -> bool {
    let mut tail = pattern;
    for before in [".", ""] {
        let (part, rest) = split_at_star(tail.trim_start_matches('*'));
        if !is_well_formed(part) {
            return false;
        }
        if !Glob::of_name(part).is_some_and(|glob| glob.matches(before.as_bytes())) {
            break;
        }
        tail = rest;
    }
    true
}

/// Splits before the first `*` that is a wildcard.
fn split_at_star(pattern: &str) -> (&str, &str) {
    let mut in_brackets = false;
    let mut chars = pattern.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '*' if !in_brackets => return pattern.split_at(at),
            _ => {}
        }
    }
    (pattern, "")
}

/// Whether brackets are closed and non-empty and no `\` ends the pattern.
fn is_well_formed(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => return false,
            '[' => {
                chars.next_if_eq(&'^');
                let mut members = 0_usize;
                loop {
                    if members > 0 && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    if !bracket_member(&mut chars) {
                        return false;
                    }
                    if chars.next_if_eq(&'-').is_some() && !bracket_member(&mut chars) {
                        return false;
                    }
                    members += 1;
                }
            }
            _ => {}
        }
    }
    true
}

fn bracket_member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let ok = match chars.next() {
        None | Some('-' | ']') => false,
        Some('\\') => chars.next().is_some(),
        Some(_) => true,
    };
    ok && chars.peek().is_some()
}

/// The characters of `bytes`; each byte that is not part of one is U+FFFD.
pub(crate) fn chars(bytes: &[u8]) -> impl Iterator<Item = char> {
    bytes.utf8_chunks().flat_map(|chunk| {
        chunk.valid().chars().chain(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len()))
    })
}

/// A compiled expression: a row of states, entered from the left.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    states: Vec<State>,
    /// The sets of characters that states name by their place here.
    classes: Vec<Class>,
    /// Plain text every match ends with: turns most paths away before the states are stepped.
    tail: String,
}

/// Small, as there is one for each character of a pattern.
#[derive(Debug, Clone, Copy)]
struct State {
    item: Item,
    count: Count,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    One,
    /// Once or not at all.
    Optional,
    /// Any number of times.
    Any,
}

#[derive(Debug, Clone, Copy)]
enum Item {
    Char(char),
    /// Any character but a line feed.
    Dot,
    Class(u32),
    Begin,
    End,
    WordEdge(bool),
    /// `(.*/)?`, which takes this state and the next: in here the group may still be left out …
    DirsOpen,
    /// … and in here it must end with `/`.
    DirsBody,
    /// An alternative begins; the one after it at this index.
    Fork(u32),
    /// An alternative has matched.
    Match,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

/// The sets of one expression, each once however often it stands there.
#[derive(Debug, Default)]
struct Classes(BTreeMap<Class, u32>);

impl Classes {
    fn item(&mut self, negated: bool, mut ranges: Vec<(char, char)>) -> Item {
        ranges.shrink_to_fit();
        let next = number(self.0.len());
        Item::Class(*self.0.entry(Class { negated, ranges }).or_insert(next))
    }

    /// All of them, in the order of their numbers.
    fn into_vec(self) -> Vec<Class> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_unstable_by_key(|(_, at)| *at);
        all.into_iter().map(|(class, _)| class).collect()
    }
}

/// A place in an expression: those that could have more do not fit into memory.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy)]
enum Following {
    Char(char),
    End,
    /// Something, but not known what.
    More,
}

/// Whether the directories above a path count as well.
#[derive(Clone, Copy)]
enum Parents {
    Yes,
    No,
}

impl Glob {
    /// Reads an expression made by [`shape`]; `None` when it is not one. `copies` is how many states repetitions may
    /// still make; what they take is taken off.
    pub(crate) fn compile(expression: &str, copies: &mut usize) -> Option<Self> {
        let (mut states, classes) = parser::parse(expression, copies)?;
        states.shrink_to_fit();
        let mut tail = Vec::new();
        let mut backwards = states.iter().rev();
        let forks = matches!(states.first(), Some(State { item: Item::Fork(_), .. }));
        if !forks && matches!(backwards.next(), Some(State { item: Item::End, .. })) {
            for state in backwards {
                match state {
                    // An invalid byte of a path also counts as U+FFFD, so that one cannot be compared as text.
                    State { item: Item::Char(c), count: Count::One } if *c != char::REPLACEMENT_CHARACTER => {
                        tail.push(*c);
                    }
                    _ => break,
                }
            }
        }
        Some(Self { states, classes: classes.into_vec(), tail: tail.into_iter().rev().collect() })
    }

    /// A pattern for one name, where brackets mean what they say; `None` when it is not well formed.
    pub(crate) fn of_name(pattern: &str) -> Option<Self> {
        if !is_well_formed(pattern) {
            return None;
        }
        let (mut states, mut classes) = (Vec::new(), Classes::default());
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            let item = match c {
                '*' | '?' => classes.item(true, vec![('/', '/')]),
                '\\' => Item::Char(chars.next()?),
                '[' => {
                    let (negated, mut ranges) = (chars.next_if_eq(&'^').is_some(), Vec::new());
                    let member = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
                        '\\' => chars.next(),
                        c => Some(c),
                    };
                    loop {
                        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                            break classes.item(negated, ranges);
                        }
                        let low = member(&mut chars)?;
                        let high = if chars.next_if_eq(&'-').is_some() { member(&mut chars)? } else { low };
                        ranges.push((low, high));
                    }
                }
                other => Item::Char(other),
            };
            states.push(State { item, count: if c == '*' { Count::Any } else { Count::One } });
        }
        states.push(State { item: Item::End, count: Count::One });
        Some(Self { states, classes: classes.into_vec(), tail: String::new() })
    }

    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        path.ends_with(self.tail.as_bytes()) && self.run(chars(path), Following::End, Parents::No)
    }

    /// Whether `path` or a directory above it matches. They are all told in one go, or a deep path would take the
    /// square of its length.
    pub(crate) fn matches_or_parent_matches(&self, path: &[u8]) -> bool {
        let tail = self.tail.as_bytes();
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let may_match = path.ends_with(tail)
            || ends.into_iter().any(|at| path.get(..at).is_some_and(|parent| parent.ends_with(tail)));
        may_match && self.run(chars(path), Following::End, Parents::Yes)
    }

    /// Whether a path that starts with `dir` and a slash may match.
    pub(crate) fn may_match_below(&self, dir: &[u8]) -> bool {
        self.run(chars(dir).chain(['/']), Following::More, Parents::No)
    }

    fn run(&self, path: impl Iterator<Item = char>, end: Following, parents: Parents) -> bool {
        if self.states.len() < 64 {
            self.step(path, end, parents, 0_u64, 0_u64)
        } else {
            let words = self.states.len() / 64 + 1;
            self.step(path, end, parents, vec![0_u64; words], vec![0_u64; words])
        }
    }

    fn step<S: Set>(
        &self,
        path: impl Iterator<Item = char>,
        end: Following,
        parents: Parents,
        mut now: S,
        mut then: S,
    ) -> bool {
        let accept = self.states.len();
        let mut path = path.peekable();
        let mut before = None;
        now.insert(0);
        loop {
            let after = path.peek().map_or(end, |c| Following::Char(*c));
            if matches!((parents, after), (Parents::Yes, Following::Char('/'))) {
                // As if the path ended here.
                then.clone_from(&now);
                self.close(&mut then, before, Following::End);
                if then.contains(accept) {
                    return true;
                }
            }
            self.close(&mut now, before, after);
            if now.contains(accept) {
                return true;
            }
            let Some(c) = path.next() else { break };
            then.clear();
            let mut from = 0;
            while let Some(at) = now.first_from(from) {
                from = at + 1;
                let Some(state) = self.states.get(at) else { break };
                let taken = match &state.item {
                    Item::Char(own) => *own == c,
                    Item::Dot => c != '\n',
                    Item::Class(at) => self.classes.get(*at as usize).is_some_and(|class| class.contains(c)),
                    Item::DirsBody => {
                        if c == '/' {
                            then.insert(at + 1);
                        }
                        c != '\n'
                    }
                    Item::Begin
                    | Item::End
                    | Item::WordEdge(_)
                    | Item::DirsOpen
                    | Item::Fork(_)
                    | Item::Match => false,
                };
                if taken {
                    let stays = state.count == Count::Any || matches!(state.item, Item::DirsBody);
                    then.insert(if stays { at } else { at + 1 });
                }
            }
            std::mem::swap(&mut now, &mut then);
            if now.first_from(0).is_none() {
                return false;
            }
            before = Some(c);
        }
        // The path may go on: any state left may still lead to a match.
        matches!(end, Following::More) && now.first_from(0).is_some()
    }

    /// Adds the states that are reached without a character. They lie to the right, so one pass is enough.
    fn close<S: Set>(&self, set: &mut S, before: Option<char>, after: Following) {
        let mut from = 0;
        while let Some(at) = set.first_from(from) {
            from = at + 1;
            let Some(state) = self.states.get(at) else { return };
            let open = match state.item {
                Item::Begin => before.is_none(),
                Item::End => matches!(after, Following::End),
                Item::WordEdge(wanted) => match after {
                    Following::More => true,
                    Following::End => before.is_some_and(is_word) == wanted,
                    Following::Char(c) => (before.is_some_and(is_word) != is_word(c)) == wanted,
                },
                Item::DirsOpen => {
                    set.insert(at + 2);
                    true
                }
                Item::Fork(next) => {
                    set.insert(next as usize);
                    true
                }
                Item::Match => {
                    set.insert(self.states.len());
                    false
                }
                Item::Char(_) | Item::Dot | Item::Class(_) | Item::DirsBody => false,
            };
            if open || state.count != Count::One {
                set.insert(at + 1);
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

trait Set: Clone {
    fn insert(&mut self, index: usize);
    fn contains(&self, index: usize) -> bool;
    fn first_from(&self, from: usize) -> Option<usize>;
    fn clear(&mut self);
}

impl Set for u64 {
    fn insert(&mut self, index: usize) {
        *self |= 1 << (index & 63);
    }
    fn contains(&self, index: usize) -> bool {
        self >> (index & 63) & 1 == 1
    }
    fn first_from(&self, from: usize) -> Option<usize> {
        let rest = if from > 63 { 0 } else { self >> from << from };
        (rest != 0).then(|| rest.trailing_zeros() as usize)
    }
    fn clear(&mut self) {
        *self = 0;
    }
}

impl Set for Vec<u64> {
    fn insert(&mut self, index: usize) {
        if let Some(word) = self.get_mut(index / 64) {
            Set::insert(word, index % 64);
        }
    }
    fn contains(&self, index: usize) -> bool {
        self.get(index / 64).is_some_and(|word| Set::contains(word, index % 64))
    }
    fn first_from(&self, from: usize) -> Option<usize> {
        let skipped = from / 64;
        let mut offset = from % 64;
        for (index, word) in self.iter().enumerate().skip(skipped) {
            if let Some(bit) = word.first_from(offset) {
                return Some(index * 64 + bit);
            }
            offset = 0;
        }
        None
    }
    fn clear(&mut self) {
        self.fill(0);
    }
}
