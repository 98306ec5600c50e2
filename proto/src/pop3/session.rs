//! The POP3 dialogue as a value: lines go in, replies and questions come out.
//!
//! Called by the engine's POP3 driver by the turn contract. Between commands it owns nothing on the
//! heap but the name that USER gave, until PASS comes, and one bit per message from the first DELE
//! on. Limits are named in the module above; each failure is an `-ERR` reply.

use super::command::{self, Command, Number, When};
use super::deletions::Deletions;
use super::line::{self, Cut};
use super::reply::{self, Capabilities, REPLY_BYTES_MAX, Refusal, Reply};
use crate::access::{Access, Tls, TlsMode};
use crate::sasl::{self, Exchange, Nonce, Pending, ScramKeys};
use crate::time::Instant;
use crate::wire::outbox::Outbox;
use core::fmt;
use core::mem;
use core::time::Duration;
use std::rc::Rc;

/// Malformed lines (too long, NUL, bare CR or LF) after which the session closes; arbitrary, there
/// to stop what is not a mail client.
pub const MALFORMED_LINES_MAX: u8 = 10;

/// Failed sign-ins, by PASS or AUTH, after which the session closes; arbitrary, so that guessing
/// costs a connection.
pub const REFUSED_LOGINS_MAX: u8 = 3;

/// What all sessions of a listener share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name in the greeting; at most 255 bytes of printable ASCII.
    pub node: Box<str>,
    /// How long a client may say nothing; RFC 1939 §3 asks for at least 10 minutes.
    pub idle: Duration,
    /// TLS and sign-in.
    pub access: Access,
}

/// What the session asks of the open maildrop. An index is counted from 0, below the count that
/// [`Answer::Opened`] gave; nothing changes while the maildrop is open (RFC 1939 §8).
pub trait Listing {
    /// Octets of the message, its line ends counted as two (RFC 1939 §11).
    fn octets(&self, index: u32) -> u64;
    /// The unique-id: 1 to 70 characters in the range 0x21 to 0x7E, for ever the same and never
    /// given to another message (RFC 1939 §7).
    fn unique_id(&self, index: u32) -> impl AsRef<[u8]>;
    /// Whether the message has UTF-8 headers, so that it may only be given to a client that has
    /// said UTF8 (RFC 6856 §2.1).
    fn needs_utf8(&self, index: u32) -> bool {
        let _ = index;
        false
    }
}

/// The listing before sign-in.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Listing for Nothing {
    fn octets(&self, _: u32) -> u64 {
        0
    }

    fn unique_id(&self, _: u32) -> impl AsRef<[u8]> {
        *b"-"
    }
}

/// Bytes that must not be shown: `Debug` prints none of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<'b>(pub &'b [u8]);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// One step of the dialogue.
#[derive(Debug)]
pub struct Turn<'b> {
    /// Bytes that the driver drops from the front of its window when it is done with `then`.
    pub consumed: usize,
    /// What the session needs next.
    pub then: Then<'b>,
}

/// What the session needs next.
#[derive(Debug)]
pub enum Then<'b> {
    /// Send the replies, and turn again when more bytes have arrived.
    NeedInput,
    /// Send the replies, and turn again with the same input.
    Flush,
    /// Turn again.
    Again,
    /// Answer this first.
    Ask(Ask<'b>),
    /// Send the replies, make sure that the window is empty, do the handshake, then call
    /// [`Session::secured`]. Bytes that came before the replies were sent came in clear: close
    /// then, for they must never be taken for what TLS protects.
    StartTls,
    /// Send the replies and close. An open maildrop is released with no message removed, unless
    /// `Ask::Update` was answered.
    Close,
}

/// A question to the driver, which answers with [`Session::answer`].
#[derive(Debug, PartialEq, Eq)]
pub enum Ask<'b> {
    /// May this user in? Answer `Opened` or `Refused`.
    Login {
        /// The name as the client wrote it; not necessarily UTF-8.
        user: Box<[u8]>,
        /// The password.
        password: Secret<'b>,
    },
    /// Who is this? Answer as [`sasl::Question`] says: `Keys`, `Opened` or `Refused`.
    Auth(sasl::Question),
    /// Send this message. Find it first; then answer `Ready` or `Refused`. After `Ready` the driver
    /// sends the replies and the body, through [`Top`](super::Top) when `lines` is given and
    /// through [`Stuffer`](super::Stuffer), before it turns again. If the body fails half way it
    /// closes the connection: the client must not take a part for the whole.
    Retrieve {
        /// The message.
        index: u32,
        /// Only the headers and so many lines of the body.
        lines: Option<u64>,
    },
    /// Remove these messages and release the maildrop (RFC 1939 §6). Answer `Done`, or `Refused`
    /// when not all of them are gone.
    Update(Deletions),
}

/// The driver's answer to an [`Ask`].
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Signed in, the maildrop is locked and holds this.
    Opened {
        /// How many messages.
        count: u32,
        /// The sum of their sizes.
        octets: u64,
    },
    /// What SCRAM goes on with; only to [`sasl::Question::ScramKeys`].
    Keys {
        /// The user's keys, or made-up ones for a user that is not there.
        keys: &'a ScramKeys,
        /// Random bytes that were never used before.
        nonce: &'a Nonce,
    },
    /// The message was found.
    Ready,
    /// The messages are removed for good and the maildrop is released.
    Done,
    /// No.
    Refused(Refusal),
}

/// The state of RFC 1939 §3, with what exists in it.
#[derive(Debug)]
pub(super) enum Phase {
    /// Before sign-in; the name that USER gave.
    Authorization { user: Option<Box<[u8]>> },
    /// An AUTH exchange waits for a line of the client.
    Authenticating(Exchange),
    /// `Ask::Login` or `Ask::Auth` waits for its answer.
    SigningIn(Pending),
    /// Silence behind STLS; then the handshake may begin.
    StartTls,
    /// The driver is to say that TLS is there.
    Handshake,
    /// Signed in.
    Transaction(Transaction),
    /// LIST or UIDL is under way; `next` is the index of the next line.
    Listing { transaction: Transaction, kind: Kind, next: u32 },
    /// `Ask::Retrieve` waits for its answer.
    Retrieving { transaction: Transaction, ready: Reply<'static> },
    /// `Ask::Update` waits for its answer.
    Updating,
    /// Nothing more will be said.
    Closed,
}

/// Which listing is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    List,
    UniqueIds,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) count: u32,
    pub(super) octets: u64,
    pub(super) deletions: Deletions,
}

/// A POP3 session.
#[derive(Debug)]
pub struct Session {
    pub(super) settings: Rc<Settings>,
    pub(super) phase: Phase,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) deadline: Instant,
    /// The idle time starts with the next turn: the answer to a question came without the time.
    answered: bool,
    pub(super) utf8: bool,
    /// The rest of a line that was too long is still to come.
    skipping: bool,
    malformed_count: u8,
    pub(super) refused_count: u8,
}

impl Session {
    /// A session with a client that has just connected; writes the greeting.
    #[must_use]
    pub fn new(settings: Rc<Settings>, now: Instant, out: &mut Outbox) -> Self {
        Reply::Ready { node: &settings.node }.write(out);
        Self {
            deadline: now + settings.idle,
            settings,
            phase: Phase::Authorization { user: None },
            tls: None,
            answered: false,
            utf8: false,
            skipping: false,
            malformed_count: 0,
            refused_count: 0,
        }
    }

    /// When the client has been silent for too long.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends the session when its deadline has passed.
    ///
    /// RFC 1939 §3: closed without UPDATE and without a reply.
    pub fn expire(&mut self, now: Instant, _: &mut Outbox) {
        if now >= self.deadline {
            self.phase = Phase::Closed;
        }
    }

    /// Ends the session because the engine goes down; nothing is deleted.
    pub fn shut_down(&mut self, out: &mut Outbox) {
        // In the middle of a handshake there is nobody to read it.
        if !matches!(self.phase, Phase::Closed | Phase::Handshake) && out.room() >= REPLY_BYTES_MAX
        {
            Reply::Refused(Refusal::ShuttingDown).write(out);
        }
        self.phase = Phase::Closed;
    }

    /// Does one thing at the front of `input`; see the crate documentation.
    pub fn turn<'b>(
        &mut self,
        now: Instant,
        input: &'b [u8],
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Turn<'b> {
        if mem::take(&mut self.answered) {
            self.deadline = now + self.settings.idle;
        }
        match &mut self.phase {
            Phase::Closed => return Turn { consumed: 0, then: Then::Close },
            Phase::SigningIn(_) | Phase::Retrieving { .. } | Phase::Updating => {
                debug_assert!(false, "a question waits for its answer");
                return Turn { consumed: 0, then: Then::NeedInput };
            }
            Phase::Listing { transaction, kind, next } => {
                if !list(transaction, *kind, next, listing, out) {
                    return Turn { consumed: 0, then: Then::Flush };
                }
                self.resume();
                return Turn { consumed: 0, then: Then::Again };
            }
            Phase::Handshake => {
                debug_assert!(false, "after Then::StartTls comes secured");
                self.phase = Phase::Closed;
                return Turn { consumed: 0, then: Then::Close };
            }
            Phase::Authorization { .. }
            | Phase::Authenticating(_)
            | Phase::StartTls
            | Phase::Transaction(_) => {}
        }
        if out.room() < REPLY_BYTES_MAX {
            return Turn { consumed: 0, then: Then::Flush };
        }
        if matches!(self.phase, Phase::StartTls) {
            return self.turn_start_tls(input, out);
        }
        self.read(now, input, listing, out)
    }

    /// Answers the question of the last turn.
    pub fn answer(&mut self, answer: Answer<'_>, out: &mut Outbox) {
        self.answered = true;
        match (mem::replace(&mut self.phase, Phase::Closed), answer) {
            (Phase::SigningIn(pending), answer) => self.sign_in_answered(pending, answer, out),
            (Phase::Retrieving { transaction, ready }, Answer::Ready) => {
                ready.write(out);
                self.phase = Phase::Transaction(transaction);
            }
            (Phase::Retrieving { transaction, .. }, Answer::Refused(refusal)) => {
                Reply::Refused(refusal).write(out);
                if !refusal.closes() {
                    self.phase = Phase::Transaction(transaction);
                }
            }
            (Phase::Updating, Answer::Done) => {
                Reply::SigningOff { node: &self.settings.node }.write(out);
            }
            // RFC 1939 §6: an error reply, and the connection is closed all the same.
            (Phase::Updating, Answer::Refused(refusal)) => {
                Reply::NotAllRemoved(refusal).write(out);
            }
            (_, answer) => debug_assert!(false, "{answer:?} does not answer what was asked"),
        }
    }

    /// Takes a line from the front of `input`.
    fn read<'b>(
        &mut self,
        now: Instant,
        input: &'b [u8],
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Turn<'b> {
        if self.skipping {
            let (consumed, ended) = line::skip(input);
            self.skipping = !ended;
            let then = if ended { Then::Again } else { Then::NeedInput };
            return Turn { consumed, then };
        }
        let exchange = matches!(self.phase, Phase::Authenticating(_));
        let bytes_max = if exchange { sasl::LINE_BYTES_MAX } else { line::LINE_BYTES_MAX };
        let (consumed, problem) = match line::cut(input, bytes_max) {
            Cut::More => return Turn { consumed: 0, then: Then::NeedInput },
            Cut::Line { line, bytes } => {
                self.deadline = now + self.settings.idle;
                let then = if exchange {
                    self.exchange(line, out)
                } else {
                    self.command(line, listing, out)
                };
                return Turn { consumed: bytes, then };
            }
            Cut::Malformed { why, bytes } => (bytes, Reply::Syntax(why)),
            Cut::TooLong { bytes } => {
                self.skipping = true;
                (bytes, Reply::LineTooLong)
            }
        };
        if exchange {
            self.phase = Phase::Authorization { user: None };
        }
        self.malformed_count += 1;
        if self.malformed_count < MALFORMED_LINES_MAX {
            problem.write(out);
        } else {
            Reply::TooManyErrors.write(out);
            self.phase = Phase::Closed;
        }
        Turn { consumed, then: Then::Again }
    }

    fn command<'b>(
        &mut self,
        line: &'b [u8],
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Then<'b> {
        let Some((verb, rest)) = command::find(line) else {
            Reply::Unknown.write(out);
            return Then::Again;
        };
        let signed_in = matches!(self.phase, Phase::Transaction(_));
        let order = match verb.when {
            When::Authorization if signed_in => Some(Reply::SignedInAlready),
            When::Transaction if !signed_in => Some(Reply::SignInFirst),
            _ => None,
        };
        let command = match (order, verb.parse(rest)) {
            (Some(order), _) => {
                order.write(out);
                return Then::Again;
            }
            (None, Err(why)) => {
                Reply::Syntax(why).write(out);
                return Then::Again;
            }
            (None, Ok(command)) => command,
        };
        match command {
            Command::Capa => Reply::Capabilities(self.capabilities()).write(out),
            Command::Implementation => Reply::Implementation.write(out),
            Command::Lang(range) => language(range).write(out),
            command => return self.stateful(command, listing, out),
        }
        Then::Again
    }

    /// RFC 2449 §5: what the client can use now.
    fn capabilities(&self) -> Capabilities {
        let access = &self.settings.access;
        let tls = self.tls.as_deref();
        let signed_in = matches!(self.phase, Phase::Transaction(_));
        Capabilities {
            user: access.may_sign_in(tls),
            mechanisms: access.offer(tls).mechanisms,
            start_tls: access.tls == TlsMode::StartTls && tls.is_none() && !signed_in,
        }
    }

    /// Commands that look at the state or change it.
    fn stateful<'b>(
        &mut self,
        command: Command<'b>,
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Then<'b> {
        match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Authorization { user } => self.authorization(command, user, out),
            Phase::Transaction(transaction) => self.transaction(command, transaction, listing, out),
            phase => {
                self.phase = phase;
                debug_assert!(false, "lines are read in two states only");
                Then::Close
            }
        }
    }

    fn authorization<'b>(
        &mut self,
        command: Command<'b>,
        user: Option<Box<[u8]>>,
        out: &mut Outbox,
    ) -> Then<'b> {
        match (command, user) {
            (Command::Auth(argument), _) => return self.authenticate(argument, out),
            (Command::Stls, user) => self.start_tls(user, out),
            (Command::User(_) | Command::Pass(_), _)
                if !self.settings.access.may_sign_in(self.tls.as_deref()) =>
            {
                Reply::NeedsTls.write(out);
                self.phase = Phase::Authorization { user: None };
            }
            (Command::User(name), _) => {
                Reply::SendPass.write(out);
                self.phase = Phase::Authorization { user: Some(name.into()) };
            }
            (Command::Pass(password), Some(user)) => {
                self.phase = Phase::SigningIn(Pending::Verdict);
                return Then::Ask(Ask::Login { user, password: Secret(password) });
            }
            (Command::Quit, _) => Reply::SigningOff { node: &self.settings.node }.write(out),
            (command, user) => {
                if command == Command::Utf8 {
                    self.utf8 = true;
                    Reply::Utf8.write(out);
                } else {
                    Reply::UserFirst.write(out);
                }
                self.phase = Phase::Authorization { user };
            }
        }
        Then::Again
    }

    fn transaction<'b>(
        &mut self,
        command: Command<'b>,
        mut transaction: Transaction,
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Then<'b> {
        let then = match command {
            Command::Quit => {
                self.phase = Phase::Updating;
                return Then::Ask(Ask::Update(transaction.deletions));
            }
            Command::List(None) | Command::Uidl(None) => {
                let list = matches!(command, Command::List(_));
                let kind = if list { Kind::List } else { Kind::UniqueIds };
                if list { Reply::ListFollows } else { Reply::UniqueIdsFollow }.write(out);
                self.phase = Phase::Listing { transaction, kind, next: 0 };
                return Then::Again;
            }
            Command::Retr(number) => {
                return self.retrieve(number, None, transaction, listing, out);
            }
            Command::Top(number, lines) => {
                return self.retrieve(number, Some(lines), transaction, listing, out);
            }
            Command::Stat => {
                transaction.status().write(out);
                Then::Again
            }
            Command::Rset => {
                transaction.deletions = Deletions::default();
                Reply::Reset.write(out);
                Then::Again
            }
            Command::List(Some(number)) | Command::Uidl(Some(number)) | Command::Dele(number) => {
                match transaction.find(number) {
                    Ok(index) => transaction.single(command, number, index, listing, out),
                    Err(reply) => reply.write(out),
                }
                Then::Again
            }
            _ => {
                Reply::Noop.write(out);
                Then::Again
            }
        };
        self.phase = Phase::Transaction(transaction);
        then
    }

    fn retrieve(
        &mut self,
        number: Number,
        lines: Option<u64>,
        transaction: Transaction,
        listing: &impl Listing,
        out: &mut Outbox,
    ) -> Then<'static> {
        match transaction.find(number) {
            // RFC 6856 §2.1
            Ok(index) if listing.needs_utf8(index) && !self.utf8 => Reply::NeedsUtf8.write(out),
            Ok(index) => {
                let ready = match lines {
                    Some(_) => Reply::TopFollows,
                    None => Reply::Octets(listing.octets(index)),
                };
                self.phase = Phase::Retrieving { transaction, ready };
                return Then::Ask(Ask::Retrieve { index, lines });
            }
            Err(reply) => reply.write(out),
        }
        self.phase = Phase::Transaction(transaction);
        Then::Again
    }

    /// Goes back to reading lines after a listing.
    fn resume(&mut self) {
        self.phase = match mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Listing { transaction, .. } => Phase::Transaction(transaction),
            phase => phase,
        };
        self.answered = true;
    }
}

impl Transaction {
    /// The index of the message that the client calls `number`.
    fn find(&self, number: Number) -> Result<u32, Reply<'static>> {
        let Number(number) = number;
        let count = self.count;
        let index = number.checked_sub(1).filter(|&index| index < count);
        let index = index.ok_or(Reply::NoMessage { count })?;
        if self.deletions.contains(index) {
            return Err(Reply::DeletedAlready { number });
        }
        Ok(index)
    }

    /// RFC 1939 §5: messages marked as deleted are not counted.
    const fn status(&self) -> Reply<'static> {
        Reply::Status {
            count: self.count - self.deletions.count(),
            octets: self.octets.saturating_sub(self.deletions.octets()),
        }
    }

    /// LIST, UIDL and DELE of one message.
    fn single(
        &mut self,
        command: Command<'_>,
        Number(number): Number,
        index: u32,
        listing: &impl Listing,
        out: &mut Outbox,
    ) {
        let octets = listing.octets(index);
        match command {
            Command::Dele(_) => {
                let fresh = self.deletions.insert(index, octets);
                debug_assert!(fresh, "a deleted message is not found");
                Reply::Deleted.write(out);
            }
            Command::Uidl(_) => {
                reply::unique_id_line(number, listing.unique_id(index).as_ref(), true, out);
            }
            _ => Reply::Size { number, octets }.write(out),
        }
    }
}

/// Writes lines of a listing while they fit; says whether it came to the end.
fn list(
    transaction: &Transaction,
    kind: Kind,
    next: &mut u32,
    listing: &impl Listing,
    out: &mut Outbox,
) -> bool {
    while *next < transaction.count {
        let number = *next + 1;
        // RFC 1939 §5: messages marked as deleted are not listed.
        let fits = transaction.deletions.contains(*next)
            || if kind == Kind::List {
                reply::listing_line(number, listing.octets(*next), out)
            } else {
                reply::unique_id_line(number, listing.unique_id(*next).as_ref(), false, out)
            };
        if !fits {
            return false;
        }
        *next = number;
    }
    reply::listing_end(out)
}

/// RFC 6856 §3: there is one language. A range matches by its prefixes (RFC 4647 §3.4).
fn language(range: Option<&[u8]>) -> Reply<'static> {
    let Some(range) = range else { return Reply::Languages };
    let primary = range.split(|&byte| byte == b'-').next().unwrap_or_default();
    if range == b"*" || primary.eq_ignore_ascii_case(b"en") {
        Reply::Language { tag: "en" }
    } else if range.eq_ignore_ascii_case(b"i-default") {
        Reply::Language { tag: "i-default" }
    } else {
        Reply::NoLanguage
    }
}
