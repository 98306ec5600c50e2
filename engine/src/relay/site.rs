//! One site: workers that hold a connection each, and what they make of replies.
//!
//! A worker begins with one leg, connects, sends, and goes on with what waits for the same site.
//! When no host can be reached, all that waits there has failed with it, since it would fare no
//! better. Limits: [`Limits`](super::Limits).

use core::cell::Cell;
use core::net::SocketAddr;
use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::smtp::client::Lack;
use fsmtp_rt::{Class, Datagrams, Dial, IoKind};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::{Cause, Outcome, Work};
use fsmtp_store::{Envelope, StoreError};
use futures_channel::oneshot;

use super::Site;
use super::hosts::{Road, connect};
use super::letter::Letter;
use super::link::{Fault, Link, Said, Verdict};
use super::notice::{self, Fate, Kind};
use super::pieces::Stored;
use crate::log::Event;
use crate::shard::{Shard, count};
use crate::start::first;

/// When a message is looked for again that the index does not know yet.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// When one that could not be read.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(300);

/// Why a leg could not be sent, for all of its recipients.
pub(super) struct Failed {
    pub(super) cause: Cause,
    /// For good.
    pub(super) permanent: bool,
    pub(super) code: u16,
    pub(super) words: String,
}

impl Failed {
    pub(super) fn later(cause: Cause, words: impl Into<String>) -> Self {
        Self { cause, permanent: false, code: 0, words: words.into() }
    }

    pub(super) fn for_good(cause: Cause, code: u16, words: impl Into<String>) -> Self {
        Self { cause, permanent: true, code, words: words.into() }
    }
}

/// Hands a leg to a worker that waits, to a new one, or to the end of the line.
pub(super) fn give<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    site: &Rc<Site>,
    domain: &Rc<str>,
    work: Work,
) {
    let Some(work) = to_idle(site, work) else { return };
    if site.workers_count.get() >= shard.outbound.plan.limits.connections_max {
        site.ready.borrow_mut().push_back(work);
        return;
    }
    add(&site.workers_count, 1);
    add(&shard.outbound.workers_count, 1);
    let (inner, site, domain) = (Rc::clone(shard), Rc::clone(site), Rc::clone(domain));
    shard.rt.spawn(Class::Session, async move {
        let guest = inner.drain.enter_task().await;
        let link = work_on(&inner, &site, work).await;
        add(&site.workers_count, -1);
        add(&inner.outbound.workers_count, -1);
        // Nothing waits between here and the look into the line: what comes meanwhile finds that
        // this worker is gone. Other workers look there themselves.
        if site.workers_count.get() == 0 {
            let next = site.ready.borrow_mut().pop_front();
            match next.filter(|_| !inner.drain.is_draining()) {
                Some(next) => give(&inner, &site, &domain, next),
                None => drop(inner.outbound.sites.borrow_mut().remove(&domain)),
            }
        }
        inner.outbound.wake();
        if let Some(link) = link {
            link.quit().await;
        }
        drop(guest);
    });
}

fn add(count: &Cell<usize>, n: isize) {
    count.set(count.get().saturating_add_signed(n));
}

/// Hands a leg to a worker with nothing to do; gives it back when there is none.
fn to_idle(site: &Site, mut work: Work) -> Option<Work> {
    while let Some(idle) = site.idle.borrow_mut().pop() {
        // It may have given up waiting in this very turn.
        match idle.send(work) {
            Ok(()) => return None,
            Err(back) => work = back,
        }
    }
    Some(work)
}

/// Sends one leg after the other, as long as there are some; gives back the connection.
async fn work_on<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    site: &Rc<Site>,
    work: Work,
) -> Option<Link<R>> {
    let mut link = None;
    let mut next = Some(work);
    while let Some(work) = next.take() {
        let was = isize::from(link.is_some());
        let failed = attempt(shard, &mut link, &work).await;
        add(&site.connected_count, isize::from(link.is_some()) - was);
        if let Some(failed) = failed {
            if site.connected_count.get() > 0 {
                // A host that bears no more connections is no reason to give the line up.
                if let Some(work) = to_idle(site, work) {
                    site.ready.borrow_mut().push_front(work);
                }
                return None;
            }
            let waiting = core::mem::take(&mut *site.ready.borrow_mut());
            for work in core::iter::once(work).chain(waiting) {
                give_up(shard, &work, &failed).await;
            }
        }
        next = site.ready.borrow_mut().pop_front().filter(|_| !shard.drain.is_draining());
        if next.is_none() && link.is_some() {
            next = wait(shard, site).await;
        }
    }
    add(&site.connected_count, -isize::from(link.is_some()));
    link
}

/// Waits a while for more to send over an open connection.
async fn wait<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    site: &Site,
) -> Option<Work> {
    let (idle, given) = oneshot::channel();
    site.idle.borrow_mut().push(idle);
    let mut work = None;
    let late = pin!(shard.rt.sleep_until(shard.rt.now() + shard.outbound.plan.limits.idle));
    let arrived = async {
        work = shard.drain.unless_draining(given).await.and_then(Result::ok);
    };
    first(pin!(arrived), late).await;
    work
}

/// Sends one leg, over the open connection or a new one. Gives the reason when no connection was to
/// be had; whatever else happens was settled.
async fn attempt<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    link: &mut Option<Link<R>>,
    work: &Work,
) -> Option<Failed> {
    let limits = &shard.outbound.plan.limits;
    if let Some(worn) = link.take_if(|link| link.messages_count >= limits.messages_max) {
        worn.quit().await;
    }
    if !shard.outbound.queue.borrow().may_go(work.id, &work.domain) {
        shard.outbound.queue.borrow_mut().put_back(work.id, &work.domain);
        return None;
    }
    let (mut stored, envelope) = match Stored::open(shard, work.id).await {
        Ok(found) => found,
        Err(error) => {
            unreadable(shard, work, &error);
            return None;
        }
    };
    let letter = Letter::new(&envelope, &work.recipients, work.octets);
    // One that was made for less demanding messages.
    if let Some(weak) = link.take_if(|link| letter.requires_tls() && !link.keeps_tls()) {
        weak.quit().await;
    }
    let reused = link.is_some();
    let mut open = match link.take() {
        Some(open) => open,
        None => match reach(shard, &work.domain, &letter).await {
            Ok(open) => open,
            // What is demanded of this message is not of the others.
            Err(failed) if letter.requires_tls() => {
                conclude(shard, work, &envelope, &letter, Err(failed)).await;
                return None;
            }
            Err(failed) => return Some(failed),
        },
    };
    if let Err(lack) = open.carries(&letter) {
        let failed = Failed::for_good(Cause::Refused, code_of(lack), lack.to_string());
        *link = Some(open);
        conclude(shard, work, &envelope, &letter, Err(failed)).await;
        return None;
    }
    let sent = open.send(&letter, &mut stored).await;
    let peer = (open.peer(), open.tls());
    match sent {
        Ok(verdict) => {
            *link = Some(open);
            conclude(shard, work, &envelope, &letter, Ok((verdict, peer))).await;
        }
        // The server has closed a connection that was idle: nothing is known against it.
        Err(Fault::Gone | Fault::Io(_)) if reused && open.heard_nothing() => {
            shard.outbound.queue.borrow_mut().put_back(work.id, &work.domain);
            shard.outbound.wake();
        }
        Err(fault) => {
            let cause =
                if matches!(fault, Fault::Storage(_)) { Cause::Storage } else { Cause::Broken };
            let failed = Failed::later(cause, named(peer.0, &fault));
            conclude(shard, work, &envelope, &letter, Err(failed)).await;
        }
    }
    None
}

/// A connection that may carry this letter.
async fn reach<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    domain: &str,
    letter: &Letter,
) -> Result<Link<R>, Failed> {
    let road = Road { strict: letter.requires_tls(), ..Road::of(shard) };
    match connect(&road, domain).await {
        Err(_) if road.strict && letter.may_go_without() => connect(&Road::of(shard), domain).await,
        found => found,
    }
}

/// A fault with the host that it is about; those of the network name it themselves, but for
/// silence.
pub(super) fn named(host: SocketAddr, fault: &Fault) -> String {
    match fault {
        Fault::Io(error) if error.kind != IoKind::TimedOut => fault.to_string(),
        _ => format!("{host}: {fault}"),
    }
}

/// A message that cannot be read now: it waits, whatever happens, since nobody could be told what
/// has become of it.
fn unreadable<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Shard<R, M>,
    work: &Work,
    error: &StoreError,
) {
    let now = shard.outbound.now(&shard.rt);
    // One that the index has not heard of yet is on its way there.
    let pause = match error {
        StoreError::NotFound(_) | StoreError::Busy => BUSY_PAUSE,
        _ => {
            let fields: [(&str, &dyn core::fmt::Display); 2] = [("id", &work.id), ("why", error)];
            shard.log.event(shard.rt.unix(), Event::MessageDamaged, &fields);
            UNREADABLE_PAUSE
        }
    };
    shard.outbound.queue.borrow_mut().put_off(work.id, &work.domain, now + pause);
    shard.outbound.wake();
}

/// RFC 3463: what a server cannot take, as a reply would say it.
const fn code_of(lack: Lack) -> u16 {
    match lack {
        Lack::Size => 552,
        Lack::RequireTls => 550,
        Lack::Utf8 | Lack::EightBit | Lack::Binary => 554,
    }
}

/// A leg for which no connection was to be had.
async fn give_up<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    work: &Work,
    failed: &Failed,
) {
    let failed = Failed { words: failed.words.clone(), ..*failed };
    match Stored::open(shard, work.id).await {
        Ok((_, envelope)) => {
            let letter = Letter::new(&envelope, &work.recipients, work.octets);
            conclude(shard, work, &envelope, &letter, Err(failed)).await;
        }
        Err(error) => unreadable(shard, work, &error),
    }
}

/// What follows from an attempt for each recipient.
async fn conclude<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    work: &Work,
    envelope: &Envelope,
    letter: &Letter,
    outcome: Result<(Verdict, (SocketAddr, Option<&str>)), Failed>,
) {
    let mut remaining = Vec::new();
    let mut fates = Vec::new();
    let mut last = (Cause::Untried, 0, String::new());
    let (verdict, peer, tls, failed) = match outcome {
        Ok((verdict, (peer, tls))) => (verdict, peer.to_string(), tls, None),
        Err(failed) => (Verdict::default(), String::new(), None, Some(failed)),
    };
    // RFC 3461 §5.2.2: where DSN is not offered, it is we who report that it was passed on.
    let taken = if verdict.dsn { Kind::Taken } else { Kind::Relayed };
    for index in 0..letter.recipients_count() {
        let Some(place) = letter.place(index) else { continue };
        let at_rcpt = verdict.refused.get(index as usize).and_then(Option::as_ref);
        // RFC 5321 §4.5.3.1.10: 552 to RCPT means 452, too many recipients.
        let too_many = at_rcpt.is_some_and(|said| said.code == 552);
        let refused = at_rcpt.or(verdict.whole.as_ref());
        let (permanent, cause, code, words) = match (&failed, refused, &verdict.taken) {
            (Some(failed), ..) => {
                (failed.permanent, failed.cause, failed.code, failed.words.clone())
            }
            (None, Some(said), _) => {
                let permanent = said.is_permanent() && !too_many;
                (permanent, Cause::Refused, said.code, said.words.clone())
            }
            (None, None, Some(said)) => {
                sent(shard, work, letter.address(index), (&peer, tls), said);
                fates.push(Fate::new(place, taken, &peer, said.code, &said.words));
                continue;
            }
            // No reply was to the message: the connection says why elsewhere.
            (None, None, None) => (false, Cause::Broken, 0, format!("{peer}: no reply")),
        };
        if permanent {
            fates.push(Fate::new(place, Kind::Failed, &peer, code, &words));
        } else {
            remaining.push(place);
        }
        last = (cause, code, words);
    }
    let (cause, code, words) = last;
    let outcome = Outcome { remaining, cause, code, words };
    finish(shard, work, outcome, envelope, fates).await;
}

fn sent<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Shard<R, M>,
    work: &Work,
    to: &str,
    (peer, tls): (&str, Option<&str>),
    said: &Said,
) {
    count(&shard.counters.recipients_sent);
    shard.log.event(
        shard.rt.unix(),
        Event::MessageSent,
        &[
            ("id", &work.id),
            ("to", &to),
            ("host", &peer),
            ("tls", &tls.unwrap_or("none")),
            ("said", said),
        ],
    );
}

/// Tells the queue, the sender where he must know, and the index.
async fn finish<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    work: &Work,
    outcome: Outcome,
    envelope: &Envelope,
    mut fates: Vec<Fate>,
) {
    let now = shard.outbound.now(&shard.rt);
    let (cause, code, words) = (outcome.cause, outcome.code, outcome.words.clone());
    let waits = outcome.remaining.len();
    let judged = shard.outbound.queue.borrow().judge(work.id, &work.domain, &outcome, now);
    // Removed meanwhile.
    let Some(judged) = judged else { return };
    if waits > judged.expired.len() {
        count(&shard.counters.legs_deferred);
        let fields: [(&str, &dyn core::fmt::Display); 5] = [
            ("id", &work.id),
            ("domain", &work.domain),
            ("why", &cause.name()),
            ("code", &code),
            ("said", &words),
        ];
        shard.log.event(shard.rt.unix(), Event::MessageDeferred, &fields);
    }
    let told = |kind| {
        let words = words.as_str();
        move |&place: &u16| Fate::new(place, kind, "", code, words)
    };
    fates.extend(judged.expired.iter().map(told(Kind::Expired)));
    fates.extend(judged.delayed.iter().map(told(Kind::Delayed)));
    for fate in fates.iter().filter(|fate| fate.is_failure()) {
        count(&shard.counters.recipients_failed);
        let to = envelope.recipients.get(usize::from(fate.place));
        let to =
            to.map_or_else(String::new, |to| String::from_utf8_lossy(&to.address).into_owned());
        let fields: [(&str, &dyn core::fmt::Display); 4] =
            [("id", &work.id), ("to", &to), ("code", &fate.code), ("said", &fate.words)];
        shard.log.event(shard.rt.unix(), Event::MessageFailed, &fields);
    }
    // Before the queue forgets them, and while they count as under way: nobody loses a message
    // without a word.
    notice::tell(shard, work.id, envelope, &fates).await;
    let mut queue = shard.outbound.queue.borrow_mut();
    queue.finish(work.id, &work.domain, outcome, &judged, now);
    drop(queue);
    shard.outbound.keep(work.id);
    shard.outbound.wake();
}
