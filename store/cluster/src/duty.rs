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
    tokio::spawn(async move { renew_all(&inner).await });
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
        let now_ms = desk.shared.steady_ms();
        let writings = desk.shared.relief(|relief| relief.next_writings(WRITES_MAX, now_ms));
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

/// Which node this is, once its shards have read their queues.
fn ready(desk: &Desk) -> Option<Post> {
    let is_ready = desk.shared.relief(|relief| relief.is_recovered()) == Some(true);
    desk.shared.post().filter(|_| is_ready).cloned()
}

/// Renews what this node holds, whatever else is done meanwhile.
async fn renew_all(desk: &Arc<Desk>) {
    loop {
        let pause = match ready(desk) {
            Some(post) => match renew(desk, &post).await {
                Ok(true) => post.patience / 3,
                _ => AGAIN,
            },
            None => AGAIN / 8,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Renews the lease of this node's mail, and of others' that it has; false when the first is
/// another node's.
async fn renew(desk: &Arc<Desk>, post: &Post) -> Result<bool, StoreError> {
    let now = || desk.shared.steady_ms();
    let own = hold(desk, &lease(desk, post, &queue_name(post.node))).await?;
    let safe_until_ms = own.as_ref().map_or(0, |held| held.safe_until_ms);
    desk.shared.relief(|relief| {
        if own.as_ref().is_some_and(|held| held.is_new) {
            // Somebody may have had it, and given it back.
            relief.unsettle();
        }
        relief.own_turn(safe_until_ms, now());
    });
    if own.is_none() {
        // Whoever stands in for this node is to see that it is back.
        hold(desk, &lease(desk, post, &back_name(post.node))).await?;
    } else if desk.shared.relief(|relief| relief.is_settled()) != Some(true) {
        desk.shared.duty.notify_one();
    }
    for node in desk.shared.relief(|relief| relief.stands_in_for()).unwrap_or_default() {
        // One that ended meanwhile may have been another node's: it is not taken again.
        let before = now();
        let is_held = desk.mail.renew(&lease(desk, post, &queue_name(node))).await?;
        let safe_until_ms = if is_held { before + lasts_ms(post.patience) } else { 0 };
        desk.shared.relief(|relief| relief.turn(node, safe_until_ms, now()));
    }
    Ok(own.is_some())
}

fn lease(desk: &Desk, post: &Post, name: &str) -> Lease {
    Lease {
        name: name.to_owned(),
        holder: post.holder.clone(),
        epoch: desk.mail.now_ms(),
        seconds: i32::try_from(post.patience.as_secs()).unwrap_or(i32::MAX),
    }
}

/// For how long a lease is safe after it was asked for.
fn lasts_ms(patience: Duration) -> u64 {
    u64::try_from(patience.saturating_sub(MARGIN).as_millis()).unwrap_or(0)
}

/// Keeps a lease, or takes it. None when somebody else has it.
async fn hold(desk: &Desk, lease: &Lease) -> Result<Option<Held>, StoreError> {
    let before = desk.shared.steady_ms();
    let is_new = !desk.mail.renew(lease).await?;
    if is_new && !desk.mail.take(lease).await? {
        return Ok(None);
    }
    let patience = Duration::from_secs(u64::try_from(lease.seconds).unwrap_or(0));
    Ok(Some(Held { safe_until_ms: before.saturating_add(lasts_ms(patience)), is_new }))
}

/// What is known between two rounds.
struct Duty {
    desk: Arc<Desk>,
    local: Embedded,
    /// How often each node was not found in a row.
    missed: BTreeMap<NodeNumber, u32>,
    /// Nodes that are gone and have left nothing.
    idle: BTreeSet<NodeNumber>,
    /// When others are looked for next.
    next: Instant,
    /// The last round has failed.
    fails: bool,
}

impl Duty {
    fn new(desk: Arc<Desk>, local: Embedded) -> Self {
        let (missed, idle) = (BTreeMap::new(), BTreeSet::new());
        Self { desk, local, missed, idle, next: Instant::now(), fails: false }
    }

    async fn run(mut self) {
        loop {
            let pause = match ready(&self.desk) {
                Some(post) => self.round(&post).await,
                // It rings when that changes.
                None => Duration::from_secs(3600),
            };
            let _ = tokio::time::timeout(pause, self.desk.shared.duty.notified()).await;
        }
    }

    /// One round; how long to wait for the next one.
    async fn round(&mut self, post: &Post) -> Duration {
        self.let_go(post).await;
        let now = Instant::now();
        let is_settled = self.desk.shared.relief(|relief| relief.is_settled()) == Some(true);
        if now < self.next && (is_settled || self.fails) {
            return self.next - now;
        }
        let done = self.work(post).await;
        let pause = if matches!(done, Ok(true)) { post.patience / 3 } else { AGAIN };
        match done {
            Ok(_) => self.fails = false,
            Err(error) => {
                if !core::mem::replace(&mut self.fails, true) {
                    self.desk.shared.complain(format!("whose mail is to be sent here: {error}"));
                }
            }
        }
        self.next = Instant::now() + pause;
        pause
    }

    /// Finds out what became of this node's mail, and looks for nodes that are gone; false when its
    /// own mail is not its own yet.
    async fn work(&mut self, post: &Post) -> Result<bool, StoreError> {
        let now_ms = self.desk.shared.steady_ms();
        if self.desk.shared.relief(|relief| relief.has_turn(now_ms)) != Some(true) {
            return Ok(false);
        }
        if self.desk.shared.relief(|relief| relief.is_settled()) != Some(true) {
            self.settle(post).await?;
        }
        self.look(post).await?;
        Ok(true)
    }

    /// Finds out what the cluster has of this node's mail, and what became of it.
    async fn settle(&self, post: &Post) -> Result<(), StoreError> {
        let copies = self.desk.mail.copies(post.node, true).await?;
        let mut here: BTreeSet<QueueId> = BTreeSet::new();
        for copied in &copies {
            match self.local.find_queued(copied.queued.id).await {
                // One that cannot be read is here all the same.
                Ok(_) | Err(StoreError::Corrupt { .. }) => drop(here.insert(copied.queued.id)),
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
            if there.contains_key(&queue_name(node)) {
                self.missed.remove(&node);
                self.idle.remove(&node);
                continue;
            }
            let missed = self.missed.entry(node).or_default();
            *missed = missed.saturating_add(1);
            if *missed >= LOOKS && !self.idle.contains(&node) {
                let holder = members.get(&node_name(node));
                self.stand_in(post, node, holder.map_or("without a number", |name| name)).await?;
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
        self.missed.remove(&node);
        if !self.desk.mail.has_copies(node).await? {
            self.idle.insert(node);
            return Ok(());
        }
        let lease = lease(&self.desk, post, &queue_name(node));
        // Somebody else may have been quicker.
        let Some(held) = hold(&self.desk, &lease).await? else { return Ok(()) };
        // From here on it is renewed, and given back when nothing of it is left.
        self.desk.shared.relief(|relief| relief.begin_turn(node, held.safe_until_ms));
        let left = self.desk.mail.copies(node, false).await;
        let mail: Vec<_> = left.as_ref().map_or(&[][..], Vec::as_slice).iter().collect();
        let mail = mail.into_iter().filter(|copied| !copied.is_done);
        let mail: Vec<_> = mail.map(|copied| copied.queued.clone()).collect();
        if let Err(error) = left {
            self.desk.shared.relief(|relief| {
                relief.hand_back(node);
                relief.adopt(node, Vec::new());
            });
            return Err(error);
        }
        let name = holder.split(' ').next().unwrap_or(holder);
        let patience = post.patience.as_secs();
        if !mail.is_empty() {
            self.desk.shared.complain(format!(
                "node {name} has given no sign for {patience} s: this node sends its mail, {} \
                 messages",
                mail.len()
            ));
        }
        self.desk.shared.relief(|relief| relief.adopt(node, mail));
        self.desk.shared.duty.notify_one();
        Ok(())
    }

    /// Gives back the mail of nodes of which nothing is left here.
    async fn let_go(&mut self, post: &Post) {
        for node in self.desk.shared.relief(|relief| relief.stands_in_for()).unwrap_or_default() {
            if self.desk.shared.relief(|relief| relief.is_free_of(node)) != Some(true) {
                continue;
            }
            // Where this fails, the lease ends by itself.
            let _ = self.desk.mail.end(&lease(&self.desk, post, &queue_name(node))).await;
            if self.desk.shared.relief(|relief| relief.end_turn(node)) == Some(true) {
                self.idle.insert(node);
            }
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
