//! Where things are, and how commands are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fail::{Context as _, Result};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with its output shown; fails if it does.
pub(crate) fn show(command: &mut Command) -> Result {
    let words = words(command);
    let status = command.stdin(Stdio::null()).status().context(&words)?;
    if status.success() { Ok(()) } else { Err(format!("`{words}` failed: {status}")) }
}

/// Runs a command and returns what it prints; its errors are told, not shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let words = words(command);
    let output = command.stdin(Stdio::null()).output().context(&words)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{words}` failed: {}\n{}", output.status, said.trim_end()))
}

/// Whether a program is on the search path.
pub(crate) fn installed(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|place| place.join(program).is_file())
}

/// A command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}
