//! The resolver of a shard: asks name servers, and remembers what they said.
//!
//! Whoever sends mail, or wants to know who a client is, calls [`Resolver::lookup`] or one of the
//! helpers for a kind of records. What is known is answered at once; who asks what is being asked
//! already waits for the same answer. A lookup is a task of its own, so it goes on when whoever
//! wanted it has gone, and the next one finds it in the cache. How it goes about stands in
//! `fsmtp_proto::dns::resolver`; `exchange` does what that says.
//!
//! Limits, each for one shard: [`LOOKUPS_MAX`] lookups under way (each is one socket),
//! [`WAITERS_MAX`] that wait for them, [`CACHE_ENTRIES_MAX`] and [`CACHE_BYTES_MAX`] of what is
//! remembered. Beyond the first two a lookup fails at once, for the time being
//! ([`Reason::Busy`]). A failure is told apart by whether asking later may help.

mod exchange;
mod hosts;
mod learn;
mod system;
#[cfg(test)]
mod tests;

pub use exchange::{Ended, Step};
pub use hosts::{Addresses, Exchanges};
pub use learn::{PARALLEL_MAX, QUESTIONS_MAX, Share};
pub use system::{SYSTEM_FILE, server_address, system_servers};

use core::cell::{Cell, RefCell};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use fsmtp_proto::dns::cache::Cache;
use fsmtp_proto::dns::resolver::{SERVERS_MAX, Settings};
use fsmtp_proto::dns::{Failure, Found, Kind, Outcome, Question, Reason, reverse_name};
use fsmtp_rt::{Class, Datagrams, Dial, Instant};
use futures_channel::oneshot;

use crate::config;
use crate::shard::count;

/// Lookups under way on a shard; each has one descriptor. Arbitrary: a name server that answers
/// within 20 ms lets through some fifty thousand in a second.
pub const LOOKUPS_MAX: usize = 1024;
/// Who waits for them, all together.
pub const WAITERS_MAX: usize = 10_000;
/// What a shard remembers, in entries.
pub const CACHE_ENTRIES_MAX: usize = 10_000;
/// The same in bytes, about.
pub const CACHE_BYTES_MAX: usize = 8 << 20;
/// For how long a server that did not answer is asked after the others. Arbitrary: so often one
/// lookup in a row pays for finding out that it is still dead.
const SILENT_KEPT: Duration = Duration::from_secs(30);

/// What a resolver has done.
#[derive(Debug, Default)]
pub struct Counters {
    /// Lookups that were asked for.
    pub lookups: Cell<u64>,
    /// Those of them that the cache knew.
    pub cache_hits: Cell<u64>,
    /// Those that waited for one that was under way.
    pub joined: Cell<u64>,
    /// Those that were too many.
    pub busy: Cell<u64>,
    /// Messages sent, by either way.
    pub queries: Cell<u64>,
    /// Those of them that went over TCP.
    pub tcp: Cell<u64>,
    /// Messages that came back and were taken, good or bad.
    pub answers: Cell<u64>,
    /// Messages that came and were not ours.
    pub strays: Cell<u64>,
    /// Messages that nothing came back for in time.
    pub timeouts: Cell<u64>,
    /// Messages that could not be sent, or whose server could not be reached.
    pub unreachable: Cell<u64>,
}

type Answered = Result<Rc<Found>, Failure>;

struct Inner<R> {
    rt: R,
    /// At least one, at most [`SERVERS_MAX`].
    servers: Box<[SocketAddr]>,
    /// Until when a server counts as silent.
    silent: Box<[Cell<Instant>]>,
    settings: Settings,
    cache: RefCell<Cache>,
    under_way: RefCell<BTreeMap<Question, Vec<oneshot::Sender<Answered>>>>,
    /// Those in `under_way`, all together.
    waiting: Cell<usize>,
    counters: Counters,
}

/// A shard's resolver; clones are handles to the same one.
pub struct Resolver<R> {
    inner: Rc<Inner<R>>,
}

impl<R> Clone for Resolver<R> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<R> core::fmt::Debug for Resolver<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let under_way = self.inner.under_way.borrow().len();
        write!(f, "Resolver({:?}, {under_way} lookups under way)", self.inner.servers)
    }
}

/// The task is gone without a word, as it is only when the shard ends.
const GONE: Answered = Err(Failure::Temporary(Reason::Unreachable));

/// A lookup that has begun.
enum Asked {
    Known(Answered),
    Waits(oneshot::Receiver<Answered>),
}

impl Asked {
    async fn answer(self) -> Answered {
        match self {
            Self::Known(answered) => answered,
            Self::Waits(answer) => answer.await.unwrap_or(GONE),
        }
    }
}

impl<R: Datagrams + Dial> Resolver<R> {
    /// A resolver with an empty cache. Without servers it asks this host.
    #[must_use]
    pub fn new(rt: R, config: &config::Resolver) -> Self {
        let mut servers = config.servers.clone();
        servers.truncate(SERVERS_MAX);
        if servers.is_empty() {
            servers = system::this_host();
        }
        let inner = Inner {
            rt,
            silent: servers.iter().map(|_| Cell::default()).collect(),
            settings: Settings {
                servers: servers.len(),
                patience: config.timeout,
                trusted: config.dnssec_trusted,
            },
            servers: servers.into(),
            cache: RefCell::new(Cache::new(CACHE_ENTRIES_MAX, CACHE_BYTES_MAX)),
            under_way: RefCell::default(),
            waiting: Cell::new(0),
            counters: Counters::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// How many entries its cache has.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.inner.cache.borrow().len()
    }

    /// The records of `kind` at `name`, aliases followed.
    ///
    /// # Errors
    /// Why there are none, or why nobody knows.
    pub async fn lookup(&self, name: &str, kind: Kind) -> Answered {
        self.ask(name, kind).answer().await
    }

    /// The hosts that take the mail of `domain`, those to try first in front. Who wants to send
    /// there has to know what an empty exchange means, and [`Failure::NoData`].
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub async fn mx(&self, domain: &str) -> Result<Exchanges, Failure> {
        self.lookup(domain, Kind::Mx).await.map(|found| Exchanges::of(&found))
    }

    /// The addresses of `host`, IPv6 and IPv4 in turn. Both kinds are asked for at one time. When
    /// only one of them is found that is enough, whatever became of the other.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup), when neither is found; a failure that may pass goes before one
    /// that stays.
    pub async fn addresses(&self, host: &str) -> Result<Addresses, Failure> {
        // Both are under way before either is waited for.
        let (six, four) = (self.ask(host, Kind::Aaaa), self.ask(host, Kind::A));
        Addresses::of(six.answer().await, four.answer().await)
    }

    /// The texts at `name`.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub async fn txt(&self, name: &str) -> Result<Vec<Box<[u8]>>, Failure> {
        Ok(self.lookup(name, Kind::Txt).await?.texts().map(Into::into).collect())
    }

    /// The names of `address`, as its owner says; nobody has checked that they lead back.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub async fn ptr(&self, address: IpAddr) -> Result<Vec<Box<str>>, Failure> {
        let found = self.lookup(&reverse_name(address), Kind::Ptr).await?;
        Ok(found.names().map(Into::into).collect())
    }

    /// One lookup past the cache and past all that is under way, and each message of it: what an
    /// operator wants to see.
    pub async fn trace(&self, question: Question) -> (Outcome, Vec<Step>) {
        self.inner.exchange(question).await
    }

    fn ask(&self, name: &str, kind: Kind) -> Asked {
        match Question::new(name, kind) {
            Ok(question) => self.ask_for(question, LOOKUPS_MAX),
            Err(bad) => {
                count(&self.inner.counters.lookups);
                Asked::Known(Err(Failure::BadName(bad)))
            }
        }
    }

    /// Looks up, unless `most` others are under way; with 0, only what is known or under way is
    /// answered.
    fn ask_for(&self, question: Question, most: usize) -> Asked {
        let Inner { rt, cache, under_way, waiting, counters, .. } = &*self.inner;
        count(&counters.lookups);
        if let Some(known) = cache.borrow_mut().get(rt.now(), &question) {
            count(&counters.cache_hits);
            return Asked::Known(known);
        }
        let mut under_way = under_way.borrow_mut();
        let first = !under_way.contains_key(&question);
        if waiting.get() >= WAITERS_MAX || first && under_way.len() >= most {
            count(&counters.busy);
            return Asked::Known(Err(Failure::Temporary(Reason::Busy)));
        }
        let (sender, answer) = oneshot::channel();
        waiting.set(waiting.get() + 1);
        under_way.entry(question.clone()).or_default().push(sender);
        drop(under_way);
        if first {
            let inner = Rc::clone(&self.inner);
            rt.spawn(Class::Session, async move { inner.look_up(question).await });
        } else {
            count(&counters.joined);
        }
        Asked::Waits(answer)
    }
}

impl<R: Datagrams + Dial> Inner<R> {
    /// Looks up, remembers, and tells all who wait.
    async fn look_up(&self, question: Question) {
        let (outcome, _) = self.exchange(question.clone()).await;
        self.cache.borrow_mut().put(self.rt.now(), question.clone(), &outcome);
        let waiters = self.under_way.borrow_mut().remove(&question).unwrap_or_default();
        self.waiting.set(self.waiting.get() - waiters.len());
        for waiter in waiters {
            // Who does not wait any more needs no answer.
            let _ = waiter.send(outcome.result.clone());
        }
    }
}
