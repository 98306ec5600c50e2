//! What was sent, what was acknowledged, what was taken out again.
//!
//! Shared by the senders and the auditors of a round, under one lock (this is the test, not the
//! engine). Contents are made from the seed and a number, so the ledger holds none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wire_tests::mail::{self, Rng};
use wire_tests::{DEMO, DEMO_PASSWORD, Engine};

/// What is known of one copy of a message, in one mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Copy {
    /// Sent, not answered: it may be there or not.
    Doubt,
    /// Answered 250: it must be there.
    Due,
    /// Fetched and deleted, and QUIT not answered: it may be there or not.
    Leaving,
}

/// One account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) address: String,
    pub(crate) password: String,
}

#[derive(Debug, Default)]
struct Books {
    /// By account, by message number.
    copies: Vec<BTreeMap<u64, Copy>>,
    /// Taken out and confirmed, by account.
    gone: Vec<BTreeSet<u64>>,
    /// Queue ids of acknowledged messages.
    ids: BTreeMap<u64, String>,
    wrong: Vec<String>,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    next: AtomicU64,
    accounts: Vec<Account>,
    books: Mutex<Books>,
    octets: AtomicU64,
    acknowledged: AtomicU64,
    absent: AtomicU64,
    found: AtomicU64,
    audited: AtomicU64,
}

/// A message as the ledger ordered it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) content: Vec<u8>,
    /// Indices of accounts, each once.
    pub(crate) to: Vec<usize>,
}

impl Ledger {
    pub(crate) fn new(seed: u64, accounts: usize) -> Self {
        let extra = (1..accounts).map(|n| Account {
            address: format!("account{n}@example.test"),
            password: format!("password {n}"),
        });
        let demo = Account { address: DEMO.to_owned(), password: DEMO_PASSWORD.to_owned() };
        let accounts: Vec<Account> = std::iter::once(demo).chain(extra).collect();
        let books = Books {
            copies: vec![BTreeMap::new(); accounts.len()],
            gone: vec![BTreeSet::new(); accounts.len()],
            ..Books::default()
        };
        Self {
            seed,
            next: AtomicU64::new(1),
            accounts,
            books: Mutex::new(books),
            octets: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            absent: AtomicU64::new(0),
            found: AtomicU64::new(0),
            audited: AtomicU64::new(0),
        }
    }

    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Adds the accounts that `--dev` does not make.
    pub(crate) fn make_accounts(&self, engine: &Engine) -> Result<(), String> {
        for account in self.accounts.iter().skip(1) {
            let input = format!("{}\n", account.password);
            let output =
                engine.beside(&["adduser", &account.address, "--password-stdin"], &input)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(format!("adduser {}: {said}", account.address));
            }
        }
        Ok(())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new message, to one account or to several, entered as in doubt.
    pub(crate) fn order(&self) -> Order {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(self.seed ^ number.rotate_left(32));
        let first = rng.below(self.accounts.len() as u64) as usize;
        let count = if rng.below(8) == 0 { 1 + rng.below(3) as usize } else { 1 };
        let to: Vec<usize> = (0..count.min(self.accounts.len()))
            .map(|i| (first + i) % self.accounts.len())
            .collect();
        let mut books = self.books();
        for account in &to {
            if let Some(copies) = books.copies.get_mut(*account) {
                copies.insert(number, Copy::Doubt);
            }
        }
        drop(books);
        Order { number, content: self.content(number), to }
    }

    /// The content of message `number`: mostly a few KiB, now and then much more, so that it takes
    /// several records of the log.
    pub(crate) fn content(&self, number: u64) -> Vec<u8> {
        let mut rng = Rng::new(self.seed.rotate_left(17) ^ number);
        let octets = match rng.below(256) {
            0 => 2_000_000,
            1..=5 => 300_000,
            6..=20 => 70_000,
            _ => rng.below(6_000),
        };
        mail::message(self.seed, number, octets as usize)
    }

    /// The engine answered 250, after it had taken these recipients.
    pub(crate) fn acknowledged(&self, order: &Order, taken: &[usize], id: &str) {
        let mut books = self.books();
        for account in &order.to {
            let Some(copies) = books.copies.get_mut(*account) else { continue };
            if !taken.contains(account) {
                copies.remove(&order.number);
            } else if let Some(copy) = copies.get_mut(&order.number)
                && *copy == Copy::Doubt
            {
                // An audit that runs at the same time may be taking it out, or have done so.
                *copy = Copy::Due;
            }
        }
        books.ids.insert(order.number, id.to_owned());
        drop(books);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.octets.fetch_add(order.content.len() as u64, Ordering::Relaxed);
    }

    /// The engine refused it for good: it must not be there.
    pub(crate) fn refused(&self, order: &Order) {
        let mut books = self.books();
        for account in &order.to {
            if let Some(copies) = books.copies.get_mut(*account) {
                copies.remove(&order.number);
            }
        }
    }

    /// A reply that has no place in this test.
    pub(crate) fn wrong(&self, what: String) {
        self.books().wrong.push(what);
    }

    /// # Errors
    /// The first replies that had no place here.
    pub(crate) fn no_wrong_replies(&self) -> Result<(), String> {
        let books = self.books();
        if books.wrong.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = books.wrong.iter().take(5).map(String::as_str).collect();
        Err(format!("{} replies that should not come: {}", books.wrong.len(), shown.join("; ")))
    }

    /// The messages that must be in `account` now.
    pub(crate) fn due(&self, account: usize) -> BTreeSet<u64> {
        let books = self.books();
        let copies = books.copies.get(account).into_iter().flatten();
        copies.filter(|(_, c)| **c == Copy::Due).map(|(n, _)| *n).collect()
    }

    /// A message was found in a mailbox; says what is wrong with that.
    ///
    /// # Errors
    /// It was taken out before, or nobody sent it, or its unique-id is not its queue id.
    pub(crate) fn found(&self, account: usize, number: u64, id: &str) -> Result<(), String> {
        let mut books = self.books();
        if books.gone.get(account).is_some_and(|g| g.contains(&number)) {
            return Err(format!("message {number} was deleted and came back"));
        }
        if let Some(known) = books.ids.get(&number).filter(|known| *known != id) {
            return Err(format!("message {number} was queued as {known} and has unique-id {id}"));
        }
        let copy = books.copies.get_mut(account).and_then(|c| c.get_mut(&number));
        match copy {
            None => Err(format!("message {number} was never sent to it")),
            Some(copy) => {
                if *copy == Copy::Doubt {
                    self.found.fetch_add(1, Ordering::Relaxed);
                }
                // Whoever can read it once must be able to read it again.
                *copy = Copy::Due;
                Ok(())
            }
        }
    }

    /// QUIT is about to be sent for these: whether they are gone is not known until it is answered.
    pub(crate) fn leaving(&self, account: usize, seen: &BTreeSet<u64>) {
        let mut books = self.books();
        let copies = books.copies.get_mut(account).into_iter().flatten();
        copies.filter(|(n, _)| seen.contains(n)).for_each(|(_, copy)| *copy = Copy::Leaving);
    }

    /// A session that started when `due` had to be there has listed the whole mailbox, found
    /// `seen`, deleted all of it, and QUIT was answered.
    ///
    /// # Errors
    /// What was due and not found.
    pub(crate) fn settled(
        &self,
        account: usize,
        due: &BTreeSet<u64>,
        seen: &BTreeSet<u64>,
    ) -> Result<(), String> {
        let lost: Vec<u64> = due.difference(seen).copied().collect();
        let mut books = self.books();
        if let Some(first) = lost.first() {
            let id = books.ids.get(first).cloned().unwrap_or_default();
            return Err(format!(
                "{} acknowledged messages are lost, the first is {first} ({id})",
                lost.len()
            ));
        }
        for number in seen {
            if let Some(copies) = books.copies.get_mut(account) {
                copies.remove(number);
            }
            if let Some(gone) = books.gone.get_mut(account) {
                gone.insert(*number);
            }
        }
        self.audited.fetch_add(seen.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Nothing is sent now and `account` was emptied: what was in doubt and was not found is not
    /// there, and must not appear later.
    pub(crate) fn absent(&self, account: usize) {
        let mut books = self.books();
        let Some(copies) = books.copies.get_mut(account) else { return };
        let before = copies.len();
        let left: Vec<u64> =
            copies.iter().filter(|(_, c)| **c != Copy::Due).map(|(n, _)| *n).collect();
        copies.retain(|_, c| *c == Copy::Due);
        let removed = before - copies.len();
        if let Some(gone) = books.gone.get_mut(account) {
            gone.extend(left);
        }
        self.absent.fetch_add(removed as u64, Ordering::Relaxed);
    }

    /// # Errors
    /// When a copy is still open after the last audit: a fault of this test.
    pub(crate) fn nothing_left(&self) -> Result<(), String> {
        let left: usize = self.books().copies.iter().map(BTreeMap::len).sum();
        if left == 0 { Ok(()) } else { Err(format!("{left} copies were never accounted for")) }
    }

    /// Messages answered 250 so far.
    pub(crate) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The figures so far.
    pub(crate) fn counts(&self) -> impl fmt::Display {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        format!(
            "{} messages acknowledged ({} MiB), {} copies audited byte for byte; of the copies in \
             doubt {} were there whole, {} were not there",
            read(&self.acknowledged),
            read(&self.octets) >> 20,
            read(&self.audited),
            read(&self.found),
            read(&self.absent),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with one account, and one message in it that was ordered.
    fn ordered() -> (Ledger, Order) {
        let ledger = Ledger::new(5, 1);
        let order = ledger.order();
        (ledger, order)
    }

    fn set(numbers: &[u64]) -> BTreeSet<u64> {
        numbers.iter().copied().collect()
    }

    #[test]
    fn contents_are_repeatable() {
        let (ledger, order) = ordered();
        assert_eq!(order.to, [0]);
        assert_eq!(ledger.content(order.number), order.content);
        assert_eq!(mail::find_mark(&order.content), Some((order.number, 0)));
    }

    #[test]
    fn a_lost_message_is_seen() {
        let (ledger, order) = ordered();
        ledger.acknowledged(&order, &[0], "id");
        let due = ledger.due(0);
        assert_eq!(due, set(&[order.number]));
        assert!(ledger.settled(0, &due, &set(&[])).unwrap_err().contains("lost"));
        assert!(ledger.nothing_left().is_err());
        assert_eq!(ledger.settled(0, &due, &due), Ok(()));
        assert_eq!(ledger.nothing_left(), Ok(()));
    }

    #[test]
    fn a_message_that_comes_back_is_seen() {
        let (ledger, order) = ordered();
        ledger.acknowledged(&order, &[0], "id");
        assert_eq!(ledger.found(0, order.number, "id"), Ok(()));
        let seen = set(&[order.number]);
        ledger.leaving(0, &seen);
        assert_eq!(ledger.due(0), set(&[]), "QUIT is under way");
        assert_eq!(ledger.settled(0, &set(&[]), &seen), Ok(()));
        assert!(ledger.found(0, order.number, "id").unwrap_err().contains("came back"));
    }

    #[test]
    fn a_message_in_doubt_may_be_there_or_not_but_not_later() {
        let (ledger, order) = ordered();
        assert_eq!(ledger.due(0), set(&[]));
        ledger.absent(0);
        assert!(ledger.found(0, order.number, "id").is_err());
        let order = ledger.order();
        assert_eq!(ledger.found(0, order.number, "id"), Ok(()));
        assert_eq!(ledger.due(0), set(&[order.number]), "seen once, it must stay");
    }

    #[test]
    fn strangers_refused_mail_and_wrong_ids_are_seen() {
        let (ledger, order) = ordered();
        assert!(ledger.found(0, 77, "id").unwrap_err().contains("never sent"));
        ledger.refused(&order);
        assert!(ledger.found(0, order.number, "id").is_err());
        let order = ledger.order();
        ledger.acknowledged(&order, &[0], "id");
        assert!(ledger.found(0, order.number, "other").unwrap_err().contains("queued as id"));
        let order = ledger.order();
        ledger.acknowledged(&order, &[], "id");
        assert!(ledger.found(0, order.number, "id").is_err(), "its recipient was refused");
        ledger.wrong("555 what".to_owned());
        assert!(ledger.no_wrong_replies().unwrap_err().contains("555 what"));
    }
}
