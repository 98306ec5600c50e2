//! What the sender is told when a message lies in mailboxes here, if he has asked for it
//! (NOTIFY=SUCCESS, RFC 3461 §4.1).
//!
//! Made when a message begins, from its envelope; then the desk hands it the front of the message,
//! for its header goes back. The report is stored before the client hears that its message is: one
//! that hears nothing sends the message again, and who has asked is told at least once.
//!
//! Limits: [`HEADER_BYTES_MAX`] of the front, and the recipients of one envelope. Failure: the log
//! says that there is no report; the message is stored all the same.

use std::collections::BTreeSet;
use std::rc::Rc;

use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::{Envelope, MailboxId, QueueId};

use crate::relay;
use crate::report::{HEADER_BYTES_MAX, Kind, due};
use crate::shard::Shard;

/// Who shares the reports that strangers ask for; no account has such a name.
const STRANGERS: &str = "";

/// A report in the making.
#[derive(Debug)]
pub(super) struct Receipt {
    /// That of the message, with those recipients only that it is about, each address once.
    envelope: Envelope,
    front: Vec<u8>,
}

impl Receipt {
    /// One for a message with this envelope, if anybody is to be told of anything.
    pub(super) fn wanted(of: &Envelope) -> Option<Box<Self>> {
        let sender = core::str::from_utf8(&of.reverse_path).ok()?;
        let sender = Path::Mailbox(Mailbox::parse(sender).ok()?);
        let mut addresses = BTreeSet::new();
        let about = of.recipients.iter().filter(|to| {
            to.mailbox != MailboxId::QUEUE
                && due(&sender, to.notify, Kind::Delivered)
                // RFC 3461 §5.2.7: an alias with several mailboxes is one recipient.
                && addresses.insert(&to.address)
        });
        let recipients: Vec<_> = about.cloned().collect();
        if recipients.is_empty() {
            return None;
        }
        let envelope = Envelope {
            reverse_path: of.reverse_path.clone(),
            envid: of.envid.clone(),
            recipients,
            ..*of
        };
        Some(Box::new(Self { envelope, front: Vec::new() }))
    }

    /// Whether it may go to the sender whom a stranger names: somebody here, or as many elsewhere
    /// as one account may write to. Strangers could have this node tell anybody what they like.
    pub(super) fn may_go<R: Runtime, M: Mailboxes>(&self, shard: &Shard<R, M>) -> bool {
        let sender = core::str::from_utf8(&self.envelope.reverse_path).unwrap_or_default();
        let domain = sender.rsplit_once('@').map_or("", |(_, domain)| domain);
        shard.directory.borrow().serves(domain)
            || shard.gate.rates.take(STRANGERS, shard.rt.unix()).is_ok()
    }

    /// Takes the next bytes of the message.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = HEADER_BYTES_MAX.saturating_sub(self.front.len());
        self.front.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// What is left of it when filters have changed who gets the message.
    pub(super) fn about(mut self: Box<Self>, of: &Envelope) -> Option<Box<Self>> {
        let is_there = |address: &[u8]| of.recipients.iter().any(|to| to.address == address);
        self.envelope.recipients.retain(|to| is_there(&to.address));
        (!self.envelope.recipients.is_empty()).then_some(self)
    }

    /// Stores the report about the message `id`.
    pub(super) async fn send<R: Runtime, M: Mailboxes>(
        &self,
        shard: &Rc<Shard<R, M>>,
        id: QueueId,
    ) {
        relay::delivered(shard, (id, &self.envelope), &self.front).await;
    }
}

#[cfg(test)]
mod tests {
    use fsmtp_store::envelope::{EnvelopeRecipient, Notify};

    use super::*;

    fn to(mailbox: MailboxId, address: &str, success: bool) -> EnvelopeRecipient {
        EnvelopeRecipient {
            mailbox,
            address: address.into(),
            notify: Notify { success, ..Notify::default() },
            orcpt: None,
        }
    }

    #[test]
    fn only_who_is_here_and_was_asked_about_is_in_it_and_once() {
        let recipients = vec![
            to(MailboxId(1), "all@a.test", true),
            to(MailboxId(2), "all@a.test", true),
            to(MailboxId(3), "silent@a.test", false),
            to(MailboxId::QUEUE, "far@b.test", true),
        ];
        let reverse_path = b"me@c.test".to_vec();
        let envelope = Envelope { reverse_path, recipients, ..Envelope::default() };
        let receipt = Receipt::wanted(&envelope).unwrap();
        assert_eq!(receipt.envelope.recipients, envelope.recipients[..1]);
        let nobody = Envelope { recipients: envelope.recipients[2..].to_vec(), ..envelope.clone() };
        assert!(Receipt::wanted(&nobody).is_none());
        let null = Envelope { reverse_path: Vec::new(), ..envelope };
        assert!(Receipt::wanted(&null).is_none(), "nothing is answered to a null reverse path");
    }

    #[test]
    fn the_front_is_bounded() {
        let recipients = vec![to(MailboxId(1), "a@a.test", true)];
        let reverse_path = b"me@c.test".to_vec();
        let envelope = Envelope { reverse_path, recipients, ..Envelope::default() };
        let mut receipt = Receipt::wanted(&envelope).unwrap();
        for _ in 0..5 {
            receipt.push(&[b'x'; HEADER_BYTES_MAX / 4 + 1]);
        }
        assert_eq!(receipt.front.len(), HEADER_BYTES_MAX);
    }
}
