//! The locks of the accounts: cheap, and the same in each run, so that a seed repeats itself.
//!
//! Account 0 keeps its mail in clear; the others are sealed when the plan says so. Windows begin
//! under the mailbox key, because RSA draws random numbers of its own; for the same reason the key
//! pairs, made once for a process, never come near the disk of the simulation.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use fsmtp_engine::windows::Begin;
use fsmtp_store::directory::{Account, NewLock, Opened};
use fsmtp_store::password::{Cost, hash};
use fsmtp_store::seal::{
    MailboxKey, PasswordWrap, RsaBits, SealError, UserKeys, Window, Wrap, Wraps,
};
use fsmtp_store::{MailboxId, StoreError};

use crate::node::PASSWORD;

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

/// Key pairs by mailbox: making one takes longer than many a run.
static PAIRS: Mutex<BTreeMap<MailboxId, (UserKeys, Wraps)>> = Mutex::new(BTreeMap::new());

/// The lock of an account.
pub(crate) fn lock(mailbox: MailboxId, is_sealed: bool) -> Result<NewLock, StoreError> {
    if !is_sealed {
        return Ok(NewLock::Hash(hash(PASSWORD.as_bytes(), [7; 16], CHEAP)?));
    }
    let mut pairs = PAIRS.lock().unwrap_or_else(PoisonError::into_inner);
    let (keys, wraps) = match pairs.entry(mailbox) {
        Entry::Occupied(made) => made.get().clone(),
        Entry::Vacant(vacant) => {
            let pair = pair(mailbox).map_err(|error| StoreError::Invalid(error.to_string()))?;
            vacant.insert(pair).clone()
        }
    };
    Ok(NewLock::Sealed { mailbox, keys: Box::new(keys), wraps })
}

fn pair(mailbox: MailboxId) -> Result<(UserKeys, Wraps), SealError> {
    let mut next = mailbox.0 as u8;
    let random = &mut |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(167).wrapping_add(91);
            *byte = next;
        }
    };
    let (keys, key) = UserKeys::generate(mailbox, RsaBits::B2048, random)?;
    let mut wraps = Wraps::default();
    let wrap = PasswordWrap::seal(&key, mailbox, PASSWORD.as_bytes(), CHEAP, random)?;
    wraps.put("", Wrap::Password(wrap))?;
    Ok((keys, wraps))
}

/// The key of a mailbox; none when its mail lies in clear.
pub(crate) fn open(account: &Account) -> Option<MailboxKey> {
    match account.lock.open(account.mailbox, PASSWORD.as_bytes()) {
        Opened::Right(key) => key,
        Opened::Wrong => None,
    }
}

/// Begins windows under the mailbox key.
pub(crate) fn begin() -> Begin {
    Rc::new(|mailbox, (account, _), random| {
        let key = open(account).ok_or(SealError::Refused)?;
        Window::begin_under(mailbox, &key, random)
    })
}
