//! A typed builder for LLB, BuildKit's build graph, with the digests of the reference implementation.

pub mod platform;

pub use platform::Platform;
