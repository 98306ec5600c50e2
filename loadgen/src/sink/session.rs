//! One core of the sink: its connections, each with the SMTP server session of `proto` behind it.
//!
//! `mod.rs` runs [`run`] on a shard for each core; the tests run it on the simulator. A connection
//! takes a window, a session, at most one buffer of replies and, with a ledger, a header line and
//! the state of a sum: nothing grows with its messages. What goes wrong with a connection ends it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use fsmtp_proto::access::{Access, Tls, TlsMode};
use fsmtp_proto::smtp::reply::{Refusal, refuse_connection};
use fsmtp_proto::smtp::server::{Answer, Ask, Limits, Peer, Session, Settings, Then};
use fsmtp_proto::wire::outbox::Outbox;
use fsmtp_rt::{Class, Instant, IoError, IoKind, Listener, Runtime};

use rustls::ServerConfig;

use super::Options;
use super::ledger::BATCH_BYTES;
use super::rules::{Rules, Verdict, hash};
use crate::proof::Reader;
use crate::send::Random;
use crate::stream::Stream;
use crate::tls;

/// How often a core looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);
/// What is under way when the run is over has so long to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long a client that we leave may take to hear it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What every core is given.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) options: Arc<Options>,
    pub(super) rules: Arc<Rules>,
    /// Ends the run.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) open_count: Arc<AtomicU32>,
    pub(super) messages_count: Arc<AtomicU64>,
    pub(super) ledger: Option<SyncSender<Vec<u8>>>,
    /// None: it does not know TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// What a core has seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) messages: u64,
    pub(super) recipients: u64,
    pub(super) octets: u64,
    pub(super) discarded: u64,
    pub(super) unnamed: u64,
    pub(super) drops: u64,
    pub(super) handshakes: u64,
    /// Replies that refuse, by code.
    pub(super) refusals: BTreeMap<u16, u64>,
    pub(super) cpu: Duration,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.octets += other.octets;
        self.discarded += other.discarded;
        self.unnamed += other.unnamed;
        self.drops += other.drops;
        self.handshakes += other.handshakes;
        self.cpu += other.cpu;
        for (code, count) in &other.refusals {
            *self.refusals.entry(*code).or_default() += count;
        }
    }

    /// Counts the refusals among replies.
    fn replies(&mut self, replies: &[u8]) {
        for line in replies.split(|b| *b == b'\n') {
            if let [class @ (b'4' | b'5'), tens, ones, b' ', ..] = line {
                let digit = |byte: &u8| u16::from(byte.wrapping_sub(b'0'));
                let code = digit(class) * 100 + digit(tens) * 10 + digit(ones);
                *self.refusals.entry(code).or_default() += 1;
            }
        }
    }
}

/// The state of a core.
struct Core<R: Runtime> {
    rt: R,
    shared: Shared,
    settings: Rc<Settings>,
    random: RefCell<Random>,
    counts: RefCell<Counts>,
    /// Lines for the ledger.
    lines: RefCell<Vec<u8>>,
    open_count: Cell<u32>,
}

/// Runs one core until the run is over, and returns what it saw.
pub(super) async fn run<R: Runtime>(
    rt: R,
    listener: impl Listener<Conn = R::Conn>,
    number: u32,
    shared: Shared,
) -> Result<Counts, String> {
    let limits = Limits { message_bytes_max: shared.options.size_max, ..Limits::default() };
    let settings = Settings::new("sink.loadgen.test", limits).map_err(|e| e.to_string())?;
    let mode = match shared.options.tls {
        tls::Mode::None => TlsMode::None,
        tls::Mode::Starttls => TlsMode::StartTls,
        tls::Mode::Implicit => TlsMode::Implicit,
    };
    let access = Access { tls: mode, ..Access::default() };
    let settings = settings.with_access(access).map_err(|e| e.to_string())?;
    let seed = shared.options.seed.rotate_left(32) ^ u64::from(number);
    let until = shared.options.duration.map_or(Instant::FAR, |time| rt.now() + time);
    let core = Rc::new(Core {
        settings: Rc::new(settings),
        random: RefCell::new(Random::new(seed)),
        counts: RefCell::default(),
        lines: RefCell::default(),
        open_count: Cell::new(0),
        rt: rt.clone(),
        shared,
    });
    rt.spawn(Class::Accept, accept(Rc::clone(&core), listener));
    while !core.stopping() && rt.now() < until {
        rt.sleep_until(rt.now() + LOOK).await;
    }
    core.shared.stop.store(true, Ordering::Relaxed);
    let patience = rt.now() + GRACE;
    while core.open_count.get() > 0 && rt.now() < patience {
        rt.sleep_until(rt.now() + LOOK).await;
    }
    core.write_ledger();
    Ok(core.counts.take())
}

async fn accept<R: Runtime>(core: Rc<Core<R>>, mut listener: impl Listener<Conn = R::Conn>) {
    loop {
        let Ok(conn) = listener.accept().await else {
            core.rt.sleep_until(core.rt.now() + LOOK).await;
            continue;
        };
        let inner = Rc::clone(&core);
        core.rt.spawn(Class::Session, async move { inner.visit(conn).await });
    }
}

/// What the desk says.
#[derive(Debug)]
enum Said {
    Accepted,
    Stored,
    Refused(Refusal),
    /// Nothing: the connection is closed.
    Drop,
}

/// What is held for a connection.
#[derive(Debug, Default)]
struct Visit {
    /// Messages that it was told to have brought.
    messages_count: u64,
    /// Stands for the sender.
    sender: u64,
    recipients: u64,
    /// Whether a recipient's mail is to be in the ledger.
    keep: bool,
    octets: u64,
    reader: Option<Reader>,
}

impl Visit {
    fn body(&mut self, bytes: &[u8]) {
        self.octets += bytes.len() as u64;
        if let Some(reader) = &mut self.reader {
            reader.push(bytes);
        }
    }

    fn reset(&mut self) {
        *self = Self { messages_count: self.messages_count, ..Self::default() };
    }
}

impl<R: Runtime> Core<R> {
    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// One connection, if there is room for it.
    async fn visit(&self, conn: R::Conn) {
        let mut conn = Stream::new(self.rt.clone(), conn);
        let open_count = &self.shared.open_count;
        self.open_count.set(self.open_count.get() + 1);
        if open_count.fetch_add(1, Ordering::Relaxed) < self.shared.options.connections {
            self.counts.borrow_mut().connections += 1;
            // How it ended is the client's concern.
            let _ = self.serve(&mut conn).await;
        } else {
            let mut out = Outbox::new(self.rt.buffer());
            refuse_connection(Refusal::TooManyConnections, &mut out);
            let _ = self.say(&mut conn, &mut out, self.rt.now() + CLOSE_TIMEOUT).await;
        }
        conn.close(self.rt.now() + CLOSE_TIMEOUT).await;
        open_count.fetch_sub(1, Ordering::Relaxed);
        self.open_count.set(self.open_count.get() - 1);
    }

    async fn serve(&self, conn: &mut Stream<R>) -> Result<(), IoError> {
        let rt = &self.rt;
        let mut out = Outbox::new(rt.buffer());
        let (ip, port) = (conn.peer().ip().to_canonical(), conn.peer().port());
        let peer = Peer { ip, port, host: None };
        let settings = Rc::clone(&self.settings);
        let implicit = settings.access().tls == TlsMode::Implicit;
        if implicit {
            self.encrypt(conn).await?;
        }
        let mut session = Session::new(settings, peer, rt.now(), rt.unix(), &mut out);
        if implicit {
            session.secured(rt.now(), Tls::default());
        }
        let mut visit = Visit::default();
        loop {
            let turn = session.turn(rt.now(), conn.filled(), &mut out);
            let consumed = turn.consumed;
            match turn.then {
                Then::Again => conn.consume(consumed),
                Then::Body(bytes) => {
                    visit.body(bytes);
                    conn.consume(consumed);
                }
                Then::Ask(ask) => {
                    let said = self.answer(&ask, &mut visit).await;
                    conn.consume(consumed);
                    let answer = match said {
                        Said::Accepted => Answer::Accepted,
                        Said::Stored => Answer::Stored { id: "sink" },
                        Said::Refused(refusal) => Answer::Refused(refusal),
                        Said::Drop => {
                            self.counts.borrow_mut().drops += 1;
                            return Ok(());
                        }
                    };
                    session.answer(answer, &mut out);
                }
                Then::Reset => {
                    visit.reset();
                    conn.consume(consumed);
                }
                Then::Flush => {
                    conn.consume(consumed);
                    self.say(conn, &mut out, session.deadline()).await?;
                }
                Then::NeedInput => {
                    conn.consume(consumed);
                    self.need_input(conn, &mut session, &mut out).await?;
                }
                Then::StartTls => {
                    conn.consume(consumed);
                    self.say(conn, &mut out, session.deadline()).await?;
                    self.encrypt(conn).await?;
                    session.secured(rt.now(), Tls::default());
                }
                Then::Close => {
                    conn.consume(consumed);
                    return self.say(conn, &mut out, rt.now() + CLOSE_TIMEOUT).await;
                }
            }
        }
    }

    /// Makes the handshake.
    async fn encrypt(&self, conn: &mut Stream<R>) -> Result<(), IoError> {
        let failed = || IoError::new(IoKind::Failed, "start TLS with", conn.peer().to_string());
        let session = self.shared.tls.as_ref().and_then(tls::server_session).ok_or_else(failed)?;
        conn.start_tls(session, self.rt.now() + HANDSHAKE_TIMEOUT).await?;
        self.counts.borrow_mut().handshakes += 1;
        Ok(())
    }

    /// Sends what has gathered and waits for the client; meanwhile no reply buffer is held.
    async fn need_input(
        &self,
        conn: &mut Stream<R>,
        session: &mut Session,
        out: &mut Outbox,
    ) -> Result<(), IoError> {
        let rt = &self.rt;
        let deadline = session.deadline();
        if out.is_empty() {
            rt.recycle(out.take());
        } else {
            self.say(conn, out, deadline).await?;
            rt.recycle(out.take());
        }
        if !self.shared.options.slow_read.is_zero() {
            rt.sleep_until(rt.now() + self.shared.options.slow_read).await;
        }
        let filled = conn.fill(deadline).await;
        *out = Outbox::new(rt.buffer());
        match filled {
            Ok(0) => Err(IoError::new(IoKind::Closed, "read from", conn.peer().to_string())),
            Err(error) if error.kind == IoKind::TimedOut => {
                session.expire(rt.now().max(deadline), out);
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// Sends the replies, at the pace of the tarpit, and leaves an empty outbox.
    async fn say(
        &self,
        conn: &mut Stream<R>,
        out: &mut Outbox,
        deadline: Instant,
    ) -> Result<(), IoError> {
        let rt = &self.rt;
        let replies = mem::replace(out, Outbox::new(rt.buffer())).take();
        self.counts.borrow_mut().replies(&replies);
        let pause = self.shared.options.tarpit;
        if pause.is_zero() {
            return conn.send(replies, deadline).await;
        }
        for byte in &replies {
            let mut one = rt.buffer();
            one.push(*byte);
            // Our own slowness is not the client's.
            conn.send(one, rt.now() + CLOSE_TIMEOUT).await?;
            rt.sleep_until(rt.now() + pause).await;
        }
        rt.recycle(replies);
        Ok(())
    }

    async fn wait(&self, delay: Duration) {
        if !delay.is_zero() {
            self.rt.sleep_until(self.rt.now() + delay).await;
        }
    }

    async fn answer(&self, ask: &Ask<'_>, visit: &mut Visit) -> Said {
        match ask {
            // What is under way may end, but nothing new begins.
            Ask::Sender(_) if self.stopping() => Said::Refused(Refusal::ShuttingDown),
            Ask::Sender(sender) => {
                visit.reset();
                visit.sender = hash(0, sender.path.text());
                Said::Accepted
            }
            Ask::Recipient(recipient) => {
                let address = recipient.path.text();
                let parts = address.rsplit_once('@').unwrap_or((address, ""));
                let judged = {
                    let random = &mut self.random.borrow_mut();
                    self.shared.rules.judge(visit.sender, parts, random)
                };
                let (verdict, delay) = judged;
                self.wait(delay).await;
                match verdict {
                    Verdict::Refuse(code) => return Said::Refused(Refusal::Asked(code)),
                    Verdict::Drop => return Said::Drop,
                    Verdict::Accept => visit.keep = true,
                    Verdict::Discard => {}
                }
                visit.recipients += 1;
                Said::Accepted
            }
            Ask::Begin => {
                let keep = visit.keep && self.shared.ledger.is_some();
                visit.reader = keep.then(Reader::new);
                Said::Accepted
            }
            Ask::Commit => self.commit(visit).await,
            // AUTH is not offered, and there is no key of trust.
            Ask::Auth(_) | Ask::Su { .. } => Said::Refused(Refusal::SignInLater),
        }
    }

    async fn commit(&self, visit: &mut Visit) -> Said {
        let options = &self.shared.options;
        let delay = options.delay.pick(&mut self.random.borrow_mut());
        self.wait(delay).await;
        if options.drop_after.is_some_and(|most| visit.messages_count >= most) {
            return Said::Drop;
        }
        if let Some(most) = options.messages {
            let before = self.shared.messages_count.fetch_add(1, Ordering::Relaxed);
            if before + 1 >= most {
                self.shared.stop.store(true, Ordering::Relaxed);
            }
            if before >= most {
                return Said::Refused(Refusal::ShuttingDown);
            }
        }
        let counts = &mut *self.counts.borrow_mut();
        visit.messages_count += 1;
        counts.messages += 1;
        counts.octets += visit.octets;
        counts.recipients += visit.recipients;
        counts.discarded += u64::from(!visit.keep);
        if let Some(reader) = visit.reader.take() {
            let seen = reader.finish();
            match seen.id {
                Some(id) => self.record(&format_args!("{id} {} {}\n", seen.sum, seen.octets)),
                None => counts.unnamed += 1,
            }
        }
        visit.reset();
        Said::Stored
    }

    fn record(&self, line: &std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = self.lines.borrow_mut().write_fmt(*line);
        if self.lines.borrow().len() >= BATCH_BYTES {
            self.write_ledger();
        }
    }

    fn write_ledger(&self) {
        let lines = self.lines.take();
        if let (Some(ledger), false) = (&self.shared.ledger, lines.is_empty()) {
            // The writer is gone only when the disk has failed, which it reports itself.
            let _ = ledger.send(lines);
        }
    }
}
