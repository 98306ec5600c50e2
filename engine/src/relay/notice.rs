//! What a sender is told about recipients elsewhere.

use std::rc::Rc;

use fsmtp_rt::Runtime;
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::{Envelope, QueueId};

use crate::shard::Shard;

/// How it went with one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fate {
    /// Its place in the envelope.
    pub(super) place: u16,
    pub(super) kind: Kind,
    /// The host that said it.
    pub(super) peer: String,
    pub(super) code: u16,
    pub(super) words: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Delivered,
    Failed,
    Expired,
    Delayed,
}

impl Fate {
    pub(super) fn new(place: u16, kind: Kind, peer: &str, code: u16, words: &str) -> Self {
        Self { place, kind, peer: peer.to_owned(), code, words: words.to_owned() }
    }

    pub(super) const fn is_failure(&self) -> bool {
        matches!(self.kind, Kind::Failed | Kind::Expired)
    }
}

/// Tells the sender of a message what he wants to know.
pub(super) async fn tell<R: Runtime, M: Mailboxes>(
    _shard: &Rc<Shard<R, M>>,
    _id: QueueId,
    _envelope: &Envelope,
    _fates: &[Fate],
) {
}
