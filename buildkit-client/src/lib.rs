//! An async client for BuildKit: solve with a session, progress, caches, history and the gateway.
