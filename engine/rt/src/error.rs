//! What can go wrong between us and the machine: an operation, an object, and a kind to act on.

use core::fmt;
use std::io;

/// What the caller can do about an [`IoError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoKind {
    /// The other side is gone: end the session.
    Closed,
    /// Nobody listens where we wanted to connect.
    Refused,
    /// The deadline passed.
    TimedOut,
    /// No space is left on the file system.
    Full,
    /// No such file.
    NotFound,
    /// The process has too many descriptors, too little memory or no source port for now.
    Exhausted,
    /// Anything else; the operation failed and will go on failing.
    Failed,
}

/// An operation on an object failed.
#[derive(Clone, Debug)]
pub struct IoError {
    /// What to do about it.
    pub kind: IoKind,
    /// What was tried, as a verb: "accept", "write".
    pub operation: &'static str,
    /// On what: a file name or an address.
    pub object: String,
    /// The system's error number, 0 when there is none.
    pub errno: i32,
}

impl IoError {
    /// An error of the given kind without a system error number.
    pub fn new(kind: IoKind, operation: &'static str, object: impl Into<String>) -> Self {
        Self { kind, operation, object: object.into(), errno: 0 }
    }

    /// The error that a system call reported as `errno` (positive).
    pub fn from_errno(errno: i32, operation: &'static str, object: impl Into<String>) -> Self {
        let source = io::Error::from_raw_os_error(errno);
        let kind = match source.kind() {
            io::ErrorKind::NotFound => IoKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoKind::Full,
            io::ErrorKind::TimedOut => IoKind::TimedOut,
            io::ErrorKind::ConnectionRefused => IoKind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => IoKind::Closed,
            // ENFILE and EMFILE have no stable kind.
            _ if errno == 23 || errno == 24 => IoKind::Exhausted,
            io::ErrorKind::OutOfMemory => IoKind::Exhausted,
            _ => IoKind::Failed,
        };
        Self { kind, operation, object: object.into(), errno }
    }

    /// The same for an error of the standard library.
    pub fn from_io(error: &io::Error, operation: &'static str, object: impl Into<String>) -> Self {
        Self::from_errno(error.raw_os_error().unwrap_or(5), operation, object)
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.operation, self.object)?;
        match (self.kind, self.errno) {
            (_, errno) if errno != 0 => write!(f, "{}", io::Error::from_raw_os_error(errno)),
            (IoKind::Closed, _) => write!(f, "the other side closed the connection"),
            (IoKind::Refused, _) => write!(f, "nobody listens there"),
            (IoKind::TimedOut, _) => write!(f, "timed out"),
            (IoKind::Full, _) => write!(f, "no space left"),
            (IoKind::NotFound, _) => write!(f, "no such file"),
            (IoKind::Exhausted, _) => write!(f, "out of descriptors or memory"),
            (IoKind::Failed, _) => write!(f, "failed"),
        }
    }
}

impl core::error::Error for IoError {}
