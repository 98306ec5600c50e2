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
    folder: std::path::PathBuf,
}

impl SlotFile {
    /// Opens `name` in `folder`.
    pub(super) fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(folder.join(name))?;
        Ok(Self {
            file,
            #[cfg(test)]
            folder: folder.to_owned(),
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

    /// Fills `bytes` from `at` on.
    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        if fault::strikes(&self.folder) {
            return fault::tear(&self.file, at);
        }
        self.file.write_all_at(bytes, at)
    }

    /// What was written is on stable storage, and so is the file's length.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if fault::strikes(&self.folder) {
            return Err(io::Error::other("planned"));
        }
        self.file.sync_data()
    }
}

/// Failures that tests plan.
#[cfg(test)]
pub(super) mod fault {
    use super::{File, io};
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// How many operations in a folder go well yet.
    static PLANS: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

    fn plans() -> MutexGuard<'static, BTreeMap<PathBuf, usize>> {
        PLANS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After so many more writes and syncs in `folder`, everything fails.
    pub(in super::super) fn plan(folder: &Path, operations: usize) {
        plans().insert(folder.to_owned(), operations);
    }

    /// Nothing fails any more; says whether something did.
    pub(in super::super) fn forget(folder: &Path) -> bool {
        plans().remove(folder) == Some(0)
    }

    pub(super) fn strikes(folder: &Path) -> bool {
        match plans().get_mut(folder) {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// The whole page is torn that was being written, not only the bytes that were to change.
    pub(super) fn tear(file: &File, at: u64) -> io::Result<()> {
        file.write_all_at(&[0x5a; 4096], at / 4096 * 4096)?;
        Err(io::Error::other("planned"))
    }
}
