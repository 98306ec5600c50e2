//! Taking over what other nodes of a cluster have changed: as it is, in whatever order it comes.
//!
//! Called for [`Change::Replicate`](super::Change::Replicate). Who planned a change has checked it
//! on a directory that may be a little older or newer than this one, so nothing is refused here
//! for what is or is not there: an account brings its domain along, an alias may lead nowhere yet,
//! a domain goes only once it is empty. Limits: those of whoever planned. Failure: an edit that no
//! directory can hold ([`Edit::check`]), an account in another's mailbox, and a sealed one without
//! its key pair are refused, and then nothing is taken.

use std::sync::Arc;

use super::change::{NAME_BYTES_MAX, host};
use super::{ALIAS_TARGETS_MAX, Account, Alias, Directory, Edit, Entry, Lock, address};
use crate::seal::UserKeys;
use crate::{MailboxId, StoreError};

impl Edit {
    /// Whether a directory can hold this: names are canonical and within their limits, a sealed
    /// account has the key pair that its lock names.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with the reason.
    pub fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::PutDomain(name) | Self::DropDomain(name) => is_canonical(name, address::domain),
            Self::DropAccount { address, .. } => is_canonical(address, address::address),
            Self::DropAlias(address) => is_canonical(address, address::alias),
            Self::PutAccount(account, keys) => check_account(account, keys.as_deref()),
            Self::PutAlias(alias) => check_alias(alias),
            Self::NextMailbox(next) if !is_of_account(*next) => {
                Err(StoreError::Invalid(format!("{} is the mailbox of no account", next.0)))
            }
            Self::NextMailbox(_) => Ok(()),
        }
    }
}

/// Whether an account may have this as its first mailbox.
fn is_of_account(mailbox: MailboxId) -> bool {
    mailbox.0 != 0 && mailbox != MailboxId::QUEUE && mailbox.account() == mailbox
}

fn is_canonical(
    name: &str,
    fold: impl Fn(&str) -> Result<String, StoreError>,
) -> Result<(), StoreError> {
    if fold(name)? == name {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("{name:?} is not in lower case")))
}

fn check_account(account: &Account, keys: Option<&UserKeys>) -> Result<(), StoreError> {
    is_canonical(&account.address, address::address)?;
    let bad = |why: &str| Err(StoreError::Invalid(format!("account {}: {why}", account.address)));
    if !is_of_account(account.mailbox) {
        return bad("no account has such a mailbox");
    }
    if account.name.len() > NAME_BYTES_MAX || account.name.chars().any(char::is_control) {
        return bad("no account has such a name");
    }
    match (&account.lock, keys) {
        (Lock::Unreadable, _) => bad("its lock is damaged"),
        (Lock::Sealed(sealed), Some(keys)) if *sealed.public != *keys.public_der() => {
            bad("its key pair is another one than that of its lock")
        }
        (Lock::Hash(_) | Lock::Legacy(_), Some(_)) => bad("a key pair without a lock for it"),
        _ => Ok(()),
    }
}

fn check_alias(alias: &Alias) -> Result<(), StoreError> {
    is_canonical(&alias.address, address::alias)?;
    if alias.targets.is_empty() || alias.targets.len() > ALIAS_TARGETS_MAX {
        let why = format!("alias {}: 1 to {ALIAS_TARGETS_MAX} targets", alias.address);
        return Err(StoreError::Invalid(why));
    }
    alias.targets.iter().try_for_each(|target| is_canonical(target, address::alias))
}

impl Directory {
    /// Takes edits over; says those that change anything here, with what they bring along.
    pub(super) fn replicate(&mut self, edits: Vec<Edit>) -> Result<Vec<Edit>, StoreError> {
        let mut done = Vec::new();
        for edit in edits {
            edit.check()?;
            match edit {
                Edit::PutDomain(name) => self.ensure_domain(&name, &mut done),
                Edit::DropDomain(name) => self.release_domain(name, &mut done),
                Edit::PutAccount(account, keys) => self.take_over(account, keys, &mut done)?,
                Edit::DropAccount { address, mailbox } => {
                    // One that was made anew at the same address has another mailbox.
                    let account = self.account(&address).cloned();
                    if let Some(account) = account.filter(|account| account.mailbox == mailbox) {
                        self.take_account(&account);
                        done.push(Edit::DropAccount { address, mailbox });
                    }
                }
                Edit::PutAlias(alias) => self.take_over_alias(alias, &mut done),
                Edit::DropAlias(address) => {
                    if self.alias(&address).is_some() {
                        self.take_alias(&address);
                        done.push(Edit::DropAlias(address));
                    }
                }
                Edit::NextMailbox(next) => {
                    if self.next < next {
                        self.next = next;
                        done.push(Edit::NextMailbox(next));
                    }
                }
            }
        }
        Ok(done)
    }

    fn ensure_domain(&mut self, name: &str, done: &mut Vec<Edit>) {
        if !self.domains.contains_key(name) {
            Arc::make_mut(&mut self.domains).insert(name.into(), Default::default());
            done.push(Edit::PutDomain(name.to_owned()));
        }
    }

    fn release_domain(&mut self, name: String, done: &mut Vec<Edit>) {
        let counts = self.domains.get(&*name);
        if counts.is_some_and(|counts| counts.accounts_count == 0 && counts.aliases_count == 0) {
            Arc::make_mut(&mut self.domains).remove(&*name);
            done.push(Edit::DropDomain(name));
        }
    }

    fn take_over(
        &mut self,
        account: Arc<Account>,
        keys: Option<Box<UserKeys>>,
        done: &mut Vec<Edit>,
    ) -> Result<(), StoreError> {
        let bad =
            |why: String| Err(StoreError::Invalid(format!("account {}: {why}", account.address)));
        let before = self.account(&account.address).cloned();
        if before.as_ref() == Some(&account) {
            // Its keys are here: no account was taken without them.
            return Ok(());
        }
        if let Some(other) = self.owner(account.mailbox)
            && other.address != account.address
        {
            return bad(format!("its mailbox is that of {}", other.address));
        }
        let public = |account: &Account| account.lock.sealed().map(|sealed| sealed.public.clone());
        let known = before.as_ref().filter(|before| before.mailbox == account.mailbox);
        let wanted = public(&account);
        if wanted.is_some() && keys.is_none() && known.and_then(|known| public(known)) != wanted {
            return bad("its key pair is missing".into());
        }
        self.ensure_domain(host(&account.address), done);
        let made_anew = before.filter(|before| before.mailbox != account.mailbox);
        if let Some(old) = &made_anew {
            self.take_account(old);
            let (address, mailbox) = (old.address.clone(), old.mailbox);
            done.push(Edit::DropAccount { address, mailbox });
        }
        // Nodes agree on who has the address, whatever came first: the account.
        if self.alias(&account.address).is_some() {
            self.take_alias(&account.address);
            done.push(Edit::DropAlias(account.address.clone()));
        }
        if self.account(&account.address).is_some() {
            self.replace_account(&account);
        } else {
            self.put_account(Arc::clone(&account));
        }
        // Mailboxes of accounts have 48 bits.
        self.next = self.next.max(MailboxId(account.mailbox.0 + 1));
        done.push(Edit::PutAccount(account, keys));
        Ok(())
    }

    fn take_over_alias(&mut self, alias: Arc<Alias>, done: &mut Vec<Edit>) {
        match self.entry(&alias.address) {
            Some(Entry::Account(_)) => return,
            Some(Entry::Alias(before)) if *before == alias => return,
            _ => {}
        }
        self.ensure_domain(host(&alias.address), done);
        self.put_alias(Arc::clone(&alias));
        done.push(Edit::PutAlias(alias));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Change, LegacyHash, Resolution};
    use fsmtp_rt::UnixTime;

    fn account(address: &str, mailbox: u64) -> Edit {
        let account = Account {
            mailbox: MailboxId(mailbox),
            address: address.into(),
            name: String::new(),
            lock: Lock::Legacy(LegacyHash("aGFzaA==.salt".into())),
            created: UnixTime::from_ms(1),
        };
        Edit::PutAccount(Arc::new(account), None)
    }

    fn alias(address: &str, target: &str) -> Edit {
        let targets = vec![target.to_owned()];
        Edit::PutAlias(Arc::new(Alias { address: address.into(), targets }))
    }

    fn drop_account(address: &str, mailbox: u64) -> Edit {
        Edit::DropAccount { address: address.into(), mailbox: MailboxId(mailbox) }
    }

    fn taken(directory: &Directory, edits: &[Edit]) -> (Directory, usize) {
        let (next, done) = directory.apply(Change::Replicate(edits.to_vec())).unwrap();
        (next, done.len())
    }

    #[test]
    fn any_order_leads_to_the_same_directory_and_a_second_time_changes_nothing() {
        let mut edits = vec![
            Edit::PutDomain("x.test".into()),
            account("a@x.test", 3),
            account("b@x.test", 9),
            alias("c@x.test", "d@x.test"),
            alias("d@x.test", "b@x.test"),
            // The account wins.
            alias("a@x.test", "b@x.test"),
        ];
        let (expected, _) = taken(&Directory::default(), &edits);
        assert_eq!(expected.resolve("c", "x.test"), Resolution::Mailbox(MailboxId(9)));
        assert_eq!(expected.resolve("a", "x.test"), Resolution::Mailbox(MailboxId(3)));
        assert_eq!(expected.resolve("postmaster", "x.test"), Resolution::Mailbox(MailboxId(3)));
        assert_eq!(expected.next_mailbox(), MailboxId(10));
        for _ in 0..edits.len() {
            edits.rotate_left(1);
            let (found, _) = taken(&Directory::default(), &edits);
            assert!(found.domains().eq(expected.domains()));
            assert_eq!(found.accounts(None), expected.accounts(None));
            assert_eq!(found.aliases(None), expected.aliases(None));
            assert_eq!(found.next_mailbox(), expected.next_mailbox());
            assert_eq!(taken(&found, &edits).1, 0);
        }
    }

    #[test]
    fn what_others_have_dropped_goes_and_what_is_not_there_is_passed_over() {
        let all = [account("a@x.test", 3), alias("c@x.test", "a@x.test")];
        let (directory, count) = taken(&Directory::default(), &all);
        assert_eq!(count, 3, "with the domain");
        let empty = Edit::DropDomain("x.test".into());
        let none = [
            drop_account("a@x.test", 4),
            drop_account("c@x.test", 3),
            Edit::DropAlias("a@x.test".into()),
            Edit::DropDomain("y.test".into()),
            // Not yet.
            empty.clone(),
            Edit::NextMailbox(MailboxId(4)),
        ];
        assert_eq!(taken(&directory, &none).1, 0);
        // Made anew elsewhere: the mail of the old one goes.
        let (anew, done) =
            directory.apply(Change::Replicate(vec![account("a@x.test", 7)])).unwrap();
        assert!(matches!(done.first(), Some(Edit::DropAccount { mailbox, .. }) if mailbox.0 == 3));
        assert!(anew.owner(MailboxId(3)).is_none() && anew.owner(MailboxId(7)).is_some());
        assert_eq!((anew.accounts_count(), anew.next_mailbox()), (1, MailboxId(8)));
        let gone = [drop_account("a@x.test", 7), Edit::DropAlias("c@x.test".into()), empty];
        let (left, count) = taken(&anew, &gone);
        assert_eq!((count, left.domains().count(), left.accounts_count()), (3, 0, 0));
        assert_eq!(left.next_mailbox(), MailboxId(8), "no mailbox is given out again");
        let (raised, _) = taken(&left, &[Edit::NextMailbox(MailboxId(70))]);
        assert_eq!(raised.next_mailbox(), MailboxId(70));
    }

    #[test]
    fn what_no_directory_can_hold_is_refused_with_all_that_comes_with_it() {
        let (directory, _) = taken(&Directory::default(), &[account("a@x.test", 3)]);
        let of = |change: &dyn Fn(&mut Account)| {
            let Edit::PutAccount(made, _) = account("b@x.test", 5) else { unreachable!() };
            let mut made = (*made).clone();
            change(&mut made);
            Edit::PutAccount(Arc::new(made), None)
        };
        let targets = |count: usize| {
            let targets = vec!["a@x.test".to_owned(); count];
            Edit::PutAlias(Arc::new(Alias { address: "l@x.test".into(), targets }))
        };
        assert!(of(&|_| {}).check().is_ok() && targets(ALIAS_TARGETS_MAX).check().is_ok());
        for bad in [
            Edit::PutDomain("X.test".into()),
            Edit::PutDomain(String::new()),
            account("B@x.test", 5),
            account("*@x.test", 5),
            account("b@x.test", 0),
            account("b@x.test", MailboxId(5).sent().0),
            account("b@x.test", MailboxId::QUEUE.0),
            of(&|account| account.name = "n".repeat(NAME_BYTES_MAX + 1)),
            of(&|account| account.lock = Lock::Unreadable),
            // That of another account.
            account("b@x.test", 3),
            Edit::NextMailbox(MailboxId(1 << 48)),
            Edit::NextMailbox(MailboxId::QUEUE),
            targets(0),
            targets(ALIAS_TARGETS_MAX + 1),
            alias("l@x.test", "A@x.test"),
        ] {
            let both = vec![Edit::PutDomain("new.test".into()), bad.clone()];
            let refused = directory.apply(Change::Replicate(both));
            assert!(matches!(refused, Err(StoreError::Invalid(_))), "{bad:?}");
        }
        assert!(!directory.serves("new.test"));
    }
}
