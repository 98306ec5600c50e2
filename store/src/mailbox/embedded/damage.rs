//! Damaged rows of the tables: each is noted once, to be named in a log, and passed over.
//!
//! Noted by the thread of the index; whoever writes a log asks for them. A damaged row costs its
//! own message, never those beside it, and no mail goes because of it: what cannot be accounted for
//! stays live. Memory: the names of [`ROWS_COUNT_MAX`] rows; further ones are passed over unnamed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::StoreError;

/// Rows that are told apart. Arbitrary: with so many, the file is to be replaced, not mended.
pub(super) const ROWS_COUNT_MAX: usize = 1000;

/// A row that is not what was written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DamagedRow {
    /// Table and key.
    pub(super) place: String,
    pub(super) why: &'static str,
}

impl From<DamagedRow> for StoreError {
    fn from(DamagedRow { place, why }: DamagedRow) -> Self {
        Self::Corrupt { place, why: why.into() }
    }
}

/// What was found since the index was opened.
#[derive(Debug, Default)]
pub(super) struct Damages(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    places: BTreeSet<String>,
    /// Those that nobody has asked for yet.
    fresh: Vec<StoreError>,
}

impl Damages {
    /// Notes a row, unless it is known.
    pub(super) fn note(&self, row: DamagedRow) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.places.len() < ROWS_COUNT_MAX && found.places.insert(row.place.clone()) {
            found.fresh.push(row.into());
        }
    }

    /// Notes the damage of a row that cannot be read, and passes it over.
    pub(super) fn pass<T>(&self, row: Result<T, DamagedRow>) -> Option<T> {
        row.map_err(|row| self.note(row)).ok()
    }

    /// How many rows were noted.
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).places.len()
    }

    /// Those that were noted since the last call.
    pub(super) fn take(&self) -> Vec<StoreError> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut found.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_once_and_the_list_is_bounded() {
        let damages = Damages::default();
        let row = |n: usize| DamagedRow { place: format!("row {n}"), why: "it ends early" };
        for _ in 0..3 {
            damages.note(row(1));
        }
        assert_eq!(damages.pass::<()>(Err(row(2))), None);
        let named: Vec<String> = damages.take().iter().map(ToString::to_string).collect();
        assert_eq!(named, ["row 1 is damaged: it ends early", "row 2 is damaged: it ends early"]);
        damages.note(row(1));
        assert!(damages.take().is_empty());
        (0..2 * ROWS_COUNT_MAX).for_each(|n| damages.note(row(n)));
        assert_eq!((damages.count(), damages.take().len()), (ROWS_COUNT_MAX, ROWS_COUNT_MAX - 2));
    }
}
