//! Who sends what: what a node knows of its turn to send mail that has a copy in the cluster.
//!
//! Asked by the relay of each shard before it sends, and told by it what became of messages; kept
//! true by the thread of the bridge (`duty`). Pure: the time is passed in. A node sends what has a
//! copy only while its lease of the mail is safe: its own mail's, or that of a node it stands in
//! for. What has no copy yet only it can send, whatever the cluster does.
//!
//! Limits: some 20 bytes for each message that has a copy, what is known of those of a node that
//! this one stands in for until a shard takes them, and what is to be told of it until that is
//! written: of [`UNSAID_MAX`] messages and those that are being sent then. Failure: none of its
//! own; times are of a clock that never steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fsmtp_store::mailbox::{Queued, Settlement, Verdict};
use fsmtp_store::{NodeNumber, QueueId};

use crate::mail::Copied;

/// Messages that something is still to be written of, above which nothing that has a copy is sent.
const UNSAID_MAX: usize = 256;

/// What the cluster is to be told of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// How it stands.
    Stands(Box<[u8]>),
    /// Nobody waits for it any more.
    Gone,
}

/// Something to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Writing {
    pub(crate) id: QueueId,
    /// Whose mail it is.
    pub(crate) node: NodeNumber,
    pub(crate) told: Told,
}

/// A node's turn at the mail of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Turn {
    safe_until_ms: u64,
    /// It has come back, or its mail is no longer this node's to send.
    is_over: bool,
    /// What it has left is being read.
    is_reading: bool,
}

/// How far a message of this node is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Copy {
    /// Others may find it.
    Begun,
    /// Others find it.
    There,
}

/// What a node knows.
#[derive(Debug)]
pub(crate) struct Relief {
    node: NodeNumber,
    /// Shards that have not read their queues yet.
    shards_missing: usize,
    own: Turn,
    /// What the cluster has of this node's mail is known.
    is_settled: bool,
    copied: BTreeMap<QueueId, Copy>,
    verdicts: BTreeMap<QueueId, Verdict>,
    /// Mail of others, and whose it is.
    adopted: BTreeMap<QueueId, NodeNumber>,
    /// Some of it that no shard has asked for yet.
    fresh: VecDeque<Queued>,
    turns: BTreeMap<NodeNumber, Turn>,
    told: BTreeMap<QueueId, Told>,
    /// Messages of which something is being written.
    writing: BTreeSet<QueueId>,
    /// Mail of others that no shard has any more, and of which something is still to be written.
    leaving: BTreeSet<QueueId>,
    /// The last write has failed.
    is_failing: bool,
}

impl Relief {
    /// Of a node with so many shards, which knows nothing yet.
    pub(crate) fn new(node: NodeNumber, shards_count: usize) -> Self {
        Self {
            node,
            shards_missing: shards_count,
            own: Turn::default(),
            is_settled: false,
            copied: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            adopted: BTreeMap::new(),
            fresh: VecDeque::new(),
            turns: BTreeMap::new(),
            told: BTreeMap::new(),
            writing: BTreeSet::new(),
            leaving: BTreeSet::new(),
            is_failing: false,
        }
    }

    pub(crate) const fn node(&self) -> NodeNumber {
        self.node
    }

    /// A shard has read its queue.
    pub(crate) const fn recovered(&mut self) {
        self.shards_missing = self.shards_missing.saturating_sub(1);
    }

    /// Whether all have.
    pub(crate) const fn is_recovered(&self) -> bool {
        self.shards_missing == 0
    }

    /// Whether a message may be sent now.
    pub(crate) fn may_send(&self, id: QueueId, now_ms: u64) -> bool {
        // What cannot be told others would send again: only so much of it is ever unsaid.
        let is_told = !self.is_failing && self.told.len() + self.writing.len() < UNSAID_MAX;
        let is_safe = |turn: &Turn| is_told && !turn.is_over && turn.safe_until_ms > now_ms;
        let owner = self.adopted.get(&id);
        if let Some(node) = owner.filter(|node| **node != self.node) {
            return self.turns.get(node).is_some_and(is_safe);
        }
        if owner.is_none() && !self.copied.contains_key(&id) {
            return true;
        }
        self.is_settled && is_safe(&self.own) && !self.verdicts.contains_key(&id)
    }

    /// A message that was in the queue before this process began: there may be a copy of it.
    pub(crate) fn found(&mut self, id: QueueId) {
        self.copied.entry(id).or_insert(Copy::Begun);
    }

    /// A copy is begun; false when it is there. None is begun before it is known what the cluster
    /// has, nor while another node has the turn.
    pub(crate) fn begin_copy(&mut self, id: QueueId, now_ms: u64) -> Option<bool> {
        if !self.is_settled || self.own.safe_until_ms <= now_ms || self.adopted.contains_key(&id) {
            return None;
        }
        Some(*self.copied.entry(id).or_insert(Copy::Begun) == Copy::Begun)
    }

    /// It is there.
    pub(crate) fn is_copied(&mut self, id: QueueId) {
        // It may be done by now.
        if let Some(copy) = self.copied.get_mut(&id) {
            *copy = Copy::There;
        }
    }

    /// Takes what the cluster is to know of what became of messages; whether there is something.
    pub(crate) fn tell(&mut self, settlements: &[Settlement]) -> bool {
        let before = self.told.len();
        for settlement in settlements {
            let (id, told) = match settlement {
                Settlement::Deferred(id, state) => (*id, Told::Stands(state.clone())),
                Settlement::Done(id) => (*id, Told::Gone),
                Settlement::Uploaded(_) => continue,
            };
            if self.copied.contains_key(&id) || self.adopted.contains_key(&id) {
                self.told.insert(id, told);
            }
        }
        self.told.len() > before
    }

    /// Whether it is another node's message, which this one sends.
    pub(crate) fn is_adopted(&self, id: QueueId) -> bool {
        self.adopted.contains_key(&id)
    }

    /// Whose it is, when it is another node's.
    pub(crate) fn owner(&self, id: QueueId) -> Option<NodeNumber> {
        self.adopted.get(&id).copied()
    }

    /// Some of what is to be written; one thing at a time of each message. How a message stands is
    /// written by who has the turn only: another one knows better by now.
    pub(crate) fn next_writings(&mut self, count_max: usize, now_ms: u64) -> Vec<Writing> {
        let has_turn = |id: &QueueId| match self.adopted.get(id).filter(|of| **of != self.node) {
            Some(node) => self.turns.get(node).is_some_and(|turn| turn.safe_until_ms > now_ms),
            None => self.is_settled && self.own.safe_until_ms > now_ms,
        };
        let ready = self.told.iter().filter(|(id, told)| {
            !self.writing.contains(id) && (**told == Told::Gone || has_turn(id))
        });
        let ids: Vec<QueueId> = ready.take(count_max).map(|(id, _)| *id).collect();
        let take = |id: QueueId| {
            let told = self.told.remove(&id)?;
            self.writing.insert(id);
            let node = self.adopted.get(&id).copied().unwrap_or(self.node);
            Some(Writing { id, node, told })
        };
        ids.into_iter().filter_map(take).collect()
    }

    /// It is written, or has to be written again.
    pub(crate) fn written(&mut self, writing: Writing, is_done: bool) {
        let Writing { id, told, .. } = writing;
        self.writing.remove(&id);
        self.is_failing = !is_done;
        if !is_done {
            // What was told since is newer.
            self.told.entry(id).or_insert(told);
            return;
        }
        let has_left = self.leaving.contains(&id) && !self.told.contains_key(&id);
        if told == Told::Gone || has_left {
            self.copied.remove(&id);
            self.adopted.remove(&id);
            self.leaving.remove(&id);
        }
    }

    /// Until when this node's mail is surely its own to send; 0 when it is another one's. Where
    /// that was over before, others may have had it meanwhile.
    pub(crate) const fn own_turn(&mut self, safe_until_ms: u64, now_ms: u64) {
        if safe_until_ms == 0 || self.own.safe_until_ms <= now_ms {
            self.unsettle();
        }
        self.own.safe_until_ms = safe_until_ms;
    }

    /// Others had the turn, or may have had it: what they have done is not known.
    pub(crate) const fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// Whether there is nothing to write, and nothing is being written.
    pub(crate) fn is_written(&self) -> bool {
        self.told.is_empty() && self.writing.is_empty()
    }

    /// Whether it is this node's turn to send its own mail.
    pub(crate) const fn has_turn(&self, now_ms: u64) -> bool {
        self.own.safe_until_ms > now_ms
    }

    pub(crate) const fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// What the cluster has of this node's mail; `is_here` says what is in its own index. What is
    /// not, and nobody has sent, is sent out of the cluster: its data folder is another one now, or
    /// this process died before it could say that it was done. Gives the names of rows that are not
    /// needed any more.
    pub(crate) fn settle(
        &mut self,
        copies: Vec<Copied>,
        mut is_here: impl FnMut(QueueId) -> bool,
    ) -> Vec<QueueId> {
        let mut stale = Vec::new();
        for Copied { queued, by, is_done } in copies {
            let id = queued.id;
            if self.told.get(&id) == Some(&Told::Gone) {
                continue;
            }
            let is_adopted = self.adopted.contains_key(&id);
            if !is_here(id) && !is_adopted {
                if is_done {
                    stale.push(id);
                } else {
                    self.adopted.insert(id, self.node);
                    self.fresh.push_back(queued);
                }
                continue;
            }
            if !is_adopted {
                self.copied.insert(id, Copy::There);
            }
            if is_done {
                self.told.remove(&id);
                self.verdicts.insert(id, Verdict::Gone);
            } else if by.is_some_and(|by| by != self.node) {
                self.told.remove(&id);
                self.verdicts.insert(id, Verdict::Stands(queued));
            }
        }
        self.is_settled = true;
        stale
    }

    pub(crate) fn verdicts(&self) -> Vec<(QueueId, Verdict)> {
        self.verdicts.iter().map(|(id, verdict)| (*id, verdict.clone())).collect()
    }

    pub(crate) fn accepted(&mut self, id: QueueId) {
        self.verdicts.remove(&id);
    }

    /// This node stands in for another one, whose mail it reads.
    pub(crate) fn begin_turn(&mut self, node: NodeNumber, safe_until_ms: u64) {
        self.turns.insert(node, Turn { safe_until_ms, is_over: false, is_reading: true });
    }

    /// It has found this mail of it, or could not read it; nothing when the turn is over by then.
    pub(crate) fn adopt(&mut self, node: NodeNumber, mail: Vec<Queued>) {
        let Some(turn) = self.turns.get_mut(&node) else { return };
        turn.is_reading = false;
        if turn.is_over {
            return;
        }
        for queued in mail {
            self.adopted.insert(queued.id, node);
            self.fresh.push_back(queued);
        }
    }

    /// Mail of others for the shard that asks.
    pub(crate) fn take_adopted(&mut self, count_max: usize) -> Vec<Queued> {
        let count = self.fresh.len().min(count_max);
        self.fresh.drain(..count).collect()
    }

    /// Whether a message of another node is still this one's to send.
    pub(crate) fn keeps(&self, id: QueueId) -> bool {
        match self.adopted.get(&id) {
            Some(node) if *node == self.node => self.is_settled,
            Some(node) => self.turns.get(node).is_some_and(|turn| !turn.is_over),
            None => false,
        }
    }

    /// A shard has let go of it. What it has told of it is written all the same.
    pub(crate) fn let_go(&mut self, id: QueueId) {
        if self.told.contains_key(&id) || self.writing.contains(&id) {
            self.leaving.insert(id);
        } else {
            self.adopted.remove(&id);
        }
    }

    /// The nodes that this one stands in for.
    pub(crate) fn stands_in_for(&self) -> Vec<NodeNumber> {
        self.turns.keys().copied().collect()
    }

    /// The lease of another node's mail was renewed, or, with 0, lost; it also is where it was over
    /// before.
    pub(crate) fn turn(&mut self, node: NodeNumber, safe_until_ms: u64, now_ms: u64) {
        let Some(turn) = self.turns.get_mut(&node) else { return };
        if safe_until_ms > 0 && turn.safe_until_ms > now_ms {
            turn.safe_until_ms = safe_until_ms;
            return;
        }
        (turn.safe_until_ms, turn.is_over) = (0, true);
        // Whoever has it now knows better how its messages stand.
        let (adopted, leaving) = (&mut self.adopted, &mut self.leaving);
        self.told.retain(|id, told| {
            let stays = *told == Told::Gone || adopted.get(id) != Some(&node);
            if !stays && leaving.remove(id) {
                adopted.remove(id);
            }
            stays
        });
    }

    /// It has come back and wants its mail.
    pub(crate) fn hand_back(&mut self, node: NodeNumber) {
        if let Some(turn) = self.turns.get_mut(&node) {
            turn.is_over = true;
        }
        let adopted = &mut self.adopted;
        self.fresh.retain(|queued| {
            let is_its = adopted.get(&queued.id) == Some(&node);
            if is_its {
                adopted.remove(&queued.id);
            }
            !is_its
        });
    }

    /// Whether nothing of a node's mail is left here, so that the lease may go.
    pub(crate) fn is_free_of(&self, node: NodeNumber) -> bool {
        let is_reading = self.turns.get(&node).is_some_and(|turn| turn.is_reading);
        !is_reading && !self.adopted.values().any(|of| *of == node)
    }

    /// The lease has gone; whether all of its mail was done.
    pub(crate) fn end_turn(&mut self, node: NodeNumber) -> bool {
        self.turns.remove(&node).is_some_and(|turn| !turn.is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmtp_store::ShardId;

    const SAFE: u64 = 1000;

    fn node(number: u8) -> NodeNumber {
        NodeNumber::new(number).unwrap()
    }

    fn id(n: u64) -> QueueId {
        QueueId::first(1_700_000_000_000 + n, ShardId(0))
    }

    fn queued(n: u64, state: &[u8]) -> Queued {
        Queued { id: id(n), octets: 1, state: state.into() }
    }

    fn copied(n: u64, by: Option<u8>, is_done: bool) -> Copied {
        Copied { queued: queued(n, b"state"), by: by.map(node), is_done }
    }

    fn told(relief: &mut Relief) -> Vec<(u64, u8, bool)> {
        let short = |writing: &Writing| {
            let n = (writing.id.0 >> 22) - 1_700_000_000_000;
            (n, writing.node.get(), writing.told == Told::Gone)
        };
        let writings = relief.next_writings(usize::MAX, 0);
        let all = writings.iter().map(short).collect();
        writings.into_iter().for_each(|writing| relief.written(writing, true));
        all
    }

    /// Of node 1, whose turn it is, with nothing in the cluster.
    fn settled() -> Relief {
        let mut relief = Relief::new(node(1), 1);
        relief.own_turn(SAFE, 0);
        assert!(relief.settle(Vec::new(), |_| true).is_empty());
        relief
    }

    #[test]
    fn what_has_no_copy_goes_at_any_time_and_what_has_one_while_the_lease_is_safe() {
        let mut relief = Relief::new(node(1), 2);
        assert!(relief.may_send(id(1), 0), "it came in just now");
        relief.found(id(2));
        assert!(!relief.may_send(id(2), 0), "a copy of it may be with others");
        assert_eq!(relief.begin_copy(id(1), 0), None, "it is not known whose turn it is");
        assert!(relief.may_send(id(1), 0));
        relief.recovered();
        assert!(!relief.is_recovered());
        relief.recovered();
        assert!(relief.is_recovered());
        relief.own_turn(SAFE, 0);
        assert!(!relief.may_send(id(2), 0), "what the cluster has is not known");
        relief.settle(Vec::new(), |_| true);
        assert!(relief.may_send(id(2), SAFE - 1) && !relief.may_send(id(2), SAFE));
        assert_eq!(relief.begin_copy(id(1), SAFE), None);
        assert_eq!(relief.begin_copy(id(1), 0), Some(true));
        assert_eq!(relief.begin_copy(id(1), 0), Some(true), "it may have to be made again");
        assert!(!relief.may_send(id(1), SAFE), "others may find it");
        relief.is_copied(id(1));
        assert_eq!(relief.begin_copy(id(1), 0), Some(false));
        relief.own_turn(0, 0);
        assert!(!relief.may_send(id(1), 0) && !relief.is_settled(), "somebody else has the turn");
    }

    #[test]
    fn the_cluster_is_told_of_what_has_a_copy_the_last_thing_only() {
        let mut relief = settled();
        let deferred = |n, state: &[u8]| Settlement::Deferred(id(n), state.into());
        assert!(!relief.tell(&[deferred(1, b"a"), Settlement::Done(id(2))]), "there is no copy");
        relief.begin_copy(id(1), 0);
        assert!(relief.tell(&[deferred(1, b"a")]));
        assert!(!relief.tell(&[deferred(1, b"b"), Settlement::Uploaded(id(1))]));
        let [first] = &relief.next_writings(9, 0)[..] else { panic!() };
        assert_eq!(first.told, Told::Stands(b"b".as_slice().into()));
        // While that is being written it is done; the older is not written after the newer.
        relief.tell(&[Settlement::Done(id(1))]);
        assert!(relief.next_writings(9, 0).is_empty(), "one at a time");
        relief.written(first.clone(), false);
        assert_eq!(told(&mut relief), [(1, 1, true)]);
        assert!(relief.may_send(id(1), SAFE), "it is forgotten");
        assert!(relief.next_writings(9, 0).is_empty());
        relief.begin_copy(id(3), 0);
        relief.tell(&[deferred(3, b"c")]);
        let [again] = &relief.next_writings(9, 0)[..] else { panic!() };
        relief.written(again.clone(), false);
        assert_eq!(
            relief.next_writings(9, 0),
            core::slice::from_ref(again),
            "what failed is written again"
        );
    }

    #[test]
    fn verdicts_are_about_what_others_have_done() {
        let mut relief = Relief::new(node(1), 1);
        for n in 1..=5 {
            relief.found(id(n));
        }
        relief.own_turn(SAFE, 0);
        let copies = vec![
            copied(1, None, false),
            copied(2, Some(1), false),
            copied(3, Some(2), false),
            copied(4, Some(2), true),
            copied(6, None, false),
        ];
        let stale = relief.settle(copies, |of| of != id(6));
        assert!(stale.is_empty());
        // One that is not here is sent out of the cluster.
        assert_eq!(relief.take_adopted(9), [queued(6, b"state")]);
        assert!(relief.may_send(id(6), 0) && relief.keeps(id(6)));
        assert_eq!(relief.owner(id(6)), Some(node(1)));
        let verdicts = relief.verdicts();
        assert_eq!(
            verdicts,
            [(id(3), Verdict::Stands(queued(3, b"state"))), (id(4), Verdict::Gone)]
        );
        let may = |relief: &Relief| [1, 2, 3, 4, 5].map(|n| relief.may_send(id(n), 0));
        assert_eq!(may(&relief), [true, true, false, false, true]);
        relief.accepted(id(3));
        relief.accepted(id(4));
        assert!(relief.verdicts().is_empty() && relief.may_send(id(3), 0));
        relief.tell(&[Settlement::Done(id(4))]);
        assert_eq!(told(&mut relief), [(4, 1, true)], "its row goes");
        assert_eq!(relief.begin_copy(id(5), 0), Some(true), "one that has no copy gets one");
        assert_eq!(relief.begin_copy(id(1), 0), Some(false));
    }

    #[test]
    fn who_stands_in_sends_until_the_other_one_is_back() {
        let mut relief = settled();
        relief.begin_turn(node(2), SAFE);
        relief.adopt(node(2), (1..=5).map(|n| queued(n, b"")).collect());
        assert_eq!(relief.take_adopted(4).len(), 4);
        assert_eq!(relief.stands_in_for(), [node(2)]);
        assert!(relief.may_send(id(1), SAFE - 1) && !relief.may_send(id(1), SAFE));
        relief.turn(node(2), 2 * SAFE, 0);
        assert!(relief.may_send(id(1), SAFE) && relief.is_adopted(id(1)));
        assert_eq!(relief.begin_copy(id(1), 0), None, "it has one");
        assert_eq!(relief.owner(id(1)), Some(node(2)));
        relief
            .tell(&[Settlement::Done(id(1)), Settlement::Deferred(id(2), b"s".as_slice().into())]);
        assert_eq!(told(&mut relief), [(1, 2, true), (2, 2, false)], "in its owner's rows");
        relief.hand_back(node(2));
        assert!(relief.take_adopted(9).is_empty(), "nobody had asked for the last one");
        assert!(!relief.may_send(id(2), 0) && !relief.keeps(id(2)));
        // One is being sent, and done after all.
        relief.let_go(id(2));
        relief.let_go(id(3));
        assert!(!relief.is_free_of(node(2)));
        relief.tell(&[Settlement::Deferred(id(4), b"t".as_slice().into())]);
        relief.let_go(id(4));
        assert!(!relief.is_free_of(node(2)), "what was told is to be written first");
        assert_eq!(told(&mut relief), [(4, 2, false)]);
        assert!(relief.is_free_of(node(2)));
        relief.end_turn(node(2));
        assert!(relief.stands_in_for().is_empty());
    }

    #[test]
    fn who_cannot_say_what_he_has_sent_sends_no_more() {
        let mut relief = settled();
        for n in 0..1000 {
            relief.begin_copy(id(n), 0);
        }
        let sent = (0..1000).take_while(|&n| {
            let may = relief.may_send(id(n), 0);
            relief.tell(&[Settlement::Done(id(n))]);
            may
        });
        assert_eq!(sent.count(), UNSAID_MAX);
        assert!(relief.may_send(id(5000), 0), "what nobody else knows of goes");
        assert!(!relief.is_written());
        let mut writings = relief.next_writings(usize::MAX, 0);
        let last = writings.pop().unwrap();
        writings.into_iter().for_each(|writing| relief.written(writing, true));
        relief.written(last, false);
        assert!(!relief.may_send(id(999), 0), "the last one was not said");
        assert_eq!(told(&mut relief).len(), 1);
        assert!(relief.may_send(id(999), 0) && relief.is_written());
        relief.unsettle();
        assert!(!relief.may_send(id(999), 0), "the lease was another one's meanwhile");
    }

    #[test]
    fn a_lease_that_is_lost_ends_the_turn() {
        let mut relief = settled();
        relief.begin_turn(node(2), SAFE);
        relief.adopt(node(2), vec![queued(1, b"")]);
        relief.turn(node(2), 0, 0);
        assert!(!relief.keeps(id(1)) && !relief.may_send(id(1), 0));
        relief.turn(node(2), 2 * SAFE, 0);
        assert!(!relief.keeps(id(1)), "it is over for good");
        relief.let_go(id(1));
        assert!(relief.is_free_of(node(2)) && !relief.end_turn(node(2)), "not all was done");
        // Nor is one that was not renewed in time, whatever is said later.
        relief.begin_turn(node(2), SAFE);
        assert!(!relief.is_free_of(node(2)), "its mail is being read");
        relief.adopt(node(2), vec![queued(1, b"")]);
        relief.tell(&[Settlement::Deferred(id(1), b"s".as_slice().into())]);
        relief.turn(node(2), 3 * SAFE, SAFE);
        assert!(!relief.keeps(id(1)) && relief.is_written(), "another one knows better by now");
        let mut own = settled();
        own.begin_copy(id(1), 0);
        own.tell(&[Settlement::Deferred(id(1), b"s".as_slice().into())]);
        own.own_turn(2 * SAFE, SAFE);
        assert!(!own.is_settled() && own.next_writings(9, SAFE).is_empty());
        own.settle(vec![copied(1, Some(2), false)], |_| true);
        assert!(own.is_written() && own.verdicts().len() == 1);
    }
}
