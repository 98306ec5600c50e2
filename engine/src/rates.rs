//! How many recipients each account may name in an hour, so that a stolen password sends little.
//!
//! Shared by all shards of a node (a part of [`Gate`](crate::signin::Gate)); the desk asks at each
//! RCPT of a user who has signed in. It is a bucket that holds an hour's worth and fills evenly:
//! who was quiet may name all of them at once, and goes on at the even pace. Kept in memory only,
//! so a restart fills all buckets. Nodes of a cluster that have a Redis share them: what was taken
//! is told in the background, and what the others took is learnt.
//!
//! Limits: [`ACCOUNTS_MAX`] accounts; then those whose bucket is full are forgotten, or, where none
//! is, all. Failure: [`Exceeded`].

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fsmtp_rt::UnixTime;

/// Accounts that are counted; arbitrary, some 100 bytes each.
pub const ACCOUNTS_MAX: usize = 100_000;
/// Accounts that the other nodes are still to be told of; what is beyond, they are not told.
const UNTOLD_MAX: usize = 100_000;
/// An hour in microseconds: what a bucket takes at most to be full again.
pub const HOUR_MICROS: u64 = 3_600_000_000;
/// How often the log is told of one account.
const TOLD_MICROS: u64 = 60_000_000;

/// An account has named too many recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// When it may name the next one.
    pub wait: Duration,
    /// So many refusals the log is to be told of; 0 most times.
    pub refused_count: u32,
}

/// What each account has left.
#[derive(Debug)]
pub struct Rates {
    per_hour: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    all: BTreeMap<Box<str>, Bucket>,
    /// Those from which was taken since the others were told; none where nobody is told.
    untold: Option<BTreeMap<Box<str>, u32>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it will be full again, in microseconds.
    full_at: u64,
    /// Refusals that the log does not know of yet.
    refused_count: u32,
    /// When the log was last told, in microseconds.
    told_at: Option<u64>,
}

impl Rates {
    /// Full buckets of so many recipients; 0 for no limit.
    #[must_use]
    pub const fn new(per_hour: u32) -> Self {
        let buckets = Buckets { all: BTreeMap::new(), untold: None };
        Self { per_hour, buckets: Mutex::new(buckets) }
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on other nodes are told what was taken.
    pub fn share(&self) {
        self.buckets().untold.get_or_insert_default();
    }

    /// What was taken since it was asked last, at most `count_max` keys: how often.
    pub fn taken(&self, count_max: usize) -> Vec<(Box<str>, u32)> {
        let mut buckets = self.buckets();
        let Some(untold) = &mut buckets.untold else { return Vec::new() };
        let rest = untold.keys().nth(count_max).cloned();
        let rest = rest.map(|first| untold.split_off(&first)).unwrap_or_default();
        core::mem::replace(untold, rest).into_iter().collect()
    }

    /// What one costs, in microseconds until the bucket is full again.
    #[must_use]
    pub fn cost_us(&self) -> u64 {
        HOUR_MICROS.checked_div(self.per_hour.into()).unwrap_or_default()
    }

    /// When the bucket of `account` will be full again, all nodes considered, in microseconds since
    /// 1970; whatever is said, an empty bucket is the worst.
    pub fn learn(&self, account: &str, full_at: u64, now: UnixTime) {
        let most = now.ms().saturating_mul(1000).saturating_add(HOUR_MICROS);
        if let Some(bucket) = self.buckets().all.get_mut(account) {
            bucket.full_at = bucket.full_at.max(full_at.min(most));
        }
    }

    /// Takes one recipient from what `account` has left.
    ///
    /// # Errors
    /// [`Exceeded`] when there is none.
    pub fn take(&self, account: &str, now: UnixTime) -> Result<(), Exceeded> {
        if self.per_hour == 0 {
            return Ok(());
        }
        let now = now.ms().saturating_mul(1000);
        let cost = HOUR_MICROS / u64::from(self.per_hour);
        let mut buckets = self.buckets();
        let Buckets { all, untold } = &mut *buckets;
        if all.len() >= ACCOUNTS_MAX && !all.contains_key(account) {
            all.retain(|_, bucket| bucket.full_at > now);
            if all.len() >= ACCOUNTS_MAX {
                all.clear();
            }
        }
        let bucket = all.entry(account.into()).or_default();
        // A clock that was set back must not lock anybody out for longer than an empty bucket does.
        let full_at = bucket.full_at.clamp(now, now.saturating_add(HOUR_MICROS));
        let next = full_at.saturating_add(cost);
        let over = next.saturating_sub(now.saturating_add(HOUR_MICROS));
        if over == 0 {
            bucket.full_at = next;
            if let Some(untold) = untold
                && (untold.len() < UNTOLD_MAX || untold.contains_key(account))
            {
                *untold.entry(account.into()).or_default() += 1;
            }
            return Ok(());
        }
        bucket.full_at = full_at;
        Err(Exceeded { wait: Duration::from_micros(over), refused_count: bucket.refuse(now) })
    }
}

impl Bucket {
    /// Counts a refusal; gives how many the log is to be told of.
    fn refuse(&mut self, now: u64) -> u32 {
        self.refused_count = self.refused_count.saturating_add(1);
        if self.told_at.is_some_and(|told| now.abs_diff(told) < TOLD_MICROS) {
            return 0;
        }
        self.told_at = Some(now);
        core::mem::take(&mut self.refused_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_ms((1_600_000_000 + seconds) * 1000)
    }

    fn taken(rates: &Rates, account: &str, seconds: u64) -> usize {
        (0..10_000).take_while(|_| rates.take(account, at(seconds)).is_ok()).count()
    }

    #[test]
    fn an_hours_worth_at_once_and_then_the_even_pace() {
        for per_hour in [1, 7, 1000] {
            let rates = Rates::new(per_hour);
            let most = per_hour as usize;
            assert_eq!(taken(&rates, "a", 0), most);
            assert_eq!(taken(&rates, "b", 0), most, "each account has its own");
            let pace = 3600 / u64::from(per_hour);
            let exceeded = rates.take("a", at(0)).unwrap_err();
            assert!(exceeded.wait.as_secs().abs_diff(pace) <= 1, "{exceeded:?}");
            assert_eq!(taken(&rates, "a", pace + 1), 1);
            assert_eq!(taken(&rates, "a", 3 * 3600), most, "and it is full again");
        }
        assert_eq!(taken(&Rates::new(0), "a", 0), 10_000, "no limit");
    }

    #[test]
    fn nodes_that_share_allow_together_what_one_does() {
        let [one, other] = [(); 2].map(|()| Rates::new(100));
        assert_eq!(taken(&one, "a", 0), 100);
        assert!(one.taken(9).is_empty(), "nobody is told before it is wanted");
        one.share();
        other.share();
        // What a bucket would say that both use.
        let mut full_at = at(3600).ms() * 1000;
        let mut exchange = |node: &Rates, now: UnixTime| {
            for (account, count) in node.taken(usize::MAX) {
                let us = now.ms() * 1000;
                full_at = full_at.clamp(us, us + HOUR_MICROS) + u64::from(count) * node.cost_us();
                node.learn(&account, full_at, now);
            }
        };
        assert_eq!((0..60).filter(|_| one.take("b", at(3600)).is_ok()).count(), 60);
        exchange(&one, at(3600));
        assert!(other.take("b", at(3600)).is_ok(), "it knows nothing yet");
        exchange(&other, at(3600));
        assert_eq!(taken(&other, "b", 3600), 39, "and now it does");
        exchange(&other, at(3600));
        assert!(one.take("b", at(3600)).is_ok());
        exchange(&one, at(3600));
        assert_eq!(taken(&one, "b", 3600), 0);
        assert_eq!(taken(&one, "b", 3 * 3600), 100, "in time it is full again");
        assert_eq!(one.taken(usize::MAX), [("b".into(), 100)]);
    }

    #[test]
    fn a_lie_does_no_more_than_an_empty_bucket() {
        let rates = Rates::new(10);
        rates.share();
        assert!(rates.take("a", at(0)).is_ok());
        rates.learn("a", u64::MAX, at(0));
        assert!(rates.take("a", at(0)).unwrap_err().wait <= Duration::from_secs(360));
        assert_eq!(taken(&rates, "a", 361), 1);
        rates.learn("a", 0, at(361));
        assert_eq!(taken(&rates, "a", 361), 0, "nobody makes it fuller");
        rates.learn("nobody", u64::MAX, at(0));
        assert_eq!(taken(&rates, "nobody", 0), 10);
        for n in 0..5 {
            rates.take(&n.to_string(), at(3600)).unwrap();
        }
        assert_eq!([3, 9, 9].map(|most| rates.taken(most).len()), [3, 4, 0]);
    }

    #[test]
    fn the_log_is_told_once_a_minute() {
        let rates = Rates::new(2);
        assert!(rates.take("a", at(0)).is_ok() && rates.take("a", at(0)).is_ok());
        let told = |seconds| rates.take("a", at(seconds)).unwrap_err().refused_count;
        assert_eq!([1, 2, 59, 61, 62].map(told), [1, 0, 0, 3, 0]);
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let rates = Rates::new(10);
        assert_eq!(taken(&rates, "a", 1_000_000), 10);
        assert!(rates.take("a", at(0)).unwrap_err().wait <= Duration::from_secs(360));
        assert_eq!(taken(&rates, "a", 3600), 10);
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let rates = Rates::new(1);
        let count = || rates.buckets().all.len();
        for n in 0..ACCOUNTS_MAX {
            rates.take(&n.to_string(), at(0)).unwrap();
        }
        assert_eq!(count(), ACCOUNTS_MAX);
        rates.take("one more", at(0)).unwrap();
        assert_eq!(count(), 1, "none was full");
        for n in 1..ACCOUNTS_MAX {
            rates.take(&n.to_string(), at(1)).unwrap();
        }
        rates.take("later", at(3600)).unwrap();
        assert_eq!(count(), ACCOUNTS_MAX, "only the one that was full is forgotten");
    }
}
