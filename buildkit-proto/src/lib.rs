//! BuildKit's wire contract: every message and service a client, a frontend
//! or a session speaks, and the canonical bytes that vertex digests are made
//! of.
//!
//! Each public module is one part of the contract, named after what it is
//! for. The names inside are those of the contract in Rust's spelling; maps
//! are ordered and `bytes` fields are [`bytes::Bytes`], so that received
//! payloads are not copied. Clients and servers of the services are there
//! with the feature `grpc`.
//!
//! ```
//! use buildkit_proto::{canonical, pb};
//!
//! let op = pb::Op {
//!     op: Some(pb::op::Op::Source(pb::SourceOp {
//!         identifier: "local://context".into(),
//!         ..Default::default()
//!     })),
//!     constraints: Some(pb::WorkerConstraints::default()),
//!     ..Default::default()
//! };
//! // The op comes last on the wire: prost alone would put it first.
//! assert_eq!(canonical::encode_op(&op)[..2], [0x5a, 0x00]);
//! ```

pub mod bounded;
pub mod canonical;
#[cfg(feature = "grpc")]
pub mod checked;
mod definition;
pub mod filesync;
mod generated;
mod redact;

/// The graph: ops, definitions, source maps.
pub mod pb {
    pub use crate::generated::pb::*;
}

/// The daemon's API for clients: solve, status, session, cache and history.
pub mod control {
    pub use crate::generated::moby::buildkit::v1::{
        BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, BuildResultInfo,
        BytesMessage, CacheOptions, CacheOptionsEntry, Descriptor, DiskUsageRequest, DiskUsageResponse,
        Exporter, InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest,
        SolveRequest, SolveResponse, StatusRequest, StatusResponse, UpdateBuildHistoryRequest,
        UpdateBuildHistoryResponse, UsageRecord, Vertex, VertexLog, VertexStatus, VertexWarning,
    };
    #[cfg(feature = "grpc")]
    pub use crate::generated::moby::buildkit::v1::{control_client, control_server};
}

/// What a daemon says about its workers.
pub mod worker {
    pub use crate::generated::moby::buildkit::v1::types::*;
}

/// The API a frontend builds with.
pub mod gateway {
    pub use crate::generated::moby::buildkit::v1::frontend::*;
}

/// Rules about which sources a build may use.
pub mod sourcepolicy {
    pub use crate::generated::moby::buildkit::v1::sourcepolicy::{
        AttrConstraint, AttrMatch, MatchType, Policy, PolicyAction, Rule, Selector, Update,
    };
}

/// The daemon asks the client whether a source may be used.
pub mod policysession {
    pub use crate::generated::moby::buildkit::v1::sourcepolicy::policysession::*;
}

/// Capabilities of a daemon.
pub mod caps {
    pub use crate::generated::moby::buildkit::v1::apicaps::ApiCap;
}

/// Details of build errors; they travel as JSON.
pub mod errdefs {
    pub use crate::generated::errdefs::*;
}

/// The wire format of file trees.
pub mod fsutil {
    pub use crate::generated::fsutil::types::*;
}

/// Registry credentials and tokens, served by the client.
pub mod auth {
    pub use crate::generated::moby::filesync::v1::{
        CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
        GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
        VerifyTokenAuthorityResponse,
    };
    #[cfg(feature = "grpc")]
    pub use crate::generated::moby::filesync::v1::{auth_client, auth_server};
}

/// Secrets, served by the client.
pub mod secrets {
    pub use crate::generated::moby::buildkit::secrets::v1::*;
}

/// SSH agents, served by the client.
pub mod sshforward {
    pub use crate::generated::moby::sshforward::v1::*;
}

/// Streams the client offers under a URL.
pub mod upload {
    pub use crate::generated::moby::upload::v1::*;
}

/// Lets the client choose exporters when the result is known.
pub mod exporter {
    pub use crate::generated::moby::exporter::v1::*;
}

/// containerd's content store, on the daemon and on the session.
pub mod content {
    pub use crate::generated::containerd::services::content::v1::*;
}

/// The health check of gRPC, which every session must answer.
pub mod health {
    pub use crate::generated::grpc::health::v1::*;
}

/// The error model of gRPC.
pub mod rpc {
    pub use crate::generated::google::rpc::Status;
}

/// Messages of protobuf itself that the others are made of.
pub mod well_known {
    pub use prost_types::{Any, FieldMask, Timestamp};
}

/// The collector of OpenTelemetry traces.
pub mod trace {
    pub use crate::generated::opentelemetry::proto::collector::trace::v1::*;
}
