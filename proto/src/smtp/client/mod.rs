//! The SMTP client session: replies in, commands out. LMTP (RFC 2033) is the same with one reply
//! for each recipient at the end.
//!
//! ```text
//!                     220, EHLO (or HELO)            MAIL, RCPT*, DATA 354
//!   new ──► greeting ─────────────────────► ready ──────────────────────────► body ──┐
//!                            ▲               │ ▲ ▲                                   │ body_sent,
//!                   secured  │    start_tls  │ │ └── reset, auth_plain, refusals     │ chunk
//!                            └── handshake ◄─┘ └────────────── message: 250 ◄────────┘
//! ```
//!
//! Follows the turn contract of the crate, with these turns: the driver is told each reply and what
//! it is to ([`Then::Reply`]), when nothing is under way ([`Then::Ready`]: it calls one of
//! `start_tls`, `auth_plain`, `fcapa`, `su`, `message`, `reset`, `quit`), and when the server is
//! ready for the message ([`Then::Body`]). The envelope stays the driver's and is lent to every
//! turn, so a session allocates nothing after its start. Used by `loadgen`; made for the outbound
//! queue.
//!
//! * A transaction that cannot go on, though MAIL was accepted, is reset by the session itself.
//! * With PIPELINING at most [`UNHEARD_MAX`] commands wait for their replies, so that neither side
//!   can block the other (RFC 2920 §3.1).
//! * When no recipient was accepted, a message that the server takes all the same is ended empty,
//!   and its reply is [`To::Emptied`]: never a success.
//!
//! Fails by [`Then::Failed`], once; a dead session stays dead. 421 to anything closes it.

mod command;
pub mod extensions;
pub mod reply;
mod transaction;

use core::fmt;
use core::time::Duration;
use std::rc::Rc;

use super::ext::su::Token;
use super::server::{Recipient, Sender};
use crate::time::Instant;
use crate::wire::outbox::Outbox;
pub use command::COMMAND_BYTES_MAX;
pub use extensions::{Extensions, Lack};
pub use reply::{Class, Garbage, Reply};
use reply::{Parsed, parse, parse_private};
use transaction::{Body, Transaction};

/// Pipelined commands whose replies were not heard. Arbitrary: replies of 100 bytes each fill a
/// fraction of the smallest receive buffer.
pub const UNHEARD_MAX: u32 = 100;

/// The longest MAIL or RCPT: a path, and ORCPT or ENVID and AUTH.
const ENVELOPE_COMMAND_BYTES_MAX: usize = 1024;

/// How long to wait for a reply (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the greeting, and for replies to commands that are not named here.
    pub command: Duration,
    /// For the reply to MAIL or RCPT.
    pub envelope: Duration,
    /// For the 354 to DATA.
    pub data: Duration,
    /// For the next block of the message to leave.
    pub block: Duration,
    /// For the reply to the message.
    pub message: Duration,
}

impl Default for Timeouts {
    // RFC 5321 §4.5.3.2: at least these.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            command: minutes(5),
            envelope: minutes(5),
            data: minutes(2),
            block: minutes(3),
            message: minutes(10),
        }
    }
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// SMTP: one reply for a message.
    Smtp,
    /// LMTP: one for each recipient that was accepted (RFC 2033 §4.2).
    Lmtp,
}

/// What the sessions of a driver have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is spoken.
    pub protocol: Protocol,
    /// How we introduce ourselves: a host name or an address literal, which the caller has checked.
    pub name: Box<str>,
    /// Whether PIPELINING is used where it is offered.
    pub pipelining: bool,
    /// Patience.
    pub timeouts: Timeouts,
}

/// Who a message is from and for; the driver's, lent to each turn of a transaction.
pub trait Envelope {
    /// What MAIL says. The driver has asked [`Extensions::carries`].
    fn sender(&self) -> Sender<'_>;
    /// What RCPT number `index` says, from 0 up to what `message` was told.
    fn recipient(&self, index: u32) -> Recipient<'_>;
}

/// For turns outside of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Envelope for Nobody {
    fn sender(&self) -> Sender<'_> {
        Sender::new(super::address::Path::Null)
    }

    fn recipient(&self, _: u32) -> Recipient<'_> {
        Recipient::new(super::address::Path::Null)
    }
}

/// How the bytes of a message travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Behind DATA, through [`Stuffer`](crate::wire::stuff::Stuffer), to its end.
    Data,
    /// In chunks as they are, where CHUNKING is offered.
    Chunks,
}

/// What a reply is to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum To {
    /// The connection.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// FCAPA.
    Fcapa,
    /// SU.
    Su,
    /// MAIL.
    Mail,
    /// RCPT number so and so, from 0.
    Recipient(u32),
    /// DATA.
    Data,
    /// BDAT that was not the last.
    Chunk,
    /// The message: the only one that says that it was taken.
    Message,
    /// LMTP: the message, for the accepted recipient number so and so, counted from 0.
    Delivery(u32),
    /// The end of a message for nobody: no success, whatever it says.
    Emptied,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
    /// Nothing: the server says goodbye by itself.
    Nothing,
}

/// What the session wants after a turn.
#[derive(PartialEq, Eq, Debug)]
pub struct Turn<'b> {
    /// Bytes to drop from the front of the window once `then` is done with.
    pub consumed: usize,
    /// What to do next.
    pub then: Then<'b>,
}

/// What the driver does next.
#[derive(PartialEq, Eq, Debug)]
pub enum Then<'b> {
    /// Send the outbox, then receive, until the deadline.
    NeedInput,
    /// Send the outbox, then call again.
    Flush,
    /// A reply has come. Then call again.
    Reply(To, Reply<'b>),
    /// Nothing is under way: begin something, or leave the connection as it is.
    Ready,
    /// Send the outbox and the message, then call `body_sent`; or, for [`Content::Chunks`], call
    /// `chunk`, then send the outbox and the chunk. (One send may carry it all.)
    Body,
    /// The outbox is empty; make sure that the window is, do the handshake, then call `secured`.
    StartTls,
    /// The connection is of no use any more, for this reason. Drop it.
    Failed(Failure),
    /// Send the outbox and close the connection.
    Close,
}

/// Why a session cannot go on: what the server sent is not what a server may send.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Failure {
    /// No reply at all.
    Garbage(Garbage),
    /// A reply with a code that means nothing here.
    Unexpected(To, u16),
    /// Bytes behind the 220 to STARTTLS: they could come from anybody.
    BehindStartTls,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbage(garbage) => garbage.fmt(f),
            Self::Unexpected(To::Nothing, code) => write!(f, "{code} in reply to nothing"),
            Self::Unexpected(to, code) => write!(f, "{code} in reply to {to:?}"),
            Self::BehindStartTls => f.write_str("bytes stand behind the reply to STARTTLS"),
        }
    }
}

impl core::error::Error for Failure {}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Greeting,
    Hello { extended: bool },
    Ready,
    StartTls,
    Handshake,
    Auth,
    Fcapa,
    Su,
    Transaction(Transaction),
    Reset,
    Quit,
    Closed,
}

/// One connection, as far as the protocol goes.
#[derive(Debug)]
pub struct Session {
    settings: Rc<Settings>,
    phase: Phase,
    extensions: Extensions,
    authed: bool,
    /// When the session last got on: the deadline counts from here.
    since: Instant,
}

const _: () = assert!(size_of::<Session>() <= 128, "what each of many connections holds");

impl Session {
    /// Opens a session, which waits for the greeting.
    #[must_use]
    pub fn new(settings: Rc<Settings>, now: Instant) -> Self {
        let extensions = Extensions::default();
        Self { settings, phase: Phase::Greeting, extensions, authed: false, since: now }
    }

    /// Does one thing: writes commands that are due, or takes a reply at the front of `input`.
    pub fn turn<'b>(
        &mut self,
        now: Instant,
        input: &'b [u8],
        envelope: &impl Envelope,
        out: &mut Outbox,
    ) -> Turn<'b> {
        let mut due = self.go_on(now, envelope, out);
        if due.is_none() {
            due = match &self.phase {
                Phase::Closed => Some(Then::Close),
                Phase::Ready if input.is_empty() => Some(Then::Ready),
                // RFC 3207 §4.2: nothing that came in clear is taken for what TLS protects.
                Phase::Handshake if !input.is_empty() => Some(self.fail(Failure::BehindStartTls)),
                Phase::Handshake => Some(Then::StartTls),
                _ => None,
            };
        }
        if let Some(then) = due {
            return Turn { consumed: 0, then };
        }
        // Only there: whatever else a server says has the codes of RFC 5321.
        let private = matches!(self.phase, Phase::Fcapa | Phase::Su);
        match if private { parse_private(input) } else { parse(input) } {
            Parsed::Partial => Turn { consumed: 0, then: Then::NeedInput },
            Parsed::Bad(garbage) => {
                Turn { consumed: 0, then: self.fail(Failure::Garbage(garbage)) }
            }
            Parsed::Whole(reply) => {
                self.since = now;
                Turn { consumed: reply.bytes().len(), then: self.heard(reply, out) }
            }
        }
    }

    /// When the server has been silent for too long; the driver then drops the connection.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let timeouts = &self.settings.timeouts;
        let patience = match &self.phase {
            Phase::Ready | Phase::Closed => return Instant::FAR,
            Phase::Transaction(t) if matches!(t.body, Body::Sent { .. }) => timeouts.message,
            Phase::Transaction(t) if t.heard_count == t.commands_count => timeouts.block,
            Phase::Transaction(t) if t.heard_count > t.recipients_count => timeouts.data,
            Phase::Transaction(_) => timeouts.envelope,
            _ => timeouts.command,
        };
        self.since + patience
    }

    /// What the server offers, from its last reply to EHLO.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// How many recipients of the open transaction were accepted so far.
    #[must_use]
    pub const fn accepted_count(&self) -> u32 {
        match &self.phase {
            Phase::Transaction(transaction) => transaction.accepted_count,
            _ => 0,
        }
    }
}

/// What a server that grants SU says to prove itself: the second word of its reply's first line.
#[must_use]
pub fn proof<'b>(reply: &Reply<'b>) -> Option<&'b [u8]> {
    let line = reply.lines().next().filter(|_| reply.code() == 600)?;
    line.strip_prefix(b"6.1.0 ")
}

/// What the driver begins when nothing is under way. In any other moment these do nothing.
impl Session {
    fn begin(&mut self, now: Instant, phase: Phase) -> bool {
        let ready = matches!(self.phase, Phase::Ready);
        debug_assert!(ready, "one thing at a time");
        if ready {
            self.phase = phase;
            self.since = now;
        }
        ready
    }

    /// Asks for TLS (RFC 3207 §4).
    pub fn start_tls(&mut self, now: Instant, out: &mut Outbox) {
        if self.begin(now, Phase::StartTls) {
            out.push(b"STARTTLS\r\n");
        }
    }

    /// The handshake is done: everything known of the server is forgotten, and it is asked anew.
    pub fn secured(&mut self, now: Instant, out: &mut Outbox) {
        debug_assert!(matches!(self.phase, Phase::Handshake), "there was a handshake to make");
        // RFC 3207 §4.2
        self.extensions = Extensions::default();
        self.authed = false;
        self.since = now;
        self.hello(true, out);
    }

    /// Signs in by PLAIN. False, and nothing happens, when no server could take these (too long, or
    /// with a NUL). Only under TLS or to ourselves: the password goes over the wire.
    pub fn auth_plain(
        &mut self,
        now: Instant,
        user: &str,
        password: &[u8],
        out: &mut Outbox,
    ) -> bool {
        matches!(self.phase, Phase::Ready)
            && command::auth_plain(user, password, out)
            && self.begin(now, Phase::Auth)
    }

    /// Asks whether the server speaks the seeds' extensions: 601 says so.
    pub fn fcapa(&mut self, now: Instant, out: &mut Outbox) {
        if self.begin(now, Phase::Fcapa) {
            out.push(b"FCAPA\r\n");
        }
    }

    /// Shows that we are a node of the same owner. The reply, 600, holds the server's proof, see
    /// [`proof`]; 651 says no.
    pub fn su(&mut self, now: Instant, token: &Token, out: &mut Outbox) {
        if self.begin(now, Phase::Su) {
            for part in ["SU ", token.text(), "\r\n"] {
                out.push(part.as_bytes());
            }
        }
    }

    /// Begins a transaction with so many recipients, at least one.
    pub fn message(&mut self, now: Instant, content: Content, recipients_count: u32) {
        debug_assert!(recipients_count > 0, "a message is for somebody");
        let pipelined = self.settings.pipelining && self.extensions.pipelining;
        let transaction = Transaction::new(content, pipelined, recipients_count);
        self.begin(now, Phase::Transaction(transaction));
    }

    /// A block of the message has left: the server has its time again.
    pub fn sending(&mut self, now: Instant) {
        self.since = now;
    }

    /// The whole message was sent, with its end; for [`Content::Data`].
    pub fn body_sent(&mut self, now: Instant) {
        if let Phase::Transaction(transaction) = &mut self.phase {
            debug_assert!(transaction.content == Content::Data, "chunks say themselves");
            transaction.body = Body::Sent { replies_count: 0 };
            self.since = now;
        }
    }

    /// A chunk of `bytes` bytes follows what is in the outbox; for [`Content::Chunks`].
    pub fn chunk(&mut self, now: Instant, bytes: u64, last: bool, out: &mut Outbox) {
        if let Phase::Transaction(transaction) = &mut self.phase {
            debug_assert!(transaction.content == Content::Chunks, "one way or the other");
            command::bdat(bytes, last, out);
            if last {
                transaction.body = Body::Sent { replies_count: 0 };
            } else {
                transaction.chunk_sent();
            }
            self.since = now;
        }
    }

    /// Forgets a transaction, should there be one.
    pub fn reset(&mut self, now: Instant, out: &mut Outbox) {
        if self.begin(now, Phase::Reset) {
            out.push(b"RSET\r\n");
        }
    }

    /// Says goodbye.
    pub fn quit(&mut self, now: Instant, out: &mut Outbox) {
        if self.begin(now, Phase::Quit) {
            out.push(b"QUIT\r\n");
        }
    }
}

/// What replies mean.
impl Session {
    fn fail<'b>(&mut self, failure: Failure) -> Then<'b> {
        self.phase = Phase::Closed;
        Then::Failed(failure)
    }

    fn hello(&mut self, extended: bool, out: &mut Outbox) {
        let verb = match (self.settings.protocol, extended) {
            (Protocol::Lmtp, _) => "LHLO",
            (Protocol::Smtp, true) => "EHLO",
            (Protocol::Smtp, false) => "HELO",
        };
        command::hello(verb, &self.settings.name, out);
        self.phase = Phase::Hello { extended };
    }

    /// The reply of a server that does not want us: it hears QUIT, and nobody waits for more.
    fn unwelcome<'b>(&mut self, to: To, reply: Reply<'b>, out: &mut Outbox) -> Then<'b> {
        out.push(b"QUIT\r\n");
        self.phase = Phase::Closed;
        Then::Reply(to, reply)
    }

    fn heard<'b>(&mut self, reply: Reply<'b>, out: &mut Outbox) -> Then<'b> {
        let to = self.awaited();
        // RFC 5321 §3.8: 421 in reply to anything, or to nothing, and then the end.
        if reply.code() == 421 {
            self.phase = Phase::Closed;
            return Then::Reply(to, reply);
        }
        let wanted = if to == To::Data { Class::GoOn } else { Class::Done };
        let done = match to {
            To::Fcapa => reply.code() == 601,
            To::Su => reply.code() == 600,
            _ => reply.class() == wanted,
        };
        // RFC 5321 §3.1: 220 and no other 2yz is a greeting.
        let strange = to == To::Greeting && done && reply.code() != 220;
        if to == To::Nothing || strange || !(done || reply.refuses()) {
            return self.fail(Failure::Unexpected(to, reply.code()));
        }
        match &mut self.phase {
            Phase::Greeting if done => self.hello(true, out),
            Phase::Hello { extended } if done => {
                let extended = *extended;
                self.extensions =
                    if extended { Extensions::parse(&reply) } else { Extensions::default() };
                self.phase = Phase::Ready;
            }
            // RFC 5321 §3.2: a server that does not know EHLO may know HELO.
            Phase::Hello { extended: true }
                if reply.class() == Class::Permanent
                    && self.settings.protocol == Protocol::Smtp =>
            {
                self.hello(false, out);
            }
            Phase::Greeting | Phase::Hello { .. } => return self.unwelcome(to, reply, out),
            Phase::StartTls if done => self.phase = Phase::Handshake,
            Phase::Quit => self.phase = Phase::Closed,
            Phase::Transaction(transaction) => {
                transaction.heard(to, done, out);
            }
            phase => {
                self.authed |= done && to == To::Auth;
                *phase = Phase::Ready;
            }
        }
        Then::Reply(to, reply)
    }

    /// What the next reply is to.
    #[must_use]
    pub fn awaited(&self) -> To {
        match &self.phase {
            Phase::Greeting => To::Greeting,
            Phase::Hello { .. } => To::Hello,
            Phase::StartTls => To::StartTls,
            Phase::Auth => To::Auth,
            Phase::Fcapa => To::Fcapa,
            Phase::Su => To::Su,
            Phase::Transaction(transaction) => transaction.awaited(self.settings.protocol),
            Phase::Reset => To::Reset,
            Phase::Quit => To::Quit,
            Phase::Ready | Phase::Handshake | Phase::Closed => To::Nothing,
        }
    }

    /// What an open transaction does before it looks at replies.
    fn go_on<'b>(
        &mut self,
        now: Instant,
        envelope: &impl Envelope,
        out: &mut Outbox,
    ) -> Option<Then<'b>> {
        let Phase::Transaction(transaction) = &mut self.phase else { return None };
        let lmtp = self.settings.protocol == Protocol::Lmtp;
        while transaction.asks() {
            if out.room() < ENVELOPE_COMMAND_BYTES_MAX {
                return Some(Then::Flush);
            }
            if transaction.unheard_count() == 0 {
                self.since = now;
            }
            match transaction.asked_count {
                0 => command::mail(&envelope.sender(), &self.extensions, self.authed, out),
                n if n <= transaction.recipients_count => {
                    command::rcpt(&envelope.recipient(n - 1), &self.extensions, out);
                }
                _ => drop(out.push(b"DATA\r\n")),
            }
            transaction.asked_count += 1;
        }
        if transaction.wants_body(lmtp) {
            return Some(Then::Body);
        }
        if !transaction.is_over(self.settings.protocol) {
            return None;
        }
        if !transaction.needs_reset() {
            self.phase = Phase::Ready;
            return None;
        }
        if out.room() < ENVELOPE_COMMAND_BYTES_MAX {
            return Some(Then::Flush);
        }
        out.push(b"RSET\r\n");
        self.phase = Phase::Reset;
        self.since = now;
        None
    }
}
