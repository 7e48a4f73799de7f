//! Code made from `proto/` by `tests/regenerate.rs`; the nesting follows the
//! protobuf packages because the files refer to one another that way.
#![allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, clippy::pedantic)]

pub mod pb {
    include!("pb.rs");
}

pub mod errdefs {
    include!("errdefs.rs");
}

pub mod fsutil {
    pub mod types {
        include!("fsutil.types.rs");
    }
}

pub mod google {
    pub mod rpc {
        include!("google.rpc.rs");
    }
}

pub mod grpc {
    pub mod health {
        pub mod v1 {
            include!("grpc.health.v1.rs");
        }
    }
}

pub mod containerd {
    pub mod services {
        pub mod content {
            pub mod v1 {
                include!("containerd.services.content.v1.rs");
            }
        }
    }
}

pub mod moby {
    pub mod buildkit {
        pub mod v1 {
            include!("moby.buildkit.v1.rs");

            pub mod apicaps {
                include!("moby.buildkit.v1.apicaps.rs");
            }

            pub mod frontend {
                include!("moby.buildkit.v1.frontend.rs");
            }

            pub mod sourcepolicy {
                include!("moby.buildkit.v1.sourcepolicy.rs");

                pub mod policysession {
                    include!("moby.buildkit.v1.sourcepolicy.policysession.rs");
                }
            }

            pub mod types {
                include!("moby.buildkit.v1.types.rs");
            }
        }

        pub mod secrets {
            pub mod v1 {
                include!("moby.buildkit.secrets.v1.rs");
            }
        }
    }

    pub mod exporter {
        pub mod v1 {
            include!("moby.exporter.v1.rs");
        }
    }

    pub mod filesync {
        pub mod v1 {
            include!("moby.filesync.v1.rs");
        }
    }

    pub mod sshforward {
        pub mod v1 {
            include!("moby.sshforward.v1.rs");
        }
    }

    pub mod upload {
        pub mod v1 {
            include!("moby.upload.v1.rs");
        }
    }
}

pub mod opentelemetry {
    pub mod proto {
        pub mod collector {
            pub mod trace {
                pub mod v1 {
                    include!("opentelemetry.proto.collector.trace.v1.rs");
                }
            }
        }
    }
}
