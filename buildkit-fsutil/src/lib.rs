//! File trees for BuildKit: ignore patterns, walk order, and the transfer protocol both ways.
//!
//! - [`pattern`]: the language of `.dockerignore` files and of include and exclude lists.
//! - [`source`]: trees that can be sent; [`directory`] and [`memory`] are two kinds.
//! - [`filter`], [`follow_links`] and [`walk`]: which entries are sent, and in which order.

mod beneath;
pub mod directory;
pub mod filter;
mod follow_links;
mod glob;
pub mod memory;
mod path;
pub mod pattern;
pub mod source;
pub mod stat;
mod tree;
pub mod walk;

pub use follow_links::follow_links;
pub use path::{Printable, compare};
