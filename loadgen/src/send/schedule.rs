//! When each message is due: computed from the plan alone, never from how long anything took.
//!
//! A [`Curve`] is the wanted rate over time, in straight pieces; message `n` is due when the area
//! under it has come to `n`. So the times do not depend on a clock, on the server or on how the
//! work is spread: core `k` of `c` takes every `c`-th message. Poisson arrivals are the same curve
//! walked in exponential steps instead of whole ones. Used by the open loop; a plan has at most
//! [`SEGMENTS_MAX`] pieces and [`TOTAL_MAX`] messages.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// Arbitrary; enough for a stair of a thousand steps.
pub(crate) const SEGMENTS_MAX: usize = 1_000;
/// Below it a number of messages is exact in a float.
pub(crate) const TOTAL_MAX: f64 = 1e12;

/// A straight piece of the curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Segment {
    /// Messages per second where it begins.
    pub(crate) from: f64,
    /// And where it ends.
    pub(crate) to: f64,
    /// How long it is, in seconds.
    pub(crate) seconds: f64,
}

impl Segment {
    fn area(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.seconds
    }

    /// When the area has come to `area`, from the piece's beginning.
    fn time_of(&self, area: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        // The form of the quadratic's solution that also holds for a slope of 0.
        if self.from + root > 0.0 { 2.0 * area / (self.from + root) } else { 0.0 }
    }
}

/// The wanted rate over time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve(Vec<Segment>);

impl Curve {
    /// # Errors
    /// When it has too many pieces, a piece is no rate over a time, or the whole is too much.
    pub(crate) fn new(segments: Vec<Segment>) -> Result<Self, String> {
        let right =
            |s: &Segment| s.from >= 0.0 && s.to >= 0.0 && s.seconds > 0.0 && s.area().is_finite();
        if segments.len() > SEGMENTS_MAX || !segments.iter().all(right) {
            return Err("a rate is a number of messages per second, over some time".into());
        }
        let curve = Self(segments);
        if curve.total() > TOTAL_MAX {
            return Err("the plan has more messages than can be counted".into());
        }
        Ok(curve)
    }

    /// The same rate for some time.
    pub(crate) fn constant(rate: f64, seconds: f64) -> Segment {
        Segment { from: rate, to: rate, seconds }
    }

    #[cfg(test)]
    pub(crate) fn segment(&self, index: usize) -> Option<Segment> {
        self.0.get(index).copied()
    }

    /// Messages in all.
    pub(crate) fn total(&self) -> f64 {
        self.0.iter().map(Segment::area).sum()
    }

    /// How long it is.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.iter().map(|segment| segment.seconds).sum()
    }

    /// When the message at `position` is due, in seconds; `None` behind the last.
    pub(crate) fn time_of(&self, position: f64) -> Option<f64> {
        let (mut before, mut begins) = (0.0, 0.0);
        for segment in &self.0 {
            let area = segment.area();
            if position < before + area {
                return Some(begins + segment.time_of(position - before));
            }
            before += area;
            begins += segment.seconds;
        }
        None
    }

    /// How many messages are due by then.
    pub(crate) fn due_by(&self, seconds: f64) -> f64 {
        let (mut due, mut begins) = (0.0, 0.0);
        for segment in &self.0 {
            let within = (seconds - begins).clamp(0.0, segment.seconds);
            let slope = (segment.to - segment.from) / segment.seconds;
            due += (segment.from + slope * within / 2.0) * within;
            begins += segment.seconds;
        }
        due
    }
}

/// Pieces that are told one by one; the others only how many they are.
const TOLD_MAX: usize = 8;

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = |Segment { from, to, seconds }: &Segment| {
            let short = |value: &f64| format!("{value:.2}").trim_end_matches(".00").to_owned();
            let rate = if from == to { short(from) } else { short(from) + ".." + &short(to) };
            format!("{rate}/s for {} s", short(seconds))
        };
        let told: Vec<_> = self.0.iter().take(TOLD_MAX).map(piece).collect();
        f.write_str(&told.join(", "))?;
        match self.0.len().saturating_sub(TOLD_MAX) {
            0 => Ok(()),
            more => write!(f, ", and {more} more, {:.0} messages in all", self.total()),
        }
    }
}

/// How the messages lie on the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// At even distances.
    Even,
    /// As if many clients that know nothing of each other came.
    Poisson,
}

/// Numbers that look random, the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1, which it never is.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The due times of one core, in order.
#[derive(Debug)]
pub(crate) struct Schedule {
    curve: Rc<Curve>,
    arrivals: Arrivals,
    core: u32,
    cores: u32,
    taken_count: u64,
    position: f64,
    random: Random,
}

impl Schedule {
    pub(crate) fn new(
        curve: Rc<Curve>,
        arrivals: Arrivals,
        (core, cores): (u32, u32),
        seed: u64,
    ) -> Self {
        let random = Random::new(seed ^ (u64::from(core) << 32));
        Self { curve, arrivals, core, cores, taken_count: 0, position: 0.0, random }
    }

    /// How many of this core's messages are due by `now`.
    pub(crate) fn due(&self, now: Duration) -> u64 {
        (self.curve.due_by(now.as_secs_f64()) / f64::from(self.cores)) as u64
    }

    /// How many were taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken_count
    }

    /// How many that are due were not taken.
    pub(crate) fn waiting(&self, now: Duration) -> u64 {
        self.due(now).saturating_sub(self.taken_count)
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    /// When the next message is due, from the beginning of the run.
    fn next(&mut self) -> Option<Duration> {
        let cores = f64::from(self.cores);
        let position = match self.arrivals {
            Arrivals::Even => self.taken_count as f64 * cores + f64::from(self.core),
            // The sum of the cores' processes is a Poisson process of the whole rate.
            Arrivals::Poisson => self.position - (1.0 - self.random.unit()).ln() * cores,
        };
        let seconds = self.curve.time_of(position)?;
        self.position = position;
        self.taken_count += 1;
        Some(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(segments: &[(f64, f64, f64)]) -> Rc<Curve> {
        let segment = |&(from, to, seconds)| Segment { from, to, seconds };
        Rc::new(Curve::new(segments.iter().map(segment).collect()).unwrap())
    }

    fn times(curve: &Rc<Curve>, arrivals: Arrivals, cores: u32, seed: u64) -> Vec<f64> {
        let one = |core| Schedule::new(Rc::clone(curve), arrivals, (core, cores), seed);
        let mut all: Vec<f64> = (0..cores).flat_map(one).map(|t| t.as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn even_messages_are_due_at_even_distances_on_any_number_of_cores() {
        let constant = curve(&[(100.0, 100.0, 2.0)]);
        let one = times(&constant, Arrivals::Even, 1, 1);
        assert_eq!(one.len(), 200);
        for (n, time) in one.iter().enumerate() {
            assert!((time - n as f64 / 100.0).abs() < 1e-6);
        }
        for cores in [2, 3, 7] {
            let many = times(&constant, Arrivals::Even, cores, 1);
            assert!(one.iter().zip(&many).all(|(a, b)| (a - b).abs() < 1e-9));
            assert_eq!(one.len(), many.len());
        }
    }

    #[test]
    fn ramps_steps_and_spikes_have_the_area_of_their_curve() {
        for (segments, total) in [
            (vec![(0.0, 100.0, 10.0)], 500),
            (vec![(100.0, 0.0, 10.0)], 500),
            (vec![(10.0, 10.0, 1.0), (20.0, 20.0, 1.0), (30.0, 30.0, 1.0)], 60),
            (vec![(10.0, 10.0, 5.0), (1000.0, 1000.0, 1.0), (10.0, 10.0, 5.0)], 1100),
        ] {
            let curve = curve(&segments);
            let times = times(&curve, Arrivals::Even, 1, 1);
            assert_eq!(times.len(), total, "{segments:?}");
            for (n, time) in times.iter().enumerate() {
                assert!((curve.due_by(*time) - n as f64).abs() < 1e-3, "{n} {time}");
            }
            assert!((curve.total() - total as f64).abs() < 1e-6);
        }
        // A ramp from nothing: a quarter of the messages in the first half.
        let ramp = times(&curve(&[(0.0, 100.0, 10.0)]), Arrivals::Even, 1, 1);
        assert_eq!(ramp.iter().filter(|time| **time < 5.0).count(), 125);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_name() {
        let curve = curve(&[(1000.0, 1000.0, 20.0)]);
        for cores in [1, 4] {
            let times = times(&curve, Arrivals::Poisson, cores, 7);
            let count = times.len() as f64;
            assert!((count - 20_000.0).abs() < 5.0 * 20_000f64.sqrt(), "{count}");
            let gaps: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / count;
            // Of exponential gaps the deviation is the mean.
            assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{}", variance.sqrt() / mean);
        }
        let again = times(&curve, Arrivals::Poisson, 4, 7);
        assert_eq!(again, times(&curve, Arrivals::Poisson, 4, 7), "the same seed");
    }

    #[test]
    fn what_waits_is_what_is_due_and_was_not_taken() {
        let curve = curve(&[(100.0, 100.0, 10.0)]);
        let mut schedule = Schedule::new(curve, Arrivals::Even, (0, 2), 1);
        assert_eq!(schedule.waiting(Duration::from_secs(1)), 50);
        assert_eq!(schedule.by_ref().take(50).count(), 50);
        assert_eq!(schedule.waiting(Duration::from_secs(1)), 0);
        assert_eq!(schedule.waiting(Duration::from_secs(99)), 450);
    }

    #[test]
    fn a_curve_is_told_in_words_and_a_long_one_in_few() {
        let told = curve(&[(100.0, 1_000.0 / 3.0, 2.5), (5.0, 5.0, 1.0)]).to_string();
        assert_eq!(told, "100..333.33/s for 2.50 s, 5/s for 1 s");
        let long = curve(&[(10.0, 10.0, 1.0); 100]).to_string();
        assert!(long.ends_with("10/s for 1 s, and 92 more, 1000 messages in all"), "{long}");
    }

    #[test]
    fn plans_that_are_none_are_refused() {
        for (from, to, seconds) in [
            (-1.0, 1.0, 1.0),
            (1.0, f64::NAN, 1.0),
            (1.0, 1.0, 0.0),
            (1.0, f64::INFINITY, 1.0),
            (1e12, 1e12, 2.0),
        ] {
            assert!(Curve::new(vec![Segment { from, to, seconds }]).is_err());
        }
        assert!(Curve::new(vec![Curve::constant(1.0, 1.0); SEGMENTS_MAX + 1]).is_err());
        assert_eq!(Curve::new(Vec::new()).unwrap().time_of(0.0), None);
    }
}
