//! `RUN --device`.

use super::{csv, fail, parse_bool};
use crate::Result;
use crate::suggest::nearest;

/// A `--device`. Nothing in it is expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The name of a CDI device or class, e.g. `vendor.com/gpu=all`.
    pub name: String,
    /// Whether the step fails without it. Default: false.
    pub required: bool,
}

impl Device {
    /// Reads comma separated fields. The first that is no key is the name.
    pub(super) fn parse(value: &str) -> Result<Self> {
        let mut device = Self::default();
        for field in csv::fields(value).map_err(|e| e.context("--device"))? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = parse_bool(value).ok_or_else(|| {
                        fail(format!("required of --device is true or false, not {value:?}"))
                    })?;
                }
                ("name", Some(name)) => {
                    if !device.name.is_empty() {
                        return Err(fail(format!(
                            "--device names {:?} and {name:?}; it takes one name",
                            device.name
                        )));
                    }
                    name.clone_into(&mut device.name);
                }
                _ if device.name.is_empty() => device.name = field,
                (key, Some(_)) => {
                    let error = fail(format!("--device has no key '{key}' (in '{field}')"));
                    return Err(error.did_you_mean(nearest(key, ["name", "required"])));
                }
                (_, None) => {
                    return Err(fail(format!(
                        "the field '{field}' of --device is not of the form key=value"
                    )));
                }
            }
        }
        Ok(device)
    }
}
