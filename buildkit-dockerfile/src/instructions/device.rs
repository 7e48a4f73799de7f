//! `RUN --device`.

use super::{csv, fail, parse_bool};
use crate::suggest::nearest;
use crate::{Result, expand};

/// A `--device` as written: its comma separated fields. See [`RunDevice::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDevice {
    /// The fields, CSV quotes removed.
    pub fields: Vec<String>,
}

impl RunDevice {
    /// Judges the fields. `expand` is called on each value, in order.
    ///
    /// # Errors
    ///
    /// What `expand` returns; an unknown key, a second name, a bad boolean. Errors have no place yet.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, expand::Error>) -> Result<Device> {
        let mut device = Device::default();
        for field in &self.fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = parse_bool(&value).ok_or_else(|| {
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
                    device.name = name;
                }
                _ if device.name.is_empty() => device.name.clone_from(field),
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

    pub(super) fn parse(value: &str) -> Result<Self> {
        let fields = csv::fields(value).map_err(|e| e.context("--device"))?;
        Ok(Self { fields })
    }
}

/// A judged `--device`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The name of a CDI device or class, e.g. `vendor.com/gpu=all`.
    pub name: String,
    /// Whether the step fails without it. Default: false.
    pub required: bool,
}
