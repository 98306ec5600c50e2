//! One core of the generator: its share of the schedule, its connections, its figures.
//!
//! `mod.rs` runs [`run`] on a shard for each core; the tests run it on the simulator. Connections
//! take the next message when they are free (closed loop) or when it is due (open loop); in the
//! open loop messages for which no connection is free wait, at most `--backlog` of them, and are
//! timed from when they were due. A connection that cannot be opened [`FAILURES_MAX`] times in a
//! row gives up.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use fsmtp_proto::smtp::client::{Protocol, Settings, Timeouts};
use fsmtp_rt::{Class, Dial, Instant};
use rustls::ClientConfig;

use super::client::{Fault, Letter, Link, message};
use super::exchange::{News, Now, Piece, Seat, interval_at};
use super::measure::Measures;
use super::message::Templates;
use super::plan::{Amount, Pipelining, Plan};
use super::schedule::{Random, Schedule};
use super::thread_cpu;
use crate::tls::Configs;

/// A shorter time than this does not say how busy a core was; arbitrary, a tenth of the shortest
/// interval.
const SHARE_SPAN_MIN: Duration = Duration::from_millis(10);

/// How often a connection is tried before it is given up.
pub(crate) const FAILURES_MAX: u32 = 10;
/// How long the first wait between two tries is; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a core looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);
/// What is under way when the run is over has so long to end, unless the time-out is shorter.
const GRACE: Duration = Duration::from_secs(5);
/// A message that was begun later than this after it was due counts as late.
const LATE: Duration = Duration::from_millis(1);
/// Acknowledged messages that go to the ledger's writer at once.
const LEDGER_BATCH: usize = 1_024;

/// Acknowledged messages of a core: numbers and templates.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) core: u32,
    pub(crate) rows: Vec<(u64, usize)>,
}

/// What every core of a run is given.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) templates: Arc<Templates>,
    /// Ends the run early.
    pub(crate) stop: Arc<AtomicBool>,
    /// Names the run in the messages' ids.
    pub(crate) run: u32,
    /// Of all hosts: each core has its part of everything.
    pub(crate) cores: u32,
    pub(crate) ledger: Option<SyncSender<Batch>>,
}

/// A message that is to be sent.
struct Ticket {
    number: u64,
    /// When it is due, from the beginning; open loop only.
    due: Option<Instant>,
}

enum Source {
    Closed { left: u64, until: Instant },
    Open { schedule: Schedule, backlog: u64 },
}

/// The state of a core.
pub(crate) struct Core<R: Dial> {
    pub(crate) rt: R,
    pub(crate) plan: Arc<Plan>,
    pub(crate) templates: Arc<Templates>,
    pub(crate) settings: Rc<Settings>,
    pub(crate) run: u32,
    /// Its number.
    pub(crate) number: u32,
    begun: Instant,
    source: RefCell<Source>,
    messages_count: Cell<u64>,
    dials_count: Cell<u64>,
    random: RefCell<Random>,
    tls: Option<Configs>,
    measures: RefCell<Measures>,
    ledger: RefCell<Vec<(u64, usize)>>,
    shared: Shared,
    busy_count: Cell<u64>,
    alive_count: Cell<u32>,
    /// Connections that are open.
    pub(crate) open_count: Rc<Cell<u64>>,
    last: Cell<Instant>,
    over: Cell<bool>,
    told: Cell<Told>,
}

/// What the pieces so far have said.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    until: Duration,
    intervals_count: u64,
    due: u64,
    cpu: Duration,
}

/// Runs one core to its end and returns what it saw since it last sent a piece to its seat.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) async fn run<R: Dial>(
    rt: R,
    number: u32,
    shared: Shared,
    seat: Option<Seat>,
) -> Result<Piece, String> {
    let core = Rc::new(Core::new(rt.clone(), number, shared)?);
    let (cores, all) = (core.shared.cores, core.plan.options.connections);
    for worker in (number..all).step_by(cores as usize) {
        core.alive_count.set(core.alive_count.get() + 1);
        rt.spawn(Class::Session, work(Rc::clone(&core), worker));
    }
    while core.alive_count.get() > 0 && !core.shared.stop.load(Ordering::Relaxed) {
        rt.sleep_until(rt.now() + LOOK).await;
        core.publish(seat.as_ref());
    }
    let dry = core.alive_count.get() == 0;
    core.over.set(true);
    let patience = rt.now() + GRACE.min(core.plan.options.timeout);
    while core.busy_count.get() > 0 && rt.now() < patience {
        rt.sleep_until(rt.now() + LOOK).await;
        core.publish(seat.as_ref());
    }
    core.write_ledger();
    let index = core.told.get().intervals_count;
    let mut last = core.piece(index, Measures::new());
    last.measures.unfinished = core.busy_count.get();
    if let (Source::Open { schedule, .. }, true) = (&*core.source.borrow(), dry) {
        // The last messages were due a moment before the plan's end.
        last.measures.due += schedule.taken().saturating_sub(core.told.get().due);
    }
    Ok(last)
}

impl<R: Dial> Core<R> {
    fn new(rt: R, number: u32, shared: Shared) -> Result<Self, String> {
        let plan = Arc::clone(&shared.plan);
        let options = &plan.options;
        let begun = rt.now_exact();
        let seat = (number, shared.cores);
        let source = match &plan.amount {
            Amount::Open(curve) => {
                let curve = Rc::new(curve.clone());
                let schedule = Schedule::new(curve, options.arrivals, seat, options.seed);
                Source::Open { schedule, backlog: options.backlog / u64::from(shared.cores) }
            }
            Amount::Closed { messages, time } => {
                let share = |all: u64| {
                    let (core, cores) = (u64::from(number), u64::from(shared.cores));
                    all / cores + u64::from(core < all % cores)
                };
                let until = time.map_or(Instant::FAR, |time| begun + time);
                Source::Closed { left: messages.map_or(u64::MAX, share), until }
            }
        };
        let timeout = options.timeout;
        let settings = Settings {
            protocol: if options.lmtp { Protocol::Lmtp } else { Protocol::Smtp },
            name: "loadgen.test".into(),
            pipelining: options.pipelining != Pipelining::Off,
            timeouts: Timeouts {
                command: timeout,
                envelope: timeout,
                data: timeout,
                block: timeout,
                message: timeout,
            },
        };
        let tls = options.tls.configs()?;
        Ok(Self {
            settings: Rc::new(settings),
            templates: Arc::clone(&shared.templates),
            run: shared.run,
            number,
            begun,
            source: RefCell::new(source),
            messages_count: Cell::new(0),
            dials_count: Cell::new(0),
            random: RefCell::new(Random::new(options.seed.rotate_left(32) ^ u64::from(number))),
            tls,
            measures: RefCell::new(Measures::new()),
            ledger: RefCell::default(),
            busy_count: Cell::new(0),
            alive_count: Cell::new(0),
            open_count: Rc::default(),
            last: Cell::new(begun),
            over: Cell::new(false),
            told: Cell::new(Told { cpu: thread_cpu(), ..Told::default() }),
            rt,
            plan,
            shared,
        })
    }

    /// Counts something.
    pub(crate) fn measures(&self, count: impl FnOnce(&mut Measures)) {
        count(&mut self.measures.borrow_mut());
    }

    /// Sends what was seen in an interval that is over.
    fn publish(&self, seat: Option<&Seat>) {
        let Some(seat) = seat else { return };
        let index = interval_at(self.rt.now() - self.begun, seat.interval);
        if index <= self.told.get().intervals_count {
            return;
        }
        // None: who gathers is behind, and this piece becomes a longer one.
        let Ok(empty) = seat.empty.try_recv() else { return };
        let piece = self.piece(index - 1, empty);
        self.told.update(|told| Told { intervals_count: index, ..told });
        // There is room for as many as there are empty ones.
        let _ = seat.full.try_send(News::Piece(Box::new(piece)));
    }

    /// What was seen since the last piece; `empty` takes what follows.
    fn piece(&self, index: u64, empty: Measures) -> Piece {
        let told = self.told.get();
        let until = self.rt.now() - self.begun;
        let mut measures = self.measures.replace(empty);
        let due = match &*self.source.borrow() {
            Source::Open { schedule, .. } => schedule.due(until),
            Source::Closed { .. } => self.messages_count.get(),
        };
        measures.due = due - told.due;
        measures.took = self.last.get() - self.begun;
        let cpu = thread_cpu();
        let span = until - told.until;
        let share = cpu.saturating_sub(told.cpu).as_secs_f64() / span.as_secs_f64().max(1e-9);
        let now = Now {
            host: 0,
            core: self.number,
            // The last piece may be so short that the two clocks, read one after the other, say
            // nothing together.
            share: if span < SHARE_SPAN_MIN { 0.0 } else { share.min(1.0) },
            open: self.open_count.get(),
            busy: self.busy_count.get(),
        };
        self.told.set(Told { until, due, cpu, ..told });
        let now = vec![now];
        Piece { source: self.number, index, since: told.until, until, now, measures }
    }

    pub(crate) fn pick_template(&self) -> usize {
        self.templates.pick(&mut self.random.borrow_mut())
    }

    /// Where the next connection comes from.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        let sources = u64::from(self.plan.options.sources);
        if sources == 1 {
            return None;
        }
        let dial = self.dials_count.get();
        self.dials_count.set(dial + 1);
        let last = u8::try_from(dial % sources).unwrap_or(0) + 1;
        Some(Ipv4Addr::new(127, 0, 0, last).into())
    }

    /// How the next connection makes its handshake: full, or with what is remembered.
    pub(crate) fn tls_config(&self) -> Option<Arc<ClientConfig>> {
        let Configs { full, resuming } = self.tls.as_ref()?;
        let resumes = self.random.borrow_mut().unit() < self.plan.options.resume;
        Some(Arc::clone(if resumes { resuming } else { full }))
    }

    /// The next message, if there is one.
    fn take(&self) -> Option<Ticket> {
        if self.over.get() {
            return None;
        }
        let due = match &mut *self.source.borrow_mut() {
            Source::Closed { left, until } => {
                if *left == 0 || self.rt.now() >= *until {
                    return None;
                }
                *left -= 1;
                None
            }
            Source::Open { schedule, backlog } => {
                let now = self.rt.now() - self.begun;
                while schedule.waiting(now) > *backlog {
                    schedule.next()?;
                    self.measures(|m| m.dropped += 1);
                }
                Some(self.begun + schedule.next()?)
            }
        };
        let number = self.messages_count.get();
        self.messages_count.set(number + 1);
        Some(Ticket { number, due })
    }

    /// Waits until a message is due; `None` when the run is over before.
    async fn wait(&self, ticket: &Ticket) -> Option<Instant> {
        let now = self.rt.now_exact();
        let Some(due) = ticket.due else { return Some(now) };
        if now >= due {
            if now - due > LATE {
                self.measures(|m| m.late += 1);
            }
            return Some(now);
        }
        self.rt.sleep_until(due).await;
        let now = self.rt.now_exact();
        self.measures(|m| m.slip.record(now - due));
        (!self.over.get()).then_some(now)
    }

    /// Who the message is for: mailboxes in turn over all cores, domains by weight.
    fn address(&self, letter: &mut Letter, number: u64) {
        let options = &self.plan.options;
        let count = u64::from(options.recipients);
        let first = (number * u64::from(self.shared.cores) + u64::from(self.number)) * count;
        letter.to.resize_with(options.recipients as usize, String::new);
        for (to, n) in letter.to.iter_mut().zip(first..) {
            to.clear();
            let mut rest = options.rcpt.as_str();
            if let Some((before, after)) = rest.split_once("{}") {
                to.push_str(before);
                push_number(n % options.mailboxes, to);
                rest = after;
            }
            let Some(domains) = &options.domains else {
                to.push_str(rest);
                continue;
            };
            to.push_str(rest.rsplit_once('@').map_or("", |(local, _)| local));
            to.push('@');
            let total = domains.0.last().map_or(0.0, |(_, sum)| *sum);
            let at = self.random.borrow_mut().unit() * total;
            let picked = domains.0.iter().find(|(_, sum)| at < *sum).or_else(|| domains.0.last());
            to.push_str(picked.map_or("", |(domain, _)| domain));
        }
    }

    fn acknowledge(&self, number: u64, template: usize) {
        if self.shared.ledger.is_none() {
            return;
        }
        self.ledger.borrow_mut().push((number, template));
        if self.ledger.borrow().len() >= LEDGER_BATCH {
            self.write_ledger();
        }
    }

    fn write_ledger(&self) {
        let rows = self.ledger.take();
        if let (Some(ledger), false) = (&self.shared.ledger, rows.is_empty()) {
            // The writer is gone only when the disk has failed, which it reports itself.
            let _ = ledger.send(Batch { core: self.number, rows });
        }
    }
}

fn push_number(number: u64, to: &mut String) {
    let mut buffer = [0; fsmtp_proto::wire::token::DECIMAL_BYTES_MAX];
    let digits = fsmtp_proto::wire::token::push_decimal(number, &mut buffer);
    digits.iter().for_each(|digit| to.push(char::from(*digit)));
}

/// One connection after the other, one message after the other.
async fn work<R: Dial>(core: Rc<Core<R>>, worker: u32) {
    let mut letter = Letter { from: core.plan.from(worker), to: Vec::new() };
    let mut link: Option<Link<R>> = None;
    let mut failures_count = 0;
    while let Some(ticket) = core.take() {
        let Some(begun) = core.wait(&ticket).await else { break };
        core.busy_count.set(core.busy_count.get() + 1);
        core.measures(|m| m.begun += 1);
        core.address(&mut letter, ticket.number);
        let reused = link.is_some();
        let sent = message(&core, worker, &mut link, &letter, ticket.number).await;
        core.busy_count.set(core.busy_count.get() - 1);
        core.last.set(core.rt.now_exact());
        match sent {
            Ok(verdict) => {
                failures_count = 0;
                let Some(taken) = verdict.taken else { continue };
                core.measures(|m| {
                    m.acknowledged += 1;
                    m.recipients += verdict.recipients;
                    m.octets += verdict.octets;
                    m.actual.record(taken - begun);
                    if let Some(due) = ticket.due {
                        m.intended.record(taken - due);
                    }
                });
                core.acknowledge(ticket.number, verdict.template);
            }
            Err(fault) => {
                if let Fault::Broken(phase, kind) = fault {
                    core.measures(|m| m.error(phase, kind));
                }
                failures_count += u32::from(!reused);
                if failures_count >= FAILURES_MAX {
                    break;
                }
                let pause = PAUSE * (1 << failures_count);
                core.rt.sleep_until(core.rt.now() + pause).await;
            }
        }
    }
    if let Some(link) = link {
        link.quit(&core).await;
    }
    core.alive_count.set(core.alive_count.get() - 1);
}
