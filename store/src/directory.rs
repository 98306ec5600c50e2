//! Who has a mailbox here: domains, accounts, aliases, as an immutable snapshot.
//!
//! The desk of each shard asks the snapshot for every recipient, without locks and without
//! allocation for an account. Changes ([`Change`]) go through the mailbox back end, which stores
//! them and hands the new snapshot to its subscribers; an old snapshot stays valid for who holds
//! it.
//!
//! Limits: [`Limits`]; all of it lies in memory, some 900 bytes for an account (its public key and
//! the wraps of its key are half of that), 200 and the targets for an alias. A change copies one of
//! 1024 buckets, not the whole. An alias names at most [`ALIAS_TARGETS_MAX`] targets and reaches at
//! most [`ALIAS_VISITS_MAX`] entries through other aliases, at most [`ALIAS_DEPTH_MAX`] deep; a
//! loop is refused when it is made. Failure: a change is checked whole before anything is changed,
//! and refused with the reason.

mod address;
mod change;
mod lock;
mod replica;

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use fsmtp_rt::UnixTime;

use crate::{MailboxId, StoreError};
use address::Folded;
pub use address::{DOMAIN_BYTES_MAX, LOCAL_BYTES_MAX};
pub use change::{ALIAS_TARGETS_MAX, Change, Edit, Limits, Registry};
pub use lock::{LegacyHash, Lock, NewLock, Opened, Sealed};

/// How many aliases deep an alias may lead. Arbitrary; people use two.
pub const ALIAS_DEPTH_MAX: usize = 8;
/// How many entries are looked at for one alias, so that lists of lists stay bounded.
pub const ALIAS_VISITS_MAX: usize = 1000;
/// Separates the user from the tag in `user+tag@domain`.
pub const TAG_SEPARATOR: char = '+';

/// A power of two: a change copies one bucket of that many.
const BUCKETS: usize = 1024;

/// A person who can receive and fetch mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The first of its mailboxes; never used for another account.
    pub mailbox: MailboxId,
    /// `local@domain`, folded to lower case.
    pub address: String,
    /// The person's name, for display; may be empty.
    pub name: String,
    /// What opens it.
    pub lock: Lock,
    /// When the account was made.
    pub created: UnixTime,
}

/// Another name for one or more addresses of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alias {
    /// `local@domain`, or `*@domain` for what nothing else in the domain takes.
    pub address: String,
    /// Where it leads: accounts or aliases, in the order that they were given.
    pub targets: Vec<String>,
}

/// How much is in a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DomainCounts {
    /// Accounts.
    pub accounts_count: u32,
    /// Aliases, the catch-all included.
    pub aliases_count: u32,
    /// The oldest account: it stands in for `postmaster` when nothing has that name.
    eldest: Option<MailboxId>,
}

/// Where the mail for an address goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// To this mailbox.
    Mailbox(MailboxId),
    /// To these, each once, at least one.
    Mailboxes(Vec<MailboxId>),
    /// The domain is not served here.
    NotLocal,
    /// The domain is, the user does not exist: `550 5.1.1`.
    NoSuchUser,
}

#[derive(Clone, Debug)]
enum Entry {
    Account(Arc<Account>),
    Alias(Arc<Alias>),
}

type Bucket = BTreeMap<Box<str>, Entry>;
type Owners = BTreeMap<MailboxId, Arc<Account>>;

/// One state of the directory.
#[derive(Clone)]
pub struct Directory {
    domains: Arc<BTreeMap<Box<str>, DomainCounts>>,
    buckets: Vec<Arc<Bucket>>,
    /// The same accounts by mailbox.
    owners: Vec<Arc<Owners>>,
    accounts_count: usize,
    aliases_count: usize,
    /// The next mailbox that will be given out.
    next: MailboxId,
    limits: Limits,
}

impl Default for Directory {
    fn default() -> Self {
        let empty = Arc::new(Bucket::new());
        Self {
            domains: Arc::default(),
            buckets: vec![empty; BUCKETS],
            owners: vec![Arc::default(); BUCKETS],
            accounts_count: 0,
            aliases_count: 0,
            next: MailboxId(1),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("domains", &self.domains.len())
            .field("accounts", &self.accounts_count)
            .field("aliases", &self.aliases_count)
            .finish()
    }
}

impl Directory {
    /// Where mail for `local@domain` goes. `local` comes without quotes; an empty `domain` is good
    /// for `postmaster` alone (RFC 5321 §4.1.1.3).
    ///
    /// The first that exists wins: the account or alias itself, the same without its tag, for
    /// `postmaster` the oldest account of the domain (RFC 5321 §4.5.1 asks that it always
    /// works), the catch-all.
    #[must_use]
    pub fn resolve(&self, local: &str, domain: &str) -> Resolution {
        let Some(folded) = Folded::new(local, domain) else {
            return if self.serves(domain) { Resolution::NoSuchUser } else { Resolution::NotLocal };
        };
        let postmaster = folded.local() == "postmaster";
        if domain.is_empty() {
            return if postmaster { self.postmaster() } else { Resolution::NotLocal };
        }
        let Some(counts) = self.domains.get(folded.domain()) else {
            return Resolution::NotLocal;
        };
        if folded.local() == "*" {
            return Resolution::NoSuchUser;
        }
        if let Some(entry) = self.entry(folded.address()) {
            return self.expand(entry);
        }
        if let Some((user, _tag)) = folded.local().split_once(TAG_SEPARATOR)
            && let Some(folded) = Folded::new(user, folded.domain())
            && let Some(entry) = self.entry(folded.address())
        {
            return self.expand(entry);
        }
        if postmaster && let Some(mailbox) = counts.eldest {
            return Resolution::Mailbox(mailbox);
        }
        Folded::new("*", folded.domain())
            .and_then(|all| self.entry(all.address()).map(|entry| self.expand(entry)))
            .unwrap_or(Resolution::NoSuchUser)
    }

    /// Whether mail for the domain is taken here.
    #[must_use]
    pub fn serves(&self, domain: &str) -> bool {
        Folded::new("", domain).is_some_and(|folded| self.domains.contains_key(folded.domain()))
    }

    /// The account with exactly this address, in any case; aliases and tags do not count.
    #[must_use]
    pub fn account(&self, address: &str) -> Option<&Arc<Account>> {
        let (local, domain) = address.rsplit_once('@')?;
        match self.entry(Folded::new(local, domain)?.address()) {
            Some(Entry::Account(account)) => Some(account),
            _ => None,
        }
    }

    /// An address as it is stored: in lower case; none for what cannot be one.
    #[must_use]
    pub fn canonical(address: &str) -> Option<String> {
        let (local, domain) = address.rsplit_once('@')?;
        Folded::new(local, domain).map(|folded| folded.address().to_owned())
    }

    /// The account that has this mailbox.
    #[must_use]
    pub fn owner(&self, mailbox: MailboxId) -> Option<&Arc<Account>> {
        let mailbox = mailbox.account();
        self.owners.get(owner_bucket(mailbox))?.get(&mailbox)
    }

    /// The alias with exactly this address, in any case; `*@domain` names the catch-all.
    #[must_use]
    pub fn alias(&self, address: &str) -> Option<&Arc<Alias>> {
        let (local, domain) = address.rsplit_once('@')?;
        match self.entry(Folded::new(local, domain)?.address()) {
            Some(Entry::Alias(alias)) => Some(alias),
            _ => None,
        }
    }

    /// All domains with their counts, by name.
    pub fn domains(&self) -> impl Iterator<Item = (&str, DomainCounts)> {
        self.domains.iter().map(|(name, counts)| (&**name, *counts))
    }

    /// All accounts, or those of one domain, by address. Looks at everything: for people's lists.
    #[must_use]
    pub fn accounts(&self, domain: Option<&str>) -> Vec<Arc<Account>> {
        let mut found: Vec<_> = self
            .entries(domain)
            .filter_map(|entry| match entry {
                Entry::Account(account) => Some(account.clone()),
                Entry::Alias(_) => None,
            })
            .collect();
        found.sort_by(|a, b| a.address.cmp(&b.address));
        found
    }

    /// All aliases, or those of one domain, by address. Looks at everything: for people's lists.
    #[must_use]
    pub fn aliases(&self, domain: Option<&str>) -> Vec<Arc<Alias>> {
        let mut found: Vec<_> = self
            .entries(domain)
            .filter_map(|entry| match entry {
                Entry::Alias(alias) => Some(alias.clone()),
                Entry::Account(_) => None,
            })
            .collect();
        found.sort_by(|a, b| a.address.cmp(&b.address));
        found
    }

    /// How many accounts there are.
    #[must_use]
    pub const fn accounts_count(&self) -> usize {
        self.accounts_count
    }

    /// The mailbox that the next account will get.
    #[must_use]
    pub const fn next_mailbox(&self) -> MailboxId {
        self.next
    }

    fn entries(&self, domain: Option<&str>) -> impl Iterator<Item = &Entry> {
        let domain = domain.map(str::to_lowercase);
        self.buckets.iter().flat_map(|bucket| bucket.iter()).filter_map(move |(address, entry)| {
            let within = match (&domain, address.rsplit_once('@')) {
                (Some(wanted), Some((_, found))) => wanted == found,
                _ => domain.is_none(),
            };
            within.then_some(entry)
        })
    }

    fn entry(&self, folded: &str) -> Option<&Entry> {
        self.buckets.get(bucket_of(folded))?.get(folded)
    }

    fn expand(&self, entry: &Entry) -> Resolution {
        let alias = match entry {
            Entry::Account(account) => return Resolution::Mailbox(account.mailbox),
            Entry::Alias(alias) => alias,
        };
        let mut found = Vec::new();
        let mut visits_left = ALIAS_VISITS_MAX;
        self.follow(alias, ALIAS_DEPTH_MAX, &mut visits_left, &mut found);
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [] => Resolution::NoSuchUser,
            [one] => Resolution::Mailbox(*one),
            _ => Resolution::Mailboxes(found),
        }
    }

    /// Collects where `alias` leads; false when a limit cut it short.
    fn follow(
        &self,
        alias: &Alias,
        depth_left: usize,
        visits_left: &mut usize,
        found: &mut Vec<MailboxId>,
    ) -> bool {
        if depth_left == 0 {
            return false;
        }
        for target in &alias.targets {
            if *visits_left == 0 {
                return false;
            }
            *visits_left -= 1;
            match self.entry(target) {
                Some(Entry::Account(account)) => found.push(account.mailbox),
                Some(Entry::Alias(next))
                    if !self.follow(next, depth_left - 1, visits_left, found) =>
                {
                    return false;
                }
                Some(Entry::Alias(_)) | None => {}
            }
        }
        true
    }

    /// `postmaster` without a domain: that of the first domain that has one.
    fn postmaster(&self) -> Resolution {
        let named = self.domains.keys().find_map(|domain| {
            let folded = Folded::new("postmaster", domain)?;
            self.entry(folded.address()).map(|entry| self.expand(entry))
        });
        let eldest = || self.domains.values().filter_map(|counts| counts.eldest).min();
        named.or_else(|| eldest().map(Resolution::Mailbox)).unwrap_or(Resolution::NoSuchUser)
    }
}

/// FNV-1a over the folded address.
fn bucket_of(folded: &str) -> usize {
    let hash = folded.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV mix best; the mask keeps it below BUCKETS.
    (hash & (BUCKETS as u64 - 1)) as usize
}

/// Mailboxes are numbered one after the other.
const fn owner_bucket(mailbox: MailboxId) -> usize {
    (mailbox.0 & (BUCKETS as u64 - 1)) as usize
}

fn no_such(what: &str, name: &str) -> StoreError {
    StoreError::NotFound(format!("{what} {name}"))
}

#[cfg(test)]
mod tests;
