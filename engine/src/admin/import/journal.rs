//! Which messages of the older program were taken over: a file of lines that are only appended.
//!
//! `? NAME MAILBOX ID` is written and durable before a message is stored, `- NAME MAILBOX` when it
//! was not, `+` when all before it are done. A last line without its end was never written. Called
//! by `admin::import`, under its lock. Failure: the reason, without the file's name; then the
//! journal is to be opened anew.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use fsmtp_store::{MailboxId, QueueId};

/// A message in a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) name: u128,
    pub(super) mailbox: MailboxId,
}

/// A message that is about to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Intent {
    pub(super) key: Key,
    pub(super) id: QueueId,
}

/// What was taken over.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    known: HashSet<Key>,
    open: Vec<Intent>,
}

impl Journal {
    /// Reads it, or makes it; asks `is_there` about what was left open.
    pub(super) fn open(
        path: &Path,
        is_there: impl Fn(Intent) -> Result<bool, String>,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(failed)?;
        // When it is new, its name is to last as well.
        let folder = path.parent().ok_or("it is in no folder")?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        let mut reader = BufReader::new(file.try_clone().map_err(failed)?);
        let mut journal = Self { file, known: HashSet::new(), open: Vec::new() };
        let (mut line, mut whole_bytes, mut number) = (String::new(), 0, 0_u64);
        while reader.read_line(&mut line).map_err(failed)? > 0 {
            let Some(text) = line.strip_suffix('\n') else { break };
            number += 1;
            journal.apply(text).ok_or_else(|| format!("line {number} is none of ours"))?;
            whole_bytes += line.len() as u64;
            line.clear();
        }
        journal.file.set_len(whole_bytes).map_err(failed)?;
        let mut lost = Vec::new();
        for &intent in &journal.open {
            if !is_there(intent)? {
                lost.push(intent.key);
            }
        }
        journal.close(&lost)?;
        Ok(journal)
    }

    pub(super) fn knows(&self, key: Key) -> bool {
        self.known.contains(&key)
    }

    /// Keeps durably what is about to be stored.
    pub(super) fn intend(&mut self, intents: impl Iterator<Item = Intent>) -> Result<(), String> {
        let before = self.open.len();
        self.open.extend(intents);
        let new = self.open.get(before..).unwrap_or_default();
        let line = |Intent { key, id }: &Intent| {
            format!("? {:032x} {} {}\n", key.name, key.mailbox.0, id.0)
        };
        let text: String = new.iter().map(line).collect();
        self.write(&text)?;
        self.file.sync_data().map_err(|error| error.to_string())
    }

    /// All that was intended is done, except for these. A crash may take this back, and then it is
    /// found out again.
    pub(super) fn close(&mut self, lost: &[Key]) -> Result<(), String> {
        if self.open.is_empty() {
            return Ok(());
        }
        let line = |key: &Key| format!("- {:032x} {}\n", key.name, key.mailbox.0);
        let text: String = lost.iter().map(line).chain(["+\n".to_owned()]).collect();
        self.write(&text)?;
        for line in text.lines() {
            self.apply(line).ok_or("a line of ours is none")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.file.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// None for a line that is none.
    fn apply(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut key = || {
            let name = u128::from_str_radix(words.next()?, 16).ok()?;
            Some(Key { name, mailbox: MailboxId(words.next()?.parse().ok()?) })
        };
        match kind {
            "?" => {
                let key = key()?;
                self.open.push(Intent { key, id: QueueId(words.next()?.parse().ok()?) });
            }
            "-" => {
                let key = key()?;
                self.open.retain(|intent| intent.key != key);
            }
            "+" => self.known.extend(self.open.drain(..).map(|intent| intent.key)),
            _ => return None,
        }
        words.next().is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn intent(number: u64) -> Intent {
        let key = Key { name: u128::from(number) << 70, mailbox: MailboxId(number) };
        Intent { key, id: QueueId(number * 7) }
    }

    fn never(_: Intent) -> Result<bool, String> {
        Err("nothing is open".to_owned())
    }

    #[test]
    fn what_is_done_is_known_afterwards_and_what_was_lost_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path, never).unwrap();
        journal.intend([1, 2, 3].map(intent).into_iter()).unwrap();
        assert!(!journal.knows(intent(1).key), "not yet");
        journal.close(&[intent(2).key]).unwrap();
        for journal in [journal, Journal::open(&path, never).unwrap()] {
            assert_eq!(
                [1, 2, 3, 4].map(|n| journal.knows(intent(n).key)),
                [true, false, true, false]
            );
            let elsewhere = Key { mailbox: MailboxId(9), ..intent(1).key };
            assert!(!journal.knows(elsewhere), "an account of today is not the one from before");
        }
    }

    #[test]
    fn what_a_crash_leaves_open_is_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path, never).unwrap();
        journal.intend([1].map(intent).into_iter()).unwrap();
        journal.close(&[]).unwrap();
        journal.intend([2, 3].map(intent).into_iter()).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        // A line that was being written is none.
        fs::write(&path, [&whole[..], b"? 0000"].concat()).unwrap();
        assert!(Journal::open(&path, never).is_err());
        let journal = Journal::open(&path, |open| Ok(open == intent(3))).unwrap();
        assert_eq!([1, 2, 3].map(|n| journal.knows(intent(n).key)), [true, false, true]);
        let journal = Journal::open(&path, never).unwrap();
        assert_eq!([1, 2, 3].map(|n| journal.knows(intent(n).key)), [true, false, true]);
    }

    #[test]
    fn a_file_of_somebody_else_is_not_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for text in ["x\n", "? 1\n", "? 1 2 x\n", "+ 1\n", "- 1 2 3\n", "\n", "? g 1 1\n"] {
            fs::write(&path, text).unwrap();
            let said = Journal::open(&path, never).unwrap_err();
            assert_eq!(said, "line 1 is none of ours", "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is left as it is");
        }
    }
}
