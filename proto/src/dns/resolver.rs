//! One lookup, from the question to its outcome: what to send to whom, and what to make of it.
//!
//! The driver calls [`Lookup::next`]. It says what to ask, of which server, by which transport and
//! until when; the driver does that, and reports with [`Lookup::heard`], or with
//! [`Lookup::failed`] when nothing came. Then it calls `next` again, until it is told the outcome.
//!
//! * Only silence is asked again, in rounds over all servers, each round twice as patient as the
//!   one before: [`ROUNDS_MAX`] of them (RFC 9520 §3.1 allows two retries). A server that answers
//!   badly is left out for the rest of the question.
//! * An answer that was cut, one whose letters have another case than the question had, and one
//!   that comes behind [`STRAYS_MAX`] that are not ours, is asked for over TCP.
//! * Aliases are followed, in the answer and beyond it, [`ALIASES_MAX`] of them. A record counts
//!   only if it belongs to the name that was asked for, or to one that its aliases lead to;
//!   whatever else a server adds is not looked at.
//!
//! Bounds of the whole: [`ASKS_MAX`] messages, [`TIME_MAX`]. Every way out is an [`Outcome`].

use core::time::Duration;
use std::rc::Rc;

use super::message::{Answer, Misread, Query, RANDOM_BYTES, Transport};
use super::name::{Question, is_within};
use super::record::{Data, Failure, Found, Kind, Outcome, Reason};
use crate::time::Instant;

/// The most name servers that a lookup asks; more are left out.
pub const SERVERS_MAX: usize = 8;
/// How often one server is asked one question.
pub const ROUNDS_MAX: u32 = 3;
/// The most messages of one lookup. With two servers, one round for each of the most names in a
/// row fits.
pub const ASKS_MAX: u32 = 32;
/// The longest that a lookup takes. Who waits for it has a peer that waits, too.
pub const TIME_MAX: Duration = Duration::from_secs(30);
/// The most aliases in a row; arbitrary, one is usual and more than three is a mistake.
pub const ALIASES_MAX: usize = 8;
/// The most messages that are not ours before the question is asked over TCP: each may be a guess
/// of somebody who wants to answer in the server's place (RFC 5452 §9.3 speaks of the odds).
pub const STRAYS_MAX: u32 = 8;

/// What lookups need to know; one value for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many servers there are to ask: from 1 to [`SERVERS_MAX`].
    pub servers: usize,
    /// How long the first try waits.
    pub patience: Duration,
    /// Whether the servers' word that something is signed counts. Then signatures are asked for,
    /// too, because some servers say nothing about them otherwise.
    pub trusted: bool,
}

/// What the driver does next.
#[derive(Debug)]
pub enum Next<'l> {
    /// Ask.
    Ask(Ask<'l>),
    /// All is done.
    Done(Outcome),
}

/// A message to send, and how long to wait for what comes of it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'l> {
    /// The number of the server.
    pub server: usize,
    /// How.
    pub over: Transport,
    /// The message, without what TCP puts in front of it.
    pub message: &'l [u8],
    /// Until when.
    pub until: Instant,
}

/// What came of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It is not ours: go on waiting.
    Stray,
    /// It was ours, or enough: go on with [`Lookup::next`].
    Taken(Came),
}

/// What a message that was taken has brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// The answer, whatever it says.
    Answer,
    /// An alias that leads further.
    Alias,
    /// Too little, or too many guesses: the question goes over TCP.
    Again,
    /// Nothing of use; another server is asked.
    Bad(Reason),
}

impl core::fmt::Display for Came {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Answer => f.write_str("answered"),
            Self::Alias => f.write_str("leads further"),
            Self::Again => f.write_str("cut or doubtful, asked again over TCP"),
            Self::Bad(reason) => reason.fmt(f),
        }
    }
}

/// Why no message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The time is over.
    Silence,
    /// There is no way there, nobody listens, or the connection has ended.
    Unreachable,
}

/// What is known of a server about the question that is asked now.
#[derive(Clone, Copy, Default)]
struct Server {
    asked: u32,
    /// It has answered badly.
    out: bool,
}

#[derive(Clone, Copy)]
enum Way {
    Choose,
    /// The server just asked is asked again, over TCP.
    Stream,
}

/// One lookup.
pub struct Lookup {
    settings: Settings,
    begun: Instant,
    /// What is asked now: at first the question, then what its aliases lead to.
    question: Question,
    /// The names so far, with that of the question; at most [`ALIASES_MAX`] + 1.
    names: Vec<Box<str>>,
    servers: [Server; SERVERS_MAX],
    /// The server that is asked, or would be.
    at: usize,
    way: Way,
    over: Transport,
    query: Option<Query>,
    asks: u32,
    strays: u32,
    /// Whether all answers so far were authentic.
    authentic: bool,
    /// The least time to live so far.
    ttl: Duration,
    /// What went wrong last.
    reason: Reason,
    outcome: Option<Outcome>,
}

/// What an answer comes to.
enum Verdict {
    Found(Vec<Data>),
    Nothing(Failure, Duration),
    /// The last of its aliases has to be asked for.
    Further,
    Bad(Reason),
    Ended(Failure),
}

impl Lookup {
    /// Begins to look up `question`, at server `first`.
    #[must_use]
    pub fn new(question: Question, settings: Settings, first: usize, now: Instant) -> Self {
        let servers = settings.servers.clamp(1, SERVERS_MAX);
        Self {
            settings: Settings { servers, ..settings },
            begun: now,
            names: vec![question.name().into()],
            question,
            servers: Default::default(),
            at: first % servers,
            way: Way::Choose,
            over: Transport::Udp,
            query: None,
            asks: 0,
            strays: 0,
            authentic: true,
            ttl: Duration::MAX,
            reason: Reason::TimedOut,
            outcome: None,
        }
    }

    /// What is asked now; another name than at first behind an alias.
    #[must_use]
    pub const fn question(&self) -> &Question {
        &self.question
    }

    /// What to do next. `random` must be hard to guess, and is used once.
    pub fn next(&mut self, now: Instant, random: &[u8; RANDOM_BYTES]) -> Next<'_> {
        if let Some(outcome) = &self.outcome {
            return Next::Done(outcome.clone());
        }
        let end = self.begun + TIME_MAX;
        let chosen = now < end && self.asks < ASKS_MAX && self.choose();
        if !chosen {
            return Next::Done(self.end(Err(Failure::Temporary(self.reason)), Duration::ZERO));
        }
        self.asks += 1;
        self.strays = 0;
        let round = self.servers.get(self.at).map_or(0, |server| server.asked.saturating_sub(1));
        // A connection takes one way more than a datagram does.
        let ways = if self.over == Transport::Tcp { 2 } else { 1 };
        let patience = self.settings.patience.saturating_mul(ways << round.min(ROUNDS_MAX));
        let until = (now + patience).min(end);
        let query = Query::new(&self.question, random, self.settings.trusted);
        let message = self.query.insert(query).bytes();
        Next::Ask(Ask { server: self.at, over: self.over, message, until })
    }

    /// Takes a message that came from the server that was asked, by the way that it was asked.
    pub fn heard(&mut self, message: &[u8]) -> Heard {
        let Some(query) = &self.query else { return Heard::Stray };
        let came = match (query.read(message, self.over), self.over) {
            // RFC 5452 §9.1: as if it had never come
            (Err(Misread::Foreign), Transport::Udp) if self.strays < STRAYS_MAX => {
                self.strays += 1;
                return Heard::Stray;
            }
            // RFC 1035 §4.2.1: what was cut is asked for over TCP
            (Ok(Answer { truncated: true, .. }), Transport::Udp)
            | (Err(Misread::Foreign | Misread::Case), Transport::Udp) => {
                self.way = Way::Stream;
                Came::Again
            }
            (Ok(Answer { truncated: true, .. }), Transport::Tcp) | (Err(_), _) => {
                self.bad(Reason::Garbage)
            }
            (Ok(answer), _) => self.take(&answer),
        };
        self.query = None;
        Heard::Taken(came)
    }

    /// No message came.
    pub fn failed(&mut self, trouble: Trouble) {
        self.query = None;
        match (trouble, self.over) {
            (Trouble::Silence, Transport::Udp) => {
                self.reason = Reason::TimedOut;
                self.way = Way::Choose;
                self.at = (self.at + 1) % self.settings.servers;
            }
            (Trouble::Silence, Transport::Tcp) => drop(self.bad(Reason::TimedOut)),
            (Trouble::Unreachable, _) => drop(self.bad(Reason::Unreachable)),
        }
    }

    /// Picks whom to ask, and how; false when nobody is left.
    fn choose(&mut self) -> bool {
        if let Way::Stream = core::mem::replace(&mut self.way, Way::Choose) {
            self.over = Transport::Tcp;
            return true;
        }
        self.over = Transport::Udp;
        let count = self.settings.servers;
        let turn = (0..count).map(|step| (self.at + step) % count);
        let usable = turn.filter(|&at| self.servers.get(at).is_some_and(|server| !server.out));
        let asked = |at: &usize| self.servers.get(*at).map_or(u32::MAX, |server| server.asked);
        // Of those asked least often, the next one: nobody is asked twice before all were once.
        let Some(at) = usable.min_by_key(asked) else { return false };
        self.at = at;
        let Some(server) = self.servers.get_mut(at) else { return false };
        // RFC 9520 §3.1: at most two retries of one server
        server.asked += 1;
        server.asked <= ROUNDS_MAX
    }

    /// The server that was asked is of no use for this question.
    fn bad(&mut self, reason: Reason) -> Came {
        self.reason = reason;
        if let Some(server) = self.servers.get_mut(self.at) {
            server.out = true;
        }
        self.way = Way::Choose;
        Came::Bad(reason)
    }

    fn end(&mut self, result: Result<Rc<Found>, Failure>, ttl: Duration) -> Outcome {
        self.outcome.insert(Outcome { result, ttl }).clone()
    }

    /// Takes what the server has said.
    fn take(&mut self, answer: &Answer) -> Came {
        let (names, ttl) = (self.names.len(), self.ttl);
        let authentic = self.authentic;
        self.authentic &= answer.authentic;
        let (result, ttl) = match self.judge(answer) {
            Verdict::Bad(reason) => {
                // As if it had never come.
                self.names.truncate(names);
                (self.ttl, self.authentic) = (ttl, authentic);
                return self.bad(reason);
            }
            Verdict::Found(records) => {
                let name = self.names.last().cloned().unwrap_or_default();
                let secure = self.settings.trusted && self.authentic;
                (Ok(Rc::new(Found { name, records, secure, ttl: self.ttl })), self.ttl)
            }
            Verdict::Nothing(failure, ttl) => (Err(failure), self.ttl.min(ttl)),
            Verdict::Ended(failure) => (Err(failure), Duration::ZERO),
            Verdict::Further => {
                let name = self.names.last().map_or("", |name| name);
                match Question::new(name, self.question.kind()) {
                    Ok(question) => {
                        self.question = question;
                        self.servers = Default::default();
                        self.way = Way::Choose;
                        return Came::Alias;
                    }
                    Err(_) => (Err(Failure::BadAlias), Duration::ZERO),
                }
            }
        };
        self.end(result, ttl);
        Came::Answer
    }

    /// Walks along the aliases of `answer`.
    fn judge(&mut self, answer: &Answer) -> Verdict {
        const NO_ERROR: u16 = 0;
        const NO_SUCH_NAME: u16 = 3;
        match answer.code {
            NO_ERROR | NO_SUCH_NAME => {}
            2 => return Verdict::Bad(Reason::ServerFailed),
            5 => return Verdict::Bad(Reason::Refused),
            code => return Verdict::Bad(Reason::Code(code)),
        }
        let known = self.names.len();
        loop {
            let name = self.names.last().cloned().unwrap_or_default();
            let records = self.of_name(answer, &name);
            if !records.is_empty() {
                // There cannot be both no such name and a record of it.
                let absurd = answer.code == NO_SUCH_NAME;
                return if absurd {
                    Verdict::Bad(Reason::Garbage)
                } else {
                    Verdict::Found(records)
                };
            }
            match self.follow(answer, &name) {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) => return Verdict::Ended(failure),
            }
        }
        // RFC 2308 §2: only a SOA of a zone above says how long nothing stays nothing
        let name = self.names.last().map_or("", |name| name);
        let soa = answer.soa.as_ref().filter(|soa| is_within(name, &soa.owner));
        let ttl = soa.map_or(Duration::ZERO, |soa| soa.ttl);
        if answer.code == NO_SUCH_NAME {
            // RFC 6604 §3: it speaks of the last name of the aliases
            Verdict::Nothing(Failure::NoSuchName, ttl)
        } else if soa.is_some() {
            Verdict::Nothing(Failure::NoData, ttl)
        } else if self.names.len() > known {
            Verdict::Further
        } else if answer.refers {
            // RFC 2308 §2.2: names of servers and no SOA is no answer but a referral
            Verdict::Bad(Reason::Lame)
        } else {
            Verdict::Nothing(Failure::NoData, ttl)
        }
    }

    /// The records of the kind that was asked for at `name`.
    fn of_name(&mut self, answer: &Answer, name: &str) -> Vec<Data> {
        let kind = self.question.kind();
        let of_name = answer.records.iter().filter(|r| &*r.owner == name && r.data.kind() == kind);
        let mut records = Vec::new();
        for record in of_name {
            self.ttl = self.ttl.min(record.ttl);
            records.push(record.data.clone());
        }
        records
    }

    /// Goes on to the name that `name` stands for, if it stands for one.
    fn follow(&mut self, answer: &Answer, name: &str) -> Result<bool, Failure> {
        let alias = answer.records.iter().find_map(|record| match &record.data {
            Data::Cname(target) if &*record.owner == name => Some((record.ttl, target)),
            _ => None,
        });
        // RFC 1034 §3.6.2: who asks for an alias itself is not led on
        let Some((ttl, target)) = alias.filter(|_| self.question.kind() != Kind::Cname) else {
            return Ok(false);
        };
        if self.names.contains(target) {
            return Err(Failure::AliasLoop);
        }
        if self.names.len() > ALIASES_MAX {
            return Err(Failure::TooManyAliases);
        }
        self.ttl = self.ttl.min(ttl);
        self.names.push(target.clone());
        Ok(true)
    }
}

impl core::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { question, asks, .. } = self;
        write!(f, "Lookup({} {}, {asks} messages)", question.name(), question.kind())
    }
}
