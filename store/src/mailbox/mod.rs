//! Local mailboxes: which messages lie in which mailbox, and where their bodies are.
//!
//! The spool of each shard is the [`Sink`]'s caller: it tells of messages in log order. POP3
//! sessions [`open`](Mailboxes::open) a mailbox, [`locate`](Mailboxes::locate) bodies, which they
//! read from the spool's segments, and [`close`](Mailboxes::close) with deletions. Compaction asks
//! through [`Liveness`] which records are still needed. The commands change the directory of
//! accounts through [`Registry`]. [`wait()`] makes each of these calls a blocking one, for threads
//! that are not shards.
//!
//! Two back ends: [`Embedded`] on disk, with a thread of its own, and [`Memory`] for simulation and
//! tests. `conformance` holds what every back end must do.
//!
//! # Sealed mail
//!
//! With each message of a sealed mailbox the index keeps its key, wrapped by a window, and each
//! window once, with the count of the messages that need it: the last one takes the window along.
//! Both are of use to the mailbox's owner only; see [`seal`](crate::seal).
//!
//! # Mail that is to travel on
//!
//! Lies in the same tables as a message of [`MailboxId::QUEUE`], with what the queue knows of it
//! ([`Outgoing`]).
//!
//! # Credentials that were taken away
//!
//! Open nothing that is left in any file: what opens an account lies under a key of its own, which
//! is wiped when the account changes or goes, before that is answered. See
//! `docs/decisions/0009-erasable-wraps.md`.
//!
//! # What is durable when
//!
//! The spool is the log of the index as well. Deliveries are gathered in memory and merged into the
//! tables now and then, together with the mark up to which each shard's log is contained, in one
//! atomic and durable transaction. After a crash the spool replays what lies behind the mark: the
//! result is the same state, nothing twice, nothing lost. Deletions, moves and changes of the
//! directory are part of such a transaction before they are answered, so a message that was deleted
//! never comes back: the mark that is stored with its deletion is behind its delivery.
//!
//! Uids that were shown by `open` for messages that are not merged yet may be given to others after
//! a crash. POP3 does not show them (its unique-id is the queue id); whoever does must
//! [`persist`](Mailboxes::persist) first.

mod embedded;
mod lock;
mod memory;
mod pending;
mod relief;
mod row;
#[cfg(test)]
mod tests;
mod types;
mod wait;

pub use embedded::{Counters, Embedded, Keeper, Options};
pub use memory::Memory;
pub use relief::Relief;
pub use types::{
    Delivery, Found, Maildrop, Message, Queued, STATE_BYTES_MAX, Settlement, Transit, Usage,
    Verdict,
};
pub use wait::wait;

pub use crate::directory::Registry;
pub use crate::spool::{BodyRef, Committed, Liveness, Sink};

use crate::seal::{UserKeys, WindowRecord};
use crate::{MailboxId, QueueId, ShardId, StoreError, Uid};

/// Mail that is to travel on: what the queue of a shard needs to live through a restart.
///
/// A message gets here by a recipient whose mailbox is [`MailboxId::QUEUE`], once however many of
/// them it has, and stays until it is settled: its body is kept like that of any mailbox's message.
#[allow(async_fn_in_trait)] // WHY: as in fsmtp-rt, shards share nothing
pub trait Outgoing {
    /// Messages that `shard` has named, behind `after`, by rising name, at most `count_max`: those
    /// that the sink was given before the last [`persist`](Mailboxes::persist), perhaps more.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage. A row that is damaged is passed over.
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError>;

    /// Where a queued message lies, and what opens it for [`MailboxKey::of_queue`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not in the queue; errors of the storage.
    ///
    /// [`MailboxKey::of_queue`]: crate::seal::MailboxKey::of_queue
    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError>;

    /// Keeps what became of messages, all or none, durably. Those that are not there are passed
    /// over.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a state that is too long; [`StoreError::Busy`] or those of the
    /// storage. Nothing was changed then.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError>;
}

/// The way of local mail into a cluster, for back ends that have one; without a cluster nothing
/// waits and nothing is taken.
///
/// The spool takes the mail, whatever the cluster does; what is there is taken out of the spool by
/// [`Settlement::Uploaded`]. Everything may be done again.
#[allow(async_fn_in_trait)] // WHY: as in fsmtp-rt, shards share nothing
pub trait Uplink {
    /// Whether mailboxes lie in a cluster: their mail is then given to the sink as mail for
    /// [`MailboxId::UPLOAD`].
    fn is_clustered(&self) -> bool {
        false
    }

    /// Messages of a shard that wait to be uploaded, behind `after`, by rising name, at most
    /// `count_max`: those that the sink was given before the last
    /// [`persist`](Mailboxes::persist), perhaps more.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage. A row that is damaged is passed over.
    async fn awaiting(
        &self,
        _shard: ShardId,
        _after: Option<QueueId>,
        _count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        Ok(Vec::new())
    }

    /// Puts a [piece](crate::spool::Raw) of a message into the cluster; not its first one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the cluster; it may be there nevertheless.
    async fn put_piece(&self, id: QueueId, _number: u32, _data: Vec<u8>) -> Result<(), StoreError> {
        Err(StoreError::Invalid(format!("no cluster takes message {id}")))
    }

    /// Puts a message into mailboxes of the cluster, after its further pieces.
    ///
    /// # Errors
    /// As [`Self::put_piece`].
    async fn deliver(&self, delivery: Delivery) -> Result<(), StoreError> {
        Err(StoreError::Invalid(format!("no cluster takes message {}", delivery.id)))
    }
}

/// Refuses states that are too long, for every back end.
fn check_states(settlements: &[Settlement]) -> Result<(), StoreError> {
    let too_long = |settlement: &Settlement| match settlement {
        Settlement::Deferred(_, state) => state.len() > STATE_BYTES_MAX,
        Settlement::Done(_) | Settlement::Uploaded(_) => false,
    };
    if settlements.iter().any(too_long) {
        return Err(StoreError::Invalid("the state of a queued message is too long".into()));
    }
    Ok(())
}

/// A mailbox back end; clones are handles to the same one.
#[allow(async_fn_in_trait)] // WHY: as in fsmtp-rt, shards share nothing
pub trait Mailboxes:
    Sink + Liveness + Registry + Outgoing + Uplink + Relief + Clone + 'static
{
    /// Opens a mailbox for one session: all messages that the sink was given before the call, in
    /// the order of their uids. The lock is free again when the maildrop is dropped or closed.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another session has it (RFC 1939 §4); [`StoreError::NotFound`]
    /// when its account was removed; [`StoreError::Busy`]; errors of the storage.
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError>;

    /// Ends the session, removes those messages, all or none, durably (RFC 1939 §6).
    ///
    /// Uids that are not in the maildrop, and messages that are gone already, are passed over.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage; nothing was removed then.
    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError>;

    /// Where a message of `mailbox` lies now, and what opens it for the mailbox's owner.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the mailbox has it no more; errors of the storage.
    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError>;

    /// A piece of a message that lies [apart](crate::spool::Place::Apart) from the spool, which a
    /// reader [wants](crate::spool::Reader::wants).
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is missing; [`StoreError::NotFound`] from back ends whose
    /// messages all lie in the spool; errors of the storage.
    async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::NotFound(format!("piece {number} of message {id}")))
    }

    /// The key pair of a mailbox, its private half sealed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it has none; errors of the storage.
    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError>;

    /// Keeps windows of `mailbox` in the form that its own key opens. Those that no message needs
    /// any more are passed over, and those of other mailboxes: a session writes for its own only.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage; then the next visit opens them by RSA again.
    async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError>;

    /// Where the body of a message lies now. After [`StoreError::Moved`] from a reader: ask again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when no mailbox has it; errors of the storage.
    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError>;

    /// How much is in a mailbox; takes no lock.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage.
    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError>;

    /// Makes durable what the sink was given before the call.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage.
    async fn persist(&self) -> Result<(), StoreError>;
}
