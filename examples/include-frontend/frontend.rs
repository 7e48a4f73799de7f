//! Replaces each line `INCLUDE+ PATH` of a Dockerfile by the file at `PATH`
//! of the context, then lets the Dockerfile frontend build the result.

use std::collections::BTreeMap;

use buildkit_frontend::{BuildResult, Contexts, DefinitionFile, Error, Gateway, Result};
use buildkit_llb::scratch;

const WORD: &str = "INCLUDE+";

/// How deep files may include one another.
const DEPTH: usize = 16;

/// How long the expanded file may be, in bytes.
const LIMIT: usize = 4 << 20;

/// Builds the expanded Dockerfile.
pub(crate) async fn build(gateway: Gateway) -> Result<BuildResult> {
    let contexts = Contexts::open(&gateway).await?;
    let file = contexts.file("Dockerfile").await?;
    let expanded =
        Expansion { gateway: &gateway, contexts: &contexts, read: BTreeMap::new() }.run(&file).await?;
    // Inputs take the place of the client's directories.
    let dockerfile = gateway.marshal(&scratch().mkfile(format!("/{}", file.name), 0o644, expanded))?;
    let request = gateway.forward("dockerfile.v0").await?.option("filename", file.name.clone());
    gateway.solve(request.input("dockerfile", &dockerfile)).await
}

struct Expansion<'a> {
    gateway: &'a Gateway,
    contexts: &'a Contexts,
    /// The files that were read, by path.
    read: BTreeMap<String, String>,
}

/// A file that is being expanded.
struct Open {
    path: String,
    lines: std::vec::IntoIter<String>,
}

impl Expansion<'_> {
    async fn run(mut self, file: &DefinitionFile) -> Result<String> {
        let mut expanded = String::new();
        let open = |path: &str, text: &str| Open {
            path: path.into(),
            lines: text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>().into_iter(),
        };
        let mut stack = vec![open(&file.name, file.text()?)];
        let mut line_number = 0;
        while let Some(top) = stack.last_mut() {
            let Some(line) = top.lines.next() else {
                stack.pop();
                continue;
            };
            if stack.len() == 1 {
                line_number += 1;
            }
            let Some(path) = included(&line) else {
                expanded.push_str(&line);
                if expanded.len() > LIMIT {
                    return Err(
                        file.error(line_number..=line_number, "the expanded file is larger than 4 MiB")
                    );
                }
                continue;
            };
            if stack.len() > DEPTH || stack.iter().any(|open| open.path == path) {
                let way: Vec<_> = stack.iter().map(|open| open.path.as_str()).chain([path]).collect();
                let text = format!("files include one another: {}", way.join(" → "));
                return Err(file.error(line_number..=line_number, text));
            }
            let text = self.read(path).await.map_err(|error| {
                file.error(line_number..=line_number, format!("cannot include {path}: {}", error.report()))
            })?;
            stack.push(open(path, &text));
        }
        Ok(expanded)
    }

    async fn read(&mut self, path: &str) -> Result<String> {
        if let Some(text) = self.read.get(path) {
            return Ok(text.clone());
        }
        let tree = self.gateway.solve_state(&self.contexts.main_paths([path]).await?).await?;
        let bytes = tree.reference()?.read_file(path).await?;
        let mut text = String::from_utf8(bytes.to_vec())
            .map_err(|error| Error::context(format!("{path} is not text"), error))?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.read.insert(path.into(), text.clone());
        Ok(text)
    }
}

/// The path of an `INCLUDE+` line.
fn included(line: &str) -> Option<&str> {
    let rest = line.trim().strip_prefix(WORD)?;
    rest.starts_with(char::is_whitespace).then(|| rest.trim())
}
