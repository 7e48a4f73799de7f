//! Looks into Dockerfiles without a daemon: syntax, lint, targets, outline, build graph.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

mod table;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use buildkit_dockerfile::instructions::{Instruction, Kind};
use buildkit_dockerfile::lint::Warning;
use buildkit_dockerfile::lower::{ImageRequest, Options, ResolveError, ResolvedImage, Resolver};
use buildkit_dockerfile::{Dockerfile, Error, ErrorKind};
use buildkit_llb::{Definition, Platform};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Looks into a Dockerfile without a daemon.
#[derive(Parser)]
struct Arguments {
    /// What to print.
    command: Command,
    /// The Dockerfile; `-` reads standard input.
    #[arg(default_value = "Dockerfile")]
    file: String,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// The stage to look at; the last one if absent.
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// A build argument, NAME=VALUE; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,
    /// With `lint`: end with code 1 if a rule fires.
    #[arg(long)]
    error: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Command {
    /// List the instructions with their lines.
    Parse,
    /// Say what lint rules say.
    Lint,
    /// List the stages that can be built.
    Targets,
    /// List what building a stage takes: arguments, secrets, SSH agents.
    Outline,
    /// List the operations a build consists of.
    Llb,
    /// Print the build graph for Graphviz.
    Dot,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let source = match read(&arguments.file) {
        Ok(source) => source,
        Err(error) => {
            eprintln!("cannot read {}: {error}", arguments.file);
            return ExitCode::from(2);
        }
    };
    match run(&arguments, &source).await {
        Ok((text, code)) => {
            match std::io::stdout().write_all(text.as_bytes()) {
                // Whoever reads it, such as `head`, has seen enough.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    eprintln!("cannot write it: {error}");
                    ExitCode::from(2)
                }
                _ => code,
            }
        }
        Err(error) => {
            eprintln!("{}: {error}", arguments.file);
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            eprint!("{}", error.excerpt(&source));
            ExitCode::FAILURE
        }
    }
}

fn read(file: &str) -> std::io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut source = Vec::new();
    std::io::stdin().read_to_end(&mut source)?;
    Ok(source)
}

/// What to print, and the exit code.
async fn run(arguments: &Arguments, source: &[u8]) -> Result<(String, ExitCode), Error> {
    let file = Dockerfile::parse(source)?;
    let json = arguments.json;
    let mut options = Options::default().target(&arguments.target).session("dockerfile-example");
    for argument in &arguments.build_arg {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        options = options.build_arg(name, value);
    }
    let text = match arguments.command {
        Command::Parse if json => pretty(&parsed(&file)),
        Command::Parse => {
            let rows = instructions(&file).map(|(stage, i)| vec![i.lines.to_string(), stage, i.text.clone()]);
            table::print(&["LINES", "STAGE", "INSTRUCTION"], rows)
        }
        Command::Lint => {
            let warnings = lint(&file, source, &options).await?;
            let code =
                if arguments.error && !warnings.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            return Ok((warnings_text(&warnings, json), code));
        }
        Command::Targets if json => pretty(&file.targets()),
        Command::Targets => {
            let rows = file.targets().into_iter().map(|t| {
                let default = if t.default { "yes".to_owned() } else { String::new() };
                vec![t.name, default, t.base, t.platform, t.description]
            });
            table::print(&["TARGET", "DEFAULT", "FROM", "PLATFORM", "DESCRIPTION"], rows)
        }
        Command::Outline => {
            let outline = file.outline(&options, &Offline).await?;
            if json { pretty(&outline) } else { outline.to_text() }
        }
        Command::Llb | Command::Dot => {
            let definition = file.to_llb(&options, &Offline).await?.definition;
            let broken = |error| Error::new(ErrorKind::Graph, "the graph cannot be read").caused_by(error);
            match arguments.command {
                Command::Dot => definition.to_dot().map_err(broken)?,
                _ if json => definition.to_json_lines().map_err(broken)?,
                _ => {
                    table::print(&["STEP", "AFTER", "NAME"], steps(&definition).map_err(broken)?.into_iter())
                }
            }
        }
    };
    Ok((text, ExitCode::SUCCESS))
}

/// A row for each operation: digest, digests of its inputs, name.
fn steps(definition: &Definition) -> Result<Vec<Vec<String>>, buildkit_llb::Error> {
    let short = |digest: &str| digest.chars().skip("sha256:".len()).take(12).collect::<String>();
    let row = |op: buildkit_llb::DefinitionOp<'_>| {
        let inputs: Vec<_> = op.message()?.inputs.iter().map(|input| short(&input.digest)).collect();
        let name = op.metadata().description.get("llb.customname").cloned().unwrap_or_default();
        Ok(vec![short(&op.digest().to_string()), inputs.join(" "), name])
    };
    definition.ops().map(row).collect()
}

/// Every instruction with the name of its stage.
fn instructions(file: &Dockerfile) -> impl Iterator<Item = (String, Instruction)> {
    let global = file.args.iter().map(|arg| (String::new(), arg.clone()));
    let stages = file.stages.iter().enumerate().flat_map(|(n, stage)| {
        let name = stage.name.clone().unwrap_or_else(|| n.to_string());
        let from = Instruction {
            keyword: stage.keyword.clone(),
            text: stage.text.clone(),
            comments: stage.comments.clone(),
            span: stage.span,
            lines: stage.lines,
            // Only text and place are printed.
            kind: Kind::Shell(Vec::new()),
        };
        std::iter::once(from).chain(stage.instructions.clone()).map(move |i| (name.clone(), i))
    });
    global.chain(stages)
}

fn parsed(file: &Dockerfile) -> Value {
    let rows = instructions(file).map(|(stage, i)| {
        json!({
            "stage": stage,
            "keyword": i.keyword.to_uppercase(),
            "text": i.text,
            "comments": i.comments,
            "lines": [i.lines.start, i.lines.end],
            "bytes": [i.span.start, i.span.end],
        })
    });
    rows.collect()
}

/// Warnings about the text, then those of the conversion.
async fn lint(file: &Dockerfile, source: &[u8], options: &Options) -> Result<Vec<Warning>, Error> {
    let mut warnings = file.lint()?;
    // A file that cannot be converted still has a text to judge.
    match file.to_llb(options, &Offline).await {
        Ok(converted) => warnings.extend(converted.warnings),
        Err(error) => eprintln!("cannot convert: {error}\n{}", error.excerpt(source)),
    }
    warnings.sort_by_key(|warning| warning.lines);
    Ok(warnings)
}

fn warnings_text(warnings: &[Warning], json: bool) -> String {
    if json {
        let rows = warnings.iter().map(|w| {
            json!({
                "rule": w.rule.name,
                "message": w.message,
                "description": w.rule.description,
                "url": w.rule.url(),
                "lines": [w.lines.start, w.lines.end],
            })
        });
        return pretty(&rows.collect::<Value>());
    }
    let rows = warnings.iter().map(|w| vec![w.lines.to_string(), w.rule.name.to_owned(), w.message.clone()]);
    table::print(&["LINES", "RULE", "MESSAGE"], rows)
}

fn pretty(value: &impl serde::Serialize) -> String {
    let text =
        serde_json::to_string_pretty(value).unwrap_or_else(|error| json!(error.to_string()).to_string());
    text + "\n"
}

/// Every image exists, is for the platform that is asked for, and has no digest.
struct Offline;

#[async_trait::async_trait]
impl Resolver for Offline {
    async fn image(&self, request: &ImageRequest) -> Result<ResolvedImage, ResolveError> {
        let platform = request.platform.clone().unwrap_or(Platform::LINUX_AMD64);
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "variant": platform.variant,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{:064}", 0)]},
        });
        let config = serde_json::to_vec(&config)?.into();
        Ok(ResolvedImage { reference: request.reference.clone(), digest: String::new(), config })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, run};
    use clap::Parser as _;

    const SOURCE: &[u8] =
        b"ARG V=1\n# base what all stages share\nFROM alpine:$V as base\nRUN --mount=type=secret,id=key \
        make $X\nFROM scratch\nCOPY --from=base /a /\nCMD echo\n";

    async fn output(arguments: &[&str]) -> (String, String) {
        let arguments = Arguments::parse_from([&["dockerfile"], arguments].concat());
        let (text, code) = run(&arguments, SOURCE).await.unwrap();
        (text, format!("{code:?}"))
    }

    #[tokio::test]
    async fn each_command_prints_a_table_or_json() {
        for (command, about) in [
            ("parse", "RUN --mount=type=secret,id=key make $X"),
            ("lint", "FromAsCasing"),
            ("targets", "what all stages share"),
            ("outline", "key"),
            ("llb", "COPY --from=base /a /"),
        ] {
            let (text, _) = output(&[command]).await;
            assert!(text.contains(about), "{command}: {text}");
            let (text, _) = output(&[command, "--json"]).await;
            assert!(text.contains(about), "{command}: {text}");
            let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
            assert!(values.all(|value| value.is_ok()), "{command}: {text}");
        }
        let (dot, _) = output(&["dot"]).await;
        assert!(dot.starts_with("digraph") && dot.contains(" -> "), "{dot}");
    }

    #[tokio::test]
    async fn lint_fails_only_when_asked() {
        assert_ne!(output(&["lint"]).await.1, output(&["lint", "--error"]).await.1);
    }
}
