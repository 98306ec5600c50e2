//! Numbers of messages in their mailboxes (RFC 3501 §2.3.1.1): given by who opens a mailbox, in the
//! order in which it finds messages, and kept when the visit ends.
//!
//! Called by the thread of the bridge. Delivery knows nothing of numbers, so it needs no
//! lightweight transaction. The next number is raised first, by one that fails when somebody else
//! has raised it meanwhile; then messages that stay are given theirs. Interrupted in between,
//! numbers stay unused, and none is given twice. Until a visit has ended what it has shown as
//! numbers may be given to others: POP3 does not show them.

use fsmtp_store::mailbox::Message;
use fsmtp_store::{QueueId, StoreError, Uid};
use scylla::value::{CqlValue, Row};

use super::{Mail, column, odd, week_of};
use crate::bridge::Listing;

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
        &self,
        listing: &Listing,
        gone: &[QueueId],
    ) -> Result<(), StoreError> {
        let (was, first) = listing.uids;
        let is_new = |message: &&Message| message.uid >= first;
        let last = listing.messages.iter().filter(is_new).map(|message| message.uid.0).max();
        let Some(last) = last else { return Ok(()) };
        let mailbox = column(listing.mailbox.0);
        let next = last.saturating_add(1).cast_signed();
        if !self.raise(mailbox, next, was).await? {
            return Err(StoreError::InUse);
        }
        let stays = |message: &&Message| gone.binary_search(&message.id).is_err();
        let staying: Vec<&Message> = listing.messages.iter().filter(is_new).filter(stays).collect();
        for of_week in staying.chunk_by(|one, other| week_of(one.id) == week_of(other.id)) {
            let row = |message: &&Message| {
                (message.uid.0.cast_signed(), mailbox, week_of(message.id), column(message.id.0))
            };
            let rows = of_week.iter().map(row).collect();
            self.write_rows(&self.statements.put_uid, rows).await?;
        }
        Ok(())
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
