//! The windows that a shard seals with: one for each mailbox that has got mail a short while ago.
//!
//! The desk asks for one when a recipient is accepted, so the RSA operation that begins a window
//! (some 25 µs) is done between commands, and once for all messages of a mailbox within
//! [`WINDOW_TIME`]. The keys live in the memory of this shard only and are wiped when they end.
//!
//! Limits: [`WINDOWS_COUNT_MAX`] windows, some 800 bytes each; when that is reached, all are let go
//! and begin anew, which costs time only.

use core::cell::RefCell;
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::Instant;
use fsmtp_store::directory::{Account, Lock, Sealed};
use fsmtp_store::seal::{ContentKey, MailboxKey, Random, SealError, Window, WindowRecord};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId};

/// How long a window is used. Longer makes sealing cheaper, and shows more to who reads the memory
/// of the running engine: mail of so long ago.
pub const WINDOW_TIME: Duration = Duration::from_secs(60);
/// The most windows of a shard.
pub const WINDOWS_COUNT_MAX: usize = 16 * 1024;

/// What seals to one mailbox for the time being.
#[derive(Debug)]
pub struct Held {
    window: Window,
    record: Arc<WindowRecord>,
    /// Whose it is: another public key needs another window.
    public: Box<[u8]>,
    until: Instant,
}

impl Held {
    /// The key of the message `id`, wrapped for the mailbox. Once for each message.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn wrap(&self, content: &ContentKey, id: QueueId) -> Result<RecipientKey, SealError> {
        let wrap = self.window.wrap(content, id)?;
        Ok(RecipientKey { wrap, window: Arc::clone(&self.record) })
    }

    /// Whose it is.
    #[must_use]
    pub fn mailbox(&self) -> MailboxId {
        self.record.mailbox()
    }

    /// Whether the account can open it: its keys are still those that it was made for.
    #[must_use]
    pub fn seals_to(&self, account: &Account) -> bool {
        account.lock.sealed().is_some_and(|sealed| sealed.public == self.public)
    }

    /// What the recipient's key takes in the record of a message.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        RecipientKey::record_bytes(&self.record)
    }
}

/// Begins a window for an account whose mail is sealed.
pub type Begin = Rc<
    dyn Fn(MailboxId, (&Account, &Sealed), Random<'_>) -> Result<(Window, WindowRecord), SealError>,
>;

/// By the public key of the account: nobody needs to be signed in.
///
/// # Errors
/// [`SealError::RsaKey`] when that is none, [`SealError::Unavailable`].
pub fn by_public_key(
    mailbox: MailboxId,
    (_, sealed): (&Account, &Sealed),
    random: Random<'_>,
) -> Result<(Window, WindowRecord), SealError> {
    Window::begin(mailbox, &sealed.public_key()?, random)
}

/// The windows of one shard.
pub struct Windows {
    begin: Begin,
    held: RefCell<BTreeMap<MailboxId, Rc<Held>>>,
}

impl core::fmt::Debug for Windows {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Windows({})", self.count())
    }
}

impl Windows {
    /// None are held yet. `begin` is [`by_public_key`] but in simulations, where RSA's own random
    /// numbers would make two runs differ.
    #[must_use]
    pub fn new(begin: Begin) -> Self {
        Self { begin, held: RefCell::default() }
    }

    /// The window of a mailbox of this account if one is in use.
    #[must_use]
    pub fn held(&self, mailbox: MailboxId, account: &Account, now: Instant) -> Option<Rc<Held>> {
        let windows = self.held.borrow();
        let held = windows.get(&mailbox)?;
        (held.until > now && held.seals_to(account)).then(|| Rc::clone(held))
    }

    /// Begins a window for a mailbox of this account; none for one whose mail lies in clear.
    ///
    /// # Errors
    /// [`SealError::RsaKey`] when the public key is none, [`SealError::Unreadable`] when nobody can
    /// tell whether there is one, [`SealError::Unavailable`].
    pub fn begin(
        &self,
        mailbox: MailboxId,
        account: &Account,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Option<Rc<Held>>, SealError> {
        if account.lock == Lock::Unreadable {
            return Err(SealError::Unreadable);
        }
        let Some(sealed) = account.lock.sealed() else { return Ok(None) };
        let (window, record) = (self.begin)(mailbox, (account, sealed), random)?;
        let (record, public) = (Arc::new(record), sealed.public.clone());
        let held = Rc::new(Held { window, record, public, until: now + WINDOW_TIME });
        let mut windows = self.held.borrow_mut();
        if windows.len() >= WINDOWS_COUNT_MAX {
            windows.clear();
        }
        windows.insert(mailbox, Rc::clone(&held));
        Ok(Some(held))
    }

    /// The window of mail that is to travel on, which `key` opens.
    ///
    /// # Errors
    /// [`SealError::Unavailable`]; not seen in practice.
    pub fn of_queue(
        &self,
        key: &MailboxKey,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Rc<Held>, SealError> {
        let held =
            self.held.borrow().get(&MailboxId::QUEUE).filter(|held| held.until > now).cloned();
        if let Some(held) = held {
            return Ok(held);
        }
        let (window, record) = Window::begin_under(MailboxId::QUEUE, key, random)?;
        let (record, public) = (Arc::new(record), Box::default());
        let held = Rc::new(Held { window, record, public, until: now + WINDOW_TIME });
        self.held.borrow_mut().insert(MailboxId::QUEUE, Rc::clone(&held));
        Ok(held)
    }

    /// Lets go of those that are over.
    pub fn sweep(&self, now: Instant) {
        self.held.borrow_mut().retain(|_, held| held.until > now);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_rt::UnixTime;
    use fsmtp_store::conformance::cheap_phc;
    use fsmtp_store::seal::{RsaBits, UserKeys, Wraps};

    fn windows() -> Windows {
        Windows::new(Rc::new(by_public_key))
    }

    fn random() -> impl FnMut(&mut [u8]) {
        let mut next = 0_u8;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(5).wrapping_add(7);
                *byte = next;
            }
        }
    }

    fn keys(mailbox: u64) -> UserKeys {
        UserKeys::generate(MailboxId(mailbox), RsaBits::B2048, &mut random()).unwrap().0
    }

    fn account(mailbox: u64, keys: &UserKeys) -> Account {
        let sealed = Sealed { public: keys.public_der().into(), wraps: Wraps::default() };
        Account {
            mailbox: MailboxId(mailbox),
            address: "alice@example.test".to_owned(),
            name: String::new(),
            lock: Lock::Sealed(Box::new(sealed)),
            created: UnixTime::from_ms(0),
        }
    }

    const NOW: Instant = Instant::from_ns(1_000_000_000);

    #[test]
    fn a_window_is_held_for_its_time_and_no_longer() {
        let (windows, alice) = (windows(), account(1, &keys(1)));
        assert!(windows.held(alice.mailbox, &alice, NOW).is_none());
        let begun = windows.begin(alice.mailbox, &alice, NOW, &mut random()).unwrap().unwrap();
        let end = NOW + WINDOW_TIME;
        let last = NOW + (WINDOW_TIME - Duration::from_millis(1));
        for now in [NOW, last] {
            assert!(Rc::ptr_eq(&windows.held(alice.mailbox, &alice, now).unwrap(), &begun));
        }
        assert!(windows.held(alice.mailbox, &alice, end).is_none());
        windows.sweep(last);
        assert_eq!(windows.count(), 1);
        windows.sweep(end);
        assert_eq!(windows.count(), 0);
    }

    #[test]
    fn another_public_key_begins_another_window() {
        let windows = windows();
        let [before, after] = [(); 2].map(|()| account(1, &keys(1)));
        let old = windows.begin(before.mailbox, &before, NOW, &mut random()).unwrap().unwrap();
        assert!(
            windows.held(after.mailbox, &after, NOW).is_none(),
            "what it seals could not be opened"
        );
        let new = windows.begin(after.mailbox, &after, NOW, &mut random()).unwrap().unwrap();
        assert!(Rc::ptr_eq(&windows.held(after.mailbox, &after, NOW).unwrap(), &new));
        assert!(windows.held(before.mailbox, &before, NOW).is_none() && !Rc::ptr_eq(&old, &new));
        assert_eq!(windows.count(), 1);
    }

    #[test]
    fn an_account_without_keys_has_no_window() {
        let windows = windows();
        let mut alice = account(1, &keys(1));
        alice.lock = Lock::Hash(cheap_phc());
        assert!(windows.begin(alice.mailbox, &alice, NOW, &mut random()).unwrap().is_none());
        assert!(windows.held(alice.mailbox, &alice, NOW).is_none());
        assert_eq!(windows.count(), 0);
    }

    #[test]
    fn for_an_account_that_cannot_be_read_nothing_is_sealed_and_nothing_stored_in_clear() {
        let windows = windows();
        let mut alice = account(1, &keys(1));
        windows.begin(alice.mailbox, &alice, NOW, &mut random()).unwrap();
        alice.lock = Lock::Unreadable;
        assert!(windows.held(alice.mailbox, &alice, NOW).is_none());
        let refused = windows.begin(alice.mailbox, &alice, NOW, &mut random());
        assert_eq!(refused.unwrap_err(), SealError::Unreadable);
    }

    #[test]
    fn the_windows_of_a_shard_are_bounded() {
        let (windows, keys) = (windows(), keys(1));
        let random = &mut random();
        for mailbox in 0..=WINDOWS_COUNT_MAX as u64 {
            assert_eq!(windows.count() as u64, mailbox);
            windows.begin(MailboxId(mailbox), &account(mailbox, &keys), NOW, random).unwrap();
        }
        assert_eq!(windows.count(), 1);
    }
}
