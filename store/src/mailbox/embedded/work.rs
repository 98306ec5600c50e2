//! What one transaction does to the tables: the merge of pending deliveries, deletions, moves.
//!
//! Called by the thread of the index, which commits. Errors here mean that the storage failed; the
//! transaction is dropped then. Where tables contradict each other, the contradiction is noted, and
//! the log keeps what it concerns.

use std::collections::BTreeSet;

use super::super::pending::{Body, LiveBytes, Rows};
use super::super::types::Message;
use super::queue::Line;
use super::tables::Writing;
use crate::seal::{RecipientWrap, WindowRecord};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError};

/// Rows between two looks at the queues while deliveries are merged: some 5 ms.
const STEP_ROWS: usize = 1024;
/// Live bytes of a segment that is kept whatever becomes dead in it: more became dead than were
/// live, so nothing tells how many are left. No segment is so long.
pub(super) const UNACCOUNTED: u64 = u64::MAX;

/// A transaction under way.
pub(super) struct Work<'a, 't> {
    writing: Writing<'t>,
    segment_bytes: u64,
    /// Live bytes before.
    live: &'a LiveBytes,
    /// What became of those that changed; 0 when none are left.
    changed: LiveBytes,
    /// Mailboxes that got new uids.
    pub(super) renumbered: BTreeSet<MailboxId>,
}

impl<'a, 't> Work<'a, 't> {
    pub(super) fn new(writing: Writing<'t>, live: &'a LiveBytes, segment_bytes: u64) -> Self {
        Self {
            writing,
            segment_bytes,
            live,
            changed: LiveBytes::new(),
            renumbered: BTreeSet::new(),
        }
    }

    pub(super) const fn tables(&mut self) -> &mut Writing<'t> {
        &mut self.writing
    }

    /// Merges pending deliveries in the order of the tables, so that each page is touched once;
    /// calls `step` now and then.
    pub(super) fn merge(&mut self, rows: &Rows, step: &mut dyn FnMut()) -> Result<(), StoreError> {
        let mut order: Vec<u32> = (0..).take(rows.entries.len()).collect();
        // Stable: within a mailbox the order of arrival is that of the uids.
        order.sort_by_key(|&index| rows.entries.get(index as usize).map(|entry| entry.mailbox));
        let entries = order.iter().filter_map(|&index| rows.entries.get(index as usize));
        let mut current: Option<(MailboxId, u32)> = None;
        let mut needed: Option<(&WindowRecord, u64)> = None;
        for (count, entry) in entries.enumerate() {
            let wrap = entry.key.as_ref().map(|key| &key.wrap);
            if let Some(line) = Line::of(entry.mailbox) {
                self.writing.put_queued(line, entry.id, entry.octets, wrap, &[])?;
            } else {
                let uid = match current {
                    Some((mailbox, uid)) if mailbox == entry.mailbox && uid != 0 => uid,
                    _ => self.first_uid(entry.mailbox)?,
                };
                self.writing.put_entry(entry.mailbox, uid, entry.id, entry.octets, wrap)?;
                // 0 after the last one.
                current = Some((entry.mailbox, uid.wrapping_add(1)));
            }
            if let Some(key) = &entry.key {
                // Messages of a mailbox come together, and mostly share a window.
                match &mut needed {
                    Some((window, count)) if window.id() == key.wrap.window => *count += 1,
                    _ => {
                        if let Some((window, count)) = needed.replace((&*key.window, 1)) {
                            self.writing.need_window(window, count)?;
                        }
                    }
                }
            }
            if count % STEP_ROWS == STEP_ROWS - 1 {
                step();
            }
        }
        if let Some((window, count)) = needed {
            self.writing.need_window(window, count)?;
        }
        let mut order: Vec<u32> = (0..).take(rows.bodies.len()).collect();
        order.sort_by_key(|&index| rows.bodies.get(index as usize).map(|body| body.id));
        let bodies = order.iter().filter_map(|&index| rows.bodies.get(index as usize));
        for (count, body) in bodies.enumerate() {
            self.writing.put_body(body)?;
            if count % STEP_ROWS == STEP_ROWS - 1 {
                step();
            }
        }
        for (&(shard, number), &bytes) in &rows.live {
            self.add(shard, number, bytes);
        }
        for (&shard, &lsn) in &rows.applied {
            self.writing.put_applied(shard, lsn)?;
        }
        Ok(())
    }

    /// Takes messages out of a mailbox.
    pub(super) fn delete(
        &mut self,
        mailbox: MailboxId,
        messages: &[Message],
    ) -> Result<(), StoreError> {
        let before = self.writing.next_uid(mailbox)?;
        for &message in messages {
            if let Some((_, wrap)) = self.writing.take_entry(mailbox, message)? {
                self.release(message.id, wrap.as_ref())?;
            }
        }
        // Uids are not given out twice, whatever was deleted (RFC 3501 §2.3.1.1).
        if before != self.writing.next_uid(mailbox)? {
            self.writing.put_floor(mailbox, before)?;
        }
        Ok(())
    }

    /// The same, when uids may have changed since the mailbox was opened: goes by queue id.
    pub(super) fn delete_by_id(
        &mut self,
        mailbox: MailboxId,
        messages: &[Message],
    ) -> Result<(), StoreError> {
        let next = self.writing.next_uid(mailbox)?;
        let gone: BTreeSet<QueueId> = messages.iter().map(|message| message.id).collect();
        let mut all = Vec::new();
        self.writing.take_some(mailbox, usize::MAX, &mut all)?;
        for (message, wrap) in all {
            let wrap = wrap.as_ref();
            if gone.contains(&message.id) {
                self.release(message.id, wrap)?;
            } else {
                self.writing.put_entry(mailbox, message.uid.0, message.id, message.octets, wrap)?;
            }
        }
        self.writing.put_floor(mailbox, next)
    }

    /// Takes some messages of a removed mailbox; says whether none are left.
    pub(super) fn purge(
        &mut self,
        mailbox: MailboxId,
        rows_max: usize,
    ) -> Result<bool, StoreError> {
        let mut taken = Vec::new();
        let all = self.writing.take_some(mailbox, rows_max, &mut taken)?;
        // Its windows go all at once.
        for (message, _) in taken {
            self.release(message.id, None)?;
        }
        if all {
            self.writing.purged(mailbox)?;
        }
        Ok(all)
    }

    /// Records that compaction has moved; those that nothing refers to any more are passed over.
    pub(super) fn relocate(
        &mut self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        for &(id, from, to) in records {
            let Some(mut body) = self.writing.body(id)? else { continue };
            if body.shard != shard {
                continue;
            }
            if let Some(bytes) = body.relocate(from, to) {
                self.writing.put_body(&body)?;
                self.subtract(shard, from, bytes);
                self.add(shard, to.0 / self.segment_bytes, bytes);
            }
        }
        Ok(())
    }

    /// Writes the live bytes that changed. The last thing before the commit.
    pub(super) fn finish(mut self) -> Result<(LiveBytes, BTreeSet<MailboxId>), StoreError> {
        for (&(shard, number), &bytes) in &self.changed {
            self.writing.put_live(shard, number, bytes)?;
        }
        Ok((self.changed, self.renumbered))
    }

    /// The uid for the next message. When 2^32 are used up, the mailbox is numbered anew.
    fn first_uid(&mut self, mailbox: MailboxId) -> Result<u32, StoreError> {
        if let Some(uid) = self.writing.next_uid(mailbox)? {
            return Ok(uid);
        }
        let mut all = Vec::new();
        self.writing.take_some(mailbox, usize::MAX, &mut all)?;
        self.renumbered.insert(mailbox);
        let mut uid = 1;
        for (message, wrap) in all {
            self.writing.put_entry(mailbox, uid, message.id, message.octets, wrap.as_ref())?;
            uid += 1;
        }
        Ok(uid)
    }

    /// A message less refers to a body and to the window of its key.
    pub(super) fn release(
        &mut self,
        id: QueueId,
        wrap: Option<&RecipientWrap>,
    ) -> Result<(), StoreError> {
        if let Some(wrap) = wrap {
            self.writing.release_window(wrap)?;
        }
        if let Some(body) = self.writing.release(id)? {
            self.forget(&body);
        }
        Ok(())
    }

    fn forget(&mut self, body: &Body) {
        for (lsn, bytes) in body.records() {
            self.subtract(body.shard, lsn, bytes);
        }
    }

    fn add(&mut self, shard: ShardId, number: u64, bytes: u64) {
        let sum = self.live_bytes(shard, number);
        *sum = sum.saturating_add(bytes);
    }

    fn subtract(&mut self, shard: ShardId, lsn: Lsn, bytes: u64) {
        let number = lsn.0 / self.segment_bytes;
        let sum = self.live_bytes(shard, number);
        if *sum == UNACCOUNTED {
            return;
        }
        let left = sum.checked_sub(bytes);
        *sum = left.unwrap_or(UNACCOUNTED);
        if left.is_none() {
            self.writing.note_live(shard, number);
        }
    }

    fn live_bytes(&mut self, shard: ShardId, number: u64) -> &mut u64 {
        let before = self.live.get(&(shard, number)).copied().unwrap_or(0);
        self.changed.entry((shard, number)).or_insert(before)
    }
}
