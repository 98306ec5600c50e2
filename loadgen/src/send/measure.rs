//! What one core counts and times, and how the cores' figures become one.
//!
//! A core owns one [`Measures`]; nothing is shared while the run goes on. Latencies are kept in
//! nanoseconds with three digits. Every reply is counted by its phase and code, every error by its
//! phase and kind; what is an error is never a success.

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
            To::Auth => Self::Auth,
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
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).unwrap_or_else(|_| unreachable!("all have the same bounds"));
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
    /// CPU time of the core's thread, and the highest share of any core's time.
    pub(crate) cpu: Duration,
    pub(crate) busiest: f64,
}

impl Measures {
    pub(crate) fn new() -> Self {
        Self {
            phases: vec![Times::default(); Phase::ALL.len()],
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
        let index = phase as usize * CODES + usize::from(code.saturating_sub(200)).min(CODES - 1);
        if let Some(count) = self.codes.get_mut(index) {
            *count += 1;
        }
    }

    pub(crate) fn error(&mut self, phase: Phase, kind: Kind) {
        if let Some(count) = self.errors.get_mut(phase as usize * Kind::ALL.len() + kind as usize) {
            *count += 1;
        }
    }

    /// Takes over what another core has seen.
    pub(crate) fn add(&mut self, other: &Self) {
        let times = [&mut self.intended, &mut self.actual, &mut self.slip].into_iter();
        let theirs = [&other.intended, &other.actual, &other.slip].into_iter();
        for (ours, theirs) in times.chain(&mut self.phases).zip(theirs.chain(&other.phases)) {
            ours.add(theirs);
        }
        for (ours, theirs) in self.codes.iter_mut().zip(&other.codes) {
            *ours += theirs;
        }
        for (ours, theirs) in self.errors.iter_mut().zip(&other.errors) {
            *ours += theirs;
        }
        self.begun += other.begun;
        self.acknowledged += other.acknowledged;
        self.recipients += other.recipients;
        self.octets += other.octets;
        self.late += other.late;
        self.dropped += other.dropped;
        self.unfinished += other.unfinished;
        self.connections += other.connections;
        self.handshakes.0 += other.handshakes.0;
        self.handshakes.1 += other.handshakes.1;
        self.took = self.took.max(other.took);
        self.cpu += other.cpu;
        self.busiest = self.busiest.max(other.busiest);
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
            one.busiest = ms as f64;
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
        assert!((all.busiest - 30.0).abs() < 1e-9);
    }
}
