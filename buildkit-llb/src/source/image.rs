//! `docker-image://`

use std::panic::Location;

use super::SourceOp;
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::error::ErrorKind;
use crate::graph::Site;
use crate::reference::Reference;
use crate::state::State;

/// An image of a registry: `alpine`, `quay.io/foo/bar:1`, `…@sha256:…`.
///
/// The image's own environment and directory are not known here: see [`State::image_config`].
#[track_caller]
pub fn image(reference: impl Into<String>) -> State {
    Image::new(reference).into()
}

/// An [`image`](image()) with options.
#[derive(Debug, Clone)]
#[must_use = "an image is part of the graph only if it is used as a state"]
pub struct Image {
    reference: String,
    resolve: ResolveMode,
    record: RecordType,
    layer_limit: Option<u32>,
    checksum: String,
    constraints: Constraints,
    site: Site,
}

/// Where an image is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ResolveMode {
    /// As the daemon is set up.
    #[default]
    Default,
    /// In the registry, even if the daemon has it.
    Pull,
    /// In the daemon, and in the registry only if it does not have it.
    Local,
}

/// Why an image is there, for the daemon's disk usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Nothing special.
    #[default]
    Unset,
    /// The daemon needs it for itself.
    Internal,
    /// It is a frontend.
    Frontend,
    /// Part of a build.
    Regular,
}

impl Image {
    /// The image `reference`; without a tag and a digest it is `latest`.
    #[track_caller]
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            resolve: ResolveMode::Default,
            record: RecordType::Unset,
            layer_limit: None,
            checksum: String::new(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// Looks for the image in the registry even if the daemon has it.
    pub fn always_pull(self) -> Self {
        self.resolve_mode(ResolveMode::Pull)
    }

    /// Where the image is looked for.
    pub fn resolve_mode(mut self, mode: ResolveMode) -> Self {
        self.resolve = mode;
        self
    }

    /// Why the image is there.
    pub fn record_type(mut self, record: RecordType) -> Self {
        self.record = record;
        self
    }

    /// Takes only the first `layers` layers; at least 1.
    pub fn layer_limit(mut self, layers: u32) -> Self {
        self.layer_limit = Some(layers);
        self
    }

    /// Fails unless the image's manifest has this digest.
    pub fn checksum(mut self, digest: impl Into<String>) -> Self {
        self.checksum = digest.into();
        self
    }
}

impl From<Image> for State {
    fn from(image: Image) -> Self {
        let mut op = match Reference::parse_normalized(&image.reference) {
            Ok(reference) => {
                SourceOp::new(format!("docker-image://{}", reference.with_default_tag()), Cap::SOURCE_IMAGE)
            }
            Err(error) => SourceOp {
                error: Some(ErrorKind::Reference(error)),
                ..SourceOp::new(format!("docker-image://{}", image.reference), Cap::SOURCE_IMAGE)
            },
        };
        op.platform = true;
        match image.resolve {
            ResolveMode::Default => {}
            ResolveMode::Pull => {
                op.attr("image.resolvemode", "pull");
                op.caps.insert(Cap::SOURCE_IMAGE_RESOLVEMODE);
            }
            ResolveMode::Local => op.attr("image.resolvemode", "local"),
        }
        match image.record {
            RecordType::Unset => {}
            RecordType::Internal => op.attr("image.recordtype", "internal"),
            RecordType::Frontend => op.attr("image.recordtype", "frontend"),
            RecordType::Regular => op.attr("image.recordtype", "regular"),
        }
        if let Some(layers) = image.layer_limit {
            op.attr("image.layerlimit", layers.to_string());
            op.caps.insert(Cap::SOURCE_IMAGE_LAYERLIMIT);
        }
        if !image.checksum.is_empty() {
            op.attr("image.checksum", image.checksum);
            op.caps.insert(Cap::SOURCE_IMAGE_CHECKSUM);
        }
        op.state(image.constraints, image.site)
    }
}
