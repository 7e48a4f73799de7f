//! `RUN --device`.

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
        let _ = expand;
        Err(crate::Error::new(crate::ErrorKind::Instruction, "devices are not read yet"))
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
