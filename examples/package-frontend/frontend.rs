//! Builds an image from a TOML file such as
//!
//! ```toml
//! # syntax=registry.example/package-frontend
//! base = "alpine:3.22"
//! packages = ["curl", "git"]
//! command = ["curl", "--version"]
//!
//! [env]
//! LANG = "C.UTF-8"
//!
//! [files]
//! "scripts/start.sh" = "/usr/local/bin/start"
//! ```

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use buildkit_frontend::subrequest::{self, Description};
use buildkit_frontend::{BuildResult, Contexts, DefinitionFile, Gateway, ImageConfig, Options, Result};
use buildkit_llb::{Copy, Platform, State, sh};
use serde::{Deserialize, Serialize};

/// The name of the file when nobody says another.
const FILE: &str = "Packages.toml";

/// The subrequest that lists what would be installed.
const LIST: &str = "frontend.packages";

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    base: String,
    #[serde(default)]
    packages: Vec<String>,
    /// The program that takes the packages as arguments.
    #[serde(default = "apk")]
    install: String,
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Where files of the context go in the image, by their path.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

fn apk() -> String {
    "apk add --no-cache".into()
}

/// What [`LIST`] answers with.
#[derive(Debug, Serialize, Deserialize)]
struct Packages {
    base: String,
    packages: Vec<String>,
}

/// Builds the image, or answers a question.
pub(crate) async fn build(gateway: Gateway) -> Result<BuildResult> {
    gateway.require_frontend_caps(&["inputs", "subrequests", "contexts"])?;
    let contexts = Contexts::open(&gateway).await?;
    if let Some(question) = gateway.subrequest() {
        return answer(question, &contexts).await;
    }
    let file = contexts.file(FILE).await?;
    let image = parse(&file)?;
    if image.packages.is_empty() {
        let line = line_of(&file, "packages");
        gateway.warn(file.warning(&line, "There are no packages: the image is its base")).await?;
    }
    let context =
        if image.files.is_empty() { None } else { Some(contexts.main_paths(image.files.keys()).await?) };
    gateway
        .for_each_platform(async |platform| {
            let (base, config) =
                base(&gateway, &contexts, &image.base, &platform).await.map_err(|error| {
                    let line = line_of(&file, "base");
                    file.error(line, format!("cannot use {} as base: {}", image.base, error.report()))
                })?;
            let result = gateway.solve_state(&image.on(base, context.as_ref())).await?;
            Ok(result.with_config(image.config(config, gateway.options()).to_json()))
        })
        .await
}

/// The base and its config: the context that the client gave under this name, else the image.
async fn base(
    gateway: &Gateway,
    contexts: &Contexts,
    name: &str,
    platform: &Platform,
) -> Result<(State, ImageConfig)> {
    if let Some(context) = contexts.named_for(name, platform).await? {
        let config = context.config.unwrap_or_else(|| ImageConfig::new(platform));
        return Ok((context.state, config));
    }
    let image = gateway.base_image(name, platform).await?;
    Ok((image.state, image.config))
}

impl Image {
    /// The image's files: packages first, as they change least.
    fn on(&self, base: State, context: Option<&State>) -> State {
        let mut state = base;
        if !self.packages.is_empty() {
            let install = format!("{} {}", self.install, self.packages.join(" "));
            state = state.run(sh(install)).name(format!("install {}", self.packages.join(", "))).root();
        }
        let Some(context) = context else { return state };
        self.files.iter().fold(state, |state, (from, to)| {
            state.file(Copy::new(context, format!("/{from}"), to).create_dest())
        })
    }

    /// The base's config with the command and the variables of the file. A build argument of the same
    /// name goes before what the file says.
    fn config(&self, base: ImageConfig, options: &Options) -> ImageConfig {
        let config = self
            .env
            .iter()
            .fold(base, |config, (name, value)| config.env(name, options.build_arg(name).unwrap_or(value)));
        config.cmd(self.command.iter().cloned())
    }
}

/// Answers what is asked in place of a build.
async fn answer(question: &str, contexts: &Contexts) -> Result<BuildResult> {
    match question {
        subrequest::DESCRIBE => subrequest::describe(&[Description::new(LIST, "1.0.0", "List the packages")]),
        LIST => {
            let image = parse(&contexts.file(FILE).await?)?;
            let text = image.packages.join("\n");
            let packages = Packages { base: image.base, packages: image.packages };
            subrequest::answer("1.0.0", &packages, text)
        }
        other => Err(subrequest::unsupported(other)),
    }
}

fn parse(file: &DefinitionFile) -> Result<Image> {
    let text = file.text()?;
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or_default().split('\n').count();
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        file.error(line..=line, format!("{}: {}", file.name, error.message()))
    })
}

/// The line that sets a key, else the whole file's first.
fn line_of(file: &DefinitionFile, key: &str) -> RangeInclusive<u32> {
    let text = file.text().unwrap_or_default();
    let line = text.lines().position(|line| line.trim_start().starts_with(key)).unwrap_or(0);
    let line = u32::try_from(line + 1).unwrap_or(u32::MAX);
    line..=line
}
