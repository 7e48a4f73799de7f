//! The one error of the crate: what is wrong, with which op, built where.

use std::fmt;
use std::panic::Location;

use crate::caps::Unsupported;
use crate::reference;
use crate::shlex::{self};

/// Why a graph could not be marshalled, or a definition not be read.
///
/// Building never fails: a mistake is kept in the op and comes out here, with the op's name and the line of
/// the program that built it. `{:?}`, which is what `main` shows, says the same; `{:#?}` shows the fields.
#[derive(Clone)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    op: String,
    location: Option<&'static Location<'static>>,
}

impl Error {
    pub(crate) fn new(
        kind: ErrorKind,
        op: impl Into<String>,
        location: Option<&'static Location<'static>>,
    ) -> Self {
        Self { inner: Box::new(Inner { kind, op: op.into(), location }) }
    }

    pub(crate) fn definition(kind: ErrorKind) -> Self {
        Self::new(kind, "definition", None)
    }

    /// What is wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.inner.kind
    }

    /// The op that is wrong, as one would call it: `image "UPPER"`, `run ["make"]`, `definition`.
    pub fn op(&self) -> &str {
        &self.inner.op
    }

    /// The line of the program that built the op; none for definitions that were read.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        self.inner.location
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("op", &self.inner.op)
            .field("location", &self.inner.location)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.inner.op, self.inner.kind)?;
        match self.inner.location {
            Some(at) => write!(f, " (built at {}:{}:{})", at.file(), at.line(), at.column()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// What can be wrong with a graph or a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An image reference nobody could resolve.
    Reference(reference::Error),
    /// A blob is named by digest; a tag says nothing about it.
    BlobTagged,
    /// A blob is named by digest, and there is none.
    BlobWithoutDigest,
    /// A source without an identifier.
    EmptyIdentifier,
    /// A command line whose quotes do not balance.
    CommandLine(shlex::Error),
    /// A process without a command.
    NoArguments,
    /// A file op without actions.
    NoActions,
    /// A tmpfs mount on top of something: it always begins empty.
    TmpfsWithSource {
        /// Where it is mounted.
        dest: String,
    },
    /// The content of a mount that leaves none was used.
    NoOutput {
        /// Where it is mounted.
        dest: String,
        /// What kind of mount it is: `cache`, `tmpfs` or `no-output`.
        mount: &'static str,
    },
    /// A passthrough whose inputs are all scratch.
    PassthroughWithoutInput,
    /// A build op on scratch: there is no file to build.
    BuildWithoutInput,
    /// A passthrough without an id.
    PassthroughWithoutId,
    /// A passthrough none of whose inputs is handed on.
    PassthroughWithoutOutput,
    /// An image config that is not JSON of the expected form.
    ImageConfig(String),
    /// Bytes that are no definition or no op.
    Decode(String),
    /// An op refers to an input that is not in the definition.
    MissingInput(String),
    /// The last op of a definition does not name exactly the result.
    NoResult,
    /// The metadata of the result's op is missing.
    MissingMetadata(String),
    /// A source location refers to a source map that is not there.
    MissingSourceMap(i32),
    /// An input has a negative output index.
    NegativeIndex(i64),
    /// Ops that are, directly or not, inputs of themselves.
    Cycle,
    /// A definition with fewer ops than one and the one that names the result.
    TooFewOps(usize),
    /// An op, or an action of a file op, of a kind this version does not know, or of none.
    EmptyOp,
    /// A process without a mount at `/`.
    NoRoot,
    /// A diff that does not say what both its sides are.
    DiffWithoutSide,
    /// An op refers to an input or output that it does not have.
    InputOutOfRange(i64),
    /// The daemon lacks what the op needs.
    Unsupported(Unsupported),
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(error) => write!(f, "{error}"),
            Self::BlobTagged => f.write_str("a blob reference takes no tag, only a digest"),
            Self::BlobWithoutDigest => f.write_str("a blob reference needs a digest (name@sha256:…)"),
            Self::EmptyIdentifier => f.write_str("the source identifier is empty"),
            Self::CommandLine(error) => write!(f, "{error}"),
            Self::NoArguments => f.write_str("a process needs a command"),
            Self::NoActions => f.write_str("a file op needs at least one action"),
            Self::TmpfsWithSource { dest } => {
                write!(f, "the tmpfs mount at {dest} must begin from scratch, but has a source")
            }
            Self::NoOutput { dest, mount } => {
                write!(f, "the {mount} mount at {dest} leaves nothing behind that could be used")
            }
            Self::PassthroughWithoutInput => f.write_str("a passthrough needs an input that is not scratch"),
            Self::BuildWithoutInput => f.write_str("there is nothing in scratch that could be built"),
            Self::PassthroughWithoutId => f.write_str("a passthrough needs an id"),
            Self::PassthroughWithoutOutput => f.write_str("a passthrough must hand on at least one input"),
            Self::ImageConfig(reason) => write!(f, "the image config cannot be read: {reason}"),
            Self::Decode(reason) => write!(f, "the bytes cannot be read: {reason}"),
            Self::MissingInput(digest) => write!(f, "an input refers to {digest}, which is not there"),
            Self::NoResult => f.write_str("the last op names no result"),
            Self::MissingMetadata(digest) => write!(f, "the result {digest} has no metadata"),
            Self::MissingSourceMap(index) => {
                write!(f, "a source location refers to source map {index}, which is not there")
            }
            Self::NegativeIndex(index) => write!(f, "an input asks for output {index}"),
            Self::Cycle => f.write_str("an op is its own input"),
            Self::TooFewOps(count) => write!(f, "a definition of {count} op has no result"),
            Self::EmptyOp => f.write_str("the op does nothing this version knows"),
            Self::NoRoot => f.write_str("a process needs a mount at /"),
            Self::DiffWithoutSide => f.write_str("a diff needs a lower and an upper side"),
            Self::InputOutOfRange(index) => {
                write!(f, "the op refers to input {index}, which it does not have")
            }
            Self::Unsupported(error) => write!(f, "{error}"),
        }
    }
}
