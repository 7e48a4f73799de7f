//! Processes inside a container.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use buildkit_proto::gateway::exec_message::Input;
use buildkit_proto::{gateway, pb};
use bytes::{Bytes, BytesMut};
use futures::channel::mpsc;
use futures::stream::BoxStream;
use futures::{SinkExt as _, StreamExt as _};

use crate::bridge::Bridge;
use crate::caps::gateway as cap;
use crate::error::{Code, Error, Result};

/// The most that [`Running::output`] collects.
const MAX_OUTPUT: usize = 16 << 20;

/// The largest piece of input sent in one message.
const CHUNK: usize = 1 << 20;

/// A process to start.
#[derive(Debug, Clone, Default)]
#[must_use = "a process is started by Container::start"]
pub struct Process {
    init: gateway::InitMessage,
    meta: pb::Meta,
    stdin: bool,
}

impl Process {
    /// A process with these arguments, the program first.
    pub fn new<T: Into<String>>(args: impl IntoIterator<Item = T>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        let meta = pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() };
        Self { init: gateway::InitMessage::default(), meta, stdin: false }
    }

    /// Other arguments, the program first.
    pub fn args<T: Into<String>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.meta.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.meta.env.push(format!("{name}={value}"));
        self
    }

    /// Its working directory; `/` by default.
    pub fn dir(mut self, path: impl Into<String>) -> Self {
        self.meta.cwd = path.into();
        self
    }

    /// Its user, by name or number; root by default.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.meta.user = user.into();
        self
    }

    /// Connects its input; see [`Running::stdin`]. Without it the process reads nothing.
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Gives it a terminal. What it writes to its error output then arrives
    /// as normal output.
    pub fn tty(mut self) -> Self {
        self.init.tty = true;
        self
    }

    /// Gives it all capabilities and devices; needs the entitlement
    /// `security.insecure`.
    pub fn insecure(mut self) -> Self {
        self.init.security = pb::SecurityMode::Insecure.into();
        self
    }

    /// Sets an environment variable to a secret of the client. Where the process does not start within a
    /// second, the client is asked for the secret once more, to tell one that is missing.
    pub fn secret_env(mut self, name: impl Into<String>, id: impl Into<String>) -> Self {
        self.init.secretenv.push(pb::SecretEnv { id: id.into(), name: name.into(), optional: false });
        self
    }

    /// As [`secret_env`](Self::secret_env); the variable is empty where the
    /// client has no such secret.
    pub fn optional_secret_env(mut self, name: impl Into<String>, id: impl Into<String>) -> Self {
        self.init.secretenv.push(pb::SecretEnv { id: id.into(), name: name.into(), optional: true });
        self
    }

    /// The same process as a failed one: arguments, environment, directory
    /// and user come from its op.
    pub fn from_meta(meta: pb::Meta) -> Self {
        Self { init: gateway::InitMessage::default(), meta, stdin: false }
    }
}

#[cfg(test)]
impl Process {
    pub(crate) fn into_parts(self) -> (gateway::InitMessage, pb::Meta) {
        (self.init, self.meta)
    }
}

/// A process that runs. Dropping it kills it.
pub struct Running {
    id: String,
    input: mpsc::Sender<gateway::ExecMessage>,
    output: BoxStream<'static, Result<gateway::ExecMessage>>,
    early: VecDeque<Event>,
    /// The outputs that did not end yet.
    open: Vec<u32>,
    exit: Option<Exit>,
    done: bool,
    stdin: bool,
    signals: Result<()>,
}

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It wrote to its normal output.
    Stdout(Bytes),
    /// It wrote to its error output.
    Stderr(Bytes),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 0 is success. That of a process which a signal ended
    /// depends on the daemon: 128 and the signal's number, or `u32::MAX`.
    pub code: u32,
}

impl Exit {
    /// Whether the exit code is 0.
    pub fn success(self) -> bool {
        self.code == 0
    }
}

/// What a process left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its normal output.
    pub stdout: Bytes,
    /// What it wrote to its error output.
    pub stderr: Bytes,
}

impl Output {
    /// That of a process that succeeded, with what it wrote.
    pub fn success(stdout: impl Into<Bytes>) -> Self {
        Self { exit: Exit { code: 0 }, stdout: stdout.into(), stderr: Bytes::new() }
    }

    /// That of a process that failed, with what it wrote to its error output.
    pub fn failure(code: u32, stderr: impl Into<Bytes>) -> Self {
        Self { exit: Exit { code }, stdout: Bytes::new(), stderr: stderr.into() }
    }
}

impl Running {
    pub(crate) async fn start(
        bridge: &Arc<dyn Bridge>,
        container: &str,
        id: String,
        process: Process,
    ) -> Result<Self> {
        let environment = bridge.environment();
        if !process.init.secretenv.is_empty() {
            environment.caps.require(cap::EXEC_SECRET_ENV, &environment.product)?;
        }
        let signals = environment.caps.require(cap::EXEC_SIGNALS, &environment.product);
        let name = process.meta.args.first().cloned().unwrap_or_default();
        if name.is_empty() {
            return Err(Error::with_code(Code::InvalidArgument, "a process needs a program to run"));
        }
        let open = if process.init.tty { vec![1] } else { vec![1, 2] };
        let init = gateway::InitMessage {
            container_id: container.into(),
            fds: process.stdin.then_some(0).into_iter().chain(open.iter().copied()).collect(),
            meta: Some(process.meta),
            ..process.init
        };
        let (mut input, messages) = mpsc::channel(1);
        // The channel holds a message for each sender, so this cannot wait.
        let first = gateway::ExecMessage { process_id: id.clone(), input: Some(Input::Init(init)) };
        input.try_send(first).map_err(|_| ended())?;
        let output = bridge.exec(messages.boxed()).await?;
        let mut running = Self {
            id,
            input,
            output,
            early: VecDeque::new(),
            open,
            exit: None,
            done: false,
            stdin: process.stdin,
            signals,
        };
        running
            .wait_for_start()
            .await
            .map_err(|error| Error::context(format!("cannot start {name}"), error))?;
        Ok(running)
    }

    async fn wait_for_start(&mut self) -> Result<()> {
        let mut held = 0;
        loop {
            match self.receive().await? {
                Some(Input::Started(_)) => return Ok(()),
                Some(other) => {
                    if let Some(event) = self.take(other)? {
                        let (Event::Stdout(data) | Event::Stderr(data)) = &event;
                        held += data.len();
                        self.early.push_back(event);
                    }
                    if held > MAX_OUTPUT {
                        return Err(Error::with_code(
                            Code::ResourceExhausted,
                            "the process wrote more than 16 MiB before it started",
                        ));
                    }
                }
                None => return Err(ended()),
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Input>> {
        // What ended and wrote all it had has nothing more to say, even before its last message.
        while !self.done && (self.exit.is_none() || !self.open.is_empty()) {
            match self.output.next().await {
                None => self.done = true,
                Some(Err(error)) => {
                    self.done = true;
                    return Err(error);
                }
                Some(Ok(message)) if message.process_id == self.id => {
                    if let Some(input) = message.input {
                        self.done = matches!(input, Input::Done(_));
                        return Ok(Some(input));
                    }
                }
                Some(Ok(_)) => {}
            }
        }
        Ok(None)
    }

    fn take(&mut self, input: Input) -> Result<Option<Event>> {
        match input {
            Input::File(file) => {
                if file.eof {
                    self.open.retain(|fd| *fd != file.fd);
                }
                if file.data.is_empty() {
                    return Ok(None);
                }
                return Ok(Some(if file.fd == 2 {
                    Event::Stderr(file.data)
                } else {
                    Event::Stdout(file.data)
                }));
            }
            Input::Exit(exit) => {
                let mut code = exit.code;
                // 255 with an error means that the status could not be had, unless the error has one.
                if let Some(error) = exit.error.filter(|_| code == 255).map(Error::from_status) {
                    let Some(known) = error.exit_code() else {
                        self.done = true;
                        return Err(error);
                    };
                    code = known;
                }
                self.exit = Some(Exit { code });
                // Some daemons wait for the end of the input of a process that is gone.
                self.close_stdin();
            }
            _ => {}
        }
        Ok(None)
    }

    /// What the process does next; `None` when it has ended and everything it
    /// wrote was handed out.
    ///
    /// # Errors
    /// When the connection or the process is lost.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.early.pop_front() {
            return Ok(Some(event));
        }
        while let Some(input) = self.receive().await? {
            if let Some(event) = self.take(input)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Waits for the end of the process; what it still writes is dropped.
    pub async fn wait(&mut self) -> Result<Exit> {
        while self.next().await?.is_some() {}
        self.exit.ok_or_else(ended)
    }

    /// Waits for the end of the process and collects what it writes.
    ///
    /// # Errors
    /// When it writes more than 16 MiB; read it with [`next`](Self::next)
    /// then.
    pub async fn output(&mut self) -> Result<Output> {
        let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
        while let Some(event) = self.next().await? {
            if stdout.len() + stderr.len() > MAX_OUTPUT {
                return Err(Error::with_code(
                    Code::ResourceExhausted,
                    "the process wrote more than 16 MiB; read its output piece by piece",
                ));
            }
            match event {
                Event::Stdout(data) => stdout.extend_from_slice(&data),
                Event::Stderr(data) => stderr.extend_from_slice(&data),
            }
        }
        let exit = self.exit.ok_or_else(ended)?;
        Ok(Output { exit, stdout: stdout.freeze(), stderr: stderr.freeze() })
    }

    /// A handle to the input, usable while the output is read elsewhere; `None` without
    /// [`Process::stdin`]. It is to be closed: some daemons wait for its end even when the process is gone.
    pub fn stdin(&self) -> Option<Stdin> {
        self.stdin.then(|| Stdin { id: self.id.clone(), input: self.input.clone() })
    }

    /// Ends the input; shorthand for [`Stdin::close`] when nothing else waits
    /// to be sent.
    pub fn close_stdin(&mut self) {
        if !self.stdin {
            return;
        }
        let message = file_message(&self.id, Bytes::new(), true);
        // Every clone of a sender has room for one message of its own.
        let _ = self.input.clone().try_send(message);
    }

    /// Sends a signal, such as `TERM` or `KILL`, with or without `SIG`.
    ///
    /// # Errors
    /// When the process has ended, or the daemon knows no signals.
    pub async fn signal(&mut self, name: &str) -> Result<()> {
        if let Err(error) = &self.signals {
            return Err(Error::with_code(error.code(), error.message()));
        }
        let name = name.strip_prefix("SIG").unwrap_or(name).to_owned();
        if name == "KILL" {
            self.close_stdin();
        }
        self.send(Input::Signal(gateway::SignalMessage { name })).await
    }

    /// Tells the process the size of its terminal.
    pub async fn resize(&mut self, rows: u32, columns: u32) -> Result<()> {
        self.send(Input::Resize(gateway::ResizeMessage { rows, cols: columns })).await
    }

    async fn send(&mut self, input: Input) -> Result<()> {
        if self.exit.is_some() {
            return Err(ended());
        }
        let message = gateway::ExecMessage { process_id: self.id.clone(), input: Some(input) };
        self.input.send(message).await.map_err(|_| ended())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its messages does not end it. Where there are no signals, its container does.
        if self.exit.is_none() && !self.done && self.signals.is_ok() {
            self.close_stdin();
            let kill = Input::Signal(gateway::SignalMessage { name: "KILL".into() });
            let message = gateway::ExecMessage { process_id: self.id.clone(), input: Some(kill) };
            // A new clone of a sender always has room for a message.
            let _ = self.input.clone().try_send(message);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("id", &self.id).field("exit", &self.exit).finish_non_exhaustive()
    }
}

/// The input of a process.
#[derive(Debug, Clone)]
pub struct Stdin {
    id: String,
    input: mpsc::Sender<gateway::ExecMessage>,
}

impl Stdin {
    /// Writes to the process; waits while it does not read.
    ///
    /// # Errors
    /// When the process has ended.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> Result<()> {
        let mut data = data.into();
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(CHUNK));
            self.input.send(file_message(&self.id, piece, false)).await.map_err(|_| ended())?;
        }
        Ok(())
    }

    /// Ends the input.
    pub async fn close(mut self) -> Result<()> {
        self.input.send(file_message(&self.id, Bytes::new(), true)).await.map_err(|_| ended())
    }
}

fn file_message(id: &str, data: Bytes, eof: bool) -> gateway::ExecMessage {
    let file = gateway::FdMessage { fd: 0, eof, data };
    gateway::ExecMessage { process_id: id.into(), input: Some(Input::File(file)) }
}

fn ended() -> Error {
    Error::with_code(Code::Aborted, "the process has ended")
}
