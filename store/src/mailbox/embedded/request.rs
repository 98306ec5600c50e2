//! What is asked of the thread of the index, and how it answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_channel::oneshot;

use super::super::types::{Found, Maildrop, Message, Queued, Settlement, Usage};
use super::queue::Line;
use crate::directory::{Change, Directory};
use crate::seal::{UserKeys, WindowRecord};
use crate::spool::BodyRef;
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

/// Where an answer goes. Nobody may be waiting any more; then it is dropped.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A question.
pub(super) enum Request {
    Read(Read),
    Write(Write),
}

/// Answered from what is there, pending deliveries included.
pub(super) enum Read {
    Open {
        mailbox: MailboxId,
        reply: Reply<Maildrop>,
    },
    Usage {
        mailbox: MailboxId,
        reply: Reply<Usage>,
    },
    Locate {
        id: QueueId,
        reply: Reply<BodyRef>,
    },
    Find {
        mailbox: MailboxId,
        message: Message,
        reply: Reply<Found>,
    },
    Keys {
        mailbox: MailboxId,
        reply: Reply<UserKeys>,
    },
    Queued {
        line: Line,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
        reply: Reply<Vec<Queued>>,
    },
    FindQueued {
        id: QueueId,
        reply: Reply<Found>,
    },
    LiveBytes {
        shard: ShardId,
        reply: Reply<BTreeMap<u64, u64>>,
    },
    Live {
        shard: ShardId,
        records: Vec<(QueueId, Lsn)>,
        reply: Reply<Vec<bool>>,
    },
}

/// Answered once the transaction that it is part of has committed.
pub(super) enum Write {
    Close { maildrop: Maildrop, deletions: Vec<Uid>, reply: Reply<()> },
    Moved { shard: ShardId, records: Vec<(QueueId, Lsn, Lsn)>, reply: Reply<()> },
    Change { change: Change, reply: Reply<Arc<Directory>> },
    Rewrap { windows: Vec<WindowRecord>, reply: Reply<()> },
    Settle { settlements: Vec<Settlement>, reply: Reply<()> },
    Persist { reply: Reply<()> },
}

/// An answer that waits for the commit.
pub(super) enum Done {
    Unit(Reply<()>),
    Changed(Reply<Arc<Directory>>, Arc<Directory>),
}

impl Done {
    pub(super) fn tell(self, outcome: Result<(), StoreError>) {
        // Nobody may be waiting any more.
        let _ = match self {
            Self::Unit(reply) => reply.send(outcome).is_ok(),
            Self::Changed(reply, directory) => reply.send(outcome.map(|()| directory)).is_ok(),
        };
    }
}

impl Request {
    /// Answers that the index has failed.
    pub(super) fn refuse(self, error: StoreError) {
        let _ = match self {
            Self::Read(Read::Open { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::Usage { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::Locate { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::Find { reply, .. } | Read::FindQueued { reply, .. }) => {
                reply.send(Err(error)).is_ok()
            }
            Self::Read(Read::Queued { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::Keys { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::LiveBytes { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Read(Read::Live { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Write(Write::Change { reply, .. }) => reply.send(Err(error)).is_ok(),
            Self::Write(
                Write::Close { reply, .. }
                | Write::Moved { reply, .. }
                | Write::Rewrap { reply, .. }
                | Write::Settle { reply, .. }
                | Write::Persist { reply },
            ) => reply.send(Err(error)).is_ok(),
        };
    }
}
