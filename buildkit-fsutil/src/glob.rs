//! Patterns with wildcards, matched by stepping a set of states along the path: no backtracking.
//!
//! A pattern is first rewritten as a regular expression, character by character and without regard to brackets, then
//! that expression is read. The detour is what the reference does, and it shows: `[a*]` becomes `[a[^/]*]`, which is
//! any run of `a`, `[`, `^` and `/`, then `]`. `|` and `{2}` reach the expression as they are, so there they are an
//! alternative and a repetition.

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

/// The most times an item may be repeated.
const MAX_COUNT: u32 = 1000;

/// A compiled expression: a row of states, entered from the left.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    states: Vec<State>,
    /// Plain text every match ends with: turns most paths away before the states are stepped.
    tail: String,
}

#[derive(Debug, Clone)]
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

#[derive(Debug, Clone)]
enum Item {
    Char(char),
    /// Any character but a line feed.
    Dot,
    Class(Class),
    Begin,
    End,
    WordEdge(bool),
    /// `(.*/)?`, which takes this state and the next: in here the group may still be left out …
    DirsOpen,
    /// … and in here it must end with `/`.
    DirsBody,
    /// An alternative begins; the one after it at this index.
    Fork(usize),
    /// An alternative has matched.
    Match,
}

#[derive(Debug, Clone, Default)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
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
        let states = Parser { rest: expression, states: Vec::new(), copies }.parse()?;
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
        Some(Self { states, tail: tail.into_iter().rev().collect() })
    }

    /// A pattern for one name, where brackets mean what they say; `None` when it is not well formed.
    pub(crate) fn of_name(pattern: &str) -> Option<Self> {
        if !is_well_formed(pattern) {
            return None;
        }
        let mut states = Vec::new();
        let mut chars = pattern.chars().peekable();
        let no_slash = || Item::Class(Class { negated: true, ranges: vec![('/', '/')] });
        while let Some(c) = chars.next() {
            let item = match c {
                '*' | '?' => no_slash(),
                '\\' => Item::Char(chars.next()?),
                '[' => {
                    let mut class = Class { negated: chars.next_if_eq(&'^').is_some(), ranges: Vec::new() };
                    let member = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
                        '\\' => chars.next(),
                        c => Some(c),
                    };
                    loop {
                        if !class.ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                            break Item::Class(class);
                        }
                        let low = member(&mut chars)?;
                        let high = if chars.next_if_eq(&'-').is_some() { member(&mut chars)? } else { low };
                        class.ranges.push((low, high));
                    }
                }
                other => Item::Char(other),
            };
            states.push(State { item, count: if c == '*' { Count::Any } else { Count::One } });
        }
        states.push(State { item: Item::End, count: Count::One });
        Some(Self { states, tail: String::new() })
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
                    Item::Class(class) => class.contains(c),
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
                    set.insert(next);
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

struct Parser<'a> {
    rest: &'a str,
    states: Vec<State>,
    copies: &'a mut usize,
}

impl Parser<'_> {
    fn parse(mut self) -> Option<Vec<State>> {
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
                        *target = next;
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
                '[' => Item::Class(self.class()?),
                '\\' => {
                    self.outer_escape()?;
                    continue;
                }
                ')' | '?' | '+' => return None,
                other => Item::Char(other),
            };
            self.push(item);
        }
        Some(self.states)
    }

    fn push(&mut self, item: Item) {
        self.states.push(State { item, count: Count::One });
    }

    /// Begins an alternative that is, so far, the last one.
    fn fork(&mut self) -> usize {
        let at = self.states.len();
        self.push(Item::Fork(at + 1));
        at
    }

    fn anything(&mut self) {
        let item = Item::Class(Class { negated: true, ranges: Vec::new() });
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
            self.states.push(State { item: item.clone(), count });
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
                    Item::Class(Class { negated: false, ranges })
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
    fn class(&mut self) -> Option<Class> {
        let mut class = Class { negated: self.eat("^"), ranges: Vec::new() };
        let mut first = true;
        loop {
            if !first && self.eat("]") {
                return Some(class);
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some((name, rest)) = self.rest.get(2..).and_then(|text| text.split_once(":]"))
            {
                let (name, opposite) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                let set = posix(name)?;
                if opposite {
                    complement(set, &mut class.ranges);
                } else {
                    class.ranges.extend_from_slice(set);
                }
                self.rest = rest;
                continue;
            }
            if let Some(after) = self.rest.strip_prefix('\\') {
                let whole = std::mem::replace(&mut self.rest, after);
                if self.named_set(&mut class.ranges) {
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
            class.ranges.push((low, high));
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
