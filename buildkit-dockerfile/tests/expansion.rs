//! Word expansion, case by case.

use buildkit_dockerfile::expand::{Budget, Lexer, Names};
use buildkit_dockerfile::parser::Escape;

const ENV: [(&str, &str); 6] =
    [("A", "x"), ("E", ""), ("S", "a b  c"), ("T", "foo.tar.gz"), ("P", "/usr/local/bin:/bin"), ("F", "foo")];

fn word(lexer: &Lexer, text: &str) -> Result<String, String> {
    lexer.word(text, &ENV, &mut Names::default()).map(std::borrow::Cow::into_owned).map_err(|e| e.to_string())
}

fn plain() -> Lexer {
    Lexer::new(Escape::Backslash)
}

/// The mode of names of RUN steps.
fn run_name() -> Lexer {
    plain().raw_quotes().skip_unset()
}

#[test]
fn words_expand_in_both_modes() {
    for (text, want, named) in [
        ("$AB", "", "$AB"),
        ("${B}", "", "${B}"),
        (r"\$A", "$A", "$A"),
        ("'$A'", "$A", "'$A'"),
        ("\"$A\"", "x", "\"x\""),
        ("\"'$A'\"", "'x'", "\"'x'\""),
        ("x$S", "xa b  c", "xa b  c"),
        ("\"$S\"", "a b  c", "\"a b  c\""),
        ("${B:-$A}", "x", "${B:-x}"),
        ("${B:-${E:-z}}", "z", "${B:-z}"),
        ("${B:-a b}", "a b", "${B:-a b}"),
        ("${B-y}", "y", "${B-y}"),
        ("${B/a/b}", "", "${B/a/b}"),
        ("${B//a/$A}", "", "${B/a/x}"),
        ("${B:-}}", "}", "${B:-}}"),
        (r"${B:-a\}b}", "a}b", "${B:-a}b}"),
        ("${B-\"a}b\"}", "a}b", "${B-\"a}b\"}"),
        ("${E:-d}", "d", "d"),
        ("${E-d}", "", ""),
        ("${A:+y}", "y", "y"),
        ("${E:+y}", "", ""),
        ("${E+y}", "y", "y"),
        ("${B+y}", "", "${B+y}"),
        ("${A?m}", "x", "x"),
        ("${P#*/}", "usr/local/bin:/bin", "usr/local/bin:/bin"),
        ("${P##*/}", "bin", "bin"),
        ("${P%/*}", "/usr/local/bin:", "/usr/local/bin:"),
        ("${P%%/*}", "", ""),
        ("${T%.*}", "foo.tar", "foo.tar"),
        ("${T%%.*}", "foo", "foo"),
        ("${T#foo?}", "tar.gz", "tar.gz"),
        ("${T#[f]}", "foo.tar.gz", "foo.tar.gz"),
        (r"${P//\//-}", "-usr-local-bin:-bin", "-usr-local-bin:-bin"),
        ("${P/bin/sbin}", "/usr/local/sbin:/bin", "/usr/local/sbin:/bin"),
        ("${T//o*/_}", "f_", "f_"),
        (r"${T//o/\/}", r"f\/\/.tar.gz", r"f\/\/.tar.gz"),
        ("${F///x}", "xfxoxox", "xfxoxox"),
        ("${A/x//}", "/", "/"),
        ("${T/?/_}", "_oo.tar.gz", "_oo.tar.gz"),
        ("${F//o/<$S>}", "f<a b  c><a b  c>", "f<a b  c><a b  c>"),
        ("${F//o/[\\$0]}", "f[\\o][\\o]", "f[\\o][\\o]"),
        ("$", "$", "$"),
        ("a$", "a$", "a$"),
        ("$ a", "$ a", "$ a"),
        ("$$", "", "$$"),
        ("$12a", "a", "$12a"),
        ("$@x", "x", "$@x"),
        (r#""\$A \\ \" \n""#, r#"$A \ " \n"#, r#""$A \ " \n""#),
        ("`$A`", "`x`", "`x`"),
        ("a<<  b", "a<<  b", "a<<  b"),
        ("\u{feff}$A", "x", "x"),
        ("é${A}ü", "éxü", "éxü"),
        (r"a\", "a", "a"),
    ] {
        assert_eq!(word(&plain(), text).as_deref(), Ok(want), "{text}");
        assert_eq!(word(&run_name(), text).as_deref(), Ok(named), "{text} in the name of a step");
    }
}

#[test]
fn words_split_outside_quotes_and_forget_what_stands_before_an_operand() {
    for (text, want) in [
        ("$AB", &[][..]),
        ("x$S", &["xa", "b", "c"]),
        ("\"$S\"", &["a b  c"]),
        ("${B:-a b}", &["a", "b"]),
        ("a 'b c'd  \"\" e", &["a", "b cd", "e"]),
        ("abc${B:-d}e", &["de"]),
        ("7${B:-80}", &["80"]),
        ("a b${E+c}", &["a", "c"]),
        ("x\"y${B:-z}\"", &["yz"]),
        (r"a\ b c", &["a b", "c"]),
        ("<< E", &["<< E"]),
        ("x < y", &["x", "<", "y"]),
    ] {
        let got = plain().words(text, &ENV, &mut Names::default()).unwrap();
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn backticks_can_be_the_escape_character() {
    let lexer = Lexer::new(Escape::Backtick);
    for (text, want) in [(r"C:\$A\b", r"C:\x\b"), ("`$A", "$A"), ("a` b", "a b"), ("\"`\"\"", "\"")] {
        assert_eq!(word(&lexer, text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn quotes_and_escapes_can_be_kept() {
    let raw = plain().raw_quotes().raw_escapes();
    for (text, want) in [
        (r#"a\ "b\"" 'c'"#, r#"a\ "b\"" 'c'"#),
        (r#""\n""#, r#""\\n""#),
        (r"${B:-\x}", "x"),
        (r"${E#\*}\y", r"\y"),
    ] {
        assert_eq!(word(&raw, text).as_deref(), Ok(want), "{text}");
    }
    assert_eq!(word(&Lexer::heredoc(), "it's \"$A\" \\$A").as_deref(), Ok("it's \"x\" $A"));
}

#[test]
fn bad_words_are_errors_that_name_the_word() {
    for (text, about) in [
        ("'a", "' is not closed"),
        ("\"a", "\" is not closed"),
        ("\"${A", "modifier"),
        ("${A:-", "not closed by }"),
        ("${", "not closed by }"),
        ("${A:", "not closed by }"),
        ("${A:}", "not closed by }"),
        ("${}", "not followed by a name"),
        ("${{A}}", "not followed by a name"),
        ("${:x}", "not followed by a name"),
        ("${A.x}", "\".\""),
        ("${A:=x}", "\":=\""),
        ("${A:#x}", "\":#\""),
        ("${A ", "\" \""),
        ("${A/x}", "followed by /"),
        ("${A/x/y", "not closed by }"),
        ("${B?}", "B must be set"),
        ("${B:?no $A}", "B: no x"),
        ("${E:?}", "E must be set"),
        (r"${T#\a}", "escapes 'a'"),
        (r"${T/\a/b}", "escapes 'a'"),
    ] {
        let error = word(&plain(), text).unwrap_err();
        assert!(error.contains(about) && error.contains(&format!("{text:?}")), "{text}: {error}");
    }
    // The modifier of an unset variable that is left as it is written is not judged.
    assert_eq!(word(&run_name(), "${B:=x}").as_deref(), Ok("${B:=x}"));
}

#[test]
fn names_asked_for_are_known_also_after_an_error() {
    let mut names = Names::default();
    let failed = plain().word("$A ${B} ${C:-$D} ${E?x} ${G?y}", &ENV, &mut names);
    assert!(failed.is_err());
    assert_eq!(names.matched.into_iter().collect::<Vec<_>>(), ["A", "E"]);
    assert_eq!(names.unmatched.into_iter().collect::<Vec<_>>(), ["B", "C", "D", "G"]);
}

#[test]
fn what_expansion_produces_is_bounded() {
    let env = [("BIG", "x".repeat(1 << 16)), ("A", "a".repeat(1 << 10))];
    let expand = |lexer: &Lexer, text: &str| lexer.word(text, &env, &mut Names::default()).map(|w| w.len());
    assert_eq!(expand(&plain(), &"$BIG".repeat(16)), Ok(Budget::WORD));
    assert!(expand(&plain(), &"$BIG".repeat(17)).unwrap_err().is_limit());
    assert!(expand(&plain(), "${A//a/$BIG}").unwrap_err().is_limit());
    let nested = "${A#".repeat(5_000) + &"}".repeat(5_000);
    assert!(expand(&plain(), &nested).unwrap_err().is_limit());

    let budget = Budget::default();
    let lexer = plain().budget(&budget);
    let full = "$BIG".repeat(16);
    for _ in 0..16 {
        expand(&lexer.clone(), &full).unwrap();
    }
    assert!(expand(&lexer, "$A").unwrap_err().is_limit());
}

#[test]
fn nesting_is_not_bounded_and_takes_linear_time() {
    let deep = "${B:-x".repeat(100_000) + &"}".repeat(100_000);
    let text = plain().word(&deep, &ENV, &mut Names::default()).unwrap();
    assert_eq!(text, "x".repeat(100_000));
    let text = run_name().word(&deep, &ENV, &mut Names::default()).unwrap();
    assert_eq!(text, deep);
}

#[test]
fn costly_patterns_are_stopped() {
    let env = [("A", "a".repeat(1 << 19))];
    let pattern = "?".repeat(1 << 16);
    let text = format!("${{A/{pattern}b/}}");
    assert!(plain().word(&text, &env, &mut Names::default()).unwrap_err().is_limit());
    let stars = "a*".repeat(1 << 16);
    let text = format!("${{A/{stars}b/}}");
    assert_eq!(plain().word(&text, &env, &mut Names::default()).unwrap().len(), 1 << 19);
}
