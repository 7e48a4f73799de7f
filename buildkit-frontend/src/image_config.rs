//! Image configs: what an image runs, in OCI's JSON with Docker's fields.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildkit_llb::Platform;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::output::IMAGE_CONFIG;

/// The image config in the metadata that a client gives with an input, the option `input-metadata:INPUT`: a JSON
/// object of texts in base64. `None` when nothing is said of an image; empty where it says `null`, which no reader of
/// configs takes.
///
/// # Errors
/// When the metadata is anything else.
pub fn input_image_config(metadata: &str) -> Result<Option<Bytes>> {
    let damaged = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::context("the metadata of the input is no JSON object of base64 texts", error)
            .or_code(Code::InvalidArgument)
    };
    let metadata: Option<BTreeMap<String, Option<String>>> =
        serde_json::from_str(metadata).map_err(|error| damaged(error.into()))?;
    let Some(config) = metadata.unwrap_or_default().remove(IMAGE_CONFIG) else { return Ok(None) };
    let config = STANDARD.decode(config.unwrap_or_default()).map_err(|error| damaged(error.into()))?;
    Ok(Some(config.into()))
}

/// The config of an image.
///
/// Fields this type does not know are kept, so that a config can be read,
/// changed and written without loss.
///
/// ```
/// use buildkit_frontend::ImageConfig;
/// use buildkit_llb::Platform;
///
/// let config = ImageConfig::new(&Platform::LINUX_AMD64).env("LANG", "C.UTF-8").cmd(["/hello"]);
/// assert_eq!(
///     config.to_json(),
///     r#"{"architecture":"amd64","os":"linux","config":{"Env":["LANG=C.UTF-8"],"Cmd":["/hello"]}}"#
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[must_use = "setters return the changed config"]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// The processor architecture, such as `amd64`.
    pub architecture: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features the operating system must have.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub os_features: Vec<String>,
    /// The variant of the architecture, such as `v7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// What is run and how.
    #[serde(deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// Everything else, such as `rootfs` and `history`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What an image runs and how.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User and group, as in `app:1000`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that are of interest, as in `80/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// The environment, as in `KEY=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The program that is always run.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program without entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Directories that hold data.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Value>,
    /// The working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it, such as `SIGTERM`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Everything else, such as `Healthcheck` and `Shell`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Go writes an absent list as `null`.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// The config of an empty image for a platform.
    pub fn new(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.to_string(),
            os: platform.os.to_string(),
            os_version: platform.os_version.to_string(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.to_string(),
            ..Self::default()
        }
    }

    /// Reads a config, for example of the image to build on.
    ///
    /// # Errors
    /// When it is not a config.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map_err(|error| Error::context("the image config is damaged", error))
    }

    /// The config as JSON.
    pub fn to_json(&self) -> Bytes {
        // A struct of texts and JSON values always serializes.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        let mut platform =
            Platform::new(self.os.clone(), self.architecture.clone()).with_variant(self.variant.clone());
        platform.os_version = self.os_version.clone().into();
        platform.os_features.clone_from(&self.os_features);
        platform
    }

    /// Sets an environment variable; one of the same name is replaced.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let entry = format!("{name}={value}");
        let same = |old: &&mut String| old.split_once('=').map_or(old.as_str(), |(key, _)| key) == name;
        match self.config.env.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.config.env.push(entry),
        }
        self
    }

    /// Sets the program that is always run.
    pub fn entrypoint<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.config.entrypoint = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the arguments of the entrypoint, or the program without one.
    pub fn cmd<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.config.cmd = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, path: impl Into<String>) -> Self {
        self.config.working_dir = path.into();
        self
    }

    /// Sets the user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = user.into();
        self
    }

    /// Sets a label.
    pub fn label(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.config.labels.insert(name.into(), text.into());
        self
    }

    /// Says that a port such as `80/tcp` is of interest.
    pub fn expose(mut self, port: impl Into<String>) -> Self {
        self.config.exposed_ports.insert(port.into(), Value::Object(Map::new()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_survives() {
        let json = r#"{"architecture":"arm","os":"linux","variant":"v7","config":{"Env":["A=1"],"Healthcheck":{"Test":["NONE"]}},"history":[{"created_by":"x"}],"rootfs":{"type":"layers"}}"#;
        assert_eq!(ImageConfig::from_json(json.as_bytes()).unwrap().to_json(), json);
    }

    #[test]
    fn nulls_of_go_are_empty_and_variables_are_replaced() {
        let config = ImageConfig::from_json(br#"{"config":{"Env":null,"Cmd":null,"Labels":null}}"#).unwrap();
        let config = config.env("A", "1").env("AB", "2").env("A", "3");
        assert_eq!(config.config.env, ["A=3", "AB=2"]);
        let none = ImageConfig::from_json(br#"{"config":null}"#).unwrap();
        assert_eq!(none.config, ContainerConfig::default());
    }
}
