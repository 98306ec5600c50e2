//! The keys themselves: 32 secret bytes each, a type for each purpose, wiped on drop.
//!
//! Keys come from randomness that the caller passes in, or out of a wrap; there is no other way to
//! make one, and no way to print one.

use core::fmt;

use zeroize::Zeroizing;

use super::aead::{Purpose, context, derive};

/// Bytes of every symmetric key.
pub const KEY_BYTES: usize = 32;
/// Bytes that AES-GCM adds to what it seals.
pub const TAG_BYTES: usize = 16;
/// Bytes of a key that is sealed under another one.
pub const WRAPPED_BYTES: usize = KEY_BYTES + TAG_BYTES;
/// Bytes of a salt. Random, so that no two sealings share a derived key.
pub(super) const SALT_BYTES: usize = 16;

/// Fills a buffer with random bytes that nobody can guess: `Runtime::random` of fsmtp-rt, or the
/// system's source. Not used by RSA, whose library has a source of its own.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// 32 secret bytes, of whatever purpose.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    pub(super) fn fresh(random: Random<'_>) -> Self {
        Self::filled(|bytes| random(bytes))
    }

    /// A key whose bytes `fill` writes in place, so that no other copy of them is made here.
    pub(super) fn filled(fill: impl FnOnce(&mut [u8; KEY_BYTES])) -> Self {
        let mut key = Self(Zeroizing::new([0; KEY_BYTES]));
        fill(&mut key.0);
        key
    }

    pub(super) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self::filled(|key| key.copy_from_slice(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

/// The key of one message. Its maker, a [`Sealer`](super::Sealer), seals; everyone else opens.
pub struct ContentKey(pub(super) Key);

/// What all credentials of an account unwrap, and what opens the private key and the windows.
/// Small and symmetric, so that one more credential costs 48 bytes.
pub struct MailboxKey(pub(super) Key);

impl MailboxKey {
    /// What opens mail that is to travel on ([`MailboxId::QUEUE`](crate::MailboxId::QUEUE)), out of
    /// the secret of a data folder: the engine must send it while nobody is signed in, so this key
    /// protects it from those only who get at the log without the index.
    #[must_use]
    pub fn of_queue(secret: &[u8; KEY_BYTES]) -> Self {
        Self(derive(secret, &[0; SALT_BYTES], &context(Purpose::Queue, [0; 3])))
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

impl fmt::Debug for MailboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MailboxKey(..)")
    }
}

/// A fresh salt.
pub(super) fn salt(random: Random<'_>) -> [u8; SALT_BYTES] {
    let mut salt = [0; SALT_BYTES];
    random(&mut salt);
    salt
}
