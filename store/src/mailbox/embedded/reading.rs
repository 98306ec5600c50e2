//! The committed state of the tables, for readers, and how rows of mailboxes are read.
//!
//! Called by the thread of the index. A damaged row is noted in [`Damages`]; it is passed over in
//! lists and an error for who asks for it.

use std::sync::Arc;

use redb::{AccessGuard, ReadOnlyTable, ReadableTable};

use super::super::pending::Body;
use super::super::row;
use super::super::types::Message;
use super::damage::{DamagedRow, Damages};
use super::tables::{damaged, failed};
use crate::seal::{RecipientWrap, UserKeys, WindowId, WindowRecord};
use crate::{MailboxId, QueueId, StoreError, Uid};

/// The committed state at one moment.
pub(super) struct Reading {
    pub(super) entries: ReadOnlyTable<(u64, u32), &'static [u8]>,
    pub(super) bodies: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) windows: ReadOnlyTable<(u64, u64), &'static [u8]>,
    pub(super) keys: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) queued: ReadOnlyTable<(u16, u64), &'static [u8]>,
    pub(super) damages: Arc<Damages>,
}

impl Reading {
    /// Up to `rows_max` rows of a mailbox from uid `from` on, `None` for a damaged one; says where
    /// to go on when there may be more.
    pub(super) fn messages(
        &self,
        mailbox: MailboxId,
        from: u32,
        rows_max: usize,
        mut each: impl FnMut(Option<Message>),
    ) -> Result<Option<u32>, StoreError> {
        let mut next = from.max(1);
        let range = (mailbox.0, next)..=(mailbox.0, u32::MAX);
        let mut rows = self.entries.range(range).map_err(failed)?;
        for _ in 0..rows_max {
            let Some(row) = rows.next() else { return Ok(None) };
            let (key, value) = row.map_err(failed)?;
            let key = key.value();
            each(self.damages.pass(message(key, value.value())).map(|(message, _)| message));
            let Some(behind) = key.1.checked_add(1) else { return Ok(None) };
            next = behind;
        }
        Ok(Some(next))
    }

    /// The uid that the next message of a mailbox will get.
    pub(super) fn next_uid(&self, mailbox: MailboxId) -> Result<Option<u32>, StoreError> {
        next_uid(&self.entries, mailbox, &self.damages)
    }

    /// The key of a message of a mailbox, if the message is still there: under its uid, or anywhere
    /// when the mailbox was numbered anew. A damaged row is an error for who asks, and noted.
    pub(super) fn wrap(
        &self,
        mailbox: MailboxId,
        wanted: Message,
    ) -> Result<Option<Option<RecipientWrap>>, StoreError> {
        let key = (mailbox.0, wanted.uid.0);
        if let Some(value) = self.entries.get(key).map_err(failed)? {
            let (found, wrap) = self.noted(message(key, value.value()))?;
            if found.id == wanted.id {
                return Ok(Some(wrap));
            }
        }
        let range = (mailbox.0, 1)..=(mailbox.0, u32::MAX);
        for row in self.entries.range(range).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let read = self.damages.pass(message(key.value(), value.value()));
            if let Some((found, wrap)) = read
                && found.id == wanted.id
            {
                return Ok(Some(wrap));
            }
        }
        Ok(None)
    }

    /// A window of a mailbox.
    pub(super) fn window(
        &self,
        mailbox: MailboxId,
        window: WindowId,
    ) -> Result<Option<WindowRecord>, StoreError> {
        let key = (mailbox.0, window.0);
        let Some(value) = self.windows.get(key).map_err(failed)? else { return Ok(None) };
        let row = row::unseal(&row::window_key(key), value.value()).and_then(row::read_window);
        let record = row.and_then(|(_, record)| row::read_window_record(key, record));
        self.noted(record.map_err(|why| damaged("windows", key, why))).map(Some)
    }

    /// The key pair of a mailbox.
    pub(super) fn keys(&self, mailbox: MailboxId) -> Result<Option<UserKeys>, StoreError> {
        let Some(value) = self.keys.get(mailbox.0).map_err(failed)? else { return Ok(None) };
        let row = row::unseal(&mailbox.0.to_be_bytes(), value.value());
        let keys = row.and_then(|row| UserKeys::decode(row).map_err(|_| "it is not a key pair"));
        self.noted(keys.map_err(|why| damaged("keys", mailbox, why))).map(Some)
    }

    /// Damage is an error for who asks, and noted.
    pub(super) fn noted<T>(&self, read: Result<T, DamagedRow>) -> Result<T, StoreError> {
        read.map_err(|row| {
            self.damages.note(row.clone());
            row.into()
        })
    }

    /// The body of a message. A damaged row is an error for who asks, and noted.
    pub(super) fn body(&self, id: QueueId) -> Result<Option<Body>, StoreError> {
        let Some(row) = self.bodies.get(id.0).map_err(failed)? else { return Ok(None) };
        self.noted(body(id, &row)).map(Some)
    }
}

pub(super) fn message(key: (u64, u32), value: &[u8]) -> Result<Kept, DamagedRow> {
    let row = row::unseal(&row::entry_key(key), value);
    let read = row.and_then(|row| row::read_entry(MailboxId(key.0), row));
    let (id, octets, wrap) = read.map_err(|why| damaged("entries", key, why))?;
    Ok((Message { id, octets, uid: Uid(key.1) }, wrap))
}

/// A message of a mailbox, with its key when it is sealed.
pub(super) type Kept = (Message, Option<RecipientWrap>);

pub(super) fn body(
    id: QueueId,
    value: &AccessGuard<'_, &'static [u8]>,
) -> Result<Body, DamagedRow> {
    let row = row::unseal(&id.0.to_be_bytes(), value.value());
    row.and_then(|row| row::read_body(id, row)).map_err(|why| damaged("bodies", id, why))
}

/// One more than the highest uid, or the row under uid 0 if that is more; `None` when all are used
/// up. A range knows both its ends, so this looks into the tree once. Where the row under uid 0 is
/// damaged, uids of deleted messages may be given out again.
pub(super) fn next_uid(
    entries: &impl ReadableTable<(u64, u32), &'static [u8]>,
    mailbox: MailboxId,
    damages: &Damages,
) -> Result<Option<u32>, StoreError> {
    let mut rows = entries.range((mailbox.0, 0)..=(mailbox.0, u32::MAX)).map_err(failed)?;
    let Some(first) = rows.next() else { return Ok(Some(1)) };
    let (key, value) = first.map_err(failed)?;
    let (key, mut next) = (key.value(), 1);
    match key.1 {
        0 => {
            let row = row::unseal(&row::entry_key(key), value.value());
            let floor = row.and_then(row::read_floor);
            next = damages.pass(floor.map_err(|why| damaged("entries", key, why))).unwrap_or(next);
        }
        uid => next = next.max(u64::from(uid) + 1),
    }
    if let Some(last) = rows.next_back() {
        next = next.max(u64::from(last.map_err(failed)?.0.value().1) + 1);
    }
    Ok(u32::try_from(next).ok())
}
