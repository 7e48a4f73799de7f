//! Platforms as they travel.

use buildkit_llb::Platform;
use buildkit_proto::pb;

pub(crate) fn to_wire(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.to_string(),
        os: platform.os.to_string(),
        variant: platform.variant.to_string(),
        os_version: platform.os_version.to_string(),
        os_features: platform.os_features.clone(),
    }
}

#[cfg(feature = "grpc")]
pub(crate) fn from_wire(wire: pb::Platform) -> Platform {
    let mut platform = Platform::new(wire.os, wire.architecture).with_variant(wire.variant);
    platform.os_version = wire.os_version.into();
    platform.os_features = wire.os_features;
    platform
}
