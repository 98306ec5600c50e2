//! How TLS with other servers came out, counted as reports about TLS count it (RFC 8460 §4.3).
//!
//! `hosts` counts each connection by day, domain, kind of policy and result; the relay writes what
//! was counted to the log when the day is over and when it ends (`tls-counted`). Reports themselves
//! are not sent. Limits: [`ROWS_MAX`] rows; what is beyond is counted as one number.

use core::cell::RefCell;
use std::collections::BTreeMap;

use fsmtp_rt::{Runtime, UnixTime};
use fsmtp_store::mailbox::Mailboxes;

use crate::log::Event;
use crate::shard::Shard;
use crate::tls::Flaw;

/// Rows of a shard, some 100 bytes each; arbitrary, ten thousand domains in a day with some
/// failures.
const ROWS_MAX: usize = 20_000;

/// Whose demands a connection had to fulfil.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// Those of TLSA records.
    Tlsa,
    /// Those of an MTA-STS policy.
    Sts,
    /// Nobody's.
    Free,
}

/// How it came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Result {
    /// As demanded; where nothing is, encrypted.
    Success,
    NotSupported,
    HostMismatch,
    Expired,
    NotTrusted,
    /// Any other failure.
    Validation,
    /// The policy could not be fetched or read.
    PolicyFetch,
}

impl From<Flaw> for Result {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Unoffered => Self::NotSupported,
            Flaw::Name => Self::HostMismatch,
            Flaw::Expired => Self::Expired,
            Flaw::Untrusted => Self::NotTrusted,
            Flaw::Records | Flaw::Other => Self::Validation,
        }
    }
}

impl Kind {
    /// RFC 8460 §4.2.
    const fn name(self) -> &'static str {
        match self {
            Self::Tlsa => "tlsa",
            Self::Sts => "sts",
            Self::Free => "no-policy-found",
        }
    }
}

impl Result {
    /// RFC 8460 §4.3.
    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::NotSupported => "starttls-not-supported",
            Self::HostMismatch => "certificate-host-mismatch",
            Self::Expired => "certificate-expired",
            Self::NotTrusted => "certificate-not-trusted",
            Self::Validation => "validation-failure",
            Self::PolicyFetch => "sts-policy-fetch-error",
        }
    }
}

type Row = (Box<str>, Kind, Result);

#[derive(Debug, Default)]
struct Day {
    /// Days since 1970, in UTC.
    number: u64,
    rows: BTreeMap<Row, u64>,
    /// What there was no row for.
    beyond: u64,
}

/// What a shard has counted today.
#[derive(Debug, Default)]
pub(super) struct Tally(RefCell<Day>);

fn day(at: UnixTime) -> u64 {
    at.seconds() / 86_400
}

impl Tally {
    fn add(&self, domain: &str, kind: Kind, result: Result) {
        let mut day = self.0.borrow_mut();
        let row = (domain.into(), kind, result);
        if day.rows.len() >= ROWS_MAX && !day.rows.contains_key(&row) {
            day.beyond += 1;
        } else {
            *day.rows.entry(row).or_default() += 1;
        }
    }

    /// What was counted on a day that is over, or at all; counting begins anew.
    fn take(&self, now: UnixTime, all: bool) -> Option<Day> {
        let mut current = self.0.borrow_mut();
        let today = day(now);
        if current.rows.is_empty() {
            current.number = today;
        }
        if current.number == today && !all {
            return None;
        }
        Some(core::mem::replace(&mut current, Day { number: today, ..Day::default() }))
    }
}

/// Counts one connection, or what kept one from being tried.
pub(super) fn count<R: Runtime, M: Mailboxes>(
    shard: &Shard<R, M>,
    domain: &str,
    kind: Kind,
    result: Result,
) {
    write(shard, false);
    shard.outbound.tally.add(domain, kind, result);
}

/// Writes what was counted on a day that is over, or `all`.
pub(super) fn write<R: Runtime, M: Mailboxes>(shard: &Shard<R, M>, all: bool) {
    let now = shard.rt.unix();
    let Some(day) = shard.outbound.tally.take(now, all) else { return };
    let date = UnixTime::from_ms(day.number * 86_400_000).rfc3339().to_string();
    let date = date.split('T').next().unwrap_or_default();
    for ((domain, kind, result), count) in &day.rows {
        let fields: [(&str, &dyn core::fmt::Display); 5] = [
            ("day", &date),
            ("domain", domain),
            ("policy", &kind.name()),
            ("result", &result.name()),
            ("count", count),
        ];
        shard.log.event(now, Event::TlsCounted, &fields);
    }
    if day.beyond > 0 {
        let fields: [(&str, &dyn core::fmt::Display); 3] =
            [("day", &date), ("domain", &"others"), ("count", &day.beyond)];
        shard.log.event(now, Event::TlsCounted, &fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u64, seconds: u64) -> UnixTime {
        UnixTime::from_ms((day * 86_400 + seconds) * 1000)
    }

    #[test]
    fn a_day_is_taken_when_it_is_over_and_once() {
        let tally = Tally::default();
        assert!(tally.take(at(9, 0), false).is_none());
        for _ in 0..3 {
            tally.add("a.test", Kind::Sts, Result::Success);
        }
        tally.add("a.test", Kind::Sts, Result::from(Flaw::Name));
        assert!(tally.take(at(9, 86_399), false).is_none());
        let day = tally.take(at(10, 0), false).expect("a day");
        assert_eq!(day.number, 9);
        let counts: Vec<u64> = day.rows.values().copied().collect();
        assert_eq!(counts, [3, 1]);
        assert!(tally.take(at(10, 1), false).is_none());
        tally.add("b.test", Kind::Free, Result::NotSupported);
        assert_eq!(tally.take(at(10, 2), true).map(|day| day.rows.len()), Some(1));
    }

    #[test]
    fn rows_are_bounded_and_what_is_beyond_is_counted() {
        let tally = Tally::default();
        for n in 0..ROWS_MAX + 2 {
            tally.add(&n.to_string(), Kind::Free, Result::Success);
        }
        tally.add("0", Kind::Free, Result::Success);
        let day = tally.take(at(0, 0), true).expect("a day");
        assert_eq!((day.rows.len(), day.beyond), (ROWS_MAX, 2));
        assert_eq!(day.rows.get(&("0".into(), Kind::Free, Result::Success)), Some(&2));
    }
}
