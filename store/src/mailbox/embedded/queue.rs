//! The rows of mail that is to travel on, within a transaction and for readers.
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
use crate::{QueueId, ShardId, StoreError};

/// What a row says: octets, key, state.
type Row<'r> = (u64, Option<RecipientWrap>, &'r [u8]);

const fn key(id: QueueId) -> (u16, u64) {
    (id.shard().0, id.0)
}

fn read(key: (u16, u64), value: &[u8]) -> Result<Row<'_>, DamagedRow> {
    let row = row::unseal(&row::queued_key(key), value).and_then(row::read_queued);
    row.map_err(|why| damaged("queued", key, why))
}

impl Reading {
    /// Messages of a shard behind `after`, at most `count_max`.
    pub(super) fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let first = after.map_or(Some(0), |after| after.0.checked_add(1));
        let Some(first) = first else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let range = (shard.0, first)..=(shard.0, u64::MAX);
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
        let Some(value) = self.queued.get(key(id)).map_err(failed)? else { return Ok(None) };
        self.noted(read(key(id), value.value()).map(|(_, wrap, _)| wrap)).map(Some)
    }
}

impl Writing<'_> {
    /// Puts a message into the queue, or what is known of it in place of what was.
    pub(super) fn put_queued(
        &mut self,
        id: QueueId,
        octets: u64,
        wrap: Option<&RecipientWrap>,
        state: &[u8],
    ) -> Result<(), StoreError> {
        row::queued(octets, wrap, state, &mut self.row);
        row::seal(&row::queued_key(key(id)), &mut self.row);
        self.queued.insert(key(id), self.row.as_slice()).map_err(failed)?;
        Ok(())
    }

    /// What a row says of a message without its state; none when it is missing or damaged.
    fn queued_row(&self, id: QueueId) -> Result<Option<(u64, Option<RecipientWrap>)>, StoreError> {
        let Some(value) = self.queued.get(key(id)).map_err(failed)? else { return Ok(None) };
        let row = self.damages.pass(read(key(id), value.value()));
        Ok(row.map(|(octets, wrap, _)| (octets, wrap)))
    }

    fn drop_queued(&mut self, id: QueueId) -> Result<(), StoreError> {
        self.queued.remove(key(id)).map(drop).map_err(failed)
    }
}

impl Work<'_, '_> {
    /// Keeps what became of queued messages.
    pub(super) fn settle(&mut self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        for settlement in settlements {
            let (id, state) = match settlement {
                Settlement::Deferred(id, state) => (id, Some(state)),
                Settlement::Done(id) => (id, None),
            };
            let Some((octets, wrap)) = self.tables().queued_row(id)? else { continue };
            match state {
                Some(state) => self.tables().put_queued(id, octets, wrap.as_ref(), &state)?,
                None => {
                    self.tables().drop_queued(id)?;
                    self.release(id, wrap.as_ref())?;
                }
            }
        }
        Ok(())
    }
}
