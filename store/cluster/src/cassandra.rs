//! Cassandra (or ScyllaDB, which speaks the same protocol): one session, and what goes wrong.
//!
//! A [`Cassandra`] brings the thread's own runtime along and blocks: it is for commands, never for
//! a shard. Limits: [`Terms::timeout`] for each statement. Failure: [`ClusterError`], one line that
//! says whether it is the servers, the password or the statement.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileBuilder};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{ExecutionError, NewSessionError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;

use fsmtp_store::NodeNumber;

use crate::redis::RedisTerms;
use crate::schema::{Replication, There, VERSION_NAME};

/// How the cluster is reached, and what it is called.
#[derive(Clone, PartialEq, Eq)]
pub struct Terms {
    /// Some of its servers, as `host:port`; the others are found by them.
    pub contacts: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// How it is replicated, when it is made.
    pub replication: Replication,
    /// The data centre of this node; none where there is one only.
    pub centre: Option<String>,
    /// Name and password.
    pub login: Option<(String, String)>,
    /// The Redis beside it, when there is one.
    pub redis: Option<RedisTerms>,
    /// How long connecting, and each statement, may take.
    pub timeout: Duration,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("contacts", &self.contacts)
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

/// Why the cluster does not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusterError {
    /// None of the contacts can be reached, or the name or password is wrong.
    Connect {
        /// Who was tried.
        contacts: String,
        /// What they said.
        why: String,
    },
    /// It did not answer in time, or too few copies did.
    Unavailable(String),
    /// It refused a statement.
    Refused(String),
    /// The runtime of the thread could not be made.
    Runtime(String),
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { contacts, why } => write!(f, "Cassandra at {contacts}: {why}"),
            Self::Unavailable(why) => write!(f, "Cassandra gives no answer: {why}"),
            Self::Refused(why) => write!(f, "Cassandra refuses: {why}"),
            Self::Runtime(why) => write!(f, "the way to Cassandra cannot be made: {why}"),
        }
    }
}

impl core::error::Error for ClusterError {}

/// A session with the cluster.
pub struct Cassandra {
    runtime: tokio::runtime::Runtime,
    session: Session,
    timeout: Duration,
}

impl fmt::Debug for Cassandra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cassandra")
    }
}

impl Cassandra {
    /// Connects; half of the contacts may be dead.
    ///
    /// # Errors
    /// [`ClusterError::Connect`] with the reason.
    pub fn connect(terms: &Terms) -> Result<Self, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ClusterError::Runtime(error.to_string()))?;
        let session = runtime.block_on(connect(terms))?;
        Ok(Self { runtime, session, timeout: terms.timeout })
    }

    /// Runs a statement that gives nothing back.
    ///
    /// # Errors
    /// Why it did not run, or not for sure.
    pub fn run(&self, statement: &str) -> Result<(), ClusterError> {
        let running = async { self.session.query_unpaged(statement, ()).await };
        self.wait(running).map(drop)
    }

    /// What is in a keyspace.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn there(&self, keyspace: &str) -> Result<There, ClusterError> {
        self.runtime.block_on(there(&self.session, keyspace))
    }

    /// The number of a node: the one that `holder` has, else the lowest that nobody has. It is kept
    /// for as long as its row in `leases` is there, so that no two nodes ever give out one name.
    ///
    /// # Errors
    /// When there are too many nodes, or the cluster does not answer.
    pub fn number(&self, keyspace: &str, holder: &str) -> Result<NodeNumber, ClusterError> {
        let name = |number: u8| format!("node/{number}");
        let numbers = || 0..=NodeNumber::MAX;
        let names: Vec<String> = numbers().map(name).collect();
        let all = format!("SELECT name, holder FROM {keyspace}.leases WHERE name IN ?");
        let take = format!(
            "INSERT INTO {keyspace}.leases (name, holder, epoch) VALUES (?, ?, 0) IF NOT EXISTS"
        );
        // Whoever was quicker has taken one of them, so each round has fewer to choose from.
        for _ in numbers() {
            let found = self.rows::<(String, String)>(&all, (&names,))?;
            let held: BTreeMap<String, String> = found.into_iter().collect();
            let own = numbers().find(|&n| held.get(&name(n)).is_some_and(|by| by == holder));
            if let Some(number) = own.and_then(NodeNumber::new) {
                return Ok(number);
            }
            let Some(free) = numbers().find(|&n| !held.contains_key(&name(n))) else { break };
            self.wait(async {
                self.session.query_unpaged(take.as_str(), (name(free), holder)).await
            })?;
        }
        let why = format!("its {} numbers for nodes are all taken", names.len());
        Err(ClusterError::Refused(why))
    }

    fn rows<T>(&self, statement: &str, values: impl SerializeRow) -> Result<Vec<T>, ClusterError>
    where
        T: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
    {
        self.runtime.block_on(rows(&self.session, statement, values))
    }

    fn wait<T>(
        &self,
        running: impl Future<Output = Result<T, ExecutionError>>,
    ) -> Result<T, ClusterError> {
        // A schema that all servers must agree on takes longer than a row.
        let patience = self.timeout * 4;
        let ended = self.runtime.block_on(async { tokio::time::timeout(patience, running).await });
        match ended {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => {
                let why = format!("nothing within {} s", patience.as_secs());
                Err(ClusterError::Unavailable(why))
            }
        }
    }
}

/// Connects; half of the contacts may be dead. To be run on a tokio runtime.
pub(crate) async fn connect(terms: &Terms) -> Result<Session, ClusterError> {
    let contacts = terms.contacts.join(", ");
    let failed = |why: String| ClusterError::Connect { contacts: contacts.clone(), why };
    // Contacts are tried one after another.
    let patience = terms.timeout * u32::try_from(terms.contacts.len().max(1)).unwrap_or(1);
    match tokio::time::timeout(patience, builder(terms).build()).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(failed(reason(&error))),
        Err(_) => Err(failed(format!("no answer within {} s", patience.as_secs()))),
    }
}

/// What is in a keyspace.
pub(crate) async fn there(session: &Session, keyspace: &str) -> Result<There, ClusterError> {
    let names = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found = rows::<(String,)>(session, names, (keyspace,)).await?;
    let mut there = There { keyspace: !found.is_empty(), ..There::default() };
    let columns = "SELECT table_name, column_name, type FROM system_schema.columns \
                   WHERE keyspace_name = ?";
    let found = rows::<(String, String, String)>(session, columns, (keyspace,)).await?;
    for (table, column, kind) in found {
        let table: &mut BTreeMap<String, String> = there.tables.entry(table).or_default();
        table.insert(column, kind);
    }
    if there.tables.contains_key("facts") {
        let version = format!("SELECT value FROM {keyspace}.facts WHERE name = ?");
        let found = rows::<(String,)>(session, &version, (VERSION_NAME,)).await?;
        there.version = found.into_iter().next().map(|(version,)| version);
    }
    Ok(there)
}

/// The rows that a statement finds; not for many.
pub(crate) async fn rows<T>(
    session: &Session,
    statement: &str,
    values: impl SerializeRow,
) -> Result<Vec<T>, ClusterError>
where
    T: for<'f, 'm> DeserializeRow<'f, 'm> + 'static,
{
    let found = session.query_unpaged(statement, values).await.map_err(refused)?;
    let odd = |why: &dyn fmt::Display| ClusterError::Refused(format!("{statement}: {why}"));
    let found = found.into_rows_result().map_err(|error| odd(&error))?;
    let rows = found.rows::<T>().map_err(|error| odd(&error))?;
    rows.collect::<Result<_, _>>().map_err(|error| odd(&error))
}

/// Why a statement was not done, or not for sure.
pub(crate) fn refused(error: ExecutionError) -> ClusterError {
    match error {
        ExecutionError::LastAttemptError(error) => ClusterError::Refused(error.to_string()),
        error => ClusterError::Unavailable(error.to_string()),
    }
}

/// What holds for each statement that does not say otherwise.
pub(crate) fn profile(terms: &Terms) -> ExecutionProfileBuilder {
    let mut near = DefaultPolicy::builder();
    if let Some(centre) = &terms.centre {
        near = near.prefer_datacenter(centre.clone());
    }
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(terms.timeout))
        .load_balancing_policy(near.build())
}

fn builder(terms: &Terms) -> SessionBuilder {
    let profile = profile(terms).build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&terms.contacts)
        .connection_timeout(terms.timeout)
        .default_execution_profile_handle(profile.into_handle());
    if let Some((user, password)) = &terms.login {
        builder = builder.user(user.clone(), password.clone());
    }
    builder
}

/// The innermost reason: those around it say only which layer has failed.
fn reason(error: &NewSessionError) -> String {
    let mut innermost: &dyn core::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
