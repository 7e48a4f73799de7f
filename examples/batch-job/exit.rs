//! What the process's exit code says.

/// Exit codes; the README lists them for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Built, and pushed if that was asked for.
    Done = 0,
    /// Something else: a result file that cannot be written, a local folder that cannot be read.
    Other = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No daemon was reached in the time given, the link to it was lost, or it gave the build up.
    Connect = 3,
    /// The build failed: a step, the Dockerfile, a base image.
    Build = 4,
    /// The image was built and could not be pushed.
    Push = 5,
    /// A registry wants credentials, or refuses those it got, or they cannot be had.
    Auth = 6,
    /// Ended by a signal.
    Interrupted = 130,
}

/// For `--help`.
pub(crate) const HELP: &str = "Exit codes: 0 done, 1 other failure, 2 usage, 3 no daemon, 4 build failed, \
5 push failed, 6 credentials, 130 interrupted.";

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
