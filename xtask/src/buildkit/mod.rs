//! A real BuildKit for tests, from Debian's own packages, with its registries and base image.
//!
//! A generation of BuildKit is the dockerd of a Debian suite, bootstrapped into a folder that is
//! kept (see [`state::cache_dir`]) and started in namespaces of its own, so that ending one process
//! ends all of it and no mount is left behind. Two of its doors are offered: the engine's socket
//! (`docker://`), and a TCP port that ends at the same control API ([`bridge`]).

mod bridge;
mod daemon;
mod http;
mod process;
mod provision;
mod registry;
mod seed;
mod state;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::fail::Result;

pub(crate) use self::daemon::Generation;
pub(crate) use self::registry::{PASSWORD, Registry};
pub(crate) use self::state::State;

/// What can be done with the BuildKit for tests.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Provision what is missing, then start it; does nothing where it already runs
    Up {
        /// Which generation; may be given more than once
        #[arg(long = "generation", value_enum, default_value = "sid")]
        generations: Vec<Generation>,
    },
    /// Stop everything that `up` started
    Down,
    /// Say what runs, and where
    Status,
    /// Carry connections of the TCP listener on standard input to an engine's socket
    #[command(hide = true)]
    Bridge {
        /// The engine's socket
        socket: PathBuf,
    },
}

/// Carries out a command.
pub(crate) fn run(command: &Command) -> Result {
    match command {
        Command::Up { generations } => {
            let (state, _) = up(generations)?;
            print!("{state}");
            Ok(())
        }
        Command::Down => down(),
        Command::Status => {
            let _lock = state::lock()?;
            print!("{}", State::load()?);
            Ok(())
        }
        Command::Bridge { socket } => bridge::serve(socket),
    }
}

/// What a call of [`up`] had to start, to be stopped again by [`stop`]. What ran before is not ours to end.
#[derive(Debug, Default)]
pub(crate) struct Started {
    registries: bool,
    /// Suites.
    daemons: BTreeSet<&'static str>,
}

impl Started {
    /// Adds what another call has started.
    pub(crate) fn and(&mut self, more: Started) {
        self.registries |= more.registries;
        self.daemons.extend(more.daemons);
    }
}

/// Makes sure that the registries and these generations run. Says what had to be started.
pub(crate) fn up(generations: &[Generation]) -> Result<(State, Started)> {
    let _lock = state::lock()?;
    let mut state = State::load()?;
    let mut started = Started::default();
    // The registries come from the newest generation's packages and are the older ones' mirror.
    let tools = provision::rootfs(Generation::Sid)?;
    if !state.registries.as_ref().is_some_and(registry::Registries::alive) {
        for (_, daemon) in std::mem::take(&mut state.daemons) {
            daemon.stop();
        }
        state.registries = Some(registry::start(&tools)?);
        state.store()?;
        started.registries = true;
    }
    let Some(registries) = &state.registries else { return Err("the registries did not start".into()) };
    for &generation in generations {
        if state.daemons.get(generation.suite()).is_some_and(daemon::Daemon::alive) {
            continue;
        }
        if let Some(dead) = state.daemons.remove(generation.suite()) {
            dead.stop();
        }
        let rootfs = provision::rootfs(generation)?;
        let daemon = daemon::start(generation, &rootfs, registries)?;
        state.daemons.insert(generation.suite().to_owned(), daemon);
        started.daemons.insert(generation.suite());
    }
    state.store()?;
    Ok((state, started))
}

/// Stops what a call of [`up`] has started. The registries stay while a daemon of others uses them.
pub(crate) fn stop(started: &Started) -> Result {
    if !started.registries && started.daemons.is_empty() {
        return Ok(());
    }
    let _lock = state::lock()?;
    let mut state = State::load()?;
    for suite in &started.daemons {
        if let Some(daemon) = state.daemons.remove(*suite) {
            daemon.stop();
        }
    }
    if started.registries
        && state.daemons.is_empty()
        && let Some(registries) = state.registries.take()
    {
        registries.stop();
    }
    state.store()
}

/// Stops everything, whoever started it.
pub(crate) fn down() -> Result {
    let _lock = state::lock()?;
    let state = State::load()?;
    for daemon in state.daemons.values() {
        daemon.stop();
    }
    if let Some(registries) = &state.registries {
        registries.stop();
    }
    State::default().store()
}
