//! Support for the tests of the workspace: a real BuildKit, a scripted one, registries, case loaders.

pub mod canary;
pub mod conformance;
pub mod daemon;
pub mod dockerfiles;
pub mod fake;
pub mod fault_proxy;
pub mod frontends;
pub mod git_server;
pub mod lag;
pub mod oci;
pub mod polls;
pub mod spare;
pub mod tls;
pub mod token_registry;

/// The guides compile and run.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/guide/auth.md")]
    mod auth {}
    #[doc = include_str!("../../docs/guide/connect.md")]
    mod connect {}
    #[doc = include_str!("../../docs/guide/debug.md")]
    mod debug {}
    #[doc = include_str!("../../docs/guide/history.md")]
    mod history {}
    #[doc = include_str!("../../docs/guide/dockerfile.md")]
    mod dockerfile {}
    #[doc = include_str!("../../docs/guide/frontends.md")]
    mod frontends {}
    #[doc = include_str!("../../docs/guide/contexts.md")]
    mod contexts {}
    #[doc = include_str!("../../docs/guide/exports.md")]
    mod exports {}
    #[doc = include_str!("../../docs/guide/caching.md")]
    mod caching {}
    #[doc = include_str!("../../docs/guide/llb.md")]
    mod llb_graphs {}
    #[doc = include_str!("../../docs/concepts/llb.md")]
    mod llb {}
    #[doc = include_str!("../../docs/concepts/session.md")]
    mod session {}
    #[doc = include_str!("../../docs/guide/progress.md")]
    mod progress {}
    #[doc = include_str!("../../docs/guide/secrets-ssh.md")]
    mod secrets_ssh {}
}
