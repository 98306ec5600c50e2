//! The queue of one shard: which message waits for which domain, until when, and why.
//!
//! Pure scheduling: no I/O, and the time is passed in. The relay asks for what is due
//! ([`Queue::take`]), tries to send it, tells senders what they must know ([`Queue::judge`]), and
//! says what became of it ([`Queue::finish`]). How a message stands then ([`Queue::settlement`]) it
//! hands to [`Outgoing::settle`](crate::mailbox::Outgoing::settle), so that a restart finds the
//! same queue ([`Queue::restore`]).
//!
//! A message has a *leg* for each domain that it is to go to. Each leg has one reason at a time why
//! it is not on its way ([`WhyNot`]).
//!
//! Times are those of the wall clock, since they must outlive a restart; whoever calls sees to it
//! that they do not step. Where the clock was put back between two runs, nothing waits longer than
//! the longest pause for it.
//!
//! Limits: [`Queue::is_full`] counts messages; one with one recipient takes some 200 bytes. Words
//! of a remote server are cut to [`WORDS_BYTES_MAX`]; a domain is at most [`DOMAIN_BYTES_MAX`].

mod domains;
mod schedule;
mod state;
#[cfg(test)]
mod tests;
mod why;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fsmtp_rt::UnixTime;

use crate::QueueId;
use crate::mailbox::{STATE_BYTES_MAX, Settlement};
use domains::{DomainId, Domains};
pub use schedule::{Pauses, ScheduleError, duration};
use state::Kept;
pub use why::{Cause, WhyNot};

/// The longest name of a domain, or of an address literal with its brackets.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// The longest remembered words of a remote server, in bytes; arbitrary.
pub const WORDS_BYTES_MAX: usize = 200;

/// Nothing is taken earlier than this before it is due.
const EARLY_MAX: Duration = Duration::from_secs(1);

/// When messages are tried, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Pauses between attempts.
    pub pauses: Pauses,
    /// How long after it was received a message is given up.
    pub expiry: Duration,
    /// How long after it was received its sender is told that it is late; none: never.
    pub delay_notice: Option<Duration>,
    /// Messages at most.
    pub messages_max: usize,
}

impl Default for Terms {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);
        Self {
            pauses: Pauses::default(),
            // RFC 5321 §4.5.4.1: at least 4 to 5 days.
            expiry: hours(5 * 24),
            delay_notice: Some(hours(4)),
            messages_max: 1 << 20,
        }
    }
}

/// The part of a message that goes to one domain.
#[derive(Debug)]
struct Leg {
    domain: DomainId,
    due_s: u32,
    attempts_count: u16,
    code: u16,
    cause: Cause,
    held: bool,
    under_way: bool,
    delay_told: bool,
    /// An operator wants it tried now.
    insisted: bool,
    recipients: Rc<[u16]>,
    words: Rc<str>,
}

#[derive(Debug)]
enum Legs {
    One(Leg),
    Many(Vec<Leg>),
}

impl Legs {
    fn as_slice(&self) -> &[Leg] {
        match self {
            Self::One(leg) => core::slice::from_ref(leg),
            Self::Many(legs) => legs,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Leg] {
        match self {
            Self::One(leg) => core::slice::from_mut(leg),
            Self::Many(legs) => legs,
        }
    }
}

#[derive(Debug)]
struct Message {
    octets: u64,
    received: UnixTime,
    legs: Legs,
}

const _: () = assert!(size_of::<Message>() <= 80, "there may be a million");

/// What is to be sent now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// The message.
    pub id: QueueId,
    /// Where to.
    pub domain: Rc<str>,
    /// Its recipients there, by their places in the envelope.
    pub recipients: Rc<[u16]>,
    /// Its length as stored, in bytes.
    pub octets: u64,
    /// How often it was tried before.
    pub attempts_count: u16,
    /// An operator wants it tried now, whatever speaks against it.
    pub insisted: bool,
}

/// What became of [`Work`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Recipients that it is still to be sent to, by their places in the envelope; none: done.
    pub remaining: Vec<u16>,
    /// Why.
    pub cause: Cause,
    /// The reply code, 0 without one.
    pub code: u16,
    /// What the other side said, or what happened.
    pub words: String,
}

impl Outcome {
    /// Nobody remains: all were delivered, or failed for good.
    #[must_use]
    pub const fn done() -> Self {
        Self { remaining: Vec::new(), cause: Cause::Untried, code: 0, words: String::new() }
    }
}

/// Who is to be told about an [`Outcome`], before [`Queue::finish`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judged {
    /// Recipients who are given up, since the message has expired.
    pub expired: Vec<u16>,
    /// Recipients whose sender is to be told, once, that they wait.
    pub delayed: Vec<u16>,
}

/// A leg as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The message.
    pub id: QueueId,
    /// Its length as stored, in bytes.
    pub octets: u64,
    /// When it was received.
    pub received: UnixTime,
    /// Where to.
    pub domain: Rc<str>,
    /// Recipients there.
    pub recipients_count: usize,
    /// Why it is not on its way.
    pub why: WhyNot,
    /// When it is tried next.
    pub due: UnixTime,
    /// How often it was tried.
    pub attempts_count: u16,
    /// The code of the last reply, 0 without one.
    pub code: u16,
    /// What was said last.
    pub words: Rc<str>,
}

/// The queue of a shard.
#[derive(Debug)]
pub struct Queue {
    terms: Terms,
    messages: BTreeMap<QueueId, Message>,
    domains: Domains,
    /// Legs that wait: due time, message, place among its legs at the time.
    due: BTreeSet<(u32, QueueId, DomainId)>,
}

/// Whole seconds, rounded up, so that nothing is due too early.
fn seconds(at: UnixTime) -> u32 {
    u32::try_from(at.ms().div_ceil(1000)).unwrap_or(u32::MAX)
}

fn time(seconds: u32) -> UnixTime {
    UnixTime::from_ms(u64::from(seconds) * 1000)
}

/// The front of `words` that is kept.
fn cut(words: &str) -> &str {
    let mut end = words.len().min(WORDS_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words.get(..end).unwrap_or("")
}

impl Queue {
    /// An empty one.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let (messages, due) = (BTreeMap::new(), BTreeSet::new());
        Self { terms, messages, domains: Domains::default(), due }
    }

    /// Whether no more messages should be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.terms.messages_max
    }

    /// Whether a message is there, and nothing of it is under way.
    #[must_use]
    pub fn is_at_rest(&self, id: QueueId) -> bool {
        let message = self.messages.get(&id);
        message.is_some_and(|message| message.legs.as_slice().iter().all(|leg| !leg.under_way))
    }

    /// Whether a message is there.
    #[must_use]
    pub fn contains(&self, id: QueueId) -> bool {
        self.messages.contains_key(&id)
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// When the next leg is due.
    #[must_use]
    pub fn next_due(&self) -> Option<UnixTime> {
        self.due.first().map(|&(due, ..)| time(due))
    }

    /// When a message received then is given up.
    #[must_use]
    pub fn expires(&self, received: UnixTime) -> UnixTime {
        received + self.terms.expiry
    }

    /// Adds a message that nobody has tried to send: to these domains, each once, with the places
    /// of their recipients in the envelope. It is due at once.
    pub fn add<'d>(
        &mut self,
        id: QueueId,
        octets: u64,
        received: UnixTime,
        legs: impl IntoIterator<Item = (&'d str, Vec<u16>)>,
    ) {
        let legs = legs.into_iter().map(|(domain, recipients)| Kept {
            domain: domain.into(),
            due_s: u64::from(seconds(received)),
            attempts_count: 0,
            held: false,
            delay_told: false,
            cause: Cause::Untried,
            code: 0,
            recipients: recipients.into(),
            words: "".into(),
        });
        self.insert(id, octets, received, legs.collect());
    }

    /// Adds a message as a settlement has kept it, at a start.
    ///
    /// # Errors
    /// Why the state cannot be read; then the message is to be treated as one that is untried.
    pub fn restore(
        &mut self,
        id: QueueId,
        octets: u64,
        state: &[u8],
        now: UnixTime,
    ) -> Result<(), &'static str> {
        let (received, mut legs) = state::decode(state)?;
        let latest = u64::from(seconds(now + spread_most(self.terms.pauses.longest())));
        legs.iter_mut().for_each(|leg| leg.due_s = leg.due_s.min(latest));
        // Else it would not expire before the clock is there again.
        self.insert(id, octets, received.min(now), legs);
        Ok(())
    }

    /// Whether [`restore`](Self::restore) takes a state, and a message with it waits for somebody.
    #[must_use]
    pub fn reads(state: &[u8]) -> bool {
        state::decode(state).is_ok_and(|(_, legs)| !legs.is_empty())
    }

    fn insert(&mut self, id: QueueId, octets: u64, received: UnixTime, kept: Vec<Kept>) {
        let mut legs = Vec::with_capacity(kept.len());
        for kept in kept {
            let (domain, words) = self.domains.enter(&kept.domain, &kept.words);
            let leg = Leg {
                domain,
                due_s: u32::try_from(kept.due_s).unwrap_or(u32::MAX),
                attempts_count: kept.attempts_count,
                code: kept.code,
                cause: kept.cause,
                held: kept.held,
                under_way: false,
                delay_told: kept.delay_told,
                insisted: false,
                recipients: kept.recipients,
                words,
            };
            if !leg.held {
                self.due.insert((leg.due_s, id, domain));
            }
            legs.push(leg);
        }
        let legs = match <[Leg; 1]>::try_from(legs) {
            Ok([leg]) => Legs::One(leg),
            Err(legs) if legs.is_empty() => return,
            Err(legs) => Legs::Many(legs),
        };
        self.messages.insert(id, Message { octets, received, legs });
    }

    fn leg(&mut self, id: QueueId, domain: DomainId) -> Option<&mut Leg> {
        let legs = self.messages.get_mut(&id)?.legs.as_mut_slice();
        legs.iter_mut().find(|leg| leg.domain == domain)
    }

    /// The next leg that is due, which is under way from now on, until [`finish`](Self::finish).
    pub fn take(&mut self, now: UnixTime) -> Option<Work> {
        let &(due, id, domain) = self.due.first()?;
        // In the second that it becomes due in.
        if u64::from(due) * 1000 > now.ms() + 999 {
            return None;
        }
        self.due.pop_first();
        let name = self.domains.name(domain);
        let octets = self.messages.get(&id)?.octets;
        let leg = self.leg(id, domain)?;
        leg.under_way = true;
        let insisted = core::mem::take(&mut leg.insisted);
        let (recipients, attempts_count) = (Rc::clone(&leg.recipients), leg.attempts_count);
        Some(Work { id, domain: name, recipients, octets, attempts_count, insisted })
    }

    /// What an attempt will mean; none when the message was removed meanwhile. Changes nothing:
    /// what is under way stays so while its sender is told.
    #[must_use]
    pub fn judge(
        &self,
        id: QueueId,
        domain: &str,
        outcome: &Outcome,
        now: UnixTime,
    ) -> Option<Judged> {
        let message = self.messages.get(&id)?;
        let domain = self.domains.find(domain)?;
        let leg = message.legs.as_slice().iter().find(|leg| leg.domain == domain)?;
        if now >= self.expires(message.received) {
            return Some(Judged { expired: outcome.remaining.clone(), delayed: Vec::new() });
        }
        let is_late = |notice| now >= message.received + notice;
        let tell = !leg.delay_told && self.terms.delay_notice.is_some_and(is_late);
        let delayed = if tell { outcome.remaining.clone() } else { Vec::new() };
        Some(Judged { expired: Vec::new(), delayed })
    }

    /// Whether the sender of this leg has something to hear now, however it stands.
    #[must_use]
    pub fn must_tell(&self, id: QueueId, domain: &str, now: UnixTime) -> bool {
        let outcome = Outcome { remaining: vec![0], ..Outcome::done() };
        let judged = self.judge(id, domain, &outcome, now);
        judged.is_some_and(|judged| !(judged.expired.is_empty() && judged.delayed.is_empty()))
    }

    /// Ends an attempt as it was judged. The message's [`settlement`](Self::settlement) is another
    /// one then.
    pub fn finish(
        &mut self,
        id: QueueId,
        domain: &str,
        outcome: Outcome,
        judged: &Judged,
        now: UnixTime,
    ) {
        let Some(domain) = self.domains.find(domain) else { return };
        let Some(received) = self.messages.get(&id).map(|message| message.received) else { return };
        let (expires, pauses) = (self.expires(received), self.terms.pauses.clone());
        let words = self.domains.words(domain, cut(&outcome.words));
        let Some(leg) = self.leg(id, domain) else { return };
        leg.under_way = false;
        leg.attempts_count = leg.attempts_count.saturating_add(1);
        if outcome.remaining.is_empty() || !judged.expired.is_empty() {
            return self.drop_leg(id, domain);
        }
        leg.recipients = outcome.remaining.into();
        (leg.cause, leg.code, leg.words) = (outcome.cause, outcome.code, words);
        leg.delay_told |= !judged.delayed.is_empty();
        let pause = spread(pauses.after(leg.attempts_count), id);
        self.wait(id, domain, seconds(expires.min(now + pause)));
    }

    /// Whether what is under way may still be sent: it was neither held nor removed meanwhile.
    #[must_use]
    pub fn may_go(&self, id: QueueId, domain: &str) -> bool {
        let domain = self.domains.find(domain);
        let message = self.messages.get(&id);
        let mut legs = message.iter().flat_map(|message| message.legs.as_slice());
        legs.any(|leg| Some(leg.domain) == domain && !leg.held)
    }

    /// Puts an attempt off that could not begin for a reason of this node's own: it counts for
    /// nothing, and no message expires by it.
    pub fn put_off(&mut self, id: QueueId, domain: &str, until: UnixTime, cause: Cause) {
        let Some(domain) = self.domains.find(domain) else { return };
        let Some(leg) = self.leg(id, domain) else { return };
        leg.cause = cause;
        self.wait(id, domain, seconds(until));
    }

    /// Puts an attempt off that was not made since the site is paused: it counts for nothing, and
    /// comes back when the pause or the message is over, never before: whoever put it off would do
    /// so again, in no time. Why the site is paused, `code` and `words` tell.
    /// True when nobody had tried before: the index should know, so that a start need not read the
    /// message to find out whom it is for.
    pub fn pause(
        &mut self,
        id: QueueId,
        domain: &str,
        until: UnixTime,
        (code, words): (u16, &str),
    ) -> bool {
        let Some(domain) = self.domains.find(domain) else { return false };
        let received = self.messages.get(&id).map(|message| message.received);
        let latest = received.map_or(until, |received| self.expires(received));
        let due = until.min(latest) + EARLY_MAX;
        let words = self.domains.words(domain, cut(words));
        let Some(leg) = self.leg(id, domain) else { return false };
        let untried = leg.cause == Cause::Untried;
        (leg.cause, leg.code, leg.words) = (Cause::Paused, code, words);
        self.wait(id, domain, seconds(due));
        untried
    }

    /// A leg is under way no more, and tried again then.
    fn wait(&mut self, id: QueueId, domain: DomainId, due_s: u32) {
        let Some(leg) = self.leg(id, domain) else { return };
        (leg.under_way, leg.due_s) = (false, due_s);
        if !leg.held {
            self.due.insert((due_s, id, domain));
        }
    }

    /// Gives an attempt up that has not begun: the leg is due again at once, as if nothing were.
    pub fn put_back(&mut self, id: QueueId, domain: &str) {
        let Some(domain) = self.domains.find(domain) else { return };
        let Some(due_s) = self.leg(id, domain).map(|leg| leg.due_s) else { return };
        self.wait(id, domain, due_s);
    }

    /// What is to be kept of a message now; that it is done when it is not here.
    #[must_use]
    pub fn settlement(&self, id: QueueId) -> Settlement {
        let Some(message) = self.messages.get(&id) else { return Settlement::Done(id) };
        let state = self.state(message, true);
        // Words are all that can be left out.
        let state = if state.len() > STATE_BYTES_MAX { self.state(message, false) } else { state };
        Settlement::Deferred(id, state)
    }

    fn state(&self, message: &Message, with_words: bool) -> Box<[u8]> {
        let kept = |leg: &Leg| Kept {
            domain: self.domains.name(leg.domain),
            due_s: u64::from(leg.due_s),
            attempts_count: leg.attempts_count,
            held: leg.held,
            delay_told: leg.delay_told,
            cause: leg.cause,
            code: leg.code,
            recipients: Rc::clone(&leg.recipients),
            words: if with_words { Rc::clone(&leg.words) } else { "".into() },
        };
        let legs: Vec<Kept> = message.legs.as_slice().iter().map(kept).collect();
        state::encode(message.received, &legs)
    }

    fn drop_leg(&mut self, id: QueueId, domain: DomainId) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        let left = match &mut message.legs {
            Legs::One(_) => 0,
            Legs::Many(legs) => {
                legs.retain(|leg| leg.domain != domain);
                legs.len()
            }
        };
        if left == 0 {
            self.messages.remove(&id);
        }
        self.domains.leave(domain);
    }

    /// Takes a message out, whatever waits for it; what is being sent may still arrive. False when
    /// it is not there.
    pub fn remove(&mut self, id: QueueId) -> bool {
        let Some(message) = self.messages.remove(&id) else { return false };
        for leg in message.legs.as_slice() {
            self.due.remove(&(leg.due_s, id, leg.domain));
            self.domains.leave(leg.domain);
        }
        true
    }

    /// Holds a message back, or releases it. False when it is not there.
    pub fn hold(&mut self, id: QueueId, held: bool) -> bool {
        let Some(message) = self.messages.get_mut(&id) else { return false };
        for leg in message.legs.as_mut_slice() {
            leg.held = held;
            let due = (leg.due_s, id, leg.domain);
            if held {
                self.due.remove(&due);
            } else if !leg.under_way {
                self.due.insert(due);
            }
        }
        true
    }

    /// Makes a message due now, unless it is held, even where the site is paused. False when it is
    /// not there.
    pub fn retry(&mut self, id: QueueId, now: UnixTime) -> bool {
        let Some(message) = self.messages.get_mut(&id) else { return false };
        for leg in message.legs.as_mut_slice() {
            if !leg.held && !leg.under_way {
                self.due.remove(&(leg.due_s, id, leg.domain));
                leg.due_s = seconds(now).min(leg.due_s);
                leg.insisted = true;
                self.due.insert((leg.due_s, id, leg.domain));
            }
        }
        true
    }

    /// The legs of messages behind `after`, by their names.
    pub fn list(&self, after: Option<QueueId>, now: UnixTime) -> impl Iterator<Item = Listed> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.messages.range((from, Unbounded)).flat_map(move |(&id, message)| {
            let listed = move |leg: &Leg| Listed {
                id,
                octets: message.octets,
                received: message.received,
                domain: self.domains.name(leg.domain),
                recipients_count: leg.recipients.len(),
                why: leg.why(now),
                due: time(leg.due_s),
                attempts_count: leg.attempts_count,
                code: leg.code,
                words: Rc::clone(&leg.words),
            };
            message.legs.as_slice().iter().map(listed)
        })
    }

    /// How many legs have each reason.
    #[must_use]
    pub fn counts(&self, now: UnixTime) -> BTreeMap<WhyNot, usize> {
        let mut counts = BTreeMap::new();
        for message in self.messages.values() {
            for leg in message.legs.as_slice() {
                *counts.entry(leg.why(now)).or_default() += 1;
            }
        }
        counts
    }
}

impl Leg {
    fn why(&self, now: UnixTime) -> WhyNot {
        if self.under_way {
            WhyNot::UnderWay
        } else if self.held {
            WhyNot::Held
        } else if time(self.due_s) <= now || self.cause == Cause::Untried {
            WhyNot::Due
        } else {
            WhyNot::Waits(self.cause)
        }
    }
}

/// The longest that [`spread`] makes of a pause.
fn spread_most(pause: Duration) -> Duration {
    pause + pause / 16
}

/// A pause, up to a sixteenth longer: messages that failed together need not come back together.
fn spread(pause: Duration, id: QueueId) -> Duration {
    // Sequences and times are in the lower bits; the product spreads them over the upper ones.
    let share = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
    pause + pause * u32::try_from(share).unwrap_or(0) / 256
}
