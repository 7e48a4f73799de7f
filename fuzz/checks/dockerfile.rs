//! What must hold for any input: used by the fuzz targets and, over the seeds, by plain tests.

use buildkit_dockerfile::expand::{Budget, Lexer, Names};
use buildkit_dockerfile::lint::{Config, Linter};
use buildkit_dockerfile::parser::{self, Escape, HeredocWord, Lines};
use buildkit_dockerfile::{Dockerfile, expand};

/// Parsing ends, errors have true places, and nothing of the source is lost.
pub(crate) fn dockerfile_parse(data: &[u8]) {
    let line_count = u32::try_from(data.split(|&b| b == b'\n').count()).unwrap_or(u32::MAX);
    let inside = |lines: &Lines| assert!(lines.start <= lines.end && lines.end <= line_count, "{lines:?}");
    if let Ok(ast) = parser::parse(data) {
        assert_eq!(ast.print_with(|_| None), data);
        ast.nodes.iter().for_each(|node| inside(&node.lines));
        assert!(ast.nodes.is_sorted_by_key(|node| node.span));
    }
    let mut linter = Linter::new(Config::default());
    if let Err(error) = Dockerfile::parse_with(data, &mut linter) {
        error.locations().iter().for_each(inside);
        assert!(!error.to_string().is_empty());
        let _ = error.excerpt(data);
    }
    linter.warnings().iter().for_each(|warning| inside(&warning.lines));
}

/// Expansion ends within its bounds, in every mode.
pub(crate) fn shell_lex(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // The first line is the value of most variables, the rest is the word.
    let (value, word) = text.split_once('\n').unwrap_or(("x", &text));
    let env = [("A", value), ("B", "b.tar.gz"), ("E", ""), ("P", "/usr/bin:/bin")];
    for escape in [Escape::Backslash, Escape::Backtick] {
        for lexer in [
            Lexer::new(escape),
            Lexer::new(escape).raw_quotes().skip_unset(),
            Lexer::new(escape).raw_quotes().raw_escapes().skip_unset(),
            Lexer::heredoc(),
        ] {
            let lexer = lexer.budget(&Budget::default());
            let mut names = Names::default();
            let words = lexer.words(word, &env, &mut names).map(|words| words.iter().map(String::len).sum());
            let one = lexer.word(word, &env, &mut names).map(|word| word.len());
            assert_eq!(one.is_ok(), words.is_ok());
            for len in [one, words].into_iter().flatten() {
                // Each character of the word is kept at most once, or twice with its escape.
                let len: usize = len;
                assert!(len <= 2 * word.len() + Budget::WORD + 16);
            }
        }
    }
    let _: Result<_, expand::Error> = Lexer::new(Escape::Backslash).word(word, &(), &mut Names::default());
}

/// Heredoc words and bodies are read without loss.
pub(crate) fn heredoc(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let word = text.lines().next().unwrap_or_default();
    if HeredocWord::parse(word).is_some() {
        assert!(word.contains("<<"));
    }
    let source = [b"FROM a\nCOPY ".as_slice(), data].concat();
    if let Ok(ast) = parser::parse(&source) {
        for heredoc in ast.nodes.iter().flat_map(|node| &node.heredocs) {
            assert_eq!(source.get(heredoc.span.range()), Some(&*heredoc.body));
            assert!(heredoc.content().len() <= heredoc.body.len());
        }
    }
}

/// Directives are found by the detection as by the parser.
pub(crate) fn directive_detect(data: &[u8]) {
    let found = parser::directives(data);
    assert!(found.len() <= 3);
    for directive in &found {
        assert_eq!(parser::directive(data, directive.name).as_ref(), Some(directive));
    }
    if let Some(syntax) = parser::detect_syntax(data) {
        assert!(syntax.command_line.starts_with(&syntax.image));
    }
}
