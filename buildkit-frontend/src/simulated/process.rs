//! Processes of simulated containers.

use buildkit_proto::gateway::exec_message::Input;
use buildkit_proto::{gateway, pb};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::{Simulated, no_containers};
use crate::error::{Code, Error, Result};
use crate::process::{Exit, Output};

/// A process that a frontend starts in a simulated container, for
/// [`Simulated::on_process`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SimulatedProcess {
    /// Its arguments, environment (secrets included), directory and user.
    pub meta: pb::Meta,
    /// All that was written to it, up to the end of its input.
    pub stdin: Bytes,
    /// Whether it has a terminal.
    pub tty: bool,
    /// The container that it runs in, with its mounts and network.
    pub container: gateway::NewContainerRequest,
}

impl SimulatedProcess {
    /// The first of its arguments.
    pub fn program(&self) -> &str {
        self.meta.args.first().map_or("", String::as_str)
    }

    /// The value of a variable of its environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.meta.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Simulated {
    /// Starts what the first message says. A process with an input runs when that has ended; a
    /// signal before then ends it.
    pub(super) async fn run_process(
        &self,
        mut input: BoxStream<'static, gateway::ExecMessage>,
    ) -> Result<BoxStream<'static, Result<gateway::ExecMessage>>> {
        let (Some(runner), Some(first)) = (self.setup.runner.clone(), input.next().await) else {
            return Err(no_containers());
        };
        let Some(Input::Init(init)) = first.input else {
            return Err(Error::with_code(Code::InvalidArgument, "a process starts with its init message"));
        };
        let container =
            self.record().containers.get(&init.container_id).cloned().ok_or_else(|| {
                Error::with_code(Code::NotFound, "the container was released or never made")
            })?;
        let mut process = SimulatedProcess {
            meta: init.meta.unwrap_or_default(),
            stdin: Bytes::new(),
            tty: init.tty,
            container,
        };
        for secret in init.secretenv {
            let value = match self.setup.secrets.get(&secret.id) {
                Some(value) => value,
                None if secret.optional => "",
                None => return Err(no_secret(&secret.id)),
            };
            process.meta.env.push(format!("{}={value}", secret.name));
        }
        let id = first.process_id;
        let message = move |input| gateway::ExecMessage { process_id: id.clone(), input: Some(input) };
        let started = stream::iter([Ok(message(Input::Started(gateway::StartedMessage {})))]);
        if !init.fds.contains(&0) {
            let ended = ending(runner(&process)?).map(move |input| Ok(message(input)));
            return Ok(started.chain(stream::iter(ended)).boxed());
        }
        let ended = stream::once(async move {
            let output = match whole(&mut input).await {
                Ok(stdin) => runner(&SimulatedProcess { stdin, ..process }),
                Err(signal) => Ok(Output::failure(128 + signal, "")),
            };
            match output {
                Ok(output) => ending(output).into_iter().map(|input| Ok(message(input))).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        Ok(started.chain(ended.flat_map(stream::iter)).boxed())
    }

    /// Containers do not come to be without the secrets that they mount.
    pub(super) fn check_secrets(&self, request: &gateway::NewContainerRequest) -> Result<()> {
        let wanted = request.mounts.iter().filter_map(|mount| mount.secret_opt.as_ref());
        let missing = wanted
            .filter(|secret| !secret.optional)
            .find(|secret| !self.setup.secrets.contains_key(&secret.id));
        missing.map_or(Ok(()), |secret| Err(no_secret(&secret.id)))
    }
}

/// What is sent when a process has ended.
fn ending(output: Output) -> [Input; 4] {
    let Output { exit: Exit { code }, stdout, stderr } = output;
    let file = |fd, data| Input::File(gateway::FdMessage { fd, eof: true, data });
    [
        file(1, stdout),
        file(2, stderr),
        Input::Exit(gateway::ExitMessage { code, error: None }),
        Input::Done(gateway::DoneMessage {}),
    ]
}

/// All of a process's input, or the number of the signal that came before its end.
async fn whole(input: &mut BoxStream<'static, gateway::ExecMessage>) -> std::result::Result<Bytes, u32> {
    let mut stdin = BytesMut::new();
    while let Some(message) = input.next().await {
        match message.input {
            Some(Input::File(file)) => {
                stdin.extend_from_slice(&file.data);
                if file.eof {
                    break;
                }
            }
            Some(Input::Signal(signal)) => {
                return Err(match signal.name.as_str() {
                    "HUP" => 1,
                    "INT" => 2,
                    "QUIT" => 3,
                    "TERM" => 15,
                    _ => 9,
                });
            }
            _ => {}
        }
    }
    Ok(stdin.freeze())
}

fn no_secret(id: &str) -> Error {
    Error::with_code(Code::NotFound, format!("secret {id}: not found"))
}
