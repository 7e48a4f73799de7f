//! File trees for BuildKit: ignore patterns, walk order, and the transfer protocol both ways.
//!
//! - [`pattern`]: the language of `.dockerignore` files and of include and exclude lists.
//! - [`source`]: trees that can be sent; [`directory`], [`tar`] and [`memory`] are three kinds.
//! - [`filter`], [`follow_links`] and [`walk`]: which entries are sent, and in which order.
//! - with the feature `transfer`: [`send`](send::send) a tree, [`receive`](receive::receive) one, for example with a
//!   [`DiskWriter`](disk_writer::DiskWriter).

mod beneath;
#[cfg(feature = "transfer")]
pub mod destination;
pub mod directory;
#[cfg(feature = "transfer")]
pub mod disk_writer;
#[cfg(feature = "transfer")]
pub mod error;
pub mod filter;
mod follow_links;
mod glob;
pub mod memory;
#[cfg(feature = "transfer")]
mod order;
#[cfg(feature = "transfer")]
pub mod packets;
mod path;
pub mod pattern;
#[cfg(feature = "transfer")]
pub mod receive;
#[cfg(feature = "transfer")]
pub mod send;
pub mod source;
pub mod stat;
pub mod tar;
mod tree;
pub mod walk;

pub use follow_links::follow_links;
pub use path::{Printable, compare};
