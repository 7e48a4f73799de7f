//! Hostile Dockerfiles and ignore files take memory and time in proportion to their size, whatever they are made of.
//!
//! Each shape runs in a process of its own, as the peak of a process is what the system can tell.
#![cfg(target_os = "linux")]

mod support;

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use buildkit_dockerfile::Dockerfile;
use buildkit_fsutil::pattern::{PatternMatcher, read_ignore};
use futures::executor::block_on;
use support::{Images, options};

/// Bytes of memory a byte of Dockerfile may take.
const FACTOR: usize = 32;
/// What may be taken besides, whatever the size of the file: 16 MiB of expanded words, 64 MiB of graph, 48 MiB for
/// 65,536 instructions.
const BESIDES: usize = (16 + 64 + 48) << 20;
/// What measurements may be off by.
const SLACK: usize = 4 << 20;

/// A file: a head, then as many pieces as fit, each made from its number, then a foot.
struct Shape {
    name: &'static str,
    head: &'static str,
    piece: fn(&mut String, usize),
    foot: &'static str,
}

const fn shape(
    name: &'static str,
    head: &'static str,
    piece: fn(&mut String, usize),
    foot: &'static str,
) -> Shape {
    Shape { name, head, piece, foot }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

/// Adds text, and a line continuation before a line becomes too long.
fn on_a_line(out: &mut String, index: usize, text: &str) {
    out.push_str(text);
    if index % 2000 == 1999 {
        out.push_str("\\\n");
    }
}

const SHAPES: &[Shape] = &[
    shape("one line", "FROM a\nRUN ", |out, _| out.push('x'), "\n"),
    shape("continued lines", "FROM a\nRUN ", |out, _| out.push_str("x\\\n"), "y\n"),
    shape("blank lines", "FROM a\n", |out, _| out.push('\n'), ""),
    shape("blank continuations", "FROM a\nRUN x \\\n", |out, _| out.push('\n'), "y\n"),
    shape("comments", "", |out, _| out.push_str("#c\n"), "FROM a\n"),
    shape("comments in an instruction", "FROM a\nRUN x \\\n", |out, _| out.push_str("#\n"), "y\n"),
    shape("arguments before stages", "", |out, n| line(out, format_args!("ARG a{n}")), "FROM a\n"),
    shape("arguments of a stage", "FROM a\n", |out, n| line(out, format_args!("ARG a{n}")), ""),
    shape("one argument again", "FROM a\n", |out, _| out.push_str("ARG a\n"), ""),
    shape("variables", "FROM a\n", |out, n| line(out, format_args!("ENV a{n}=1")), ""),
    shape("one variable again", "FROM a\n", |out, _| out.push_str("ENV a=1\n"), ""),
    shape("variables on a line", "FROM a\nENV b=1", |out, n| on_a_line(out, n, " a="), "\n"),
    shape("legacy variables", "FROM a\n", |out, _| out.push_str("ENV a b\n"), ""),
    shape("labels", "FROM a\n", |out, n| line(out, format_args!("LABEL {n}=")), ""),
    shape("commands", "FROM a\n", |out, _| out.push_str("RUN x\n"), ""),
    shape("commands with arguments", "FROM a\nARG a=1\n", |out, _| out.push_str("RUN x\n"), ""),
    shape("directories", "FROM a\n", |out, _| out.push_str("WORKDIR x\n"), ""),
    shape("users", "FROM a\n", |out, _| out.push_str("USER u\n"), ""),
    shape("volumes", "FROM a\n", |out, n| line(out, format_args!("VOLUME {n}")), ""),
    shape("volumes on a line", "FROM a\nVOLUME", |out, n| on_a_line(out, n, " v"), "\n"),
    shape("port ranges", "FROM a\nEXPOSE", |out, n| on_a_line(out, n, " 1-65535"), "\n"),
    shape("ports", "FROM a\nEXPOSE", |out, n| on_a_line(out, n, " 1"), "\n"),
    shape("default commands", "FROM a\n", |out, _| out.push_str("CMD\n"), ""),
    shape("shells", "FROM a\n", |out, _| out.push_str("SHELL [\"a\"]\n"), ""),
    shape("health checks", "FROM a\n", |out, _| out.push_str("HEALTHCHECK NONE\n"), ""),
    shape("triggers", "FROM a\n", |out, _| out.push_str("ONBUILD RUN x\n"), ""),
    shape("triggers of a base", "FROM a AS b\n", |out, _| out.push_str("ONBUILD RUN x\n"), "FROM b\n"),
    shape("stages", "", |out, _| out.push_str("FROM a\n"), ""),
    shape("named stages", "", |out, n| line(out, format_args!("FROM a AS s{n}")), ""),
    shape(
        "a tower of stages",
        "FROM a AS s0\n",
        |out, n| line(out, format_args!("FROM s{n} AS s{}", n + 1)),
        "",
    ),
    shape(
        "a chain of copies",
        "FROM a\n",
        |out, n| line(out, format_args!("FROM a\nCOPY --from={n} / /")),
        "",
    ),
    shape("copies from everywhere", "FROM a\n", |out, n| line(out, format_args!("COPY --from=i{n} / /")), ""),
    shape("copies", "FROM a\n", |out, _| out.push_str("COPY a b\n"), ""),
    shape("sources of a copy", "FROM a\nCOPY", |out, n| on_a_line(out, n, " a"), " /\n"),
    shape("linked copies", "FROM a\n", |out, _| out.push_str("COPY --link a b\n"), ""),
    shape("downloads", "FROM a\n", |out, n| line(out, format_args!("ADD http://h/{n} /")), ""),
    shape("mounts", "FROM a\nRUN", |out, n| on_a_line(out, n, " --mount=target=/x"), " x\n"),
    shape("mount options", "FROM a\nRUN --mount=target=/x", |out, n| on_a_line(out, n, ",ro"), " x\n"),
    shape("flags", "FROM a\nCOPY", |out, n| on_a_line(out, n, " --exclude=x"), " a b\n"),
    shape("empty flags", "FROM a\nRUN", |out, n| on_a_line(out, n, " --"), "x\n"),
    shape("heredocs", "FROM a\n", |out, _| out.push_str("RUN <<A\nA\n"), ""),
    shape("a long heredoc", "FROM a\nCOPY <<A /a\n", |out, _| out.push_str("$x\n"), "A\n"),
    shape("heredoc words", "FROM a\nRUN", |out, n| on_a_line(out, n, " <<A"), "\nA\n"),
    shape("array of a command", "FROM a\nRUN [\"a\"", |out, n| on_a_line(out, n, ",\"\""), "]\n"),
    shape("array of a default", "FROM a\nCMD [\"a\"", |out, n| on_a_line(out, n, ",\"\\u00e9\""), "]\n"),
    shape("open brackets", "FROM a\nCMD ", |out, n| on_a_line(out, n, "["), "\n"),
    shape("dollars", "FROM a\nENV a=", |out, n| on_a_line(out, n, "$"), "\n"),
    shape("unset variables", "FROM a\nENV a=", |out, n| on_a_line(out, n, "$x"), "\n"),
    shape("many unset variables", "FROM a\nENV a=", |out, n| on_a_line(out, n, &format!("$x{n}")), "\n"),
    shape("nested defaults", "FROM a\nENV a=", |out, n| on_a_line(out, n, "${a:-"), "\n"),
    shape(
        "replacements",
        "FROM a\nENV a=aaaaaaaaaaaaaaaa\nENV b=",
        |out, n| on_a_line(out, n, "${a//a/$a$a}"),
        "\n",
    ),
    shape("doublings", "FROM a\nENV a=xx\n", |out, _| out.push_str("ENV a=$a$a\n"), ""),
    shape("quotes", "FROM a\nENV a=", |out, n| on_a_line(out, n, "\"'\"''"), "\n"),
    shape("escapes", "FROM a\nRUN ", |out, n| on_a_line(out, n, "\\$"), "\n"),
    shape("unknown keywords", "FROM a\n", |out, _| out.push_str("X\n"), ""),
    shape(
        "misspelt variables",
        "FROM a\nARG abcdefgh\n",
        |out, n| line(out, format_args!("RUN $abcdefg{n}")),
        "",
    ),
    shape("odd casing", "FROM a\n", |out, _| out.push_str("run x\nRUN x\n"), ""),
];

/// The same for ignore files.
const IGNORE_SHAPES: &[Shape] = &[
    shape("ignored names", "", |out, _| out.push_str("a\n"), ""),
    shape("ignored wildcards", "", |out, _| out.push_str("*\n"), ""),
    shape("ignored trees", "", |out, _| out.push_str("**/a/**\n"), ""),
    shape(
        "lines of wildcards",
        "",
        |out, _| out.push_str("*a?a*a?a*a?a*a?a*a?a*a?a*a?a*a?a*a?a*a?a*a?a\n"),
        "",
    ),
    shape("lines of sets", "", |out, _| out.push_str("[a-z][^b][a-z][^b][a-z][^b][a-z][^b][a-z][^b]\n"), ""),
    shape(
        "lines of named sets",
        "",
        |out, _| out.push_str("\\w\\d\\s\\W\\w\\d\\s\\W\\w\\d\\s\\W\\w\\d\\s\\W\n"),
        "",
    ),
    shape("a set a line", "", |out, n| line(out, format_args!("[{n}-{}]{n}[^{n}]", n % 10)), ""),
    shape("repetitions", "", |out, _| out.push_str("[a]{1000}[a]{1000}[a]{1000}[a]{1000}[a]{1000}\n"), ""),
    shape("long lines of a name", "", |out, _| line(out, format_args!("{:x>60000}", "")), ""),
];

fn shapes() -> impl Iterator<Item = &'static Shape> {
    SHAPES.iter().chain(IGNORE_SHAPES)
}

/// At most `pieces` pieces and about `size` bytes.
fn source(shape: &Shape, pieces: usize, size: usize) -> String {
    let mut text = String::with_capacity(size + 4096);
    text.push_str(shape.head);
    for index in 0..pieces {
        if text.len() >= size {
            break;
        }
        (shape.piece)(&mut text, index);
    }
    text.push_str(shape.foot);
    text
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the state of this process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known line");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().expect("a number") << 10
}

fn work(text: &str) {
    let options = options();
    match Dockerfile::parse(text) {
        Ok(file) => {
            let _ = file.lint();
            let _ = (file.targets(), block_on(file.outline(&options, &Images)));
            if let Ok(converted) = block_on(file.to_llb(&options, &Images)) {
                assert_ne!(converted.definition.ops().len(), 0);
            }
        }
        Err(error) => assert!(!error.excerpt(text.as_bytes()).is_empty()),
    }
}

fn ignore(text: &str) {
    let Ok(patterns) = read_ignore(text.as_bytes()) else { return };
    let Ok(matcher) = PatternMatcher::new(&patterns) else { return };
    let _ = matcher.matches_or_parent_matches("some/file.of/the/context");
}

/// Run by the other tests for each shape and size, in a process of its own; by itself it takes a small one.
#[test]
fn one_shape() {
    let name = std::env::var("DOCKERFILE_SHAPE").unwrap_or_else(|_| "one line".to_owned());
    let shape = shapes().find(|shape| shape.name == name).expect("a known shape");
    let work = if IGNORE_SHAPES.iter().any(|shape| shape.name == name) { ignore } else { work };
    let number = |name| std::env::var(name).map_or(1000, |text| text.parse().expect("a number"));
    let text = source(shape, number("DOCKERFILE_PIECES"), number("DOCKERFILE_SIZE"));
    let (before, started) = (status("VmRSS:"), Instant::now());
    work(&text);
    println!(
        "measured {} {} {}",
        text.len(),
        status("VmHWM:").saturating_sub(before),
        started.elapsed().as_millis()
    );
}

struct Measured {
    size: usize,
    memory: usize,
    time: Duration,
}

fn measure(shape: &Shape, pieces: usize, size: usize) -> Measured {
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "one_shape", "--nocapture", "--test-threads=1"])
        .env("DOCKERFILE_SHAPE", shape.name)
        .env("DOCKERFILE_PIECES", pieces.to_string())
        .env("DOCKERFILE_SIZE", size.to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(output.status.success(), "{}: {}", shape.name, String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, line) = text.lines().find_map(|line| line.split_once("measured ")).expect("a measurement");
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
    let [size, memory, time] = numbers[..] else { panic!("{line}") };
    let number = |number| usize::try_from(number).expect("a small number");
    Measured { size: number(size), memory: number(memory), time: Duration::from_millis(time) }
}

/// Files just below what is refused for its number of instructions or words, where most is remembered and done.
#[test]
fn the_most_that_is_accepted_is_bounded() {
    let mut broken = Vec::new();
    for shape in shapes() {
        let half = measure(shape, 32_000, 2 << 20);
        let whole = measure(shape, 64_000, 2 << 20);
        println!(
            "{:<28} {:>9} {:>10} {:?} {:?}",
            shape.name, whole.size, whole.memory, half.time, whole.time
        );
        if whole.memory > FACTOR * whole.size + BESIDES {
            broken.push(format!("{}: {} bytes for {}", shape.name, whole.memory, whole.size));
        }
        // Loose, for the machine may be busy; what is not linear takes four times as long.
        if whole.time > 3 * half.time + Duration::from_secs(1) {
            broken.push(format!("{}: {:?}, twice as much {:?}", shape.name, half.time, whole.time));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Beyond, memory grows with the file and no faster.
#[test]
fn memory_grows_with_the_file() {
    let mut broken = Vec::new();
    for shape in shapes() {
        let one = measure(shape, usize::MAX, 1 << 20);
        let two = measure(shape, usize::MAX, 2 << 20);
        println!("{:<28} {:>10} {:>10} {:?} {:?}", shape.name, one.memory, two.memory, one.time, two.time);
        if two.memory.saturating_sub(one.memory) > FACTOR * (two.size - one.size) + SLACK {
            broken.push(format!(
                "{}: {} bytes for {}, {} for {}",
                shape.name, one.memory, one.size, two.memory, two.size
            ));
        }
        if two.time > 3 * one.time + Duration::from_secs(1) {
            broken.push(format!("{}: {:?}, twice as much {:?}", shape.name, one.time, two.time));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
