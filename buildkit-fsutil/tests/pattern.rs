//! Patterns: what matches what, what is refused, and how an ignore file is read.

use buildkit_fsutil::pattern::{MAX_IGNORE_PATTERNS, MatchInfo, PatternError, PatternMatcher, read_ignore};

fn matcher(patterns: &str) -> PatternMatcher {
    PatternMatcher::new(patterns.split(' ')).expect("patterns of a test are good")
}

macro_rules! select {
    ($($name:ident: $patterns:literal matches [$($yes:literal),* $(,)?] not [$($no:literal),* $(,)?];)*) => {$(
        #[test]
        fn $name() {
            let matcher = matcher($patterns);
            for path in [$($yes),*] as [&str; _] {
                assert!(matcher.matches_or_parent_matches(path).unwrap(), "{} should match {path:?}", $patterns);
            }
            for path in [$($no),*] as [&str; _] {
                assert!(!matcher.matches_or_parent_matches(path).unwrap(), "{} should not match {path:?}", $patterns);
            }
        }
    )*};
}

select! {
    plain_name: "a" matches ["a", "a/b"] not ["x/a", "ab"];
    plain_name_cleaned: "./foo/" matches ["foo", "foo/bar", "foo/bar/baz"] not ["foobar", "x/foo"];
    leading_slash_matches_nothing: "/foo" matches [] not ["foo", "foo/bar"];
    star: "*" matches ["a", "a/b", ".x"] not [];
    double_star: "**" matches ["a", "a/b", ".x"] not [];
    triple_star: "***" matches ["a", "a/b", ".x"] not [];
    four_stars: "****" matches ["a", "a/b", ".x"] not [];
    double_star_slash_star: "**/*" matches ["a", "a/b"] not [];
    one_level: "*/b" matches ["a/b", "a/b/c"] not ["b", "x/y/b"];
    star_slash_star: "*/*" matches ["a/b", "a/b/c"] not ["a"];
    any_level: "**/b" matches ["b", "a/b", "a/x/b", "a/b/c"] not ["ab"];
    any_level_twice: "**/**/foo" matches ["foo", "a/foo", "x/y/foo", "foo/bar"] not ["barfoo"];
    suffix: "**foo" matches ["foo", "a/foo", "x/y/foo", "barfoo"] not ["food"];
    below: "a/**" matches ["a/b", "a/b/c"] not ["a", "ab"];
    below_one: "foo/*" matches ["foo/bar", "foo/bar/baz"] not ["foo"];
    below_with_slash: "a/**/" matches ["a/b"] not ["a"];
    between: "a/**/c" matches ["a/c", "a/b/c", "a/b/d/c"] not ["a/bc"];
    between_without_slashes: "a**b" matches ["ab", "a/b", "a/x/b", "a/b/c"] not ["a", "b"];
    prefix: "a**" matches ["a", "ab", "a/b"] not ["ba"];
    below_any: "**/a/**" matches ["a/b", "x/a/b", "x/y/a/b/c"] not ["a", "x/a"];
    component_starts: "**a**" matches ["a", "a/b", "abc", "x/ab"] not ["barfoo", "b"];
    extension: "*.go" matches ["m.go"] not ["d/m.go", "m.gox"];
    extension_any_level: "**/*.go" matches ["m.go", "d/m.go", ".go"] not ["m.gox"];
    question_mark: "a?c" matches ["abc", "aéc"] not ["a/c", "ac", "abbc"];
    set: "a[bc]d" matches ["abd", "acd"] not ["add"];
    negated_set: "[^a]x" matches ["bx", "/x"] not ["ax"];
    exclamation_in_set_is_literal: "[!a]x" matches ["ax", "!x"] not ["bx"];
    range: "[a-c]" matches ["a", "b", "c"] not ["d", "-"];
    escaped_in_set: "a[x\\]]" matches ["a]", "ax"] not ["a\\"];
    dot_is_literal: "a.b" matches ["a.b"] not ["axb"];
    specials_are_literal: "a+b|c(d){e}$" matches ["a+b|c(d){e}$"] not ["aab"];
    specials_are_literal_in_globs: "a+b(d){e}$*" matches ["a+b(d){e}$f"] not ["aab"];
    bar_is_an_alternative_in_globs: "a|b/x|*.c" matches ["a", "ab", "b/x", "qb/xy", "x.c", "z/x.c"] not ["b", "cb"];
    empty_alternative_matches_all: "a*|" matches ["a", "b"] not [];
    bar_in_set_or_escaped_is_literal: "[|]a \\|b" matches ["|a", "|b"] not ["a", "b"];
    count_in_globs: "ba{2}?" matches ["baax"] not ["bax", "baaxx", "ba{2}x"];
    open_count: "ba{2,}[c]" matches ["baac", "baaaaaac"] not ["bac", "ba{2,}c"];
    count_of_a_set: "[ab]{1,2}" matches ["a", "ab"] not ["aba", ""];
    count_of_none: "ba{0}[c]" matches ["bc"] not ["bac"];
    count_of_the_start: "{0}b*" matches ["b", "xb"] not ["c"];
    no_count_is_literal: "*.{js,ts} a{,2}* b{01}*" matches ["x.{js,ts}", "a{,2}", "b{01}"] not ["x.js", "aa", "b"];
    escaped_star: "a\\*" matches ["a*"] not ["ab"];
    caret_is_literal_alone: "^a" matches ["^a"] not ["a"];
    caret_anchors_in_globs: "x^a*" matches [] not ["x^a", "xa"];
    taken_back: "a !a/keep" matches ["a/x", "a"] not ["a/keep", "a/keep/y"];
    last_wins: "* !*.go x.go" matches ["x.go", "z"] not ["y.go"];
    order_matters: "!**/b **" matches ["b", "a/b"] not [];
    only_exclusion: "!a" matches [] not ["a", "b"];
    dotdot_matches_nothing: ".. ../x" matches [] not ["x", "a"];
    cleaned_dotdot: "a/../b" matches ["b", "b/c"] not ["a"];
    star_in_set_is_expanded_first: "[a*]" matches ["a]", "^/]", "]"] not ["a", "*"];
    posix_set: "[[:digit:]x]" matches ["3", "x"] not ["a", ":"];
    perl_digit: "v\\d" matches ["v1"] not ["vd"];
    word_edge: "a\\b*" matches ["a", "a-b", "a/b"] not ["ab"];
    escaped_number: "\\x61* \\x{62}* \\143*" matches ["a", "b", "c"] not ["x61"];
    quoted: "\\Qa*" matches ["a[^/]*$", "a[^/]*$tail"] not ["ab"];
    newline_not_below_any: "x/**/y*" matches ["x/y", "x/a/y"] not ["x/a\nb/y"];
    newline_in_name: "a*b" matches ["a\nb"] not [];
    root_path: "*" matches ["/foo"] not [];
    wide_names: "**/é*" matches ["é", "x/éa"] not ["e"];
}

#[test]
fn invalid_utf8_counts_as_one_character_a_byte() {
    assert!(matcher("a??b").matches_or_parent_matches(b"a\xff\xfeb").unwrap());
    assert!(!matcher("a?b").matches_or_parent_matches(b"a\xff\xfeb").unwrap());
}

#[test]
fn patternmatcher_0_6_1_unusable_patterns_are_named() {
    for bad in [
        "[", "a[", "[]", "[]x]", "a[]b]", "[^]", "[-a]", "[a-]", "\\", "a\\", "!a[", "*[", "**[]", "*a/[",
        "?*[", "[.]*\\", "[^a]*[", "\\.*[", "*?*[]",
    ] {
        assert!(
            matches!(PatternMatcher::new([bad]), Err(PatternError::Syntax { .. })),
            "{bad} should be a syntax error"
        );
    }
    assert_eq!(PatternMatcher::new(["!"]).unwrap_err(), PatternError::LoneExclusion);
    assert_eq!(PatternMatcher::new(["!"]).unwrap_err().to_string(), "illegal exclusion pattern: \"!\"");
    assert_eq!(PatternMatcher::new(["a["]).unwrap_err().to_string(), "syntax error in pattern: \"a[\"");
}

/// The check of a list tries each pattern on `.` and stops at the first part between stars that does not match.
#[test]
fn faults_behind_an_unmatched_part_count_only_when_the_pattern_is_tried() {
    for late in [
        "a*/[",
        "*/*/[]",
        "a*[",
        "..*[",
        "?a*[",
        ".*a*[",
        "[z-a]*",
        "\\pX",
        "\\1",
        "x[[:no:]]",
        "a*{2}",
        "a{2}{3}*",
        "a{1001}*",
        "a{3,2}*",
        "x|{2}*",
        "x**{2}b",
    ] {
        let matcher = PatternMatcher::new([late]).unwrap();
        let error = matcher.matches_or_parent_matches("x").unwrap_err();
        assert_eq!(error, PatternError::Syntax { pattern: late.to_owned() }, "{late}");
        // What an earlier pattern settles is not tried again.
        let after = PatternMatcher::new(["x", late]).unwrap();
        assert!(after.matches_or_parent_matches("x").unwrap(), "{late}");
        assert!(after.matches_or_parent_matches("y").is_err(), "{late}");
        // Nor is an exclusion tried on what is not matched.
        let taken_back = PatternMatcher::new([format!("!{late}")]).unwrap();
        assert!(!taken_back.matches_or_parent_matches("x").unwrap(), "{late}");
    }
    // A `\` at the end meets the anchor that is put there.
    assert!(PatternMatcher::new(["a*\\"]).unwrap().matches_or_parent_matches("ab$").unwrap());
    // No expression is made of these, so nothing is ever wrong with them.
    for plain in ["a**", "**b"] {
        assert!(PatternMatcher::new([plain]).unwrap().matches_or_parent_matches("x").is_ok());
    }
}

#[test]
fn blank_patterns_are_skipped() {
    let matcher = PatternMatcher::new(["", "  ", "\t a/ "]).unwrap();
    assert_eq!(matcher.patterns().map(|p| p.as_str().to_owned()).collect::<Vec<_>>(), ["a"]);
    assert!(!matcher.has_exclusions());
}

#[test]
fn ignore_file_lines() {
    for (line, pattern) in [
        ("/foo/", "foo"),
        ("!/foo", "!foo"),
        ("! foo ", "!foo"),
        ("!", "!"),
        ("/", "/"),
        ("//a", "a"),
        ("a/../b", "b"),
        ("..", ".."),
        ("./", "."),
        ("!!a", "!!a"),
        (" # x", "# x"),
        ("\\#x", "\\#x"),
        ("/../x", "x"),
        ("a\r", "a"),
        ("\u{a0}a\u{85}", "a"),
        ("a\u{b}", "a"),
    ] {
        assert_eq!(read_ignore(line.as_bytes()).unwrap(), [pattern], "line {line:?}");
    }
    let file = b"\xef\xbb\xbf# comment\n\nnode_modules\n  \n*.md\r\nbad\xff\xfe\n";
    assert_eq!(read_ignore(file).unwrap(), ["node_modules", "*.md", "bad\u{fffd}\u{fffd}"]);
}

#[test]
fn overlong_ignore_line_is_named() {
    let mut file = b"a\n".to_vec();
    file.extend(vec![b'x'; 65_535]);
    assert_eq!(read_ignore(&file).unwrap().len(), 2);
    file.push(b'x');
    let error = read_ignore(&file).unwrap_err();
    assert_eq!(error.line, 2);
    assert!(error.to_string().contains("line 2"));
}

#[test]
fn the_first_pattern_too_many_is_named() {
    let mut file = "# patterns\n\na\n!\n".to_owned();
    file.push_str(&"b\n".repeat(MAX_IGNORE_PATTERNS - 2));
    file.push_str("  \n# no pattern\n");
    assert_eq!(read_ignore(file.as_bytes()).unwrap().len(), MAX_IGNORE_PATTERNS);
    file.push('!');
    let error = read_ignore(file.as_bytes()).unwrap_err();
    assert_eq!(error.line, 4 + MAX_IGNORE_PATTERNS - 2 + 3);
    assert_eq!(
        error.to_string(),
        format!("ignore file: line {} has one pattern more than the 65536 that are read", error.line)
    );
}

/// Walking from the top with recorded parents gives what asking for each path alone gives.
#[test]
fn recorded_parents_agree_with_lone_questions() {
    let names = ["a", "b", "ab", "c.go"];
    let patterns =
        ["a", "b !b/a", "* !**/c.go", "a/** !a/b", "**/b !b/b/a", "a/b/*", "!a a/b", "ab** !ab/a/b c.go"];
    for list in patterns {
        let matcher = matcher(list);
        for one in names {
            let mut first = MatchInfo::default();
            let got = matcher.matches_using_parent(one.as_bytes(), None, Some(&mut first)).unwrap();
            assert_eq!(got, matcher.matches_or_parent_matches(one).unwrap(), "{list}: {one}");
            for two in names {
                let path = format!("{one}/{two}");
                let mut second = MatchInfo::default();
                let got =
                    matcher.matches_using_parent(path.as_bytes(), Some(&first), Some(&mut second)).unwrap();
                assert_eq!(got, matcher.matches_or_parent_matches(&path).unwrap(), "{list}: {path}");
                for three in names {
                    let path = format!("{path}/{three}");
                    let got = matcher.matches_using_parent(path.as_bytes(), Some(&second), None).unwrap();
                    assert_eq!(got, matcher.matches_or_parent_matches(&path).unwrap(), "{list}: {path}");
                }
            }
        }
    }
}

/// The one place where they differ, kept because the receiving side decides so too.
#[test]
fn exclusion_of_an_unmatched_parent_is_forgotten_below_it() {
    let matcher = matcher("a/b !a");
    assert!(!matcher.matches_or_parent_matches("a/b").unwrap());
    let mut parent = MatchInfo::default();
    assert!(!matcher.matches_using_parent(b"a", None, Some(&mut parent)).unwrap());
    assert!(matcher.matches_using_parent(b"a/b", Some(&parent), None).unwrap());
}

#[test]
fn may_match_below_is_false_only_when_nothing_can() {
    for (pattern, dir, may) in [
        ("a/b/c", "a", true),
        ("a/b/c", "a/b", true),
        ("a/b/c", "a/b/c", false),
        ("a/b/c", "ab", false),
        ("a/b/**", "a", true),
        ("a/b/**", "a/b", true),
        ("a/b/**", "a/b/x", true),
        ("a/b/**", "a/c", false),
        ("**/x", "a", true),
        ("*/x/*.go", "a", true),
        ("*/x/*.go", "a/x", true),
        ("*/x/*.go", "a/y", false),
        ("*/x/*.go", "a/x/z", false),
        ("*.go", "a", false),
        ("a[bc]/d", "ab", true),
        ("a[bc]/d", "ad", false),
    ] {
        assert_eq!(matcher(pattern).may_match_below(dir.as_bytes(), false), may, "{pattern} below {dir}");
        let negated = matcher(&format!("* !{pattern}"));
        assert_eq!(negated.may_match_below(dir.as_bytes(), true), may, "!{pattern} below {dir}");
    }
}

#[test]
fn hostile_patterns_take_bounded_time() {
    let started = std::time::Instant::now();
    let path = "a".repeat(4096);
    for pattern in
        ["*a".repeat(500) + "b", "**/".repeat(500) + "*b", "a*".repeat(20) + "b", "[a-z]*".repeat(300) + "9"]
    {
        let matcher = PatternMatcher::new([&pattern]).unwrap();
        assert!(!matcher.matches_or_parent_matches(&path).unwrap());
        assert!(!matcher.matches_or_parent_matches("a/".repeat(100) + "c").unwrap());
    }
    // Tens of thousands of directories above a file are looked at together, not one by one.
    let deep = "a/".repeat(30_000) + "c";
    for pattern in ["*/*b", "**/*?/[b-d]x", "**/b?/**"] {
        assert!(!PatternMatcher::new([pattern]).unwrap().matches_or_parent_matches(&deep).unwrap());
    }
    assert!(PatternMatcher::new(["**/a/a"]).unwrap().matches_or_parent_matches(&deep).unwrap());
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}
