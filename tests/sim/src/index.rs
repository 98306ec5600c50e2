//! Mailboxes in memory, of which only what was persisted survives a crash.
//!
//! One index for all shards of a node. It persists by chance after a message, and at once where the
//! contract says "durable". It can be busy, and it has the planted bugs of a bad index.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_rt::sim::Random;
use fsmtp_store::spool::{BodyRef, Committed, Liveness, Sink};
use fsmtp_store::{Lsn, QueueId, ShardId, StoreError};

use crate::plan::Plan;

/// A message in the index.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    /// Where it is.
    pub(crate) body: BodyRef,
    /// Who has it; empty when all have deleted it.
    boxes: Vec<u32>,
    /// Who had it and has deleted it.
    deleted: Vec<u32>,
    record_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    mail: Vec<Mail>,
    applied: Vec<Lsn>,
}

/// The index; clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    plan: Rc<Plan>,
    now: Rc<RefCell<Tables>>,
    kept: Rc<RefCell<Tables>>,
    random: Rc<RefCell<Random>>,
    /// No more faults from now on.
    calm: Rc<Cell<bool>>,
}

impl Index {
    /// An empty index.
    pub(crate) fn new(plan: &Rc<Plan>, seed: u64) -> Self {
        let tables = Tables { mail: Vec::new(), applied: vec![Lsn(0); plan.shards] };
        Self {
            plan: Rc::clone(plan),
            now: Rc::new(RefCell::new(tables.clone())),
            kept: Rc::new(RefCell::new(tables)),
            random: Rc::new(RefCell::new(Random::new(seed ^ 0x696e_6465_7800))),
            calm: Rc::default(),
        }
    }

    /// What a crash leaves.
    pub(crate) fn crash(&self) {
        self.now.borrow_mut().clone_from(&self.kept.borrow());
    }

    /// Ends its faults.
    pub(crate) fn calm(&self) {
        self.calm.set(true);
    }

    /// The mark at which a shard's log is to be replayed.
    pub(crate) fn mark(&self, shard: usize) -> Lsn {
        if self.plan.replay_all { Lsn(0) } else { self.kept.borrow().applied[shard] }
    }

    /// All mail.
    pub(crate) fn mail(&self) -> Vec<Mail> {
        self.now.borrow().mail.clone()
    }

    /// Where a message is now.
    pub(crate) fn locate(&self, id: QueueId) -> Option<BodyRef> {
        let now = self.now.borrow();
        now.mail.iter().find(|mail| mail.body.id == id).map(|mail| mail.body.clone())
    }

    /// Who has a message, and who has deleted it.
    pub(crate) fn owners(&self, id: QueueId) -> (Vec<u32>, Vec<u32>) {
        let now = self.now.borrow();
        let mail = now.mail.iter().find(|mail| mail.body.id == id);
        mail.map_or_else(Default::default, |mail| (mail.boxes.clone(), mail.deleted.clone()))
    }

    /// Somebody deletes some message; durable at once.
    pub(crate) fn delete_any(&self, random: &mut Random) {
        let mut now = self.now.borrow_mut();
        let count = now.mail.len();
        if count > 0 {
            let mail = &mut now.mail[random.index(count)];
            if let Some(mailbox) = mail.boxes.pop() {
                mail.deleted.push(mailbox);
            }
        }
        drop(now);
        self.persist();
    }

    fn persist(&self) {
        self.kept.borrow_mut().clone_from(&self.now.borrow());
    }

    fn chance(&self, per_million: u32) -> bool {
        self.random.borrow_mut().chance(per_million)
    }
}

impl Sink for Index {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        if !self.calm.get() && self.chance(self.plan.index_busy) {
            return Err(message);
        }
        let shard = usize::from(message.shard.0);
        let mut now = self.now.borrow_mut();
        let known = message.end <= now.applied[shard];
        if !self.plan.replay_all && known {
            return Ok(());
        }
        now.applied[shard] = now.applied[shard].max(message.end);
        if !self.chance(self.plan.index_drops) {
            let boxes = message.envelope.recipients.iter().map(|r| r.mailbox.0 as u32).collect();
            let Committed { id, shard, lsn, end, chunks, .. } = message;
            let body = BodyRef { id, shard, lsn, chunks };
            let record_bytes = end.0 - lsn.0;
            now.mail.push(Mail { body, boxes, deleted: Vec::new(), record_bytes });
        }
        drop(now);
        if self.plan.mark_only {
            self.kept.borrow_mut().applied.clone_from(&self.now.borrow().applied);
        }
        if self.chance(self.plan.persists) {
            self.persist();
        }
        Ok(())
    }
}

impl Liveness for Index {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        let mut live = BTreeMap::new();
        let segment = |lsn: Lsn| lsn.0 / self.plan.layout.segment_bytes;
        let now = self.now.borrow();
        for mail in now.mail.iter().filter(|m| m.body.shard == shard && !m.boxes.is_empty()) {
            *live.entry(segment(mail.body.lsn)).or_default() += mail.record_bytes;
            for chunk in &mail.body.chunks {
                *live.entry(segment(*chunk)).or_default() += self.plan.layout.chunk_bytes as u64;
            }
        }
        Ok(live)
    }

    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        let now = self.now.borrow();
        let live = |(id, lsn): &(QueueId, Lsn)| {
            now.mail.iter().any(|Mail { body, boxes, .. }| {
                body.id == *id
                    && body.shard == shard
                    && !boxes.is_empty()
                    && (body.lsn == *lsn || body.chunks.contains(lsn))
            })
        };
        Ok(records.iter().map(live).collect())
    }

    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        let mut now = self.now.borrow_mut();
        for (id, from, to) in records {
            for Mail { body, .. } in &mut now.mail {
                if body.id == *id && body.shard == shard {
                    for place in core::iter::once(&mut body.lsn).chain(&mut body.chunks) {
                        if place == from {
                            *place = *to;
                        }
                    }
                }
            }
        }
        drop(now);
        self.persist();
        Ok(())
    }

    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        Ok(self.kept.borrow().applied[usize::from(shard.0)])
    }
}
