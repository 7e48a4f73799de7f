//! A complete Dockerfile frontend: parser, lint, and conversion to the LLB of the reference.
