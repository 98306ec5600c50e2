//! Numbers of messages in their mailboxes (RFC 3501 §2.3.1.1): given by who opens a mailbox, in the
//! order in which it finds messages, and kept when the visit ends.
//!
//! Called by the thread of the bridge. Delivery knows nothing of numbers, so it needs no
//! lightweight transaction. The next number is raised first, by one that fails when somebody else
//! has raised it meanwhile; then messages that stay are given theirs. Interrupted in between,
//! numbers stay unused, and none is given twice. Until a visit has ended what it has shown as
//! numbers may be given to others: POP3 does not show them. Limits: [`KEPT_MAX`] numbers are kept
//! by a visit, the rest by the next ones.

use std::sync::Arc;

use fsmtp_store::mailbox::Message;
use fsmtp_store::{QueueId, StoreError, Uid};
use scylla::value::{CqlValue, Row};

use super::{BATCH_ROWS, Mail, column, each, odd, week_of};
use crate::bridge::Listing;

/// Numbers that are kept by one visit, so that nobody waits long for its end.
const KEPT_MAX: usize = 10_000;

/// Numbers the messages that have none yet behind all that were ever given; the first number that
/// was given now.
pub(super) fn number(messages: &mut [Message], next: Option<i32>) -> Uid {
    let highest = messages.iter().map(|message| message.uid.0).max().unwrap_or_default();
    let next = next.map_or(0, i32::cast_unsigned);
    let first = highest.saturating_add(1).max(next);
    let mut free = first;
    for message in messages.iter_mut().filter(|message| message.uid == Uid(0)) {
        message.uid = Uid(free);
        free = free.saturating_add(1);
    }
    Uid(first)
}

impl Mail {
    /// Keeps the numbers that a visit has given; of what stays, `gone` rises.
    pub(super) async fn keep_uids(
        self: &Arc<Self>,
        listing: &Listing,
        gone: &[QueueId],
    ) -> Result<(), StoreError> {
        let (was, first) = listing.uids;
        let is_new = |message: &&Message| message.uid >= first;
        // Those that are given rise with the names.
        let new = listing.messages.iter().filter(is_new).take(KEPT_MAX);
        let new: Vec<&Message> = new.collect();
        let Some(last) = new.last() else { return Ok(()) };
        let mailbox = column(listing.mailbox.0);
        if !self.raise(mailbox, last.uid.0.saturating_add(1).cast_signed(), was).await? {
            return Err(StoreError::InUse);
        }
        let stays = |message: &&Message| gone.binary_search(&message.id).is_err();
        let staying: Vec<&Message> = new.into_iter().filter(stays).collect();
        let weeks = staying.chunk_by(|one, other| week_of(one.id) == week_of(other.id));
        let row = |message: &&Message| {
            (message.uid.0.cast_signed(), mailbox, week_of(message.id), column(message.id.0))
        };
        let parts: Vec<Vec<_>> = weeks
            .flat_map(|of_week| of_week.chunks(BATCH_ROWS))
            .map(|some| some.iter().map(row).collect())
            .collect();
        let write = |rows| (Arc::clone(self), rows);
        each(parts.into_iter().map(write).map(|(mail, rows)| async move {
            mail.write_rows(&mail.statements.put_uid, rows).await
        }))
        .await
    }

    /// Raises the next number from what it was; false when it is another one by now.
    async fn raise(&self, mailbox: i64, next: i32, was: Option<i32>) -> Result<bool, StoreError> {
        let found = self.rows(&self.statements.raise_uids, (next, mailbox, was)).await?;
        let place = found.column_specs().get_by_name("uid_next").map(|(index, _)| index);
        let row: Row = found.first_row().map_err(|error| odd(&error))?;
        let value = |index: usize| row.columns.get(index)?.as_ref();
        let is_applied = value(0).and_then(CqlValue::as_boolean) == Some(true);
        // An earlier try of the driver may have done it, and its answer was lost.
        Ok(is_applied || place.and_then(value).and_then(CqlValue::as_int) == Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_number_gets_one_behind_all_that_were_given() {
        let numbered = |uids: &[u32], next: Option<i32>| -> (Vec<u32>, u32) {
            let message = |&uid: &u32| Message { id: QueueId(1), octets: 1, uid: Uid(uid) };
            let mut messages: Vec<Message> = uids.iter().map(message).collect();
            let first = number(&mut messages, next);
            (messages.iter().map(|message| message.uid.0).collect(), first.0)
        };
        assert_eq!(numbered(&[], None), (vec![], 1));
        assert_eq!(numbered(&[0, 0], None), (vec![1, 2], 1));
        assert_eq!(numbered(&[0, 0], Some(5)), (vec![5, 6], 5));
        assert_eq!(numbered(&[0, 7, 0, 3], Some(5)), (vec![8, 7, 9, 3], 8));
        assert_eq!(numbered(&[7, 8], Some(9)), (vec![7, 8], 9), "nothing is new");
        assert_eq!(numbered(&[u32::MAX, 0], None).0, [u32::MAX, u32::MAX]);
    }
}
