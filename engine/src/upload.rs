//! The way of local mail from the spool into the cluster.
//!
//! Each shard has a [`Tap`] between its spool and its mailboxes: mail for local mailboxes is marked
//! as mail that waits ([`MailboxId::UPLOAD`]), and remembered. Tasks of the shard take it from
//! there, read it from the spool as it lies there, sealed or in clear, and put it into the cluster;
//! what is there is taken out of the spool's index in batches.
//!
//! Where mail counts as accepted only when the cluster has it (`durability = "cluster"`), its
//! sender waits for that ([`Watch`]), [`PATIENCE`] at most.
//!
//! Limits: [`FRESH_MAX`] messages are remembered, some 100 bytes each, [`WORKERS`] are under way, a
//! piece of each in memory. What comes beyond that, and what the cluster has not taken, waits in
//! the index, from where it is read again once the cluster takes mail and nothing fresh waits. So a
//! cluster that is away costs disk, not memory. Failure: everything is tried again for ever; a
//! message that cannot be read is said once for each try and stays.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fsmtp_rt::{Class, Runtime};
use fsmtp_store::mailbox::{Delivery, Mailboxes, Settlement};
use fsmtp_store::spool::{BodyRef, Committed, Reader, Recipient, Sink};
use fsmtp_store::{MailboxId, QueueId, ShardId, StoreError};

use crate::log::Event;
use crate::shard::Shard;
use crate::start::first;

/// Messages that are remembered by a shard.
const FRESH_MAX: usize = 4096;
/// Messages that a shard uploads at one time.
const WORKERS: usize = 64;
/// Messages that are taken out of the index at one time.
const SETTLED_MAX: usize = 512;
/// How long those wait for others.
const SETTLE_AFTER: Duration = Duration::from_millis(100);
/// How long a worker waits after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked for messages that wait in the index.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How many of these are listed at one time.
const LISTED_COUNT: usize = 256;
/// How long a sender waits for the cluster, where mail counts as accepted when that has it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the place of a message that moves is looked up.
const LOOKUPS_MAX: usize = 3;

/// A message that waits; where it lies, when that is known.
struct Waiting {
    id: QueueId,
    octets: u64,
    body: Option<BodyRef>,
}

/// What somebody waits for.
#[derive(Default)]
struct Watched {
    arrived: bool,
    waker: Option<Waker>,
}

/// What a shard has to upload.
#[derive(Default)]
pub(crate) struct Uploads {
    waiting: RefCell<VecDeque<Waiting>>,
    wakers: RefCell<Vec<Waker>>,
    /// There, and to be taken out of the index.
    done: RefCell<Vec<QueueId>>,
    /// Messages whose senders wait until the cluster has them.
    watched: RefCell<BTreeMap<QueueId, Watched>>,
    /// Messages whose senders were told to come again.
    withdrawn: RefCell<BTreeSet<QueueId>>,
    /// Some wait in the index only.
    missed: Cell<bool>,
    under_way: Cell<usize>,
    /// The cluster took nothing at the last try.
    failing: Cell<bool>,
}

impl Uploads {
    fn push(&self, waiting: Waiting) -> bool {
        let mut queue = self.waiting.borrow_mut();
        if queue.len() >= FRESH_MAX {
            return false;
        }
        queue.push_back(waiting);
        drop(queue);
        if let Some(waker) = self.wakers.borrow_mut().pop() {
            waker.wake();
        }
        true
    }

    async fn next(&self) -> Waiting {
        poll_fn(|cx| match self.waiting.borrow_mut().pop_front() {
            Some(waiting) => Poll::Ready(waiting),
            None => {
                self.wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
            && self.under_way.get() == 0
            && self.done.borrow().is_empty()
    }
}

/// Watches a message until the cluster has it; to be made before it is committed.
pub(crate) struct Watch {
    uploads: Rc<Uploads>,
    id: QueueId,
}

impl Uploads {
    pub(crate) fn watch(uploads: &Rc<Self>, id: QueueId) -> Watch {
        uploads.watched.borrow_mut().insert(id, Watched::default());
        Watch { uploads: Rc::clone(uploads), id }
    }

    /// It is not to be uploaded, unless that is under way.
    fn withdraw(&self, id: QueueId) {
        let mut withdrawn = self.withdrawn.borrow_mut();
        if withdrawn.len() >= FRESH_MAX {
            withdrawn.clear();
        }
        withdrawn.insert(id);
    }

    /// The cluster has it.
    fn arrived(&self, id: QueueId) {
        self.done.borrow_mut().push(id);
        if let Some(watched) = self.watched.borrow_mut().get_mut(&id) {
            watched.arrived = true;
            if let Some(waker) = watched.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Watch {
    /// Waits until the cluster has it. Else it is taken out of the spool, so that it is not
    /// delivered beside what its sender sends again; what the cluster has taken without saying so
    /// may be there twice.
    ///
    /// # Errors
    /// When it is not there in time.
    pub(crate) async fn arrived<R: Runtime, M: Mailboxes>(
        self,
        shard: &Shard<R, M>,
    ) -> Result<(), String> {
        let deadline = pin!(shard.rt.sleep_until(shard.rt.now() + PATIENCE));
        let there = pin!(poll_fn(|cx| {
            let mut all = self.uploads.watched.borrow_mut();
            match all.get_mut(&self.id) {
                Some(watched) if !watched.arrived => {
                    watched.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        }));
        first(there, deadline).await;
        let is_there =
            self.uploads.watched.borrow().get(&self.id).is_none_or(|watched| watched.arrived);
        if is_there {
            return Ok(());
        }
        self.uploads.withdraw(self.id);
        // When the index does not take it now, a restart may deliver it.
        let gone = vec![Settlement::Uploaded(self.id), Settlement::Done(self.id)];
        let _ = shard.mailboxes.settle(gone).await;
        Err(format!("no quorum within {} s", PATIENCE.as_secs()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.uploads.watched.borrow_mut().remove(&self.id);
    }
}

/// What stands between a spool and mailboxes in a cluster.
pub(crate) struct Tap<M> {
    pub(crate) mailboxes: M,
    pub(crate) uploads: Rc<Uploads>,
}

impl<M: Mailboxes> Sink for Tap<M> {
    fn committed(&self, mut message: Committed) -> Result<(), Committed> {
        if message.recipients.iter().all(|to| to.mailbox.is_nobodys()) {
            return self.mailboxes.committed(message);
        }
        message.recipients.retain(|to| to.mailbox.is_nobodys());
        message.recipients.push(Recipient { mailbox: MailboxId::UPLOAD, key: None });
        let Committed { id, shard, lsn, octets, .. } = message;
        let body = BodyRef { id, shard, lsn, chunks: message.chunks.clone() };
        self.mailboxes.committed(message)?;
        if !self.uploads.push(Waiting { id, octets, body: Some(body) }) {
            self.uploads.missed.set(true);
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.mailboxes.has_ended()
    }
}

/// Starts the uploads of a shard, and of those whose logs it has adopted.
pub(crate) fn start<R: Runtime, M: Mailboxes>(shard: &Rc<Shard<R, M>>, shards: Vec<ShardId>) {
    let uploads = &shard.uploads;
    uploads.missed.set(true);
    for _ in 0..WORKERS {
        let (shard, uploads) = (Rc::clone(shard), Rc::clone(uploads));
        shard.rt.clone().spawn(Class::Background, async move { work(&shard, &uploads).await });
    }
    let (inner, all) = (Rc::clone(shard), Rc::clone(uploads));
    shard.rt.spawn(Class::Background, async move { settle(&inner, &all).await });
    let (inner, all) = (Rc::clone(shard), Rc::clone(uploads));
    shard.rt.spawn(Class::Background, async move { look(&inner, &all, &shards).await });
}

async fn work<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, uploads: &Uploads) {
    let mut reader = Reader::sharing(&shard.files, shard.spool.config().segment_bytes);
    loop {
        let waiting = uploads.next().await;
        let id = waiting.id;
        if uploads.withdrawn.borrow_mut().remove(&id) {
            continue;
        }
        uploads.under_way.set(uploads.under_way.get() + 1);
        let outcome = upload(shard, &mut reader, waiting).await;
        uploads.under_way.set(uploads.under_way.get() - 1);
        match outcome {
            // Somebody has taken it out already, or nobody is left who would get it.
            Ok(()) | Err(StoreError::NotFound(_)) => {
                if uploads.failing.replace(false) {
                    shard.log.event(shard.rt.unix(), Event::ClusterBack, &[]);
                }
                uploads.arrived(id);
            }
            Err(error @ StoreError::Corrupt { .. }) => {
                let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &id), ("why", &error)];
                shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
            }
            Err(error) => {
                uploads.missed.set(true);
                if !matches!(error, StoreError::Busy) && !uploads.failing.replace(true) {
                    shard.log.event(shard.rt.unix(), Event::ClusterAway, &[("why", &error)]);
                }
                shard.rt.sleep_until(shard.rt.now() + PAUSE).await;
            }
        }
    }
}

/// Puts a message into the cluster: its further pieces first, so that who finds it finds all of it.
async fn upload<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    reader: &mut Reader<R::Disk>,
    waiting: Waiting,
) -> Result<(), StoreError> {
    let Waiting { id, octets, mut body } = waiting;
    let mut lookups = 0;
    loop {
        let place = match body.take() {
            Some(place) => place,
            None => shard.mailboxes.locate(id).await?,
        };
        match send(shard, reader, place, octets).await {
            Err(StoreError::Moved) if lookups < LOOKUPS_MAX => lookups += 1,
            outcome => return outcome,
        }
    }
}

async fn send<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    reader: &mut Reader<R::Disk>,
    place: BodyRef,
    octets: u64,
) -> Result<(), StoreError> {
    let id = place.id;
    let raw = reader.raw(place).await?;
    for number in 1..=raw.chunks_count {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        let Some(chunk) = reader.raw_chunk(index).await? else { break };
        shard.mailboxes.put_piece(id, number, chunk).await?;
    }
    let mut recipients = raw.recipients;
    recipients.retain(|to| !to.mailbox.is_nobodys());
    shard.mailboxes.deliver(Delivery { id, octets, first: raw.first, recipients }).await
}

/// Takes what is in the cluster out of the index.
async fn settle<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, uploads: &Uploads) {
    loop {
        shard.rt.sleep_until(shard.rt.now() + SETTLE_AFTER).await;
        while !uploads.done.borrow().is_empty() {
            let batch: Vec<QueueId> = {
                let mut done = uploads.done.borrow_mut();
                let count = done.len().min(SETTLED_MAX);
                done.drain(..count).collect()
            };
            let settlements = batch.iter().copied().map(Settlement::Uploaded).collect();
            if shard.mailboxes.settle(settlements).await.is_err() {
                // The index says to everybody what it lacks; there it is not lost.
                uploads.done.borrow_mut().extend(batch);
                break;
            }
        }
    }
}

/// Reads what waits in the index only, now and then: what has come in while the cluster was away,
/// or before a restart.
async fn look<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    uploads: &Uploads,
    shards: &[ShardId],
) {
    loop {
        if uploads.missed.get() && uploads.is_idle() {
            uploads.missed.set(false);
            for &of in shards {
                if list(shard, uploads, of).await.is_err() {
                    uploads.missed.set(true);
                }
            }
        }
        shard.rt.sleep_until(shard.rt.now() + LOOK_EVERY).await;
    }
}

/// Has everything uploaded that waits in the index of one shard's messages. Ends early when the
/// cluster is away.
async fn list<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    uploads: &Uploads,
    of: ShardId,
) -> Result<(), StoreError> {
    shard.mailboxes.persist().await?;
    let mut after = None;
    loop {
        let listed = shard.mailboxes.awaiting(of, after, LISTED_COUNT).await?;
        let Some(last) = listed.last() else { return Ok(()) };
        after = Some(last.id);
        for queued in listed {
            let waiting = || Waiting { id: queued.id, octets: queued.octets, body: None };
            while !uploads.push(waiting()) {
                shard.rt.sleep_until(shard.rt.now() + SETTLE_AFTER).await;
            }
        }
        if uploads.failing.get() {
            return Err(StoreError::Busy);
        }
    }
}
