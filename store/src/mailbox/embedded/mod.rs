//! The embedded mailbox index: tables in one file, owned by one thread.
//!
//! Shards hold an [`Embedded`] each: a delivery goes into the shard's own bounded lock-free queue,
//! a question into a common one, answers come back through one-shot channels. The process's main
//! thread holds the [`Keeper`], which ends the thread.
//!
//! Limits: [`Options`]. Memory: the cache; two generations of at most twice `merge_count`
//! deliveries, some 250 bytes each; the queues; the directory; a few bytes for each segment and
//! each removed account. Failure: a full queue gives the delivery back (the spool offers it again)
//! or answers [`StoreError::Busy`]; after a failed transaction everything is answered with
//! [`StoreError::Poisoned`]. A damaged row of a mailbox is named once
//! ([`take_damage`](Embedded::take_damage)) and passed over: a list lacks its message, compaction
//! keeps what cannot be accounted for, all others are served. Damage in the format or the directory
//! refuses to open.

mod bell;
mod bits;
mod damage;
mod front;
mod opening;
mod queue;
mod reading;
mod request;
mod slotfile;
mod slots;
mod tables;
#[cfg(test)]
mod tests;
mod thread;
mod work;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use fsmtp_rt::{IoError, IoKind};
use futures_channel::oneshot;
use zeroize::Zeroizing;

use super::pending::Delivery;
use super::{
    Found, Liveness, Mailboxes, Maildrop, Message, Outgoing, Queued, Registry, Relief, Settlement,
    Uplink, Usage,
};
use crate::directory::{Change, Directory, Limits};
use crate::seal::{UserKeys, WindowRecord};
use crate::spool::{BodyRef, Committed, Sink};
use crate::{Lsn, MailboxId, QueueId, ShardId, StoreError, Uid};
use bell::Bell;
use damage::Damages;
use opening::Wanted;
use queue::Line;
use request::{Read, Reply, Request, Write};
use tables::Tables;
use thread::Index;

/// How the index is laid out and how it works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many shards deliver.
    pub shards_count: u16,
    /// Length of the spools' segments, for a new folder; see [`Embedded::segment_bytes`].
    pub segment_bytes: u64,
    /// Length of the spools' chunks.
    pub chunk_bytes: u64,
    /// Memory for pages of the tables.
    pub cache_bytes: usize,
    /// A transaction merges when so many entries were gathered. More make deliveries cheaper and
    /// the pauses of readers longer.
    pub merge_count: usize,
    /// Or when a delivery has waited so long.
    pub merge_after: Duration,
    /// The pause between two rounds while deliveries come.
    pub nap: Duration,
    /// Deliveries that each shard's queue holds, some 200 bytes each.
    pub queue_count: usize,
    /// Recipients of the deliveries in all queues: 256 Ki are some 30 MB, 100 MB when none share a
    /// window. One delivery always has room.
    pub queued_recipients_max: usize,
    /// Requests that may wait.
    pub requests_count: usize,
    /// Messages that a maildrop shows at most, 24 bytes each; the oldest come first.
    pub maildrop_messages_max: usize,
    /// How much the directory may hold.
    pub limits: Limits,
    /// Keys of accounts at most, 128 bytes of the file each: one for each account, and one more
    /// for each that changes at one time.
    pub slots_count_max: u32,
}

impl Options {
    /// The usual values for so many shards.
    #[must_use]
    pub fn new(shards_count: u16) -> Self {
        Self {
            shards_count,
            segment_bytes: 64 * 1024 * 1024,
            chunk_bytes: 64 * 1024,
            cache_bytes: 16 * 1024 * 1024,
            merge_count: 16 * 1024,
            merge_after: Duration::from_secs(1),
            nap: Duration::from_millis(10),
            queue_count: 4096,
            queued_recipients_max: 256 * 1024,
            requests_count: 4096,
            maildrop_messages_max: 1_000_000,
            limits: Limits::default(),
            slots_count_max: 1 << 20,
        }
    }

    const fn wanted(&self) -> Wanted {
        Wanted {
            cache_bytes: self.cache_bytes,
            segment_bytes: self.segment_bytes,
            limits: self.limits,
            slots_count_max: self.slots_count_max,
        }
    }

    /// Where the thread stops taking deliveries until a transaction has made room.
    const fn pending_max(&self) -> usize {
        self.merge_count.saturating_mul(2)
    }

    fn check(&self) -> Result<(), StoreError> {
        let wrong = |what: &str| Err(StoreError::Invalid(format!("mailbox index: {what}")));
        if self.shards_count == 0 || self.shards_count > ShardId::MAX + 1 {
            return wrong("there are 1 to 1024 shards");
        }
        if self.segment_bytes == 0 {
            return wrong("segment_bytes must be the length of the spools' segments");
        }
        if self.merge_count == 0
            || self.queue_count == 0
            || self.requests_count == 0
            || self.maildrop_messages_max == 0
        {
            return wrong("a bound of 0 would let nothing pass");
        }
        Ok(())
    }
}

type Subscriber = Box<dyn Fn(Arc<Directory>) + Send>;

/// The newest directory, and who wants to know of newer ones.
struct Published {
    directory: Arc<Directory>,
    subscribers: Vec<Subscriber>,
}

/// Between the thread and everybody else.
struct Shared {
    queues: Box<[ArrayQueue<Delivery>]>,
    requests: ArrayQueue<Request>,
    /// Recipients of the deliveries in all queues.
    queued_recipients: AtomicUsize,
    queued_recipients_max: usize,
    bell: Bell,
    chunk_bytes: u64,
    segment_bytes: u64,
    secret: Zeroizing<[u8; 32]>,
    /// The durable marks by shard.
    applied: Box<[AtomicU64]>,
    published: Mutex<Published>,
    stop: AtomicBool,
    stopped: AtomicBool,
    failure: OnceLock<StoreError>,
    damages: Arc<Damages>,
    deliveries_count: AtomicU64,
    merges_count: AtomicU64,
}

impl Shared {
    fn has_work(&self) -> bool {
        !self.requests.is_empty()
            || self.queues.iter().any(|queue| !queue.is_empty())
            || self.stop.load(Ordering::SeqCst)
    }

    fn is_closed(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.failure.get().is_some()
    }

    /// Why nobody answers.
    fn gone(&self) -> StoreError {
        let ended = || IoError::new(IoKind::Closed, "ask", "the mailbox index, which has ended");
        self.failure.get().cloned().unwrap_or_else(|| StoreError::Io(ended()))
    }

    /// Refuses what is in the queue of requests.
    fn drain(&self) {
        while let Some(request) = self.requests.pop() {
            request.refuse(self.gone());
        }
    }

    fn applied(&self, shard: ShardId) -> Lsn {
        Lsn(self.applied.get(usize::from(shard.0)).map_or(0, |lsn| lsn.load(Ordering::Acquire)))
    }

    fn set_applied(&self, shard: ShardId, lsn: Lsn) {
        if let Some(applied) = self.applied.get(usize::from(shard.0)) {
            applied.store(lsn.0, Ordering::Release);
        }
    }

    fn publish(&self, directory: &Arc<Directory>) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.directory = Arc::clone(directory);
        for subscriber in &published.subscribers {
            subscriber(Arc::clone(directory));
        }
    }
}

/// Figures since the index was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Deliveries taken in.
    pub deliveries_count: u64,
    /// Transactions, each with one sync of the table file or two.
    pub merges_count: u64,
    /// Times that a delivery had to wake the thread.
    pub wakes_count: u64,
    /// Deliveries in the queues now.
    pub queued_count: usize,
    /// Damaged rows that were come across, each once; no more than a thousand are told apart.
    pub damaged_count: usize,
}

/// A handle to the index; cheap to clone, good on every thread.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// Owns the thread of the index. Dropping it ends the thread as [`Keeper::close`] does.
#[derive(Debug)]
pub struct Keeper {
    handle: Embedded,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the index in `folder`, which must exist, making it when there is none; starts its
    /// thread. Blocks until it is ready.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for options that make no sense, or when another process has it open;
    /// [`StoreError::Version`]; [`StoreError::Corrupt`]; [`StoreError::Io`].
    pub fn open(folder: &Path, mut options: Options) -> Result<(Self, Keeper), StoreError> {
        options.check()?;
        let (tables, mut loaded) = Tables::open(folder, options.wanted())?;
        options.segment_bytes = loaded.segment_bytes;
        let directory = Arc::new(core::mem::take(&mut loaded.directory));
        let applied: Vec<AtomicU64> = (0..=ShardId::MAX)
            .map(|shard| loaded.applied.get(&ShardId(shard)).map_or(0, |lsn| lsn.0))
            .map(AtomicU64::new)
            .collect();
        let queue = |_| ArrayQueue::new(options.queue_count);
        let shared = Arc::new(Shared {
            queues: (0..options.shards_count).map(queue).collect(),
            requests: ArrayQueue::new(options.requests_count),
            queued_recipients: AtomicUsize::new(0),
            queued_recipients_max: options.queued_recipients_max,
            bell: Bell::default(),
            chunk_bytes: options.chunk_bytes,
            segment_bytes: options.segment_bytes,
            secret: core::mem::take(&mut loaded.secret),
            applied: applied.into_boxed_slice(),
            published: Mutex::new(Published {
                directory: Arc::clone(&directory),
                subscribers: Vec::new(),
            }),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            failure: OnceLock::new(),
            damages: Arc::clone(tables.damages()),
            deliveries_count: AtomicU64::new(0),
            merges_count: AtomicU64::new(0),
        });
        let index = Index::new(Arc::clone(&shared), tables, loaded, options, directory);
        let thread = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || index.run())
            .map_err(|error| IoError::from_io(&error, "start", "the thread of the index"))?;
        let handle = Self { shared };
        Ok((handle.clone(), Keeper { handle, thread: Some(thread) }))
    }

    /// The mark of a shard, for opening its spool: see [`Liveness::applied`].
    #[must_use]
    pub fn mark(&self, shard: ShardId) -> Lsn {
        self.shared.applied(shard)
    }

    /// Length of the spools' segments: that of the options when the folder was made, and the same
    /// for as long as it lives. The spools must be opened with it.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.shared.segment_bytes
    }

    /// Random bytes that the folder was made with: they stay for as long as it lives, and leave it
    /// for nobody.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.shared.secret
    }

    /// Calls `subscriber` now, and on the index's thread after each change of the directory. It
    /// must be quick and must not call back.
    pub fn subscribe(&self, subscriber: impl Fn(Arc<Directory>) + Send + 'static) {
        let mut published = self.shared.published.lock().unwrap_or_else(PoisonError::into_inner);
        subscriber(Arc::clone(&published.directory));
        published.subscribers.push(Box::new(subscriber));
    }

    /// Why the index has ended, if it has; nothing is delivered or found any more then.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.shared.is_closed().then(|| self.shared.gone())
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        Counters {
            deliveries_count: shared.deliveries_count.load(Ordering::Relaxed),
            merges_count: shared.merges_count.load(Ordering::Relaxed),
            wakes_count: shared.bell.wakes_count(),
            queued_count: shared.queues.iter().map(ArrayQueue::len).sum(),
            damaged_count: shared.damages.count(),
        }
    }

    /// The damaged rows that were come across since the last call, each once: sentences for a log,
    /// which name table and key. Everything else is served.
    #[must_use]
    pub fn take_damage(&self) -> Vec<StoreError> {
        self.shared.damages.take()
    }

    /// Messages of a shard that wait to be [uploaded](MailboxId::UPLOAD), behind `after`, by rising
    /// name, at most `count_max`: those that the sink was given before the last
    /// [`persist`](Mailboxes::persist), perhaps more. [`Settlement::Uploaded`] takes them out.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or those of the storage. A row that is damaged is passed over.
    pub async fn awaiting(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let line = Line::Up;
        self.read(|reply| Read::Queued { line, shard, after, count_max, reply }).await
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let shared = &self.shared;
        let (reply, answer) = oneshot::channel();
        if shared.requests.push(make(reply)).is_err() {
            return Err(StoreError::Busy);
        }
        shared.bell.ring();
        if shared.stopped.load(Ordering::SeqCst) {
            // The thread may have drained the queue before the push.
            shared.drain();
        }
        answer.await.unwrap_or_else(|oneshot::Canceled| Err(shared.gone()))
    }

    async fn read<T>(&self, make: impl FnOnce(Reply<T>) -> Read) -> Result<T, StoreError> {
        self.ask(|reply| Request::Read(make(reply))).await
    }

    async fn write<T>(&self, make: impl FnOnce(Reply<T>) -> Write) -> Result<T, StoreError> {
        self.ask(|reply| Request::Write(make(reply))).await
    }
}

impl Keeper {
    /// Takes in what is queued, makes everything durable, and ends the thread. What shards deliver
    /// meanwhile or later is given back to them; their spools have it.
    ///
    /// # Errors
    /// What had failed before, or the last transaction.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.end();
        self.handle.shared.failure.get().cloned().map_or(Ok(()), Err)
    }

    fn end(&mut self) {
        self.handle.shared.stop.store(true, Ordering::SeqCst);
        self.handle.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened; all who wait were told.
            let _ = thread.join();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Embedded").field(&self.counters()).finish()
    }
}

impl Sink for Embedded {
    fn committed(&self, message: Committed) -> Result<(), Committed> {
        let shared = &self.shared;
        // A shard that no longer exists may still have mail in its log to replay.
        let index = usize::from(message.shard.0) % shared.queues.len().max(1);
        let Some(queue) = shared.queues.get(index) else { return Err(message) };
        if shared.is_closed() || queue.is_full() {
            return Err(message);
        }
        // Messages for very many weigh more than their number says. One always has room.
        let count = message.recipients.len();
        let before = shared.queued_recipients.fetch_add(count, Ordering::Relaxed);
        let too_many = before > 0 && before + count > shared.queued_recipients_max;
        if too_many {
            shared.queued_recipients.fetch_sub(count, Ordering::Relaxed);
            return Err(message);
        }
        match queue.push(Delivery::new(&message, shared.chunk_bytes)) {
            Ok(()) => {
                shared.bell.nudge();
                Ok(())
            }
            Err(_) => {
                shared.queued_recipients.fetch_sub(count, Ordering::Relaxed);
                Err(message)
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.shared.is_closed()
    }
}

impl Liveness for Embedded {
    async fn live_bytes(&self, shard: ShardId) -> Result<BTreeMap<u64, u64>, StoreError> {
        self.read(|reply| Read::LiveBytes { shard, reply }).await
    }

    async fn live(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn)],
    ) -> Result<Vec<bool>, StoreError> {
        let records = records.to_vec();
        self.read(|reply| Read::Live { shard, records, reply }).await
    }

    async fn moved(
        &self,
        shard: ShardId,
        records: &[(QueueId, Lsn, Lsn)],
    ) -> Result<(), StoreError> {
        let records = records.to_vec();
        self.write(|reply| Write::Moved { shard, records, reply }).await
    }

    async fn applied(&self, shard: ShardId) -> Result<Lsn, StoreError> {
        Ok(self.shared.applied(shard))
    }
}

impl Registry for Embedded {
    async fn change(&self, change: Change) -> Result<Arc<Directory>, StoreError> {
        self.write(|reply| Write::Change { change, reply }).await
    }

    fn directory(&self) -> Arc<Directory> {
        let published = self.shared.published.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&published.directory)
    }
}

impl Outgoing for Embedded {
    async fn queued(
        &self,
        shard: ShardId,
        after: Option<QueueId>,
        count_max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        let line = Line::Out;
        self.read(|reply| Read::Queued { line, shard, after, count_max, reply }).await
    }

    async fn find_queued(&self, id: QueueId) -> Result<Found, StoreError> {
        self.read(|reply| Read::FindQueued { id, reply }).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<(), StoreError> {
        if settlements.is_empty() {
            return Ok(());
        }
        super::check_states(&settlements)?;
        self.write(|reply| Write::Settle { settlements, reply }).await
    }
}

impl Uplink for Embedded {}

impl Relief for Embedded {}

impl Mailboxes for Embedded {
    async fn open(&self, mailbox: MailboxId) -> Result<Maildrop, StoreError> {
        self.read(|reply| Read::Open { mailbox, reply }).await
    }

    async fn close(&self, maildrop: Maildrop, deletions: Vec<Uid>) -> Result<(), StoreError> {
        if deletions.is_empty() {
            return Ok(());
        }
        self.write(|reply| Write::Close { maildrop, deletions, reply }).await
    }

    async fn find(&self, mailbox: MailboxId, message: Message) -> Result<Found, StoreError> {
        self.read(|reply| Read::Find { mailbox, message, reply }).await
    }

    async fn user_keys(&self, mailbox: MailboxId) -> Result<UserKeys, StoreError> {
        self.read(|reply| Read::Keys { mailbox, reply }).await
    }

    async fn rewrap(
        &self,
        mailbox: MailboxId,
        mut windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        windows.retain(|window| window.mailbox() == mailbox);
        self.write(|reply| Write::Rewrap { windows, reply }).await
    }

    async fn locate(&self, id: QueueId) -> Result<BodyRef, StoreError> {
        self.read(|reply| Read::Locate { id, reply }).await
    }

    async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        self.read(|reply| Read::Usage { mailbox, reply }).await
    }

    async fn persist(&self) -> Result<(), StoreError> {
        self.write(|reply| Write::Persist { reply }).await
    }
}
