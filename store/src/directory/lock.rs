//! What opens an account: a hash to compare with, or wraps of the key that its mail is sealed
//! under.
//!
//! The desk asks a lock for the public key, the sign-in has [`Lock::open`] run on a helper thread.
//! An account with a hash keeps its mail in clear. Costs: one run of Argon2 for each try, whatever
//! the answer, except that an app password which opens costs none.

use core::fmt;

use crate::id::MailboxId;
use crate::leb::{Rest, put, put_bytes, put_text};
use crate::password::{self, Cost, Phc};
use crate::seal::{MailboxKey, PasswordWrap, PublicKey, SealError, UserKeys, Wraps, legacy};

/// The version of [`Lock::encode`].
const VERSION: u8 = 1;
const HASH: u64 = 0;
const SEALED: u64 = 1;
const LEGACY: u64 = 2;
const UNREADABLE: u64 = 3;

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

    /// The bytes that nodes of a cluster share: a version, then what a row of the index has.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        self.put(&mut bytes);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// What is wrong with it, in words; another version counts as wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (&version, rest) = bytes.split_first().ok_or("it ends early")?;
        if version != VERSION {
            return Err("it has a version that is not known");
        }
        let mut rest = Rest(rest);
        let kind = rest.number()?;
        let lock = Self::read(kind, &mut rest)?;
        rest.end()?;
        Ok(lock)
    }

    /// Appends its kind and content.
    pub(crate) fn put(&self, row: &mut Vec<u8>) {
        match self {
            Self::Hash(hash) => {
                put(row, HASH);
                put_text(row, hash.as_str());
            }
            Self::Legacy(hash) => {
                put(row, LEGACY);
                put_text(row, &hash.0);
            }
            Self::Sealed(sealed) => {
                put(row, SEALED);
                put_bytes(row, &sealed.public);
                put_bytes(row, &sealed.wraps.encode());
            }
            Self::Unreadable => put(row, UNREADABLE),
        }
    }

    /// Reads what [`put`](Self::put) wrote behind its kind.
    pub(crate) fn read(kind: u64, rest: &mut Rest<'_>) -> Result<Self, &'static str> {
        Ok(match kind {
            HASH => {
                Self::Hash(Phc::parse(rest.text()?).map_err(|_| "the password hash is damaged")?)
            }
            LEGACY => Self::Legacy(LegacyHash(rest.text()?.into())),
            SEALED => {
                let public = rest.bytes()?.into();
                let wraps = Wraps::decode(rest.bytes()?).map_err(|_| "the wraps are damaged")?;
                Self::Sealed(Box::new(Sealed { public, wraps }))
            }
            UNREADABLE => Self::Unreadable,
            _ => return Err("it has a lock of a kind that is not known"),
        })
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
