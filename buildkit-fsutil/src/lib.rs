//! File trees for BuildKit: ignore patterns, walk order, and the transfer protocol both ways.
