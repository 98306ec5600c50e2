//! What the account commands do to the store, with the engine running or not.
//!
//! Called on the control thread, or in a command of its own while no engine runs; may block. Lists
//! come a page at a time, in the order of their keys.

use std::sync::Mutex;
use std::time::SystemTime;

use fsmtp_rt::UnixTime;
use fsmtp_store::StoreError;
use fsmtp_store::directory::{Account, Alias, Change, Directory};
use fsmtp_store::mailbox::{Embedded, Keeper, Registry, wait};
use fsmtp_store::password::{self, Cost, Phc, SALT_BYTES};
use ring::rand::{SecureRandom, SystemRandom};

use crate::control::{
    Admin, AdminError, AdminErrorKind, AdminReply, AdminRequest, AliasEntry, PAGE_ENTRIES_MAX,
    Password, UserEntry,
};
use crate::dirlock::DirLock;

/// Carries the account commands out.
#[derive(Debug)]
pub struct StoreAdmin {
    mailboxes: Embedded,
    /// Ends the index's thread, then frees the folder; only when no engine does.
    _own: Option<(Mutex<Keeper>, DirLock)>,
}

impl StoreAdmin {
    /// Beside a running engine.
    #[must_use]
    pub fn online(mailboxes: Embedded) -> Self {
        Self { mailboxes, _own: None }
    }

    /// For a command that opened the store itself.
    #[must_use]
    pub fn offline(mailboxes: Embedded, keeper: Keeper, lock: DirLock) -> Self {
        Self { mailboxes, _own: Some((Mutex::new(keeper), lock)) }
    }

    fn change(&self, change: Change, done: String) -> Result<AdminReply, AdminError> {
        wait(self.mailboxes.change(change)).map_err(|e| refused(&e))?;
        Ok(AdminReply::Done { text: done })
    }
}

/// Hashes a new password with fresh salt; takes some 20 ms.
///
/// # Errors
/// [`StoreError::Invalid`] for an empty or overlong password.
pub fn hash(password: &[u8]) -> Result<Phc, StoreError> {
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| StoreError::Invalid("the system has no random numbers".to_owned()))?;
    password::hash(password, salt, Cost::default())
}

fn hashed(password: &Password) -> Result<Phc, AdminError> {
    hash(password.reveal().as_bytes()).map_err(|e| refused(&e))
}

fn refused(error: &StoreError) -> AdminError {
    let kind = match error {
        StoreError::NotFound(_) => AdminErrorKind::NotFound,
        StoreError::Exists(_) => AdminErrorKind::Exists,
        StoreError::Invalid(_) => AdminErrorKind::Invalid,
        StoreError::Busy => AdminErrorKind::Busy,
        _ => AdminErrorKind::Failed,
    };
    AdminError::new(kind, error.to_string())
}

impl Admin for StoreAdmin {
    fn execute(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match request {
            AdminRequest::UserAdd { address, name, password } => {
                let password_phc = hashed(&password)?;
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let ms = since.unwrap_or_default().as_millis();
                let created = UnixTime::from_ms(u64::try_from(ms).unwrap_or(0));
                let done = format!("{address} added");
                let name = name.unwrap_or_default();
                self.change(Change::AddAccount { address, name, password_phc, created }, done)
            }
            AdminRequest::UserRemove { address } => {
                let done = format!("{address} removed, with its mail");
                self.change(Change::RemoveAccount { address }, done)
            }
            AdminRequest::UserPassword { address, password } => {
                let password_phc = hashed(&password)?;
                let done = format!("{address} has a new password");
                self.change(Change::SetPassword { address, password_phc }, done)
            }
            AdminRequest::DomainAdd { domain } => {
                let done = format!("{domain} added");
                self.change(Change::AddDomain { domain }, done)
            }
            AdminRequest::DomainRemove { domain } => {
                let done = format!("{domain} removed");
                self.change(Change::RemoveDomain { domain }, done)
            }
            AdminRequest::AliasAdd { address, targets } => {
                let done = format!("{address} leads to {}", targets.join(", "));
                self.change(Change::SetAlias { address, targets }, done)
            }
            AdminRequest::AliasRemove { address } => {
                let done = format!("{address} removed");
                self.change(Change::RemoveAlias { address }, done)
            }
            AdminRequest::UserList { after } => Ok(users(&self.mailboxes.directory(), after)),
            AdminRequest::DomainList { after } => Ok(domains(&self.mailboxes.directory(), after)),
            AdminRequest::AliasList { after } => Ok(aliases(&self.mailboxes.directory(), after)),
        }
    }
}

/// The page behind `after` of entries in the order of `key`, and whether more follow.
fn page<T>(mut entries: Vec<T>, after: Option<String>, key: impl Fn(&T) -> &str) -> (Vec<T>, bool) {
    if let Some(after) = after {
        entries.retain(|entry| key(entry) > after.as_str());
    }
    entries.sort_by(|a, b| key(a).cmp(key(b)));
    let more = entries.len() > PAGE_ENTRIES_MAX;
    entries.truncate(PAGE_ENTRIES_MAX);
    (entries, more)
}

fn users(directory: &Directory, after: Option<String>) -> AdminReply {
    let entry = |account: &Account| UserEntry {
        address: account.address.clone(),
        name: account.name.clone(),
    };
    let users = directory.accounts(None).iter().map(|account| entry(account)).collect();
    let (users, more) = page(users, after, |user: &UserEntry| &user.address);
    AdminReply::Users { users, more }
}

fn domains(directory: &Directory, after: Option<String>) -> AdminReply {
    let domains = directory.domains().map(|(name, _)| name.to_owned()).collect();
    let (domains, more) = page(domains, after, |domain: &String| domain);
    AdminReply::Domains { domains, more }
}

fn aliases(directory: &Directory, after: Option<String>) -> AdminReply {
    let entry = |alias: &Alias| AliasEntry {
        address: alias.address.clone(),
        targets: alias.targets.clone(),
    };
    let aliases = directory.aliases(None).iter().map(|alias| entry(alias)).collect();
    let (aliases, more) = page(aliases, after, |alias: &AliasEntry| &alias.address);
    AdminReply::Aliases { aliases, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sorted_and_follow_each_other() {
        let all: Vec<String> = (0..PAGE_ENTRIES_MAX + 3).rev().map(|n| format!("{n:05}")).collect();
        let (first, more) = page(all.clone(), None, |name| name);
        assert!(more && first.len() == PAGE_ENTRIES_MAX && first.is_sorted());
        let (rest, more) = page(all, first.last().cloned(), |name| name);
        assert_eq!((rest.len(), more), (3, false));
    }
}
