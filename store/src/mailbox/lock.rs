//! The exclusive lock of a maildrop (RFC 1939 §4), for all back ends in one process.
//!
//! A lock is held as long as its [`Hold`] lives, so a session that ends in any way gives it back
//! without a message that could get lost. Memory: one entry for each hold, and for as many dead
//! ones as there were holds at the last sweep.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::{MailboxId, StoreError};

/// Keeps a mailbox locked while it lives.
#[derive(Debug)]
pub(super) struct Hold(#[expect(dead_code, reason = "lives for its count")] Arc<()>);

/// Which mailboxes are open.
#[derive(Debug, Default)]
pub(super) struct Locks {
    holds: BTreeMap<MailboxId, Weak<()>>,
    sweep_at_count: usize,
}

impl Locks {
    /// Sweeping fewer entries than this is not worth the while. Arbitrary.
    const SWEEP_COUNT_MIN: usize = 64;

    /// Locks a mailbox, or says [`StoreError::InUse`].
    pub(super) fn take(&mut self, mailbox: MailboxId) -> Result<Hold, StoreError> {
        if self.holds.get(&mailbox).is_some_and(|hold| hold.strong_count() > 0) {
            return Err(StoreError::InUse);
        }
        if self.holds.len() >= self.sweep_at_count.max(Self::SWEEP_COUNT_MIN) {
            self.holds.retain(|_, hold| hold.strong_count() > 0);
            self.sweep_at_count = self.holds.len() * 2;
        }
        let hold = Arc::new(());
        self.holds.insert(mailbox, Arc::downgrade(&hold));
        Ok(Hold(hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lives_as_long_as_its_hold() {
        let mut locks = Locks::default();
        let hold = locks.take(MailboxId(1)).unwrap();
        assert!(matches!(locks.take(MailboxId(1)), Err(StoreError::InUse)));
        assert!(locks.take(MailboxId(2)).is_ok());
        drop(hold);
        assert!(locks.take(MailboxId(1)).is_ok());
    }

    #[test]
    fn dead_entries_are_swept() {
        let mut locks = Locks::default();
        let kept: Vec<Hold> = (0..100).map(|n| locks.take(MailboxId(n)).unwrap()).collect();
        for n in 100..100_000 {
            drop(locks.take(MailboxId(n)).unwrap());
        }
        assert!(locks.holds.len() <= 200, "{}", locks.holds.len());
        assert!((0..100).all(|n| locks.take(MailboxId(n)).is_err()));
        drop(kept);
    }
}
