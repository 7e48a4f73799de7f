//! `oci-layout://`

use std::panic::Location;

use super::SourceOp;
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::graph::Site;
use crate::state::State;

/// An image of an OCI layout that the client serves.
#[derive(Debug, Clone)]
#[must_use = "an image is part of the graph only if it is used as a state"]
pub struct OciLayout {
    reference: String,
    session: String,
    store: String,
    layer_limit: Option<u32>,
    constraints: Constraints,
    site: Site,
}

impl OciLayout {
    /// The image `reference`, which is taken as it is and must have a digest: `name@sha256:…`.
    #[track_caller]
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            session: String::new(),
            store: String::new(),
            layer_limit: None,
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();

    /// The content store of the client that has the layout, and the session of that client. An empty session
    /// is that of the build.
    pub fn store(mut self, session: impl Into<String>, store: impl Into<String>) -> Self {
        self.session = session.into();
        self.store = store.into();
        self
    }

    /// Takes only the first `layers` layers; at least 1.
    pub fn layer_limit(mut self, layers: u32) -> Self {
        self.layer_limit = Some(layers);
        self
    }
}

impl From<OciLayout> for State {
    fn from(layout: OciLayout) -> Self {
        let mut op = SourceOp::new(format!("oci-layout://{}", layout.reference), Cap::SOURCE_OCILAYOUT);
        op.platform = true;
        op.attr_some("oci.session", layout.session);
        op.attr_some("oci.store", layout.store);
        if let Some(layers) = layout.layer_limit {
            op.attr("oci.layerlimit", layers.to_string());
        }
        op.state(layout.constraints, layout.site)
    }
}
