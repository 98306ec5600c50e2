//! `import-cassandra`: domains, accounts and mail of the older program (fsmtp-v2) come here.
//!
//! Called by `cli::main`. Reads with [`Original`] and writes as the other commands do: over the
//! control socket of a running engine, or with shards of its own on a store that none runs on. The
//! journal of the store says what was taken before. Limits: a page of rows and [`AT_ONCE`] bodies
//! are in memory, and the names of all accounts here and of one domain there. Failure: before
//! anything is written where nothing can be read; else one line for each thing that is left, 100 of
//! them.

mod report;
mod target;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use clap::Args;
use fsmtp_cluster::cassandra::{ClusterError, Terms};
use fsmtp_cluster::original::{
    AT_ONCE, Email, Folder, Original, OriginalError, Shortcut, TimeUuid, address, with_crlf,
};
use fsmtp_cluster::schema::Replication;
use fsmtp_store::directory::Directory;
use fsmtp_store::seal::legacy;
use ring::digest::{SHA256, digest};

use super::{Engine, Failed, Terminal, say};
use crate::admin::import::MAIL_BYTES_MAX;
use crate::config::Config;
use crate::control::{AdminErrorKind, AdminRequest, MailName};
use crate::relay::routes::Login;
use report::Report;
use target::{Batch, Target};

/// How long the servers may take for each answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The longest name of a person that an account has.
const NAME_BYTES_MAX: usize = 256;

/// `import-cassandra`
#[derive(Debug, Args)]
pub(super) struct Import {
    /// Some servers of the original's Cassandra
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true,
        value_parser = server)]
    from: Vec<String>,
    /// Its keyspace
    #[arg(long, value_name = "NAME", default_value = "fannst", value_parser = keyspace)]
    from_keyspace: String,
    /// As whom to sign in there
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// The file whose first line is the password, readable by nobody else
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Reads everything, writes nothing, and says what would be done
    #[arg(long)]
    dry_run: bool,
    /// Takes this domain only
    #[arg(long, value_name = "DOMAIN")]
    only: Option<String>,
}

fn server(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("a server is HOST:PORT".to_owned()),
    }
}

fn keyspace(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match (1..=48).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err("a keyspace has 1 to 48 of a-z, 0-9 and _".to_owned()),
    }
}

impl Import {
    fn terms(&self) -> Result<Terms, String> {
        let login = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let login = Login::new(user, file).and_then(|login| login.read());
                let login = login.map_err(|error| error.to_string())?;
                let password = String::from_utf8_lossy(login.password().unwrap_or_default());
                Some((user.clone(), password.into_owned()))
            }
            _ => None,
        };
        Ok(Terms {
            contacts: self.from.clone(),
            keyspace: self.from_keyspace.clone(),
            // It is never made.
            replication: Replication::Simple(1),
            centre: None,
            login,
            redis: None,
            timeout: TIMEOUT,
        })
    }
}

/// Takes over what is there.
pub(super) fn import(
    ask: &Import,
    config: &Config,
    json: bool,
    engine: &dyn Engine,
    terminal: &mut Terminal<'_>,
) -> Result<(), Failed> {
    let terms = ask.terms().map_err(Failed::usage)?;
    let original = Original::open(&terms).map_err(|error| Failed::usage(error.to_string()))?;
    let target = Target::open(config, engine, ask.dry_run).map_err(Failed::usage)?;
    let mut taking = Taking::new(&original, target, ask).map_err(Failed::usage)?;
    let ended = taking.all();
    let report = taking.report;
    say(terminal, &if json { report.json() } else { report.text() })?;
    match ended {
        Err(why) => Err(Failed::usage(format!("{why}; what is missing comes with another run"))),
        Ok(()) if report.has_left() => Err(Failed::from("something was left".to_owned())),
        Ok(()) => Ok(()),
    }
}

/// What is under way.
struct Taking<'a> {
    original: &'a Original,
    target: Target,
    only: Option<String>,
    dry_run: bool,
    /// What is here: names as they are stored.
    domains: BTreeSet<String>,
    /// The same, with the account there whose mail goes into it.
    accounts: HashMap<String, Option<TimeUuid>>,
    batch: Batch,
    report: Report,
}

/// The accounts of a domain by their owners; none for one that is not taken.
type Owners = HashMap<TimeUuid, Option<String>>;

/// A message that has a place here.
struct Wanted {
    email: Email,
    name: MailName,
}

impl<'a> Taking<'a> {
    fn new(original: &'a Original, mut target: Target, ask: &Import) -> Result<Self, String> {
        let domains = target.domains()?;
        let accounts = target.accounts()?;
        Ok(Self {
            original,
            target,
            only: ask.only.as_ref().map(|domain| domain.to_lowercase()),
            dry_run: ask.dry_run,
            domains,
            accounts: accounts
                .iter()
                .filter_map(|name| Some((Directory::canonical(name)?, None)))
                .collect(),
            batch: Batch::default(),
            report: Report::new(ask.dry_run),
        })
    }

    fn all(&mut self) -> Result<(), String> {
        let failed = |error: OriginalError| error.to_string();
        let mut with_accounts = self.original.domains().map_err(failed)?;
        let mut with_mail = self.original.domains_with_mail().map_err(failed)?;
        with_accounts.retain(|domain| self.is_wanted(domain));
        with_mail.retain(|domain| self.is_wanted(domain));
        if let (Some(only), true) = (&self.only, with_accounts.is_empty() && with_mail.is_empty()) {
            return Err(format!("the original has no domain {only}"));
        }
        for domain in &with_accounts {
            self.domain(domain)?;
            let owners = self.accounts_of(domain)?;
            if with_mail.remove(domain) {
                self.mail_of(domain, &owners)?;
            }
        }
        // What is left has nobody whose it could be.
        for domain in &with_mail {
            self.mail_of(domain, &Owners::new())?;
        }
        self.flush()?;
        if let Some(count) = self.target.settle()? {
            self.report.problem(format!(
                "{count} messages wait in the spool of this node for the cluster; they go there \
                 when it runs"
            ));
        }
        Ok(())
    }

    fn is_wanted(&self, domain: &str) -> bool {
        self.only.as_ref().is_none_or(|only| domain.to_lowercase() == *only)
    }

    fn domain(&mut self, domain: &str) -> Result<(), String> {
        let counts = &mut self.report.domains;
        let stored = domain.to_lowercase();
        if self.domains.contains(&stored) {
            counts.present += 1;
            return Ok(());
        }
        if Directory::canonical(&address("postmaster", domain)).is_none() {
            counts.refused += 1;
            self.report.problem(format!("domain {domain:?}: it cannot be one here"));
            return Ok(());
        }
        if !self.dry_run {
            let added = self.target.execute(AdminRequest::DomainAdd { domain: domain.to_owned() });
            match added {
                Ok(_) => {}
                Err(error) if error.kind == AdminErrorKind::Invalid => {
                    counts.refused += 1;
                    self.report.problem(format!("domain {domain:?}: {error}"));
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        counts.imported += 1;
        self.domains.insert(stored);
        Ok(())
    }

    fn accounts_of(&mut self, domain: &str) -> Result<Owners, String> {
        let mut owners = Owners::new();
        let mut pages = self.original.shortcuts(domain);
        while let Some(page) = self.original.next(&mut pages).map_err(|error| error.to_string())? {
            for row in page {
                match row {
                    Ok(shortcut) => {
                        let address = self.account(domain, &shortcut)?;
                        owners.insert(shortcut.owner, address);
                    }
                    Err(why) => {
                        self.report.accounts.refused += 1;
                        self.report.problem(format!("an account of {domain}: {why}"));
                    }
                }
            }
        }
        Ok(owners)
    }

    /// Its address, when it is an account here now.
    fn account(&mut self, domain: &str, shortcut: &Shortcut) -> Result<Option<String>, String> {
        let address = address(&shortcut.user, domain);
        let stored = Directory::canonical(&address);
        let here = stored.as_ref().and_then(|stored| self.accounts.get_mut(stored));
        let refused = match here.map(|owner| *owner.get_or_insert(shortcut.owner)) {
            Some(owner) if owner == shortcut.owner => {
                self.report.accounts.present += 1;
                return Ok(Some(address));
            }
            // Mail of one is not for the other.
            Some(_) => Some("another account there has this address in other case".to_owned()),
            None => self.fresh_account(&address, stored.is_some(), domain, shortcut)?,
        };
        let Some(refused) = refused else {
            self.report.accounts.imported += 1;
            self.accounts.extend(stored.map(|stored| (stored, Some(shortcut.owner))));
            return Ok(Some(address));
        };
        self.report.accounts.refused += 1;
        self.report.problem(format!("account {address:?}: {refused}"));
        Ok(None)
    }

    /// Makes an account; else says why it cannot be one.
    fn fresh_account(
        &mut self,
        address: &str,
        is_address: bool,
        domain: &str,
        shortcut: &Shortcut,
    ) -> Result<Option<String>, String> {
        if !is_address {
            return Ok(Some("it cannot be an address here".to_owned()));
        }
        let found = self.original.account(domain, shortcut).map_err(|error| error.to_string())?;
        let Some(account) = found else {
            return Ok(Some("it has no row in accounts".to_owned()));
        };
        if !legacy::is_readable(&account.password) {
            let why = "its password cannot be read; with `adduser` and another run its mail comes";
            return Ok(Some(why.to_owned()));
        }
        if !self.domains.contains(&domain.to_lowercase()) {
            return Ok(Some("its domain was refused".to_owned()));
        }
        if self.dry_run {
            return Ok(None);
        }
        let request = AdminRequest::UserImport {
            address: address.to_owned(),
            name: Some(person(&account.full_name)),
            hash: account.password,
        };
        match self.target.execute(request) {
            Ok(_) => Ok(None),
            Err(error) => match error.kind {
                AdminErrorKind::Invalid | AdminErrorKind::Exists | AdminErrorKind::NotFound => {
                    Ok(Some(error.to_string()))
                }
                _ => Err(error.to_string()),
            },
        }
    }

    fn mail_of(&mut self, domain: &str, owners: &Owners) -> Result<(), String> {
        let mut pages = self.original.emails(domain);
        let mut strangers = BTreeSet::new();
        while let Some(page) = self.original.next(&mut pages).map_err(|error| error.to_string())? {
            let mut wanted = Vec::new();
            for row in page {
                match row {
                    Ok(email) => wanted.extend(self.place(email, domain, owners, &mut strangers)),
                    Err(why) => self.report.refuse(format!("a message of {domain}: {why}")),
                }
            }
            let names: Vec<MailName> = wanted.iter().map(|one| one.name.clone()).collect();
            let known = self.target.known(&names)?;
            self.report.messages.present += known.iter().filter(|known| **known).count() as u64;
            let fresh = wanted.into_iter().zip(known).filter(|(_, known)| !known);
            let fresh: Vec<Wanted> = fresh.map(|(one, _)| one).collect();
            for some in fresh.chunks(AT_ONCE) {
                self.take(domain, some)?;
            }
        }
        Ok(())
    }

    /// Where a message belongs; none when it is left, which is counted.
    fn place(
        &mut self,
        email: Email,
        domain: &str,
        owners: &Owners,
        strangers: &mut BTreeSet<TimeUuid>,
    ) -> Option<Wanted> {
        if email.is_deleted {
            self.report.messages.deleted += 1;
            return None;
        }
        let Some(folder) = Folder::of(&email.mailbox) else {
            self.report.left(&email.mailbox);
            return None;
        };
        let Some(Some(address)) = owners.get(&email.owner) else {
            self.report.messages.refused += 1;
            // Accounts that were refused have been told.
            if !owners.contains_key(&email.owner) && strangers.insert(email.owner) {
                let owner = email.owner;
                self.report
                    .problem(format!("mail of {owner} in {domain}: there is no such account"));
            }
            return None;
        };
        let sent = folder == Folder::Sent;
        let name =
            MailName { name: name(email.owner, email.id, sent), address: address.clone(), sent };
        Some(Wanted { email, name })
    }

    /// Takes messages, [`AT_ONCE`] at most.
    fn take(&mut self, domain: &str, some: &[Wanted]) -> Result<(), String> {
        let emails: Vec<Email> = some.iter().map(|one| one.email.clone()).collect();
        let bodies = match self.original.bodies(domain, &emails) {
            Ok(bodies) => bodies.into_iter().map(Ok).collect(),
            // One of them spoils it for the others.
            Err(_) => emails.iter().map(|one| self.body(domain, one)).collect::<Result<_, _>>()?,
        };
        let bodies: Vec<Result<Option<String>, String>> = bodies;
        for (Wanted { email, name }, body) in some.iter().zip(bodies) {
            let whose = format!("message {} of {}", email.id, name.address);
            match body {
                Err(why) => self.report.refuse(format!("{whose}: {why}")),
                Ok(None) => {
                    self.report.messages.without_body += 1;
                    self.report.problem(format!("{whose}: it has no body"));
                }
                Ok(Some(text)) => {
                    let bytes = with_crlf(&text);
                    if bytes.len() > MAIL_BYTES_MAX {
                        self.report
                            .refuse(format!("{whose}: it has more than {MAIL_BYTES_MAX} bytes"));
                    } else if self.dry_run {
                        self.report.messages.imported += 1;
                    } else {
                        self.put(name, email.id.ms(), &bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One body; the inner error is its own, the outer one everybody's.
    fn body(&self, domain: &str, email: &Email) -> Result<Result<Option<String>, String>, String> {
        match self.original.bodies(domain, core::slice::from_ref(email)) {
            Ok(mut bodies) => Ok(Ok(bodies.pop().flatten())),
            Err(OriginalError::Cluster(ClusterError::Refused(why))) => Ok(Err(why)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn put(&mut self, name: &MailName, received_ms: u64, bytes: &[u8]) -> Result<(), String> {
        if !self.batch.has_room(name, bytes.len()) {
            self.flush()?;
        }
        let bytes = self.target.parts(name, bytes)?;
        self.batch.push(name.clone(), received_ms, bytes);
        Ok(())
    }

    /// Has the store keep what was gathered.
    fn flush(&mut self) -> Result<(), String> {
        let batch = core::mem::take(&mut self.batch);
        let names: Vec<String> = batch.addresses().map(str::to_owned).collect();
        for (address, outcome) in names.iter().zip(self.target.import(batch)?) {
            self.report.heed(address, outcome)?;
        }
        Ok(())
    }
}

/// What a message is called in the journal; the same in each run.
fn name(owner: TimeUuid, id: TimeUuid, sent: bool) -> String {
    let (owner, id) = (owner.0.to_be_bytes(), id.0.to_be_bytes());
    let digest = digest(&SHA256, &[&owner[..], &id[..], &[u8::from(sent)]].concat());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A person's name as an account takes it.
fn person(full_name: &str) -> String {
    let mut name: String = full_name.chars().filter(|sign| !sign.is_control()).collect();
    let mut end = NAME_BYTES_MAX.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}
