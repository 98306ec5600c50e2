//! What a session sees of a mailbox.

use core::any::Any;
use core::fmt;

use crate::spool::{Place, Recipient, RecipientKey};
use crate::{MailboxId, QueueId, Uid};

/// A message in a mailbox; 24 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its name, unique and stable: POP3's unique-id (RFC 1939 §7, UIDL).
    pub id: QueueId,
    /// Its length in bytes, as it was stored.
    pub octets: u64,
    /// Its number in the mailbox.
    pub uid: Uid,
}

/// A mailbox that one session has for itself: the messages that were in it when it was opened, by
/// rising uid. Memory: 24 bytes for each.
///
/// Dropping it frees the lock and removes nothing.
pub struct Maildrop {
    mailbox: MailboxId,
    messages: Vec<Message>,
    hold: Box<dyn Any + Send>,
}

impl fmt::Debug for Maildrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Maildrop({:?}, {} messages)", self.mailbox, self.messages.len())
    }
}

impl Maildrop {
    /// One that a back end gives out; dropping `hold` frees the lock.
    #[must_use]
    pub fn new(mailbox: MailboxId, messages: Vec<Message>, hold: impl Any + Send) -> Self {
        Self { mailbox, messages, hold: Box::new(hold) }
    }

    /// Takes it apart: what it was made of.
    #[must_use]
    pub fn into_hold<T: Any>(self) -> Option<Box<T>> {
        self.hold.downcast().ok()
    }

    /// Whose it is.
    #[must_use]
    pub const fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    /// The messages, by rising uid.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The messages that are meant by `uids`, by rising uid, each once.
    #[must_use]
    pub fn pick(&self, mut uids: Vec<Uid>) -> Vec<Message> {
        uids.sort_unstable();
        uids.dedup();
        let found = |uid: Uid| self.messages.binary_search_by_key(&uid, |message| message.uid);
        uids.into_iter().filter_map(|uid| self.messages.get(found(uid).ok()?).copied()).collect()
    }
}

/// Where a message of a mailbox is, and what opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where its body lies now.
    pub body: Place,
    /// What opens it for the owner of the mailbox; none when it lies in clear.
    pub key: Option<RecipientKey>,
}

/// A message that is to travel on, as a start finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queued {
    /// Its name.
    pub id: QueueId,
    /// Its length in bytes, as it was stored.
    pub octets: u64,
    /// What [`Settlement::Deferred`] has kept last; empty when nobody has tried to send it.
    pub state: Box<[u8]>,
}

/// What has become of a message that was to travel on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settlement {
    /// It is still to be sent to somebody; this is to be kept with it, at most
    /// [`STATE_BYTES_MAX`] bytes.
    Deferred(QueueId, Box<[u8]>),
    /// Nobody waits for it any more: it is taken out.
    Done(QueueId),
    /// It lies in the cluster, and is not needed here for that any more.
    Uploaded(QueueId),
}

/// The longest state of a queued message: more than what an envelope of the largest size needs.
pub const STATE_BYTES_MAX: usize = 1024 * 1024;

/// A message on its way into a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its name.
    pub id: QueueId,
    /// Its length in bytes, as it was stored.
    pub octets: u64,
    /// Its first [piece](crate::spool::Raw).
    pub first: Vec<u8>,
    /// Who gets it, with what opens it.
    pub recipients: Vec<Recipient>,
}

/// A message that is to travel on, as other nodes of a cluster need it to send it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transit {
    /// Its name.
    pub id: QueueId,
    /// Its length in bytes, as it was stored.
    pub octets: u64,
    /// Its envelope, as it was stored.
    pub envelope: Vec<u8>,
    /// Its first [piece](crate::spool::Raw).
    pub first: Vec<u8>,
    /// What opens it for [`MailboxKey::of_queue`](crate::seal::MailboxKey::of_queue); none when it
    /// lies in clear.
    pub key: Option<RecipientKey>,
}

/// What has become of a message of this node while another one stood in for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was sent, or given up: it is to be taken out.
    Gone,
    /// It is still to be sent to somebody: what is known of it now, in place of what was.
    Stands(Queued),
}

/// How much is in a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Messages.
    pub messages_count: u64,
    /// Their lengths in sum, in bytes.
    pub octets: u64,
}
