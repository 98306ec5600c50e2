//! Changes of the directory: what may be asked, what is refused, and the rows that result.
//!
//! Called by the mailbox back ends, one change at a time: [`Directory::apply`] makes the next
//! snapshot and the [`Edit`]s that a back end stores in one transaction before it publishes it.
//! A node of a cluster plans a change first ([`Directory::plan`]) and tells the others; what they
//! tell is taken over as it is ([`Change::Replicate`], in `replica`).

use std::sync::Arc;

use fsmtp_rt::UnixTime;

use super::{
    ALIAS_DEPTH_MAX, ALIAS_VISITS_MAX, Account, Alias, Bucket, Directory, Entry, Lock, NewLock,
    Sealed, address, bucket_of, no_such, owner_bucket,
};
use crate::seal::{UserKeys, Wraps};
use crate::{MailboxId, StoreError};

/// How much a directory may hold; see the memory that it takes in the header of `directory`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Accounts.
    pub accounts_max: usize,
    /// Aliases.
    pub aliases_max: usize,
    /// Domains.
    pub domains_max: usize,
}

impl Default for Limits {
    /// A million of each, 100,000 domains: arbitrary, some 600 MB.
    fn default() -> Self {
        Self { accounts_max: 1_000_000, aliases_max: 1_000_000, domains_max: 100_000 }
    }
}

/// The most targets of one alias.
pub const ALIAS_TARGETS_MAX: usize = 100;
/// The longest display name, in bytes. Arbitrary.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// A change that an administrator asks for. Addresses and domains may be in any case.
#[derive(Clone, Debug)]
pub enum Change {
    /// Serve a domain.
    AddDomain {
        /// Its name.
        domain: String,
    },
    /// Serve it no longer; refused while it has accounts or aliases.
    RemoveDomain {
        /// Its name.
        domain: String,
    },
    /// Make an account with an empty mailbox.
    AddAccount {
        /// `local@domain`; the domain must be served.
        address: String,
        /// The person's name, may be empty.
        name: String,
        /// What opens it. Keys must have been made for the directory's next mailbox.
        lock: NewLock,
        /// Now.
        created: UnixTime,
    },
    /// Remove an account and, in the background, its mail; refused while an alias leads to it.
    RemoveAccount {
        /// `local@domain`.
        address: String,
    },
    /// Give an account another lock. Mail that was sealed to the old one cannot be read any more.
    SetLock {
        /// `local@domain`.
        address: String,
        /// The lock that it replaces; refused when the account has another by now.
        was: Lock,
        /// What opens it. Keys must have been made for the account's mailbox.
        lock: NewLock,
    },
    /// Change the credentials of a sealed account; its keys and mail stay as they are.
    SetWraps {
        /// `local@domain`.
        address: String,
        /// The wraps that they replace; refused when the account has others by now.
        was: Wraps,
        /// The mailbox key under each credential.
        wraps: Wraps,
    },
    /// Make an alias or replace its targets.
    SetAlias {
        /// `local@domain`, or `*@domain` for all that nothing else takes.
        address: String,
        /// Existing accounts or aliases, at least one.
        targets: Vec<String>,
    },
    /// Remove an alias; refused while another alias leads to it.
    RemoveAlias {
        /// Its address.
        address: String,
    },
    /// Take over what other nodes of a cluster have changed: all of it or nothing. The same edits
    /// a second time change nothing, and they may come in any order.
    Replicate(Vec<Edit>),
}

/// What a back end has to store for a change, and what nodes of a cluster tell each other. Names
/// are canonical: in lower case.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A domain is served.
    PutDomain(String),
    /// It is not any more.
    DropDomain(String),
    /// An account is there, with this content; with its key pair, when that is new.
    PutAccount(Arc<Account>, Option<Box<UserKeys>>),
    /// It is not any more, and its mail is to go.
    DropAccount {
        /// `local@domain`.
        address: String,
        /// The first of its mailboxes.
        mailbox: MailboxId,
    },
    /// An alias is there, with these targets.
    PutAlias(Arc<Alias>),
    /// It is not any more.
    DropAlias(String),
    /// No mailbox below this one will be given out.
    NextMailbox(MailboxId),
}

/// A back end that keeps the directory.
#[allow(async_fn_in_trait)] // WHY: shards share nothing, so no future here needs to be Send
pub trait Registry {
    /// Makes the change; it is on stable storage when this resolves. Says the new state.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], [`StoreError::Exists`], [`StoreError::NotFound`] with the reason,
    /// nothing changed; or what the storage says.
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError>;

    /// The newest state. Takes a lock: not for the hot path, which keeps its own copy.
    fn directory(&self) -> Arc<Directory>;
}

impl Directory {
    /// The state after `change`, and what has to be stored for it, in this order.
    pub(crate) fn apply(&self, change: Change) -> Result<(Self, Vec<Edit>), StoreError> {
        let mut next = self.clone();
        let edits = match change {
            Change::Replicate(edits) => next.replicate(edits)?,
            other => vec![next.make(other)?],
        };
        Ok((next, edits))
    }

    /// What would have to be stored for a change, without making it.
    ///
    /// # Errors
    /// Those of [`Registry::change`]; [`StoreError::Invalid`] for [`Change::Replicate`], which was
    /// planned elsewhere.
    pub fn plan(&self, change: Change) -> Result<Edit, StoreError> {
        self.clone().make(change)
    }

    fn make(&mut self, change: Change) -> Result<Edit, StoreError> {
        match change {
            Change::AddDomain { domain } => self.add_domain(&domain),
            Change::RemoveDomain { domain } => self.remove_domain(&domain),
            Change::AddAccount { address, name, lock, created } => {
                self.add_account(&address, name, lock, created)
            }
            Change::RemoveAccount { address } => self.remove_account(&address),
            Change::SetLock { address, was, lock } => self.set_lock(&address, &was, lock),
            Change::SetWraps { address, was, wraps } => self.set_wraps(&address, &was, wraps),
            Change::SetAlias { address, targets } => self.set_alias(&address, &targets),
            Change::RemoveAlias { address } => self.remove_alias(&address),
            Change::Replicate(_) => {
                Err(StoreError::Invalid("what others have changed needs no plan".into()))
            }
        }
    }

    /// Takes over what a back end has stored. Mailboxes below `next` are never given out.
    pub(crate) fn restore(
        limits: Limits,
        next: MailboxId,
        domains: impl IntoIterator<Item = String>,
        accounts: impl IntoIterator<Item = Account>,
        aliases: impl IntoIterator<Item = Alias>,
    ) -> Self {
        let mut restored = Self { limits, next, ..Self::default() };
        let names = Arc::make_mut(&mut restored.domains);
        names.extend(domains.into_iter().map(|name| (name.into(), Default::default())));
        for account in accounts {
            restored.put_account(Arc::new(account));
        }
        for alias in aliases {
            restored.put_alias(Arc::new(alias));
        }
        restored
    }

    fn add_domain(&mut self, name: &str) -> Result<Edit, StoreError> {
        let name = address::domain(name)?;
        if self.domains.contains_key(&*name) {
            return Err(StoreError::Exists(format!("domain {name}")));
        }
        limit("domains", self.domains.len(), self.limits.domains_max)?;
        Arc::make_mut(&mut self.domains).insert(name.as_str().into(), Default::default());
        Ok(Edit::PutDomain(name))
    }

    fn remove_domain(&mut self, name: &str) -> Result<Edit, StoreError> {
        let name = address::domain(name)?;
        let counts = self.domains.get(&*name).ok_or_else(|| no_such("domain", &name))?;
        if counts.accounts_count > 0 || counts.aliases_count > 0 {
            return Err(StoreError::Invalid(format!(
                "domain {name} still has {} accounts and {} aliases",
                counts.accounts_count, counts.aliases_count
            )));
        }
        Arc::make_mut(&mut self.domains).remove(&*name);
        Ok(Edit::DropDomain(name))
    }

    fn add_account(
        &mut self,
        text: &str,
        name: String,
        lock: NewLock,
        created: UnixTime,
    ) -> Result<Edit, StoreError> {
        let address = self.local_address(address::address(text)?)?;
        if self.entry(&address).is_some() {
            return Err(StoreError::Exists(address));
        }
        limit("accounts", self.accounts_count, self.limits.accounts_max)?;
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(StoreError::Invalid(format!(
                "a name has at most {NAME_BYTES_MAX} bytes and no control characters"
            )));
        }
        if !lock.fits(self.next) {
            // Another account was made meanwhile.
            return Err(StoreError::Busy);
        }
        let (lock, keys) = lock.split();
        let account = Arc::new(Account { mailbox: self.next, address, name, lock, created });
        self.next = MailboxId(self.next.0 + 1);
        self.put_account(account.clone());
        Ok(Edit::PutAccount(account, keys))
    }

    fn remove_account(&mut self, text: &str) -> Result<Edit, StoreError> {
        let address = address::address(text)?;
        let account =
            self.account(&address).cloned().ok_or_else(|| no_such("account", &address))?;
        self.refuse_if_target(&address)?;
        self.take_account(&account);
        Ok(Edit::DropAccount { mailbox: account.mailbox, address })
    }

    pub(super) fn take_account(&mut self, account: &Account) {
        self.bucket(&account.address).remove(&*account.address);
        if let Some(owners) = self.owners.get_mut(owner_bucket(account.mailbox)) {
            Arc::make_mut(owners).remove(&account.mailbox);
        }
        self.accounts_count -= 1;
        let domain = host(&account.address);
        // The rest of the domain is looked at only when its oldest account goes.
        let eldest = self.domains.get(domain).and_then(|counts| counts.eldest);
        let eldest = if eldest == Some(account.mailbox) {
            self.accounts(Some(domain)).iter().map(|account| account.mailbox).min()
        } else {
            eldest
        };
        if let Some(counts) = Arc::make_mut(&mut self.domains).get_mut(domain) {
            counts.accounts_count -= 1;
            counts.eldest = eldest;
        }
    }

    fn set_lock(&mut self, text: &str, was: &Lock, lock: NewLock) -> Result<Edit, StoreError> {
        let address = address::address(text)?;
        let account = self.account(&address).ok_or_else(|| no_such("account", &address))?;
        if account.lock != *was || !lock.fits(account.mailbox) {
            return Err(StoreError::Busy);
        }
        let (lock, keys) = lock.split();
        let account = Arc::new(Account { lock, ..(**account).clone() });
        self.replace_account(&account);
        Ok(Edit::PutAccount(account, keys))
    }

    fn set_wraps(&mut self, text: &str, was: &Wraps, wraps: Wraps) -> Result<Edit, StoreError> {
        let address = address::address(text)?;
        let account = self.account(&address).ok_or_else(|| no_such("account", &address))?;
        let Some(sealed) = account.lock.sealed().filter(|sealed| sealed.wraps == *was) else {
            return Err(StoreError::Busy);
        };
        let lock = Lock::Sealed(Box::new(Sealed { wraps, ..sealed.clone() }));
        let account = Arc::new(Account { lock, ..(**account).clone() });
        self.replace_account(&account);
        Ok(Edit::PutAccount(account, None))
    }

    /// Puts an account in the place of the one with its address.
    pub(super) fn replace_account(&mut self, account: &Arc<Account>) {
        let entry = Entry::Account(Arc::clone(account));
        self.bucket(&account.address).insert(account.address.as_str().into(), entry);
        self.own(account);
    }

    fn own(&mut self, account: &Arc<Account>) {
        if let Some(owners) = self.owners.get_mut(owner_bucket(account.mailbox)) {
            Arc::make_mut(owners).insert(account.mailbox, Arc::clone(account));
        }
    }

    fn set_alias(&mut self, text: &str, targets: &[String]) -> Result<Edit, StoreError> {
        let address = self.local_address(address::alias(text)?)?;
        let previous = match self.entry(&address) {
            Some(Entry::Account(_)) => {
                return Err(StoreError::Exists(format!("account {address}")));
            }
            Some(Entry::Alias(alias)) => Some(alias.clone()),
            None => None,
        };
        if previous.is_none() {
            limit("aliases", self.aliases_count, self.limits.aliases_max)?;
        }
        if targets.is_empty() || targets.len() > ALIAS_TARGETS_MAX {
            return Err(StoreError::Invalid(format!(
                "an alias has 1 to {ALIAS_TARGETS_MAX} targets"
            )));
        }
        let mut checked = Vec::with_capacity(targets.len());
        for target in targets {
            let target = address::alias(target)?;
            if self.entry(&target).is_none() {
                return Err(no_such("alias target", &target));
            }
            if !checked.contains(&target) {
                checked.push(target);
            }
        }
        let alias = Arc::new(Alias { address, targets: checked });
        self.put_alias(alias.clone());
        self.refuse_if_endless(&alias)?;
        if previous.is_some() {
            self.refuse_if_endless_above(&alias)?;
        }
        Ok(Edit::PutAlias(alias))
    }

    fn remove_alias(&mut self, text: &str) -> Result<Edit, StoreError> {
        let address = address::alias(text)?;
        self.alias(&address).ok_or_else(|| no_such("alias", &address))?;
        self.refuse_if_target(&address)?;
        self.take_alias(&address);
        Ok(Edit::DropAlias(address))
    }

    pub(super) fn take_alias(&mut self, address: &str) {
        self.bucket(address).remove(address);
        self.aliases_count -= 1;
        if let Some(counts) = Arc::make_mut(&mut self.domains).get_mut(host(address)) {
            counts.aliases_count -= 1;
        }
    }

    pub(super) fn put_account(&mut self, account: Arc<Account>) {
        let domains = Arc::make_mut(&mut self.domains);
        let counts = domains.entry(host(&account.address).into()).or_default();
        counts.accounts_count += 1;
        counts.eldest =
            Some(counts.eldest.map_or(account.mailbox, |eldest| eldest.min(account.mailbox)));
        self.accounts_count += 1;
        self.own(&account);
        let address = account.address.as_str().into();
        self.bucket(&account.address.clone()).insert(address, Entry::Account(account));
    }

    pub(super) fn put_alias(&mut self, alias: Arc<Alias>) {
        let address: Box<str> = alias.address.as_str().into();
        let old = self.bucket(&address).insert(address.clone(), Entry::Alias(alias));
        if old.is_none() {
            self.aliases_count += 1;
            let domains = Arc::make_mut(&mut self.domains);
            domains.entry(host(&address).into()).or_default().aliases_count += 1;
        }
    }

    fn bucket(&mut self, address: &str) -> &mut Bucket {
        #[expect(clippy::indexing_slicing, reason = "bucket_of is below the number of buckets")]
        Arc::make_mut(&mut self.buckets[bucket_of(address)])
    }

    fn local_address(&self, address: String) -> Result<String, StoreError> {
        if self.serves(host(&address)) {
            Ok(address)
        } else {
            Err(no_such("domain", host(&address)))
        }
    }

    fn refuse_if_target(&self, address: &str) -> Result<(), StoreError> {
        let pointing = self.entries(None).find_map(|entry| match entry {
            Entry::Alias(alias) if alias.targets.iter().any(|target| target == address) => {
                Some(&alias.address)
            }
            _ => None,
        });
        pointing.map_or(Ok(()), |alias| {
            Err(StoreError::Invalid(format!("the alias {alias} still leads to {address}")))
        })
    }

    /// A circle that a change closes goes through the changed alias, so following it finds it.
    fn refuse_if_endless(&self, alias: &Alias) -> Result<(), StoreError> {
        let mut visits_left = ALIAS_VISITS_MAX;
        if self.follow(alias, ALIAS_DEPTH_MAX, &mut visits_left, &mut Vec::new()) {
            return Ok(());
        }
        Err(StoreError::Invalid(format!(
            "the alias {} would lead in a circle, or deeper than {ALIAS_DEPTH_MAX} aliases, \
             or to more than {ALIAS_VISITS_MAX} addresses",
            alias.address
        )))
    }

    /// The same for every alias that leads to `changed`, which may have grown too deep or too wide.
    /// A new alias has none above it: targets must exist.
    fn refuse_if_endless_above(&self, changed: &Alias) -> Result<(), StoreError> {
        // Level by level; the depth limit ends this as well.
        let mut level = vec![changed.address.clone()];
        for _ in 0..ALIAS_DEPTH_MAX {
            let above: Vec<Arc<Alias>> = self
                .aliases(None)
                .into_iter()
                .filter(|alias| alias.targets.iter().any(|target| level.contains(target)))
                .collect();
            for alias in &above {
                self.refuse_if_endless(alias)?;
            }
            if above.is_empty() {
                break;
            }
            level = above.iter().map(|alias| alias.address.clone()).collect();
        }
        Ok(())
    }
}

pub(super) fn host(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, host)| host)
}

fn limit(what: &str, count: usize, max: usize) -> Result<(), StoreError> {
    if count < max {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("there are {max} {what} already, the most that are kept")))
}
