//! BuildKit's wire contract: messages, services and the canonical bytes that digests are made of.
