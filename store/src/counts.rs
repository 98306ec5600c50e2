//! How often something was seen on a day: rows of bytes in groups, and a count for each.
//!
//! Used for what is reported about a domain's mail; the engine says what a row means. One file, one
//! owner, no thread of its own: every call may block. What was added is on stable storage when the
//! call returns. Limits: [`ROW_BYTES_MAX`], [`GROUP_ROWS_MAX`], [`DAY_ROWS_MAX`]; what is beyond is
//! not kept, and the caller is told how much. Failure: after a failed write the file takes nothing
//! until it is opened again.

use std::collections::BTreeMap;
use std::path::Path;

use fsmtp_rt::{IoError, IoKind};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition};

use crate::StoreError;

/// The longest row; arbitrary, four times what most have.
pub const ROW_BYTES_MAX: usize = 2048;
/// Rows of one group on one day; arbitrary, some megabytes, 20 MB at most.
pub const GROUP_ROWS_MAX: u64 = 10_000;
/// Rows of one day; arbitrary, some hundred megabytes, 400 MB at most.
pub const DAY_ROWS_MAX: u64 = 200_000;
/// Memory that the file's pages may take.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Days since 1970, in UTC.
pub type Day = u32;
/// Rows that were seen, by day, group and row, and how often.
pub type Seen = BTreeMap<(Day, String, Vec<u8>), u64>;

type Rows<'t> = Table<'t, (Day, &'static str, &'static [u8]), u64>;
type Sizes<'t> = Table<'t, (Day, &'static str), u64>;

/// Counts by day, group and row.
const ROWS: TableDefinition<'_, (Day, &str, &[u8]), u64> = TableDefinition::new("rows");
/// How many rows a group has; under the empty name how many the day has.
const SIZES: TableDefinition<'_, (Day, &str), u64> = TableDefinition::new("sizes");

/// An open file of counts.
#[derive(Debug)]
pub struct Counts {
    database: Database,
    file: String,
}

impl Counts {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it is in use, damaged, or the machine refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.display().to_string();
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| failed(&file, error))?;
        let counts = Self { database, file };
        // Both tables are there from now on, so that reading finds them.
        counts.add(&Seen::new())?;
        Ok(counts)
    }

    /// Adds to counts; gives back how many of the rows are beyond a limit.
    ///
    /// # Errors
    /// When nothing was added.
    pub fn add(&self, seen: &Seen) -> Result<u64, StoreError> {
        let failed = |error: redb::Error| failed(&self.file, error);
        let transaction = self.database.begin_write().map_err(|e| failed(e.into()))?;
        let mut lost = 0;
        {
            let mut rows = transaction.open_table(ROWS).map_err(|e| failed(e.into()))?;
            let mut sizes = transaction.open_table(SIZES).map_err(|e| failed(e.into()))?;
            for ((day, group, row), count) in seen {
                let key = (*day, group.as_str(), row.as_slice());
                if !one_more(&mut rows, &mut sizes, key, *count).map_err(|e| failed(e.into()))? {
                    lost += 1;
                }
            }
        }
        transaction.commit().map_err(|e| failed(e.into()))?;
        Ok(lost)
    }

    /// The groups of all days, and how many rows each has.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn groups(&self) -> Result<Vec<(Day, String, u64)>, StoreError> {
        let failed = |error: redb::Error| failed(&self.file, error);
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let sizes = transaction.open_table(SIZES).map_err(|e| failed(e.into()))?;
        let mut groups = Vec::new();
        for entry in sizes.iter().map_err(|e| failed(e.into()))? {
            let (key, size) = entry.map_err(|e| failed(e.into()))?;
            let (day, group) = key.value();
            if !group.is_empty() {
                groups.push((day, group.to_owned(), size.value()));
            }
        }
        Ok(groups)
    }

    /// The rows of a group, and how often each was seen.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rows(&self, day: Day, group: &str) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
        let failed = |error: redb::Error| failed(&self.file, error);
        let transaction = self.database.begin_read().map_err(|e| failed(e.into()))?;
        let table = transaction.open_table(ROWS).map_err(|e| failed(e.into()))?;
        let mut rows = Vec::new();
        for entry in table.range((day, group, &[][..])..).map_err(|e| failed(e.into()))? {
            let (key, count) = entry.map_err(|e| failed(e.into()))?;
            let (its_day, its_group, row) = key.value();
            if (its_day, its_group) != (day, group) {
                break;
            }
            rows.push((row.to_vec(), count.value()));
        }
        Ok(rows)
    }

    /// Forgets a group of a day.
    ///
    /// # Errors
    /// When it is still there.
    pub fn remove(&self, day: Day, group: &str) -> Result<(), StoreError> {
        let failed = |error: redb::Error| failed(&self.file, error);
        let rows = self.rows(day, group)?;
        let transaction = self.database.begin_write().map_err(|e| failed(e.into()))?;
        {
            let mut table = transaction.open_table(ROWS).map_err(|e| failed(e.into()))?;
            let mut sizes = transaction.open_table(SIZES).map_err(|e| failed(e.into()))?;
            for (row, _) in &rows {
                table.remove((day, group, row.as_slice())).map_err(|e| failed(e.into()))?;
            }
            let size = rows.len() as u64;
            sizes.remove((day, group)).map_err(|e| failed(e.into()))?;
            let all = size_of(&sizes, day, "").map_err(|e| failed(e.into()))?;
            match all.saturating_sub(size) {
                0 => drop(sizes.remove((day, "")).map_err(|e| failed(e.into()))?),
                left => drop(sizes.insert((day, ""), left).map_err(|e| failed(e.into()))?),
            }
        }
        transaction.commit().map_err(|e| failed(e.into()))
    }
}

/// Counts a row; false where there is no room for it.
fn one_more(
    rows: &mut Rows<'_>,
    sizes: &mut Sizes<'_>,
    key: (Day, &str, &[u8]),
    count: u64,
) -> Result<bool, redb::StorageError> {
    let (day, group, row) = key;
    let before = rows.get(key)?.map(|count| count.value());
    if before.is_none() {
        let (of_group, of_day) = (size_of(sizes, day, group)?, size_of(sizes, day, "")?);
        if row.len() > ROW_BYTES_MAX || of_group >= GROUP_ROWS_MAX || of_day >= DAY_ROWS_MAX {
            return Ok(false);
        }
        sizes.insert((day, group), of_group + 1)?;
        sizes.insert((day, ""), of_day + 1)?;
    }
    rows.insert(key, before.unwrap_or_default().saturating_add(count))?;
    Ok(true)
}

fn size_of(sizes: &Sizes<'_>, day: Day, group: &str) -> Result<u64, redb::StorageError> {
    Ok(sizes.get((day, group))?.map_or(0, |size| size.value()))
}

fn failed(file: &str, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => StoreError::Io(IoError::from_io(&error, "access", file)),
        redb::Error::PreviousIo => {
            StoreError::Io(IoError::new(IoKind::Failed, "access after a failed write", file))
        }
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Invalid(format!("{file} is in use by another process"))
        }
        other => StoreError::Corrupt { place: file.to_owned(), why: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(rows: &[(Day, &str, &str, u64)]) -> Seen {
        let row = |&(day, group, row, count): &(Day, &str, &str, u64)| {
            ((day, group.to_owned(), row.as_bytes().to_vec()), count)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn counts_grow_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts.redb");
        let counts = Counts::open(&path).unwrap();
        assert_eq!(counts.groups().unwrap(), []);
        let rows = [(7, "a.test", "x", 2), (7, "a.test", "y", 1), (7, "b.test", "x", 1)];
        assert_eq!(counts.add(&seen(&rows)).unwrap(), 0);
        assert_eq!(counts.add(&seen(&[(7, "a.test", "x", 3), (8, "a.test", "x", 1)])).unwrap(), 0);
        assert!(matches!(Counts::open(&path), Err(StoreError::Invalid(_))), "it has one owner");
        drop(counts);
        let counts = Counts::open(&path).unwrap();
        let groups = counts.groups().unwrap();
        let groups: Vec<_> = groups.iter().map(|(day, group, n)| (*day, &**group, *n)).collect();
        assert_eq!(groups, [(7, "a.test", 2), (7, "b.test", 1), (8, "a.test", 1)]);
        let rows = |day, group| counts.rows(day, group).unwrap();
        assert_eq!(rows(7, "a.test"), [(b"x".to_vec(), 5), (b"y".to_vec(), 1)]);
        assert_eq!(rows(7, "a.tes"), []);
        counts.remove(7, "a.test").unwrap();
        assert_eq!((rows(7, "a.test"), rows(8, "a.test").len()), (Vec::new(), 1));
        assert_eq!(counts.groups().unwrap().len(), 2);
        counts.remove(7, "b.test").unwrap();
        counts.remove(7, "never.test").unwrap();
    }

    #[test]
    fn a_group_has_room_for_so_many_rows() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::open(&folder.path().join("counts.redb")).unwrap();
        let row = |n: u64| ((1, "a.test".to_owned(), n.to_be_bytes().to_vec()), 1);
        assert_eq!(counts.add(&(0..GROUP_ROWS_MAX + 2).map(row).collect()).unwrap(), 2);
        // Those that are there are counted on, and other groups have their own.
        assert_eq!(counts.add(&(0..5).map(row).collect()).unwrap(), 0);
        assert_eq!(counts.add(&seen(&[(1, "b.test", "x", 1)])).unwrap(), 0);
        assert_eq!(counts.rows(1, "a.test").unwrap().len() as u64, GROUP_ROWS_MAX);
        counts.remove(1, "a.test").unwrap();
        assert_eq!(counts.add(&(0..5).map(row).collect()).unwrap(), 0);
        let long = |bytes: usize| "x".repeat(bytes);
        let (fits, not) = (long(ROW_BYTES_MAX), long(ROW_BYTES_MAX + 1));
        let rows = [(1, "c.test", fits.as_str(), 1), (1, "c.test", not.as_str(), 1)];
        assert_eq!(counts.add(&seen(&rows)).unwrap(), 1);
    }

    #[test]
    fn a_day_has_room_for_so_many_rows() {
        let folder = tempfile::tempdir().unwrap();
        let counts = Counts::open(&folder.path().join("counts.redb")).unwrap();
        // As if so many were there: to write them takes a minute.
        let transaction = counts.database.begin_write().unwrap();
        transaction.open_table(SIZES).unwrap().insert((1, ""), DAY_ROWS_MAX - 1).unwrap();
        transaction.commit().unwrap();
        let rows = [(1, "a.test", "x", 1), (1, "b.test", "x", 1), (2, "b.test", "x", 1)];
        assert_eq!(counts.add(&seen(&rows)).unwrap(), 1);
    }
}
