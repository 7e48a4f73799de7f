//! `docker-image+blob://` and `oci-layout+blob://`

use std::panic::Location;

use super::{FileOptions, SourceOp, file_setters};
use crate::caps::Cap;
use crate::constraints::{Constraints, constraint_setters};
use crate::error::ErrorKind;
use crate::graph::Site;
use crate::reference::Reference;
use crate::state::State;

/// One blob of a registry, as a file. Needs BuildKit 0.28.
#[derive(Debug, Clone)]
#[must_use = "a blob is part of the graph only if it is used as a state"]
pub struct ImageBlob {
    reference: String,
    file: FileOptions,
    constraints: Constraints,
    site: Site,
}

impl ImageBlob {
    /// The blob `name@sha256:…`.
    #[track_caller]
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            file: FileOptions::default(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
    file_setters!();
}

impl From<ImageBlob> for State {
    fn from(blob: ImageBlob) -> Self {
        let mut op = blob_op("docker-image+blob", &blob.reference);
        blob.file.apply(&mut op);
        op.state(blob.constraints, blob.site)
    }
}

/// One blob of an OCI layout that the client serves, as a file. Needs BuildKit 0.28.
#[derive(Debug, Clone)]
#[must_use = "a blob is part of the graph only if it is used as a state"]
pub struct OciLayoutBlob {
    reference: String,
    session: String,
    store: String,
    file: FileOptions,
    constraints: Constraints,
    site: Site,
}

impl OciLayoutBlob {
    /// The blob `name@sha256:…` of the content store `store` of the client whose session is `session`. An
    /// empty session is that of the build.
    #[track_caller]
    pub fn new(reference: impl Into<String>, session: impl Into<String>, store: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            session: session.into(),
            store: store.into(),
            file: FileOptions::default(),
            constraints: Constraints::new(),
            site: Location::caller(),
        }
    }

    fn constraints_mut(&mut self) -> &mut Constraints {
        &mut self.constraints
    }

    constraint_setters!();
    file_setters!();
}

impl From<OciLayoutBlob> for State {
    fn from(blob: OciLayoutBlob) -> Self {
        let mut op = blob_op("oci-layout+blob", &blob.reference);
        blob.file.apply(&mut op);
        op.attr_some("oci.session", blob.session);
        op.attr_some("oci.store", blob.store);
        op.state(blob.constraints, blob.site)
    }
}

fn blob_op(scheme: &str, reference: &str) -> SourceOp {
    let checked = match Reference::parse_normalized(reference) {
        Err(error) => Err(ErrorKind::Reference(error)),
        Ok(parsed) if parsed.tag().is_some() => Err(ErrorKind::BlobTagged),
        Ok(parsed) if parsed.digest().is_none() => Err(ErrorKind::BlobWithoutDigest),
        Ok(parsed) => Ok(parsed),
    };
    match checked {
        Ok(parsed) => SourceOp::new(format!("{scheme}://{parsed}"), Cap::SOURCE_IMAGEBLOB),
        Err(kind) => SourceOp {
            error: Some(kind),
            ..SourceOp::new(format!("{scheme}://{reference}"), Cap::SOURCE_IMAGEBLOB)
        },
    }
}
