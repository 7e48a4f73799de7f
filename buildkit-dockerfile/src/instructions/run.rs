//! RUN.

use super::{CommandLine, RunDevice, RunMount};
use crate::parser::Heredoc;

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command; heredoc words are still in it.
    pub command: CommandLine,
    /// The heredocs announced in the command; never any for the JSON form.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<RunMount>,
    /// `--device`, in order.
    pub devices: Vec<RunDevice>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// The build's network.
    #[default]
    Default,
    /// No network.
    None,
    /// The network of the daemon's host.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// All privileges.
    Insecure,
}
