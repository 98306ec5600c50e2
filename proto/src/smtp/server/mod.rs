//! The SMTP server session: bytes and time in, replies and questions out.
//!
//! The driver owns socket, window and outbox and follows the turn contract (see the crate's front
//! page); the desk behind it answers what the session asks. The window must be able to hold
//! [`LINE_BYTES_MAX`] bytes, or [`sasl::LINE_BYTES_MAX`] where AUTH is offered; the outbox has
//! [`TURN_BYTES_MAX`] free when a turn may reply.
//!
//! What the driver can rely on:
//!
//! * After an accepted [`Ask::Sender`] the transaction ends in exactly one way: [`Ask::Commit`]
//!   answered by [`Answer::Stored`], or [`Then::Reset`], or the end of the connection. So the desk
//!   drops what it holds on `Reset`, also after its own refusal to begin or commit.
//! * [`Then::Body`] comes only between an accepted [`Ask::Begin`] and `Commit` or `Reset`. A
//!   message that turns out too large or ambiguous is reset at once and read past to its end; its
//!   refusal is the reply there.
//! * A question is answered before the next turn; its slices live as long as the window does.
//!
//! Fails by replies only (RFC 5321 §7.8): no input panics, and the state is a few hundred bytes
//! whatever comes.

pub(crate) mod auth;
pub(crate) mod command;
mod phase;
mod settings;
pub(crate) mod starttls;
pub(crate) mod su;

use core::mem;
use core::net::IpAddr;
use std::rc::Rc;

use super::address::Path;
use super::body::Piece;
use super::ext::su::Proof;
use super::ext::{BodyType, Notify, OriginalRecipient, Return, Submitter};
use super::reply::{Code, Refusal, Reply, Secure};
use super::text::Text;
use super::verb;
use crate::access::Tls;
use crate::sasl::{self, Nonce, ScramKeys};
use crate::time::{Instant, UnixTime};
use crate::wire::line::{self, Cut};
use crate::wire::outbox::{OUTBOX_BYTES_MAX, Outbox};
use crate::wire::token::{self, Xtext};
pub use auth::FAILURES_MAX;
use phase::{Chunk, Data, Envelope, Phase, Question};
pub use settings::{Limits, Settings, SettingsError};

/// The longest command line, with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 and more for
/// parameters; the longest legal RCPT with DSN needs some 900. Lines of an AUTH exchange may be
/// longer: [`sasl::LINE_BYTES_MAX`].
pub const LINE_BYTES_MAX: usize = 2048;

/// How many lines that are too long or hold NUL or a bare newline are answered before the
/// connection is closed.
pub const BAD_LINES_MAX: u8 = 10;

/// The most bytes that one turn, or one answer, appends to the outbox: an EHLO reply.
pub const TURN_BYTES_MAX: usize = 1024;

const _: () = assert!(TURN_BYTES_MAX < OUTBOX_BYTES_MAX, "a flushed outbox must take any turn");
const _: () = assert!(size_of::<Session>() <= 256, "what 10,000 idle connections hold each");

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address that the connection comes from.
    pub ip: IpAddr,
    /// And the port.
    pub port: u16,
    /// The host name of that address, if it was looked up; shown in the reply to EHLO.
    pub host: Option<Rc<str>>,
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
    /// Call again.
    Again,
    /// Bytes of the message, in order, not empty.
    Body(&'b [u8]),
    /// Ask the desk, then call `answer`.
    Ask(Ask<'b>),
    /// The transaction ended without a message: drop what is held for it, then call again.
    Reset,
    /// Send the outbox, make sure that the window is empty, do the handshake, then call `secured`.
    /// Bytes that came before the outbox was sent came in clear: close then, for they must never
    /// be taken for what TLS protects.
    StartTls,
    /// Send the outbox and close the connection.
    Close,
}

/// A question to the desk.
#[derive(PartialEq, Eq, Debug)]
pub enum Ask<'b> {
    /// May this sender begin a transaction?
    Sender(Sender<'b>),
    /// May the message go to this recipient as well?
    Recipient(Recipient<'b>),
    /// The envelope is complete, the message would come now: is there room?
    Begin,
    /// The message is complete: make it durable. Answered by [`Answer::Stored`] or a refusal.
    Commit,
    /// Who is this? Answered, as [`sasl::Question`] says, by [`Answer::Keys`] or
    /// [`Answer::SignedIn`], or refused.
    Auth(sasl::Question),
    /// Is the client a node of the same owner? Asked under TLS with a channel binding only.
    /// Answered by [`Answer::Granted`] or a refusal.
    Su {
        /// What it has shown.
        token: &'b [u8],
    },
}

/// What MAIL said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender<'b> {
    /// Where reports go: null or a mailbox.
    pub path: Path<'b>,
    /// The declared size in bytes, within the limit.
    pub size: Option<u64>,
    /// What the message consists of.
    pub body: BodyType,
    /// Whether addresses and header may be in UTF-8.
    pub utf8: bool,
    /// How much a failure report should return.
    pub ret: Option<Return>,
    /// The sender's own name for this transaction.
    pub envelope_id: Option<Xtext<'b>>,
    /// Who first submitted the message, as the client says.
    pub submitter: Option<Submitter<'b>>,
    /// Whether it may go nowhere but under TLS with a proved host (RFC 8689).
    pub require_tls: bool,
}

impl<'b> Sender<'b> {
    /// A sender without parameters.
    #[must_use]
    pub const fn new(path: Path<'b>) -> Self {
        Self {
            path,
            size: None,
            body: BodyType::SevenBit,
            utf8: false,
            ret: None,
            envelope_id: None,
            submitter: None,
            require_tls: false,
        }
    }
}

/// What RCPT said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient<'b> {
    /// A mailbox or the bare postmaster.
    pub path: Path<'b>,
    /// When to report; `None` when nothing was said.
    pub notify: Option<Notify>,
    /// The recipient that the message was first meant for.
    pub original: Option<OriginalRecipient<'b>>,
}

impl<'b> Recipient<'b> {
    /// A recipient without parameters.
    #[must_use]
    pub const fn new(path: Path<'b>) -> Self {
        Self { path, notify: None, original: None }
    }
}

/// What the desk says.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Yes, to any question but `Commit`, `Auth` and `Su`.
    Accepted,
    /// The message is on stable storage; only to `Commit`.
    Stored {
        /// The queue id that the reply names: visible ASCII, at most 256 bytes.
        id: &'a str,
    },
    /// The client is who it says; only to `Auth`.
    SignedIn {
        /// The user's address, which [`Session::user`] gives from now on.
        user: &'a str,
    },
    /// What SCRAM goes on with; only to [`sasl::Question::ScramKeys`].
    Keys {
        /// The user's keys, or made-up ones for a user that is not there.
        keys: &'a ScramKeys,
        /// Random bytes that were never used before.
        nonce: &'a Nonce,
    },
    /// It is; only to `Su`.
    Granted {
        /// Its name, which [`Session::node`] gives from now on.
        node: &'a str,
        /// What shows it that this server is one, too.
        proof: &'a Proof,
    },
    /// No.
    Refused(Refusal),
    /// No, in these words: code, enhanced code and text, at most 240 visible characters. Where the
    /// reply has to wait for the end of a chunk, it goes without them.
    Told(Code, &'a str),
}

/// How the client introduced itself.
#[derive(Debug)]
enum Hello {
    None,
    Helo(Text),
    Ehlo(Text),
}

/// An encrypted connection, and who has proved to be at its end.
#[derive(Debug)]
struct Channel {
    /// What the handshake gave.
    tls: Tls,
    /// Which node of the same owner; none for anybody else.
    node: Option<Box<str>>,
}

/// One connection, as far as the protocol goes.
#[derive(Debug)]
pub struct Session {
    settings: Rc<Settings>,
    peer: Peer,
    hello: Hello,
    phase: Phase,
    /// None in clear.
    channel: Option<Box<Channel>>,
    /// Who has signed in.
    user: Option<Box<str>>,
    /// When the session last got on: the deadline counts from here.
    since: Instant,
    mails_count: u32,
    bad_lines_count: u8,
    /// Sign-ins that failed.
    failures_count: u8,
    /// The desk's refusal ended the transaction: the next turn says `Reset`.
    reset_due: bool,
    /// The desk has answered: its time is not the client's.
    answered: bool,
}

impl Session {
    /// Opens a session and writes its greeting.
    #[must_use]
    pub fn new(
        settings: Rc<Settings>,
        peer: Peer,
        now: Instant,
        unix: UnixTime,
        out: &mut Outbox,
    ) -> Self {
        settings.greet(unix, out);
        Self {
            settings,
            peer,
            hello: Hello::None,
            phase: Phase::Command(None),
            channel: None,
            user: None,
            since: now,
            mails_count: 0,
            bad_lines_count: 0,
            failures_count: 0,
            reset_due: false,
            answered: false,
        }
    }

    /// Does one thing at the front of `input`. Not to be called while a question is open.
    pub fn turn<'b>(&mut self, now: Instant, input: &'b [u8], out: &mut Outbox) -> Turn<'b> {
        if self.answered {
            self.answered = false;
            self.since = now;
        }
        if self.reset_due {
            self.reset_due = false;
            return Turn { consumed: 0, then: Then::Reset };
        }
        if out.room() < TURN_BYTES_MAX {
            return Turn { consumed: 0, then: Then::Flush };
        }
        match &mut self.phase {
            Phase::Command(_) => self.turn_command(now, input, out),
            Phase::SkipLine(_) | Phase::SkipResponse => self.turn_skip_line(now, input, out),
            Phase::Auth(_) => self.turn_auth(now, input, out),
            Phase::StartTls => self.turn_start_tls(input, out),
            Phase::Data(_) => self.turn_data(now, input, out),
            Phase::Chunk(_) => self.turn_chunk(now, input, out),
            Phase::SkipChunk { .. } => self.turn_skip_chunk(now, input, out),
            Phase::Asked(_) => {
                debug_assert!(false, "an open question is answered before the next turn");
                Turn { consumed: 0, then: Then::NeedInput }
            }
            Phase::Handshake => self.lost(),
            Phase::Closed => Turn { consumed: 0, then: Then::Close },
        }
    }

    /// Takes the desk's answer to the open question and writes the reply.
    pub fn answer(&mut self, answer: Answer<'_>, out: &mut Outbox) {
        self.answered = true;
        match mem::replace(&mut self.phase, Phase::Command(None)) {
            Phase::Asked(question) => self.answer_to(question, answer, out),
            phase => {
                debug_assert!(false, "an answer without a question");
                self.phase = phase;
            }
        }
    }

    fn answer_to(&mut self, question: Question, answer: Answer<'_>, out: &mut Outbox) {
        match (question, answer) {
            (Question::Sender { echo, envelope }, Answer::Accepted) => {
                self.mails_count = self.mails_count.saturating_add(1);
                self.phase = Phase::Command(Some(envelope));
                Reply::SenderOk.write_with(echo.as_bytes(), out);
            }
            (Question::Recipient { echo, mut envelope }, Answer::Accepted) => {
                envelope.recipients_count += 1;
                self.phase = Phase::Command(Some(envelope));
                Reply::RecipientOk.write_with(echo.as_bytes(), out);
            }
            (Question::BeginData, Answer::Accepted) => {
                self.phase = Phase::Data(Data::default());
                Reply::StartData.write(out);
            }
            // RFC 3030 §2: no reply before the chunk.
            (Question::BeginChunk(chunk), Answer::Accepted) => self.phase = Phase::Chunk(chunk),
            (Question::Commit, Answer::Stored { id }) => {
                Reply::Queued.write_with(id.as_bytes(), out);
            }
            (Question::Auth(pending), answer) => self.auth_answered(pending, answer, out),
            (Question::Su, answer) => self.su_answered(answer, out),
            (question, Answer::Refused(refusal)) => self.refused(question, refusal, None, out),
            (question, Answer::Told(code, text)) => {
                self.refused(question, Refusal::Told(code), Some(text), out);
            }
            (question, _) => {
                debug_assert!(false, "an answer to another question");
                self.refused(question, Refusal::Storage, None, out);
            }
        }
    }

    fn refused(&mut self, of: Question, refusal: Refusal, text: Option<&str>, out: &mut Outbox) {
        let reply = Reply::Refused(refusal);
        let (echo, phase) = match of {
            Question::Sender { echo, .. } => (Some(echo), Phase::Command(None)),
            Question::Recipient { echo, envelope } => (Some(echo), Phase::Command(Some(envelope))),
            Question::BeginData | Question::Commit => {
                self.reset_due = true;
                (None, Phase::Command(None))
            }
            // The chunk is still to come, and the reply after it.
            Question::BeginChunk(Chunk { bytes_left, .. }) if !refusal.closes() => {
                self.reset_due = true;
                self.phase = Phase::SkipChunk { bytes_left, reply, envelope: None };
                return;
            }
            Question::BeginChunk(_) => (None, Phase::Closed),
            Question::Auth(_) | Question::Su => (None, Phase::Command(None)),
        };
        let echo = text.map(str::as_bytes).or_else(|| echo.as_ref().map(Text::as_bytes));
        reply.write_with(echo.unwrap_or_default(), out);
        if refusal.closes() {
            self.phase = Phase::Closed;
            self.reset_due = false;
        } else {
            self.phase = phase;
        }
    }

    /// When [`Session::expire`] is due. [`Instant::FAR`] while a question is open.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let limits = self.settings.limits();
        match self.phase {
            Phase::Asked(_) => Instant::FAR,
            Phase::Data(_) | Phase::Chunk(_) | Phase::SkipChunk { .. } => {
                self.since + limits.data_timeout
            }
            Phase::Command(_)
            | Phase::SkipLine(_)
            | Phase::Auth(_)
            | Phase::SkipResponse
            | Phase::StartTls
            | Phase::Handshake
            | Phase::Closed => self.since + limits.command_timeout,
        }
    }

    /// Ends the session with 421 if the deadline has passed (RFC 5321 §4.5.3.2).
    pub fn expire(&mut self, now: Instant, out: &mut Outbox) {
        if now >= self.deadline() {
            self.end(Reply::TimedOut, out);
        }
    }

    /// Ends the session with 421 because the engine is going down (RFC 5321 §3.8). The driver
    /// chooses the moment; outside of a transaction no client loses anything.
    pub fn shut_down(&mut self, out: &mut Outbox) {
        self.end(Reply::Refused(Refusal::ShuttingDown), out);
    }

    fn end(&mut self, reply: Reply, out: &mut Outbox) {
        // A client that does not read its replies does not get this one, and in the middle of a
        // handshake there is nobody to read it.
        if !matches!(self.phase, Phase::Closed | Phase::Handshake) && out.room() >= TURN_BYTES_MAX {
            reply.write(out);
        }
        self.phase = Phase::Closed;
    }

    /// The name that the client gave itself, and `None` before EHLO or HELO.
    #[must_use]
    pub fn client_name(&self) -> Option<&str> {
        match &self.hello {
            Hello::None => None,
            Hello::Helo(name) | Hello::Ehlo(name) => Some(name.as_str()),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What TLS gave; `None` in clear.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.channel.as_ref().map(|channel| &channel.tls)
    }

    /// The user who has signed in, as the desk named it.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// What stands after `with` in the trace header: RFC 3848 §1, RFC 6531 §4.3.
    #[must_use]
    pub const fn protocol(&self, sender_utf8: bool) -> &'static str {
        let extended = matches!(self.hello, Hello::Ehlo(_));
        match (sender_utf8, extended, self.channel.is_some(), self.user.is_some()) {
            (true, _, false, false) => "UTF8SMTP",
            (true, _, true, false) => "UTF8SMTPS",
            (true, _, false, true) => "UTF8SMTPA",
            (true, _, true, true) => "UTF8SMTPSA",
            // HELO has no words for TLS; nobody signs in without EHLO.
            (false, false, ..) => "SMTP",
            (false, true, false, false) => "ESMTP",
            (false, true, true, false) => "ESMTPS",
            (false, true, false, true) => "ESMTPA",
            (false, true, true, true) => "ESMTPSA",
        }
    }

    /// Whether a transaction is open, so that closing now would cost the client something.
    #[must_use]
    pub const fn in_transaction(&self) -> bool {
        match &self.phase {
            Phase::Command(envelope)
            | Phase::SkipLine(envelope)
            | Phase::SkipChunk { envelope, .. } => envelope.is_some(),
            Phase::Asked(_) | Phase::Data(_) | Phase::Chunk(_) => true,
            Phase::Auth(_)
            | Phase::SkipResponse
            | Phase::StartTls
            | Phase::Handshake
            | Phase::Closed => false,
        }
    }
}

/// One kind of turn for each phase.
impl Session {
    fn turn_command<'b>(&mut self, now: Instant, input: &'b [u8], out: &mut Outbox) -> Turn<'b> {
        match line::cut(input, LINE_BYTES_MAX) {
            Cut::Line(line) => {
                self.since = now;
                let (handler, argument) = verb::find(line);
                Turn { consumed: line.len() + 2, then: handler(self, argument, out) }
            }
            Cut::Spoiled(consumed) => {
                self.since = now;
                Turn { consumed, then: self.bad_line(Reply::LineSpoiled, out) }
            }
            Cut::Partial => Turn { consumed: 0, then: Then::NeedInput },
            Cut::TooLong(consumed) => {
                self.phase = Phase::SkipLine(self.envelope());
                Turn { consumed, then: Then::Again }
            }
        }
    }

    /// The deadline stays: a line without end is not progress.
    fn turn_skip_line<'b>(&mut self, now: Instant, input: &[u8], out: &mut Outbox) -> Turn<'b> {
        let (consumed, ended) = line::skip(input);
        if ended {
            self.since = now;
            let response = matches!(self.phase, Phase::SkipResponse);
            let reply =
                if response { Reply::Secure(Secure::ResponseTooLong) } else { Reply::LineTooLong };
            self.phase = Phase::Command(self.envelope());
            return Turn { consumed, then: self.bad_line(reply, out) };
        }
        let then = if consumed == 0 { Then::NeedInput } else { Then::Again };
        Turn { consumed, then }
    }

    fn bad_line<'b>(&mut self, reply: Reply, out: &mut Outbox) -> Then<'b> {
        self.bad_lines_count += 1;
        reply.write(out);
        if self.bad_lines_count < BAD_LINES_MAX {
            return Then::Again;
        }
        self.say(Reply::TooManyBadLines, out)
    }

    fn turn_data<'b>(&mut self, now: Instant, input: &'b [u8], out: &mut Outbox) -> Turn<'b> {
        let Phase::Data(data) = &mut self.phase else { return self.lost() };
        match data.scanner.scan(input) {
            Piece::NeedInput => Turn { consumed: 0, then: Then::NeedInput },
            Piece::Data { bytes, consumed } => {
                self.since = now;
                data.bytes_count = data.bytes_count.saturating_add(bytes.len() as u64);
                let too_large = data.bytes_count > self.settings.limits().message_bytes();
                let then = if data.dropped {
                    Then::Again
                } else if too_large || data.scanner.bare_newline() {
                    data.dropped = true;
                    Then::Reset
                } else {
                    Then::Body(bytes)
                };
                Turn { consumed, then }
            }
            Piece::End => {
                self.since = now;
                let consumed = b".\r\n".len();
                if data.scanner.bare_newline() {
                    self.phase = Phase::Command(None);
                    return Turn { consumed, then: self.say(Reply::BareNewline, out) };
                }
                if data.dropped {
                    self.phase = Phase::Command(None);
                    return Turn { consumed, then: self.say(Reply::TooLarge, out) };
                }
                self.phase = Phase::Asked(Question::Commit);
                Turn { consumed, then: Then::Ask(Ask::Commit) }
            }
        }
    }

    fn turn_chunk<'b>(&mut self, now: Instant, input: &'b [u8], out: &mut Outbox) -> Turn<'b> {
        let Phase::Chunk(chunk) = &mut self.phase else { return self.lost() };
        if chunk.bytes_left == 0 {
            let chunk = *chunk;
            return Turn { consumed: 0, then: self.end_chunk(chunk, out) };
        }
        let len = usize::try_from(chunk.bytes_left).unwrap_or(usize::MAX).min(input.len());
        let bytes = input.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            return Turn { consumed: 0, then: Then::NeedInput };
        }
        self.since = now;
        chunk.bytes_left -= len as u64;
        let chunks = &mut chunk.chunks;
        if chunk.envelope.body != BodyType::Binary {
            chunks.newlines.feed(bytes);
        }
        let then = if chunks.dropped {
            Then::Again
        } else if chunks.newlines.bare() {
            chunks.dropped = true;
            Then::Reset
        } else {
            Then::Body(bytes)
        };
        Turn { consumed: len, then }
    }

    /// All bytes of a chunk were read.
    fn end_chunk<'b>(&mut self, chunk: Chunk, out: &mut Outbox) -> Then<'b> {
        let Chunk { mut envelope, chunks, .. } = chunk;
        if !chunk.last {
            envelope.chunks = Some(chunks);
            self.phase = Phase::Command(Some(envelope));
            let mut buffer = [0; token::DECIMAL_BYTES_MAX];
            Reply::ChunkTaken.write_with(token::push_decimal(chunk.bytes, &mut buffer), out);
            return Then::Again;
        }
        if !chunks.newlines.bare_at_end() {
            self.phase = Phase::Asked(Question::Commit);
            return Then::Ask(Ask::Commit);
        }
        // A message that ends in a bare CR is seen only now.
        self.reset_due = !chunks.dropped;
        self.phase = Phase::Command(None);
        self.say(Reply::BareNewline, out)
    }

    fn turn_skip_chunk<'b>(&mut self, now: Instant, input: &[u8], out: &mut Outbox) -> Turn<'b> {
        let Phase::SkipChunk { bytes_left, reply, envelope } = &mut self.phase else {
            return self.lost();
        };
        if *bytes_left == 0 {
            let reply = *reply;
            self.phase = Phase::Command(*envelope);
            return Turn { consumed: 0, then: self.say(reply, out) };
        }
        let len = usize::try_from(*bytes_left).unwrap_or(usize::MAX).min(input.len());
        if len == 0 {
            return Turn { consumed: 0, then: Then::NeedInput };
        }
        self.since = now;
        *bytes_left -= len as u64;
        Turn { consumed: len, then: Then::Again }
    }

    /// A turn of one phase in another; `turn` has looked, so this does not happen.
    fn lost<'b>(&mut self) -> Turn<'b> {
        debug_assert!(false, "turn looks at the phase before it chooses");
        self.phase = Phase::Closed;
        Turn { consumed: 0, then: Then::Close }
    }
}

/// What the handlers of commands use.
impl Session {
    /// Writes a reply; some of them close the connection.
    pub(crate) fn say<'b>(&mut self, reply: Reply, out: &mut Outbox) -> Then<'b> {
        reply.write(out);
        if reply.closes() {
            self.phase = Phase::Closed;
        }
        Then::Again
    }

    /// The open transaction, in the phases that wait for a command.
    fn envelope(&self) -> Option<Envelope> {
        match self.phase {
            Phase::Command(envelope) | Phase::SkipLine(envelope) => envelope,
            _ => None,
        }
    }

    fn open_envelope(&self) -> Result<Envelope, Reply> {
        match (self.envelope(), &self.hello) {
            (Some(envelope), _) => Ok(envelope),
            (None, Hello::None) => Err(Reply::HelloFirst),
            (None, Hello::Helo(_) | Hello::Ehlo(_)) => Err(Reply::MailFirst),
        }
    }

    /// Ends the transaction, if one is open, and tells the driver unless it knows.
    fn drop_transaction<'b>(&mut self) -> Then<'b> {
        let held = self.envelope().is_some_and(|e| !e.chunks.is_some_and(|c| c.dropped));
        self.phase = Phase::Command(None);
        if held { Then::Reset } else { Then::Again }
    }

    fn skip_chunk<'b>(
        &mut self,
        bytes_left: u64,
        reply: Reply,
        envelope: Option<Envelope>,
    ) -> Then<'b> {
        self.phase = Phase::SkipChunk { bytes_left, reply, envelope };
        Then::Again
    }
}
