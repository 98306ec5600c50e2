//! Mail in Cassandra: what is done for each thing that a [`Bridge`](crate::bridge::Bridge) is
//! asked.
//!
//! The tables and why they are so: `schema`, `docs/decisions/0013-the-cluster-s-tables.md`. A
//! delivery inserts the body first and what shows it last, so a reader finds whole messages; a
//! removal goes the other way round. Both may be interrupted and done again. Limits:
//! [`MESSAGES_MAX`] messages of a mailbox are seen, the oldest first. Failure: a server that is
//! away, slow or has too few copies is an error of the way there; a row that cannot be read is
//! [`StoreError::Corrupt`], with its name.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use fsmtp_rt::{IoError, IoKind};
use fsmtp_store::mailbox::{Delivery, Message};
use fsmtp_store::seal::{RecipientWrap, WindowId, WindowRecord};
use fsmtp_store::spool::{Recipient, RecipientKey};
use fsmtp_store::{MailboxId, QueueId, ShardId, StoreError, Uid};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryRowsResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::Row;
use tokio::task::JoinSet;

use crate::bridge::Clock;
use crate::cassandra::{ClusterError, refused};
use crate::gather::{
    Gather, MESSAGES_MAX as ROWS_MAX, MessageRow, PIECE_BYTES_MAX, PIECES_MAX, PieceRow,
};
use crate::statements::Statements;

/// How often a lease is renewed; it ends by itself after three times that.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Messages of a mailbox that are seen, 24 bytes each.
const MESSAGES_MAX: usize = 1_000_000;
/// Weeks and windows that are known to be written.
const WRITTEN_MAX: usize = 64 * 1024;
/// Rows of one partition that are removed at a time.
const BATCH_ROWS: usize = 100;
/// Bodies that are removed at one time.
const DROPS_MAX: usize = 32;
/// What lies in front of the mark was named so long ago at least.
const MARK_BEHIND_MS: u64 = 15 * 60 * 1000;
/// What was named so long ago is late: readers may have moved the mark over it.
const LATE_MS: u64 = 5 * 60 * 1000;

/// A lease that is held.
pub(crate) struct Lease {
    name: String,
    holder: String,
    epoch: i64,
}

/// What was written once and need not be again.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Written {
    Week(MailboxId, i32),
    Window(MailboxId, WindowId),
}

/// The session, the statements, and what is known of earlier ones.
pub(crate) struct Mail {
    session: Arc<Session>,
    statements: Statements,
    rows: Arc<Gather<MessageRow>>,
    pieces: Arc<Gather<PieceRow>>,
    written: Mutex<BTreeSet<Written>>,
    clock: Clock,
}

/// Bits as Cassandra has them.
const fn signed(number: u64) -> i64 {
    number.cast_signed()
}

const fn named_ms(id: QueueId) -> u64 {
    id.0 >> 22
}

/// The week that a message was named in, from 1970 on.
fn week_of(id: QueueId) -> i32 {
    i32::try_from(named_ms(id) / (7 * 24 * 3600 * 1000)).unwrap_or(i32::MAX)
}

pub(crate) fn away(error: &ClusterError) -> StoreError {
    let kind = match error {
        ClusterError::Unavailable(_) => IoKind::TimedOut,
        _ => IoKind::Failed,
    };
    StoreError::Io(IoError::new(kind, "ask", error.to_string()))
}

fn odd(why: impl core::fmt::Display) -> StoreError {
    away(&ClusterError::Refused(why.to_string()))
}

impl Mail {
    pub(crate) async fn prepare(
        session: Arc<Session>,
        keyspace: &str,
        clock: Clock,
    ) -> Result<Self, ClusterError> {
        let prepared = Statements::prepare(&session, keyspace).await;
        let statements = prepared.map_err(|error| ClusterError::Unavailable(error.to_string()))?;
        let rows =
            Gather::new(Arc::clone(&session), statements.put_message.clone(), ROWS_MAX).into();
        let pieces =
            Gather::new(Arc::clone(&session), statements.put_piece.clone(), PIECES_MAX).into();
        Ok(Self { session, statements, rows, pieces, written: Mutex::default(), clock })
    }

    fn now_ms(&self) -> u64 {
        (self.clock)().ms()
    }

    async fn run(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let ran = self.session.execute_unpaged(statement, values).await;
        ran.map(drop).map_err(|error| away(&refused(error)))
    }

    /// Whether a conditional statement was done.
    async fn applied(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<bool, StoreError> {
        let ran = self.session.execute_unpaged(statement, values).await;
        let rows = ran.map_err(|error| away(&refused(error)))?.into_rows_result().map_err(odd)?;
        let row = rows.first_row::<Row>().map_err(odd)?;
        let first = row.columns.into_iter().next().flatten();
        first.and_then(|value| value.as_boolean()).ok_or_else(|| odd("no [applied]"))
    }

    /// All rows of a statement, page by page, until `each` has enough.
    async fn rows<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
        mut each: impl FnMut(T) -> bool,
    ) -> Result<(), StoreError>
    where
        T: for<'f, 'm> DeserializeRow<'f, 'm>,
    {
        let mut state = PagingState::start();
        loop {
            let page = self.session.execute_single_page(statement, values.clone(), state).await;
            let (found, next) = page.map_err(|error| away(&refused(error)))?;
            let found: QueryRowsResult = found.into_rows_result().map_err(odd)?;
            for row in found.rows::<T>().map_err(odd)? {
                if !each(row.map_err(odd)?) {
                    return Ok(());
                }
            }
            match next {
                PagingStateResponse::HasMorePages { state: more } => state = more,
                PagingStateResponse::NoMorePages => return Ok(()),
            }
        }
    }

    async fn row<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
    ) -> Result<Option<T>, StoreError>
    where
        T: for<'f, 'm> DeserializeRow<'f, 'm>,
    {
        let mut found = None;
        let first = |row| {
            found = Some(row);
            false
        };
        self.rows(statement, values, first).await?;
        Ok(found)
    }

    pub(crate) async fn put_piece(
        &self,
        id: QueueId,
        number: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        let number = i32::try_from(number).map_err(odd)?;
        let row = (signed(id.0), number, data);
        if row.2.len() <= PIECE_BYTES_MAX {
            return self.pieces.put(row).await;
        }
        self.run(&self.statements.put_piece, row).await
    }

    pub(crate) async fn deliver(&self, delivery: Delivery) -> Result<(), StoreError> {
        let Delivery { id, octets, first, recipients } = delivery;
        let mailboxes: BTreeMap<MailboxId, &Recipient> =
            recipients.iter().map(|to| (to.mailbox, to)).collect();
        let (name, week, is_shared) = (signed(id.0), week_of(id), mailboxes.len() > 1);
        let is_late = named_ms(id).saturating_add(LATE_MS) < self.now_ms();
        self.put_piece(id, 0, first).await?;
        for (&mailbox, to) in &mailboxes {
            let number = signed(mailbox.0);
            if let Some(RecipientKey { window, .. }) = &to.key {
                let what = Written::Window(mailbox, window.id());
                let values = || (number, signed(window.id().0), window.encode());
                self.once(what, &self.statements.put_window, values).await?;
            }
            let what = Written::Week(mailbox, week);
            self.once(what, &self.statements.put_week, || (number, week)).await?;
            if is_shared {
                self.run(&self.statements.put_holder, (name, number)).await?;
            }
            if is_late {
                self.run(&self.statements.put_late, (number, name)).await?;
            }
        }
        // What shows it comes last: whoever finds it finds all of it.
        for (&mailbox, to) in &mailboxes {
            let wrap = to.key.as_ref().map(|key| key.wrap.row());
            let row = (signed(mailbox.0), week, name, signed(octets), wrap, is_shared);
            self.rows.put(row).await?;
        }
        Ok(())
    }

    /// Runs a statement, unless this has been done.
    async fn once<V: SerializeRow>(
        &self,
        what: Written,
        statement: &PreparedStatement,
        values: impl FnOnce() -> V,
    ) -> Result<(), StoreError> {
        let known = || self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&what) {
            return Ok(());
        }
        self.run(statement, values()).await?;
        let mut known = known();
        if known.len() >= WRITTEN_MAX {
            known.clear();
        }
        known.insert(what);
        Ok(())
    }

    pub(crate) async fn take(&self, name: &str, holder: String) -> Result<Lease, StoreError> {
        let lease = Lease { name: name.to_owned(), holder, epoch: signed(self.now_ms()) };
        let values = (&lease.name, &lease.holder, lease.epoch);
        match self.applied(&self.statements.take_lease, values).await? {
            true => Ok(lease),
            false => Err(StoreError::InUse),
        }
    }

    pub(crate) async fn renew(&self, lease: &Lease) -> Result<bool, StoreError> {
        let Lease { name, holder, epoch } = lease;
        let values = (holder, epoch, name, holder, epoch);
        self.applied(&self.statements.renew_lease, values).await
    }

    pub(crate) async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let values = (&lease.name, &lease.holder, lease.epoch);
        self.applied(&self.statements.drop_lease, values).await.map(drop)
    }

    /// The messages of a mailbox by their names, and the mark in front of which nothing lies.
    pub(crate) async fn list(
        &self,
        mailbox: MailboxId,
    ) -> Result<(Vec<Message>, QueueId), StoreError> {
        let number = signed(mailbox.0);
        let mark = self.row::<(Option<i64>,)>(&self.statements.mark, (number,)).await?;
        let mark = QueueId(mark.and_then(|(mark,)| mark).unwrap_or(0).cast_unsigned());
        let mut found = Vec::new();
        let mut late = Vec::new();
        let in_front = |(id,): (i64,)| {
            late.extend(Some(QueueId(id.cast_unsigned())).filter(|id| *id < mark));
            true
        };
        self.rows(&self.statements.late, (number,), in_front).await?;
        for id in late {
            let values = (number, week_of(id), signed(id.0));
            type Found = (Option<i64>, Option<i32>, Option<Vec<u8>>, Option<bool>);
            // What is not there yet, or not any more, is passed over.
            if let Some((Some(octets), uid, ..)) =
                self.row::<Found>(&self.statements.message, values).await?
            {
                found.push((id, octets.cast_unsigned(), uid));
            }
        }
        let mut weeks = Vec::new();
        let week = |(week,): (i32,)| {
            weeks.push(week);
            true
        };
        self.rows(&self.statements.weeks, (number,), week).await?;
        weeks.sort_unstable();
        for week in weeks.into_iter().filter(|week| *week >= week_of(mark)) {
            let add = |(id, octets, uid): (i64, Option<i64>, Option<i32>)| {
                // A row without its length is what is left of one that was removed meanwhile.
                if let Some(octets) = octets {
                    found.push((QueueId(id.cast_unsigned()), octets.cast_unsigned(), uid));
                }
                found.len() < MESSAGES_MAX
            };
            self.rows(&self.statements.messages, (number, week, signed(mark.0)), add).await?;
            if found.len() >= MESSAGES_MAX {
                break;
            }
        }
        found.sort_unstable_by_key(|(id, ..)| *id);
        Ok((numbered(found), mark))
    }

    pub(crate) async fn find(
        &self,
        mailbox: MailboxId,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        type Found = (Option<i64>, Option<i32>, Option<Vec<u8>>, Option<bool>);
        let values = (signed(mailbox.0), week_of(id), signed(id.0));
        let found = self.row::<Found>(&self.statements.message, values).await?;
        let Some((Some(_), _, wrap, _)) = found else {
            return Err(StoreError::NotFound(format!("message {id}")));
        };
        let Some(wrap) = wrap else { return Ok(None) };
        let damaged = |what: &str, why: &str| StoreError::Corrupt {
            place: format!("the {what} of message {id} in Cassandra"),
            why: why.to_owned(),
        };
        let wrap = wrap.as_slice().try_into();
        let wrap = wrap.map_err(|_| damaged("key", "it has a wrong length"))?;
        let wrap = RecipientWrap::from_row(mailbox, wrap);
        let values = (signed(mailbox.0), signed(wrap.window.0));
        let record = self.row::<(Option<Vec<u8>>,)>(&self.statements.window, values).await?;
        let record = record.and_then(|(record,)| record);
        let record = record.ok_or_else(|| damaged("window", "it is not there"))?;
        let window = WindowRecord::decode(&record)
            .ok()
            .filter(|window| (window.mailbox(), window.id()) == (mailbox, wrap.window))
            .ok_or_else(|| damaged("window", "it cannot be read"))?;
        Ok(Some(RecipientKey { wrap, window: Arc::new(window) }))
    }

    pub(crate) async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        let at = i32::try_from(number).map_err(odd)?;
        let data = self.row::<(Option<Vec<u8>>,)>(&self.statements.piece, (signed(id.0), at));
        data.await?.and_then(|(data,)| data).ok_or_else(|| StoreError::Corrupt {
            place: format!("message {id} in Cassandra"),
            why: format!("its piece {number} is not there"),
        })
    }

    pub(crate) async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        for window in windows.iter().filter(|window| window.mailbox() == mailbox) {
            let values = (signed(mailbox.0), signed(window.id().0), window.encode());
            self.run(&self.statements.put_window, values).await?;
        }
        Ok(())
    }

    /// Removes messages of a mailbox: the rows that show them, their bodies, and what is left of
    /// weeks that are empty by then.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        mailbox: MailboxId,
        all: &[Message],
        gone: &[Message],
        mark: QueueId,
    ) -> Result<(), StoreError> {
        let number = signed(mailbox.0);
        let mut shared = BTreeSet::new();
        for message in gone {
            let values = (number, week_of(message.id), signed(message.id.0));
            type Found = (Option<i64>, Option<i32>, Option<Vec<u8>>, Option<bool>);
            let found = self.row::<Found>(&self.statements.message, values).await?;
            if found.is_some_and(|(.., is_shared)| is_shared == Some(true)) {
                shared.insert(message.id);
            }
        }
        self.drop_rows(mailbox, gone).await?;
        self.drop_bodies(mailbox, gone, &shared).await?;
        for message in gone.iter().filter(|message| message.id < mark) {
            self.run(&self.statements.drop_late, (number, signed(message.id.0))).await?;
        }
        let gone: BTreeSet<QueueId> = gone.iter().map(|message| message.id).collect();
        let oldest = all.iter().map(|message| message.id).find(|id| !gone.contains(id));
        self.move_mark(mailbox, mark, oldest).await
    }

    /// Moves the mark to the oldest message, or to where nothing can come in any more without
    /// being late.
    async fn move_mark(
        &self,
        mailbox: MailboxId,
        mark: QueueId,
        oldest: Option<QueueId>,
    ) -> Result<(), StoreError> {
        let safe = QueueId::first(self.now_ms().saturating_sub(MARK_BEHIND_MS), ShardId(0));
        let next = oldest.map_or(safe, |oldest| oldest.min(safe));
        if next <= mark {
            return Ok(());
        }
        let number = signed(mailbox.0);
        self.run(&self.statements.put_mark, (number, signed(next.0))).await?;
        let mut weeks = Vec::new();
        let week = |(week,): (i32,)| {
            weeks.push(week);
            true
        };
        self.rows(&self.statements.weeks, (number,), week).await?;
        for week in weeks.into_iter().filter(|week| *week < week_of(next)) {
            self.run(&self.statements.drop_week, (number, week)).await?;
            let known = Written::Week(mailbox, week);
            self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(&known);
        }
        Ok(())
    }

    async fn drop_rows(&self, mailbox: MailboxId, gone: &[Message]) -> Result<(), StoreError> {
        let mut weeks: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for message in gone {
            weeks.entry(week_of(message.id)).or_default().push(signed(message.id.0));
        }
        for (week, ids) in weeks {
            for some in ids.chunks(BATCH_ROWS) {
                let mut batch = Batch::new(BatchType::Unlogged);
                batch.set_is_idempotent(true);
                some.iter().for_each(|_| {
                    batch.append_statement(self.statements.drop_message.clone());
                });
                let values: Vec<_> = some.iter().map(|id| (signed(mailbox.0), week, *id)).collect();
                let ran = self.session.batch(&batch, values).await;
                ran.map_err(|error| away(&refused(error)))?;
            }
        }
        Ok(())
    }

    /// Bodies that nobody else has.
    async fn drop_bodies(
        self: &Arc<Self>,
        mailbox: MailboxId,
        gone: &[Message],
        shared: &BTreeSet<QueueId>,
    ) -> Result<(), StoreError> {
        let mut drops = JoinSet::new();
        for message in gone {
            if drops.len() >= DROPS_MAX
                && let Some(done) = drops.join_next().await
            {
                done.map_err(odd)??;
            }
            let (mail, id, is_shared) =
                (Arc::clone(self), message.id, shared.contains(&message.id));
            drops.spawn(async move { mail.drop_body(mailbox, id, is_shared).await });
        }
        while let Some(done) = drops.join_next().await {
            done.map_err(odd)??;
        }
        Ok(())
    }

    async fn drop_body(
        &self,
        mailbox: MailboxId,
        id: QueueId,
        is_shared: bool,
    ) -> Result<(), StoreError> {
        let name = signed(id.0);
        if is_shared {
            self.run(&self.statements.drop_holder, (name, signed(mailbox.0))).await?;
            // Two who do this at one time both look after both rows are gone.
            if self.row::<(i64,)>(&self.statements.holder, (name,)).await?.is_some() {
                return Ok(());
            }
        }
        self.run(&self.statements.drop_body, (name,)).await
    }

    /// Removes all mail of a mailbox, and what it remembers.
    pub(crate) async fn purge(self: &Arc<Self>, mailbox: MailboxId) -> Result<(), StoreError> {
        loop {
            let (all, mark) = self.list(mailbox).await?;
            if all.is_empty() {
                break;
            }
            self.remove(mailbox, &all, &all, mark).await?;
        }
        let number = signed(mailbox.0);
        self.run(&self.statements.drop_windows, (number,)).await?;
        self.run(&self.statements.drop_state, (number,)).await
    }
}

/// Messages with their uids: those that have none yet come behind those that have.
fn numbered(found: Vec<(QueueId, u64, Option<i32>)>) -> Vec<Message> {
    let highest = found.iter().filter_map(|(.., uid)| *uid).max().unwrap_or(0);
    let mut next = u32::try_from(highest).unwrap_or(0);
    let mut messages: Vec<Message> = found
        .into_iter()
        .map(|(id, octets, uid)| {
            let uid = uid.and_then(|uid| u32::try_from(uid).ok()).unwrap_or_else(|| {
                next = next.saturating_add(1);
                next
            });
            Message { id, octets, uid: Uid(uid) }
        })
        .collect();
    messages.sort_unstable_by_key(|message| message.uid);
    messages
}
