//! Delivering: inserts only, in an order in which whoever sees a message finds it whole.
//!
//! Called by the thread of the bridge. The body comes first, then what opens it and who holds it,
//! and the row that a reader looks for is the last one. Interrupted anywhere, it leaves rows that
//! nobody sees and that the next try writes again. Limits: a message for one mailbox, of a window
//! and week that are known, takes two statements; 16 are under way for a message for many.

use std::sync::Arc;

use fsmtp_store::envelope::RECIPIENTS_COUNT_MAX;
use fsmtp_store::mailbox::Delivery;
use fsmtp_store::seal::WindowRecord;
use fsmtp_store::spool::Recipient;
use fsmtp_store::{MailboxId, QueueId, StoreError};
use scylla::value::MaybeUnset;

use super::{Known, Mail, column, each, is_late, week_of, written_us};
use crate::gather::PIECE_BYTES_MAX;

/// A message without its body.
#[derive(Clone, Copy)]
struct Head {
    id: QueueId,
    octets: u64,
    is_shared: bool,
}

impl Mail {
    /// Keeps a chunk of a body.
    pub(crate) async fn put_chunk(
        &self,
        id: QueueId,
        number: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        let too_many = |_| StoreError::Invalid("a message has too many chunks".into());
        let number = i32::try_from(number).map_err(too_many)?;
        let row = (column(id.0), number, data, written_us(id));
        if row.2.len() <= PIECE_BYTES_MAX {
            return self.pieces.put(row).await;
        }
        self.write(&self.statements.put_body, row).await
    }

    /// Brings a message into its mailboxes.
    pub(crate) async fn deliver(self: &Arc<Self>, delivery: Delivery) -> Result<(), StoreError> {
        let Delivery { id, octets, first, recipients } = delivery;
        let recipients = distinct(recipients)?;
        let head = Head { id, octets, is_shared: recipients.len() > 1 };
        match recipients.as_slice() {
            [] => Ok(()),
            [one] => {
                self.put_chunk(id, 0, first).await?;
                self.prepare_for(one).await?;
                self.show(head, one).await
            }
            _ => {
                self.put_chunk(id, 0, first).await?;
                let at = written_us(id);
                let holder = |to: &Recipient| (column(id.0), column(to.mailbox.0), at);
                let holders = recipients.iter().map(holder).collect();
                self.write_rows(&self.statements.put_holder, holders).await?;
                let all = |recipients: Vec<Recipient>| {
                    recipients.into_iter().map(|to| (Arc::clone(self), to))
                };
                let preparing = all(recipients.clone());
                each(preparing.map(|(mail, to)| async move { mail.prepare_for(&to).await }))
                    .await?;
                let showing = all(recipients);
                each(showing.map(|(mail, to)| async move { mail.show(head, &to).await })).await
            }
        }
    }

    /// Writes the window that opens a message, where it is not known to be there.
    async fn prepare_for(&self, to: &Recipient) -> Result<(), StoreError> {
        let Some(key) = &to.key else { return Ok(()) };
        let window = Known::Window(to.mailbox, key.window.id().0);
        if self.knows(window) {
            return Ok(());
        }
        // The statement says that it is as old as can be: what is rewrapped stays so.
        let (name, record) = (window_name(&key.window), key.window.encode());
        let values = (column(to.mailbox.0), name.as_slice(), record);
        self.write(&self.statements.put_window, values).await?;
        self.learn(window);
        Ok(())
    }

    /// Writes the row that readers look for, and what leads them there.
    async fn show(&self, head: Head, to: &Recipient) -> Result<(), StoreError> {
        let (id, week) = (head.id, week_of(head.id));
        let (mailbox, at) = (column(to.mailbox.0), written_us(id));
        let is_late = is_late(id, self.now_ms());
        let known = Known::Week(to.mailbox, week);
        // A week that is over may have been taken out of the mailbox since. As long as a message is
        // not late, no mark is behind its week.
        if is_late || !self.knows(known) {
            self.write(&self.statements.put_week, (mailbox, week)).await?;
            self.learn(known);
        }
        if is_late {
            self.write(&self.statements.put_late, (mailbox, column(id.0), at)).await?;
        }
        // Null would leave a tombstone.
        let shared = if head.is_shared { MaybeUnset::Set(true) } else { MaybeUnset::Unset };
        let wrap = to.key.as_ref().map(|key| key.wrap.row());
        let wrap = wrap.map_or(MaybeUnset::Unset, MaybeUnset::Set);
        self.rows.put((mailbox, week, column(id.0), column(head.octets), shared, wrap, at)).await
    }

    /// Keeps windows in another form.
    pub(crate) async fn rewrap(&self, windows: &[WindowRecord]) -> Result<(), StoreError> {
        for window in windows {
            let name = window_name(window);
            let values = (column(window.mailbox().0), name.as_slice(), window.encode());
            self.write(&self.statements.rewrap, values).await?;
        }
        Ok(())
    }
}

/// The name of a window as a row holds it.
fn window_name(window: &WindowRecord) -> [u8; 8] {
    window.id().0.to_le_bytes()
}

/// Each mailbox once: the first of its recipients.
fn distinct(mut recipients: Vec<Recipient>) -> Result<Vec<Recipient>, StoreError> {
    recipients.sort_by_key(|to| to.mailbox);
    recipients.dedup_by_key(|to| to.mailbox);
    if recipients.len() > RECIPIENTS_COUNT_MAX {
        return Err(StoreError::Invalid("a message has too many recipients".into()));
    }
    for to in &recipients {
        if to.mailbox.is_nobodys() {
            return Err(StoreError::Invalid("Cassandra keeps no mail that is to travel on".into()));
        }
        let fits = |of: MailboxId| of == to.mailbox;
        if !to.key.as_ref().is_none_or(|key| fits(key.wrap.mailbox) && fits(key.window.mailbox())) {
            return Err(StoreError::Invalid("a message has another mailbox's key".into()));
        }
    }
    Ok(recipients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_gets_a_message_once() {
        let to = |mailbox| Recipient { mailbox: MailboxId(mailbox), key: None };
        let given = [3, 1, 3, 2, 1].map(to).to_vec();
        assert_eq!(distinct(given).ok(), Some([1, 2, 3].map(to).to_vec()));
        let many = |count: usize| (0..count as u64).map(to).collect();
        assert!(distinct(many(RECIPIENTS_COUNT_MAX)).is_ok());
        assert!(distinct(many(RECIPIENTS_COUNT_MAX + 1)).is_err());
        assert!(distinct(vec![to(1), to(MailboxId::QUEUE.0)]).is_err());
    }
}
