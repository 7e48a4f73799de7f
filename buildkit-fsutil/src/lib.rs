//! File trees for BuildKit: ignore patterns, walk order, and the transfer protocol both ways.
//!
//! - [`pattern`]: the language of `.dockerignore` files and of include and exclude lists.

mod clean;
mod glob;
pub mod pattern;
