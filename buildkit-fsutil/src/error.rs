//! What can go wrong while a tree is transferred.

use std::fmt;
use std::io;

use crate::path::Printable;
use crate::stat::Kind;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a transfer failed.
///
/// # Troubleshooting
/// [`ContextFile`](Self::ContextFile), [`ContextChanged`](Self::ContextChanged) and
/// [`SpecialFile`](Self::SpecialFile) concern a file that was to be sent: exclude it, or let it be until the transfer
/// is over. [`Destination`](Self::Destination) concerns a file that was to be written: space, quota, permissions.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransferError {
    /// A file to be sent could not be looked at, opened or read.
    ContextFile {
        /// Below the root of the tree; empty for the root itself.
        path: Vec<u8>,
        /// What the file system said.
        source: io::Error,
    },
    /// A file to be sent is not what it was when the tree was walked.
    ContextChanged {
        /// Below the root of the tree.
        path: Vec<u8>,
        /// How it differs.
        change: Change,
    },
    /// A device, pipe or socket is to be sent though that was forbidden.
    SpecialFile {
        /// Below the root of the tree.
        path: Vec<u8>,
        /// What it is.
        kind: Kind,
    },
    /// The receiver asked for a selection that cannot be used.
    Filter(crate::filter::FilterError),
    /// A received file could not be written.
    Destination {
        /// Below the root of the destination; empty for the root itself.
        path: Vec<u8>,
        /// What was tried: "create", "write", "rename" …
        action: &'static str,
        /// What the file system said.
        source: io::Error,
    },
    /// A received entry was refused by the receiver's options.
    Refused {
        /// Below the root of the destination.
        path: Vec<u8>,
        /// Why.
        reason: Refusal,
    },
    /// The other side gave up; the text is its own.
    Peer {
        /// Whether the other side was the sender of the tree.
        sender: bool,
        /// What it said, at most 4 KiB of it.
        message: String,
    },
    /// The other side broke the protocol.
    Protocol(ProtocolError),
    /// The stream of packets broke.
    Stream(BoxError),
    /// The stream of packets ended before the transfer did.
    Ended,
    /// The task that does the file work died.
    Worker,
}

/// How a file differs from what was found when the tree was walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is gone.
    Vanished,
    /// Another file has its name, or something that is no file.
    Replaced,
    /// It has become shorter.
    Truncated,
    /// It has become longer.
    Grown,
    /// It was written to.
    Modified,
}

/// Why a received entry was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is a device.
    Device,
    /// The file system takes its name for that of another entry, as those do which ignore case.
    NameCollision,
}

/// How the other side broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A path that is empty, absolute, not clean, has `..` in it or a NUL.
    Path(Vec<u8>),
    /// An entry does not come after the one before it.
    Order {
        /// The entry.
        path: Vec<u8>,
        /// The one before.
        previous: Vec<u8>,
    },
    /// An entry whose directory was not sent before, or is no directory.
    NoParent(Vec<u8>),
    /// A hard link to what was not sent before as a file.
    Link {
        /// The entry.
        path: Vec<u8>,
        /// What it is to be linked to.
        target: Vec<u8>,
    },
    /// An entry of a type that does not exist, a size below zero, or names and attributes that no file system takes;
    /// of a long path the beginning.
    BadStat(Vec<u8>),
    /// More entries than ids, or than the receiver allows.
    TooManyEntries,
    /// An entry after the end of entries.
    StatAfterEnd,
    /// A request for an id that is unknown, no file, or was requested before.
    Request(u32),
    /// Content for an id that was not requested or has ended.
    Data(u32),
    /// More files open at once than the receiver allows.
    TooManyOpen,
    /// Content that is shorter or longer than the entry said.
    Length {
        /// The entry.
        path: Vec<u8>,
        /// What its entry said.
        expected: u64,
        /// What came.
        received: u64,
    },
    /// The end of the transfer before all was transferred.
    EarlyEnd,
    /// A packet of a kind that this side never gets, or of no known kind.
    Packet(i32),
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContextFile { path, .. } if path.is_empty() => {
                f.write_str("cannot read the root of the context")
            }
            Self::ContextFile { path, .. } => write!(f, "cannot read {} of the context", Printable(path)),
            Self::ContextChanged { path, change } => {
                let what = match change {
                    Change::Vanished => "vanished",
                    Change::Replaced => "was replaced by another file",
                    Change::Truncated => "became shorter",
                    Change::Grown => "became longer",
                    Change::Modified => "was modified",
                };
                write!(f, "{} of the context {what} while it was sent", Printable(path))
            }
            Self::SpecialFile { path, kind } => {
                write!(f, "{} of the context is a {kind}, which is not to be sent", Printable(path))
            }
            Self::Filter(_) => f.write_str("the daemon's selection of files cannot be used"),
            Self::Destination { path, action, .. } if path.is_empty() => {
                write!(f, "cannot {action} in the destination directory")
            }
            Self::Destination { path, action, .. } => {
                write!(f, "cannot {action} {} in the destination", Printable(path))
            }
            Self::Refused { path, reason } => {
                let why = match reason {
                    Refusal::Device => "devices are not created unless asked for",
                    Refusal::NameCollision => "the file system does not tell its name from another entry's",
                };
                write!(f, "refused to write {}: {why}", Printable(path))
            }
            Self::Peer { sender, message } => {
                write!(f, "error from {}: ", if *sender { "sender" } else { "receiver" })?;
                message.chars().try_for_each(|c| {
                    if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }
                })
            }
            Self::Protocol(error) => write!(f, "file transfer: {error}"),
            Self::Stream(_) => f.write_str("the stream of files broke"),
            Self::Ended => f.write_str("the stream of files ended before its time"),
            Self::Worker => f.write_str("the thread that reads or writes files died"),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unusable path {}", Printable(path)),
            Self::Order { path, previous } => {
                write!(f, "changes out of order: {} after {}", Printable(path), Printable(previous))
            }
            Self::NoParent(path) => write!(f, "directory of {} was not sent", Printable(path)),
            Self::Link { path, target } => {
                write!(f, "invalid link {} to unknown path {}", Printable(path), Printable(target))
            }
            Self::BadStat(path) => write!(f, "unusable metadata of {}", Printable(path)),
            Self::TooManyEntries => f.write_str("too many entries"),
            Self::StatAfterEnd => f.write_str("an entry after the end of entries"),
            Self::Request(id) => write!(f, "invalid file id {id}"),
            Self::Data(id) => write!(f, "content for file id {id}, which was not requested"),
            Self::TooManyOpen => f.write_str("content of too many files at once"),
            Self::Length { path, expected, received } => {
                write!(f, "{} has {received} bytes of content instead of {expected}", Printable(path))
            }
            Self::EarlyEnd => f.write_str("end of transfer before everything was transferred"),
            Self::Packet(kind) => write!(f, "unexpected packet of type {kind}"),
        }
    }
}

impl std::error::Error for TransferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ContextFile { source, .. } | Self::Destination { source, .. } => Some(source),
            Self::Filter(source) => Some(source),
            Self::Stream(source) => Some(&**source),
            _ => None,
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<ProtocolError> for TransferError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl TransferError {
    /// What the other side is told: the whole chain in one line, at most 4 KiB.
    pub(crate) fn for_peer(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        let end = (0..=MAX_MESSAGE.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text
    }

    pub(crate) fn from_peer(sender: bool, message: &[u8]) -> Self {
        let message = message.get(..MAX_MESSAGE).unwrap_or(message);
        Self::Peer { sender, message: String::from_utf8_lossy(message).into_owned() }
    }
}

const MAX_MESSAGE: usize = 4096;
