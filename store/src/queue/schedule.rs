//! When a message is tried again, and when nobody tries any more.
//!
//! Written as `1m,5m*2,1h*3,4h`: the pauses after the first, second, ... attempt, `*` for several
//! equal ones; the last one repeats until the message expires.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// Pauses that are written out at most; arbitrary.
const PAUSES_MAX: usize = 1000;
/// The longest pause: a week.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The pauses between attempts; at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pauses(Vec<Duration>);

impl Pauses {
    /// The longest of them.
    pub(super) fn longest(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or(PAUSE_MAX)
    }

    /// How long to wait after so many failed attempts, at least one.
    #[must_use]
    pub fn after(&self, attempts_count: u16) -> Duration {
        let index = usize::from(attempts_count.saturating_sub(1)).min(self.0.len() - 1);
        self.0.get(index).copied().unwrap_or(PAUSE_MAX)
    }
}

impl Default for Pauses {
    /// `1m,5m*2,1h*3,4h`
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let [short, hour] = [minutes(5), minutes(60)];
        Self(vec![minutes(1), short, short, hour, hour, hour, minutes(240)])
    }
}

/// Why a text is no schedule or no time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScheduleError(String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ScheduleError {}

/// Reads a length of time like `90s`, `5m`, `4h`, `5d`: at least a second, at most so long.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str, max: Duration) -> Result<Duration, ScheduleError> {
    let wrong = || ScheduleError(format!("`{text}` is no time like 90s, 5m, 4h or 5d"));
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err(wrong()),
    };
    let digits = text.get(..text.len() - 1).unwrap_or("");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    let time = Duration::from_secs(seconds.unwrap_or(u64::MAX));
    if time.is_zero() || time > max {
        let max = max.as_secs();
        return Err(ScheduleError(format!("`{text}` is not from 1 to {max} seconds")));
    }
    Ok(time)
}

impl FromStr for Pauses {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let mut pauses = Vec::new();
        for piece in text.split(',') {
            let (pause, count) = match piece.trim().split_once('*') {
                None => (piece.trim(), 1),
                Some((pause, count)) => {
                    let read = count.parse::<usize>().ok().filter(|count| *count > 0);
                    let wrong = || ScheduleError(format!("`{count}` is no count behind `*`"));
                    (pause, read.ok_or_else(wrong)?)
                }
            };
            let pause = duration(pause, PAUSE_MAX)?;
            if count > PAUSES_MAX - pauses.len() {
                return Err(ScheduleError(format!("there are more than {PAUSES_MAX} pauses")));
            }
            pauses.extend(core::iter::repeat_n(pause, count));
        }
        Ok(Self(pauses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_each_other_and_the_last_one_repeats() {
        let pauses: Pauses = "1m, 5m*2,1h*3,4h".parse().unwrap();
        assert_eq!(pauses, Pauses::default());
        let minutes: Vec<u64> = (1..10).map(|n| pauses.after(n).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 5, 5, 60, 60, 60, 240, 240, 240]);
        assert_eq!(pauses.after(0), pauses.after(1));
        assert_eq!(pauses.after(u16::MAX), Duration::from_secs(4 * 3600));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "`` is no time like 90s, 5m, 4h or 5d"),
            ("5", "`5` is no time like 90s, 5m, 4h or 5d"),
            ("m", "`m` is no time like 90s, 5m, 4h or 5d"),
            ("-1m", "`-1m` is no time like 90s, 5m, 4h or 5d"),
            ("1m,,2m", "`` is no time like 90s, 5m, 4h or 5d"),
            ("0s", "`0s` is not from 1 to 604800 seconds"),
            ("8d", "`8d` is not from 1 to 604800 seconds"),
            ("99999999999999999999d", "`99999999999999999999d` is not from 1 to 604800 seconds"),
            ("1m*0", "`0` is no count behind `*`"),
            ("1m*x", "`x` is no count behind `*`"),
            ("1m*1001", "there are more than 1000 pauses"),
            ("1m*1000,1m", "there are more than 1000 pauses"),
            ("5µ", "`5µ` is no time like 90s, 5m, 4h or 5d"),
        ] {
            assert_eq!(text.parse::<Pauses>().unwrap_err().to_string(), why);
        }
        assert!("1m*1000".parse::<Pauses>().is_ok());
    }
}
