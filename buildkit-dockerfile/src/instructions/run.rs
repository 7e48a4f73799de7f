//! RUN.

use super::flags::{Flags, Known, Type};
use super::parse::Request;
use super::{CommandLine, Device, RunMount, fail};
use crate::Result;
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
    pub devices: Vec<Device>,
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

const FLAGS: &Known =
    &[("mount", Type::List), ("network", Type::Text), ("security", Type::Text), ("device", Type::List)];

pub(super) fn parse(request: Request) -> Result<Run> {
    let flags = Flags::parse(&request.keyword, &request.flags, FLAGS)?;
    let devices = flags.list("device").map(Device::parse).collect::<Result<_>>()?;
    let mounts = flags.list("mount").map(RunMount::parse).collect::<Result<_>>()?;
    let network = match flags.given("network") {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(fail(format!("the network is default, none or host, not {other:?}"))),
    };
    let security = match flags.given("security") {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(fail(format!("the security is sandbox or insecure, not {other:?}"))),
    };
    let command = CommandLine::new(Request::words(request.args));
    Ok(Run { command, heredocs: request.heredocs, mounts, devices, network, security })
}
