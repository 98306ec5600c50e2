//! How sure a difference of two means is.
//!
//! Two ways, both with an interval of [`LEVEL_PERCENT`] % on both sides:
//!
//! * Runs against runs, three or more of each: Welch's t interval. It allows that A and B scatter
//!   differently, and is honest with few runs, where resampling them would be too sure.
//! * Intervals of one or two runs: a moving block bootstrap. Neighbouring intervals are alike, so
//!   blocks of the cube root of their number are drawn, not single ones. Few blocks scatter less
//!   than what they are drawn from, so the interval is widened ([`widening`]).
//!
//! The level is 99 %, not 95 %, because some five figures are judged at once: with no difference
//! at all, less than one comparison in thirty calls a figure worse.

use crate::send::Random;

pub(super) const LEVEL_PERCENT: u32 = 99;
/// Runs of each side that are compared as runs.
pub(super) const RUNS_MIN: usize = 3;
/// Intervals of each side, below which nothing is said. Arbitrary; with fewer a block is the whole.
pub(super) const INTERVALS_MIN: usize = 10;
/// How often the intervals are drawn anew; the ends of the interval stand on 50 draws each.
const DRAWS: usize = 10_000;
/// The normal distribution's quantile at 0.995.
const NORMAL: f64 = 2.576;

/// Quantiles of Student's distribution at 0.995, for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012,
    2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779,
    2.771, 2.763, 2.756, 2.750,
];

/// Two means, and between what B - A lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Difference {
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The square of the standard error of the mean.
fn error(values: &[f64]) -> f64 {
    let (mean, n) = (mean(values), values.len() as f64);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n
}

/// Welch's interval; `None` with fewer than [`RUNS_MIN`] of either.
pub(super) fn of_runs(a: &[f64], b: &[f64]) -> Option<Difference> {
    if a.len().min(b.len()) < RUNS_MIN {
        return None;
    }
    let (of_a, of_b) = (error(a), error(b));
    let both = of_a + of_b;
    let parts = of_a.powi(2) / (a.len() - 1) as f64 + of_b.powi(2) / (b.len() - 1) as f64;
    // Rounded down, which makes the interval wider. Without any scatter the number is of no matter.
    let freedom = if parts > 0.0 { both.powi(2) / parts } else { 1.0 };
    let reach = student(freedom) * both.sqrt();
    let (a, b) = (mean(a), mean(b));
    Some(Difference { a, b, low: b - a - reach, high: b - a + reach })
}

fn student(freedom: f64) -> f64 {
    let index = (freedom as usize).clamp(1, STUDENT.len()) - 1;
    STUDENT.get(index).copied().unwrap_or(STUDENT[0])
}

/// The bootstrap's interval; `None` with fewer than [`INTERVALS_MIN`] of either.
pub(super) fn of_intervals(a: &[f64], b: &[f64]) -> Option<Difference> {
    resampled(a, b, DRAWS)
}

fn resampled(a: &[f64], b: &[f64], times: usize) -> Option<Difference> {
    if a.len().min(b.len()) < INTERVALS_MIN {
        return None;
    }
    // The same documents have the same verdict.
    let mut random = Random::new(1);
    let mut draws: Vec<f64> =
        (0..times).map(|_| draw(b, &mut random) - draw(a, &mut random)).collect();
    draws.sort_by(f64::total_cmp);
    let beyond = (100.0 - f64::from(LEVEL_PERCENT)) / 200.0;
    let at = |share: f64| draws.get((share * (times - 1) as f64) as usize).copied();
    let (low, high) = (at(beyond)?, at(1.0 - beyond)?);
    let (wider, a_mean, b_mean) = (widening(a.len().min(b.len())), mean(a), mean(b));
    let difference = b_mean - a_mean;
    let (low, high) =
        (difference - (difference - low) * wider, difference + (high - difference) * wider);
    Some(Difference { a: a_mean, b: b_mean, low, high })
}

/// By how much the draws of so many values are too narrow: the variance of a mean of blocks lacks
/// the share of one block, and few blocks tell the scatter itself badly, as with Student.
fn widening(count: usize) -> f64 {
    let (count, block) = (count as f64, block(count) as f64);
    let freedom = 2.0 * (count / block - 1.0);
    (count / (count - block)).sqrt() * student(freedom) / NORMAL
}

/// Values that are drawn together.
fn block(count: usize) -> usize {
    (count as f64).cbrt().ceil() as usize
}

/// The mean of as many values, drawn in blocks that go on at the beginning behind the end.
fn draw(values: &[f64], random: &mut Random) -> f64 {
    let count = values.len();
    let block = block(count);
    let mut sum = 0.0;
    let mut drawn = 0;
    while drawn < count {
        let first = (random.unit() * count as f64) as usize;
        for offset in 0..block.min(count - drawn) {
            sum += values.get((first + offset) % count).copied().unwrap_or(0.0);
            drawn += 1;
        }
    }
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(random: &mut Random) -> f64 {
        (0..12).map(|_| random.unit()).sum::<f64>() - 6.0
    }

    #[test]
    fn welch_is_as_in_a_worked_example() {
        // Means 10 and 13, variances 1 and 4, three of each: s = sqrt(5/3), 2.94 degrees.
        let difference = of_runs(&[9.0, 10.0, 11.0], &[11.0, 13.0, 15.0]).unwrap();
        let reach = 9.925 * (5.0f64 / 3.0).sqrt();
        assert!((difference.low - (3.0 - reach)).abs() < 1e-9, "{difference:?}");
        assert!((difference.high - (3.0 + reach)).abs() < 1e-9, "{difference:?}");
        let sure = of_runs(&[10.0; 3], &[11.0; 3]).unwrap();
        assert_eq!((sure.low, sure.high), (1.0, 1.0));
        assert_eq!(of_runs(&[1.0; 2], &[1.0; 9]), None);
    }

    #[test]
    fn as_many_intervals_have_the_truth_in_them_as_is_said() {
        let mut random = Random::new(5);
        let (mut of_few, mut of_many) = (0, 0);
        for _ in 0..500 {
            let mut sample =
                |n, mean| (0..n).map(|_| mean + noise(&mut random)).collect::<Vec<_>>();
            let runs = of_runs(&sample(4, 10.0), &sample(4, 12.0)).unwrap();
            of_few += u32::from(runs.low <= 2.0 && 2.0 <= runs.high);
        }
        for _ in 0..40 {
            let mut sample =
                |n, mean| (0..n).map(|_| mean + noise(&mut random)).collect::<Vec<_>>();
            let intervals = of_intervals(&sample(40, 10.0), &sample(40, 12.0)).unwrap();
            of_many += u32::from(intervals.low <= 2.0 && 2.0 <= intervals.high);
        }
        assert!(of_few >= 490, "{of_few} of 500");
        assert!(of_many >= 37, "{of_many} of 40");
    }

    #[test]
    fn welch_is_as_in_the_textbook() {
        // The sleep of Student's ten patients under two drugs: 0.75 h, 2.33 h, t 1.8608, 17.776
        // degrees of freedom.
        let one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let difference = of_runs(&one, &two).unwrap();
        let reach = 2.898 * 1.58 / 1.8608;
        assert!((difference.low - (1.58 - reach)).abs() < 1e-3, "{difference:?}");
        assert!((difference.high - (1.58 + reach)).abs() < 1e-3, "{difference:?}");
    }

    #[test]
    fn what_is_the_same_is_called_different_as_seldom_as_is_said() {
        let mut random = Random::new(11);
        let mut sample = |n| (0..n).map(|_| noise(&mut random)).collect::<Vec<_>>();
        for (count, all, most) in [(INTERVALS_MIN, 600, 15), (30, 300, 9)] {
            let different = (0..all).filter(|_| {
                let d = resampled(&sample(count), &sample(count), 600).unwrap();
                d.low > 0.0 || d.high < 0.0
            });
            let different = different.count();
            assert!(different <= most, "{different} of {all} with {count} intervals");
        }
    }

    #[test]
    fn nothing_that_can_stand_in_a_document_is_a_panic() {
        for values in [[0.0; 12], [f64::MAX; 12], [-0.0; 12], [f64::MIN; 12]] {
            for other in [[0.0; 12], [f64::MAX; 12], [1e-300; 12]] {
                assert!(of_runs(&values, &other).is_some());
                assert!(resampled(&values, &other, 100).is_some());
            }
        }
    }

    #[test]
    fn intervals_that_hang_together_make_it_less_sure() {
        let mut random = Random::new(9);
        let values: Vec<f64> = (0..16).map(|_| noise(&mut random)).collect();
        // The same ones, apart and side by side.
        let single = values.repeat(5);
        let runs: Vec<f64> = values.iter().flat_map(|v| [*v; 5]).collect();
        let width = |values: &[f64]| {
            let d = of_intervals(values, values).unwrap();
            assert_eq!(d.a.to_bits(), d.b.to_bits());
            d.high - d.low
        };
        assert!(width(&runs) > 1.5 * width(&single), "{} {}", width(&runs), width(&single));
        assert_eq!(of_intervals(&single[..9], &single), None);
        assert_eq!(of_intervals(&single, &runs), of_intervals(&single, &runs));
    }
}
