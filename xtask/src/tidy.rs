//! `cargo xtask tidy`: the rules of the repository that a compiler does not know.

mod fuzzing;
mod manifests;
mod parity;
mod text;

use std::path::PathBuf;
use std::process::Command;

use crate::fail::{Context as _, Result};
use crate::reliability;
use crate::workspace::{output, root};

/// Checks every rule and reports all that is broken.
pub(crate) fn run() -> Result {
    let files = tracked()?;
    let mut broken = Vec::new();
    manifests::check(&mut broken)?;
    parity::check(&mut broken)?;
    text::check(&files, &mut broken)?;
    fuzzing::check(&mut broken)?;
    reliability::check(&files, &mut broken)?;
    if broken.is_empty() {
        println!("{} files are tidy", files.len());
        return Ok(());
    }
    Err(format!("not tidy:\n  {}", broken.join("\n  ")))
}

/// The files that git knows, relative to the root.
pub(crate) fn tracked() -> Result<Vec<PathBuf>> {
    let list = output(Command::new("git").current_dir(root()).args(["ls-files", "-z"]))
        .context("the list of files")?;
    let files = list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(files.filter(|path| root().join(path).is_file()).collect())
}
