//! Connections to other sites, counted for the whole node; and what sites have said about that.
//!
//! Shared by all shards. A site is a set of hosts. For each connection to it a [`Permit`] is taken
//! before anybody is dialled, and given back when the connection is over. Those who ask are
//! [`Party`]s, each a domain on a shard. Who gets none waits in a line and is told when his turn
//! has come ([`Desk::news`]). While others wait, a party that holds more than its share is asked to
//! let go ([`Party::is_crowded`]), which costs it one look at a flag.
//!
//! A site that refuses connections while others are open gets no more than those for a while. One
//! that takes none is paused: a minute, then twice as long each time, up to [`PAUSE_MAX`], and
//! never longer than a message would wait that failed as often. Behind a pause one connection is
//! tried, before there are more.
//!
//! One lock for all: it is taken some times a connection, not for messages. Limits: a site is known
//! while somebody has a permit or waits, and otherwise at most for [`MEMORY`], with [`IDLE_MAX`]
//! others. Times are those of the queue: shards may differ by as much as the clock was set in
//! between.

use core::cmp::Ordering as Order;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fsmtp_rt::UnixTime;
use fsmtp_store::ShardId;
use fsmtp_store::queue::{Cause, Pauses};

use super::Plan;
use crate::latest::Latest;

/// The first pause of a site that takes no connection; arbitrary, as the others here.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 60);
/// A pause is so much shorter than that of a message: who has found the site dead finds it over.
const SLACK: Duration = Duration::from_secs(1);
/// How long something is remembered of a site that nobody sends to.
const MEMORY: Duration = PAUSE_MAX;
/// Sites that something is remembered of while nobody sends to them; beyond, all are forgotten.
const IDLE_MAX: usize = 10_000;
/// Messages that a site takes before it is tried with one more connection.
const GROWTH_MESSAGES: u32 = 100;

/// Where a shard hears of permits.
#[derive(Debug)]
pub(super) struct Desk {
    shard: ShardId,
    bell: Latest<()>,
    news: Mutex<BTreeSet<Arc<str>>>,
}

impl Desk {
    /// That of a shard; news rings `bell`.
    pub(super) fn new(shard: ShardId, bell: Latest<()>) -> Arc<Self> {
        Arc::new(Self { shard, bell, news: Mutex::default() })
    }

    /// A domain that may ask again, or that should let go.
    pub(super) fn news(&self) -> Option<Arc<str>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }

    fn tell(&self, domain: &Arc<str>) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(domain));
        self.bell.put(());
    }
}

/// A domain on a shard: who asks for connections.
#[derive(Debug)]
pub(super) struct Party {
    desk: Arc<Desk>,
    domain: Arc<str>,
    crowded: AtomicBool,
}

impl Party {
    pub(super) fn new(desk: &Arc<Desk>, domain: &str) -> Arc<Self> {
        let (desk, crowded) = (Arc::clone(desk), AtomicBool::new(false));
        Arc::new(Self { desk, domain: domain.into(), crowded })
    }

    /// Others wait, and this party holds more than its share.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    fn name(&self) -> (ShardId, &str) {
        (self.desk.shard, &self.domain)
    }
}

impl PartialEq for Party {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Party {}

impl PartialOrd for Party {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Party {
    fn cmp(&self, other: &Self) -> Order {
        self.name().cmp(&other.name())
    }
}

/// A site that takes no connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pause {
    /// Nobody is dialled before.
    pub(super) until: UnixTime,
    /// Why the last connection did not come about.
    pub(super) why: Reason,
}

/// Why a connection did not come about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reason {
    pub(super) cause: Cause,
    pub(super) code: u16,
    pub(super) words: Box<str>,
}

/// What becomes of who asks for a permit.
#[derive(Debug)]
pub(super) enum Answer {
    /// He may connect.
    Go(Permit),
    /// He is told when to ask again.
    Wait,
    /// The site is paused.
    Paused(Pause),
}

/// What follows from a connection that did not come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// Others have to do: so many are open, the rest may come about yet.
    Crowded(usize),
    /// There are none; how long the site is paused for it.
    Dead(Duration),
}

/// What is known of a site.
#[derive(Debug)]
struct Lane {
    /// Permits, by who has them.
    held: BTreeMap<Arc<Party>, usize>,
    held_count: usize,
    /// Those of them whose connections have come about.
    open_count: usize,
    /// Those who wait, in the order of their coming, and when that was.
    line: BTreeMap<u64, Arc<Party>>,
    places: BTreeMap<Arc<Party>, u64>,
    /// Permits at most; what is configured, or less.
    limit: usize,
    /// Whether it is less.
    lowered: Arc<AtomicBool>,
    /// Messages taken since it changed.
    taken_count: u32,
    /// When it was lowered.
    lowered_at: UnixTime,
    pause: Option<Pause>,
    /// Failures since a connection came about.
    failures_count: u32,
}

/// The connections of a node.
#[derive(Debug)]
pub struct Census {
    limit: usize,
    pauses: Pauses,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<Arc<str>, Lane>,
    tickets_count: u64,
}

/// Leave to have one connection; ends with the value.
#[derive(Debug)]
pub(super) struct Permit {
    census: Arc<Census>,
    site: Arc<str>,
    party: Arc<Party>,
    open: bool,
    lowered: Arc<AtomicBool>,
}

impl Census {
    /// Nobody is connected.
    #[must_use]
    pub fn new(plan: &Plan) -> Arc<Self> {
        let (limit, pauses) = (plan.limits.connections_max.max(1), plan.terms.pauses.clone());
        Arc::new(Self { limit, pauses, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a connection to `site`. Who may `insist` gets through a pause.
    pub(super) fn ask(
        self: &Arc<Self>,
        site: &Arc<str>,
        party: &Arc<Party>,
        now: UnixTime,
        insist: bool,
    ) -> Answer {
        let mut state = self.lock();
        state.tickets_count += 1;
        let ticket = state.tickets_count;
        if !state.lanes.contains_key(site) && state.lanes.len() >= IDLE_MAX {
            state.lanes.retain(|_, lane| lane.is_busy());
        }
        let lane = state.lanes.entry(Arc::clone(site)).or_insert_with(|| Lane::new(self.limit));
        let paused = |pause: &&Pause| !insist && now < pause.until;
        if let Some(pause) = lane.pause.as_ref().filter(paused).cloned() {
            lane.leave(party);
            return Answer::Paused(pause);
        }
        let first = lane.line.values().take(lane.room()).position(|waits| waits == party);
        let answer = if first.is_some() || lane.line.len() < lane.room() {
            lane.leave(party);
            // The one that asked last hears: whoever had the same name before is on his way out.
            let count = lane.held.remove(party).unwrap_or(0) + 1;
            lane.held.insert(Arc::clone(party), count);
            lane.held_count += 1;
            Answer::Go(Permit {
                census: Arc::clone(self),
                site: Arc::clone(site),
                party: Arc::clone(party),
                open: false,
                lowered: Arc::clone(&lane.lowered),
            })
        } else {
            if !lane.places.contains_key(party) {
                lane.places.insert(Arc::clone(party), ticket);
                lane.line.insert(ticket, Arc::clone(party));
            }
            Answer::Wait
        };
        lane.share();
        answer
    }

    /// A party waits no more.
    pub(super) fn withdraw(&self, site: &str, party: &Arc<Party>) {
        self.change(site, |lane| {
            lane.leave(party);
            lane.call();
        });
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&self, now: UnixTime) {
        let old = |at: UnixTime| now >= at + MEMORY || now + MEMORY < at;
        self.lock().lanes.retain(|_, lane| {
            lane.is_busy()
                || lane.pause.as_ref().is_some_and(|pause| !old(pause.until))
                || lane.is_lowered() && !old(lane.lowered_at)
        });
    }

    /// Changes what is known of a site, and forgets it when that is nothing.
    fn change<T>(&self, site: &str, change: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let mut state = self.lock();
        let lane = state.lanes.get_mut(site)?;
        let result = change(lane);
        lane.share();
        if !lane.is_busy() && lane.pause.is_none() && !lane.is_lowered() {
            state.lanes.remove(site);
        }
        Some(result)
    }

    /// How long a site is paused that has failed so often.
    fn pause(&self, failures_count: u32) -> Duration {
        let doubled = PAUSE_MIN * (1 << failures_count.saturating_sub(1).min(10));
        let message = self.pauses.after(failures_count.try_into().unwrap_or(u16::MAX));
        doubled.min(PAUSE_MAX).min(message).saturating_sub(SLACK)
    }
}

impl Lane {
    fn new(limit: usize) -> Self {
        Self {
            held: BTreeMap::new(),
            held_count: 0,
            open_count: 0,
            line: BTreeMap::new(),
            places: BTreeMap::new(),
            limit,
            lowered: Arc::default(),
            taken_count: 0,
            lowered_at: UnixTime::from_ms(0),
            pause: None,
            failures_count: 0,
        }
    }

    fn is_busy(&self) -> bool {
        self.held_count > 0 || !self.line.is_empty()
    }

    fn is_lowered(&self) -> bool {
        self.lowered.load(Ordering::Relaxed)
    }

    /// Permits that are free. Where none has led to a connection lately there is one at a time.
    fn room(&self) -> usize {
        let limit = if self.pause.is_some() { 1 } else { self.limit };
        limit.saturating_sub(self.held_count)
    }

    /// Somebody waits no more.
    fn leave(&mut self, party: &Arc<Party>) {
        if let Some(ticket) = self.places.remove(party) {
            self.line.remove(&ticket);
        }
    }

    /// Tells those whose turn has come.
    fn call(&self) {
        self.line.values().take(self.room()).for_each(|party| party.desk.tell(&party.domain));
    }

    /// Tells parties that hold too much: two more than one that waits; or anything, where there are
    /// more parties than permits, so that each has its turn.
    fn share(&self) {
        let both = self.held.iter().filter(|(party, _)| self.places.contains_key(*party));
        let (least, both_count) =
            both.fold((usize::MAX, 0), |(least, n), (_, count)| (least.min(*count), n + 1));
        let without_count = self.line.len() - both_count;
        let in_turns = without_count > 0 && self.held.len() + without_count > self.limit;
        let least = if without_count > 0 { 0 } else { least };
        for (party, count) in &self.held {
            let crowded = in_turns || *count > least.saturating_add(1);
            if crowded != party.crowded.swap(crowded, Ordering::Relaxed) && crowded {
                party.desk.tell(&party.domain);
            }
        }
    }

    /// The site bears only so many connections.
    fn lower(&mut self, limit: usize, now: UnixTime) {
        if limit < self.limit {
            (self.limit, self.taken_count, self.lowered_at) = (limit, 0, now);
            self.lowered.store(true, Ordering::Relaxed);
        }
    }
}

impl Permit {
    /// The site that it is for.
    pub(super) const fn site(&self) -> &Arc<str> {
        &self.site
    }

    /// The connection has come about.
    pub(super) fn opened(&mut self) {
        self.open = true;
        self.census.change(&self.site, |lane| {
            lane.open_count += 1;
            (lane.pause, lane.failures_count) = (None, 0);
            lane.call();
        });
    }

    /// It has not.
    pub(super) fn failed(self, why: Reason, now: UnixTime) -> After {
        let after = self.census.change(&self.site, |lane| {
            // Those that are open, and those that may come about yet.
            let others_count = lane.held_count.saturating_sub(1);
            if others_count > 0 {
                lane.lower(others_count, now);
                return After::Crowded(lane.open_count);
            }
            // What it bears will be found anew, behind the pause.
            lane.limit = self.census.limit;
            lane.lowered.store(false, Ordering::Relaxed);
            // To hear of the pause.
            lane.line.values().for_each(|party| party.desk.tell(&party.domain));
            lane.failures_count += 1;
            let pause = self.census.pause(lane.failures_count);
            lane.pause = Some(Pause { until: now + pause, why });
            After::Dead(pause)
        });
        after.unwrap_or(After::Dead(Duration::ZERO))
    }

    /// The host has ended the connection for reasons of its own.
    pub(super) fn turned_away(&self, now: UnixTime) {
        self.census.change(&self.site, |lane| {
            if lane.held_count > 1 {
                lane.lower(lane.held_count - 1, now);
            }
        });
    }

    /// The site has taken a message.
    pub(super) fn taken(&self) {
        if !self.lowered.load(Ordering::Relaxed) {
            return;
        }
        self.census.change(&self.site, |lane| {
            lane.taken_count += 1;
            if lane.taken_count >= GROWTH_MESSAGES {
                (lane.limit, lane.taken_count) = (lane.limit + 1, 0);
                lane.lowered.store(lane.limit < self.census.limit, Ordering::Relaxed);
                lane.call();
            }
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.census.change(&self.site, |lane| {
            lane.held_count = lane.held_count.saturating_sub(1);
            lane.open_count = lane.open_count.saturating_sub(usize::from(self.open));
            let count = lane.held.get_mut(&self.party).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if count == 0
                && let Some((party, _)) = lane.held.remove_entry(&self.party)
            {
                party.crowded.store(false, Ordering::Relaxed);
            }
            lane.call();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Limits, Routes};
    use fsmtp_store::queue::Terms;

    const NOW: UnixTime = UnixTime::from_ms(1_700_000_000_000);

    fn census(limit: usize, pauses: &str) -> Arc<Census> {
        Census::new(&Plan {
            terms: Terms { pauses: pauses.parse().unwrap(), ..Terms::default() },
            limits: Limits { connections_max: limit, ..Limits::default() },
            routes: Arc::new(Routes::default()),
            mx_port: 25,
            sts_port: None,
            own_ports: Vec::new(),
        })
    }

    fn desk(shard: u16) -> Arc<Desk> {
        Desk::new(ShardId(shard), Latest::default())
    }

    fn site(name: &str) -> Arc<str> {
        name.into()
    }

    fn news(desk: &Desk) -> Vec<String> {
        core::iter::from_fn(|| desk.news()).map(|domain| domain.to_string()).collect()
    }

    fn why() -> Reason {
        Reason { cause: Cause::Unreachable, code: 0, words: "refused".into() }
    }

    impl Census {
        fn go(self: &Arc<Self>, party: &Arc<Party>) -> Option<Permit> {
            self.at(party, NOW).ok()
        }

        /// A permit, or how long to wait where the site is paused.
        fn at(self: &Arc<Self>, party: &Arc<Party>, now: UnixTime) -> Result<Permit, Option<u64>> {
            match self.ask(&site("a"), party, now, false) {
                Answer::Go(permit) => Ok(permit),
                Answer::Wait => Err(None),
                Answer::Paused(pause) => Err(Some((pause.until.ms() - now.ms()) / 1000)),
            }
        }

        fn len(&self) -> usize {
            self.lock().lanes.len()
        }
    }

    fn opened(mut permit: Permit) -> Permit {
        permit.opened();
        permit
    }

    #[test]
    fn the_limit_holds_for_all_shards_and_those_who_wait_are_called_in_turn() {
        let (census, one, two) = (census(2, "1m"), desk(0), desk(1));
        let [a, b] = [Party::new(&one, "a.test"), Party::new(&one, "b.test")];
        let c = Party::new(&two, "a.test");
        let (first, second) = (census.go(&a).unwrap(), census.go(&b).unwrap());
        assert!(census.go(&c).is_none() && census.go(&a).is_none());
        drop(second);
        assert_eq!(news(&two), ["a.test"]);
        assert!(census.go(&a).is_none(), "it is another one's turn");
        let third = census.go(&c).unwrap();
        // One that no more needs it lets the next one have it.
        drop(third);
        census.withdraw("a", &a);
        assert!(census.go(&b).is_some());
        assert_eq!(census.len(), 1);
        drop(first);
        assert_eq!(census.len(), 0, "nothing is known of a site that nobody sends to");
    }

    #[test]
    fn who_holds_more_than_others_that_wait_is_asked_to_let_go() {
        let (census, one, two) = (census(4, "1m"), desk(0), desk(1));
        let (a, b) = (Party::new(&one, "a.test"), Party::new(&two, "a.test"));
        let mut held: Vec<Permit> = (0..4).map(|_| census.go(&a).unwrap()).collect();
        assert!(census.go(&a).is_none() && !a.is_crowded(), "nobody else waits");
        census.withdraw("a", &a);
        let mut others = Vec::new();
        for _ in 0..2 {
            assert!(census.go(&b).is_none() && a.is_crowded());
            assert_eq!(news(&one), ["a.test"]);
            held.pop();
            assert_eq!(news(&two), ["a.test"]);
            others.push(census.go(&b).unwrap());
        }
        assert!(census.go(&b).is_none() && !a.is_crowded() && !b.is_crowded(), "two and two");
        // With more parties than permits each has its turn.
        for n in 0..3 {
            assert!(census.go(&Party::new(&one, &format!("{n}.test"))).is_none());
        }
        assert!(a.is_crowded() && b.is_crowded());
    }

    #[test]
    fn a_party_that_comes_again_hears_what_its_old_permits_cost() {
        let (census, desk) = (census(4, "1m"), desk(0));
        let [old, new] = [(); 2].map(|()| Party::new(&desk, "a.test"));
        let leaving = census.go(&old).unwrap();
        let all: Vec<Permit> = (0..3).map(|_| census.go(&new).unwrap()).collect();
        let other = Party::new(&desk, "b.test");
        assert!(census.go(&other).is_none());
        assert!(new.is_crowded() && !old.is_crowded());
        drop(leaving);
        assert!(new.is_crowded(), "the other one has not come yet");
        let _other = census.go(&other).unwrap();
        assert!(!new.is_crowded());
        assert!(census.go(&other).is_none() && new.is_crowded());
        drop(all);
        assert!(!new.is_crowded());
    }

    #[test]
    fn a_site_that_refuses_more_gets_no_more_until_it_has_taken_messages() {
        let (census, desk) = (census(5, "1m"), desk(0));
        let a = Party::new(&desk, "a.test");
        let [one, two] = [(); 2].map(|()| opened(census.go(&a).unwrap()));
        let late = census.go(&a).unwrap();
        assert_eq!(census.go(&a).unwrap().failed(why(), NOW), After::Crowded(2));
        assert!(census.go(&a).is_none(), "no more than may still come about");
        assert_eq!(late.failed(why(), NOW), After::Crowded(2));
        assert!(census.go(&a).is_none());
        for _ in 1..GROWTH_MESSAGES {
            one.taken();
        }
        assert!(census.go(&a).is_none());
        two.taken();
        assert_eq!(news(&desk), ["a.test"]);
        let third = opened(census.go(&a).unwrap());
        assert!(census.go(&a).is_none());
        one.turned_away(NOW);
        drop((one, third));
        assert!(census.go(&a).is_some_and(|permit| census.go(&a).is_none() && !permit.open));
        drop(two);
        census.withdraw("a", &a);
        assert_eq!(census.len(), 1, "it is remembered for a while");
        census.sweep(NOW + MEMORY);
        assert_eq!(census.len(), 0);
    }

    #[test]
    fn a_site_that_takes_none_is_paused_longer_each_time() {
        let (census, desk) = (census(5, "1m,5m*2,1h*3,4h"), desk(0));
        let [a, b] = [Party::new(&desk, "a.test"), Party::new(&desk, "b.test")];
        let together = [(); 3].map(|()| census.go(&a).unwrap());
        let after = together.map(|permit| permit.failed(why(), NOW));
        let minute = Duration::from_secs(59);
        assert_eq!(after, [After::Crowded(0), After::Crowded(0), After::Dead(minute)]);
        assert_eq!(census.at(&a, NOW).err(), Some(Some(59)));
        let mut now = NOW + minute;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let probe = census.at(&a, now).unwrap();
            assert_eq!(census.at(&b, now).err(), Some(None), "one at a time");
            let After::Dead(pause) = probe.failed(why(), now) else { panic!() };
            assert_eq!(news(&desk), ["b.test"]);
            assert_eq!(census.at(&b, now).err(), Some(Some(pause.as_secs())));
            pauses.push((pause + SLACK).as_secs() / 60);
            now = now + pause;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
        let probe = opened(census.at(&a, now).unwrap());
        let more = census.at(&b, now).unwrap();
        drop((probe, more));
        assert_eq!(census.len(), 0);
    }

    #[test]
    fn an_operator_gets_through_and_no_pause_is_longer_than_a_message_waits() {
        let (census, desk) = (census(5, "1s"), desk(0));
        let a = Party::new(&desk, "a.test");
        assert_eq!(census.go(&a).unwrap().failed(why(), NOW), After::Dead(Duration::ZERO));
        assert!(census.go(&a).is_some());
        let census = self::census(5, "10s");
        assert_eq!(census.go(&a).unwrap().failed(why(), NOW), After::Dead(9 * SLACK));
        assert!(census.go(&a).is_none());
        assert!(matches!(census.ask(&site("a"), &a, NOW, true), Answer::Go(_)));
        // A clock that was put back makes no pause longer.
        let back = UnixTime::from_ms(NOW.ms() - 1000 * 48 * 3600);
        census.sweep(back);
        assert_eq!(census.len(), 0);
    }

    #[test]
    fn of_so_many_dead_sites_only_those_are_remembered_that_somebody_needs() {
        let (census, desk) = (census(1, "1m"), desk(0));
        let a = Party::new(&desk, "a.test");
        let busy = census.go(&a).unwrap();
        for n in 0..2 * IDLE_MAX {
            let Answer::Go(permit) = census.ask(&site(&format!("{n}")), &a, NOW, false) else {
                panic!("{n}")
            };
            permit.failed(why(), NOW);
            assert!(census.len() <= IDLE_MAX);
        }
        assert!(census.go(&a).is_none(), "it is still known that one is open");
        drop(busy);
    }
}
