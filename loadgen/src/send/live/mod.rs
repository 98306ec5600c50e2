//! What is seen of a run while it goes on.
//!
//! `gather.rs` calls [`Live::row`] for each interval that is complete.

use super::exchange::Now;
use super::gather::Row;
use super::measure::Measures;

/// How it is shown.
#[derive(Debug)]
pub(crate) enum Live {
    /// Not at all.
    Quiet,
}

impl Live {
    /// Shows an interval.
    pub(crate) fn row(&self, _row: &Row, _now: &[Now], _total: &Measures) {}
}
