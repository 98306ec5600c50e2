//! Copies of what users send.
//!
//! A copy is one recipient more, whose mailbox is that of the account for what it has sent: the
//! body is stored once for all. Called by the desk when a user's message begins, since from then on
//! it is sealed to everybody who gets it.

use fsmtp_rt::Runtime;
use fsmtp_store::MailboxId;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::seal::SealError;

use super::Desk;
use crate::seals;

impl<R: Runtime, M: Mailboxes> Desk<'_, R, M> {
    /// Has the user's account keep a copy, if accounts do.
    ///
    /// # Errors
    /// [`SealError`] when its keys are damaged.
    pub(super) async fn keep_sent(&mut self, user: &str) -> Result<(), SealError> {
        let Some(transaction) = self.transaction.as_deref_mut() else { return Ok(()) };
        if !self.shard.submission.keep_sent || transaction.envelope.recipients.is_empty() {
            return Ok(());
        }
        let account = self.shard.directory.borrow().account(user).map(|account| account.mailbox);
        let sent = account.map(MailboxId::sent);
        for (mailbox, held) in seals::held(self.shard, sent.as_slice()).await? {
            transaction.keep(user, mailbox, held);
        }
        Ok(())
    }
}
