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

/// A calendar date and time of day in UTC.
struct Civil {
    weekday: u64,
    year: u64,
    month: u64,
    day: u64,
    second: u64,
}

impl Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        let ms = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Self { ms: self.ms.saturating_add(ms) }
    }
}

impl UnixTime {
    /// Days to a date, counted in years that begin in March so that leap days come last.
    const fn civil(self) -> Civil {
        let days = self.seconds() / 86_400;
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Civil {
            weekday: days % 7,
            year: year_of_era + era * 400 + (month <= 2) as u64,
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            second: self.seconds() % 86_400,
        }
    }

    /// The time as RFC 3339 writes it, in UTC with milliseconds: `2020-09-11T18:07:18.042Z`.
    #[must_use]
    pub const fn rfc3339(self) -> Rfc3339 {
        Rfc3339(self)
    }
}

/// Shows a time as [`UnixTime::rfc3339`] says.
#[derive(Clone, Copy, Debug)]
pub struct Rfc3339(UnixTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, second, .. } = self.0.civil();
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put(&mut text, 0..4, year);
        put(&mut text, 5..7, month);
        put(&mut text, 8..10, day);
        put_time(&mut text, 11, second);
        put(&mut text, 20..23, self.0.ms() % 1000);
        f.write_str(core::str::from_utf8(&text).unwrap_or(""))
    }
}

/// Writes the last digits of `value` over `place`: one piece of text is formatted many times
/// faster than its numbers are one by one, and each message has two dates.
fn put(text: &mut [u8], place: core::ops::Range<usize>, mut value: u64) {
    for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes hours, minutes and seconds over `00:00:00` at `at`.
fn put_time(text: &mut [u8], at: usize, second_of_day: u64) {
    put(text, at..at + 2, second_of_day / 3600);
    put(text, at + 3..at + 5, second_of_day / 60 % 60);
    put(text, at + 6..at + 8, second_of_day % 60);
}

/// Writes one of some names of three letters over `at`.
fn put_name(text: &mut [u8], at: usize, names: &[u8], index: u64) {
    let place = text.get_mut(at..).into_iter().flatten();
    let start = usize::try_from(index).unwrap_or(0) * 3;
    for (to, from) in place.zip(names.get(start..start + 3).unwrap_or_default()) {
        *to = *from;
    }
}

/// Shows the time as an RFC 5322 §3.3 date in UTC: `Fri, 11 Sep 2020 18:07:18 +0000`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
        const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let Civil { weekday, year, month, day, second } = self.civil();
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 +0000";
        put_name(&mut text, 0, DAYS, weekday);
        put(&mut text, 5..7, day);
        put_name(&mut text, 8, MONTHS, month - 1);
        put(&mut text, 12..16, year);
        put_time(&mut text, 17, second);
        f.write_str(core::str::from_utf8(&text).unwrap_or(""))
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
    fn dates_read_as_rfc_3339_says() {
        let time = UnixTime::from_ms(1_599_847_638_042);
        assert_eq!(time.rfc3339().to_string(), "2020-09-11T18:07:18.042Z");
        assert_eq!(UnixTime::default().rfc3339().to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn deadlines_saturate() {
        assert_eq!(Instant::FAR + Duration::from_secs(1), Instant::FAR);
        assert_eq!(Instant::from_ns(5) - Instant::from_ns(9), Duration::ZERO);
    }
}
