//! The rows of mail that is to travel on, within a transaction and for readers: to other hosts, or
//! to the cluster that holds the mailboxes.
//!
//! Called by the thread of the index. A damaged row is noted; a list passes it over, and its body
//! stays in the log, since nothing says any more what it needs.

use redb::ReadableTable;

use super::super::row;
use super::super::types::{Queued, Settlement};
use super::damage::DamagedRow;
use super::reading::Reading;
use super::tables::{Writing, damaged, failed};
use super::work::Work;
use crate::seal::RecipientWrap;
use crate::{MailboxId, QueueId, ShardId, StoreError};

/// What a row says: octets, key, state.
type Row<'r> = (u64, Option<RecipientWrap>, &'r [u8]);

/// Where mail is to travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Line {
    /// To other hosts: [`MailboxId::QUEUE`].
    Out,
    /// Into the cluster: [`MailboxId::UPLOAD`].
    Up,
}

impl Line {
    /// The line of mail in this mailbox; none when it is somebody's.
    pub(super) fn of(mailbox: MailboxId) -> Option<Self> {
        match mailbox {
            MailboxId::QUEUE => Some(Self::Out),
            MailboxId::UPLOAD => Some(Self::Up),
            _ => None,
        }
    }

    /// The first half of the key: no shard has a number of more than ten bits.
    const fn half(self, shard: ShardId) -> u16 {
        match self {
            Self::Out => shard.0,
            Self::Up => shard.0 | 1 << 15,
        }
    }

    const fn key(self, id: QueueId) -> (u16, u64) {
        (self.half(id.shard()), id.0)
    }
}

fn read(key: (u16, u64), value: &[u8]) -> Result<Row<'_>, DamagedRow> {
    let row = row::unseal(&row::queued_key(key), value).and_then(row::read_queued);
    row.map_err(|why| damaged("queued", key, why))
}

impl Reading {
    /// Messages of a shard behind `after`, at most `count_max`.
    pub(super) fn queued(
        &self,
        line: Line,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let first = after.map_or(Some(0), |after| after.0.checked_add(1));
        let Some(first) = first else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let half = line.half(shard);
        let range = (half, first)..=(half, u64::MAX);
        for row in self.queued.range(range).map_err(failed)? {
            if found.len() >= count_max {
                break;
            }
            let (key, value) = row.map_err(failed)?;
            let key = key.value();
            if let Some((octets, _, state)) = self.damages.pass(read(key, value.value())) {
                found.push(Queued { id: QueueId(key.1), octets, state: state.into() });
            }
        }
        Ok(found)
    }

    /// The key of a queued message; the outer `None` when it is not in the queue.
    pub(super) fn queued_wrap(
        &self,
        id: QueueId,
    ) -> Result<Option<Option<RecipientWrap>>, StoreError> {
        let key = Line::Out.key(id);
        let Some(value) = self.queued.get(key).map_err(failed)? else { return Ok(None) };
        self.noted(read(key, value.value()).map(|(_, wrap, _)| wrap)).map(Some)
    }
}

impl Writing<'_> {
    /// Puts a message into the queue, or what is known of it in place of what was.
    pub(super) fn put_queued(
        &mut self,
        line: Line,
        id: QueueId,
        octets: u64,
        wrap: Option<&RecipientWrap>,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let key = line.key(id);
        row::queued(octets, wrap, state, &mut self.row);
        row::seal(&row::queued_key(key), &mut self.row);
        self.queued.insert(key, self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// What a row says of a message without its state; none when it is missing or damaged.
    fn queued_row(
        &self,
        line: Line,
        id: QueueId,
    ) -> Result<Option<(u64, Option<RecipientWrap>)>, StoreError> {
        let key = line.key(id);
        let Some(value) = self.queued.get(key).map_err(failed)? else { return Ok(None) };
        let row = self.damages.pass(read(key, value.value()));
        Ok(row.map(|(octets, wrap, _)| (octets, wrap)))
    }

    fn drop_queued(&mut self, line: Line, id: QueueId) -> Result<(), StoreError> {
        self.queued.remove(line.key(id)).map(drop).map_err(failed)
    }
}

impl Work<'_, '_> {
    /// Keeps what became of queued messages.
    pub(super) fn settle(&mut self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        for settlement in settlements {
            let (line, id, state) = match settlement {
                Settlement::Deferred(id, state) => (Line::Out, id, Some(state)),
                Settlement::Done(id) => (Line::Out, id, None),
                Settlement::Uploaded(id) => (Line::Up, id, None),
            };
            let Some((octets, wrap)) = self.tables().queued_row(line, id)? else { continue };
            match state {
                Some(state) => self.tables().put_queued(line, id, octets, wrap.as_ref(), &state)?,
                None => {
                    self.tables().drop_queued(line, id)?;
                    self.release(id, wrap.as_ref())?;
                }
            }
        }
        Ok(())
    }
}
