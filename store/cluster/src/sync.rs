//! Brings the mirror of the directory in Redis to what Cassandra says: what `sync` does.
//!
//! Called by the command line, on a runtime of its own. Reads accounts, domains and aliases page by
//! page, writes what is missing or different, and removes what should not be there; what nodes keep
//! there themselves, open mailboxes and counts, ends by itself. Holds all names in memory. Failure:
//! one line; it may be done again.

use core::fmt;
use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, cmd};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::unprepared::Statement;

use crate::cassandra::{ClusterError, Terms, connect as connect_cassandra, there};
use crate::redis::{RedisTerms, connect, key, targets};
use crate::schema;

/// Rows of a page, and keys of a request.
const PAGE_COUNT: usize = 1000;
const PAGE_ROWS: i32 = 1000;

/// What was done, or would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Synced {
    /// Keys that were missing or different.
    pub written: u64,
    /// Keys that should not have been there.
    pub removed: u64,
    /// Keys that were as they should be.
    pub unchanged: u64,
}

/// Why it was not done; some of it may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncError {
    /// Cassandra does not answer, or refuses.
    Cluster(ClusterError),
    /// Its keyspace is of no use.
    Problem(schema::Problem),
    /// Redis does not answer, or refuses.
    Redis(String),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Problem(problem) => problem.fmt(f),
            Self::Redis(why) => write!(f, "Redis: {why}"),
        }
    }
}

impl core::error::Error for SyncError {}

/// Does it; with `dry_run` it changes nothing and says what it would do.
///
/// # Errors
/// What kept it from being done.
pub fn sync(terms: &Terms, redis: &RedisTerms, dry_run: bool) -> Result<Synced, SyncError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| ClusterError::Runtime(why.to_string()));
    runtime.map_err(SyncError::Cluster)?.block_on(async {
        let session = connect_cassandra(terms).await.map_err(SyncError::Cluster)?;
        let found = there(&session, &terms.keyspace).await.map_err(SyncError::Cluster)?;
        if let Some(problem) = schema::problems(&found).into_iter().next() {
            return Err(SyncError::Problem(problem));
        }
        let line = connect(redis, None::<fn()>).await.map_err(SyncError::Redis)?;
        let (wanted, done) = (BTreeSet::new(), Synced::default());
        let mut job = Job { terms, session, line, wanted, done, dry_run };
        job.write_all().await?;
        job.remove_rest().await.map_err(|error| SyncError::Redis(error.to_string()))?;
        Ok(job.done)
    })
}

struct Job<'t> {
    terms: &'t Terms,
    session: Session,
    line: MultiplexedConnection,
    /// Keys that are to be there.
    wanted: BTreeSet<String>,
    done: Synced,
    dry_run: bool,
}

impl Job<'_> {
    async fn write_all(&mut self) -> Result<(), SyncError> {
        let keyspace = &self.terms.keyspace;
        let of = |kind: &'static str| {
            let keyspace = keyspace.clone();
            move |name: &str| key(&keyspace, kind, name)
        };
        let (domain, account, alias) = (of("domain"), of("account"), of("alias"));
        self.pages("domain FROM KS.domains", |(name,): (String,)| {
            Some((domain(&name), "1".to_owned()))
        })
        .await?;
        self.pages("address, mailbox FROM KS.accounts", |row: (String, Option<i64>)| {
            // One without a number is no account yet.
            Some((account(&row.0), row.1?.to_string()))
        })
        .await?;
        self.pages("address, targets FROM KS.aliases", |row: (String, Option<Vec<String>>)| {
            Some((alias(&row.0), targets(&row.1?)))
        })
        .await
    }

    /// Writes what rows come to, page by page.
    async fn pages<T>(
        &mut self,
        what: &str,
        mut pair: impl FnMut(T) -> Option<(String, String)>,
    ) -> Result<(), SyncError>
    where
        T: for<'f> DeserializeRow<'f, 'f>,
    {
        let text = format!("SELECT {what}").replace("KS", &self.terms.keyspace);
        let statement = Statement::new(text).with_page_size(PAGE_ROWS);
        let odd =
            |why: &dyn fmt::Display| SyncError::Cluster(ClusterError::Refused(why.to_string()));
        let mut paging = PagingState::start();
        loop {
            let page = self.session.query_single_page(statement.clone(), (), paging).await;
            let (page, rest): (_, PagingStateResponse) =
                page.map_err(|error| SyncError::Cluster(crate::cassandra::refused(error)))?;
            let page = page.into_rows_result().map_err(|error| odd(&error))?;
            let mut pairs = Vec::new();
            for row in page.rows::<T>().map_err(|error| odd(&error))? {
                pairs.extend(pair(row.map_err(|error| odd(&error))?));
            }
            let written = self.write(pairs).await;
            written.map_err(|error| SyncError::Redis(error.to_string()))?;
            match rest.into_paging_control_flow() {
                core::ops::ControlFlow::Continue(state) => paging = state,
                core::ops::ControlFlow::Break(()) => return Ok(()),
            }
        }
    }

    async fn write(&mut self, pairs: Vec<(String, String)>) -> RedisResult<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let mut get = cmd("MGET");
        get.arg(pairs.iter().map(|(key, _)| key).collect::<Vec<_>>());
        let found: Vec<Option<Vec<u8>>> = get.query_async(&mut self.line).await?;
        let mut set = Pipeline::new();
        let mut count = 0;
        for ((key, value), found) in pairs.into_iter().zip(found) {
            if found.as_deref() == Some(value.as_bytes()) {
                self.done.unchanged += 1;
            } else {
                set.cmd("SET").arg(&key).arg(value).ignore();
                count += 1;
            }
            self.wanted.insert(key);
        }
        self.done.written += count;
        if count == 0 || self.dry_run {
            return Ok(());
        }
        set.query_async(&mut self.line).await
    }

    /// Removes keys of the mirror that should not be there.
    async fn remove_rest(&mut self) -> RedisResult<()> {
        for kind in ["domain", "account", "alias"] {
            let pattern = key(&self.terms.keyspace, kind, "*");
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE_COUNT);
                let (next, keys): (String, Vec<Vec<u8>>) = scan.query_async(&mut self.line).await?;
                let is_wanted = |key: &Vec<u8>| {
                    core::str::from_utf8(key).is_ok_and(|key| self.wanted.contains(key))
                };
                let rest: Vec<Vec<u8>> = keys.into_iter().filter(|key| !is_wanted(key)).collect();
                if !rest.is_empty() {
                    // A scan may show a key twice.
                    let there: u64 = self.count_or_remove(&rest).await?;
                    self.done.removed += there;
                }
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn count_or_remove(&mut self, keys: &[Vec<u8>]) -> RedisResult<u64> {
        let mut command = cmd(if self.dry_run { "EXISTS" } else { "DEL" });
        command.arg(keys);
        command.query_async(&mut self.line).await
    }
}
