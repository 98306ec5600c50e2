//! What the account commands do to the store, with the engine running or not.
//!
//! Called on the control thread, or in a command of its own while no engine runs; may block. Lists
//! come a page at a time, in the order of their keys. One request is carried out at a time, so what
//! is looked up before a change still holds when it is made.

mod credentials;
pub(crate) mod import;
pub(crate) mod queue;
pub(crate) mod reports;

use std::sync::Mutex;

use fsmtp_cluster::bridge::BridgeKeeper;
use fsmtp_cluster::node::NodeMailboxes;
use fsmtp_store::StoreError;
use fsmtp_store::directory::{Account, Alias, Change, Directory, Lock};
use fsmtp_store::mailbox::{Keeper, Registry, wait};
use fsmtp_store::seal::RsaBits;

use crate::control::{
    Admin, AdminError, AdminErrorKind, AdminReply, AdminRequest, AliasEntry, PAGE_ENTRIES_MAX,
    UserEntry,
};
use crate::dirlock::DirLock;

/// Domains that an error names; arbitrary, what a line takes.
const DOMAINS_NAMED_MAX: usize = 5;

/// Carries the account commands out.
#[derive(Debug)]
pub struct StoreAdmin {
    mailboxes: NodeMailboxes,
    /// The domain of names without one, if it is served.
    domain: String,
    /// The length of RSA keys of new accounts; none: their mail lies in clear.
    sealing: Option<RsaBits>,
    /// The ways to the shards' queues; none when no engine runs.
    doors: Vec<queue::Door>,
    /// Who knows what waits to be reported.
    rows: reports::Rows,
    /// Takes mail of the older program over; none where no shard does.
    importer: Option<import::Importer>,
    /// Ends the index's thread, then frees the folder; only when no engine does.
    _own: Option<(Option<BridgeKeeper>, Mutex<Keeper>, DirLock)>,
}

impl StoreAdmin {
    /// Beside a running engine; `domain` is that of names without one, `sealing` the length of RSA
    /// keys of new accounts.
    #[must_use]
    pub fn online(mailboxes: NodeMailboxes, domain: &str, sealing: Option<RsaBits>) -> Self {
        let (domain, doors, rows) = (domain.to_owned(), Vec::new(), reports::Rows::Nobody);
        Self { mailboxes, domain, sealing, doors, rows, importer: None, _own: None }
    }

    /// With the ways to the queues of the shards that run.
    pub(crate) fn with_doors(self, doors: Vec<queue::Door>) -> Self {
        Self { doors, ..self }
    }

    /// With the way to the shard that takes mail of the older program over.
    pub(crate) fn with_importer(self, importer: import::Importer) -> Self {
        Self { importer: Some(importer), ..self }
    }

    /// For a command that opened the store itself.
    #[must_use]
    pub fn offline(self, keeper: Keeper, bridge: Option<BridgeKeeper>, lock: DirLock) -> Self {
        Self { _own: Some((bridge, Mutex::new(keeper), lock)), ..self }
    }

    /// The address that `name` means: one without a domain is in the configured domain, as for
    /// people who sign in, if that is served.
    fn address(&self, name: String) -> Result<String, AdminError> {
        if name.contains('@') {
            return Ok(name);
        }
        let directory = self.mailboxes.directory();
        if directory.serves(&self.domain) {
            return Ok(format!("{name}@{}", self.domain));
        }
        let count = directory.domains().count();
        let mut names = directory.domains().map(|(domain, _)| domain);
        match (names.next(), count) {
            (None, _) => Err(invalid(format!(
                "{name} has no domain, and none is served yet: `fsmtp-engine domain add DOMAIN` \
                 comes first"
            ))),
            (Some(first), count) => {
                let some: Vec<&str> =
                    core::iter::once(first).chain(names).take(DOMAINS_NAMED_MAX).collect();
                let more = if count > some.len() { ", ..." } else { "" };
                let list = some.join(", ");
                Err(invalid(format!(
                    "{name} has no domain, and {} is not served here: write {name}@DOMAIN, which \
                     is one of {list}{more}",
                    self.domain
                )))
            }
        }
    }

    /// The same for an address that shall be new: its domain must be served.
    fn new_address(&self, name: String) -> Result<String, AdminError> {
        let address = self.address(name)?;
        match address.rsplit_once('@') {
            Some((_, domain)) if domain.is_empty() || self.mailboxes.directory().serves(domain) => {
                Ok(address)
            }
            _ => {
                let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
                let text = format!(
                    "{domain} is not served here: `fsmtp-engine domain add {domain}` comes first"
                );
                Err(AdminError::new(AdminErrorKind::NotFound, text))
            }
        }
    }

    /// Where an alias may lead: to what has a mailbox here in the end.
    fn target(&self, name: String) -> Result<String, AdminError> {
        let address = self.address(name)?;
        let directory = self.mailboxes.directory();
        if directory.account(&address).is_some() || directory.alias(&address).is_some() {
            return Ok(address);
        }
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if directory.serves(domain) {
            let text = format!("{address} is neither an account nor an alias: add it first");
            return Err(AdminError::new(AdminErrorKind::NotFound, text));
        }
        Err(invalid(format!(
            "{address} is not in a domain of this engine: an alias leads to accounts and other \
             aliases of its own domains only; mail is not forwarded to other hosts"
        )))
    }

    fn add_alias(
        &self,
        address: String,
        targets: Vec<String>,
        replace: bool,
    ) -> Result<AdminReply, AdminError> {
        let address = self.new_address(address)?;
        if let (Some(old), false) = (self.mailboxes.directory().alias(&address), replace) {
            let text = format!(
                "the alias {address} exists already and leads to {}: --replace gives it other \
                 targets",
                old.targets.join(", ")
            );
            return Err(AdminError::new(AdminErrorKind::Exists, text));
        }
        let targets = targets.into_iter().map(|target| self.target(target));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let done = format!("{address} leads to {}", targets.join(", "));
        self.change(Change::SetAlias { address, targets }, done)
    }

    fn change(&self, change: Change, done: String) -> Result<AdminReply, AdminError> {
        wait(self.mailboxes.change(change)).map_err(|e| refused(&e))?;
        Ok(AdminReply::Done { text: done })
    }
}

fn invalid(text: String) -> AdminError {
    AdminError::new(AdminErrorKind::Invalid, text)
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
            AdminRequest::UserAdd { address, name, password, recovery } => {
                self.add_user(address, name, &password, recovery)
            }
            AdminRequest::UserImport { address, name, hash } => {
                self.import_user(address, name, &hash)
            }
            AdminRequest::UserRemove { address } => {
                let address = self.address(address)?;
                let done = format!("{address} removed, with its mail");
                self.change(Change::RemoveAccount { address }, done)
            }
            AdminRequest::UserPassword { address, password, old, lose_mail } => {
                self.set_password(address, &password, old.as_ref(), lose_mail)
            }
            AdminRequest::AppPasswordAdd { address, name, credential } => {
                self.add_app_password(address, &name, &credential)
            }
            AdminRequest::AppPasswordList { address } => self.list_app_passwords(address),
            AdminRequest::AppPasswordRevoke { address, number } => {
                self.revoke_app_password(address, number)
            }
            AdminRequest::DomainAdd { domain } => {
                let done = format!("{domain} added");
                self.change(Change::AddDomain { domain }, done)
            }
            AdminRequest::DomainRemove { domain } => {
                let done = format!("{domain} removed");
                self.change(Change::RemoveDomain { domain }, done)
            }
            AdminRequest::AliasAdd { address, targets, replace } => {
                self.add_alias(address, targets, replace)
            }
            AdminRequest::AliasRemove { address } => {
                let address = self.address(address)?;
                let done = format!("{address} removed");
                self.change(Change::RemoveAlias { address }, done)
            }
            AdminRequest::QueueList { after, only } => {
                self.list_queue(after.as_deref(), only.as_deref())
            }
            AdminRequest::DmarcReports { send } => self.reports(send),
            AdminRequest::MailKnown { mails } => self.known_mail(&mails),
            AdminRequest::MailPart { name, offset, data } => self.part(name, offset, &data),
            AdminRequest::MailImport { mails } => self.import_mail(mails),
            AdminRequest::MailWaiting => self.waiting_mail(),
            AdminRequest::QueueAct { action, ids, all } => self.act_on_queue(action, &ids, all),
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
        unreadable: account.lock == Lock::Unreadable,
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
    use crate::control::Password;
    use fsmtp_store::mailbox::Embedded;

    /// Carries requests out on an empty store, whose configuration names `domain`.
    fn with_store(domain: &str, run: impl Fn(&dyn Fn(AdminRequest) -> Result<String, AdminError>)) {
        let temp = tempfile::tempdir().unwrap();
        let (mailboxes, keeper) =
            Embedded::open(temp.path(), fsmtp_store::mailbox::Options::new(1)).unwrap();
        let admin = StoreAdmin::online(NodeMailboxes::alone(mailboxes), domain, None);
        run(&|request| {
            admin.execute(request).map(|reply| match reply {
                AdminReply::Done { text } => text,
                other => panic!("{other:?}"),
            })
        });
        keeper.close().unwrap();
    }

    fn user(address: &str) -> AdminRequest {
        let password = Password::try_from("secret".to_owned()).unwrap();
        AdminRequest::UserAdd { address: address.to_owned(), name: None, password, recovery: false }
    }

    fn domain(domain: &str) -> AdminRequest {
        AdminRequest::DomainAdd { domain: domain.to_owned() }
    }

    fn alias(address: &str, targets: &[&str], replace: bool) -> AdminRequest {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        AdminRequest::AliasAdd { address: address.to_owned(), targets, replace }
    }

    #[test]
    fn a_name_without_a_domain_is_in_the_configured_one() {
        with_store("mail.test", |execute| {
            let error = execute(user("alice")).unwrap_err();
            assert_eq!(error.kind, AdminErrorKind::Invalid);
            assert!(error.message.contains("domain add"), "{error}");
            // Who signs in as `bob` is looked for in the configured domain and in no other.
            execute(domain("one.test")).unwrap();
            let error = execute(user("bob")).unwrap_err();
            assert_eq!(
                error.message,
                "bob has no domain, and mail.test is not served here: write bob@DOMAIN, which is \
                 one of one.test"
            );
            execute(domain("two.test")).unwrap();
            let error = execute(user("bob")).unwrap_err();
            assert!(error.message.ends_with("one of one.test, two.test"), "{error}");
            execute(domain("mail.test")).unwrap();
            assert_eq!(execute(user("bob")).unwrap(), "bob@mail.test added");
            let gone = execute(AdminRequest::UserRemove { address: "bob".to_owned() }).unwrap();
            assert_eq!(gone, "bob@mail.test removed, with its mail");
            for n in 0..DOMAINS_NAMED_MAX {
                execute(domain(&format!("{n}.test"))).unwrap();
            }
            execute(AdminRequest::DomainRemove { domain: "mail.test".to_owned() }).unwrap();
            let error = execute(user("bob")).unwrap_err();
            assert!(error.message.ends_with("3.test, 4.test, ..."), "{error}");
        });
    }

    #[test]
    fn an_alias_is_replaced_only_when_that_is_asked_for() {
        with_store("mail.test", |execute| {
            execute(domain("mail.test")).unwrap();
            execute(user("alice")).unwrap();
            execute(user("bob")).unwrap();
            let done = execute(alias("Sales@mail.test", &["alice"], false)).unwrap();
            assert_eq!(done, "Sales@mail.test leads to alice@mail.test");
            let error = execute(alias("sales", &["bob"], false)).unwrap_err();
            assert_eq!(error.kind, AdminErrorKind::Exists);
            assert!(error.message.contains("leads to alice@mail.test: --replace"), "{error}");
            execute(alias("sales", &["bob"], true)).unwrap();
            execute(alias("*", &["sales"], true)).unwrap();
            let error = execute(alias("alice", &["bob"], true)).unwrap_err();
            assert_eq!(error.kind, AdminErrorKind::Exists, "an account is not replaced");
        });
    }

    #[test]
    fn an_alias_that_leads_nowhere_says_what_is_allowed() {
        with_store("mail.test", |execute| {
            execute(domain("mail.test")).unwrap();
            execute(user("alice")).unwrap();
            for (address, target, kind, said) in [
                ("a", "bob@elsewhere.test", AdminErrorKind::Invalid, "own domains only"),
                ("a", "bob", AdminErrorKind::NotFound, "neither an account nor an alias"),
                ("a@elsewhere.test", "alice", AdminErrorKind::NotFound, "is not served here"),
            ] {
                let error = execute(alias(address, &["alice", target], false)).unwrap_err();
                assert_eq!(error.kind, kind, "{error}");
                assert!(error.message.contains(said) && error.message.lines().count() == 1);
            }
            let error = execute(user("a@elsewhere.test")).unwrap_err();
            assert!(error.message.contains("`fsmtp-engine domain add elsewhere.test`"), "{error}");
        });
    }

    #[test]
    fn pages_are_sorted_and_follow_each_other() {
        let all: Vec<String> = (0..PAGE_ENTRIES_MAX + 3).rev().map(|n| format!("{n:05}")).collect();
        let (first, more) = page(all.clone(), None, |name| name);
        assert!(more && first.len() == PAGE_ENTRIES_MAX && first.is_sorted());
        let (rest, more) = page(all, first.last().cloned(), |name| name);
        assert_eq!((rest.len(), more), (3, false));
    }
}
