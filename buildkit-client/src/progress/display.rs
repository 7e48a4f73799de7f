//! Choosing how progress is shown.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use super::plain::Plain;
use super::quiet::Quiet;
use super::rawjson::RawJson;
use super::tty::{Colors, Tty};
use super::{Progress, text};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// What `BUILDKIT_PROGRESS` says; without it [`Mode::Tty`] on a terminal, else [`Mode::Plain`].
    #[default]
    Auto,
    /// Lines of text.
    Plain,
    /// A live view that is redrawn in place; plain when the output is not a terminal.
    Tty,
    /// Nothing but the output of failed steps.
    Quiet,
    /// One JSON object a line.
    RawJson,
}

impl FromStr for Mode {
    type Err = InvalidMode;

    /// Reads the names `auto` (or nothing), `plain`, `tty`, `quiet` and `rawjson`.
    fn from_str(name: &str) -> Result<Self, InvalidMode> {
        match name {
            "" | "auto" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Tty),
            "quiet" => Ok(Self::Quiet),
            "rawjson" => Ok(Self::RawJson),
            _ => Err(InvalidMode(name.to_owned())),
        }
    }
}

/// The name of a progress mode that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMode(String);

impl fmt::Display for InvalidMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid progress mode {} (known: auto, plain, tty, quiet, rawjson)",
            super::sanitize::line(&self.0)
        )
    }
}

impl std::error::Error for InvalidMode {}

/// Progress for people or machines to read: a mode, where it is written, and what is said above it.
///
/// # Defaults
///
/// Written to standard error; no description; phase `Building`.
#[must_use = "give it to a build"]
pub struct Display {
    mode: Mode,
    writer: Option<Box<dyn Write + Send>>,
    description: Option<String>,
    phase: String,
}

/// What suits the output: `BUILDKIT_PROGRESS`, else a live view on a terminal, else plain lines.
pub fn auto() -> Display {
    Display::new(Mode::Auto)
}

/// Lines of text.
pub fn plain() -> Display {
    Display::new(Mode::Plain)
}

/// A live view that is redrawn in place.
pub fn tty() -> Display {
    Display::new(Mode::Tty)
}

/// Nothing but the output of failed steps.
pub fn quiet() -> Display {
    Display::new(Mode::Quiet)
}

/// One JSON object a line, in the schema of `--progress=rawjson`.
pub fn rawjson() -> Display {
    Display::new(Mode::RawJson)
}

impl Display {
    /// Shows progress in this mode.
    pub fn new(mode: Mode) -> Self {
        Self { mode, writer: None, description: None, phase: "Building".into() }
    }

    /// Where it is written; standard error unless set. It is used on a thread of its own and may block.
    ///
    /// The modes that depend on a terminal see that this is none.
    pub fn writer(mut self, writer: impl Write + Send + 'static) -> Self {
        self.writer = Some(Box::new(writer));
        self
    }

    /// What is being built, in a few words.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// The word in the first line of the live view; `Building` unless set.
    pub fn phase(mut self, text: impl Into<String>) -> Self {
        self.phase = text.into();
        self
    }

    /// Sends the progress to `other` too.
    pub fn tee(self, other: impl Into<Progress>) -> Progress {
        Progress::from(self).tee(other)
    }

    /// The mode that will be used: never [`Mode::Auto`], and [`Mode::Tty`] only on a terminal.
    pub fn resolved(&self) -> Mode {
        let console = self.writer.is_none() && io::stderr().is_terminal();
        let mode = match self.mode {
            Mode::Auto => std::env::var("BUILDKIT_PROGRESS").ok().and_then(|name| name.parse().ok()),
            mode => Some(mode),
        };
        match mode.unwrap_or_default() {
            Mode::Auto | Mode::Tty if console => Mode::Tty,
            Mode::Auto | Mode::Tty => Mode::Plain,
            mode => mode,
        }
    }
}

impl From<Display> for Progress {
    fn from(display: Display) -> Self {
        let mode = display.resolved();
        let out = display.writer.unwrap_or_else(|| Box::new(io::stderr()));
        let description = display.description.as_deref();
        match mode {
            Mode::Quiet => Progress::renderer(Quiet::new(out)),
            Mode::RawJson => Progress::renderer(RawJson::new(out)),
            Mode::Tty => {
                Progress::renderer(Tty::new(out, window, Colors::from_env(), display.phase, description))
            }
            Mode::Auto | Mode::Plain => {
                match Plain::new(io::BufWriter::new(out), description, text::name_limit()) {
                    Ok(plain) => Progress::renderer(plain),
                    Err(_) => Progress::none(),
                }
            }
        }
    }
}

/// Columns and rows of the terminal that standard error is.
fn window() -> Option<(usize, usize)> {
    #[cfg(unix)]
    {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
        Some((size.ws_col.into(), size.ws_row.into()))
    }
    #[cfg(not(unix))]
    None
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display")
            .field("mode", &self.mode)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}
