//! The way to one domain: workers that hold a connection each, and who waits for one.
//!
//! A worker begins with one leg, gets a permit from the [`census`](super::census), connects, sends,
//! and goes on with what waits for the same domain. Where the hosts of a domain are not known yet,
//! one worker looks them up and the rest of its mail waits. A site that bears no more connections
//! leaves the rest in line until a permit is free; one that is paused has all of it put off. When
//! no host can be reached, all that waits there has failed with it, since it would fare no better.
//! Limits: [`Limits`](super::Limits) for the node, [`CONNECTIONS_MAX`] for the shard.

use core::cell::{Cell, RefCell};
use core::pin::pin;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use fsmtp_rt::{Class, Datagrams, Dial};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::{Cause, Outcome, Work};
use futures_channel::oneshot;

use super::census::{After, Answer, Party, Pause, Permit, Reason};
use super::hosts::{Course, Road, connect, course, follow};
use super::letter::Letter;
use super::link::Link;
use super::site::{Failed, attempt, give_up};
use super::{CONNECTIONS_MAX, Outbound};
use crate::log::Event;
use crate::shard::Shard;
use crate::start::first;

/// Messages that a connection has carried before it is given up for others that wait; arbitrary.
const TURN_MESSAGES: u32 = 10;

/// Legs of a line that are looked through before others have their turn.
const REVIEW_COUNT: usize = 1024;

/// A domain that mail goes to.
#[derive(Debug)]
pub(super) struct Lane {
    domain: Rc<str>,
    party: Arc<Party>,
    /// What waits for a connection.
    ready: RefCell<VecDeque<Work>>,
    workers_count: Cell<usize>,
    /// Those of them that have a connection.
    connected_count: Cell<usize>,
    /// Workers with a connection and nothing to do.
    idle: RefCell<Vec<oneshot::Sender<Work>>>,
    /// The first worker looks for the hosts.
    looking: Cell<bool>,
    /// It waits to be called: somebody will ask for a permit then.
    waits: Cell<bool>,
    /// The site in whose line it has a place, called or not: who has none any more must leave it,
    /// or nobody behind him gets a permit.
    place: RefCell<Option<Arc<str>>>,
}

/// An open connection, and leave to have it.
pub(super) struct Line<R: Dial> {
    pub(super) link: Link<R>,
    pub(super) permit: Permit,
}

/// Why there is no connection.
pub(super) enum Stopped {
    /// Others have them all.
    Waits,
    /// The site has refused it, and has others.
    Crowded,
    /// Nobody is dialled for the time being.
    Paused(Pause),
    /// No host could be had.
    Failed(Failed),
}

impl Lane {
    fn new(outbound: &Outbound, domain: &Rc<str>) -> Self {
        Self {
            domain: Rc::clone(domain),
            party: Party::new(&outbound.desk, domain),
            ready: RefCell::default(),
            workers_count: Cell::new(0),
            connected_count: Cell::new(0),
            idle: RefCell::default(),
            looking: Cell::new(false),
            waits: Cell::new(false),
            place: RefCell::default(),
        }
    }

    /// Hands a leg to a worker with nothing to do; gives it back when there is none.
    fn to_idle(&self, mut work: Work) -> Option<Work> {
        while let Some(idle) = self.idle.borrow_mut().pop() {
            // It may have given up waiting in this very turn.
            match idle.send(work) {
                Ok(()) => return None,
                Err(back) => work = back,
            }
        }
        Some(work)
    }

    /// Takes a leg out of the line, if it is still there.
    fn gives_up(&self, work: &Work) -> bool {
        let mut ready = self.ready.borrow_mut();
        let place = ready.iter().position(|other| other.id == work.id);
        place.and_then(|place| ready.remove(place)).is_some()
    }

    /// Leaves the line where it has a place.
    fn withdraw(&self, outbound: &Outbound) {
        self.waits.set(false);
        if let Some(site) = self.place.take() {
            outbound.census.withdraw(&site, &self.party);
        }
    }

    /// Puts a leg back to the front of the line.
    fn put_back(&self, work: Work) {
        if let Some(work) = self.to_idle(work) {
            self.ready.borrow_mut().push_front(work);
        }
    }
}

fn add(count: &Cell<usize>, n: isize) {
    count.set(count.get().saturating_add_signed(n));
}

/// Hands a leg to a worker that waits, to a new one, or to the end of the line.
pub(super) fn give<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, work: Work) {
    let outbound = &shard.outbound;
    let lane = {
        let mut lanes = outbound.lanes.borrow_mut();
        let new = || Rc::new(Lane::new(outbound, &work.domain));
        Rc::clone(lanes.entry(Rc::clone(&work.domain)).or_insert_with(new))
    };
    let Some(work) = lane.to_idle(work) else { return };
    let full = lane.workers_count.get() >= outbound.plan.limits.connections_max;
    if full || lane.looking.get() || lane.waits.get() {
        lane.ready.borrow_mut().push_back(work);
        return;
    }
    lane.looking.set(lane.workers_count.get() == 0);
    begin(shard, &lane, work, false);
}

/// Starts a worker; one that was `called` is expected to ask for a permit.
fn begin<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    lane: &Rc<Lane>,
    work: Work,
    called: bool,
) {
    add(&lane.workers_count, 1);
    add(&shard.outbound.workers_count, 1);
    let (inner, lane) = (Rc::clone(shard), Rc::clone(lane));
    shard.rt.spawn(Class::Session, async move {
        let guest = inner.drain.enter_task().await;
        let line = work_on(&inner, &lane, work).await;
        lane.looking.set(false);
        if called && !lane.waits.get() {
            // It found nothing to send, or another way: those behind are not kept from theirs.
            lane.withdraw(&inner.outbound);
        }
        add(&lane.workers_count, -1);
        add(&inner.outbound.workers_count, -1);
        // Nothing waits between here and the look into the line: what comes meanwhile finds that
        // this worker is gone. Other workers look there themselves.
        if lane.workers_count.get() == 0 {
            leave(&inner, &lane);
        }
        inner.outbound.wake();
        if let Some(Line { link, permit }) = line {
            link.quit().await;
            drop(permit);
        }
        drop(guest);
    });
}

/// What the last worker leaves: the line, to those who come after; nothing, where it is empty.
fn leave<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, lane: &Rc<Lane>) {
    let outbound = &shard.outbound;
    let goes_on = !shard.drain.is_draining() && !lane.ready.borrow().is_empty();
    if goes_on && lane.waits.get() {
        return;
    }
    let next = lane.ready.borrow_mut().pop_front();
    if let Some(next) = next.filter(|_| goes_on) {
        return begin(shard, lane, next, false);
    }
    outbound.lanes.borrow_mut().remove(&lane.domain);
    lane.withdraw(outbound);
}

/// Has those go on whose turn for a connection has come, and those let go that hold too many.
pub(super) fn attend<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>) {
    let outbound = &shard.outbound;
    let named = |domain: &str| outbound.lanes.borrow().get(domain).cloned();
    let is_full = || outbound.workers_count.get() >= CONNECTIONS_MAX;
    while let Some(domain) = outbound.desk.news() {
        let Some(lane) = named(&domain) else { continue };
        if lane.party.is_crowded() {
            lane.idle.borrow_mut().clear();
        }
        if !lane.waits.take() {
            continue;
        }
        if is_full() {
            // Others need not wait for this shard.
            lane.withdraw(outbound);
            outbound.later.borrow_mut().push_back(Rc::clone(&lane.domain));
            continue;
        }
        call(shard, &lane);
    }
    let later = || outbound.later.borrow_mut().pop_front();
    while !is_full()
        && let Some(domain) = later()
    {
        if let Some(lane) = named(&domain).filter(|lane| lane.workers_count.get() == 0) {
            call(shard, &lane);
        }
    }
}

/// Has a lane go on that waited.
fn call<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, lane: &Rc<Lane>) {
    let next = lane.ready.borrow_mut().pop_front();
    match next.filter(|_| !shard.drain.is_draining()) {
        Some(next) => begin(shard, lane, next, true),
        None => forget(shard, lane),
    }
}

/// A lane that nobody works on has nothing to send any more.
fn forget<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>, lane: &Rc<Lane>) {
    lane.withdraw(&shard.outbound);
    if lane.workers_count.get() == 0 && lane.ready.borrow().is_empty() {
        shard.outbound.lanes.borrow_mut().remove(&lane.domain);
    }
}

/// Looks through what waits for a connection: its sender hears of a delay, or that it has expired,
/// though nobody could try it.
pub(super) async fn review<R: Dial + Datagrams, M: Mailboxes>(shard: &Rc<Shard<R, M>>) {
    let outbound = &shard.outbound;
    let some = |lane: &&Rc<Lane>| !lane.ready.borrow().is_empty();
    let lanes: Vec<Rc<Lane>> = outbound.lanes.borrow().values().filter(some).cloned().collect();
    for lane in lanes {
        let mut from = 0;
        while from < lane.ready.borrow().len() {
            let late: Vec<Work> = {
                let (ready, queue) = (lane.ready.borrow(), outbound.queue.borrow());
                let now = outbound.now(&shard.rt);
                let some = ready.iter().skip(from).take(REVIEW_COUNT);
                some.filter(|work| queue.must_tell(work.id, &work.domain, now)).cloned().collect()
            };
            from += REVIEW_COUNT;
            for work in late {
                // Its turn may have come meanwhile.
                if !lane.gives_up(&work) {
                    continue;
                }
                let words = "no connection to its site has been free for it";
                give_up(shard, &work, &Failed::later(Cause::Unreachable, words)).await;
            }
            shard.rt.yield_now().await;
        }
        if lane.waits.get() && lane.ready.borrow().is_empty() {
            forget(shard, &lane);
        }
    }
}

/// Sends one leg after the other, as long as there are some; gives back the connection.
async fn work_on<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    lane: &Rc<Lane>,
    work: Work,
) -> Option<Line<R>> {
    let mut line = None;
    let mut next = Some(work);
    while let Some(work) = next.take() {
        let was = isize::from(line.is_some());
        let stopped = attempt(shard, lane, &mut line, &work).await;
        add(&lane.connected_count, isize::from(line.is_some()) - was);
        let waiting = || core::mem::take(&mut *lane.ready.borrow_mut());
        match stopped {
            Ok(()) => {}
            Err(Stopped::Crowded) => lane.put_back(work),
            Err(Stopped::Waits) => {
                lane.put_back(work);
                return None;
            }
            // A host that bears no more connections is no reason to give the line up.
            Err(Stopped::Failed(_)) if lane.connected_count.get() > 0 => {
                lane.put_back(work);
                return None;
            }
            Err(Stopped::Paused(pause)) => {
                for work in core::iter::once(work).chain(waiting()) {
                    put_off(shard, &work, &pause).await;
                }
                shard.outbound.wake();
            }
            Err(Stopped::Failed(failed)) => {
                for work in core::iter::once(work).chain(waiting()) {
                    give_up(shard, &work, &failed).await;
                }
            }
        }
        let used = line.as_ref().map_or(0, |line: &Line<R>| line.link.messages_count);
        if used >= TURN_MESSAGES && lane.party.is_crowded() {
            break;
        }
        next = lane.ready.borrow_mut().pop_front().filter(|_| !shard.drain.is_draining());
        if next.is_none() && line.is_some() {
            next = wait(shard, lane).await;
        }
    }
    add(&lane.connected_count, -isize::from(line.is_some()));
    line
}

/// Waits a while for more to send over an open connection that nobody else needs.
async fn wait<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    lane: &Lane,
) -> Option<Work> {
    if lane.party.is_crowded() {
        return None;
    }
    let (idle, given) = oneshot::channel();
    lane.idle.borrow_mut().push(idle);
    let mut work = None;
    let late = pin!(shard.rt.sleep_until(shard.rt.now() + shard.outbound.plan.limits.idle));
    let arrived = async {
        work = shard.drain.unless_draining(given).await.and_then(Result::ok);
    };
    first(pin!(arrived), late).await;
    work
}

/// A new connection, where there may be one.
pub(super) async fn enter<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    lane: &Rc<Lane>,
    work: &Work,
    letter: &Letter,
) -> Result<Line<R>, Stopped> {
    let outbound = &shard.outbound;
    let road = Road { strict: letter.requires_tls(), ..Road::of(shard) };
    let course = course(&road, &lane.domain).await;
    lane.looking.set(false);
    let course = course.map_err(Stopped::Failed)?;
    let mut permit = ask(shard, lane, &course, work.insisted)?;
    // One at a time: each that may connect calls the next.
    let more = lane.workers_count.get() < outbound.plan.limits.connections_max
        && outbound.workers_count.get() < CONNECTIONS_MAX;
    let next = lane.ready.borrow_mut().pop_front_if(|_| more);
    if let Some(next) = next {
        begin(shard, lane, next, false);
    }
    let mut found = follow(&road, &lane.domain, course).await;
    if found.is_err() && road.strict && letter.may_go_without() {
        found = connect(&Road::of(shard), &lane.domain).await;
    }
    let failed = match found {
        Ok(link) => {
            permit.opened();
            return Ok(Line { link, permit });
        }
        Err(failed) => failed,
    };
    // Whatever else it is, it is not about connections; neither is what a message demands.
    if failed.permanent || !matches!(failed.cause, Cause::Unreachable | Cause::Refused) {
        return Err(Stopped::Failed(failed));
    }
    let site = Arc::clone(permit.site());
    let why =
        Reason { cause: failed.cause, code: failed.code, words: failed.words.as_str().into() };
    match permit.failed(why, outbound.now(&shard.rt)) {
        After::Crowded(count) => {
            let fields: [(&str, &dyn core::fmt::Display); 3] =
                [("site", &site), ("connections", &count), ("why", &failed.words)];
            if count > 0 {
                shard.log.event(shard.rt.unix(), Event::SiteLimited, &fields);
            }
            Err(Stopped::Crowded)
        }
        After::Dead(pause) => {
            let fields: [(&str, &dyn core::fmt::Display); 3] =
                [("site", &site), ("seconds", &pause.as_secs()), ("why", &failed.words)];
            if !pause.is_zero() {
                shard.log.event(shard.rt.unix(), Event::SitePaused, &fields);
            }
            Err(Stopped::Failed(failed))
        }
    }
}

/// Leave to connect.
fn ask<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Shard<R, M>,
    lane: &Lane,
    course: &Course,
    insist: bool,
) -> Result<Permit, Stopped> {
    let (census, site) = (&shard.outbound.census, course.site());
    // Its hosts are others than they were.
    if lane.place.borrow().as_ref().is_some_and(|other| *other != site) {
        lane.withdraw(&shard.outbound);
    }
    lane.place.take();
    lane.waits.set(false);
    match census.ask(&site, &lane.party, shard.outbound.now(&shard.rt), insist) {
        Answer::Go(permit) => Ok(permit),
        Answer::Paused(pause) => Err(Stopped::Paused(pause)),
        Answer::Wait => {
            lane.waits.set(true);
            lane.place.replace(Some(site));
            Err(Stopped::Waits)
        }
    }
}

/// A leg for which nobody was dialled: it waits until the pause is over, unless its sender has to
/// hear of it now.
async fn put_off<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    work: &Work,
    Pause { until, why }: &Pause,
) {
    let (outbound, remaining) = (&shard.outbound, work.recipients.to_vec());
    let words = String::from(&*why.words);
    let outcome = Outcome { remaining, cause: Cause::Paused, code: why.code, words };
    let now = outbound.now(&shard.rt);
    let judged = outbound.queue.borrow().judge(work.id, &work.domain, &outcome, now);
    // Removed meanwhile.
    let Some(judged) = judged else { return };
    if judged.expired.is_empty() && judged.delayed.is_empty() {
        let words = (why.code, &*why.words);
        if outbound.queue.borrow_mut().pause(work.id, &work.domain, *until, words) {
            outbound.keep(work.id);
        }
    } else {
        let failed = Failed { code: why.code, ..Failed::later(why.cause, &*why.words) };
        give_up(shard, work, &failed).await;
    }
}
