//! What can go wrong between a frontend and the daemon.

use std::error::Error as StdError;
use std::fmt;

use buildkit_proto::pb;
use buildkit_proto::rpc::Status;

use crate::detail::{Detail, SolveFailure, SourceDetail};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// An error of a build: what the daemon answered, what a frontend reports, or
/// what was wrong with a call.
///
/// [`code`](Self::code) says what kind of error it is. Errors of the daemon
/// carry typed details: the vertex that failed, the process's exit code, the
/// place in the user's file. They survive a round trip, so a frontend that
/// hands on an error with `?` loses nothing.
///
/// `Display` is the error's own message; causes are reached through
/// [`source`](StdError::source). [`report`](Self::report) joins them. `{:?}`,
/// which is what `main` shows, is the report and the places; `{:#?}` shows the
/// fields.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    details: Vec<Detail>,
    source: Option<BoxError>,
    /// The message is `source`'s own: only its causes come after it.
    transparent: bool,
}

/// The kind of an error, as gRPC divides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The build was cancelled.
    Cancelled = 1,
    /// Any failure that has no kind of its own, such as a failed process.
    Unknown = 2,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// The thing asked for is not there.
    NotFound = 5,
    /// The thing to make is there already.
    AlreadyExists = 6,
    /// The peer refuses.
    PermissionDenied = 7,
    /// Out of space, memory or message size.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// Given up half way.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// The peer does not know the call, capability or subrequest.
    Unimplemented = 12,
    /// A defect of the peer or of its machine.
    Internal = 13,
    /// The peer cannot be reached.
    Unavailable = 14,
    /// Data is damaged.
    DataLoss = 15,
    /// Credentials are missing or wrong.
    Unauthenticated = 16,
}

impl Code {
    /// The code of this number in gRPC; numbers without meaning are
    /// [`Unknown`](Self::Unknown).
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

impl Error {
    /// An error of kind [`Code::Unknown`] with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code(Code::Unknown, message)
    }

    /// An error of a kind.
    pub fn with_code(code: Code, message: impl Into<String>) -> Self {
        Self::build(code, message.into(), Vec::new(), None)
    }

    fn build(code: Code, message: String, details: Vec<Detail>, source: Option<BoxError>) -> Self {
        Self(Box::new(Inner { code, message, details, source, transparent: false }))
    }

    /// What was being done when `source` happened. The kind and the details
    /// are those of `source` where it is an error of this crate.
    pub fn context(message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        Self::build(code_of(&*source), message.into(), Vec::new(), Some(source))
    }

    /// Gives an error of no kind this one.
    #[must_use]
    pub(crate) fn or_code(mut self, code: Code) -> Self {
        if self.0.code == Code::Unknown {
            self.0.code = code;
        }
        self
    }

    /// Adds a place in a file the user wrote.
    #[must_use]
    pub fn at(mut self, info: pb::SourceInfo, ranges: Vec<pb::Range>) -> Self {
        self.0.details.push(Detail::Source(Box::new(SourceDetail { info: Some(info), ranges })));
        self
    }

    /// Adds a typed detail; it is outermost.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.0.details.push(detail);
        self
    }

    /// The kind of the error.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message without causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether a file, image or other thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        // The daemon reports missing files and images as text only.
        let texts = ["no such file or directory", ": not found"];
        self.code() == Code::NotFound || texts.iter().any(|text| self.message().ends_with(text))
    }

    /// The typed details of this error and of the errors that caused it,
    /// innermost first.
    pub fn details(&self) -> impl Iterator<Item = &Detail> {
        let mut chain: Vec<&Self> = vec![self];
        let mut next = self.source();
        while let Some(error) = next {
            chain.extend(error.downcast_ref::<Self>());
            next = error.source();
        }
        chain.into_iter().rev().flat_map(|error| &error.0.details)
    }

    /// The digest of the vertex that failed.
    pub fn vertex(&self) -> Option<&str> {
        self.details().find_map(|detail| match detail {
            Detail::Vertex(digest) => Some(digest.as_str()),
            _ => None,
        })
    }

    /// The exit code of the process that failed.
    pub fn exit_code(&self) -> Option<u32> {
        self.details().find_map(|detail| match detail {
            Detail::Exit(code) => Some(*code),
            _ => None,
        })
    }

    /// The places in the user's files the error comes from, outermost first.
    pub fn locations(&self) -> Vec<&SourceDetail> {
        let mut places: Vec<_> = self
            .details()
            .filter_map(|detail| match detail {
                Detail::Source(source) => Some(&**source),
                _ => None,
            })
            .collect();
        places.reverse();
        places
    }

    /// The state the failed vertex was in, to look around in a container.
    pub fn solve_failure(&self) -> Option<&SolveFailure> {
        self.details().find_map(|detail| match detail {
            Detail::Solve(failure) => Some(&**failure),
            _ => None,
        })
    }

    /// The messages of the error and of all its causes, joined by `: `.
    pub fn report(&self) -> String {
        let mut text = self.0.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }

    /// The error as it travels.
    pub fn to_status(&self) -> Status {
        Status {
            code: self.0.code as i32,
            message: self.report(),
            details: self.details().filter_map(Detail::encode).collect(),
        }
    }

    /// An error that arrived; one without words gets its kind for words. A
    /// status of code 0 is an error too: it is for the caller to know where a
    /// status means success.
    pub fn from_status(status: Status) -> Self {
        let details = status.details.into_iter().map(Detail::decode).collect();
        let code = Code::from_number(status.code);
        let message = Some(status.message).filter(|message| !message.is_empty());
        let message = message.unwrap_or_else(|| format!("no reason was given ({code:?})"));
        Self::build(code, message, details, None)
    }
}

/// The kind of the first error of this crate among the causes.
fn code_of(error: &(dyn StdError + 'static)) -> Code {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.code();
        }
        next = error.source();
    }
    Code::Unknown
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            f.write_str(&self.report())?;
            for place in self.locations() {
                let name = place.info.as_ref().map_or("", |info| info.filename.as_str());
                let line = place.ranges.first().and_then(|range| range.start).map_or(0, |start| start.line);
                write!(f, " (at {name}:{line})")?;
            }
            return Ok(());
        }
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("details", &self.0.details)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref()?;
        if self.0.transparent { source.source() } else { Some(source) }
    }
}

impl From<BoxError> for Error {
    fn from(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => {
                let mut wrapped = Self::build(code_of(&*error), error.to_string(), Vec::new(), Some(error));
                wrapped.0.transparent = true;
                wrapped
            }
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        BoxError::from(error).into()
    }
}

impl From<buildkit_llb::Error> for Error {
    fn from(error: buildkit_llb::Error) -> Self {
        Self::from(BoxError::from(error)).or_code(Code::InvalidArgument)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        BoxError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_shows_is_for_people() {
        let at = |line| pb::Position { line, character: 0 };
        let info = pb::SourceInfo { filename: "Stack".into(), data: "x".into(), ..pb::SourceInfo::default() };
        let ranges = vec![pb::Range { start: Some(at(3)), end: Some(at(3)) }];
        let error = Error::context("cannot read it", Error::new("no such key").at(info, ranges));
        assert_eq!(format!("{error:?}"), "cannot read it: no such key (at Stack:3)");
        let fields = format!("{error:#?}");
        assert!(fields.contains("code: Unknown") && fields.contains("filename"), "{fields}");
    }
}
