//! The key of a slot: what the lock of an account is sealed under where the index keeps it.
//!
//! The index is never overwritten in place, so rows that it has replaced or removed can be found in
//! its file for a long time. What can be overwritten is the slot with this key; without it such a
//! row says nothing, whatever password somebody has
//! (`docs/decisions/0009-erasable-wraps.md`). Called by the embedded index for each row that it
//! writes, and once for each account at its start.
//!
//! A key seals one lock and no other: [`SlotKey::seal`] makes it. Bound to mailbox, number of the
//! slot, and whatever the caller names. Failure: [`SealError::Refused`] for a key of another slot
//! or changed bytes.

use zeroize::Zeroizing;

use super::aead::{Cipher, Context, NONCE_ONCE, Purpose, context, derive};
use super::error::SealError;
use super::key::{KEY_BYTES, Key, Random};
use crate::id::MailboxId;

/// Bytes that tell the slots of one index from those of another.
pub(crate) const SLOTS_NAME_BYTES: usize = 16;

/// The key in one slot.
#[derive(Clone)]
pub(crate) struct SlotKey(Key);

impl SlotKey {
    /// Makes a key and seals `lock` under it, in place.
    pub(crate) fn seal(
        mailbox: MailboxId,
        slot: u32,
        bound: &[u8],
        lock: &mut Vec<u8>,
        random: Random<'_>,
    ) -> Result<Self, SealError> {
        let key = Self(Key::fresh(random));
        let (cipher, bound) = key.sealing(mailbox, slot, bound);
        cipher.seal(NONCE_ONCE, &bound, lock)?;
        Ok(key)
    }

    /// The lock that was sealed under this key.
    pub(crate) fn open(
        &self,
        mailbox: MailboxId,
        slot: u32,
        bound: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (cipher, bound) = self.sealing(mailbox, slot, bound);
        let mut lock = Zeroizing::new(sealed.to_vec());
        let bytes = cipher.open(NONCE_ONCE, &bound, &mut lock)?.len();
        lock.truncate(bytes);
        Ok(lock)
    }

    pub(crate) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Key::from_bytes(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.bytes()
    }

    fn sealing(&self, mailbox: MailboxId, slot: u32, bound: &[u8]) -> (Cipher, Vec<u8>) {
        let context = context(Purpose::Slot, [mailbox.0, u64::from(slot), 0]);
        let cipher = Cipher::new(&derive(self.bytes(), &[], &context));
        (cipher, [context.as_slice(), bound].concat())
    }
}

/// What the slots of the index with this secret are called; tells nothing about the secret.
pub(crate) fn slots_name(secret: &[u8; 32]) -> [u8; SLOTS_NAME_BYTES] {
    let context: Context = context(Purpose::Slots, [0; 3]);
    let mut name = [0; SLOTS_NAME_BYTES];
    name.copy_from_slice(&derive(secret, &[], &context).bytes()[..SLOTS_NAME_BYTES]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_opens_under_its_own_key_in_its_own_place_only() {
        let mailbox = MailboxId(7);
        let mut next = 0_u8;
        let mut random = |bytes: &mut [u8]| {
            bytes.fill(next);
            next += 1;
        };
        let mut sealed = b"a lock".to_vec();
        let key = SlotKey::seal(mailbox, 3, b"a@x", &mut sealed, &mut random).unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"a lock"));
        let again = SlotKey::from_bytes(key.bytes());
        assert_eq!(*again.open(mailbox, 3, b"a@x", &sealed).unwrap(), b"a lock");
        let other = SlotKey::seal(mailbox, 3, b"a@x", &mut b"a lock".to_vec(), &mut random);
        assert!(other.unwrap().open(mailbox, 3, b"a@x", &sealed).is_err());
        assert!(key.open(MailboxId(8), 3, b"a@x", &sealed).is_err());
        assert!(key.open(mailbox, 4, b"a@x", &sealed).is_err());
        assert!(key.open(mailbox, 3, b"b@x", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(mailbox, 3, b"a@x", &changed).is_err(), "byte {at}");
            assert!(key.open(mailbox, 3, b"a@x", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn slots_have_the_name_of_their_index() {
        assert_eq!(slots_name(&[1; 32]), slots_name(&[1; 32]));
        assert_ne!(slots_name(&[1; 32]), slots_name(&[2; 32]));
    }
}
