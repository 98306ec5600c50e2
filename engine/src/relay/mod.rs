//! The relay of a shard: brings queued mail to other servers.
//!
//! ```text
//!                                                          census of the node: permits, pauses
//!                                                                       ▲ │
//!                                                                       │ ▼
//!   desk, reports ──► Outbound::accept ──► queue ──► dispatch ──► lane: workers, each a connection
//!                                            ▲                          │
//!                       index ◄── settle ◄───┴────── finish ◄───────────┘ outcome of each leg
//! ```
//!
//! A lane is the way to one domain, on one shard. Its workers hold a connection each, send message
//! after message, and then wait a while for more. A site is the set of hosts that a lane leads to:
//! all lanes of the node that lead to the same ones share [`Limits::connections_max`] connections,
//! and the pauses of a site that takes none. What becomes of a leg goes to the queue, and from
//! there to the index, in batches.
//!
//! A message may be sent twice when this process dies between the other server's reply to it and
//! the next batch, some milliseconds: nobody can know then whether it was taken (RFC 5321 §4.5.4.1
//! speaks of the same window on the wire).
//!
//! `direct` brings one message to its hosts by the same means, without queue and shard.
//!
//! Failure: whatever a host does costs one connection and one attempt. While the index takes no
//! settlements nothing new is sent.

mod census;
pub(crate) mod direct;
mod hosts;
mod lane;
mod letter;
mod link;
mod notice;
mod pieces;
mod policy;
mod race;
pub(crate) mod relief;
pub mod routes;
mod site;
mod sts;
mod tally;
pub(crate) mod watch;

pub(crate) use notice::delivered;

use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_proto::smtp::client;
use fsmtp_rt::{Class, Datagrams, Dial, Instant, Runtime, UnixTime};
use fsmtp_store::envelope::Envelope;
use fsmtp_store::mailbox::{Mailboxes, Queued, Settlement};
use fsmtp_store::queue::{Queue, Terms, Work};
use fsmtp_store::seal::{ContentKey, MailboxKey, OpenWindow, SealError, WindowId};
use fsmtp_store::spool::RecipientKey;
use fsmtp_store::{MailboxId, QueueId, ShardId, StoreError};

use crate::latest::Latest;
use crate::log::Event;
use crate::resolver::Resolver;
use crate::shard::Shard;
use crate::start::first;
use crate::tls::{Connector, Roots};
pub use census::Census;
use census::Desk;
use lane::Lane;
use pieces::Stored;
use routes::{Routes, Way};
use sts::Sts;
use tally::Tally;

/// How long the pump sleeps at most.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Between two batches of settlements while there are any: each is a transaction of the index.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
/// When the index could not take a batch.
const SETTLE_RETRY: Duration = Duration::from_secs(1);
/// How often sites are forgotten that nobody sends to, and what waits for a connection is looked
/// through; oftener where messages expire sooner.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
const SWEEP_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How often a message is looked at that a start could not read.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Messages that a start lists at a time.
const LISTED_COUNT: usize = 4096;
/// Windows of the queue that are kept open, 100 bytes each; beyond, they are opened again.
const WINDOWS_COUNT_MAX: usize = 1024;

/// Connections of a shard to all sites together; what is due beyond waits for its turn.
pub const CONNECTIONS_MAX: usize = 500;

/// What a relay may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the node to one site at one time.
    pub connections_max: usize,
    /// Messages over one connection.
    pub messages_max: u32,
    /// How long a connection without work is kept open.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Arbitrary: what large sites bear from one address.
        Self { connections_max: 20, messages_max: 1000, idle: Duration::from_secs(5) }
    }
}

/// How a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When and for how long.
    pub terms: Terms,
    /// What it may use.
    pub limits: Limits,
    /// Where to.
    pub routes: Arc<Routes>,
    /// The port of hosts that MX records name.
    pub mx_port: u16,
    /// The port of the web servers that policies of MTA-STS are fetched from; none: they are not.
    pub sts_port: Option<u16>,
    /// Where this node listens: what leads there is a loop.
    pub own_ports: Vec<u16>,
}

/// What opens queued mail.
pub struct QueueKeys {
    seals: MailboxKey,
    /// Of mail that was sealed before the node had `seals`.
    other: Option<MailboxKey>,
}

impl core::fmt::Debug for QueueKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("QueueKeys(..)")
    }
}

impl QueueKeys {
    /// Out of the secret of the data folder, and that of the cluster, when its nodes share one.
    #[must_use]
    pub fn new(own: &[u8; 32], shared: Option<&[u8; 32]>) -> Self {
        let own = MailboxKey::of_queue(own);
        match shared {
            Some(shared) => Self { seals: MailboxKey::of_queue(shared), other: Some(own) },
            None => Self { seals: own, other: None },
        }
    }
}

/// What a shard has to send, and what it knows about that.
pub struct Outbound {
    /// The queue.
    pub queue: RefCell<Queue>,
    plan: Plan,
    settings: Rc<client::Settings>,
    lanes: RefCell<BTreeMap<Rc<str>, Rc<Lane>>>,
    /// Domains whose turn came while this shard had no room for another worker.
    later: RefCell<std::collections::VecDeque<Rc<str>>>,
    /// The connections of the node.
    census: Arc<Census>,
    /// What this shard hears of them.
    desk: Arc<Desk>,
    /// Workers of all lanes.
    workers_count: Cell<usize>,
    /// Wakes the pump.
    bell: Latest<()>,
    /// Messages that stand otherwise than the index knows.
    changed: RefCell<BTreeSet<QueueId>>,
    /// Wakes who tells it.
    settle: Latest<()>,
    settling: Cell<bool>,
    /// One moment on the clock that never steps, and on the wall.
    moment: Cell<Option<(Instant, UnixTime)>>,
    /// The index takes nothing: nothing is sent that it could not be told of.
    refused: Cell<bool>,
    sts: Sts,
    tally: Tally,
    /// What seals queued mail, and what else may have sealed it.
    keys: QueueKeys,
    /// Messages of this node that have no copy in the cluster, as far as this shard knows.
    uncopied: RefCell<BTreeSet<QueueId>>,
    /// Legs that are being sent.
    sending: RefCell<BTreeSet<(QueueId, Rc<str>)>>,
    windows: RefCell<BTreeMap<WindowId, OpenWindow>>,
}

impl core::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Outbound({} messages)", self.queue.borrow().len())
    }
}

impl Outbound {
    /// An empty queue, of shard `id`; `census` is that of the node.
    #[must_use]
    pub fn new(
        plan: Plan,
        node: &str,
        keys: QueueKeys,
        (id, census): (ShardId, Arc<Census>),
    ) -> Self {
        let bell = Latest::default();
        let settings = client::Settings {
            protocol: client::Protocol::Smtp,
            name: node.into(),
            pipelining: true,
            timeouts: client::Timeouts::default(),
        };
        Self {
            queue: RefCell::new(Queue::new(plan.terms.clone())),
            plan,
            settings: Rc::new(settings),
            lanes: RefCell::default(),
            later: RefCell::default(),
            census,
            desk: Desk::new(id, bell.clone()),
            workers_count: Cell::new(0),
            bell,
            changed: RefCell::default(),
            settle: Latest::default(),
            settling: Cell::new(false),
            moment: Cell::default(),
            refused: Cell::new(false),
            sts: Sts::default(),
            tally: Tally::default(),
            keys,
            uncopied: RefCell::default(),
            sending: RefCell::default(),
            windows: RefCell::default(),
        }
    }

    /// Which way mail for `domain` goes; in lower case.
    #[must_use]
    pub fn way(&self, domain: &str) -> Way {
        self.plan.routes.way(domain)
    }

    /// What seals queued mail.
    #[must_use]
    pub const fn key(&self) -> &MailboxKey {
        &self.keys.seals
    }

    /// The time of the queue: the wall's when it was first asked for, and what has passed since. A
    /// clock that is set meanwhile neither delays mail nor makes it expire.
    pub fn now(&self, rt: &impl Runtime) -> UnixTime {
        let moment = self.moment.get().unwrap_or_else(|| (rt.now(), rt.unix()));
        self.moment.set(Some(moment));
        moment.1 + rt.now().since(moment.0)
    }

    /// Takes a message that is on stable storage and is to travel on.
    pub fn accept(
        &self,
        rt: &impl Runtime,
        (id, octets): (QueueId, u64),
        received: UnixTime,
        legs: BTreeMap<String, Vec<u16>>,
    ) {
        let received = received.min(self.now(rt));
        let legs = legs.iter().map(|(domain, places)| (domain.as_str(), places.clone()));
        self.lacks_copy(id);
        self.queue.borrow_mut().add(id, octets, received, legs);
        self.bell.put(());
    }

    /// A message of this node has no copy in the cluster, where there are to be some.
    fn lacks_copy(&self, id: QueueId) {
        if self.keys.other.is_some() {
            self.uncopied.borrow_mut().insert(id);
        }
    }

    /// Begins to send a leg; none while that is under way already.
    fn begin_sending(&self, work: &Work) -> Option<Sending<'_>> {
        let leg = (work.id, Rc::clone(&work.domain));
        let is_new = self.sending.borrow_mut().insert(leg.clone());
        is_new.then_some(Sending { outbound: self, leg })
    }

    /// Whether a leg of a message is being sent.
    fn is_sending(&self, id: QueueId) -> bool {
        let from: (QueueId, Rc<str>) = (id, "".into());
        self.sending.borrow().range(from..).next().is_some_and(|(of, _)| *of == id)
    }

    /// Has the index told how a message stands. When it is told it is looked at once more, so what
    /// comes last counts.
    pub fn keep(&self, id: QueueId) {
        self.changed.borrow_mut().insert(id);
        self.settle.put(());
    }

    /// Has the pump look at the queue.
    pub fn wake(&self) {
        self.bell.put(());
    }

    fn content_key(&self, key: &RecipientKey, id: QueueId) -> Result<ContentKey, StoreError> {
        let damaged = |why: SealError| StoreError::Corrupt {
            place: format!("the key of message {id}"),
            why: why.to_string(),
        };
        let mut windows = self.windows.borrow_mut();
        if windows.len() >= WINDOWS_COUNT_MAX {
            windows.clear();
        }
        let open = match windows.entry(key.wrap.window) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let open = key.window.open(&self.keys.seals).or_else(|why| {
                    let other = self.keys.other.as_ref().ok_or(why)?;
                    key.window.open(other)
                });
                place.insert(open.map_err(damaged)?)
            }
        };
        open.open(&key.wrap, id).map_err(damaged)
    }
}

/// A leg that is being sent, until this is dropped.
struct Sending<'o> {
    outbound: &'o Outbound,
    leg: (QueueId, Rc<str>),
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.outbound.sending.borrow_mut().remove(&self.leg);
    }
}

/// The domains that a message is to be sent to, with the places of their recipients.
#[must_use]
pub fn legs(envelope: &Envelope) -> BTreeMap<String, Vec<u16>> {
    let mut legs: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for (recipient, place) in envelope.recipients.iter().zip(0..) {
        if recipient.mailbox == MailboxId::QUEUE {
            let address = String::from_utf8_lossy(&recipient.address);
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            legs.entry(domain.to_lowercase()).or_default().push(place);
        }
    }
    legs
}

/// Fills the queue with what the index has of these shards, before the first session begins.
///
/// # Errors
/// Those of the index.
pub async fn restore<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    shards: impl Iterator<Item = ShardId>,
) -> Result<(), StoreError> {
    patiently(shard, || shard.mailboxes.persist()).await?;
    for of in shards {
        let mut after = None;
        loop {
            let listed =
                patiently(shard, || shard.mailboxes.queued(of, after, LISTED_COUNT)).await?;
            let Some(last) = listed.last() else { break };
            after = Some(last.id);
            for queued in &listed {
                if !known(shard, queued) && !untried(shard, queued.id, queued.octets).await {
                    later(shard, queued.id, queued.octets);
                }
            }
        }
    }
    Ok(())
}

/// Asks the index until it is not busy.
async fn patiently<R: Runtime, M: Mailboxes, T>(
    shard: &Shard<R, M>,
    ask: impl AsyncFn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    loop {
        match ask().await {
            Err(StoreError::Busy) => shard.rt.sleep_until(shard.rt.now() + SETTLE_RETRY).await,
            other => return other,
        }
    }
}

/// Adds a message that somebody has tried to send; false when nobody has, or nobody can tell.
fn known<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, queued: &Queued) -> bool {
    if queued.state.is_empty() {
        return false;
    }
    let mut queue = shard.outbound.queue.borrow_mut();
    let now = shard.outbound.now(&shard.rt);
    let restored = queue.restore(queued.id, queued.octets, &queued.state, now);
    let Err(why) = restored else {
        shard.outbound.lacks_copy(queued.id);
        return true;
    };
    let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &queued.id), ("why", &why)];
    shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
    false
}

/// Adds a message that nobody has tried to send: what it needs stands in its envelope. False when
/// that cannot be read.
async fn untried<R: Runtime, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    id: QueueId,
    octets: u64,
) -> bool {
    match patiently(shard, || Stored::open(shard, id)).await {
        Ok((_, envelope)) => {
            let received = envelope.received;
            shard.outbound.accept(&shard.rt, (id, octets), received, legs(&envelope));
            true
        }
        Err(StoreError::NotFound(_)) => true,
        Err(error) => {
            let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &id), ("why", &error)];
            shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
            false
        }
    }
}

/// Looks again, until the message can be read or is removed.
fn later<R: Runtime, M: Mailboxes>(shard: &Rc<Shard<R, M>>, id: QueueId, octets: u64) {
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        loop {
            inner.rt.sleep_until(inner.rt.now() + LOOK_AGAIN).await;
            if untried(&inner, id, octets).await {
                return;
            }
        }
    });
}

/// Begins to send. Nothing is sent before. `roots` prove the names of servers that must.
pub fn start<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    resolver: Resolver<R>,
    roots: Option<&Roots>,
) {
    shard.resolver.replace(Some(resolver));
    match Connector::new(roots) {
        Ok(connector) => drop(shard.connector.replace(Some(connector))),
        Err(why) => shard.log.event(shard.rt.unix(), Event::TlsFailed, &[("why", &why)]),
    }
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        loop {
            lane::attend(&inner);
            let all = dispatch(&inner);
            tally::write(&inner, false);
            let sleep = if !all {
                // What it waits for rings; looking again and again would only burn the core.
                SLEEP_MAX
            } else {
                let (now, next) =
                    (inner.outbound.now(&inner.rt), inner.outbound.queue.borrow().next_due());
                let wait = next.map(|due| Duration::from_millis(due.ms().saturating_sub(now.ms())));
                wait.unwrap_or(SLEEP_MAX).clamp(Duration::from_millis(1), SLEEP_MAX)
            };
            let late = pin!(inner.rt.sleep_until(inner.rt.now() + sleep));
            first(pin!(inner.outbound.bell.take()), late).await;
        }
    });
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        loop {
            inner.outbound.settle.take().await;
            settle(&inner).await;
            inner.rt.sleep_until(inner.rt.now() + SETTLE_PAUSE).await;
        }
    });
    let inner = Rc::clone(shard);
    shard.rt.spawn(Class::Background, async move {
        let outbound = &inner.outbound;
        let pause = (outbound.plan.terms.expiry / 4).clamp(SWEEP_PAUSE_MIN, SWEEP_PAUSE);
        loop {
            inner.rt.sleep_until(inner.rt.now() + pause).await;
            outbound.census.sweep(outbound.now(&inner.rt));
            lane::review(&inner).await;
        }
    });
}

/// Hands what is due to its sites; false when something had to stay, until it is woken.
fn dispatch<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>) -> bool {
    let outbound = &shard.outbound;
    if shard.drain.is_draining() || outbound.refused.get() {
        return false;
    }
    let now = outbound.now(&shard.rt);
    while outbound.workers_count.get() < CONNECTIONS_MAX {
        let Some(work) = outbound.queue.borrow_mut().take(now) else { return true };
        lane::give(shard, work);
    }
    false
}

/// Tells the index of all that has changed.
async fn settle<R: Runtime, M: Mailboxes>(shard: &Rc<Shard<R, M>>) {
    let outbound = &shard.outbound;
    outbound.settling.set(true);
    loop {
        let changed = core::mem::take(&mut *outbound.changed.borrow_mut());
        if changed.is_empty() {
            break;
        }
        let batch: Vec<Settlement> = {
            let queue = outbound.queue.borrow();
            changed.iter().map(|&id| queue.settlement(id)).collect()
        };
        match shard.mailboxes.settle(batch.clone()).await {
            Ok(()) => outbound.refused.set(false),
            Err(StoreError::Invalid(_)) => one_by_one(shard, batch).await,
            Err(error) => {
                if !matches!(error, StoreError::Busy) {
                    shard.log.event(shard.rt.unix(), Event::StorageFailed, &[("why", &error)]);
                }
                outbound.refused.set(true);
                outbound.changed.borrow_mut().extend(changed);
                shard.rt.sleep_until(shard.rt.now() + SETTLE_RETRY).await;
            }
        }
    }
    outbound.settling.set(false);
    outbound.wake();
}

/// A batch in which something cannot be kept: the others are.
async fn one_by_one<R: Runtime, M: Mailboxes>(shard: &Rc<Shard<R, M>>, batch: Vec<Settlement>) {
    for settlement in batch {
        let (Settlement::Deferred(id, _) | Settlement::Done(id) | Settlement::Uploaded(id)) =
            settlement;
        match shard.mailboxes.settle(vec![settlement]).await {
            Ok(()) => {}
            // A restart tries it as if nobody had.
            Err(error @ StoreError::Invalid(_)) => {
                let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &id), ("why", &error)];
                shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
            }
            Err(_) => shard.outbound.keep(id),
        }
    }
}

/// Writes what was counted since the day began: nobody will know it any more.
pub fn summarize<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>) {
    tally::write(shard, true);
}

/// Waits until the index has what is known, at most `patience`: the last thing that a relay does.
pub async fn settled<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, patience: Duration) {
    let (outbound, end) = (&shard.outbound, shard.rt.now() + patience);
    let open = || outbound.settling.get() || !outbound.changed.borrow().is_empty();
    while open() && shard.rt.now() < end {
        shard.rt.sleep_until(shard.rt.now() + SETTLE_PAUSE).await;
    }
}
