//! Instructions, flags and their errors, case by case.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use std::time::Duration;

use buildkit_dockerfile::expand;
use buildkit_dockerfile::instructions::{
    CommandLine, Instruction, Kind, Mount, MountKind, Network, Security, Sharing, parse_trigger,
};
use buildkit_dockerfile::parser::Parser;
use buildkit_dockerfile::{Dockerfile, Error, ErrorKind};

/// Parses `FROM alpine` and `text` below it.
fn parse(text: &str) -> Result<Dockerfile, Error> {
    Dockerfile::parse(format!("FROM alpine\n{text}\n"))
}

/// The first instruction of `text`.
fn first(text: &str) -> Instruction {
    parse(text).unwrap().stages[0].instructions[0].clone()
}

macro_rules! kind {
    ($variant:ident, $text:expr) => {
        match first($text).kind {
            Kind::$variant(it) => it,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn broken_instructions_are_errors_with_their_lines_and_a_hint() {
    for (text, lines, about) in [
        ("RUNN x", (2, 2), "RUNN (did you mean RUN?)"),
        ("runn x", (2, 2), "runn (did you mean run?)"),
        ("COPY --form=x a b", (2, 2), "--form (did you mean from?)"),
        ("COPY --from=x --from=y a b", (2, 2), "twice"),
        ("COPY --link=maybe a b", (2, 2), "maybe"),
        ("COPY --chown a b", (2, 2), "--chown=value"),
        ("COPY --link= a b", (2, 2), "--link"),
        ("ENV A", (2, 2), "ENV A=value"),
        ("ENV", (2, 2), "ENV needs"),
        ("ENV A=1 B", (2, 2), "\"B\""),
        ("ENV =x", (2, 2), "without a name"),
        ("LABEL A", (2, 2), "LABEL"),
        ("ARG", (2, 2), "ARG needs"),
        ("ARG a =x", (2, 2), "without a name"),
        ("COPY a", (2, 2), "destination"),
        ("ADD [\"a\"]", (2, 2), "destination"),
        ("COPY", (2, 2), "destination"),
        ("RUN [\"a\", 1]", (2, 2), "strings"),
        ("SHELL /bin/bash -c", (2, 2), "JSON"),
        ("SHELL []", (2, 2), "SHELL needs"),
        ("RUN <<EOF\nfoo", (2, 3), "<<EOF"),
        ("RUN --network=foo y", (2, 2), "\"foo\""),
        ("RUN --network= y", (2, 2), "\"\""),
        ("RUN --security=foo y", (2, 2), "\"foo\""),
        ("ONBUILD ONBUILD RUN x", (2, 2), "ONBUILD cannot"),
        ("ONBUILD from x", (2, 2), "FROM cannot"),
        ("ONBUILD MAINTAINER x", (2, 2), "MAINTAINER cannot"),
        ("ONBUILD", (2, 2), "ONBUILD needs"),
        ("ONBUILD ONBUILD ENV a", (2, 2), "ENV a=value"),
        ("ONBUILD --x RUN y", (2, 2), "--x"),
        ("HEALTHCHECK", (2, 2), "HEALTHCHECK needs"),
        ("HEALTHCHECK NONE x", (2, 2), "no arguments"),
        ("HEALTHCHECK FOO x", (2, 2), "\"FOO\""),
        ("HEALTHCHECK CMD", (2, 2), "needs a command"),
        ("HEALTHCHECK CMD []", (2, 2), "needs a command"),
        ("HEALTHCHECK --interval=1us CMD x", (2, 2), "less than 1ms"),
        ("HEALTHCHECK --interval=-1s CMD x", (2, 2), "less than 1ms"),
        ("HEALTHCHECK --timeout=5 CMD x", (2, 2), "unit"),
        ("HEALTHCHECK --retries=-1 CMD x", (2, 2), "-1"),
        ("HEALTHCHECK --retries=x CMD x", (2, 2), "\"x\""),
        ("VOLUME [\"\"]", (2, 2), "empty path"),
        ("VOLUME [\"a\", \" \"]", (2, 2), "empty path"),
        ("USER", (2, 2), "USER needs one"),
        ("STOPSIGNAL", (2, 2), "STOPSIGNAL needs one"),
        ("EXPOSE", (2, 2), "EXPOSE needs"),
        ("WORKDIR --x /", (2, 2), "--x"),
        ("COPY a <<EOF\nx\nEOF", (2, 4), "destination"),
        ("RUN --mount=a\\\"b cmd", (2, 2), "quote"),
        ("RUN --mount=\\\"a cmd", (2, 2), "quote"),
        ("RUN --mount= cmd", (2, 2), "empty"),
        ("RUN --mount=from=$X,target=/x y", (2, 2), "variables"),
        ("FROM alpine AS", (2, 2), "FROM image AS name"),
        ("FROM alpine foo bar", (2, 2), "FROM image AS name"),
        ("FROM", (2, 2), "FROM image AS name"),
        ("FROM alpine AS 1x", (2, 2), "\"1x\""),
        ("FROM --foo alpine", (2, 2), "--foo"),
        ("\u{a0}", (0, 0), ""),
    ] {
        let Err(error) = parse(text) else {
            assert!(about.is_empty(), "{text:?} is fine");
            continue;
        };
        let place = error.locations().first().map(|l| (l.start, l.end));
        assert_eq!((place, error.locations().len()), (Some(lines), 1), "{text:?}: {error}");
        assert!(error.to_string().contains(about), "{text:?}: {error}");
    }
}

#[test]
fn broken_files_are_errors() {
    for (text, lines, kind) in [
        ("", None, ErrorKind::Syntax),
        ("# nothing here", Some(1), ErrorKind::Syntax),
        ("\n", Some(1), ErrorKind::Syntax),
        ("\n\n", Some(2), ErrorKind::Syntax),
        ("ARG x", None, ErrorKind::Stage),
        ("RUN x", Some(1), ErrorKind::Stage),
        ("ARG a\nENV b=c\nFROM d", Some(2), ErrorKind::Stage),
        ("# escape=x\nFROM a", Some(0), ErrorKind::Syntax),
        ("# escape=`\n# escape=\\\nFROM a", Some(1), ErrorKind::Syntax),
        // What is wrong with the text comes before what is wrong with an instruction.
        ("FROM\nENV a", Some(2), ErrorKind::Syntax),
        ("FROM a b\nFROM a b", Some(1), ErrorKind::Instruction),
    ] {
        let error = Dockerfile::parse(text).unwrap_err();
        assert_eq!(
            (error.locations().first().map(|l| l.start), error.kind()),
            (lines, kind),
            "{text:?}: {error}"
        );
    }
    let long = |n: usize, end: &str| Dockerfile::parse(format!("FROM a\nRUN {}{end}", "x".repeat(n - 4)));
    assert!(long(65_535, "\n").is_ok() && long(65_535, "").is_ok());
    for end in ["\n", ""] {
        assert_eq!(long(65_536, end).unwrap_err().locations()[0].start, 1);
    }
    let error = Dockerfile::parse(vec![b'#'; (16 << 20) + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn stages_have_names_comments_and_arguments() {
    let file = Dockerfile::parse(
        "# syntax=docker/dockerfile:1\n# a the version\nARG a=1 b\n\n# Base is first\n# base the base\nfrom \
         --platform=$BUILDPLATFORM alpine:$a As Base\n\nFROM base\nRUN x\n",
    )
    .unwrap();
    let Kind::Arg(arg) = &file.args[0].kind else { panic!() };
    let args: Vec<_> = arg.args.iter().map(|a| (a.name.as_str(), a.default.as_deref())).collect();
    assert_eq!(args, [("a", Some("1")), ("b", None)]);
    assert_eq!((file.args[0].describe("a"), file.args[0].describe("b")), (Some("the version"), None));
    let [base, second] = &file.stages[..] else { panic!() };
    assert_eq!((base.name.as_deref(), base.written_name.as_deref()), (Some("base"), Some("Base")));
    assert_eq!((base.base.as_str(), base.platform.as_deref()), ("alpine:$a", Some("$BUILDPLATFORM")));
    assert_eq!((base.keyword.as_str(), base.describe(), base.lines.start), ("from", Some("the base"), 7));
    assert_eq!((second.base.as_str(), &second.name, second.instructions.len()), ("base", &None, 1));
}

#[test]
fn copy_and_add_have_their_flags() {
    let copy =
        kind!(Copy, "COPY --from=b --chown=$U --chmod=755 --link --parents --exclude=*.o --exclude=x a b /c");
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()),
        (Some("b"), Some("$U"), Some("755"))
    );
    assert_eq!((copy.link, copy.parents, copy.exclude), (true, true, vec!["*.o".to_owned(), "x".to_owned()]));
    assert_eq!(
        (copy.sources.paths, copy.sources.dest.as_str()),
        (vec!["a".to_owned(), "b".to_owned()], "/c")
    );
    let add = kind!(Add, "ADD --keep-git-dir=FALSE --unpack --checksum=sha256:a --chown= [\"a b\", \"c\"]");
    assert_eq!(
        (add.keep_git_dir, add.unpack, add.checksum.as_deref()),
        (Some(false), Some(true), Some("sha256:a"))
    );
    assert_eq!((add.chown, add.link, add.sources.paths), (None, false, vec!["a b".to_owned()]));
}

#[test]
fn heredocs_become_files() {
    let copy = kind!(Copy, "COPY x <<-A <<\"B\" y /d\n\ta\n\tA\nb$x\nB");
    let inline: Vec<_> =
        copy.sources.inline.iter().map(|f| (f.name.as_str(), &f.content[..], f.expand)).collect();
    assert_eq!(inline, [("A", &b"a\n"[..], true), ("B", b"b$x\n", false)]);
    assert_eq!(copy.sources.paths, ["x", "y"]);
    // One name, two bodies: the last one counts for both.
    let copy = kind!(Copy, "COPY <<A <<A /d\n1\nA\n2\nA");
    assert_eq!(copy.sources.inline.iter().map(|f| &f.content[..]).collect::<Vec<_>>(), [b"2\n", b"2\n"]);
    // The JSON form announces no heredoc, yet such a word is an empty file.
    let copy = kind!(Copy, "COPY [\"<<E\", \"/x\"]");
    assert_eq!((copy.sources.inline[0].content.len(), copy.sources.paths.len()), (0, 0));
    let run = kind!(Run, "RUN cat <<A - <<'B'\r\n# a\r\nA\r\n\\\nB");
    assert_eq!(run.heredocs.iter().map(|h| h.raw().into_owned()).collect::<Vec<_>>(), ["# a\r\n", "\\\n"]);
    assert_eq!(run.command, CommandLine::Shell("cat <<A - <<'B'".to_owned()));
    let onbuild = kind!(Onbuild, "OnBuild  RUN <<-E x\n\ty\n\tE");
    assert_eq!(onbuild, "RUN <<-E x\n\ty\nE");
}

#[test]
fn run_has_its_flags() {
    let run = kind!(
        Run,
        "RUN --network=none --security=insecure --device=a,required --mount=from=b,target=/x [\"a\"]"
    );
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), ("a", true));
    assert_eq!(run.mounts[0].from.as_deref(), Some("b"));
    assert_eq!(run.command, CommandLine::Exec(vec!["a".to_owned()]));
    assert_eq!(kind!(Run, "RUN").command, CommandLine::Shell(String::new()));
}

fn mount(fields: &str) -> Result<Mount, Error> {
    let run = kind!(Run, &format!("RUN --mount={fields} x"));
    let env = [("V", "v")];
    let lexer = expand::Lexer::new(buildkit_dockerfile::parser::Escape::Backslash);
    run.mounts[0].resolve(&mut |word| {
        lexer.word(word, &env, &mut expand::Names::default()).map(std::borrow::Cow::into_owned)
    })
}

#[test]
fn mounts_are_judged() {
    let got = mount("type=cache,target=/$V,id=a,sharing=LOCKED,mode=0755,uid=1,gid=2,from=b$,source=/s,ro")
        .unwrap();
    let want = Mount {
        kind: MountKind::Cache,
        from: Some("b$".to_owned()),
        source: "/s".to_owned(),
        target: "/v".to_owned(),
        read_only: true,
        id: "a".to_owned(),
        sharing: Sharing::Locked,
        mode: Some(0o755),
        uid: Some(1),
        gid: Some(2),
        ..Mount::default()
    };
    assert_eq!(got, want);
    let kinds = ["x=", "TYPE=Bind", "type=cache", "type=tmpfs", "type=ssh", "type=secret,id=a"];
    let read_only: Vec<_> =
        kinds.iter().filter_map(|f| mount(f).ok()).map(|m| (m.kind, m.read_only)).collect();
    assert_eq!(
        read_only,
        [
            (MountKind::Bind, true),
            (MountKind::Cache, false),
            (MountKind::Tmpfs, false),
            (MountKind::Ssh, true),
            (MountKind::Secret, true)
        ]
    );
    assert!(
        mount("type=secret,id=a,required,env=").is_ok_and(|m| m.required && m.env.as_deref() == Some(""))
    );
    assert!(mount("type=tmpfs,size=1.5g").is_ok_and(|m| m.size == 1_610_612_736));
    for (fields, about) in [
        ("type=cahce,target=/x", "(did you mean cache?)"),
        ("type=cache,traget=/x", "(did you mean target?)"),
        ("type=cache,target=/x,required", "type cache has no key 'required'"),
        ("type=bind,,target=/x", "''"),
        ("type=bind,target=/x,foo", "'foo'"),
        ("type=bind,target=/x,readonly=maybe", "readonly"),
        ("type=bind,target=/x,rw=maybe", "rw"),
        ("type=cache,target=/x,size=1", "no key 'size'"),
        ("size=1,type=tmpfs", "no key 'size'"),
        ("type=tmpfs,target=/x,size=abc", "size"),
        ("type=tmpfs,target=/x,size=-1", "size"),
        ("type=bind,target=/x,uid=1", "no key 'uid'"),
        ("type=tmpfs,target=/x,mode=1", "no key 'mode'"),
        ("type=cache,target=/x,mode=9", "mode"),
        ("type=cache,target=/x,uid=-1", "uid"),
        ("type=cache,target=/x,uid=+1", "uid"),
        ("type=cache,target=/x,gid=x", "gid"),
        ("type=secret", "needs an id"),
        ("type=secret,id=a,from=b", "no key 'from'"),
        ("type=secret,id=a,sharing=shared", "no key 'sharing'"),
        ("type=secret,id=a,source=b", "not both"),
        ("type=bind,target=/x,sharing=shared", "no key 'sharing'"),
        ("type=cache,target=/x,sharing=lcked", "(did you mean locked?)"),
        ("type=ssh,id=a,required=foo", "required"),
        ("required,type=secret,id=a", "type bind has no key 'required'"),
        ("type=${X:?no},target=/x", "X: no"),
    ] {
        let error = mount(fields).unwrap_err().to_string();
        assert!(error.contains(about), "{fields}: {error}");
    }
}

#[test]
fn devices_are_judged() {
    let device = |fields: &str| {
        let file = Dockerfile::parse(format!("FROM a\nRUN --device={fields} x"))?;
        let Kind::Run(run) = &file.stages[0].instructions[0].kind else { panic!("not a RUN") };
        Ok::<_, Error>((run.devices[0].name.clone(), run.devices[0].required))
    };
    assert_eq!(device("vendor.com/gpu=all,required").unwrap(), ("vendor.com/gpu=all".to_owned(), true));
    assert_eq!(device("name=a,required=false").unwrap(), ("a".to_owned(), false));
    assert_eq!(device("a").unwrap(), ("a".to_owned(), false));
    for (fields, about) in [
        ("a,name=b", "takes one name"),
        ("a,b", "'b'"),
        ("a,nam=b", "(did you mean name?)"),
        ("a,required=x", "\"x\""),
    ] {
        let error = device(fields).unwrap_err().to_string();
        assert!(error.contains(about), "{fields}: {error}");
    }
}

#[test]
fn the_other_instructions_keep_their_words() {
    let health =
        kind!(Healthcheck, "HEALTHCHECK --interval=5s --timeout=1m30s --start-period=0 --retries=3 CMD a b");
    assert_eq!(health.test, ["CMD-SHELL", "a b"]);
    assert_eq!(
        (health.interval, health.timeout, health.start_period, health.retries),
        (Duration::from_secs(5), Duration::from_secs(90), Duration::ZERO, 3)
    );
    assert_eq!(kind!(Healthcheck, "HEALTHCHECK cmd [\"a\", \"b\"]").test, ["CMD", "a", "b"]);
    assert_eq!(kind!(Healthcheck, "HEALTHCHECK --bogus none").test, ["NONE"]);
    assert_eq!(kind!(Expose, "EXPOSE 90 80/tcp $A 8"), ["$A", "8", "80/tcp", "90"]);
    assert_eq!(kind!(Volume, "VOLUME [\" a b \", \"c\"]"), ["a b", "c"]);
    assert_eq!(kind!(Shell, "SHELL [\"a\"]"), ["a"]);
    assert_eq!(kind!(User, "USER a  b "), "a  b");
    assert_eq!(kind!(Stopsignal, "STOPSIGNAL --x 9"), "9");
    assert_eq!(kind!(Workdir, "WORKDIR /a \\\n  b"), "/a   b");
    assert_eq!(kind!(Maintainer, "MAINTAINER a <b>"), "a <b>");
    assert_eq!(kind!(Cmd, "CMD []"), CommandLine::Exec(Vec::new()));
    assert_eq!(kind!(Entrypoint, "ENTRYPOINT"), CommandLine::Shell(String::new()));
    assert_eq!(kind!(Onbuild, "ONBUILD foo --x"), "foo --x");
    let env = kind!(Env, "ENV a=\"b c\" d=e");
    assert_eq!(
        env.iter().map(|p| (p.key.as_str(), p.value.as_str(), p.legacy)).collect::<Vec<_>>(),
        [("a", "\"b c\"", false), ("d", "e", false)]
    );
    let label = kind!(Label, "LABEL a b  c");
    assert_eq!((label[0].value.as_str(), label[0].legacy), ("b  c", true));
}

#[test]
fn instructions_keep_their_text_and_place() {
    let run = first("\n# one\n#\n# two\n\n  RUN a \\\n# no\n\n  b \\ \n c  \nRUN d");
    assert_eq!(run.text, "RUN a   b  c");
    assert_eq!((run.comments, run.lines.start, run.lines.end), (vec!["two".to_owned()], 7, 11));
    let file = Dockerfile::parse("FROM a\n RUN \\\n x \r\nCMD y").unwrap();
    let run = &file.stages[0].instructions[0];
    assert_eq!(&file.source()[run.span.range()], b"RUN \\\n x ");
}

#[test]
fn triggers_are_single_instructions() {
    assert!(
        matches!(parse_trigger("RUN <<E\nx\nE").unwrap().kind, Kind::Run(run) if run.heredocs.len() == 1)
    );
    for text in ["", "RUN a\nRUN b", "FROM x", "FOO x", "RUN <<E"] {
        assert!(parse_trigger(text).is_err(), "{text:?}");
    }
}

#[test]
fn hostile_files_end() {
    let chain = "ONBUILD ".repeat(200_000) + "RUN x";
    let chain = chain.replace("ONBUILD ONBUILD ONBUILD ONBUILD ", "ONBUILD ONBUILD ONBUILD ONBUILD \\\n");
    assert!(parse(&chain).unwrap_err().to_string().contains("ONBUILD"));
    let names = (0..50_000).map(|n| format!("FROM a AS n{n}")).collect::<Vec<_>>().join("\n");
    assert_eq!(Dockerfile::parse(names).unwrap().stages.len(), 50_000);
    let many = |words| format!("FROM a\nENV {}", "a=b \\\n".repeat(words));
    assert!(Dockerfile::parse(many(Parser::MAX_WORDS)).is_ok());
    let error = Dockerfile::parse(many(Parser::MAX_WORDS + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let many = |count: usize| format!("FROM a\n{}", "RUN x\n".repeat(count - 1));
    assert!(Dockerfile::parse(many(Parser::MAX_INSTRUCTIONS)).is_ok());
    let error = Dockerfile::parse(many(Parser::MAX_INSTRUCTIONS + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert_eq!(error.locations().first().map(|lines| lines.start), Some(65_537));
    assert!(Dockerfile::parse([0xff; 100]).is_err());
    assert!(Dockerfile::parse(b"FROM a\nRUN \xff\xfe <<\xff\nx\n\xff\n").is_err());
}

#[test]
fn errors_show_the_lines_they_are_about() {
    let source = b"FROM a\nRUN b\nRUN c\nCOPY --frm=d \\\n e f\nRUN g\n";
    let error = Dockerfile::parse(source).unwrap_err();
    assert_eq!(
        error.excerpt(source),
        "   2 |     RUN b\n   3 |     RUN c\n   4 | >>> COPY --frm=d \\\n   5 | >>>  e f\n   6 |     RUN g\n   7 |     \n"
    );
}
