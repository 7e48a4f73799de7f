//! What must hold for any input: used by the fuzz targets and, over the seeds, by plain tests.

use std::time::{Duration, Instant};

use buildkit_dockerfile::expand::{Budget, Lexer, Names};
use buildkit_dockerfile::lint::{Config, Linter};
use buildkit_dockerfile::parser::{self, Escape, HeredocWord, Lines};
use buildkit_dockerfile::{Dockerfile, expand};
use buildkit_frontend::Simulated;
use buildkit_llb::Definition;
use buildkit_proto::gateway;
use bytes::Bytes;

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

/// A whole conversion ends in bounded time, with graphs that a daemon takes and the same bytes each time, or with an
/// error that says something.
///
/// Options of the build stand one on a line before the first NUL, the config of every image before the second, then the
/// Dockerfile. Without them it is a plain build of all of the input.
pub(crate) fn dockerfile_to_llb(data: &[u8]) {
    let parts: Vec<&[u8]> = data.splitn(3, |byte| *byte == 0).collect();
    let (options, config, file) = match parts[..] {
        [options, config, file] => (String::from_utf8_lossy(options), config, file),
        _ => ("".into(), CONFIG, data),
    };
    let started = Instant::now();
    let convert = || {
        let config = config.to_vec();
        let mut build = Simulated::new()
            .file("", "Dockerfile", file.to_vec())
            .file("", ".dockerignore", "ignored\n!ignored/but\n")
            .on_resolve(move |request| Some(Ok(resolved(request, &config))));
        for (name, value) in options.lines().filter_map(|line| line.split_once('=')) {
            build = build.option(name, value);
        }
        let outcome = futures::executor::block_on(buildkit_dockerfile::build(build.gateway()));
        (outcome.map(|result| result.to_wire()).map_err(|error| error.report()), build)
    };
    let (outcome, build) = convert();
    let limit = Duration::from_secs(8) + Duration::from_millis(data.len() as u64);
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
    if let Err(error) = &outcome {
        assert!(!error.is_empty());
    }
    for solve in build.solves() {
        if let Some(definition) = solve.definition {
            let bytes: usize = definition.def.iter().map(Bytes::len).sum();
            assert!(bytes <= 64 << 20, "a graph of {bytes} bytes");
            let definition = Definition::from_pb(definition).unwrap_or_else(|error| panic!("{error}"));
            definition.validate().unwrap_or_else(|error| panic!("a daemon would refuse it: {error}"));
        }
    }
    let (again, rebuild) = convert();
    assert_eq!(again, outcome);
    assert_eq!(rebuild.solves(), build.solves());
    assert_eq!(rebuild.warnings(), build.warnings());
}

/// The config of every image, where the input has none.
const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"OnBuild":["RUN a"]}}"#;

/// Every image has this config; commits and checksums depend on what is asked for.
fn resolved(
    request: &gateway::ResolveSourceMetaRequest,
    config: &[u8],
) -> gateway::ResolveSourceMetaResponse {
    let source = request.source.clone().unwrap_or_default();
    let hash = source.identifier.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let digest = format!("sha256:{}", format!("{hash:016x}").repeat(4));
    let mut answer = gateway::ResolveSourceMetaResponse::default();
    match source.identifier.split_once("://").unwrap_or_default().0 {
        "docker-image" | "oci-layout" => {
            let config = config.to_vec().into();
            answer.image = Some(gateway::ResolveSourceImageResponse { digest, config, ..Default::default() });
        }
        "git" => {
            let checksum = format!("{hash:016x}").repeat(3)[..40].to_owned();
            answer.git = Some(gateway::ResolveSourceGitResponse { checksum, ..Default::default() });
        }
        "http" | "https" => {
            answer.http = Some(gateway::ResolveSourceHttpResponse { checksum: digest, ..Default::default() });
        }
        _ => {}
    }
    answer.source = Some(source);
    answer
}
