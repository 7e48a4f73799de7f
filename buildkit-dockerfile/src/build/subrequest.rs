//! Questions about a Dockerfile instead of a build.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit_frontend::{BuildResult, subrequest};
use serde::Serialize;

use crate::Dockerfile;
use crate::lower::go_json;
use crate::outline::{Outline, Target, outline, table};

use super::{Driver, convertllb, plain, report};

const JSON: &str = "result.json";
const TEXT: &str = "result.txt";
const VERSION: &str = "version";

/// What the answer to `frontend.subrequests.describe` lists.
#[derive(Serialize)]
struct Described {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

#[derive(Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

/// An outline with the Dockerfile it is of.
#[derive(Serialize)]
struct OutlineAnswer {
    #[serde(flatten)]
    outline: Outline,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetsAnswer {
    targets: Vec<Target>,
    sources: [String; 1],
}

impl Driver<'_> {
    /// Answers the subrequest `name`.
    pub(super) async fn subrequest(&self, name: &str) -> buildkit_frontend::Result<BuildResult> {
        match name {
            "frontend.subrequests.describe" => describe(),
            "frontend.targets" => self.targets(),
            "frontend.outline" => self.outline().await,
            "frontend.lint" => self.lint().await,
            "frontend.convertllb" => self.convertllb().await,
            other => Err(subrequest::unsupported(other)),
        }
    }

    fn sources(&self) -> [String; 1] {
        [STANDARD.encode(&self.entrypoint.data)]
    }

    fn targets(&self) -> buildkit_frontend::Result<BuildResult> {
        let file = Dockerfile::parse(&self.entrypoint.data).map_err(plain)?;
        let targets = file.targets();
        let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
        rows.extend(targets.iter().map(|t| {
            let name = match (t.name.as_str(), t.default) {
                ("", true) => "(default)".to_owned(),
                (name, true) => format!("{name} (default)"),
                (name, false) => name.to_owned(),
            };
            vec![name, t.description.clone()]
        }));
        answer("1.0.0", &TargetsAnswer { targets, sources: self.sources() }, Some(table(&rows, 1)))
    }

    async fn outline(&self) -> buildkit_frontend::Result<BuildResult> {
        let conversion = self.conversion(None);
        let mut linter = self.linter()?;
        let mut file = None;
        let evaluated = self.evaluate(&conversion, &mut file, &mut linter).await?.map_err(plain)?;
        let outline = outline(&evaluated);
        let text = outline.to_text();
        answer("1.0.0", &OutlineAnswer { outline, sources: self.sources() }, Some(text))
    }

    async fn lint(&self) -> buildkit_frontend::Result<BuildResult> {
        let mut conversion = self.conversion(None);
        conversion.all_stages = self.contexts.options.target.is_empty();
        let mut report = report::Report::new(&self.entrypoint.info);
        match crate::lower::convert::linter(&self.entrypoint.data, self.contexts.options) {
            Err(error) => report.error(&error),
            Ok(mut linter) => {
                let outcome = match Dockerfile::parse_with(&self.entrypoint.data, &mut linter) {
                    Ok(file) => conversion.evaluate(&file, &mut linter).await.map(drop),
                    Err(error) => Err(error),
                };
                report.warnings(&linter.take_warnings());
                if let Err(error) = outcome {
                    report.error(&error);
                }
            }
        }
        let status = if report.is_clean() { "0" } else { "1" };
        let text = report.to_text(&self.entrypoint.data);
        Ok(answer("1.0.0", &report, Some(text))?.with_metadata("result.statuscode", status))
    }

    async fn convertllb(&self) -> buildkit_frontend::Result<BuildResult> {
        let conversion = self.conversion(None);
        let mut linter = self.linter()?;
        let mut file = None;
        let evaluated = self.evaluate(&conversion, &mut file, &mut linter).await?.map_err(plain)?;
        let graph = conversion.graph(&evaluated).await.map_err(plain)?;
        let definition = graph.marshal().map_err(plain)?;
        let value = convertllb::definition(&definition).map_err(plain)?;
        answer("0.1.0", &value, None)
    }
}

fn answer(
    version: &str,
    value: &impl Serialize,
    text: Option<String>,
) -> buildkit_frontend::Result<BuildResult> {
    let mut result = BuildResult::default()
        .with_metadata(JSON, go_json::to_vec_indented(value)?)
        .with_metadata(VERSION, version.to_owned());
    if let Some(text) = text {
        result = result.with_metadata(TEXT, text);
    }
    Ok(result)
}

fn describe() -> buildkit_frontend::Result<BuildResult> {
    let named = |name| Named { name, description: "" };
    let entry = |name, description, opts| Described {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: vec![named(JSON), named(TEXT)],
        refs: None,
    };
    let target = Named { name: "target", description: "Stage to describe" };
    let list = [
        entry(
            "frontend.outline",
            "Lists what the chosen target takes: arguments, secrets, SSH agents",
            Some(vec![target]),
        ),
        entry("frontend.targets", "Lists the targets of the Dockerfile", Some(Vec::new())),
        entry("frontend.subrequests.describe", "Lists the subrequests of this frontend", None),
    ];
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(|d| {
        let short = d.name.strip_prefix("frontend.").unwrap_or(d.name);
        vec![short.to_owned(), d.version.to_owned(), d.description.to_owned()]
    }));
    answer("1.0.0", &list, Some(table(&rows, 1)))
}
