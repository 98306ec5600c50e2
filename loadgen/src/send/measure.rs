//! What one core counts and times, and how the cores' figures become one.
//!
//! A core owns one [`Measures`], which it exchanges for an empty one at each interval
//! (`exchange.rs`); nothing is shared. Latencies are kept in nanoseconds with three digits. Every
//! reply is counted by its phase and code, every error by its phase and kind; what is an error is
//! never a success.

use std::time::Duration;

use fsmtp_proto::smtp::client::{Class, Failure, To};
use fsmtp_rt::{IoError, IoKind};
use hdrhistogram::Histogram;

use super::search::LatencyAt;

/// The longest latency that is told apart; longer ones count as it.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// A part of a connection's life, with a latency of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connect,
    Banner,
    Tls,
    Hello,
    Auth,
    Mail,
    Rcpt,
    Data,
    Message,
    Reset,
    Quit,
}

impl Phase {
    pub(crate) const ALL: [(Self, &'static str); 11] = [
        (Self::Connect, "connect"),
        (Self::Banner, "banner"),
        (Self::Tls, "tls"),
        (Self::Hello, "ehlo"),
        (Self::Auth, "auth"),
        (Self::Mail, "mail"),
        (Self::Rcpt, "rcpt"),
        (Self::Data, "data"),
        (Self::Message, "message"),
        (Self::Reset, "rset"),
        (Self::Quit, "quit"),
    ];

    /// The phase that a reply belongs to. What comes unasked ends what there was: `quit`.
    pub(crate) const fn of(to: To) -> Self {
        match to {
            To::Greeting => Self::Banner,
            To::Hello => Self::Hello,
            To::StartTls => Self::Tls,
            // The load generator does not say the other two.
            To::Auth | To::Fcapa | To::Su => Self::Auth,
            To::Mail => Self::Mail,
            To::Recipient(_) => Self::Rcpt,
            To::Data => Self::Data,
            To::Chunk | To::Message | To::Delivery(_) | To::Emptied => Self::Message,
            To::Reset => Self::Reset,
            To::Quit | To::Nothing => Self::Quit,
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nobody listens.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The connection was reset.
    Reset,
    /// The server closed it in the middle.
    Dropped,
    /// What greeted us is no SMTP server.
    NotSmtp,
    /// A reply that no server may send.
    BadReply,
    /// A reply 4yz.
    Transient,
    /// A reply 5yz.
    Permanent,
    /// The handshake or a record of TLS failed.
    Tls,
    /// The server does not offer what the plan needs.
    NotOffered,
    /// This machine has no descriptor, port or memory for it.
    Local,
}

impl Kind {
    pub(crate) const ALL: [(Self, &'static str); 11] = [
        (Self::Refused, "refused"),
        (Self::TimedOut, "timed_out"),
        (Self::Reset, "reset"),
        (Self::Dropped, "dropped"),
        (Self::NotSmtp, "not_smtp"),
        (Self::BadReply, "bad_reply"),
        (Self::Transient, "4xx"),
        (Self::Permanent, "5xx"),
        (Self::Tls, "tls"),
        (Self::NotOffered, "not_offered"),
        (Self::Local, "local"),
    ];

    /// What a failed operation on a connection was.
    pub(crate) fn of_io(error: &IoError) -> Self {
        match error.kind {
            IoKind::Refused => Self::Refused,
            IoKind::TimedOut => Self::TimedOut,
            IoKind::Closed => Self::Reset,
            _ if error.operation.contains("TLS") || error.operation == "decrypt from" => Self::Tls,
            _ => Self::Local,
        }
    }

    /// What a session that cannot go on has met, waiting for the reply to `to`.
    pub(crate) const fn of_failure(failure: Failure, to: To) -> Self {
        match (failure, to) {
            (Failure::Garbage(_) | Failure::Unexpected(..), To::Greeting) => Self::NotSmtp,
            _ => Self::BadReply,
        }
    }

    pub(crate) const fn of_class(class: Class) -> Option<Self> {
        match class {
            Class::Transient => Some(Self::Transient),
            Class::Permanent => Some(Self::Permanent),
            Class::Done | Class::GoOn => None,
        }
    }
}

/// Codes 200 to 599.
const CODES: usize = 400;

/// A distribution of times.
#[derive(Debug, Clone)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        // From a tenth of a microsecond on.
        Self(
            Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3)
                .unwrap_or_else(|_| unreachable!("the bounds and the digits are allowed")),
        )
    }
}

impl Times {
    /// What is behind it, for raw logs.
    pub(crate) const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The same time, so often.
    pub(crate) fn record_many(&mut self, time: Duration, count: u64) {
        self.0.saturating_record_n(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), count);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Most of an interval's phases are empty, and adding reads all of both.
        if !other.0.is_empty() {
            self.0.add(&other.0).unwrap_or_else(|_| unreachable!("all have the same bounds"));
        }
    }

    fn reset(&mut self) {
        if !self.0.is_empty() {
            self.0.reset();
        }
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.mean() as u64)
    }
}

impl LatencyAt for Times {
    fn at(&self, quantile: f64) -> Duration {
        let value = if quantile >= 1.0 { self.0.max() } else { self.0.value_at_quantile(quantile) };
        Duration::from_nanos(value)
    }

    fn count(&self) -> u64 {
        self.0.len()
    }
}

/// What one core of the generator spent in a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CoreUse {
    /// The number of the other host that it is on, from 1; 0 is this one.
    pub(crate) host: u32,
    pub(crate) core: u32,
    /// CPU time of its thread.
    pub(crate) cpu: Duration,
    /// That, as a share of the time that it ran.
    pub(crate) share: f64,
}

/// Everything that a core has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measures {
    /// From when a message was due to its final 250; open loop only.
    pub(crate) intended: Times,
    /// From when it was begun.
    pub(crate) actual: Times,
    /// How late the generator itself was: it had a free connection, and was not awake.
    pub(crate) slip: Times,
    phases: Vec<Times>,
    codes: Vec<u64>,
    errors: Vec<u64>,
    /// Messages that the plan wanted; in the closed loop those that were begun.
    pub(crate) due: u64,
    /// Messages that were begun.
    pub(crate) begun: u64,
    /// Those that got their 250.
    pub(crate) acknowledged: u64,
    /// Recipients of those.
    pub(crate) recipients: u64,
    /// Octets of those, as RFC 1870 counts them.
    pub(crate) octets: u64,
    /// Begun late because no connection was free.
    pub(crate) late: u64,
    /// Never begun because too many waited.
    pub(crate) dropped: u64,
    /// Begun and without an end when the run was over.
    pub(crate) unfinished: u64,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// Full and resumed handshakes.
    pub(crate) handshakes: (u64, u64),
    /// From the beginning to the last thing that happened.
    pub(crate) took: Duration,
    /// What the cores spent; there when they have ended.
    pub(crate) cores: Vec<CoreUse>,
    /// How the first connection was encrypted.
    pub(crate) tls: Option<String>,
    /// How the server greeted the first connection, shortened.
    pub(crate) greeting: Option<String>,
}

/// Octets of a greeting that are kept.
const GREETING_BYTES_MAX: usize = 200;

impl Measures {
    pub(crate) fn new() -> Self {
        Self {
            // Not cloned: a fresh one is memory that nobody has touched.
            phases: Phase::ALL.iter().map(|_| Times::default()).collect(),
            codes: vec![0; Phase::ALL.len() * CODES],
            errors: vec![0; Phase::ALL.len() * Kind::ALL.len()],
            ..Self::default()
        }
    }

    pub(crate) fn time(&mut self, phase: Phase, took: Duration) {
        if let Some(times) = self.phases.get_mut(phase as usize) {
            times.record(took);
        }
    }

    pub(crate) fn code(&mut self, phase: Phase, code: u16) {
        self.codes(phase, code, 1);
    }

    /// A reply that came so often.
    pub(crate) fn codes(&mut self, phase: Phase, code: u16, times: u64) {
        let index = phase as usize * CODES + usize::from(code.saturating_sub(200)).min(CODES - 1);
        if let Some(count) = self.codes.get_mut(index) {
            *count += times;
        }
    }

    pub(crate) fn error(&mut self, phase: Phase, kind: Kind) {
        self.errors_of(phase, kind, 1);
    }

    /// An error that occurred so often.
    pub(crate) fn errors_of(&mut self, phase: Phase, kind: Kind, times: u64) {
        if let Some(count) = self.errors.get_mut(phase as usize * Kind::ALL.len() + kind as usize) {
            *count += times;
        }
    }

    /// How the server greets, unless that is known.
    pub(crate) fn greeted(&mut self, text: &[u8]) {
        self.greeting.get_or_insert_with(|| {
            let text = text.get(..GREETING_BYTES_MAX).unwrap_or(text);
            // What is no UTF-8 becomes longer.
            let mut text = String::from_utf8_lossy(text).into_owned();
            text.truncate(text.floor_char_boundary(GREETING_BYTES_MAX));
            text
        });
    }

    /// As [`Measures::times`].
    pub(crate) fn times_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Times)> {
        let three = [
            ("intended", &mut self.intended),
            ("actual", &mut self.actual),
            ("slip", &mut self.slip),
        ];
        let phases = Phase::ALL.iter().zip(&mut self.phases);
        three.into_iter().chain(phases.map(|((_, name), times)| (*name, times)))
    }

    /// Every distribution with its name, the empty ones too.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&'static str, &Times)> {
        let three = [("intended", &self.intended), ("actual", &self.actual), ("slip", &self.slip)];
        let phases = Phase::ALL.iter().zip(&self.phases).map(|((_, name), times)| (*name, times));
        three.into_iter().chain(phases)
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(&self) -> bool {
        let sums = self.counts().into_iter().chain([self.errors_count()]).sum::<u64>();
        sums + self.codes.iter().sum::<u64>() == 0
    }

    /// Empties it, and keeps its memory.
    pub(crate) fn reset(&mut self) {
        self.times_mut().for_each(|(_, times)| times.reset());
        self.codes.fill(0);
        self.errors.fill(0);
        self.cores.clear();
        self.counts_mut().into_iter().for_each(|count| *count = 0);
        self.took = Duration::ZERO;
        (self.tls, self.greeting) = (None, None);
    }

    /// Everything that is one number, and is added up; as [`Measures::counts_mut`].
    pub(crate) const fn counts(&self) -> [u64; 11] {
        [
            self.due,
            self.begun,
            self.acknowledged,
            self.recipients,
            self.octets,
            self.late,
            self.dropped,
            self.unfinished,
            self.connections,
            self.handshakes.0,
            self.handshakes.1,
        ]
    }

    pub(crate) const fn counts_mut(&mut self) -> [&mut u64; 11] {
        [
            &mut self.due,
            &mut self.begun,
            &mut self.acknowledged,
            &mut self.recipients,
            &mut self.octets,
            &mut self.late,
            &mut self.dropped,
            &mut self.unfinished,
            &mut self.connections,
            &mut self.handshakes.0,
            &mut self.handshakes.1,
        ]
    }

    /// Takes over what another core has seen, or what the same one saw later.
    pub(crate) fn add(&mut self, other: &Self) {
        for ((_, ours), (_, theirs)) in self.times_mut().zip(other.times()) {
            ours.add(theirs);
        }
        for (ours, theirs) in self.codes.iter_mut().zip(&other.codes) {
            *ours += theirs;
        }
        for (ours, theirs) in self.errors.iter_mut().zip(&other.errors) {
            *ours += theirs;
        }
        for (ours, theirs) in self.counts_mut().into_iter().zip(other.counts()) {
            *ours += theirs;
        }
        self.took = self.took.max(other.took);
        self.cores.extend(&other.cores);
        self.tls = self.tls.take().or_else(|| other.tls.clone());
        self.greeting = self.greeting.take().or_else(|| other.greeting.clone());
    }

    /// CPU time of all cores.
    pub(crate) fn cpu(&self) -> Duration {
        self.cores.iter().map(|core| core.cpu).sum()
    }

    /// The highest share of its time that a core was busy.
    pub(crate) fn busiest(&self) -> f64 {
        self.cores.iter().map(|core| core.share).fold(0.0, f64::max)
    }

    /// The phases that occurred, with their times.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (&'static str, &Times)> {
        let all = Phase::ALL.iter().zip(&self.phases).map(|((_, name), times)| (*name, times));
        all.filter(|(_, times)| times.count() > 0)
    }

    /// The replies that came: phase, code, how often.
    pub(crate) fn replies(&self) -> impl Iterator<Item = (&'static str, usize, u64)> {
        let all = self.codes.chunks(CODES).zip(Phase::ALL);
        all.flat_map(|(codes, (_, name))| {
            let counts = codes.iter().enumerate().filter(|(_, count)| **count > 0);
            counts.map(move |(index, count)| (name, index + 200, *count))
        })
    }

    /// The errors: phase, kind, how often.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let all = self.errors.chunks(Kind::ALL.len()).zip(Phase::ALL);
        all.flat_map(|(counts, (_, phase))| {
            let counts = counts.iter().zip(Kind::ALL).filter(|(count, _)| **count > 0);
            counts.map(move |(count, (_, kind))| (phase, kind, *count))
        })
    }

    /// All errors, and the messages that were dropped or had no end.
    pub(crate) fn errors_count(&self) -> u64 {
        self.errors.iter().sum::<u64>() + self.dropped + self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_where_their_numbers_say() {
        assert!(Phase::ALL.iter().enumerate().all(|(n, (phase, _))| *phase as usize == n));
        assert!(Kind::ALL.iter().enumerate().all(|(n, (kind, _))| *kind as usize == n));
    }

    #[test]
    fn two_cores_become_one() {
        let mut all = Measures::new();
        for ms in [10, 30] {
            let mut one = Measures::new();
            one.time(Phase::Mail, Duration::from_millis(ms));
            one.code(Phase::Mail, 250);
            one.error(Phase::Rcpt, Kind::Permanent);
            one.took = Duration::from_millis(ms);
            one.cores = vec![CoreUse { host: 0, core: 0, cpu: one.took, share: ms as f64 }];
            one.dropped = 1;
            all.add(&one);
        }
        let phases: Vec<_> = all.phases().map(|(n, t)| (n, t.count(), t.at(1.0))).collect();
        assert_eq!(phases.len(), 1);
        assert_eq!((phases[0].0, phases[0].1), ("mail", 2));
        assert!((29..=31).contains(&phases[0].2.as_millis()));
        assert_eq!(all.replies().collect::<Vec<_>>(), [("mail", 250, 2)]);
        assert_eq!(all.errors().collect::<Vec<_>>(), [("rcpt", "5xx", 2)]);
        assert_eq!((all.errors_count(), all.took.as_millis()), (4, 30));
        assert!((all.busiest() - 30.0).abs() < 1e-9);
        assert_eq!(all.cpu(), Duration::from_millis(40));
    }

    #[test]
    fn a_greeting_of_any_octets_is_short() {
        for octets in
            [&[0xe9; 2 * GREETING_BYTES_MAX][..], "é".repeat(GREETING_BYTES_MAX).as_bytes()]
        {
            let mut measures = Measures::new();
            measures.greeted(octets);
            let length = measures.greeting.as_ref().unwrap().len();
            assert!((GREETING_BYTES_MAX - 4..=GREETING_BYTES_MAX).contains(&length), "{length}");
        }
    }

    #[test]
    fn what_is_reset_is_as_new() {
        let mut one = Measures::new();
        one.counts_mut().into_iter().for_each(|count| *count = 3);
        one.times_mut().for_each(|(_, times)| times.record(Duration::from_secs(1)));
        one.code(Phase::Mail, 250);
        one.error(Phase::Rcpt, Kind::Permanent);
        one.took = Duration::from_secs(1);
        one.cores = vec![CoreUse { host: 0, core: 0, cpu: one.took, share: 1.0 }];
        one.tls = Some("TLS".into());
        one.greeted(&[b'x'; 2 * GREETING_BYTES_MAX]);
        assert_eq!(one.greeting.as_ref().map(String::len), Some(GREETING_BYTES_MAX));
        let (mut other, mut all) = (one.clone(), Measures::new());
        other.add(&one);
        assert!(other.counts().into_iter().all(|count| count == 6));
        one.reset();
        all.add(&one);
        assert!(all.counts().into_iter().all(|count| count == 0));
        assert!(all.times().all(|(_, times)| times.count() == 0));
        assert_eq!((all.replies().count(), all.errors_count(), all.cores.len()), (0, 0, 0));
        assert_eq!((all.took, &all.tls, &all.greeting), (Duration::ZERO, &None, &None));
        assert!(all.is_empty() && !other.is_empty());
        all.code(Phase::Mail, 250);
        assert!(!all.is_empty());
    }
}
