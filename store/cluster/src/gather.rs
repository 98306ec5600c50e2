//! Small rows, gathered for a moment and written together.
//!
//! Used by `mail` for what each delivery writes. What a small row costs is the request: rows that
//! are ready in the same turn of the runtime share one, a batch without a log. Limits:
//! [`MESSAGES_MAX`] and [`PIECES_MAX`] rows in a batch: below 50 KiB, where Cassandra refuses it by
//! default. It warns of pieces (over 5 KiB) unless it is told not to: `tuning/cassandra.md`.
//! Failure: all rows of a batch share what became of it; each may be written again.

use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_store::StoreError;
use fsmtp_store::seal::RECIPIENT_ROW_BYTES;
use futures_channel::oneshot;
use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::MaybeUnset;

use crate::mail::failed;

/// Rows that show messages are written together.
pub(crate) const MESSAGES_MAX: usize = 10;
/// Small pieces are.
pub(crate) const PIECES_MAX: usize = 8;
/// What a small piece is.
pub(crate) const PIECE_BYTES_MAX: usize = 5 * 1024;

/// Mailbox, week, name, octets, whether the body is shared, wrap, when it is written.
pub(crate) type MessageRow =
    (i64, i32, i64, i64, MaybeUnset<bool>, MaybeUnset<[u8; RECIPIENT_ROW_BYTES]>, i64);
/// Name, number, bytes of a piece, when it is written.
pub(crate) type PieceRow = (i64, i32, Vec<u8>, i64);

type Waiting<V> = (V, oneshot::Sender<Result<(), StoreError>>);

/// Gathers rows for one statement.
pub(crate) struct Gather<V> {
    session: Arc<Session>,
    single: PreparedStatement,
    /// Batches of so many rows and two more.
    batches: Vec<Batch>,
    rows_max: usize,
    waiting: Mutex<Vec<Waiting<V>>>,
}

impl<V: SerializeRow + Send + Sync + 'static> Gather<V> {
    pub(crate) fn new(
        (session, single): (Arc<Session>, PreparedStatement),
        rows_max: usize,
    ) -> Self {
        let of = |rows: usize| {
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            (0..rows).for_each(|_| batch.append_statement(single.clone()));
            batch
        };
        let batches = (2..=rows_max).map(of).collect();
        Self { session, single, batches, rows_max, waiting: Mutex::default() }
    }

    /// Writes a row, with others that are ready now.
    pub(crate) async fn put(self: &Arc<Self>, row: V) -> Result<(), StoreError> {
        let (told, outcome) = oneshot::channel();
        let count = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push((row, told));
            waiting.len()
        };
        match count {
            // The others of this turn come before it.
            1 => {
                let gather = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    gather.flush().await;
                });
            }
            _ if count >= self.rows_max => self.flush().await,
            _ => {}
        }
        outcome.await.unwrap_or(Err(StoreError::Busy))
    }

    async fn flush(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            core::mem::take(&mut *waiting)
        };
        let (rows, told): (Vec<V>, Vec<_>) = waiting.into_iter().unzip();
        let written = match (rows.as_slice(), self.batches.get(rows.len().wrapping_sub(2))) {
            ([], _) => return,
            (_, Some(batch)) => self.session.batch(batch, &rows).await,
            (_, None) => match rows.first() {
                Some(row) => self.session.execute_unpaged(&self.single, row).await,
                None => return,
            },
        };
        let outcome = written.map(drop).map_err(|error| failed(&error));
        for told in told {
            // Nobody may be waiting any more.
            let _ = told.send(outcome.clone());
        }
    }
}
