//! onbuild
