//! How a core's figures leave it while it runs: full ones against empty ones.
//!
//! A core keeps its figures to itself. Once in an interval `executor.rs` takes an empty
//! [`Measures`] that it was given before, goes on counting in that, and sends what it has counted
//! as a [`Piece`]: no lock, nothing is allocated, and nobody waits. `gather.rs` adds the piece up,
//! wipes it, and gives it back. There are [`SPARES`] for each core; when none has come back the
//! core goes on with what it has, and the next piece is a longer one.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::measure::Measures;

/// Empty ones that each core has to begin with.
pub(crate) const SPARES: usize = 2;

/// How a core stands at the end of a piece.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Now {
    pub(crate) host: u32,
    pub(crate) core: u32,
    /// The share of the piece's time that it was busy.
    pub(crate) share: f64,
    /// Connections that are open.
    pub(crate) open: u64,
    /// Messages under way.
    pub(crate) busy: u64,
}

/// What a source of figures has seen since its last piece.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// Its number: of a core, or of another host.
    pub(crate) source: u32,
    /// The interval that it ends in or with.
    pub(crate) index: u64,
    /// Where it begins and ends, from the beginning of the source's run.
    pub(crate) since: Duration,
    pub(crate) until: Duration,
    pub(crate) now: Vec<Now>,
    pub(crate) measures: Measures,
}

/// What is sent to who gathers.
#[derive(Debug)]
pub(crate) enum News {
    /// A piece, and there will be more.
    Piece(Box<Piece>),
    /// The last one of a source.
    Last(Box<Piece>),
    /// These sources have failed: there is no more from them.
    Failed { sources: Range<u32>, why: String },
}

/// Where a core gets empty ones and puts full ones.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) full: SyncSender<News>,
    pub(crate) empty: Receiver<Measures>,
    pub(crate) interval: Duration,
}

/// The way back to a source.
pub(crate) type Return = SyncSender<Measures>;

impl Seat {
    /// A seat with its empty ones, and the way back to it.
    pub(crate) fn new(full: SyncSender<News>, interval: Duration) -> (Self, Return) {
        let (back, empty) = sync_channel(SPARES);
        for _ in 0..SPARES {
            // There is room for as many.
            let _ = back.try_send(Measures::new());
        }
        (Self { full, empty, interval }, back)
    }
}

/// The number of the interval in which `elapsed` lies.
pub(crate) fn interval_at(elapsed: Duration, interval: Duration) -> u64 {
    let index = elapsed.as_nanos() / interval.as_nanos().max(1);
    u64::try_from(index).unwrap_or(u64::MAX)
}
