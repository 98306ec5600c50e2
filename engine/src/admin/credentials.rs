//! Accounts and what opens them: passwords, recovery keys, app passwords, imported hashes.
//!
//! Whoever changes the password of a sealed account must hold the old one or the recovery key,
//! because nothing else opens the mail. Without either the mailbox can only begin anew, and the
//! sealed mail in it is removed, since nobody could read it.

use std::sync::Arc;
use std::time::SystemTime;

use fsmtp_rt::UnixTime;
use fsmtp_store::StoreError;
use fsmtp_store::directory::{Account, Change, LegacyHash, Lock, NewLock};
use fsmtp_store::mailbox::{Mailboxes as _, Message, Registry as _, wait};
use fsmtp_store::seal::{Entry, Wrap, legacy};

use super::{StoreAdmin, invalid, refused};
use crate::control::{AdminError, AdminErrorKind, AdminReply, AppPasswordEntry, Password};
use crate::locks::{self, Protection};

impl StoreAdmin {
    pub(super) fn add_user(
        &self,
        address: String,
        name: Option<String>,
        password: &Password,
        recovery: bool,
    ) -> Result<AdminReply, AdminError> {
        let address = self.new_address(address)?;
        if recovery && self.sealing.is_none() {
            return Err(invalid("a recovery key needs sealing, which is off".to_owned()));
        }
        // Making keys takes a second; what is refused is refused before.
        if self.mailboxes.directory().account(&address).is_some() {
            return Err(refused(&StoreError::Exists(address)));
        }
        let mailbox = self.mailboxes.directory().next_mailbox();
        let protection = Protection { bits: self.sealing, recovery };
        let made = locks::make(mailbox, password.reveal().as_bytes(), protection);
        let (lock, secret) = made.map_err(|e| refused(&e))?;
        let added = format!("{address} added");
        let done = self.put_user(address, name, lock)?;
        Ok(match secret {
            None => done,
            Some(secret) => AdminReply::Secret {
                text: format!(
                    "{added}. Its recovery key, shown this once; it opens the mail when the \
                     password is forgotten:"
                ),
                secret: secret.text().to_string(),
            },
        })
    }

    pub(super) fn import_user(
        &self,
        address: String,
        name: Option<String>,
        hash: &str,
    ) -> Result<AdminReply, AdminError> {
        let address = self.new_address(address)?;
        if !legacy::is_readable(hash) {
            return Err(invalid("that is no hash of the older program: base64(hash).salt".into()));
        }
        self.put_user(address, name, NewLock::Legacy(LegacyHash(hash.into())))
    }

    fn put_user(
        &self,
        address: String,
        name: Option<String>,
        lock: NewLock,
    ) -> Result<AdminReply, AdminError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ms = since.unwrap_or_default().as_millis();
        let created = UnixTime::from_ms(u64::try_from(ms).unwrap_or(0));
        let done = format!("{address} added");
        let name = name.unwrap_or_default();
        self.change(Change::AddAccount { address, name, lock, created }, done)
    }

    fn account(&self, address: String) -> Result<Arc<Account>, AdminError> {
        let address = self.address(address)?;
        let directory = self.mailboxes.directory();
        let account = directory.account(&address).cloned();
        account.ok_or_else(|| refused(&StoreError::NotFound(format!("account {address}"))))
    }

    pub(super) fn set_password(
        &self,
        address: String,
        password: &Password,
        old: Option<&Password>,
        lose_mail: bool,
    ) -> Result<AdminReply, AdminError> {
        let account = self.account(address)?;
        let (address, new) = (account.address.clone(), password.reveal().as_bytes());
        let done = format!("{address} has a new password");
        let sealed = match &account.lock {
            Lock::Sealed(sealed) => sealed,
            Lock::Unreadable if lose_mail => return self.begin_anew(&account, new),
            Lock::Unreadable => return Err(unreadable(&account)),
            Lock::Hash(_) | Lock::Legacy(_) => return self.set_lock(&account, new, done),
        };
        let Some(old) = old else {
            if lose_mail {
                return self.begin_anew(&account, new);
            }
            let text = format!(
                "the mail of {address} is sealed: a new password needs the old one or the recovery \
                 key. Without them its mail is gone, for nobody can read it any more"
            );
            return Err(AdminError::new(AdminErrorKind::Locked, text));
        };
        let key = locks::open(&account, old.reveal().as_bytes()).map_err(|e| refused(&e))?;
        let (was, mut wraps) = (sealed.wraps.clone(), sealed.wraps.clone());
        let put = locks::put_password(&mut wraps, &key, account.mailbox, new);
        put.map_err(|e| refused(&e))?;
        self.change(Change::SetWraps { address, was, wraps }, done)
    }

    fn lock_for(&self, account: &Account, password: &[u8]) -> Result<NewLock, AdminError> {
        let protection = Protection { bits: self.sealing, recovery: false };
        let made = locks::make(account.mailbox, password, protection);
        made.map(|(lock, _)| lock).map_err(|e| refused(&e))
    }

    fn set_lock(
        &self,
        account: &Account,
        password: &[u8],
        done: String,
    ) -> Result<AdminReply, AdminError> {
        let lock = self.lock_for(account, password)?;
        let (address, was) = (account.address.clone(), account.lock.clone());
        self.change(Change::SetLock { address, was, lock }, done)
    }

    fn begin_anew(&self, account: &Account, password: &[u8]) -> Result<AdminReply, AdminError> {
        // Making keys takes a second, in which mail may come; the list is made after it.
        let lock = self.lock_for(account, password)?;
        let open = |mailbox| wait(self.mailboxes.open(mailbox)).map_err(|e| refused(&e));
        let maildrops =
            account.mailbox.all().map(open).into_iter().collect::<Result<Vec<_>, _>>()?;
        // At once, and before anything is removed: what comes from here on is sealed to the new
        // key, and a crash in between leaves mail that cannot be read, not a loss of mail that
        // could.
        let (address, was) = (account.address.clone(), account.lock.clone());
        self.change(Change::SetLock { address, was, lock }, String::new())?;
        // What lies in clear from before can still be read, and what cannot be looked at now may be
        // in clear: only what is known to be sealed goes.
        let gone = maildrops.into_iter().map(|maildrop| {
            let sealed = |message: &&Message| {
                let found = wait(self.mailboxes.find(maildrop.mailbox(), **message));
                found.is_ok_and(|found| found.key.is_some())
            };
            let messages = maildrop.messages().iter().filter(sealed);
            let uids: Vec<_> = messages.map(|message| message.uid).collect();
            (maildrop, uids)
        });
        let gone: Vec<_> = gone.collect();
        let (count, message) = match gone.iter().map(|(_, uids)| uids.len()).sum() {
            1 => ("1".to_owned(), "message that nobody could read any more is removed"),
            more => {
                (usize::to_string(&more), "messages that nobody could read any more are removed")
            }
        };
        let text = format!(
            "{} has a new password; {count} {message}. Its recovery key and its app passwords from \
             before are void",
            account.address
        );
        for (maildrop, uids) in gone {
            wait(self.mailboxes.close(maildrop, uids)).map_err(|e| refused(&e))?;
        }
        Ok(AdminReply::Done { text })
    }

    pub(super) fn add_app_password(
        &self,
        address: String,
        name: &str,
        credential: &Password,
    ) -> Result<AdminReply, AdminError> {
        let account = self.account(address)?;
        if account.lock == Lock::Unreadable {
            return Err(unreadable(&account));
        }
        let key = locks::open(&account, credential.reveal().as_bytes()).map_err(|e| refused(&e))?;
        let Some(sealed) = account.lock.sealed() else {
            return Err(invalid(format!("{} has no keys", account.address)));
        };
        let (was, mut wraps) = (sealed.wraps.clone(), sealed.wraps.clone());
        let added = locks::add_app(&mut wraps, &key, account.mailbox, name);
        let (number, secret) = added.map_err(|e| refused(&e))?;
        let address = account.address.clone();
        self.change(Change::SetWraps { address, was, wraps }, String::new())?;
        Ok(AdminReply::Secret {
            text: format!("App password {number} of {}, shown this once:", account.address),
            secret: secret.text().to_string(),
        })
    }

    pub(super) fn list_app_passwords(&self, address: String) -> Result<AdminReply, AdminError> {
        let account = self.account(address)?;
        let wraps = account.lock.sealed().map(|sealed| sealed.wraps.entries());
        let app = |entry: &Entry| matches!(entry.wrap, Wrap::App(_));
        let entry =
            |entry: &Entry| AppPasswordEntry { number: entry.number, name: entry.name.clone() };
        let entries = wraps.unwrap_or_default().iter().filter(|e| app(e)).map(entry).collect();
        Ok(AdminReply::AppPasswords { entries })
    }

    pub(super) fn revoke_app_password(
        &self,
        address: String,
        number: u32,
    ) -> Result<AdminReply, AdminError> {
        let account = self.account(address)?;
        if account.lock == Lock::Unreadable {
            return Err(unreadable(&account));
        }
        let none = || format!("app password {number} of {}", account.address);
        let missing = || refused(&StoreError::NotFound(none()));
        let sealed = account.lock.sealed().ok_or_else(missing)?;
        let (was, mut wraps) = (sealed.wraps.clone(), sealed.wraps.clone());
        // The others are no app passwords, and not to be taken away like this.
        wraps
            .remove(number)
            .filter(|entry| matches!(entry.wrap, Wrap::App(_)))
            .ok_or_else(missing)?;
        let done = format!("{} is revoked", none());
        self.change(Change::SetWraps { address: account.address.clone(), was, wraps }, done)
    }
}

/// What is said of an account whose lock cannot be read; the log names the damage.
fn unreadable(account: &Account) -> AdminError {
    let text = format!(
        "{} cannot be opened, for its key in keys.slots is damaged or missing. Stop the engine and \
         put back index.redb and keys.slots of one backup, or its sealed mail is gone",
        account.address
    );
    AdminError::new(AdminErrorKind::Locked, text)
}
