//! Connections carried by the standard streams of a command (`docker exec`, `kubectl exec`, `ssh`).

use super::{Connector, Stream};
use crate::error::{ConnectError, ConnectErrorKind};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{oneshot, watch};

/// How long a command may take to end by itself after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// How long a command may take to end once it closed its output.
const EXIT_WAIT: Duration = Duration::from_secs(10);
/// How much of the standard error is kept for messages.
const STDERR_TAIL: usize = 8 * 1024;

/// A connector that runs a command whose standard input and output are the connection.
///
/// The command gets a process group of its own. When the connection is dropped the group gets
/// SIGTERM, and SIGKILL after 3 s. What it writes to its standard error is part of the error when
/// it ends too early.
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<String>,
    name: Option<String>,
}

impl Command {
    /// Program and arguments.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), name: None }
    }

    /// What messages call the endpoint, instead of the command line.
    #[must_use]
    pub fn endpoint_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

#[async_trait::async_trait]
impl Connector for Command {
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let line = self.argv.join(" ");
        let failed = |outcome: String| {
            ConnectError::new(self.endpoint(), ConnectErrorKind::Command { command: line.clone(), outcome })
        };
        let Some((program, args)) = self.argv.split_first() else {
            return Err(ConnectError::address(&self.endpoint(), "the command is empty"));
        };
        let mut command = tokio::process::Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failed(format!("cannot be run: no program {program:?} on PATH")),
            _ => failed("cannot be run".to_owned()).because(error),
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("has no standard streams".to_owned()));
        };
        let (outcome_tx, outcome) = watch::channel(None);
        let (keep, dropped) = oneshot::channel();
        tokio::spawn(supervise(child, stderr, dropped, outcome_tx));
        Ok(Stream::new(CommandStream {
            stdin: Some(stdin),
            stdout,
            line,
            outcome,
            ending: None,
            _keep: keep,
        }))
    }

    fn endpoint(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.argv.join(" "))
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
struct Outcome {
    status: Option<ExitStatus>,
    stderr: String,
}

/// Waits for the command, keeps the end of its standard error, and ends it once the stream is gone.
async fn supervise(
    mut child: Child,
    mut stderr: ChildStderr,
    dropped: oneshot::Receiver<()>,
    outcome: watch::Sender<Option<Outcome>>,
) {
    let mut tail = Vec::new();
    let status = {
        let mut reading = true;
        let mut chunk = vec![0; 4096];
        let mut dropped = dropped;
        loop {
            tokio::select! {
                read = stderr.read(&mut chunk), if reading => match read {
                    Ok(n) if n > 0 => keep_tail(&mut tail, chunk.get(..n).unwrap_or_default()),
                    _ => reading = false,
                },
                status = child.wait() => {
                    // What the command wrote last may still be in the pipe.
                    while let Ok(Ok(n)) =
                        tokio::time::timeout(Duration::from_millis(100), stderr.read(&mut chunk)).await
                    {
                        if n == 0 {
                            break;
                        }
                        keep_tail(&mut tail, chunk.get(..n).unwrap_or_default());
                    }
                    break status.ok();
                }
                _ = &mut dropped => break terminate(&mut child).await,
            }
        }
    };
    // Some of it may come from the far side: a banner of an SSH server.
    let stderr = crate::progress::clean_lines(String::from_utf8_lossy(&tail).trim()).into_owned();
    let _ = outcome.send(Some(Outcome { status, stderr }));
}

fn keep_tail(tail: &mut Vec<u8>, chunk: &[u8]) {
    tail.extend_from_slice(chunk);
    if tail.len() > STDERR_TAIL {
        tail.drain(..tail.len() - STDERR_TAIL);
    }
}

async fn terminate(child: &mut Child) -> Option<ExitStatus> {
    signal(child, false);
    if let Ok(status) = tokio::time::timeout(TERM_GRACE, child.wait()).await {
        status.ok()
    } else {
        signal(child, true);
        let _ = child.start_kill();
        child.wait().await.ok()
    }
}

/// Signals the process group: what a shell or `docker` started must end as well.
fn signal(child: &Child, kill: bool) {
    #[cfg(unix)]
    if let Some(pid) =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        let signal = if kill { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        let _ = rustix::process::kill_process_group(pid, signal);
    }
    #[cfg(not(unix))]
    let _ = (child, kill);
}

type Ending = Pin<Box<dyn Future<Output = Option<std::io::Error>> + Send>>;

struct CommandStream {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    line: String,
    outcome: watch::Receiver<Option<Outcome>>,
    ending: Option<Ending>,
    _keep: oneshot::Sender<()>,
}

impl CommandStream {
    /// After the end of the output: why it ended, unless it ended well.
    fn ending(&self) -> Ending {
        let mut outcome = self.outcome.clone();
        let line = self.line.clone();
        Box::pin(async move {
            let outcome = tokio::time::timeout(EXIT_WAIT, outcome.wait_for(Option::is_some))
                .await
                .ok()
                .and_then(Result::ok)
                .and_then(|outcome| outcome.clone());
            match outcome {
                Some(Outcome { status: Some(status), .. }) if status.success() => None,
                Some(Outcome { status, stderr }) => {
                    let status =
                        status.map_or_else(|| "an unknown status".to_owned(), |status| status.to_string());
                    let mut text = format!("has exited with {status}");
                    if !stderr.is_empty() {
                        text = format!("{text}: {stderr}");
                    }
                    Some(std::io::Error::other(CommandEnded { command: line, outcome: text }))
                }
                None => None,
            }
        })
    }
}

/// A command that carried a connection ended. Found inside I/O errors.
#[derive(Debug, Clone)]
pub(super) struct CommandEnded {
    pub(super) command: String,
    pub(super) outcome: String,
}

impl fmt::Display for CommandEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command `{}` {}", self.command, self.outcome)
    }
}

impl std::error::Error for CommandEnded {}

impl AsyncRead for CommandStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        if self.ending.is_none() {
            ready!(Pin::new(&mut self.stdout).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let ending = self.ending();
            self.ending = Some(ending);
        }
        match &mut self.ending {
            Some(ending) => {
                let error = ready!(ending.as_mut().poll(cx));
                self.ending = Some(Box::pin(std::future::ready(None)));
                Poll::Ready(error.map_or(Ok(()), Err))
            }
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for CommandStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
            None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if let Some(stdin) = &mut self.stdin {
            ready!(Pin::new(stdin).poll_shutdown(cx))?;
            self.stdin = None;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let mut stream = Command::new(["cat"]).connect().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut buf = [0; 4];
        stream.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"ping");
    }

    #[tokio::test]
    async fn an_early_end_tells_status_and_standard_error() {
        let mut stream =
            Command::new(["sh", "-c", "echo no such container: bk >&2; exit 7"]).connect().await.unwrap();
        let error = stream.read_u8().await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7"), "{error}");
        assert!(error.contains("no such container: bk"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Command::new(["no-such-program-here"]).connect().await.unwrap_err();
        assert!(error.to_string().contains("no program \"no-such-program-here\" on PATH"), "{error}");
    }

    #[tokio::test]
    async fn dropping_the_stream_ends_the_whole_group() {
        let mut stream = Command::new(["sh", "-c", "sleep 1000 & echo $!; wait"]).connect().await.unwrap();
        let mut pid = String::new();
        loop {
            match stream.read_u8().await.unwrap() {
                b'\n' => break,
                byte => pid.push(char::from(byte)),
            }
        }
        let alive = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        assert!(alive(&pid));
        drop(stream);
        for _ in 0..100 {
            if !alive(&pid) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("process {pid} still runs");
    }
}
