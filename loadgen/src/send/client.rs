//! One connection's work: open it, greet, encrypt, sign in, send message after message, say
//! goodbye.
//!
//! `executor.rs` calls [`message`] for each message that is due. Generic over the runtime, so the
//! same code runs on real sockets and on the simulator's. Every reply is counted and judged here; a
//! connection that breaks is dropped with its error's kind, and the next message opens another.

use std::cell::Cell;
use std::rc::Rc;

use fsmtp_proto::sasl::Mechanism;
use fsmtp_proto::smtp::address::{Mailbox, Path};
use fsmtp_proto::smtp::client::{Class, Content, Envelope, Nobody, Reply, Session, Then, To};
use fsmtp_proto::smtp::server::{Recipient, Sender};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_rt::{Dial, Instant, IoError};

use super::executor::Core;
use super::measure::{Kind, Phase};
use super::message::write_id;
use super::plan::{Between, Pipelining};
use crate::stream::Stream;
use crate::tls;

/// What one send carries of a message, so that buffers stay in the runtime's pool.
pub(crate) const PIECE_BYTES: usize = 16 * 1024;

/// Who a message is from and for.
#[derive(Debug, Default)]
pub(crate) struct Letter {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
}

/// The plan has checked all that addresses are made from.
fn path(address: &str) -> Path<'_> {
    Mailbox::parse(address).map_or(Path::Null, Path::Mailbox)
}

impl Envelope for Letter {
    fn sender(&self) -> Sender<'_> {
        Sender::new(path(&self.from))
    }

    fn recipient(&self, index: u32) -> Recipient<'_> {
        Recipient::new(path(self.to.get(index as usize).map_or("", |to| to)))
    }
}

/// Why a connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server has said so, and that was counted.
    Refused,
    /// It broke.
    Broken(Phase, Kind),
}

/// What became of a message, or of a greeting.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Verdict {
    /// A reply refused something.
    pub(crate) refused: bool,
    /// When it got its 250.
    pub(crate) taken: Option<Instant>,
    /// Recipients that were accepted.
    pub(crate) recipients: u64,
    pub(crate) octets: u64,
    pub(crate) template: usize,
}

/// Where turns of the session have led.
enum Event {
    Ready,
    Body,
    StartTls,
    Closed,
}

/// An open connection.
pub(crate) struct Link<R: Dial> {
    stream: Stream<R>,
    session: Session,
    out: Outbox,
    /// When the commands left whose replies are awaited.
    sent_at: Instant,
    messages_count: u64,
    _open: Open,
}

/// One of the core's open connections, for as long as it lives.
struct Open(Rc<Cell<u64>>);

impl Open {
    fn new(count: &Rc<Cell<u64>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Sends one message over `link`, which is opened when there is none.
///
/// # Errors
/// When the connection must be dropped. A refused message is none.
pub(crate) async fn message<R: Dial>(
    core: &Core<R>,
    worker: u32,
    link: &mut Option<Link<R>>,
    letter: &Letter,
    number: u64,
) -> Result<Verdict, Fault> {
    let mut open = match link.take() {
        Some(open) => open,
        None => Link::open(core, worker).await?,
    };
    let mut verdict = Verdict { template: core.pick_template(), ..Verdict::default() };
    if core.plan.options.between == Between::Rset && open.messages_count > 0 {
        open.session.reset(core.rt.now(), &mut open.out);
        open.until_ready(core).await?;
    }
    let content = if core.plan.options.bdat { Content::Chunks } else { Content::Data };
    open.session.message(core.rt.now(), content, core.plan.options.recipients);
    loop {
        match open.next(core, letter, &mut verdict).await? {
            Event::Ready => break,
            Event::Body => open.body(core, content, number, &mut verdict).await?,
            Event::Closed | Event::StartTls => return Err(Fault::Refused),
        }
    }
    open.messages_count += 1;
    let most = core.plan.options.messages_per_connection.unwrap_or(u64::MAX);
    if open.messages_count >= most {
        open.quit(core).await;
    } else {
        *link = Some(open);
    }
    Ok(verdict)
}

impl<R: Dial> Link<R> {
    /// Connects and brings the session to where it takes messages.
    async fn open(core: &Core<R>, worker: u32) -> Result<Self, Fault> {
        let rt = &core.rt;
        let begun = rt.now_exact();
        let deadline = rt.now() + core.plan.options.timeout;
        let dialed = rt.dial(core.source(), core.plan.target, deadline).await;
        let conn = dialed.map_err(|error| broken(Phase::Connect, &error))?;
        let connected = rt.now_exact();
        core.measures(|m| {
            m.connections += 1;
            m.time(Phase::Connect, connected - begun);
        });
        let mut link = Self {
            stream: Stream::new(rt.clone(), conn),
            session: Session::new(core.settings.clone(), rt.now()),
            out: Outbox::new(rt.buffer()),
            sent_at: connected,
            messages_count: 0,
            _open: Open::new(&core.open_count),
        };
        let mode = core.plan.options.tls.tls;
        if mode == tls::Mode::Implicit {
            link.handshake(core).await?;
        }
        link.until_ready(core).await?;
        if mode == tls::Mode::Starttls {
            if !link.session.extensions().start_tls {
                return Err(Fault::Broken(Phase::Tls, Kind::NotOffered));
            }
            link.session.start_tls(rt.now(), &mut link.out);
            link.until_ready(core).await?;
        }
        link.sign_in(core, worker).await?;
        let offered = link.session.extensions();
        if core.plan.options.pipelining == Pipelining::On && !offered.pipelining {
            return Err(Fault::Broken(Phase::Hello, Kind::NotOffered));
        }
        if core.plan.options.bdat && !offered.chunking {
            return Err(Fault::Broken(Phase::Hello, Kind::NotOffered));
        }
        Ok(link)
    }

    async fn sign_in(&mut self, core: &Core<R>, worker: u32) -> Result<(), Fault> {
        let Some((user, password)) = core.plan.user(worker) else { return Ok(()) };
        if !self.session.extensions().mechanisms.contains(Mechanism::Plain) {
            return Err(Fault::Broken(Phase::Auth, Kind::NotOffered));
        }
        if !self.session.auth_plain(core.rt.now(), user, password, &mut self.out) {
            return Err(Fault::Broken(Phase::Auth, Kind::Local));
        }
        // Who may not sign in may not send, either, and would only be told so again.
        if self.until_ready(core).await? { Err(Fault::Refused) } else { Ok(()) }
    }

    async fn handshake(&mut self, core: &Core<R>) -> Result<(), Fault> {
        let config = core.tls_config().ok_or(Fault::Broken(Phase::Tls, Kind::Local))?;
        let deadline = core.rt.now() + core.plan.options.timeout;
        let session = tls::client_session(&config, self.stream.peer().ip());
        let session = session.ok_or(Fault::Broken(Phase::Tls, Kind::Local))?;
        let made = self.stream.start_tls(session, deadline).await;
        let resumed = made.map_err(|error| broken(Phase::Tls, &error))?;
        let now = core.rt.now_exact();
        core.measures(|m| {
            m.time(Phase::Tls, now - self.sent_at);
            m.tls = m.tls.take().or_else(|| self.stream.security());
            let count = if resumed { &mut m.handshakes.1 } else { &mut m.handshakes.0 };
            *count += 1;
        });
        self.sent_at = now;
        Ok(())
    }

    /// Goes on until nothing is under way; says whether something was refused.
    async fn until_ready(&mut self, core: &Core<R>) -> Result<bool, Fault> {
        let mut verdict = Verdict::default();
        loop {
            match self.next(core, &Nobody, &mut verdict).await? {
                Event::Ready => return Ok(verdict.refused),
                Event::StartTls => {
                    self.handshake(core).await?;
                    self.session.secured(core.rt.now(), &mut self.out);
                }
                Event::Closed | Event::Body => return Err(Fault::Refused),
            }
        }
    }

    /// Takes turns until the driver has something to do.
    async fn next(
        &mut self,
        core: &Core<R>,
        envelope: &impl Envelope,
        verdict: &mut Verdict,
    ) -> Result<Event, Fault> {
        loop {
            let to = self.session.awaited();
            let (now, input) = (core.rt.now(), self.stream.filled());
            let turn = self.session.turn(now, input, envelope, &mut self.out);
            match turn.then {
                Then::Reply(to, reply) => {
                    note(core, to, &reply, self.sent_at, verdict);
                    let consumed = turn.consumed;
                    self.stream.consume(consumed);
                }
                Then::NeedInput => {
                    // The turn may have written what is awaited now.
                    let phase = Phase::of(self.session.awaited());
                    self.flush(core, phase).await?;
                    let filled = self.stream.fill(self.session.deadline()).await;
                    if filled.map_err(|error| broken(phase, &error))? == 0 {
                        return Err(Fault::Broken(phase, Kind::Dropped));
                    }
                }
                Then::Flush => self.flush(core, Phase::of(to)).await?,
                Then::Ready => return Ok(Event::Ready),
                Then::Body => return Ok(Event::Body),
                Then::StartTls => return Ok(Event::StartTls),
                Then::Failed(failure) => {
                    return Err(Fault::Broken(Phase::of(to), Kind::of_failure(failure, to)));
                }
                Then::Close => {
                    // A last QUIT may wait; whether it gets there makes no difference.
                    let _ = self.flush(core, Phase::Quit).await;
                    return Ok(Event::Closed);
                }
            }
        }
    }

    /// Sends the commands that wait.
    async fn flush(&mut self, core: &Core<R>, phase: Phase) -> Result<(), Fault> {
        if self.out.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.out, Outbox::new(core.rt.buffer())).take();
        self.send(core, phase, bytes).await
    }

    async fn send(&mut self, core: &Core<R>, phase: Phase, bytes: Vec<u8>) -> Result<(), Fault> {
        self.sent_at = core.rt.now_exact();
        let deadline = core.rt.now() + core.plan.options.timeout;
        self.stream.send(bytes, deadline).await.map_err(|error| broken(phase, &error))
    }

    /// Sends the message, behind the commands that wait: in one piece where it fits.
    async fn body(
        &mut self,
        core: &Core<R>,
        content: Content,
        number: u64,
        verdict: &mut Verdict,
    ) -> Result<(), Fault> {
        let template = core.templates.get(verdict.template);
        verdict.octets = template.octets();
        let wire = template.wire(content == Content::Chunks);
        if content == Content::Chunks {
            self.session.chunk(core.rt.now(), wire.len() as u64, true, &mut self.out);
        }
        let mut bytes = std::mem::replace(&mut self.out, Outbox::new(core.rt.buffer())).take();
        let first = bytes.len();
        let (front, mut rest) =
            wire.split_at_checked(PIECE_BYTES.saturating_sub(first)).unwrap_or((wire, &[]));
        // copy: template -> send buffer; the template serves every connection.
        bytes.extend_from_slice(front);
        write_id(bytes.get_mut(first..).unwrap_or_default(), core.run, core.number, number);
        self.send(core, Phase::Message, bytes).await?;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_checked(PIECE_BYTES).unwrap_or((rest, &[]));
            let mut bytes = core.rt.buffer();
            bytes.extend_from_slice(piece);
            self.session.sending(core.rt.now());
            self.send(core, Phase::Message, bytes).await?;
            rest = behind;
        }
        if content == Content::Data {
            self.session.body_sent(core.rt.now());
        }
        Ok(())
    }

    /// Says QUIT and waits for the goodbye; what goes wrong now is counted and costs nothing.
    pub(crate) async fn quit(mut self, core: &Core<R>) {
        self.session.quit(core.rt.now(), &mut self.out);
        loop {
            match self.next(core, &Nobody, &mut Verdict::default()).await {
                Ok(Event::Closed) | Err(Fault::Refused) => return,
                Ok(_) => {}
                Err(Fault::Broken(phase, kind)) => {
                    return core.measures(|m| m.error(phase, kind));
                }
            }
        }
    }
}

fn broken(phase: Phase, error: &IoError) -> Fault {
    Fault::Broken(phase, Kind::of_io(error))
}

/// Counts a reply, and what it says of the message.
fn note<R: Dial>(
    core: &Core<R>,
    to: To,
    reply: &Reply<'_>,
    sent_at: Instant,
    verdict: &mut Verdict,
) {
    let now = core.rt.now_exact();
    let phase = Phase::of(to);
    let refusal = Kind::of_class(reply.class());
    core.measures(|m| {
        m.code(phase, reply.code());
        if to != To::StartTls {
            m.time(phase, now - sent_at);
        }
        if let Some(kind) = refusal {
            m.error(phase, kind);
        }
    });
    verdict.refused |= refusal.is_some();
    let done = reply.class() == Class::Done;
    match to {
        To::Greeting => core.measures(|m| m.greeted(reply.lines().next().unwrap_or_default())),
        To::Message if done => verdict.taken = Some(now),
        // RFC 2033 §4.2: of each recipient that was accepted, whether it has the message.
        To::Delivery(_) if done => {
            verdict.taken = Some(now);
            verdict.recipients += 1;
        }
        To::Recipient(_) if done && !core.plan.options.lmtp => verdict.recipients += 1,
        _ => {}
    }
}
