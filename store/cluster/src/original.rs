//! The keyspace of the older program (fsmtp-v2), to be taken over: typed rows, read page by page.
//!
//! Called by `fsmtp-engine import-cassandra`, on a thread that may block; writes nothing. Rows are
//! read as that program read them, from one copy (`LOCAL_ONE`): its keyspace has three copies by
//! its script, often on fewer servers. Limits: [`PAGE_ROWS`] rows of a table and [`AT_ONCE`] bodies
//! are in memory. Failure: [`OriginalError`], one line; a row that cannot be read is a sentence in
//! its place, and those behind it are read.

mod convert;

use core::fmt;
use core::marker::PhantomData;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;
use scylla::value::CqlTimeuuid;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::cassandra::{ClusterError, Terms, connect, refused, rows, there};
use crate::schema::There;

pub use convert::{Folder, TimeUuid, address, with_crlf};

/// Rows of one page.
pub const PAGE_ROWS: i32 = 1000;
/// Bodies that are fetched at one time.
pub const AT_ONCE: usize = 8;

/// The message is marked as deleted.
const DELETED: i32 = 8;

/// What is read of each table.
const TABLES: [(&str, &[(&str, &str)]); 5] = [
    ("local_domain", &[("e_domain", "text")]),
    (
        "account_shortcuts",
        &[
            ("a_domain", "text"),
            ("a_username", "text"),
            ("a_uuid", "timeuuid"),
            ("a_bucket", "bigint"),
        ],
    ),
    (
        "accounts",
        &[
            ("a_bucket", "bigint"),
            ("a_domain", "text"),
            ("a_uuid", "timeuuid"),
            ("a_password", "text"),
            ("a_full_name", "text"),
        ],
    ),
    (
        "email_shortcuts",
        &[
            ("e_domain", "text"),
            ("e_owners_uuid", "timeuuid"),
            ("e_mailbox", "text"),
            ("e_email_uuid", "timeuuid"),
            ("e_bucket", "bigint"),
            ("e_flags", "int"),
        ],
    ),
    (
        "raw_emails",
        &[
            ("e_bucket", "bigint"),
            ("e_domain", "text"),
            ("e_owners_uuid", "timeuuid"),
            ("e_email_uuid", "timeuuid"),
            ("e_content", "text"),
        ],
    ),
];

/// Why nothing can be taken from there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OriginalError {
    /// The servers, or what they refuse.
    Cluster(ClusterError),
    /// The keyspace is none of the older program: what it lacks.
    Schema(String),
}

impl fmt::Display for OriginalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Schema(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for OriginalError {}

impl From<ClusterError> for OriginalError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

/// Who has an address: a row of `account_shortcuts`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortcut {
    /// The account.
    pub owner: TimeUuid,
    /// The part of the address before the `@`.
    pub user: String,
    /// Where its row in `accounts` is.
    bucket: i64,
}

/// What is kept of a row of `accounts`; empty where there is nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// `base64(hash).salt`
    pub password: String,
    /// The name of the person.
    pub full_name: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.full_name)
    }
}

/// A message, without its body: a row of `email_shortcuts`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Email {
    /// Whose it is.
    pub owner: TimeUuid,
    /// Its name; also tells when it came.
    pub id: TimeUuid,
    /// The path of the mailbox that it lies in.
    pub mailbox: String,
    /// It was deleted, and lies there still.
    pub is_deleted: bool,
    /// Where its body is.
    bucket: i64,
}

/// A row of a table, as it is read and as it is given out.
pub trait Row: Sized {
    #[doc(hidden)]
    type Raw: for<'f, 'm> DeserializeRow<'f, 'm>;
    #[doc(hidden)]
    fn read(raw: Self::Raw) -> Result<Self, String>;
}

impl Row for Shortcut {
    type Raw = (String, CqlTimeuuid, Option<i64>);

    fn read((user, owner, bucket): Self::Raw) -> Result<Self, String> {
        let bucket = bucket.ok_or_else(|| format!("account {user} has no a_bucket"))?;
        Ok(Self { owner: owner.into(), user, bucket })
    }
}

impl Row for Email {
    type Raw = (CqlTimeuuid, String, CqlTimeuuid, Option<i64>, Option<i32>);

    fn read((owner, mailbox, id, bucket, flags): Self::Raw) -> Result<Self, String> {
        let (owner, id) = (TimeUuid::from(owner), TimeUuid::from(id));
        let bucket = bucket.ok_or_else(|| format!("message {id} has no e_bucket"))?;
        Ok(Self { owner, id, mailbox, is_deleted: flags.unwrap_or(0) & DELETED != 0, bucket })
    }
}

/// Where a reader of one domain's rows is.
#[derive(Debug)]
pub struct Pages<T> {
    statement: PreparedStatement,
    domain: String,
    /// None behind the last page.
    state: Option<PagingState>,
    rows: PhantomData<fn() -> T>,
}

/// The statements.
struct Statements {
    shortcuts: PreparedStatement,
    account: PreparedStatement,
    emails: PreparedStatement,
    body: PreparedStatement,
}

/// A session with the servers of the older program.
pub struct Original {
    runtime: Runtime,
    session: Arc<Session>,
    keyspace: String,
    statements: Statements,
}

impl fmt::Debug for Original {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Original({})", self.keyspace)
    }
}

impl Original {
    /// Connects, and looks whether all that is read is there.
    ///
    /// # Errors
    /// Why the servers cannot be reached, or what the keyspace lacks.
    pub fn open(terms: &Terms) -> Result<Self, OriginalError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ClusterError::Runtime(error.to_string()))?;
        let keyspace = terms.keyspace.clone();
        let (session, statements) = runtime.block_on(async {
            let session = connect(terms).await?;
            if let Some(what) = lacks(&keyspace, &there(&session, &keyspace).await?) {
                return Err(OriginalError::Schema(what));
            }
            let statements = Statements::prepare(&session, &keyspace).await?;
            Ok((Arc::new(session), statements))
        })?;
        Ok(Self { runtime, session, keyspace, statements })
    }

    /// The domains that mail was taken for, and those that have accounts; all in memory.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn domains(&self) -> Result<BTreeSet<String>, OriginalError> {
        let keyspace = &self.keyspace;
        let mut all = self.names(&format!("SELECT e_domain FROM {keyspace}.local_domain"))?;
        all.extend(
            self.names(&format!("SELECT DISTINCT a_domain FROM {keyspace}.account_shortcuts"))?,
        );
        Ok(all)
    }

    /// The domains that have mail.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn domains_with_mail(&self) -> Result<BTreeSet<String>, OriginalError> {
        self.names(&format!("SELECT DISTINCT e_domain FROM {}.email_shortcuts", self.keyspace))
    }

    /// The accounts of a domain.
    #[must_use]
    pub fn shortcuts(&self, domain: &str) -> Pages<Shortcut> {
        Pages::new(&self.statements.shortcuts, domain)
    }

    /// The messages of a domain: by owner, then by mailbox, then by time.
    #[must_use]
    pub fn emails(&self, domain: &str) -> Pages<Email> {
        Pages::new(&self.statements.emails, domain)
    }

    /// The next page; none behind the last one. For a row that cannot be read, why.
    ///
    /// # Errors
    /// Why the page cannot be read.
    pub fn next<T: Row>(
        &self,
        pages: &mut Pages<T>,
    ) -> Result<Option<Vec<Result<T, String>>>, OriginalError> {
        let Some(state) = pages.state.take() else { return Ok(None) };
        let (rows, state) = self.runtime.block_on(async {
            let values = (&pages.domain,);
            page::<T::Raw>(&self.session, &pages.statement, values, state).await
        })?;
        pages.state = state;
        Ok(Some(rows.into_iter().map(|row| row.and_then(T::read)).collect()))
    }

    /// What is known of an account; none when it has no row.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn account(
        &self,
        domain: &str,
        shortcut: &Shortcut,
    ) -> Result<Option<Account>, OriginalError> {
        let key = (shortcut.bucket, domain, CqlTimeuuid::from(shortcut.owner));
        let found = self.runtime.block_on(async {
            let statement = &self.statements.account;
            self.session.execute_unpaged(statement, key).await.map_err(refused)
        })?;
        let odd = |why: &dyn fmt::Display| ClusterError::Refused(why.to_string());
        let found = found.into_rows_result().map_err(|error| odd(&error))?;
        let row = found.maybe_first_row::<(Option<String>, Option<String>)>();
        Ok(row.map_err(|error| odd(&error))?.map(|(password, full_name)| Account {
            password: password.unwrap_or_default(),
            full_name: full_name.unwrap_or_default(),
        }))
    }

    /// The bodies of messages, in their order; none for one that is not there.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn bodies(
        &self,
        domain: &str,
        emails: &[Email],
    ) -> Result<Vec<Option<String>>, OriginalError> {
        let mut all = Vec::with_capacity(emails.len());
        for some in emails.chunks(AT_ONCE) {
            all.extend(self.runtime.block_on(self.some_bodies(domain, some))?);
        }
        Ok(all)
    }

    async fn some_bodies(
        &self,
        domain: &str,
        emails: &[Email],
    ) -> Result<Vec<Option<String>>, ClusterError> {
        let mut running = JoinSet::new();
        for (place, email) in emails.iter().enumerate() {
            let (session, statement) = (Arc::clone(&self.session), self.statements.body.clone());
            let (domain, owner) = (domain.to_owned(), CqlTimeuuid::from(email.owner));
            let key = (email.bucket, domain, owner, CqlTimeuuid::from(email.id));
            running.spawn(async move { (place, body(&session, &statement, key).await) });
        }
        let mut all = vec![None; emails.len()];
        while let Some(done) = running.join_next().await {
            let (place, found) = done.map_err(|error| ClusterError::Runtime(error.to_string()))?;
            if let Some(slot) = all.get_mut(place) {
                *slot = found?;
            }
        }
        Ok(all)
    }

    /// The first column of all rows.
    fn names(&self, statement: &str) -> Result<BTreeSet<String>, OriginalError> {
        let mut all = BTreeSet::new();
        self.runtime.block_on(async {
            let statement = prepare(&self.session, statement).await?;
            let mut state = Some(PagingState::start());
            while let Some(from) = state {
                let (rows, rest) = page::<(String,)>(&self.session, &statement, (), from).await?;
                let odd = |why| ClusterError::Refused(format!("{}: {why}", self.keyspace));
                for row in rows {
                    all.insert(row.map_err(odd)?.0);
                }
                state = rest;
            }
            Ok::<_, ClusterError>(())
        })?;
        Ok(all)
    }
}

impl<T> Pages<T> {
    fn new(statement: &PreparedStatement, domain: &str) -> Self {
        Self {
            statement: statement.clone(),
            domain: domain.to_owned(),
            state: Some(PagingState::start()),
            rows: PhantomData,
        }
    }
}

impl Statements {
    async fn prepare(session: &Session, keyspace: &str) -> Result<Self, ClusterError> {
        let orders = "SELECT column_name, clustering_order FROM system_schema.columns \
                      WHERE keyspace_name = ? AND table_name = 'email_shortcuts'";
        let orders = rows::<(String, String)>(session, orders, (keyspace,)).await?;
        let by_time = by_time(&orders.into_iter().collect());
        let of = |text: String| async move { prepare(session, &text).await };
        Ok(Self {
            shortcuts: of(format!(
                "SELECT a_username, a_uuid, a_bucket FROM {keyspace}.account_shortcuts \
                 WHERE a_domain = ?"
            ))
            .await?,
            account: of(format!(
                "SELECT a_password, a_full_name FROM {keyspace}.accounts \
                 WHERE a_bucket = ? AND a_domain = ? AND a_uuid = ?"
            ))
            .await?,
            emails: of(format!(
                "SELECT e_owners_uuid, e_mailbox, e_email_uuid, e_bucket, e_flags \
                 FROM {keyspace}.email_shortcuts WHERE e_domain = ? ORDER BY {by_time}"
            ))
            .await?,
            body: of(format!(
                "SELECT e_content FROM {keyspace}.raw_emails WHERE e_bucket = ? \
                 AND e_domain = ? AND e_owners_uuid = ? AND e_email_uuid = ?"
            ))
            .await?,
        })
    }
}

/// The order that has the oldest first: that of the table, or all of it turned round.
fn by_time(orders: &BTreeMap<String, String>) -> String {
    let is_down = |column: &str| orders.get(column).is_some_and(|order| order == "desc");
    let is_turned = is_down("e_email_uuid");
    let order = |column: &str| match is_down(column) == is_turned {
        true => format!("{column} ASC"),
        false => format!("{column} DESC"),
    };
    ["e_owners_uuid", "e_mailbox", "e_email_uuid"].map(order).join(", ")
}

/// What of the older program's tables is not there, or is something else.
fn lacks(keyspace: &str, there: &There) -> Option<String> {
    if !there.keyspace {
        return Some(format!("there is no keyspace {keyspace}"));
    }
    for (table, columns) in TABLES {
        let Some(found) = there.tables.get(table) else {
            return Some(format!("the keyspace {keyspace} has no table {table}"));
        };
        for &(column, kind) in columns {
            match found.get(column) {
                Some(found) if found == kind => {}
                Some(found) => {
                    return Some(format!("{keyspace}.{table}.{column} is {found}, not {kind}"));
                }
                None => return Some(format!("{keyspace}.{table} has no column {column}")),
            }
        }
    }
    None
}

async fn prepare(session: &Session, text: &str) -> Result<PreparedStatement, ClusterError> {
    let statement = Statement::new(text).with_page_size(PAGE_ROWS);
    let prepared = session.prepare(statement).await;
    let mut prepared = prepared.map_err(|error| ClusterError::Refused(error.to_string()))?;
    prepared.set_consistency(Consistency::LocalOne);
    prepared.set_is_idempotent(true);
    Ok(prepared)
}

/// Rows, each or why it cannot be read, and where the next page begins.
type Page<T> = (Vec<Result<T, String>>, Option<PagingState>);

async fn page<T>(
    session: &Session,
    statement: &PreparedStatement,
    values: impl SerializeRow,
    state: PagingState,
) -> Result<Page<T>, ClusterError>
where
    T: for<'f, 'm> DeserializeRow<'f, 'm>,
{
    let (found, rest) =
        session.execute_single_page(statement, values, state).await.map_err(refused)?;
    let odd = |why: &dyn fmt::Display| ClusterError::Refused(why.to_string());
    let found = found.into_rows_result().map_err(|error| odd(&error))?;
    let rows = found.rows::<T>().map_err(|error| odd(&error))?;
    let rows = rows.map(|row| row.map_err(|error| error.to_string())).collect();
    Ok((rows, rest.into_paging_control_flow().continue_value()))
}

/// One body; none when it is not there, or empty.
async fn body(
    session: &Session,
    statement: &PreparedStatement,
    key: (i64, String, CqlTimeuuid, CqlTimeuuid),
) -> Result<Option<String>, ClusterError> {
    let found = session.execute_unpaged(statement, key).await.map_err(refused)?;
    let odd = |why: &dyn fmt::Display| ClusterError::Refused(why.to_string());
    let found = found.into_rows_result().map_err(|error| odd(&error))?;
    let row = found.maybe_first_row::<(Option<String>,)>().map_err(|error| odd(&error))?;
    Ok(row.and_then(|(content,)| content).filter(|content| !content.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> There {
        let columns = |columns: &[(&str, &str)]| {
            columns.iter().map(|&(name, kind)| (name.to_owned(), kind.to_owned())).collect()
        };
        let tables = TABLES.map(|(name, of)| (name.to_owned(), columns(of)));
        There { keyspace: true, tables: tables.into_iter().collect(), ..There::default() }
    }

    #[test]
    fn a_keyspace_that_lacks_something_is_named_with_it() {
        assert_eq!(lacks("fannst", &whole()), None);
        let said = lacks("fannst", &There::default()).unwrap();
        assert_eq!(said, "there is no keyspace fannst");
        for (table, columns) in TABLES {
            let mut there = whole();
            there.tables.remove(table);
            let said = lacks("fannst", &there).unwrap();
            assert_eq!(said, format!("the keyspace fannst has no table {table}"));
            for (column, _) in columns {
                let mut there = whole();
                there.tables.get_mut(table).unwrap().remove(*column);
                assert!(lacks("fannst", &there).unwrap().ends_with(&format!("column {column}")));
                let odd = ((*column).to_owned(), "blob".to_owned());
                there.tables.get_mut(table).unwrap().extend([odd]);
                assert!(lacks("fannst", &there).unwrap().contains("is blob, not"));
            }
        }
    }

    #[test]
    fn the_oldest_comes_first_however_the_table_is_kept() {
        let orders = |all: [&str; 3]| {
            let names = ["e_owners_uuid", "e_mailbox", "e_email_uuid"];
            names.into_iter().zip(all).map(|(n, o)| (n.to_owned(), o.to_owned())).collect()
        };
        for (kept, asked) in [
            (["asc"; 3], ["ASC"; 3]),
            (["desc"; 3], ["ASC"; 3]),
            (["desc", "asc", "asc"], ["DESC", "ASC", "ASC"]),
            (["asc", "asc", "desc"], ["DESC", "DESC", "ASC"]),
        ] {
            let [owner, mailbox, id] = asked;
            let wanted = format!("e_owners_uuid {owner}, e_mailbox {mailbox}, e_email_uuid {id}");
            assert_eq!(by_time(&orders(kept)), wanted);
        }
    }
}
