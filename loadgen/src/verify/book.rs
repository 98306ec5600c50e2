//! The comparison: what was sent on one side, what was found on the other.
//!
//! A sorted vector with an entry of 32 bytes for each line of the ledger is all that is held,
//! however much was found; the first [`FIRST_MAX`] ids of each kind are kept to be shown. Half of a
//! SHA-256 tells a changed message as well as all of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::proof::{Id, Sum};

/// Ids of each kind that are shown.
pub(super) const FIRST_MAX: usize = 5;
/// The shortest line of a ledger: id, sum, one digit, spaces and the end.
const LINE_BYTES_MIN: u64 = 24 + 1 + 64 + 1 + 1 + 1;
/// The longest: 20 digits.
const LINE_BYTES_MAX: u64 = LINE_BYTES_MIN + 19;

#[derive(Debug)]
struct Entry {
    id: Id,
    sum: [u8; 16],
    /// Copies found; 65,535 stands for more.
    found: u16,
    /// Those of them that are not what was sent.
    changed: u16,
}

const _: () = assert!(size_of::<Entry>() == 32, "what the documentation says of the memory");

fn half(sum: &Sum) -> [u8; 16] {
    sum.0.first_chunk().copied().unwrap_or_default()
}

/// How many messages, and the first few of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    pub(super) count: u64,
    pub(super) first: Vec<Id>,
}

impl Messages {
    fn add(&mut self, count: u64, id: Option<Id>) {
        if count > 0 && self.first.len() < FIRST_MAX {
            self.first.extend(id);
        }
        self.count += count;
    }
}

/// What came of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Lines of the ledger.
    pub(super) sent: u64,
    /// Copies of them.
    pub(super) found: u64,
    pub(super) lost: Messages,
    pub(super) doubled: Messages,
    pub(super) changed: Messages,
    /// Not in the ledger, or without an id.
    pub(super) unknown: Messages,
}

impl Outcome {
    /// Whether none was lost, doubled or changed.
    pub(super) const fn good(&self) -> bool {
        self.lost.count == 0 && self.doubled.count == 0 && self.changed.count == 0
    }
}

/// What was sent, and what was found of it so far.
#[derive(Debug)]
pub(super) struct Book {
    /// By id.
    entries: Vec<Entry>,
    unknown: Messages,
}

impl Book {
    /// Reads ledgers.
    ///
    /// # Errors
    /// What cannot be read, is no ledger, or has a message twice.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, String> {
        let length = |path: &PathBuf| path.metadata().map_or(0, |meta| meta.len());
        let most = paths.iter().map(length).sum::<u64>() / LINE_BYTES_MIN;
        // All of it at once, so that growing never takes twice as much.
        let mut entries = Vec::with_capacity(usize::try_from(most).unwrap_or(0));
        for path in paths {
            lines(path, |id, sum| {
                entries.push(Entry { id, sum: half(&sum), found: 0, changed: 0 });
            })?;
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        let twice = entries.array_windows().find(|[one, next]| one.id == next.id);
        if let Some([entry, _]) = twice {
            return Err(format!("{} is twice in the ledger: the same file twice?", entry.id));
        }
        Ok(Self { entries, unknown: Messages::default() })
    }

    /// Forgets what was found.
    pub(super) fn clear(&mut self) {
        self.unknown = Messages::default();
        for entry in &mut self.entries {
            (entry.found, entry.changed) = (0, 0);
        }
    }

    /// A message was found.
    pub(super) fn found(&mut self, id: Option<Id>, sum: &Sum) {
        let at = id.and_then(|id| self.entries.binary_search_by_key(&id, |entry| entry.id).ok());
        let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) else {
            return self.unknown.add(1, id);
        };
        entry.found = entry.found.saturating_add(1);
        let changed = u16::from(entry.sum != half(sum));
        entry.changed = entry.changed.saturating_add(changed);
    }

    /// Compares, where each message has `copies` recipients.
    pub(super) fn outcome(&self, copies: u16) -> Outcome {
        let unknown = Messages { count: self.unknown.count, first: self.unknown.first.clone() };
        let mut outcome = Outcome { unknown, ..Outcome::default() };
        for entry in &self.entries {
            let id = Some(entry.id);
            outcome.sent += 1;
            outcome.found += u64::from(entry.found);
            outcome.lost.add(u64::from(copies.saturating_sub(entry.found)), id);
            outcome.doubled.add(u64::from(entry.found.saturating_sub(copies)), id);
            outcome.changed.add(u64::from(entry.changed), id);
        }
        outcome
    }
}

/// Hands over each line of a ledger.
///
/// # Errors
/// A file that cannot be read, or a line that is none.
pub(super) fn lines(path: &Path, mut each: impl FnMut(Id, Sum)) -> Result<(), String> {
    let name = path.display();
    let file = File::open(path).map_err(|e| format!("{name}: {e}"))?;
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        let read = file.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
        if read.map_err(|e| format!("{name}: line {number}: {e}"))? == 0 {
            break;
        }
        let (id, sum) = parse(&line)
            .ok_or_else(|| format!("{name}: line {number} is not a whole line `id sum octets`"))?;
        each(id, sum);
    }
    Ok(())
}

fn parse(line: &str) -> Option<(Id, Sum)> {
    let (id, rest) = line.strip_suffix('\n')?.split_once(' ')?;
    let (sum, octets) = rest.split_once(' ')?;
    octets.parse::<u64>().ok()?;
    Some((id.parse().ok()?, sum.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Id {
        format!("00000007-00-{number:012x}").parse().unwrap()
    }

    fn sum(seed: u8) -> Sum {
        Sum([seed; 32])
    }

    fn ledger(numbers: impl Iterator<Item = u64>) -> tempfile::NamedTempFile {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        numbers.for_each(|n| writeln!(file, "{} {} 1000", id(n), sum(n as u8)).unwrap());
        file
    }

    fn book(count: u64) -> Book {
        // Not in the order of the ids.
        let file = ledger((0..count).rev());
        Book::read(&[file.path().to_owned()]).unwrap()
    }

    #[test]
    fn each_message_once_and_unchanged_is_good_and_nothing_else_is() {
        let mut book = book(100);
        let all = |book: &mut Book| (0..100).for_each(|n| book.found(Some(id(n)), &sum(n as u8)));
        all(&mut book);
        let outcome = book.outcome(1);
        assert!(outcome.good());
        assert_eq!((outcome.sent, outcome.found, outcome.unknown.count), (100, 100, 0));

        let doubled = Messages { count: 2, first: vec![id(3)] };
        book.found(Some(id(3)), &sum(3));
        book.found(Some(id(3)), &sum(3));
        assert!(book.outcome(1).doubled == doubled && !book.outcome(1).good());

        book.clear();
        assert_eq!(book.outcome(1).lost, Messages { count: 100, first: (0..5).map(id).collect() });
        (0..100).filter(|n| *n != 42).for_each(|n| book.found(Some(id(n)), &sum(n as u8)));
        assert_eq!(book.outcome(1).lost, Messages { count: 1, first: vec![id(42)] });
        assert!(!book.outcome(1).good());
        book.found(Some(id(42)), &sum(43));
        let outcome = book.outcome(1);
        assert_eq!(outcome.changed, Messages { count: 1, first: vec![id(42)] });
        assert!(outcome.lost.count == 0 && !outcome.good());

        book.clear();
        all(&mut book);
        book.found(Some(id(100)), &sum(0));
        book.found(None, &sum(0));
        let outcome = book.outcome(1);
        assert_eq!(outcome.unknown, Messages { count: 2, first: vec![id(100)] });
        assert!(outcome.good(), "what was not acknowledged may have arrived");
    }

    #[test]
    fn each_recipient_has_a_copy() {
        let mut book = book(1);
        book.found(Some(id(0)), &sum(0));
        assert_eq!((book.outcome(2).lost.count, book.outcome(1).good()), (1, true));
        book.found(Some(id(0)), &sum(0));
        assert!(book.outcome(2).good() && !book.outcome(1).good());
        for _ in 0..70_000 {
            book.found(Some(id(0)), &sum(1));
        }
        let outcome = book.outcome(2);
        assert_eq!((outcome.found, outcome.changed.count), (65_535, 65_535));
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let good = format!("{} {} 1000", id(1), sum(1));
        let long = format!("{} {} {:030}\n", id(1), sum(1), 1);
        for wrong in [&good[..], "\n", "x\n", &good[1..], &format!("{good}x\n"), &long] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), wrong).unwrap();
            assert!(Book::read(&[file.path().to_owned()]).is_err(), "{wrong:?}");
        }
        assert!(Book::read(&[PathBuf::from("/nonexistent/file")]).is_err());
        let file = ledger(0..3);
        let twice = [file.path().to_owned(), file.path().to_owned()];
        assert!(Book::read(&twice).unwrap_err().contains("twice"));
        let entries = Book::read(&twice[..1]).unwrap().entries;
        assert!(entries.capacity() < 2 * entries.len());
    }
}
