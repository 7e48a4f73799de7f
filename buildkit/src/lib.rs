#![doc = include_str!("tutorial.md")]

#[cfg(feature = "client")]
pub use buildkit_client as client;
#[cfg(feature = "client")]
pub use buildkit_client::{
    Build, Client, Error, Retry, Secret, Session, Solve, Solved,
    cache::RegistryCache,
    docker_config::DockerConfig,
    export::Export,
    progress,
    request::{Frontend, Local},
    session::{secrets::SecretSource, ssh::SshSource},
    tls::Tls,
};
#[cfg(feature = "dockerfile")]
pub use buildkit_dockerfile as dockerfile;
#[cfg(feature = "dockerfile")]
pub use buildkit_dockerfile::Dockerfile;
pub use buildkit_frontend as frontend;
pub use buildkit_frontend::Gateway;
pub use buildkit_llb as llb;
pub use buildkit_llb::{Platform, State};

/// The front page of the crate, so that its examples compile.
#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
mod readme {}
