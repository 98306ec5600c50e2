//! One leg at its site: it is sent, and what the hosts there say is made of it.
//!
//! Called by the workers of a [`Lane`], with a connection or without. Limits:
//! [`Limits`](super::Limits). Failure: [`Failed`], for all recipients of the leg, and [`Stopped`]
//! where it was not tried.

use core::net::SocketAddr;
use core::time::Duration;
use std::rc::Rc;

use fsmtp_proto::smtp::client::Lack;
use fsmtp_rt::{Datagrams, Dial, IoKind, Runtime};
use fsmtp_store::mailbox::Mailboxes;
use fsmtp_store::queue::{Cause, Outcome, Work};
use fsmtp_store::{Envelope, StoreError};

use super::Sending;
use super::lane::{Lane, Line, Stopped, enter};
use super::letter::Letter;
use super::link::{Fault, Said, Verdict};
use super::notice::{self, Fate, Kind};
use super::pieces::Stored;
use crate::log::Event;
use crate::shard::{Shard, count};

/// When a message is looked for again that the index does not know yet.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// When a message waits for this node's turn.
const TURN_PAUSE: Duration = Duration::from_secs(2);
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

/// Sends one leg, over the open connection or a new one. Gives the reason when no connection was to
/// be had; whatever else happens was settled.
pub(super) async fn attempt<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    lane: &Rc<Lane>,
    line: &mut Option<Line<R>>,
    work: &Work,
) -> Result<(), Stopped> {
    let limits = &shard.outbound.plan.limits;
    if let Some(worn) = line.take_if(|line| line.link.messages_count >= limits.messages_max) {
        worn.link.quit().await;
    }
    let Some(_sending) = in_turn(shard, work) else { return Ok(()) };
    let (mut stored, envelope) = match Stored::open(shard, work.id).await {
        Ok(found) => found,
        Err(error) => {
            unreadable(shard, work, &error);
            return Ok(());
        }
    };
    let letter = Letter::new(&envelope, &work.recipients, work.octets);
    // One that was made for less demanding messages.
    if let Some(weak) = line.take_if(|line| letter.requires_tls() && !line.link.keeps_tls()) {
        weak.link.quit().await;
    }
    let reused = line.is_some();
    let mut open = match line.take() {
        Some(open) => open,
        None => match enter(shard, lane, work, &letter).await {
            Ok(open) => open,
            // What is demanded of this message is not of the others.
            Err(Stopped::Failed(failed)) if letter.requires_tls() => {
                conclude(shard, work, &envelope, &letter, Err(failed)).await;
                return Ok(());
            }
            Err(stopped) => return Err(stopped),
        },
    };
    if let Err(lack) = open.link.carries(&letter) {
        let failed = Failed::for_good(Cause::Refused, code_of(lack), lack.to_string());
        *line = Some(open);
        conclude(shard, work, &envelope, &letter, Err(failed)).await;
        return Ok(());
    }
    // Connecting may have taken long.
    if wait_for_turn(shard, work) {
        *line = Some(open);
        return Ok(());
    }
    let sent = open.link.send(&letter, &mut stored).await;
    let peer = (open.link.peer(), open.link.tls());
    match sent {
        Ok(verdict) => {
            if verdict.taken.is_some() {
                open.permit.taken();
            }
            *line = Some(open);
            conclude(shard, work, &envelope, &letter, Ok((verdict, peer))).await;
        }
        // The server has closed a connection that was idle: nothing is known against it.
        Err(Fault::Gone | Fault::Io(_)) if reused && open.link.heard_nothing() => {
            shard.outbound.queue.borrow_mut().put_back(work.id, &work.domain);
            shard.outbound.wake();
        }
        Err(fault) => {
            let failed = broken(shard, open, &fault);
            conclude(shard, work, &envelope, &letter, Err(failed)).await;
        }
    }
    Ok(())
}

/// Begins to send a leg, unless it was held or removed, that is under way already, or it is not
/// this node's turn: then it waits.
fn in_turn<'s, R: Runtime, M: Mailboxes>(
    shard: &'s Shard<R, M>,
    work: &Work,
) -> Option<Sending<'s>> {
    if !shard.outbound.queue.borrow().may_go(work.id, &work.domain) {
        shard.outbound.queue.borrow_mut().put_back(work.id, &work.domain);
        return None;
    }
    let sending = shard.outbound.begin_sending(work)?;
    (!wait_for_turn(shard, work)).then_some(sending)
}

/// Puts a leg off while it is not this node's turn to say anything about it; whether it did.
fn wait_for_turn<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, work: &Work) -> bool {
    if shard.mailboxes.may_send(work.id) {
        return false;
    }
    let until = shard.outbound.now(&shard.rt) + TURN_PAUSE;
    shard.outbound.queue.borrow_mut().put_off(work.id, &work.domain, until, Cause::Turn);
    true
}

/// What a connection that broke means for the message that was on it.
fn broken<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Shard<R, M>,
    open: Line<R>,
    fault: &Fault,
) -> Failed {
    let Line { link, permit } = open;
    if matches!(fault, Fault::Refused(said) if said.code == 421) {
        permit.turned_away(shard.outbound.now(&shard.rt));
    }
    let cause = if matches!(fault, Fault::Storage(_)) { Cause::Storage } else { Cause::Broken };
    Failed::later(cause, named(link.peer(), fault))
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
    let (mut queue, cause) = (shard.outbound.queue.borrow_mut(), Cause::Storage);
    queue.put_off(work.id, &work.domain, now + pause, cause);
    drop(queue);
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
pub(super) async fn give_up<R: Dial + Datagrams, M: Mailboxes>(
    shard: &Rc<Shard<R, M>>,
    work: &Work,
    failed: &Failed,
) {
    let failed = Failed { words: failed.words.clone(), ..*failed };
    if wait_for_turn(shard, work) {
        return;
    }
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
