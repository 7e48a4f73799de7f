//! The operations of a build graph.

use buildkit_dockerfile::{Error, ErrorKind};
use buildkit_llb::Definition;
use serde::Serialize;

/// One operation.
#[derive(Serialize)]
pub(crate) struct Step {
    /// Its digest.
    pub(crate) digest: String,
    /// What progress calls it; empty for the last one, which only names the result.
    pub(crate) name: String,
    /// Digests of the operations it works on.
    pub(crate) inputs: Vec<String>,
}

impl Step {
    /// Enough of the digest for people.
    pub(crate) fn short(&self) -> &str {
        short(&self.digest)
    }

    /// The inputs, short.
    pub(crate) fn input_names(&self) -> String {
        self.inputs.iter().map(|digest| short(digest)).collect::<Vec<_>>().join(" ")
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// The operations of `definition`, inputs first.
pub(crate) fn steps(definition: &Definition) -> Result<Vec<Step>, Error> {
    let broken = |error| Error::new(ErrorKind::Graph, "the graph cannot be read").caused_by(error);
    definition
        .ops()
        .map(|op| {
            let message = op.message().map_err(broken)?;
            let name = op.metadata().description.get("llb.customname").cloned().unwrap_or_default();
            let inputs = message.inputs.into_iter().map(|input| input.digest).collect();
            Ok(Step { digest: op.digest().to_string(), name, inputs })
        })
        .collect()
}

/// The graph in the language of Graphviz.
pub(crate) fn dot(steps: &[Step]) -> String {
    let mut text = "digraph build {\n  node [shape=box];\n".to_owned();
    for step in steps {
        let label = if step.name.is_empty() { "result" } else { &step.name };
        text.push_str(&format!("  \"{}\" [label={label:?}];\n", step.short()));
    }
    for step in steps {
        for input in &step.inputs {
            text.push_str(&format!("  \"{}\" -> \"{}\";\n", short(input), step.short()));
        }
    }
    text + "}\n"
}
