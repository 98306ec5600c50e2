//! The file under the key slots: reads and writes in place, and what makes them durable.
//!
//! Called by [`Slots`](super::slots::Slots) on the thread of the index, which may block. Tests make
//! it fail at a given operation, as a machine would that loses power there.

#![expect(clippy::disallowed_types, reason = "the index lives outside the simulated disk")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// An open file.
pub(super) struct SlotFile {
    file: File,
    #[cfg(test)]
    faults: fault::Faults,
}

impl SlotFile {
    /// Opens `name` in `folder`.
    pub(super) fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(folder.join(name))?;
        Ok(Self {
            file,
            #[cfg(test)]
            faults: fault::Faults::new(folder),
        })
    }

    /// Makes `name` with this content, whole or not at all, by way of a file named `fresh`. The
    /// folder is not synced.
    pub(super) fn make(folder: &Path, name: &str, fresh: &str, content: &[u8]) -> io::Result<()> {
        let fresh = folder.join(fresh);
        std::fs::write(&fresh, content)?;
        File::open(&fresh)?.sync_all()?;
        std::fs::rename(fresh, folder.join(name))
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Adds zeros up to this length, and touches no page that is there.
    pub(super) fn lengthen(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    /// Fills `bytes` from `at` on.
    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        self.faults.before_write(&self.file, at)?;
        self.file.write_all_at(bytes, at)
    }

    /// What was written is on stable storage, and so is the file's length.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.before_sync(&self.file)?;
        self.file.sync_data()
    }
}

/// Power cuts that tests plan.
#[cfg(test)]
pub(super) mod fault {
    use super::{File, io};
    use core::cell::RefCell;
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    const PAGE_BYTES: usize = 4096;

    /// What becomes of pages that were written and not synced.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in super::super) enum Unsynced {
        /// They are as they were.
        Lost,
        /// They hold nothing of use, beside the bytes that were to change either.
        Torn,
    }

    /// How many operations in a folder go well yet, and what comes then.
    static PLANS: Mutex<BTreeMap<PathBuf, (usize, Unsynced)>> = Mutex::new(BTreeMap::new());

    fn plans() -> MutexGuard<'static, BTreeMap<PathBuf, (usize, Unsynced)>> {
        PLANS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After so many more writes and syncs in `folder`, everything fails.
    pub(in super::super) fn plan(folder: &Path, operations: usize, unsynced: Unsynced) {
        plans().insert(folder.to_owned(), (operations, unsynced));
    }

    /// Nothing fails any more; says whether something did.
    pub(in super::super) fn forget(folder: &Path) -> bool {
        plans().remove(folder).is_some_and(|(left, _)| left == 0)
    }

    pub(super) struct Faults {
        folder: PathBuf,
        /// Pages that were written and not synced, as they were before.
        unsynced: RefCell<Vec<(u64, Vec<u8>)>>,
    }

    impl Faults {
        pub(super) fn new(folder: &Path) -> Self {
            Self { folder: folder.to_owned(), unsynced: RefCell::default() }
        }

        pub(super) fn before_write(&self, file: &File, at: u64) -> io::Result<()> {
            let page = at / PAGE_BYTES as u64 * PAGE_BYTES as u64;
            let mut before = vec![0; PAGE_BYTES];
            let there = file.read_at(&mut before, page)?;
            before.truncate(there);
            self.unsynced.borrow_mut().push((page, before));
            self.strike(file)
        }

        pub(super) fn before_sync(&self, file: &File) -> io::Result<()> {
            self.strike(file)?;
            self.unsynced.borrow_mut().clear();
            Ok(())
        }

        fn strike(&self, file: &File) -> io::Result<()> {
            let unsynced = match plans().get_mut(&self.folder) {
                None => return Ok(()),
                Some((0, unsynced)) => *unsynced,
                Some((left, _)) => {
                    *left -= 1;
                    return Ok(());
                }
            };
            // Once only: what fails afterwards changes nothing any more.
            for (page, before) in self.unsynced.borrow_mut().drain(..).rev() {
                let torn = [0x5a; PAGE_BYTES];
                let is = if unsynced == Unsynced::Torn { torn.as_slice() } else { &before };
                file.write_all_at(is, page)?;
            }
            Err(io::Error::other("planned"))
        }
    }
}
