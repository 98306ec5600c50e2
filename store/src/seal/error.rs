//! What sealing and opening can answer besides success. Used by all of `seal` and its callers.

use core::fmt;

use super::text::TextError;

/// Why something could not be sealed, opened, encoded or decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// The key or password is the wrong one, or bytes were changed; cryptography cannot tell which.
    Refused,
    /// The message ends before its last chunk.
    Unfinished,
    /// The caller broke the contract; says how. Nothing was sealed or opened.
    Misuse(&'static str),
    /// Bytes of a version that is not known here.
    Version {
        /// What the bytes should have been.
        object: &'static str,
        /// The version that they name.
        found: u8,
    },
    /// Bytes that encoding would not have written; says where they go wrong.
    Malformed(&'static str),
    /// A part is over its limit; says which.
    TooLarge(&'static str),
    /// An app password or recovery key that was typed wrongly.
    Text(TextError),
    /// An RSA key that is none, or of a size that is not used here.
    RsaKey,
    /// The system's cryptography failed, for want of memory or of random numbers.
    Unavailable,
    /// What opens the account cannot be read, so that nothing can be sealed to it now.
    Unreadable,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => write!(f, "the key is the wrong one, or the sealed bytes changed"),
            Self::Unfinished => write!(f, "the sealed message ends before its last chunk"),
            Self::Misuse(how) => write!(f, "sealing was misused: {how}"),
            Self::Version { object, found } => {
                write!(
                    f,
                    "{object} has format version {found}, this program knows versions up to 1"
                )
            }
            Self::Malformed(part) => write!(f, "{part} is malformed"),
            Self::TooLarge(part) => write!(f, "{part} is over its limit"),
            Self::Text(error) => write!(f, "{error}"),
            Self::RsaKey => write!(f, "not an RSA key of 2048, 3072 or 4096 bits"),
            Self::Unavailable => write!(f, "the system's cryptography failed"),
            Self::Unreadable => write!(f, "the lock of the account cannot be read"),
        }
    }
}

impl core::error::Error for SealError {}

impl From<TextError> for SealError {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}
