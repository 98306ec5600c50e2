//! What the figures must be, and the search for the highest rate at which they are.
//!
//! `--threshold` and `--find-max` take the same expressions, as `p99<50ms`. The search is pure: it
//! names a rate, is told whether that passed, and names the next; it ends when it knows the highest
//! good rate to [`PRECISION`], or after [`ROUNDS_MAX`] rounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is known of a run, for thresholds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures<'a> {
    /// The latency at a quantile, from the intended time where there was one; `None` when the
    /// generator was the bottleneck and nothing can be said.
    pub(crate) latency: Option<&'a dyn LatencyAt>,
    /// Messages per second that were acknowledged.
    pub(crate) rate: f64,
    /// Errors for each message begun.
    pub(crate) errors_share: f64,
}

/// A distribution of latencies.
pub(crate) trait LatencyAt: fmt::Debug {
    /// The value at `quantile`, 0 to 1.
    fn at(&self, quantile: f64) -> Duration;
    /// How many were recorded.
    fn count(&self) -> u64;
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    /// A quantile of the latency, 0 to 1.
    Latency(f64),
    Rate,
    Errors,
}

/// One condition, as `p99<50ms`, `rate>1000`, `errors<0.1%`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Threshold {
    metric: Metric,
    below: bool,
    /// Seconds, messages per second, or a share.
    bound: f64,
    text: String,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no threshold; write p99<50ms, max<1s, rate>1000 or errors<0.1%")
        };
        let at = text.find(['<', '>']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let (sign, bound) = rest.split_at(1);
        let (name, bound) = (name.trim(), bound.trim());
        let metric = match name {
            "max" => Metric::Latency(1.0),
            "rate" => Metric::Rate,
            "errors" => Metric::Errors,
            _ => {
                let digits = name.strip_prefix('p').ok_or_else(wrong)?;
                let percent: f64 = digits.parse().map_err(|_| wrong())?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(wrong());
                }
                Metric::Latency(percent / 100.0)
            }
        };
        let bound = match metric {
            // Seconds are meant by nobody who writes p99<50.
            Metric::Latency(_) if bound.ends_with(|c: char| c.is_ascii_digit()) => {
                return Err(wrong());
            }
            Metric::Latency(_) => super::plan::duration(bound).map_err(|_| wrong())?.as_secs_f64(),
            Metric::Rate => bound.trim_end_matches("/s").parse().map_err(|_| wrong())?,
            Metric::Errors => {
                let (number, scale) = match bound.strip_suffix('%') {
                    Some(number) => (number, 100.0),
                    None => (bound, 1.0),
                };
                number.parse::<f64>().map_err(|_| wrong())? / scale
            }
        };
        if !bound.is_finite() || bound < 0.0 {
            return Err(wrong());
        }
        Ok(Self { metric, below: sign == "<", bound, text: text.to_owned() })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Threshold {
    /// Whether it holds. One about latencies does not when there are none.
    pub(crate) fn holds(&self, figures: &Figures<'_>) -> bool {
        let value = match self.metric {
            Metric::Latency(quantile) => match figures.latency {
                Some(latency) if latency.count() > 0 => latency.at(quantile).as_secs_f64(),
                _ => return false,
            },
            Metric::Rate => figures.rate,
            Metric::Errors => figures.errors_share,
        };
        if self.below { value < self.bound } else { value > self.bound }
    }

    /// Whether it says how many errors are borne.
    pub(crate) fn bears_errors(&self) -> bool {
        self.metric == Metric::Errors && self.below
    }
}

/// The search ends when the highest good and the lowest bad rate are as near as this.
pub(crate) const PRECISION: f64 = 0.05;
/// The most rounds; arbitrary: 12 doublings and 8 halvings.
pub(crate) const ROUNDS_MAX: u32 = 20;

/// The search for the highest rate that passes: doubling, then halving the distance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Search {
    good: Option<f64>,
    bad: Option<f64>,
    next: f64,
    rounds_count: u32,
}

impl Search {
    pub(crate) fn new(first: f64) -> Self {
        Self { good: None, bad: None, next: first, rounds_count: 0 }
    }

    /// The rate to try, or `None` when the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        let near = |good: f64, bad: f64| bad - good <= bad * PRECISION;
        let over = match (self.good, self.bad) {
            (Some(good), Some(bad)) => near(good, bad),
            // Not even one message a second.
            (None, Some(bad)) => bad <= 1.0,
            _ => false,
        };
        (!over && self.rounds_count < ROUNDS_MAX).then_some(self.next)
    }

    /// Whether the rate of the last round passed.
    pub(crate) fn tell(&mut self, passed: bool) {
        self.rounds_count += 1;
        if passed {
            self.good = Some(self.next);
        } else {
            self.bad = Some(self.next);
        }
        self.next = match (self.good, self.bad) {
            (Some(good), Some(bad)) => f64::midpoint(good, bad),
            (Some(good), None) => good * 2.0,
            (None, Some(bad)) => bad / 2.0,
            (None, None) => self.next,
        };
    }

    /// The highest rate that passed.
    pub(crate) fn found(&self) -> Option<f64> {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Always(Duration, u64);

    impl LatencyAt for Always {
        fn at(&self, quantile: f64) -> Duration {
            self.0.mul_f64(quantile)
        }

        fn count(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn thresholds_hold_or_not_and_nothing_measured_holds_none() {
        let latency = Always(Duration::from_millis(100), 1);
        let figures = Figures { latency: Some(&latency), rate: 500.0, errors_share: 0.01 };
        for (text, holds) in [
            ("p50<60ms", true),
            ("p50<50ms", false),
            ("p99.9 < 99.95ms", true),
            ("max<0.1s", false),
            ("max>99ms", true),
            ("rate>499/s", true),
            ("rate>500", false),
            ("errors<2%", true),
            ("errors<0.01", false),
        ] {
            assert_eq!(text.parse::<Threshold>().unwrap().holds(&figures), holds, "{text}");
        }
        let none = Always(Duration::ZERO, 0);
        for latency in [None, Some(&none as &dyn LatencyAt)] {
            let nothing = Figures { latency, ..figures };
            assert!(!"p50<60ms".parse::<Threshold>().unwrap().holds(&nothing));
        }
        for wrong in
            ["", "p99", "p99<50", "p101<1s", "q<1", "p99<", "p99<-1s", "rate>x", "errors<NaN"]
        {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_search_finds_the_highest_rate_wherever_it_is() {
        for (first, limit) in
            [(100.0, 37_000.0), (100.0, 40.0), (100.0, 100.0), (1.0, 3_999.0), (5e4, 5.0)]
        {
            let mut search = Search::new(first);
            let mut rounds = 0;
            while let Some(rate) = search.next() {
                rounds += 1;
                search.tell(rate <= limit);
            }
            let found = search.found().unwrap();
            assert!(rounds <= ROUNDS_MAX);
            assert!(found <= limit && found > limit * 0.9, "{first} {limit}: {found}");
        }
    }

    #[test]
    fn a_search_for_what_is_not_there_ends() {
        for passes in [true, false] {
            let mut search = Search::new(100.0);
            let mut rounds = 0;
            while search.next().is_some() {
                rounds += 1;
                search.tell(passes);
            }
            assert!(rounds <= ROUNDS_MAX);
            assert_eq!(search.found().is_some(), passes);
        }
    }
}
