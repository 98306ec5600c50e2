//! The bridge of a node to Cassandra: mail is delivered, listed, read and deleted through it.
//!
//! Shards hold a [`Bridge`] each: a request goes into a bounded lock-free queue, a thread of its
//! own sends the statements (`mail`), the answer comes back through a one-shot channel, which any
//! executor can wait on. The process's main thread holds the [`BridgeKeeper`], which ends the
//! thread.
//!
//! Limits: 4,096 requests wait and 512 are under way; what they carry is at most 128 MiB; 16,384
//! visits at one time. Over each of them it is [`StoreError::Busy`]. A visit takes 24 bytes for
//! each of its messages, 1,000,000 of them at most. Failure: Cassandra that is away, or slower
//! than [`Terms::timeout`], is [`StoreError::Io`]: all is well again later, and each request may be
//! made again, whether it was carried out or not.

mod keeping;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use fsmtp_rt::{IoError, IoKind, UnixTime};
use fsmtp_store::directory::{Change, Directory};
use fsmtp_store::mailbox::{Delivery, Embedded, Message, Transit, Usage};
use fsmtp_store::seal::WindowRecord;
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, NodeNumber, QueueId, StoreError, Uid};
use futures_channel::oneshot;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cassandra::Terms;
use crate::keyspace::KeyspaceError;
use crate::redis::Counts;
use crate::relief::Relief;
pub(crate) use keeping::Desk;

/// Requests that wait.
const WAITING_MAX: usize = 4096;
/// Requests that are under way.
const UNDER_WAY_MAX: u32 = 512;
/// Bytes of messages that wait or are under way. One request always has room.
const CARRIED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The largest chunk of a body.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// What is kept of what went wrong.
const COMPLAINTS_MAX: usize = 100;

/// What time it is.
pub(crate) type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a shard asks of the thread.
pub(crate) enum Request {
    Chunk { id: QueueId, number: u32, data: Vec<u8>, charge: Charge, reply: Reply<()> },
    Deliver { delivery: Box<Delivery>, charge: Charge, reply: Reply<()> },
    Open { mailbox: MailboxId, reply: Reply<Visit> },
    Close { visit: Box<Visit>, deletions: Vec<Message>, reply: Reply<()> },
    Find { mailbox: MailboxId, id: QueueId, reply: Reply<Option<RecipientKey>> },
    Fetch { id: QueueId, number: u32, reply: Reply<Vec<u8>> },
    Rewrap { windows: Vec<WindowRecord>, reply: Reply<()> },
    Usage { mailbox: MailboxId, reply: Reply<Usage> },
    Purge { mailbox: MailboxId, reply: Reply<()> },
    CopyPiece { id: QueueId, number: u32, data: Vec<u8>, charge: Charge, reply: Reply<()> },
    Copy { node: NodeNumber, transit: Box<Transit>, charge: Charge, reply: Reply<()> },
    FindCopy { node: NodeNumber, id: QueueId, reply: Reply<Option<RecipientKey>> },
    FetchCopy { id: QueueId, number: u32, reply: Reply<Vec<u8>> },
    CopiedEnvelope { id: QueueId, reply: Reply<Vec<u8>> },
    Change { local: Embedded, change: Box<Change>, reply: Reply<Arc<Directory>> },
}

/// A node's copy of the directory, which the thread keeps up to what all nodes share.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Where it lies.
    pub local: Embedded,
    /// Whether the node may begin without the cluster, because it has been in it before.
    pub is_patient: bool,
}

/// A node of the cluster, as others see that it is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Post {
    /// Its number.
    pub node: NodeNumber,
    /// What its leases are held by: the same name for as long as its data folder is used, and no
    /// other node's.
    pub holder: String,
    /// How long others wait for a sign of it until they send its mail; whole seconds, 15 at least.
    pub patience: Duration,
    /// Its shards, each of which says when it has read its queue.
    pub shards_count: usize,
}

/// What went wrong, or is well again, where nobody waited for an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// A sentence about it.
    Trouble(String),
    /// Redis is left alone, and why.
    RedisAway(String),
    /// It answers again.
    RedisBack,
}

impl From<String> for Complaint {
    fn from(what: String) -> Self {
        Self::Trouble(what)
    }
}

/// Between the thread and everybody else.
pub(crate) struct Shared {
    requests: ArrayQueue<Request>,
    bell: Notify,
    carried_bytes: AtomicUsize,
    stop: AtomicBool,
    stopped: AtomicBool,
    complaints: Mutex<Vec<Complaint>>,
    pub(crate) clock: Clock,
    begun: (Instant, u64),
    ahead_ms: AtomicU64,
    /// What this node counts and others are to know.
    pub(crate) counts: Mutex<Option<Arc<dyn Counts>>>,
    /// Somebody has changed the directory.
    pub(crate) look: Notify,
    post: OnceLock<Post>,
    relief: Mutex<Option<Relief>>,
    /// Something of the node's turn has changed.
    pub(crate) duty: Notify,
    /// Something is to be written of outgoing mail.
    pub(crate) told: Notify,
}

impl Shared {
    fn new(waiting_max: usize, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            requests: ArrayQueue::new(waiting_max),
            bell: Notify::new(),
            carried_bytes: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            complaints: Mutex::default(),
            begun: (Instant::now(), clock().ms()),
            ahead_ms: AtomicU64::new(0),
            clock,
            counts: Mutex::default(),
            look: Notify::new(),
            post: OnceLock::new(),
            relief: Mutex::default(),
            duty: Notify::new(),
            told: Notify::new(),
        })
    }

    /// Milliseconds by a clock that never steps back, and does not stand still while the machine
    /// sleeps, as far as the wall clock tells: what leases are judged by.
    pub(crate) fn steady_ms(&self) -> u64 {
        let (begun, began_ms) = self.begun;
        let steady = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = (self.clock)().ms().saturating_sub(began_ms);
        let ahead = wall.saturating_sub(steady);
        let ahead = self.ahead_ms.fetch_max(ahead, Ordering::Relaxed).max(ahead);
        steady.saturating_add(ahead)
    }

    /// Which node this is, once somebody has said it.
    pub(crate) fn post(&self) -> Option<&Post> {
        self.post.get()
    }

    /// Asks, or changes, what this node knows of its turn to send mail; nothing where it keeps no
    /// copies.
    pub(crate) fn relief<T>(&self, ask: impl FnOnce(&mut Relief) -> T) -> Option<T> {
        self.relief.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(ask)
    }

    /// Notes what an operator should know of, where nobody waits for an answer.
    pub(crate) fn complain(&self, what: impl Into<Complaint>) {
        let mut all = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < COMPLAINTS_MAX {
            all.push(what.into());
        }
    }

    /// Drops what is in the queue: who has asked is told that nobody answers.
    fn drain(&self) {
        while self.requests.pop().is_some() {}
    }
}

/// The bytes that a request carries; given back when it is dropped.
pub(crate) struct Charge {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.carried_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A handle to the bridge; cheap to clone, good on every thread.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bridge({} wait)", self.shared.requests.len())
    }
}

impl Bridge {
    /// Connects, looks whether the keyspace is this program's, and brings `copy` up to what all
    /// nodes share; starts the thread. Blocks until it is ready; a patient one goes on without the
    /// cluster when that cannot be reached, and tries again every 5 s. `node` names this process in
    /// leases, for people who look at them; `clock` is asked by the thread, and must be quick.
    ///
    /// # Errors
    /// Why the cluster cannot be reached, or what is wrong with the keyspace.
    pub fn start(
        terms: &Terms,
        node: &str,
        clock: impl Fn() -> UnixTime + Send + Sync + 'static,
        copy: Option<Copy>,
    ) -> Result<(Self, BridgeKeeper), KeyspaceError> {
        let shared = Shared::new(WAITING_MAX, Arc::new(clock));
        let thread = keeping::start(&shared, terms, node, copy)?;
        let handle = Self { shared };
        Ok((handle.clone(), BridgeKeeper { handle, thread: Some(thread) }))
    }

    /// Keeps a chunk of a large message, from number 1 on; before it is delivered.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for number 0 or a chunk that is too long; those of the bridge.
    pub async fn put_chunk(
        &self,
        id: QueueId,
        number: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        if number == 0 || i32::try_from(number).is_err() {
            return Err(StoreError::Invalid("chunk 0 comes with the delivery".into()));
        }
        let charge = self.charge(&data)?;
        self.ask(|reply| Request::Chunk { id, number, data, charge, reply }).await
    }

    /// Brings a message into its mailboxes: it is there to stay when this answers. Who gets no
    /// answer, or an error, delivers the same again: it then is there once, and not at all where
    /// its reader has deleted it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a chunk that is too long, too many recipients, or one of
    /// [`MailboxId::QUEUE`], which is not kept there; those of the bridge.
    pub async fn deliver(&self, delivery: Delivery) -> Result<(), StoreError> {
        let charge = self.charge(&delivery.first)?;
        let delivery = Box::new(delivery);
        self.ask(|reply| Request::Deliver { delivery, charge, reply }).await
    }

    /// Opens a mailbox for one session of the cluster, with the messages that are in it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another session on any node has it (RFC 1939 §4); those of the
    /// bridge.
    pub async fn open(&self, mailbox: MailboxId) -> Result<Visit, StoreError> {
        self.ask(|reply| Request::Open { mailbox, reply }).await
    }

    /// Ends the session and removes those messages durably; what is not in it is passed over. The
    /// mailbox is free again when this answers.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when the mailbox was lost to another session, because Cassandra was
    /// away for too long: nothing was removed then. Those of the bridge: some may be removed, the
    /// others are there still.
    pub async fn close(&self, visit: Visit, deletions: Vec<Message>) -> Result<(), StoreError> {
        let visit = Box::new(visit);
        self.ask(|reply| Request::Close { visit, deletions, reply }).await
    }

    /// What opens a message of `mailbox` for its owner; none when it lies in clear.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the mailbox has it no more; [`StoreError::Corrupt`] when its
    /// window is not there or not one; those of the bridge.
    pub async fn find(
        &self,
        mailbox: MailboxId,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        self.ask(|reply| Request::Find { mailbox, id, reply }).await
    }

    /// A chunk of a message's body.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not there; those of the bridge.
    pub async fn fetch(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        self.ask(|reply| Request::Fetch { id, number, reply }).await
    }

    /// Keeps windows of `mailbox` in the form that its own key opens; those of other mailboxes are
    /// passed over: a session writes for its own only.
    ///
    /// # Errors
    /// Those of the bridge; then the next visit opens them by RSA again.
    pub async fn rewrap(
        &self,
        mailbox: MailboxId,
        mut windows: Vec<WindowRecord>,
    ) -> Result<(), StoreError> {
        windows.retain(|window| window.mailbox() == mailbox);
        self.ask(|reply| Request::Rewrap { windows, reply }).await
    }

    /// How much is in a mailbox; all its rows are read, and no lease is taken.
    ///
    /// # Errors
    /// Those of the bridge.
    pub async fn usage(&self, mailbox: MailboxId) -> Result<Usage, StoreError> {
        self.ask(|reply| Request::Usage { mailbox, reply }).await
    }

    /// Removes everything of a mailbox whose account was removed, whoever has it open. Nobody may
    /// deliver into it any more: what comes meanwhile may stay, where nobody sees it.
    ///
    /// # Errors
    /// Those of the bridge; then some may be there still.
    pub async fn purge(&self, mailbox: MailboxId) -> Result<(), StoreError> {
        self.ask(|reply| Request::Purge { mailbox, reply }).await
    }

    /// Makes a change of the directory for all nodes, then in the node's copy.
    ///
    /// # Errors
    /// As [`Registry::change`](fsmtp_store::mailbox::Registry::change); [`StoreError::Busy`] when
    /// other nodes were quicker; those of the bridge.
    pub async fn change(
        &self,
        local: &Embedded,
        change: Change,
    ) -> Result<Arc<Directory>, StoreError> {
        let (local, change) = (local.clone(), Box::new(change));
        self.ask(|reply| Request::Change { local, change, reply }).await
    }

    /// From now on this node keeps copies of its outgoing mail in the cluster, and stands in for
    /// nodes that are gone. Once; the thread begins with it when the cluster is there.
    pub fn take_up(&self, post: Post) {
        let relief = Relief::new(post.node, post.shards_count);
        self.shared.relief.lock().unwrap_or_else(PoisonError::into_inner).replace(relief);
        // Who says it twice says the same.
        let _ = self.shared.post.set(post);
        self.shared.duty.notify_one();
    }

    /// What this node knows of its turn to send mail; nothing where it keeps no copies.
    pub(crate) fn relief<T>(&self, ask: impl FnOnce(&mut Relief) -> T) -> Option<T> {
        self.shared.relief(ask)
    }

    /// Milliseconds by a clock that never steps.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.shared.steady_ms()
    }

    /// Has the thread look at what has changed.
    pub(crate) fn ring(&self, has_told: bool) {
        if has_told {
            self.shared.told.notify_one();
        } else {
            self.shared.duty.notify_one();
        }
    }

    /// Keeps a piece of a copy of outgoing mail, from number 1 on.
    ///
    /// # Errors
    /// As [`Self::put_chunk`].
    pub(crate) async fn copy_piece(
        &self,
        id: QueueId,
        number: u32,
        data: Vec<u8>,
    ) -> Result<(), StoreError> {
        let charge = self.charge(&data)?;
        self.ask(|reply| Request::CopyPiece { id, number, data, charge, reply }).await
    }

    /// Makes a copy of outgoing mail of this node, after its further pieces.
    ///
    /// # Errors
    /// As [`Self::deliver`].
    pub(crate) async fn copy(&self, node: NodeNumber, transit: Transit) -> Result<(), StoreError> {
        let charge = self.charge(&transit.first)?;
        let transit = Box::new(transit);
        self.ask(|reply| Request::Copy { node, transit, charge, reply }).await
    }

    /// What opens outgoing mail of a node.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no copy; those of the bridge.
    pub(crate) async fn find_copy(
        &self,
        node: NodeNumber,
        id: QueueId,
    ) -> Result<Option<RecipientKey>, StoreError> {
        self.ask(|reply| Request::FindCopy { node, id, reply }).await
    }

    /// A piece of a copy.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not there; those of the bridge.
    pub(crate) async fn fetch_copy(&self, id: QueueId, number: u32) -> Result<Vec<u8>, StoreError> {
        self.ask(|reply| Request::FetchCopy { id, number, reply }).await
    }

    /// The envelope of a copy.
    ///
    /// # Errors
    /// As [`Self::fetch_copy`].
    pub(crate) async fn copied_envelope(&self, id: QueueId) -> Result<Vec<u8>, StoreError> {
        self.ask(|reply| Request::CopiedEnvelope { id, reply }).await
    }

    /// Shares what this node counts with the others, where there is a Redis.
    pub fn share(&self, counts: Arc<dyn Counts>) {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).replace(counts);
    }

    /// What went wrong where nobody waited for an answer, for a log; 100 at most.
    #[must_use]
    pub fn take_complaints(&self) -> Vec<Complaint> {
        let mut all = self.shared.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut all)
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let shared = &self.shared;
        let (reply, answer) = oneshot::channel();
        if shared.requests.push(make(reply)).is_err() {
            return Err(StoreError::Busy);
        }
        shared.bell.notify_one();
        if shared.stopped.load(Ordering::SeqCst) {
            // The thread may have drained the queue before the push.
            shared.drain();
        }
        let gone = || IoError::new(IoKind::Closed, "ask", "Cassandra: there is no way there");
        answer.await.unwrap_or_else(|oneshot::Canceled| Err(gone().into()))
    }

    /// Room for what a request carries.
    fn charge(&self, data: &[u8]) -> Result<Charge, StoreError> {
        let bytes = data.len();
        if bytes > CHUNK_BYTES_MAX {
            return Err(StoreError::Invalid("a chunk is too long".into()));
        }
        let before = self.shared.carried_bytes.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge { shared: Arc::clone(&self.shared), bytes };
        if before > 0 && before + bytes > CARRIED_BYTES_MAX {
            return Err(StoreError::Busy);
        }
        Ok(charge)
    }
}

/// Owns the thread of the bridge. Dropping it ends the thread: what waits is refused, what is under
/// way has twice [`Terms::timeout`] to end, and mailboxes that are open are given back.
#[derive(Debug)]
pub struct BridgeKeeper {
    handle: Bridge,
    thread: Option<JoinHandle<()>>,
}

impl Drop for BridgeKeeper {
    fn drop(&mut self) {
        self.handle.shared.stop.store(true, Ordering::SeqCst);
        self.handle.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened; all who wait were told.
            let _ = thread.join();
        }
    }
}

/// A mailbox that one session of the cluster has for itself: the messages that were in it when it
/// was opened, by rising id.
///
/// Dropping it gives the mailbox back and removes nothing. Where the process ends without that, it
/// is free a minute later.
pub struct Visit {
    pub(crate) listing: Listing,
    /// When it was opened, by the clock of the bridge; in milliseconds since 1970.
    pub(crate) opened_ms: u64,
    /// Until when the mailbox is surely this session's; 0 when it was lost.
    pub(crate) safe_until_ms: Arc<AtomicU64>,
    /// Dropping it ends the lease; who sends through it is told when that is done.
    pub(crate) hold: oneshot::Sender<oneshot::Sender<()>>,
}

/// What is in a mailbox.
pub(crate) struct Listing {
    pub(crate) mailbox: MailboxId,
    /// By rising id.
    pub(crate) messages: Vec<Message>,
    /// Which of them other mailboxes have, or had, too; rising.
    pub(crate) shared: Vec<QueueId>,
    /// Which names are in `late`; rising.
    pub(crate) late: Vec<QueueId>,
    /// The weeks that it has.
    pub(crate) weeks: Vec<i32>,
    pub(crate) mark: QueueId,
    /// The next uid as it is stored, and the first one that this visit has given.
    pub(crate) uids: (Option<i32>, Uid),
    /// Whether there are more messages behind these.
    pub(crate) is_cut: bool,
}

impl Visit {
    /// Whose it is.
    #[must_use]
    pub const fn mailbox(&self) -> MailboxId {
        self.listing.mailbox
    }

    /// The messages, by rising id. A message that has no uid yet is numbered behind all others;
    /// what this visit has given is kept when it is closed.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.listing.messages
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Visit({}, {} messages)", self.mailbox().0, self.messages().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::pin::pin;
    use core::task::{Context, Poll, Waker};

    fn bridge(waiting_max: usize) -> Bridge {
        Bridge { shared: Shared::new(waiting_max, Arc::new(|| UnixTime::from_ms(0))) }
    }

    fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_full_queue_is_busy() {
        let bridge = bridge(2);
        let mut waiting = pin!(bridge.usage(MailboxId(1)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(poll(bridge.usage(MailboxId(2))).is_pending());
        assert!(matches!(poll(bridge.usage(MailboxId(3))), Poll::Ready(Err(StoreError::Busy))));
        // What is asked of a thread that has ended is refused, and so is what has waited for it.
        bridge.shared.stopped.store(true, Ordering::SeqCst);
        bridge.shared.drain();
        assert!(matches!(waiting.poll(&mut context), Poll::Ready(Err(StoreError::Io(_)))));
        assert!(matches!(poll(bridge.fetch(QueueId(1), 0)), Poll::Ready(Err(StoreError::Io(_)))));
    }

    #[test]
    fn what_requests_carry_is_bounded() {
        let bridge = bridge(4096);
        let chunk = |bytes| poll(bridge.put_chunk(QueueId(1), 1, vec![0; bytes]));
        assert!(matches!(chunk(CHUNK_BYTES_MAX + 1), Poll::Ready(Err(StoreError::Invalid(_)))));
        let refused = poll(bridge.put_chunk(QueueId(1), 0, Vec::new()));
        assert!(matches!(refused, Poll::Ready(Err(StoreError::Invalid(_)))));
        let room = CARRIED_BYTES_MAX - CHUNK_BYTES_MAX;
        bridge.shared.carried_bytes.store(room, Ordering::Relaxed);
        assert!(chunk(CHUNK_BYTES_MAX).is_pending());
        assert!(matches!(chunk(1), Poll::Ready(Err(StoreError::Busy))));
        assert!(chunk(0).is_pending() || bridge.shared.requests.is_full());
        bridge.shared.drain();
        assert_eq!(bridge.shared.carried_bytes.load(Ordering::Relaxed), room);
    }
}
