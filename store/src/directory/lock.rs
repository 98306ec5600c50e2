//! What opens an account: a hash to compare with, or wraps of the key that its mail is sealed
//! under.
//!
//! The desk asks a lock for the public key, the sign-in has [`Lock::open`] run on a helper thread.
//! An account with a hash keeps its mail in clear. Costs: one run of Argon2 for each try, whatever
//! the answer, except that an app password which opens costs none.

use core::fmt;

use crate::id::MailboxId;
use crate::password::{self, Cost, Phc};
use crate::seal::{MailboxKey, PasswordWrap, PublicKey, SealError, UserKeys, Wraps, legacy};

/// What the password of an account is tried on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lock {
    /// A hash. Mail lies in clear.
    Hash(Phc),
    /// A hash of the older program, to be replaced when its password is known. Mail lies in clear.
    Legacy(LegacyHash),
    /// Wraps. Mail is sealed.
    Sealed(Box<Sealed>),
    /// It is there and cannot be read; nothing opens it. Mail must wait until it is mended or
    /// replaced.
    Unreadable,
}

/// What seals to an account, and what opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The public key, in DER. The private one is not kept in memory.
    pub public: Box<[u8]>,
    /// The mailbox key under each credential.
    pub wraps: Wraps,
}

impl Sealed {
    /// The public key.
    ///
    /// # Errors
    /// [`SealError::RsaKey`] when it is none.
    pub fn public_key(&self) -> Result<PublicKey, SealError> {
        PublicKey::from_der(&self.public)
    }
}

/// `base64(hash).salt` as the older program stored it. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct LegacyHash(pub Box<str>);

impl fmt::Debug for LegacyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegacyHash(..)")
    }
}

/// What came of trying a password.
#[derive(Debug)]
pub enum Opened {
    /// It is the wrong one.
    Wrong,
    /// It is right.
    Right(Option<MailboxKey>),
}

impl Lock {
    /// Tries a password. Blocks for the time of one run of Argon2.
    #[must_use]
    pub fn open(&self, mailbox: MailboxId, password: &[u8]) -> Opened {
        let right = match self {
            Self::Hash(hash) => password::verify(password, hash),
            Self::Legacy(hash) => {
                // Its own hash is quick: who measures must not learn that the account exists.
                let _ = PasswordWrap::open_dummy(password, Cost::default());
                legacy::verify(password, &hash.0)
            }
            Self::Sealed(sealed) => {
                return match sealed.wraps.open(mailbox, password, Cost::default()) {
                    Ok((_, key)) => Opened::Right(Some(key)),
                    Err(_) => Opened::Wrong,
                };
            }
            Self::Unreadable => return Self::open_nobody(password),
        };
        if right { Opened::Right(None) } else { Opened::Wrong }
    }

    /// Takes as long as [`Self::open`], for a user who does not exist.
    #[must_use]
    pub fn open_nobody(password: &[u8]) -> Opened {
        let _ = PasswordWrap::open_dummy(password, Cost::default());
        Opened::Wrong
    }

    /// What seals to the account; none when its mail lies in clear.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        match self {
            Self::Sealed(sealed) => Some(sealed),
            Self::Hash(_) | Self::Legacy(_) | Self::Unreadable => None,
        }
    }
}

/// A lock that an account is to get.
#[derive(Clone, Debug)]
pub enum NewLock {
    /// A hash.
    Hash(Phc),
    /// A hash of the older program.
    Legacy(LegacyHash),
    /// A key pair made for this mailbox, and wraps of the key that it is sealed under.
    Sealed {
        /// The mailbox that it was made for.
        mailbox: MailboxId,
        /// The key pair.
        keys: Box<UserKeys>,
        /// The wraps.
        wraps: Wraps,
    },
}

impl From<Phc> for NewLock {
    fn from(hash: Phc) -> Self {
        Self::Hash(hash)
    }
}

impl NewLock {
    /// The lock, and the key pair to be stored beside it.
    pub(super) fn split(self) -> (Lock, Option<Box<UserKeys>>) {
        match self {
            Self::Hash(hash) => (Lock::Hash(hash), None),
            Self::Legacy(hash) => (Lock::Legacy(hash), None),
            Self::Sealed { keys, wraps, .. } => {
                let sealed = Sealed { public: keys.public_der().into(), wraps };
                (Lock::Sealed(Box::new(sealed)), Some(keys))
            }
        }
    }

    /// Whether it may be put on `mailbox`: a key pair opens that of its own mailbox only.
    pub(super) fn fits(&self, mailbox: MailboxId) -> bool {
        !matches!(self, Self::Sealed { mailbox: made_for, .. } if *made_for != mailbox)
    }
}
