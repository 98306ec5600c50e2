//! The memory back end of the mailboxes, with the faults of a plan: it may be busy at any question,
//! a crash keeps any first stretch of what it had not persisted, and it has the planted bugs of a
//! bad index.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::sim::Random;
use fsmtp_store::directory::{Change, Directory};
use fsmtp_store::mailbox::{
    Found, Mailboxes, Maildrop, Memory, Message, Outgoing, Queued, Registry, Relief, Settlement,
    Uplink, Usage,
};
use fsmtp_store::seal::{UserKeys, WindowRecord};
use fsmtp_store::spool::{BodyRef, Committed, Liveness, Sink};
use fsmtp_store::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

use crate::plan::Plan;

/// The index; clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    memory: Memory,
    plan: Rc<Plan>,
    random: Rc<RefCell<Random>>,
    /// No more faults from now on.
    calm: Rc<Cell<bool>>,
    /// How far each shard's log was heard, persisted or not: for a planted bug.
    heard: Rc<RefCell<BTreeMap<ShardId, Lsn>>>,
}

impl Index {
    /// An empty index.
    pub(crate) fn new(plan: &Rc<Plan>, seed: u64) -> Self {
        Self {
            memory: Memory::new(plan.layout.segment_bytes, plan.persist_count),
            plan: Rc::clone(plan),
            random: Rc::new(RefCell::new(Random::new(seed ^ 0x696e_6465_7800))),
            calm: Rc::default(),
            heard: Rc::default(),
        }
    }

    /// What a crash leaves; handles of the life before are dead.
    pub(crate) fn crash(&self) -> Self {
        let pending = self.memory.pending_count();
        let kept = self.random.borrow_mut().index(pending + 1);
        Self { memory: self.memory.crash(kept), ..self.clone() }
    }

    /// Ends its faults.
    pub(crate) fn calm(&self) {
        self.calm.set(true);
    }

    /// The mark from which a shard's log is to be replayed.
    pub(crate) async fn mark(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        if self.plan.mark_only {
            return Ok(self.heard.borrow().get(&shard).copied().unwrap_or_default());
        }
        self.memory.applied(shard).await
    }

    fn chance(&self, per_million: u32) -> bool {
        self.random.borrow_mut().chance(per_million)
    }

    fn busy(&self) -> bool {
        !self.calm.get() && self.chance(self.plan.index_busy)
    }

    fn free(&self) -> Result<(), StoreError> {
        if self.busy() { Err(StoreError::Busy) } else { Ok(()) }
    }
}

impl Sink for Index {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        if self.busy() {
            return Err(message);
        }
        self.heard.borrow_mut().insert(message.shard, message.end);
        if self.chance(self.plan.index_drops) {
            return Ok(());
        }
        if self.chance(self.plan.index_doubles) {
            // Under a mark of its own, so that the index does not know it for the same.
            let twin = Committed { end: Lsn(message.end.0 - 1), ..message.clone() };
            self.memory.committed(twin)?;
        }
        self.memory.committed(message)
    }
}

impl Liveness for Index {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        self.free()?;
        self.memory.live_bytes(shard).await
    }

    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        self.free()?;
        self.memory.live(shard, records).await
    }

    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        self.free()?;
        self.memory.moved(shard, records).await
    }

    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        self.free()?;
        self.memory.applied(shard).await
    }
}

impl Registry for Index {
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError> {
        self.memory.change(change).await
    }

    fn directory(&self) -> Arc<Directory> {
        self.memory.directory()
    }
}

impl Outgoing for Index {
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.free()?;
        self.memory.queued(shard, after, count_max).await
    }

    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError> {
        self.free()?;
        self.memory.find_queued(id).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        self.free()?;
        if self.chance(self.plan.index_forgets) {
            return Ok(());
        }
        self.memory.settle(settlements).await
    }
}

impl Uplink for Index {}

impl Relief for Index {}

impl Mailboxes for Index {
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError> {
        self.free()?;
        self.memory.open(mailbox).await
    }

    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError> {
        self.free()?;
        self.memory.close(maildrop, deletions).await
    }

    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError> {
        self.free()?;
        self.memory.locate(id).await
    }

    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        self.free()?;
        self.memory.find(mailbox, message).await
    }

    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        self.free()?;
        self.memory.user_keys(mailbox).await
    }

    async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        self.free()?;
        self.memory.rewrap(mailbox, windows).await
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        self.free()?;
        self.memory.usage(mailbox).await
    }

    async fn persist(&self) -> Result<(), StoreError> {
        self.free()?;
        self.memory.persist().await
    }
}
