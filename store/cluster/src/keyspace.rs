//! Making, upgrading and checking a keyspace: what `fsmtp-engine store` does.
//!
//! Called by the command line. Each begins by reading what is there; with `dry_run` it ends there
//! and says what it would do. Whatever is interrupted can be done again. Failure:
//! [`KeyspaceError`].

use core::fmt;

use crate::cassandra::{Cassandra, ClusterError, Terms};
use crate::schema::{self, Problem};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// The keyspace and its tables are made, as far as they are not there.
    Create,
    /// An older keyspace is brought up to this version.
    Upgrade,
    /// Nothing is changed.
    Check,
}

/// What was done, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// The statements, in their order.
    pub statements: Vec<String>,
    /// What is wrong with the keyspace, when it was only to be checked.
    pub problems: Vec<Problem>,
}

/// Why a task was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyspaceError {
    /// The cluster.
    Cluster(ClusterError),
    /// What is there.
    Problem(Problem),
}

impl fmt::Display for KeyspaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Problem(problem) => problem.fmt(f),
        }
    }
}

impl core::error::Error for KeyspaceError {}

impl From<ClusterError> for KeyspaceError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

impl From<Problem> for KeyspaceError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Does a task.
///
/// # Errors
/// What kept it from being done; a part of it may be.
pub fn perform(task: Task, terms: &Terms, dry_run: bool) -> Result<Done, KeyspaceError> {
    let cassandra = Cassandra::connect(terms)?;
    let there = cassandra.there(&terms.keyspace)?;
    let statements = match task {
        Task::Create => schema::create(&terms.keyspace, &terms.replication, &there)?,
        Task::Upgrade => schema::upgrade(&terms.keyspace, &there)?,
        Task::Check => {
            return Ok(Done { statements: Vec::new(), problems: schema::problems(&there) });
        }
    };
    if !dry_run {
        for statement in &statements {
            cassandra.run(statement)?;
        }
    }
    Ok(Done { statements, problems: Vec::new() })
}
