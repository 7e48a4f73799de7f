//! One pass over a word. Nested `${…}` are frames on a stack of our own, and all write into one string:
//! an operand that is used stays where it was written.

use super::pattern::{Pattern, Steps, reversed_pattern};
use super::{Budget, Env, Lexer, Names, Reason, template};

/// Steps of matching that count as one byte of [`Budget`].
const STEPS_PER_BYTE: usize = 64;

pub(super) struct Scan<'a> {
    lexer: &'a Lexer,
    env: &'a dyn Env,
    names: &'a mut Names,
    source: &'a str,
    at: usize,
    /// Whether escapes are kept right now; operands change it.
    raw_escapes: bool,
    out: String,
    words: Option<Words>,
    frames: Vec<Frame<'a>>,
    spent: usize,
}

/// The words of the outermost level.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

/// What is being read around the current character, innermost last. Below all is the word itself.
enum Frame<'a> {
    /// A double quote that was opened when the output had so many bytes.
    Quote {
        start: usize,
    },
    Operand(Operand<'a>),
}

/// Text inside `${name…}`.
struct Operand<'a> {
    name: &'a str,
    kind: Kind,
    /// Where the substitution starts in the output.
    start: usize,
    /// The variable is unset and left as written: its text is in the output already.
    keep: bool,
    /// What to set `raw_escapes` to at the end.
    raw_escapes: bool,
}

enum Kind {
    Modifier { sign: char, colon: bool },
    Pattern { all: bool },
    Replacement { all: bool, pattern: String },
}

impl<'a> Scan<'a> {
    pub(super) fn new(lexer: &'a Lexer, source: &'a str, env: &'a dyn Env, names: &'a mut Names) -> Self {
        Self {
            lexer,
            env,
            names,
            source,
            at: 0,
            raw_escapes: lexer.raw_escapes,
            out: String::with_capacity(source.len()),
            words: None,
            frames: Vec::new(),
            spent: 0,
        }
    }

    pub(super) fn word(mut self) -> Result<String, Reason> {
        self.run()?;
        Ok(self.out)
    }

    pub(super) fn words(mut self) -> Result<Vec<String>, Reason> {
        self.words = Some(Words::default());
        self.run()?;
        let mut words = self.words.unwrap_or_default();
        words.end();
        Ok(words.done)
    }

    fn run(&mut self) -> Result<(), Reason> {
        loop {
            self.copy_ordinary();
            match self.frames.last() {
                Some(Frame::Quote { .. }) => self.in_quote()?,
                Some(Frame::Operand(operand)) => {
                    let stop = if matches!(operand.kind, Kind::Pattern { .. }) { '/' } else { '}' };
                    match self.peek() {
                        Some(c) if c == stop => {
                            self.next();
                            self.close()?;
                        }
                        Some(c) => self.plain(c)?,
                        None if stop == '/' => return Err(Reason::NoSlash),
                        None => return Err(Reason::OpenBrace),
                    }
                }
                None => match self.peek() {
                    Some(c) => self.plain(c)?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Takes over, all at once, what means nothing wherever it stands. Where words are wanted, blanks do.
    fn copy_ordinary(&mut self) {
        if self.words.is_some() {
            return;
        }
        let rest = self.source.as_bytes().get(self.at..).unwrap_or_default();
        let escape = self.lexer.escape.byte();
        let stop = match self.frames.last() {
            Some(Frame::Operand(operand)) if matches!(operand.kind, Kind::Pattern { .. }) => b'/',
            Some(Frame::Operand(_)) => b'}',
            _ => b'$',
        };
        let special = |b: &u8| matches!(*b, b'$' | b'\'' | b'"') || *b == escape || *b == stop;
        let end = self.at + rest.iter().position(special).unwrap_or(rest.len());
        self.out.push_str(self.source.get(self.at..end).unwrap_or_default());
        self.at = end;
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// The words, if they are wanted and the current character is at the outermost level.
    fn outer(&mut self) -> Option<&mut Words> {
        if self.frames.is_empty() { self.words.as_mut() } else { None }
    }

    /// Handles `c`, the current character, outside quotes.
    fn plain(&mut self, c: char) -> Result<(), Reason> {
        let start = self.out.len();
        let quotes = !self.lexer.skip_quotes;
        match c {
            '$' => return self.dollar(),
            '\'' if quotes => return self.single_quote(),
            '"' if quotes => {
                self.next();
                if self.lexer.raw_quotes {
                    self.out.push('"');
                }
                self.frames.push(Frame::Quote { start });
                return Ok(());
            }
            '<' if self.words.is_some() => {
                self.next();
                self.out.push('<');
                if self.peek() == Some('<') {
                    self.next();
                    self.out.push('<');
                    while let Some(blank @ ('\t' | '\r' | ' ')) = self.peek() {
                        self.next();
                        self.out.push(blank);
                    }
                }
                self.put_raw(start);
                return Ok(());
            }
            _ => {}
        }
        self.next();
        if c == self.lexer.escape.char() {
            if self.raw_escapes {
                self.out.push(c);
            }
            let literal = self.next();
            self.out.extend(literal);
            self.put_raw(start);
        } else {
            self.out.push(c);
            if let Some(words) = self.outer() {
                words.put(c);
            }
        }
        Ok(())
    }

    fn single_quote(&mut self) -> Result<(), Reason> {
        let start = self.out.len();
        let inner = self.source.get(self.at + 1..).unwrap_or_default();
        let end = inner.find('\'').ok_or(Reason::OpenQuote('\''))?;
        self.at += end + 2;
        let quote = if self.lexer.raw_quotes { "'" } else { "" };
        for part in [quote, inner.get(..end).unwrap_or_default(), quote] {
            self.out.push_str(part);
        }
        self.put_raw(start);
        Ok(())
    }

    fn in_quote(&mut self) -> Result<(), Reason> {
        let escape = self.lexer.escape.char();
        match self.peek().ok_or(Reason::OpenQuote('"'))? {
            '"' => {
                self.next();
                if self.lexer.raw_quotes {
                    self.out.push('"');
                }
                if let Some(Frame::Quote { start }) = self.frames.pop() {
                    self.put_raw(start);
                }
            }
            '$' => self.dollar()?,
            mut c => {
                self.next();
                if c == escape {
                    if self.raw_escapes {
                        self.out.push(c);
                    }
                    if let Some(escaped) =
                        self.peek().filter(|&next| next == '"' || next == '$' || next == escape)
                    {
                        self.next();
                        c = escaped;
                    }
                }
                self.out.push(c);
            }
        }
        Ok(())
    }

    /// A substitution: all of `$name` and `${name}`, the start of the others.
    fn dollar(&mut self) -> Result<(), Reason> {
        self.next();
        let start = self.out.len();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                self.out.push('$');
            } else {
                self.plain_variable(name, false)?;
            }
            self.put(start);
            return Ok(());
        }
        self.next();
        match self.peek() {
            None => return Err(Reason::OpenBrace),
            Some('{' | '}' | ':') => return Err(Reason::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let first = self.next();
        let (sign, colon) = match first {
            Some('}') => {
                self.plain_variable(name, true)?;
                self.put(start);
                return Ok(());
            }
            Some(':') => (self.next().unwrap_or(char::REPLACEMENT_CHARACTER), true),
            Some('/') => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                self.open(name, Kind::Pattern { all }, start);
                return Ok(());
            }
            Some(sign @ ('-' | '+' | '?' | '#' | '%')) => (sign, false),
            other => return Err(Reason::Modifier(other.map(String::from).unwrap_or_default())),
        };
        if colon && matches!(sign, '#' | '%') {
            return Err(Reason::Modifier(format!(":{sign}")));
        }
        self.open(name, Kind::Modifier { sign, colon }, start);
        Ok(())
    }

    /// The name at the current place; may be empty.
    fn name(&mut self) -> &'a str {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let digit = |c: char| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && !is_number_form(c));
        let letter = |c: char| c == '_' || c.is_alphabetic() && !is_number_form(c);
        let first = rest.chars().next();
        let len = match first {
            Some(c) if digit(c) => rest.find(|c| !digit(c)).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !letter(c) && !digit(c)).unwrap_or(rest.len()),
        };
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    /// Looks `name` up and keeps a record of that.
    fn value(&mut self, name: &str) -> Option<&'a str> {
        let env = self.env;
        let value = env.value(name);
        let names = if value.is_some() { &mut self.names.matched } else { &mut self.names.unmatched };
        if names.len() >= Names::MAX {
            return value;
        }
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    fn plain_variable(&mut self, name: &str, braces: bool) -> Result<(), Reason> {
        match self.value(name) {
            Some(value) => self.put_value(value),
            None if self.lexer.skip_unset => {
                let (open, close) = if braces { ("${", "}") } else { ("$", "") };
                for part in [open, name, close] {
                    self.out.push_str(part);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Starts to read an operand.
    fn open(&mut self, name: &'a str, kind: Kind, start: usize) {
        let raw = matches!(kind, Kind::Modifier { sign: '#' | '%', .. } | Kind::Pattern { .. });
        let keep = self.lexer.skip_unset && self.env.value(name).is_none();
        if keep {
            self.out.push_str("${");
            self.out.push_str(name);
            match kind {
                Kind::Modifier { sign, colon } => {
                    self.out.push_str(if colon { ":" } else { "" });
                    self.out.push(sign);
                }
                _ => self.out.push('/'),
            }
        }
        self.enter(Operand { name, kind, start, keep, raw_escapes: self.raw_escapes }, raw);
    }

    fn enter(&mut self, operand: Operand<'a>, raw_escapes: bool) {
        // The reference collects words of operands in the buffer of the outer word, which is lost.
        if let Some(words) = &mut self.words {
            words.current.clear();
        }
        self.raw_escapes = raw_escapes;
        self.frames.push(Frame::Operand(operand));
    }

    /// Handles the end of an operand.
    fn close(&mut self) -> Result<(), Reason> {
        let Some(Frame::Operand(operand)) = self.frames.pop() else { return Ok(()) };
        self.raw_escapes = operand.raw_escapes;
        let Operand { name, kind, start, keep, .. } = operand;
        match kind {
            Kind::Pattern { all } => {
                let pattern = if keep {
                    self.out.push('/');
                    String::new()
                } else {
                    self.out.split_off(start)
                };
                let kind = Kind::Replacement { all, pattern };
                self.enter(Operand { name, kind, start, keep, raw_escapes: self.raw_escapes }, true);
                return Ok(());
            }
            _ if keep => {
                self.value(name);
                self.out.push('}');
            }
            Kind::Replacement { all, pattern } => self.replace(name, start, &pattern, all)?,
            Kind::Modifier { sign, colon } => self.modify(name, start, sign, colon)?,
        }
        self.put(start);
        Ok(())
    }

    /// Applies a modifier to the operand, which is the output from `start` on.
    fn modify(&mut self, name: &str, start: usize, sign: char, colon: bool) -> Result<(), Reason> {
        let set = self.value(name);
        let value = set.unwrap_or_default();
        let missing = set.is_none() || (colon && value.is_empty());
        match sign {
            '-' if missing => Ok(()),
            '+' if !missing => Ok(()),
            '+' => {
                self.out.truncate(start);
                Ok(())
            }
            '?' if missing => {
                let message = self.out.split_off(start);
                Err(Reason::Required { name: name.to_owned(), message })
            }
            '-' | '?' => {
                self.out.truncate(start);
                self.put_value(value)
            }
            '#' | '%' => {
                let operand = self.out.split_off(start);
                let doubled = operand.strip_prefix(sign);
                let pattern = doubled.unwrap_or(&operand);
                self.trim(value, pattern, doubled.is_some(), sign == '%')
            }
            _ => Err(Reason::Modifier(format!(":{sign}"))),
        }
    }

    /// Puts `value` without what `pattern` matches at its start or end.
    fn trim(&mut self, value: &'a str, pattern: &str, longest: bool, suffix: bool) -> Result<(), Reason> {
        self.spend(value.len())?;
        let limit = self.step_limit();
        let mut steps = Steps(limit);
        if suffix {
            // The shortest match at the end is the shortest one at the start of all turned around.
            let turned: String = value.chars().rev().collect();
            let pattern = Pattern::new(&reversed_pattern(pattern))?;
            let len = pattern.prefix(&turned, longest, &mut steps)?.unwrap_or(0);
            self.out.push_str(value.get(..value.len() - len).unwrap_or_default());
        } else {
            let len = Pattern::new(pattern)?.prefix(value, longest, &mut steps)?.unwrap_or(0);
            self.out.push_str(value.get(len..).unwrap_or_default());
        }
        self.spend((limit - steps.0) / STEPS_PER_BYTE)
    }

    /// Puts the value of `name` with matches of `pattern` replaced by the output from `start` on.
    fn replace(&mut self, name: &str, start: usize, pattern: &str, all: bool) -> Result<(), Reason> {
        let replacement = self.out.split_off(start);
        let value = self.value(name).unwrap_or_default();
        self.spend(value.len())?;
        let pattern = Pattern::new(pattern)?;
        let limit = self.step_limit();
        let mut steps = Steps(limit);
        // The end of the last match, and where to look for the next one.
        let (mut done, mut from) = (0, 0);
        while let Some((at, end)) = pattern.find(value, from, &mut steps)? {
            self.out.push_str(value.get(done..at).unwrap_or_default());
            let matched = value.get(at..end).unwrap_or_default();
            if !all {
                self.put_value(&replacement)?;
                done = end;
                break;
            }
            // An empty match right behind another match does not count.
            if end > done || at == 0 {
                template::fill(&replacement, matched, |part| self.put_value(part))?;
            }
            done = end;
            let step = value.get(from..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            from = end.max(from + step);
        }
        self.out.push_str(value.get(done..).unwrap_or_default());
        self.spend((limit - steps.0) / STEPS_PER_BYTE)
    }

    fn step_limit(&self) -> usize {
        Budget::WORD.saturating_sub(self.spent) * STEPS_PER_BYTE
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Reason> {
        self.spent = self.spent.saturating_add(bytes);
        let within = self.spent <= Budget::WORD && self.lexer.budget.as_ref().is_none_or(|b| b.take(bytes));
        if within { Ok(()) } else { Err(Reason::TooLarge) }
    }

    fn put_value(&mut self, value: &str) -> Result<(), Reason> {
        self.spend(value.len())?;
        self.out.push_str(value);
        Ok(())
    }

    /// Splits what the output has from `start` on into words, if that is the outermost level.
    fn put(&mut self, start: usize) {
        let Self { frames, words: Some(words), out, .. } = self else { return };
        if frames.is_empty() {
            out.get(start..).unwrap_or_default().chars().for_each(|c| words.put(c));
        }
    }

    /// Adds what the output has from `start` on to the current word, if that is the outermost level.
    fn put_raw(&mut self, start: usize) {
        let Self { frames, words: Some(words), out, .. } = self else { return };
        if frames.is_empty() {
            words.current.push_str(out.get(start..).unwrap_or_default());
        }
    }
}

impl Words {
    fn put(&mut self, c: char) {
        if c.is_whitespace() { self.end() } else { self.current.push(c) }
    }

    fn end(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }
}
/// Numbers that are neither letters nor decimal digits: superscripts, fractions, Roman and encircled numbers, runes.
fn is_number_form(c: char) -> bool {
    let blocks =
        ['\u{2070}'..='\u{2089}', '\u{2150}'..='\u{218f}', '\u{2460}'..='\u{24ff}', '\u{2776}'..='\u{2793}'];
    matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{bc}'..='\u{be}')
        || (c.is_alphabetic() && c.is_numeric())
        || blocks.iter().any(|block| block.contains(&c))
}
