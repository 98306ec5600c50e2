//! The pieces of all cores become one run: what was seen in all, and a row for each interval.
//!
//! `mod.rs` gives it what the cores send (`exchange.rs`), on the main thread, which has nothing
//! else to do. An interval is complete when every source has gone past it; then its row is kept,
//! written (`raw.rs`) and shown (`live/`). At most [`PENDING_MAX`] intervals wait for a source
//! that is slow, then they go on without it. [`ROWS_MAX`] rows are kept; those behind are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::exchange::{Now, Piece, Return};
use super::live::Live;
use super::measure::{Measures, Times};
use super::raw::Raw;
use super::report::BUSY_MAX;
use super::search::LatencyAt;

/// Intervals that wait for a source; arbitrary. Each holds some MB.
pub(crate) const PENDING_MAX: usize = 4;
/// Rows that are kept: a day of seconds, some 20 MB.
pub(crate) const ROWS_MAX: usize = 86_400;

/// The latencies of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Spread {
    fn of(times: &Times) -> Option<Self> {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|at| times.at(at));
        (times.count() > 0).then_some(Self { p50, p99, max })
    }
}

/// One interval of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Where it ends, from the beginning of the run.
    pub(crate) until: Duration,
    pub(crate) length: Duration,
    pub(crate) due: u64,
    pub(crate) begun: u64,
    pub(crate) acknowledged: u64,
    pub(crate) errors: u64,
    /// At its end.
    pub(crate) open: u64,
    pub(crate) busy: u64,
    /// Of the busiest core.
    pub(crate) share: f64,
    /// None without messages, and when a core was so busy that it would tell of the generator.
    pub(crate) intended: Option<Spread>,
    pub(crate) actual: Option<Spread>,
}

impl Row {
    fn new(interval: &Interval) -> Self {
        let m = &interval.measures;
        let share = interval.now.iter().map(|now| now.share).fold(0.0, f64::max);
        let spread = |times| Spread::of(times).filter(|_| share <= BUSY_MAX);
        Self {
            until: interval.until,
            length: interval.until.saturating_sub(interval.since),
            due: m.due,
            begun: m.begun,
            acknowledged: m.acknowledged,
            errors: m.errors_count(),
            open: interval.now.iter().map(|now| now.open).sum(),
            busy: interval.now.iter().map(|now| now.busy).sum(),
            share,
            intended: spread(&m.intended),
            actual: spread(&m.actual),
        }
    }

    /// Acknowledged messages per second.
    pub(crate) fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.length.as_secs_f64().max(1e-9)
    }

    fn is_empty(&self) -> bool {
        self.due + self.begun + self.acknowledged + self.errors == 0
    }
}

/// The rows of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    pub(crate) interval: Duration,
    pub(crate) rows: Vec<Row>,
    /// Rows behind the last one that was kept.
    pub(crate) left_out: u64,
}

/// An interval that is not complete.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) since: Duration,
    pub(crate) until: Duration,
    pub(crate) now: Vec<Now>,
    pub(crate) measures: Measures,
}

/// Puts a run together.
pub(crate) struct Gatherer<'a> {
    /// What was seen in all.
    total: Measures,
    series: Series,
    /// Behind the last interval that each source has spoken of.
    reached: Vec<u64>,
    returns: Vec<Option<Return>>,
    pending: BTreeMap<u64, Interval>,
    /// Behind the last interval that has its row.
    done: u64,
    raw: Option<&'a mut Raw>,
    live: &'a Live,
    failed: Option<String>,
}

impl<'a> Gatherer<'a> {
    /// For sources 0, 1, 2..., each with the way back to it if it has one.
    pub(crate) fn new(
        interval: Duration,
        returns: Vec<Option<Return>>,
        raw: Option<&'a mut Raw>,
        live: &'a Live,
    ) -> Self {
        Self {
            total: Measures::new(),
            series: Series { interval, ..Series::default() },
            reached: vec![0; returns.len()],
            returns,
            pending: BTreeMap::new(),
            done: 0,
            raw,
            live,
            failed: None,
        }
    }

    /// Adds a piece up.
    pub(crate) fn take(&mut self, piece: Piece) {
        let Piece { source, index, since, until, now, mut measures } = piece;
        self.total.add(&measures);
        // What comes too late for its row is in the next one.
        let index = index.max(self.done);
        let interval = self.pending.entry(index).or_insert_with(|| Interval {
            since,
            until,
            now: Vec::new(),
            measures: Measures::new(),
        });
        interval.measures.add(&measures);
        interval.since = interval.since.min(since);
        interval.until = interval.until.max(until);
        interval.now.retain(|old| now.iter().all(|n| (n.host, n.core) != (old.host, old.core)));
        interval.now.extend(now);
        if let Some(reached) = self.reached.get_mut(source as usize) {
            *reached = index.saturating_add(1);
        }
        if let Some(Some(back)) = self.returns.get(source as usize) {
            measures.reset();
            // A source that has ended wants none.
            let _ = back.try_send(measures);
        }
        self.complete();
    }

    /// There will be no more from this source.
    pub(crate) fn ended(&mut self, source: u32) {
        if let Some(reached) = self.reached.get_mut(source as usize) {
            *reached = u64::MAX;
        }
        self.complete();
    }

    fn complete(&mut self) {
        let reached = self.reached.iter().min().copied().unwrap_or(u64::MAX);
        loop {
            let full = self.pending.len() > PENDING_MAX;
            let Some(entry) = self.pending.first_entry() else { return };
            if *entry.key() >= reached && !full {
                return;
            }
            let (index, interval) = entry.remove_entry();
            self.done = index.saturating_add(1);
            self.row(&interval);
        }
    }

    fn row(&mut self, interval: &Interval) {
        let row = Row::new(interval);
        // The rest of a run that ended with an interval.
        if row.is_empty() && self.reached.iter().all(|reached| *reached == u64::MAX) {
            return;
        }
        if let Some(raw) = &mut self.raw
            && let Err(why) = raw.write(interval, &row)
        {
            self.failed.get_or_insert(why);
        }
        self.live.row(&row, &interval.now, &self.total);
        if self.series.rows.len() < ROWS_MAX {
            self.series.rows.push(row);
        } else {
            self.series.left_out += 1;
        }
    }

    /// Everything, when all sources have ended.
    ///
    /// # Errors
    /// When a file could not be written.
    pub(crate) fn finish(mut self) -> Result<(Measures, Series), String> {
        self.reached.fill(u64::MAX);
        self.complete();
        self.total.cores.sort_by_key(|core| (core.host, core.core));
        self.failed.map_or(Ok((self.total, self.series)), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::send::exchange::{News, SPARES, Seat, interval_at};

    fn piece(source: u32, index: u64, acknowledged: u64) -> Piece {
        let mut measures = Measures::new();
        measures.acknowledged = acknowledged;
        measures.actual.record(Duration::from_millis(acknowledged));
        let now = vec![Now { host: 0, core: source, share: 0.5, open: 3, busy: 2 }];
        let since = Duration::from_secs(index);
        Piece { source, index, since, until: since + Duration::from_secs(1), now, measures }
    }

    fn gatherer(sources: usize) -> Gatherer<'static> {
        let returns = (0..sources).map(|_| None).collect();
        Gatherer::new(Duration::from_secs(1), returns, None, &Live::Quiet)
    }

    fn rates(series: &Series) -> Vec<u64> {
        series.rows.iter().map(|row| row.rate().round() as u64).collect()
    }

    #[test]
    fn an_interval_is_complete_when_every_source_has_gone_past_it() {
        let mut gatherer = gatherer(2);
        gatherer.take(piece(0, 0, 10));
        gatherer.take(piece(0, 1, 20));
        assert_eq!(gatherer.series.rows.len(), 0);
        gatherer.take(piece(1, 0, 1));
        assert_eq!(rates(&gatherer.series), [11]);
        gatherer.ended(1);
        assert_eq!(rates(&gatherer.series), [11, 20]);
        let row = &gatherer.series.rows[0];
        assert_eq!((row.open, row.busy, row.length.as_secs()), (6, 4, 1));
        assert_eq!(row.actual.unwrap().max.as_millis(), 10);
        let (total, series) = gatherer.finish().unwrap();
        assert_eq!((total.acknowledged, series.rows.len(), series.left_out), (31, 2, 0));
    }

    #[test]
    fn a_source_that_is_slow_holds_up_a_few_intervals_only_and_nothing_is_lost() {
        let mut gatherer = gatherer(2);
        for index in 0..=PENDING_MAX as u64 {
            gatherer.take(piece(0, index, 1));
        }
        assert_eq!(gatherer.series.rows.len(), 1);
        gatherer.take(piece(1, 0, 100));
        let (total, series) = gatherer.finish().unwrap();
        assert_eq!(total.acknowledged, 105);
        let counts = series.rows.iter().map(|row| row.acknowledged);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 101, 1, 1, 1], "in the row after its own");
    }

    #[test]
    fn rows_behind_the_last_that_is_kept_are_counted() {
        let mut gatherer = gatherer(1);
        gatherer.series.rows = vec![Row::new(&gatherer.empty()); ROWS_MAX];
        gatherer.take(piece(0, 0, 1));
        let (_, series) = gatherer.finish().unwrap();
        assert_eq!((series.rows.len(), series.left_out), (ROWS_MAX, 1));
    }

    #[test]
    fn latencies_of_a_core_that_was_too_busy_are_in_no_row() {
        let mut gatherer = gatherer(1);
        let mut busy = piece(0, 0, 5);
        busy.now[0].share = BUSY_MAX + 0.01;
        gatherer.take(busy);
        gatherer.take(piece(0, 1, 5));
        let (_, series) = gatherer.finish().unwrap();
        assert_eq!((series.rows[0].actual, series.rows[0].acknowledged), (None, 5));
        assert!(series.rows[1].actual.is_some());
    }

    #[test]
    fn a_core_has_so_many_empty_ones_and_gets_them_back_empty() {
        let (full, _news) = sync_channel::<News>(1);
        let (seat, back) = Seat::new(full, Duration::from_secs(1));
        for _ in 0..SPARES {
            assert!(seat.empty.try_recv().is_ok());
        }
        assert!(seat.empty.try_recv().is_err());
        let mut gatherer = Gatherer::new(seat.interval, vec![Some(back)], None, &Live::Quiet);
        gatherer.take(piece(0, 0, 7));
        let empty = seat.empty.try_recv().unwrap();
        assert_eq!((empty.acknowledged, empty.actual.count()), (0, 0));
        assert_eq!(interval_at(Duration::from_millis(2_999), seat.interval), 2);
    }

    impl Gatherer<'_> {
        fn empty(&self) -> Interval {
            let (since, until) = (Duration::ZERO, self.series.interval);
            Interval { since, until, now: Vec::new(), measures: Measures::new() }
        }
    }
}
