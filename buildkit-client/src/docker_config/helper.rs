//! Credential helpers: programs named `docker-credential-NAME`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::session::auth::Credentials;

/// More output than this is not an answer.
const MAX_OUTPUT: u64 = 1 << 20;
/// What is kept of the messages of a helper.
const MAX_MESSAGE: usize = 500;

/// Why a helper gave no answer. Nothing of its standard output is in it: that is where passwords are.
#[derive(Debug)]
pub(super) enum HelperError {
    /// The program is not on the search path.
    Missing,
    /// It could not be started or talked to.
    Io(io::Error),
    /// It did not finish in time.
    Timeout(Duration),
    /// It wrote more than 1 MiB.
    TooMuch,
    /// It failed, with this message.
    Failed { status: String, message: String },
    /// Its answer is not the JSON of the protocol.
    Junk,
}

impl fmt::Display for HelperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is not installed (not on PATH)"),
            Self::Io(_) => f.write_str("could not be run"),
            Self::Timeout(time) => write!(f, "did not answer within {time:?}"),
            Self::TooMuch => write!(f, "wrote more than {} MiB", MAX_OUTPUT >> 20),
            Self::Failed { status, message } if message.is_empty() => write!(f, "failed ({status})"),
            Self::Failed { status, message } => write!(f, "failed ({status}): {message}"),
            Self::Junk => f.write_str("did not answer with the JSON of a credential helper"),
        }
    }
}

impl std::error::Error for HelperError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, rename = "Username")]
    username: String,
    #[serde(default, rename = "Secret")]
    secret: Secret,
}

/// The file of a helper on the search path.
pub(super) fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    // A name is a part of a file name, never a path.
    if name.is_empty() || name.contains(['/', '\\', '\0']) {
        return None;
    }
    let program = format!("docker-credential-{name}{}", std::env::consts::EXE_SUFFIX);
    on_path(&program, path)
}

/// The file of a program on the search path.
pub(super) fn on_path(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let held: OsString;
    let path = if let Some(path) = path {
        path
    } else {
        held = std::env::var_os("PATH")?;
        &held
    };
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| is_program(file))
}

fn is_program(file: &std::path::Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    file.is_file()
}

/// Asks a helper for the credentials of a server; `None` when it has none.
///
/// Dropping the future, or a timeout, kills the helper and everything it started.
pub(super) async fn get(
    name: &str,
    path: Option<&OsStr>,
    server: &str,
    patience: Duration,
) -> Result<Option<Credentials>, HelperError> {
    let program = find(name, path).ok_or(HelperError::Missing)?;
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let child = command.spawn().map_err(HelperError::Io)?;
    let mut group = Group { child, done: false };
    let result = tokio::time::timeout(patience, group.talk(server)).await;
    match result {
        Ok(result) => result,
        Err(_) => Err(HelperError::Timeout(patience)),
    }
}

/// A child and the processes it started.
struct Group {
    child: Child,
    done: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if !self.done
            && let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Already gone is fine.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Group {
    async fn talk(&mut self, server: &str) -> Result<Option<Credentials>, HelperError> {
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let write = async move {
            if let Some(mut stdin) = stdin {
                // A helper that answers without reading its input is a helper all the same.
                let _ = stdin.write_all(server.as_bytes()).await;
            }
            Ok(())
        };
        let ((), out, err) = tokio::try_join!(write, read(stdout), read(stderr))?;
        let status = self.child.wait().await.map_err(HelperError::Io)?;
        self.done = true;
        if status.success() {
            let answer: Answer = serde_json::from_slice(&out).map_err(|_| HelperError::Junk)?;
            return Ok(match (answer.username.as_str(), answer.secret.is_empty()) {
                (_, true) => None,
                ("<token>", _) => Some(Credentials::identity_token(answer.secret)),
                _ => Some(Credentials::password(answer.username, answer.secret)),
            });
        }
        // Helpers say "none" as an error message, on either stream.
        let none = b"credentials not found in native keychain";
        if [&out, &err].iter().any(|text| text.windows(none.len()).any(|part| part == none)) {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&err);
        let message = crate::progress::one_line(text.trim()).chars().take(MAX_MESSAGE).collect();
        Err(HelperError::Failed { status: status.to_string(), message })
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, HelperError> {
    let mut bytes = Zeroizing::new(Vec::new());
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await.map_err(HelperError::Io)?;
    }
    if bytes.len() as u64 > MAX_OUTPUT { Err(HelperError::TooMuch) } else { Ok(bytes) }
}
