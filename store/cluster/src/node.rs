//! The mailboxes of a node: its own, or those of its cluster.
//!
//! What the engine holds, alone or not. Alone everything is the embedded index's. In a cluster the
//! index keeps what is the node's own: where mail lies in its spool until the cluster has it, mail
//! that is to travel on, and a copy of the directory. Mailboxes and bodies are asked for over the
//! [`Bridge`]. Failure: that of the part that was asked; what the cluster does not answer in time
//! is [`StoreError::Busy`] or an error of the way there, and can be asked again.

use std::collections::BTreeMap;
use std::sync::Arc;

use fsmtp_store::directory::{Change, Directory};
use fsmtp_store::mailbox::{
    Delivery, Embedded, Found, Liveness, Mailboxes, Maildrop, Message, Outgoing, Queued, Registry,
    Relief, Settlement, Transit, Uplink, Usage, Verdict,
};
use fsmtp_store::seal::{UserKeys, WindowRecord};
use fsmtp_store::spool::{BodyRef, Committed, Place, Sink};
use fsmtp_store::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

use crate::bridge::{Bridge, Complaint, Post, Visit};
use crate::redis::Counts;
use crate::relief;

/// A handle to the mailboxes; cheap to clone, good on every thread.
#[derive(Clone, Debug)]
pub struct NodeMailboxes {
    local: Embedded,
    bridge: Option<Bridge>,
}

impl NodeMailboxes {
    /// Those of a node that is alone.
    #[must_use]
    pub const fn alone(local: Embedded) -> Self {
        Self { local, bridge: None }
    }

    /// Those of a node in a cluster; the bridge keeps this index's copy of the directory.
    #[must_use]
    pub const fn in_cluster(local: Embedded, bridge: Bridge) -> Self {
        Self { local, bridge: Some(bridge) }
    }

    /// What went wrong on the way to the cluster where nobody waited for an answer, for a log.
    #[must_use]
    pub fn take_complaints(&self) -> Vec<Complaint> {
        self.bridge.as_ref().map(Bridge::take_complaints).unwrap_or_default()
    }

    /// The node's own index.
    #[must_use]
    pub const fn local(&self) -> &Embedded {
        &self.local
    }
}

impl Sink for NodeMailboxes {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        self.local.committed(message)
    }

    fn has_ended(&self) -> bool {
        self.local.has_ended()
    }
}

impl Liveness for NodeMailboxes {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        self.local.live_bytes(shard).await
    }

    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        self.local.live(shard, records).await
    }

    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        self.local.moved(shard, records).await
    }

    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        self.local.applied(shard).await
    }
}

impl Registry for NodeMailboxes {
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError> {
        match &self.bridge {
            Some(bridge) => bridge.change(&self.local, change).await,
            None => self.local.change(change).await,
        }
    }

    fn directory(&self) -> Arc<Directory> {
        self.local.directory()
    }
}

impl Outgoing for NodeMailboxes {
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let found = self.local.queued(shard, after, count_max).await?;
        self.relief(|relief| found.iter().for_each(|queued| relief.found(queued.id)));
        Ok(found)
    }

    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError> {
        let Some(node) = self.relief(|relief| relief.owner(id)).flatten() else {
            return self.local.find_queued(id).await;
        };
        let key = self.bridge()?.find_copy(node, id).await?;
        Ok(Found { body: Place::Apart(id), key })
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        let Some(bridge) = &self.bridge else { return self.local.settle(settlements).await };
        let is_here = |settlement: &&Settlement| {
            let (Settlement::Deferred(id, _) | Settlement::Done(id) | Settlement::Uploaded(id)) =
                settlement;
            self.relief(|relief| relief.is_adopted(*id)) != Some(true)
        };
        let here: Vec<Settlement> = settlements.iter().filter(is_here).cloned().collect();
        self.local.settle(here).await?;
        if bridge.relief(|relief| relief.tell(&settlements)) == Some(true) {
            bridge.ring(true);
        }
        Ok(())
    }
}

impl Uplink for NodeMailboxes {
    fn is_clustered(&self) -> bool {
        self.bridge.is_some()
    }

    async fn awaiting(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        self.local.awaiting(shard, after, count_max).await
    }

    async fn put_piece(&self, id: QueueId, number: u32, data: Vec<u8>) -> Result<(), StoreError> {
        self.bridge()?.put_chunk(id, number, data).await
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), StoreError> {
        self.bridge()?.deliver(delivery).await
    }
}

impl Relief for NodeMailboxes {
    fn keeps_copies(&self) -> bool {
        self.relief(|_| ()).is_some()
    }

    fn may_send(&self, id: QueueId) -> bool {
        let Some(bridge) = &self.bridge else { return true };
        bridge.relief(|relief| relief.may_send(id, bridge.steady_ms())).unwrap_or(true)
    }

    fn begin_copy(&self, id: QueueId) -> Result<bool, StoreError> {
        let bridge = self.bridge()?;
        let begun = bridge.relief(|relief| relief.begin_copy(id, bridge.steady_ms()));
        begun.flatten().ok_or(StoreError::Busy)
    }

    async fn copy_piece(&self, id: QueueId, number: u32, data: Vec<u8>) -> Result<(), StoreError> {
        self.bridge()?.copy_piece(id, number, data).await
    }

    async fn copy(&self, transit: Transit) -> Result<(), StoreError> {
        let (bridge, id) = (self.bridge()?, transit.id);
        let none = || StoreError::Invalid("this node keeps no copies".into());
        let node = bridge.relief(|relief| relief.node()).ok_or_else(none)?;
        bridge.copy(node, transit).await?;
        bridge.relief(|relief| relief.is_copied(id));
        Ok(())
    }

    async fn copied_envelope(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        self.bridge()?.copied_envelope(id).await
    }

    fn recovered(&self) {
        self.relief(|relief| relief.recovered());
        self.ring();
    }

    fn adopted(&self, count_max: usize) -> Vec<Queued> {
        self.relief(|relief| relief.take_adopted(count_max)).unwrap_or_default()
    }

    fn is_adopted(&self, id: QueueId) -> bool {
        self.relief(|relief| relief.keeps(id)) == Some(true)
    }

    fn let_go(&self, id: QueueId) {
        self.relief(|relief| relief.let_go(id));
        self.ring();
    }

    fn verdicts(&self) -> Vec<(QueueId, Verdict)> {
        self.relief(|relief| relief.verdicts()).unwrap_or_default()
    }

    fn accepted(&self, id: QueueId) {
        self.relief(|relief| relief.accepted(id));
    }
}

impl NodeMailboxes {
    /// From now on this node keeps copies of its outgoing mail in the cluster, where it is in one,
    /// and stands in for nodes that are gone.
    pub fn take_up(&self, post: Post) {
        if let Some(bridge) = &self.bridge {
            bridge.take_up(post);
        }
    }

    /// Shares what this node counts with the others, where there is a Redis.
    pub fn share(&self, counts: Arc<dyn Counts>) {
        if let Some(bridge) = &self.bridge {
            bridge.share(counts);
        }
    }

    fn relief<T>(&self, ask: impl FnOnce(&mut relief::Relief) -> T) -> Option<T> {
        self.bridge.as_ref()?.relief(ask)
    }

    fn ring(&self) {
        if let Some(bridge) = &self.bridge {
            bridge.ring(false);
        }
    }

    fn bridge(&self) -> Result<&Bridge, StoreError> {
        self.bridge.as_ref().ok_or_else(|| StoreError::Invalid("this node has no cluster".into()))
    }
}

impl Mailboxes for NodeMailboxes {
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError> {
        let Some(bridge) = &self.bridge else { return self.local.open(mailbox).await };
        if self.local.directory().owner(mailbox).is_none() {
            return Err(StoreError::NotFound(format!("mailbox {}", mailbox.0)));
        }
        let visit = bridge.open(mailbox).await?;
        let mut messages = visit.messages().to_vec();
        // What came late has a lower name than others that had their numbers before.
        messages.sort_by_key(|message| message.uid);
        Ok(Maildrop::new(mailbox, messages, visit))
    }

    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError> {
        let Some(bridge) = &self.bridge else {
            return self.local.close(maildrop, deletions).await;
        };
        let deletions = maildrop.pick(deletions);
        let other = || StoreError::Invalid("the maildrop is not of the cluster".into());
        let visit: Box<Visit> = maildrop.into_hold().ok_or_else(other)?;
        bridge.close(*visit, deletions).await
    }

    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        let Some(bridge) = &self.bridge else { return self.local.find(mailbox, message).await };
        let key = bridge.find(mailbox, message.id).await?;
        Ok(Found { body: Place::Apart(message.id), key })
    }

    async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        if self.relief(|relief| relief.is_adopted(id)) == Some(true) {
            return self.bridge()?.fetch_copy(id, number).await;
        }
        self.bridge()?.fetch(id, number).await
    }

    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        self.local.user_keys(mailbox).await
    }

    async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        match &self.bridge {
            Some(bridge) => bridge.rewrap(mailbox, windows).await,
            None => self.local.rewrap(mailbox, windows).await,
        }
    }

    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError> {
        self.local.locate(id).await
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        match &self.bridge {
            Some(bridge) => bridge.usage(mailbox).await,
            None => self.local.usage(mailbox).await,
        }
    }

    async fn persist(&self) -> Result<(), StoreError> {
        self.local.persist().await
    }
}
