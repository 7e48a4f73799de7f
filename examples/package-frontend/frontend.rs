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
use buildkit_frontend::{BuildResult, Contexts, DefinitionFile, Gateway, ImageConfig, Result};
use buildkit_llb::{State, sh};
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
    /// Files of the context, by their place in the image.
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

/// Builds the image, or answers a subrequest.
pub(crate) async fn build(gateway: Gateway) -> Result<BuildResult> {
    gateway.require_frontend_caps(&["inputs", "subrequests", "contexts"])?;
    let contexts = Contexts::open(&gateway).await?;
    match gateway.subrequest() {
        None => {}
        Some(subrequest::DESCRIBE) => {
            return subrequest::describe(&[Description::new(LIST, "1.0.0", "List the packages")]);
        }
        Some(LIST) => {
            let image = parse(&contexts.file(FILE).await?)?;
            let text = image.packages.join("\n");
            return subrequest::answer(
                "1.0.0",
                &Packages { base: image.base, packages: image.packages },
                text,
            );
        }
        Some(other) => return Err(subrequest::unsupported(other)),
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
            let base = gateway.base_image(&image.base, &platform).await.map_err(|error| {
                let line = line_of(&file, "base");
                file.error(line, format!("cannot use {} as base: {}", image.base, error.report()))
            })?;
            let result = gateway.solve_state(&image.on(base.state, context.as_ref())).await?;
            Ok(result.with_config(image.config(base.config).to_json()))
        })
        .await
}

impl Image {
    /// The image's files: packages first, as they change least.
    fn on(&self, base: State, context: Option<&State>) -> State {
        let mut state = base;
        if !self.packages.is_empty() {
            let install = format!("{} {}", self.install, self.packages.join(" "));
            state = state.run(sh(install)).name(format!("install {}", self.packages.join(", "))).root();
        }
        match context {
            Some(context) => {
                self.files.iter().fold(state, |state, (from, to)| state.copy(context, format!("/{from}"), to))
            }
            None => state,
        }
    }

    /// The base's config with the command and variables of the file.
    fn config(&self, base: ImageConfig) -> ImageConfig {
        let config = self.env.iter().fold(base, |config, (name, value)| config.env(name, value));
        config.cmd(self.command.iter().cloned())
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
