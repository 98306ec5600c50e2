//! Mailboxes in memory, for simulation and tests: deterministic, no thread, no clock.
//!
//! Models what a crash does to a real index: deliveries that were not persisted are lost (or a
//! first stretch of them is kept), everything else is durable when it is answered. Limits: memory
//! only; uids end at 2^32, which no simulation reaches. Failure: [`Memory::set_busy`] makes it
//! refuse.

use core::fmt;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::lock::Locks;
use super::pending::{Body, Delivery, LiveBytes};
use super::{
    Found, Liveness, Mailboxes, Maildrop, Message, Outgoing, Queued, Registry, Relief, Settlement,
    Uplink, Usage, check_states,
};
use crate::directory::{Change, Directory, Edit};
use crate::seal::{RecipientWrap, UserKeys, WindowId, WindowRecord};
use crate::spool::{BodyRef, Committed, Recipient, RecipientKey, Sink};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};

/// What a chunk counts for in the live bytes.
const CHUNK_BYTES: u64 = 64 * 1024;

/// A back end in memory; clones are handles to the same one, on the same thread.
#[derive(Clone)]
pub struct Memory(Rc<RefCell<State>>);

struct State {
    segment_bytes: u64,
    persist_count: usize,
    /// What a crash would leave.
    durable: Book,
    /// What there is now: `durable` and the pending deliveries.
    now: Book,
    pending: Vec<Delivery>,
    locks: Locks,
    subscribers: Vec<Box<dyn Fn(Arc<Directory>)>>,
    busy: bool,
    stopped: bool,
}

/// Octets, key and state of a message.
type Travelling = (u64, Option<RecipientWrap>, Box<[u8]>);

/// The tables.
#[derive(Clone, Default)]
struct Book {
    entries: BTreeMap<(MailboxId, u32), (QueueId, u64, Option<RecipientWrap>)>,
    /// With the count of messages that need each.
    windows: BTreeMap<(MailboxId, WindowId), (u64, Arc<WindowRecord>)>,
    keys: BTreeMap<MailboxId, UserKeys>,
    next_uids: BTreeMap<MailboxId, u32>,
    /// Mail that is to travel on.
    queued: BTreeMap<QueueId, Travelling>,
    bodies: BTreeMap<QueueId, Body>,
    live: LiveBytes,
    applied: BTreeMap<ShardId, Lsn>,
    removed: BTreeSet<MailboxId>,
    directory: Arc<Directory>,
}

impl Book {
    fn deliver(&mut self, delivery: &Delivery, segment_bytes: u64) {
        let mut body = delivery.body.clone();
        if self.applied.get(&body.shard).is_some_and(|&applied| applied >= delivery.end) {
            return;
        }
        self.applied.insert(body.shard, delivery.end);
        for Recipient { mailbox, key } in delivery.recipients.as_slice() {
            if !self.removed.contains(mailbox) {
                let wrap = key.as_ref().map(|key| key.wrap);
                if *mailbox == MailboxId::QUEUE {
                    self.queued.insert(body.id, (body.octets, wrap, Box::default()));
                } else {
                    let uid = self.next_uids.entry(*mailbox).or_insert(1);
                    self.entries.insert((*mailbox, *uid), (body.id, body.octets, wrap));
                    *uid += 1;
                }
                if let Some(RecipientKey { wrap, window }) = key {
                    let fresh = || (0, Arc::clone(window));
                    let name = (*mailbox, wrap.window);
                    self.windows.entry(name).or_insert_with(fresh).0 += 1;
                }
                body.references_count += 1;
            }
        }
        if body.references_count > 0 {
            for (lsn, bytes) in body.records() {
                *self.live.entry((body.shard, lsn.0 / segment_bytes)).or_default() += bytes;
            }
            self.bodies.insert(body.id, body);
        }
    }

    fn delete(&mut self, mailbox: MailboxId, uid: u32, segment_bytes: u64) {
        let Some((id, _, wrap)) = self.entries.remove(&(mailbox, uid)) else { return };
        self.release(mailbox, id, wrap, segment_bytes);
    }

    fn settle(&mut self, settlement: &Settlement, segment_bytes: u64) {
        match settlement {
            Settlement::Deferred(id, state) => {
                if let Some((.., kept)) = self.queued.get_mut(id) {
                    kept.clone_from(state);
                }
            }
            // No cluster stands behind this one.
            Settlement::Uploaded(_) => {}
            Settlement::Done(id) => {
                if let Some((_, wrap, _)) = self.queued.remove(id) {
                    self.release(MailboxId::QUEUE, *id, wrap, segment_bytes);
                }
            }
        }
    }

    /// A message less refers to a body and to the window of its key.
    fn release(
        &mut self,
        mailbox: MailboxId,
        id: QueueId,
        wrap: Option<RecipientWrap>,
        segment_bytes: u64,
    ) {
        if let Some(RecipientWrap { window, .. }) = wrap
            && let Some((count, _)) = self.windows.get_mut(&(mailbox, window))
        {
            *count -= 1;
            if *count == 0 {
                self.windows.remove(&(mailbox, window));
            }
        }
        let Some(body) = self.bodies.get_mut(&id) else { return };
        body.references_count -= 1;
        if body.references_count == 0 {
            for (lsn, bytes) in body.records() {
                subtract(&mut self.live, (body.shard, lsn.0 / segment_bytes), bytes);
            }
            self.bodies.remove(&id);
        }
    }

    fn relocate(&mut self, shard: ShardId, id: QueueId, from: Lsn, to: Lsn, segment_bytes: u64) {
        let Some(body) = self.bodies.get_mut(&id).filter(|body| body.shard == shard) else {
            return;
        };
        if let Some(bytes) = body.relocate(from, to) {
            subtract(&mut self.live, (shard, from.0 / segment_bytes), bytes);
            *self.live.entry((shard, to.0 / segment_bytes)).or_default() += bytes;
        }
    }

    fn change(&mut self, change: Change, segment_bytes: u64) -> Result<(), StoreError> {
        let (directory, edits) = self.directory.apply(change)?;
        self.directory = Arc::new(directory);
        for edit in &edits {
            self.edit(edit, segment_bytes);
        }
        Ok(())
    }

    fn edit(&mut self, edit: &Edit, segment_bytes: u64) {
        match edit {
            Edit::PutAccount(account, Some(keys)) => {
                self.keys.insert(account.mailbox, (**keys).clone());
            }
            Edit::PutAccount(account, None) if account.lock.sealed().is_none() => {
                self.keys.remove(&account.mailbox);
            }
            Edit::DropAccount { mailbox, .. } => {
                self.keys.remove(mailbox);
                for mailbox in mailbox.all() {
                    self.removed.insert(mailbox);
                    let all: Vec<u32> = self.of(mailbox).map(|message| message.uid.0).collect();
                    for uid in all {
                        self.delete(mailbox, uid, segment_bytes);
                    }
                }
            }
            _ => {}
        }
    }

    fn of(&self, mailbox: MailboxId) -> impl Iterator<Item = Message> {
        self.entries
            .range((mailbox, 0)..=(mailbox, u32::MAX))
            .map(|(&(_, uid), &(id, octets, _))| Message { id, octets, uid: Uid(uid) })
    }
}

fn subtract(live: &mut LiveBytes, key: (ShardId, u64), bytes: u64) {
    if let Some(sum) = live.get_mut(&key) {
        *sum -= bytes;
        if *sum == 0 {
            live.remove(&key);
        }
    }
}

impl State {
    fn persist(&mut self) {
        for delivery in self.pending.drain(..) {
            self.durable.deliver(&delivery, self.segment_bytes);
        }
    }

    /// Makes a change of both books, durably.
    fn both(&mut self, mut work: impl FnMut(&mut Book)) {
        self.persist();
        work(&mut self.durable);
        work(&mut self.now);
    }

    fn available(&self) -> Result<(), StoreError> {
        if self.busy || self.stopped { Err(StoreError::Busy) } else { Ok(()) }
    }
}

impl Memory {
    /// An empty one. `segment_bytes` is that of the spools; after each `persist_count` deliveries
    /// it persists by itself.
    #[must_use]
    pub fn new(segment_bytes: u64, persist_count: usize) -> Self {
        Self::with(segment_bytes, persist_count, Book::default())
    }

    fn with(segment_bytes: u64, persist_count: usize, book: Book) -> Self {
        Self(Rc::new(RefCell::new(State {
            segment_bytes,
            persist_count,
            durable: book.clone(),
            now: book,
            pending: Vec::new(),
            locks: Locks::default(),
            subscribers: Vec::new(),
            busy: false,
            stopped: false,
        })))
    }

    /// How many deliveries a crash would lose now.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// What is there after a crash that kept the first `kept_count` of the pending deliveries. All
    /// handles to the old one refuse from now on.
    #[must_use]
    pub fn crash(&self, kept_count: usize) -> Self {
        let mut state = self.0.borrow_mut();
        state.stopped = true;
        state.pending.truncate(kept_count);
        state.persist();
        Self::with(state.segment_bytes, state.persist_count, state.durable.clone())
    }

    /// While busy it gives deliveries back, and answers questions with [`StoreError::Busy`].
    pub fn set_busy(&self, busy: bool) {
        self.0.borrow_mut().busy = busy;
    }

    /// Calls `subscriber` now and after each change of the directory. It must not call back.
    pub fn subscribe(&self, subscriber: impl Fn(Arc<Directory>) + 'static) {
        let mut state = self.0.borrow_mut();
        subscriber(state.now.directory.clone());
        state.subscribers.push(Box::new(subscriber));
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bodies)", self.0.borrow().now.bodies.len())
    }
}

impl Sink for Memory {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        if state.available().is_err() {
            return Err(message);
        }
        let delivery = Delivery::new(&message, CHUNK_BYTES);
        state.now.deliver(&delivery, state.segment_bytes);
        state.pending.push(delivery);
        if state.pending.len() >= state.persist_count {
            state.persist();
        }
        Ok(())
    }
}

impl Liveness for Memory {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        let of_shard = state.now.live.range((shard, 0)..=(shard, u64::MAX));
        Ok(of_shard.map(|(&(_, number), &bytes)| (number, bytes)).collect())
    }

    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        let is_live = |&(id, lsn): &(QueueId, Lsn)| {
            let body = state.now.bodies.get(&id);
            body.is_some_and(|body| body.shard == shard && body.is_at(lsn))
        };
        Ok(records.iter().map(is_live).collect())
    }

    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        let mut state = self.0.borrow_mut();
        state.available()?;
        let segment_bytes = state.segment_bytes;
        state.both(|book| {
            for &(id, from, to) in records {
                book.relocate(shard, id, from, to, segment_bytes);
            }
        });
        Ok(())
    }

    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        let state = self.0.borrow();
        Ok(state.durable.applied.get(&shard).copied().unwrap_or_default())
    }
}

impl Registry for Memory {
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError> {
        let mut state = self.0.borrow_mut();
        state.available()?;
        state.now.directory.apply(change.clone())?;
        let segment_bytes = state.segment_bytes;
        state.both(|book| {
            // Checked above; both books have the same directory.
            let _ = book.change(change.clone(), segment_bytes);
        });
        for subscriber in &state.subscribers {
            subscriber(state.now.directory.clone());
        }
        Ok(state.now.directory.clone())
    }

    fn directory(&self) -> Arc<Directory> {
        self.0.borrow().now.directory.clone()
    }
}

impl Outgoing for Memory {
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        let queued = state.now.queued.iter();
        let behind = queued.filter(|(id, _)| id.shard() == shard && Some(**id) > after);
        let queued = behind.map(|(&id, (octets, _, state))| Queued {
            id,
            octets: *octets,
            state: state.clone(),
        });
        Ok(queued.take(count_max).collect())
    }

    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError> {
        let body = self.locate(id).await?;
        let state = self.0.borrow();
        let none = || StoreError::NotFound(format!("message {id}"));
        let (_, wrap, _) = state.now.queued.get(&id).ok_or_else(none)?;
        let key = wrap.and_then(|wrap| {
            let (_, window) = state.now.windows.get(&(MailboxId::QUEUE, wrap.window))?;
            Some(RecipientKey { wrap, window: Arc::clone(window) })
        });
        Ok(Found { body: body.into(), key })
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        check_states(&settlements)?;
        let mut state = self.0.borrow_mut();
        state.available()?;
        let segment_bytes = state.segment_bytes;
        state.both(|book| {
            for settlement in &settlements {
                book.settle(settlement, segment_bytes);
            }
        });
        Ok(())
    }
}

impl Uplink for Memory {}

impl Relief for Memory {}

impl Mailboxes for Memory {
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError> {
        let mut state = self.0.borrow_mut();
        state.available()?;
        if state.now.removed.contains(&mailbox) {
            return Err(StoreError::NotFound(format!("mailbox {}", mailbox.0)));
        }
        let hold = state.locks.take(mailbox)?;
        Ok(Maildrop::new(mailbox, state.now.of(mailbox).collect(), hold))
    }

    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError> {
        let mut state = self.0.borrow_mut();
        let deletions = maildrop.pick(deletions);
        if deletions.is_empty() {
            return Ok(());
        }
        state.available()?;
        let segment_bytes = state.segment_bytes;
        state.both(|book| {
            for message in &deletions {
                book.delete(maildrop.mailbox(), message.uid.0, segment_bytes);
            }
        });
        Ok(())
    }

    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        let body = self.locate(message.id).await?;
        let state = self.0.borrow();
        let none = || StoreError::NotFound(format!("message {}", message.id));
        let entry = state.now.entries.get(&(mailbox, message.uid.0));
        let (_, _, wrap) = entry.filter(|entry| entry.0 == message.id).ok_or_else(none)?;
        let key = wrap.and_then(|wrap| {
            let (_, window) = state.now.windows.get(&(mailbox, wrap.window))?;
            Some(RecipientKey { wrap, window: Arc::clone(window) })
        });
        Ok(Found { body: body.into(), key })
    }

    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        let keys = state.now.keys.get(&mailbox.account()).cloned();
        keys.ok_or_else(|| StoreError::NotFound(format!("the key pair of mailbox {}", mailbox.0)))
    }

    async fn rewrap(
        &self,
        mailbox: MailboxId,
        windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        let mut state = self.0.borrow_mut();
        state.available()?;
        state.both(|book| {
            for record in windows.iter().filter(|record| record.mailbox() == mailbox) {
                if let Some((_, kept)) = book.windows.get_mut(&(mailbox, record.id())) {
                    *kept = Arc::new(record.clone());
                }
            }
        });
        Ok(())
    }

    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        let body = state.now.bodies.get(&id);
        body.map(Body::place).ok_or_else(|| StoreError::NotFound(format!("message {id}")))
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        let state = self.0.borrow();
        state.available()?;
        Ok(state.now.of(mailbox).fold(Usage::default(), |sum, message| Usage {
            messages_count: sum.messages_count + 1,
            octets: sum.octets + message.octets,
        }))
    }

    async fn persist(&self) -> Result<(), StoreError> {
        let mut state = self.0.borrow_mut();
        state.available()?;
        state.persist();
        Ok(())
    }
}
