//! Points in time that protocol code is given; there is no `now` here.
//!
//! [`Instant`] is monotonic and only good for deadlines. [`UnixTime`] is wall-clock time and only
//! good for dates that people and other hosts read.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A monotonic point in time: nanoseconds since an origin that the runtime chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    /// Later than every deadline that occurs: "never".
    pub const FAR: Self = Self { ns: u64::MAX };

    /// The instant `ns` nanoseconds after the runtime's origin.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the runtime's origin.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.ns
    }

    /// The time from `earlier` to `self`, zero when `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR`].
    fn add(self, rhs: Duration) -> Self {
        let ns = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Self { ns: self.ns.saturating_add(ns) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

/// Wall-clock time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixTime {
    ms: u64,
}

impl UnixTime {
    /// The time `ms` milliseconds after the epoch.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.ms / 1000
    }
}

/// Shows the time as an RFC 5322 §3.3 date in UTC: `Fri, 11 Sep 2020 18:07:18 +0000`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let days = self.seconds() / 86_400;
        let rest = self.seconds() % 86_400;
        // Days to civil date, with years that begin in March so that leap days come last.
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 2 } else { shifted - 10 };
        let year = year_of_era + era * 400 + u64::from(month < 2);
        let weekday = DAYS.get(usize::try_from(days % 7).unwrap_or(0)).copied().unwrap_or("");
        let name = MONTHS.get(usize::try_from(month).unwrap_or(0)).copied().unwrap_or("");
        write!(
            f,
            "{weekday}, {day:02} {name} {year} {:02}:{:02}:{:02} +0000",
            rest / 3600,
            rest / 60 % 60,
            rest % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_rfc_5322_says() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_599_847_638, "Fri, 11 Sep 2020 18:07:18 +0000"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
        ] {
            assert_eq!(UnixTime::from_ms(seconds * 1000).to_string(), text);
        }
    }

    #[test]
    fn deadlines_saturate() {
        assert_eq!(Instant::FAR + Duration::from_secs(1), Instant::FAR);
        assert_eq!(Instant::from_ns(5) - Instant::from_ns(9), Duration::ZERO);
    }
}
