//! What lookups have found, for as long as it may be kept.
//!
//! Owned by one shard's resolver. Bounded by entries and by bytes: who comes in pushes out whoever
//! was asked for longest ago. Nothing here fails; what may not be kept is not.

use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::name::Question;
use super::record::{Failure, Found, Outcome};
use crate::time::Instant;

/// The longest that something found is kept, whatever its source says. Arbitrary: who moves a
/// domain's mail should be heard within a day.
pub const FOUND_MAX: Duration = Duration::from_secs(86_400);
/// The longest that it is kept that there is nothing. RFC 2308 §5 allows one to three hours; who
/// adds a record that was missing should not wait for it longer than this.
pub const NOTHING_MAX: Duration = Duration::from_secs(3600);
/// How long a failure is kept, so that a domain whose servers are dead is not asked for again with
/// every message: at least 1 s, at most 5 min (RFC 9520 §3.2).
pub const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// What an entry takes beside its own bytes: nodes of two trees.
const ENTRY_BYTES: usize = 256;

struct Entry {
    result: Result<Rc<Found>, Failure>,
    expires: Instant,
    bytes: usize,
    used: u64,
}

/// A bounded table of outcomes.
pub struct Cache {
    entries: BTreeMap<Question, Entry>,
    /// By when they were last asked for.
    order: BTreeMap<u64, Question>,
    uses: u64,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

impl Cache {
    /// An empty cache that holds at most so many entries, and about so many bytes.
    #[must_use]
    pub const fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            entries_max,
            bytes_max,
        }
    }

    /// What is known about `question`.
    pub fn get(&mut self, now: Instant, question: &Question) -> Option<Result<Rc<Found>, Failure>> {
        let entry = self.entries.get_mut(question)?;
        if entry.expires <= now {
            self.remove(question);
            return None;
        }
        self.uses += 1;
        if let Some(question) = self.order.remove(&entry.used) {
            self.order.insert(self.uses, question);
        }
        entry.used = self.uses;
        Some(entry.result.clone())
    }

    /// Keeps how the lookup of `question` has ended, in place of what was known.
    pub fn put(&mut self, now: Instant, question: Question, outcome: &Outcome) {
        self.remove(&question);
        let kept = lifetime(outcome);
        let found = outcome.result.as_ref().map_or(0, |found| found.bytes());
        let bytes = ENTRY_BYTES + 2 * question.name().len() + found;
        if kept.is_zero() || self.entries_max == 0 || bytes > self.bytes_max {
            return;
        }
        while self.entries.len() >= self.entries_max || self.bytes + bytes > self.bytes_max {
            let Some((_, oldest)) = self.order.first_key_value() else { return };
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        self.uses += 1;
        self.order.insert(self.uses, question.clone());
        self.bytes += bytes;
        let (result, expires) = (outcome.result.clone(), now + kept);
        self.entries.insert(question, Entry { result, expires, bytes, used: self.uses });
    }

    /// How many entries there are, also those that may no longer be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes they take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

/// How long an outcome is kept.
fn lifetime(outcome: &Outcome) -> Duration {
    match outcome.result {
        // RFC 1035 §3.2.1: zero is for whoever has asked, and is not kept
        Ok(_) => outcome.ttl.min(FOUND_MAX),
        // RFC 2308 §5: the same for both; without a SOA the time is zero
        Err(Failure::NoSuchName | Failure::NoData) => outcome.ttl.min(NOTHING_MAX),
        // Known without asking anybody.
        Err(Failure::BadName(_)) => Duration::ZERO,
        // RFC 9520 §3.2, RFC 2308 §7: failures are kept, and not for long
        Err(_) => FAILURE_KEPT,
    }
}

impl core::fmt::Debug for Cache {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Cache({} entries, {} bytes)", self.entries.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Data, Kind, Reason};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_ns(seconds * 1_000_000_000)
    }

    fn question(name: &str) -> Question {
        Question::new(name, Kind::Txt).unwrap()
    }

    fn found(ttl: Duration, bytes: usize) -> Outcome {
        let records = vec![Data::Txt(vec![b'x'; bytes].into())];
        let found = Found { name: "a.example".into(), records, secure: false, ttl };
        Outcome { result: Ok(Rc::new(found)), ttl }
    }

    /// Whether `outcome` is there `seconds` after it came.
    fn there(outcome: &Outcome, seconds: u64) -> bool {
        let mut cache = Cache::new(1, 10_000);
        cache.put(at(100), question("a.example"), outcome);
        cache.get(at(100 + seconds), &question("a.example")).is_some()
    }

    #[test]
    fn each_kind_of_outcome_is_kept_for_its_time_and_no_longer() {
        let nothing = |failure, ttl| Outcome { result: Err(failure), ttl: SECOND * ttl };
        for (outcome, seconds) in [
            (found(SECOND * 60, 1), 60),
            (found(SECOND * 86_400, 1), 86_400),
            (found(SECOND * 86_401, 1), 86_400),
            (found(Duration::ZERO, 1), 0),
            (nothing(Failure::NoSuchName, 60), 60),
            (nothing(Failure::NoData, 3601), 3600),
            (nothing(Failure::NoData, 0), 0),
            (nothing(Failure::AliasLoop, 60), 5),
            (nothing(Failure::TooManyAliases, 0), 5),
            (nothing(Failure::Temporary(Reason::TimedOut), 60), 5),
            (nothing(Failure::BadName(super::super::BadName::Empty), 60), 0),
        ] {
            assert!(seconds == 0 || there(&outcome, seconds - 1), "{outcome:?}");
            assert!(!there(&outcome, seconds), "{outcome:?}");
        }
    }

    #[test]
    fn entries_are_bounded_and_who_was_asked_for_longest_ago_goes() {
        let mut cache = Cache::new(3, 100_000);
        for name in ["a", "b", "c"] {
            cache.put(at(0), question(name), &found(SECOND * 60, 1));
        }
        assert!(cache.get(at(1), &question("a")).is_some());
        cache.put(at(2), question("d"), &found(SECOND * 60, 1));
        let there = ["a", "b", "c", "d"].map(|name| cache.get(at(3), &question(name)).is_some());
        assert_eq!((there, cache.len()), ([true, false, true, true], 3));
        // In place of an older one nothing else has to go.
        cache.put(at(4), question("c"), &found(SECOND * 60, 2));
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let mut cache = Cache::new(1000, 10_000);
        for name in ["a", "b", "c", "d", "e"] {
            cache.put(at(0), question(name), &found(SECOND, 3000));
            assert!(cache.bytes() <= 10_000 && cache.bytes() > 3000);
        }
        assert_eq!(cache.len(), 2);
        cache.put(at(0), question("large"), &found(SECOND, 10_000));
        assert!(cache.get(at(0), &question("large")).is_none(), "it would not fit alone");
        assert_eq!(cache.len(), 2);
        for name in ["d", "e"] {
            assert!(cache.get(at(1), &question(name)).is_none(), "its time is over");
        }
        assert_eq!((cache.bytes(), cache.is_empty()), (0, true));
        let mut none = Cache::new(0, 10_000);
        none.put(at(0), question("a"), &found(SECOND, 1));
        assert!(none.is_empty());
    }
}
