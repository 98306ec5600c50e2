//! What the store can answer besides success, and what the caller shall do about it.

use core::fmt;
use fsmtp_rt::IoError;

/// Why an operation on the store failed.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// The file system is nearly full: refuse new mail with `452 4.3.1`.
    DiskLow {
        /// Bytes that were still free when it was last looked at.
        free_bytes: u64,
    },
    /// A queue behind the spool is full, or the memory for messages under way: defer with
    /// `451 4.3.0`, all is well again later.
    Busy,
    /// An earlier write failed, so the log takes nothing any more until a restart.
    Poisoned {
        /// The first failure.
        cause: IoError,
    },
    /// The machine refused.
    Io(IoError),
    /// What is on disk is not what was written there.
    Corrupt {
        /// Where: file and offset, or table and key.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The message lies elsewhere by now: ask the index where, and read again.
    Moved,
    /// The data was written by a version that this one does not know.
    Version {
        /// The file or folder.
        object: String,
        /// The version it names.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The maildrop is open in another session (RFC 1939 §4).
    InUse,
    /// No such message, mailbox, account, domain or alias.
    NotFound(String),
    /// It exists already.
    Exists(String),
    /// A name or value that cannot be stored, with the reason.
    Invalid(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskLow { free_bytes } => write!(f, "disk nearly full: {free_bytes} bytes free"),
            Self::Busy => write!(f, "too much waits to be done: try again later"),
            Self::Poisoned { cause } => {
                write!(f, "the log is closed after a failed write: {cause}")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Corrupt { place, why } => write!(f, "{place} is damaged: {why}"),
            Self::Moved => write!(f, "the message was moved while it was read"),
            Self::Version { object, found, known } => write!(
                f,
                "{object} has format version {found}, this program knows versions up to {known}"
            ),
            Self::InUse => write!(f, "the maildrop is in use by another session"),
            Self::NotFound(what) => write!(f, "{what} does not exist"),
            Self::Exists(what) => write!(f, "{what} exists already"),
            Self::Invalid(why) => write!(f, "{why}"),
        }
    }
}

impl core::error::Error for StoreError {}

impl From<IoError> for StoreError {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}
