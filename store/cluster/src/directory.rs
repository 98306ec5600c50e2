//! The directory that all nodes share: domains, accounts and aliases, as rows of Cassandra.
//!
//! Called by the thread that has the session. Each node keeps a full copy in its own index, where
//! sign-in and recipients are looked up; nobody waits for Cassandra there. A change is planned on
//! that copy ([`Directory::plan`]), published here under a condition, and then taken over into the
//! copy ([`Change::Replicate`](fsmtp_store::directory::Change::Replicate)). The others find it in
//! `changes`, where they look about once a second. A node does these one after another, each to
//! its end: what was read before a change of its own, and taken over after it, would undo it in the
//! copy until the next look.
//!
//! Everything is written and read at a quorum of all data centres: what [`Book::publish`] has
//! answered is what everybody's next look finds, and a row that is not found is not there. Times
//! come from the caller; they may differ between nodes by [`CLOCKS_MS_MAX`].
//!
//! Limits: what is different from the copy lies in memory at once, some 4 KB for an account, so a
//! node that joins needs room for all; changes of ten minutes are read again at each look. Failure:
//! [`StoreError::Io`] when Cassandra does not answer. What was published then may be there or not:
//! it can be published again. A row that cannot be read is named and passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fsmtp_rt::{IoError, IoKind, UnixTime};
use fsmtp_store::directory::{Account, Alias, Directory, Edit, Lock};
use fsmtp_store::seal::UserKeys;
use fsmtp_store::{MailboxId, StoreError};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::response::PagingState;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlTimestamp, CqlTimeuuid, CqlValue, Row};

use crate::cassandra::ClusterError;

/// How far clocks of nodes and servers may be apart. Arbitrary, and the same as for mail; a change
/// by one that is further off is found at the next [`Book::all`].
pub const CLOCKS_MS_MAX: u64 = 10 * 60 * 1000;
/// Rows of `changes` end after 30 days; who has not looked for longer than this reads everything.
const BEHIND_MS_MAX: u64 = 29 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Rows of a page: some 3 MB of accounts.
const PAGE_ROWS: i32 = 1000;

const DOMAIN: &str = "domain";
const ACCOUNT: &str = "account";
const ALIAS: &str = "alias";

/// Mailbox, name, lock, keys, created.
type AccountRow =
    (Option<i64>, Option<String>, Option<Vec<u8>>, Option<Vec<u8>>, Option<CqlTimestamp>);

/// What a node has not known.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// For [`Change::Replicate`](fsmtp_store::directory::Change::Replicate), which takes each.
    pub edits: Vec<Edit>,
    /// Rows that cannot be taken, and why. The node keeps what it has of them.
    pub damaged: Vec<String>,
}

/// The directory of all nodes, and how far this one has read its changes.
pub struct Book {
    session: Arc<Session>,
    statements: Statements,
    /// When [`Book::fresh`] was asked last.
    looked: Option<UnixTime>,
    /// The changes that it has found behind the time from which it will look again.
    seen: BTreeSet<[u8; 16]>,
}

impl core::fmt::Debug for Book {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Book").field("looked", &self.looked).finish_non_exhaustive()
    }
}

/// Declares the statements with their texts; `KEYSPACE` stands for the keyspace.
macro_rules! statements {
    ($($name:ident: $text:expr,)*) => {
        struct Statements {
            $($name: PreparedStatement,)*
        }

        impl Statements {
            async fn prepare(session: &Session, keyspace: &str) -> Result<Self, PrepareError> {
                Ok(Self {
                    $($name: prepare(session, &$text.replace("KEYSPACE", keyspace)).await?,)*
                })
            }
        }
    };
}

statements! {
    domains: "SELECT domain FROM KEYSPACE.domains",
    domain: "SELECT domain FROM KEYSPACE.domains WHERE domain = ?",
    put_domain: "INSERT INTO KEYSPACE.domains (domain, created) VALUES (?, ?) IF NOT EXISTS",
    drop_domain: "DELETE FROM KEYSPACE.domains WHERE domain = ? IF EXISTS",
    accounts: "SELECT address, mailbox, name, lock, keys, created FROM KEYSPACE.accounts",
    account: "SELECT mailbox, name, lock, keys, created FROM KEYSPACE.accounts WHERE address = ?",
    make_account: "INSERT INTO KEYSPACE.accounts (address, mailbox, name, lock, keys, created) \
                   VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS",
    change_account: "UPDATE KEYSPACE.accounts SET name = ?, lock = ? WHERE address = ? \
                     IF mailbox = ? AND lock = ?",
    change_keys: "UPDATE KEYSPACE.accounts SET name = ?, lock = ?, keys = ? WHERE address = ? \
                  IF mailbox = ? AND lock = ?",
    drop_account: "DELETE FROM KEYSPACE.accounts WHERE address = ? IF mailbox = ?",
    aliases: "SELECT address, targets FROM KEYSPACE.aliases",
    alias: "SELECT targets FROM KEYSPACE.aliases WHERE address = ?",
    make_alias: "INSERT INTO KEYSPACE.aliases (address, targets) VALUES (?, ?) IF NOT EXISTS",
    change_alias: "UPDATE KEYSPACE.aliases SET targets = ? WHERE address = ? IF targets = ?",
    drop_alias: "DELETE FROM KEYSPACE.aliases WHERE address = ? IF targets = ?",
    next: "SELECT next FROM KEYSPACE.numbers WHERE kind = 'mailbox'",
    first: "INSERT INTO KEYSPACE.numbers (kind, next) VALUES ('mailbox', ?) IF NOT EXISTS",
    // A node that had accounts before it joined begins behind them.
    claim: "UPDATE KEYSPACE.numbers SET next = ? WHERE kind = 'mailbox' IF next <= ?",
    changes: "SELECT at, kind, name FROM KEYSPACE.changes \
              WHERE day = ? AND at >= minTimeuuid(?)",
    tell: "INSERT INTO KEYSPACE.changes (day, at, kind, name) VALUES (?, now(), ?, ?) \
           USING TTL 2592000",
}

async fn prepare(session: &Session, text: &str) -> Result<PreparedStatement, PrepareError> {
    let mut statement = session.prepare(text).await?;
    statement.set_consistency(Consistency::Quorum);
    statement.set_serial_consistency(Some(SerialConsistency::Serial));
    statement.set_page_size(PAGE_ROWS);
    statement.set_is_idempotent(text.starts_with("SELECT"));
    Ok(statement)
}

impl Book {
    /// Makes ready what is asked.
    ///
    /// # Errors
    /// When a table is not there, or Cassandra does not answer.
    pub async fn prepare(session: Arc<Session>, keyspace: &str) -> Result<Self, ClusterError> {
        let statements = Statements::prepare(&session, keyspace).await;
        let statements = statements.map_err(|error| match error {
            PrepareError::AllAttemptsFailed { first_attempt } => {
                ClusterError::Refused(first_attempt.to_string())
            }
            other => ClusterError::Unavailable(other.to_string()),
        })?;
        Ok(Self { session, statements, looked: None, seen: BTreeSet::new() })
    }

    /// All that is different from `local`, which must hold every change of this node that was
    /// published: what `local` has more was dropped elsewhere. Take it over before the next
    /// [`fresh`](Self::fresh), which tells again what was changed meanwhile.
    ///
    /// # Errors
    /// When Cassandra does not answer; [`StoreError::Invalid`] when it has no domain at all and
    /// `local` has accounts: that is a wrong or new keyspace, and no reason to drop them.
    pub async fn all(&mut self, local: &Directory, now: UnixTime) -> Result<News, StoreError> {
        let mut news = Gathering::new(local);
        news.next(self.next_mailbox().await?);
        let mut domains = BTreeSet::new();
        let statement = &self.statements.domains;
        self.pages(statement, (), |(name,): (String,)| {
            domains.insert(name);
        })
        .await?;
        if domains.is_empty() && local.accounts_count() > 0 {
            let why = "the keyspace has no domain, and this node has accounts: it is not theirs";
            return Err(StoreError::Invalid(why.into()));
        }
        let mut accounts = BTreeSet::new();
        let statement = &self.statements.accounts;
        self.pages(statement, (), |(address, mailbox, name, lock, keys, created)| {
            let address: String = address;
            news.account(&address, Some((mailbox, name, lock, keys, created)));
            accounts.insert(address);
        })
        .await?;
        let mut aliases = BTreeSet::new();
        let statement = &self.statements.aliases;
        self.pages(statement, (), |(address, targets): (String, Option<Vec<String>>)| {
            news.alias(&address, Some(targets));
            aliases.insert(address);
        })
        .await?;
        for account in local.accounts(None) {
            if !accounts.contains(&account.address) {
                news.account(&account.address, None);
            }
        }
        for alias in local.aliases(None) {
            if !aliases.contains(&alias.address) {
                news.alias(&alias.address, None);
            }
        }
        for name in &domains {
            news.domain(name, true);
        }
        for (name, _) in local.domains().filter(|(name, _)| !domains.contains(*name)) {
            news.domain(name, false);
        }
        // From here on, and what changed while this was read.
        self.looked = Some(now);
        self.seen.clear();
        Ok(news.done())
    }

    /// What has changed since the last call, and [`CLOCKS_MS_MAX`] before it, each once. What
    /// cannot be taken over must be kept by the caller, or [`all`](Self::all) be asked.
    ///
    /// # Errors
    /// When Cassandra does not answer: the next call gives it all.
    pub async fn fresh(&mut self, local: &Directory, now: UnixTime) -> Result<News, StoreError> {
        let now_ms = now.ms();
        let looked = self.looked.map_or(now_ms, |looked| looked.ms().min(now_ms));
        if now_ms - looked > BEHIND_MS_MAX {
            return self.all(local, now).await;
        }
        let from = looked.saturating_sub(CLOCKS_MS_MAX);
        // Days are those of who writes.
        let days = day(from)..=day(now_ms.saturating_add(CLOCKS_MS_MAX));
        let (mut seen, mut domains, mut addresses) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        type Told = (CqlTimeuuid, Option<String>, Option<String>);
        for day in days {
            let values = (day, timestamp(from));
            let statement = &self.statements.changes;
            self.pages(statement, values, |(at, kind, name): Told| {
                let name = name.unwrap_or_default();
                if seen.insert(*at.as_bytes()) && !self.seen.contains(at.as_bytes()) {
                    match kind.as_deref() {
                        Some(DOMAIN) => domains.insert(name),
                        _ => addresses.insert(name),
                    };
                }
            })
            .await?;
        }
        let mut news = Gathering::new(local);
        news.next(self.next_mailbox().await?);
        for address in &addresses {
            // Whatever it was, it may be the other by now.
            news.account(address, self.account(address).await?);
            news.alias(address, self.alias(address).await?);
            domains.extend(address.rsplit_once('@').map(|(_, domain)| domain.to_owned()));
        }
        for domain in &domains {
            let found = self.one::<(String,)>(&self.statements.domain, (domain,)).await?;
            news.domain(domain, found.is_some());
        }
        self.looked = Some(now);
        self.seen = seen;
        Ok(news.done())
    }

    /// Puts a planned change where all nodes see it; `before` is the state that it was planned on.
    /// The same may be published again after an error.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another node was quicker: ask [`fresh`](Self::fresh), and plan it
    /// anew. [`StoreError::Exists`] for an address that has been taken, [`StoreError::Invalid`] for
    /// what no directory can hold, [`StoreError::Io`] when Cassandra does not answer.
    pub async fn publish(
        &self,
        before: &Directory,
        edit: &Edit,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        edit.check()?;
        let (kind, name) = match edit {
            Edit::PutDomain(name) => {
                self.wins(&self.statements.put_domain, (name, timestamp(now.ms()))).await?;
                (DOMAIN, name)
            }
            Edit::DropDomain(name) => {
                self.wins(&self.statements.drop_domain, (name,)).await?;
                (DOMAIN, name)
            }
            Edit::PutAccount(account, keys) => {
                let known = before.account(&account.address);
                match known.filter(|known| known.mailbox == account.mailbox) {
                    Some(known) => self.change_account(known, account, keys.as_deref()).await?,
                    None => self.make_account(account, keys.as_deref()).await?,
                }
                (ACCOUNT, &account.address)
            }
            Edit::DropAccount { address, mailbox } => {
                let values = (address, number(*mailbox));
                if !self.wins(&self.statements.drop_account, values).await? {
                    self.is_gone(self.account(address).await?.is_none())?;
                }
                (ACCOUNT, address)
            }
            Edit::PutAlias(alias) => {
                self.put_alias(before.alias(&alias.address), alias).await?;
                (ALIAS, &alias.address)
            }
            Edit::DropAlias(address) => {
                let targets = before.alias(address).map(|alias| &alias.targets);
                if !self.wins(&self.statements.drop_alias, (address, targets)).await? {
                    self.is_gone(self.alias(address).await?.is_none())?;
                }
                (ALIAS, address)
            }
            Edit::NextMailbox(_) => return Ok(()),
        };
        self.run(&self.statements.tell, (day(now.ms()), kind, name)).await.map(drop)
    }

    /// What was to be removed is not as it was: that is well if it is gone.
    const fn is_gone(&self, gone: bool) -> Result<(), StoreError> {
        if gone { Ok(()) } else { Err(StoreError::Busy) }
    }

    async fn make_account(
        &self,
        account: &Account,
        keys: Option<&UserKeys>,
    ) -> Result<(), StoreError> {
        let address = &account.address;
        // The number first: no two accounts may have one, while a number without an account is
        // only a number.
        let (mailbox, name, lock, pair, created) = row_of(account, keys);
        let values = (address, mailbox, name, lock, pair, created);
        let made = self.claim(account.mailbox).await?
            && self.wins(&self.statements.make_account, values).await?;
        if !made {
            match self.account(address).await? {
                // It was ours, and the answer was lost.
                Some(row) if row == row_of(account, keys) => {}
                Some(_) => return Err(StoreError::Exists(address.clone())),
                None => return Err(StoreError::Busy),
            }
        }
        // Two tables have addresses. Who puts a row in one looks into the other afterwards, so of
        // two at one time at least one sees the other, and gives way.
        if self.alias(address).await?.is_some() {
            let values = (address, number(account.mailbox));
            self.wins(&self.statements.drop_account, values).await?;
            return Err(StoreError::Exists(format!("alias {address}")));
        }
        Ok(())
    }

    /// Takes the number of a mailbox; false when it was taken before.
    async fn claim(&self, mailbox: MailboxId) -> Result<bool, StoreError> {
        let next = number(MailboxId(mailbox.0 + 1));
        Ok(self.wins(&self.statements.claim, (next, number(mailbox))).await?
            || self.wins(&self.statements.first, (next,)).await?)
    }

    async fn change_account(
        &self,
        known: &Account,
        account: &Account,
        keys: Option<&UserKeys>,
    ) -> Result<(), StoreError> {
        let (mailbox, name, lock, keys, _) = row_of(account, keys);
        let (address, was) = (&account.address, known.lock.encode());
        let keys_stay = keys.is_none() && account.lock.sealed().is_some();
        let won = if keys_stay {
            let values = (&name, &lock, address, mailbox, was);
            self.wins(&self.statements.change_account, values).await?
        } else {
            let values = (&name, &lock, &keys, address, mailbox, was);
            self.wins(&self.statements.change_keys, values).await?
        };
        if won {
            return Ok(());
        }
        // Ours it is when only the answer was lost.
        let ours = self.account(address).await?.is_some_and(|(is, its_name, its_lock, its, _)| {
            (is, its_name, its_lock) == (mailbox, name, lock) && (keys_stay || its == keys)
        });
        if ours { Ok(()) } else { Err(StoreError::Busy) }
    }

    async fn put_alias(&self, known: Option<&Arc<Alias>>, alias: &Alias) -> Result<(), StoreError> {
        let (address, targets) = (&alias.address, &alias.targets);
        let won = match known {
            Some(known) => {
                let values = (targets, address, &known.targets);
                self.wins(&self.statements.change_alias, values).await?
            }
            None => self.wins(&self.statements.make_alias, (address, targets)).await?,
        };
        if !won && self.alias(address).await?.flatten().as_ref() != Some(targets) {
            return Err(StoreError::Busy);
        }
        if known.is_none() && self.account(address).await?.is_some() {
            self.wins(&self.statements.drop_alias, (address, targets)).await?;
            return Err(StoreError::Exists(format!("account {address}")));
        }
        Ok(())
    }

    async fn account(&self, address: &str) -> Result<Option<AccountRow>, StoreError> {
        self.one(&self.statements.account, (address,)).await
    }

    async fn alias(&self, address: &str) -> Result<Option<Option<Vec<String>>>, StoreError> {
        let row = self.one::<(Option<Vec<String>>,)>(&self.statements.alias, (address,)).await?;
        Ok(row.map(|(targets,)| targets))
    }

    async fn next_mailbox(&self) -> Result<Option<i64>, StoreError> {
        let row = self.one::<(Option<i64>,)>(&self.statements.next, ()).await?;
        Ok(row.and_then(|(next,)| next))
    }

    /// Runs a conditional statement; says whether its condition held.
    async fn wins(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<bool, StoreError> {
        let answer = rows::<Row>(self.run(statement, values).await?)?;
        let first = answer.first().and_then(|row| row.columns.first());
        Ok(first == Some(&Some(CqlValue::Boolean(true))))
    }

    async fn one<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<T>, StoreError>
    where
        T: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        Ok(rows(self.run(statement, values).await?)?.into_iter().next())
    }

    async fn run(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, StoreError> {
        self.session.execute_unpaged(statement, values).await.map_err(unanswered)
    }

    /// All rows that a statement gives, a page at a time.
    async fn pages<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
        mut take: impl FnMut(T),
    ) -> Result<(), StoreError>
    where
        T: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        let mut state = PagingState::start();
        loop {
            let page = self.session.execute_single_page(statement, values.clone(), state).await;
            let (page, next) = page.map_err(unanswered)?;
            rows(page)?.into_iter().for_each(&mut take);
            match next.into_paging_control_flow() {
                core::ops::ControlFlow::Continue(next) => state = next,
                core::ops::ControlFlow::Break(()) => return Ok(()),
            }
        }
    }
}

/// What is different from the directory of a node.
struct Gathering<'a> {
    local: &'a Directory,
    news: News,
}

impl<'a> Gathering<'a> {
    fn new(local: &'a Directory) -> Self {
        Self { local, news: News::default() }
    }

    fn next(&mut self, next: Option<i64>) {
        let next = MailboxId(next.and_then(|next| u64::try_from(next).ok()).unwrap_or(0));
        if next > self.local.next_mailbox() {
            self.put(Edit::NextMailbox(next));
        }
    }

    fn domain(&mut self, name: &str, there: bool) {
        match (there, self.local.serves(name)) {
            (true, false) => self.put(Edit::PutDomain(name.into())),
            (false, true) => self.put(Edit::DropDomain(name.into())),
            _ => {}
        }
    }

    fn account(&mut self, address: &str, row: Option<AccountRow>) {
        let known = self.local.account(address);
        let Some(row) = row else {
            if let Some(known) = known {
                let (address, mailbox) = (known.address.clone(), known.mailbox);
                self.news.edits.push(Edit::DropAccount { address, mailbox });
            }
            return;
        };
        let what = format!("account {address}");
        match read_account(address, row) {
            Ok((account, _)) if known.is_some_and(|known| **known == account) => {}
            Ok((account, keys)) if keys.is_none() && account.lock.sealed().is_some() => {
                self.news.damaged.push(format!("{what}: its key pair is missing"));
            }
            Ok((account, keys)) => {
                self.put(Edit::PutAccount(Arc::new(account), keys.map(Box::new)));
            }
            Err(why) => self.news.damaged.push(format!("{what}: {why}")),
        }
    }

    fn alias(&mut self, address: &str, row: Option<Option<Vec<String>>>) {
        let known = self.local.alias(address);
        match row {
            None if known.is_some() => self.news.edits.push(Edit::DropAlias(address.into())),
            None => {}
            Some(targets) => {
                let alias = Alias { address: address.into(), targets: targets.unwrap_or_default() };
                if known.is_none_or(|known| **known != alias) {
                    self.put(Edit::PutAlias(Arc::new(alias)));
                }
            }
        }
    }

    fn put(&mut self, edit: Edit) {
        match edit.check() {
            Ok(()) => self.news.edits.push(edit),
            // It says of what.
            Err(why) => self.news.damaged.push(why.to_string()),
        }
    }

    /// In the order in which a directory takes them: what gives way, what comes, and domains that
    /// may be empty by then.
    fn done(self) -> News {
        let Self { local, mut news } = self;
        news.edits.sort_by_key(|edit| match edit {
            Edit::DropAlias(_) | Edit::DropAccount { .. } => 0,
            Edit::DropDomain(_) => 2,
            _ => 1,
        });
        let mut gone = BTreeSet::new();
        let mut owners: BTreeMap<MailboxId, String> = BTreeMap::new();
        let damaged = &mut news.damaged;
        news.edits.retain(|edit| {
            if let Edit::DropAccount { mailbox, .. } = edit {
                gone.insert(*mailbox);
            }
            let Edit::PutAccount(account, _) = edit else { return true };
            let Account { address, mailbox, .. } = &**account;
            let owner = local.owner(*mailbox).filter(|_| !gone.contains(mailbox));
            let owner = owner.map(|owner| owner.address.clone());
            let owner = owner.or_else(|| owners.insert(*mailbox, address.clone()));
            let Some(owner) = owner.filter(|owner| owner != address) else { return true };
            damaged.push(format!("account {address}: its mailbox is that of {owner}"));
            false
        });
        news
    }
}

/// An account as its row has it.
fn row_of(account: &Account, keys: Option<&UserKeys>) -> AccountRow {
    (
        Some(number(account.mailbox)),
        Some(account.name.clone()),
        Some(account.lock.encode()),
        keys.map(UserKeys::encode),
        Some(timestamp(account.created.ms())),
    )
}

fn read_account(
    address: &str,
    (mailbox, name, lock, keys, created): AccountRow,
) -> Result<(Account, Option<UserKeys>), &'static str> {
    let mailbox = mailbox.and_then(|number| u64::try_from(number).ok());
    let created = created.and_then(|CqlTimestamp(ms)| u64::try_from(ms).ok());
    let lock = Lock::decode(&lock.ok_or("it has no lock")?)?;
    let keys = keys.map(|keys| UserKeys::decode(&keys)).transpose();
    let account = Account {
        mailbox: MailboxId(mailbox.ok_or("it has no mailbox")?),
        address: address.into(),
        name: name.unwrap_or_default(),
        lock,
        created: UnixTime::from_ms(created.ok_or("it does not say when it was made")?),
    };
    Ok((account, keys.map_err(|_| "its key pair is damaged")?))
}

/// Numbers of accounts have 48 bits.
const fn number(mailbox: MailboxId) -> i64 {
    mailbox.0.cast_signed()
}

const fn timestamp(ms: u64) -> CqlTimestamp {
    CqlTimestamp(ms.cast_signed())
}

/// The day of a time, as `changes` counts them.
fn day(ms: u64) -> i32 {
    i32::try_from(ms / DAY_MS).unwrap_or(i32::MAX)
}

fn rows<T>(found: QueryResult) -> Result<Vec<T>, StoreError>
where
    T: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
{
    let odd = |why: String| StoreError::Corrupt { place: "an answer of Cassandra".into(), why };
    let found = found.into_rows_result().map_err(|error| odd(error.to_string()))?;
    let rows = found.rows::<T>().map_err(|error| odd(error.to_string()))?;
    rows.collect::<Result<_, _>>().map_err(|error| odd(error.to_string()))
}

fn unanswered(error: ExecutionError) -> StoreError {
    let kind = match error {
        ExecutionError::RequestTimeout(_) => IoKind::TimedOut,
        _ => IoKind::Failed,
    };
    StoreError::Io(IoError::new(kind, "ask", format!("Cassandra (try again): {error}")))
}
