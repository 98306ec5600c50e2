//! Mail in Cassandra: the statements, and what all of them have in common.
//!
//! Called by the thread of `bridge`, which is the only one that runs any of this. Parts:
//! `statements`, `deliver`, `read`, `remove`, `lease`, `outgoing`, `uids`. The order of the
//! statements is what keeps a message whole, see
//! `docs/decisions/0013-the-cluster-s-tables.md`.
//!
//! # Times
//!
//! What is written when a message is delivered carries the time in the message's name, what
//! removes it a later one. So a delivery that is done again changes nothing, and brings nothing
//! back that its reader has deleted meanwhile.
//!
//! Failure: [`StoreError::Io`] with Cassandra's own words. All statements may be done again, so the
//! driver does that, on another server, where an answer is missing.

mod deliver;
mod lease;
mod outgoing;
mod read;
mod remove;
mod statements;
mod uids;

use core::fmt;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_rt::{IoError, IoKind};
use fsmtp_store::{MailboxId, QueueId, StoreError};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::ExecutionError;
use scylla::response::PagingState;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::task::JoinSet;

use crate::bridge::Clock;
use crate::cassandra::{ClusterError, Terms};
use crate::gather::{Gather, MESSAGES_MAX, MessageRow, PIECES_MAX, PieceRow};
use crate::redis::Cache;
pub(crate) use lease::Lease;
use lease::Visits;
pub(crate) use outgoing::Copied;
use statements::Statements;

/// Rows of one partition that are written at once.
const BATCH_ROWS: usize = 100;
/// Statements of one request that are under way at one time.
const AT_ONCE: usize = 16;
/// What a bridge knows to be written: some 2 MB. When there is more it begins anew.
const KNOWN_MAX: usize = 64 * 1024;

const MINUTE_MS: u64 = 60 * 1000;
const WEEK_MS: u64 = 7 * 24 * 60 * MINUTE_MS;
/// A message that is named longer ago than this when it is delivered is late.
const LATE_MS: u64 = 5 * MINUTE_MS;
/// So far is a mark behind the clock, at least. What lies between the two is what clocks may differ
/// by, and what a delivery may take.
const MARK_MS: u64 = 15 * MINUTE_MS;

/// A row that is written once, as far as this bridge is concerned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Known {
    Week(MailboxId, i32),
    Window(MailboxId, u64),
    /// Of a node's outgoing mail.
    Span(i32, i32),
}

/// A session that is ready.
pub(crate) struct Mail {
    session: Arc<Session>,
    statements: Statements,
    rows: Arc<Gather<MessageRow>>,
    pieces: Arc<Gather<PieceRow>>,
    known: Mutex<BTreeSet<Known>>,
    visits: Visits,
    clock: Clock,
}

impl Mail {
    /// Prepares the statements.
    ///
    /// # Errors
    /// When Cassandra refuses one.
    pub(crate) async fn prepare(
        session: Arc<Session>,
        terms: &Terms,
        node: &str,
        (clock, cache): (Clock, Option<Cache>),
    ) -> Result<Self, ClusterError> {
        let statements = Statements::prepare(&session, terms).await?;
        let visits = Visits::new(node, clock().ms(), cache);
        let of = |statement: &PreparedStatement| (Arc::clone(&session), statement.clone());
        let rows = Gather::new(of(&statements.put_message), MESSAGES_MAX).into();
        let pieces = Gather::new(of(&statements.put_body), PIECES_MAX).into();
        Ok(Self { session, statements, rows, pieces, known: Mutex::default(), visits, clock })
    }

    async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let done = self.session.execute_unpaged(statement, values).await;
        done.map(drop).map_err(|error| failed(&error))
    }

    /// Writes rows of one partition.
    async fn write_rows(
        &self,
        statement: &PreparedStatement,
        rows: Vec<impl SerializeRow>,
    ) -> Result<(), StoreError> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let some: Vec<_> = rows.by_ref().take(BATCH_ROWS).collect();
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            for _ in &some {
                batch.append_statement(statement.clone());
            }
            let done = self.session.batch(&batch, some).await;
            done.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The rows of a small result.
    async fn rows(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryRowsResult, StoreError> {
        let found = self.session.execute_unpaged(statement, values).await;
        let found = found.map_err(|error| failed(&error))?;
        found.into_rows_result().map_err(|error| odd(&error))
    }

    /// The first row, where there is one.
    async fn row<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<T>, StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f>,
    {
        self.rows(statement, values).await?.maybe_first_row().map_err(|error| odd(&error))
    }

    /// Shows all rows to `each`, page by page, until it says that it has enough.
    async fn pages<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f>,
    {
        let mut paging = PagingState::start();
        loop {
            let page = self.session.execute_single_page(statement, &values, paging).await;
            let (page, rest) = page.map_err(|error| failed(&error))?;
            let page = page.into_rows_result().map_err(|error| odd(&error))?;
            for row in page.rows::<T>().map_err(|error| odd(&error))? {
                if each(row.map_err(|error| odd(&error))?).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            match rest.into_paging_control_flow() {
                ControlFlow::Continue(state) => paging = state,
                ControlFlow::Break(()) => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)().ms()
    }

    fn knows(&self, what: Known) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&what)
    }

    fn forget(&self, what: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&what);
    }

    /// Call it when the row is written.
    fn learn(&self, what: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(what);
    }
}

/// Runs all of them, some at a time; the first error ends it.
async fn each<F>(all: impl Iterator<Item = F>) -> Result<(), StoreError>
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let panicked = |_| StoreError::Io(IoError::new(IoKind::Failed, "ask", "Cassandra"));
    let mut running = JoinSet::new();
    for one in all {
        if running.len() >= AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done.map_err(panicked)??;
        }
        running.spawn(one);
    }
    while let Some(done) = running.join_next().await {
        done.map_err(panicked)??;
    }
    Ok(())
}

/// Why a statement was not carried out, or not for sure.
pub(crate) fn failed(error: &ExecutionError) -> StoreError {
    let kind = match error {
        ExecutionError::RequestTimeout(_) => IoKind::TimedOut,
        ExecutionError::ConnectionPoolError(_) => IoKind::Closed,
        _ => IoKind::Failed,
    };
    IoError::new(kind, "ask", format!("Cassandra ({error})")).into()
}

/// An answer that does not fit to the question.
fn odd(error: &dyn fmt::Display) -> StoreError {
    IoError::new(IoKind::Failed, "understand", format!("Cassandra ({error})")).into()
}

/// A number as a column holds it: the same bits.
const fn column(number: u64) -> i64 {
    number.cast_signed()
}

const fn ms_of(id: QueueId) -> u64 {
    id.0 >> 22
}

/// The lowest name of that millisecond; the highest of all for one that has none.
const fn first_of(ms: u64) -> QueueId {
    if ms >> 42 == 0 { QueueId(ms << 22) } else { QueueId(u64::MAX) }
}

/// The week of a message, counted from 1970.
const fn week_of(id: QueueId) -> i32 {
    // 42 bits of milliseconds are 7,272 weeks.
    (ms_of(id) / WEEK_MS) as i32
}

/// The first name behind a week.
const fn end_of(week: i32) -> QueueId {
    first_of((week as u64).saturating_add(1).saturating_mul(WEEK_MS))
}

const fn is_late(id: QueueId, now_ms: u64) -> bool {
    ms_of(id).saturating_add(LATE_MS) < now_ms
}

/// When what belongs to a message is written, in microseconds.
const fn written_us(id: QueueId) -> i64 {
    column(ms_of(id) * 1000)
}

/// When it is removed: after it was written, and after what was written to it since.
fn removed_us(id: QueueId, now_ms: u64) -> i64 {
    column(now_ms.saturating_mul(1000)).max(written_us(id) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_store::ShardId;

    #[test]
    fn weeks_follow_from_names() {
        for (ms, week) in [(0, 0), (WEEK_MS - 1, 0), (WEEK_MS, 1), ((1 << 42) - 1, 7271)] {
            let id = QueueId(QueueId::first(ms, ShardId(1023)).0 | 0xfff);
            assert_eq!(week_of(id), week, "{ms}");
            assert!(id < end_of(week) || week == 7271);
            assert_eq!(week_of(QueueId(end_of(week).0 - 1)), week);
        }
    }

    #[test]
    fn late_is_what_is_named_five_minutes_ago() {
        let id = QueueId::first(1_700_000_000_000, ShardId(3));
        for (passed, late) in [(0, false), (LATE_MS, false), (LATE_MS + 1, true), (WEEK_MS, true)] {
            assert_eq!(is_late(id, 1_700_000_000_000 + passed), late, "{passed}");
        }
        assert!(!is_late(id, 0), "a name from the future is not late");
    }

    #[test]
    fn removing_comes_after_writing_whatever_the_clock_says() {
        let id = QueueId::first(1_700_000_000_000, ShardId(0));
        for now in [0, 1_699_999_999_999, 1_700_000_000_000, 1_800_000_000_000] {
            assert!(removed_us(id, now) > written_us(id), "{now}");
            assert!(removed_us(id, now) >= column(now * 1000));
        }
    }
}
