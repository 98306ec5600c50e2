//! A node's duty: keeps its lease of its own outgoing mail, stands in for nodes that are gone, and
//! writes what becomes of messages that have a copy.
//!
//! Runs on the thread of the bridge, from when the node has said which one it is. A lease is for
//! [`Post::patience`] and renewed three times in it; a node that two looks have not found is gone.
//! One that comes back asks for its mail by a lease of its own (`back/N`); whoever stands in for it
//! ends what is under way, writes what is known, and lets go. Failure: while Cassandra does not
//! answer turns end by themselves, and nothing that has a copy is sent.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fsmtp_store::mailbox::{Embedded, Outgoing as _};
use fsmtp_store::{NodeNumber, QueueId, StoreError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bridge::{Desk, Post};
use crate::mail::Lease;
use crate::relief::{Told, Writing};

/// How much earlier than Cassandra a node takes its lease for over.
const MARGIN: Duration = Duration::from_secs(5);
/// How often it is tried again what did not succeed.
const AGAIN: Duration = Duration::from_secs(2);
/// Messages of which something is written at one time.
const WRITES_MAX: usize = 16;
/// So many looks in a row have not found a node that is gone.
const LOOKS: u32 = 2;

/// Begins; what it does ends with the runtime.
pub(crate) fn begin(desk: &Arc<Desk>, local: &Embedded) {
    let (inner, local) = (Arc::clone(desk), local.clone());
    tokio::spawn(async move { Duty::new(inner, local).run().await });
    let inner = Arc::clone(desk);
    tokio::spawn(async move {
        loop {
            inner.shared.told.notified().await;
            while !write_some(&inner).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
    });
}

/// Writes all that there is to write; as long as Cassandra takes it.
pub(crate) async fn write_all(desk: &Arc<Desk>) {
    while write_some(desk).await && desk.shared.relief(|relief| relief.is_written()) == Some(false)
    {
        // The others are being written already.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writes until nothing is left; false when something failed.
async fn write_some(desk: &Arc<Desk>) -> bool {
    loop {
        let writings = desk.shared.relief(|relief| relief.next_writings(WRITES_MAX));
        let writings = writings.unwrap_or_default();
        if writings.is_empty() {
            return true;
        }
        let mut running = JoinSet::new();
        for writing in writings {
            let desk = Arc::clone(desk);
            running.spawn(async move {
                let done = write(&desk, &writing).await;
                desk.shared.relief(|relief| relief.written(writing, done.is_ok()));
                done.is_ok()
            });
        }
        let mut all = true;
        while let Some(done) = running.join_next().await {
            all &= done.unwrap_or(false);
        }
        desk.shared.duty.notify_one();
        if !all {
            return false;
        }
    }
}

async fn write(desk: &Desk, writing: &Writing) -> Result<(), StoreError> {
    let Some(by) = desk.shared.post().map(|post| post.node) else { return Ok(()) };
    let Writing { id, node, told } = writing;
    match told {
        Told::Stands(state) => desk.mail.keep_state((*node, by), *id, state).await,
        Told::Gone => desk.mail.end_copy(*node, *id, *node == by).await,
    }
}

/// A lease that this node has.
struct Held {
    /// Until when it surely has it, by the clock that never steps.
    safe_until_ms: u64,
    /// It had it not just before.
    is_new: bool,
}

/// What is known between two rounds.
struct Duty {
    desk: Arc<Desk>,
    local: Embedded,
    /// How often each node was not found in a row.
    missed: BTreeMap<NodeNumber, u32>,
    /// Nodes that are gone and have left nothing.
    idle: BTreeSet<NodeNumber>,
    /// When leases are renewed next, and others looked for.
    next: Instant,
}

impl Duty {
    fn new(desk: Arc<Desk>, local: Embedded) -> Self {
        let (missed, idle) = (BTreeMap::new(), BTreeSet::new());
        Self { desk, local, missed, idle, next: Instant::now() }
    }

    async fn run(mut self) {
        loop {
            let post = self.desk.shared.post().cloned();
            let is_ready = self.desk.shared.relief(|relief| relief.is_recovered());
            let pause = match post {
                Some(post) if is_ready == Some(true) => self.round(&post).await,
                // It rings when that changes.
                _ => Duration::from_secs(3600),
            };
            let _ = tokio::time::timeout(pause, self.desk.shared.duty.notified()).await;
        }
    }

    /// One round; how long to wait for the next one.
    async fn round(&mut self, post: &Post) -> Duration {
        self.let_go(post).await;
        let now = Instant::now();
        if now < self.next {
            return self.next - now;
        }
        let done = self.renew(post).await;
        let pause = if done.unwrap_or(false) { post.patience / 3 } else { AGAIN };
        self.next = Instant::now() + pause;
        pause
    }

    /// Renews what this node holds, and looks for nodes that are gone; false when its own mail is
    /// not its own yet.
    async fn renew(&mut self, post: &Post) -> Result<bool, StoreError> {
        let mine = self.lease(post, &queue_name(post.node));
        let is_mine = match self.hold(&mine).await? {
            Some(held) => {
                self.desk.shared.relief(|relief| {
                    if held.is_new {
                        // Somebody may have had it, and given it back.
                        relief.unsettle();
                    }
                    relief.own_turn(held.safe_until_ms);
                });
                true
            }
            None => {
                self.desk.shared.relief(|relief| relief.own_turn(0));
                // Whoever stands in for this node is to see that it is back.
                self.hold(&self.lease(post, &back_name(post.node))).await?;
                false
            }
        };
        let is_settled = self.desk.shared.relief(|relief| relief.is_settled()) == Some(true);
        if is_mine && !is_settled {
            self.settle(post).await?;
        }
        for node in self.desk.shared.relief(|relief| relief.stands_in_for()).unwrap_or_default() {
            let held = self.hold(&self.lease(post, &queue_name(node))).await?;
            // One that ended meanwhile may have been another node's.
            let held = held.filter(|held| !held.is_new).map_or(0, |held| held.safe_until_ms);
            self.desk.shared.relief(|relief| relief.turn(node, held));
        }
        if is_mine {
            self.look(post).await?;
        }
        Ok(is_mine)
    }

    fn lease(&self, post: &Post, name: &str) -> Lease {
        Lease {
            name: name.to_owned(),
            holder: post.holder.clone(),
            epoch: self.desk.mail.now_ms(),
            seconds: i32::try_from(post.patience.as_secs()).unwrap_or(i32::MAX),
        }
    }

    /// Keeps a lease, or takes it. None when somebody else has it.
    async fn hold(&self, lease: &Lease) -> Result<Option<Held>, StoreError> {
        let before = self.desk.shared.steady_ms();
        let is_new = !self.desk.mail.renew(lease).await?;
        if is_new && !self.desk.mail.take(lease).await? {
            return Ok(None);
        }
        let lasts = Duration::from_secs(u64::try_from(lease.seconds).unwrap_or(0));
        let lasts = u64::try_from(lasts.saturating_sub(MARGIN).as_millis()).unwrap_or(0);
        Ok(Some(Held { safe_until_ms: before.saturating_add(lasts), is_new }))
    }

    /// Finds out what the cluster has of this node's mail, and what became of it.
    async fn settle(&self, post: &Post) -> Result<(), StoreError> {
        let copies = self.desk.mail.copies(post.node).await?;
        let mut here: BTreeSet<QueueId> = BTreeSet::new();
        for copied in &copies {
            match self.local.find_queued(copied.queued.id).await {
                Ok(_) => drop(here.insert(copied.queued.id)),
                Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let settle =
            |relief: &mut crate::relief::Relief| relief.settle(copies, |id| here.contains(&id));
        for stale in self.desk.shared.relief(settle).unwrap_or_default() {
            self.desk.mail.end_copy(post.node, stale, true).await?;
        }
        Ok(())
    }

    /// Looks who is back, and who is gone.
    async fn look(&mut self, post: &Post) -> Result<(), StoreError> {
        let all = || (0..=NodeNumber::MAX).filter_map(NodeNumber::new);
        let names = |name: fn(NodeNumber) -> String| all().map(name).collect::<Vec<_>>();
        let members = self.desk.mail.held(&names(node_name)).await?;
        let there = self.desk.mail.held(&names(queue_name)).await?;
        let back = self.desk.mail.held(&names(back_name)).await?;
        for node in self.desk.shared.relief(|relief| relief.stands_in_for()).unwrap_or_default() {
            if back.contains_key(&back_name(node)) {
                self.desk.shared.relief(|relief| relief.hand_back(node));
                self.desk.shared.duty.notify_one();
            }
        }
        for node in all().filter(|&node| node != post.node) {
            let Some(holder) = members.get(&node_name(node)) else { continue };
            if there.contains_key(&queue_name(node)) {
                self.missed.remove(&node);
                self.idle.remove(&node);
                continue;
            }
            let missed = self.missed.entry(node).or_default();
            *missed = missed.saturating_add(1);
            if *missed >= LOOKS && !self.idle.contains(&node) {
                self.stand_in(post, node, holder).await?;
            }
        }
        Ok(())
    }

    /// Sends the mail of a node that is gone, when it has left some.
    async fn stand_in(
        &mut self,
        post: &Post,
        node: NodeNumber,
        holder: &str,
    ) -> Result<(), StoreError> {
        let lease = self.lease(post, &queue_name(node));
        // Somebody else may have been quicker.
        let Some(Held { safe_until_ms, .. }) = self.hold(&lease).await? else { return Ok(()) };
        self.missed.remove(&node);
        let left = match self.desk.mail.copies(node).await {
            Ok(left) => left,
            Err(error) => {
                // It may be tried again by anybody.
                let _ = self.desk.mail.end(&lease).await;
                return Err(error);
            }
        };
        let mail: Vec<_> =
            left.into_iter().filter(|copied| !copied.is_done).map(|copied| copied.queued).collect();
        if mail.is_empty() {
            self.idle.insert(node);
            self.desk.mail.end(&lease).await?;
            return Ok(());
        }
        let name = holder.split(' ').next().unwrap_or(holder);
        let patience = post.patience.as_secs();
        self.desk.shared.complain(format!(
            "node {name} has given no sign for {patience} s: this node sends its mail, {} messages",
            mail.len()
        ));
        self.desk.shared.relief(|relief| relief.adopt(node, safe_until_ms, mail));
        Ok(())
    }

    /// Gives back the mail of nodes of which nothing is left here.
    async fn let_go(&mut self, post: &Post) {
        for node in self.desk.shared.relief(|relief| relief.stands_in_for()).unwrap_or_default() {
            if self.desk.shared.relief(|relief| relief.is_free_of(node)) != Some(true) {
                continue;
            }
            // Where this fails, the lease ends by itself.
            let _ = self.desk.mail.end(&self.lease(post, &queue_name(node))).await;
            self.desk.shared.relief(|relief| relief.end_turn(node));
            self.idle.insert(node);
        }
    }
}

fn node_name(node: NodeNumber) -> String {
    format!("node/{}", node.get())
}

fn queue_name(node: NodeNumber) -> String {
    format!("queue/{}", node.get())
}

fn back_name(node: NodeNumber) -> String {
    format!("back/{}", node.get())
}
